"""What sees a network run: each call of a torch function, and for each tensor where it comes from and how a map lies in it.

A call that is not known passes the layout on where shapes allow it, so that most of torch needs no rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from gradlens.geometry.tracing import layout as at
from gradlens.geometry.tracing.calls import Call, by_number, resized, spatial_call
from gradlens.geometry.tracing.flows import Flow, Seen, basic_index, called, flows_of, tensors_in
from gradlens.geometry.tracing.layout import Layout
from gradlens.modules import at_work

INPUT = -1  # the network's input among the sources of a step
OUTSIDE = "(network)"  # the layer of a call that no module but the network itself makes


@dataclass(frozen=True)
class Step:
    """A spatial operation of one run: its place in the order, the layer that did it and the steps that feed it.

    Attributes:
        layer: as in `named_modules()`; what a module does a second time is `name#2`.
        axes: which axis of the network's maps each axis of the operation is; None where that is not known.
        sources, also: the steps whose maps it works on; those that it only depends on, through attention or a gate, which
            hand on no lattice.
        margin: rows at the far end of its input that are padding already.
        grown: its map does not come from a map, but from a vector: there nothing is handed on of a lattice.
        even: of fixed weights, and of kernels that a layer folds (it has a method `kernel()`), whether those of every phase
            add up to the same; None for weights that are learned.
    """

    index: int
    layer: str
    module: str
    call: Call
    axes: tuple[int | None, ...]
    sources: frozenset[int]
    also: frozenset[int] = frozenset()
    margin: tuple[int, ...] = ()
    grown: bool = False
    even: bool | None = None


@dataclass(frozen=True)
class Meeting:
    """Where maps are added or put side by side: the layer, and the last steps of each."""

    layer: str
    branches: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Woven:
    """Maps that are being written between each other's pixels: `target[..., i::2, j::2] = map`."""

    target: Tensor
    steps: tuple[int, ...]
    phases: frozenset[tuple[int, ...]]
    flows: tuple[Flow, ...]


class Tracer(TorchFunctionMode):
    """Watches a network's calls while it runs; afterwards `steps`, `meetings`, `read` and the flow of each tensor.

    Args:
        names: the network's modules.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.steps: list[Step] = []
        self.meetings: dict[Meeting, None] = {}
        self.read: set[int] = set()  # ids of the parameters that were used
        self._flows: dict[int, tuple[Tensor, Flow]] = {}  # a tensor that is kept keeps its id
        self._learned: dict[int, Tensor] = {}
        self._calls: Counter[str] = Counter()
        self._fixed: dict[int, Tensor] = {}  # of a step, weights that are not learned
        self._woven: dict[int, Woven] = {}  # of a tensor, what has been written between its pixels so far

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = _recurrent(func, args) or func(*args, **(kwargs or {}))
        self._note(func, args, kwargs or {}, result)
        return result

    def start(self, x: Tensor, axes: int) -> None:
        """Follow `x`, whose last dimensions are the axes of an image."""
        self._flows[id(x)] = (x, Flow(frozenset([INPUT]), at.plain(tuple(x.shape), range(axes))))

    def flow(self, x: Tensor) -> Flow | None:
        """What is known of a tensor; None if it does not depend on the input."""
        if id(x) in self._woven:
            self._weave(self._woven.pop(id(x)))
        found = self._flows.get(id(x))
        return found[1] if found else None

    def finish(self, x: Tensor) -> Flow | None:
        """The flow of an output, after what was done to it by hand has been put among the steps."""
        flow = self.flow(x)
        if flow is None:
            return None
        maps = [dim.axes for dim in flow.layout.dims[2:]]
        return self.fold(flow, [1] if maps and all(len(axes) == 1 for axes in maps) else [])

    def _note(self, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        if func is torch.Tensor.__setitem__ and self._interleaved(*args):
            return
        inputs = list(tensors_in((args, kwargs)))
        self.read.update(id(x) for x in inputs if isinstance(x, nn.Parameter))
        outputs = list(tensors_in(result))
        if func is torch.Tensor.__setitem__:
            outputs = [args[0]]
        flows = [flow for x in inputs if (flow := self.flow(x)) is not None]
        if not flows:
            if any(isinstance(x, nn.Parameter) or id(x) in self._learned for x in inputs):
                self._learned |= {id(x): x for x in outputs}
            return
        if not outputs:
            return
        seen = Seen(func, args, kwargs, outputs)
        call = spatial_call(func, args, kwargs, result)
        if call is not None and (source := self.flow(seen.first)) is not None:
            self._keep(outputs, [self._operate(call, source, seen)] * len(outputs))
            return
        self._keep(outputs, flows_of(self, seen))

    def _keep(self, outputs: Sequence[Tensor], flows: Sequence[Flow]) -> None:
        for x, flow in zip(outputs, flows, strict=True):
            if flow.layout.shape != tuple(x.shape):
                flow = replace(flow, layout=at.plain(tuple(x.shape), lost=flow.extended))
            self._flows[id(x)] = (x, self._spread(flow))

    def _operate(self, call: Call, flow: Flow, seen: Seen) -> Flow:
        """The flow after a spatial operation, which becomes a step."""
        axes, shape = len(call.size), tuple(seen.outputs[0].shape)
        by_windows = call.kind == "fold"  # whose input has its map in the last dimension
        flow = self.fold(flow, [-2 if by_windows else -axes - 1])
        if max(call.size) == max(call.output_size) == 1:
            return Flow(flow.sources, at.plain(shape), flow.also)
        flow = self._found(flow, call)
        dims = flow.layout.dims[-1:] if by_windows else flow.layout.dims[-axes:]
        named = _axes_of(dims, axes)
        grown = not flow.extended and not self._same_size(flow, call.size)
        kept = call.size == call.output_size and call.kind not in ("fold", "unfold")
        if named is None and flow.extended and not flow.layout.lost:  # along tokens, not along the map
            self._step(call, (None,) * axes, flow, grown=grown, seen=seen)
            tokens = at.plain(shape, lost=True)
            return Flow(self.last, replace(flow.layout, dims=(*tokens.dims[:-axes], *dims)) if kept else tokens)
        step = self._step(call, named or tuple(range(axes)), flow, grown=grown, seen=seen)
        if kept and named is not None and not grown:
            outer = at.plain(shape).dims[:-axes]
            batch = flow.layout.dims[: len(outer) - 1]
            if [dim.size for dim in batch] == [dim.size for dim in outer[:-1]]:
                outer = (*batch, outer[-1])
            return Flow(self.last, Layout((*outer, *dims)))
        if call.kind == "unfold":
            runs = (at.Run(n, axis) for n, axis in zip(call.output_size, step.axes, strict=True))
            return Flow(self.last, at.with_dim(at.plain(shape), len(shape) - 1, at.product(runs)))
        return Flow(self.last, at.plain(shape, step.axes))

    def _step(
        self, call: Call, axes: tuple[int | None, ...], flow: Flow, *, grown: bool = False, seen: Seen | None = None
    ) -> Step:
        """Remember a step of the module that is at work."""
        module = at_work(self.names) or OUTSIDE
        self._calls[module] += 1
        layer = module if self._calls[module] == 1 else f"{module}#{self._calls[module]}"
        if seen is not None and call.kind == "conv":
            weight = seen.argument(1, "weight")
            if not (isinstance(weight, nn.Parameter) or id(weight) in self._learned or self.flow(weight)):
                self._fixed[len(self.steps)] = weight
        also = flow.also - flow.sources
        margin = tuple(sum(run.margin for run in dim.runs) for dim in flow.layout.dims[-len(call.size) :])
        self.steps.append(Step(len(self.steps), layer, module, call, axes, flow.sources, also, margin, grown))
        return self.steps[-1]

    def weighed(self, model: nn.Module) -> tuple[Step, ...]:
        """The steps of `model`, with what their fixed weights say; to be asked after the run, where tensors have data."""
        owners = {name: module for module, name in self.names.items()} | {OUTSIDE: model}
        return tuple(replace(step, even=self._even(step, owners.get(step.module))) for step in self.steps)

    def _even(self, step: Step, owner: nn.Module | None) -> bool | None:
        if step.index in self._fixed:
            return self._is_even(self._fixed[step.index], step)
        folded = getattr(owner, "kernel", None)
        if step.call.kind not in ("conv_transpose", "pixel_shuffle") or not callable(folded):
            return None
        kernel = folded()
        whole = all(s.denominator == 1 for s in step.call.stride)
        if not isinstance(kernel, Tensor) or kernel.device.type == "meta" or not whole:
            return None
        if step.call.kind == "conv_transpose" and tuple(kernel.shape[2:]) != step.call.kernel:
            return None
        return _even_sums(kernel.detach().double(), [int(s) for s in step.call.stride])

    def _is_even(self, weight: Tensor, step: Step) -> bool | None:
        """Whether fixed weights give every phase the same; None if their values are not to be had."""
        owner = next((module for module, name in self.names.items() if name == step.module), None)
        known = [weight, *(owner.buffers(recurse=False) if owner is not None else ())]
        kernel = step.call.kernel
        for x in known:
            if tuple(x.shape[-len(kernel) :]) == kernel and not isinstance(x, FakeTensor) and x.device.type != "meta":
                taps = x.detach().double().reshape(-1, *kernel)[0]
                return _even_taps(taps, [int(s) for s in step.call.stride])
        return None

    def _found(self, flow: Flow, call: Call) -> Flow:
        """`flow`, with a step for what was done to its map unseen where that changed its size."""
        before = [self.steps[i] for i in sorted(flow.sources) if i != INPUT]
        before = [step for step in before if len(step.call.output_size) == len(call.size)]
        if not flow.layout.lost or not before or self._same_size(flow, call.size):
            return flow
        self._step(resized("unknown", before[-1].call.output_size, call.size), before[-1].axes, flow)
        return Flow(self.last, flow.layout)

    @property
    def last(self) -> frozenset[int]:
        """The last step, as the source of what it gave."""
        return frozenset([len(self.steps) - 1])

    def _same_size(self, flow: Flow, size: Sequence[int]) -> bool:
        return any(i != INPUT and self.steps[i].call.output_size == tuple(size) for i in flow.sources)

    def fold(self, flow: Flow, mixed: Iterable[int], kind: str = "") -> Flow:
        """`flow` after pixels that were moved among the channels, or left out, have become a step."""
        folds = at.folded(flow.layout, mixed)
        if folds is None:
            return flow
        axes = tuple(sorted(flow.layout.axes))
        stride = dict(zip(folds.axes, folds.stride, strict=True))
        kernel = dict(zip(folds.axes, folds.kernel, strict=True))
        settled = at.settled(flow.layout, folds)
        sizes = dict.fromkeys(axes, 1)
        for dim in settled.dims:
            for run in dim.runs:
                if run.axis is not None:
                    sizes[run.axis] *= run.size
        kind = kind or ("subsample" if set(folds.kernel) == {1} else "pixel_unshuffle")
        strides = [stride.get(a, 1) for a in axes]
        output = [sizes[a] for a in axes]
        size = [n * s for n, s in zip(output, strides, strict=True)]
        self.by_hand(by_number(kind, [kernel.get(a, 1) for a in axes], strides, size, output), axes, flow)
        return Flow(self.last, settled)

    def _spread(self, flow: Flow) -> Flow:
        """`flow` after channels, or copies, that were moved between pixels have become a step."""
        found = at.spread(flow.layout)
        if found is None:
            return flow
        axes = tuple(sorted(found))
        sizes = {axis: dim for dim in flow.layout.dims for axis in dim.axes}
        factors = [found[a].size for a in axes]
        kind = "nearest" if all(run.copies for run in found.values()) else "pixel_shuffle"
        size, output = [sizes[a].runs[0].size for a in axes], [sizes[a].size for a in axes]
        self.by_hand(by_number(kind, factors, factors, size, output, up=True), axes, flow)
        dims = (at.plain([d.size], [next(iter(d.axes), None)]).dims[0] for d in flow.layout.dims)
        return Flow(self.last, Layout(tuple(dims)))

    def _interleaved(self, target: Tensor, index: Any, value: Any) -> bool:
        """Whether `target[index] = value` writes a map between pixels, which is one step once all of it is written."""
        flow = self.flow(value) if isinstance(value, Tensor) else None
        slices = basic_index(index, target.ndim)
        if flow is None or slices is None or not all(isinstance(s, slice) for s in slices) or value.ndim != target.ndim:
            return False
        spans = [s.indices(side) for s, side in zip(slices, target.shape, strict=True)]
        steps = tuple(step for _, _, step in spans)
        woven = self._woven.get(id(target))
        if max(steps) == 1 or (woven is not None and woven.steps != steps):
            return False
        phase = tuple(start % step for start, _, step in spans)
        flows = (flow,) if woven is None else (*woven.flows, flow)
        phases = frozenset([phase]) if woven is None else woven.phases | {phase}
        self._woven[id(target)] = Woven(target, steps, phases, flows)
        return True

    def _weave(self, woven: "Woven") -> None:
        """The step that has put maps between each other's pixels."""
        places = [i for i, step in enumerate(woven.steps) if step > 1]
        layout = woven.flows[0].layout
        named = tuple(next(iter(layout.dims[i].axes), n) for n, i in enumerate(places))
        each = [len({phase[i] for phase in woven.phases}) for i in places]
        kernel = each if len(woven.phases) == prod(each) else [1] * len(each)
        stride, output = [woven.steps[i] for i in places], [woven.target.shape[i] for i in places]
        sources = frozenset().union(*(flow.sources for flow in woven.flows))
        also = frozenset().union(*(flow.also for flow in woven.flows))
        call = by_number("interleave", kernel, stride, [layout.dims[i].size for i in places], output, up=True)
        self._step(call, named, Flow(sources, layout, also), grown=not woven.flows[0].extended)
        axes = dict(zip(places, named, strict=True))
        dims = (
            at.plain([side], [axes[i]]).dims[0] if i in axes else dim
            for i, (side, dim) in enumerate(zip(woven.target.shape, layout.dims, strict=True))
        )
        self._flows[id(woven.target)] = (woven.target, Flow(self.last, Layout(tuple(dims))))

    def by_hand(self, call: Call, axes: tuple[int, ...], flow: Flow) -> None:
        """Remember a step that is no call of its own."""
        self._step(call, axes, flow)

    def meet(self, flows: Sequence[Flow]) -> None:
        """Remember where maps of different sources are combined."""
        branches = tuple(dict.fromkeys(flow.sources for flow in flows if flow.extended))
        if len(branches) > 1:
            self.meetings[Meeting(at_work(self.names) or OUTSIDE, branches)] = None


def _axes_of(dims: Sequence[at.Dim], count: int) -> tuple[int | None, ...] | None:
    """The axis of each dimension, or of each run where one dimension holds all; None if they are not one each."""
    runs = [run for dim in dims for run in dim.runs] if len(dims) == 1 and count > 1 else None
    parts = [(run,) for run in runs] if runs is not None else [dim.runs for dim in dims]
    if (
        len(parts) != count
        or any(len(part) > 1 for part in parts)
        or not any(p and p[0].axis is not None for p in parts)
    ):
        return None
    named = [part[0].axis if part else None for part in parts]
    free = [axis for axis in range(at.AXES) if axis not in named]
    return tuple(axis if axis is not None else (i if i in free else None) for i, axis in enumerate(named))


def _even_taps(taps: Tensor, stride: Sequence[int]) -> bool:
    """Whether the magnitudes of fixed taps add up to the same at every phase of the stride."""
    sums = _by_phase(taps.abs(), stride)
    return bool((sums.max() - sums.min()) <= 1e-3 * sums.max())  # float16 buffers have 1e-3


def _even_sums(kernels: Tensor, stride: Sequence[int]) -> bool:
    """Whether the taps of every phase of each of the kernels `[... *kernel]` add up to the same."""
    sums = torch.stack([_by_phase(kernel, stride) for kernel in kernels.flatten(0, -len(stride) - 1)]).flatten(1)
    away = (sums - sums.mean(1, keepdim=True)).abs().amax()
    return bool(away <= 1e-3 * kernels.abs().max())  # a kernel folded in bfloat16 has a few thousandths


def _by_phase(taps: Tensor, stride: Sequence[int]) -> Tensor:
    """Sums of the taps `[*kernel]` of each phase: `[*stride]`."""
    for axis, step in enumerate(stride):
        rows = -(-taps.shape[axis] // step) * step
        wider = taps.new_zeros(*taps.shape[:axis], rows, *taps.shape[axis + 1 :])
        wider.narrow(axis, 0, taps.shape[axis]).copy_(taps)
        taps = wider.unflatten(axis, (-1, step)).sum(axis)
    return taps


def _recurrent(func: Callable, args: Sequence[Any]) -> tuple[Tensor, ...] | None:
    """What an LSTM or GRU returns for tensors without data, which it would otherwise visit step by step."""
    if called(func) not in ("lstm", "gru") or not isinstance(args[0], FakeTensor) or not isinstance(args[3], bool):
        return None
    states = args[1] if isinstance(args[1], tuple | list) else [args[1]]
    output = args[0].new_empty(*args[0].shape[:-1], states[0].shape[-1] * (2 if args[7] else 1))
    return (output, *(state.new_empty(state.shape) for state in states))
