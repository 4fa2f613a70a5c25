"""Trained layers written as another layer, exactly: the same taps in other places.

Source: Shi et al. 2016 (sub-pixel convolution); the polyphase structure of Sugawara, Shiota, Kiya 2018, figures 3 and 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from gradlens.redesign.phases import by_phase, from_phases


class SubPixel(NamedTuple):
    """A transposed convolution as a convolution and a shuffle.

    Attributes:
        weight: `[C' s^D C/g *J]`, of stride 1, to be padded by J - 1 zeros on both sides.
        before: pixels of the shuffled map that are cut off in front.
    """

    weight: Tensor
    before: tuple[int, ...]


def as_subpixel(weight: Tensor, stride: Sequence[int], padding: Sequence[int], *, groups: int = 1) -> SubPixel:
    """The sub-pixel form of a transposed convolution, exact: phase p of the shuffle is the convolution with V_p.

    The convolution, padded by J - 1 zeros, gives n + J - 1 pixels, the shuffle s times as many: the whole map, of which the
    transposed convolution keeps what lies from `padding` on.
    """
    d = len(stride)
    phases = by_phase(weight, stride).flip(tuple(range(-d, 0)))  # [C C'/g *s *J]
    by_group = phases.unflatten(0, (groups, -1))
    turned = by_group.permute(0, 2, *range(3, 3 + d), 1, *range(3 + d, 3 + 2 * d))  # [g C'/g *s C/g *J]
    return SubPixel(turned.flatten(0, 1 + d), tuple(padding))


def from_subpixel(weight: Tensor, scale: int, *, groups: int = 1) -> Tensor:
    """The transposed convolution's kernel `[C C'/g *(s J)]` of a sub-pixel convolution's `[C' s^D C/g *J]`, exact.

    Its whole map begins s (J - 1 - p) pixels before that of a convolution padded by p.
    """
    d = weight.ndim - 2
    split = weight.flip(tuple(range(2, 2 + d))).unflatten(0, (groups, -1, *[scale] * d))  # [g C'/g *s C/g *J]
    phases = split.permute(0, 2 + d, 1, *range(2, 2 + d), *range(3 + d, 3 + 2 * d)).flatten(0, 1)
    return from_phases(phases, [scale * j for j in weight.shape[2:]])
