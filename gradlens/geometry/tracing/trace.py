"""One run of a network, and every spatial operation in it: in order, with what feeds it and the periods it has written.

Nothing is computed where that can be helped: the run is over tensors without data, and the network's weights are not
read. Functional calls are seen as well as modules, by `torch.overrides`, without a hook.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradlens.geometry.tracing.tracer import INPUT, Meeting, Step, Tracer
from gradlens.modules import undisturbed

Way = Literal["backward", "forward"]
Scale = tuple[Fraction, ...]  # pixels that one pixel of a map spans, axis by axis
Period = tuple[Fraction | None, ...]  # None on an axis without room for a lattice
NEAR = 64  # how far from a size that a network refuses another one is looked for, in pixels


@dataclass(frozen=True)
class Trace:
    """What one run of a network did in space.

    Attributes:
        input_size: `[C *spatial]` of the image, `[latent]` of a generator.
        axes: spatial axes of the network's maps.
        outputs: for each output that is a map, the steps it comes from.
        ends: the steps that any output comes from.
        meetings: where branches are combined.
        unused: modules with parameters that were never read.
        data_dependent: why noise had to be run instead of tensors without data; "" if it had not.
    """

    input_size: tuple[int, ...]
    axes: int
    steps: tuple[Step, ...]
    outputs: tuple[frozenset[int], ...]
    ends: frozenset[int]
    meetings: tuple[Meeting, ...]
    unused: tuple[str, ...]
    data_dependent: str = ""

    @cached_property
    def spans(self) -> dict[int, frozenset[Scale]]:
        """For each step, and the input, the input pixels that a pixel of its output spans, along every path."""
        image = len(self.input_size) > 1
        found = {INPUT: frozenset([(Fraction(1),) * self.axes]) if image else frozenset()}
        for step in self.steps:
            found[step.index] = frozenset(_scaled(s, step) for s in self._reaching(step, found))
        return found

    @cached_property
    def reaches(self) -> dict[int, frozenset[Scale]]:
        """For each step, and the input, the output pixels that a pixel of its output spans, along every path."""
        found: dict[int, set[Scale]] = {i: set() for i in range(INPUT, len(self.steps))}
        for sources in self.outputs:
            for i in sources:
                found[i].add((Fraction(1),) * self.axes)
        for step in reversed(self.steps):
            if not step.grown:
                for i in step.sources:
                    found[i] |= {_scaled(s, step, back=True) for s in found[step.index]}
        return {i: frozenset(scales) for i, scales in found.items()}

    def periods(self, step: Step, direction: Way) -> frozenset[Period]:
        """The span of a pixel of the coarser map of `step`, along every path: what is periodic in it has this period.

        In pixels of the input (backward) or of the output (forward). An axis on which that map has one pixel has none.
        """
        if direction == "backward":
            known = self._reaching(step, self.spans)
            coarser = {_scaled(s, step) if step.call.direction == "down" else s for s in known}
        else:
            known = self.reaches[step.index]
            coarser = {_scaled(s, step, back=True) if step.call.direction == "up" else s for s in known}
        size = step.call.size if step.call.direction == "up" else step.call.output_size
        room = {axis for axis, side in zip(step.axes, size, strict=True) if axis is not None and side > 1}
        return frozenset(tuple(s if axis in room else None for axis, s in enumerate(scale)) for scale in coarser)

    def written(self, step: Step, direction: Way) -> frozenset[Period]:
        """The periods that `step` itself can write, along every path: of strided layers backward, of enlarging ones forward."""
        if step.call.direction != {"backward": "down", "forward": "up"}[direction]:
            return frozenset()
        own = {axis for axis, ratio in zip(step.axes, step.call.ratio, strict=True) if ratio != 1}
        found = (
            tuple(value if axis in own else None for axis, value in enumerate(period))
            for period in self.periods(step, direction)
        )
        return frozenset(period for period in found if any(period))

    def bypassed(self, step: Step) -> bool:
        """Whether what feeds `step` reaches an output on another path as well."""
        reached = set(step.sources)
        for other in self.steps:
            if other.index != step.index and other.sources & reached:
                reached.add(other.index)
        return bool(reached & self.ends)

    def filtered(self, step: Step) -> bool:
        """Whether every path from `step` to an output has a convolution of stride 1 with more than one tap."""
        reached = {step.index}
        for other in self.steps:
            if other.sources & reached and not (other.call.kind == "conv" and max(other.call.kernel) > 1):
                reached.add(other.index)
        return not reached & self.ends

    def _reaching(self, step: Step, spans: Mapping[int, frozenset[Scale]]) -> frozenset[Scale]:
        """The spans of a pixel of what goes into `step`."""
        return frozenset() if step.grown else frozenset().union(*(spans[i] for i in step.sources))


def _scaled(scale: Scale, step: Step, *, back: bool = False) -> Scale:
    """The scale after `step` of what has `scale` before it; or, `back`, before it of what has `scale` after it."""
    found = list(scale)
    for axis, ratio in zip(step.axes, step.call.ratio, strict=True):
        if axis is not None and axis < len(found):
            found[axis] = found[axis] / ratio if back else found[axis] * ratio
    return tuple(found)


def trace(model: nn.Module, input_size: Sequence[int]) -> Trace:
    """What `model` does in space, found by running it once, in eval mode, on tensors without data.

    A network whose control flow depends on data, or that holds an operation which needs some, runs on noise instead. It is
    left exactly as it was found.

    Args:
        model: any module, on any device, also without data (`torch.device("meta")`).
        input_size: `[C *spatial]` of one image, or `[latent]` of a generator.

    Raises:
        ValueError: it does not run at this size; the layer, the reason and the nearest size that would are told.
    """
    size = _checked(model, input_size)
    try:
        return _run(model, size, "")
    except Exception as error:  # a network raises what it likes, and so do operations that have no rule without data
        first = error
    if any(p.device.type == "meta" for p in model.parameters()):
        raise ValueError(_refusal(model, size, first)) from first
    try:
        return _run(model, size, _reason(first))
    except Exception as error:
        raise ValueError(_refusal(model, size, error)) from error


def periods(model: nn.Module, input_size: Sequence[int], *, direction: Way = "backward") -> tuple[tuple[int, ...], ...]:
    """The periods that `model` can write, ascending, one tuple for each axis of its maps.

    Backward they are of strided layers and in pixels of the input; forward of enlarging layers and in pixels of the output.
    Spans that are no whole number of pixels are left out.

    Args, Raises: as in `trace`.

    Example:
        >>> periods(nn.Sequential(nn.Conv2d(3, 8, 11, stride=3), nn.Conv2d(8, 8, 5, stride=2)), (3, 64, 64))
        ((3, 6), (3, 6))
    """
    run = trace(model, input_size)
    found: list[set[int]] = [set() for _ in range(run.axes)]
    for step in run.steps:
        for period in run.written(step, direction):
            for axis, value in enumerate(period):
                if value is not None and value > 1 and value.denominator == 1:
                    found[axis].add(int(value))
    return tuple(tuple(sorted(values)) for values in found)


def _checked(model: nn.Module, input_size: Sequence[int]) -> tuple[int, ...]:
    size = tuple(input_size)
    if not 1 <= len(size) <= 4 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"input_size: must be C and 1 to 3 sides of an image, or one latent size, got {list(size)}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"model: {name or 'it'} is a ScriptModule, whose calls are not seen; give the module it was made from"
            )
    return size


def _run(model: nn.Module, size: tuple[int, ...], data_dependent: str) -> Trace:
    """One run, over noise if it is data-dependent."""
    names = {module: name for name, module in model.named_modules() if name}
    place = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    tracer = Tracer(names)
    with ExitStack() as stack:
        stack.enter_context(_as_found(model))
        stack.enter_context(torch.no_grad())
        noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
        if not data_dependent:
            stack.enter_context(_without_data())
            noise = torch.empty(1, *size)
        x = noise.to(place.device, place.dtype)
        tracer.start(x, len(size) - 1)
        with tracer:
            output = model(x)
        flows = [flow for value in _outputs(output) if (flow := tracer.finish(value)) is not None]
    axes = max([len(size) - 1, *(len(step.axes) for step in tracer.steps)])
    unused = [
        name
        for module, name in names.items()
        if (own := list(module.parameters(recurse=False))) and not any(id(p) in tracer.read for p in own)
    ]
    return Trace(
        size,
        axes,
        tracer.weighed(model),
        tuple(dict.fromkeys(flow.sources for flow in flows if flow.extended)),
        frozenset().union(*(flow.sources for flow in flows)),
        tuple(tracer.meetings),
        tuple(unused),
        data_dependent,
    )


@contextmanager
def _without_data() -> Iterator[None]:
    """Tensors have shapes alone; what torch logs of a size that does not fit is told in the error already."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        log.disabled = disabled


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode; what it keeps for itself on the way, such as a table for this size, is not kept."""
    kept = [
        (store, dict(store))
        for module in model.modules()
        for store in (vars(module), *(v for v in vars(module).values() if type(v) is dict))
    ]
    lists = [(v, list(v)) for module in model.modules() for v in vars(module).values() if type(v) is list]
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    eagerly = (
        torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    )  # a compiler does not bear a tracer
    with undisturbed(model), eagerly:
        try:
            yield
        finally:
            for store, before in kept:
                if store.keys() != before.keys() or any(store[k] is not before[k] for k in before):
                    store.clear()
                    store.update(before)
            for values, before in lists:
                values[:] = before


def _outputs(value: Any) -> Iterator[Tensor]:
    """Every tensor that a network returned, in whatever it was wrapped."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _outputs(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _outputs(item)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        for item in vars(value).values():
            yield from _outputs(item)


def _reason(error: Exception) -> str:
    """Why tensors without data would not do, in a line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _refusal(model: nn.Module, size: tuple[int, ...], error: Exception) -> str:
    """The sentence about a network that does not run."""
    where = _failing(model, error)
    told = " x ".join(map(str, size))
    near = _nearest(model, size)
    remedy = f"; {' x '.join(map(str, near))} would do" if near else "; give another input_size"
    return f"input_size: the network does not run on {told}: layer {where!r} fails with {_reason(error)!r}{remedy}"


def _failing(model: nn.Module, error: Exception) -> str:
    """The innermost module in which `error` was raised."""
    names = {module: name for name, module in model.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(owner):
            found = names[owner]
        frame = frame.tb_next
    return found or "(network)"


def _nearest(model: nn.Module, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The nearest size at which the network runs, of those with the channels of its first layer; None if none was found."""
    first = next((m for m in model.modules() if hasattr(m, "in_channels") or hasattr(m, "in_features")), None)
    channels = getattr(first, "in_channels", getattr(first, "in_features", size[0]))
    sides = size[1:]
    wanted = [sides] if channels != size[0] else []
    for step in range(1, NEAR + 1):
        wanted += [tuple(side + step for side in sides), tuple(max(1, side - step) for side in sides)]
    wanted += [tuple([side] * len(sides)) for side in (32, 64, 128, 224, 256, 384, 512)]
    place = next(iter(model.parameters()), torch.empty(0))
    for other in dict.fromkeys(wanted):
        with ExitStack() as stack:
            stack.enter_context(_as_found(model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(_without_data())
            try:
                model(torch.empty(1, channels, *other, device=place.device, dtype=place.dtype))
            except Exception:  # of any kind: this size is no remedy
                continue
            return (channels, *other)
    return None
