"""Overlap: which input paints which output, how often each position is painted, and layers as matrices.

After the three interactive figures of Odena, Dumoulin and Olah, Distill 2016, and their matrices.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Polygon, Rectangle

from gradlens.figures.canvas import CONTROL, FAINT, GRADIENT, INK, SERIES, bare

if TYPE_CHECKING:
    from gradlens.geometry import OverlapClass, TransposedConv

CLASSES: "Mapping[OverlapClass, str]" = {"holes": "#4b5b73", "none": "#e3ebdd", "partial": "#eeb5a6", "full": "#b4d3a6"}
FLAT = 1e-6  # float32 rounding of values near 1
DROP = 2.6  # from row to row, in cells
QUARTERS = {0.25: "¼", 0.5: "½", 0.75: "¾", 1.0: ""}


def draw_overlap(
    ax: Axes, counts: Sequence[np.ndarray], layers: "Sequence[TransposedConv]", *, top: int = 0, size: float = 7,
    title: str = "",
) -> Axes:  # fmt: skip
    """Rows of positions, one below the other: each position paints a window of the row below, darker where windows meet.

    Args:
        counts: paths that reach each position, one row `[L]` for the input and one for the output of each layer.
        layers: between the rows, of one axis.
        top: the count that is darkest; the largest of all unless given.
        size: of the numbers, in points; 0 writes none.
    """
    top = top or int(max(row.max() for row in counts))
    places = _places([len(row) for row in counts], layers)
    for number, layer in enumerate(layers):
        _paint(ax, places[number], places[number + 1], layer, -DROP * number - 0.5)
    for number, (row, place) in enumerate(zip(counts, places, strict=True)):
        for count, x in zip(row, place, strict=True):
            _cell(ax, x - 0.5, -DROP * number - 0.5, int(count), top, size)
    ax.set_xlim(min(place[0] for place in places) - 0.6, max(place[-1] for place in places) + 0.6)
    ax.set_ylim(-DROP * len(layers) - 0.6, 0.6)
    ax.set_aspect("equal")
    return bare(ax, title)


def draw_overlap_plane(
    ax: Axes, down: np.ndarray, across: np.ndarray, *, top: int = 0, size: float = 7, title: str = ""
) -> Axes:
    """Counts in two dimensions, the product of the counts `[H]` and `[W]` along its axes, which stand at its edges.

    Args:
        top, size: as in `draw_overlap`.
    """
    plane = np.outer(down, across)
    top = top or int(plane.max())
    for (row, column), count in np.ndenumerate(plane):
        _cell(ax, column, row, int(count), top, size)
    for row, count in enumerate(down):
        _cell(ax, -1.4, row, int(count), top, size)
    for column, count in enumerate(across):
        _cell(ax, column, -1.4, int(count), top, size)
    ax.set_xlim(-1.5, len(across) + 0.1)
    ax.set_ylim(len(down) + 0.1, -1.5)
    ax.set_aspect("equal")
    return bare(ax, title)


def draw_classes(
    ax: Axes, kernels: Sequence[int], strides: Sequence[int], entries: "Mapping[tuple[int, int], tuple[OverlapClass, str]]",
    *, title: str = "",
) -> Axes:  # fmt: skip
    """The overlap of each kernel and stride: its class as a colour, a few characters on it.

    Args:
        entries: class and text by (kernel, stride).
    """
    for (kernel, stride), (word, text) in entries.items():
        x, y = kernels.index(kernel), strides.index(stride)
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=CLASSES[word], edgecolor="white", linewidth=1.2))
        _write(ax, x, y, text, 7, "white" if word == "holes" else INK)
    for word, colour in CLASSES.items():
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=colour, label=word))
    return _grid(ax, kernels, strides, title)


def draw_tail(ax: Axes, kernels: Sequence[int], periods: Sequence[int], left: np.ndarray, *, title: str = "") -> Axes:
    """What is left `[kernel period]`, in [0, 1], of each period behind a stride-1 layer; what is removed is ringed."""
    for (row, column), value in np.ndenumerate(left):
        colour = mpl.colormaps["YlOrBr"](0.75 * value)
        ax.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
        if value == 0:
            ax.add_patch(
                Rectangle((column + 0.08, row + 0.08), 0.84, 0.84, fill=False, edgecolor=GRADIENT, linewidth=1)
            )
        _write(ax, column, row, f"{value:.2f}" if value else "0", 7, "white" if value > 0.85 else INK)
    return _grid(ax, periods, kernels, title)


def draw_matrix(ax: Axes, weights: np.ndarray, *, size: float = 6, title: str = "") -> Axes:
    """A linear layer as a matrix, a row for each output position: which taps make each entry, by colour and by letter.

    Args:
        weights: `[output input taps]`, how much of each tap is in an entry; colours blend in that proportion.
        size: of the letters, in points.
    """
    rows, columns, taps = weights.shape
    palette = np.array([to_rgb(SERIES[tap % len(SERIES)]) for tap in range(taps)])
    for row, column in np.ndindex(rows, columns):
        entry = weights[row, column]
        mixed = 0.5 + 0.5 * entry @ palette / entry.sum() if entry.any() else np.ones(3)
        ax.add_patch(Rectangle((column, row), 1, 1, facecolor=mixed, edgecolor="#e4e7ea", linewidth=0.5))
        _write(ax, column, row, "+".join(_term(w, tap) for tap, w in enumerate(entry) if w), size, INK)
    ax.add_patch(Rectangle((0, 0), columns, rows, fill=False, edgecolor=FAINT, linewidth=0.6, clip_on=False))
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    return bare(ax, title)


def draw_response(ax: Axes, responses: Mapping[str, np.ndarray], *, title: str = "") -> Axes:
    """Expected power `[F]` of each layer over frequency from 0 to Nyquist, that at 0 being 1."""
    for colour, (label, power) in zip((GRADIENT, SERIES[2], SERIES[3]), responses.items(), strict=False):
        ax.plot(np.linspace(0, 0.5, len(power)), power, color=colour, label=label)
    ax.set_xlim(0, 0.5)
    ax.set_ylim(0, 1.08)
    ax.set_xlabel("frequency, cycles / px")
    ax.set_ylabel("power of that at 0")
    ax.set_title(title)
    ax.legend()
    return ax


def draw_learning(
    ax: Axes, steps: Sequence[int], series: Mapping[str, tuple[Sequence[float], str, str]], *, title: str = ""
) -> Axes:
    """A lattice, as a multiple of the data's own, at some steps of training; the data is the line at 1.

    Args:
        series: by layer: a value for each step, a colour, a line style.
    """
    ax.axhline(1, color=FAINT, linewidth=0.6)
    for label, (values, colour, line) in series.items():
        ax.plot(range(len(steps)), values, line, marker="o", markersize=2.5, color=colour, label=label)
    ax.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
    ax.set_yscale("log")
    ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.set_xlabel("training step")
    ax.set_ylabel("lattice, times the data's")
    ax.set_title(title)
    return ax


def draw_painted(ax: Axes, before: np.ndarray, after: np.ndarray, *, title: str = "") -> Axes:
    """What a network makes of an even input before and after training: two rows `[L]` less their means, each to scale."""
    for row, (values, colour) in enumerate(((before, CONTROL), (after, GRADIENT))):
        centred = values - values.mean()
        high = np.abs(centred).max()
        drawn = centred / high if high > FLAT else 0 * centred
        ax.step(np.arange(len(values)), drawn - 2.6 * row, where="mid", color=colour, linewidth=0.9)
        ax.text(len(values), -2.6 * row, f"{centred.std():.2g}" if high > FLAT else "0", va="center_baseline", fontsize=6.5,
                color=colour)  # fmt: skip
    ax.set_ylim(-3.9, 1.3)
    ax.set_xlim(-1, 1.25 * len(before))
    bare(ax, "")
    ax.set_title(title, fontsize=7)
    return ax


def _places(lengths: Sequence[int], layers: "Sequence[TransposedConv]") -> list[np.ndarray]:
    """Where the middle of each position of each row stands, so that it is above the middle of the window it paints."""
    places = [np.arange(lengths[-1], dtype=float)]
    pitch = 1.0
    for length, layer in zip(lengths[-2::-1], layers[::-1], strict=True):
        kernel, stride, padding, _, dilation = _numbers(layer)
        first = places[0][0] + pitch * (dilation * (kernel - 1) / 2 - padding)
        pitch *= stride
        places.insert(0, first + pitch * np.arange(length))
    return places


def _paint(ax: Axes, above: np.ndarray, below: np.ndarray, layer: "TransposedConv", y: float) -> None:
    """The window that each position above paints, from its lower edge to the upper edge of the row below."""
    kernel, stride, padding, _, dilation = _numbers(layer)
    for number, x in enumerate(above):
        reached = stride * number + dilation * np.arange(kernel) - padding
        hit = below[reached[(reached >= 0) & (reached < len(below))]]
        if len(hit):
            corners = [(x - 0.5, y), (x + 0.5, y), (hit[-1] + 0.5, y - DROP + 1), (hit[0] - 0.5, y - DROP + 1)]
            ax.add_patch(Polygon(corners, closed=True, facecolor=SERIES[1], alpha=0.28, linewidth=0))
            ax.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=SERIES[1], alpha=0.6, linewidth=0.5))


def _numbers(layer: "TransposedConv") -> tuple[int, int, int, int, int]:
    """Kernel, stride, padding, output padding and dilation of a layer with one axis."""
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation)
    kernel, stride, padding, extra, dilation = (size if isinstance(size, int) else size[0] for size in sizes)
    return kernel, stride, padding, extra, dilation


def _cell(ax: Axes, x: float, y: float, count: int, top: int, size: float) -> None:
    """One position, the darker the more often it is painted; a hole is ringed."""
    colour = mpl.colormaps["YlOrBr"](0.12 + 0.68 * count / max(top, 2)) if count else (1.0, 1.0, 1.0)
    edge = "#8a6d50" if count else GRADIENT
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor=edge, linewidth=0.4 if count else 1))
    if size:
        _write(ax, x, y, str(count), size, "white" if count > 0.65 * top > 1 else INK)


def _write(ax: Axes, x: float, y: float, text: str, size: float, colour: str) -> None:
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center_baseline", fontsize=size, color=colour)


def _grid(ax: Axes, across: Sequence[int], down: Sequence[int], title: str) -> Axes:
    """Cells of side 1 with a number for each column and row."""
    ax.set_xlim(0, len(across))
    ax.set_ylim(len(down), 0)
    bare(ax, title)
    ax.set_xticks(np.arange(len(across)) + 0.5, [str(n) for n in across])
    ax.set_yticks(np.arange(len(down)) + 0.5, [str(n) for n in down])
    ax.tick_params(length=0)
    return ax


def _term(weight: float, tap: int) -> str:
    return QUARTERS.get(weight, f"{weight:.2g}") + chr(ord("a") + tap)
