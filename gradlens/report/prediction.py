"""What the architecture alone says: the layers that write each period, and how uneven they leave the energy.

The same page serves `gradlens predict`, which has nothing else, and `gradlens analyze`, which holds it against what it
measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.figures import Card, Unevenness
from gradlens.report.document import (
    Block,
    Part,
    answer,
    heading,
    listing,
    paragraph,
    picture,
    plain,
    strong,
    table,
)
from gradlens.report.run import Run, enumeration, number
from gradlens.results import Results

EVEN = 0.05  # below this imbalance no position strays from the mean by more than some hundredths
MOST = 6  # boards of phases in a row
NAMES = 3  # layers named in a cell
COUNTED = ("conv", "conv_transpose", "max_pool", "avg_pool")  # kinds whose taps are a board
SUBJECTS = {"backward": ("input-gradient", "input gradient"), "forward": ("sample", "output")}


@dataclass(frozen=True)
class Predicted:
    """The prediction for one network, and beside it what was measured, where anything was.

    `layers` are the records of `geometry.layers`, `values` and `phases` `[T T]` (predicted, measured or None) by period.
    """

    model: str
    direction: str
    weights: str
    layers: Sequence[Mapping[str, Any]]
    values: Mapping[int, Unevenness]
    ratios: Mapping[int, float]
    silent: Sequence[str]
    phases: Mapping[int, tuple[np.ndarray, np.ndarray | None]]

    @property
    def word(self) -> str:
        return SUBJECTS[self.direction][1]

    @property
    def measured(self) -> bool:
        return any(np.isfinite(value.measured) for value in self.values.values())

    def writers(self, period: int) -> list[Mapping[str, Any]]:
        """The layers that change the resolution and so write `period`, in the order of the path from the picture."""
        found = [
            layer for layer in self.layers if layer["writes"] and str(period) in re.split("; | x ", layer["periods"])
        ]
        return found if self.direction == "backward" else found[::-1]

    def learned(self) -> list[int]:
        """The periods whose prediction lies outside of the interval of what was measured."""
        return [p for p, v in self.values.items() if v.predicted < v.low or v.predicted > v.high]


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    """The page of `analyze`; nothing for an attribution, which is no gradient."""
    told = [model for model in run.models if "prediction" in model]
    if run.method != "gradient" or not told:
        return [], {}
    blocks: list[Block] = [
        heading("What the architecture predicted"),
        paragraph(
            "A network's strides say which periods its gradient can carry, and the squares of its weights how unevenly they "
            "leave its energy, before any photograph is seen: one backward pass on noise in which every coefficient is "
            "squared.",
            sticky=True,
        ),
    ]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.models):
        said = model.get("prediction", {})
        if "failed" in said:
            blocks.append(paragraph(strong(f"{model['name']}. "), f"No prediction: {said['failed']}"))
        elif said:
            more, figures_ = _page(_beside(run, model["name"]), index)
            blocks += more
            drawn |= figures_
    return blocks, drawn


def alone(results: Results) -> tuple[list[Block], dict[str, bytes]]:
    """The whole report of `predict`."""
    predicted, entry = of_run(results), results.manifest["predicted"]
    blocks, drawn = _page(predicted, 0)
    size = " x ".join(map(str, entry["input_size"]))
    return [
        answer(*verdict(predicted)),
        *blocks,
        paragraph(*_method(predicted), plain(f" Weights: {entry['weights']}; input {size}.")),
        listing(results.manifest["command"]),
    ], drawn


def of_run(results: Results) -> Predicted:
    """The prediction in a run of `predict`."""
    entry, t = results.manifest["predicted"], results.table
    periods = sorted({int(p) for p in t["period"]})
    return Predicted(
        entry["name"],
        entry["direction"],
        entry["weights"],
        entry["layers"],
        {p: Unevenness(_value(t, p, "predicted_imbalance")) for p in periods},
        {p: _value(t, p, "predicted_ratio") for p in periods},
        entry["silent"],
        {p: (results.arrays[f"predicted/{p}"], None) for p in periods},
    )


def verdict(predicted: Predicted) -> list[Part]:
    """The answer in two sentences."""
    if not predicted.values:
        return [strong("Nothing to predict. "), plain(f"No layer of {predicted.model} changes the resolution.")]
    worst = max(predicted.values, key=lambda p: predicted.values[p].predicted)
    value = predicted.values[worst].predicted
    written = enumeration([str(p) for p in predicted.values if predicted.writers(p)] or ["no"])
    if value < EVEN:
        return [
            strong("Nearly even. "),
            plain(
                f"The layers of {predicted.model} can write periods of {written} px into its {predicted.word}, but leave its "
                f"energy even: the imbalance is at most {number(value, 2)}, at {worst} px."
            ),
        ]
    return [
        strong("Uneven by design. "),
        plain(f"The layers of {predicted.model} write periods of "),
        strong(f"{written} px"),
        plain(f" into the energy of its {predicted.word} with these weights. Predicted is an imbalance of up to "),
        strong(number(value, 2)),
        plain(f", at {worst} px, where the most favoured pixel position gets {_times(predicted.ratios[worst])}."),
    ]


def _times(ratio: float) -> str:
    return "energy where the least gets none" if np.isinf(ratio) else f"{number(ratio)} times the energy of the least"


def conclusion(predicted: Predicted) -> str:
    """The answer as one line of plain text."""
    return "".join(part["text"] for part in verdict(predicted))


def _beside(run: Run, model: str) -> Predicted:
    """A prediction with what was measured of the same model."""
    entry = run.entry(model)
    t = run.set_rows(model, run.subject)
    values, phases = {}, {}
    for period in run.periods(model):
        own, test = (run.row(model, run.subject, period, m, "phase") for m in ("set_imbalance", "set_imbalance_test"))
        foreseen = _value(t, period, "predicted_imbalance")
        values[period] = Unevenness(foreseen, own.value, own.low, own.high, test.value)
        phases[period] = run.array(model, f"predicted/{period}"), run.array(model, f"energy/{period}")
    ratios = {p: _value(t, p, "predicted_ratio") for p in values}
    said = entry["prediction"]
    return Predicted(model, said["direction"], entry["weights"], said["layers"], values, ratios, said["silent"], phases)


def _value(t: pd.DataFrame, period: int, metric: str) -> float:
    """The value of a row for the whole network."""
    found = t.loc[(t["period"] == period) & (t["metric"] == metric) & (t["image"] == ""), "value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def _page(predicted: Predicted, index: int) -> tuple[list[Block], dict[str, bytes]]:
    """Path and unevenness, boards of phases, the layers in a table, and what training has changed."""
    path, boards = f"figures/prediction-{index}.svg", f"figures/predicted-phases-{index}.svg"
    if not predicted.values:
        return [], {}
    drawn = {path: _path_figure(predicted), boards: _boards_figure(predicted)}
    beside = ", and beside it what was measured, with its 95 % interval" if predicted.measured else ""
    blocks: list[Block] = [
        picture(
            path,
            alt=f"The layers of {predicted.model} that write each period, and the predicted imbalance of each",
            caption=[
                f"{predicted.model}. Above: the layers that write each period; a board shows how many taps of the kernel reach "
                "each phase of its stride (dark is many, a cross none). Below: predicted imbalance of the energy over the pixel "
                f"positions of each period{beside}."
            ],
        ),
        *([paragraph(*_compensation(predicted))] if predicted.measured else []),
        *([paragraph(*_silence(predicted))] if predicted.silent else []),
        picture(
            boards,
            alt=f"Predicted{' and measured' if predicted.measured else ''} energy of the pixel positions of each period",
            caption=[
                f"Relative energy of each of the T x T pixel positions: predicted"
                f"{' above, measured below' * predicted.measured}; a column has one scale, 1 is even."
            ],
        ),
        _layers_table(predicted),
    ]
    return blocks, drawn


def _compensation(predicted: Predicted) -> list[Part]:
    """Where the measured departs from the predicted, and whose doing that is."""
    learned = predicted.learned()
    random = predicted.weights.startswith("random")
    if not any(np.isfinite(value.low) for value in predicted.values.values()):
        return [strong("Too few images "), plain("for an interval that the prediction could be held against.")]
    if not learned:
        return [
            strong("As predicted. "),
            plain("At every period the prediction lies within the interval of what was measured."),
        ]
    said = [
        f"at {p} px {number(v.measured, 2)} ({number(v.low, 2)} to {number(v.high, 2)}) where {number(v.predicted, 2)} was "
        "predicted"
        for p, v in predicted.values.items()
        if p in learned
    ]
    if random:
        return [
            strong("Beside the prediction: "),
            plain(f"{enumeration(said)}. These weights are random: the rest is chance."),
        ]
    return [
        strong("Learned compensation: "),
        plain(
            f"{enumeration(said)}. The prediction takes the weights' sizes and assumes their signs independent; the "
            "difference is what training has put into the signs and, beside it, that photographs open other gates than noise."
        ),
    ]


def _silence(predicted: Predicted) -> list[Part]:
    """Which layers pass nothing."""
    names = list(predicted.silent)
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return [
        strong("Silent branches. "),
        plain(
            f"The scale of {', '.join(names[:NAMES])}{more} is zero, as some libraries initialise the last norm of a residual "
            "block: what it ends passes no gradient, and the shortcuts carry all of it."
        ),
    ]


def _method(predicted: Predicted) -> list[Part]:
    if predicted.direction == "backward":
        how = (
            "Predicted by one backward pass on one noise input in which every coefficient is squared: exact on average where "
            "the weights are independent with zero mean, as before training. Gates, masks and routes are those of the noise. "
        )
    else:
        how = (
            "Predicted by one forward pass that carries the mean and the variance of every entry, the variance with squared "
            "weights: exact on average where the weights are independent with zero mean, as before training. "
        )
    return [
        plain(
            f"{how}Imbalance is the variation of the energy over the T x T pixel positions, relative to their neighbourhood; 0 "
            "is even."
        )
    ]


@figures.styled
def _path_figure(predicted: Predicted) -> bytes:
    columns = [(period, _cards(predicted.writers(period))) for period in predicted.values]
    tallest = max(min(len(cards), 4) for _, cards in columns)
    upper = 0.55 + 0.38 * tallest
    figure, axes = figures.new_figure(6.7, upper + 1.7, 2, 1, height_ratios=[upper, 1.7])
    ends = ("image", "score") if predicted.direction == "backward" else ("output", "latents")
    figures.draw_path(axes[0, 0], columns, ends)
    figures.draw_unevenness(axes[1, 0], predicted.values, "")
    return figures.svg(figure)


def _cards(writers: Sequence[Mapping[str, Any]]) -> list[Card]:
    """The layers of one period, those of one make on one card."""
    makes: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for layer in writers:
        makes.setdefault((layer["kind"], layer["kernel"], layer["stride"]), []).append(layer)
    return [
        Card(_short(layers[0]["layer"]), len(layers), _make(layers[0]), _coverage(layers[0]))
        for layers in makes.values()
    ]


def _make(layer: Mapping[str, Any]) -> str:
    """A layer's kind, kernel and stride in a few letters."""
    kind = {"conv": "", "conv_transpose": "transposed "}.get(layer["kind"], layer["kind"].replace("_", "-") + " ")
    kernel, stride = (_compact(layer[name]) for name in ("kernel", "stride"))
    return f"{kind}{kernel} / {stride}"


def _compact(sides: str) -> str:
    """`3 x 3` as `3×3`, a stride of `2 x 2` likewise; one number where all axes agree is kept by kernels alone."""
    return sides.replace(" x ", "×")


def _coverage(layer: Mapping[str, Any]) -> np.ndarray | None:
    """Taps that reach each phase of a layer's stride, `[s s]`; None where taps do not say it."""
    from gradlens.geometry import coverage

    sides = [layer[name].split(" x ") for name in ("kernel", "stride", "dilation")]
    if layer["kind"] not in COUNTED or not all(side.isdigit() for axis in sides for side in axis):
        return None
    kernel, stride, dilation = (tuple(map(int, axis)) for axis in sides)
    return np.atleast_2d(coverage(kernel, stride, dilation=dilation).numpy())


def _short(layer: str) -> str:
    return layer or "(network)"


def _drawn_periods(predicted: Predicted) -> list[int]:
    """The periods whose boards are drawn."""
    periods = [p for p, (board, _) in predicted.phases.items() if np.isfinite(board).all()]
    return periods if len(periods) <= MOST else [*periods[: MOST // 2], *periods[-MOST // 2 :]]


@figures.styled
def _boards_figure(predicted: Predicted) -> bytes:
    periods = _drawn_periods(predicted)
    rows, columns = 1 + predicted.measured, max(len(periods), 4)
    figure, axes = figures.new_figure(6.7, 0.6 + rows * 6.7 / columns * 0.8, rows, columns)
    for ax in axes[:, len(periods) :].flat:
        ax.set_axis_off()
    for row, word in enumerate(("predicted", "measured")[:rows]):
        axes[row, 0].set_ylabel(word)
    for column, period in enumerate(periods):
        boards = [board for board in predicted.phases[period][:rows] if board is not None]
        top = float(max(board.max() for board in boards))
        shown = [figures.draw_phases(ax, board, top=top) for ax, board in zip(axes[:, column], boards, strict=True)]
        axes[0, column].set_title(f"T = {period}")
        figures.add_scale(figure, shown[0], axes[:, column], "relative energy", aspect=18, pad=0.03)
    return figures.svg(figure)


def _layers_table(predicted: Predicted) -> Block:
    """One row a period: who writes it, with which taps, and the figures."""
    rows = []
    for period, value in predicted.values.items():
        writers = predicted.writers(period)
        names = [layer["layer"] for layer in writers]
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        taps = dict.fromkeys(
            f"{layer['overlap_min']:g} to {layer['overlap_max']:g}" for layer in writers if layer["overlap"]
        )
        row = [
            str(period),
            ", ".join(names[:NAMES]) + more,
            ", ".join(taps),
            number(value.predicted, 2),
            number(predicted.ratios[period], 1),
        ]
        rows.append([*row, number(value.measured, 2)] if predicted.measured else row)
    columns = {"period, px": "right", "written by": "left", "taps": "left", "predicted": "right", "max / min": "right"}
    return table(
        columns | ({"measured": "right"} if predicted.measured else {}),
        rows,
        caption=[
            "Taps: of the kernel that reach a position, fewest to most. Predicted and measured: imbalance of the energy; "
            "max / min: predicted, over the pixel positions."
        ],
        stretch="written by",
    )
