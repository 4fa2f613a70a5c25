"""Attributions: what people show in place of the gradient, always with its sign.

A method that looks at other inputs than the image (a path, noise, occlusions) asks for the class that wins on the image
itself: the winner may change on the way, and a sum over two classes explains neither.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlens.gradients.inputs import gradients
from gradlens.gradients.scores import Score, logits, top_logit
from gradlens.modules import undisturbed

Method = Literal[
    "saliency", "input-x-gradient", "integrated-gradients", "smoothgrad", "guided-backprop", "occlusion"
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)


def attribute(
    model: nn.Module,
    images: Tensor,
    method: Method,
    *,
    score: Score = top_logit,
    steps: int = 50,
    baseline: float = 0.0,
    samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
    window: int = 16,
    stride: int = 8,
    batch_size: int = 16,
) -> Tensor:
    """How much each value of each image counts for its score, by the method called `method`, signed.

    - `saliency`: g, the gradient of the score with respect to the image, as `input_gradient` gives it.
    - `input-x-gradient`: x g.
    - `integrated-gradients`: (x - `baseline`) times the mean of g over the straight path from `baseline` to x, by
      Gauss-Legendre quadrature in `steps` points. Its sum is the difference of the two scores.
    - `smoothgrad`: the mean of g over `samples` copies of the image with normal noise of standard deviation `noise` times
      the image's own range; the same noise for every image.
    - `guided-backprop`: g, where each ReLU, module or function, lets only positive gradients through.
    - `occlusion`: the score lost when a square of side `window` takes the value `baseline` in all channels, moved by
      `stride`; each pixel has the mean over the squares that cover it. The map is constant in cells of `stride` pixels:
      **the stride of an occlusion is a period of its own, a lattice that no network wrote.** One forward pass a square,
      729 for 224 px.

    The model runs in eval mode; its modes, parameters, `.grad`, hooks and the random state are left as they were.

    Args:
        model: any module that takes `images`; it may return whatever `score` reads.
        images: `[N C *spatial]`, floating point, as the model takes them; on the model's device.
        method: one of `METHODS`.
        score: from what the model returns to `[N]`. The largest logit unless given, and then the class that wins on the
            image itself throughout; a score that is given is used as it is.
        steps: points of the path; captum's default.
        baseline: in the unit of `images`; 0 is black.
        samples, noise: as Smilkov et al., who take 50 and 0.1 to 0.2.
        seed: of the noise.
        window, stride: in pixels; twice the stride, so that all pixels but those of the border are covered equally often,
            and about as in captum's tutorial (15 and 8).
        batch_size: images that the network sees at once.

    Returns:
        `[N C *spatial]`, dtype of `images`. `saliency`, `smoothgrad` and `guided-backprop` are in the unit of the score per
        unit of the image, the others in the unit of the score.

    Raises:
        ValueError: there is no such method, a setting is out of range, the model has no ReLU to guide, or as
            `input_gradient`.

    Source: Simonyan et al. 2014 (saliency), Shrikumar et al. 2017 (input x gradient), Sundararajan et al. 2017
    (integrated gradients), Smilkov et al. 2017 (SmoothGrad), Springenberg et al. 2015 (guided backprop), Zeiler and
    Fergus 2014 (occlusion). Absolute values, which some of them take for display, are left out: they move a lattice of
    sign to frequency 0.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False))
        >>> image = torch.rand(1, 1, 4, 4)
        >>> attribution = attribute(model, image, "integrated-gradients")
        >>> torch.allclose(attribution.sum(), model(image).sum(), atol=1e-5)
        True
    """
    if method not in METHODS:
        raise ValueError(f"method: must be one of {', '.join(METHODS)}, got {method!r}")
    counts = {"steps": steps, "samples": samples, "window": window, "stride": stride, "batch_size": batch_size}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if not noise >= 0:
        raise ValueError(f"noise: must be at least 0, got {noise}")

    with torch.inference_mode(False), torch.enable_grad(), undisturbed(model):
        images = images.clone() if images.is_inference() else images.detach()
        parts = []
        for part in images.split(batch_size):
            match method:
                case "saliency":
                    found = gradients(model, part, score)[0]
                case "input-x-gradient":
                    found = part * gradients(model, part, score)[0]
                case "integrated-gradients":
                    found = _integrated_gradients(model, part, score, steps, baseline, batch_size)
                case "smoothgrad":
                    found = _smoothgrad(model, part, score, samples, noise, seed)
                case "guided-backprop":
                    found = _guided_backprop(model, part, score)
                case "occlusion":
                    found = _occlusion(model, part, score, window, stride, baseline, batch_size)
            parts.append(found.to(images.dtype))
    return torch.cat(parts)


def _winners(model: nn.Module, images: Tensor, score: Score) -> Tensor:
    """Which logit wins on each image itself `[N]`; zeros where the score is not the largest logit."""
    with torch.no_grad():
        return logits(model(images.clone())).argmax(1) if score is top_logit else images.new_zeros(len(images))


def _fixed(output: Any, winners: Tensor, score: Score) -> Tensor:
    """The score `[N]`, where it is the largest logit that of `winners`."""
    value = logits(output).gather(1, winners[:, None])[:, 0] if score is top_logit else score(output)
    return value.to(torch.promote_types(value.dtype, torch.float32))  # captum adds up in the dtype of the score


def _integrated_gradients(
    model: nn.Module, images: Tensor, score: Score, steps: int, baseline: float, batch_size: int
) -> Tensor:
    from captum.attr import IntegratedGradients  # takes a second

    return IntegratedGradients(lambda x, winners: _fixed(model(x.clone()), winners, score)).attribute(
        images,
        baseline,
        additional_forward_args=_winners(model, images, score),
        n_steps=steps,
        internal_batch_size=batch_size,
    )


def _smoothgrad(model: nn.Module, images: Tensor, score: Score, samples: int, noise: float, seed: int) -> Tensor:
    """Captum's `NoiseTunnel` over `Saliency` but for the noise, which here depends on neither the batch nor the device."""
    winners = _winners(model, images, score)
    generator = torch.Generator().manual_seed(seed)
    values = images.flatten(1)
    level = noise * (values.amax(1) - values.amin(1)).view(-1, *[1] * (images.ndim - 1))
    total = torch.zeros_like(images, dtype=torch.promote_types(images.dtype, torch.float32))
    for _ in range(samples):
        drawn = torch.randn(images.shape[1:], generator=generator).to(images)
        total += gradients(model, images + level * drawn, lambda output: _fixed(output, winners, score))[0]
    return total / samples


def _occlusion(
    model: nn.Module, images: Tensor, score: Score, window: int, stride: int, baseline: float, batch_size: int
) -> Tensor:
    from captum.attr import Occlusion

    channels, *extent = images.shape[1:]
    if stride > window:
        raise ValueError(f"stride: must be at most window={window}, or pixels are left out, got {stride}")
    if window > min(extent):
        raise ValueError(f"window: must be at most the image's {min(extent)} px, got {window}")
    return Occlusion(lambda x, winners: _fixed(model(x.clone()), winners, score)).attribute(
        images,
        sliding_window_shapes=(channels, *[window] * len(extent)),
        strides=(channels, *[stride] * len(extent)),
        baselines=baseline,
        additional_forward_args=_winners(model, images, score),
        perturbations_per_eval=max(1, batch_size // len(images)),
    )


def _guided_backprop(model: nn.Module, images: Tensor, score: Score) -> Tensor:
    """Captum guides `nn.ReLU` modules alone, in silence about functions, and clamps what other branches send too."""
    with _Guidance() as guidance:
        found = gradients(model, images, score)[0]
    if not guidance.met:
        raise ValueError("method: guided-backprop guides ReLUs and the model runs none; take the gradient itself")
    return found


class _GuidedReLU(torch.autograd.Function):
    """ReLU; backwards only what is positive passes, and only where the input was positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (active,) = ctx.saved_tensors
        return gradient.clamp(min=0) * active


class _Guidance(TorchFunctionMode):
    """Every call of a ReLU, from a module or not, in place or not, is a `_GuidedReLU` while this is entered."""

    IN_PLACE = (torch.relu_, Tensor.relu_)
    RELUS = (nn.functional.relu, torch.relu, Tensor.relu, *IN_PLACE)

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip(("input", "inplace"), args, strict=False)) | (kwargs or {})
        if func not in self.RELUS:
            return func(*args, **(kwargs or {}))
        self.met += 1
        rectified = _GuidedReLU.apply(given["input"])
        in_place = func in self.IN_PLACE or given.get("inplace", False)
        return given["input"].copy_(rectified) if in_place else rectified
