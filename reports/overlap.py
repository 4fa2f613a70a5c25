"""`python -m reports.overlap RUN`: the pages of a saved run of `analyses.overlap`, as RUN/report.pdf and RUN/figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from analyses.overlap import DRAWN, IN_USE, KERNELS, LAYERS, MATRICES, STRIDES, TAIL_PERIODS, TAILS, claims
from gradlens import figures
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.report import kicker
from gradlens.report.document import (
    Block,
    answer,
    code,
    compile_pdf,
    heading,
    pagebreak,
    paragraph,
    picture,
    strong,
    table,
)
from gradlens.report.run import number
from gradlens.results import Results, write_whole

TITLE = "What overlap says about checkerboards"
Drawn = tuple[list[Block], dict[str, bytes]]


@dataclass(frozen=True)
class Counts:
    """The results of one run, with the questions that its pages ask of them."""

    results: Results

    def value(self, model: str, metric: str, *, column: str = "value", **where: object) -> float:
        """The one value of a model and metric, at the `layer` or `period` in `where`."""
        t = self.results.table
        t = t.loc[(t["model"] == model) & (t["metric"] == metric)]
        for name, wanted in where.items():
            t = t.loc[t[name] == wanted]
        return float(t[column].iloc[0])

    def rows(self, metric: str) -> list[dict]:
        return self.results.table.loc[self.results.table["metric"] == metric].to_dict("records")

    def models(self, metric: str) -> list[str]:
        return list(dict.fromkeys(row["model"] for row in self.rows(metric)))

    def paths(self, name: str) -> list[np.ndarray]:
        """The rows of a drawing, from its input to its output."""
        return [self.results.arrays[f"paths/{name}/{n}"] for n in range(len(DRAWN[name][1]) + 1)]


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.overlap`.
    """
    results = Results.read(folder)
    if results.manifest.get("command") != "python -m analyses.overlap":
        raise ValueError(f"{str(folder)!r} holds no run of analyses.overlap")
    counts = Counts(results)
    parts = [section(counts) for section in (_answer, _classes, _drawings, _stacks, _tails, _matrices, _kernels)]
    drawn = {path: content for _, more in parts for path, content in more.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in drawn.items():
        write_whole(folder / path, content)
    above = kicker(results.manifest, [str(results.manifest["command"])])
    blocks = [block for more, _ in parts for block in more]
    write_whole(folder / "report.pdf", compile_pdf(TITLE, above, blocks, drawn))
    return folder / "report.pdf"


def _answer(counts: Counts) -> Drawn:
    found = claims(counts.results.table)
    after = _last_step(counts)
    left = {name: counts.value(name, "share_over_data", layer=after, period=2) for name in LAYERS}
    least, most = (f(v for n, v in left.items() if n.startswith("deconvolution")) for f in (min, max))
    resized = max(v for n, v in left.items() if not n.startswith("deconvolution"))
    blocks = [
        answer(
            "A kernel that its stride does not divide paints some positions more often than others: kernel 3 at stride 2 "
            "twice as often, ",
            strong("four times in two dimensions"),
            ". That is known before any training, for an image on the way up and for a gradient on the way down. Even "
            "overlap is needed, but not enough: a random kernel of any size puts half of the energy of its answer to a "
            "constant into the lattice.",
        ),
        paragraph(
            f"{sum(found['agrees'])} of {len(found)} statements of Odena, Dumoulin and Olah (Distill 2016) and of a blog "
            "post after it that are numbers agree with what is counted here. In the "
            f"median, kernels trained to repaint photographs keep {number(least)} to {number(most)} times the photographs' "
            f"own lattice of 2 px where they deconvolve, with even overlap as with uneven, and at most {number(resized, 2)} "
            "times where they resize first. Everything here was "
            "made by ",
            code("python -m analyses.overlap"),
            ", without weights and with no data but four sample photographs.",
        ),
        table(
            {"source": "left", "statement": "left", "reported": "right", "counted": "right"},
            [
                [r["source"], r["statement"], f"{r['reported']:g}", f"{r['counted']:g}"]
                for r in found.to_dict("records")
            ],
            caption=[
                "What the sources say, and what is counted. Captions: 1 where the period is written, 0 where not, with "
                "kernel 3 and stride 2 for a deconvolution and a nearest resize by 2 with kernel 3 for a resize-convolution. "
                "Visits: over three windows along each axis. The two ways of figure 3, by matrix and by padding, agree to "
                "rounding."
            ],
            stretch="statement",
        ),
        pagebreak(),
    ]
    return blocks, {}


def _classes(counts: Counts) -> Drawn:
    """The chart of kernels and strides, and layers in use."""
    blocks = [
        heading("Every kernel and stride"),
        paragraph(
            "Along an axis, phase r of the output is reached by as many taps as j < k with j = r modulo the stride; axes "
            "multiply. The backward pass of a strided convolution is the same sum, so the same chart says which input "
            "positions get how much gradient."
        ),
        picture(
            "figures/classes.svg",
            alt="Overlap of kernels 1 to 9 at strides 1 to 6, in one and two dimensions, coloured by class",
            caption=[
                "Fewest : most taps of a position, or the one number where all have it. Holes: positions that nothing "
                "reaches. None: one tap each. Full: even, by several taps."
            ],
        ),
        table(
            {"layer": "left", "kernel": "right", "stride": "right", "axes": "right", "uneven in": "left", "fewest": "right",
             "most": "right", "most / fewest": "right", "overlap": "left"},
            [_in_use(counts, name) for name in IN_USE],
            caption=["Layers in use: forward is an image that is painted, backward a gradient."],
            stretch="layer",
        ),
    ]  # fmt: skip
    return blocks, {"figures/classes.svg": _classes_figure(counts)}


def _in_use(counts: Counts, name: str) -> list[str]:
    kernel, stride, axes, direction = IN_USE[name]
    fewest, most, ratio = (counts.value(name, f"taps_{what}") for what in ("fewest", "most", "ratio"))
    word = next(row["kind"] for row in counts.rows("taps_ratio") if row["model"] == name)
    ratio = np.inf if fewest == 0 else ratio
    where = direction if word in ("holes", "partial") else "–"
    return [name, str(kernel), str(stride), str(axes), where, f"{fewest:g}", f"{most:g}", number(ratio, 2), word]


@figures.styled
def _classes_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.75, 1, 2)
    cells = {(r["model"], r["layer"]): r for r in counts.rows("taps_most")}
    for ax, layer, title in zip(axes[0], ("1-D", "2-D"), ("one dimension", "two dimensions"), strict=True):
        entries = {}
        for kernel in KERNELS:
            for stride in STRIDES:
                model = f"kernel {kernel}, stride {stride}"
                fewest = counts.value(model, "taps_fewest", layer=layer)
                row = cells[model, layer]
                text = f"{row['value']:g}" if fewest == row["value"] else f"{fewest:g}:{row['value']:g}"
                entries[kernel, stride] = (row["kind"], text)
        figures.draw_classes(ax, KERNELS, STRIDES, entries, title=title)
        ax.set_xlabel("kernel")
    axes[0, 0].set_ylabel("stride")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figures.svg(figure)


def _drawings(counts: Counts) -> Drawn:
    """Distill's three interactive figures."""
    single = [name for name, (_, layers) in DRAWN.items() if len(layers) == 1]
    several = [name for name in DRAWN if name not in single]
    drawn = {
        "figures/overlap.svg": _rows_figure(counts, single),
        "figures/plane.svg": _plane_figure(counts, ("kernel 3, stride 2", "kernel 4, stride 2")),
        "figures/stack.svg": _rows_figure(counts, several),
    }
    blocks = [
        pagebreak(),
        heading("Who paints what"),
        paragraph("The three interactive figures of the article, the first of each at its default setting."),
        picture(
            "figures/overlap.svg",
            alt="Rows of input and output positions with the windows between them, for four kernels and strides",
            caption=[
                "Each input position paints a window of the output; the number says how many windows meet at a position. A "
                "hole is ringed. Read upwards it is a gradient: the output is then the input of a strided convolution."
            ],
        ),
        picture(
            "figures/plane.svg",
            alt="Counts in two dimensions for kernels 3 and 4 at stride 2",
            caption=["In two dimensions the counts of the axes, at the edges, multiply: kernel 3 has 1 to 4, kernel 4 is even."],
            width=0.86,
        ),
        pagebreak(),
        heading("Layers on layers"),
        picture(
            "figures/stack.svg",
            alt="Rows of positions through two layers",
            caption=["Paths through two layers. Uneven layers compound; a tail of four equal taps evens out a period of two."],
            width=0.78,
        ),
    ]  # fmt: skip
    return blocks, drawn


@figures.styled
def _rows_figure(counts: Counts, names: list[str]) -> bytes:
    deepest = max(len(DRAWN[name][1]) for name in names)
    figure, axes = figures.new_figure(6.7, (0.62 + 0.5 * deepest) * len(names), len(names), 1)
    for ax, name in zip(axes[:, 0], names, strict=True):
        figures.draw_overlap(ax, counts.paths(name), DRAWN[name][1], size=6.5, title=name)
    return figures.svg(figure)


@figures.styled
def _plane_figure(counts: Counts, names: tuple[str, ...]) -> bytes:
    figure, axes = figures.new_figure(6.7, 3.2, 1, len(names))
    for ax, name in zip(axes[0], names, strict=True):
        row = counts.paths(name)[-1]
        figures.draw_overlap_plane(ax, row, row, size=6, title=name)
    return figures.svg(figure)


def _stacks(counts: Counts) -> Drawn:
    """What each stack writes, period by period."""
    rows, most = [], 12
    for name in counts.models("paths_most"):
        lines = {int(r["period"]): r["value"] for r in counts.rows("line") if r["model"] == name}
        written = [f"{t}: {number(v, 3)}" for t, v in lines.items() if v]
        fewest, most = (counts.value(name, f"paths_{what}") for what in ("fewest", "most"))
        rows.append([name, f"{fewest:g}", f"{most:g}", ",  ".join(written) or "none"])
    blocks = [
        table(
            {
                "layers: kernel and stride": "left",
                "fewest paths": "right",
                "most": "right",
                "periods, and strength": "left",
            },
            rows,
            caption=[
                "Paths to a position far from the border, along one axis, and the periods that they write, each with the "
                "amplitude of the strongest harmonic that no smaller period has, over the mean. A later layer repeats the "
                "earlier one's period at its own scale, and its taps damp it: kernel 4 removes it, kernel 2 cannot."
            ],
            stretch="periods, and strength",
        )
    ]
    return blocks, {}


def _tails(counts: Counts) -> Drawn:
    """What a stride-1 layer leaves."""
    random = [counts.value(f"{k} random taps", "left", period=2) for k in TAILS]
    n = int(counts.value("2 random taps", "left", column="n", period=2))
    blocks = [
        heading("The stride-1 tail"),
        paragraph(
            "A stride-1 layer of k equal taps leaves of harmonic m of period T the part "
            "|sin(\u03c0km/T) / (k sin(\u03c0m/T))|. It removes a period if and only if the period divides k, damps shorter "
            "ones, and hardly touches long ones: what the article says in words. The blog post found that it does not help "
            "sufficiently. One reason is in the equation, the other in the weights: k ",
            strong("random"),
            f" taps leave, in the root mean square over {n:,} kernels of each size, {number(min(random), 2)} to "
            f"{number(max(random), 2)} of a sign lattice of 2 px, whatever k. Equal taps are what the energy behind "
            "independent weights sees; a sign lattice sees the weights themselves.",
        ),
        picture(
            "figures/tail.svg",
            alt="What kernels of 2 to 9 equal taps leave of periods from 2 to 32",
            caption=["Left of the strongest new harmonic of each period, behind k equal taps; ringed: removed."],
            width=0.9,
        ),
    ]  # fmt: skip
    return blocks, {"figures/tail.svg": _tail_figure(counts)}


@figures.styled
def _tail_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.2, 2.35)
    left = [[counts.value(f"{k} equal taps", "left", period=t) for t in TAIL_PERIODS] for k in TAILS]
    ax = figures.draw_tail(axes[0, 0], TAILS, TAIL_PERIODS, np.array(left))
    ax.set_xlabel("period, px")
    ax.set_ylabel("taps")
    return figures.svg(figure)


def _matrices(counts: Counts) -> Drawn:
    """Deconvolution against resize and convolution."""
    rows = []
    for name in MATRICES:
        whole = [counts.value(name, metric) for metric in ("entries", "free_taps", "phase_sum_difference")]
        power = [number(counts.value(name, "response", period=period), 3) for period in (4, 2)]
        rows.append([name, *(f"{v:g}" for v in whole), *power])
    blocks = [
        pagebreak(),
        heading("Layers as matrices"),
        paragraph(
            "Each is linear, so each is a matrix. The deconvolution has a tap of its own for each entry. A nearest resize "
            "followed by three taps paints the same window of four, with the taps tied: it is exactly the deconvolution "
            "whose two phases have the same sum, so that a constant stays a constant. A bilinear resize ties six entries to "
            "three taps, and leaves an eighth of the power at a quarter of a cycle: it \u201cresists high-frequency image "
            "features too strongly\u201d, as the article suspects."
        ),
        picture(
            "figures/matrices.svg",
            alt="Matrices of a deconvolution and of two resize-convolutions",
            caption=["A row is an output position, a column an input position, a letter a tap."],
        ),
        table(
            {"layer": "left", "entries": "right", "free taps": "right", "phases differ by": "right", "power at 4 px": "right",
             "at 2 px": "right"},
            rows,
            caption=[
                "Entries: of a column, far from the border. Phases differ by: the largest weight of a tap in the difference "
                "of the two phases' sums; 0 is no lattice. Power: expected for independent taps and a white input, over that "
                "at frequency 0."
            ],
        ),
        picture(
            "figures/response.svg",
            alt="Expected power of the output of each layer over frequency",
            caption=["The expected power over all frequencies."],
            width=0.62,
        ),
        picture(
            "figures/convolution.svg",
            alt="The 4 x 16 matrix of a 3 x 3 convolution of a 4 x 4 image",
            caption=["The blog post's matrix, 4 x 16: a 3 x 3 kernel on a 4 x 4 image. Its transpose is the deconvolution."],
        ),
    ]  # fmt: skip
    return blocks, {
        "figures/matrices.svg": _matrices_figure(counts),
        "figures/response.svg": _response_figure(counts),
        "figures/convolution.svg": _convolution_figure(counts),
    }


@figures.styled
def _matrices_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.2, 1, 3, width_ratios=(1, 1.2, 2.3))
    for ax, name in zip(axes[0], MATRICES, strict=True):
        figures.draw_matrix(ax, counts.results.arrays[f"matrix/{name}"], size=6.5, title=name)
    return figures.svg(figure)


@figures.styled
def _response_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(4.2, 1.9)
    responses = {name.split(",")[0]: counts.results.arrays[f"response/{name}"] for name in MATRICES}
    figures.draw_response(axes[0, 0], responses).legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figures.svg(figure)


@figures.styled
def _convolution_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.7, 1.0)
    figures.draw_matrix(axes[0, 0], counts.results.arrays["matrix/convolution"], size=7)
    return figures.svg(figure)


def _last_step(counts: Counts) -> str:
    return counts.rows("share_over_data")[-1]["layer"]


def _kernels(counts: Counts) -> Drawn:
    """Random and trained kernels."""
    random = [
        [
            name,
            number(counts.value(name, "constant_share"), 2),
            *(
                number(counts.value(name, "energy_ratio", layer=s), 2)
                for s in ("all kernels", "64 channels", "1 kernel")
            ),
        ]
        for name in LAYERS
    ]
    last = _last_step(counts)
    trained = [
        [name, *(_between(counts, name, step, period) for period in (2, 4) for step in ("step 0", last)),
         f"{1e4 * counts.value(name, 'mean_squared_error', layer=last):.1f}"]
        for name in LAYERS
    ]  # fmt: skip
    first, steps = next(iter(LAYERS)), last.removeprefix("step ")
    draws, n = (int(counts.value(first, metric, column="n")) for metric in ("constant_share", "share_over_data"))
    blocks = [
        pagebreak(),
        heading("Random and trained kernels"),
        paragraph(
            "The count is the energy of random kernels, on average: twice for kernel 3, even for kernel 4. But one kernel is "
            "not the average. Its two phases have different sums, so it answers a constant with a lattice, as large for even "
            "overlap as for uneven. Channels average the energy, not the sums. Resizing first makes the sums equal, whatever "
            "the taps."
        ),
        table(
            {"layer": "left", "constant's share": "right", "energy, all kernels": "right", "64 channels": "right",
             "1 kernel": "right"},
            random,
            caption=[
                f"Normal taps, {draws:,} kernels. Share of the energy of the answer to a constant that is lattice; most over "
                "least energy of the two phases for a white input: of the mean over all kernels (the count), and the median "
                "over sets of 64 and over single kernels."
            ],
        ),
        table(
            {"layer": "left", "2 px, untrained": "left", "trained": "left", "4 px, untrained": "left", "trained ": "left",
             "error, 10\u207b\u2074": "right"},
            trained,
            caption=[
                f"Autoencoders of rows of two photographs with two layers of each kind, {steps} steps, measured on rows of "
                f"two others: energy of the lattice over the photographs' own, median (least to largest) of {n} networks, "
                "and the median of the mean squared error."
            ],
        ),
        picture(
            "figures/learning.svg",
            alt="The lattice of each kind of layer during training",
            caption=[
                f"The lattice as training goes on, median of {n} networks. Training can balance the phases, and mostly does "
                "in this easy task, but it starts from a lattice, with even overlap as with uneven. Resizing never has one, "
                "and pays with detail: below 1 the photographs' own finest detail is lost."
            ],
        ),
        picture(
            "figures/painted.svg",
            alt="What the first network of each kind makes of an even grey, before and after training",
            caption=[
                "What the first network of each kind makes of an even grey: before training (above) and after (below), "
                "each to its own scale, its standard deviation beside it."
            ],
        ),
    ]  # fmt: skip
    return blocks, {"figures/learning.svg": _learning_figure(counts), "figures/painted.svg": _painted_figure(counts)}


def _between(counts: Counts, name: str, step: str, period: int) -> str:
    value, low, high = (
        counts.value(name, "share_over_data", column=c, layer=step, period=period) for c in ("value", "low", "high")
    )
    value, low, high = (number(v, 0 if v >= 10 else 1 if v >= 1 else 2) for v in (value, low, high))
    return f"{value} ({low} to {high})"


@figures.styled
def _learning_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.3, 1, 2, sharey=True)
    steps = sorted({int(row["layer"].removeprefix("step ")) for row in counts.rows("share_over_data")})
    looks = {
        name: (figures.SERIES[2 + (name[0] == "b")], "-") if "resize" in name
        else (figures.GRADIENT, "--") if LAYERS[name][0] % 2 else (figures.CONTROL, "-")
        for name in LAYERS
    }  # fmt: skip
    for ax, period in zip(axes[0], (2, 4), strict=True):
        series = {
            name: (
                [counts.value(name, "share_over_data", layer=f"step {s}", period=period) for s in steps],
                *looks[name],
            )
            for name in LAYERS
        }
        figures.draw_learning(ax, steps, series, title=f"period {period} px")
    axes[0, 1].set_ylabel("")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=6.5)
    return figures.svg(figure)


@figures.styled
def _painted_figure(counts: Counts) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.0, 2, 4)
    for ax, name in zip(axes.flat, LAYERS, strict=False):
        pair = [counts.results.arrays[f"flat/{name}/{when}"] for when in ("before", "after")]
        figures.draw_painted(ax, *pair, title=name)
    axes[1, 3].set_axis_off()
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    app = application("python -m reports.overlap", "Draw the pages of a saved run of analyses.overlap.")

    @app.default
    def launch(folder: Annotated[Path, Parameter(help="The run's directory.")], /) -> int:
        say(f"report: {write_report(folder)}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
