"""`python -m reports.maxpool_gradients RUN`: the pages of a saved run of `analyses.maxpool_gradients`, as RUN/report.pdf."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.maxpool_gradients import AS_IS, BOTH, FINE, HELD, STEM
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import as_row, enumeration, number, share
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "What max-pooling adds to a gradient"
RELAXED = "average"
DRAWN = (AS_IS, RELAXED, HELD, STEM, BOTH)
KINDS = ("signed", "envelope")
SHOWN = (2, 4)  # periods of the tables: those of a stem and of the pool behind it


def write_report(folder: Path) -> Path:
    """Draw the figure and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.maxpool_gradients`.
    """
    return write_pages(folder, "maxpool_gradients", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t = results.table
    drawn = {"figures/backward.svg": _figure(t)}
    blocks = [
        answer(*_verdict(t)),
        paragraph(
            "The forward pass is the same throughout, bit by bit; the backward pass of the pools, or of the stem, is another. "
            "Average: average-pooling's. L2: that of the root of the sum of squares. Softmax: weights by activation, at a "
            "temperature. Held: the true gradient, then the mean over a stride, which takes every harmonic of the stride away. ",
            *_evenness(t),
        ),
        picture(
            "figures/backward.svg",
            alt="Signed contrast of each period for the networks with several backward passes",
            caption=[
                f"Signed contrast, mean over n = {_count(t)} photographs with 95 % bootstrap intervals; filled where p is at "
                f"most 0.01 and the interval above 0. Made by {results.manifest['command']}."
            ],
        ),
        heading("What a replacement takes away"),
        paragraph(
            "The gradient as it is, minus that of the other backward pass. An organised pattern stands above the spectrum "
            "around it: its signed contrast is above 0; noise without organisation has 0 or, where the spectrum has a "
            "minimum at 1/2 cycle per pixel, less. Its energy is that of the difference over that of the gradient.",
            sticky=True,
        ),
        _taken(t),
        heading("What is left"),
        _left(t),
    ]
    return blocks, drawn


def contrast(t: pd.DataFrame, model: str, subject: str, layer: str, period: int, kind: str) -> Any:
    """The contrast of one backward pass as a `gradlens.report.run.Row`; None if it was not measured."""
    found = _rows(t, model, subject, layer, "lattice_contrast")
    found = found.loc[(found["period"] == period) & (found["kind"] == kind)]
    return as_row(found.iloc[0].to_dict()) if len(found) else None


def _rows(t: pd.DataFrame, model: str, subject: str, layer: str, metric: str) -> pd.DataFrame:
    return t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["metric"] == metric)]


def _value(t: pd.DataFrame, model: str, subject: str, layer: str, metric: str) -> float:
    found = _rows(t, model, subject, layer, metric)["value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def _networks(t: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(t["model"]))


def _pooled(t: pd.DataFrame) -> list[str]:
    """The networks with a max-pool."""
    return list(dict.fromkeys(t.loc[t["layer"] == RELAXED, "model"]))


def _count(t: pd.DataFrame) -> int:
    return max(int(n) for n in t["n"])


def _verdict(t: pd.DataFrame) -> list[Any]:
    """Whether what routing adds is less organised than what the stride adds."""
    pooled = _pooled(t)
    routed, strided = (
        [contrast(t, m, "gradient-difference", layer, 2, "signed") for m in pooled] for layer in (RELAXED, STEM)
    )
    uneven = [contrast(t, m, "gradient-difference", RELAXED, 2, "envelope") for m in pooled]
    energy = [_value(t, m, "gradient-difference", RELAXED, "energy_share") for m in pooled]
    held = [m for m, a, b in zip(pooled, routed, strided, strict=True) if a.high < b.low]
    word = "Held in every network. " if len(held) == len(pooled) else f"Held in {len(held)} of {len(pooled)} networks. "
    return [
        strong(word),
        plain(
            f"What a max-pool's choice of one pixel adds to the gradient, {_range(energy, share)} of its energy, has no signed "
            f"lattice of 2 px: {_range([r.value for r in routed])} dB. What the stride of the stem adds has "
            f"{_range([s.value for s in strided])} dB. So the article's guess, a high-frequency pattern that is less organised, "
            "describes it. Where its energy lies is another matter: it passes the stem on its way to the image, and has an "
            f"envelope contrast of {_range([r.value for r in uneven])} dB there."
        ),
    ]


def _evenness(t: pd.DataFrame) -> list[Any]:
    """That average-pooling's backward is no remedy by itself."""
    worse = [
        (m, a, b)
        for m in dict.fromkeys(t.loc[t["layer"] == HELD, "model"])  # whose pool strides
        for a in [contrast(t, m, "input-gradient", AS_IS, 4, "signed")]
        for b in [contrast(t, m, "input-gradient", RELAXED, 4, "signed")]
        if b.low > a.high
    ]
    if not worse:
        return []
    said = [f"{m} {number(a.value)} to {number(b.value)} dB" for m, a, b in worse]
    return [
        strong("No remedy by itself: "),
        plain(
            f"average-pooling's backward raises the contrast at 4 px ({enumeration(said)}). Its windows of 3 overlap at "
            "every second pixel alone, so it spreads evenly what it then counts unevenly; the routing had hidden that."
        ),
    ]


def _range(values: Sequence[float], say_it: Any = number) -> str:
    low, high = say_it(min(values)), say_it(max(values))
    return low if low == high else f"{low} to {high}"


@figures.styled
def _figure(t: pd.DataFrame) -> bytes:
    networks = _networks(t)
    rows = -(-len(networks) // 2)
    figure, axes = figures.new_figure(6.7, 2.0 * rows + 0.4, rows, 2)
    for ax in axes.ravel()[len(networks) :]:
        ax.set_axis_off()
    labels: dict[str, Any] = {}
    for ax, model in zip(axes.ravel(), networks, strict=False):
        periods = sorted({int(p) for p in t.loc[t["model"] == model, "period"].dropna() if p <= 8})
        series = {}
        for layer in DRAWN:
            found = [contrast(t, model, "input-gradient", layer, p, "signed") for p in periods]
            nothing = (np.nan, np.nan, np.nan, False)
            series[layer] = [(r.value, r.low, r.high, r.found) if r else nothing for r in found]
        figures.draw_contrasts(ax, periods, series, model)
        handles, words = ax.get_legend_handles_labels()
        labels |= dict(zip(words, handles, strict=True))
    for ax in axes[:, 1]:
        ax.set_ylabel("")
    figure.legend(labels.values(), labels.keys(), ncols=len(labels), loc="outside lower center")
    return figures.svg(figure)


def _taken(t: pd.DataFrame) -> Block:
    rows = []
    for model in _networks(t):
        of = t.loc[(t["model"] == model) & (t["subject"] == "gradient-difference"), "layer"]
        for layer in dict.fromkeys(of):
            fine, energy = (_value(t, model, "gradient-difference", layer, m) for m in ("fine_share", "energy_share"))
            rows.append([model, layer, *_decibels(t, model, "gradient-difference", layer), share(energy), share(fine)])
    return table(
        _columns("taken away by") | {"energy": "right", "fine": "right"},
        rows,
        caption=[_explained(), f" Energy: over the gradient's. Fine: share of it at {FINE} cycles per pixel and more."],
        stretch="network",
    )


def _left(t: pd.DataFrame) -> Block:
    rows = []
    for model in _networks(t):
        of = t.loc[(t["model"] == model) & (t["subject"] == "input-gradient"), "layer"]
        for layer in dict.fromkeys(of):
            fine = _value(t, model, "input-gradient", layer, "fine_share")
            rows.append([model, layer, *_decibels(t, model, "input-gradient", layer), share(fine)])
    return table(_columns("backward pass") | {"fine": "right"}, rows, caption=[_explained()], stretch="network")


def _columns(second: str) -> dict[str, str]:
    return {"network": "left", second: "left"} | {f"{kind[:4]}. {p}": "right" for p in SHOWN for kind in KINDS}


def _decibels(t: pd.DataFrame, model: str, subject: str, layer: str) -> list[str]:
    found = [contrast(t, model, subject, layer, period, kind) for period in SHOWN for kind in KINDS]
    return [f"{number(row.value)}{' *' * row.found}" if row else "–" for row in found]


def _explained() -> str:
    return "Contrast in dB, signed and envelope, at 2 and 4 px; * p at most 0.01 and the interval above 0."


def main() -> None:
    """The command line."""
    draw_from_command_line("maxpool_gradients", write_report)


if __name__ == "__main__":
    main()
