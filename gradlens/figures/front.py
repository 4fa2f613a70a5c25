"""Designs in the plane of two costs, and the front of those that no other beats in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from gradlens.figures.canvas import CONTROL, FAINT, GRADIENT, INK


@dataclass(frozen=True)
class Point:
    """Two costs with their intervals (value, low, high; NaN for none), and whether the design is on the front."""

    across: tuple[float, float, float]
    up: tuple[float, float, float]
    on_front: bool


def draw_front(
    ax: Axes, points: Mapping[str, Point], *, across: str, up: str, level: tuple[str, float] | None = None
) -> Axes:
    """Designs as numbered points, less of both is better; those on the front are filled and joined.

    Args:
        ax: to draw on.
        points: by name; numbered in their order.
        across, up: labels of the axes, with units.
        level: a name and a value of `up` to compare with, a dashed line.
    """
    for number, point in enumerate(points.values(), start=1):
        colour = GRADIENT if point.on_front else FAINT
        for (_, low, high), flat in ((point.across, True), (point.up, False)):
            if np.isfinite(low):
                ends = ([low, high], [point.up[0]] * 2) if flat else ([point.across[0]] * 2, [low, high])
                ax.plot(*ends, color=colour, linewidth=0.8, zorder=1)
        face = GRADIENT if point.on_front else "white"
        ax.plot(point.across[0], point.up[0], "o", color=GRADIENT, markerfacecolor=face, markersize=8, zorder=2)
        ink = "white" if point.on_front else INK
        place = (point.across[0], point.up[0])
        ax.annotate(str(number), place, color=ink, fontsize=5.5, ha="center", va="center", zorder=3)
    best = sorted((p.across[0], p.up[0]) for p in points.values() if p.on_front)
    ax.plot(*_steps(best), color=GRADIENT, linewidth=0.8, linestyle=":", zorder=0)
    if level is not None:
        ax.axhline(level[1], color=CONTROL, linewidth=0.8, linestyle="--", label=level[0])
        ax.legend(loc="upper right")
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    return ax


def _steps(best: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The corners of the front, from point to point."""
    x, y = [], []
    for place, (a, b) in enumerate(best):
        if place:
            x.append(a)
            y.append(best[place - 1][1])
        x.append(a)
        y.append(b)
    return x, y
