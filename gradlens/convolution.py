"""The convolution inside the layers that shrink and enlarge, with as many zeros around as keep `ceil(side / stride)` outputs.

A convolution of k taps with stride s has ceil(side / s) outputs if k - 1 zeros are around: half of them before, and the odd one
of an even k behind, where an even side never reads it.
"""

from collections import OrderedDict

from torch import nn

from gradlens.filters import axes, whole

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
ZERO_PADS = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}


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


def sequence(layers: dict[str, nn.Module]) -> nn.Sequential:
    """The layers, one after the other, by name."""
    return nn.Sequential(OrderedDict(layers))
