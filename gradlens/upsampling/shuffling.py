"""Channels become pixels, in one to three dimensions: the second half of a sub-pixel convolution."""

from itertools import chain

from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import axes, whole


def shuffle(x: Tensor, scale: int) -> Tensor:
    """Channels become pixels: `[N C s^D *spatial]` to `[N C *(s spatial)]`, D = 1 to 3.

    y[c, s i + p] = x[c s^D + p, i], the phase p counted row by row, as in `torch.nn.functional.pixel_shuffle`.

    Args:
        x: `[N C s^D *spatial]`.
        scale: s.

    Raises:
        TypeError, ValueError: `scale` is below 1; the channels of `x` are no multiple of s^D.

    Source: Shi et al. 2016, eq. 4.

    Example:
        >>> import torch
        >>> shuffle(torch.tensor([[[1.0, 2], [3, 4]]]), 2).tolist()
        [[[1.0, 3.0, 2.0, 4.0]]]
    """
    s, d = whole(scale, "scale", least=1), axes(x.ndim - 2)
    if x.shape[1] % s**d:
        raise ValueError(f"x: channels must be a multiple of scale^{d}={s**d}, got {x.shape[1]}")
    if d == 2:
        return F.pixel_shuffle(x, s)
    split = x.unflatten(1, (-1, *[s] * d))  # [N C s..s *spatial]
    turned = split.permute(0, 1, *chain.from_iterable((2 + d + a, 2 + a) for a in range(d)))  # [N C h s w s ..]
    return turned.reshape(x.shape[0], -1, *(s * side for side in x.shape[2:]))


class Shuffle(nn.Module):
    """`shuffle` as a layer, of one and three axes; in two it is `torch.nn.PixelShuffle`.

    Args:
        scale: s.

    Source: as `shuffle`.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(x, self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
