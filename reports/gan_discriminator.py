"""`python -m reports.gan_discriminator RUN`: the pages of a saved run of `analyses.gan_discriminator`, as PDF."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.claims import SUBJECT
from analyses.gan_discriminator import (
    CLAIMS,
    FIRSTS,
    GRADIENT,
    MADE,
    MANY,
    NEUTRAL,
    PERIODS,
    PLAIN,
    REAL,
    SAMPLE,
    STRIDE,
    STRONG,
    TRAINED,
    UNTRAINED,
    named,
)
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, heading, pagebreak, paragraph, picture, plain, strong, table
from gradlens.report.run import KINDS, enumeration, number
from gradlens.results import Results
from reports.claims import RULE, Value, counted, said, sentences, value
from reports.pages import draw_from_command_line, write_pages

TITLE = "Strided discriminators and the lattice of what they judge"
ANALYSIS = "gan_discriminator"
SIDES = (  # of the figure: subject, stage, colour, filled
    (SAMPLE, UNTRAINED, figures.GRADIENT, "white"),
    (SAMPLE, TRAINED, figures.GRADIENT, figures.GRADIENT),
    (GRADIENT, UNTRAINED, figures.SERIES[3], "white"),
    (GRADIENT, TRAINED, figures.SERIES[3], figures.SERIES[3]),
)


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.gan_discriminator`.
    """
    return write_pages(folder, ANALYSIS, TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m = results.table, results.manifest
    drawn = {"figures/contrasts.svg": _contrasts(t), "figures/samples.svg": _samples(results.arrays, designs(t))}
    blocks: list[Block] = [
        answer(strong(f"{conclusion(t)} "), plain(gradients(t))),
        paragraph(setting_words(m)),
        picture(
            "figures/contrasts.svg",
            alt="Contrast of samples and of the discriminator's gradient, untrained and trained, of each design",
            caption=[
                "Contrast of samples and of the discriminator's input gradient at them, before the first step (open) and after "
                "the last: mean over seeds with its 95 % interval, each seed as a dot. Dashed: real images."
            ],
        ),
        _numbers(t, "2 px"),
        pagebreak(),
        heading("Every sentence"),
        paragraph(
            "An excess is a contrast above that of the real images or above 0 dB, whichever is more. Strong: above "
            f"{number(STRONG, 0)} dB, the least that the article's own images of deconvolution generators have at 2 px; very "
            f"mild: below half of it; many times: more than {number(MANY, 0)} times. {RULE}"
        ),
        sentences(
            t, CLAIMS, KINDS,
            f"What the article says of discriminators. Mean over seeds (95 % interval), {STRIDE} and {PLAIN} of the first layer.",
            shown=KINDS,
        ),
        *_searched(t),
        heading("Each seed by itself"),
        _seeds(t),
        heading("Samples"),
        picture(
            "figures/samples.svg",
            alt="Eight trained samples of each design, and real images",
            caption=["Eight samples of the first seed of each design after training, pixels as they are, enlarged."],
        ),
        paragraph("Made by ", code(m["command"]), "."),
    ]  # fmt: skip
    return blocks, drawn


def designs(t: pd.DataFrame) -> list[str]:
    """The designs that were measured, in their order."""
    return list(dict.fromkeys(str(name) for name in t.loc[(t["subject"] == SAMPLE) & (t["layer"] == TRAINED), "model"]
                              if ": " not in str(name)))  # fmt: skip


def measured(
    t: pd.DataFrame, model: str, subject: str, stage: str, kind: str, period: int = 2, metric: str = "lattice_contrast"
) -> pd.DataFrame:
    """The rows of a measure: the mean over seeds and each seed."""
    stage = "" if subject == REAL else stage
    return t.loc[
        (t["model"] == model) & (t["subject"] == subject) & (t["layer"] == stage) & (t["kind"] == kind)
        & (t["period"] == period) & (t["metric"] == metric)
    ]  # fmt: skip


def conclusion(t: pd.DataFrame) -> str:
    """How many sentences are held, and what the neutral generator's samples have."""
    counts = counted(t, CLAIMS, "signed")
    sides = [value(measured(t, named(NEUTRAL, first), SAMPLE, TRAINED, "signed")) for first in FIRSTS]
    real = value(measured(t, named(NEUTRAL, STRIDE), REAL, "", "signed"))
    return (
        f"{counts['held']} of {len(CLAIMS)} sentences held, {counts['not held']} not held, {counts['not decided']} not decided "
        f"(signed). The neutral generator's samples have {said(sides[0])} dB at 2 px against a first layer of {STRIDE}, "
        f"{said(sides[1])} against {PLAIN}, real images {number(real[0])}."
    )


def gradients(t: pd.DataFrame) -> str:
    """What the gradient at the samples has, and what training made of it."""
    words = []
    for generator, first in product(MADE, FIRSTS):
        before, after = (
            value(measured(t, named(generator, first), GRADIENT, stage, "signed")) for stage in (UNTRAINED, TRAINED)
        )
        if after[3]:
            words.append(f"{number(before[0])} and {number(after[0])} dB ({generator}, {first})")
    return f"The gradient at the samples has, untrained and trained, {enumeration(words)}." if words else ""


def setting_words(m: Mapping[str, Any]) -> str:
    """How the pairs were trained, what is missing, and what that would take."""
    data = {32: "CIFAR-10", 64: "Tiny ImageNet"}[m["resolution"]]
    words = (
        f"{data} at {m['resolution']} px, width {m['width']}, {m['steps']:,} steps of {m['batch_size']} images, trained on "
        f"{m['device']}."
    )
    if m["shortened"]:
        words += " The setting is shortened for a CPU: figures compare within it, not with papers."
    if m["missing"]:
        words += f" Not there: {'; '.join(m['missing'])} (about {number(m['missing_minutes'], 0)} minutes)."
    return words


def _numbers(t: pd.DataFrame, caption: str) -> Block:
    """The figures of every design at 2 px."""
    rows = []
    for name in designs(t):
        cells = [
            said(value(measured(t, name, subject, stage, "signed")))
            for subject, stage in product((SAMPLE, GRADIENT), (UNTRAINED, TRAINED))
        ]
        uneven = [
            number(value(measured(t, name, GRADIENT, stage, "phase", metric="set_imbalance"))[0], 2)
            for stage in (UNTRAINED, TRAINED)
        ]
        rows.append([name, *cells, " / ".join(uneven)])
    columns = ("samples before", "after", "gradient before", "after ", "imbalance")
    return table(
        {"generator, first layer": "left"} | dict.fromkeys(columns, "right"),
        rows,
        caption=[
            f"At {caption}, signed contrast in dB, before and after training: mean over seeds (95 % interval). Imbalance: of the "
            "gradient's energy over the four phases, before / after."
        ],
        stretch="generator, first layer",
    )


def _searched(t: pd.DataFrame) -> list[Block]:
    """What other neutral generators, losses and discriminators have, if any was trained."""
    plain_ones = {named(generator, first) for generator, first in product(MADE, FIRSTS)}
    others = [name.rpartition(", ")[0] for name in designs(t) if name not in plain_ones]
    rows = []
    for generator in dict.fromkeys([NEUTRAL, *others]) if others else ():
        samples, gradient = (
            [value(measured(t, named(generator, first), subject, TRAINED, "signed")) for first in FIRSTS]
            for subject in (SAMPLE, GRADIENT)
        )
        less = value(measured(t, f"{generator}: {STRIDE} - {PLAIN}", SAMPLE, TRAINED, "signed"))
        rows.append([generator, *map(said, samples), said(less), *map(said, gradient)])
    if not rows:
        return []
    columns = ("samples, stride 2", "stride 1", "difference", "gradient, stride 2", "stride 1 ")
    return [
        heading("Other neutral generators, losses, discriminators"),
        table(
            {"generator": "left"} | dict.fromkeys(columns, "right"),
            rows,
            caption=["Trained, signed contrast at 2 px in dB; mean over seeds (95 % interval where there are three)."],
            stretch="generator",
        ),
    ]


def _seeds(t: pd.DataFrame) -> Block:
    """The samples and gradients of each seed."""
    rows = []
    for name in designs(t):
        of_name = t.loc[(t["model"] == name) & (t["image"] != "") & (t["subject"] != SUBJECT)]
        for image in dict.fromkeys(of_name["image"]):
            own = of_name.loc[of_name["image"] == image]
            cells = []
            for subject, kind, period in product((SAMPLE, GRADIENT), KINDS, PERIODS):
                found = measured(own, name, subject, TRAINED, kind, period)
                cells.append(number(float(found["value"].iloc[0])) if len(found) else "–")
            ratio = measured(own, name, GRADIENT, TRAINED, "phase", metric="phase_ratio")
            rows.append([name, image.removeprefix("seed "), *cells, number(float(ratio["value"].iloc[0]), 2)])
    columns = [f"{who}{kind[:3]} {p}" for who, kind, p in product(("s ", "g "), KINDS, PERIODS)]
    return table(
        {"generator, first layer": "left", "seed": "right"} | dict.fromkeys([*columns, "ratio"], "right"),
        rows,
        caption=[
            "Trained, contrast in dB of samples (s) and gradients (g), signed and envelope, at 2 and 4 px; ratio: the gradient's "
            "energy of the largest to the smallest of the four phases."
        ],
        stretch="generator, first layer",
    )


@figures.styled
def _contrasts(t: pd.DataFrame) -> bytes:
    names = designs(t)
    figure, axes = figures.new_figure(6.7, 4.2, len(PERIODS), len(KINDS), sharex=True)
    for ax, (period, kind) in zip(axes.ravel(), product(PERIODS, KINDS), strict=True):
        real = value(measured(t, names[0], REAL, "", kind, period))[0]
        ax.axhline(real, color=figures.FAINT, linewidth=0.8, linestyle="--")
        for number_, (subject, stage, colour, face) in enumerate(SIDES):
            _draw_side(ax, t, names, (subject, stage, kind, period), 0.18 * (number_ - 1.5), colour, face)
        ax.set_title(f"{period} px, {kind}")
        ax.set_ylabel("contrast, dB" if kind == KINDS[0] else "")
        ax.set_xticks(range(len(names)), names, rotation=30 if len(names) < 8 else 70, ha="right")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=len(SIDES), loc="outside lower center")
    return figures.svg(figure)


def _draw_side(
    ax: figures.Axes,
    t: pd.DataFrame,
    names: list[str],
    what: tuple[str, str, str, int],
    shift: float,
    colour: str,
    face: str,
) -> None:
    """The mean of each design with its interval, and its seeds."""
    subject, stage, kind, period = what
    label = f"{'samples' if subject == SAMPLE else 'gradient'}, {stage}"
    for place, name in enumerate(names):
        rows = measured(t, name, subject, stage, kind, period)
        v: Value = value(rows)
        seeds = rows.loc[rows["image"] != "", "value"]
        ax.plot([place + shift] * len(seeds), seeds, ".", color=colour, markersize=2)
        ax.vlines(place + shift, v[1], v[2], color=colour, linewidth=0.8)
        ax.plot(
            place + shift, v[0], "o", color=colour, markerfacecolor=face, markersize=4, label=label if not place else ""
        )


@figures.styled
def _samples(arrays: Mapping[str, np.ndarray], names: list[str]) -> bytes:
    strips = {name: arrays[f"samples/{name}"][-1] for name in names if f"samples/{name}" in arrays}
    strips["real images"] = arrays["real"]
    rows = -(-len(strips) // 2)
    figure, axes = figures.new_figure(6.7, 0.72 * rows, rows, 2)
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, (name, images) in zip(axes.ravel(), strips.items(), strict=False):
        figures.draw_picture(ax, np.concatenate(list(images), axis=2).astype(np.float32) / 255, title=name)
    return figures.svg(figure)


if __name__ == "__main__":
    draw_from_command_line(ANALYSIS, write_report)
