"""The gradient of each image's score with respect to the image, and to what named layers return on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradlens.gradients.scores import Score, top_logit
from gradlens.modules import undisturbed
from gradlens.probes import Probe


def input_gradient(model: nn.Module, images: Tensor, *, score: Score = top_logit) -> Tensor:
    """Gradient of each image's score with respect to the image, signed.

    The model runs in eval mode; its modes, parameters, `.grad`, hooks and the random state are left as they were.

    Args:
        model: any module that takes `images`; it may return whatever `score` reads.
        images: `[N C *spatial]`, floating point, as the model takes them; on the model's device.
        score: from what the model returns to `[N]`; the largest logit unless given.

    Returns:
        `[N C *spatial]`, in the unit of the score per unit of the image, dtype of `images`.

    Raises:
        ValueError: the output cannot be scored, or does not depend on the images.

    Source: Simonyan, Vedaldi, Zisserman 2014, without the absolute value.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> bool(input_gradient(model, torch.rand(1, 1, 2, 2)).shape == (1, 1, 2, 2))
        True
    """
    with undisturbed(model):
        return gradients(model, images, score)[0]


def gradients(
    model: nn.Module, images: Tensor, score: Score, layers: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients at the input and at `layers`, from one forward and one backward pass in the mode the model is in."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_()
        with Probe(model, sorted({layer.split("#")[0] for layer in layers})) as probe:
            value = score(model(leaf.clone()))  # a copy, for a network that begins in place
        probe.check_reached()
        asked = {layer: probe.activation(layer) for layer in layers}
        if not value.requires_grad:
            raise ValueError("score: does not depend on the images; no gradient reaches them")
        found = torch.autograd.grad(value.sum(), [leaf, *asked.values()], allow_unused=True)
    if found[0] is None:
        raise ValueError("score: does not depend on the images; no gradient reaches them")
    inside = [torch.zeros_like(a) if g is None else g for a, g in zip(asked.values(), found[1:], strict=True)]
    return found[0], dict(zip(asked, inside, strict=True))
