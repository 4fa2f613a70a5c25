"""What sees a network run: each call of a torch function, and for each tensor where it comes from and how a map lies in it.

A call that is not known passes the layout on where shapes allow it, so that most of torch needs no rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from gradlens.geometry import layout as at
from gradlens.geometry.calls import Call, spatial_call
from gradlens.geometry.layout import Layout
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
        grown: its map does not come from a map, but from a vector: there nothing is handed on of a lattice.
        even: of fixed weights, whether those of every phase add up to the same; None for weights that are learned.
    """

    index: int
    layer: str
    module: str
    call: Call
    axes: tuple[int | None, ...]
    sources: frozenset[int]
    also: frozenset[int] = frozenset()
    grown: bool = False
    even: bool | None = None


@dataclass(frozen=True)
class Meeting:
    """Where maps are added or put side by side: the layer, and the last steps of each."""

    layer: str
    branches: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Flow:
    """What is known of a tensor: the steps whose maps it holds, its layout, and other steps that it depends on."""

    sources: frozenset[int]
    layout: Layout
    also: frozenset[int] = frozenset()

    @property
    def extended(self) -> bool:
        """Whether it still holds a map."""
        return bool(self.layout.axes) or self.layout.lost


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
        found = self._flows.get(id(x))
        return found[1] if found else None

    def finish(self, x: Tensor) -> Flow | None:
        """The flow of an output, after what was done to it by hand has been put among the steps."""
        flow = self.flow(x)
        if flow is None:
            return None
        maps = [dim.axes for dim in flow.layout.dims[2:]]
        return self._fold(flow, [1] if maps and all(len(axes) == 1 for axes in maps) else [])

    def _note(self, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        inputs = list(_tensors((args, kwargs)))
        self.read.update(id(x) for x in inputs if isinstance(x, nn.Parameter))
        outputs = list(_tensors(result))
        if func is torch.Tensor.__setitem__:
            outputs = [args[0]]
        flows = [flow for x in inputs if (flow := self.flow(x)) is not None]
        if not flows:
            if any(isinstance(x, nn.Parameter) or id(x) in self._learned for x in inputs):
                self._learned |= {id(x): x for x in outputs}
            return
        if not outputs:
            return
        call = spatial_call(func, args, kwargs, result)
        if call is not None and (source := self.flow(_first(args, kwargs))) is not None:
            flow = self._operate(call, source, args, kwargs, outputs[0])
            self._keep(outputs, [flow] * len(outputs))
            return
        rule = RULES.get(_name(func), _default)
        self._keep(outputs, rule(self, func, args, kwargs, outputs))

    def _keep(self, outputs: Sequence[Tensor], flows: Sequence[Flow]) -> None:
        for x, flow in zip(outputs, flows, strict=True):
            if flow.layout.shape != tuple(x.shape):
                flow = replace(flow, layout=at.plain(tuple(x.shape), lost=flow.extended))
            self._flows[id(x)] = (x, self._spread(flow))

    def _operate(self, call: Call, flow: Flow, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> Flow:
        """The flow after a spatial operation, which becomes a step."""
        axes = len(call.size)
        by_windows = call.kind == "fold"  # whose input has its map in the last dimension
        flow = self._fold(flow, [len(flow.layout.dims) - (1 + by_windows if by_windows else axes + 1)])
        shape = tuple(output.shape)
        if max(call.size) == max(call.output_size) == 1:
            return Flow(flow.sources, at.plain(shape))
        flow = self._found(flow, call)
        dims = flow.layout.dims[-1:] if by_windows else flow.layout.dims[-axes:]
        named = _axes_of(dims, axes)
        grown = not flow.extended and not self._same_size(flow, call.size)
        if named is None and flow.extended and not flow.layout.lost:  # along tokens, not along the map
            self._step(call, (None,) * axes, flow, grown, args, kwargs)
            if call.size != call.output_size:
                return Flow(self._last(), at.plain(shape, lost=True))
            return Flow(self._last(), replace(flow.layout, dims=(*at.plain(shape).dims[:-axes], *dims)))
        step = self._step(call, named or tuple(range(axes)), flow, grown, args, kwargs)
        if call.direction == "same" and call.size == call.output_size and call.kind not in ("fold", "unfold"):
            if named is not None and not grown:
                outer = at.plain(shape).dims[:-axes]
                batch = flow.layout.dims[: len(outer) - 1]
                if tuple(dim.size for dim in batch) == shape[: len(outer) - 1]:
                    outer = (*batch, outer[-1])
                return Flow(self._last(), Layout((*outer, *dims)))
        if call.kind == "unfold":
            runs = tuple(at.Run(n, axis) for n, axis in zip(call.output_size, step.axes, strict=True) if n > 1)
            return Flow(self._last(), at.with_dim(at.plain(shape), len(shape) - 1, at.Dim(runs)))
        return Flow(self._last(), at.plain(shape, step.axes))

    def _step(
        self,
        call: Call,
        axes: tuple[int | None, ...],
        flow: Flow,
        grown: bool,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Step:
        module = at_work(self.names) or OUTSIDE
        self._calls[module] += 1
        layer = module if self._calls[module] == 1 else f"{module}#{self._calls[module]}"
        even = None
        if call.kind == "conv":
            weight = dict(zip(("input", "weight"), args, strict=False)).get("weight", (kwargs or {}).get("weight"))
            if not (isinstance(weight, nn.Parameter) or id(weight) in self._learned or self.flow(weight)):
                even = self._is_even(weight, module, call)
        step = Step(len(self.steps), layer, module, call, axes, flow.sources, flow.also - flow.sources, grown, even)
        self.steps.append(step)
        return step

    def _is_even(self, weight: Tensor, module: str, call: Call) -> bool | None:
        """Whether fixed weights give every phase the same; None if their values are not to be had."""
        owner = next((m for m, name in self.names.items() if name == module), None)
        known = [weight, *(owner.buffers(recurse=False) if owner is not None else ())]
        wanted = tuple(weight.shape[2:])
        for x in known:
            if tuple(x.shape[-len(wanted) :]) == wanted and not isinstance(x, FakeTensor) and x.device.type != "meta":
                taps = x.detach().double().reshape(-1, *wanted)[0]
                return _even_taps(taps, [int(s) for s in call.stride])
        return None

    def _found(self, flow: Flow, call: Call) -> Flow:
        """`flow`, with a step for what was done to its map unseen where that changed its size."""
        before = [self.steps[i] for i in sorted(flow.sources) if i != INPUT]
        before = [step for step in before if len(step.call.output_size) == len(call.size)]
        if not flow.layout.lost or not before or self._same_size(flow, call.size):
            return flow
        size = before[-1].call.output_size
        ratio = tuple(Fraction(n, m) for n, m in zip(size, call.size, strict=True))
        if set(ratio) == {1}:
            return flow
        ones, zeros = (1,) * len(size), (0,) * len(size)
        stride = tuple(max(r, 1 / r) for r in ratio)
        self._step(
            Call("unknown", ones, stride, ratio, size, call.size, zeros, ones, zeros), before[-1].axes, flow, False
        )
        return Flow(self._last(), flow.layout)

    def _last(self) -> frozenset[int]:
        return frozenset([len(self.steps) - 1])

    def _same_size(self, flow: Flow, size: Sequence[int]) -> bool:
        return any(i != INPUT and self.steps[i].call.output_size == tuple(size) for i in flow.sources)

    def _fold(self, flow: Flow, mixed: Iterable[int], kind: str = "") -> Flow:
        """`flow` after pixels that were moved among the channels, or left out, have become a step."""
        folds = at.folded(flow.layout, mixed)
        if folds is None:
            return flow
        axes = tuple(sorted(flow.layout.axes))
        stride = dict(zip(folds.axes, folds.stride, strict=True))
        kernel = dict(zip(folds.axes, folds.kernel, strict=True))
        settled = at.settled(flow.layout, folds)
        sizes = {axis: 1 for axis in axes}
        for dim in settled.dims:
            for run in dim.runs:
                if run.axis is not None:
                    sizes[run.axis] *= run.size
        self._by_hand(
            kind or ("subsample" if set(folds.kernel) == {1} else "pixel_unshuffle"),
            flow,
            axes,
            kernel=[kernel.get(a, 1) for a in axes],
            stride=[stride.get(a, 1) for a in axes],
            size=[sizes[a] * stride.get(a, 1) for a in axes],
            output_size=[sizes[a] for a in axes],
            down=True,
        )
        return Flow(self._last(), settled)

    def _spread(self, flow: Flow) -> Flow:
        """`flow` after channels, or copies, that were moved between pixels have become a step."""
        found = at.spread(flow.layout)
        if found is None:
            return flow
        axes = tuple(sorted(found))
        sizes = {dim.runs[0].axis: dim for dim in flow.layout.dims if dim.axes}
        factors = [found[a].size for a in axes]
        self._by_hand(
            "nearest" if all(run.copies for run in found.values()) else "pixel_shuffle",
            flow,
            axes,
            kernel=factors,
            stride=factors,
            size=[sizes[a].runs[0].size for a in axes],
            output_size=[sizes[a].size for a in axes],
            down=False,
        )
        dims = (at.plain([d.size], [next(iter(d.axes), None)]).dims[0] for d in flow.layout.dims)
        return Flow(self._last(), Layout(tuple(dims)))

    def _by_hand(
        self,
        kind: str,
        flow: Flow,
        axes: tuple[int, ...],
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        size: Sequence[int],
        output_size: Sequence[int],
        down: bool,
    ) -> None:
        ones, zeros = (1,) * len(axes), (0,) * len(axes)
        whole = tuple(map(Fraction, stride))
        ratio = whole if down else tuple(1 / s for s in whole)
        call = Call(
            kind, tuple(kernel), whole, ratio, tuple(size), tuple(output_size), padding=zeros, dilation=ones,
            output_padding=zeros,
        )  # fmt: skip
        self._step(call, axes, flow, False)

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
    sums = taps.abs()
    for axis, step in enumerate(stride):
        rows = -(-sums.shape[axis] // step) * step
        wider = sums.new_zeros(*sums.shape[:axis], rows, *sums.shape[axis + 1 :])
        wider.narrow(axis, 0, sums.shape[axis]).copy_(sums)
        sums = wider.unflatten(axis, (-1, step)).sum(axis)
    return bool((sums.max() - sums.min()) <= 1e-3 * sums.max())  # float16 buffers have 1e-3


def _recurrent(func: Callable, args: Sequence[Any]) -> tuple[Tensor, ...] | None:
    """What an LSTM or GRU returns for tensors without data, which it would otherwise visit step by step."""
    if _name(func) not in ("lstm", "gru") or not isinstance(args[0], FakeTensor) or not isinstance(args[3], bool):
        return None
    states = args[1] if isinstance(args[1], tuple | list) else [args[1]]
    output = args[0].new_empty(*args[0].shape[:-1], states[0].shape[-1] * (2 if args[7] else 1))
    return (output, *(state.new_empty(state.shape) for state in states))


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _name(func: Callable) -> str:
    """The name of a function, of an attribute that is read, and for work in place that of the plain function."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name if name.endswith("__") else name.removesuffix("_")


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")


# Rules: (tracer, function, args, kwargs, outputs) -> a flow for each output

Rule = Callable[[Tracer, Callable, Sequence[Any], Mapping[str, Any], Sequence[Tensor]], Sequence[Flow]]


def _flows(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Flow]:
    return [flow for x in _tensors((args, kwargs)) if (flow := tracer.flow(x)) is not None]


def _combined(flows: Sequence[Flow], layout: Layout) -> Flow:
    """What comes of several tensors: the maps are of those with as many pixels; a gate, or a key, is only depended on."""
    with_map = [f for f in flows if f.extended and (layout.lost or f.layout.lost or f.layout.extent == layout.extent)]
    sources = frozenset().union(*(f.sources for f in (with_map or flows)))
    also = frozenset().union(*(f.sources | f.also for f in flows))
    return Flow(sources, layout, also - sources)


def _default(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """Entry by entry where shapes broadcast; else dimensions that keep their place and size keep what they are."""
    flows = _flows(tracer, args, kwargs)
    made = []
    for x in outputs:
        shape = tuple(x.shape)
        fitting = [f.layout for f in flows if _broadcasts(f.layout.shape, shape)]
        if not fitting and flows[0].layout.dims and len(flows[0].layout.dims) == len(shape):
            fitting = [flows[0].layout]
        if fitting:
            layout = at.joined(fitting, shape)
        else:
            layout = at.plain(shape, lost=any(f.extended for f in flows) and x.numel() > 1)
        made.append(_combined(flows, layout))
    if len(flows) > 1 and len(outputs) == 1:
        tracer.meet([f for f in flows if f.layout.shape == tuple(outputs[0].shape)])
    return made


def _broadcasts(shape: Sequence[int], wider: Sequence[int]) -> bool:
    return len(shape) <= len(wider) and all(a in (b, 1) for a, b in zip(reversed(shape), reversed(wider), strict=False))


def _reshape(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    return [replace(flow, layout=at.reshaped(flow.layout, tuple(outputs[0].shape)))]


def _permute(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """Any function that only reorders dimensions: it is asked what it does to their numbers."""
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    count = len(flow.layout.dims)
    marked = torch.empty(tuple(range(2, count + 2)), device="meta")
    rest = args[1:]
    order = [side - 2 for side in func(marked, *rest, **{k: v for k, v in kwargs.items() if k != "input"}).shape]
    return [replace(flow, layout=at.permuted(flow.layout, order))]


def _expand(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    shape, layout = tuple(outputs[0].shape), flow.layout
    for _ in range(len(shape) - len(layout.dims)):
        layout = at.inserted(layout, 0)
    for place, (dim, size) in enumerate(zip(layout.dims, shape, strict=True)):
        if dim.size != size:
            copied = at.Dim((at.Run(size, copies=True),)) if dim.size == 1 else at.plain([size]).dims[0]
            layout = replace(at.with_dim(layout, place, copied), lost=layout.lost or bool(dim.axes))
    return [replace(flow, layout=layout)]


def _repeat_interleave(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow, times, axis = tracer.flow(_first(args, kwargs)), _argument(args, kwargs, 1, "repeats"), kwargs.get("dim")
    axis = args[2] if axis is None and len(args) > 2 else axis
    if flow is None or not isinstance(times, int) or axis is None:
        return _default(tracer, func, args, kwargs, outputs)
    layout = at.inserted(flow.layout, axis % len(flow.layout.dims) + 1, times, copies=True)
    return [replace(flow, layout=at.reshaped(layout, tuple(outputs[0].shape)))]


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return kwargs.get(name, args[place] if len(args) > place else default)


def _index(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """`x[...]` with numbers, slices, None and Ellipsis; an index by a tensor loses that dimension."""
    flow = tracer.flow(args[0])
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    items = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    layout, count = flow.layout, len(flow.layout.dims)
    if any(not (i is None or i is Ellipsis or isinstance(i, int | slice)) or isinstance(i, bool) for i in items):
        return _default(tracer, func, args, kwargs, outputs)
    used = sum(i is not None and i is not Ellipsis for i in items)
    if Ellipsis in items:
        where = items.index(Ellipsis)
        items[where : where + 1] = [slice(None)] * (count - used)
    place = 0
    for item in items:
        if item is None:
            layout, place = at.inserted(layout, place), place + 1
        elif isinstance(item, slice):
            start, stop, step = item.indices(layout.dims[place].size)
            layout, place = at.sliced(layout, place, start, stop, step), place + 1
        else:
            layout = at.selected(layout, place, int(item) % max(1, layout.dims[place].size))
    return [replace(flow, layout=layout)]


def _narrow(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """One part after another along a dimension: narrow, split, chunk."""
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    single = _name(func) == "narrow"
    place = _argument(args, kwargs, 1 if single else 2, "dim", 0) % len(flow.layout.dims)
    start = int(_argument(args, kwargs, 2, "start")) if single else 0
    made = []
    for x in outputs:
        stop = start + x.shape[place]
        made.append(replace(flow, layout=at.sliced(flow.layout, place, start, stop)))
        start = stop
    return made


def _select(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """One index of a dimension, or all of them one by one: select, unbind."""
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    place = _argument(args, kwargs, 1, "dim", 0) % len(flow.layout.dims)
    first = int(_argument(args, kwargs, 2, "index")) if _name(func) == "select" else 0
    return [
        replace(flow, layout=at.selected(flow.layout, place, (first + i) % flow.layout.dims[place].size))
        for i in range(len(outputs))
    ]


def _cat(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    parts = list(_argument(args, kwargs, 0, "tensors"))
    place = _argument(args, kwargs, 1, "dim", 0)
    flows = [tracer.flow(x) for x in parts]
    known = [flow for flow in flows if flow is not None]
    if _name(func) == "stack":
        place %= outputs[0].ndim
        layouts = [at.inserted(flow.layout, place) if flow is not None else None for flow in flows]
        sizes = [1] * len(parts)
    else:
        place %= parts[0].ndim
        layouts = [flow.layout if flow is not None else None for flow in flows]
        sizes = [x.shape[place] for x in parts]
    tracer.meet(known)
    also = frozenset().union(*(flow.also for flow in known))
    with_map = [flow for flow in known if flow.extended] or known
    sources = frozenset().union(*(flow.sources for flow in with_map))
    return [Flow(sources, at.concatenated(layouts, sizes, place), also - sources)]


def _pad(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    layout = flow.layout
    for place, size in enumerate(outputs[0].shape):
        layout = at.resized(layout, place, size)
    return [replace(flow, layout=layout)]


def _linear(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow = tracer.flow(_first(args, kwargs))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    return [_mixed(tracer, flow, int(outputs[0].shape[-1]))]


def _mixed(tracer: Tracer, flow: Flow, size: int) -> Flow:
    """The flow after the last dimension was mixed into `size` channels."""
    flow = tracer._fold(flow, [-1])
    return replace(flow, layout=at.with_dim(flow.layout, len(flow.layout.dims) - 1, at.plain([size]).dims[0]))


def _matmul(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """Rows are the left one's; columns the right one's where the left one holds no map, as in attention over channels."""
    left, right = tracer.flow(args[0]), tracer.flow(_argument(args, kwargs, 1, "other", kwargs.get("mat2")))
    shape = tuple(outputs[0].shape)
    if left is None or len(left.layout.dims) != len(shape):
        if right is not None and len(right.layout.dims) == len(shape) and len(shape) > 1:
            rows = at.with_dim(right.layout, len(shape) - 2, at.plain([shape[-2]]).dims[0])
            return [_combined([right] if left is None else [right, left], rows)]
        return _default(tracer, func, args, kwargs, outputs)
    if right is None:
        return [_mixed(tracer, left, shape[-1])]
    batch_and_rows = at.with_dim(left.layout, len(shape) - 1, at.plain([shape[-1]]).dims[0])
    counted = {(run.axis, run.step) for dim in batch_and_rows.dims for run in dim.runs if run.axis is not None}
    columns = {(run.axis, run.step) for run in right.layout.dims[-1].runs}
    if not counted & columns and len(right.layout.dims) == len(shape):
        batch_and_rows = at.with_dim(batch_and_rows, len(shape) - 1, right.layout.dims[-1])
    return [_combined([left, right], batch_and_rows)]


def _attention(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    flow = tracer.flow(_argument(args, kwargs, 0, "query"))
    if flow is None:
        return _default(tracer, func, args, kwargs, outputs)
    flows = _flows(tracer, args, kwargs)
    last = at.plain([outputs[0].shape[-1]]).dims[0]
    return [_combined(flows, at.with_dim(flow.layout, len(flow.layout.dims) - 1, last))]


def _einsum(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    equation, parts = args[0], list(_tensors(args[1:]))
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        return _default(tracer, func, args, kwargs, outputs)
    terms, kept = equation.replace(" ", "").split("->")
    known = [(term, flow) for term, x in zip(terms.split(","), parts, strict=True) if (flow := tracer.flow(x))]
    if len(known) == 1:
        term, flow = known[0]
        known = [(term, tracer._fold(flow, [i for i, label in enumerate(term) if label not in kept]))]
    dims: list[at.Dim] = []
    taken: set[int] = set()
    for label, size in zip(kept, outputs[0].shape, strict=True):
        found = [flow.layout.dims[term.index(label)] for term, flow in known if label in term]
        best = next((dim for dim in found if dim.axes and not dim.axes & taken and dim.size == size), None)
        taken |= best.axes if best and len(known) > 1 else frozenset()
        dims.append(best or at.plain([size]).dims[0])
    phases = frozenset().union(*(flow.layout.phases for _, flow in known))
    return [_combined([flow for _, flow in known], Layout(tuple(dims), phases))]


def _reduce(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """Sums, means and maxima over dimensions: where these hold parts of windows, it is pooling by hand."""
    flow = tracer.flow(_first(args, kwargs))
    where = _argument(args, kwargs, 2 if _name(func) in ("norm", "vector_norm") else 1, "dim", kwargs.get("axis"))
    if flow is None or isinstance(where, Tensor) or where is None:
        return _default(tracer, func, args, kwargs, outputs)
    count = len(flow.layout.dims)
    places = {d % count for d in ([where] if isinstance(where, int) else where)}
    flow = tracer._fold(flow, places, "max_pool" if "max" in _name(func) else "avg_pool")
    if outputs[0].ndim == count:
        layout = flow.layout
        for place in places:
            layout = at.with_dim(layout, place, at.Dim(()))
    else:
        layout = at.without(flow.layout, places)
    return [replace(flow, layout=layout)] * len(outputs)


def _windows(
    tracer: Tracer, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
) -> list[Flow]:
    """`Tensor.unfold(dim, size, step)`: windows along one axis."""
    flow = tracer.flow(args[0])
    place = _argument(args, kwargs, 1, "dimension")
    size, step = _argument(args, kwargs, 2, "size"), _argument(args, kwargs, 3, "step")
    run = next(iter(flow.layout.dims[place].runs), None) if flow is not None and place is not None else None
    if flow is None or run is None or run.axis is None or len(flow.layout.dims[place].runs) > 1 or run.step != 1:
        return _default(tracer, func, args, kwargs, outputs)
    count = outputs[0].shape[place]
    tracer._by_hand(
        "unfold", flow, (run.axis,), kernel=[size], stride=[step], size=[run.size], output_size=[count], down=True
    )
    layout = at.with_dim(flow.layout, place, at.plain([count], [run.axis]).dims[0])
    return [Flow(tracer._last(), at.inserted(layout, len(layout.dims), size))]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze", "contiguous"),
        _reshape,
    ),
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "adjoint"), _permute
    ),
    **dict.fromkeys(("expand", "expand_as", "repeat", "tile", "broadcast_to"), _expand),
    "repeat_interleave": _repeat_interleave,
    "__getitem__": _index,
    **dict.fromkeys(("narrow", "split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk"), _narrow),
    **dict.fromkeys(("select", "unbind"), _select),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _cat),
    "pad": _pad,
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "mm"), _matmul),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "norm",
            "vector_norm",
            "logsumexp",
            "prod",
            "var",
            "std",
            "median",
        ),
        _reduce,
    ),
    "unfold": _windows,
}
