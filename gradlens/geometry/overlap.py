"""How many taps of a kernel reach each position: the overlap of a transposed convolution, exact, in integers.

Input i and tap j of a transposed convolution (kernel k, stride s, dilation d, padding p) write to o = s i + d j - p. How
many pairs (i, j) meet at o depends on its phase (o + p) mod s alone, until the border cuts some off; axes multiply. The
backward pass of a strided convolution is the same sum: there the "input" is the gradient of the convolution's output, the
"output" the gradient of its input. With independent weights of one variance the count is also the expected energy.

Source: Odena, Dumoulin and Olah, Distill 2016; the classes are those of Pons et al., ICASSP 2021, and holes.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

OverlapClass: TypeAlias = Literal["holes", "none", "partial", "full"]
Size: TypeAlias = int | tuple[int, ...]
Numbers: TypeAlias = tuple[int, ...]  # kernel, stride, padding, output padding and dilation of one layer on one axis


@dataclass(frozen=True)
class TransposedConv:
    """One layer of a stack; an int holds for every axis, a tuple names the axes.

    Also a convolution of stride 1 (padding q there is `padding = dilation * (kernel_size - 1) - q` here), a nearest
    resize by U (`kernel_size = stride = U`), and the backward pass of a strided convolution with the same numbers.
    """

    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    dilation: Size = 1


def overlap(
    kernel_size: Size, stride: Size, length: Size, *, padding: Size = 0, output_padding: Size = 0, dilation: Size = 1
) -> Tensor:
    """Taps that reach each output position of a transposed convolution over `length` positions: int64 `[*output]`.

    n[o] = #{(i, j): i < length, j < k, s i + d j - p = o} along an axis, and the outer product over axes. Output has
    (length - 1) s - 2 p + d (k - 1) + output_padding + 1 positions an axis. It is what the layer makes of ones with a kernel
    of ones, in one channel.

    The backward pass of a convolution with the same kernel, stride, padding and dilation: `length` is the size of the
    convolution's output, and n counts the windows that see each input position. An input of size N needs
    `output_padding = (N + 2 p - d (k - 1) - 1) mod s`.

    Range: 0 (a hole) to the number of taps.

    Args:
        kernel_size, stride, length, dilation: at least 1; an int holds for every axis, a tuple names the axes. All ints:
            one axis.
        padding: at least 0, cut off at both ends.
        output_padding: less than the stride or than the dilation, added at the far end.

    Raises:
        ValueError: a value out of its range, tuples of different lengths, or no output position left.
        TypeError: a value that is no int.

    Source: Distill 2016, figures 1 and 2.

    Example:
        >>> overlap(3, 2, 5)
        tensor([1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1])
        >>> overlap(4, 2, 5, padding=1)
        tensor([1, 2, 2, 2, 2, 2, 2, 2, 2, 1])
        >>> overlap(3, (2, 2), 2)
        tensor([[1, 1, 2, 1, 1],
                [1, 1, 2, 1, 1],
                [2, 2, 4, 2, 2],
                [1, 1, 2, 1, 1],
                [1, 1, 2, 1, 1]])
    """
    return stack_overlap([TransposedConv(kernel_size, stride, padding, output_padding, dilation)], length)


def coverage(kernel_size: Size, stride: Size, *, dilation: Size = 1) -> Tensor:
    """Taps that reach each phase of a transposed convolution's output, far from the border: int64 `[*stride]`.

    c[r] = #{j < k: d j = r mod s} along an axis, and the outer product over axes. Phase r holds the output positions o
    with (o + padding) mod s = r, or, of the backward pass of a strided convolution, such input positions.

    Range: 0 (a hole) to the number of taps, which is the sum over phases.

    Args:
        kernel_size, stride, dilation: at least 1; an int holds for every axis, a tuple names the axes. All ints: one axis.

    Raises:
        ValueError: a value below 1, or tuples of different lengths.
        TypeError: a value that is no int.

    Example:
        >>> coverage(3, 2)
        tensor([2, 1])
        >>> coverage(3, (2, 2))
        tensor([[4, 2],
                [2, 1]])
        >>> coverage(1, (2, 2))
        tensor([[1, 0],
                [0, 0]])
    """
    return stack_coverage([TransposedConv(kernel_size, stride, dilation=dilation)])


def overlap_class(kernel_size: Size, stride: Size, *, dilation: Size = 1) -> OverlapClass:
    """The word for a `coverage`: which overlap the kernel has with itself at this stride.

    - "holes": some phase is reached by no tap, as when the kernel is smaller than its stride;
    - "none": every phase is reached by exactly one tap, as when the kernel equals its stride;
    - "partial": unevenly, as when the kernel is no multiple of its stride;
    - "full": evenly, by more than one tap.

    Over several axes the product decides: one uneven axis makes all of it partial, one axis with a hole makes holes.

    Args, Raises: as in `coverage`.

    Source: Pons et al., ICASSP 2021, section 2 (no, partial and full overlap); holes are ours: their kernels have none.

    Example:
        >>> [overlap_class(kernel, 2) for kernel in (1, 2, 3, 4)]
        ['holes', 'none', 'partial', 'full']
        >>> overlap_class((3, 4), 2), overlap_class(3, 2, dilation=2)
        ('partial', 'holes')
    """
    taps = coverage(kernel_size, stride, dilation=dilation)
    fewest, most = int(taps.min()), int(taps.max())
    if fewest == 0:
        return "holes"
    if fewest < most:
        return "partial"
    return "none" if most == 1 else "full"


def stack_overlap(layers: Sequence[TransposedConv], length: Size) -> Tensor:
    """Paths through all layers that reach each output position, from `length` input positions: int64 `[*output]`.

    A path takes one tap of every layer: n'[o] = sum over (i, j) with s i + d j - p = o of n[i], layer by layer, from n = 1.
    For the backward pass of strided convolutions list the layer nearest the score first.

    Range: 0 to the product of all layers' taps.

    Args:
        layers: in the order in which they run, at least one; all tuples have one length.
        length: input positions, as in `overlap`.

    Raises:
        ValueError: as in `overlap`; also where the number of paths may not fit 64 bits (take the axes one by one).
        TypeError: a value that is no int.

    Source: Distill 2016, figure 3.

    Example:
        >>> stack_overlap([TransposedConv(3, 2), TransposedConv(3, 2)], 4)[3:-3]
        tensor([1, 3, 2, 3, 1, 3, 2, 3, 1, 3, 2, 3, 1])
    """
    paths = []
    for start, axis in _by_axis(layers, length):
        count = torch.ones(start, dtype=torch.int64)
        for number, (kernel, stride, padding, extra, dilation) in enumerate(axis):
            reach = (len(count) - 1) * stride + dilation * (kernel - 1) + 1
            left = reach + extra - 2 * padding
            if left < 1:
                raise ValueError(
                    f"{_name('padding', number, layers)}: {padding} at both ends leaves nothing of {reach + extra} "
                    f"positions; take at most {(reach + extra - 1) // 2}, or a larger length"
                )
            count = _spread(count, kernel, stride, dilation, reach)
            count = torch.cat([count, count.new_zeros(extra)])[padding : padding + left]
        paths.append(count)
    return _outer(paths)


def stack_coverage(layers: Sequence[TransposedConv]) -> Tensor:
    """Paths through all layers that reach each phase of the output, far from the border: int64 `[*period]`.

    The period is the product of the strides, axis by axis. Phase r holds the output positions o with
    (o + P) mod period = r, where P adds up all paddings: P' = s P + padding, layer by layer. A stride-1 layer at the end is
    the tail that damps a lattice: with a kernel that a period divides it removes it.

    Range: 0 (a hole) to the product of all layers' taps, which is the sum over phases.

    Args, Raises: as in `stack_overlap`; paddings do not matter.

    Example:
        >>> stack_coverage([TransposedConv(3, 2), TransposedConv(3, 2)])
        tensor([3, 2, 3, 1])
        >>> stack_coverage([TransposedConv(3, 2), TransposedConv(4, 1)])
        tensor([6, 6])
    """
    return _outer([_axis_coverage(axis) for _, axis in _by_axis(layers)])


def stack_periods(layers: Sequence[TransposedConv]) -> tuple[tuple[int, ...], ...]:
    """The periods that the overlap of a stack writes, ascending, one tuple an axis; empty where it is even.

    A divisor T > 1 of the product of strides is written where `stack_coverage` has a harmonic m / T with m coprime to T: one
    that no smaller period has. So T = 6 of strides 2 and 3 comes with its third harmonic, T = 2. An even layer hands on what
    it got, unless its taps are a multiple of that period. Decided in integers: folded to T phases and with the mean over
    every subgroup of prime order taken off, something is left.

    Args, Raises: as in `stack_coverage`.

    Example:
        >>> stack_periods([TransposedConv(3, 2), TransposedConv(3, 2)])
        ((2, 4),)
        >>> stack_periods([TransposedConv((3, 4), 2)])
        ((2,), ())
    """
    counts = [_axis_coverage(axis).tolist() for _, axis in _by_axis(layers)]
    return tuple(tuple(t for t in range(2, len(c) + 1) if len(c) % t == 0 and _writes(c, t)) for c in counts)


def box_response(kernel_size: int, period: int, *, dilation: int = 1) -> Tensor:
    """What a stride-1 convolution with equal taps leaves of each harmonic of a period: float64 `[period]`.

    |D(m)| = |sin(pi k d m / T) / (k sin(pi d m / T))| for harmonic m = 0 .. T - 1 (frequency m / T), 1 where T divides d m,
    and exactly 0 where T divides k d m but not d m. So the tail removes a period if and only if T divides k (at d = 1),
    damps the others, and leaves a period much longer than the kernel alone. It is also the factor on the energy of a lattice
    for independent taps of one variance; such taps damp no sign lattice at all: E|W(f)|^2 is the same at every f.

    Range: [0, 1].

    Args:
        kernel_size, period, dilation: at least 1.

    Raises:
        ValueError: a value below 1.
        TypeError: a value that is no int.

    Source: Distill 2016 says it in words (artifacts of frequencies that divide the size); the equation is Dirichlet's.

    Example:
        >>> box_response(4, 2), box_response(3, 2)
        (tensor([1., 0.], dtype=torch.float64), tensor([1.0000, 0.3333], dtype=torch.float64))
    """
    for name, value in {"kernel_size": kernel_size, "period": period, "dilation": dilation}.items():
        _check(name, value, 1)
    step = dilation * torch.arange(period) % period
    angle = torch.pi * step.double() / period
    ratio = torch.sin(torch.pi * (kernel_size * step % (2 * period)).double() / period) / (kernel_size * angle.sin())
    return torch.where(step == 0, 1.0, torch.where(kernel_size * step % period == 0, 0.0, ratio.abs()))


def _spread(count: Tensor, kernel_size: int, stride: int, dilation: int, size: int) -> Tensor:
    """The transposed convolution of a vector with ones on a circle of `size` positions, without padding."""
    place = stride * torch.arange(len(count))[:, None] + dilation * torch.arange(kernel_size)
    return count.new_zeros(size).index_add(0, place.flatten() % size, count.repeat_interleave(kernel_size))


def _axis_coverage(axis: Sequence[Numbers]) -> Tensor:
    """Paths to each phase of one axis, `[period]`."""
    count = torch.ones(1, dtype=torch.int64)
    for kernel, stride, _, _, dilation in axis:
        count = _spread(count, kernel, stride, dilation, len(count) * stride)
    return count


def _writes(count: list[int], period: int) -> bool:
    """Whether a periodic sequence has a harmonic of `period` that no smaller period has."""
    rest = [sum(count[phase::period]) for phase in range(period)]
    for prime in (p for p in range(2, period + 1) if period % p == 0 and all(p % q for q in range(2, p))):
        step = period // prime
        totals = [sum(rest[phase::step]) for phase in range(step)]
        rest = [prime * value - totals[phase % step] for phase, value in enumerate(rest)]
    return any(rest)


def _outer(counts: Sequence[Tensor]) -> Tensor:
    """The outer product of one vector an axis."""
    product = counts[0]
    for count in counts[1:]:
        product = product.unsqueeze(-1) * count
    return product


def _by_axis(layers: Sequence[TransposedConv], length: Size = 1) -> list[tuple[int, list[Numbers]]]:
    """For each axis its length and the numbers of every layer, checked."""
    if not layers:
        raise ValueError("layers: at least one is needed, got none")
    named = {"length": length} | {
        _name(field.name, number, layers): getattr(layer, field.name)
        for number, layer in enumerate(layers)
        for field in fields(layer)
    }
    for name, size in named.items():
        _check(name, size, 0 if "padding" in name else 1)
    tuples = {name: len(size) for name, size in named.items() if isinstance(size, tuple)}
    if len(set(tuples.values())) > 1:
        raise ValueError(
            f"tuples need one int an axis, got {', '.join(f'{n} for {name}' for name, n in tuples.items())}"
        )
    axes = [
        (_at(length, axis), [tuple(_at(size, axis) for size in astuple(layer)) for layer in layers])
        for axis in range(next(iter(tuples.values()), 1))
    ]
    for number, (_, stride, _, extra, dilation) in ((n, layer) for _, axis in axes for n, layer in enumerate(axis)):
        if extra >= max(stride, dilation):
            name = _name("output_padding", number, layers)
            raise ValueError(f"{name}: must be less than the stride {stride} or the dilation {dilation}, got {extra}")
    if (most := prod(layer[0] for _, axis in axes for layer in axis)) >= 2**63:
        raise ValueError(
            f"layers: {most:.3g} paths to a position do not fit 64 bits; take each axis by itself, or fewer layers"
        )
    return axes


def _at(size: Size, axis: int) -> int:
    return size[axis] if isinstance(size, tuple) else size


def _name(name: str, number: int, layers: Sequence[TransposedConv]) -> str:
    """How an argument is called in an error."""
    return name if len(layers) == 1 else f"layers[{number}].{name}"


def _check(name: str, size: object, least: int) -> None:
    values: tuple[Any, ...] = size if isinstance(size, tuple) else (size,)
    if not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name}: must be an int or a tuple with one int an axis, got {size!r}")
    if min(values) < least:
        raise ValueError(f"{name}: must be at least {least}, got {size!r}")
