"""`python -m reports.colour_distance RUN`: the pages of a saved run of `analyses.colour_distance`, as PDF."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.claims import verdict
from analyses.colour_distance import (
    AMPLITUDE,
    BETWEEN,
    CLAIMS,
    DESIGNS,
    IMAGE,
    KINDS,
    MNIST,
    PARTIAL,
    PERIODS,
    PLAIN,
    REAL,
    SVHN,
    TWO,
    WITHIN,
    WRITTEN,
)
from analyses.gan_upsampling import SHORT_NAMES
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, heading, pagebreak, paragraph, picture, plain, strong, table
from gradlens.report.run import number
from gradlens.results import Results
from reports.claims import Value, said, sentences, value
from reports.gan_upsampling import setting_words
from reports.pages import draw_from_command_line, write_pages

TITLE = "Checkerboards and strong colours"
NAMES = SHORT_NAMES | {REAL: REAL, SVHN: SVHN, MNIST: MNIST}
COLOURS = dict(zip((*DESIGNS, REAL), (*figures.SERIES[:3], figures.CONTROL), strict=True))
GAP = 2  # px of white between samples
LEVELS = 255


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.colour_distance`.
    """
    return write_pages(folder, "colour_distance", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m = results.table, results.manifest
    drawn = {"figures/profiles.svg": _profiles(results), "figures/ends.svg": _ends(results)}
    average = ", ".join(number(LEVELS * level, 0) for level in results.arrays["average"])
    blocks: list[Block] = [
        answer(*_verdict(t)),
        paragraph(
            *setting_words(m),
            f"{m['count']} samples of each generator, as many real images; their average colour is {average} of 255.",
        ),
        picture(
            "figures/profiles.svg",
            alt="Amplitude of the lattice over the distance of the colour from the average, between and within images",
            caption=[
                "Mean amplitude of what repeats with 2 px (left) and 4 px (right), in grey levels, over the distance of "
                "the colour from the average, in eight equal parts by distance: mean over seeds, and each seed as a thin line. "
                "Above: whole images; below: their windows of four periods."
            ],
        ),
        _sentences(t),
        heading("Rank correlations"),
        paragraph(
            "Of the lattice with the distance, plain and with the fine detail held that is left without the lattice. Amplitude "
            "is the rms of the lattice in grey levels, contrast its power above that of the frequencies beside it. A tanh "
            "presses what is far from mid grey: before it stands what the last layer wrote. Intervals are over seeds; of "
            "published networks, which have one, over images."
        ),
        *(_correlations(t, where, kind) for where in (BETWEEN, WITHIN) for kind in KINDS),
        pagebreak(),
        heading("Nearest and farthest"),
        picture(
            "figures/ends.svg",
            alt="Samples nearest to and farthest from the average colour, and their lattice of 2 px",
            caption=[
                "Samples of the first seed nearest to the average colour (left) and farthest from it (right); below each "
                "what repeats with 2 px in it, eight times as strong, on mid grey. Pixels as they are, each repeated."
            ],
        ),
        _seeds(t),
        paragraph("Made by ", code(m["command"]), "."),
    ]  # fmt: skip
    return blocks, drawn


def correlation(
    t: pd.DataFrame, name: str, where: str, space: str, period: int, kind: str, metric: str
) -> pd.DataFrame:
    """The rows of a correlation: its mean over seeds, and each seed."""
    chosen = (t["model"] == name) & (t["subject"] == where) & (t["layer"] == space) & (t["period"] == period)
    return t.loc[chosen & (t["kind"] == kind) & (t["metric"] == metric)]


def _verdict(t: pd.DataFrame) -> list[Any]:
    """What is held, by amplitude and by contrast."""
    words = {kind: [verdict(t, claim.name, kind) for claim in CLAIMS] for kind in KINDS}
    held = {
        kind: f"{answers.count('held')} held, {answers.count('not held')} not held" for kind, answers in words.items()
    }
    between, within = (
        number(value(correlation(t, TWO, where, IMAGE, 2, AMPLITUDE, PLAIN))[0], 2) for where in (BETWEEN, WITHIN)
    )
    return [
        strong(f"Of {len(CLAIMS)} sentences {held[AMPLITUDE]} by amplitude; by contrast {held['contrast']}. "),
        plain(
            "In samples of the generator with two deconvolutions the amplitude at 2 px goes with the distance from the average "
            f"colour by a rank correlation of {between} between images and {within} within them."
        ),
    ]  # fmt: skip


def _sentences(t: pd.DataFrame) -> Block:
    """Sentence, measurement, verdict."""
    return sentences(
        t, CLAIMS, KINDS,
        "Mean over seeds, 95 % interval, and the band it must lie in. A sentence is held if all of its conditions are met, "
        "not held if the interval of one lies wholly on the other side, else not decided; the rules are older than the numbers.",
        shown=KINDS[:1], digits=2,
    )  # fmt: skip


def _correlations(t: pd.DataFrame, where: str, kind: str) -> Block:
    """All networks, by amplitude or by contrast, between or within images."""
    rows = []
    for name, period in product(NAMES, PERIODS):
        found = [
            value(correlation(t, name, where, space, period, kind, metric))
            for space, metric in ((IMAGE, PLAIN), (IMAGE, PARTIAL), (WRITTEN, PARTIAL))
        ]
        if any(v[3] for v in found):
            rows.append([NAMES[name], str(period), *map(_short, found)])
    columns = {"deconvolution in": "left", "px": "right"}
    columns |= dict.fromkeys(("plain", "detail held", "held, before tanh"), "right")
    caption = f"{kind.capitalize()} {where}: rank correlations with the distance (95 % interval)."
    return table(columns, rows, caption=[caption], stretch="deconvolution in")


def _short(v: Value) -> str:
    return said(v, 2)


def _seeds(t: pd.DataFrame) -> Block:
    """Each seed's plain and partial correlation of amplitude at 2 px, with its interval over images."""
    rows = []
    for name in (*DESIGNS, REAL):
        parts = [
            correlation(t, name, where, IMAGE, 2, AMPLITUDE, metric)
            for where in (BETWEEN, WITHIN)
            for metric in (PLAIN, PARTIAL)
        ]
        for image in sorted(set(parts[0]["image"]) - {""}):
            rows.append([NAMES[name], image.removeprefix("seed "), *(_short(value(part, image)) for part in parts)])
    columns = {"deconvolution in": "left", "seed": "right"}
    columns |= dict.fromkeys(("between", "between, held", "within", "within, held"), "right")
    return table(
        columns, rows,
        caption=["Each seed by itself: rank correlation of the amplitude at 2 px with the distance (95 % interval over images)."],
        stretch="deconvolution in",
    )  # fmt: skip


@figures.styled
def _profiles(results: Results) -> bytes:
    figure, axes = figures.new_figure(6.7, 4.4, 2, len(PERIODS))
    for (row, where), (column, period) in product(enumerate((BETWEEN, WITHIN)), enumerate(PERIODS)):
        ax = axes[row, column]
        for name, colour in COLOURS.items():
            parts = results.arrays.get(f"profile/{NAMES[name]}/{where}/{period}")
            if parts is None:
                continue
            for distance, amplitude in parts:
                ax.plot(distance, amplitude, color=colour, linewidth=0.4, alpha=0.6)
            ax.plot(*parts.mean(0), "o-", color=colour, markersize=2.5, linewidth=1.2, label=NAMES[name])
        ax.set_title(f"{where}, {period} px")
        ax.set_ylim(0)
        ax.set_ylabel("amplitude, grey levels" if column == 0 else "")
        ax.set_xlabel("distance from the average, grey levels" if row else "")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=len(words), loc="outside lower center")
    return figures.svg(figure)


@figures.styled
def _ends(results: Results) -> bytes:
    names = [name for name in COLOURS if f"ends/{NAMES[name]}" in results.arrays]
    figure, axes = figures.new_figure(6.7, 1.15 * len(names), len(names), 2)
    for row, name in zip(axes, names, strict=True):
        images, lattice = (results.arrays[f"{what}/{NAMES[name]}"] for what in ("ends", "lattice"))
        half = len(images) // 2
        for ax, some, word in zip(row, (slice(half), slice(half, None)), ("nearest", "farthest"), strict=True):
            both = np.concatenate([images[some], 0.5 + 8 * lattice[some]])
            figures.draw_sheet(ax, both, half, gap=GAP, title=f"{NAMES[name]}, {word}")
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("colour_distance", write_report)


if __name__ == "__main__":
    main()
