"""Low-pass filters that keep a lattice out: zero-order holds, binomials and windowed sincs, shared by all resampling layers.

A filter before a stride s passes its gradient on evenly if it is blind to the harmonics k / s, k = 1 .. s - 1, which is to say
that the taps of each of its s phases have one sum (the signed statement of `gradlens.geometry.certify`). Taps have the sum 1,
so a constant stays what it is; in two and three dimensions each axis is filtered by itself.

Sources: Sugawara, Shiota, Kiya 2018, eq. 4, and Kinoshita, Kiya 2020 (holds); Zhang 2019 (binomials); Kaiser 1974 (sincs).
"""

from collections.abc import Callable, Sequence
from math import comb
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding: TypeAlias = Literal["zeros", "replicate", "reflect", "circular"]
Window: TypeAlias = Literal["kaiser", "hann"]

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def hold(scale: int, order: int = 0) -> Tensor:
    """Taps of the zero-order hold of length `scale`, convolved with itself `order` times: `[scale (order + 1) - order]`.

    H_d = H_0 * ... * H_0 with d + 1 factors, H_0 = (1, ..., 1) / s. Its frequency response is
    (sin(pi f s) / (s sin(pi f)))^(d + 1): every harmonic k / s is a zero of order d + 1. Order 0 is the only one that is even in
    its squares too, so that it evens out the energy of a gradient and not its mean alone.

    Args:
        scale: s, in pixels; 1 leaves everything as it is.
        order: d; with d the response falls off faster.

    Returns:
        float64, all above 0, sum 1, symmetric.

    Raises:
        TypeError, ValueError: `scale` is below 1 or `order` below 0.

    Source: Sugawara, Shiota, Kiya 2018, eq. 4 (order 0); Kinoshita, Kiya 2020 (order d).

    Example:
        >>> hold(2, order=1)
        tensor([0.2500, 0.5000, 0.2500], dtype=torch.float64)
    """
    box = torch.full((whole(scale, "scale", least=1),), 1 / scale, dtype=torch.float64)
    taps = box
    for _ in range(whole(order, "order", least=0)):
        taps = F.conv1d(taps.view(1, 1, -1), box.view(1, 1, -1), padding=len(box) - 1).flatten()
    return taps


def binomial(size: int) -> Tensor:
    """Binomial taps: `[size]`.

    b_k = C(m - 1, k) / 2^(m - 1), which is `hold(2, order=m - 2)`. The response is cos(pi f)^(m - 1): the only zero is at
    Nyquist, so before a stride other than 2 phases stay uneven (of size 5 before a stride of 3 they are 5 : 5 : 6).

    Args:
        size: m, in pixels.

    Returns:
        float64, all above 0, sum 1, symmetric.

    Raises:
        TypeError, ValueError: `size` is below 1.

    Source: Zhang 2019 ("Rect-2", "Tri-3" and "Bin-5" are sizes 2, 3 and 5).

    Example:
        >>> (16 * binomial(5)).tolist()
        [1.0, 4.0, 6.0, 4.0, 1.0]
    """
    last = whole(size, "size", least=1) - 1
    return torch.tensor([comb(last, k) / 2**last for k in range(last + 1)], dtype=torch.float64)


def windowed_sinc(
    scale: int,
    *,
    half_width: int = 4,
    window: Window = "kaiser",
    attenuation: float = 60.0,
    cutoff: float | None = None,
) -> Tensor:
    """Taps of a sinc under a window, centred on a pixel, all phases with one sum: `[2 half_width scale - 1]`.

    h(t) = sinc(2 f_c t) w(t / (half_width s)) at whole t. Then the taps of each of the s phases are divided by s times their
    sum: the harmonics k / s vanish exactly, where a truncated sinc alone leaves a thousandth. The response is 1/2 at the
    cut-off f_c. Kaiser's window: the stop-band begins (A - 7.95) / (28.7 (m - 1)) above it for m taps, A dB down; dividing
    the phases costs up to 5 dB of 60 and 10 of 80. Hann's: it begins about 1 / (half_width s) above it, 44 dB down.

    Args:
        scale: s, the stride that follows.
        half_width: in pixels after the stride.
        window: "kaiser" or "hann".
        attenuation: A in dB, above 21, for Kaiser's window.
        cutoff: f_c in cycles a pixel, above 0; 1 / (2 s), the Nyquist frequency after the stride, unless given, and at most
            that.

    Returns:
        float64, sum 1, symmetric; some below 0.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Kaiser 1974; equal phases are eq. 8 of Sugawara, Shiota, Kiya 2018.

    Example:
        >>> taps = windowed_sinc(2)
        >>> len(taps), [round(taps[p::2].sum().item(), 12) for p in range(2)]
        (15, [0.5, 0.5])
    """
    reach = whole(half_width, "half_width", least=1) * whole(scale, "scale", least=1)
    nyquist = 1 / (2 * scale)
    if cutoff is not None and not 0 < cutoff <= nyquist:
        raise ValueError(f"cutoff: must be above 0 and at most {nyquist:g} cycles a pixel, got {cutoff!r}")
    t = torch.arange(1 - reach, reach, dtype=torch.float64)
    taps = torch.sinc(2 * (cutoff or nyquist) * t) * _window(window, t / reach, attenuation)
    for phase in range(scale):
        taps[phase::scale] /= scale * taps[phase::scale].sum()
    return taps


def _window(window: str, u: Tensor, attenuation: float) -> Tensor:
    """The window at `u` in (-1, 1)."""
    if window not in get_args(Window):
        raise ValueError(f'window: must be "kaiser" or "hann", got {window!r}')
    if window == "hann":
        return torch.cos(torch.pi * u / 2).square()
    if not 21 < attenuation < 200:
        raise ValueError(f"attenuation: must be above 21 and below 200 dB, got {attenuation!r}")
    above = attenuation - 21
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else 0.5842 * above**0.4 + 0.07886 * above
    return torch.special.i0(beta * (1 - u.square()).sqrt()) / torch.special.i0(u.new_tensor(beta))


def filtered(x: Tensor, taps: Tensor | Sequence[Tensor], *, stride: int = 1, padding: Padding = "replicate") -> Tensor:
    """`x` with every channel filtered along each spatial axis: `[N C *ceil(spatial / stride)]`, dtype of `x`.

    y[i] = sum over k of taps[k] x[s i + k - (m - 1) // 2] along an axis, one axis after the other, the last first: an output
    costs m (1 + s + ...) multiplications, one power of s for each axis. Filters of even size look half a pixel ahead.

    Args:
        x: `[N C *spatial]`, one, two or three spatial axes.
        taps: `[m]` for all axes, or one such tensor for each.
        stride: s, of all axes.
        padding: what lies beyond the border: "zeros", "replicate" (the border), "reflect" (without the border) or "circular".

    Raises:
        ValueError: `x` has no or too many spatial axes, or is too small to be reflected or wrapped as far as the taps reach;
            `taps` are not one line for each axis; `padding` is none of these.

    Source: separable filters; Zhang 2019 pads by reflection, Sugawara, Shiota, Kiya 2018 by the border.

    Example:
        >>> filtered(torch.tensor([[[0.0, 0, 4, 0, 0, 0]]]), binomial(3)).tolist()
        [[[0.0, 1.0, 2.0, 1.0, 0.0, 0.0]]]
    """
    axes = x.ndim - 2
    if axes not in CONVOLVE:
        raise ValueError(f"x: must be [N C *spatial] with 1 to 3 spatial axes, got {list(x.shape)}")
    lines = (taps,) * axes if isinstance(taps, Tensor) else tuple(taps)
    if len(lines) != axes or any(line.ndim != 1 for line in lines):
        shapes = [list(line.shape) for line in lines]
        raise ValueError(f"taps: must be one line of numbers for all or for each of {axes} axes, got {shapes}")
    whole(stride, "stride", least=1)
    x = _padded(x, [len(line) for line in lines], padding)
    for axis in reversed(range(axes)):
        kernel, steps = [1] * axes, [1] * axes
        kernel[axis], steps[axis] = len(lines[axis]), stride
        weight = lines[axis].to(x).view(1, 1, *kernel).expand(x.shape[1], 1, *kernel)
        x = CONVOLVE[axes](x, weight, stride=steps, groups=x.shape[1])
    return x


def _padded(x: Tensor, sizes: Sequence[int], padding: str) -> Tensor:
    """`x` with as much around it as filters of `sizes` reach."""
    if padding not in get_args(Padding):
        raise ValueError(f"padding: must be one of {', '.join(get_args(Padding))}, got {padding!r}")
    room = {"reflect": -1, "circular": 0}.get(padding)
    if room is not None and any(m // 2 > side + room for m, side in zip(sizes, x.shape[2:], strict=True)):
        least = [m // 2 - room for m in sizes]
        raise ValueError(
            f'x: "{padding}" padding of {list(sizes)} taps needs at least {least} pixels, got {list(x.shape[2:])}; '
            'pad by "replicate"'
        )
    around = [side for m in reversed(sizes) for side in ((m - 1) // 2, m // 2)]
    return F.pad(x, around, mode="constant" if padding == "zeros" else padding) if any(around) else x


class Filter(nn.Module):
    """`filtered` as a layer with fixed taps: `[N C *spatial]` to `[N C *ceil(spatial / stride)]`.

    The taps are a buffer that is not saved: the layer has no parameters and no keys in a state dict, and taps that are scaled
    by a power of two survive bfloat16 exactly, others to its rounding.

    Args:
        taps: `[m]`, for all axes.
        stride: of all axes.
        padding: as `filtered`.

    Source: as `filtered`.

    Example:
        >>> Filter(hold(2), stride=2)(torch.ones(1, 1, 4, 4)).shape
        torch.Size([1, 1, 2, 2])
    """

    taps: Tensor

    def __init__(self, taps: Tensor, *, stride: int = 1, padding: Padding = "replicate") -> None:
        super().__init__()
        if padding not in get_args(Padding):
            raise ValueError(f"padding: must be one of {', '.join(get_args(Padding))}, got {padding!r}")
        self.stride = whole(stride, "stride", least=1)
        self.padding: Padding = padding
        self.register_buffer("taps", taps.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return filtered(x, self.taps, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        return f"{len(self.taps)} taps, stride={self.stride}, padding={self.padding!r}"


def axes(dimensions: int) -> int:
    """`dimensions`, if it is 1, 2 or 3; a ValueError otherwise."""
    if dimensions not in CONVOLVE:
        raise ValueError(f"dimensions: must be 1, 2 or 3, got {dimensions!r}")
    return dimensions


def whole(value: int, name: str, *, least: int) -> int:
    """`value`, if it is an integer of at least `least`; a TypeError or ValueError with its name otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: must be at least {least}, got {value}")
    return value
