"""What is left of a lattice: foretold and measured, over the number of offsets or steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gradlens.figures.canvas import CONTROL, FAINT, GRADIENT, INK

LEAST = 0.01  # amplitudes below are drawn here


def draw_attenuation(
    ax: Axes,
    counts: Sequence[int],
    law: Sequence[float],
    measured: Sequence[tuple[float, float, float]],
    content: Sequence[float],
    title: str,
) -> Axes:
    """Amplitude that is left at each of `counts` offsets or steps, on a log axis; what is below 0.01 is drawn there.

    Args:
        law: foretold, a bar across.
        measured: of the lattice (value, low, high); NaN where there was none to begin with.
        content: what is left of the spectrum around it.
    """
    for place, (value, low, high) in enumerate(measured):
        ax.plot([place - 0.35, place + 0.35], [max(law[place], LEAST)] * 2, color=INK, linewidth=1.6)
        ax.plot(place, max(content[place], LEAST), "x", color=CONTROL, markersize=4)
        if np.isfinite(value):
            ax.plot([place] * 2, np.maximum([low, high], LEAST), color=GRADIENT, linewidth=0.9)
            ax.plot(place, max(value, LEAST), "o", color=GRADIENT, markersize=4)
    ax.plot([], [], color=INK, linewidth=1.6, label="law")
    ax.plot([], [], "o", color=GRADIENT, markersize=4, label="lattice, measured")
    ax.plot([], [], "x", color=CONTROL, markersize=4, label="spectrum around it")
    ax.axhline(1, color=FAINT, linewidth=0.6)
    ax.set_yscale("log")
    ax.set_ylim(LEAST / 1.3, 2)
    ax.set_yticks([0.01, 0.1, 1], ["≤ 0.01", "0.1", "1"])
    ax.minorticks_off()
    ax.set_xticks(range(len(counts)), [str(n) for n in counts])
    ax.set_title(title)
    return ax
