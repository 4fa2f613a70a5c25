"""Average pooling and interpolation: the squared weight with which an output reads its inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Rule

Operation = torch._ops.OpOverload


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
    ones = energy.values.new_ones(1, 1, *x.shape[-len(kernel) :])
    geometry = (kernel, stride, padding, ceil_mode, count_include_pad)
    weight = forward(ones, *geometry, divisor) / forward(ones, *geometry, 1)
    if energy.ndim == len(kernel) + 1:
        weight = weight[0]
    values = operation((energy.values * weight).contiguous(), x.to(energy.values.dtype), *geometry, divisor)
    return energy.times(values)


def averaged_to_size(operation: Operation, energy: Energy, x: Tensor) -> Energy:
    """Adaptive average pooling: windows of unequal size."""
    values = energy.values
    weight = values.new_ones(())
    dimensions = 3 if operation._schema.name.endswith("3d_backward") else 2
    for axis in range(-dimensions, 0):
        extent, count = x.shape[axis], values.shape[axis]
        at = torch.arange(count, device=values.device)
        size = ((at + 1) * extent + count - 1) // count - at * extent // count
        weight = weight / size.to(values.dtype).view(-1, *[1] * (-axis - 1))
    return energy.times(operation(values * weight, x.to(values.dtype)))


def interpolated(
    operation: Operation, energy: Energy, output: Sequence[int], size: Sequence[int], *how: Any
) -> Energy:
    """Linear and cubic interpolation, which are products of one matrix an axis."""
    forward = getattr(torch.ops.aten, operation._schema.name.removeprefix("aten::").removesuffix("_backward"))
    align, *scales = how if len(how) > len(output) else (None, *how)
    arguments = () if align is None else (align,)
    values = energy.values
    for axis, (extent, length) in enumerate(zip(size[2:], output, strict=True)):
        identity = torch.eye(extent, dtype=values.dtype, device=values.device)
        lone = identity.view(extent, 1, *[extent if a == axis else 1 for a in range(len(output))])
        to = [length if a == axis else 1 for a in range(len(output))]
        scale = [s if a == axis else None for a, s in enumerate(scales)]
        matrix = forward.default(lone, to, *arguments, *scale).view(extent, length)
        values = torch.movedim(torch.movedim(values, axis + 2, -1) @ matrix.square().T, -1, axis + 2)
    return energy.times(values)


RULES: Mapping[str, Rule] = {
    "avg_pool2d_backward": averaged,
    "avg_pool3d_backward": averaged,
    "_adaptive_avg_pool2d_backward": averaged_to_size,
    "_adaptive_avg_pool3d_backward": averaged_to_size,
    **dict.fromkeys(
        (
            "upsample_linear1d_backward upsample_bilinear2d_backward upsample_trilinear3d_backward "
            "upsample_bicubic2d_backward _upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward"
        ).split(),
        interpolated,
    ),
}
