"""The mean of a gradient passes through an operation as the gradient itself does; here is where its channels are then."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from gradlens.geometry.energy.tensor import Energy, Operation, Rule, energies


def with_mean(rule: Rule) -> Rule:
    """A rule of the variance, and beside it the operation itself on the mean."""

    def both(operation: Operation, *arguments: Any, **options: Any) -> Any:
        variance = rule(operation, *arguments, **options)
        every = [e for e in energies((*arguments, *options.values())) if e.expected is not None]
        if not every:
            return variance
        exponent = max(e.expected_exponent for e in every)

        def plain(argument: Any) -> Any:
            if isinstance(argument, Energy):
                return mean_at(argument, exponent)
            if isinstance(argument, tuple | list):
                return type(argument)(map(plain, argument))
            return argument

        means = operation(*map(plain, arguments), **{name: plain(option) for name, option in options.items()})
        return _attached(variance, means, exponent, lambda result: channel_of(operation, arguments, every[0], result))

    return both


def mean_at(energy: Energy, exponent: int) -> Tensor:
    """The mean in units of `2**exponent`; zeros where it has none."""
    if energy.expected is None:
        return torch.zeros((), dtype=energy.dtype, device=energy.device).expand(energy.shape)
    shift = energy.expected_exponent - exponent
    return energy.expected if shift == 0 else energy.expected * 2.0 ** max(-1000, shift)


def channel_of(operation: Operation, arguments: Sequence[Any], energy: Energy, result: Tensor) -> int | None:
    """The axis of `result` that does not count positions, or None where that is lost."""
    name = operation._schema.name.removeprefix("aten::")
    if name.endswith(("convolution_backward", "batch_norm_backward", "group_norm_backward")):
        return 1
    if name in ("mm", "addmm", "native_layer_norm_backward"):
        return result.ndim - 1
    axis = energy.channel
    if axis is None:
        return None
    if name == "t":
        return 1 - axis
    if name == "transpose":
        one, other = (a % energy.ndim for a in arguments[1:3])
        return {one: other, other: one}.get(axis, axis)
    if name == "permute":
        return [a % energy.ndim for a in arguments[1]].index(axis)
    if result.ndim == energy.ndim and name not in ("view", "_unsafe_view", "bmm"):
        return axis
    before = prod(energy.shape[:axis])
    for place, size in enumerate(result.shape):
        if size == energy.shape[axis] and prod(result.shape[:place]) == before:
            return place
    return None


def _attached(variance: Any, means: Any, exponent: int, channel: Callable[[Tensor], int | None]) -> Any:
    """Energies about their means, wherever the operation returned one."""
    if isinstance(variance, Energy):
        return variance.about(means, exponent, channel(means))
    if isinstance(variance, tuple | list):
        return type(variance)(_attached(v, m, exponent, channel) for v, m in zip(variance, means, strict=True))
    return variance
