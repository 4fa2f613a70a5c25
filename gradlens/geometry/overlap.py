"""How many taps of a kernel reach each position: the overlap of a transposed convolution, exact, in integers.

Input i, tap j of a transposed convolution (kernel k, stride s, dilation d, padding p) writes to o = s i + d j - p. The taps
that reach an output position depend on its phase (o + p) mod s alone, until the border cuts some off; several axes multiply.
The backward pass of a strided convolution is the same sum, so all of it holds for gradients too: there the "input" is
the convolution's output, the "output" its input.

Source: Odena, Dumoulin and Olah, Distill 2016; the classes are those of Pons et al., ICASSP 2021, and holes.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

OverlapClass: TypeAlias = Literal["holes", "none", "partial", "full"]
Size: TypeAlias = int | tuple[int, ...]


def coverage(kernel_size: Size, stride: Size, *, dilation: Size = 1) -> Tensor:
    """Taps that reach each phase of a transposed convolution's output, far from the border: int64 `[*stride]`.

    c[r] = #{j < k : d j = r mod s} along an axis, and the outer product over axes. Phase r holds the output positions o
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
    axes = _axes(kernel_size=kernel_size, stride=stride, dilation=dilation)
    counts = [_axis_coverage(*axis) for axis in zip(axes["kernel_size"], axes["stride"], axes["dilation"], strict=True)]
    return _outer(counts)


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


def _axis_coverage(kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Taps at each phase of one axis, `[stride]`."""
    return torch.bincount(dilation * torch.arange(kernel_size) % stride, minlength=stride)


def _outer(counts: list[Tensor]) -> Tensor:
    """The outer product of one vector an axis."""
    product = counts[0]
    for count in counts[1:]:
        product = product.unsqueeze(-1) * count
    return product


def _axes(**sizes: Size) -> dict[str, tuple[int, ...]]:
    """Each size as a tuple with one int an axis; the least allowed is 0 for the paddings and 1 for all others."""
    lengths = {name: len(size) for name, size in sizes.items() if isinstance(size, tuple)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"tuples must be of one length, one int an axis, got {_named(lengths)}")
    count = next(iter(lengths.values()), 1)
    if count == 0:
        raise ValueError(f"{next(iter(lengths))}: one int an axis is needed, got an empty tuple")
    for name, size in sizes.items():
        least = 0 if "padding" in name else 1
        for value in size if isinstance(size, tuple) else (size,):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: must be an int or a tuple of ints, got {size!r}")
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {size!r}")
    return {name: size if isinstance(size, tuple) else (size,) * count for name, size in sizes.items()}


def _named(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
