"""The pages of `gradlens redesign`: the layers with their verdicts, designs for them, what is recommended, before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.report.answer import decibel_range
from gradlens.report.document import Block, answer, code, heading, listing, paragraph, picture, strong, table
from gradlens.report.run import NBSP, Row, as_row, breakable, counted, enumeration, number
from gradlens.results import Results

BEFORE = "before"
PICTURES = 4  # of each design
WORDS = {"exact": "exact", "fitted": "fitted", "filtered": "kept", "fresh": "fresh", "refused": "refused"}


@dataclass(frozen=True)
class Redesigns:
    """The designs of one network: rows of the table, arrays, and what the manifest says."""

    model: str
    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    told: Mapping[str, Any]
    command: str

    @property
    def designs(self) -> list[str]:
        return list(self.told["designs"])

    @property
    def periods(self) -> list[int]:
        return list(self.told["periods"])

    @property
    def best(self) -> str:
        """The recommended design; "" if none is."""
        return str(self.told["recommended"])

    @property
    def measured(self) -> str:
        """What was measured, in words."""
        return "pictures" if self.told["subject"] == "sample" else "input gradients"

    def layers(self, design: str) -> list[dict[str, Any]]:
        """What the surgery says of each layer."""
        return [layer for layer in self.told["layers"] if layer["design"] == design]

    def kept(self, design: str) -> list[str]:
        """What became of the weights of each layer."""
        return [layer["kept"] for layer in self.layers(design)]

    def passed(self, design: str) -> str:
        """How many layers pass, as `2 / 3`."""
        verdicts = [layer["certificate_after"] for layer in self.layers(design)]
        return f"{verdicts.count('pass')} / {len(verdicts)}"

    def ratio(self, design: str, metric: str) -> float:
        """After to before of a cost over all layers: parameters added up, the dearest layer's multiplications."""
        pairs = [(layer[f"{metric}_before"], layer.get(f"{metric}_after", np.nan)) for layer in self.layers(design)]
        if metric == "parameters":
            before = sum(b for b, _ in pairs)
            return sum(a for _, a in pairs) / before if before else 1.0
        return max([a / b for b, a in pairs if b > 0] or [1.0])

    def dearer(self, design: str) -> float:
        return self.ratio(design, "multiplications")

    def drift(self, design: str) -> float:
        return self._value(design, "drift")

    def psnr(self, design: str) -> float:
        return self._value(design, "psnr")

    def _value(self, design: str, metric: str) -> float:
        t = self.table
        own = t.loc[(t["model"] == design) & (t["metric"] == metric) & (t["layer"] == "")]
        return float(own["value"].iloc[0]) if len(own) else float("nan")

    def contrast(self, design: str, period: int, kind: str) -> Row:
        t = self.table
        own = t.loc[
            (t["model"] == design) & (t["subject"] == self.told["subject"]) & (t["metric"] == "lattice_contrast")
            & (t["period"] == period) & (t["kind"] == kind)
        ]  # fmt: skip
        return as_row(own.iloc[0].to_dict())

    def pictures(self, design: str) -> np.ndarray | None:
        return self.arrays.get(f"{self.told['subject']}/{design}")


def of_run(results: Results) -> Redesigns:
    """The designs of a run of `gradlens redesign`."""
    told = results.manifest["redesigned"]
    return Redesigns(told["name"], results.table, results.arrays, told, results.manifest["command"])


def conclusion(r: Redesigns) -> str:
    """What is recommended, why, and what it does before any training."""
    before = r.layers(r.designs[0])
    failing = [layer["layer"] for layer in before if layer["certificate_before"] != "pass"]
    first = (
        f"Of {counted(len(before), 'layer')} that {'enlarge' if r.measured == 'pictures' else 'shrink'} "
        f"{len(failing)} fail{'s' if len(failing) == 1 else ''} the certificate."
    )
    if not r.best:
        return f"{first} Nothing is recommended: {r.told['why']}."
    changes = []
    for period in r.periods:
        old, new = (r.contrast(name, period, "signed") for name in (BEFORE, r.best))
        if old.found or new.found:
            changes.append(f"{number(old.value)} to {number(new.value)} dB at {period} px")
    moved = f"The signed lattice of the {r.measured} goes from {enumeration(changes)}" if changes else (
        f"The {r.measured} had no signed lattice and have none"
    )  # fmt: skip
    fresh = "fresh" in r.kept(r.best)
    kept = " Training may part the sums of the phases again, which a resize-convolution keeps equal." * (
        r.best == "even"
    )
    tail = "; it has to be trained anew." if fresh else f", without training; drift {number(r.drift(r.best), 3)}."
    return f"{first} Recommended: {r.best}, {r.told['why']}. {moved}{tail}{kept}"


def alone(results: Results) -> tuple[list[Block], dict[str, bytes]]:
    """All pages, and their figures."""
    r = of_run(results)
    drawn: dict[str, bytes] = {}
    blocks: list[Block] = [
        answer(strong(conclusion(r))),
        heading("The layers"),
        paragraph(_method(r), sticky=True),
        _layers(r),
        heading("What could stand there"),
        _designs(r),
    ]
    if refused := r.told["refused"]:
        blocks.append(paragraph("Not possible: ", *(f"{name}: {why}. " for name, why in refused.items())))
    if r.best:
        blocks += [heading(f"The recommended design: {r.best}"), _layer_by_layer(r), *_how(r)]
    shown = [name for name in (BEFORE, *r.designs) if r.pictures(name) is not None]
    changed = [BEFORE, *(name for name in shown if name != BEFORE and set(r.kept(name)) != {"exact"})]
    if r.measured == "pictures" and len(changed) > 1:
        drawn["figures/pictures.svg"] = _pictures(r, changed)
        blocks += [
            heading("Before and after"),
            picture(
                "figures/pictures.svg",
                alt="Pictures of the network as it is and after each design that keeps weights",
                caption=[
                    "The same inputs through the network as it is and after each design that fits or filters weights, without "
                    f"training; the pixels are the network's own. Made by {r.command}."
                ],
            ),
        ]
    drawn["figures/spectra.svg"] = _spectra(r, changed if len(changed) > 1 else shown)
    blocks.append(
        picture(
            "figures/spectra.svg",
            alt="Mean power over the frequency plane before and after each design",
            caption=[
                f"Mean power of the {r.measured}, n = {r.told['count']}, Welch windows; the new harmonics of "
                f"{enumeration([f'{p} px' for p in r.periods])} are ringed. Made by {r.command}."
            ],
        )
    )
    return blocks, drawn


def _method(r: Redesigns) -> str:
    way = (
        "Forward: whether a constant comes out constant (eq. 7 of Sugawara, Shiota, Kiya 2018)."
        if r.measured == "pictures"
        else "Backward: whether the mean of the gradient that a layer hands back is even over its phases."
    )
    return f"{way} Multiplications are those of one output pixel, all channels."


def _layers(r: Redesigns) -> Block:
    rows = [
        [
            breakable(layer["layer"]), layer["was"], layer["certificate_before"], _small(layer.get("deviation_before")),
            f"{layer['parameters_before']:,}", f"{layer['multiplications_before']:,.0f}",
        ]
        for layer in r.layers(r.designs[0])
    ]  # fmt: skip
    columns = {"layer": "left", "was": "left", "certificate": "left"}
    columns |= dict.fromkeys(("deviation", "parameters", "multiplications"), "right")
    return table(columns, rows, caption=[f"Every layer of {r.model} that can be rebuilt, as it is."], stretch="was")


def _designs(r: Redesigns) -> Block:
    columns = ["weights", "pass", "parameters", "multipl.", "drift", "PSNR", *(f"{p} px" for p in r.periods)]
    rows = []
    for name in (BEFORE, *r.designs):
        cells = [r.contrast(name, p, "signed") for p in r.periods]
        values = [f"{number(c.value)}{NBSP}*" if c.found else number(c.value) for c in cells]
        if name == BEFORE:
            rows.append([name, "", "", "1", "1", "", "", *values])
            continue
        rows.append(
            [
                f"{name}, recommended" if name == r.best else name,
                "/".join(dict.fromkeys(WORDS[k] for k in r.kept(name))), r.passed(name),
                number(r.ratio(name, "parameters"), 2), number(r.dearer(name), 2), number(r.drift(name), 3),
                number(r.psnr(name)), *values,
            ]
        )  # fmt: skip
    return table(
        {"design": "left"} | {c: "left" if c == "weights" else "right" for c in columns},
        rows,
        caption=[
            f"n = {r.told['count']}. Weights: exact, the same function; fitted, the nearest by least squares on real input; "
            "kept, with a fixed filter; fresh, drawn anew (drift and lattice say nothing before training). Pass: layers that "
            "pass the certificate. Costs: times those of before, multiplications of the dearest layer. Drift: relative L2 "
            "distance of the output; PSNR in dB of the old output's range. Last columns: signed contrast of the lattice in dB; "
            "* p at most 0.01 and the interval above 0."
        ],
    )


def _layer_by_layer(r: Redesigns) -> Block:
    rows = [
        [
            breakable(layer["layer"]), layer["is"] or layer.get("reason", ""), WORDS[layer["kept"]],
            layer["certificate_after"], _small(layer.get("deviation_after")), f"{layer['parameters_after']:,}",
            f"{layer.get('multiplications_after', float('nan')):,.0f}", number(layer.get("drift", float("nan")), 3),
        ]
        for layer in r.layers(r.best)
    ]  # fmt: skip
    return table(
        {
            "layer": "left", "is": "left", "weights": "left", "certificate": "left", "deviation": "right",
            "parameters": "right", "multiplications": "right", "drift": "right",
        },
        rows,
        caption=["Drift of a layer: of its output, given its own input before anything was changed."],
        stretch="is",
    )  # fmt: skip


def _how(r: Redesigns) -> list[Block]:
    said = "The same in your own code; the weights of this run are in "
    return [
        paragraph(said, code("redesigned.safetensors"), " beside this report:", sticky=True),
        listing(f'report = gradlens.redesign.swap(model, "{r.best}", example=example)\nmodel = report.model'),
    ]


def _small(value: float | None) -> str:
    """A deviation: digits that matter, or that it is rounding."""
    if value is None or np.isnan(value):
        return "–"
    return "< 10⁻⁵" if value < 1e-5 else number(value, 3)


@figures.styled
def _pictures(r: Redesigns, shown: Sequence[str]) -> bytes:
    first = r.pictures(BEFORE)
    assert first is not None
    count = min(PICTURES if first.shape[-1] <= 2 * first.shape[-2] else 2, len(first))
    height, width = first.shape[2:]
    side = min(6.7 / count, 1.7, 8.2 / len(shown) * width / height)
    figure, axes = figures.new_figure(6.7, (side * height / width + 0.3) * len(shown), len(shown), count)
    for line, name in zip(axes, shown, strict=True):
        found = [r.contrast(name, p, "signed") for p in r.periods]
        told = ", ".join(f"{row.period} px {number(row.value)}" for row in found if not np.isnan(row.value))
        for at, ax in enumerate(line):
            made = r.pictures(name)
            assert made is not None
            figures.draw_picture(ax, made[at], title=f"{name}: {told} dB" if at == 0 else "")
    return figures.svg(figure)


@figures.styled
def _spectra(r: Redesigns, shown: Sequence[str]) -> bytes:
    powers = {name: r.arrays[f"power/{name}"] for name in shown}
    powers = {name: power / power.mean() for name, power in powers.items()}
    low, high = decibel_range(*powers.values())
    marks = dict(zip(r.periods, figures.SERIES, strict=False))
    columns = min(len(powers), 4)
    rows = -(-len(powers) // columns)
    figure, axes = figures.new_figure(6.7, 2.1 * rows + 0.3, rows, columns)
    drawn: Any = None
    for ax, (name, power) in zip(axes.ravel(), powers.items(), strict=False):
        drawn = figures.draw_spectrum(ax, power, low=low, high=high, marks=marks, title=name)
    for ax in axes.ravel()[len(powers) :]:
        ax.set_axis_off()
    figures.add_scale(figure, drawn, axes, "power, dB of the mean")
    return figures.svg(figure)
