"""Where the lattice of a period lies on the grid of a Fourier transform, and what each of its bins is compared with.

On a window of L samples the lattice of T are the bins k L / T. Three kinds of bin matter: the *new* harmonics of T
(no smaller divisor of T has them), the ring around a bin from which its background is fitted, and the null bins that
tell how far a bin without a lattice strays from its background. A spectrum that falls as a power of the frequency, as
those of pictures do, is straightened first, by the slope of the null bins. All of it depends on (L, T) alone and is
computed once.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, prod

import torch
from torch import Tensor

from gradlens.spectra.envelope import Kind, neighbourhood

CLEAR = 2  # bins between a lattice line and a bin that must not see it: Hann's main lobe
NULL_BINS = {1: 4096, 2: 4096, 3: 600}  # at most, by spatial axes; those of three have rings of 600 bins


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
    """Some bins of a half spectrum `[n]`, each with the ring its background is fitted on, at `offsets` `[K D]` from it:
    `ring` and `weight` `[n K]`.
    """

    at: Tensor
    ring: Tensor
    weight: Tensor
    offsets: Tensor

    def functional(self, bins: int) -> Tensor:
        """The weights `[B]` with which log power at each of `bins` goes into the sum of the excesses."""
        weights = self.weight.new_zeros(bins).index_add_(0, self.at, self.weight.new_ones(len(self.at)))
        return weights.index_add_(0, self.ring.flatten(), -self.weight.flatten())

    def kept(self, found: Tensor) -> "Bins":
        return Bins(self.at[found], self.ring[found], self.weight[found], self.offsets)


@dataclass(frozen=True)
class Planes:
    """Along one axis: the distance from DC of each null bin `[M]`, below `extent`, how many ordered pairs of null bins
    share one, and how many of harmonics do.
    """

    of_null: Tensor
    extent: int
    null_pairs: int
    line_pairs: int

    def covariance(self, departure: Tensor) -> Tensor:
        """What null excesses in one plane have in common: the mean product `[N]` of pairs of `departure` `[N M]`."""
        sums = departure.new_zeros(len(departure), self.extent).index_add_(1, self.of_null, departure)
        return (sums.square().sum(1) - departure.square().sum(1)) / self.null_pairs


@dataclass(frozen=True)
class Group:
    """Harmonics that share a null pool: the same axes, and real (`one degree of freedom`) or complex alike.

    `at` `[n + M]` are the bins of the harmonics and of the null, `fit` the sparse `[n + M, B]` that gives their
    backgrounds from log power, and `planes` tell which of them share a coordinate; on the device of the data.
    """

    harmonics: tuple[tuple[int, ...], ...]  # (k, l, ...) in units of 1/T, one of each conjugate pair
    lines: Bins
    null: Bins
    real: bool
    at: Tensor
    fit: Tensor
    planes: tuple["Planes", ...]

    def excesses(self, log_power: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`log_power` `[... B]` above its background at the harmonics `[... n]`, and at the null `[... M]`.

        For a real group the null holds `parts`, the logarithms of twice the squared real and imaginary parts.
        """
        flat = log_power.flatten(0, -2)
        background = (self.fit @ flat.T.contiguous()).T.reshape(*log_power.shape[:-1], len(self.at))
        n = len(self.harmonics)
        lines, null = (background[..., :n], background[..., n:])
        nulls = [part[..., self.at[n:]] - null for part in (parts if self.real else [log_power])]
        return log_power[..., self.at[:n]] - lines, torch.cat(nulls, -1)


def _planes(
    harmonics: Sequence[tuple[int, ...]], lines: Bins, null: Bins, lengths: tuple[int, ...], device: torch.device
) -> list[Planes]:
    """The planes of every axis along which harmonics share them."""
    axes = [axis for axis, k in enumerate(harmonics[0]) if k]
    found = []
    for axis in axes if len(axes) > 1 else []:
        distances = [_from_dc(bins.at, lengths)[:, axis] for bins in (null, lines)]
        null_pairs, line_pairs = (int((n * (n - 1)).sum()) for n in map(torch.bincount, distances))
        if null_pairs and line_pairs:
            found.append(Planes(distances[0].to(device), lengths[axis] // 2 + 1, null_pairs, line_pairs))
    return found


def _from_dc(at: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Distance from DC along each axis `[n D]` of flat indices `[n]` into the half spectrum."""
    columns = []
    for length, extent in reversed(
        [*zip(lengths[:-1], lengths[:-1], strict=True), (lengths[-1], lengths[-1] // 2 + 1)]
    ):
        columns.append(torch.minimum(at % extent, length - at % extent))
        at = at // extent
    return torch.stack(columns[::-1], 1)


def _group(
    harmonics: Sequence[tuple[int, ...]],
    lines: Bins,
    null: Bins,
    real: bool,
    lengths: tuple[int, ...],
    device: torch.device,
) -> Group:
    """A group with its sparse background on `device`."""
    both = (lines, null)
    row = torch.arange(sum(len(b.at) for b in both))
    ring, weight = (torch.cat(parts) for parts in ([b.ring for b in both], [b.weight for b in both]))
    fit = sparse(row[:, None].expand_as(ring), ring, weight, (len(row), half_bins(lengths)), device)
    at = torch.cat([b.at for b in both]).to(device)
    planes = tuple(_planes(harmonics, lines, null, lengths, device))
    return Group(tuple(harmonics), lines, null, real, at, fit, planes)


def sparse(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    """A matrix of `shape` in float64, by rows, from entries of equal shape; those of one place are summed."""
    at = torch.stack([row.flatten(), column.flatten()])
    matrix = torch.sparse_coo_tensor(at, value.double().flatten(), shape, check_invariants=False).coalesce()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        by_row = matrix.to_sparse_csr()
        rows, columns = by_row.crow_indices().int(), by_row.col_indices().int()  # of int64 each product makes int32
        return torch.sparse_csr_tensor(rows, columns, by_row.values(), shape, check_invariants=False).to(device)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about one lattice on one window length that does not depend on data.

    `shape` and `law` `[B]` are what `shapes` gives. The steepness of a spectrum, its power of the frequency, is the sum
    of its log power at the bins `fit_at` times `fit_weight`.
    """

    kind: Kind
    lengths: tuple[int, ...]
    periods: tuple[int, ...]
    groups: tuple[Group, ...]
    shape: Tensor
    law: Tensor
    fit_at: Tensor
    fit_weight: Tensor

    def trend(self, log_power: Tensor) -> Tensor:
        """The known shape and the power law that log power `[... B]` follows at the null bins: `[... B]`."""
        steepness = (log_power - self.shape)[..., self.fit_at] @ self.fit_weight
        return self.shape + steepness[..., None] * self.law

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
        return Bins(half_index(bins, lengths), half_index(ring, lengths), weight, offsets), found

    def clear(self, axes: tuple[int, ...]) -> Tensor:
        """The bins [n D] without a lattice that are chosen like the harmonics on `axes`, one of each conjugate pair."""
        lengths = tuple(self.lengths.tolist())
        bins = torch.cartesian_prod(*[torch.arange(length) for length in lengths]).view(-1, len(lengths))
        bins = _first_of_each(bins, half_index(bins, lengths))
        keep = _distance(bins, self.lengths / 2) >= CLEAR  # a real bin, and what it leaks into, has other statistics
        for spacing in (self.spacing, *self.others):
            keep &= _distance(bins, spacing) >= CLEAR
        away = folded(bins, self.lengths)
        keep &= (away[:, list(axes)] >= CLEAR).all(-1)
        keep &= away.double().square().sum(-1).sqrt() >= self.spacing[self.spacing < self.lengths].min() / 2
        return bins[keep]

    def null(self, axes: tuple[int, ...]) -> Bins:
        """The clear bins, or a sample of them, in random order and with their backgrounds."""
        bins = self.clear(axes)
        order = torch.randperm(len(bins), generator=torch.Generator().manual_seed(0))
        null, found = self.background(bins[order[: NULL_BINS[bins.shape[1]]]], axes)
        return null.kept(found)

    def slope_fit(self, every_axes: Sequence[tuple[int, ...]], law: Tensor) -> tuple[Tensor, Tensor]:
        """The clear bins, and the weights whose sum with log power there is its least-squares slope over `law`.

        A bin counts by 1 / |f|^D, so that every octave counts the same.
        """
        lengths = tuple(self.lengths.tolist())
        at = torch.cat([half_index(self.clear(axes), lengths) for axes in every_axes]).unique()
        octaves = (-len(lengths) * law[at]).exp()
        departure = law[at] - (law[at] * octaves).sum() / octaves.sum()
        square = (octaves * departure.square()).sum()
        return at, octaves * departure / square if square > 0 else torch.zeros_like(departure)


def _first_of_each(bins: Tensor, index: Tensor) -> Tensor:
    """`bins` without repeats of `index`: one of each conjugate pair, in order of `index`."""
    order = index.argsort(stable=True)
    index = index[order]
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    return bins[order][first]


def shapes(lengths: tuple[int, ...], box: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """What is known of a spectrum without a lattice, in log power `[B]`: its shape, and what a power law adds.

    The shape is that of white noise whose mean over a box was taken out, |1 - D(f)|^2 with D the transform of the box;
    flat without one. The power law is |f|^1, with |f|^2 = sum_i sin^2(pi f_i), the symbol of the discrete Laplacian:
    flat at Nyquist as the spectrum of a sampled edge. Both as a Hann window sees them, in the bin and its neighbours.
    """
    square, mean = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for axis, length in enumerate(lengths):
        frequency = torch.arange(length, dtype=torch.float64) / length
        square = square[..., None] + (torch.pi * frequency).sin().square()
        mean = mean[..., None] * (torch.ones_like(frequency) if box is None else _box_mean(frequency, box[axis]))
    gain = torch.ones_like(square) if box is None else (1 - mean).square()
    flat, steep = (_leaked(g, lengths) for g in (gain, gain / square.clamp(min=(torch.pi / max(lengths)) ** 2)))
    return flat, (flat - steep) / 2


def _box_mean(frequency: Tensor, side: int) -> Tensor:
    """The transform of a centred mean over `side` pixels; the two at the ends count half if the side is even."""
    reach = torch.arange(-(side // 2), side // 2 + 1, dtype=torch.float64)
    weight = torch.ones_like(reach)
    if side % 2 == 0:
        weight[0] = weight[-1] = 0.5
    return (2 * torch.pi * frequency[:, None] * reach).cos() @ weight / side


def _leaked(power: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """log of `power` `[*L]` seen through a Hann window: 2/3 of each bin, 1/6 of its neighbours; the half spectrum."""
    for axis, length in enumerate(lengths):
        if length > 2:
            power = (4 * power + power.roll(1, axis) + power.roll(-1, axis)) / 6
    return power[..., : lengths[-1] // 2 + 1].flatten().clamp(min=1e-9).log()


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
    kind: Kind,
    device: torch.device,
) -> Plan | None:
    """The plan for the lattice of `periods` on windows of `lengths`; None if a harmonic has no background or no null.

    Args:
        also: other periods, kept out of the null.
        kind: of what the spectrum is; that of an envelope lacks the mean over its neighbourhood.
    """
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
        groups.append(_group(harmonics, lines, null, real, lengths, device))
    shape, law = shapes(lengths, tuple(map(neighbourhood, periods)) if kind == "envelope" else None)
    known = [value.to(device) for value in (shape, law, *geometry.slope_fit([axes for axes, _ in members], law))]
    return Plan(kind, lengths, periods, tuple(groups), *known)


def half_bins(lengths: tuple[int, ...]) -> int:
    """Bins of the half spectrum."""
    return prod(lengths[:-1]) * (lengths[-1] // 2 + 1)
