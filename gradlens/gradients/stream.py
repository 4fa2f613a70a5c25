"""Gradients of a network's score with respect to its input, and to its layers on the way down, signed and unclipped.

    g = d score(model(x)) / d x

Nothing is resized, rectified or quantised on the way to a spectrum. The gradient of a summed score is each image's own,
because in eval mode the images of a batch do not touch.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import cast

import torch
from torch import Tensor, nn

from gradlens.gradients.inputs import gradients
from gradlens.gradients.scores import Score, top_logit
from gradlens.probes import Stage
from gradlens.spectra import LatticeStatistics, joined, lattice_statistics

EXAMPLES = 4


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
    parts: list[GradientStatistics] = []
    numbers = count(1)
    for batch in batches:
        labels, images = ([str(next(numbers)) for _ in batch], batch) if isinstance(batch, Tensor) else batch
        if len(labels) != len(images):
            raise ValueError(f"batches: {len(labels)} names for {len(images)} images")
        if len(images):
            found, inside = gradients(run, images.to(device, dtype), score, [stage.layer for stage in stages])
            _check_finite(found, labels)
            parts.append(_measured(labels, images, found, inside, periods, stages, window))
            advance(len(labels))
    if not parts:
        raise ValueError("batches: must hold at least one image")
    return _together(parts)


def _measured(
    names: Sequence[str],
    images: Tensor,
    gradient: Tensor,
    inside: Mapping[str, Tensor],
    periods: Sequence[int],
    stages: Sequence[Stage],
    window: int,
) -> GradientStatistics:
    """One batch measured: its gradients at the input and `inside`, by layer, and the images themselves."""
    layers = {}
    for stage in stages:
        if own := stage_periods(stage, periods):
            value = inside[stage.layer]
            value = value.movedim(-1, 1) if stage.layout == "NHWC" else value
            layers[stage] = lattice_statistics(value, own, window=window)
    return GradientStatistics(
        names=tuple(names),
        gradient=lattice_statistics(gradient, periods, window=window),
        control=lattice_statistics(images, periods, window=window),
        layers=layers,
        example_images=images[:EXAMPLES].cpu().clone(),
        example_gradients=gradient[:EXAMPLES].float().cpu(),
    )


def _together(parts: Sequence[GradientStatistics]) -> GradientStatistics:
    """The statistics of all the batches of `parts`."""
    return GradientStatistics(
        names=tuple(name for part in parts for name in part.names),
        gradient=joined([part.gradient for part in parts]),
        control=joined([part.control for part in parts]),
        layers={stage: joined([part.layers[stage] for part in parts]) for stage in parts[0].layers},
        example_images=torch.cat([part.example_images for part in parts[:EXAMPLES]])[:EXAMPLES],
        example_gradients=torch.cat([part.example_gradients for part in parts[:EXAMPLES]])[:EXAMPLES],
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
