"""`python -m reports.upsampler_zoo RUN`: the pages of a run of `analyses.upsampler_zoo`, as RUN/report.pdf."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.upsampler_zoo import BASELINE, PERIODS, TRAINED, UNTRAINED
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import NBSP, counted, enumeration, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Every layer that enlarges, side by side"
PHOTOGRAPH = "photograph"
KINDS = ("signed", "envelope")
VERDICTS = {1.0: "pass", 0.0: "fail"}


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.upsampler_zoo`.
    """
    return write_pages(folder, "upsampler_zoo", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, told = results.table, results.manifest
    drawn = {"figures/lattices.svg": _lattices(t), "figures/front.svg": _front(t)}
    c, side, batch = told["timed"]
    blocks = [
        answer(strong(f"{certificates(t)} "), plain(f"{trained(t)} {cost(t)}")),
        picture(
            "figures/lattices.svg",
            alt="Contrast at 2 and 4 px of the autoencoders with each layer, untrained and trained",
            caption=[
                f"Contrast of the pictures of autoencoders with two of the layers, {counted(told['seeds'], 'seed')} each, 95 % "
                f"bootstrap intervals over seeds; grey, the photograph itself. {told['steps']} steps of training. Made by "
                f"{told['command']}."
            ],
        ),
        heading("In numbers"),
        paragraph(_how(told), sticky=True),
        _table(t),
        picture(
            "figures/front.svg",
            alt="Signed contrast at 2 px after training over the time of a training step",
            caption=[
                f"What a layer leaves and what it takes: signed contrast at 2 px after training, and time forward and backward "
                f"relative to a 4x4 transposed convolution ({c} channels, {side} px, batch {batch}, {told['device']}, channels "
                f"last; median and quartiles). Made by {told['command']}."
            ],
        ),
    ]
    return blocks, drawn


def layers(t: pd.DataFrame) -> list[str]:
    """The layers, in their order."""
    return [name for name in dict.fromkeys(t["model"]) if name != PHOTOGRAPH]


def row(
    t: pd.DataFrame, name: str, metric: str, kind: str = "", subject: str = "layer", period: int = 0
) -> dict[str, Any]:
    """One row of a layer."""
    own = t.loc[
        (t["model"] == name) & (t["metric"] == metric) & (t["kind"].fillna("") == kind) & (t["subject"] == subject)
        & (t["period"].fillna(0) == period)
    ]  # fmt: skip
    return dict(own.iloc[0])


def contrast(t: pd.DataFrame, name: str, stage: str, kind: str, period: int) -> dict[str, Any]:
    """The contrast of a layer's autoencoders."""
    return row(t, name, "lattice_contrast", kind, stage, period)


def passing(t: pd.DataFrame) -> list[str]:
    """The layers that pass the forward certificate."""
    return [name for name in layers(t) if row(t, name, "certificate", "forward")["value"] == 1]


def certificates(t: pd.DataFrame) -> str:
    """Which layers pass, and that all do backward."""
    able = passing(t)
    back = sum(row(t, name, "certificate", "backward")["value"] == 1 for name in layers(t))
    return (
        f"{len(able)} of {len(layers(t))} layers pass the forward certificate: {enumeration(able)}; backward {back} do."
    )


def trained(t: pd.DataFrame) -> str:
    """The range of the contrast of those that pass and of those that do not, before and after training."""
    able = set(passing(t))
    words = []
    for stage in (UNTRAINED, TRAINED):
        parts = []
        for said, names in (("pass", able), ("fail", set(layers(t)) - able)):
            values = [contrast(t, name, stage, "signed", 2)["value"] for name in names]
            parts.append(f"{number(min(values))} to {number(max(values))} dB where they {said}")
        words.append(f"{stage} {' and '.join(parts)}")
    real = contrast(t, PHOTOGRAPH, TRAINED, "signed", 2)["value"]
    return f"Signed contrast at 2 px: {'; '.join(words)} (the photograph has {number(real)})."


def cost(t: pd.DataFrame) -> str:
    """What the artifact-free layer costs."""
    name = "resize"
    forward, both = (row(t, name, "time_ratio", kind)["value"] for kind in ("forward", "forward and backward"))
    return (
        f"The fused resize-convolution takes {number(forward, 2)} times a 4x4 transposed convolution forward and "
        f"{number(both, 2)} with backward."
    )


def _how(told: Mapping[str, Any]) -> str:
    c, side, batch = told["timed"]
    return (
        "Certificate: of a layer with drawn weights, in eval mode (hold_a holds there alone; subpixel_icnr passes before "
        "training alone). Energy: largest to smallest predicted energy of a phase for white input. Parameters and "
        "multiplications (of one output pixel) are per pair of channels, 32 to 32. Times: relative to the transposed convolution "
        f"of 4x4 taps, {c} channels, {side} px to twice that, batch {batch}, {told['device']}, {told['threads']} thread(s). "
        "Contrasts in dB, signed; PSNR of the pictures that were not trained on."
    )


def _table(t: pd.DataFrame) -> Block:
    columns = ["forward", "energy", "param.", "mult.", "time", "train", "2 px", "trained", "4 px", "trained ", "PSNR"]
    rows = []
    for name in layers(t):
        verdict = VERDICTS.get(float(row(t, name, "certificate", "forward")["value"]), "–")
        ratios = [row(t, name, "time_ratio", kind)["value"] for kind in ("forward", "forward and backward")]
        lattices = [contrast(t, name, stage, "signed", p)["value"] for p in PERIODS for stage in (UNTRAINED, TRAINED)]
        rows.append(
            [
                name.replace(" ", NBSP), verdict, number(row(t, name, "predicted_ratio", "phase", period=2)["value"], 2),
                number(row(t, name, "parameters")["value"]), number(row(t, name, "multiplications")["value"], 2),
                *(number(ratio, 2) for ratio in ratios), *(number(value) for value in lattices),
                number(row(t, name, "psnr", subject=TRAINED)["value"]),
            ]
        )  # fmt: skip
    return table(
        {"layer": "left"} | {c: "left" if c == "forward" else "right" for c in columns},
        rows,
        caption=["Columns \u201ctime\u201d and \u201ctrain\u201d: forward, and forward and backward."],
    )


@figures.styled
def _lattices(t: pd.DataFrame) -> bytes:
    names = layers(t)
    figure, axes = figures.new_figure(6.7, 3.6, len(PERIODS), len(KINDS), sharex=True)
    for line, period in zip(axes, PERIODS, strict=True):
        for ax, kind in zip(line, KINDS, strict=True):
            real = contrast(t, PHOTOGRAPH, TRAINED, kind, period)["value"]
            ax.axhline(real, color=figures.FAINT, linewidth=0.8)
            for stage, colour, shift in ((UNTRAINED, figures.CONTROL, -0.15), (TRAINED, figures.GRADIENT, 0.15)):
                found = [contrast(t, name, stage, kind, period) for name in names]
                x = np.arange(len(names)) + shift
                ax.plot(x, [r["value"] for r in found], "o", color=colour, markersize=3.5, label=stage)
                ax.vlines(x, [r["low"] for r in found], [r["high"] for r in found], color=colour, linewidth=0.8)
            ax.set_title(f"{period} px, {kind}")
            ax.set_ylabel("contrast, dB" if kind == KINDS[0] else "")
            ax.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes[0, 0].legend(loc="best")
    return figures.svg(figure)


@figures.styled
def _front(t: pd.DataFrame) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.6)
    ax = axes[0, 0]
    names = layers(t)
    able = passing(t)
    for name in names:
        time, left = row(t, name, "time_ratio", "forward and backward"), contrast(t, name, TRAINED, "signed", 2)
        colour = figures.SERIES[2] if name in able else figures.GRADIENT
        ax.plot(time["value"], left["value"], "o", color=colour, markersize=4)
        ax.hlines(left["value"], time["low"], time["high"], color=colour, linewidth=0.8)
        ax.annotate(name, (time["value"], left["value"]), (4, 3), textcoords="offset points", fontsize=6.5)
    ax.axvline(row(t, BASELINE, "time_ratio", "forward and backward")["value"], color=figures.FAINT, linewidth=0.8)
    ax.set_xlabel("time of a training step of the layer, 4x4 transposed convolution = 1")
    ax.set_ylabel("signed contrast at 2 px, dB")
    ax.set_title("green: passes the forward certificate", color=figures.SERIES[2])
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("upsampler_zoo", write_report)


if __name__ == "__main__":
    main()
