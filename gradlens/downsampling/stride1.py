"""A convolution at full resolution, then the mean of each block: the remedy that costs the most and needs no choice."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.downsampling.pools import average_pool


def averaged(
    in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3, bias: bool = True, dimensions: int = 2
) -> nn.Sequential:
    """A convolution of stride 1, then an average pool: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y[i] = mean over the block i of (b + W * x). Far from the border the same linear map as `held` of order 0: the pool is a
    hold with a stride, and filters commute. Each pixel gets all taps over s^D: even in its mean, and in its energy if the
    taps are independent.

    Cost: s^D m^D C multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: the discriminators of Gulrajani et al. 2017 ("ConvMeanPool") and Miyato et al. 2018.

    Example:
        >>> import torch
        >>> averaged(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    layers = convolution(in_channels, out_channels, kernel_size, bias=bias, dimensions=dimensions)
    return sequence(layers | {"pool": average_pool(scale, dimensions)})
