"""How far the lattice contrast of white noise strays, beside means of values drawn from its null pool.

The contrast is a weighted sum of log power over bins, sum_f a(f) log P(f). Under white noise the power at bins f and g,
averaged over windows, has the correlation r(f - g) = sum_ij |c_ij(f - g)|^2 / sum_ij |c_ij(0)|^2, with c_ij the transform
of the product of the windows i and j (Welch 1967); of gamma variables of shape k with correlation r the logarithms have
the covariance sum_j r^j B(k, j) / j (Kibble 1941), which is trigamma(k) at r = 1. So both variances are known exactly.
"""

from collections import Counter
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor

from gradlens.spectra.grid import Bins, Plan, half_bins
from gradlens.spectra.power import window_starts

TERMS = 64  # of the series in r, which is below 4/9 but at 0


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def stretch(ready: Plan, extent: tuple[int, ...], channels: int) -> float:
    """Standard deviation of the summed excess over that of the sums drawn from the pools, for white noise.

    Args:
        ready: the plan; its window is moved over an image of `extent` with `channels` independent channels.
    """
    noise = _Noise(ready.lengths, extent, channels)
    bins = half_bins(ready.lengths)
    total, drawn, correction = torch.zeros(bins, dtype=torch.float64), 0.0, 0.0
    for group in ready.groups:
        lines, null = group.lines.to(torch.device("cpu")), group.null.to(torch.device("cpu"))
        n, mean = len(group.harmonics), null.functional(bins) / len(null.at)
        total += lines.functional(bins) - n * mean
        own = noise.mean_variance_of_one(null)
        if group.real:
            own += noise.real_variance - noise.variance
            correction += n * (noise.real_variance - 2 * noise.variance)
        drawn += n * (own - noise.variance_of(mean))
    steepness = total @ ready.law.cpu()  # the trend is taken out, and strays too
    total.index_add_(0, ready.fit_at.cpu(), -steepness * ready.fit_weight.cpu())
    return ((noise.variance_of(total) + correction) / drawn) ** 0.5


class _Noise:
    """Second moments of the log power of white noise on Hann windows of `lengths` that cover `extent`."""

    def __init__(self, lengths: tuple[int, ...], extent: tuple[int, ...], channels: int) -> None:
        self.lengths = lengths
        axes = [
            _power_correlation(n, starts) for n, starts in zip(lengths, window_starts(extent, lengths), strict=True)
        ]
        shape = torch.tensor(channels * prod(windows for _, windows in axes), dtype=torch.float64)
        self.variance = float(torch.special.polygamma(1, shape))
        self.real_variance = float(torch.special.polygamma(1, shape / 2))
        correlation = torch.ones((), dtype=torch.float64)
        for along, _ in axes:
            correlation = correlation[..., None] * along
        self.covariance = _log_covariance(correlation, shape)  # [*L]

    def variance_of(self, weights: Tensor) -> float:
        """Variance of the sum of log power times `weights` `[B]` over the half spectrum.

        A real bin, its own conjugate, counts as twice the variance of a complex one.
        """
        full = _both_halves(weights, self.lengths)
        smeared = torch.fft.ifftn(torch.fft.fftn(full) * torch.fft.fftn(self.covariance)).real
        return 2 * float((full * smeared).sum())

    def mean_variance_of_one(self, bins: Bins) -> float:
        """Mean over `bins` of the variance of their excess, for bins whose ring does not reach its own conjugate."""
        own = torch.cat([torch.zeros_like(bins.offsets[:1]), bins.offsets])
        weights = torch.cat([torch.ones_like(bins.weight[:, :1]), -bins.weight], 1)
        apart = (own[:, None] - own) % torch.tensor(self.lengths)
        return float(((weights @ self.covariance[apart.unbind(-1)]) * weights).sum(1).mean())


def _power_correlation(length: int, starts: list[int]) -> tuple[Tensor, float]:
    """Along one axis the correlation `[L]` of the mean power of bins d apart, and how many independent windows it means."""
    window = (
        torch.hann_window(length, periodic=True, dtype=torch.float64) if length > 2 else torch.ones(length).double()
    )
    shifts = Counter(abs(a - b) for a, b in product(starts, starts) if abs(a - b) < length)
    total = torch.zeros(length, dtype=torch.float64)
    for shift, times in shifts.items():
        overlap = window.clone()
        overlap[shift:] *= window[: length - shift]
        overlap[:shift] = 0
        spectrum = torch.fft.fft(overlap)
        total += times * (spectrum.real.square() + spectrum.imag.square())
    independent = (len(starts) * window.square().sum()).square() / total[0]
    return total / total[0], float(independent)


def _log_covariance(correlation: Tensor, shape: Tensor) -> Tensor:
    """Covariance of the logarithms of gamma variables of `shape` with `correlation`."""
    j = torch.arange(1, TERMS + 1, dtype=torch.float64)
    series = (torch.lgamma(shape) + torch.lgamma(j) - torch.lgamma(shape + j)).exp() / j
    covariance = torch.zeros_like(correlation)
    for term in series.flip(0):
        covariance = (covariance + term) * correlation
    return torch.where(correlation >= 1, torch.special.polygamma(1, shape), covariance)


def _both_halves(weights: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Weights `[B]` of a half spectrum on the whole one `[*L]`, half on each bin of a conjugate pair."""
    half = weights.view(*lengths[:-1], lengths[-1] // 2 + 1)
    full = torch.nn.functional.pad(half, (0, lengths[-1] - half.shape[-1]))
    mirror = full
    for axis, length in enumerate(lengths):
        mirror = mirror.index_select(axis, -torch.arange(length) % length)
    return (full + mirror) / 2
