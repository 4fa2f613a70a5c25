"""The pools inside the layers here."""

from torch import nn

from gradlens.filters import axes, whole

AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


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
