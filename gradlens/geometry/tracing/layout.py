"""Where the pixels of a map are in the dimensions of a tensor.

Maps travel as `[N C H W]`, channels last, as tokens, in windows and in patches. Each dimension is a row-major product of
runs; a run counts along one axis of the map in steps of so many pixels, or along anything else. Space-to-depth written
with `view` and `permute` is then plain to see: a run of one pixel's step has moved among the channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

AXES = 3  # at most
Phase = tuple[int, ...]  # offset along each axis, in pixels
START: frozenset[Phase] = frozenset([(0,) * AXES])


@dataclass(frozen=True)
class Run:
    """`size` indices that step by `step` pixels along `axis`; without an axis they count channels, heads and the like.

    `copies`: they all read the same. `margin`: so many of the last are padding.
    """

    size: int
    axis: int | None = None
    step: int = 1
    copies: bool = False
    margin: int = 0


@dataclass(frozen=True)
class Dim:
    """One dimension: the product of its runs, with so many foreign entries (a class token) before and after."""

    runs: tuple[Run, ...]
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        return prod(run.size for run in self.runs) + self.before + self.after

    @property
    def axes(self) -> frozenset[int]:
        return frozenset(run.axis for run in self.runs if run.axis is not None)


@dataclass(frozen=True)
class Layout:
    """The dimensions of a tensor; of the pixels between the steps of an axis, those of `phases` are in it.

    `lost`: what was done to it is not known here.
    """

    dims: tuple[Dim, ...]
    phases: frozenset[Phase] = START
    lost: bool = False

    @property
    def axes(self) -> frozenset[int]:
        return frozenset().union(*(dim.axes for dim in self.dims))

    @property
    def extent(self) -> int:
        """Pixels of the map that are in it."""
        return prod(run.size for dim in self.dims for run in dim.runs if run.axis is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim.size for dim in self.dims)


def plain(shape: Sequence[int], axes: Sequence[int | None] = (), *, lost: bool = False) -> Layout:
    """A tensor of `shape` whose last dimensions are the `axes` of a map."""
    named = [None] * (len(shape) - len(axes)) + list(axes)
    dims = (product([Run(size, axis)]) for size, axis in zip(shape, named, strict=True))
    return Layout(tuple(dims), lost=lost)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout:
    """`layout` under another shape of as many entries."""
    rest: list[Run | Dim] = []
    for dim in layout.dims:
        rest += [dim] if dim.before or dim.after else dim.runs
    rest.reverse()
    dims = []
    for size in shape:
        taken = _take(rest, size)
        if taken is None:
            return plain(shape, lost=bool(layout.axes) or layout.lost)
        dims.append(taken)
    return replace(layout, dims=tuple(dims))


def _take(rest: list[Run | Dim], size: int) -> Dim | None:
    """Take from the end of `rest` what makes a dimension of `size`; None if no whole runs and parts of runs do."""
    runs, filled = [], 1
    while filled < size:
        if not rest:
            return None
        item = rest.pop()
        wanted = size // filled
        if isinstance(item, Dim):
            return item if filled == 1 and item.size == size else None
        if size % filled or (item.size > wanted and item.size % wanted) or (item.size < wanted and wanted % item.size):
            return None
        if item.size > wanted:
            inner = item.size // wanted
            rest.append(replace(item, size=inner, margin=0))
            item = replace(item, size=wanted, step=item.step * inner, margin=0)
        runs.append(item)
        filled *= item.size
    return product(runs)


def product(runs: Iterable[Run]) -> Dim:
    """A dimension in which runs of one index are left out and runs that go on in each other are one."""
    kept: list[Run] = []
    for run in runs:
        if run.size == 1:
            continue
        last = kept[-1] if kept else None
        if last is not None and last.axis == run.axis and last.copies == run.copies:
            if run.axis is None:
                kept[-1] = replace(last, size=last.size * run.size)
                continue
            if last.step == run.step * run.size:
                kept[-1] = replace(run, size=last.size * run.size)
                continue
        kept.append(run)
    return Dim(tuple(kept))


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    """`layout` with its dimensions in another order."""
    return replace(layout, dims=tuple(layout.dims[i] for i in order))


def inserted(layout: Layout, place: int, size: int = 1, *, copies: bool = False) -> Layout:
    """`layout` with one more dimension, of channels or of copies."""
    dims = list(layout.dims)
    dims.insert(place, product([Run(size, copies=copies)]))
    return replace(layout, dims=tuple(dims))


def without(layout: Layout, places: Iterable[int]) -> Layout:
    """`layout` without these dimensions."""
    gone = set(places)
    return replace(layout, dims=tuple(dim for i, dim in enumerate(layout.dims) if i not in gone))


def with_dim(layout: Layout, place: int, dim: Dim) -> Layout:
    """`layout` with another dimension at `place`."""
    return replace(layout, dims=(*layout.dims[:place], dim, *layout.dims[place + 1 :]))


def resized(layout: Layout, place: int, size: int, margin: int = 0) -> Layout:
    """`layout` after rows were added to, or cut from, the ends of a dimension; `margin` of them are padding at its end."""
    dim = layout.dims[place]
    if dim.size == size:
        return layout
    if len(dim.runs) == 1 and not dim.before and not dim.after:
        return with_dim(layout, place, product([replace(dim.runs[0], size=size, margin=margin)]))
    changed = with_dim(layout, place, product([Run(size)]))
    return replace(changed, lost=layout.lost or bool(dim.axes))


def sliced(layout: Layout, place: int, start: int, stop: int, step: int = 1) -> Layout:
    """`layout` of `x[start:stop:step]` along a dimension, with 0 <= start and stop <= its size."""
    dim = layout.dims[place]
    size = max(0, -(-(stop - start) // step))
    if step == 1:
        foreign = (stop <= dim.before, start >= dim.size - dim.after)
        if (dim.before or dim.after) and any(foreign):
            return with_dim(layout, place, product([Run(size)]))
        if start <= dim.before and stop >= dim.size - dim.after:
            kept = Dim(dim.runs, dim.before - start, dim.after - (dim.size - stop))
            return with_dim(layout, place, kept)
        return resized(layout, place, size)
    if len(dim.runs) != 1 or dim.before or dim.after:
        return resized(layout, place, size)
    run = dim.runs[0]
    changed = with_dim(layout, place, product([replace(run, size=size, step=run.step * step)]))
    return replace(changed, phases=_moved(layout.phases, run, start % step))


def selected(layout: Layout, place: int, index: int) -> Layout:
    """`layout` of one index of a dimension, which goes."""
    dim = layout.dims[place]
    rest = without(layout, [place])
    if len(dim.runs) == 1 and not dim.before and not dim.after and dim.axes <= rest.axes:
        return replace(rest, phases=_moved(layout.phases, dim.runs[0], index))
    return rest


def _moved(phases: frozenset[Phase], run: Run, index: int) -> frozenset[Phase]:
    """`phases` that lie `index` steps of `run` further."""
    if run.axis is None:
        return phases
    by = [index * run.step if axis == run.axis else 0 for axis in range(AXES)]
    return frozenset(tuple(p + b for p, b in zip(phase, by, strict=True)) for phase in phases)


def joined(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """What comes of tensors that are combined entry by entry, broadcast to `shape`."""
    dims: list[Dim] = [product([Run(size)]) for size in shape]
    for layout in sorted(layouts, key=lambda layout: not layout.axes):
        taken = frozenset().union(*(dim.axes for dim in dims))
        for place in range(-1, -min(len(shape), len(layout.dims)) - 1, -1):
            dim = layout.dims[place]
            if dim.size == shape[place] and not dim.axes & taken and not dims[place].axes:
                dims[place] = dim
    axes = frozenset().union(*(dim.axes for dim in dims))
    with_map = [x for x in layouts if x.axes] or list(layouts)
    phases = frozenset().union(*(x.phases for x in with_map)) if with_map else START
    return Layout(tuple(dims), phases, lost=not axes and any(x.lost for x in layouts))


def concatenated(layouts: Sequence[Layout | None], sizes: Sequence[int], place: int) -> Layout:
    """What comes of tensors put one after another along `place`, where they have `sizes`; None is a constant."""
    known = [x for x in layouts if x is not None]
    first = next((x for x in known if x.axes), known[0])
    phases = frozenset().union(*(x.phases for x in known))
    parts = [x.dims[place] if x is not None else product([Run(size)]) for x, size in zip(layouts, sizes, strict=True)]
    of_map = [i for i, part in enumerate(parts) if part.axes]
    lost = any(x.lost for x in known) and not first.axes
    if not of_map:
        dim = product([Run(sum(sizes))])
    elif len(of_map) == 1:
        i = of_map[0]
        dim = Dim(parts[i].runs, parts[i].before + sum(sizes[:i]), parts[i].after + sum(sizes[i + 1 :]))
    elif all(len(p.runs) == 1 and not (p.before or p.after) for p in parts) and _one_grid(parts):
        dim = product([replace(parts[0].runs[0], size=sum(sizes))])
    else:
        dim, lost = product([Run(sum(sizes))]), True
    return Layout((*first.dims[:place], dim, *first.dims[place + 1 :]), phases, lost=lost)


def _one_grid(parts: Sequence[Dim]) -> bool:
    return len({(run.axis, run.step) for part in parts for run in part.runs}) == 1


@dataclass(frozen=True)
class Folded:
    """Pixels that moved among the channels: for each axis the step that is left and how many of its pixels are there."""

    axes: tuple[int, ...]
    stride: tuple[int, ...]
    kernel: tuple[int, ...]


def folded(layout: Layout, mixed: Iterable[int]) -> Folded | None:
    """What the dimensions `mixed`, taken together, hold of pixels whose neighbours are in other dimensions."""
    inside = {i % len(layout.dims) for i in mixed}
    outer = [run for i, dim in enumerate(layout.dims) if i not in inside for run in dim.runs]
    inner = [run for i in inside for run in layout.dims[i].runs]
    axes, strides, kernels = [], [], []
    for axis in sorted(layout.axes):
        steps = [run.step for run in outer if run.axis == axis]
        if steps and min(steps) > 1:
            held = {phase[axis] for phase in layout.phases}
            for run in inner:
                if run.axis == axis:
                    held = {h + i * run.step for h in held for i in range(run.size)}
            axes.append(axis)
            strides.append(min(steps))
            kernels.append(len({h % min(steps) for h in held}))
    return Folded(tuple(axes), tuple(strides), tuple(kernels)) if axes else None


def settled(layout: Layout, folds: Folded) -> Layout:
    """`layout` on the coarser grid that `folds` leaves; what is among the channels is channels."""
    stride = dict(zip(folds.axes, folds.stride, strict=True))

    def coarser(run: Run) -> Run:
        if run.axis not in stride:
            return run
        step = stride[run.axis]
        return replace(run, step=run.step // step) if run.step >= step else Run(run.size)

    return Layout(tuple(replace(dim, runs=product(map(coarser, dim.runs)).runs) for dim in layout.dims))


def spread(layout: Layout) -> dict[int, Run] | None:
    """For each axis the run of channels that lies between its pixels, where all axes lie so: depth-to-space, by hand."""
    found: dict[int, Run] = {}
    for dim in (dim for dim in layout.dims if dim.axes):
        if len(dim.runs) > 2 or dim.before or dim.after:
            return None
        for run, inner in pairwise(dim.runs):
            if run.axis is None or inner.axis is not None or run.axis in found:
                return None
            found[run.axis] = inner
    return found if found and found.keys() == layout.axes else None
