"""A prediction: the layers that write each period, along the path, and how uneven each period leaves the energy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from gradlens.figures.canvas import CONTROL, FAINT, GRADIENT, INK, SERIES

MOST_CARDS = 3  # under one period; what is beyond is counted
MOST_LETTERS = 17
BOARD = 0.15  # side of a card's board, in columns


@dataclass(frozen=True)
class Card:
    """Layers of one make that write one period.

    `name` is the first one's, `count` how many there are, `words` what they are, `coverage` `[s s]` the taps that reach each
    phase (None where taps do not say it, as of a pooling that routes).
    """

    name: str
    count: int
    words: str
    coverage: np.ndarray | None


@dataclass(frozen=True)
class Unevenness:
    """The imbalance of one period: predicted and, NaN where it was not, measured with its interval and noise floor."""

    predicted: float
    measured: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    floor: float = float("nan")


def draw_path(ax: Axes, columns: Sequence[tuple[int, Sequence[Card]]], ends: tuple[str, str]) -> Axes:
    """The layers that write each period, a column a period, on the path between two `ends` such as image and score.

    The board beside a layer shows how many taps reach each phase of its stride: dark is many, a cross is none.

    Args:
        columns: the period in pixels and its cards, in the order of the path.
        ends: what stands at the left and at the right.
    """
    count = len(columns)
    tallest = max(len(cards) if len(cards) <= MOST_CARDS else MOST_CARDS + 0.6 for _, cards in columns)
    ax.set_xlim(-0.5, count - 0.5)
    ax.set_ylim(tallest + 0.75, -0.8)
    ax.set_axis_off()
    ax.plot([-0.48, count - 0.52], [0.3, 0.3], color=FAINT, linewidth=0.8, zorder=0)
    ax.text(-0.48, -0.8, f"← {ends[0]}", ha="left", va="top", fontsize=7, color=CONTROL)
    ax.text(count - 0.52, -0.8, f"{ends[1]} →", ha="right", va="top", fontsize=7, color=CONTROL)
    for place, (period, cards) in enumerate(columns):
        colour = SERIES[place % len(SERIES)]
        ax.plot(place - 0.4, 0.3, "o", color=colour, markersize=5)
        ax.text(place - 0.33, 0.24, f"T = {period} px", ha="left", va="bottom", fontsize=8, color=colour, weight="bold")
        for row, card in enumerate(cards[:MOST_CARDS]):
            _draw_card(ax, place - 0.42, row + 0.5, card)
        if len(cards) > MOST_CARDS:
            others = sum(card.count for card in cards[MOST_CARDS:])
            ax.text(place - 0.42, MOST_CARDS + 0.72, f"and {others} more", fontsize=6.5, color=CONTROL, va="center")
    return ax


def draw_unevenness(ax: Axes, periods: Mapping[int, Unevenness], title: str) -> Axes:
    """Predicted and measured imbalance of each period, side by side; a dash is the measured one's noise floor."""
    measured = any(np.isfinite(value.measured) for value in periods.values())
    shift = 0.1 if measured else 0.0
    for place, value in enumerate(periods.values()):
        ax.plot([place - shift] * 2, [0, value.predicted], color=INK, linewidth=1)
        ax.plot(place - shift, value.predicted, "D", color=INK, markersize=5, markerfacecolor="white")
        if np.isfinite(value.measured):
            ax.plot([place + shift] * 2, [value.low, value.high], color=GRADIENT, linewidth=1)
            ax.plot(place + shift, value.measured, "o", color=GRADIENT, markersize=5)
            ax.plot([place + shift - 0.08, place + shift + 0.08], [value.floor] * 2, color=FAINT, linewidth=1.2)
    ax.plot([], [], "D", color=INK, markersize=5, markerfacecolor="white", label="predicted")
    if measured:
        ax.plot([], [], "o", color=GRADIENT, markersize=5, label="measured")
        ax.plot([], [], color=FAINT, linewidth=1.2, label="its noise floor")
        ax.legend(ncols=3, loc="upper left", borderaxespad=0)
        top = max(max(v.predicted, v.high if np.isfinite(v.high) else v.measured) for v in periods.values())
        ax.set_ylim(top=1.35 * top)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.set_xticks(range(len(periods)), [str(period) for period in periods])
    for place, label in enumerate(ax.get_xticklabels()):
        label.set(color=SERIES[place % len(SERIES)], weight="bold")
    ax.set_xlim(-0.5, len(periods) - 0.5)
    ax.set_xlabel("period, px")
    ax.set_ylabel("imbalance of energy")
    ax.set_title(title)
    return ax


def _draw_card(ax: Axes, x: float, y: float, card: Card) -> None:
    """A board of taps, the layer's name, and what it is."""
    room = 0.0
    if card.coverage is not None:
        _draw_board(ax, x, y, card.coverage)
        room = BOARD + 0.03
    name = card.name if len(card.name) <= MOST_LETTERS else f"…{card.name[1 - MOST_LETTERS :]}"
    ax.text(x + room, y + 0.16, name, fontsize=6.5, color=INK, va="center")
    many = f"{card.count} × " if card.count > 1 else ""
    ax.text(x + room, y + 0.52, f"{many}{card.words}", fontsize=6, color=CONTROL, va="center")


def _draw_board(ax: Axes, x: float, y: float, coverage: np.ndarray) -> None:
    """Taps by phase as shades in a square of `BOARD` columns by 0.68 rows."""
    rows, columns = coverage.shape
    width, height = BOARD / columns, 0.68 / rows
    ink = np.array(to_rgb(GRADIENT))
    for (row, column), taps in np.ndenumerate(coverage):
        shade = 1 - (1 - ink) * taps / max(coverage.max(), 1)
        corner = (x + column * width, y + row * height)
        ax.add_patch(Rectangle(corner, width, height, facecolor=shade, edgecolor=FAINT, linewidth=0.4))
        if taps == 0 and max(rows, columns) <= 4:
            centre = (corner[0] + width / 2, corner[1] + height / 2)
            ax.plot(*centre, "x", color=FAINT, markersize=2.5, markeredgewidth=0.6)


def draw_agreement(
    ax: Axes, points: Mapping[str, tuple[np.ndarray, np.ndarray]], *, low: float, high: float, title: str
) -> Axes:
    """Predicted over measured values on two logarithmic axes; the band is max(0.10, 15 %) wide on either side.

    Args:
        points: by label, measured and predicted `[n]`; what is below `low` is drawn at it.
    """
    line = np.geomspace(low, high, 200)
    allowed = np.maximum(0.10, 0.15 * line)
    ax.fill_between(line, (line - allowed).clip(low), line + allowed, color=FAINT, alpha=0.2, linewidth=0)
    ax.plot(line, line, color=FAINT, linewidth=0.8)
    for number, (label, (measured, predicted)) in enumerate(points.items()):
        ax.scatter(
            measured.clip(low), predicted.clip(low), s=9, facecolors="none", edgecolors=SERIES[number % len(SERIES)],
            linewidths=0.7, label=label,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.93 * low, high)
    ax.set_ylim(0.93 * low, high)
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10) if low <= t <= high]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FixedFormatter([f"{t:g}" for t in ticks]))
        axis.set_minor_locator(NullLocator())
    ax.set_aspect("equal")
    ax.set_xlabel("measured imbalance")
    ax.set_ylabel("predicted imbalance")
    ax.set_title(title)
    return ax
