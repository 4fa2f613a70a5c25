"""Spectra: over the frequency plane with the lattices ringed, their difference, and radial profiles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage


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


def draw_profile(ax: Axes, frequency: np.ndarray, profiles: Mapping[str, tuple[np.ndarray, str]]) -> Axes:
    """Radial profiles `[B]` in dB, each with its colour, over frequency in cycles per pixel."""
    for label, (power, colour) in profiles.items():
        ax.plot(frequency, 10 * np.log10(power + 1e-12), color=colour, label=label)
    ax.set_xlim(0, 0.5)
    ax.set_xlabel("radial frequency, cycles / px")
    ax.set_ylabel("power, dB of the mean")
    ax.legend()
    return ax


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


def _new_harmonics(period: int) -> list[tuple[float, float]]:
    """Frequencies in [-0.5, 0.5) of the harmonics of `period` that no smaller divisor has, both signs of Nyquist."""
    from gradlens.spectra.grid import new_harmonics

    return [
        (((k / period + 0.5) % 1) - 0.5, ((m / period + 0.5) % 1) - 0.5) for m, k in new_harmonics((period, period))
    ]
