"""A tensor of energies that autograd takes for a gradient.

`Energy` has the shape, dtype and device of the gradient that it stands for. Autograd's own backward formulas carry it; where
one of them calls an operation, the operation's rule says what becomes of the energy.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Operation = torch._ops.OpOverload
Rule = Callable[..., Any]  # (operation, *arguments of the operation) -> what the operation returns, of energies
ROOM = 16  # exponents of 2 by which the largest value may leave 1 before the tensor is rescaled


class NoRuleError(NotImplementedError):
    """The backward pass met an operation that has no rule; `node` is where in autograd's graph."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation
        self.node = torch._C._current_autograd_node()


class Energy(Tensor):
    """Gradients of mean `expected * 2**expected_exponent` and variance `variance * 2**exponent`, in disguise as one of `dtype`.

    The exponents keep a product of hundreds of squared weights within the range of float32. Without a mean all is
    variance. `channel` is the axis of a feature map that does not count positions, where it is known.
    """

    variance: Tensor
    exponent: int
    rules: Mapping[str, Rule]
    expected: Tensor | None
    expected_exponent: int
    channel: int | None

    @staticmethod
    def __new__(cls, values: Tensor, exponent: int, dtype: torch.dtype, rules: Mapping[str, Rule]) -> "Energy":
        energy = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=dtype, device=values.device
        )
        energy.variance, energy.exponent, energy.rules = values, exponent, rules
        energy.expected, energy.expected_exponent, energy.channel = None, 0, None
        return energy

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(
        cls, func: torch._ops.OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What the rule of `func` makes of its arguments."""
        energy = energies((*args, *(kwargs or {}).values()))[0]
        rule = energy.rules.get(func._schema.name.removeprefix("aten::"))
        if rule is None:
            raise NoRuleError(func._schema.name)
        if any(isinstance(argument, Tensor) and argument.is_complex() for argument in args):
            raise NoRuleError(f"{func._schema.name} of complex numbers")
        return rule(func, *args, **(kwargs or {}))

    def like(self, values: Tensor, exponent: int | None = None, dtype: torch.dtype | None = None) -> "Energy":
        """`values` as an energy of the same kind; with this one's exponent and dtype unless told otherwise."""
        return Energy(values, self.exponent if exponent is None else exponent, dtype or self.dtype, self.rules)

    def times(self, values: Tensor, exponent: int = 0, dtype: torch.dtype | None = None) -> "Energy":
        """`values * 2**exponent` in units of this energy, rescaled where float32 would run out of room."""
        values, shift = rescaled(values)
        return self.like(values, self.exponent + exponent + shift, dtype)

    def about(self, mean: Tensor, exponent: int = 0, channel: int | None = None) -> "Energy":
        """The same variance about `mean * 2**exponent`."""
        mean, shift = rescaled(mean)
        exponent += shift
        values = self.variance
        if mean.stride() != values.stride():
            mean, values = mean.contiguous(), values.contiguous()
        energy = self.like(values)
        energy.expected, energy.expected_exponent, energy.channel = mean, exponent, channel
        return energy

    def plus(self, values: Tensor, exponent: int) -> "Energy":
        """With a further variance of `values * 2**exponent`."""
        if exponent == self.exponent:
            return self.like(self.variance + values)
        other = self.like(values, exponent)
        common = max(
            (e.exponent for e in (self, other) if e.variance.numel() and e.variance.amax() > 0), default=exponent
        )
        return self.like(self.at(common) + other.at(common), common)

    def at(self, exponent: int) -> Tensor:
        """The values in units of `2**exponent`."""
        shift = self.exponent - exponent
        return self.variance if shift == 0 else self.variance * 2.0 ** max(-1000, min(1000, shift))


def rescaled(values: Tensor) -> tuple[Tensor, int]:
    """(values over 2**shift, shift): 0 unless the largest is so far from 1 that float32 might run out of room."""
    peak = max(abs(float(end)) for end in torch.aminmax(values)) if values.numel() else 0.0
    if peak == 0 or not math.isfinite(peak) or abs(shift := math.frexp(peak)[1]) <= ROOM:
        return values, 0
    shift = max(-100, min(100, shift))
    return values * 2.0**-shift, shift


def energies(arguments: Any) -> list[Energy]:
    """Every `Energy` in `arguments`, which may be nested in lists and tuples."""
    if isinstance(arguments, Energy):
        return [arguments]
    if isinstance(arguments, tuple | list):
        return [energy for argument in arguments for energy in energies(argument)]
    return []
