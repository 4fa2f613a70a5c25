"""Where the lattice of a period lies on the grid of a Fourier transform, and what each of its bins is compared with.

On a window of L samples the lattice of T are the bins k L / T. Three kinds of bin matter: the *new* harmonics of T
(no smaller divisor of T has them), the ring around a bin from which its background is fitted, and the null bins that
tell how far a bin without a lattice strays from its background. All of it depends on (L, T) alone and is computed once.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, prod

import torch
from torch import Tensor

CLEAR = 2  # bins between a lattice line and a bin that must not see it: Hann's main lobe
NULL_BINS = 600


def new_harmonics(periods: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The (k, l, ...) of the new harmonics of `periods`: gcd(k, l, ..., T) = 1, DC excluded."""
    common = gcd(*(p for p in periods if p > 1))
    return [k for k in product(*map(range, periods)) if any(k) and gcd(*k, common) == 1]


def window_lengths(size: tuple[int, ...], periods: tuple[int, ...], window: int) -> tuple[int, ...] | None:
    """The window length along each axis, None if the image holds fewer than four periods along a tested axis.

    A multiple of T, the largest not above `window` if that holds four periods, else four periods; in a smaller image
    the largest that fits.
    """
    lengths = []
    for extent, period in zip(size, periods, strict=True):
        wanted = window // period * period
        least = 4 * period if period > 1 else 1
        length = min(max(wanted, least), extent // period * period)
        if length < least:
            return None
        lengths.append(length)
    return tuple(lengths)


def folded(bins: Tensor, lengths: Tensor) -> Tensor:
    """Distance of each bin coordinate from DC, around the circle of L bins."""
    return torch.minimum(bins % lengths, -bins % lengths)


def half_index(bins: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Flat index of `bins` [... D] in the half spectrum that `rfftn` gives; the same for a bin and its conjugate."""
    sizes = torch.tensor(lengths)

    def flat(bins: Tensor) -> Tensor:
        index = torch.zeros_like(bins[..., 0])
        for axis, length in enumerate((*lengths[:-1], lengths[-1] // 2 + 1)):
            index = index * length + bins[..., axis]
        return index

    inside, conjugate = bins % sizes, -bins % sizes
    index = torch.where(inside[..., -1] <= lengths[-1] // 2, flat(inside), flat(conjugate))
    mirror = torch.where(conjugate[..., -1] <= lengths[-1] // 2, flat(conjugate), flat(inside))
    return torch.minimum(index, mirror)


def _distance(bins: Tensor, spacing: Tensor) -> Tensor:
    """Chebyshev distance in bins from the nearest line of the lattice with `spacing` bins between lines."""
    return (bins - (bins / spacing).round() * spacing).abs().amax(-1)


@dataclass(frozen=True)
class Bins:
    """Some bins of a half spectrum, each with the ring its background is fitted on: `[n]`, `[n K]`, `[n K]`."""

    at: Tensor
    ring: Tensor
    weight: Tensor

    def excess(self, log_power: Tensor, log_background: Tensor) -> Tensor:
        """`log_power` `[... B]` at the bins minus the background fitted to `log_background` `[... B]`: `[... n]`."""
        return log_power[..., self.at] - (log_background[..., self.ring] * self.weight).sum(-1)

    def to(self, device: torch.device) -> "Bins":
        return Bins(self.at.to(device), self.ring.to(device), self.weight.to(device))


@dataclass(frozen=True)
class Group:
    """Harmonics that share a null pool: the same axes, and real (`one degree of freedom`) or complex alike."""

    harmonics: tuple[tuple[int, ...], ...]  # (k, l, ...) in units of 1/T, one of each conjugate pair
    lines: Bins
    null: Bins
    real: bool

    def to(self, device: torch.device) -> "Group":
        return Group(self.harmonics, self.lines.to(device), self.null.to(device), self.real)


@dataclass(frozen=True)
class Plan:
    """Everything about one lattice on one window length that does not depend on data."""

    lengths: tuple[int, ...]
    periods: tuple[int, ...]
    groups: tuple[Group, ...]

    @property
    def count(self) -> int:
        return sum(len(group.harmonics) for group in self.groups)

    @property
    def needs_pseudo(self) -> bool:
        return any(group.real for group in self.groups)


class _Geometry:
    """The lattice on the grid while a plan is made: which bins are clear of what."""

    def __init__(self, lengths: tuple[int, ...], periods: tuple[int, ...], also: tuple[tuple[int, ...], ...]) -> None:
        self.lengths = torch.tensor(lengths)
        self.spacing = self.lengths / torch.tensor(periods)
        # A lattice finer than four bins leaves no clear bin at this window: it cannot be kept out.
        self.others = [s for s in (self.lengths / torch.tensor(p) for p in also) if s.min() >= 2 * CLEAR]

    def background(self, bins: Tensor, axes: tuple[int, ...]) -> tuple[Bins, Tensor]:
        """`bins` [n D] with their backgrounds along `axes`, and which of them have one: a least-squares quadratic."""
        reach = 4 if len(axes) > 1 else 6
        span = torch.arange(-reach, reach + 1)
        offsets = torch.zeros(len(span) ** len(axes), bins.shape[-1], dtype=torch.long)
        offsets[:, list(axes)] = torch.cartesian_prod(*[span] * len(axes)).view(-1, len(axes))
        offsets = offsets[offsets.abs().amax(-1) >= CLEAR]
        ring = bins[:, None] + offsets  # [n K D]
        clear = _distance(ring, self.spacing) >= CLEAR
        if len(axes) > 1:
            clear &= (folded(ring, self.lengths)[..., list(axes)] >= CLEAR).all(-1)
        weight = _intercept(offsets[:, list(axes)].double(), clear)
        found = (weight.sum(-1) - 1).abs() < 1e-6
        lengths = tuple(self.lengths.tolist())
        return Bins(half_index(bins, lengths), half_index(ring, lengths), weight), found

    def null(self, axes: tuple[int, ...]) -> Bins:
        """Up to 600 bins without a lattice, chosen like the harmonics on `axes`."""
        lengths = tuple(self.lengths.tolist())
        bins = torch.cartesian_prod(*[torch.arange(length) for length in lengths]).view(-1, len(lengths))
        bins = _first_of_each(bins, half_index(bins, lengths))
        keep = _distance(bins, self.lengths / 2) >= CLEAR  # a real bin, and what it leaks into, has other statistics
        for spacing in (self.spacing, *self.others):
            keep &= _distance(bins, spacing) >= CLEAR
        away = folded(bins, self.lengths)
        keep &= (away[:, list(axes)] >= CLEAR).all(-1)
        keep &= away.double().square().sum(-1).sqrt() >= self.spacing[self.spacing < self.lengths].min() / 2
        bins = bins[keep]
        order = torch.randperm(len(bins), generator=torch.Generator().manual_seed(0))
        bins = bins[order[:NULL_BINS]]
        null, found = self.background(bins, axes)
        return Bins(null.at[found], null.ring[found], null.weight[found])


def _first_of_each(bins: Tensor, index: Tensor) -> Tensor:
    """`bins` without repeats of `index`: one of each conjugate pair, in order of `index`."""
    order = index.argsort(stable=True)
    index = index[order]
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    return bins[order][first]


def _intercept(offsets: Tensor, clear: Tensor) -> Tensor:
    """Weights [n K] that give the value at offset 0 of a least-squares quadratic through the clear points.

    Where they are too few for a quadratic a plane is fitted, then a constant; weights that do not sum to 1 mean that
    there was no point at all.
    """
    dimensions = offsets.shape[1]
    squares = [offsets[:, i] * offsets[:, j] for i in range(dimensions) for j in range(i, dimensions)]
    one = torch.ones(len(offsets), dtype=torch.float64)
    designs = [torch.stack([one, *offsets.T, *squares], 1), torch.stack([one, *offsets.T], 1), one[:, None]]
    patterns, which = torch.unique(clear, dim=0, return_inverse=True)
    result = torch.zeros(patterns.shape, dtype=torch.float64)
    open_ = torch.ones(len(patterns), dtype=torch.bool)
    for design in designs:
        weight = torch.linalg.pinv(design * patterns[:, :, None])[:, 0]
        good = open_ & ((weight.sum(-1) - 1).abs() < 1e-6)
        result[good] = weight[good]
        open_ &= ~good
    return result[which]


@lru_cache(maxsize=128)
@torch.inference_mode(False)  # what is kept must serve calls with gradients too
def plan(
    lengths: tuple[int, ...],
    periods: tuple[int, ...],
    also: tuple[tuple[int, ...], ...],
    device: torch.device,
) -> Plan | None:
    """The plan for the lattice of `periods` on windows of `lengths`; None if a harmonic has no background or no null."""
    geometry = _Geometry(lengths, periods, also)
    members: dict[tuple[tuple[int, ...], bool], list[tuple[int, ...]]] = {}
    for k in new_harmonics(periods):
        conjugate = tuple(-a % p for a, p in zip(k, periods, strict=True))
        if conjugate < k:
            continue
        axes = tuple(axis for axis, a in enumerate(k) if a)
        members.setdefault((axes, conjugate == k), []).append(k)
    groups = []
    for (axes, real), harmonics in members.items():
        bins = torch.tensor(harmonics) * (geometry.lengths // torch.tensor(periods))
        lines, found = geometry.background(bins, axes)
        null = geometry.null(axes)
        if not found.all() or len(null.at) == 0:
            return None
        groups.append(Group(tuple(harmonics), lines, null, real).to(device))
    return Plan(lengths, periods, tuple(groups))


def half_bins(lengths: tuple[int, ...]) -> int:
    """Bins of the half spectrum."""
    return prod(lengths[:-1]) * (lengths[-1] // 2 + 1)
