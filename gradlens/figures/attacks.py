"""Rates of success of attacks."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from gradlens.figures.canvas import subject_colours


def draw_attacks(
    ax: Axes, attacks: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], title: str
) -> Axes:
    """Rate of success (value, low, high) of each attack in percent, several masks side by side.

    Args:
        attacks: their names.
        series: by mask, rates in [0, 1] in the order of `attacks`; NaN where nothing is measured.
    """
    colours = subject_colours(series)
    for number, (label, points) in enumerate(series.items()):
        shift = 0.18 * (number - (len(series) - 1) / 2)
        for place, (value, low, high) in enumerate(points):
            if np.isfinite(low):
                ax.plot([place + shift] * 2, [100 * low, 100 * high], color=colours[label], linewidth=1)
            ax.plot(place + shift, 100 * value, "o", color=colours[label], markersize=4)
        ax.plot([], [], "o", color=colours[label], markersize=4, label=label)
    ax.set_xticks(range(len(attacks)), list(attacks))
    ax.set_xlim(-0.5, len(attacks) - 0.5)
    ax.set_ylim(-4, 104)
    ax.set_ylabel("fooled, %")
    ax.set_title(title)
    return ax
