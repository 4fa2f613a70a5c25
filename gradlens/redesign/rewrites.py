"""Trained layers written as another layer, exactly: the same taps in other places.

The whole map of a transposed convolution has (n - 1) s + r + 1 pixels an axis, r = dilation (k - 1). The layer keeps those from
`padding` on, to padding - output_padding before its end: below 0, pixels that no tap reaches, which hold the bias.

Source: Shi et al. 2016 (sub-pixel convolution); the polyphase structure of Sugawara, Shiota, Kiya 2018, figures 3 and 4.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.redesign.phases import by_phase, each, from_phases, patches, strides

Pairs = tuple[tuple[int, int], ...]


class Rewritten(NamedTuple):
    """A layer's weights as those of another, and what is around them: y = crop(layer(pad(x))).

    Attributes:
        weight: of a convolution of stride 1 `[C' C/g *kernel]`, or of a transposed one `[C C'/g *kernel]`.
        bias: `[C']` of that layer, or None.
        around: zeros before and behind the input, of each axis; below 0 pixels are cut off there.
        crop: pixels cut off before and behind the output, of each axis; below 0 pixels of the bias alone are added.
    """

    weight: Tensor
    bias: Tensor | None
    around: Pairs
    crop: Pairs


def as_convolution(weight: Tensor, *, groups: int = 1) -> Tensor:
    """A transposed convolution's kernel in a convolution's places, `[C' C/g *kernel]`, every axis turned around; and back.

    Of `held_fit(...).weight` it is the weight of the convolution after a nearest-neighbour resize.

    Args:
        weight: `[C C'/g *kernel]`.
        groups: g.

    Example:
        >>> as_convolution(torch.tensor([[[1.0, 2, 4]], [[3.0, 0, 0]]])).tolist()
        [[[4.0, 2.0, 1.0], [0.0, 0.0, 3.0]]]
    """
    turned = weight.flip(tuple(range(2, weight.ndim)))
    return turned.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def zero_insertion(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Rewritten:
    """A transposed convolution as s - 1 zeros between the pixels, then a convolution of stride 1 and of the same dilation.

    `around` is to be put around the map with its zeros: (n - 1) s + 1 pixels an axis. The inverse is `as_convolution` once more.

    Args:
        weight, bias: of the transposed convolution, `[C C'/g *kernel]` and `[C']`.
        stride, padding, output_padding, dilation: of all its axes, or of each.
        groups: g.

    Source: ours; "fractional stride" of Radford, Metz, Chintala 2016.
    """
    d = len(strides(stride, weight.ndim - 2))
    reach = [step * (k - 1) for step, k in zip(each(dilation, d), weight.shape[2:], strict=True)]
    sides = zip(reach, each(padding, d), each(output_padding, d), strict=True)
    around = tuple((r - p, r - p + e) for r, p, e in sides)
    return Rewritten(as_convolution(weight, groups=groups), bias, around, ((0, 0),) * d)


def subpixel_form(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
) -> Rewritten:
    """A transposed convolution as a convolution of stride 1 to s^D times the channels, a shuffle, a crop of up to s - 1 pixels.

    Phase p of the shuffle is the convolution with V_p. The convolution gives the pixels that are kept alone: DCGAN's kernel of
    5, stride 2, padding 2 and output padding 1 is a 3x3 convolution with one zero around and no crop.

    Args:
        weight, bias: of the transposed convolution, `[C C'/g *kernel]` and `[C']`.
        stride, padding, output_padding: of all its axes, or of each.
        groups: g.

    Returns:
        `weight` `[C' P C/g *J]` and `bias` `[C' P]`, P the product of the strides, the phases counted row by row as a pixel
        shuffle does; all phases of a channel have one bias (eq. 9).

    Source: Sugawara, Shiota, Kiya 2018, figure 4; the crop is ours.
    """
    stride = strides(stride, weight.ndim - 2)
    d = len(stride)
    padding, output_padding = each(padding, d), each(output_padding, d)
    around = patches(weight.shape[2:], stride, padding, output_padding)
    sides = zip(weight.shape[2:], stride, padding, output_padding, strict=True)
    crop = tuple((p % s, s - 1 - (k - 1 - p + e) % s) for k, s, p, e in sides)
    wide = None if bias is None else bias.repeat_interleave(prod(stride))
    return Rewritten(as_subpixel(weight, stride, groups=groups), wide, around, crop)


def transposed_form(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int],
    around: Sequence[tuple[int, int]],
    groups: int = 1,
) -> Rewritten:
    """A convolution of stride 1 and a shuffle as a transposed convolution of kernel s J without padding, and a crop.

    Args:
        weight, bias: of the convolution, `[C' P C/g *J]` and `[C' P]`, P the product of the strides.
        stride: s, of all axes or of each.
        around: zeros before and behind the convolution's input, of each axis.
        groups: g.

    Raises:
        ValueError: the phases of a channel have biases of their own, where a transposed convolution has one (eq. 9).

    Source: ours; eq. 9 of Sugawara, Shiota, Kiya 2018.
    """
    stride = strides(stride, weight.ndim - 2)
    one = None
    if bias is not None:
        by_channel = bias.unflatten(0, (-1, prod(stride)))
        one = by_channel[:, 0]
        if not torch.equal(by_channel, one[:, None].expand_as(by_channel)):
            apart = int((by_channel != one[:, None]).any(1).sum())
            raise ValueError(
                f"bias: must be one for all phases of a channel, {apart} of {len(one)} differ; average them (eq. 9)"
            )
    sizes = zip(weight.shape[2:], stride, around, strict=True)
    crop = tuple((s * (j - 1 - before), s * (j - 1 - behind)) for j, s, (before, behind) in sizes)
    return Rewritten(from_subpixel(weight, stride, groups=groups), one, ((0, 0),) * len(stride), crop)


def as_subpixel(weight: Tensor, stride: int | Sequence[int], *, groups: int = 1) -> Tensor:
    """The sub-pixel form of a transposed convolution's kernel, `[C' s^D C/g *J]`, exact: phase p of the shuffle is V_p's.

    The convolution, padded by J - 1 zeros, gives n + J - 1 pixels, the shuffle s times as many: the whole map.
    """
    d = weight.ndim - 2
    phases = by_phase(weight, stride).flip(tuple(range(-d, 0)))  # [C C'/g *s *J]
    by_group = phases.unflatten(0, (groups, -1))
    turned = by_group.permute(0, 2, *range(3, 3 + d), 1, *range(3 + d, 3 + 2 * d))  # [g C'/g *s C/g *J]
    return turned.flatten(0, 1 + d)


def from_subpixel(weight: Tensor, scale: int | Sequence[int], *, groups: int = 1) -> Tensor:
    """The transposed convolution's kernel `[C C'/g *(s J)]` of a sub-pixel convolution's `[C' s^D C/g *J]`, exact.

    Its whole map begins s (J - 1 - p) pixels before that of a convolution padded by p.
    """
    d = weight.ndim - 2
    scale = strides(scale, d)
    split = weight.flip(tuple(range(2, 2 + d))).unflatten(0, (groups, -1, *scale))  # [g C'/g *s C/g *J]
    phases = split.permute(0, 2 + d, 1, *range(2, 2 + d), *range(3 + d, 3 + 2 * d)).flatten(0, 1)
    return from_phases(phases, [s * j for s, j in zip(scale, weight.shape[2:], strict=True)])
