"""Moments of sums by weights: convolutions and matrix products, copies and sums, resizes and average pools."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from gradlens.geometry.energy.forward.moments import Moment, Moments, Stretch
from gradlens.geometry.energy.forward.pointwise import added, unit

aten = torch.ops.aten


# Weights


def bilinear(op: Callable[[Tensor, Tensor], Tensor], first: Moment, second: Moment) -> Moment:
    """A sum of products of independent entries: variances by squared coefficients."""
    scales, squares = [], []
    for moment in (first, second):
        _, scale = unit(torch.maximum(moment.mean.abs(), moment.spread))
        scales.append(scale)
        squares.append([None if t is None else (t / scale).square() for t in moment])
    terms = [
        op(a, b)
        for a, b in product(*squares)
        if a is not None and b is not None and not (a is squares[0][0] and b is squares[1][0])
    ]
    mean = op(first.mean, second.mean)
    return Moment(mean, scales[0] * scales[1] * root(torch.stack(terms).sum(0)) if terms else None)


def root(variance: Tensor) -> Tensor:
    """Deviations, where rounding may have left a variance below 0."""
    return variance.clamp(min=0).sqrt()


def convolution(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Any convolution, transposed or not; after a nearest resize, taps that meet copies of one entry are added first."""
    x, weight, bias, *rest = args
    stride, padding, dilation, transposed, _, groups = rest
    if bias is not None and moments.carriers(bias):
        raise moments.unruled(f"{func} with a bias that depends on data")
    stretch = moments.stretch(x)
    dense = not transposed and all(s == 1 for s in (*stride, *dilation)) and not moments.carriers(weight)
    if stretch is not None and stretch.hold is not None and dense:
        return moments.write(func(*args), _convolved_copies(stretch.deviation, stretch.hold, weight, padding, groups))
    mean, deviation = bilinear(lambda a, b: func(a, b, None, *rest), moments.read(x), moments.read(weight))
    return moments.write(mean if bias is None else mean + along_channels(bias, mean.ndim), deviation)


def along_channels(x: Tensor, dimensions: int) -> Tensor:
    """`[C]` as `[1 C 1 ...]`."""
    return x.view(1, -1, *[1] * (dimensions - 2))


def _convolved_copies(base: Tensor, hold: tuple[int, ...], weight: Tensor, padding: Any, groups: int) -> Tensor:
    """Deviations after copying each entry of `base` `hold` times along each axis, and a convolution of stride 1.

    For each phase of `hold` the kernel is folded onto the entries that its taps reach, and then squared.
    """
    (base, base_scale), (weight, weight_scale) = unit(base), unit(weight)
    kernel = weight.shape[2:]
    padding = list(padding) * (len(kernel) // len(padding))
    sides = [n * s + 2 * p - k + 1 for n, s, p, k in zip(base.shape[2:], hold, padding, kernel, strict=True)]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    variance = base.new_zeros(len(base), len(weight), *sides)
    for phases in product(*[range(min(s, side)) for s, side in zip(hold, sides, strict=True)]):
        folded, around = weight, []
        for axis, phase in enumerate(phases):
            taps = torch.arange(kernel[axis], device=weight.device) + phase - padding[axis]
            reached = torch.div(taps, hold[axis], rounding_mode="floor")
            first, last = int(reached[0]), int(reached[-1])
            fold = F.one_hot(reached - first, last - first + 1).to(weight)
            folded = folded.movedim(2, -1) @ fold  # the next axis is now at 2
            steps = -(-(sides[axis] - phase) // hold[axis])
            around = [-first, steps + last - base.shape[2 + axis], *around]
        here = (..., *[slice(phase, None, s) for phase, s in zip(phases, hold, strict=True)])
        variance[here] = convolve(F.pad(base.square(), around), folded.square(), groups=groups)
    return base_scale * weight_scale * root(variance)


def matrix_product(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """first @ second, either of which may carry."""
    return moments.write(*bilinear(func, *(moments.read(t) for t in args)))


def added_product(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """beta start + alpha first @ second."""
    start, first, second = (moments.read(t) for t in args)
    alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
    mean, deviation = bilinear(torch.matmul, first, second)
    start = Moment(beta * start.mean, abs(beta) * start.spread)
    return moments.write(*added(start, Moment(mean, deviation), alpha=alpha))


# Copies and sums


def moved(moments: Moments, func: Any, args: Any, kwargs: Any) -> Any:
    """Entries that are copied to other places, by indices that do not depend on data."""
    if any(moments.read(t).deviation is None for t in moments.carriers((args, kwargs))):
        raise moments.unruled(f"{func} by indices or masks that depend on data")
    spread = tree_map(lambda t: moments.read(t).spread if isinstance(t, Tensor) and t.is_floating_point() else t, args)
    return moments.write(func(*args, **kwargs), func(*spread, **kwargs))


def constant(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """What has the shape of a carrier and none of its values."""
    return func(*args, **kwargs)


def padded(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`constant_pad_nd`."""
    return moments.write(func(*args, **kwargs), func(moments.read(args[0]).spread, args[1], 0))


def masked(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`masked_fill` by a mask and a value that do not depend on data."""
    x, mask, value = args
    if moments.carriers((mask, value)):
        raise moments.unruled(f"{func} by a mask or value that depends on data")
    return moments.write(func(x, mask, value), moments.read(x).spread.masked_fill(mask, 0))


def summed(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Sums of independent entries."""
    deviation, scale = unit(moments.read(args[0]).spread)
    return moments.write(func(*args, **kwargs), scale * root(func(deviation.square(), *args[1:], **kwargs)))


def averaged(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Means of independent entries."""
    mean = func(*args, **kwargs)
    deviation, scale = unit(moments.read(args[0]).spread)
    variance = func(deviation.square(), *args[1:], **kwargs) * (mean.numel() / args[0].numel())
    return moments.write(mean, scale * root(variance))


# Resizes and average pools: a fixed matrix along each axis


def resized(alone: Callable[[int, Any, int], Any], moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """A fixed map, measured along each axis; a resize of a resize is one map of the entries that the first one had.

    Args:
        alone: the arguments of the operation along one axis of so many: (dimensions, arguments, axis).
    """
    x = args[0]
    dimensions = int(func.overloadpacket.__name__.removesuffix("_aa").removesuffix("d")[-1])
    sides = x.shape[x.ndim - dimensions :]
    maps = []
    for axis, side in enumerate(sides):
        shape = [side, 1, *[side if other == axis else 1 for other in range(dimensions)]]
        wide = [
            side,
            1,
            *[side if other == axis else 2 for other in range(dimensions)],
        ]  # 1 misleads antialiasing kernels
        impulses = torch.eye(side, dtype=x.dtype, device=x.device).view(shape).expand(wide).contiguous()
        response = func(impulses, *alone(dimensions, args[1:], axis)).movedim(2 + axis, 1)
        maps.append(response.flatten(2)[..., 0].mT)  # [out in]
    before, base = moments.stretch(x), moments.read(x).spread
    mean, hold = func(*args, **kwargs), None
    if "nearest" in func.overloadpacket.__name__:
        whole = all(b % a == 0 for a, b in zip(sides, mean.shape[x.ndim - dimensions :], strict=True))
        hold = tuple(len(m) // m.shape[1] for m in maps) if whole else None
    if before is not None:
        base = before.deviation
        maps = [outer @ inner for outer, inner in zip(maps, before.maps, strict=True)]
        hold = tuple(a * b for a, b in zip(hold, before.hold, strict=True)) if hold and before.hold else None
    return moments.write(mean, _along_axes(base, maps), stretch=Stretch(base, tuple(maps), hold))


def _along_axes(deviation: Tensor, maps: list[Tensor]) -> Tensor:
    """Deviations of independent entries after a matrix along each of the last axes."""
    deviation, scale = unit(deviation)
    variance = deviation.square()
    for axis, matrix in enumerate(maps, start=variance.ndim - len(maps)):
        variance = (variance.movedim(axis, -1) @ matrix.square().mT).movedim(-1, axis)
    return scale * root(variance)


def _resize_alone(dimensions: int, rest: Any, axis: int) -> list[Any]:
    """Output size, corners (where there are any) and scales."""
    size, *rest = rest
    corners = [rest.pop(0)] if rest and isinstance(rest[0], bool) else []
    scales = [scale if i == axis else None for i, scale in enumerate(rest)]
    return [[size[axis] if i == axis else 2 for i in range(dimensions)], *corners, *scales]


def _adaptive_alone(dimensions: int, rest: Any, axis: int) -> list[Any]:
    """Output size."""
    return [[rest[0][axis] if i == axis else 2 for i in range(dimensions)]]


def _pool_alone(dimensions: int, rest: Any, axis: int) -> list[Any]:
    """Kernel, stride, padding, ceil_mode and count_include_pad; a divisor of one's own counts along the first axis."""
    kernel, stride, padding, ceil, count, divisor = [*rest, *([], 0, False, True, None)[len(rest) - 1 :]]
    one = [
        [
            (given if len(given) > 1 else list(given) * dimensions)[i] if i == axis else otherwise
            for i in range(dimensions)
        ]
        for given, otherwise in ((kernel, 1), (stride or kernel, 1), ([padding] if padding == 0 else padding, 0))
    ]
    own = [] if dimensions == 1 else [divisor if axis == 0 or divisor is None else 1]
    return [*one, ceil, count, *own]


resize = partial(resized, _resize_alone)
adaptive_pool = partial(resized, _adaptive_alone)
average_pool = partial(resized, _pool_alone)
