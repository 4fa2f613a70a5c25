"""Operations that multiply each entry of a gradient by a number of its own: activations, gates, dropout, quotients."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, NoRuleError, Operation, Rule, energies, rescaled

KEPT = 1e-3  # a mean with a smaller share of the energy is counted as variance, which saves its way


def rooted(operation: Operation, *arguments: Any, **options: Any) -> Energy:
    """g' = d g, entry by entry: e' = d^2 e, the square of what the operation makes of the root of e."""
    energy = _only(operation, arguments)
    root, shift = rescaled(_on(operation, arguments, options, energy, energy.variance.sqrt()))
    return energy.like(root.square_(), energy.exponent + 2 * shift, _dtype(arguments))


def scaled(operation: Operation, *arguments: Any, **options: Any) -> Energy:
    """As `rooted`. A mean is scaled by the mean of d over positions, and becomes variance by its variance over them."""
    energy = _only(operation, arguments)
    variance = rooted(operation, *arguments, **options)
    if energy.expected is None:
        return variance
    if energy.channel is None or not any(isinstance(a, Tensor) and a is not energy for a in arguments):
        mean = _on(operation, arguments, options, energy, energy.expected)
        return variance.about(mean, energy.expected_exponent, energy.channel)
    ones = torch.ones((), dtype=energy.expected.dtype, device=energy.device).expand(energy.shape)
    return _spread(variance, energy, _on(operation, arguments, options, energy, ones))


def divided(operation: Operation, one: Any, other: Any) -> Energy:
    """A gradient over a number; a number over a gradient is not linear."""
    if not isinstance(one, Energy):
        raise NoRuleError(f"{operation._schema.name} by a gradient")
    return scaled(operation, one, other)


def learned_slope(operation: Operation, energy: Energy, x: Tensor, weight: Tensor) -> tuple[Energy, Energy]:
    """PReLU: its slope squared; for the gradient of the slope itself, where a network makes it, the squared input."""
    x, weight = x.to(energy.variance.dtype), weight.to(energy.variance.dtype)
    root = operation(energy.variance.sqrt(), x, weight)
    return energy.times(root[0].square()), energy.times(root[1].square())


def _only(operation: Operation, arguments: Any) -> Energy:
    """The one energy among the arguments; with two the operation is no longer linear in the gradient."""
    every = energies(arguments)
    if len(every) != 1:
        raise NoRuleError(f"{operation._schema.name} of {len(every)} gradients")
    return every[0]


def _on(operation: Operation, arguments: Any, options: Any, energy: Energy, values: Tensor) -> Tensor:
    """What the operation makes of `values` in place of `energy`, in their precision."""

    def plain(argument: Any) -> Any:
        if argument is energy:
            return values
        if isinstance(argument, Tensor) and argument.is_floating_point():
            return argument.to(values.dtype)
        return argument

    return operation(*map(plain, arguments), **options)


def _spread(variance: Energy, energy: Energy, d: Tensor) -> Energy:
    """The variance, and the mean of `energy` times the mean of d over all axes but the channels'."""
    assert energy.expected is not None
    assert energy.channel is not None
    channel = energy.channel + d.ndim - energy.ndim
    around, middle = torch.var_mean(d, [a for a in range(d.ndim) if a != channel], correction=0, keepdim=True)
    dtype = variance.variance.dtype
    lost = energy.expected.to(dtype).square() * around.to(dtype)
    whole = variance.plus(lost.expand(d.shape), 2 * energy.expected_exponent)
    mean = (energy.expected * middle).expand(d.shape)
    square = mean.to(dtype).square()
    shift = max(-1000, min(100, 2 * energy.expected_exponent - whole.exponent))
    if square.sum() * 2.0**shift < KEPT * whole.variance.sum():
        return whole.plus(square, 2 * energy.expected_exponent)
    return whole.about(mean, energy.expected_exponent, channel)


def _dtype(arguments: Any) -> torch.dtype:
    """The dtype that the operation would return."""
    energy = energies(arguments)[0]
    dtype = energy.dtype
    for other in arguments:
        if isinstance(other, Tensor) and other.ndim and other.is_floating_point():
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype


RULES: Mapping[str, Rule] = {"glu_backward": rooted, "_prelu_kernel_backward": learned_slope}

WHOLE: Mapping[str, Rule] = {
    (
        "mul neg threshold_backward gelu_backward silu_backward hardswish_backward hardtanh_backward "
        "hardsigmoid_backward leaky_relu_backward elu_backward softplus_backward softshrink_backward "
        "hardshrink_backward sigmoid_backward tanh_backward logit_backward log_sigmoid_backward mish_backward "
        "rrelu_with_noise_backward native_dropout_backward _masked_scale"
    ): scaled,
    "div": divided,
}
