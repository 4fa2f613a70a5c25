"""Maps over the pixels of an image: the picture itself, gradients, contrasts, phases."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from gradlens.figures.canvas import GRADIENT, bare, show


def draw_picture(ax: Axes, image: np.ndarray, *, title: str = "") -> Axes:
    """An image `[C H W]` in [0, 1], grey if it has one channel."""
    pixels = np.repeat(image, 3, 0) if len(image) == 1 else image[:3]
    show(ax, np.moveaxis(pixels.clip(0, 1), 0, -1))
    return bare(ax, title)


def draw_sheet(ax: Axes, images: np.ndarray, columns: int, *, gap: int = 2, title: str = "") -> Axes:
    """Images `[n C H W]` in [0, 1] of one size on one sheet, `gap` white pixels between them; it is `sheet_size` px large."""
    height, width = images.shape[2:]
    rows = -(-len(images) // columns)
    sheet = np.ones((images.shape[1], *sheet_size(rows, columns, (height, width), gap)), np.float32)
    for number, image in enumerate(images):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return draw_picture(ax, sheet, title=title)


def sheet_size(rows: int, columns: int, size: Sequence[int], gap: int = 2) -> tuple[int, int]:
    """Height and width in pixels of a sheet of images of `size`."""
    return rows * (size[0] + gap) - gap, columns * (size[1] + gap) - gap


def draw_gradient(ax: Axes, gradient: np.ndarray, *, scale: float, title: str = "") -> AxesImage:
    """A signed map `[H W]` between -scale and scale, centred on white."""
    drawn = show(ax, gradient, cmap="RdBu_r", norm=Normalize(-scale, scale))
    bare(ax, title)
    return drawn


def draw_lattice_map(ax: Axes, image: np.ndarray, contrast: np.ndarray, *, top: float, title: str = "") -> AxesImage:
    """The contrast `[h w]` of each window in dB, from 0 to `top`, laid over the image `[C H W]` in grey."""
    grey = image.mean(0).clip(0, 1)
    show(ax, 0.3 + 0.7 * grey, cmap="gray", norm=Normalize(0, 1))
    height, width = grey.shape
    drawn = ax.imshow(
        contrast.clip(0, None), cmap=_veil(), norm=Normalize(0, top), interpolation="none",
        extent=(0, width, height, 0),
    )  # fmt: skip
    bare(ax, title)
    return drawn


def draw_phases(ax: Axes, energy: np.ndarray, *, top: float, title: str = "") -> AxesImage:
    """Energy of each phase `[T T]`, mean 1, from 0 to `top`; the values are written where there is room."""
    drawn = show(ax, energy, cmap="viridis", norm=Normalize(0, top), side=192)
    period = len(energy)
    if period <= 4:
        for (row, column), value in np.ndenumerate(energy):
            dark = value < 0.6 * top
            centre = ((column + 0.5) / period, 1 - (row + 0.5) / period)
            ax.text(*centre, f"{value:.2f}", ha="center", va="center", fontsize=7 if period < 4 else 5.5,
                    color="white" if dark else "black", transform=ax.transAxes)  # fmt: skip
    bare(ax, title)
    return drawn


def draw_frame(ax: Axes, box: Sequence[int]) -> Axes:
    """A frame around a part (top, left, height, width) of a picture."""
    top, left, height, width = (int(side) for side in box)
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="white", linewidth=1.6, clip_on=False))
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=GRADIENT, linewidth=0.8, clip_on=False))
    return ax


def _veil() -> ListedColormap:
    """A colour map from nothing to deep red, to lay over a picture."""
    ramp = np.linspace(0, 1, 256)
    colours = mpl.colormaps["YlOrRd"](ramp)
    colours[:, 3] = 0.9 * ramp**0.7
    return ListedColormap(colours)
