"""Contrasts of periods: stage by stage, subject beside subject, image by image."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from gradlens.figures.canvas import FAINT, SERIES, subject_colours

MOST_DOTS = 150


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
    colours = subject_colours(series)
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
    colours = subject_colours(series)
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
