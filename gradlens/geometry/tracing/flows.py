"""What functions of torch do to a map: for each tensor where it comes from and how the map lies in it.

A rule is given what was called and with what, and returns what is known of each output. A function without a rule passes
the layout on where shapes allow it, so that most of torch needs none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gradlens.geometry.tracing import layout as at
from gradlens.geometry.tracing.calls import Call, by_number
from gradlens.geometry.tracing.layout import Layout


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


@dataclass(frozen=True)
class Seen:
    """A call: the function, what it was given and the tensors that it returned."""

    function: Callable
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    outputs: Sequence[Tensor]

    @property
    def name(self) -> str:
        return called(self.function)

    @property
    def first(self) -> Any:
        return self.argument(0, "input")

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)


class Notes(Protocol):
    """What the rules read and write while a network runs; the tracer keeps it."""

    @property
    def last(self) -> frozenset[int]:
        """The last step, as the source of what it gave."""
        ...

    def flow(self, x: Tensor) -> Flow | None:
        """What is known of a tensor."""
        ...

    def fold(self, flow: Flow, mixed: Iterable[int], kind: str = "") -> Flow:
        """`flow` after runs of some of its dimensions have become channels, or an operation of `kind`."""
        ...

    def by_hand(self, call: Call, axes: tuple[int, ...], flow: Flow) -> None:
        """Note a step that no function of torch says by itself."""
        ...

    def meet(self, flows: Sequence[Flow]) -> None:
        """Note that maps are added or put side by side."""
        ...


Rule = Callable[[Notes, Seen], Sequence[Flow]]


def flows_of(tracer: Notes, seen: Seen) -> Sequence[Flow]:
    """What is known of each output of a call."""
    return RULES.get(seen.name, _default)(tracer, seen)


def called(function: Callable) -> str:
    """The name of a function, of an attribute that is read, and for work in place that of the plain function."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", name)
    return name if name.endswith("__") else name.removesuffix("_")


def tensors_in(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def _flows(tracer: Notes, seen: Seen) -> list[Flow]:
    return [flow for x in tensors_in((seen.args, seen.kwargs)) if (flow := tracer.flow(x)) is not None]


def _combined(flows: Sequence[Flow], layout: Layout) -> Flow:
    """What comes of several tensors: the maps are of those with as many pixels; a gate, or a key, is only depended on."""
    with_map = [f for f in flows if f.extended and (layout.lost or f.layout.lost or f.layout.extent == layout.extent)]
    sources = frozenset().union(*(f.sources for f in (with_map or flows)))
    also = frozenset().union(*(f.sources | f.also for f in flows))
    return Flow(sources, layout, also - sources)


def _default(tracer: Notes, seen: Seen) -> list[Flow]:
    """Entry by entry where shapes broadcast; else dimensions that keep their place and size keep what they are."""
    flows = _flows(tracer, seen)
    made = []
    for x in seen.outputs:
        shape = tuple(x.shape)
        fitting = [f.layout for f in flows if _broadcasts(f.layout.shape, shape)]
        if not fitting and flows[0].layout.dims and len(flows[0].layout.dims) == len(shape):
            fitting = [flows[0].layout]
        lost = any(f.extended for f in flows) and x.numel() > 1
        layout = at.joined(fitting, shape) if fitting else at.plain(shape, lost=lost)
        made.append(_combined(flows, layout))
    if len(flows) > 1 and len(seen.outputs) == 1:
        tracer.meet([f for f in flows if f.layout.shape == tuple(seen.outputs[0].shape)])
    return made


def _broadcasts(shape: Sequence[int], wider: Sequence[int]) -> bool:
    return len(shape) <= len(wider) and all(a in (b, 1) for a, b in zip(reversed(shape), reversed(wider), strict=False))


def _reshape(tracer: Notes, seen: Seen) -> list[Flow]:
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    return [replace(flow, layout=at.reshaped(flow.layout, tuple(seen.outputs[0].shape)))]


def _permute(tracer: Notes, seen: Seen) -> list[Flow]:
    """Any function that only reorders dimensions: it is asked what it does to their numbers."""
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    count = len(flow.layout.dims)
    marked = torch.empty(tuple(range(2, count + 2)), device="meta")
    rest = seen.args[1:]
    order = [
        side - 2
        for side in seen.function(marked, *rest, **{k: v for k, v in seen.kwargs.items() if k != "input"}).shape
    ]
    return [replace(flow, layout=at.permuted(flow.layout, order))]


def _expand(tracer: Notes, seen: Seen) -> list[Flow]:
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    shape, layout = tuple(seen.outputs[0].shape), flow.layout
    for _ in range(len(shape) - len(layout.dims)):
        layout = at.inserted(layout, 0)
    for place, (dim, size) in enumerate(zip(layout.dims, shape, strict=True)):
        if dim.size != size:
            copied = at.Dim((at.Run(size, copies=True),)) if dim.size == 1 else at.plain([size]).dims[0]
            layout = replace(at.with_dim(layout, place, copied), lost=layout.lost or bool(dim.axes))
    return [replace(flow, layout=layout)]


def _repeat_interleave(tracer: Notes, seen: Seen) -> list[Flow]:
    flow, times, axis = tracer.flow(seen.first), seen.argument(1, "repeats"), seen.kwargs.get("dim")
    axis = seen.args[2] if axis is None and len(seen.args) > 2 else axis
    if flow is None or not isinstance(times, int) or axis is None:
        return _default(tracer, seen)
    layout = at.inserted(flow.layout, axis % len(flow.layout.dims) + 1, times, copies=True)
    return [replace(flow, layout=at.reshaped(layout, tuple(seen.outputs[0].shape)))]


def basic_index(index: Any, count: int) -> list[Any] | None:
    """One number or slice for each of `count` dimensions, and None for each new one; None if a tensor is an index."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, bool) or not (i is None or i is Ellipsis or isinstance(i, int | slice)) for i in items):
        return None
    missing = [slice(None)] * (count - sum(i is not None and i is not Ellipsis for i in items))
    where = items.index(Ellipsis) if Ellipsis in items else len(items)
    return [*items[:where], *missing, *items[where + 1 :]]


def _index(tracer: Notes, seen: Seen) -> list[Flow]:
    """`x[...]` with numbers, slices, None and Ellipsis; an index by a tensor loses that dimension."""
    flow = tracer.flow(seen.args[0])
    items = basic_index(seen.args[1], len(flow.layout.dims)) if flow is not None else None
    if flow is None or items is None:
        return _default(tracer, seen)
    layout, place = flow.layout, 0
    for item in items:
        if item is None:
            layout, place = at.inserted(layout, place), place + 1
        elif isinstance(item, slice):
            start, stop, step = item.indices(layout.dims[place].size)
            layout, place = at.sliced(layout, place, start, stop, step), place + 1
        else:
            layout = at.selected(layout, place, int(item) % max(1, layout.dims[place].size))
    return [replace(flow, layout=layout)]


def _narrow(tracer: Notes, seen: Seen) -> list[Flow]:
    """One part after another along a dimension: narrow, split, chunk."""
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    single = seen.name == "narrow"
    place = seen.argument(1 if single else 2, "dim", 0) % len(flow.layout.dims)
    start = int(seen.argument(2, "start")) if single else 0
    made = []
    for x in seen.outputs:
        stop = start + x.shape[place]
        made.append(replace(flow, layout=at.sliced(flow.layout, place, start, stop)))
        start = stop
    return made


def _select(tracer: Notes, seen: Seen) -> list[Flow]:
    """One index of a dimension, or all of them one by one: select, unbind."""
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    place = seen.argument(1, "dim", 0) % len(flow.layout.dims)
    first = int(seen.argument(2, "index")) if seen.name == "select" else 0
    return [
        replace(flow, layout=at.selected(flow.layout, place, (first + i) % flow.layout.dims[place].size))
        for i in range(len(seen.outputs))
    ]


def _cat(tracer: Notes, seen: Seen) -> list[Flow]:
    parts = list(seen.argument(0, "tensors"))
    place = seen.argument(1, "dim", 0)
    flows = [tracer.flow(x) for x in parts]
    known = [flow for flow in flows if flow is not None]
    if seen.name == "stack":
        place %= seen.outputs[0].ndim
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


def _pad(tracer: Notes, seen: Seen) -> list[Flow]:
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    layout, around = flow.layout, list(seen.argument(1, "pad", ()))
    for place, size in enumerate(seen.outputs[0].shape):
        end = 2 * (len(layout.dims) - 1 - place) + 1  # pairs, the last dimension first
        layout = at.resized(layout, place, size, max(0, around[end]) if end < len(around) else 0)
    return [replace(flow, layout=layout)]


def _linear(tracer: Notes, seen: Seen) -> list[Flow]:
    flow = tracer.flow(seen.first)
    if flow is None:
        return _default(tracer, seen)
    return [_mixed(tracer, flow, int(seen.outputs[0].shape[-1]))]


def _mixed(tracer: Notes, flow: Flow, size: int) -> Flow:
    """The flow after the last dimension was mixed into `size` channels."""
    flow = tracer.fold(flow, [-1])
    return replace(flow, layout=at.with_dim(flow.layout, len(flow.layout.dims) - 1, at.plain([size]).dims[0]))


def _matmul(tracer: Notes, seen: Seen) -> list[Flow]:
    """Rows are the left one's; columns the right one's where the left one holds no map, as in attention over channels."""
    left, right = tracer.flow(seen.args[0]), tracer.flow(seen.argument(1, "other", seen.kwargs.get("mat2")))
    shape = tuple(seen.outputs[0].shape)
    if left is None or len(left.layout.dims) != len(shape):
        if right is not None and len(right.layout.dims) == len(shape) and len(shape) > 1:
            rows = at.with_dim(right.layout, len(shape) - 2, at.plain([shape[-2]]).dims[0])
            return [_combined([right] if left is None else [right, left], rows)]
        return _default(tracer, seen)
    if right is None:
        return [_mixed(tracer, left, shape[-1])]
    batch_and_rows = at.with_dim(_in_windows(left, right), len(shape) - 1, at.plain([shape[-1]]).dims[0])
    counted = {(run.axis, run.step) for dim in batch_and_rows.dims for run in dim.runs if run.axis is not None}
    columns = {(run.axis, run.step) for run in right.layout.dims[-1].runs}
    if not counted & columns and len(right.layout.dims) == len(shape):
        batch_and_rows = at.with_dim(batch_and_rows, len(shape) - 1, right.layout.dims[-1])
    return [_combined([left, right], batch_and_rows)]


def _attention(tracer: Notes, seen: Seen) -> list[Flow]:
    flow = tracer.flow(seen.argument(0, "query"))
    if flow is None:
        return _default(tracer, seen)
    flows = _flows(tracer, seen)
    value, last = tracer.flow(seen.argument(2, "value")), at.plain([seen.outputs[0].shape[-1]]).dims[0]
    rows = flow.layout if value is None else _in_windows(flow, value)
    return [_combined(flows, at.with_dim(rows, len(rows.dims) - 1, last))]


def _in_windows(left: Flow, right: Flow) -> Layout:
    """The layout of `left`, whose batches are the windows of `right` where it has none: queries shared by all windows."""
    layout = left.layout
    if len(right.layout.dims) == len(layout.dims):
        for place, dim in enumerate(right.layout.dims[:-2]):
            if dim.axes and not layout.dims[place].axes and dim.size == layout.dims[place].size:
                layout = at.with_dim(layout, place, dim)
    return layout


def _einsum(tracer: Notes, seen: Seen) -> list[Flow]:
    equation, parts = seen.args[0], list(tensors_in(seen.args[1:]))
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        return _default(tracer, seen)
    terms, kept = equation.replace(" ", "").split("->")
    known = [(term, flow) for term, x in zip(terms.split(","), parts, strict=True) if (flow := tracer.flow(x))]
    if len(known) == 1:
        term, flow = known[0]
        known = [(term, tracer.fold(flow, [i for i, label in enumerate(term) if label not in kept]))]
    dims: list[at.Dim] = []
    taken: set[int] = set()
    for label, size in zip(kept, seen.outputs[0].shape, strict=True):
        found = [flow.layout.dims[term.index(label)] for term, flow in known if label in term]
        best = next((dim for dim in found if dim.axes and not dim.axes & taken and dim.size == size), None)
        taken |= best.axes if best and len(known) > 1 else frozenset()
        dims.append(best or at.plain([size]).dims[0])
    phases = frozenset().union(*(flow.layout.phases for _, flow in known))
    return [_combined([flow for _, flow in known], Layout(tuple(dims), phases))]


def _reduce(tracer: Notes, seen: Seen) -> list[Flow]:
    """Sums, means and maxima over dimensions: where these hold parts of windows, it is pooling by hand."""
    flow = tracer.flow(seen.first)
    where = seen.argument(2 if seen.name in ("norm", "vector_norm") else 1, "dim", seen.kwargs.get("axis"))
    if flow is None or isinstance(where, Tensor) or where is None:
        return _default(tracer, seen)
    count = len(flow.layout.dims)
    places = {d % count for d in ([where] if isinstance(where, int) else where)}
    flow = tracer.fold(flow, places, "max_pool" if "max" in seen.name else "avg_pool")
    if seen.outputs[0].ndim == count:
        layout = flow.layout
        for place in places:
            layout = at.with_dim(layout, place, at.Dim(()))
    else:
        layout = at.without(flow.layout, places)
    return [replace(flow, layout=layout)] * len(seen.outputs)


def _windows(tracer: Notes, seen: Seen) -> list[Flow]:
    """`Tensor.unfold(dim, size, step)`: windows along one axis."""
    flow, place = tracer.flow(seen.args[0]), int(seen.argument(1, "dimension"))
    size, step = seen.argument(2, "size"), seen.argument(3, "step")
    runs = flow.layout.dims[place].runs if flow is not None else ()
    if flow is None or len(runs) != 1 or runs[0].axis is None or runs[0].step != 1:
        return _default(tracer, seen)
    run, axis = runs[0], runs[0].axis
    count = seen.outputs[0].shape[place]
    tracer.by_hand(by_number("unfold", [size], [step], [run.size], [count]), (axis,), flow)
    layout = at.with_dim(flow.layout, place, at.plain([count], [axis]).dims[0])
    return [Flow(tracer.last, at.inserted(layout, len(layout.dims), size))]


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
