"""`python -m reports.h0_layers RUN`: the pages of a saved run of `analyses.h0_layers`, as RUN/report.pdf."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.h0_layers import DECONV, LEVELS, NAMES, PAPER_PSNR, PAPER_SECONDS, RESIZE, SETS, SIZES, SUBPIXEL, TIMED
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, bullets, code, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import enumeration, number
from gradlens.results import Results
from reports.certificates import percent
from reports.pages import draw_from_command_line, write_pages

TITLE = "Zero-order holds in super-resolution networks"
PLAIN = (DECONV, SUBPIXEL)
EVEN = tuple(name for name in NAMES if name not in PLAIN)
FUSED, REWRITTEN = "ResizeConv, fused", "ResizeConv, fused, as sub-pixel"
AT = [f"{a} x {b}" for a, b in SIZES]
DRAWN = ("ground truth", "bicubic", *NAMES)


@dataclass(frozen=True)
class Holds:
    """The results of one run, with the questions that its pages ask of them."""

    results: Results

    def row(self, model: str, subject: str, metric: str, **where: object) -> dict[str, Any]:
        """The one row of a model, subject and metric, at the `layer`, `period` or `kind` in `where`."""
        t = self.results.table
        t = t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["metric"] == metric)]
        for name, wanted in where.items():
            t = t.loc[t[name] == wanted]
        return t.iloc[0].to_dict()

    def value(self, model: str, subject: str, metric: str, **where: object) -> float:
        return float(self.row(model, subject, metric, **where)["value"])

    def worst_step(self, model: str, subject: str) -> float:
        """The largest deviation of eq. 7 over levels and seeds."""
        t = self.results.table
        t = t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["metric"] == "step_deviation")]
        return float(t["high"].fillna(t["value"]).max())

    def ratios(self, model: str, subject: str) -> list[float]:
        return [self.value(model, subject, "ratio", layer=at) for at in AT]


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.h0_layers`.
    """
    return write_pages(folder, "h0_layers", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figure."""
    holds = Holds(results)
    blocks = [
        *_verdict(holds),
        _steady(holds),
        heading("Enlarged pictures"),
        picture(
            "figures/crops.svg",
            alt="A part of the butterfly of Set5 enlarged by each network, and below it what it lacks",
            caption=[
                "A part of Set5's butterfly, and below it the error of its luma from −0.2 (blue) to 0.2 (red), of the first "
                "seed. H1: the hold of order 1, which is of odd length and moves nothing."
            ],
        ),
        _pictures(holds),
        heading("Table 2, measured again"),
        *_times(holds),
        heading("How it is done"),
        _method(results),
    ]
    return blocks, {"figures/crops.svg": _crops(results)}


def _verdict(holds: Holds) -> list[Block]:
    after = max(holds.worst_step(name, subject) for name in EVEN for subject in ("untrained", "trained"))
    before = [holds.value(name, "trained", "step_deviation", layer="K = 1") for name in PLAIN]
    at_start = [holds.value(name, "untrained", "step_deviation", layer="K = 1") for name in PLAIN]
    contrast = {name: holds.value(name, "set14", "lattice_contrast", period=4, kind="signed") for name in NAMES}
    real = holds.value("ground truth", "set14", "lattice_contrast", period=4, kind="signed")
    held_most = max(contrast[name] for name in EVEN)
    return [
        answer(
            strong("Eq. 7 and 10 hold behind every hold. " if after < 1e-6 else "Eq. 7 or 10 fails behind a hold. "),
            plain(
                f"Without one the steady state departs from its mean by {_span(at_start, percent)} of its rms before training "
                f"and {_span(before, percent)} after {holds.results.manifest['steps']} steps; with H0 by A, B or C by at most "
                f"{after:.0e} at any level, trained or not. On Set14 the signed contrast at 4 px is "
                f"{_span([contrast[n] for n in PLAIN])} dB "
                f"without, at most {number(held_most)} dB with, {number(real)} dB in the pictures themselves. "
            ),
            plain(f"Trained on the squared error, the deconvolution's PSNR changes in {_gains(holds)}. "),
            plain(
                f"A resize-convolution in two steps costs {_span(holds.ratios(RESIZE, 'network'))} deconvolutions (the paper: "
                f"{_span([a / b for a, b in zip(PAPER_SECONDS[RESIZE], PAPER_SECONDS[DECONV], strict=True)])}); fused it costs "
                f"{_span(holds.ratios(FUSED, 'network'), _two)}, and written as a sub-pixel convolution "
                f"{_span(holds.ratios(REWRITTEN, 'network'), _two)}, for the same numbers."
            ),
        ),
        paragraph(
            "Sugawara, Shiota and Kiya 2018 ask for one value in the steady state of the unit step response (eq. 7), at every "
            "level K (eq. 10), and get it from polyphase filters of one sum (eq. 2, 8) and one bias (eq. 9), or from a "
            "zero-order hold. The networks are those of their table 1, enlarging four times. A: put behind a network that was "
            "trained without it; B: trained with it; C: inside the kernel. ",
            strong("The amplitude "),
            "is kept: taps of sum 1 make of a periodic steady state its mean. ",
            strong("Training "),
            "evens out the steady state and not the filters: those of one channel still differ by "
            f"{_span([holds.value(n, 'trained', 'polyphase_deviation') for n in PLAIN], percent)} of their rms, and what is one "
            "value for flat luma need not be for texture.",
        ),
    ]


def _gains(holds: Holds) -> str:
    """What each approach adds to the PSNR of the deconvolution, in words."""
    told = []
    for letter in "ABC":
        gain = [holds.value(f"Deconv + H0, {letter}", s, "psnr") - holds.value(DECONV, s, "psnr") for s in SETS]
        told.append(f"{letter} by {_span(gain)} dB")
    return enumeration(told)


def _steady(holds: Holds) -> Block:
    verdicts = holds.results.manifest["verdicts"]
    rows = []
    for name in NAMES:
        cells = [_departure(holds.row(name, "untrained", "step_deviation", layer="K = 1"))]
        cells += [
            _departure(holds.row(name, "trained", "step_deviation", layer=f"K = {k:g}"))
            for k in (LEVELS[0], 1, LEVELS[-1])
        ]
        filters = percent(holds.value(name, "trained", "polyphase_deviation"))
        biases = holds.value(name, "trained", "bias_deviation")
        rows.append([name, *cells, filters, "0" if biases < 1e-6 else f"{biases:.4f}", verdicts[name]])
    n = [int(holds.row(DECONV, s, "step_deviation", layer="K = 1")["n"]) for s in ("untrained", "trained")]
    columns = {"network": "left", "untrained": "right"} | {f"K = {k:g}": "right" for k in (LEVELS[0], 1, LEVELS[-1])}
    return table(
        columns | {"filters": "right", "biases": "right", "certificate": "left"},
        rows,
        caption=[
            "Steady state of the step response, largest departure from its mean over the 16 phases in rms (eq. 7 and 10): "
            f"untrained at K = 1, median of {n[0]} seeds; trained, of {n[1]}, with the range of the seeds. "
            "Filters: the same of the sums of the polyphase filters of the last layer (eq. 2, 8). "
            "Biases: the largest departure, in units of luma (eq. 9). 0: at most 0.0001 %. "
            "A shares its weights with the plain layer above it."
        ],
        stretch="network",
    )  # fmt: skip


def _departure(row: dict[str, Any]) -> str:
    if percent(row["value"]) == "0" or np.isnan(row["low"]):
        return percent(row["value"])
    digits = 0 if row["value"] >= 0.1 else 1
    low, high = (number(100 * row[side], digits) for side in ("low", "high"))
    return f"{percent(row['value'])} ({low}–{high})"


def _pictures(holds: Holds) -> Block:
    rows = []
    for name in (*NAMES, "bicubic", "ground truth"):
        cells = [
            number(holds.value(name, "set14", "lattice_contrast", period=period, kind=kind))
            for period in (2, 4)
            for kind in ("signed", "envelope")
        ]
        quality = ["–", "–"] if name == "ground truth" else [number(holds.value(name, s, "psnr"), 2) for s in SETS]
        paper = " / ".join(f"{v:.2f}" for v in PAPER_PSNR[name]) if name in PAPER_PSNR else "–"
        rows.append([name, *cells, *quality, paper])
    manifest = holds.results.manifest
    heads = [f"{p} px, {k}" for p in (2, 4) for k in ("signed", "env.")]
    columns = {"network": "left"} | dict.fromkeys(heads, "right")
    columns |= dict.fromkeys(("Set5", "Set14", "paper"), "right")
    n = int(holds.row(DECONV, "set5", "psnr")["n"])
    return table(
        columns,
        rows,
        caption=[
            "Contrast on Set14 in dB, signed and envelope, and PSNR of luma on both sets in dB, 4 px of border left out: "
            f"median of {n} seeds of the mean over pictures. Ours: squared error, "
            f"{manifest['steps']} steps of {manifest['batch_size']} patches. "
            "The paper's: perceptual loss, colour, 200,000 steps: orders can be compared, values cannot. "
            f"{_orders(holds)}"
        ],
        stretch="network",
    )  # fmt: skip


def _orders(holds: Holds) -> str:
    """Which of the paper's orderings are found here."""
    claims = {
        "A above plain (deconvolution)": ("Deconv + H0, A", DECONV),
        "A above plain (sub-pixel)": ("Sub-pixel + H0, A", SUBPIXEL),
        "B above A (deconvolution)": ("Deconv + H0, B", "Deconv + H0, A"),
        "B above A (sub-pixel)": ("Sub-pixel + H0, B", "Sub-pixel + H0, A"),
        "C above B": ("Deconv + H0, C", "Deconv + H0, B"),
        "C above resize-convolution": ("Deconv + H0, C", RESIZE),
    }
    held = {
        words: all(holds.value(a, s, "psnr") > holds.value(b, s, "psnr") for s in SETS)
        for words, (a, b) in claims.items()
    }
    yes, no = ([words for words, true in held.items() if true is wanted] for wanted in (True, False))
    parts = [f"Of the paper's orders found on both sets: {', '.join(yes) or 'none'}"]
    return "; ".join([*parts, *([f"not found: {', '.join(no)}"] if no else [])]) + "."


def _times(holds: Holds) -> list[Block]:
    rows, seconds = [], []
    for name in TIMED:
        cells = [_spread(holds.row(name, "network", "ratio", layer=at)) if name != DECONV else "1" for at in AT]
        paper = [a / b for a, b in zip(PAPER_SECONDS.get(name, ()), PAPER_SECONDS[DECONV], strict=False)]
        told_there = _span(paper, _two) if paper and name != DECONV else ""
        rows.append([name, *cells, told_there, number(float(np.median(holds.ratios(name, "layer"))), 2)])
        told = [f"{1000 * holds.value(name, 'network', 'seconds', layer=at):.1f}" for at in AT]
        known = PAPER_SECONDS.get(name)
        seconds.append([name, *(f"{own} {1000 * known[k]:.1f}" if known else own for k, own in enumerate(told))])
    n = int(holds.row(DECONV, "network", "ratio", layer=AT[0])["n"])
    columns = {"network": "left"} | dict.fromkeys(AT, "right")
    return [
        paragraph(
            "The paper says that resize-convolution costs twelve deconvolutions. In two steps it comes near: the resize hands "
            "the convolution 16 times the pixels. Fused with its resize it is a transposed convolution of 12 taps a side instead "
            "of 9, as C is, and no larger map is made. A transposed convolution to one channel is slow in itself: the same "
            "numbers come in a fraction of its time from a convolution of 3 taps to 16 channels and a shuffle.",
            sticky=True,
        ),
        table(
            columns | {"paper": "right", "layer alone": "right"},
            rows,
            caption=[
                f"Time over that of Deconv, whole network, one thread, in turn: median of {n} ± half of what lies between the "
                "quartiles. Paper: the same of its table 2. Layer alone: the last layer by itself, median over sizes."
            ],
            stretch="network",
        ),
        table(
            columns,
            seconds,
            caption=[f"Milliseconds, mean of {n} (process time), then the paper's (3.30 GHz CPU)."],
            stretch="network",
        ),
    ]  # fmt: skip


def _method(results: Results) -> Block:
    m = results.manifest
    return bullets(
        ["Figure 2: convolutions 5x5 to 64 and 3x3 to 32 channels with ReLU, then 9x9 (deconvolution, resize-convolution) or "
         "3x3 (sub-pixel) to luma, weights by He et al., biases 0. Sub-pixel layers have a bias for each phase, as the paper's."],
        [f"Training: {m['patches']} pairs of 18 and 72 px of T91 (bicubic by PIL), turned and mirrored, Adam at {m['rate']:g}."],
        ["Step: a quadrant of K on zeros, 40 px, in float64; read 12 px from the step and from the border. Polyphase sums and "
         "biases: what the last layer makes of a constant in each channel, and of nothing."],
        ["Certificate: of the whole network of the first seed, random constants at three levels (gradlens.geometry.certify)."],
        ["Even holds look half a pixel ahead. Training makes up for it in B and C; behind a trained network nothing does, so A "
         "pays for half a pixel, the hold of order 1 for its blur alone."],
        ["Made by ", code(str(m["command"])), "; the table is table.csv of the run."],
    )  # fmt: skip


def _spread(row: dict[str, Any]) -> str:
    """A median and half the distance of its quartiles."""
    return f"{number(row['value'], 2)} ± {number((row['high'] - row['low']) / 2, 2)}"


def _two(value: float) -> str:
    return number(value, 2)


def _span(values: Sequence[float], say_it: Any = number) -> str:
    low, high = say_it(min(values)), say_it(max(values))
    return low if low == high else f"{low} to {high}"


@figures.styled
def _crops(results: Results) -> bytes:
    truth = results.arrays["crop/ground truth"]
    names = [name for name in DRAWN if f"crop/{name}" in results.arrays]
    half = -(-len(names) // 2)
    figure, axes = figures.new_figure(6.7, 3.5, 4, half)
    for place, name in enumerate(names):
        top, column = 2 * (place // half), place % half
        y = results.arrays[f"crop/{name}"]
        title = name.replace(" + ", "\n+ ") if "+" in name else f"{name}\n"
        figures.draw_picture(axes[top, column], y[None], title=title)
        axes[top, column].title.set_fontsize(6)
        figures.draw_gradient(axes[top + 1, column], y - truth, scale=0.2)
    for ax in axes.ravel():
        if not ax.has_data():
            ax.set_axis_off()
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("h0_layers", write_report)


if __name__ == "__main__":
    main()
