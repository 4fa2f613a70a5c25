"""A signal with its sampling phases evened: what `notch` is to a lattice of sign, to one of energy.

    y = x / sqrt(e),  e the phase energy of each pixel's phase

A strided layer scales the energy of phases and leaves their sign to chance, so nothing is there to subtract. Source: ours.
"""

import torch
from torch import Tensor

from gradlens.spectra.phases import phase_energy
from gradlens.spectra.signal import Period, as_signal, holds_two, periods_of


def even_phases(x: Tensor, period: Period) -> Tensor:
    """`x` with each of the T x T sampling phases divided by the square root of its relative energy.

    Range: that of `x`, each phase scaled by its own factor: no sign changes, no pixel borrows from another. The phase
        energies of what is left are 1, up to how far blocks of the image differ in theirs.
    Blind to: a checkerboard of sign alone, which stays (`notch`), and a hole, a phase without energy, which no factor
        fills.

    Args:
        x: `[N C *spatial]`, floating point, any unit; all channels of a pixel have one factor.
        period: T in pixels, one for all axes or one for each; it evens those of its divisors with it.

    Returns:
        Like `x`, same dtype. Differentiable where no phase is empty.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; a period is out of range, or a side below two.

    Source: ours; the factor of `phase_energy`.

    Example:
        >>> x = torch.tensor([[3.0, -1.0], [1.0, -1.0]]).repeat(16, 16).view(1, 1, 32, 32)
        >>> round(even_phases(x, 2).abs().std().item(), 4)
        0.0
    """
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    if not holds_two(signal.shape[2:], periods):
        raise ValueError(f"x: each side must hold two periods of {periods}, got {list(x.shape)}")
    energy = phase_energy(signal, periods).to(signal)[:, None]  # [N 1 *T]
    factor = torch.where(energy > 0, torch.where(energy > 0, energy, 1.0).rsqrt(), 0.0)
    for axis, extent in enumerate(signal.shape[2:], start=2):
        factor = factor.index_select(axis, torch.arange(extent, device=factor.device) % factor.shape[axis])
    return (signal * factor).to(x.device, x.dtype)
