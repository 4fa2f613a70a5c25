"""Layers that shrink by a whole factor, one file each: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

All take `(in_channels, out_channels, *, scale=2, kernel_size=3, bias=True, dimensions=2)` and what is their own, have one
convolution named `conv` with the same keys and shapes, and give the same size: any one stands where another stood, weights
kept. What differs is the gradient that they hand back. Its mean is even over the phases of all but "stride2" and "maxpool"
("blur" and "maxblur": at scale 2), its energy on average too for "stride1", "avgpool" and "hold"; `gradlens.geometry.certify`
and `energy_map` say so of each.
"""

from collections.abc import Callable

from torch import nn

from gradlens.downsampling.avgpool import average_pooled
from gradlens.downsampling.blur import blurred
from gradlens.downsampling.hold import held
from gradlens.downsampling.maxblur import max_blurred
from gradlens.downsampling.maxpool import max_pooled
from gradlens.downsampling.sinc import sinc_filtered
from gradlens.downsampling.stride1 import averaged
from gradlens.downsampling.stride2 import strided

DOWNSAMPLERS: dict[str, Callable[..., nn.Sequential]] = {
    "stride2": strided,
    "stride1": averaged,
    "maxpool": max_pooled,
    "avgpool": average_pooled,
    "blur": blurred,
    "maxblur": max_blurred,
    "hold": held,
    "sinc": sinc_filtered,
}

__all__ = [
    "DOWNSAMPLERS",
    "average_pooled",
    "averaged",
    "blurred",
    "held",
    "max_blurred",
    "max_pooled",
    "sinc_filtered",
    "strided",
]
