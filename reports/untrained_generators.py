"""`python -m reports.untrained_generators RUN`: the pages of a saved run of `analyses.untrained_generators`, as PDF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.untrained_generators import ARTICLE, FRESH, KINDS, PERIODS, SHOWN, verdicts
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, pagebreak, paragraph, picture, plain, strong, table
from gradlens.report.prediction import EVEN
from gradlens.report.run import Row, as_row, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Checkerboards before any training"
PICTURED = "PyTorch, 32 px"
GAP = 2  # px of white between two samples
MARKED = {  # how the figures call the kinds
    "deconvolution, last two": [name for name, kind in KINDS.items() if kind.claim == (2, 4)],
    "deconvolution, last": [name for name, kind in KINDS.items() if kind.claim == (2,)],
    "resize-convolution": [name for name, kind in KINDS.items() if kind.claim == ()],
    "sub-pixel": ["sub-pixel, last two"],
    "ICNR": [name for name in KINDS if "ICNR" in name],
}
CONTRASTED = {  # in an order that gives each the colour that it has beside, in `draw_agreement`
    "deconvolution, last two": ("deconvolution 4x4, last two", PICTURED),
    "the article's, last two": (KINDS["deconvolution 4x4, last two"].caption, ARTICLE),
    "deconvolution, last": ("deconvolution 4x4, last", PICTURED),
    "sub-pixel": ("sub-pixel, last two", PICTURED),
    "resize-convolution": ("resize-convolution, all", PICTURED),
    "ICNR": ("sub-pixel ICNR, last two", PICTURED),
}


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.untrained_generators`.
    """
    return write_pages(folder, "untrained_generators", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m = results.table, results.manifest
    drawn = {"figures/samples.svg": _samples(results), "figures/agreement.svg": _agreement(results)}
    blocks = [
        answer(*_verdict(verdicts(t))),
        paragraph(*_size_of_it(t)),
        picture(
            "figures/samples.svg",
            alt="Two samples of an untrained generator of each kind",
            caption=[
                "Two samples of each kind at 32 px, every pixel as it is, from the first draw of PyTorch's default. All have the "
                "same latents; the layers not named are resize-convolutions."
            ],
        ),
        picture(
            "figures/agreement.svg",
            alt="Signed contrast of five kinds, and predicted over measured imbalance at 2 and 4 px",
            caption=[
                f"Left: signed contrast, mean over n = {m['seeds']} draws with 95 % bootstrap intervals over draws ({PICTURED}, "
                "deconvolution 4x4, ICNR of sub-pixel); filled where found. Right: own imbalance of every draw of every kind, "
                "initialisation and side; what is below 0.01 is drawn there. The band is max(0.10, 15 %)."
            ],
        ),
        pagebreak(),
        _contrasts(t),
        _imbalances(t),
        paragraph(
            f"One draw is one seed of all weights, with {m['latents']} latents. Its contrast is the mean over them, its p twice "
            "the median of theirs, a p however dependent they are; draws are joined by Fisher's method, the two periods "
            "adjusted by Benjamini and Hochberg, and every interval is a bootstrap over draws. No layer has a bias, as in DCGAN. "
            "Made by ",
            code(m["command"]),
            ".",
        ),
    ]
    return blocks, drawn


def _verdict(found: pd.DataFrame) -> list[Any]:
    """Whether the article's statements hold, and whether they were foreseen."""
    ours = found.loc[found["layer"] != ARTICLE]
    claimed = ours.loc[ours["held"].notna()]
    held, foreseen = int(claimed["held"].sum()), int(ours["foreseen"].sum())
    word = "Held. " if held == len(claimed) else f"Held in {held} of {len(claimed)} generators. "
    return [
        strong(word),
        plain(
            "Before any training a generator with deconvolution in its last two layers has lattices of 2 and 4 px, with one in "
            f"the last layer of 2 px, with resize-convolution throughout none: {held} of {len(claimed)} cases of "
            "kernel, initialisation and side. The energy map of the same weights, which sees no sample, "
            f"names the periods that are found in {foreseen} of {len(ours)} generators."
        ),
    ]


def _size_of_it(t: pd.DataFrame) -> list[Any]:
    """Even kernels, ICNR, how well the sizes agree, and what untouched statistics of norms do to the prediction."""
    even, odd = (
        _range([_value(t, f"deconvolution {k}x{k}, last", layer, "lattice_contrast", 2) for layer in _layers(t)])
        for k in (4, 3)
    )
    ranks = t.loc[t["metric"] == "rank_correlation", "value"]
    off, off_fresh = (_differences(t, metric).abs().max() for metric in ("predicted_imbalance", FRESH))
    least, most = _margin(t)
    icnr = [not v["found"] for v in verdicts(t).to_dict("records") if "ICNR" in v["model"]]
    return [
        strong("Even overlap is no cure: "),
        f"alone in the last layer, kernel 4, which its stride divides, has {even} dB at 2 px where kernel 3 has {odd} dB. Equal "
        f"sums of all phases are one: with ICNR, which starts sub-pixel layers and deconvolutions so, {sum(icnr)} of {len(icnr)} "
        "generators have no lattice. ",
        strong("Its size is known too. "),
        f"Where a period is found, the map says an imbalance of {number(least, 3)} or more, elsewhere {number(most, 3)} or less. "
        f"Means over draws are predicted to within {number(off, 3)}, and the ranks of the {len(KINDS)} kinds correlate by "
        f"{_range(list(ranks), 2)}. ",
        strong("Norms matter. "),
        "These take the statistics of their batch. With those that a norm is made with, 0 and 1, the same weights are another "
        f"network: the map of that one is off by up to {number(off_fresh, 2)}.",
    ]


def _differences(t: pd.DataFrame, metric: str) -> pd.Series:
    """Predicted minus measured imbalance of each kind, initialisation, side and period."""
    index = ["model", "layer", "period"]
    ours, theirs = (t.loc[t["metric"] == m].set_index(index)["value"] for m in (metric, "set_imbalance"))
    return ours - theirs


def _margin(t: pd.DataFrame) -> tuple[float, float]:
    """The least own imbalance predicted where a period is found, and the most where it is not."""
    said: dict[bool, list[float]] = {True: [], False: []}
    for v in verdicts(t).to_dict("records"):
        for period in PERIODS if v["layer"] != ARTICLE else ():
            value = _value(t, v["model"], v["layer"], "predicted_own_imbalance", period)
            said[period in v["found"]].append(value)
    return min(said[True]), max(said[False])


def _layers(t: pd.DataFrame) -> list[str]:
    return [layer for layer in dict.fromkeys(t["layer"]) if layer != ARTICLE]


def _row(t: pd.DataFrame, model: str, layer: str, metric: str, period: int, kind: str = "phase") -> Row | None:
    """One measurement; None where there is none."""
    at = (t["model"] == model) & (t["layer"] == layer) & (t["metric"] == metric) & (t["period"] == period)
    found = t.loc[at & (t["kind"] == kind)]
    return as_row(found.iloc[0].to_dict()) if len(found) else None


def _value(t: pd.DataFrame, model: str, layer: str, metric: str, period: int) -> float:
    """A value; of a contrast the signed one."""
    row = _row(t, model, layer, metric, period, "signed" if metric == "lattice_contrast" else "phase")
    return row.value if row else float("nan")


def _range(values: Sequence[float], digits: int = 1) -> str:
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def _imbalances(t: pd.DataFrame) -> Block:
    """Measured and predicted imbalance of every kind, of one initialisation and side."""
    rows = []
    for name in KINDS:
        cells = [name]
        for period in PERIODS:
            row = _row(t, name, PICTURED, "own_imbalance", period)
            cells += [
                f"{number(row.value, 3)} ({number(row.low, 3)} to {number(row.high, 3)})" if row else "–",
                number(_value(t, name, PICTURED, "predicted_own_imbalance", period), 3),
            ]
        ratios = (_value(t, name, PICTURED, metric, 4) for metric in ("phase_ratio", "predicted_ratio"))
        rows.append([*cells, *(number(ratio, 2) for ratio in ratios)])
    columns = {"enlarged by": "left"}
    columns |= {words: "right" for p in PERIODS for words in (f"{p} px", f"pred. {p}")}
    return table(
        columns | {"most : least": "right", "pred.": "right"},
        rows,
        caption=[
            f"Own imbalance of energy over a period's phases, measured (95 % interval over draws) and predicted, and at 4 px "
            f"the phase with most over that with least energy; {PICTURED}. Foreseen is a period above {EVEN}. Own: what "
            "repeats with 2 px is taken out at 4 px."
        ],
        stretch="enlarged by",
    )


def _contrasts(t: pd.DataFrame) -> Block:
    """All kinds, initialisations and sides, and the article's own pictures."""
    rows = []
    for v in verdicts(t).to_dict("records"):
        of = (t, v["model"], v["layer"], "lattice_contrast")
        contrasts = [_row(*of, p, kind) for kind in ("signed", "envelope") for p in PERIODS]
        name = v["model"].removeprefix("untrained, ")
        rows.append(
            [
                name.replace(" in the last two layers", ", last two").replace(" in the last layer", ", last"),
                v["layer"],
                *(f"{number(row.value)}{' *' * row.found}" if row else "–" for row in contrasts),
                _periods(v["found"]),
                "–" if v["layer"] == ARTICLE else _periods(v["predicted"]),
                "–" if v["claim"] is None else _periods(v["claim"]),
                {True: "yes", False: "no", None: "–"}[v["held"]],
            ]
        )
    columns = {"enlarged by": "left", "drawn by, side": "left"}
    columns |= {f"{kind} {p}": "right" for kind in ("signed", "env.") for p in PERIODS}
    columns |= {"found": "left", "foreseen": "left", "article": "left", "held": "left"}
    return table(
        columns,
        rows,
        caption=[
            "Contrast in dB, signed and envelope, at 2 and 4 px (* p at most 0.01 and the interval above 0); the periods, in px, "
            "with a signed lattice, those that the energy map foresees, and those in the article's caption. The article's "
            "pictures are one each, without an interval."
        ],
        stretch="enlarged by",
    )


def _periods(periods: Sequence[int]) -> str:
    return ", ".join(map(str, periods)) or "none"


@figures.styled
def _samples(results: Results) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.0, 2, len(KINDS) // 2)
    for ax, name in zip(axes.ravel(), KINDS, strict=True):
        images = results.arrays[f"samples/{name}/{PICTURED}"]
        gap = np.ones((images.shape[1], images.shape[2], GAP), images.dtype)
        row = np.concatenate([images[0], *(part for image in images[1:SHOWN] for part in (gap, image))], 2)
        figures.draw_picture(ax, row).set_title(name.replace(", ", "\n"), fontsize=6.5)
    return figures.svg(figure)


@figures.styled
def _agreement(results: Results) -> bytes:
    t = results.table
    figure, axes = figures.new_figure(6.7, 2.4, 1, 3)
    contrasts = {}
    for label, (name, layer) in CONTRASTED.items():
        found = [_row(t, name, layer, "lattice_contrast", p, "signed") for p in PERIODS]
        contrasts[label] = [(r.value, r.low, r.high, r.found) for r in found if r]
    figures.draw_contrasts(axes[0, 0], PERIODS, contrasts, "signed contrast")
    for place, (ax, period) in enumerate(zip(axes[0, 1:], PERIODS, strict=True)):
        points = {label: _of_draws(results, names, place) for label, names in MARKED.items()}
        figures.draw_agreement(ax, points, low=0.01, high=1.5, title=f"{period} px")
    axes[0, 2].set_ylabel("")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=len(words), columnspacing=1, loc="outside lower center", fontsize=6.5)
    return figures.svg(figure)


def _of_draws(results: Results, names: Sequence[str], place: int) -> tuple[np.ndarray, np.ndarray]:
    """Measured and predicted own imbalance of every draw of some kinds at one period."""
    places = [f"{name}/{layer}" for name in names for layer in _layers(results.table)]
    measured, predicted = (
        np.concatenate([results.arrays[f"{metric}/{where}"][place] for where in places])
        for metric in ("own_imbalance", "predicted_own_imbalance")
    )
    return measured, predicted


def main() -> None:
    """The command line."""
    draw_from_command_line("untrained_generators", write_report)


if __name__ == "__main__":
    main()
