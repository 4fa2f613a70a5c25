"""The azimuthally averaged spectrum of the literature (Durall et al. 2020), kept for comparison.

It is nearly blind to checkerboards: a lattice is a few bins of a ring with thousands. Use `lattice_contrast`.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradlens.spectra.power import power_spectrum
from gradlens.spectra.signal import at_home, whole


class RadialProfile(NamedTuple):
    """`frequency` `[B]` in cycles per pixel and `power` `[N B]`, linear."""

    frequency: Tensor
    power: Tensor


def radial_profile(x: Tensor, *, bins: int | None = None, window: Literal["hann", "none"] = "hann") -> RadialProfile:
    """Mean power over rings of equal frequency, summed over channels.

    Range: [0, inf); white noise of variance s^2 and C channels has C s^2 in every ring.
    Blind to: direction, and nearly to lattices: a few bins among the thousands of a ring.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        bins: number of rings from 0 to 0.5 cycles per pixel; half the shortest side unless given.
        window: as `power_spectrum`.

    Returns:
        The centre frequency of each ring and its power. Corners beyond 0.5 are left out; a ring without a bin is NaN.
        Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `bins` is below 1; `window` is unknown.

    Source: Durall et al. 2020, eq. 3.

    Example:
        >>> frequency, power = radial_profile(torch.randn(1, 3, 32, 32))
        >>> power.shape
        torch.Size([1, 16])
    """
    bins = None if bins is None else whole(bins, "bins", least=1)
    frequency, profile = over_rings(power_spectrum(x, window=window).sum(1), bins)
    return RadialProfile(at_home(frequency, x), at_home(profile, x))


def over_rings(power: Tensor, bins: int | None = None) -> RadialProfile:
    """The radial profile of power `[N *frequency]`."""
    bins = bins or max(1, min(power.shape[1:]) // 2)
    square = torch.zeros((), dtype=power.dtype, device=power.device)
    for extent in power.shape[1:]:
        square = square[..., None] + torch.fft.fftfreq(extent, dtype=power.dtype, device=power.device).square()
    radius = square.sqrt().flatten()
    inside = radius <= 0.5
    ring = (radius[inside] * 2 * bins).long().clamp(max=bins - 1)
    count = ring.bincount(minlength=bins).to(power)
    total = power.new_zeros(len(power), bins).index_add(1, ring, power.flatten(1)[:, inside])
    frequency = (torch.arange(bins, device=power.device, dtype=power.dtype) + 0.5) / (2 * bins)
    return RadialProfile(frequency, total / count)
