"""Layers that enlarge by a whole factor, one file each: `[N C *spatial]` to `[N C' *(scale spatial)]`.

All take `(in_channels, out_channels, *, scale=2, kernel_size, bias=True, dimensions=2)` and what is their own, and work in one
to three dimensions. What differs is whether a constant comes out constant: `gradlens.geometry.certify` says it of each. It
passes for every weight of "resize", "resize_bilinear", "hold_b", "hold_c", "sinc" and, in eval mode, "hold_a", and for
"subpixel_icnr" before the first step of training.
"""

from collections.abc import Callable

from torch import nn

from gradlens.upsampling.deconv import tailed, transposed
from gradlens.upsampling.folding import fold
from gradlens.upsampling.held import HeldTransposed
from gradlens.upsampling.hold import HeldInside, held_after, hold_a, hold_b
from gradlens.upsampling.icnr import icnr_, icnr_transposed_
from gradlens.upsampling.pixeldcl import IPixelDCL, MaskedPixelDCL, PixelConv, PixelDCL
from gradlens.upsampling.resize import ResizeConv, bilinear
from gradlens.upsampling.shuffling import shuffle
from gradlens.upsampling.sinc import sinc_interpolated
from gradlens.upsampling.subpixel import subpixel, subpixel_icnr

UPSAMPLERS: dict[str, Callable[..., nn.Module]] = {
    "deconv": transposed,
    "deconv_tail": tailed,
    "subpixel": subpixel,
    "subpixel_icnr": subpixel_icnr,
    "resize": ResizeConv,
    "resize_bilinear": bilinear,
    "hold_a": hold_a,
    "hold_b": hold_b,
    "hold_c": HeldInside,
    "pixeldcl": PixelDCL,
    "ipixeldcl": IPixelDCL,
    "pixeldcl_masked": MaskedPixelDCL,
    "sinc": sinc_interpolated,
}

__all__ = [
    "UPSAMPLERS",
    "HeldInside",
    "HeldTransposed",
    "IPixelDCL",
    "MaskedPixelDCL",
    "PixelConv",
    "PixelDCL",
    "ResizeConv",
    "bilinear",
    "fold",
    "held_after",
    "hold_a",
    "hold_b",
    "icnr_",
    "icnr_transposed_",
    "shuffle",
    "sinc_interpolated",
    "subpixel",
    "subpixel_icnr",
    "tailed",
    "transposed",
]
