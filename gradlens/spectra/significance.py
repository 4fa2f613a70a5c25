"""Is there a lattice, and how sure: the excess of its new harmonics over the power around them.

    excess(f) = log P(f) - background(f)
    contrast  = mean excess of the new harmonics - mean excess of matched bins without a lattice   [dB]
    p         = share of means of resampled null excesses that reach the contrast

The null comes from the image's own spectrum, at bins of the same kind (on or off an axis, real or complex), so it knows
the image's size, channels and slope. Source: ours; the matching cancels what edges and Nyquist do to a spectrum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from gradlens.spectra.covariance import stretch
from gradlens.spectra.envelope import Kind, check_kind, neighbourhood, seen
from gradlens.spectra.grid import Plan, plan, window_lengths
from gradlens.spectra.power import ShortTime, short_time
from gradlens.spectra.signal import Period, as_signal, at_home, periods_of, whole

Key = TypeVar("Key")

DB = 10 / torch.log(torch.tensor(10.0, dtype=torch.float64)).item()
FLOOR = 1e-12  # of the mean power: a bin below it counts as this
DRAWS = 4000
FEW = 4  # values of a draw that are gathered rather than multiplied out
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

    The statistic is the mean excess over the new harmonics, one of each conjugate pair. Its null distribution is 4,000
    seeded means of excesses at up to 600 bins away from the lattice, drawn from the same kind of bin as each harmonic;
    their spread is multiplied by the ratio that it has for white noise to that of the contrast itself, which is known
    exactly: harmonics share backgrounds, bins overlap, and the pool is finite.

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
        >>> bool(lines[0, 1, 1] > 100), bool(lines[0, 0, 1].abs() < 1e-6)
        (True, True)
    """
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    lines = signal.new_full((len(signal), *periods), float("nan"))
    ready = _prepare(signal, periods, kind, window, ())
    if ready is None:
        return at_home(lines, x)
    spectrum = short_time(seen(signal, kind, periods), ready.lengths, pseudo=ready.needs_pseudo)
    for group, (excess, null) in zip(ready.groups, _excesses(spectrum, ready), strict=True):
        for column, k in enumerate(group.harmonics):
            value = DB * (excess[:, column] - null.mean(-1))
            for harmonic in (k, tuple(-a % p for a, p in zip(k, periods, strict=True))):
                lines[(slice(None), *harmonic)] = value
    return at_home(lines, x)


def _tests(
    x: Tensor, wanted: Mapping[Key, tuple[Period, Sequence[Period]]], kind: Kind, window: int
) -> dict[Key, LatticeTest]:
    """`lattice_test` for each wanted (period, others); one short-time spectrum for each window."""
    signal = as_signal(x.detach() if isinstance(x, Tensor) else x)
    axes = signal.ndim - 2
    plans = {
        key: _prepare(signal, periods_of(period, axes), kind, window, tuple(periods_of(q, axes) for q in also))
        for key, (period, also) in wanted.items()
    }
    spectra: dict[tuple, ShortTime] = {}
    tests = {}
    for name, ready in plans.items():
        if ready is None:
            nothing = at_home(signal.new_full((len(signal),), float("nan")), x)
            tests[name] = LatticeTest(nothing, nothing.clone(), ())
            continue
        key = _key(ready, kind)
        if key not in spectra:
            pseudo = any(other.needs_pseudo for other in plans.values() if other and _key(other, kind) == key)
            spectra[key] = short_time(seen(signal, kind, ready.periods), ready.lengths, pseudo=pseudo)
        contrast, p_value = _p_value(
            spectra[key], ready, tuple(signal.shape[2:]), 1 if kind == "envelope" else signal.shape[1]
        )
        tests[name] = LatticeTest(at_home(contrast, x), at_home(p_value, x), ready.lengths)
    return tests


def _key(ready: Plan, kind: Kind) -> tuple:
    """What two periods must share to share a spectrum: the window and, for the envelope, its neighbourhood."""
    return (ready.lengths, tuple(map(neighbourhood, ready.periods)) if kind == "envelope" else ())


def _prepare(
    signal: Tensor, periods: tuple[int, ...], kind: Kind, window: int, also: tuple[tuple[int, ...], ...]
) -> Plan | None:
    """The plan for this size of signal, None if it is too small for these periods."""
    check_kind(kind)
    lengths = window_lengths(tuple(signal.shape[2:]), periods, whole(window, "window", least=1))
    box = tuple(map(neighbourhood, periods)) if kind == "envelope" else None
    return None if lengths is None else plan(lengths, periods, also, box, signal.device)


def _over_harmonics(
    x: Tensor, period: Period, kind: Kind, window: int, *, by_window: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """The contrast `[N]`, or `[N W]` with the grid of windows."""
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    ready = _prepare(signal, periods, kind, window, ())
    if ready is None:
        shape = (len(signal), 1) if by_window else (len(signal),)
        return at_home(signal.new_full(shape, float("nan")), x), (1,) * len(periods)
    spectrum = short_time(seen(signal, kind, periods), ready.lengths, pseudo=ready.needs_pseudo, by_window=by_window)
    contrast = spectrum.power.new_zeros(())
    for excess, null in _excesses(spectrum, ready):
        contrast = contrast + (excess - null.mean(-1, keepdim=True)).sum(-1)
    return at_home(DB * contrast / ready.count, x), spectrum.grid


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
        parts = [((spectrum.power + s * spectrum.pseudo).clamp(min=0) + floor).log() - trend for s in (1, -1)]
    found = []
    for group in ready.groups:
        nulls = [group.null.excess(part, log_power) for part in (parts if group.real else [log_power])]
        found.append((group.lines.excess(log_power, log_power), torch.cat(nulls, -1)))
    return found


def _p_value(spectrum: ShortTime, ready: Plan, extent: tuple[int, ...], channels: int) -> tuple[Tensor, Tensor]:
    """Contrast in dB and p, both `[N]`."""
    contrast = spectrum.power.new_zeros(len(spectrum.power))
    draws = spectrum.power.new_zeros(len(spectrum.power), DRAWS)
    for number, (excess, null) in enumerate(_excesses(spectrum, ready)):
        centre = null.mean(-1, keepdim=True)
        contrast = contrast + (excess - centre).sum(-1)
        draws = draws + _drawn(null - centre, excess.shape[-1], number)
    draws = stretch(ready, extent, channels) * draws
    reached = (draws >= contrast[:, None] - SLACK).sum(-1)
    p_value = (1 + reached).double() / (1 + DRAWS)
    few = sum(len(group.null.at) for group in ready.groups) < LEAST_NULL
    return DB * contrast / ready.count, torch.full_like(p_value, float("nan")) if few else p_value


def _drawn(null: Tensor, n: int, seed: int) -> Tensor:
    """Sums of n values drawn from each row of `null` `[N M]` with replacement: `[N draws]`."""
    index = _draws(n, null.shape[-1], seed).to(null.device)
    if n <= FEW:
        return null[:, index].sum(-1)
    counts = null.new_zeros(DRAWS, null.shape[-1]).scatter_add_(1, index, torch.ones_like(index, dtype=null.dtype))
    return null @ counts.T


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _draws(n: int, size: int, seed: int) -> Tensor:
    """Which of `size` null values are in each of the draws of n with replacement: `[draws n]`."""
    return torch.randint(size, (DRAWS, n), generator=torch.Generator().manual_seed(seed))
