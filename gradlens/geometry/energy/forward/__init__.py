"""Energy propagation through the forward pass: where the energy of a generator's output will lie.

An entry of the output is its mean over latents plus a part that varies, E[y^2] = m^2 + v. The mean is carried with the
weights that the network has, the variance with their squares, and a nonlinearity gets a normal variable. So a single
draw of weights is predicted, and what shows on average over draws as well: a network whose kernels cover every pixel
alike still has a lattice in m, because the filters of its phases add up to different sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradlens.geometry.energy.forward.moments import Moments
from gradlens.geometry.energy.forward.pointwise import entrywise
from gradlens.geometry.energy.forward.rules import RULES
from gradlens.modules import undisturbed


def forward_energy(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    """Predicted mean square at each position of the output of a network that is given standard normal noise.

    For a linear network with independent zero-mean weights W_1, W_2, ... and no biases the prediction for one draw is
    ... (W_2 * W_2) (W_1 * W_1) 1, and its average over draws is exact. It draws nothing: two calls agree.

    Range: [0, inf), mean 1.
    Blind to: the sign of what passes; correlation between entries other than copies of each other, which training adds
        and narrow layers have.

    Args:
        model: any module that maps `[1 *input_size]` to `[1 C *spatial]`: a generator, decoder or image-to-image network.
        input_size: `[C *spatial]` of one image, or the shape of one latent, no batch.

    Returns:
        `[*spatial]` of the output, summed over channels, float64 on the CPU.

    Raises:
        ValueError: the model cannot run at that size, or does not return one `[1 C *spatial]` tensor that depends on its
            input and holds energy.
        NotImplementedError: it meets an operation without a rule; the operation and its module are named.

    Source: ours; mean and variance through layers are Frey and Hinton's 1999.

    Example:
        >>> energy = forward_energy(nn.ConvTranspose2d(1, 1, 1, stride=2, bias=False), (1, 8, 8))
        >>> energy[:2, :2].round(decimals=3).tolist()
        [[3.516, 0.0], [0.0, 0.0]]
    """
    moments = Moments(RULES, entrywise, {module: name for name, module in model.named_modules()})
    place = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), undisturbed(model), unfused():
        noise = torch.zeros(1, *input_size, dtype=place.dtype, device=place.device)
        moments.write(noise, torch.ones_like(noise))
        try:
            with moments:
                output = model(noise)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            why = str(error).split("\n")[0]
            raise ValueError(f"input_size: the model cannot run on {list(noise.shape)}: {why}") from error
        if not isinstance(output, Tensor) or output.ndim < 3 or not moments.carriers(output):
            raise ValueError(
                f"model: must return one [1 C *spatial] tensor that depends on its input, got {_words(output)}"
            )
        mean, deviation = (t.double().cpu() for t in (output, moments.read(output).spread))
    scale = torch.maximum(mean.abs(), deviation).amax()
    if not (scale > 0 and scale.isfinite()):
        raise ValueError(f"model: the largest magnitude of its output is {float(scale)}, which has no map of energy")
    energy = ((mean / scale).square() + (deviation / scale).square()).sum((0, 1))
    return energy / energy.mean()


@contextmanager
def unfused() -> Iterator[None]:
    """Attention in its parts: matrix products and a softmax."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _words(output: Any) -> str:
    """What a model returned, in words."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {list(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with {', '.join(map(str, output))}: wrap the model so that it returns one of them"
    if isinstance(output, tuple | list):
        return f"{len(output)} values: wrap the model so that it returns one of them"
    return f"a {type(output).__name__}: wrap the model so that it returns a tensor"
