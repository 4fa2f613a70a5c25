"""What every measure does first: check its tensor, bring it to float64 and to unit scale.

A signal is `[N C *spatial]` with one, two or three spatial axes. Each image is scaled by a power of two, which is
exact, so that squares neither overflow nor vanish: all the measures are free of scale. Sums are in float64. Windows are
transformed, and envelopes made, in float32 if the data hold no more (`precision_of`): of noise, photographs and gradients
that moves a contrast by 1e-6 dB; of very smooth pictures, whose fine spectrum is rounding, by up to 0.1 dB and p by up to
0.06. Data in float64 stay in it.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor

Period = int | Sequence[int]

WITHOUT_FLOAT64 = frozenset({"mps"})


@cache
def _say_fallback(device: str) -> None:
    warnings.warn(f"{device} has no float64: gradlens.spectra computes on the CPU", stacklevel=4)


def as_signal(x: Tensor, *, name: str = "x", finite: bool = False) -> Tensor:
    """`x` checked and in float64, on its own device or, where that has no float64, on the CPU.

    With `finite` its values are not looked at, and no device is waited for.

    Raises:
        TypeError: `x` is no floating-point tensor.
        ValueError: `x` is not `[N C *spatial]` with 1 to 3 spatial axes, is empty, or holds NaN or infinity.
    """
    check_shape(x, name=name)
    if not finite and not _captured(x):
        fine = is_finite(x)
        if not fine.all():
            raise ValueError(f"{name}: image {int((~fine).nonzero()[0])} holds NaN or infinity")
    return in_float64(x)


def _captured(x: Tensor) -> bool:
    """Whether what is done to `x` goes into a CUDA graph, which cannot wait for the device: NaN is let through."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def check_shape(x: Tensor, *, name: str = "x") -> None:
    """Raise a TypeError or ValueError unless `x` is a floating-point `[N C *spatial]` with 1 to 3 spatial axes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: must be a torch.Tensor, got {type(x).__name__}; torch.as_tensor converts an array")
    if not x.is_floating_point():
        raise TypeError(f"{name}: must be floating point, got {x.dtype}; uint8 images become x / 255")
    if not 3 <= x.ndim <= 5 or 0 in x.shape[1:]:
        raise ValueError(f"{name}: must be [N C *spatial] with 1 to 3 spatial axes, none empty, got {list(x.shape)}")


def is_finite(x: Tensor) -> Tensor:
    """Which images hold no NaN and no infinity: `[N]`."""
    highest, lowest = _reach(x)
    return highest.isfinite() & lowest.isfinite()


def _reach(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each image and minus the smallest: `[N]`."""
    flat = x.detach().flatten(1)
    return flat.amax(1), -flat.amin(1)  # five times as fast as `aminmax`


def in_float64(x: Tensor) -> Tensor:
    """`x` in float64, on the CPU where its device has none."""
    if x.device.type in WITHOUT_FLOAT64:
        _say_fallback(x.device.type)
        x = x.cpu()
    return x.double()


def precision_of(x: Tensor) -> torch.dtype:
    """What `x` is transformed in, window by window: float32 if it holds no more than that, else float64."""
    return torch.promote_types(x.dtype, torch.float32)


def unit_scale(x: Tensor) -> Tensor:
    """`x` with each image multiplied by the power of two that brings its largest magnitude into [0.5, 1)."""
    if x.shape[0] == 0:
        return x
    largest = torch.maximum(*_reach(x))
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000).double()
    return x * torch.exp2(-exponent).view(-1, *[1] * (x.ndim - 1))


def centred(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`x` minus its mean over `axes`; exactly zero where `x` is constant, which a mean alone is not after rounding."""
    first = x
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    x = x - first
    return x.sub_(x.mean(axes, keepdim=True))


def at_home(value: Tensor, x: Tensor) -> Tensor:
    """`value` on the device of `x`, in float64 or, where that device has none, float32."""
    return value.to(x.device, torch.float32 if x.device.type in WITHOUT_FLOAT64 else value.dtype)


def periods_of(period: Period, dimensions: int) -> tuple[int, ...]:
    """One period for each spatial axis.

    Raises:
        TypeError: a period is not an integer.
        ValueError: a period is below 1, none is above 1, or their number is not that of the spatial axes.
    """
    if isinstance(period, Sequence) and not isinstance(period, str):
        given: tuple[Any, ...] = tuple(period)
    else:
        given = (period,) * dimensions
    if any(isinstance(p, bool) or not isinstance(p, SupportsIndex) for p in given):
        raise TypeError(f"period: must be an integer or one integer for each spatial axis, got {period!r}")
    if len(given) != dimensions:
        raise ValueError(f"period: needs one number for each of {dimensions} spatial axes, got {period!r}")
    periods = tuple(map(index, given))
    if min(periods) < 1 or max(periods) < 2:
        raise ValueError(f"period: must be at least 2 pixels (1 for an axis that is not tested), got {period!r}")
    return periods


def whole(value: object, name: str, *, least: int) -> int:
    """`value` as an int of at least `least`.

    Raises:
        TypeError: it is not an integer of Python or numpy.
        ValueError: it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: must be an integer, got {value!r}")
    number = index(value)
    if number < least:
        raise ValueError(f"{name}: must be at least {least}, got {value!r}")
    return number


def holds_two(size: Sequence[int], periods: tuple[int, ...]) -> bool:
    """Whether an image of `size` holds two periods along every tested axis."""
    return all(extent >= 2 * p for extent, p in zip(size, periods, strict=True) if p > 1)


def signed_root(v: Tensor) -> Tensor:
    """sign(v) sqrt(|v|), with gradient 0 at 0."""
    zero = v == 0
    return torch.where(zero, 0.0, v.sign() * torch.where(zero, 1.0, v.abs()).sqrt())
