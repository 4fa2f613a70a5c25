"""Other gates for a ReLU: the control, for what a gate does is elementwise and knows nothing of a lattice."""

import torch

from gradlens.rules.rule import RELUS, Linear, Met, Rule


def smooth(sharpness: float = 1.0) -> Rule:
    """ReLU backwards as softplus: the gate is sigmoid(`sharpness` x) in place of a step.

    A ReLU6 closes above 6 in the same way, and a leaky ReLU opens from its slope on.

    Raises:
        ValueError: `sharpness` is not above 0.
    """
    if not sharpness > 0:
        raise ValueError(f"sharpness: must be above 0, got {sharpness}")

    def answer(met: Met) -> Linear:
        x = met.x.to(torch.promote_types(met.x.dtype, torch.float32))
        gate = (sharpness * x).sigmoid()
        if met.kind == "relu6":
            gate = gate * (sharpness * (6 - x)).sigmoid()
        gate = (met.slope + (1 - met.slope) * gate).to(met.x.dtype)
        return lambda gradient: gradient * gate

    return Rule("smooth", RELUS, answer, after=False)


def identity() -> Rule:
    """ReLU backwards as nothing at all: the gradient passes."""
    return Rule("identity", RELUS, lambda met: lambda gradient: gradient, after=False)
