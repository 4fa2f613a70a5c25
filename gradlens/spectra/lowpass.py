"""What is left of a signal below a cut-off frequency: the de-gridding of FORGrad, to hold `notch` against.

    y = F^-1(F(x) [|f| <= cutoff])

It removes a lattice with all that is as fine, where `notch` removes the lattice alone.
Source: Muzellec et al. 2024, "Saliency strikes back" (FORGrad), arXiv 2307.09591.
"""

from math import isfinite
from typing import SupportsFloat

import torch
from torch import Tensor

from gradlens.spectra.signal import as_signal, centred

SLACK = 1e-9  # relative: k / L is on a circle of that radius, whatever its last digit


def lowpass(x: Tensor, cutoff: float) -> Tensor:
    """`x` without the frequencies above `cutoff`; its mean is kept.

    The cut-off is a circle (a sphere in three dimensions) in cycles per pixel; the bandwidth sigma of FORGrad, in cycles
    per image of side W, is `cutoff` W. FORGrad chooses it for each network, as the most faithful over other images.

    Range: that of `x`, up to the removed part; it may ring beside an edge.
    Blind to: a lattice of period T above 1 / `cutoff` px stays; the borders are taken to meet, as on a torus.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        cutoff: in cycles per pixel; 0 keeps the mean alone, sqrt(D) / 2 or more all of D axes.

    Returns:
        Like `x`, same dtype. A projection: twice is once. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `cutoff` is no number of at least 0.

    Source: Muzellec et al. 2024, whose published code takes the absolute mean over channels first: that folds a lattice of
    sign to frequency 0 and is left to the caller.

    Example:
        >>> sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)
        >>> lowpass(0.5 + sign, 0.25).unique().tolist()
        [0.5]
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, SupportsFloat):
        raise TypeError(f"cutoff: must be a number in cycles per pixel, got {cutoff!r}")
    if not (isfinite(cutoff) and cutoff >= 0):
        raise ValueError(f"cutoff: must be at least 0 cycles per pixel, got {cutoff}")
    signal = as_signal(x)
    if not len(signal):  # not every FFT takes an empty batch
        return signal.to(x.device, x.dtype)
    axes, extents = tuple(range(2, signal.ndim)), signal.shape[2:]
    detail = centred(signal, axes)
    spectrum = torch.fft.rfftn(detail, dim=axes)
    kept = _radius(extents, signal) <= float(cutoff) * (1 + SLACK)
    rest = torch.fft.irfftn(spectrum * kept, s=extents, dim=axes)
    rounding = 4 * torch.finfo(rest.dtype).eps * detail.detach().abs().amax(axes, keepdim=True)
    rest = torch.where(rest.detach().abs() <= rounding, 0.0, rest)
    corner = (..., *[slice(1)] * len(axes))
    return (signal[corner] - detail[corner] + rest).to(x.device, x.dtype)  # the mean, exact of a constant


def _radius(extents: torch.Size, like: Tensor) -> Tensor:
    """The distance from frequency 0 of each bin of the half spectrum, in cycles per pixel."""
    square = like.new_zeros(())
    for axis, extent in enumerate(extents):
        half = axis == len(extents) - 1
        bins = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(extent, dtype=like.dtype, device=like.device)
        square = square[..., None] + bins.square()
    return square.sqrt()
