"""Energy propagation through the backward pass."""

from collections.abc import Sequence

from torch import Tensor, nn


def backward_energy(model: nn.Module, input_size: Sequence[int], *, seed: int = 0) -> Tensor:
    """Predicted energy at each position of the input gradient `[*spatial]`, float64, mean 1."""
    raise NotImplementedError
