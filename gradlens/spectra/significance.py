"""Is there a lattice, and how sure: the excess of its new harmonics over the power around them.

    excess(f) = log P(f) - background(f)
    contrast  = mean excess of the new harmonics - mean excess of matched bins without a lattice   [dB]
    p         = share of means of resampled null excesses that reach the contrast

The null comes from the image's own spectrum, at bins of the same kind (on or off an axis, real or complex), so it knows
the image's size, channels and slope. Source: ours; the matching cancels what edges and Nyquist do to a spectrum.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from gradlens.spectra.covariance import stretch
from gradlens.spectra.envelope import Kind, Views, check_kind, neighbourhood
from gradlens.spectra.grid import Plan, plan, sparse, window_lengths
from gradlens.spectra.power import ShortTime, short_time
from gradlens.spectra.signal import Period, as_signal, at_home, periods_of, precision_of, whole

Key = TypeVar("Key")

DB = 10 / torch.log(torch.tensor(10.0, dtype=torch.float64)).item()
FLOOR = 1e-12  # of the mean power: a bin below it counts as this
DRAWS = 4000
POOL = 600  # null bins that are drawn from
SLACK = 1e-9  # in log power: a difference that is rounding reaches the contrast
LEAST_NULL = 30  # null bins in all: white noise is rejected 5 % of the time at 0.01 with 15, 2 % with 30


@dataclass(frozen=True)
class LatticeTest:
    """`contrast` `[N]` in dB, its one-sided `p_value` `[N]`, and the `window` length along each spatial axis.

    Where the image is too small for the period, contrast and p are NaN and the window is empty. Where fewer than 30
    bins of the window are free of the lattice, p alone is NaN: one spatial axis needs a window of 128 or more.
    """

    contrast: Tensor
    p_value: Tensor
    window: tuple[int, ...]


def lattice_test(
    x: Tensor, period: Period, *, kind: Kind = "signed", window: int = 32, also: Sequence[Period] = ()
) -> LatticeTest:
    """The lattice contrast with the probability that a signal without this lattice reaches it.

    The statistic is the mean excess over the new harmonics, one of each conjugate pair, once a power law is taken out of
    the spectrum and, of an envelope, the shape that its own local mean gives it. The null distribution is 4,000 seeded
    means of excesses at up to 600 bins away from the lattice, drawn from the same kind of bin as each harmonic. Their
    spread is widened to that of the contrast itself, which is known exactly for white noise (harmonics share
    backgrounds, bins overlap, the pool is finite), and by what rows of null bins are seen to have in common.

    Range: p in [1/4001, 1]; an all-constant image has contrast 0 and p 1.
    Blind to: as `lattice_contrast`.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        period: T in pixels, one for all axes or one for each (1: that axis is not tested).
        kind: `"signed"` for a pattern that repeats with its sign, `"envelope"` for uneven energy of random sign.
        window: wanted side of the windows in pixels; at least 4 T are used, at most what fits.
        also: further periods whose lattices are kept out of the null (where the window resolves them).

    Returns:
        `LatticeTest`, each field described there. p does not depend on the other images of the batch.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `period`, `kind` or `window` is out of range.

    Source: ours.

    Example:
        >>> noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(32, 32)
        >>> bool(lattice_test(noise + 0.5 * sign, 2).p_value < 0.01)
        True
    """
    return _tests(x, {"it": (period, also)}, kind, window)["it"]


def lattice_tests(
    x: Tensor, periods: Sequence[int], *, kind: Kind = "signed", window: int = 32
) -> dict[int, LatticeTest]:
    """`lattice_test` for several periods, each with the others kept out of its null.

    Periods that share a window share one short-time spectrum.

    Range, Blind to, Raises, Source: as `lattice_test`.

    Example:
        >>> x = torch.randn(2, 3, 64, 64)
        >>> {period: test.window for period, test in lattice_tests(x, (2, 4, 16)).items()}
        {2: (32, 32), 4: (32, 32), 16: (64, 64)}
    """
    return _tests(x, {p: (p, [q for q in periods if q != p]) for p in periods}, kind, window)


def lattice_contrast(x: Tensor, period: Period, *, kind: Kind = "signed", window: int = 32) -> Tensor:
    """How far the new harmonics of a lattice stand above the spectrum around them, in dB.

    The mean over the new harmonics of 10 log10(power / background), minus the same mean at bins without a lattice.

    Range: about -10 to 120 dB; 0 is no lattice, for every size and number of channels.
    Blind to: `signed`, energy placed unevenly with random sign; `envelope`, a checkerboard of sign alone.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        period: T in pixels, one for all axes or one for each (1: that axis is not tested).
        kind: `"signed"` or `"envelope"`.
        window: wanted side of the windows in pixels; at least 4 T are used, at most what fits. Compare images at one
            T and one window, never one T with another: for that use `lattice_share`.

    Returns:
        `[N]` dB; NaN where the image holds fewer than four periods. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `period`, `kind` or `window` is out of range.

    Source: ours.

    Example:
        >>> lattice_contrast(torch.zeros(1, 3, 32, 32), 2).item()
        0.0
    """
    return _over_harmonics(x, period, kind, window, by_window=False)[0]


def lattice_contrasts(
    x: Tensor,
    periods: Sequence[int],
    *,
    kinds: Sequence[Kind] = ("signed", "envelope"),
    window: int = 32,
    finite: bool = False,
) -> dict[tuple[Kind, int], Tensor]:
    """`lattice_contrast` by (kind, period), up to rounding: what shares a window shares one short-time spectrum.

    Range, Blind to, Raises, Source: as `lattice_contrast`. Differentiable.

    Args:
        x, window: as `lattice_contrast`.
        periods: in pixels.
        kinds: `"signed"`, `"envelope"` or both.
        finite: whether `x` is known to hold no NaN and no infinity: then no device is waited for.

    Example:
        >>> x = torch.randn(2, 3, 32, 32)
        >>> torch.allclose(lattice_contrasts(x, (2, 4))["signed", 4], lattice_contrast(x, 4))
        True
    """
    signal = as_signal(x, finite=finite)
    keys: list[tuple[Kind, int]] = [(kind, period) for kind in kinds for period in periods]
    plans = {key: prepare(signal, key[1], key[0], window) for key in keys}
    spectra = ShortTimes(plans.values())
    spectra.add(Views(signal, precision_of(x)))
    nothing = signal.new_full((len(signal),), float("nan"))
    return {
        key: at_home(nothing if ready is None else _contrast(spectra.of(ready), ready), x)
        for key, ready in plans.items()
    }


def lattice_map(x: Tensor, period: Period, *, kind: Kind = "signed", window: int = 32) -> Tensor:
    """The lattice contrast of each window: where in the image the lattice is.

    Range, Blind to, Args, Raises, Source: as `lattice_contrast`. One window is a noisy estimate: several dB.

    Returns:
        `[N h w]` dB for two spatial axes, one value a window, half-overlapping from border to border; NaN
        `[N 1 1]` where the image holds fewer than four periods. Differentiable.

    Example:
        >>> lattice_map(torch.randn(1, 3, 64, 64), 2).shape
        torch.Size([1, 3, 3])
    """
    contrast, grid = _over_harmonics(x, period, kind, window, by_window=True)
    return contrast.view(len(x), *grid)


def lattice_lines(x: Tensor, period: Period, *, kind: Kind = "signed", window: int = 32) -> Tensor:
    """The excess of each new harmonic by itself, in dB above bins without a lattice.

    A pure sign checkerboard is one of the three lines of T = 2, and a mean over the three dilutes it. The mean over
    one of each conjugate pair is `lattice_contrast`.

    Range, Blind to, Args, Raises, Source: as `lattice_contrast`.

    Returns:
        `[N T T]` dB for two spatial axes: entry (k, l) is the frequency (k / T, l / T); NaN for DC and the harmonics
        that a smaller divisor of T has, and everywhere if the image holds fewer than four periods. Differentiable.

    Example:
        >>> sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16).view(1, 1, 32, 32)
        >>> lines = lattice_lines(sign, 2)
        >>> bool(lines[0, 1, 1] > 100), bool(lines[0, 0, 1].abs() < 0.01)
        (True, True)
    """
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    lines = signal.new_full((len(signal), *periods), float("nan"))
    ready = prepare(signal, period, kind, window)
    if ready is None:
        return at_home(lines, x)
    spectrum = short_time(
        Views(signal, precision_of(x)).rounded(kind, periods), ready.lengths, pseudo=ready.needs_pseudo
    )
    for group, (excess, null) in zip(ready.groups, _excesses(spectrum, ready), strict=True):
        for column, k in enumerate(group.harmonics):
            value = DB * (excess[:, column] - null.mean(-1))
            for harmonic in (k, tuple(-a % p for a, p in zip(k, periods, strict=True))):
                lines[(slice(None), *harmonic)] = value
    return at_home(lines, x)


def _tests(
    x: Tensor, wanted: Mapping[Key, tuple[Period, Sequence[Period]]], kind: Kind, window: int
) -> dict[Key, LatticeTest]:
    """`lattice_test` for each wanted (period, others)."""
    signal = as_signal(x.detach() if isinstance(x, Tensor) else x)
    plans = {key: prepare(signal, period, kind, window, also) for key, (period, also) in wanted.items()}
    spectra = ShortTimes(plans.values())
    spectra.add(Views(signal, precision_of(x)))
    shape = tuple(signal.shape[1:])
    tests = {key: spectra.test(ready, len(signal), shape, signal) for key, ready in plans.items()}
    return {
        key: LatticeTest(at_home(test.contrast, x), at_home(test.p_value, x), test.window)
        for key, test in tests.items()
    }


class ShortTimes:
    """The short-time spectra that some plans need, one for all that share a window, gathered part by part of a batch.

    Args:
        plans: of one kind or both; None asks for nothing.
        also: window lengths of further spectra of the signal itself.
    """

    def __init__(self, plans: Iterable[Plan | None], *, also: Sequence[tuple[int, ...]] = ()) -> None:
        self._needs: dict[tuple, tuple[Kind, tuple[int, ...], bool]] = {
            (lengths, ()): ("signed", (1,) * len(lengths), False) for lengths in also
        }
        for ready in plans:
            if ready is not None:
                before = self._needs.get(_key(ready), (ready.kind, ready.periods, False))
                self._needs[_key(ready)] = (*before[:2], before[2] or ready.needs_pseudo)
        self._parts: dict[tuple, list[ShortTime]] = {key: [] for key in self._needs}

    def add(self, views: Views) -> None:
        """Transform the next images."""
        for key, (kind, periods, pseudo) in self._needs.items():
            self._parts[key].append(short_time(views.rounded(kind, periods), key[0], pseudo=pseudo))

    def power(self, lengths: tuple[int, ...]) -> Tensor:
        """The mean power in the half spectrum `[N B]` of the signals so far, on windows of `lengths`."""
        return torch.cat([part.power for part in self._parts[lengths, ()]])

    def of(self, ready: Plan) -> ShortTime:
        """What a plan reads, of the images so far."""
        parts = self._parts[_key(ready)]
        return ShortTime(torch.cat([p.power for p in parts]), torch.cat([p.parts for p in parts]), parts[0].grid)

    def test(self, ready: Plan | None, count: int, shape: tuple[int, ...], like: Tensor) -> LatticeTest:
        """The test of the `count` images so far, of `shape` `[C *spatial]`; NaN where there is no plan."""
        if ready is None:
            nothing = like.new_full((count,), float("nan"))
            return LatticeTest(nothing, nothing.clone(), ())
        channels = shape[0] if ready.kind == "signed" else 1
        return LatticeTest(*_p_value(self.of(ready), ready, shape[1:], channels), ready.lengths)


def _key(ready: Plan) -> tuple:
    """What two periods must share to share a spectrum: the window and, for the envelope, its neighbourhood."""
    return (ready.lengths, tuple(map(neighbourhood, ready.periods)) if ready.kind == "envelope" else ())


def prepare(signal: Tensor, period: Period, kind: Kind, window: int, also: Sequence[Period] = ()) -> Plan | None:
    """The plan for this size of signal, None if it is too small for this period."""
    check_kind(kind)
    periods, *others = (periods_of(p, signal.ndim - 2) for p in (period, *also))
    lengths = window_lengths(tuple(signal.shape[2:]), periods, whole(window, "window", least=1))
    return None if lengths is None else plan(lengths, periods, tuple(others), kind, signal.device)


def _over_harmonics(
    x: Tensor, period: Period, kind: Kind, window: int, *, by_window: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """The contrast `[N]`, or `[N W]` with the grid of windows."""
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    ready = prepare(signal, period, kind, window)
    if ready is None:
        shape = (len(signal), 1) if by_window else (len(signal),)
        return at_home(signal.new_full(shape, float("nan")), x), (1,) * len(periods)
    spectrum = short_time(
        Views(signal, precision_of(x)).rounded(kind, periods),
        ready.lengths,
        pseudo=ready.needs_pseudo,
        by_window=by_window,
    )
    return at_home(_contrast(spectrum, ready), x), spectrum.grid


def _contrast(spectrum: ShortTime, ready: Plan) -> Tensor:
    """The contrast in dB of each spectrum: `[N]` or `[N W]`."""
    contrast = spectrum.power.new_zeros(())
    for excess, null in _excesses(spectrum, ready):
        contrast = contrast + (excess - null.mean(-1, keepdim=True)).sum(-1)
    return DB * contrast / ready.count


def _excesses(spectrum: ShortTime, ready: Plan) -> list[tuple[Tensor, Tensor]]:
    """For each group of the plan the log excess of its harmonics `[... n]` and of its null pool `[... M]`.

    The null of a real harmonic, which has one degree of freedom, holds the real and the imaginary part of each bin.
    """
    mean = spectrum.power.mean(-1, keepdim=True)
    floor = torch.where(mean > 0, FLOOR * mean, 1.0)
    log_power = (spectrum.power + floor).log()
    trend = torch.where(mean > 0, ready.trend(log_power), 0.0)
    log_power = log_power - trend
    parts = []
    if ready.needs_pseudo:
        parts = [(2 * part + floor).log() - trend for part in spectrum.parts.unbind(-1)]
    return [group.excesses(log_power, parts) for group in ready.groups]


def _p_value(spectrum: ShortTime, ready: Plan, extent: tuple[int, ...], channels: int) -> tuple[Tensor, Tensor]:
    """Contrast in dB and p, both `[N]`."""
    nothing = spectrum.power.new_zeros(len(spectrum.power))
    contrast, variance, shared = nothing, nothing, nothing
    draws = spectrum.power.new_zeros(len(spectrum.power), DRAWS)
    for number, (group, (excess, null)) in enumerate(zip(ready.groups, _excesses(spectrum, ready), strict=True)):
        centre = null.mean(-1, keepdim=True)
        departure = null - centre
        contrast = contrast + (excess - centre).sum(-1)
        variance = variance + excess.shape[-1] * departure.square().mean(-1)
        for planes in group.planes:
            shared = shared + planes.line_pairs * planes.covariance(departure)
        pool = departure[:, :POOL] if not group.real else departure.unflatten(1, (2, -1))[:, :, :POOL].flatten(1)
        draws = draws + _drawn(pool - pool.mean(-1, keepdim=True), excess.shape[-1], number)
    # upright edges have spectra that are a product of one for each axis: whole rows of harmonics rise and fall together
    surplus = shared.clamp(min=0) / torch.where(variance > 0, variance, 1.0)
    draws = (stretch(ready, extent, channels) ** 2 + surplus).sqrt()[:, None] * draws
    reached = (draws >= contrast[:, None] - SLACK).sum(-1)
    p_value = (1 + reached).double() / (1 + DRAWS)
    few = sum(len(group.null.at) for group in ready.groups) < LEAST_NULL
    return DB * contrast / ready.count, torch.full_like(p_value, float("nan")) if few else p_value


def _drawn(null: Tensor, n: int, seed: int) -> Tensor:
    """Sums of n values drawn from each row of `null` `[N M]` with replacement: `[N draws]`."""
    return (_draws(n, null.shape[-1], seed, null.device) @ null.T.contiguous()).T


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _draws(n: int, size: int, seed: int, device: torch.device) -> Tensor:
    """How often each of `size` null values is in each of the draws of n with replacement: sparse `[draws size]`."""
    index = torch.randint(size, (DRAWS, n), generator=torch.Generator().manual_seed(seed))
    return sparse(torch.arange(DRAWS)[:, None].expand_as(index), index, torch.ones(index.shape), (DRAWS, size), device)
