"""The table of a network's spatial layers: how its taps overlap, at which period, and what that does to which frequencies."""

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from gradlens.geometry.overlap import OverlapClass, coverage
from gradlens.geometry.tracing import TAPS, Call, Period, Step, Trace, Way, trace

if TYPE_CHECKING:
    import pandas as pd

RESIZES = (*TAPS, "area")
ENVELOPES = {"linear": "sinc^2", "bilinear": "sinc^2", "trilinear": "sinc^2", "bicubic": "the spectrum of a cubic"}


class Taps(NamedTuple):
    """The fewest and most taps that reach a position along one axis."""

    fewest: int
    most: int


def layers(model: nn.Module, input_size: Sequence[int], *, direction: Way = "backward") -> "pd.DataFrame":
    """The spatial layers of `model` in the order in which they run, one a row.

    Backward, a strided convolution is a transposed convolution of the gradient: taps are counted for each position of its
    input and periods are in pixels of the network's input. Forward, the same is said of the layers that enlarge, in pixels
    of the network's output, where a layer's period is its own factor times all that is enlarged after it.

    Args:
        model: any module; it is run once in eval mode, on tensors without data where it can be.
        input_size: `[C *spatial]` of one image, or `[latent]` of a generator.
        direction: `"backward"` or `"forward"`.

    Returns:
        Columns: `order`; `layer`, as in `named_modules()`, `name#2` where it runs again, and for a functional call the
        module around it; `kind`; `input` and `output`, the sides of the maps; `kernel`, `stride`, `padding`, `dilation`,
        `output_padding`, as `3 x 3`; `groups`; `direction`: `down`, `up` or `same`; `overlap_min` and `overlap_max`, the
        fewest and most taps on a position far from the border; `overlap`: `holes`, `none`, `partial` or `full`; `period`,
        that of the coarser of its two maps, the largest over axes and paths, NaN where there is none; `periods`, all of
        them in words; `writes`, whether it can write that period in this direction; `effect`, what it does to which
        frequencies; `after`, the order of the layers that feed it, -1 for the input.

    Raises:
        ValueError: the network does not run at this size; the layer, the reason and the remedy are told.

    Source: Odena et al. 2016 for the overlap; Zhang, Karaman, Chang 2019 for the replicated spectra; classes of overlap
    after Pons et al. 2021.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 11, stride=3), nn.Conv2d(8, 8, 5, stride=2))
        >>> layers(network, (3, 64, 64))[["layer", "kernel", "overlap_min", "overlap_max", "overlap", "period"]]
          layer   kernel  overlap_min  overlap_max  overlap  period
        0     0  11 x 11            9           16  partial     3.0
        1     1    5 x 5            4            9  partial     6.0
    """
    import pandas as pd

    _check_direction(direction)
    run = trace(model, input_size)
    return pd.DataFrame([_row(run, step, direction) for step in run.steps], columns=list(COLUMNS)).astype(COLUMNS)


COLUMNS = {
    "order": "int64", "layer": "object", "kind": "object", "input": "object", "output": "object", "kernel": "object",
    "stride": "object", "padding": "object", "dilation": "object", "output_padding": "object", "groups": "int64",
    "direction": "object", "overlap_min": "int64", "overlap_max": "int64", "overlap": "object", "period": "float64",
    "periods": "object", "writes": "bool", "effect": "object", "after": "object",
}  # fmt: skip


def _row(run: Trace, step: Step, direction: Way) -> tuple[object, ...]:
    call, taps, found = step.call, overlaps(step.call), run.periods(step, direction)
    values = [float(value) for period in found for value in period if value is not None]
    return (
        step.index, step.layer, call.kind, by_axis(call.size), by_axis(call.output_size), by_axis(call.kernel),
        by_axis(call.stride), by_axis(call.padding), by_axis(call.dilation), by_axis(call.output_padding), call.groups,
        call.direction, prod(t.fewest for t in taps), prod(t.most for t in taps), overlap_of(taps),
        max(values, default=float("nan")), in_words(found), bool(run.written(step, direction)), effect(run, step, direction),
        ", ".join(map(str, sorted(step.sources | step.also))),
    )  # fmt: skip


def overlaps(call: Call) -> tuple[Taps, ...]:
    """For each axis the fewest and most taps that reach a position of the finer map, far from the border."""
    return tuple(map(_overlap, range(len(call.size)), [call] * len(call.size)))


def _overlap(axis: int, call: Call) -> Taps:
    kernel, stride, ratio = call.kernel[axis], call.stride[axis], call.ratio[axis]
    if stride.denominator == 1:
        counts = coverage(kernel, int(stride), dilation=call.dilation[axis])
        return Taps(int(counts.min()), int(counts.max()))
    if ratio < 1:
        return Taps(TAPS.get(call.kind, 1), TAPS.get(call.kind, 1))
    return _counted(call, axis)


def _counted(call: Call, axis: int) -> Taps:
    """Windows that see each position, counted one by one, where the stride is no whole number."""
    size, many, ratio = call.size[axis], call.output_size[axis], call.ratio[axis]
    taps = TAPS.get(call.kind, 0)
    counts = [0] * size
    for i in range(many):
        first, last = i * size // many, -(-(i + 1) * size // many)  # of an adaptive window
        if taps == 1:
            last = first + 1
        elif taps and call.kernel[axis] == taps:
            first = int((i + Fraction(1, 2)) * ratio - Fraction(1, 2)) - (taps // 2 - 1)
            last = first + taps
        for j in range(max(first, 0), min(last, size)):
            counts[j] += 1
    inside = counts[len(counts) // 4 : -(len(counts) // 4) or None]
    return Taps(min(inside), max(inside))


def overlap_of(taps: Sequence[Taps]) -> OverlapClass:
    """The word for an overlap whose axes multiply, as in `overlap_class`."""
    if any(t.fewest == 0 for t in taps):
        return "holes"
    if any(t.fewest < t.most for t in taps):
        return "partial"
    return "none" if all(t.most == 1 for t in taps) else "full"


def by_axis(values: Sequence[int | Fraction]) -> str:
    """`3 x 3`."""
    return " x ".join(map(str, values))


def in_words(found: frozenset[Period]) -> str:
    """Periods along every path: `4`, `4 x 2` where axes differ, `4; 8` where paths differ."""
    said = []
    for period in sorted(found, key=lambda period: [value or 0 for value in period]):
        values = [value for value in period if value is not None]
        if values:
            same = len(set(values)) == 1 and len(values) == len(period)
            said.append(_number(values[0]) if same else " x ".join("-" if v is None else _number(v) for v in period))
    return "; ".join(dict.fromkeys(said))


def _number(value: Fraction) -> str:
    return str(value) if value.denominator < 10 else f"{float(value):.2f}"


def effect(run: Trace, step: Step, direction: Way) -> str:
    """What `step` does to which frequencies, in words."""
    call = step.call
    if call.kind in ("grid_sample", "unknown"):
        return "resamples in a way that the call does not tell"
    if call.direction == "same":
        return _same(call)
    if not run.written(step, direction):
        return _read(run, step, direction)
    period = in_words(run.written(step, direction))
    taps = overlaps(call)
    return _written(step, period, taps, overlap_of(taps))


def _same(call: Call) -> str:
    """Stride 1: nothing is written, and a box removes the periods that divide it."""
    if call.kind == "max_pool":
        return f"routes the gradient to the largest of {by_axis(call.kernel)}"
    if max(call.kernel) == 1:
        return "mixes channels alone"
    reach = [k for k in dict.fromkeys(call.kernel) if k > 1]
    box = " and ".join(f"T={k}" for k in reach)
    apart = f"; dilation {by_axis(call.dilation)} keeps that many phases apart" if max(call.dilation) > 1 else ""
    if call.kind in ("avg_pool", "adaptive_avg_pool", "lp_pool"):
        return f"box of {by_axis(call.kernel)}: removes {box} and its divisors{apart}"
    return f"filters; equal taps would remove {box} and its divisors{apart}"


def _read(run: Trace, step: Step, direction: Way) -> str:
    """The way in which the layer goes from fine to coarse, or where it has no lattice to write."""
    call = step.call
    if not any(value is not None for period in run.periods(step, direction) for value in period):
        return "no lattice: one position, or no way from here to a map"
    what = "reads the gradient every" if direction == "backward" else "reads every"
    factor = by_axis([max(r, 1 / r) for r in call.ratio])
    edge = ", ".join(dict.fromkeys(f"1/{_number(2 * max(r, 1 / r))}" for r in call.ratio if r != 1))
    softly = call.kind in RESIZES or "avg" in call.kind
    return f"{what} {factor} px: folds frequencies above {edge} of them{', after a box' if softly else ''}"


def _written(step: Step, period: str, taps: Sequence[Taps], overlap: OverlapClass) -> str:
    """The way in which the layer goes from coarse to fine, which replicates the spectrum."""
    call = step.call
    counts = " and ".join(dict.fromkeys(f"{t.fewest}:{t.most}" for t in taps))
    whole = prod(call.stride, start=Fraction(1))
    if overlap == "holes":
        reached = prod(min(int(s), k) for s, k in zip(call.stride, call.kernel, strict=True))
        return f"writes T={period} with holes: at most {reached} of {_number(whole)} positions are reached"
    if step.even is True:
        return f"fixed taps that add up evenly: spectrum replicated every 1/{period}, copies damped"
    if "max" in call.kind:
        return f"routes to the largest of {by_axis(call.kernel)}: writes T={period}, where depends on the data"
    if call.kind in RESIZES:
        damped = "sinc" if call.kind in ("nearest", "nearest-exact", "area") else ENVELOPES[call.kind]
        return f"replicates the spectrum every 1/{period} and damps the copies by {damped}"
    if overlap == "partial":
        return f"writes T={period} unevenly, {counts} taps an axis"
    if "avg" in call.kind or call.kind == "lp_pool":
        return f"holds evenly over {by_axis(call.kernel)}: copies every 1/{period} are damped by sinc"
    if overlap == "none":
        return f"one tap each: writes T={period} where the {_number(whole)} sub-filters differ"
    return f"even taps: equal weights leave nothing at T={period}, random weights are still uneven"


def _check_direction(direction: str) -> None:
    if direction not in ("backward", "forward"):
        raise ValueError(f"direction: must be 'backward' or 'forward', got {direction!r}")
