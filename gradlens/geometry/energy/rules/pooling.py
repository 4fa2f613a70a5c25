"""Average pooling and interpolation: the squared weight with which an output reads its inputs."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Operation, Rule


def averaged(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Energy:
    """Average pooling, whose divisor differs at the border."""
    forward = torch.ops.aten.avg_pool2d.default if len(kernel) == 2 else torch.ops.aten.avg_pool3d.default
    ones = energy.variance.new_ones(1, 1, *x.shape[-len(kernel) :])
    geometry = (kernel, stride, padding, ceil_mode, count_include_pad)
    weight = forward(ones, *geometry, divisor) / forward(ones, *geometry, 1)
    if energy.ndim == len(kernel) + 1:
        weight = weight[0]
    values = operation((energy.variance * weight).contiguous(), x.to(energy.variance.dtype), *geometry, divisor)
    return energy.times(values)


def averaged_to_size(operation: Operation, energy: Energy, x: Tensor) -> Energy:
    """Adaptive average pooling: windows of unequal size."""
    values = energy.variance
    weight = values.new_ones(())
    dimensions = 3 if operation._schema.name.endswith("3d_backward") else 2
    for axis in range(-dimensions, 0):
        extent, count = x.shape[axis], values.shape[axis]
        at = torch.arange(count, device=values.device)
        size = ((at + 1) * extent + count - 1) // count - at * extent // count
        weight = weight / size.to(values.dtype).view(-1, *[1] * (-axis - 1))
    return energy.times(operation(values * weight, x.to(values.dtype)))


def interpolated(operation: Operation, energy: Energy, output: Sequence[int], size: Sequence[int], *how: Any) -> Energy:
    """Linear and cubic interpolation, which are products of one matrix an axis."""
    forward = getattr(torch.ops.aten, operation._schema.name.removeprefix("aten::").removesuffix("_backward"))
    scales: list[Any]
    align, *scales = how
    scales += [None] * (len(output) - len(scales))  # the dispatcher leaves out what is at its default
    values = energy.variance
    for axis, (extent, length) in enumerate(zip(size[2:], output, strict=True)):
        others = [1] * (len(output) - 1)
        lone = torch.eye(extent, dtype=values.dtype, device=values.device).view(1, extent, *others, extent)
        matrix = forward.default(lone, [*others, length], align, *[None for _ in others], scales[axis]).view(
            extent, length
        )
        values = torch.movedim(torch.movedim(values, axis + 2, -1) @ matrix.square().T, -1, axis + 2)
    return energy.times(values)


def routed(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *rest: Any,
) -> Energy:
    """Max-pooling: a variance takes the real route; a mean spreads over the window, whose entries are equally likely."""
    route = energy.times(
        operation(energy.variance, x.to(energy.variance.dtype), kernel, stride, padding, dilation, *rest)
    )
    if energy.expected is None:
        return route
    ceil_mode = rest[0]
    backward = torch.ops.aten.avg_pool2d_backward if len(kernel) == 2 else torch.ops.aten.avg_pool3d_backward
    if any(d != 1 for d in dilation):
        mean = operation(energy.expected, x, kernel, stride, padding, dilation, *rest)
        return route.about(mean, energy.expected_exponent, energy.channel)
    geometry = (kernel, stride or kernel, padding, ceil_mode, False, None)
    mean = backward(energy.expected.contiguous(), x, *geometry)
    square = energy.expected.to(energy.variance.dtype).square()
    lost = backward(square.contiguous(), x.to(square.dtype), *geometry) * (1 - 1 / prod(kernel))
    return route.plus(lost, 2 * energy.expected_exponent).about(mean, energy.expected_exponent, energy.channel)


RULES: Mapping[str, Rule] = {
    "avg_pool2d_backward": averaged,
    "avg_pool3d_backward": averaged,
    "_adaptive_avg_pool2d_backward": averaged_to_size,
    "_adaptive_avg_pool3d_backward": averaged_to_size,
    (
        "upsample_linear1d_backward upsample_bilinear2d_backward upsample_trilinear3d_backward "
        "upsample_bicubic2d_backward _upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward "
        "_upsample_lanczos2d_aa_backward"
    ): interpolated,
}

WHOLE: Mapping[str, Rule] = {
    "max_pool2d_with_indices_backward": routed,
    "max_pool3d_with_indices_backward": routed,
}
