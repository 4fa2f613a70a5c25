"""A resize and the convolution after it, as the one layer that they are."""

from typing import Any

from torch import nn

from gradlens.redesign.designs.design import Design, refuse
from gradlens.redesign.sites import PADS, Site
from gradlens.upsampling import ResizeConv

MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear"}
BORDERS = {"zeros": "zeros", "reflect": "reflect", "replicate": "replicate"}


def fused(site: Site) -> Design:
    """The resize and the convolution in one, exact."""
    layer: Any = site.layer
    up: Any = next(module for module in site.modules.values() if isinstance(module, nn.Upsample))
    pad: Any = next((module for module in site.modules.values() if isinstance(module, PADS)), None)
    scale = (
        up.scale_factor[0] if isinstance(up.scale_factor, tuple) and len(set(up.scale_factor)) == 1 else up.scale_factor
    )
    if not isinstance(scale, int | float) or scale != int(scale):
        refuse(site, f"its resize has size={up.size} and scale_factor={up.scale_factor}, not one whole factor")
    if up.mode not in MODES or up.align_corners:
        refuse(site, f"its resize is mode={up.mode!r}, align_corners={up.align_corners}")
    if set(layer.stride) != {1} or set(layer.dilation) != {1}:
        refuse(site, f"its convolution has stride {layer.stride} and dilation {layer.dilation}")
    border = layer.padding_mode if pad is None else _border(pad)
    around = layer.padding if pad is None else _around(site, layer, pad)
    if (
        border not in BORDERS
        or tuple(around) != tuple(k // 2 for k in layer.kernel_size)
        or any(k % 2 == 0 for k in layer.kernel_size)
    ):
        refuse(site, f"kernel {layer.kernel_size} with {around} pixels of {border} around does not keep the size")
    new = ResizeConv(
        layer.in_channels, layer.out_channels, scale=int(scale), kernel_size=layer.kernel_size, bias=layer.bias is not None,
        dimensions=len(layer.kernel_size), mode=MODES[up.mode], padding=border, groups=layer.groups,  # type: ignore[arg-type]
    ).to(layer.weight)  # fmt: skip
    new.load_state_dict(layer.state_dict())
    gone = {name: nn.Identity() for name in site.modules if name != site.name}
    return Design(gone | {site.name: new}, "exact")


def _border(pad: nn.Module) -> str:
    return {"Refl": "reflect", "Repl": "replicate", "Zero": "zeros"}[type(pad).__name__[:4]]


def _around(site: Site, layer: Any, pad: Any) -> tuple[int, ...]:
    sides = pad.padding
    if layer.padding != (0,) * len(layer.kernel_size) or sides[::2] != sides[1::2]:
        refuse(site, f"its convolution pads by {layer.padding} after a pad of {sides}")
    return tuple(reversed(sides[::2]))
