"""Contributions of layers to the contrast of a period."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from gradlens.figures.canvas import CONTROL, FAINT, GRADIENT

COLOURS = (GRADIENT, CONTROL)


def draw_blame(
    ax: Axes, layers: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], title: str
) -> Axes:
    """Contribution (value, low, high) of each layer, the one nearest to the image on top, a bar for each series.

    Args:
        layers: their names, from the image on.
        series: by its name, such as signed and envelope; NaN where nothing is measured.
    """
    ax.axvline(0, color=FAINT, linewidth=0.6)
    height = 0.8 / len(series)
    for number, ((label, points), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        for place, (value, low, high) in enumerate(points):
            y = place + height * (number - (len(series) - 1) / 2)
            ax.barh(y, np.nan_to_num(value), height=0.85 * height, color=colour, linewidth=0)
            if np.isfinite(low):
                ax.plot([low, high], [y, y], color="black", linewidth=0.6)
        ax.plot([], [], "s", color=colour, markersize=4.5, label=label)
    ax.set_yticks(range(len(layers)), list(layers))
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_title(title)
    return ax
