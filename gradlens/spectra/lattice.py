"""How much of a signal is a lattice: the energy at the frequencies (k/T, l/T), without any transform.

The part of a signal that repeats with period T is its mean over each of the T x T sampling phases, so

    share = variance of the phase means / total variance.

Source: Parseval's theorem; ours as a measure.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from gradlens.spectra.envelope import Kind, Views, check_kind
from gradlens.spectra.grid import new_harmonics
from gradlens.spectra.signal import Period, as_signal, at_home, centred, holds_two, periods_of, precision_of


def lattice_share(x: Tensor, period: Period, *, kind: Kind = "signed", new: bool = False) -> Tensor:
    """Energy on the lattice of a period over all energy, both without DC.

    Range: [0, 1]; white noise reads `lattice_share_floor`, a constant image 0. The share of 4 contains that of 2.
    Blind to: `signed`, energy placed unevenly with random sign; `envelope`, a checkerboard of sign alone; both, a
        lattice whose sign or place wanders over the image.

    Args:
        x: `[N C *spatial]`, floating point, any unit; cut at the end to whole periods.
        period: T in pixels, one for all axes or one for each.
        kind: `"signed"` or `"envelope"`.
        new: count only the harmonics that no smaller divisor of T has.

    Returns:
        `[N]`; NaN where the image holds fewer than two periods. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `period` or `kind` is out of range.

    Source: Parseval's theorem.

    Example:
        >>> sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)
        >>> lattice_share(sign, 2).item()
        1.0
    """
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    check_kind(kind)
    if not holds_two(signal.shape[2:], periods):
        return at_home(signal.new_full((len(signal),), float("nan")), x)
    on, total = lattice_energy(Views(signal, precision_of(x)).seen(kind, periods).double(), periods, new=new)
    empty = total == 0
    return at_home(torch.where(empty, 0.0, on / torch.where(empty, 1.0, total)), x)


def lattice_share_floor(size: Sequence[int], period: Period, *, new: bool = False) -> float:
    """The share that white noise of `size` (spatial, in pixels) has on average: its part of the frequencies.

    Range: [0, 1]. Source: (T^2 - 1) / (H W - 1), the number of harmonics over that of frequencies, both without DC.

    Example:
        >>> round(lattice_share_floor((32, 32), 2), 4)
        0.0029
    """
    periods = periods_of(period, len(size))
    whole = prod(extent // p * p for extent, p in zip(size, periods, strict=True))
    if whole < 2:
        return float("nan")
    return (len(new_harmonics(periods)) if new else prod(periods) - 1) / (whole - 1)


def lattice_energy(x: Tensor, periods: tuple[int, ...], *, new: bool) -> tuple[Tensor, Tensor]:
    """Mean square per pixel on the lattice and in all, without DC, summed over channels: `[N]`, `[N]`."""
    axes = tuple(range(2, x.ndim))
    for axis, period in enumerate(periods, start=2):
        x = x.narrow(axis, 0, x.shape[axis] // period * period)
    x = centred(x, axes)
    repeat = phase_means(x, periods)  # [N C *T]
    total = x.square().mean(axes).sum(1)
    if not new or not len(x):  # not every FFT takes an empty batch
        return repeat.square().mean(axes).sum(1), total
    spectrum = torch.fft.fftn(repeat, dim=axes, norm="forward")
    mask = torch.zeros(periods, dtype=torch.bool, device=x.device)  # multiplied, not indexed: no device is waited for
    for k in new_harmonics(periods):
        mask[k] = True
    return ((spectrum.real.square() + spectrum.imag.square()) * mask).sum((1, *axes)), total


def lattice_shares(x: Tensor, every: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """`lattice_share` of a signal for several periods: what one has folded, its divisors fold on."""
    axes = tuple(range(2, x.ndim))
    x = centred(x, axes)
    folds: dict[tuple[int, ...], list[tuple[tuple[int, ...], Tensor]]] = {}
    squares: dict[tuple[int, ...], Tensor] = {}
    found: dict[tuple[int, ...], Tensor] = {}
    for periods in sorted(every, key=prod, reverse=True):
        if not holds_two(x.shape[2:], periods):
            found[periods] = x.new_full((len(x),), float("nan"))
            continue
        crop = tuple(extent // p * p for extent, p in zip(x.shape[2:], periods, strict=True))
        whole = x[(slice(None), slice(None), *map(slice, crop))]
        if crop not in squares:
            squares[crop] = torch.linalg.vector_norm(whole, dim=axes).square() / prod(crop)
        earlier = folds.setdefault(crop, [])
        source = next(
            (fold for by, fold in reversed(earlier) if all(b % p == 0 for b, p in zip(by, periods, strict=True))), whole
        )
        fold = phase_means(source, periods)
        earlier.append((periods, fold))
        mean = fold.mean(axes, keepdim=True)
        total = (squares[crop] - mean.flatten(1).square()).sum(1)
        on = (fold - mean).square().mean(axes).sum(1)
        empty = squares[crop].sum(1) == 0
        found[periods] = torch.where(empty, 0.0, (on / torch.where(empty, 1.0, total)).clamp(0, 1))
    return [found[periods] for periods in every]


def phase_means(x: Tensor, periods: tuple[int, ...]) -> Tensor:
    """The mean over each sampling phase of `[N C *spatial]`, cut at the end to whole periods: `[N C *T]`."""
    for axis, period in enumerate(periods, start=2):
        x = x.narrow(axis, 0, x.shape[axis] // period * period).unflatten(axis, (-1, period)).mean(axis)
    return x


def notch(x: Tensor, periods: Sequence[Period] | int) -> Tensor:
    """`x` without the parts that repeat with `periods`; what is left has lattice share 0, its mean is kept.

    Range: that of `x`, up to the removed part.
    Blind to: a lattice that wanders over the image; only what repeats over all of it is removed.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        periods: one period or several; a period that divides another is removed with it.

    Returns:
        Like `x`, same dtype. Means are over whole periods, as in `lattice_share`. Exact for one period at any size, and
        for several where the sides are multiples of all. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; a period is out of range or above a side.

    Source: the projection of `lattice_share`.

    Example:
        >>> sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)
        >>> notch(0.5 + sign, 2).unique().tolist()
        [0.5]
    """
    signal = as_signal(x)
    for period in [periods] if isinstance(periods, int) else periods:
        signal = _without(signal, periods_of(period, signal.ndim - 2))
    return signal.to(x.device, x.dtype)


def _without(x: Tensor, periods: tuple[int, ...]) -> Tensor:
    """`x` minus the part that repeats with `periods`; where that leaves the mean up to rounding, exactly the mean."""
    axes = tuple(range(2, x.ndim))
    if any(extent < p for extent, p in zip(x.shape[2:], periods, strict=True)):
        raise ValueError(f"x: each side must hold a period of {periods}, got {list(x.shape[2:])}")
    repeat = phase_means(x, periods)  # [N C *T]
    mean = repeat.mean(axes, keepdim=True)
    for axis, extent in enumerate(x.shape[2:], start=2):
        repeat = repeat.index_select(axis, torch.arange(extent, device=x.device) % periods[axis - 2])
    rest = x - repeat
    rounding = 4 * torch.finfo(x.dtype).eps * x.detach().abs().amax(axes, keepdim=True)
    return mean + torch.where(rest.detach().abs() <= rounding, 0.0, rest)
