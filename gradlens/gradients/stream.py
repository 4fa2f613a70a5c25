"""The lattice statistics of a stream of images and of its gradients, in memory that does not grow with their number.

Statistics are kept where the network runs. A thread fetches the next batches while one is computed; nothing waits for a
GPU before the end, but for the examples of the figures.
"""

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gradlens.gradients.attributions import Method, attribute
from gradlens.gradients.inputs import gradients
from gradlens.gradients.scores import Score, top_logit
from gradlens.models import bare
from gradlens.modules import undisturbed
from gradlens.probes import Stage
from gradlens.spectra import LatticeStatistics, LatticeStream

EXAMPLES = 4
AHEAD = 2  # batches fetched before they are asked for

Batch = Tensor | tuple[Sequence[str], Tensor]


@dataclass(frozen=True)
class GradientStatistics:
    """What a stream of images and their gradients measured.

    `gradient`, `control` (the images themselves; None if not asked for) and `layers` (by stage) hold `LatticeStatistics`;
    `names` the images. `example_images` and `example_gradients` `[k C *spatial]` are the first few of one size with a
    finite gradient, `example_names` their names.
    """

    names: tuple[str, ...]
    gradient: LatticeStatistics
    control: LatticeStatistics | None
    layers: dict[Stage, LatticeStatistics]
    example_names: tuple[str, ...]
    example_images: Tensor
    example_gradients: Tensor

    @property
    def skipped(self) -> int:
        """How many images were left out because their gradient holds NaN or infinity."""
        return self.gradient.skipped

    @property
    def first_skipped(self) -> str | None:
        """The name of the first of them."""
        return None if self.gradient.first_skipped is None else self.names[self.gradient.first_skipped]


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    score: Score = top_logit,
    method: Method = "saliency",
    periods: Sequence[int] = (2, 4, 8, 16, 32),
    stages: Sequence[Stage] = (),
    window: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    channels_last: bool | None = None,
    control: bool = True,
    advance: Callable[[int], None] = lambda images: None,
) -> GradientStatistics:
    """The lattice statistics of the input gradients of a stream of images, of its images, and stage by stage.

    Args:
        model: any module that takes `[N C *spatial]`; a copy is made where `device` or `dtype` is not its own.
        batches: images `[N C *spatial]`, or pairs of their names and them; sizes may differ between batches. Floating
            point as the model takes them, or uint8 from 0 to 255, which becomes [0, 1] on the device. Another thread
            draws from this, two batches ahead.
        score: from what the model returns to `[N]`.
        method: of `attribute`, with its defaults; the signed gradient unless given.
        periods: in input pixels.
        stages: from `gradlens.probes.stages`; at each, the periods that are multiples of its stride are measured. Only
            the gradient passes them.
        window: as `gradlens.spectra.lattice_test`.
        device, dtype: to run the network in; its own unless given. Statistics are in float64 whatever it is;
            of at most float32, windows are transformed in float32.
        compile: run the network through `torch.compile`; for the gradient, without `stages`.
        channels_last: keep the channels of maps last in memory, in a copy of the network: up to a quarter faster. Networks
            that call `.view` on a map refuse it; unless given it is done for timm's, which do not.
        control: also measure the images themselves.
        advance: called with the number of images after each batch.

    Returns:
        `GradientStatistics`. An image whose gradient holds NaN or infinity is left out and counted.

    Raises:
        ValueError: there is no image, or none whose gradient is finite; or as `input_gradient` and `attribute`.
    """
    if compile and (stages or method != "saliency"):
        raise ValueError(
            "compile: the layers and ReLUs of a compiled network are out of reach; leave out stages and method"
        )
    if stages and method != "saliency":
        raise ValueError(f"stages: only the gradient passes them, not {method}; leave them out")
    last = channels_last if channels_last is not None else type(bare(model)).__module__.startswith("timm.")
    model, device, dtype = _placed(model, device, dtype, frozen=compile, channels_last=last)
    run = cast(nn.Module, torch.compile(model)) if compile else model
    gradient, itself = (LatticeStream(periods, window=window) for _ in range(2))
    layers = {s: LatticeStream(own, window=window) for s in stages if (own := stage_periods(s, periods))}
    names: list[str] = []
    examples: list[tuple[str, Tensor, Tensor]] = []
    rows = 0
    with undisturbed(model), closing(_fetched(batches, device)) as fetched:
        for labels, images in fetched:
            images = _unit(images.to(device, non_blocking=True), dtype)
            rows = max(rows, len(images)) if compile else 0
            layout = torch.channels_last if last and images.ndim == 4 else torch.preserve_format
            given = images.to(dtype, memory_format=layout)
            if method == "saliency":
                found, inside = _gradients(run, given, score, list({s.layer: 0 for s in stages}), rows)
            else:
                found, inside = attribute(run, given, method, score=score, batch_size=len(given)), {}
            found = found.contiguous()
            gradient.update(found)
            if control:
                itself.update(images)
            for stage, stream in layers.items():
                value = inside[stage.layer]
                stream.update((value.movedim(-1, 1) if stage.layout == "NHWC" else value).contiguous())
            _show(examples, labels, images, found)
            names += labels
            advance(len(labels))
    if not names:
        raise ValueError("batches: must hold at least one image")
    measured = gradient.compute()
    if measured.skipped == len(names):
        raise ValueError(f"the gradient of every image holds NaN or infinity, of {names[0]!r} first; try another dtype")
    shown, example_images, example_gradients = zip(*examples, strict=True)
    return GradientStatistics(
        names=tuple(names),
        gradient=measured,
        control=itself.compute() if control else None,
        layers={stage: stream.compute() for stage, stream in layers.items()},
        example_names=shown,
        example_images=torch.stack(example_images).cpu(),
        example_gradients=torch.stack(example_gradients).cpu(),
    )


def _fetched(batches: Iterable[Batch], device: torch.device) -> Generator[tuple[Sequence[str], Tensor], None, None]:
    """Names (numbers if there are none) and copies of the images, pinned on their way to a GPU, drawn by a thread.

    An error passes through; the thread ends with this generator.
    """
    source = iter(batches)
    with_gradient = torch.is_grad_enabled()  # each thread has its own

    def fetch() -> tuple[Sequence[str] | None, Tensor] | None:
        with torch.set_grad_enabled(with_gradient):
            batch = next(source, None)
        if batch is None:
            return None
        labels, images = (None, batch) if isinstance(batch, Tensor) else batch
        pinned = device.type == "cuda" and images.device.type == "cpu"
        return labels, torch.empty_like(images, pin_memory=pinned, requires_grad=False).copy_(images.detach())

    count, threads = 0, torch.get_num_threads()
    # one thread is enough to fetch: with a pool of its own it would take the cores from the network's
    with ThreadPoolExecutor(1, "gradlens-fetch", initializer=torch.set_num_threads, initargs=(1,)) as thread:
        thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(threads)  # what threads that start later take over
        pending = deque(thread.submit(fetch) for _ in range(AHEAD))
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(thread.submit(fetch))
                labels, images = batch
                labels = [str(count + n + 1) for n in range(len(images))] if labels is None else labels
                if len(labels) != len(images):
                    raise ValueError(f"batches: {len(labels)} names for {len(images)} images")
                count += len(images)
                if len(images):
                    yield labels, images
        finally:
            thread.shutdown(cancel_futures=True)


def _unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images of 8 bits in [0, 1], in float32 or, for a network in it, float64; others as they are."""
    if images.is_floating_point():
        return images
    if images.dtype is not torch.uint8:
        raise ValueError(f"batches: images must be floating point or uint8, got {images.dtype}")
    return images.to(torch.promote_types(dtype, torch.float32)) / 255


def _gradients(
    run: nn.Module, images: Tensor, score: Score, layers: Sequence[str], rows: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """`gradients` of at least `rows` images, the last one repeated: a compiled network wants one size of batch."""
    missing = rows - len(images)
    if missing > 0:
        more = images[-1:].expand(missing, *images.shape[1:])
        return gradients(run, torch.cat([images, more]), score)[0][:-missing], {}
    return gradients(run, images, score, layers)


def _show(examples: list[tuple[str, Tensor, Tensor]], names: Sequence[str], images: Tensor, gradient: Tensor) -> None:
    """Add to the examples until they are enough: copies, of one size, whose gradient is finite."""
    if len(examples) == EXAMPLES or (examples and images.shape[1:] != examples[0][1].shape):
        return
    for name, image, its in zip(names, images, gradient, strict=True):
        if len(examples) < EXAMPLES and its.isfinite().all():
            examples.append((name, image.clone(), its.to(torch.float32, copy=True)))


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
    model: nn.Module,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    *,
    frozen: bool,
    channels_last: bool,
) -> tuple[nn.Module, torch.device, torch.dtype]:
    """The model on `device` in `dtype`, without gradients for its parameters if `frozen`: itself if it is so, else a copy."""
    own = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    place = torch.empty(0, device=device).device if device is not None else own.device
    kind = dtype if dtype is not None else own.dtype
    trained = frozen and any(p.requires_grad for p in model.parameters())
    if trained or channels_last or (place, kind) != (own.device, own.dtype):
        model = copy.deepcopy(model).to(place, kind)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return (model.requires_grad_(False) if trained else model), place, kind
