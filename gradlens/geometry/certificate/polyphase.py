"""Equations 8 and 9 read from the weights: the DC of every polyphase filter of a chain of linear layers, and its bias.

An upsampling layer with stride U is U filters, one a phase (eq. 1). On an endless constant input phase q gives R_q, the sum
of its taps (the filter's DC): no input size enters. A periodic signal is carried from layer to layer on a torus of one
period: a convolution folds its taps around it, a transposed one makes it larger, a strided one smaller. The gradient takes
the same layers backwards, transposed.

Source: Sugawara, Shiota, Kiya 2018, eq. 1 to 4, 8 and 9.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import lcm, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.convolution import OddZero

CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SILENT = (  # far from the border, in eval mode
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, OddZero,
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """A linear layer without its border.

    Args:
        kind: "down", a convolution; "up", a transposed one; "shuffle" and "unshuffle" of pixels.
        stride, dilation: by axis; of a shuffle the stride is its factor.
        weight: as torch keeps it for that kind; None for a shuffle.
        bias: one value an output channel, or None.
        groups: of the channels.
    """

    kind: str
    stride: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    weight: Tensor | None = None
    bias: Tensor | None = None
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        return () if self.weight is None else tuple(self.weight.shape[2:])

    def transposed(self) -> "Link":
        """What the gradient meets."""
        kinds = {"down": "up", "up": "down", "shuffle": "unshuffle", "unshuffle": "shuffle"}
        return replace(self, kind=kinds[self.kind], bias=None)


def chain(module: nn.Module, channels: int, axes: int) -> list[Link] | None:
    """The links of a layer or a sequence of layers that are all known and linear, None of any other module.

    Args:
        module: in float64.
        channels: of its input.
        axes: spatial axes.
    """
    links: list[Link] = []
    for layer in _leaves(module):
        if type(layer) in SILENT:
            continue
        link = _link(layer, channels, axes)
        if link is None or len(link.stride) != axes or not _takes(link, channels):
            return None
        links.append(link)
        channels = _outputs(link, channels)
    return links


def gains(links: Sequence[Link], channels: int, axes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """DC of each polyphase filter `[input output *period]`, and the bias of each phase `[output *period]`."""
    x = torch.cat([like.new_zeros(1, channels), torch.eye(channels, dtype=like.dtype, device=like.device)])
    x = x.view(*x.shape, *[1] * axes)
    for link in links:
        x = _carried(link, x)
    return x[1:] - x[:1], x[0]


def backward_links(links: Sequence[Link]) -> list[Link]:
    """The links in the order and the form in which the gradient meets them."""
    return [link.transposed() for link in reversed(links)]


def channels_after(links: Sequence[Link], channels: int) -> int:
    """Output channels of the chain."""
    for link in links:
        channels = _outputs(link, channels)
    return channels


def _leaves(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for child in module for leaf in _leaves(child)]
    return [module]


def _link(layer: nn.Module, channels: int, axes: int) -> Link | None:
    """`layer` as a link, None where it is not one that is known here."""
    kind = type(layer)
    if isinstance(layer, CONVS) and kind in CONVS:
        return Link("down", _each(layer.stride), _each(layer.dilation), layer.weight, layer.bias, layer.groups)
    if isinstance(layer, TRANSPOSED_CONVS) and kind in TRANSPOSED_CONVS:
        return Link("up", _each(layer.stride), _each(layer.dilation), layer.weight, layer.bias, layer.groups)
    if isinstance(layer, nn.PixelShuffle | nn.PixelUnshuffle):
        shuffle = isinstance(layer, nn.PixelShuffle)
        factor = layer.upscale_factor if isinstance(layer, nn.PixelShuffle) else layer.downscale_factor
        return Link("shuffle" if shuffle else "unshuffle", (factor,) * 2)
    if isinstance(layer, POOLS):
        kernel = _each(layer.kernel_size, axes)
        divisor = getattr(layer, "divisor_override", None) or prod(kernel)
        return _depthwise("down", torch.full(kernel, 1 / divisor), channels, _each(layer.stride, axes))
    if isinstance(layer, nn.Upsample):
        return _resize(layer, channels, axes)
    if isinstance(layer, NORMS) and layer.running_mean is not None and layer.running_var is not None:
        scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
        shift = -layer.running_mean * scale + (0 if layer.bias is None else layer.bias)
        return Link("down", (1,) * axes, (1,) * axes, scale.view(-1, *[1] * (axes + 1)), shift, channels)
    return None


def _resize(layer: nn.Upsample, channels: int, axes: int) -> Link | None:
    """An enlargement by whole factors as a transposed convolution: with a box where nearest, with a triangle where linear."""
    factors = layer.scale_factor if isinstance(layer.scale_factor, tuple) else (layer.scale_factor,) * axes
    strides = tuple(int(f) for f in factors if f is not None and f == int(f))
    if len(strides) < axes or layer.align_corners:
        return None
    if layer.mode in ("nearest", "nearest-exact"):
        kernel = torch.ones(strides)
    elif layer.mode in ("linear", "bilinear", "trilinear"):
        kernel = torch.ones(())
        for s in strides:
            ramp = 1 - (torch.arange(2 * s, dtype=torch.float64) - s + 0.5).abs() / s
            if s % 2:  # the centre lies on a pixel
                ramp = 1 - torch.arange(1 - s, s, dtype=torch.float64).abs() / s
            kernel = kernel[..., None] * ramp
    else:
        return None
    return _depthwise("up", kernel, channels, strides)


def _depthwise(kind: str, kernel: Tensor, channels: int, stride: tuple[int, ...]) -> Link:
    weight = kernel.double().expand(channels, 1, *kernel.shape)
    return Link(kind, stride, (1,) * len(stride), weight, None, channels)


def _takes(link: Link, channels: int) -> bool:
    if link.weight is None:
        return link.kind == "unshuffle" or channels % (link.stride[0] * link.stride[1]) == 0
    return channels == (link.weight.shape[1] * link.groups if link.kind == "down" else link.weight.shape[0])


def _outputs(link: Link, channels: int) -> int:
    if link.weight is None:
        area = link.stride[0] * link.stride[1]
        return channels // area if link.kind == "shuffle" else channels * area
    return link.weight.shape[0] if link.kind == "down" else link.weight.shape[1] * link.groups


def _carried(link: Link, x: Tensor) -> Tensor:
    """One period of the periodic signal `x` `[N C *period]` after the link, up to a shift."""
    axes = len(link.stride)
    sides = x.shape[2:]
    if link.kind == "shuffle":
        return F.pixel_shuffle(x, link.stride[0])
    if link.kind == "unshuffle":
        return F.pixel_unshuffle(
            _unrolled(x, [lcm(n, s) for n, s in zip(sides, link.stride, strict=True)]), link.stride[0]
        )
    assert link.weight is not None
    weight, bias = link.weight.to(x.device), None if link.bias is None else link.bias
    reach = [d * (k - 1) for d, k in zip(link.dilation, link.kernel, strict=True)]
    if link.kind == "down":
        whole = [lcm(n, s) for n, s in zip(sides, link.stride, strict=True)]
        x = _unrolled(x, [n + r for n, r in zip(whole, reach, strict=True)])
        y = CONV[axes](x, weight, bias, stride=link.stride, dilation=link.dilation, groups=link.groups)
        return y[(..., *(slice(n // s) for n, s in zip(whole, link.stride, strict=True)))]
    around = [-(-r // s) + 1 for r, s in zip(reach, link.stride, strict=True)]
    x = _unrolled(x, [n + a for n, a in zip(sides, around, strict=True)])
    y = TRANSPOSED[axes](x, weight, bias, stride=link.stride, dilation=link.dilation, groups=link.groups)
    return y[(..., *(slice(r, r + n * s) for r, n, s in zip(reach, sides, link.stride, strict=True)))]


def _unrolled(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """The periodic signal over `lengths`."""
    for axis, length in enumerate(lengths):
        x = x.index_select(2 + axis, torch.arange(length, device=x.device) % x.shape[2 + axis])
    return x


def _each(value: int | tuple[int | str, ...], axes: int = 1) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
