"""Power spectra by Welch's method: the mean periodogram of half-overlapping windows.

    P(f) = mean over windows of |sum_n w(n) (x(n) - mean) exp(-2 pi i f n)|^2 / sum_n w(n)^2

White noise of variance s^2 has P = s^2 in every bin. Source: Welch 1967; the normalised window as in Karras et al.
2021 (StyleGAN3), section "average power spectra".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor

from gradlens.spectra.grid import half_bins, half_index
from gradlens.spectra.signal import as_signal, at_home, centred, whole

WINDOWED_VALUES = (1 << 25, 1 << 19)  # window samples held at once: elsewhere, and on a CPU, whose caches hold 4 MiB


def power_spectrum(x: Tensor, *, window: Literal["hann", "none"] = "hann", size: int | None = None) -> Tensor:
    """Power of each channel at each DFT frequency, float64, linear, unshifted.

    Range: [0, inf); white noise of variance s^2 has s^2 in every bin.
    Blind to: where in the image the power is, and its phase.

    Args:
        x: `[N C *spatial]`, floating point, any unit; the power has that unit squared.
        window: `"hann"` (periodic) keeps a strong frequency out of the others; `"none"` is the plain periodogram.
        size: side of the windows in pixels; they overlap by half and cover the image, and their spectra are averaged.
            Without it one window spans the image. A size above the image's is cut to it.

    Returns:
        `[N C *frequency]`: bin k of L along an axis is k / L cycles per pixel, negative frequencies above L / 2.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `window` is unknown; `size` is below 1.

    Source: Welch 1967.

    Example:
        >>> x = torch.tensor([1.0, -1.0]).repeat(16).view(1, 1, 32)
        >>> power_spectrum(x, window="none").argmax().item() / 32
        0.5
    """
    size = None if size is None else whole(size, "size", least=1)
    signal = as_signal(x)
    extent = tuple(signal.shape[2:])
    lengths = extent if size is None else tuple(min(size, e) for e in extent)
    taper = _taper(lengths, signal.device, window)
    axes = tuple(range(-len(lengths), 0))
    starts = window_starts(extent, lengths)
    power = signal.new_zeros(*signal.shape[:2], *lengths)
    strips = _strips(signal, lengths, starts, WINDOWED_VALUES[x.device.type == "cpu"]) if len(signal) else ()
    for strip, own in strips:  # not every FFT takes an empty batch
        windows = _windows(strip, lengths, [[begin - o[0] for begin in o] for o in own])  # [N C *grid *L]
        spectrum = torch.fft.fftn(centred(windows, axes) * taper, dim=axes)
        power = power + (spectrum.real.square() + spectrum.imag.square()).sum(tuple(range(2, 2 + len(extent))))
    return at_home(power / (prod(map(len, starts)) * taper.square().sum()), x)


@dataclass(frozen=True)
class ShortTime:
    """Power in the half spectrum, summed over channels: the mean over windows `[N B]`, or each window's `[N W B]`.

    `parts` `[... 2]` holds the like sums of the squared real and imaginary parts, with the window's position taken out
    of the phase: what a real bin holds one of. Empty where not asked for.
    """

    power: Tensor
    parts: Tensor
    grid: tuple[int, ...]


def short_time(x: Tensor, lengths: tuple[int, ...], *, pseudo: bool, by_window: bool = False) -> ShortTime:
    """The short-time spectrum of a signal on Hann windows of `lengths`; work is bounded, whatever N is.

    Each window is transformed in the precision of `x` and the powers are summed in float64. The mean of a window is taken
    out first, so that a bright picture loses no digits; a constant signal has exactly no power.
    """
    starts = window_starts(tuple(x.shape[2:]), lengths)
    grid = tuple(map(len, starts))
    most = WINDOWED_VALUES[x.device.type == "cpu"]
    images = max(1, most // (x.shape[1] * prod(grid) * prod(lengths)))
    shape = (prod(grid), half_bins(lengths), 2) if by_window else (half_bins(lengths), 2)
    found = [x.new_zeros(0, *shape, dtype=torch.float64)]
    for part in x.split(images) if len(x) else ():  # not every FFT takes an empty batch
        strips = [(part, starts)] if by_window else _strips(part, lengths, starts, most)
        sums = (
            _cut(lengths, tuple(map(tuple, own)), x.device, x.dtype, pseudo).sums(strip, by_window=by_window)
            for strip, own in strips
        )
        found.append(sum(sums, found[0].new_zeros(len(part), *shape)))
    parts = torch.cat(found) / (1 if by_window else prod(grid))
    return ShortTime(parts.sum(-1), parts if pseudo else parts[..., :0], grid)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cut(
    lengths: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    device: torch.device,
    precision: torch.dtype,
    pseudo: bool,
) -> "_Cut":
    """A cut, kept: batches of a stream and strips of an image share it."""
    return _Cut(lengths, [list(own) for own in starts], device, precision, pseudo=pseudo)


def _strips(
    x: Tensor, lengths: tuple[int, ...], starts: list[list[int]], most: int
) -> Iterator[tuple[Tensor, list[list[int]]]]:
    """`x` cut along its first axis into strips whose windows hold at most about `most` samples, with the starts of those."""
    rows = max(1, most // (len(x) * x.shape[1] * prod(map(len, starts[1:])) * prod(lengths)))
    for first in range(0, len(starts[0]), rows):
        own = starts[0][first : first + rows]
        yield x.narrow(2, own[0], own[-1] - own[0] + lengths[0]), [own, *starts[1:]]


class _Cut:
    """How signals, or strips of them, are cut into Hann windows from `starts` on, and what is summed of their spectra."""

    def __init__(
        self,
        lengths: tuple[int, ...],
        starts: list[list[int]],
        device: torch.device,
        precision: torch.dtype,
        *,
        pseudo: bool,
    ) -> None:
        self.lengths = lengths
        self.starts = [[begin - own[0] for begin in own] for own in starts]
        self.dimensions = len(lengths)
        self.taper = _taper(lengths, device, "hann").to(precision)
        turn = _position_phase(lengths, starts, device) if pseudo else None
        self.turn = None if turn is None else turn.to(precision.to_complex())

    def sums(self, x: Tensor, *, by_window: bool) -> Tensor:
        """Sums over channels and windows `[n B 2]`, or over channels `[n W B 2]`, of the squared real and imaginary parts."""
        axes = tuple(range(-self.dimensions, 0))
        windows = _windows(x, self.lengths, self.starts)  # [n C *grid *L]
        windows = windows.clone(memory_format=torch.contiguous_format)  # a view of overlaps would keep its strides
        spectrum = torch.fft.rfftn(centred(windows, axes).mul_(self.taper), dim=axes)
        spectrum = spectrum.flatten(2 + self.dimensions).flatten(2, 1 + self.dimensions)  # [n C W B]
        if self.turn is not None:
            spectrum = spectrum * self.turn
        values = torch.view_as_real(spectrum)
        if by_window:  # one window may be so far below the whole that its square is too small for float32
            return values.double().square_().sum(1)
        return values.square_().sum((1, 2)).double()


def whole_spectrum(power: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Power `[B]` of a half spectrum as `power_spectrum` gives it: normalised, at every frequency `[*L]`."""
    bins = torch.cartesian_prod(*map(torch.arange, lengths)).view(-1, len(lengths))
    return power[half_index(bins, lengths)].view(lengths) / _taper(lengths, power.device, "hann").square().sum()


def window_starts(extent: tuple[int, ...], lengths: tuple[int, ...]) -> list[list[int]]:
    """First pixel of each window along each axis: half overlap or a little more, from border to border."""
    starts = []
    for size, length in zip(extent, lengths, strict=True):
        room = size - length
        steps = -(-room // max(length // 2, 1))
        starts.append([round(room * i / steps) for i in range(steps + 1)] if steps else [0])
    return starts


def _windows(x: Tensor, lengths: tuple[int, ...], starts: list[list[int]]) -> Tensor:
    """`[N C *spatial]` cut into windows: `[N C *grid *L]`, a view where they are evenly spaced."""
    for axis, (length, begin) in enumerate(zip(lengths, starts, strict=True), start=2):
        x = _unfolded(x, axis, length, begin)
    return x


def _unfolded(x: Tensor, axis: int, length: int, starts: list[int]) -> Tensor:
    """`x` cut along `axis` into pieces of `length` from `starts`, which become the last axis; a view where it can be."""
    steps = {b - a for a, b in pairwise(starts)} or {1}
    if len(steps) == 1:
        return x.narrow(axis, 0, starts[-1] + length).unfold(axis, length, steps.pop())
    return torch.stack([x.narrow(axis, b, length).movedim(axis, -1) for b in starts], axis)


def _taper(lengths: tuple[int, ...], device: torch.device, window: str) -> Tensor:
    """The window `[*L]`, a product over axes."""
    if window not in ("hann", "none"):
        raise ValueError(f"window: must be 'hann' or 'none', got {window!r}")
    taper = torch.ones((), dtype=torch.float64, device=device)
    for length in lengths:
        if window == "hann" and length > 2:
            along = torch.hann_window(length, periodic=True, dtype=torch.float64, device=device)
        else:
            along = torch.ones(length, dtype=torch.float64, device=device)
        taper = taper[..., None] * along
    return taper


def _position_phase(lengths: tuple[int, ...], starts: list[list[int]], device: torch.device) -> Tensor | None:
    """exp(-2 pi i k p / L) for each window position p and bin k of the half spectrum: `[W B]`; None where all are 1 or -1."""
    if all(2 * p % length == 0 for length, begin in zip(lengths, starts, strict=True) for p in begin):
        return None
    phase = torch.zeros(1, 1, dtype=torch.float64)
    for axis, (length, begin) in enumerate(zip(lengths, starts, strict=True)):
        bins = torch.arange(length // 2 + 1 if axis == len(lengths) - 1 else length, dtype=torch.float64)
        turns = torch.tensor(begin, dtype=torch.float64)[:, None] * bins / length
        phase = (phase[:, None, :, None] + turns[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return torch.polar(torch.ones_like(phase), -2 * torch.pi * phase).to(device)
