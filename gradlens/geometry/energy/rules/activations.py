"""Operations that multiply each entry of a gradient by a number of its own: that number, squared, at the real input."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Rule, energies

Operation = torch._ops.OpOverload
KEPT = 1e-3  # a mean with a smaller share of the energy is counted as variance, which saves its way


def scaled(operation: Operation, *arguments: Any, **options: Any) -> Energy:
    """g' = d * g, entry by entry: e' = d^2 e, which is the square of the operation on the root of e.

    A mean is scaled by the mean of d over positions; the variance of d over them turns some of it into variance.

    Raises:
        NotImplementedError: two gradients are multiplied, which is not linear.
    """
    every = energies((*arguments, *options.values()))
    if len(every) != 1:
        raise NotImplementedError(f"a product of {len(every)} gradients in {operation}")
    energy = every[0]

    def once(values: Tensor) -> Tensor:
        def plain(argument: Any) -> Any:
            if argument is energy:
                return values
            if isinstance(argument, Tensor) and argument.is_floating_point():
                return argument.to(values.dtype)
            return argument

        return operation(*map(plain, arguments), **{name: plain(option) for name, option in options.items()})

    scale = energy.times(once(energy.values.sqrt()).square_(), dtype=_result(arguments, energy))
    if energy.mean is None:
        return scale
    gates = [a for a in arguments if isinstance(a, Tensor) and a is not energy]
    if energy.channel is None or not gates:
        return scale.about(once(energy.mean), energy.mean_exponent, energy.channel)
    return _spread(scale, energy, once(torch.ones((), dtype=energy.mean.dtype, device=energy.device).expand(energy.shape if gates[0].ndim < energy.ndim else gates[0].shape)))


def _spread(scale: Energy, energy: Energy, d: Tensor) -> Energy:
    """The energy times d, with a mean times the mean of d."""
    assert energy.mean is not None and energy.channel is not None
    axes = [axis for axis in range(d.ndim) if axis != energy.channel + d.ndim - energy.ndim]
    variance, mean = torch.var_mean(d, axes, correction=0, keepdim=True)
    square = energy.mean.to(scale.values.dtype).square()
    more = (square * variance.to(square.dtype)).expand(scale.shape)
    whole = scale.plus(more, 2 * energy.mean_exponent)
    about = (energy.mean * mean).expand(scale.shape)
    kept = about.to(square.dtype).square().sum() * 2.0 ** max(-1000, min(100, 2 * energy.mean_exponent - whole.exponent))
    if kept < KEPT * whole.values.sum():
        return whole.plus(about.to(square.dtype).square(), 2 * energy.mean_exponent)
    return whole.about(about, energy.mean_exponent, energy.channel + d.ndim - energy.ndim)


def divided(operation: Operation, one: Any, other: Any, **options: Any) -> Energy:
    """A gradient over a number; a number over a gradient is not linear."""
    if not isinstance(one, Energy):
        raise NotImplementedError("division by a gradient")
    return scaled(operation, one, other, **options)


def learned_slope(
    operation: Operation, energy: Energy, x: Tensor, weight: Tensor
) -> tuple[Energy, Energy]:
    """PReLU: its slope squared; the gradient of the slope itself by the squared negative input."""
    x, weight = x.to(energy.values.dtype), weight.to(energy.values.dtype)
    once = operation(energy.values, x, weight)
    square = [energy.times(operation(part, x, weight)[i]) for i, part in enumerate(once)]
    if energy.mean is not None:
        means = operation(energy.mean, x, weight)
        square = [part.about(m, energy.mean_exponent, energy.channel) for part, m in zip(square, means, strict=True)]
    return square[0], square[1]


def _result(arguments: Any, energy: Energy) -> torch.dtype:
    """The dtype that the operation would return."""
    others = [a.dtype for a in arguments if isinstance(a, Tensor) and a is not energy and a.is_floating_point() and a.ndim]
    dtype = energy.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other)
    return dtype


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            "mul neg threshold_backward gelu_backward silu_backward hardswish_backward hardtanh_backward relu6_backward "
            "hardsigmoid_backward leaky_relu_backward elu_backward softplus_backward softshrink_backward "
            "hardshrink_backward mish_backward sigmoid_backward tanh_backward logit_backward log_sigmoid_backward "
            "rrelu_with_noise_backward native_dropout_backward _masked_scale masked_fill"
        ).split(),
        scaled,
    ),
    "div": divided,
    "true_divide": divided,
    "_prelu_kernel_backward": learned_slope,
}
