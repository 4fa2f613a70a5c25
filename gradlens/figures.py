"""One function draws one thing on given axes; nothing here measures. Figures become SVG with their own pixels.

Pixels are repeated a whole number of times, never resampled: a resampled picture can invent or hide a checkerboard.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

INK, FAINT = "#22262a", "#9aa3ab"
GRADIENT, CONTROL = "#b3362b", "#5b6b7a"
MOST_DOTS = 150
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


def draw_picture(ax: Axes, image: np.ndarray, *, title: str = "") -> Axes:
    """An image `[C H W]` in [0, 1], grey if it has one channel."""
    pixels = np.repeat(image, 3, 0) if len(image) == 1 else image[:3]
    _show(ax, np.moveaxis(pixels.clip(0, 1), 0, -1))
    return _bare(ax, title)


def draw_gradient(ax: Axes, gradient: np.ndarray, *, scale: float, title: str = "") -> AxesImage:
    """A signed map `[H W]` between -scale and scale, centred on white."""
    drawn = _show(ax, gradient, cmap="RdBu_r", norm=Normalize(-scale, scale))
    _bare(ax, title)
    return drawn


def draw_lattice_map(ax: Axes, image: np.ndarray, contrast: np.ndarray, *, top: float, title: str = "") -> AxesImage:
    """The contrast `[h w]` of each window in dB, from 0 to `top`, laid over the image `[C H W]` in grey."""
    grey = image.mean(0).clip(0, 1)
    _show(ax, 0.3 + 0.7 * grey, cmap="gray", norm=Normalize(0, 1))
    height, width = grey.shape
    drawn = ax.imshow(
        contrast.clip(0, None), cmap=_veil(), norm=Normalize(0, top), interpolation="none",
        extent=(0, width, height, 0),
    )  # fmt: skip
    _bare(ax, title)
    return drawn


def draw_spectrum(
    ax: Axes, power: np.ndarray, *, low: float, high: float, marks: Mapping[int, str], title: str = ""
) -> AxesImage:
    """Power `[F F]` (unshifted, linear, mean 1) in dB with DC in the middle; the lattice of each period is ringed.

    Args:
        marks: the colour of each period's new harmonics.
    """
    level = 10 * np.log10(np.fft.fftshift(power) + 1e-12)
    return _draw_plane(ax, level, marks, title, cmap="gray", norm=Normalize(low, high))


def draw_spectral_difference(
    ax: Axes, difference: np.ndarray, *, scale: float, marks: Mapping[int, str], title: str = ""
) -> AxesImage:
    """How two spectra differ, `[F F]` (unshifted) in dB between -scale and scale, DC in the middle; marks as above."""
    return _draw_plane(ax, np.fft.fftshift(difference), marks, title, cmap="RdBu_r", norm=Normalize(-scale, scale))


def _draw_plane(ax: Axes, level: np.ndarray, marks: Mapping[int, str], title: str, **look: Any) -> AxesImage:
    """Values `[F F]` over the frequency plane, the lattice of each period ringed."""
    rows, columns = level.shape
    half = 0.5 / columns, 0.5 / rows
    extent = (-0.5 - half[0], 0.5 - half[0], -0.5 - half[1], 0.5 - half[1])
    factor = max(1, -(-256 // rows))
    drawn = ax.imshow(
        level.repeat(factor, 0).repeat(factor, 1), extent=extent, interpolation="none", origin="lower", **look
    )
    for period, colour in marks.items():
        x, y = np.array(_new_harmonics(period)).T
        size = 26 if period <= 4 else 12 if period <= 8 else 5
        ax.scatter(x, y, s=size, facecolors="none", edgecolors=colour, linewidths=0.8, clip_on=False)
    ax.set_title(title)
    ticks = [-0.5, 0, 0.5]
    ax.set_xticks(ticks, ["\u22120.5", "0", "0.5"])
    ax.set_yticks(ticks, ["\u22120.5", "0", "0.5"])
    ax.set_xlim(extent[0] - 0.02, 0.52)
    ax.set_ylim(extent[2] - 0.02, 0.52)
    ax.set_xlabel("cycles / px")
    ax.spines[:].set_visible(False)
    return drawn


def draw_profile(ax: Axes, frequency: np.ndarray, profiles: Mapping[str, tuple[np.ndarray, str]]) -> Axes:
    """Radial profiles `[B]` in dB, each with its colour, over frequency in cycles per pixel."""
    for label, (power, colour) in profiles.items():
        ax.plot(frequency, 10 * np.log10(power + 1e-12), color=colour, label=label)
    ax.set_xlim(0, 0.5)
    ax.set_xlabel("radial frequency, cycles / px")
    ax.set_ylabel("power, dB of the mean")
    ax.legend()
    return ax


def draw_phases(ax: Axes, energy: np.ndarray, *, top: float, title: str = "") -> AxesImage:
    """Energy of each phase `[T T]`, mean 1, from 0 to `top`; the values are written where there is room."""
    drawn = _show(ax, energy, cmap="viridis", norm=Normalize(0, top), side=192)
    period = len(energy)
    if period <= 4:
        for (row, column), value in np.ndenumerate(energy):
            dark = value < 0.6 * top
            centre = ((column + 0.5) / period, 1 - (row + 0.5) / period)
            ax.text(*centre, f"{value:.2f}", ha="center", va="center", fontsize=7 if period < 4 else 5.5,
                    color="white" if dark else "black", transform=ax.transAxes)  # fmt: skip
    _bare(ax, title)
    return drawn


def draw_stages(
    ax: Axes, labels: Sequence[str], lines: Mapping[int, Sequence[tuple[int, float, float, float, bool]]], title: str
) -> Axes:
    """Contrast of each period at each stage on the way from the score (left) to the image (right).

    Args:
        labels: of the stages, from coarse to fine.
        lines: by period in input pixels: (stage number, value, low, high, found); found points are filled.
    """
    ax.axhline(0, color=FAINT, linewidth=0.6)
    for number, (period, points) in enumerate(lines.items()):
        colour = SERIES[number % len(SERIES)]
        shift = 0.05 * (number - (len(lines) - 1) / 2)
        x = [p[0] + shift for p in points]
        ax.plot(x, [p[1] for p in points], color=colour, label=f"{period} px")
        for place, (_, value, low, high, found) in zip(x, points, strict=True):
            if np.isfinite(low):
                ax.plot([place, place], [low, high], color=colour, linewidth=0.8)
            ax.plot(place, value, "o", color=colour, markersize=4, markerfacecolor=colour if found else "white")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.4, len(labels) - 0.6)
    ax.set_ylabel("contrast, dB")
    ax.set_title(title)
    return ax


def draw_contrasts(
    ax: Axes, periods: Sequence[int], series: Mapping[str, Sequence[tuple[float, float, float, bool]]], title: str
) -> Axes:
    """Contrast (value, low, high, found) of each period for several subjects side by side; found points are filled."""
    ax.axhline(0, color=FAINT, linewidth=0.6)
    colours = _subject_colours(series)
    for number, (label, points) in enumerate(series.items()):
        shift = 0.16 * (number - (len(series) - 1) / 2)
        for place, (value, low, high, found) in enumerate(points):
            if np.isfinite(low):
                ax.plot([place + shift] * 2, [low, high], color=colours[label], linewidth=1)
            face = colours[label] if found else "white"
            ax.plot(place + shift, value, "o", color=colours[label], markersize=4.5, markerfacecolor=face)
        ax.plot([], [], "o", color=colours[label], markersize=4.5, label=label)
    ax.set_xticks(range(len(periods)), [str(p) for p in periods])
    ax.set_xlim(-0.5, len(periods) - 0.5)
    ax.set_xlabel("period, px")
    ax.set_ylabel("contrast, dB")
    ax.set_title(title)
    return ax


def draw_spread(
    ax: Axes, periods: Sequence[int], series: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], title: str
) -> Axes:
    """Contrast of every image at each period, several sets side by side; filled where an image's own is found.

    Args:
        series: by set, for each period: contrasts in dB from high to low and whether each is found. Of more than 150,
            as many are drawn, evenly by rank.
    """
    ax.axhline(0, color=FAINT, linewidth=0.6)
    colours = _subject_colours(series)
    width = 0.7 / len(series)
    for number, (label, points) in enumerate(series.items()):
        centre = width * (number - (len(series) - 1) / 2)
        for place, (value, found) in enumerate(points):
            if len(value) > MOST_DOTS:
                rank = np.linspace(0, len(value) - 1, MOST_DOTS).round().astype(int)
                value, found = value[rank], found[rank]
            turn = 0.618034 * np.arange(len(value)) % 1 - 0.5 if len(value) > 1 else np.zeros(len(value))
            face = [colours[label] if f else "white" for f in found]
            x = place + centre + 0.7 * width * turn
            ax.scatter(x, value, s=7, facecolors=face, edgecolors=colours[label], linewidths=0.5)
        ax.plot([], [], "o", color=colours[label], markersize=4.5, label=label)
    ax.set_xticks(range(len(periods)), [str(p) for p in periods])
    ax.set_xlim(-0.5, len(periods) - 0.5)
    ax.set_xlabel("period, px")
    ax.set_ylabel("contrast, dB")
    ax.set_title(title)
    return ax


def draw_frame(ax: Axes, box: Sequence[int]) -> Axes:
    """A frame around a part (top, left, height, width) of a picture."""
    top, left, height, width = (int(side) for side in box)
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="white", linewidth=1.6, clip_on=False))
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=GRADIENT, linewidth=0.8, clip_on=False))
    return ax


def add_scale(figure: Figure, drawn: AxesImage, axes: np.ndarray, label: str, **place: Any) -> None:
    """A colour bar for `drawn` below `axes`."""
    look = {"location": "bottom", "shrink": 0.9, "aspect": 40, "pad": 0.02, "panchor": False} | place
    bar = figure.colorbar(drawn, ax=list(np.ravel(axes)), **look)
    bar.set_label(label)
    bar.ax.tick_params(length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _veil() -> ListedColormap:
    """A colour map from nothing to deep red, to lay over a picture."""
    ramp = np.linspace(0, 1, 256)
    colours = mpl.colormaps["YlOrRd"](ramp)
    colours[:, 3] = 0.9 * ramp**0.7
    return ListedColormap(colours)


def _subject_colours(series: Mapping[str, object]) -> dict[str, str]:
    palette = (GRADIENT, CONTROL, SERIES[1], SERIES[3], SERIES[2], SERIES[4])
    return {label: palette[number % len(palette)] for number, label in enumerate(series)}


def _new_harmonics(period: int) -> list[tuple[float, float]]:
    """Frequencies in [-0.5, 0.5) of the harmonics of `period` that no smaller divisor has, both signs of Nyquist."""
    from gradlens.spectra.grid import new_harmonics

    return [
        (((k / period + 0.5) % 1) - 0.5, ((m / period + 0.5) % 1) - 0.5) for m, k in new_harmonics((period, period))
    ]


def _show(ax: Axes, pixels: np.ndarray, *, side: int = 512, **look: Any) -> AxesImage:
    """`pixels` `[H W]` or `[H W 3]` with each repeated a whole number of times, to at least `side` px."""
    factor = max(1, -(-side // max(pixels.shape[:2])))
    repeated = pixels.repeat(factor, 0).repeat(factor, 1)
    height, width = pixels.shape[:2]
    return ax.imshow(repeated, interpolation="none", extent=(0, width, height, 0), **look)


def _bare(ax: Axes, title: str) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_anchor("N")
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)
    return ax
