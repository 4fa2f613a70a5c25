"""The convolution inside every layer here, with as many zeros around as keep `ceil(side / stride)` outputs, and the pools.

A convolution of k taps with stride s has ceil(side / s) outputs if k - 1 zeros are around: half of them before, and the odd one
of an even k behind, where an even side never reads it.
"""

from collections import OrderedDict

from torch import nn

from gradlens.filters import whole

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
ZERO_PADS = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool, dimensions: int
) -> dict[str, nn.Module]:
    """`conv` by its name, after a `pad` where the kernel is even: `[N C *spatial]` to `[N C' *ceil(spatial / stride)]`."""
    in_channels, out_channels = (
        whole(in_channels, "in_channels", least=1),
        whole(out_channels, "out_channels", least=1),
    )
    k = whole(kernel_size, "kernel_size", least=1)
    make = CONVOLUTIONS[axes(dimensions)]
    if k % 2:
        return {"conv": make(in_channels, out_channels, k, stride=stride, padding=k // 2, bias=bias)}
    around = (k // 2 - 1, k // 2) * dimensions
    return {
        "pad": ZERO_PADS[dimensions](around),
        "conv": make(in_channels, out_channels, k, stride=stride, bias=bias),
    }


def average_pool(scale: int, dimensions: int) -> nn.Module:
    """Means of blocks of `scale` pixels a side; a block that the border cuts is the mean of what there is of it."""
    make = AVERAGE_POOLS[axes(dimensions)]
    return make(whole(scale, "scale", least=1), ceil_mode=True, count_include_pad=False)


def max_pool(window: int, stride: int, dimensions: int) -> nn.Module:
    """The largest of `window` pixels a side around (of an odd window), or from (of `window = stride`), every `stride`-th."""
    whole(stride, "scale", least=1)
    if whole(window, "window", least=1) % 2 == 0 and window != stride:
        raise ValueError(f"window: must be odd or the scale, {stride}, got {window}")
    aligned = window == stride
    return MAX_POOLS[axes(dimensions)](window, stride, padding=0 if aligned else window // 2, ceil_mode=aligned)


def axes(dimensions: int) -> int:
    """`dimensions`, if it is 1, 2 or 3."""
    if dimensions not in CONVOLUTIONS:
        raise ValueError(f"dimensions: must be 1, 2 or 3, got {dimensions!r}")
    return dimensions


def sequence(layers: dict[str, nn.Module]) -> nn.Sequential:
    """The layers, one after the other, by name."""
    return nn.Sequential(OrderedDict(layers))
