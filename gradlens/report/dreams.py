"""The same dream at a fixed position and with jitter: pictures, spectra, what lattice is left and what the law allows.

The same page serves `gradlens dream`, which has nothing else, and `gradlens analyze`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.compare import SIGNIFICANCE
from gradlens.report.answer import decibel_range
from gradlens.report.document import Block, Part, answer, heading, listing, paragraph, picture, plain, strong, table
from gradlens.report.run import Run, enumeration, number, p_phrase
from gradlens.results import Results

PHOTOGRAPH = "photograph"
MOST = 4  # pictures in a row
LEFT = 1.0  # dB by which a contrast must miss the law to be called left over


@dataclass(frozen=True)
class Contrast:
    """The signed contrast of one picture at one period, in dB, with its own p."""

    value: float
    p: float

    @property
    def found(self) -> bool:
        return self.p <= SIGNIFICANCE and self.value > 0


@dataclass(frozen=True)
class Dreams:
    """The dreams of one picture: rows of the table, arrays, and what the manifest says."""

    model: str
    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    told: Mapping[str, Any]
    partial: bool

    @property
    def jitters(self) -> dict[str, int]:
        """How many offsets each dream has, by its name, in the order of the command."""
        return {stem: self.told["jitters"][stem] for stem in self.told["dreams"]}

    @property
    def periods(self) -> list[int]:
        return list(self.told["periods"])

    @property
    def fixed(self) -> str | None:
        """The dream at a fixed position, if there is one; published recipes move the picture by themselves."""
        if self.told["recipe"] != "none":
            return None
        return next((stem for stem, count in self.jitters.items() if count <= 1), None)

    @property
    def moved(self) -> list[str]:
        """The others, from few offsets to many."""
        return sorted((stem for stem in self.jitters if stem != self.fixed), key=self.jitters.__getitem__)

    def contrast(self, stem: str, period: int) -> Contrast | None:
        """None where the picture is too small to tell."""
        row = self._row(stem, period, "lattice_contrast")
        return None if row is None or np.isnan(row["value"]) else Contrast(float(row["value"]), float(row["p"]))

    def value(self, stem: str, period: int, metric: str) -> float:
        """A value that the law foretells, or what was measured beside it; NaN if there is none."""
        row = self._row(stem, period, metric)
        return float("nan") if row is None else float(row["value"])

    def _row(self, stem: str, period: int, metric: str) -> dict[Any, Any] | None:
        t = self.table
        t = t.loc[(t["image"] == stem) & (t["period"] == period) & (t["kind"] == "signed") & (t["metric"] == metric)]
        return t.iloc[0].to_dict() if len(t) else None

    def strongest(self) -> int | None:
        """The period with the highest contrast found at a fixed position, else in the first dream."""
        stem = self.fixed or next(iter(self.jitters))
        found = {p: c.value for p in self.periods if (c := self.contrast(stem, p)) is not None and c.found}
        return max(found, key=found.__getitem__) if found else None


def of_run(results: Results) -> Dreams:
    """The dreams of a run of `gradlens dream`."""
    told = results.manifest["dreamt"]
    return Dreams(told["name"], results.table, results.arrays, told, bool(results.manifest["partial"]))


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    """The pages of `analyze`, one a model; nothing for an attribution."""
    told = [model for model in run.models if "dream" in model]
    if run.method != "gradient" or not told:
        return [], {}
    blocks: list[Block] = [
        heading("What it does to a dream"),
        paragraph(
            "DeepDream adds the gradient to the picture again and again, and with it the lattice. Jitter moves the picture "
            "under the network's strides before each step, so that what stays with the network averages out.",
            sticky=True,
        ),
    ]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.models):
        said = model.get("dream", {})
        if "failed" in said:
            blocks.append(paragraph(strong(f"{model['name']}. "), f"No dream: {said['failed']}"))
        elif said:
            t = run.results.table
            rows = t.loc[(t["model"] == model["name"]) & (t["subject"] == "dream")]
            arrays = {
                k.removeprefix(f"{index}/"): v for k, v in run.results.arrays.items() if k.startswith(f"{index}/dream")
            }
            dreams = Dreams(model["name"], rows, arrays, said, partial=False)
            more, figures_ = _page(dreams, index)
            blocks += [paragraph(*verdict(dreams)), *more]
            drawn |= figures_
    return blocks, drawn


def alone(results: Results) -> tuple[list[Block], dict[str, bytes]]:
    """The whole report of `gradlens dream`."""
    dreams = of_run(results)
    blocks, drawn = _page(dreams, 0)
    unfinished = [paragraph(strong("Partial. "), "This run was stopped before its end.")] if dreams.partial else []
    return [
        *unfinished,
        answer(*verdict(dreams)),
        *blocks,
        paragraph(*_method(dreams)),
        listing(results.manifest["command"]),
    ], drawn


def verdict(dreams: Dreams) -> list[Part]:
    """The answer: the lattice at a fixed position, what jitter left of it, what the law allows."""
    period = dreams.strongest()
    stem = dreams.fixed or next(iter(dreams.jitters))
    where = "at a fixed position" if dreams.fixed else _label(dreams, stem)
    of = f"A dream of {dreams.told['objective']} of {dreams.model}"
    if period is None:
        return [strong("No lattice found. "), plain(f"{of}, {where}, shows none of {_listed(dreams.periods)} px.")]
    first = dreams.contrast(stem, period)
    assert first is not None
    parts = [
        plain(f"{of}, {where}, carries a lattice of "),
        strong(f"{period} px: {number(first.value)} dB"),
        plain(f" above the spectrum around it ({p_phrase(first.p)}); the photograph has "),
        plain(f"{_decibel(dreams.contrast(PHOTOGRAPH, period))}."),
    ]
    moved = [s for s in dreams.moved if dreams.contrast(s, period) is not None]
    if dreams.fixed and moved:
        last = moved[-1]
        left, allowed = dreams.contrast(last, period), dreams.value(last, period, "predicted_contrast")
        assert left is not None
        parts += [
            plain(f" Jitter over {dreams.jitters[last]} offsets leaves "),
            strong(f"{number(left.value)} dB"),
            plain(f"; the law of jitter allows {number(allowed)} dB."),
        ]
        if left.value > allowed + LEFT:
            parts.append(
                plain(
                    " More is left than the law allows: it speaks of gradients averaged at one picture, and a step of a dream "
                    "sees what the steps before have made."
                    + (
                        " Offsets in turn (gradlens dream --order cycle) leave less."
                        if dreams.told["order"] == "random"
                        else ""
                    )
                )
            )
    return parts


def conclusion(dreams: Dreams) -> str:
    """The answer as one line of plain text."""
    return "".join(part["text"] for part in verdict(dreams)).replace("\u00a0", " ")


def _page(dreams: Dreams, index: int) -> tuple[list[Block], dict[str, bytes]]:
    """The pictures with their centres and spectra, the chart of contrasts, the table of attenuations."""
    path, chart = f"figures/dream-{index}.svg", f"figures/dream-contrast-{index}.svg"
    shown = _shown(dreams)
    period = dreams.strongest()
    ringed = f" The lattice of {period} px is ringed." if period else ""
    drawn = {path: _pictures(dreams, shown), chart: _chart(dreams, shown)}
    ended = [plain(f" {stem}: {why}.") for stem, why in dreams.told["ended"].items()]
    blocks: list[Block] = [
        picture(
            path,
            alt=f"The photograph and its dreams with {_listed(dreams.jitters[s] for s in shown if s != PHOTOGRAPH)} offsets, "
            "their centres enlarged, and their spectra",
            caption=[
                f"The photograph ({dreams.told['photograph']}) and {dreams.model}'s dreams of {dreams.told['objective']} from "
                f"it, {_height(dreams)}; below, whole pixels of each where the first dream's lattice is clearest, and its power "
                f"spectrum, DC in the middle, one scale.{ringed}",
                *ended,
            ],
        ),
        picture(
            chart,
            alt="Signed contrast of each period in the photograph and in each dream",
            caption=[
                "Signed contrast of each period; filled where the picture's own p is at most 0.01 and the contrast above 0. "
                "One picture each, so no interval.",
            ],
            width=0.72,
        ),
    ]
    if dreams.fixed and dreams.moved:
        blocks.append(_attenuations(dreams))
    return blocks, drawn


def _shown(dreams: Dreams) -> list[str]:
    """The photograph, the fixed position, and those of the moved that find room, from the most offsets down."""
    fixed = [dreams.fixed] if dreams.fixed else []
    room = MOST - 1 - len(fixed)
    return [PHOTOGRAPH, *fixed, *dreams.moved[-room:]]


def _label(dreams: Dreams, stem: str) -> str:
    count = dreams.jitters.get(stem)
    if count is None:
        return PHOTOGRAPH
    if count <= 1:
        return "fixed position" if dreams.fixed else f"{dreams.told['recipe']} alone"
    return f"jitter over {count}"


@figures.styled
def _pictures(dreams: Dreams, shown: Sequence[str]) -> bytes:
    pictures = {stem: dreams.arrays[f"dream/{stem}"] for stem in shown}
    powers = {stem: dreams.arrays[f"dream-power/{stem}"] for stem in shown}
    low, high = decibel_range(*powers.values())
    height, width = dreams.told["size"]
    cell = 5.8 / len(shown)
    figure, axes = figures.new_figure(
        6.7, cell * height / width + 2 * cell + 0.95, 3, len(shown), height_ratios=[height / width, 1, 1]
    )
    period = dreams.strongest()
    marks = {period: figures.SERIES[0]} if period else {}
    top, left, rows, columns = dreams.told["detail"]
    for column, stem in enumerate(shown):
        figures.draw_picture(axes[0, column], pictures[stem], title=_label(dreams, stem))
        detail = pictures[stem][:, top : top + rows, left : left + columns]
        figures.draw_picture(axes[1, column], detail, title=f"{rows} px of it" if column == 0 else "")
        ax = axes[2, column]
        figures.draw_spectrum(
            ax, powers[stem], low=low, high=high, marks=marks, title="spectrum" if column == 0 else ""
        )
        if column:
            ax.set_yticks([])
    return figures.svg(figure)


@figures.styled
def _chart(dreams: Dreams, shown: Sequence[str]) -> bytes:
    figure, axes = figures.new_figure(5.0, 2.3)
    series: dict[str, list[tuple[float, float, float, bool]]] = {}
    for stem in shown:
        found = [dreams.contrast(stem, period) for period in dreams.periods]
        series[_label(dreams, stem)] = [(c.value, nan, nan, c.found) if c else (nan, nan, nan, False) for c in found]
    figures.draw_contrasts(axes[0, 0], dreams.periods, series, "")
    axes[0, 0].legend(ncols=2)
    return figures.svg(figure)


def _attenuations(dreams: Dreams) -> Block:
    """Predicted and measured attenuation and contrast of every jitter at every period."""
    rows = []
    for stem in dreams.moved:
        for period in dreams.periods:
            before, after = dreams.contrast(dreams.fixed or "", period), dreams.contrast(stem, period)
            if before is None or after is None:
                continue
            value = {m: dreams.value(stem, period, f"{m}_attenuation") for m in ("predicted", "measured")}
            expected = dreams.value(stem, period, "predicted_contrast")
            decibels = [number(d) for d in (before.value, after.value, expected)]
            rows.append([str(dreams.jitters[stem]), str(period), *decibels, *(number(v, 2) for v in value.values())])
    columns = ("offsets", "period, px", "fixed, dB", "jitter, dB", "law, dB", "law, amplitude", "measured")
    return table(
        dict.fromkeys(columns, "right"),
        rows,
        caption=[
            f"Signed contrast without and with jitter, and what the law allows after {dreams.told['steps']} steps "
            f"({dreams.told['order']} offsets, {dreams.told['mode']}). Amplitude: of the lattice that the photograph did not "
            "have, with jitter over without; 0 where none is left, a dash where there was none to begin with."
        ],
    )


def _method(dreams: Dreams) -> list[Part]:
    told = dreams.told
    periods = _listed(told["network_periods"]) if told["network_periods"] else "no"
    return [
        strong("How. "),
        plain(
            f"{told['octaves']} octaves of {told['steps']} steps, {told['parameterisation']}, optimiser {told['optimiser']}, "
            f"transforms before the jitter: {told['recipe']}. The strides of {dreams.model} write periods of {periods} px. "
            "Averaging over n consecutive offsets scales harmonic k of T by |sin(pi n k / T) / (n sin(pi k / T))|: nothing is "
            "left where T divides n, after infinitely many random steps; N of them leave 1 / N of the power. Signed measures "
            "are of the picture itself. The pictures stand beside this report as PNG of native size."
        ),
    ]


def _height(dreams: Dreams) -> str:
    height, width = dreams.told["size"]
    return f"{width} x {height} px"


def _listed(numbers: Any) -> str:
    return enumeration([str(n) for n in numbers] or ["no"])


def _decibel(contrast: Contrast | None) -> str:
    return "too few pixels to tell" if contrast is None else f"{number(contrast.value)} dB"
