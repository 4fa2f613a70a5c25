"""Operations that multiply each entry of a gradient by a number of its own: that number, squared, at the real input."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Rule, energies

Operation = torch._ops.OpOverload


def scaled(operation: Operation, *arguments: Any, **options: Any) -> Energy:
    """g' = d * g, entry by entry: the operation done twice is e' = d * d * e.

    Raises:
        NotImplementedError: two gradients are multiplied, which is not linear.
    """
    every = energies((*arguments, *options.values()))
    if len(every) != 1:
        raise NotImplementedError(f"a product of {len(every)} gradients in {operation}")
    energy = every[0]
    dtype = _result(arguments, energy)

    def once(values: Tensor) -> Tensor:
        def plain(argument: Any) -> Any:
            if argument is energy:
                return values
            if isinstance(argument, Tensor) and argument.is_floating_point():
                return argument.to(values.dtype)
            return argument

        return operation(*map(plain, arguments), **{name: plain(option) for name, option in options.items()})

    return energy.times(once(once(energy.values)), dtype=dtype)


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
    return energy.times(operation(once[0], x, weight)[0]), energy.times(operation(once[1], x, weight)[1])


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
