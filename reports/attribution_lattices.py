"""`python -m reports.attribution_lattices RUN`: the pages of a run of `analyses.attribution_lattices`, as RUN/report.pdf."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.attribution_lattices import (
    CONTROL,
    CONTROLS,
    CUTOFFS,
    DEGRIDDED,
    FEW,
    NONE,
    PERIODS,
    REMEDIES,
    best,
)
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import NBSP, Row, as_row, enumeration, number, share, span
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "The lattice of attributions, and what takes it away"
COMMAND = "python -m analyses.attribution_lattices"
KINDS = ("signed", "envelope")
FALLING = {"deletion": -1, "insertion": 1}  # which way is more faithful
PAIRS = len(FALLING) * len(DEGRIDDED) * (len(REMEDIES) - 1)  # of a network


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.attribution_lattices`.
    """
    return write_pages(folder, "attribution_lattices", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t = results.table
    command = results.manifest["command"]
    drawn = {"figures/methods.svg": _methods(t), "figures/samples.svg": _samples(t)}
    blocks = [
        answer(strong(f"{carriers(t)} "), plain(f"{averaging(t)} {remedies(t)}")),
        picture(
            "figures/methods.svg",
            alt="Contrast of each period for every method and network, signed on the left, envelope on the right",
            caption=[
                f"Contrast by method, means over n = {_counts(t)} photographs with 95 % bootstrap intervals; filled where p is "
                "at most 0.01 and the interval above 0. Occlusion (fewest photographs) moves by 8 px: its map is "
                f"constant in cells of 8 px, which no network wrote. Paths and samples of {FEW}. MobileNetV2 has no ReLU. "
                f"Made by {command}."
            ],
        ),
        heading("More samples"),
        paragraph(_agreement(t), sticky=True),
        picture(
            "figures/samples.svg",
            alt="Contrast of SmoothGrad by samples, and the share of its energy that is noise",
            caption=[
                f"SmoothGrad, n = {_any(t, 'samples').n} photographs, 95 % bootstrap intervals. Right: the "
                "share of energy in which two halves of the samples disagree; dashed, a fixed map and independent noise, "
                f"fixed by 2 samples. Made by {command}."
            ],
        ),
        heading("What de-grids, and what it costs"),
        paragraph(f"{remaining(t)} {costs(t)}"),
        paragraph(f"{_chosen(t)} {_knowledge(t)}", sticky=True),
        *(_table(t, model) for model in _judged(t)),
    ]
    return blocks, drawn


def found(
    t: pd.DataFrame, model: str, subject: str, layer: str, metric: str, kind: str = "signal", period: int = 0
) -> Row:
    """One row of the table; `period` is 0 for what has none, every field NaN for what was not measured."""
    own = t.loc[
        (t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["metric"] == metric)
        & (t["kind"] == kind) & (t["period"].fillna(0) == period)
    ]  # fmt: skip
    if not len(own):
        return Row(period, kind, np.nan, np.nan, np.nan, np.nan, 0)
    return as_row(own.iloc[0].to_dict() | {"period": period})


def _contrast(t: pd.DataFrame, model: str, subject: str, layer: str, kind: str, period: int = 2) -> Row:
    return found(t, model, subject, layer, "lattice_contrast", kind, period)


def _degridded(t: pd.DataFrame, model: str, method: str, remedy: str, metric: str) -> Row:
    return found(t, model, "degridded", f"{method}, {remedy}", metric)


def _any(t: pd.DataFrame, subject: str) -> Row:
    """A row of the subject, for its n."""
    return as_row(t.loc[t["subject"] == subject].iloc[0].to_dict() | {"period": 0})


def _judged(t: pd.DataFrame) -> list[str]:
    """The networks, in their order."""
    return list(dict.fromkeys(t.loc[t["subject"] == "degridded", "model"]))


def _attributed(t: pd.DataFrame) -> pd.DataFrame:
    return t.loc[t["subject"] == "attribution"]


def _counts(t: pd.DataFrame) -> str:
    """The numbers of photographs of the methods."""
    return enumeration([str(n) for n in sorted({int(n) for n in _attributed(t)["n"]}, reverse=True)])


def _numbers(t: pd.DataFrame) -> list[int]:
    """The numbers of samples, rising."""
    return sorted({int(n) for n in t.loc[t["subject"] == "samples", "layer"]})


def carriers(t: pd.DataFrame) -> str:
    """In how many networks each method has a lattice of 2, 4 or 8 px."""
    own = _attributed(t)
    words = []
    for method in dict.fromkeys(own["layer"]):
        networks = list(dict.fromkeys(own.loc[own["layer"] == method, "model"]))
        carry = [
            m
            for m in networks
            if any(_contrast(t, m, "attribution", method, k, p).found for k in KINDS for p in PERIODS)
        ]
        words.append(f"{method} in {len(carry)} of {len(networks)}")
    return f"Networks in which a map has a lattice of 2, 4 or 8 px: {enumeration(words)}."


def averaging(t: pd.DataFrame) -> str:
    """What more samples do to SmoothGrad's lattice, network by network."""
    numbers = _numbers(t)
    words, removed = [], 0
    for model in _judged(t):
        first, last = (
            [_contrast(t, model, "samples", str(n), kind) for kind in KINDS] for n in (numbers[0], numbers[-1])
        )
        pairs = [
            f"{kind} {number(a.value)} to {number(b.value)}" for kind, a, b in zip(KINDS, first, last, strict=True)
        ]
        removed += not any(row.found for row in last)
        words.append(f"{model} {enumeration(pairs)}")
    return (
        f"Averaging noise removes it in {removed} of {len(words)} networks: from {numbers[0]} to {numbers[-1]} samples of "
        f"SmoothGrad the contrast at 2 px goes, in dB, of {'; '.join(words)}."
    )


def remedies(t: pd.DataFrame) -> str:
    """In how many networks each remedy takes all of it away, and whether a map is more faithful for it."""
    models = _judged(t)
    cleared = {remedy: sum(not left(t, model, remedy) for model in models) for remedy in REMEDIES[1:]}
    words = [f"{remedy} in {count}" for remedy, count in cleared.items()]
    better, worse = changed(t)
    pairs = PAIRS * len(models)
    return (
        f"Networks of {len(models)} in which a remedy leaves no lattice of 2 px: {enumeration(words)}. Paired differences in "
        f"deletion and insertion whose interval is off 0, of {pairs}: {len(better)} more faithful, {len(worse)} less; chance "
        f"alone gives about {number(0.05 * pairs)}."
    )


def left(t: pd.DataFrame, model: str, remedy: str) -> list[str]:
    """The lattices of 2 px that are found after a remedy, in words."""
    return [
        f"{kind} of {method} {number(row.value)} dB"
        for method in DEGRIDDED
        for kind in KINDS
        for row in [_contrast(t, model, "degridded", f"{method}, {remedy}", kind)]
        if row.found
    ]


def remaining(t: pd.DataFrame) -> str:
    """How many lattices of 2 px each remedy leaves, over networks, maps and families, and the largest."""
    words = []
    for remedy in REMEDIES:
        rows = [
            (_contrast(t, model, "degridded", f"{method}, {remedy}", kind), f"{kind}, {method} of {model}")
            for model in _judged(t)
            for method in DEGRIDDED
            for kind in KINDS
        ]
        kept = [(row.value, name) for row, name in rows if row.found]
        most = f", at most {number(max(kept)[0])} dB ({max(kept)[1]})" if kept else ""
        words.append(f"{remedy} {len(kept)} of {len(rows)}{most}")
    return f"Lattices of 2 px that are left: {'; '.join(words)}."


def changed(t: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The paired differences whose interval is off 0, in words: more faithful, and less."""
    better, worse = [], []
    for model in _judged(t):
        for method in DEGRIDDED:
            for remedy in REMEDIES[1:]:
                for metric, sign in FALLING.items():
                    row = _degridded(t, model, method, remedy, f"{metric}_change")
                    if row.low > 0 or row.high < 0:
                        words = f"{remedy} of {method}, {model} ({metric} {number(row.value, 3)})"
                        (better if row.value * sign > 0 else worse).append(words)
    return better, worse


def costs(t: pd.DataFrame) -> str:
    """Which remedies make a map more or less faithful, where the paired interval says so."""
    better, worse = changed(t)
    pairs = PAIRS * len(_judged(t))
    said = [f"{word} faithful: {enumeration(words)}" for word, words in (("more", better), ("less", worse)) if words]
    if not said:
        return f"Of {pairs} paired differences in deletion and insertion none has an interval off 0."
    return f"Paired differences with an interval off 0, of {pairs}: {'; '.join(said)}."


def _agreement(t: pd.DataFrame) -> str:
    """How fast the noise of the map and of its lattice falls."""
    low, high = 2, _numbers(t)[-1]
    words = []
    for model in _judged(t):
        whole, lattice = (
            [found(t, model, "samples", str(n), "noise_share", kind).value for n in (low, high)]
            for kind in ("signal", "lattice")
        )
        words.append(
            f"{model} {share(whole[1])} ({share(expected(whole[0], low, high))}; of its lattice {share(lattice[1])})"
        )
    return (
        f"Share of the energy in which two halves of {high} samples disagree (what independent noise on a fixed map would "
        f"leave, from that at {low} samples; the same of the part that repeats with 2 px): {', '.join(words)}."
    )


def expected(known: float, at: int, n: int) -> float:
    """The share of noise in a mean of `n` samples of a fixed map, where `at` samples have the share `known`.

    Example:
        >>> expected(0.5, 2, 4) == 1 / 3
        True
    """
    if known >= 1:  # noise alone, which more samples leave noise
        return 1.0
    ratio = known / (1 - known) * at / n
    return ratio / (1 + ratio)


def _chosen(t: pd.DataFrame) -> str:
    own = t.loc[t["subject"] == "cutoff"]
    words = []
    for method in (*DEGRIDDED, CONTROL):
        of_method = own.loc[own["layer"].str.startswith(f"{method}, ")]
        found = [best(of_method.loc[of_method["model"] == model]) for model in _judged(t)]
        words.append(f"{', '.join(f'{cutoff:g}' for cutoff in found)} for {method}")
    return (
        f"Notch and even phases take the network's own periods. The low-pass has, of {', '.join(f'{c:g}' for c in CUTOFFS)} "
        f"cycles per pixel, the cut-off with the highest insertion minus deletion on {_any(t, 'cutoff').n} other photographs, "
        f"in the order of the networks {enumeration(words)}. Stem held: the true gradient of the stem's output, then its mean "
        "over a stride."
    )


def _knowledge(t: pd.DataFrame) -> str:
    """What smoothing a map of noise, which knows nothing of the network, gains."""
    smoothed = [_degridded(t, model, CONTROL, CONTROLS[-1], "deletion_change") for model in _judged(t)]
    words = [f"{number(row.value, 3)} ({span(row, 3)})" for row in smoothed]
    return f"Noise knows nothing of the network: its low-pass alone changes deletion by {enumeration(words)}."


@figures.styled
def _methods(t: pd.DataFrame) -> bytes:
    own = _attributed(t)
    networks = list(dict.fromkeys(own["model"]))
    figure, axes = figures.new_figure(6.7, 1.45 * len(networks) + 0.4, len(networks), 2)
    labels: dict[str, Any] = {}
    for line, model in zip(axes, networks, strict=True):
        for ax, kind in zip(line, KINDS, strict=True):
            series = {
                method: [
                    (r.value, r.low, r.high, r.found)
                    for r in (_contrast(t, model, "attribution", method, kind, p) for p in PERIODS)
                ]
                for method in dict.fromkeys(own["layer"])
            }
            figures.draw_contrasts(ax, PERIODS, series, f"{model}, {kind}")
            handles, words = ax.get_legend_handles_labels()
            labels |= dict(zip(words, handles, strict=True))
        line[1].set_ylabel("")
    for ax in axes[:-1].ravel():
        ax.set_xlabel("")
    figure.legend(labels.values(), labels.keys(), ncols=len(labels), loc="outside lower center", columnspacing=1)
    return figures.svg(figure)


@figures.styled
def _samples(t: pd.DataFrame) -> bytes:
    models, numbers = _judged(t), _numbers(t)
    figure, axes = figures.new_figure(6.7, 1.5 * len(models) + 0.4, len(models), 3)
    for line, model in zip(axes, models, strict=True):
        for ax, kind in zip(line, KINDS, strict=False):
            rows = {p: [_contrast(t, model, "samples", str(n), kind, p) for n in numbers] for p in PERIODS}
            lines = {
                p: [(place, r.value, r.low, r.high, r.found) for place, r in enumerate(own)] for p, own in rows.items()
            }
            figures.draw_stages(ax, [str(n) for n in numbers], lines, f"{model}, {kind}")
            ax.set_xlabel("")
        _draw_shares(line[2], t, model, numbers[1:])
    for ax in axes[-1]:
        ax.set_xlabel("samples")
    axes[0, 0].legend(loc="best", handlelength=1)
    axes[0, 2].legend(loc="best", handlelength=1)
    return figures.svg(figure)


def _draw_shares(ax: figures.Axes, t: pd.DataFrame, model: str, numbers: Sequence[int]) -> figures.Axes:
    """The share of noise by the number of samples, of the whole map and of its lattice, beside 1 / n."""
    for kind, label, colour in (("signal", "whole map", figures.CONTROL), ("lattice", "its lattice", figures.GRADIENT)):
        rows = [found(t, model, "samples", str(n), "noise_share", kind) for n in numbers]
        ax.plot(numbers, [r.value for r in rows], "o-", color=colour, markersize=3, label=label)
        ax.vlines(numbers, [r.low for r in rows], [r.high for r in rows], color=colour, linewidth=0.8)
        law = [expected(rows[0].value, numbers[0], n) for n in numbers]
        ax.plot(numbers, law, "--", color=colour, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = (0.001, 0.01, 0.1, 1)
    ax.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.minorticks_off()
    ax.set_ylabel("share of energy")
    ax.set_title("disagreement")
    return ax


def _table(t: pd.DataFrame, model: str) -> Block:
    rows = []
    for method in (*DEGRIDDED, CONTROL):
        for remedy in CONTROLS if method == CONTROL else REMEDIES:
            left = [_contrast(t, model, "degridded", f"{method}, {remedy}", kind) for kind in KINDS]
            scores = [
                _degridded(t, model, method, remedy, f"{metric}{change}")
                for metric in FALLING
                for change in ("", "_change")
            ]
            cells = [
                number(r.value, 3) if at % 2 == 0 else span(r, 3).replace(" ", NBSP) for at, r in enumerate(scores)
            ]
            if remedy == NONE:
                cells[1] = cells[3] = "–"
            rows.append([method, remedy, *(f"{number(r.value)}{' *' * r.found}" for r in left), *cells])
    columns = ("sign. 2", "env. 2", "deletion", "change", "insertion", "change ")
    return table(
        {"map": "left", "de-gridded by": "left"} | dict.fromkeys(columns, "right"),
        rows,
        caption=[
            f"{model}, n = {_any(t, 'degridded').n} photographs, the class that wins on each. Contrast in dB at 2 px; * p "
            "at most 0.01 and the interval above 0. Deletion (lower is more faithful) and insertion (higher is): areas under the "
            "probability; change: 95 % bootstrap interval of the paired difference to the same map as it is."
        ],
    )


def main() -> None:
    """The command line."""
    draw_from_command_line("attribution_lattices", write_report)


if __name__ == "__main__":
    main()
