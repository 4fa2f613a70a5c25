"""`python -m reports.gradient_to_sample RUN`: the pages of a saved run of `analyses.gradient_to_sample`, as PDF."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.gradient_to_sample import (
    BEDS,
    COUPLING,
    DESIGNS,
    GRADIENT,
    MARGIN,
    PIXELS,
    REACH,
    REAL,
    SETTLED,
    SHRINKING,
    TOGETHER,
    Config,
    claims,
)
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import KINDS, enumeration, number, probability
from gradlens.results import Results
from reports.claims import RULE, counted, said, sentences, value
from reports.pages import draw_from_command_line, write_pages

TITLE = "Do images take over the lattice of their gradient?"
ANALYSIS = "gradient_to_sample"
SAMPLES = "sample/signed/2"
COLOURS = dict(zip(SHRINKING, figures.SERIES, strict=False))
FOUND = 0.01


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.gradient_to_sample`.
    """
    return write_pages(folder, ANALYSIS, TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m, arrays = results.table, results.manifest, results.arrays
    said_of = claims(Config(stops=tuple(m["stops"])))
    counts = counted(t, said_of, "signed")
    drawn = {"figures/pixels.svg": _climbs(t, m["stops"]), "figures/images.svg": _images(arrays, m["stops"][-1])}
    blocks: list[Block] = [
        answer(strong(f"{free(t, m['stops'][-1])} "), plain(
            f"{led(t)} {counts['held']} of {len(said_of)} sentences held, {counts['not held']} not held, "
            f"{counts['not decided']} not decided (signed)."
        )),
        paragraph(setting_words(m)),
        heading("Free pixels"),
        picture(
            "figures/pixels.svg",
            alt="Contrast of pixels and of the gradient at them by steps, for each way of shrinking",
            caption=[
                f"Contrast at 2 px of {m['images']} images whose pixels climb a discriminator's logit, by steps: pixels (solid) "
                "and the gradient at them (dotted); mean over seeds, 95 % intervals where there are three. Step 0: grey with a "
                "little noise. Dashed: real images."
            ],
        ),
        _pixels(t, m["stops"]),
        picture(
            "figures/images.svg", alt="Images at the last step, for each way of shrinking", width=0.8,
            caption=[f"Four images of the first seed after {m['stops'][-1]} steps, pixels as they are, enlarged."],
        ),
        heading("Over training"),
    ]  # fmt: skip
    if any(name.startswith("curve/") for name in arrays):
        drawn["figures/curves.svg"] = _curves(arrays)
        blocks += [
            picture(
                "figures/curves.svg",
                alt="Contrast of gradient and samples over training, and their correlation by lag",
                caption=[
                    "Left: signed contrast at 2 px over training, of the discriminator's gradient at the samples and of the "
                    "samples: mean over seeds, each seed as a thin line. Right: correlation of their first differences by lag, "
                    "mean over seeds; above 0 steps the gradient leads. Grey: what 95 % of random phases stay within, lag by lag."
                ],
            ),
            _coupled(t, m),
        ]
    blocks += [
        heading("Every sentence"),
        paragraph(
            "An excess is a contrast above that of the real images or above 0 dB, whichever is more; one below "
            f"{number(MARGIN, 0)} dB is no artifact. Leading, following: the mean correlation over four lags after and before 0. "
            f"{RULE}"
        ),
        sentences(
            t, said_of, KINDS,
            "In each family of the gradient; samples and pixels in the same, but for the samples of training, which are signed.",
            shown=KINDS,
        ),
        paragraph("Made by ", code(m["command"]), "."),
    ]  # fmt: skip
    return blocks, drawn


def setting_words(m: Mapping[str, Any]) -> str:
    """How it was trained, and what is missing."""
    data = {32: "CIFAR-10", 64: "Tiny ImageNet"}[m["resolution"]]
    words = (
        f"{data} at {m['resolution']} px. Training: width {m['width']}, {m['steps']:,} steps of {m['batch_size']} images, "
        f"measured every {m['every']}, on {m['device']}. Pixels: {m['images']} images a seed; the discriminator beside them has "
        f"width {m['judge_width']}, no norm, R1; the frozen ones were trained with a resize generator."
    )
    if m["shortened"]:
        words += " The setting is shortened for a CPU: figures compare within it, not with papers."
    if m["missing"]:
        words += f" Not there: {'; '.join(m['missing'])}."
    return words


def at(
    t: pd.DataFrame, model: str, subject: str, layer: str, kind: str, metric: str = "lattice_contrast"
) -> pd.DataFrame:
    """The rows of a measure at 2 px."""
    return t.loc[
        (t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["kind"] == kind)
        & (t["period"] == 2) & (t["metric"] == metric)
    ]  # fmt: skip


def free(t: pd.DataFrame, last: int) -> str:
    """What free pixels have at the last step beside a discriminator that learns."""
    words = [
        f"{number(value(at(t, f'{name}, {TOGETHER}, Adam', PIXELS, str(last), 'signed'))[0])} dB ({name})"
        for name in SHRINKING
    ]
    real = value(at(t, "real images", REAL, "", "signed"))[0]
    return (
        f"Pixels without a generator, after {last} steps beside a discriminator that learns, have at 2 px {enumeration(words)}; "
        f"real images {number(real)}."
    )


def led(t: pd.DataFrame) -> str:
    """In which designs the changes of gradient and samples go together over training."""
    names = [n for n in DESIGNS if len(at(t, n, COUPLING, "", "signed", "strongest_correlation"))]
    words = []
    for name in names:
        for kind in KINDS:
            rows = at(t, name, COUPLING, "", kind, "strongest_correlation")
            first = rows.loc[rows["image"] == ""].iloc[0]
            if first["p"] <= FOUND:
                lag = value(at(t, name, COUPLING, "", kind, "lag"))[0]
                words.append(
                    f"{name} ({kind}: r {number(float(first['value']), 2)} at a lag of {number(lag, 0)} steps)"
                )
    if not names:
        return "No training was followed."
    where = enumeration(words) if words else f"none of {len(names)} designs"
    return f"Over training, changes of the gradient's contrast and of the samples' go together in {where}."


def _pixels(t: pd.DataFrame, stops: list[int]) -> Block:
    last = str(stops[-1])
    rows = []
    for (bed, ascent), name in product(BEDS, SHRINKING):
        model = f"{name}, {bed}, {ascent}"
        if at(t, model, PIXELS, last, "signed").empty:
            continue
        cells = [said(value(at(t, model, subject, last, kind))) for kind, subject in product(KINDS, (PIXELS, GRADIENT))]
        n = value(at(t, model, PIXELS, last, "signed"))[3]
        rows.append([f"{bed}, {ascent}", name, str(n), *cells])
    columns = ("pixels, signed", "gradient", "pixels, envelope", "gradient ")
    start = [number(value(at(t, f"{next(iter(SHRINKING))}, {TOGETHER}, Adam", PIXELS, "0", kind))[0]) for kind in KINDS]
    real = [number(value(at(t, "real images", REAL, "", kind))[0]) for kind in KINDS]
    return table(
        {"discriminator, ascent": "left", "layers": "left", "seeds": "right"} | dict.fromkeys(columns, "right"),
        rows,
        caption=[
            f"Contrast in dB at 2 px after {last} steps, mean over seeds (95 % interval). At the start pixels have {start[0]} "
            f"(signed) and {start[1]} (envelope of fine detail), real images {real[0]} and {real[1]}."
        ],
        stretch="discriminator, ascent",
    )


def _coupled(t: pd.DataFrame, m: Mapping[str, Any]) -> Block:
    rows = []
    for name, kind in product(DESIGNS, KINDS):
        strongest = at(t, name, COUPLING, "", kind, "strongest_correlation")
        if strongest.empty:
            continue
        p = float(strongest.loc[strongest["image"] == "", "p"].iloc[0])
        lag = at(t, name, COUPLING, "", kind, "lag")
        own = ", ".join(number(v, 0) for v in lag.loc[lag["image"] != "", "value"])
        means = [
            value(at(t, name, COUPLING, "", kind, f"{which}_correlation"))
            for which in ("leading", "following", "level")
        ]
        cells = [number(means[0][0], 2), number(means[1][0], 2), said(means[2], 2)]
        r = value(strongest)
        rows.append([name, kind, number(r[0], 2), number(value(lag)[0], 0), own, probability(p), *cells])
    columns = ("r", "lag", "of each seed", "p", "leading", "following", "levels")
    return table(
        {"generator": "left", "gradient": "left"} | dict.fromkeys(columns, "right"),
        rows,
        caption=[
            f"First differences at 2 px after the first {100 * SETTLED:.0f} % of training: the strongest mean correlation over "
            f"seeds within {REACH * m['every']} steps either way, its lag, that of each seed by itself, and its p over all lags "
            "(random phases). Leading, following: mean over four lags, their intervals in the table below. Levels: of the curves "
            "themselves, which share a trend."
        ],
        stretch="generator",
    )


@figures.styled
def _climbs(t: pd.DataFrame, stops: list[int]) -> bytes:
    figure, axes = figures.new_figure(6.7, 4.0, len(KINDS), len(BEDS), sharex=True)
    for (line, kind), (column, (bed, ascent)) in product(zip(axes, KINDS, strict=True), enumerate(BEDS)):
        ax = line[column]
        for name, colour in COLOURS.items():
            for subject, look in ((PIXELS, "-"), (GRADIENT, ":")):
                found = [value(at(t, f"{name}, {bed}, {ascent}", subject, str(stop), kind)) for stop in stops]
                places = range(len(stops))
                ax.plot(places, [v[0] for v in found], look, color=colour, label=name if look == "-" else "")
                if subject == PIXELS:
                    ax.vlines(places, [v[1] for v in found], [v[2] for v in found], color=colour, linewidth=0.7)
        ax.axhline(value(at(t, "real images", REAL, "", kind))[0], color=figures.FAINT, linestyle="--", linewidth=0.8)
        ax.set_xticks(range(len(stops)), [str(stop) for stop in stops])
        ax.set_title(f"{bed}, {ascent}, {kind}")
        ax.set_ylabel("contrast, dB" if column == 0 else "")
        ax.set_xlabel("step" if kind == KINDS[-1] else "")
    figure.legend(*axes[0, -1].get_legend_handles_labels(), ncols=len(COLOURS), loc="outside lower center")
    return figures.svg(figure)


@figures.styled
def _images(arrays: Mapping[str, np.ndarray], last: int) -> bytes:
    figure, axes = figures.new_figure(5.4, 2.7, len(SHRINKING), len(BEDS))
    for (row, name), (column, (bed, ascent)) in product(enumerate(SHRINKING), enumerate(BEDS)):
        ax = axes[row, column]
        ax.set_axis_off()
        key = f"pixels/{name}, {bed}, {ascent}/{last}"
        if key in arrays:
            strip = np.concatenate(list(arrays[key]), axis=2).astype(np.float32) / 255
            figures.draw_picture(ax, strip, title=f"{name}, {bed}, {ascent}")
    return figures.svg(figure)


@figures.styled
def _curves(arrays: Mapping[str, np.ndarray]) -> bytes:
    names = [name for name in DESIGNS if f"step/{name}" in arrays]
    figure, axes = figures.new_figure(6.7, 1.15 * len(names) + 0.5, len(names), 2)
    for (left, right), name in zip(axes, names, strict=True):
        steps = arrays[f"step/{name}"]
        lines = (("gradient/signed/2", "gradient", figures.SERIES[3]), (SAMPLES, "samples", figures.GRADIENT))
        for key, label, colour in lines:
            curves = arrays[f"curve/{name}/{key}"]
            left.plot(steps, curves.T, color=colour, linewidth=0.4, alpha=0.5)
            left.plot(steps, curves.mean(0), color=colour, label=label)
        left.set_title(name)
        left.set_ylabel("dB")
        every = int(np.diff(steps)[0])
        lags = every * np.arange(-REACH, REACH + 1)
        bound = arrays[f"null/{name}/signed/2"]
        right.fill_between(lags, -bound, bound, color=figures.FAINT, alpha=0.3, linewidth=0)
        for kind, colour in zip(KINDS, (figures.INK, figures.SERIES[1]), strict=True):
            right.plot(
                lags,
                arrays[f"lags/{name}/{kind}/2"].mean(0),
                "o-",
                color=colour,
                markersize=2,
                label=f"gradient {kind}",
            )
        right.axhline(0, color=figures.FAINT, linewidth=0.5)
        right.set_ylabel("correlation")
    axes[-1, 0].set_xlabel("step")
    axes[-1, 1].set_xlabel("lag, steps (gradient leads to the right)")
    handles = [handle for ax in axes[0] for handle in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, ncols=4, loc="outside lower center")
    return figures.svg(figure)


if __name__ == "__main__":
    draw_from_command_line(ANALYSIS, write_report)
