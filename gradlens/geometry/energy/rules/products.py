"""Matrix products and averages: every coefficient squared."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.rules.structure import added
from gradlens.geometry.energy.tensor import Energy, NoRuleError, Operation, Rule, rescaled


def product(operation: Operation, one: Tensor, other: Tensor, **options: Any) -> Energy:
    """A gradient times a matrix: with the squared matrix."""
    if isinstance(one, Energy) and isinstance(other, Energy):
        raise NoRuleError(f"{operation._schema.name} of two gradients")
    if isinstance(one, Energy):
        matrix, exponent = squared(other, one)
        return one.times(operation(one.variance, matrix, **options), exponent)
    assert isinstance(other, Energy)
    matrix, exponent = squared(one, other)
    return other.times(operation(matrix, other.variance, **options), exponent)


def product_added(
    operation: Operation, start: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1
) -> Energy:
    """beta * start + alpha * (a gradient times a matrix)."""
    multiply = torch.ops.aten.bmm.default if one.ndim == 3 else torch.ops.aten.mm.default
    energy = product(multiply, one, other)
    energy = energy.times(energy.variance * alpha**2)
    if beta == 0:
        return energy
    return added(
        operation, energy, start * beta if not isinstance(start, Energy) else start.times(start.variance * beta**2)
    )


def mean(
    operation: Operation, energy: Energy, axes: list[int] | None = None, keepdim: bool = False, **options: Any
) -> Energy:
    """An average over n entries: their sum over n, squared."""
    values = energy.variance
    count = prod(values.shape[axis] for axis in axes) if axes else values.numel()
    return energy.times(values.mean(axes or None, keepdim) / count)


def squared(matrix: Tensor, energy: Energy) -> tuple[Tensor, int]:
    """(the squared entries of `matrix` in the energy's precision, in units of 2**exponent; that exponent)."""
    values, shift = rescaled(matrix.to(energy.variance.dtype))
    return values.square(), 2 * shift


RULES: Mapping[str, Rule] = {
    "mm": product,
    "bmm": product,
    "mv": product,
    "dot": product,
    "addmm": product_added,
    "baddbmm": product_added,
    "mean": mean,
}
