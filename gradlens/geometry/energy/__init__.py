"""Where the energy of a network's input gradient, or of its output, will lie: predicted from the architecture alone.

If the entries of a linear map M are independent with zero mean, E[(M x)^2] = (M * M) E[x^2] with the elementwise square:
one pass in which every coefficient is squared predicts a map of energy, without data and before any training.
Source: ours; the question, what can be learned "without the slow feedback cycle of training models", is Odena et al.'s 2016.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


def energy_map(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    direction: Literal["backward", "forward"] = "backward",
    seed: int = 0,
    score: Literal["random", "top"] = "random",
) -> Tensor:
    """Predicted energy at each position of the input gradient (backward) or of the output (forward).

    Range: [0, inf), mean 1.
    Blind to: the sign of what passes; correlation between weights, which is what training adds.

    Args:
        model: any module; a random state of it is what the prediction is about.
        input_size: `[C *spatial]` of one image, no batch.
        direction: "backward" for classifiers, discriminators and attribution, "forward" for generators.
        seed: of the noise image that sets gates, ReLU masks and pool routes (backward).
        score: whose gradient goes backward: of a random direction, or of the top logit; see `backward_energy`.

    Returns:
        `[*spatial]` of the input or the output, summed over channels, float64 on the CPU.

    Raises:
        ValueError: `direction` is unknown.
        See `backward_energy` and `forward_energy`.

    Source: ours.
    """
    if direction == "backward":
        from gradlens.geometry.energy.backward import backward_energy

        return backward_energy(model, input_size, seed=seed, score=score)
    if direction == "forward":
        from gradlens.geometry.energy.forward import forward_energy

        return forward_energy(model, input_size)
    raise ValueError(f'direction: must be "backward" or "forward", got {direction!r}')


__all__ = ["energy_map"]
