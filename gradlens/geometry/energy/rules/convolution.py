"""Convolutions of every kind and dimension: with squared weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradlens.geometry.energy.rules.products import squared
from gradlens.geometry.energy.tensor import Energy, Operation, Rule


def convolved(
    operation: Operation, energy: Energy, x: Tensor, weight: Tensor, bias: Sequence[int] | None, *rest: Any
) -> tuple[Energy | None, ...]:
    """The gradients of a convolution's input, weight and bias, those that are asked for: by squared weights and inputs.

    The gradient of the weight is on the way to the image where a network makes its weights from it.
    """
    *geometry, wanted = rest
    taps, exponent = squared(weight, energy)
    inputs, inner = squared(x, energy) if wanted[1] else (x.to(energy.variance.dtype), 0)
    found = operation(energy.variance, inputs, taps, bias, *geometry, wanted)
    exponents = (exponent, inner, 0)
    return tuple(
        None if values is None or not want else energy.times(values, exponent)
        for values, want, exponent in zip(found, wanted, exponents, strict=True)
    )


RULES: Mapping[str, Rule] = {
    "convolution_backward": convolved,
}
