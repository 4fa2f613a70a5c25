"""Normalisation and softmax: a scale, and one or two averages over the group that are taken out.

With y = w (x - mean) / sd, z = (x - mean) / sd and d = 1 / sd, the gradient of a group of n entries is
g'_i = d sum_j (delta_ij - (1 + z_i z_j) / n) w_j g_j. Squared, entry by entry, that needs three sums over the group:
e'_i = d^2 [(1 - 2 (1 + z_i^2) / n) w_i^2 e_i + (S0 + 2 z_i S1 + z_i^2 S2) / n^2], S_k = sum_j z_j^k w_j^2 e_j.
"""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Operation, Rule


def batch_normalised(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    train: bool,
    eps: float,
    wanted: Sequence[bool],
    *reserve: Tensor,
) -> tuple[Energy | None, None, None]:
    """Batch norm by running statistics, where it is a scale, or by the batch's own (also instance norm)."""
    values = energy.variance
    shape = [1, -1, *[1] * (values.ndim - 2)]
    if weight is not None:
        values = values * weight.to(values.dtype).square().view(shape)
    if not train:
        assert running_var is not None
        scale = (running_var.to(values.dtype) + eps).reciprocal()
        return energy.times(values * scale.view(shape)), None, None
    assert mean is not None
    assert rstd is not None
    axes = [0, *range(2, values.ndim)]
    rstd = rstd.to(values.dtype).view(shape)
    z = (x.to(values.dtype) - mean.to(values.dtype).view(shape)) * rstd
    return energy.times(centred(values, z, axes) * rstd.square()), None, None


def batch_normalised_by_cudnn(
    operation: Operation,
    x: Tensor,
    energy: Energy,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    eps: float,
    *reserve: Tensor,
) -> tuple[Energy | None, None, None]:
    """The kernels of cuDNN and MIOpen, which autograd calls in training mode alone."""
    return batch_normalised(
        operation, energy, x, weight, running_mean, running_var, mean, rstd, True, eps, (True, True, True)
    )


def layer_normalised(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Energy, None, None]:
    """Layer norm over the last axes."""
    values = energy.variance
    if weight is not None:
        values = values * weight.to(values.dtype).square()
    rstd = rstd.to(values.dtype)
    z = (x.to(values.dtype) - mean.to(values.dtype)) * rstd
    axes = list(range(values.ndim - len(shape), values.ndim))
    return energy.times(centred(values, z, axes) * rstd.square()), None, None


def group_normalised(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Energy, None, None]:
    """Group norm."""
    values = energy.variance
    if weight is not None:
        values = values * weight.to(values.dtype).square().view(1, -1, *[1] * (values.ndim - 2))
    grouped = values.reshape(batch, groups, -1)
    rstd = rstd.to(values.dtype).view(batch, groups, 1)
    z = (x.to(values.dtype).reshape(batch, groups, -1) - mean.to(values.dtype).view(batch, groups, 1)) * rstd
    return energy.times((centred(grouped, z, [-1]) * rstd.square()).view(values.shape)), None, None


def rms_normalised(
    operation: Operation,
    energy: Energy,
    x: Tensor,
    shape: Sequence[int],
    rstd: Tensor,
    weight: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Energy, None]:
    """Root mean square norm: no mean is taken out, so that one sum is left of the three."""
    values = energy.variance
    if weight is not None:
        values = values * weight.to(values.dtype).square()
    rstd = rstd.to(values.dtype)
    z = x.to(values.dtype) * rstd
    axes = list(range(values.ndim - len(shape), values.ndim))
    count = prod(shape)
    own = (1 - 2 * z.square() / count) * values
    whole = own + z.square() * (z.square() * values).sum(axes, keepdim=True) / count**2
    return energy.times(whole.clamp_(min=0) * rstd.square()), None


def centred(values: Tensor, z: Tensor, axes: list[int]) -> Tensor:
    """The energy of a gradient after its mean over `axes`, and its share along z, are taken out."""
    n = prod(values.shape[axis] for axis in axes)
    along = values * z
    s0, s1 = (part.sum(axes, keepdim=True) / n**2 for part in (values, along))
    s2 = (along * z).sum(axes, keepdim=True) / n**2
    bent = (z * s2).add_(2 * s1).add_(along, alpha=-2 / n)
    return bent.mul_(z).add_(values, alpha=1 - 2 / n).add_(s0).clamp_(min=0)


def softmax(operation: Operation, energy: Energy, a: Tensor, axis: int, dtype: torch.dtype) -> Energy:
    """g'_i = a_i sum_j (delta_ij - a_j) g_j: e'_i = a_i^2 [(1 - 2 a_i) e_i + sum_j a_j^2 e_j]."""
    a = a.to(energy.variance.dtype)
    weighted = a.square() * energy.variance
    whole = (1 - 2 * a).mul_(weighted).add_(a.square().mul_(weighted.sum(axis, keepdim=True)))
    return energy.times(whole.clamp_(min=0), dtype=dtype)


def log_softmax(operation: Operation, energy: Energy, log_a: Tensor, axis: int, dtype: torch.dtype) -> Energy:
    """g'_i = sum_j (delta_ij - a_i) g_j: e'_i = (1 - 2 a_i) e_i + a_i^2 sum_j e_j."""
    a = log_a.to(energy.variance.dtype).exp()
    values = energy.variance
    whole = (1 - 2 * a) * values + a.square() * values.sum(axis, keepdim=True)
    return energy.times(whole.clamp_(min=0), dtype=dtype)


RULES: Mapping[str, Rule] = {
    "native_batch_norm_backward": batch_normalised,
    "batch_norm_backward": batch_normalised,
    "cudnn_batch_norm_backward": batch_normalised_by_cudnn,
    "miopen_batch_norm_backward": batch_normalised_by_cudnn,
    "native_layer_norm_backward": layer_normalised,
    "native_group_norm_backward": group_normalised,
    "_fused_rms_norm_backward": rms_normalised,
    "_softmax_backward_data": softmax,
    "_log_softmax_backward_data": log_softmax,
}
