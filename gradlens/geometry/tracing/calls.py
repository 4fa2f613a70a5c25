"""Reading a spatial operation off its call: kernel, stride and all that, axis by axis, whatever way it was written.

Modules end in these functions of torch as well, so that nothing needs to be known of modules.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

Direction = Literal["down", "up", "same"]

SIGNATURES: dict[str, tuple[str, ...]] = {
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool": ("input", "kernel_size", "stride", "padding"),
    "lp_pool": ("input", "norm_type", "kernel_size", "stride"),
    "max_unpool": ("input", "indices", "kernel_size", "stride", "padding"),
    "fractional_max_pool": ("input",),
    "adaptive_avg_pool": ("input",),
    "adaptive_max_pool": ("input",),
    "interpolate": ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
    "pixel_shuffle": ("input", "upscale_factor"),
    "pixel_unshuffle": ("input", "downscale_factor"),
    "unfold": ("input", "kernel_size", "dilation", "padding", "stride"),
    "fold": ("input", "output_size", "kernel_size", "dilation", "padding", "stride"),
    "grid_sample": ("input", "grid"),
}
NAME = re.compile(r"(?:mkldnn_|quantized_)?(?P<family>[a-z_]+?)(?P<axes>[123]d)?(?:_with_indices)?")
TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "bilinear": 2, "trilinear": 2, "bicubic": 4}


@dataclass(frozen=True)
class Call:
    """The numbers of a spatial operation, one an axis.

    `ratio` is how many pixels of the input one pixel of the output spans; `size` and `output_size` are those of the maps.
    A kernel is of the operation as strided or transposed convolution: nearest resize by 2 has 2 taps, bilinear has 4.
    """

    kind: str
    kernel: tuple[int, ...]
    stride: tuple[Fraction, ...]
    ratio: tuple[Fraction, ...]
    size: tuple[int, ...]
    output_size: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    corners: bool = False

    @property
    def direction(self) -> Direction:
        if any(r > 1 for r in self.ratio):
            return "down"
        return "up" if any(r < 1 for r in self.ratio) else "same"


def spatial_call(function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> Call | None:
    """The operation of `function`, which was called so and gave `output`; None if it is none of space."""
    found = NAME.fullmatch(getattr(function, "__name__", ""))
    family = found["family"] if found else ""
    if family not in SIGNATURES or (family == "unfold" and function is not F.unfold):
        return None
    given = dict(zip(SIGNATURES[family], args, strict=False)) | dict(kwargs)
    source, result = given["input"], output if isinstance(output, Tensor) else output[0]
    axes = int(found["axes"][0]) if found and found["axes"] else 2 if "fold" in family else source.ndim - 2
    return READERS[family](family, given, axes, tuple(source.shape[-axes:]), tuple(result.shape[-axes:]))


def _per_axis(value: Any, axes: int, default: Any = 1) -> tuple[int, ...]:
    """A number for each axis of an int, a sequence, or nothing."""
    if value is None or (not isinstance(value, int) and len(value) == 0):
        value = default
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))


def _call(
    kind: str,
    axes: int,
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    kernel: int | tuple[int, ...] = 1,
    stride: Sequence[int | Fraction] | int = 1,
    ratio: Sequence[Fraction] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    corners: bool = False,
) -> Call:
    """A `Call` of numbers that are one for all axes or one each; without a `ratio` it is a strided operation."""
    steps = tuple(map(Fraction, [stride] * axes if isinstance(stride, int) else stride))
    around, apart, added = (_per_axis(value, axes) for value in (padding, dilation, output_padding))
    spans = steps if ratio is None else tuple(ratio)
    sides = tuple(size), tuple(output_size)
    return Call(kind, _per_axis(kernel, axes), steps, spans, *sides, around, apart, added, groups, corners)


def _conv(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    kernel = tuple(given["weight"].shape[2:])
    dilation = _per_axis(given.get("dilation"), axes)
    padding = given.get("padding")
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    stride = _per_axis(given.get("stride"), axes)
    up = family == "conv_transpose"
    return _call(
        family,
        axes,
        size,
        output,
        kernel=kernel,
        stride=stride,
        ratio=[Fraction(1, s) if up else Fraction(s) for s in stride],
        padding=_per_axis(padding, axes, 0),
        dilation=dilation,
        output_padding=_per_axis(given.get("output_padding"), axes, 0),
        groups=int(given.get("groups") or 1),
    )


def _pool(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    kernel = _per_axis(given["kernel_size"], axes)
    stride = _per_axis(given.get("stride"), axes, kernel)
    padding, dilation = _per_axis(given.get("padding"), axes, 0), _per_axis(given.get("dilation"), axes)
    if family == "max_unpool":
        return _call(family, axes, size, output, stride=stride, ratio=[Fraction(1, s) for s in stride])
    return _call(family, axes, size, output, kernel=kernel, stride=stride, padding=padding, dilation=dilation)


def _adaptive(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    """Window i of n reaches from floor(i N / n) to ceil((i + 1) N / n)."""
    ratio = [Fraction(n, m) for n, m in zip(size, output, strict=True)]
    kernel = tuple(
        max(-(-(i + 1) * n // m) - i * n // m for i in range(m)) if n >= m else -(-m // n)
        for n, m in zip(size, output, strict=True)
    )
    return _call(family, axes, size, output, kernel=kernel, stride=[max(r, 1 / r) for r in ratio], ratio=ratio)


def _interpolate(
    family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]
) -> Call:
    mode = given.get("mode") or "nearest"
    factor = given.get("scale_factor")
    ratio = [Fraction(n, m) for n, m in zip(size, output, strict=True)]
    if factor is not None:
        factors = [factor] * axes if isinstance(factor, int | float) else list(factor)
        ratio = [1 / Fraction(float(f)).limit_denominator(64) for f in factors]
    smooth = bool(given.get("antialias"))
    kernel = tuple(_taps(mode, r, antialias=smooth, side=n) for r, n in zip(ratio, size, strict=True))
    stride = [max(r, 1 / r) for r in ratio]
    corners = bool(given.get("align_corners"))
    return _call(mode, axes, size, output, kernel=kernel, stride=stride, ratio=ratio, corners=corners)


def _taps(mode: str, ratio: Fraction, *, antialias: bool, side: int) -> int:
    """The taps of a resize as a strided or transposed convolution.

    Enlarging, every pixel is written with as many taps as the mode has; an odd factor's outermost have weight 0. Reducing
    without anti-aliasing, so many pixels are read however large the step, one where a pixel is hit at its centre.
    """
    if mode == "area" or (antialias and ratio > 1):
        return -(-ratio.numerator // ratio.denominator)
    taps = TAPS.get(mode, 1)
    if ratio <= 1:
        return -(-taps * ratio.denominator // ratio.numerator)
    centred = ratio.denominator == 1 and ratio.numerator % 2 == 1
    return min(side, 1 if centred else taps)


def _shuffle(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    up = family == "pixel_shuffle"
    factor = int(given["upscale_factor" if up else "downscale_factor"])
    return _call(
        family,
        2,
        size[-2:],
        output[-2:],
        kernel=factor,
        stride=factor,
        ratio=[Fraction(factor) ** (-1 if up else 1)] * 2,
    )


def _fold(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    """Windows side by side are a map, too: its size follows from the image's."""
    up = family == "fold"
    image = _per_axis(given["output_size"], 2) if up else size
    kernel, stride, dilation = (_per_axis(given.get(k), 2) for k in ("kernel_size", "stride", "dilation"))
    padding = _per_axis(given.get("padding"), 2, 0)
    windows = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(image, padding, dilation, kernel, stride, strict=True)
    )
    sizes = (windows, image) if up else (image, windows)
    ratio = [Fraction(1, s) if up else Fraction(s) for s in stride]
    return _call(family, 2, *sizes, kernel=kernel, stride=stride, ratio=ratio, padding=padding, dilation=dilation)


def _unknown(family: str, given: Mapping[str, Any], axes: int, size: tuple[int, ...], output: tuple[int, ...]) -> Call:
    return resized(family, size, output)


def resized(kind: str, size: Sequence[int], output_size: Sequence[int]) -> Call:
    """A resampling of which only the sizes are known."""
    ratio = [Fraction(n, m) for n, m in zip(size, output_size, strict=True)]
    return _call(kind, len(size), size, output_size, stride=[max(r, 1 / r) for r in ratio], ratio=ratio)


def by_number(
    kind: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    up: bool = False,
) -> Call:
    """A resampling that was not one call."""
    ratio = [Fraction(1, s) if up else Fraction(s) for s in stride]
    return _call(kind, len(size), size, output_size, kernel=tuple(kernel), stride=stride, ratio=ratio)


READERS: dict[str, Callable[[str, Mapping[str, Any], int, tuple[int, ...], tuple[int, ...]], Call]] = {
    "conv": _conv,
    "conv_transpose": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "lp_pool": _pool,
    "max_unpool": _pool,
    "fractional_max_pool": _unknown,
    "adaptive_avg_pool": _adaptive,
    "adaptive_max_pool": _adaptive,
    "interpolate": _interpolate,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _shuffle,
    "unfold": _fold,
    "fold": _fold,
    "grid_sample": _unknown,
}
