"""`python -m reports.pixel_deconvolution_layers RUN`: the pages of a run of `analyses.pixel_deconvolution_layers`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.pixel_deconvolution_layers import (
    DCL,
    EQUATIONS,
    EVEN,
    INSIDE,
    LAST,
    LAYERS,
    MASKED,
    NOISE,
    PAPER,
    PHOTOGRAPH,
    PLACES,
    UNBIASED,
)
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import Row, as_row, number, share, span
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "What pixel deconvolution changes"
KINDS = ("signed", "envelope")
UNTRAINED = (NOISE, UNBIASED, PHOTOGRAPH)
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # in the order in which they are made
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHOWN = 4  # pixels a side of the drawing of who reads whom


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.pixel_deconvolution_layers`.
    """
    return write_pages(folder, "pixel_deconvolution_layers", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, command = results.table, results.manifest["command"]
    n = {"draws": _any(t, NOISE).n, "seeds": _any(t, "error").n, "rounds": _any(t, "layer").n}
    photographs = len(results.manifest["evaluated"])
    blocks = [
        answer(strong(f"{solved(t)} "), plain(f"{trained(t)} {linked(t)} {costs(t)}")),
        table(
            {"layer": "left", "eq.": "left", "weights": "right", "mult.": "right", "sides": "right", "corners": "right",
             "forward": "right", "phase energies": "right", "imbalance": "right"},
            [_counts(t, name) for name in LAYERS],
            caption=[
                "Weights in C\u00b2, multiplications an output value in C, for C channels in and out. Sides, corners: pairs of "
                "output pixels that touch there of which one reads the other. Forward: deviation of the certificate of one "
                "draw, 0 is a pass; backward all pass. Predicted energy of phases (0, 0), (1, 1), (0, 1), (1, 0), and its std "
                "over mean (in brackets measured on noise). Kernels are 2x2 as in figure 4, four of which are the 4x4 of a DCL, "
                "unless they are called 3x3."
            ],
            stretch="phase energies",
        ),
        picture("figures/reads.svg", alt="Output pixels, joined where one reads the other", width=0.8, caption=[
            "Output pixels by phase, joined where one reads the other: none of a DCL, whose pixels read the input alone."
        ]),
        heading("Time"),
        paragraph(_timing(t, results.manifest["threads"]), sticky=True),
        picture("figures/time.svg", alt="Time of every layer over that of the transposed convolution", caption=[
            f"Processor time over that of DCL 4x4 in the same round, medians and quartiles of {n['rounds']}. Layer: 64 "
            "channels, 64 to 128 px, batch 8; U-Net: four blocks down and four up, 16 to 128 channels, 64 px, batch 4. Crosses: "
            "the paper's table 2, a U-Net on a K40."
        ]),
        heading("The lattice, before and after training"),
        paragraph(f"{untrained(t)} {grey(t)}", sticky=True),
        picture("figures/contrasts.svg", alt="Contrast of every layer at 2 px, signed and envelope", caption=[
            f"Contrast at 2 px. Untrained: means of {n['draws']} layers, each on its own input, 95 % bootstrap intervals. "
            f"Error: of {n['seeds']} networks with each layer, as the last one and inside, which double the size of "
            f"{photographs} photographs they have not seen, mean and range over networks. Made by {command}."
        ]),
        picture("figures/pictures.svg", alt="A detail as each trained network draws it, and what it makes of grey", caption=[
            "The same detail as the first network with each as its last layer draws it, and below what it makes of an even grey "
            "(green channel, 16 px), on one scale."
        ]),
        table(
            {"layer": "left"}
            | dict.fromkeys(("mean", "rms", "photos", "PSNR, last", "error", "grey", "PSNR, inside", "error ", "grey "), "right"),
            [_found(t, name) for name in LAYERS],
            caption=[
                "Mean, rms: correlation of adjacent output pixels of untrained layers on noise without biases (signs do not "
                "cancel in the rms); photos: its mean on photographs. Trained, as last layer and inside: PSNR in dB, mean and "
                "range over networks; correlation of adjacent pixels of the error; rms of the lattice made of an even grey."
            ],
            stretch="layer",
        ),
    ]  # fmt: skip
    return blocks, {
        "figures/reads.svg": _reads_figure(results),
        "figures/contrasts.svg": _contrasts_figure(t),
        "figures/pictures.svg": _pictures_figure(results),
        "figures/time.svg": _time_figure(t),
    }


def found(t: pd.DataFrame, model: str, subject: str, metric: str, kind: str = "", layer: str | None = None) -> Row:
    """One row of the table."""
    own = t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["metric"] == metric) & (t["kind"] == kind)]
    own = own if layer is None else own.loc[own["layer"] == layer]
    return as_row(own.fillna({"n": 0}).iloc[0].to_dict() | {"period": 2})


def _any(t: pd.DataFrame, subject: str) -> Row:
    """A row of the subject, for its n."""
    return as_row(t.loc[(t["subject"] == subject) & t["n"].notna()].iloc[0].to_dict() | {"period": 2})


def _contrast(t: pd.DataFrame, name: str, subject: str, kind: str) -> Row:
    """Of an untrained layer on a subject, or of the error of networks with it in a place."""
    if subject in PLACES:
        return found(t, name, "error", "lattice_contrast", kind, subject)
    return found(t, name, subject, "lattice_contrast", kind)


def _pixel() -> list[str]:
    """The layers of equations 2 and 3 and figure 4."""
    return [name for name in LAYERS if "Pixel" in name]


def solved(t: pd.DataFrame) -> str:
    """How many of the layers pass, and what that means."""
    deviations = {name: found(t, name, "certificate", "deviation", "forward").value for name in _pixel()}
    failing = sum(value > 1e-9 for value in deviations.values())
    return (
        f"Reading one's neighbours does not rule out the checkerboard: {failing} of {len(deviations)} pixel deconvolutions "
        "fail the forward certificate, as the transposed convolution does."
    )


def trained(t: pd.DataFrame) -> str:
    """The lattice of the error after training, beside the transposed convolution and the resize."""
    words = [
        f"{name} {number(_contrast(t, name, LAST, 'signed').value)} and {number(_contrast(t, name, INSIDE, 'signed').value)}"
        for name in (DCL, "iPixelDCL", "PixelDCL", MASKED, EVEN)
    ]
    return (
        f"After training the error has at 2 px a signed contrast in dB, where the layer is the last one and where a convolution "
        f"follows, of: {'; '.join(words)}."
    )


def linked(t: pd.DataFrame) -> str:
    """What the direct relation does to the correlation of adjacent pixels."""
    words = [
        f"{name} {number(found(t, name, UNBIASED, 'correlation', 'mean').value, 2)} "
        f"(rms {number(found(t, name, UNBIASED, 'correlation', 'rms').value, 2)})"
        for name in (DCL, "iPixelDCL", "PixelDCL", MASKED, EVEN)
    ]
    return f"Adjacent pixels of untrained layers correlate on noise with {'; '.join(words)}: a direct relation of random sign."


def costs(t: pd.DataFrame) -> str:
    """Time and weights of the masked form."""
    ratio = {s: found(t, MASKED, s, "time_ratio", "training").value for s in ("layer", "U-Net")}
    weights = found(t, MASKED, "count", "weights").value / found(t, DCL, "count", "weights").value
    return (
        f"The masked form has {number(weights, 2)} of the weights of a 4x4 transposed convolution, as many multiplications, "
        f"and takes {number(ratio['layer'], 2)} of its time in training ({number(ratio['U-Net'], 2)} in a U-Net; the paper: "
        f"{number(PAPER[MASKED][0], 2)})."
    )


def untrained(t: pd.DataFrame) -> str:
    """How the lattice before training depends on the biases, and on a mean that is not zero."""
    words = [
        f"{name} {' / '.join(number(_contrast(t, name, s, 'signed').value) for s in UNTRAINED)}"
        for name in (DCL, MASKED)
    ]
    return (
        f"Untrained, signed contrast in dB on noise, on noise without biases and on photographs: {'; '.join(words)}. Maps made "
        "one after the other lose energy at torch's initialisation, which the envelope shows, and have biases of their own "
        "(eq. 9 of Sugawara et al. 2018); a mean that is not zero brings out that their filters have different sums (eq. 8)."
    )


def grey(t: pd.DataFrame) -> str:
    """What is left after training where nothing is to be seen, and why equation 3 is a narrow last layer."""
    words = [
        f"{name} {' and '.join(number(found(t, name, 'grey', 'rms', layer=place).value, 2) for place in PLACES)}"
        for name in (DCL, "iPixelDCL", "PixelDCL", MASKED, EVEN)
    ]
    return (
        f"Of an even grey the trained networks make a lattice of, in levels of 255, {'; '.join(words)}. As the last layer, maps "
        "of eq. 3 and figure 4 know of the input what the three channels of the first map hold, those of eq. 2 all of it."
    )


def _timing(t: pd.DataFrame, threads: int) -> str:
    words = []
    for name, (training, prediction) in PAPER.items():
        ours = [found(t, name, "U-Net", "time_ratio", kind) for kind in ("training", "prediction")]
        words.append(
            f"{name} {number(ours[0].value, 2)} ({span(ours[0], 2)}) and {number(ours[1].value, 2)} ({span(ours[1], 2)}), "
            f"in the paper {number(training, 2)} and {number(prediction, 2)}"
        )
    return (
        f"A U-Net over the same with DCL 4x4, in training and prediction: {'; '.join(words)}. Ours is a CPU with {threads} "
        f"thread{'s' * (threads > 1)}, and its kernels are 2x2; the paper does not give those of its U-Nets."
    )


def _counts(t: pd.DataFrame, name: str) -> list[str]:
    """The line of the first table."""
    energy = [found(t, name, "energy", "phase_energy", "predicted", f"{p},{q}").value for p, q in PHASES]
    imbalance = [found(t, name, "energy", "imbalance", kind).value for kind in ("predicted", "measured")]
    deviation = found(t, name, "certificate", "deviation", "forward").value
    return [
        name,
        EQUATIONS.get(name.removesuffix(", 3x3"), ""),
        number(found(t, name, "count", "weights").value, 0),
        number(found(t, name, "count", "multiplications").value, 2).removesuffix(".00"),
        *(share(found(t, name, "count", "related", kind).value).replace(".00", "") for kind in ("side", "corner")),
        "0" if deviation < 1e-9 else number(deviation, 2),
        ", ".join(number(e, 2) for e in energy),
        f"{number(imbalance[0], 2)} ({number(imbalance[1], 2)})",
    ]


def _found(t: pd.DataFrame, name: str) -> list[str]:
    """The line of the second table."""
    noise = [found(t, name, UNBIASED, "correlation", kind).value for kind in ("mean", "rms")]
    cells = []
    for place in PLACES:
        psnr = found(t, name, "error", "psnr", layer=place)
        cells += [
            f"{number(psnr.value)} ({number(psnr.low)}\u2013{number(psnr.high)})",
            number(found(t, name, "error", "correlation", "mean", place).value, 2),
            number(found(t, name, "grey", "rms", layer=place).value, 2),
        ]
    return [
        name,
        *(number(value, 2) for value in noise),
        number(found(t, name, PHOTOGRAPH, "correlation", "mean").value, 2),
        *cells,
    ]


def _draw_reads(ax: figures.Axes, reads: np.ndarray, *, title: str) -> figures.Axes:
    """Output pixels `[4 4]` as dots coloured by phase, adjacent ones joined where one reads the other.

    Args:
        reads: `[n 4]`, row and column of a phase and of an offset at which it reads.
    """
    known = {tuple(line) for line in reads.tolist()}
    for i, j in np.ndindex(SHOWN, SHOWN):
        for step in NEIGHBOURS:
            k, m = i + step[0], j + step[1]
            if not (0 <= k < SHOWN and 0 <= m < SHOWN):
                continue
            if {(i % 2, j % 2, *step), (k % 2, m % 2, -step[0], -step[1])} & known:
                ax.plot([j, m], [i, k], color=figures.FAINT, linewidth=0.8, zorder=1)
    for phase, (i, j) in enumerate(PHASES):
        rows, columns = np.mgrid[i:SHOWN:2, j:SHOWN:2]
        ax.plot(columns.ravel(), rows.ravel(), "o", color=figures.SERIES[phase], markersize=5, zorder=2)
    ax.set_xlim(-0.4, SHOWN - 0.6)
    ax.set_ylim(SHOWN - 0.6, -0.4)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _draw_lines(
    ax: figures.Axes,
    names: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    reference: float = 0,
) -> figures.Axes:
    """A value with its interval (value, low, high) for each name, one below the other, series side by side."""
    ax.axvline(reference, color=figures.FAINT, linewidth=0.6)
    for place, (label, points) in enumerate(series.items()):
        colour = (figures.GRADIENT, figures.CONTROL)[place]
        lines = np.arange(len(names)) + 0.3 * (place - 0.5)
        ax.hlines(lines, [p[1] for p in points], [p[2] for p in points], color=colour, linewidth=1)
        ax.plot([p[0] for p in points], lines, "o", color=colour, markersize=4, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_title(title)
    return ax


@figures.styled
def _reads_figure(results: Results) -> bytes:
    names = [name for name in LAYERS if len(results.arrays[f"reads/{name}"])]
    figure, axes = figures.new_figure(6.7, 1.45, 1, len(names))
    for ax, name in zip(axes[0], names, strict=True):
        _draw_reads(ax, results.arrays[f"reads/{name}"], title=name)
    return figures.svg(figure)


@figures.styled
def _contrasts_figure(t: pd.DataFrame) -> bytes:
    subjects = {
        NOISE: NOISE,
        UNBIASED: UNBIASED,
        PHOTOGRAPH: PHOTOGRAPH,
        LAST: "error, last layer",
        INSIDE: "error, inside",
    }
    figure, axes = figures.new_figure(6.7, 1.9, 1, len(subjects), sharey=True)
    for ax, (subject, title) in zip(axes[0], subjects.items(), strict=True):
        series = {
            kind: [(r.value, r.low, r.high) for r in (_contrast(t, name, subject, kind) for name in LAYERS)]
            for kind in KINDS
        }
        _draw_lines(ax, list(LAYERS), series, title=title)
        ax.set_xlabel("contrast, dB")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside lower center")
    return figures.svg(figure)


@figures.styled
def _pictures_figure(results: Results) -> bytes:
    names = ["target", DCL, "iPixelDCL", "PixelDCL", MASKED, EVEN]
    figure, axes = figures.new_figure(6.7, 2.4, 2, len(names))
    flats = {name: results.arrays[f"grey/{name}"][1] for name in names[1:]}
    flats = {name: flat - flat.mean() for name, flat in flats.items()}
    scale = max(float(np.abs(flat).max()) for flat in flats.values())
    axes[1, 0].set_axis_off()
    for top, bottom, name in zip(axes[0], axes[1], names, strict=True):
        figures.draw_picture(top, results.arrays[f"picture/{name}"], title=name)
        if name in flats:
            figures.draw_gradient(bottom, flats[name], scale=scale)
        top.title.set_fontsize(6.5)
    return figures.svg(figure)


@figures.styled
def _time_figure(t: pd.DataFrame) -> bytes:
    kinds = ("training", "prediction")
    figure, axes = figures.new_figure(6.7, 1.75, 1, 2, sharey=True)
    for ax, subject in zip(axes[0], ("layer", "U-Net"), strict=True):
        series: dict[str, Sequence[tuple[float, float, float]]] = {
            kind: [(r.value, r.low, r.high) for r in (found(t, n, subject, "time_ratio", kind) for n in LAYERS)]
            for kind in kinds
        }
        _draw_lines(ax, list(LAYERS), series, title=subject, reference=1)
        ax.set_xlabel("time over DCL 4x4")
        if subject == "U-Net":
            for name, values in PAPER.items():
                for place, (value, colour) in enumerate(zip(values, (figures.GRADIENT, figures.CONTROL), strict=True)):
                    ax.plot(value, list(LAYERS).index(name) + 0.3 * (place - 0.5), "x", color=colour, markersize=5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside lower center")
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("pixel_deconvolution_layers", write_report)


if __name__ == "__main__":
    main()
