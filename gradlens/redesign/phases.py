"""The taps of a transposed convolution by the phase of the output that reads them: V_p[j] = V[s j + p], y[s n + p] = V_p * x.

All phases read the same pixels, x[n - j] with j from 0 to J - 1, J = ceil(k / s) an axis. Weights are as torch keeps them,
`[C C'/groups *kernel]`, of 1 to 3 axes, without dilation.

Source: the polyphase structure of Sugawara, Shiota, Kiya 2018, figure 3.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from gradlens.filters import axes, whole


def phase_sums(weight: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Sums of the taps of each phase, `[C C'/g *stride]`: equal where a constant stays constant (eq. 8).

    Args:
        weight: `[C C'/g *kernel]`.
        stride: of all axes, or of each.

    Raises:
        TypeError, ValueError: `stride` is not one whole number for all or for each axis; there are none or over 3 axes.

    Source: Sugawara, Shiota, Kiya 2018, eq. 3 and 8.

    Example:
        >>> import torch
        >>> phase_sums(torch.tensor([[[1.0, 2, 4]]]), 2).tolist()
        [[[5.0, 2.0]]]
    """
    return by_phase(weight, stride).sum(tuple(range(2 - weight.ndim, 0)))


def by_phase(weight: Tensor, stride: int | Sequence[int]) -> Tensor:
    """The taps of each phase, zeros where a phase has fewer: `[C C'/g *stride *J]`."""
    stride = strides(stride, weight.ndim - 2)
    d = len(stride)
    sides = [-(-m // s) * s for m, s in zip(weight.shape[2:], stride, strict=True)]
    padded = widened(weight, [(0, n - m) for n, m in zip(sides, weight.shape[2:], strict=True)])
    split = padded.reshape(*weight.shape[:2], *(n for m, s in zip(sides, stride, strict=True) for n in (m // s, s)))
    return split.permute(0, 1, *(3 + 2 * a for a in range(d)), *(2 + 2 * a for a in range(d)))


def from_phases(phases: Tensor, kernel: Sequence[int]) -> Tensor:
    """The inverse of `by_phase`: `[C C'/g *kernel]`."""
    d = len(kernel)
    order = [n for a in range(d) for n in (2 + d + a, 2 + a)]
    turned = phases.permute(0, 1, *order)
    sides = [phases.shape[2 + d + a] * phases.shape[2 + a] for a in range(d)]
    return turned.reshape(*phases.shape[:2], *sides)[(..., *(slice(0, m) for m in kernel))]


def patches(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Zeros to put around the map, of each axis, so that its patches of J pixels are those that the kept output reads.

    The output that a padding crops begins at phase `padding` mod s of the first patch, and ends in the last. Below 0, pixels
    that nothing reads.
    """
    sides = zip(kernel, stride, padding, output_padding, strict=True)
    return tuple((-(-k // s) - 1 - p // s, (k - 1 - p + e) // s) for k, s, p, e in sides)


def each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """A number for each axis."""
    return (value,) * axes(dimensions) if isinstance(value, int) else tuple(value)


def strides(stride: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """The stride of each axis; a TypeError or ValueError if there is not one for all or for each."""
    if len(each(stride, dimensions)) != axes(dimensions):
        raise ValueError(f"stride: must be one number for all or for each of {dimensions} axes, got {stride!r}")
    return tuple(whole(s, "stride", least=1) for s in each(stride, dimensions))


def widened(weight: Tensor, more: Sequence[tuple[int, int]]) -> Tensor:
    """The kernel with so many zeros before and behind each axis."""
    return F.pad(weight, [side for pair in reversed(more) for side in pair])
