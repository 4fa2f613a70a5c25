"""Findings about an architecture: which layer writes a lattice, at which period, why, and what to write instead.

Severities: an `error` is a lattice that no weights avoid for certain, or pixels that nothing reaches; a `warning` is a
layer whose taps are uneven in the backward pass or at initialisation; a `note` is worth knowing. A network of resize and
convolution, or of even taps, has no finding above a note.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Literal

from torch import Tensor, nn

from gradlens.geometry.layers import RESIZES, by_axis, in_words, overlap_of, overlaps
from gradlens.geometry.tracing import INPUT, Period, Step, Trace, Way, trace

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
RULES = (
    "holes", "partial-overlap", "max-pool", "sub-pixel", "last-upsampling", "uneven-resize", "output-padding",
    "rows-dropped", "align-corners", "learned-taps", "meeting", "unknown-resampling", "unused-layer", "data-dependent",
)  # fmt: skip
ALIKE = 1e-3  # relative difference at which the sub-filters of a layer count as equal; float16 has 1e-3
DISAGREE = 1.2  # by this factor the grids of two branches differ by more than rounding


@dataclass(frozen=True)
class Finding:
    """One finding: which layer, what about it, and what would help.

    `period` is the largest over axes and paths, in pixels of the input for what is written into gradients and of the output
    for what is written into images; None where there is none. `rule` is its name in a file of accepted findings.
    """

    layer: str
    kind: str
    severity: Severity
    period: int | float | None
    reason: str
    remedy: str
    rule: str


def lint(model: nn.Module, input_size: Sequence[int], *, direction: Way | None = None) -> list[Finding]:
    """What in the architecture of `model` makes checkerboards, in the order in which its layers run.

    Backward: strided layers, which write a lattice into every gradient. Forward: layers that enlarge, which write it into
    the output, if that is a map.

    Args:
        model: any module; it is run once in eval mode. Weights are read only to see whether sub-filters are equal.
        input_size: `[C *spatial]` of one image, or `[latent]` of a generator.
        direction: only what is written in this direction; both unless given.

    Raises:
        ValueError: the network does not run at this size; the layer, the reason and the remedy are told.

    Source: Odena et al. 2016 (overlap), Aitken et al. 2017 (sub-pixel), Zhang 2019 (max-pool), Chandrasegaran et al. 2021
    (the last layer that enlarges).

    Example:
        >>> found = lint(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 3, stride=2)), (3, 16, 16))
        >>> [(f.layer, f.rule, f.severity, f.period) for f in found]
        [('1', 'partial-overlap', 'error', 2)]
        >>> found[0].remedy
        'take a kernel of 4 x 4, or resize by nearest and convolve at stride 1'
    """
    if direction not in (None, "backward", "forward"):
        raise ValueError(f"direction: must be 'backward', 'forward' or None, got {direction!r}")
    run = trace(model, input_size)
    found = [*_of_run(run)]
    for step in run.steps:
        found += _of_step(run, step)
        for way, rules in WRITING.items():
            if direction in (None, way) and (periods := run.written(step, way)):
                written = Written(model, run, step, periods)
                found += [finding for rule in rules if (finding := rule(written)) is not None][:1]
    if direction != "forward":
        found += _of_meetings(run)
    return found


@dataclass(frozen=True)
class Written:
    """A step that can write a period, for the rules."""

    model: nn.Module
    run: Trace
    step: Step
    periods: frozenset[Period]

    @property
    def words(self) -> str:
        return in_words(self.periods)

    @property
    def overlap(self) -> str:
        return overlap_of(overlaps(self.step.call))

    @property
    def factor(self) -> str:
        return by_axis(self.step.call.stride)

    def finding(self, rule: str, severity: Severity, reason: str, remedy: str) -> Finding:
        step = self.step
        longest = max(value for period in self.periods for value in period if value is not None)
        period = int(longest) if longest.denominator == 1 else float(longest)
        return Finding(step.layer, step.call.kind, severity, period, reason, remedy, rule)


Rule = Callable[[Written], Finding | None]


def _holes(w: Written) -> Finding | None:
    if w.overlap != "holes" or (w.step.call.kind in RESIZES and w.step.call.direction == "up"):
        return None
    call = w.step.call
    reached = prod(min(int(s), k) for s, k in zip(call.stride, call.kernel, strict=True))
    share = f"at most {reached} of {_whole(prod(call.stride, start=Fraction(1)))}"
    if call.direction == "up":
        reason = f"kernel {by_axis(call.kernel)} at stride {w.factor} reaches {share} pixels; the rest are holes, T={w.words}"
        return w.finding("holes", "error", reason, "resize by nearest and convolve at stride 1")
    other = w.run.bypassed(w.step)
    rest = "the rest get theirs on other paths alone" if other else "the rest get none"
    reason = f"kernel {by_axis(call.kernel)} at stride {w.factor} gives {share} pixels a gradient, T={w.words}; {rest}"
    if call.kind in RESIZES:
        remedy = "resize with antialias=True or mode='area'"
    elif call.kind == "subsample":
        remedy = f"average-pool {w.factor} instead of slicing"
    else:
        remedy = f"average-pool {w.factor} and convolve at stride 1, or take a kernel of {w.factor}"
    return w.finding("holes", "warning" if other else "error", reason, remedy)


def _max_pool(w: Written) -> Finding | None:
    if "max" not in w.step.call.kind:
        return None
    reason = f"hands each gradient to one pixel of {by_axis(w.step.call.kernel)}, every {w.factor}: T={w.words}"
    return w.finding(
        "max-pool", "warning", reason, f"max-pool at stride 1 and blur at stride {w.factor}, or average-pool {w.factor}"
    )


def _partial_overlap(w: Written) -> Finding | None:
    call, step = w.step.call, w.step
    if w.overlap != "partial" or step.even is True or (call.kind in RESIZES and call.direction == "up"):
        return None
    taps = overlaps(call)
    counts = " and ".join(dict.fromkeys(f"{t.fewest} or {t.most}" for t in taps))
    fewest, most = prod(t.fewest for t in taps), prod(t.most for t in taps)
    if any(s.denominator > 1 for s in call.stride):
        reason = f"windows of {by_axis(call.size)} for {by_axis(call.output_size)} overlap unevenly, {fewest}:{most}, T={w.words}"
        return w.finding("partial-overlap", "warning", reason, _divisible(step))
    uneven = f"{counts} taps an axis, {fewest}:{most} over all"
    said = f"kernel {by_axis(call.kernel)} at stride {w.factor}"
    if step.even is False:
        reason = f"fixed taps of {said} add up unevenly over the phases, T={w.words}"
        return w.finding("partial-overlap", "warning", reason, "take a binomial filter, such as 1 2 1 at stride 2")
    kernel = _multiple(step)
    if call.direction == "up":
        reason = f"{said} reaches output pixels with {uneven}: T={w.words}"
        remedy = f"take a kernel of {kernel}{_same_sizes(step)}, or resize by nearest and convolve at stride 1"
        return w.finding("partial-overlap", "error", reason, remedy)
    reason = f"{said} reaches pixels of the gradient with {uneven}: T={w.words}"
    if "avg" in call.kind or call.kind == "unfold":
        remedy = f"take a kernel of {kernel}"
    else:
        remedy = f"take a kernel of {kernel}, or convolve at stride 1 and blur or average-pool {w.factor}"
    return w.finding("partial-overlap", "warning", reason, remedy)


def _sub_pixel(w: Written) -> Finding | None:
    """Sub-pixel convolutions, and transposed ones whose kernel is their stride: one sub-filter for each phase."""
    call = w.step.call
    single = call.kind == "conv_transpose" and w.overlap == "none"
    if w.step.even or (call.kind not in ("pixel_shuffle", "interleave") and not single):
        return None
    equal = None if call.kind == "interleave" else _equal_sub_filters(w)
    many = _whole(prod(call.stride, start=Fraction(1)))
    if equal:
        reason = f"its {many} sub-filters are equal now; training may part them, and their biases: T={w.words}"
        return w.finding("sub-pixel", "note", reason, "certify it after training, or resize and convolve")
    state = "differ" if equal is False else "differ unless they are initialised alike"
    reason = f"each output pixel has one of {many} sub-filters, which {state}: T={w.words}"
    remedy = "initialise them alike (ICNR), with a box blur after, or resize by nearest and convolve at stride 1"
    return w.finding("sub-pixel", "warning", reason, remedy)


def _last_upsampling(w: Written) -> Finding | None:
    last = any(set(scale) == {1} for scale in w.run.reaches[w.step.index])
    if w.step.call.kind not in ("conv_transpose", "pixel_shuffle") or not last or w.run.filtered(w.step) or w.step.even:
        return None
    reason = (
        f"the last layer that enlarges has its own taps for each phase, and no convolution follows: T={w.words} stays"
    )
    return w.finding(
        "last-upsampling", "warning", reason, "resize by nearest and convolve at stride 1, or convolve after it"
    )


def _uneven_resize(w: Written) -> Finding | None:
    call = w.step.call
    if call.kind not in ("nearest", "nearest-exact") or all(s.denominator == 1 for s in call.stride):
        return None
    reason = f"nearest resize of {by_axis(call.size)} to {by_axis(call.output_size)} repeats some pixels more often"
    return w.finding("uneven-resize", "warning", reason, "resize by a whole factor, or with mode='bilinear'")


def _corners(w: Written) -> Finding | None:
    call = w.step.call
    if not call.corners:
        return None
    reason = f"align_corners=True: the distance between samples is no whole fraction of {w.factor}, phases drift over the map"
    return w.finding("align-corners", "note", reason, "resize with align_corners=False")


def _learned_taps(w: Written) -> Finding | None:
    call = w.step.call
    if call.kind not in ("conv", "conv_transpose", "pixel_unshuffle", "unfold", "fold", "lp_pool") or w.step.even:
        return None
    said = "each pixel has a tap of its own" if w.overlap == "none" else "taps are even in number"
    reason = (
        f"kernel {by_axis(call.kernel)} at stride {w.factor}: {said}; weights that differ write T={w.words}, weakly"
    )
    return w.finding("learned-taps", "note", reason, "none needed; certify it, or measure")


WRITING: dict[Way, tuple[Rule, ...]] = {  # of each step the first that applies
    "backward": (_holes, _max_pool, _partial_overlap, _corners, _learned_taps),
    "forward": (_holes, _partial_overlap, _sub_pixel, _last_upsampling, _uneven_resize, _corners, _learned_taps),
}


def _of_run(run: Trace) -> Iterator[Finding]:
    """What concerns the network as a whole."""
    if run.data_dependent:
        reason = (
            f"cannot run without data ({run.data_dependent}), so this holds for the path that one noise image takes"
        )
        remedy = "lint the parts, or a version with that choice made"
        yield Finding("(network)", "", "note", None, reason, remedy, "data-dependent")
    for name in run.unused:
        reason = "its parameters are never read in eval mode"
        yield Finding(name, "", "note", None, reason, "leave it out, or lint what uses it", "unused-layer")


def _of_step(run: Trace, step: Step) -> Iterator[Finding]:
    """What concerns a step in both directions."""
    call = step.call
    blank = Finding(step.layer, call.kind, "note", None, "", "", "")
    if call.kind in ("grid_sample", "unknown", "fractional_max_pool"):
        size = f"{by_axis(call.size)} to {by_axis(call.output_size)}"
        reason = f"resamples {size} in a way that the call does not tell; periods after it are by size alone"
        yield replace(blank, reason=reason, remedy="measure it", rule="unknown-resampling")
    dropped = [_dropped(step, axis) for axis in range(len(call.size))]
    if any(dropped):
        reason = (
            f"{by_axis(call.size)} leaves {by_axis(dropped)} rows at the far end that no window sees: no gradient there"
        )
        yield replace(blank, reason=reason, remedy=_divisible(step), rule="rows-dropped")
    beyond = [extra - pad for extra, pad in zip(call.output_padding, call.padding, strict=True)]
    if max(beyond) > 0:
        reason = (
            f"output_padding {by_axis(call.output_padding)} adds rows at the far end that no tap reaches: bias alone"
        )
        remedy = f"take an output_padding of at most the padding, {by_axis(call.padding)}, or a larger kernel"
        yield replace(blank, severity="warning", reason=reason, remedy=remedy, rule="output-padding")


def _of_meetings(run: Trace) -> Iterator[Finding]:
    """Branches that meet after different strides: said where periods differ, warned of where even the grids do."""
    written: dict[int, frozenset[str]] = {INPUT: frozenset()}
    for step in run.steps:
        own = {in_words(run.written(step, "backward"))} - {""}
        written[step.index] = frozenset(own).union(*(written[i] for i in step.sources))
    said = set()
    for meeting in run.meetings:
        sets = [frozenset().union(*(written[i] for i in branch)) for branch in meeting.branches]
        scales = [frozenset().union(*(run.spans[i] for i in branch)) for branch in meeting.branches]
        apart = _apart(scales)
        if meeting.layer in said or (len(set(sets)) == 1 and apart <= DISAGREE):
            continue
        said.add(meeting.layer)
        if apart > DISAGREE:
            reason = f"branches meet whose grids differ by a factor of {apart:.2g}, though their sizes agree"
            remedy = "check strides, padding and crops of both"
            yield Finding(meeting.layer, "meeting", "warning", None, reason, remedy, "meeting")
            continue
        words = " with ".join(dict.fromkeys(f"T={', '.join(sorted(s, key=_length)) or 'none'}" for s in sets))
        reason = f"branches meet that have written {words}"
        yield Finding(meeting.layer, "meeting", "note", None, reason, "none needed, if it is meant", "meeting")


def _apart(scales: Sequence[frozenset[tuple[Fraction, ...]]]) -> float:
    """By how much the pixels of two branches differ at most, where no path of one agrees with a path of the other."""
    known = [branch for branch in scales if branch]
    worst = 1.0
    for i, a in enumerate(known):
        for b in known[:i]:
            nearest = min(max(max(x / y, y / x) for x, y in zip(one, other, strict=True)) for one in a for other in b)
            worst = max(worst, float(nearest))
    return worst


def _dropped(step: Step, axis: int) -> int:
    """Rows of the map, not of its padding, at the far end that no window of a strided layer sees."""
    call = step.call
    if call.direction != "down" or call.kind in (*RESIZES, "grid_sample", "unknown", "subsample"):
        return 0
    stride = call.stride[axis]
    if stride.denominator > 1:
        return 0
    window = call.dilation[axis] * (call.kernel[axis] - 1) + 1
    seen = (call.output_size[axis] - 1) * int(stride) + max(window, int(stride)) - call.padding[axis]
    return max(0, call.size[axis] - step.margin[axis] - seen)


def _divisible(step: Step) -> str:
    """The remedy for a size that does not divide: the nearest one that does."""
    call = step.call
    sides = []
    for axis, side in enumerate(call.size):
        stride = call.stride[axis]
        if stride.denominator > 1:
            many = call.output_size[axis]
            sides.append(max(many, many * round(side / many)))
        else:
            sides.append(side + (-_dropped(step, axis)) % int(stride))
    return f"give it {by_axis(sides)}, by padding or by another input_size"


def _multiple(step: Step) -> str:
    """The next kernel that is a multiple of its stride."""
    pairs = zip(step.call.kernel, step.call.stride, strict=True)
    return by_axis([-(-k // int(s)) * int(s) for k, s in pairs])


def _same_sizes(step: Step) -> str:
    """With which padding that kernel gives the same sizes, where one does."""
    call = step.call
    padding = []
    for axis, kernel in enumerate(call.kernel):
        wanted = -(-kernel // int(call.stride[axis])) * int(call.stride[axis])
        twice = wanted - (kernel - 2 * call.padding[axis] + call.output_padding[axis])
        if twice < 0 or twice % 2:
            return ""
        padding.append(twice // 2)
    if not any((*call.padding, *call.output_padding)):
        return ""
    return f", padding {by_axis(padding)}{' and no output_padding' if any(call.output_padding) else ''}"


def _equal_sub_filters(w: Written) -> bool | None:
    """Whether the weights of all phases are equal; None if they are not to be had."""
    layers = dict(w.model.named_modules())
    many = int(prod(w.step.call.stride, start=Fraction(1)))
    if w.step.call.kind == "conv_transpose":
        weight = _weight(layers.get(w.step.module))
        return None if weight is None else _alike(weight.flatten(2).movedim(2, 0))
    weights = [_weight(layers.get(w.run.steps[i].module)) for i in w.step.sources if i != INPUT]
    if not weights or any(weight is None or len(weight) % many for weight in weights):
        return None
    known = [weight for weight in weights if weight is not None]
    return all(_alike(x.unflatten(0, (-1, many)).movedim(1, 0)) or _alike(x.unflatten(0, (many, -1))) for x in known)


def _weight(layer: nn.Module | None) -> Tensor | None:
    weight = getattr(layer, "weight", None)
    return weight.detach() if isinstance(weight, Tensor) and weight.device.type != "meta" and weight.ndim > 2 else None


def _alike(filters: Tensor) -> bool:
    """Whether all of `filters` `[phases ...]` are the first."""
    return bool((filters - filters[:1]).abs().max() <= ALIKE * filters.abs().max())


def _whole(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.1f}"


def _length(words: str) -> tuple[int, str]:
    return (len(words), words)
