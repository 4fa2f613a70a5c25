"""Gradients of a network's score with respect to its input, and to its layers on the way down, signed and unclipped.

    g = d score(model(x)) / d x

Nothing is resized, rectified or quantised on the way to a spectrum. The gradient of a summed score is each image's own,
because in eval mode the images of a batch do not touch.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from gradlens.probes import Probe, Stage, undisturbed
from gradlens.spectra import LatticeStatistics, LatticeStream

Score = Callable[[Any], Tensor]
EXAMPLES = 4


def top_logit(output: Any) -> Tensor:
    """The largest logit of each image `[N]`; of a critic, whose output is one value or one map, that (mean) value.

    Args:
        output: what a network returned: a tensor, a tuple whose first is one, or a dictionary with `logits` or `out`.

    Raises:
        ValueError: it holds no clear logits, or several maps, as of a segmentation network.
    """
    output = output_tensor(output)
    if output.ndim == 0:
        raise ValueError("score: the output is one number, not one for each image; give a score for it")
    if output.ndim == 1:
        return output
    channels = output.shape[1]
    flat = output.flatten(2) if output.ndim > 2 else output[..., None]
    if channels > 1 and flat.shape[2] > 1:
        raise ValueError(
            f"score: the output {list(output.shape)} is {channels} maps, not logits; give a score for it, in Python score=..."
        )
    return flat.mean(2).amax(1)


def output_tensor(output: Any) -> Tensor:
    """The logits in what a network returned: a tensor, the first of a tuple, or `logits` or `out` of a dictionary.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[k] for k in ("logits", "out") if isinstance(output.get(k), Tensor)]
        tensors = named or [v for v in output.values() if isinstance(v, Tensor)]
        if named or len(tensors) == 1:
            return tensors[0]
        raise ValueError(
            f"the model returns a dictionary with {', '.join(map(str, output))}; give a score that picks one"
        )
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ValueError(f"the model returns a {type(output).__name__}, not a tensor; give a score that picks one from it")


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
    return _gradients(model, images, score, ())[0]


def _gradients(
    model: nn.Module, images: Tensor, score: Score, layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients at the input and at `layers`, from one forward and one backward pass."""
    with torch.inference_mode(False), torch.enable_grad(), undisturbed(model):
        leaf = images.detach().clone().requires_grad_()
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


@dataclass(frozen=True)
class GradientStatistics:
    """What a stream of images and their gradients measured.

    `gradient`, `control` (the images themselves) and `layers` (by stage) hold `LatticeStatistics`; `names` the images;
    `example_images` and `example_gradients` the first few, `[k C *spatial]`.
    """

    names: tuple[str, ...]
    gradient: LatticeStatistics
    control: LatticeStatistics
    layers: dict[Stage, LatticeStatistics]
    example_images: Tensor
    example_gradients: Tensor


def collect(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Sequence[str], Tensor]],
    *,
    score: Score = top_logit,
    periods: Sequence[int] = (2, 4, 8, 16, 32),
    stages: Sequence[Stage] = (),
    window: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> GradientStatistics:
    """The lattice statistics of the input gradients of a stream of images, of its images, and stage by stage.

    Args:
        model: any module that takes `[N C *spatial]`; a copy is made where `device` or `dtype` is not its own.
        batches: images `[N C *spatial]`, or pairs of their names and them.
        score: from what the model returns to `[N]`.
        periods: in input pixels.
        stages: from `gradlens.probes.stages`; at each, the periods that are multiples of its stride are measured.
        window: as `gradlens.spectra.lattice_test`.
        device, dtype: to run the network in; its own unless given. Statistics are in float64 whatever it is.
        compile: run the network through `torch.compile`; not with `stages`.
        advance: called with the number of images after each batch.

    Raises:
        ValueError: there is no image, a gradient is not finite (the first image is named), or as `input_gradient`.
    """
    model, device, dtype = _placed(model, device, dtype)
    if compile and stages:
        raise ValueError("compile: the layers of a compiled network cannot be probed; leave out stages")
    run = cast(nn.Module, torch.compile(model)) if compile else model
    own = {stage: stage_periods(stage, periods) for stage in stages}
    layers = {stage: LatticeStream(p, window=window) for stage, p in own.items() if p}
    gradient, control = (LatticeStream(periods, window=window) for _ in range(2))
    names: list[str] = []
    examples: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        labels, images = (
            ([str(len(names) + n + 1) for n in range(len(batch))], batch) if isinstance(batch, Tensor) else batch
        )
        if len(labels) != len(images):
            raise ValueError(f"batches: {len(labels)} names for {len(images)} images")
        if not len(images):
            continue
        images = images.to(device)
        found, inside = _gradients(run, images.to(dtype), score, [stage.layer for stage in stages])
        _check_finite(found, labels)
        gradient.update(found)
        control.update(images)
        for stage, stream in layers.items():
            value = inside[stage.layer]
            stream.update(value.movedim(-1, 1) if stage.layout == "NHWC" else value)
        shown = EXAMPLES - len(examples)
        examples += [(i.cpu().clone(), g.float().cpu()) for i, g in zip(images[:shown], found[:shown], strict=True)]
        names += labels
        advance(len(labels))
    if not names:
        raise ValueError("batches: must hold at least one image")
    return GradientStatistics(
        names=tuple(names),
        gradient=gradient.compute(),
        control=control.compute(),
        layers={stage: stream.compute() for stage, stream in layers.items()},
        example_images=torch.stack([image for image, _ in examples]),
        example_gradients=torch.stack([gradient for _, gradient in examples]),
    )


def stage_periods(stage: Stage, periods: Sequence[int]) -> tuple[int, ...]:
    """The periods of the input that a stage can hold, in pixels of the stage: multiples of its stride, from twice it."""
    stride = stage.stride[0]
    if any(s != stride for s in stage.stride):
        return ()
    return tuple(p // stride for p in periods if p % stride == 0 and p > stride)


def network_periods(stages: Sequence[Stage], size: Sequence[int]) -> tuple[int, ...]:
    """The periods that a network's strides can write into its input: every divisor of an accumulated stride.

    Only those that the smallest side of `size` holds at least twice; 2, 4, 8 for a network that never shrinks.
    """
    strides = {stride for stage in stages for stride in stage.stride if stride > 1} or {8}
    divisors = {d for stride in strides for d in range(2, stride + 1) if stride % d == 0}
    return tuple(sorted(d for d in divisors if 2 * d <= min(size)))


def _placed(
    model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[nn.Module, torch.device, torch.dtype]:
    """The model on `device` in `dtype`: itself if it is there already, else a copy."""
    own = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    place = torch.device(device) if device is not None else own.device
    kind = dtype if dtype is not None else own.dtype
    if (place, kind) != (own.device, own.dtype):
        model = copy.deepcopy(model).to(place, kind)
    return model, place, kind


def _check_finite(gradient: Tensor, names: Sequence[str]) -> None:
    finite = gradient.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ValueError(f"the gradient of image {names[int((~finite).nonzero()[0])]!r} holds NaN or infinity")
