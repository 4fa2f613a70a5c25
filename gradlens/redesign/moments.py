"""Second moments of what a layer reads, and the error of its output in them: E|V x|^2 = sum over the phases p of V_p R V_p'.

R = E[patch patch'] over the patches x[n - j], j from 0 to J - 1 an axis, that all phases of a transposed convolution read
(`gradlens.redesign.phases`). Neighbouring pixels are alike, so R is far from white.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.redesign.phases import by_phase, each, patches, strides

RIDGE = 1e-6  # of the mean diagonal of R, at least
HELD_AT_ONCE = 2**22  # numbers of patches in memory, 32 MiB


class Moments(NamedTuple):
    """Second moments of the patches of an input: `[groups C/g J C/g J]`, J taps of one phase; how many patches they are of.

    As the layer's own they are estimates: solving with them, their diagonal is raised by its mean times C/g J / patches, so that
    few patches leave the plain least squares of the taps.
    """

    matrix: Tensor
    patches: int


def patch_moments(
    x: Tensor,
    kernel: Sequence[int],
    stride: int | Sequence[int],
    *,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    grow: int = 0,
) -> Moments:
    """Means of products of the input's pixels in the patches that one phase reads, zeros beyond the border, in float64.

    Of the patches that the layer's output reads, zeros included, for it is their error that counts: of a map of 4x4 pixels a
    third to a half lie at the border. The phases of a cropped output may begin and end one patch apart; one R is of all that
    any reads. A few MiB are in memory at once, however large `x` is.

    Args:
        x: what the layer is given, `[N C *spatial]`.
        kernel, stride, padding, output_padding: of the layer, of each axis; all but the first may be one number.
        groups: of the layer.
        grow: as in `held_fit`.

    Raises:
        ValueError: `x` has other axes than `kernel`, channels that `groups` do not divide, no patches, NaN or infinite numbers.

    Source: ours.

    Example:
        >>> patch_moments(torch.tensor([[[1.0, 3]]]), [3], 2)  # patches (1, 0), (3, 1), (0, 3)
        Moments(matrix=tensor([[[[[3.3333, 1.0000]],
        <BLANKLINE>
                  [[1.0000, 3.3333]]]]], dtype=torch.float64), patches=3)
    """
    d = len(kernel)
    stride, wide = strides(stride, d), [m + 2 * grow for m in kernel]
    taps = [-(-m // s) for m, s in zip(wide, stride, strict=True)]
    if x.ndim != d + 2 or not x.numel():
        raise ValueError(f"x: must be [N C *spatial] with {d} spatial axes and not empty, got {list(x.shape)}")
    if x.shape[1] % groups:
        raise ValueError(f"groups: must divide the {x.shape[1]} channels of x, got {groups}")
    around = patches(wide, stride, [p + grow for p in each(padding, d)], each(output_padding, d))
    if any(n + before + behind < j for n, (before, behind), j in zip(x.shape[2:], around, taps, strict=True)):
        raise ValueError(f"x: must have an output, {list(x.shape[2:])} pixels have none at a padding of {padding}")
    padded = F.pad(x.detach(), [side for pair in reversed(around) for side in pair])
    for axis, side in enumerate(taps, start=2):
        padded = padded.unfold(axis, side, 1)  # [N C *places *J], a view
    row = padded[0, :, 0].numel()
    rows = min(max(HELD_AT_ONCE // row, 1), padded.shape[2])
    size = x.shape[1] // groups * prod(taps)
    total, count = x.new_zeros(groups, size, size, dtype=torch.float64), 0
    for images in padded.split(max(HELD_AT_ONCE // (row * rows), 1)):
        for part in images.split(rows, dim=2):
            turned = part.permute(1, *range(2 + d, 2 + 2 * d), 0, *range(2, 2 + d))  # [C *J N *places]
            flat = turned.double().reshape(groups, size, -1)
            total.baddbmm_(flat, flat.mT)
            count += flat.shape[-1]
    if not total.isfinite().all():
        raise ValueError("x: must be finite, holds NaN or infinite values")
    by_tap = (total / count).view(groups, -1, prod(taps), size // prod(taps), prod(taps))
    return Moments(by_tap.flip(2, 4), count)  # tap j reads j pixels back


def output_error(old: Tensor, new: Tensor, stride: int | Sequence[int], moments: Moments) -> float:
    """Root of E|V x - V' x|^2 / E|V x|^2 over all phases and channels; 0 / 0 is 0."""
    d = old.ndim - 2

    def energy(v: Tensor) -> Tensor:
        phases = by_phase(v.detach().double(), stride).flatten(2, 1 + d).flatten(3)
        parts = zip(phases.chunk(len(suited(moments, phases))), moments.matrix, strict=True)
        return sum(torch.einsum("aopj,ajbi,bopi->", part, r, part) for part, r in parts)  # type: ignore[return-value]

    return ratio(energy(old - new).clamp(min=0).sqrt(), energy(old).clamp(min=0).sqrt())


def raised(moments: Moments, group: int) -> Tensor:
    """The moments of a group `[C/g J C/g J]`, invertible and as sure as their number of patches allows."""
    r = moments.matrix[group]
    c, j = r.shape[:2]
    flat = r.reshape(c * j, -1)
    ridge = max(RIDGE, c * j / moments.patches) * (flat.diagonal().mean().item() or 1.0)  # of a dark input 1
    return (flat + ridge * torch.eye(c * j, dtype=r.dtype, device=r.device)).view_as(r)


def suited(moments: Moments, phases: Tensor) -> Tensor:
    """The moments' matrix, if it is of the patches that `phases` `[C C'/g .. J]` read."""
    g, c = moments.matrix.shape[:2]
    d = (phases.ndim - 2) // 2
    taps = phases.shape[-1] if phases.ndim == 4 else prod(phases.shape[-d:])
    if (g * c, moments.matrix.shape[2]) != (len(phases), taps):
        raise ValueError(
            f"moments: must be of patches [{len(phases)} {taps}] (channels, taps), got [{g * c} {moments.matrix.shape[2]}]; "
            "take them of the same kernel, stride and grow"
        )
    return moments.matrix


def ratio(part: Tensor, of: Tensor) -> float:
    return float(part / of) if part else 0.0
