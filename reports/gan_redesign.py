"""`python -m reports.gan_redesign RUN`: the pages of a saved run of `analyses.gan_redesign`, as PDF."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.gan_redesign import FD, LATTICE, PERIODS, REFERENCE
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, pagebreak, paragraph, picture, strong, table
from gradlens.report.run import breakable, enumeration, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Which redesign?"
ANALYSIS = "gan_redesign"
Value = tuple[float, float, float]
NOTHING: Value = (float("nan"), float("nan"), float("nan"))


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.gan_redesign`.
    """
    return write_pages(folder, ANALYSIS, TITLE, _pages)


def value(t: pd.DataFrame, model: str, metric: str, subject: str = "sample", period: int = 0, kind: str = "") -> Value:
    """The mean over seeds and its interval; NaN where there is none."""
    rows = t.loc[(t["model"] == model) & (t["image"] == "") & (t["subject"] == subject)]
    rows = rows.loc[rows["metric"].str.split("[", regex=False).str[0] == metric]
    rows = rows.loc[rows["period"].eq(period)] if period else rows
    rows = rows.loc[rows["kind"].eq(kind)] if kind else rows
    return (
        NOTHING
        if rows.empty
        else (float(rows["value"].iloc[0]), float(rows["low"].iloc[0]), float(rows["high"].iloc[0]))
    )


def designs(t: pd.DataFrame) -> list[str]:
    """The designs, best place on the front first, then by their lattice."""
    names = [str(n) for n in t.loc[t["metric"] == "on_front", "model"]]
    return sorted(
        names, key=lambda n: (-value(t, n, "on_front")[0], max(value(t, n, LATTICE)[0], 0), value(t, n, FD)[0])
    )


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m = results.table, results.manifest
    names = designs(t)
    drawn = {"figures/front.svg": _front(t, names), "figures/samples.svg": _samples(results.arrays, names)}
    blocks: list[Block] = [
        answer(strong(conclusion(t))),
        paragraph(
            f"{m['finished']} of {m['cells']} runs of {m['steps']:,} steps at {m['setting']['resolution']} px, batch "
            f"{m['setting']['batch_size']}, width {m['setting']['width']}, on {m['hardware']}. Figures compare within this "
            "setting, not with papers."
        ),
        picture(
            "figures/front.svg",
            alt="Frechet distance over the excess of the lattice, one numbered point a design",
            caption=[
                "Less of both is better; filled: on the front of the means. Across: signed contrast of samples above that of the "
                "real images, the larger of 2 and 4 px; below 0 there is less lattice than in the data, which counts as 0. Bars: "
                "95 % bootstrap intervals over seeds, where there are three."
            ],
        ),
        _table(t, names),
        pagebreak(),
        _differences(t, names),
        picture(
            "figures/samples.svg",
            alt="Eight samples of each design",
            caption=["Eight samples of the first seed of each design, in the order of the table, pixels as they are, enlarged."],
        ),
        paragraph("Made by ", code(m["command"]), "."),
    ]  # fmt: skip
    return blocks, drawn


def conclusion(t: pd.DataFrame) -> str:
    """Which designs are on the front, how surely, and whether one dominates."""
    names = designs(t)
    best = [n for n in names if value(t, n, "on_front")[1] == 1]
    sure = enumeration([f"{n} (in {100 * value(t, n, 'on_front')[0]:.0f} % of draws of the seeds)" for n in best])
    verb = "is" if len(best) == 1 else "are"
    clean = [n for n in names if value(t, n, LATTICE)[2] <= 0]
    clear = f"{len(clean)} of {len(names)} designs have surely no more lattice than the data" if clean else (
        "no design has surely no more lattice than the data"
    )  # fmt: skip
    return f"On the front of lattice against FD {verb} {sure}; {clear}."


def _said(v: Value, digits: int = 1) -> str:
    text = number(v[0], digits)
    return text if np.isnan(v[1]) else f"{text} ({number(v[1], digits)} to {number(v[2], digits)})"


def _table(t: pd.DataFrame, names: list[str]) -> Block:
    rows = []
    for place, name in enumerate(names, start=1):
        contrasts = [_said(value(t, name, "lattice_contrast", period=p, kind="signed")) for p in PERIODS]
        gradient = number(value(t, name, "lattice_contrast", "input-gradient", 2, "signed")[0])
        share = f"{100 * value(t, name, 'on_front')[0]:.0f} %"
        rows.append([str(place), breakable(name, 20), *contrasts, gradient, _said(value(t, name, FD)), share])
    columns = {"": "right", "design": "left"} | dict.fromkeys(
        ("2 px, dB", "4 px, dB", "gradient", "FD", "front"), "right"
    )
    first = names[0]
    real = [number(value(t, first, "lattice_contrast", "image", p, "signed")[0]) for p in PERIODS]
    fd = number(value(t, first, FD, "image")[0])
    return table(
        columns, rows,
        caption=[
            f"Mean over seeds (95 % interval). Samples at 2 and 4 px: signed contrast; real images {real[0]} and {real[1]} dB. "
            f"Gradient: of the discriminator at samples, 2 px, dB. FD of real images against others {fd}. Front: share of draws "
            "of the seeds in which the design is on it."
        ],
        stretch="design",
    )  # fmt: skip


def _differences(t: pd.DataFrame, names: list[str]) -> Block:
    rows = []
    for name in names:
        pair = f"{name} - {REFERENCE}/{name.partition('/')[2]}"
        lattice, distance = value(t, pair, LATTICE), value(t, pair, FD)
        if np.isnan(lattice[0]):
            continue
        surely = [
            word for v, word in ((lattice, "lattice"), (distance, "FD")) if np.isfinite(v[1]) and (v[1] > 0 or v[2] < 0)
        ]
        rows.append([breakable(name, 24), _said(lattice), _said(distance), ", ".join(surely) or "none"])
    return table(
        {"design": "left", "lattice, dB": "right", "FD": "right", "more than the seeds": "left"}, rows,
        caption=[
            f"Each design minus {REFERENCE} with the same discriminator, seed by seed. Last column: where the interval over "
            "seeds leaves 0 out; of three seeds such an interval covers the truth in four of five cases."
        ],
        stretch="design",
    )  # fmt: skip


@figures.styled
def _front(t: pd.DataFrame, names: list[str]) -> bytes:
    figure, axes = figures.new_figure(6.7, 3.6, 1, 1)
    points = {
        n: figures.Point(value(t, n, LATTICE), value(t, n, FD), value(t, n, "on_front")[1] == 1) for n in names
    }  # fmt: skip
    level = ("real images against others", value(t, names[0], FD, "image")[0])
    figures.draw_front(
        axes[0][0], points, across="lattice of samples above the data's, dB", up="Frechet distance", level=level
    )
    return figures.svg(figure)


@figures.styled
def _samples(arrays: Mapping[str, np.ndarray], names: list[str]) -> bytes:
    shown = [n for n in names if f"samples/{n}" in arrays]
    columns = 2
    rows = -(-len(shown) // columns)
    figure, axes = figures.new_figure(6.7, 0.72 * rows, rows, columns)
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, name in zip(axes.ravel(), shown, strict=False):
        images = arrays[f"samples/{name}"]
        strip = np.concatenate(list(images), axis=2).astype(np.float32) / 255
        figures.draw_picture(ax, strip, title=f"{names.index(name) + 1}: {name}")
    return figures.svg(figure)


if __name__ == "__main__":
    draw_from_command_line(ANALYSIS, write_report)
