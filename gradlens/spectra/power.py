"""Power spectra by Welch's method: the mean periodogram of half-overlapping windows.

    P(f) = mean over windows of |sum_n w(n) (x(n) - mean) exp(-2 pi i f n)|^2 / sum_n w(n)^2

White noise of variance s^2 has P = s^2 in every bin. Source: Welch 1967; the normalised window as in Karras et al.
2021 (StyleGAN3), section "average power spectra".
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor

from gradlens.spectra.grid import half_bins
from gradlens.spectra.signal import as_signal, at_home, centred, whole

WINDOWED_VALUES = 1 << 20  # window samples held at once: 8 MiB, which a cache holds


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
    windows = _windows(signal, lengths, window_starts(extent, lengths))  # [N C *grid *L]
    windows = centred(windows, axes) * taper
    spectrum = torch.fft.fftn(windows, dim=axes)
    power = (spectrum.real.square() + spectrum.imag.square()).mean(tuple(range(2, 2 + len(extent))))
    return at_home(power / taper.square().sum(), x)


@dataclass(frozen=True)
class ShortTime:
    """Power in the half spectrum, summed over channels: the mean over windows `[N B]`, or each window's `[N W B]`.

    `pseudo` is the like sum of F^2 with the window's position taken out of its phase (zero where not asked for), so
    that (power + pseudo) and (power - pseudo) are twice the squared real and imaginary parts: what a real bin holds.
    """

    power: Tensor
    pseudo: Tensor
    grid: tuple[int, ...]


def short_time(x: Tensor, lengths: tuple[int, ...], *, pseudo: bool, by_window: bool = False) -> ShortTime:
    """The short-time spectrum of a float64 signal on Hann windows of `lengths`; work is bounded, whatever N is.

    The mean of a window is taken out; a constant signal has exactly no power.
    """
    extent = tuple(x.shape[2:])
    starts = window_starts(extent, lengths)
    grid = tuple(map(len, starts))
    taper = _taper(lengths, x.device, "hann")
    axes = tuple(range(-len(lengths), 0))
    turn = _position_phase(lengths, starts, x.device) if pseudo else None
    near, leak = _around_dc(taper)
    over = (1,) if by_window else (1, 2)
    powers, pseudos = [], []
    images = max(1, WINDOWED_VALUES // (x.shape[1] * prod(grid) * prod(lengths)))
    for part in x.split(images):
        windows = _windows(_above_corner(part), lengths, starts)
        windows = (centred(windows, axes) if by_window else windows) * taper
        spectrum = torch.fft.rfftn(windows, dim=axes).flatten(2 + len(grid)).flatten(2, 1 + len(grid))  # [n C W B]
        real, imaginary = (p.square().sum(over) for p in (spectrum.real, spectrum.imag))
        centre = spectrum[..., near] - spectrum[..., :1] * leak  # without the mean of each window under the taper
        powers.append((real + imaginary).index_copy(-1, near, centre.abs().square().sum(over)))
        if pseudo:
            pseudos.append(real - imaginary if turn is None else (spectrum.square() * turn).real.sum(over))
    shape = (prod(grid), half_bins(lengths)) if by_window else (half_bins(lengths),)
    power = torch.cat([*powers, x.new_zeros(0, *shape)])
    square = torch.cat(pseudos) if pseudos else torch.zeros_like(power)
    count = 1 if by_window else prod(grid)
    return ShortTime(power / count, square / count, grid)


def _above_corner(x: Tensor) -> Tensor:
    """`x` minus its first pixel, image by image and channel by channel: a constant image becomes exactly zero."""
    return x - x[(slice(None), slice(None), *[slice(1)] * (x.ndim - 2))]


def _around_dc(taper: Tensor) -> tuple[Tensor, Tensor]:
    """The bins `[k]` of the half spectrum that a constant reaches through a Hann window, and how much relative to DC."""
    near = torch.ones((), dtype=torch.bool, device=taper.device)
    for length in taper.shape:
        bins = torch.arange(length, device=taper.device)
        near = near[..., None] & (torch.minimum(bins, length - bins) <= 1)
    index = near[..., : taper.shape[-1] // 2 + 1].flatten().nonzero()[:, 0]
    return index, torch.fft.rfftn(taper).flatten()[index] / taper.sum()


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
        steps = {b - a for a, b in pairwise(begin)} or {1}
        if len(steps) == 1:
            x = x.unfold(axis, length, steps.pop())
        else:
            x = torch.stack([x.narrow(axis, b, length).movedim(axis, -1) for b in begin], axis)
    return x


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
    """exp(-4 pi i k p / L) for each window position p and bin k of the half spectrum: `[W B]`; None where all are 1."""
    if all(2 * p % length == 0 for length, begin in zip(lengths, starts, strict=True) for p in begin):
        return None
    phase = torch.zeros(1, 1, dtype=torch.float64)
    for axis, (length, begin) in enumerate(zip(lengths, starts, strict=True)):
        bins = torch.arange(length // 2 + 1 if axis == len(lengths) - 1 else length, dtype=torch.float64)
        turns = torch.tensor(begin, dtype=torch.float64)[:, None] * bins / length
        phase = (phase[:, None, :, None] + turns[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return torch.polar(torch.ones_like(phase), -4 * torch.pi * phase).to(device)
