"""`python -m reports.surgery RUN`: the pages of a run of `analyses.surgery`, as RUN/report.pdf."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.surgery import ALL, BEFORE, DESIGNS, PERIODS, REAL, TUNED
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import NBSP, Row, as_row, enumeration, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Surgery on published generators"
DETAIL = 64  # px of a picture that are shown
SHOWN = (BEFORE, f"even, {ALL}", f"resize, {ALL}", f"resize, {ALL}, tuned", f"hold, {ALL}")


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.surgery`.
    """
    return write_pages(folder, "surgery", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, command = results.table, results.manifest["command"]
    names = networks(t)
    drawn = {"figures/contrasts.svg": _contrasts(t, names)}
    blocks = [
        answer(strong(f"{without_training(t)} "), plain(f"{what_it_costs(t)} {after_tuning(t)}")),
        picture(
            "figures/contrasts.svg",
            alt="Signed contrast at 2 and 4 px of every network and design, with the real pictures",
            caption=[
                "Signed contrast over the pictures of each network, 95 % bootstrap intervals; filled where p is at most 0.01 and "
                f"the interval above 0. Every layer that enlarges is changed. Made by {command}."
            ],
        ),
        heading("Network by network"),
        paragraph(_how(results), sticky=True),
        *(_table(t, name) for name in names),
    ]
    if results.arrays:
        drawn["figures/pictures.svg"] = _pictures(results, names)
        blocks.append(
            picture(
                "figures/pictures.svg",
                alt="The same picture of each network before surgery and after each design",
                caption=[
                    f"The middle {DETAIL} px of one picture of each network at its own pixels, every layer changed; columns as "
                    f"named in the first row. Made by {command}."
                ],
            )
        )
    return blocks, drawn


def networks(t: pd.DataFrame) -> list[str]:
    """The networks, in their order."""
    return list(dict.fromkeys(t["model"]))


def contrast(t: pd.DataFrame, name: str, label: str, period: int, kind: str = "signed") -> Row:
    """The contrast of one network's pictures."""
    own = t.loc[
        (t["model"] == name) & (t["layer"] == label) & (t["metric"] == "lattice_contrast") & (t["kind"] == kind)
        & (t["period"] == period)
    ]  # fmt: skip
    return as_row(own.iloc[0].to_dict())


def value(t: pd.DataFrame, name: str, label: str, metric: str) -> float:
    """Any other number of one network and design; NaN where it was not measured."""
    own = t.loc[(t["model"] == name) & (t["layer"] == label) & (t["metric"] == metric), "value"]
    return float(own.iloc[0]) if len(own) else float("nan")


def labels(t: pd.DataFrame, name: str) -> list[str]:
    """What was measured of a network, in order."""
    return list(dict.fromkeys(t.loc[(t["model"] == name) & (t["metric"] == "lattice_contrast"), "layer"]))


def carrying(t: pd.DataFrame, label: str, period: int) -> list[str]:
    """The networks whose pictures have a signed lattice."""
    return [name for name in networks(t) if label in labels(t, name) and contrast(t, name, label, period).found]


def without_training(t: pd.DataFrame) -> str:
    """In how many networks a lattice is left by each design, and in how many it falls."""
    many = len(networks(t))
    before = {p: len(carrying(t, BEFORE, p)) for p in PERIODS}
    words = []
    for design in DESIGNS:
        label = f"{design}, {ALL}"
        fell = sum(
            contrast(t, name, label, 2).value < contrast(t, name, BEFORE, 2).value
            for name in networks(t)
            if label in labels(t, name)
        )
        left = " and ".join(f"{len(carrying(t, label, p))} at {p}" for p in (2, 4))
        words.append(f"{design} leaves {left} px and lowers that at 2 px in {fell}")
    start = enumeration([f"{before[p]} at {p} px" for p in PERIODS])
    return (
        f"Networks of {many} whose pictures have a signed lattice: {start}. Without training, every layer changed: "
        f"{'; '.join(words)}."
    )


def what_it_costs(t: pd.DataFrame) -> str:
    """The range of the drift of each design."""
    words = []
    for design in DESIGNS:
        drifts = [value(t, name, f"{design}, {ALL}", "drift") for name in networks(t)]
        words.append(f"{design} {number(np.nanmin(drifts), 2)} to {number(np.nanmax(drifts), 2)}")
    return f"The pictures change by (relative L2) {enumeration(words)}."


def after_tuning(t: pd.DataFrame) -> str:
    """Whether the lattice comes back when a network is tuned to give what it gave before."""
    words = []
    for design in TUNED:
        changed = [
            contrast(t, name, f"{design}, {ALL}, tuned", 2).value - contrast(t, name, f"{design}, {ALL}", 2).value
            for name in networks(t)
        ]
        drifts = [
            value(t, name, f"{design}, {ALL}, tuned", "drift") / value(t, name, f"{design}, {ALL}", "drift")
            for name in networks(t)
        ]
        words.append(
            f"{design}: contrast at 2 px by {number(min(changed))} to {number(max(changed))} dB, drift to "
            f"{number(min(drifts), 2)} to {number(max(drifts), 2)} times what it was"
        )
    return f"Tuning towards the old pictures moves {'; '.join(words)}."


def _how(results: Results) -> str:
    told = results.manifest
    tuning = f"{told['steps']} steps of Adam at {told['rate']:g}"
    return (
        f"Contrasts in dB; * p at most 0.01 and the interval above 0. Tuned: {tuning} of the whole network towards the pictures "
        "that it gave before surgery. Pass: share of the changed layers that pass the forward certificate. Drift and PSNR are "
        "to the old pictures; kernels were fitted to other inputs than these. Real: CIFAR-10 for SVHN, digits, photographs, the "
        "ground truth of Set5 and Set14."
    )


def _table(t: pd.DataFrame, name: str) -> Block:
    truth = not np.isnan(value(t, name, BEFORE, "psnr_to_truth"))
    columns = ["sign. 2", "sign. 3", "sign. 4", "env. 2", "pass", "param.", "multipl.", "drift", "PSNR"]
    columns += ["to truth"] * truth
    rows = []
    for label in labels(t, name):
        cells = [contrast(t, name, label, p) for p in PERIODS] + [contrast(t, name, label, 2, "envelope")]
        numbers = [
            number(value(t, name, label, metric), digits)
            for metric, digits in (
                ("passed", 2), ("parameters_ratio", 2), ("multiplications_ratio", 2), ("drift", 3), ("psnr", 1),
            )
        ]  # fmt: skip
        more = [number(value(t, name, label, "psnr_to_truth"), 2)] * truth
        rows.append([label, *(f"{number(c.value)}{f'{NBSP}*' * c.found}" for c in cells), *numbers, *more])
    n = contrast(t, name, BEFORE, 2).n
    return table({name: "left"} | dict.fromkeys(columns, "right"), rows, caption=[f"{name}, n = {n} pictures."])


@figures.styled
def _contrasts(t: pd.DataFrame, names: Sequence[str]) -> bytes:
    figure, axes = figures.new_figure(6.7, 1.6 * -(-len(names) // 2) + 0.4, -(-len(names) // 2), 2)
    shown = (REAL, *SHOWN)
    for ax, name in zip(axes.ravel(), names, strict=False):
        series = {
            label: [(r.value, r.low, r.high, r.found) for r in (contrast(t, name, label, p) for p in (2, 4))]
            for label in shown
            if label in labels(t, name)
        }
        figures.draw_contrasts(ax, (2, 4), series, name)
    for ax in axes.ravel()[len(names) :]:
        ax.set_axis_off()
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=3, loc="outside lower center", columnspacing=1)
    return figures.svg(figure)


@figures.styled
def _pictures(results: Results, names: Sequence[str]) -> bytes:
    figure, axes = figures.new_figure(6.7, 1.42 * len(names) + 0.2, len(names), len(SHOWN))
    for row, (line, name) in enumerate(zip(axes, names, strict=True)):
        for column, (ax, label) in enumerate(zip(line, SHOWN, strict=True)):
            found = results.arrays.get(f"{name}/{label}/0")
            if found is None:
                ax.set_axis_off()
                continue
            height, width = (min(side, DETAIL) for side in found.shape[1:])
            top, left = ((side - kept) // 2 for side, kept in zip(found.shape[1:], (height, width), strict=True))
            part = found[:, top : top + height, left : left + width] / 255
            title = label.removesuffix(f", {ALL}").replace(f", {ALL}", "")
            figures.draw_picture(ax, part, title=title if row == 0 else "")
            if column == 0:
                ax.set_ylabel(name)
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("surgery", write_report)


if __name__ == "__main__":
    main()
