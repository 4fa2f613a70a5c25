"""`python -m reports.untrained_generators RUN`: the pages of a saved run of `analyses.untrained_generators`, as RUN/report.pdf."""

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
    "resize-convolution": ["resize-convolution in all"],
    "sub-pixel": ["sub-pixel, last two"],
    "ICNR": [name for name in KINDS if "ICNR" in name],
}
CONTRASTED = ("deconvolution 4x4, last two", "deconvolution 4x4, last", "resize-convolution in all")


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
            alt="Signed contrast of three kinds, and predicted over measured imbalance at 2 and 4 px",
            caption=[
                f"Left: signed contrast, mean over {m['seeds']} draws with 95 % bootstrap intervals over draws ({PICTURED}); "
                "filled where found. Right: own imbalance of every draw of every kind, initialisation and side; "
                "below 0.01 is drawn there. The band is max(0.10, 15 %)."
            ],
        ),
        pagebreak(),
        _every(t),
        paragraph(
            f"One draw is one seed of all weights, with {m['latents']} latents. Its contrast is the mean over them, its p twice "
            "the median of theirs, a p however dependent they are; draws are joined by Fisher's method, the two periods "
            "adjusted by Benjamini and Hochberg, and every interval is a bootstrap over draws. Own imbalance: what repeats "
            f"with 2 px is taken out at 4 px. Predicted is a period above {EVEN}. No layer has a bias, as in DCGAN. Made by ",
            code(m["command"]),
            "; ratios, intervals and p are in table.csv.",
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
    gap, off = (_value_errors(t, metric)["difference"].abs().max() for metric in ("predicted_imbalance", FRESH))
    return [
        strong("Even overlap is no cure: "),
        f"kernel 4, which its stride divides, has {even} dB at 2 px where kernel 3 has {odd} dB. It is equal phase sums that "
        "help: ICNR leaves no lattice, in sub-pixel layers or in deconvolutions. ",
        strong("The size is known too. "),
        f"The mean over draws is predicted to within {number(gap, 3)}; the ranks of the {len(KINDS)} kinds correlate by "
        f"{_range(list(ranks), 2)}. ",
        strong("Norms matter: "),
        "these take the statistics of their batch. With the statistics that a norm is made with, 0 and 1, the same weights are "
        f"another network, and the map is off by up to {number(off, 2)}.",
    ]  # fmt: skip


def _value_errors(t: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Predicted minus measured imbalance of each kind, layer and period."""
    index = ["model", "layer", "period"]
    ours, theirs = (t.loc[t["metric"] == m].set_index(index)["value"] for m in (metric, "set_imbalance"))
    return (ours - theirs).rename("difference").reset_index()


def _layers(t: pd.DataFrame) -> list[str]:
    return [layer for layer in dict.fromkeys(t["layer"]) if layer != ARTICLE]


def _row(t: pd.DataFrame, model: str, layer: str, metric: str, period: int, kind: str = "") -> Row | None:
    """One measurement; None where there is none."""
    at = (t["model"] == model) & (t["layer"] == layer) & (t["metric"] == metric) & (t["period"] == period)
    found = t.loc[at & (t["kind"] == kind)] if kind else t.loc[at]
    return as_row(found.iloc[0].to_dict()) if len(found) else None


def _value(t: pd.DataFrame, model: str, layer: str, metric: str, period: int) -> float:
    """A value; of a contrast the signed one."""
    row = _row(t, model, layer, metric, period)
    return row.value if row else float("nan")


def _range(values: Sequence[float], digits: int = 1) -> str:
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def _every(t: pd.DataFrame) -> Block:
    """All kinds, initialisations and sides, and the article's own pictures."""
    rows = []
    for v in verdicts(t).to_dict("records"):
        of = (t, v["model"], v["layer"])
        contrasts = [_row(*of, "lattice_contrast", p, kind) for kind in ("signed", "envelope") for p in PERIODS]
        rows.append(
            [
                v["model"].removeprefix("untrained, "),
                v["layer"],
                *(f"{number(row.value)}{' *' * row.found}" if row else "–" for row in contrasts),
                *(number(_value(*of, f"{side}own_imbalance", p), 3) for p in PERIODS for side in ("", "predicted_")),
                _periods(v["found"]),
                "–" if v["layer"] == ARTICLE else _periods(v["predicted"]),
                "–" if v["claim"] is None else _periods(v["claim"]),
            ]
        )
    columns = {"enlarged by": "left", "drawn by, side": "left"}
    columns |= {f"{kind} {p}": "right" for kind in ("signed", "env.") for p in PERIODS}
    columns |= {f"{side} {p}": "right" for p in PERIODS for side in ("meas.", "pred.")}
    columns |= {"found": "left", "foreseen": "left", "article": "left"}
    return table(
        columns,
        rows,
        caption=[
            "Contrast in dB, signed and envelope, at 2 and 4 px (* p at most 0.01 and the interval above 0); own imbalance "
            "of energy, measured and predicted; periods with a signed lattice, foreseen by the energy map, and in the article's "
            "caption. The article's pictures are one each, without an interval."
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
        figures.draw_picture(ax, row, title=name.replace(", ", "\n"))
    return figures.svg(figure)


@figures.styled
def _agreement(results: Results) -> bytes:
    t, arrays = results.table, results.arrays
    figure, axes = figures.new_figure(6.7, 2.6, 1, 3)
    contrasts = {}
    for name in CONTRASTED:
        found = [_row(t, name, PICTURED, "lattice_contrast", p, "signed") for p in PERIODS]
        contrasts[name] = [(r.value, r.low, r.high, r.found) for r in found if r]
    figures.draw_contrasts(axes[0, 0], PERIODS, contrasts, "signed contrast").legend(fontsize=5.5, loc="upper right")
    for number_, (ax, period) in enumerate(zip(axes[0, 1:], PERIODS, strict=True)):
        points = {
            label: tuple(
                np.concatenate([arrays[f"{m}/{name}/{layer}"][number_] for name in names for layer in _layers(t)])
                for m in ("own_imbalance", "predicted_own_imbalance")
            )
            for label, names in MARKED.items()
        }
        figures.draw_agreement(ax, points, low=0.01, high=1.5, title=f"{period} px")
    axes[0, 2].set_ylabel("")
    handles, words = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, words, ncols=len(words), loc="outside lower center", fontsize=6.5)
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("untrained_generators", write_report)


if __name__ == "__main__":
    main()
