"""The pages of `gradlens redesign --train`: which design, why, and the generator before and after at every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import Any

import numpy as np

from gradlens import figures
from gradlens.redesign.choice import distance_name, excess
from gradlens.report.answer import decibel_range
from gradlens.report.document import (
    Block,
    Part,
    answer,
    bullets,
    code,
    heading,
    listing,
    paragraph,
    picture,
    plain,
    strong,
    table,
)
from gradlens.report.run import NBSP, Row, as_row, breakable, counted, enumeration, number
from gradlens.report.training_quality import measured
from gradlens.results import Results

BEFORE, REAL = "before", "data"
AS_IS = "as it is"
PICTURES = 8
INCH = 96  # px of native size


@dataclass(frozen=True)
class Retrained:
    """The results of one `redesign --train`, with questions that the pages ask of them."""

    results: Results

    @property
    def told(self) -> Mapping[str, Any]:
        return self.results.manifest["retrained"]

    @property
    def periods(self) -> list[int]:
        return [int(p) for p in self.told["periods"]]

    @property
    def choice(self) -> Mapping[str, Any]:
        """What was chosen and why; empty where it did not come to that."""
        return self.told.get("choice", {})

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """Each network that was measured, in the order in which that was done: `design`, `steps`, `label`."""
        return list(self.told["stages"])

    @property
    def last(self) -> dict[str, Any] | None:
        """The chosen one, trained longer."""
        of = [s for s in self.stages if s["design"] == self.choice.get("design") and s["steps"]]
        return of[-1] if of else None

    @cached_property
    def metric(self) -> str:
        """The distance to the real images that everything measured has."""
        return distance_name(self.results.table, [stage["label"] for stage in self.stages])

    def contrast(self, label: str, period: int, kind: str = "signed") -> Row:
        subject = "image" if label == REAL else "sample"
        return self._row(label, subject, "lattice_contrast", period, kind)

    def prediction(self, design: str, period: int) -> float:
        return self._row(design, "sample", "predicted_imbalance", period, "phase").value

    def distance(self, label: str, metric: str) -> Row:
        t = self.results.table
        subject = "image" if label == REAL else "sample"
        own = t.loc[(t["model"] == label) & (t["subject"] == subject) & (t["metric"] == metric)]
        return as_row({**own.iloc[0].to_dict(), "period": 0}) if len(own) else Row(0, "", nan, nan, nan, nan, 0)

    def excess(self, label: str) -> float:
        return excess(self.results.table, label)

    def blamed(self, metric: str, period: int, layer: str = "") -> Row:
        return self._row("discriminator", "input-gradient", metric, period, "signed", layer)

    @property
    def players(self) -> list[str]:
        """The layers of the discriminator that write into its gradient."""
        t = self.results.table
        return list(dict.fromkeys(t.loc[(t["model"] == "discriminator") & (t["metric"] == "shapley"), "layer"]))

    def layers(self, design: str) -> list[dict[str, Any]]:
        return [layer for layer in self.told["layers"] if layer["design"] == design]

    def passed(self, stage: Mapping[str, Any]) -> str:
        """How many places that enlarge pass, as `2 / 3`."""
        if stage["steps"]:
            verdicts = [layer["certificate"] for layer in stage["layers"]]
        elif stage["design"] == BEFORE:
            verdicts = [layer["certificate_before"] for layer in self.layers(self.told["designs"][1])]
        else:
            verdicts = [layer["certificate_after"] for layer in self.layers(stage["design"])]
        return f"{verdicts.count('pass')} / {len(verdicts)}"

    def _row(self, model: str, subject: str, metric: str, period: int, kind: str, layer: str = "") -> Row:
        t = self.results.table
        own = t.loc[
            (t["model"] == model) & (t["subject"] == subject) & (t["metric"] == metric) & (t["period"] == period)
            & (t["kind"] == kind) & (t["layer"] == layer)
        ]  # fmt: skip
        return as_row(own.iloc[0].to_dict()) if len(own) else Row(period, kind, nan, nan, nan, nan, 0)


def worded(stage: Mapping[str, Any]) -> str:
    """A step in words: `as it is`, `resize, untrained`, `resize, 200 steps`."""
    design = AS_IS if stage["design"] == BEFORE else stage["design"]
    if not stage["steps"]:
        return design if stage["design"] == BEFORE else f"{design}, untrained"
    return f"{design}, {stage['steps']:,} steps"


def conclusion(results: Results) -> str:
    """The answer as one line of plain text."""
    return "".join(part["text"] for part in _verdict(Retrained(results))).replace(NBSP, " ")


def short_table(results: Results) -> str:
    """What was found, for the terminal: the answer, and one line a step."""
    r = Retrained(results)
    width = max(len(worded(stage)) for stage in r.stages) if r.stages else len("real images")
    head = "".join(f"{f'T={p}, dB':>10}" for p in r.periods)
    lines = [conclusion(results), "", f"{'':<{width}}  {'passes':>6}{head}{'beyond':>8}  {r.metric}".rstrip()]
    for words, label, passed in _lines(r):
        cells = "".join(f"{_contrast(r.contrast(label, p)).replace(NBSP, ''):>10}" for p in r.periods)
        beyond = "" if label == REAL else number(r.excess(label))
        away = measured(r.distance(label, r.metric).value) if r.metric else ""
        lines.append(f"{words:<{width}}  {passed:>6}{cells}{beyond:>8}  {away}".rstrip())
    lines.append("signed contrast of the lattice, * where it is found; beyond: what the real images have not, in dB")
    return "\n".join(lines)


def alone(results: Results) -> tuple[list[Block], dict[str, bytes]]:
    """All pages, and their figures."""
    r = Retrained(results)
    blocks: list[Block] = [
        answer(*_verdict(r)),
        bullets(*_reasons(r)),
        heading("Before and after, at every step"),
        _every_step(r),
    ]
    drawn: dict[str, bytes] = {}
    if r.stages:
        drawn["figures/steps.svg"] = _pictures(r)
        blocks.append(_shown(r))
    if r.choice:
        drawn |= {"figures/front.svg": _front(r), "figures/course.svg": _course(r)}
        blocks += _chosen(r)
    drawn["figures/spectra.svg"] = _spectra(r)
    blocks += [_spectra_shown(r), *_verdicts(r), *_how(r)]
    return blocks, drawn


# the answer


def _verdict(r: Retrained) -> list[Part]:
    name = r.told["name"]
    if not r.choice or r.last is None:
        done = [s for s in r.stages if s["steps"]]
        of = len(r.told["designs"])
        return [strong(f"Interrupted after {len(done)} of {of} brief trainings of {name}; nothing was chosen.")]
    control = next((s for s in r.stages if s["design"] == BEFORE and s["steps"]), None)
    chosen = r.choice["design"]
    if chosen == BEFORE:
        parts = [strong(f"No design is needed: {name} as it is, trained on, is chosen.")]
    else:
        parts = [strong(f"Chosen for {name}: {chosen}.")]
    was, now = (_state(r, label) for label in (BEFORE, r.last["label"]))
    parts.append(plain(f" As it is, its samples have {was}; {_after(r.last['steps'])} {now}."))
    if chosen != BEFORE and control is not None:
        parts.append(plain(f" Training alone: {_after(control['steps'])} {_state(r, control['label'])}."))
    if r.results.manifest["partial"]:
        parts.append(plain(" It was interrupted before the last step."))
    return parts


def _after(steps: int) -> str:
    return f"after {counted(steps, 'step')}"


def _state(r: Retrained, label: str) -> str:
    """Lattice and distance of one network, in words."""
    beyond = r.excess(label)
    lattice = (
        f"{number(beyond)}{NBSP}dB of lattice beyond the real images" if beyond else "no lattice beyond the real images"
    )
    return f"{lattice} ({r.metric} {measured(r.distance(label, r.metric).value)})" if r.metric else lattice


def _reasons(r: Retrained) -> list[list[Part]]:
    told = r.told
    failing = [layer["layer"] for layer in r.layers(told["designs"][1]) if layer["certificate_before"] != "pass"]
    count = len(r.layers(told["designs"][1]))
    reasons = [
        [
            strong("The layers. "),
            plain(
                f"{len(failing)} of {counted(count, 'place')} that enlarge{'s' * (count == 1)} fail the certificate."
            ),
        ]
    ]
    if r.choice:
        reasons.append([strong("Why this one. "), plain(f"{r.choice['why'][0].upper()}{r.choice['why'][1:]}.")])
    if r.last is not None and r.passed(r.last) != "" and r.choice["design"] != BEFORE:
        passed, _, places = r.passed(r.last).partition(" / ")
        kept = "still pass" if passed == places else "pass: training has parted the sums of the phases again"
        reasons.append([strong("After training. "), plain(f"{passed} of {places} places {kept}.")])
    data = told["data"]
    reasons.append(
        [
            strong("How it was trained. "),
            plain(f"On {data['used']:,} images of {data['resolution']} px from "),
            code(str(data["source"])),
            plain(
                f", batch {told['batch_size']}, {told['loss']} loss, against {told['discriminator']}; every design from the same "
                "discriminator on the same batches and latents."
            ),
        ]
    )
    reasons.append(
        [
            strong("What it does not say. "),
            plain("One seed and few steps: a difference of FD as small as its interval decides nothing."),
        ]
    )
    return reasons


# every step


def _lines(r: Retrained) -> list[tuple[str, str, str]]:
    """Words, label and passed certificates of the real images and of every step."""
    real = [("real images", REAL, "")] if f"power/{REAL}" in r.results.arrays else []
    return [*real, *((worded(stage), stage["label"], r.passed(stage)) for stage in r.stages)]


def _contrast(row: Row) -> str:
    return f"{number(row.value)}{NBSP}*" if row.found else number(row.value)


def _every_step(r: Retrained) -> Block:
    kid = r.metric.replace("FD[", "KID[") if r.metric.startswith("FD[") else ""
    columns = ["pass", *(f"{p} px" for p in r.periods), "beyond", "FD", "95 % interval", "KID"]
    rows = []
    for words, label, passed in _lines(r):
        away = r.distance(label, r.metric)
        span = "–" if isnan(away.low) else f"{measured(away.low)} to {measured(away.high)}"
        chosen = r.last is not None and label == r.last["label"]
        rows.append(
            [
                f"{words}, chosen" if chosen else words, passed, *(_contrast(r.contrast(label, p)) for p in r.periods),
                "" if label == REAL else number(r.excess(label)), measured(away.value), span,
                measured(r.distance(label, kid).value) if kid else "–",
            ]
        )  # fmt: skip
    found = r.distance(BEFORE, r.metric).n
    return table(
        {"step": "left"} | dict.fromkeys(columns, "right"), rows, stretch="step",
        caption=[
            "Pass: places that enlarge and pass the certificate. Then the signed contrast of the samples' lattice in dB, * "
            "found: p at most 0.01 and the interval above 0. Beyond: the largest difference from the real images over periods, "
            f"signed and envelope, in dB, 0 where none is sure. FD: {r.metric or 'not measured'}, n = {found}; of the real "
            "images against other real images. Untrained designs keep their norms' statistics, but the one drawn anew."
        ],
    )  # fmt: skip


def _shown(r: Retrained) -> Block:
    return picture(
        "figures/steps.svg",
        alt="Samples of the generator at every step, and real images",
        caption=[
            "Samples at every step, whole pixels enlarged, not picked, the same latents at every step. "
            f"Made by {r.results.manifest['command']}."
        ],
    )  # fmt: skip


def _shown_stages(r: Retrained) -> list[tuple[str, str]]:
    known = [(worded(stage), stage["label"]) for stage in r.stages] + [("real images", REAL)]
    return [(words, label) for words, label in known if f"picture/{label}" in r.results.arrays]


@figures.styled
def _pictures(r: Retrained) -> bytes:
    shown = _shown_stages(r)
    first = r.results.arrays[f"picture/{shown[0][1]}"]
    half = -(-len(shown) // 2)
    count = min(4, len(first))
    height, width = figures.sheet_size(1, count, first.shape[2:])
    inches = 3.2 * height / width
    figure, axes = figures.new_figure(6.7, (inches + 0.28) * half, half, 2)
    for at, ax in enumerate(axes.T.ravel()):
        if at >= len(shown):
            ax.set_axis_off()
            continue
        words, label = shown[at]
        figures.draw_sheet(ax, r.results.arrays[f"picture/{label}"][:count], count, title=words)
    return figures.svg(figure)


# the choice


def _chosen(r: Retrained) -> list[Block]:
    return [
        heading("The choice"),
        paragraph(r.choice["rule"]),
        picture(
            "figures/front.svg",
            alt="Lattice beyond the real images and distance of each network that was trained briefly",
            caption=[
                f"Each network after {counted(r.told['brief_steps'], 'step')}: filled, on the front; ringed, chosen. Lower and "
                f"further left is better. Made by {r.results.manifest['command']}."
            ],
        ),
        picture(
            "figures/course.svg",
            alt="Contrast of the samples' lattice over the steps of training, for each design",
            caption=[
                f"Signed contrast of the lattice of {r.periods[0]} px in 64 samples as each was trained; dashed, the real images."
            ],
        ),
    ]


@figures.styled
def _front(r: Retrained) -> bytes:
    figure, axes = figures.new_figure(5.2, 2.8)
    ax, choice = axes[0, 0], r.choice
    for at, (label, (lattice, away)) in enumerate(choice["points"].items()):
        best, colour = label in choice["front"], figures.SERIES[at % len(figures.SERIES)]
        ax.plot(away, lattice, "o", color=colour, markersize=6, markerfacecolor=colour if best else "none")
        if label == choice["label"]:
            ax.plot(away, lattice, "o", color=figures.INK, markersize=11, markerfacecolor="none", markeredgewidth=0.8)
        design = label.rsplit(", ", 1)[0]
        ax.annotate(AS_IS if design == BEFORE else design, (away, lattice), xytext=(7, 5), textcoords="offset points")
    ax.margins(0.2)
    ax.set_xlabel(choice["metric"] or "no distance was measured")
    ax.set_ylabel("lattice beyond\nthe real images, dB")
    return figures.svg(figure)


@figures.styled
def _course(r: Retrained) -> bytes:
    period = r.periods[0]
    figure, axes = figures.new_figure(6.7, 2.6)
    ax, arrays = axes[0, 0], r.results.arrays
    real = r.contrast(REAL, period).value
    trained = [d for d in r.told["designs"] if f"log/{d}/step" in arrays]
    longest = max(trained, key=lambda d: arrays[f"log/{d}/step"][-1])
    for at, design in enumerate(sorted(trained, key=lambda d: d == longest)):
        colour = figures.SERIES[r.told["designs"].index(design) % len(figures.SERIES)]
        values = arrays[f"log/{design}/sample/signed/{period}"].astype(float)
        word = AS_IS if design == BEFORE else design
        last = at == len(trained) - 1
        figures.draw_curve(
            ax, arrays[f"log/{design}/step"], {word: (values, colour)}, unit="dB", title="",
            level=("real images", real) if last else None,
        )  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figures.svg(figure)


# spectra


def _powers(r: Retrained) -> dict[str, np.ndarray]:
    wanted = [("real images", REAL), (AS_IS, BEFORE)]
    control = next((s for s in r.stages if s["design"] == BEFORE and s["steps"]), None)
    stages = (
        [] if r.last is None else [s for s in r.stages if s["design"] == r.choice["design"] and s["design"] != BEFORE]
    )
    wanted += [(worded(s), s["label"]) for s in ([control] if control else []) + stages]
    if r.last is not None and r.choice["design"] == BEFORE:
        wanted.append((worded(r.last), r.last["label"]))
    arrays = r.results.arrays
    found = {words: arrays[f"power/{label}"] for words, label in wanted if f"power/{label}" in arrays}
    return {words: power / power.mean() for words, power in found.items()}


@figures.styled
def _spectra(r: Retrained) -> bytes:
    powers = _powers(r)
    low, high = decibel_range(*powers.values())
    marks = dict(zip(r.periods, figures.SERIES, strict=False))
    columns = min(3, len(powers))
    rows = -(-len(powers) // columns)
    figure, axes = figures.new_figure(6.7, 2.5 * rows + 0.3, rows, columns)
    drawn: Any = None
    for ax, (words, power) in zip(axes.ravel(), powers.items(), strict=False):
        drawn = figures.draw_spectrum(ax, power, low=low, high=high, marks=marks, title=words)
    for ax in axes.ravel()[len(powers) :]:
        ax.set_axis_off()
    figures.add_scale(figure, drawn, axes, "power, dB of the mean")
    return figures.svg(figure)


def _spectra_shown(r: Retrained) -> Block:
    return picture(
        "figures/spectra.svg",
        alt="Mean power over the frequency plane of real images and of the generator at each step",
        caption=[
            f"Mean power, Welch windows; the new harmonics of {enumeration([f'{p} px' for p in r.periods])} are ringed. "
            f"Made by {r.results.manifest['command']}."
        ],
    )


# verdicts


def _verdicts(r: Retrained) -> list[Block]:
    blocks: list[Block] = [heading("What the network said before"), _places(r), _predicted(r)]
    if r.players:
        blocks.append(_blame(r))
    notes = r.told.get("notes", {})
    if r.told["refused"] or notes:
        said = [[strong(f"{breakable(name)}: "), plain(f"{why}.")] for name, why in (r.told["refused"] | notes).items()]
        blocks += [paragraph("Not trained, or not known:", sticky=True), bullets(*said)]
    return blocks


def _places(r: Retrained) -> Block:
    designs = r.told["designs"][1:]
    names = [layer["layer"] for layer in r.layers(designs[0])]
    rows = []
    for at, name in enumerate(names):
        first = r.layers(designs[0])[at]
        rows.append(
            [
                breakable(name), first["was"], first["certificate_before"],
                *(f"{r.layers(d)[at]['certificate_after']}, {_times(r.layers(d)[at])}" for d in designs),
            ]
        )  # fmt: skip
    return table(
        {"layer": "left", "was": "left", AS_IS: "left"} | dict.fromkeys(designs, "left"), rows, stretch="was",
        caption=[
            "Every place that enlarges: the forward certificate as it is and under each design, and its multiplications times "
            "those of before."
        ],
    )  # fmt: skip


def _times(layer: Mapping[str, Any]) -> str:
    before, after = layer["multiplications_before"], layer.get("multiplications_after", nan)
    return f"{number(after / before if before else nan, 2)} x"


def _predicted(r: Retrained) -> Block:
    rows = [
        [AS_IS if d == BEFORE else d, *(number(r.prediction(d, p), 3) for p in r.periods)] for d in r.told["designs"]
    ]
    return table(
        {"design": "left"} | {f"{p} px": "right" for p in r.periods}, rows,
        caption=[
            "Predicted unevenness of an image's energy over the phases, from the architecture and the spread of its weights "
            "alone (geometry.energy_map, forward); 0 is even."
        ],
    )  # fmt: skip


def _blame(r: Retrained) -> Block:
    rows = [["all of it", *(_contrast(r.blamed("as_is", p)) for p in r.periods)]]
    rows += [[breakable(name), *(number(r.blamed("shapley", p, name).value) for p in r.periods)] for name in r.players]
    rows.append(["with all of them held", *(_contrast(r.blamed("all_replaced", p)) for p in r.periods)])
    return table(
        {"layer of the discriminator": "left"} | {f"{p} px": "right" for p in r.periods}, rows,
        caption=[
            f"Signed contrast, in dB, of the discriminator's gradient at {r.blamed('as_is', r.periods[0]).n} samples of the "
            "network as it is, before training, and what each layer that shrinks contributes to it (Shapley values of "
            "causes.blame)."
        ],
    )  # fmt: skip


# how to use it


def _how(r: Retrained) -> list[Block]:
    if r.last is None:
        return []
    recipe = r.told.get("recipes", {}).get(r.choice["design"])
    step = f"winner/checkpoints/step-{r.last['steps']:08}"
    lines = recipe or [f'generator = models.generator("{step}/generator.safetensors")']
    return [
        heading("How to use it, and how to go on"),
        paragraph("In Python, in this run's folder; the model card is ", code(f"{step}/README.md"), ":", sticky=True),
        listing("\n".join(["import torch", "from gradlens import models", *lines])),
        *(
            [
                paragraph("More training and samples; DIR is this run's folder:", sticky=True),
                listing("gradlens train --out DIR/winner --resume --steps 20000\ngradlens sample DIR/winner -n 64"),
            ]
            if not recipe
            else []
        ),
    ]
