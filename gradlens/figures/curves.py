"""Curves over the steps of a training run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gradlens.figures.canvas import CONTROL, FAINT

FEW = 40  # entries up to which each is marked


def draw_curve(
    ax: Axes,
    steps: np.ndarray,
    series: Mapping[str, tuple[np.ndarray, str]],
    *,
    unit: str,
    title: str,
    level: tuple[str, float] | None = None,
    resumed: Sequence[int] = (),
) -> Axes:
    """Values over the steps of training; what is not finite is left out, and the line goes on behind it.

    Args:
        steps: `[K]`, rising.
        series: by label, values `[K]` and a colour.
        unit: of the values.
        level: a label and a value to compare with, a dashed line; NaN draws none.
        resumed: steps at which the run was taken up again, dotted lines.
    """
    for step in resumed:
        ax.axvline(step, color=FAINT, linewidth=0.6, linestyle=":")
    for label, (values, colour) in series.items():
        known = np.isfinite(values)
        mark = "o" if known.sum() <= FEW else ""
        ax.plot(steps[known], values[known], color=colour, marker=mark, markersize=2.5, linewidth=0.9, label=label)
    if not any(np.isfinite(values).any() for values, _ in series.values()):
        ax.text(0.5, 0.5, "no finite value", ha="center", va="center", color=CONTROL, transform=ax.transAxes)
        ax.set_yticks([])
    if level is not None and np.isfinite(level[1]):
        ax.axhline(level[1], color=CONTROL, linewidth=0.9, linestyle="--", label=level[0])
    if len(steps):
        ax.set_xlim(min(0, steps[0]), 1.02 * max(steps[-1], 1))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if any((np.abs(values[np.isfinite(values)]) >= 1000).any() for values, _ in series.values()):
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace("-", "\u2212")))
    ax.set_xlabel("step")
    ax.set_ylabel(unit)
    ax.set_title(title)
    return ax
