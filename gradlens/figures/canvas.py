"""The canvas: a figure in the house style, SVG with its own pixels, colour bars, colours.

Pixels are repeated a whole number of times, never resampled: a resampled picture can invent or hide a checkerboard.
"""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

INK, FAINT = "#22262a", "#9aa3ab"
GRADIENT, CONTROL = "#b3362b", "#5b6b7a"
SERIES = ("#b3362b", "#d98324", "#5a8f3c", "#2a7f9e", "#6a4c93", "#8c6d46", "#3d4f9f", "#a23b72")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.parse_math": False,  # a dollar in a file name is a dollar
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.2,
    "svg.fonttype": "path",
    "svg.hashsalt": "gradlens",
    "axes.unicode_minus": True,
}


styled = mpl.rc_context(STYLE)  # decorates a function that draws a figure; the style is gone when it returns


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches and its axes `[rows columns]`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same drawing. A name in a script that its font lacks shows as boxes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def add_scale(figure: Figure, drawn: AxesImage, axes: np.ndarray, label: str, **place: Any) -> None:
    """A colour bar for `drawn` below `axes`."""
    look = {"location": "bottom", "shrink": 0.9, "aspect": 40, "pad": 0.02, "panchor": False} | place
    bar = figure.colorbar(drawn, ax=list(np.ravel(axes)), **look)
    bar.set_label(label)
    bar.ax.tick_params(length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def subject_colours(series: Mapping[str, object]) -> dict[str, str]:
    palette = (GRADIENT, CONTROL, SERIES[1], SERIES[3], SERIES[2], SERIES[4])
    return {label: palette[number % len(palette)] for number, label in enumerate(series)}


def show(ax: Axes, pixels: np.ndarray, *, side: int = 512, **look: Any) -> AxesImage:
    """`pixels` `[H W]` or `[H W 3]` with each repeated a whole number of times, to at least `side` px."""
    factor = max(1, -(-side // max(pixels.shape[:2])))
    repeated = pixels.repeat(factor, 0).repeat(factor, 1)
    height, width = pixels.shape[:2]
    return ax.imshow(repeated, interpolation="none", extent=(0, width, height, 0), **look)


def bare(ax: Axes, title: str) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_anchor("N")
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)
    return ax


def place(figure: Figure, ax: Axes, corner: tuple[float, float], size: tuple[float, float]) -> Axes:
    """`ax` with its upper left corner `corner` (from the left, from the top) and its `size` in inches of `figure`."""
    width, height = figure.get_size_inches()
    ax.set_position((corner[0] / width, 1 - (corner[1] + size[1]) / height, size[0] / width, size[1] / height))
    return ax
