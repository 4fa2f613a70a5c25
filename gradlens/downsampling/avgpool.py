"""The mean of each block, then a convolution at low resolution: every pixel of a block gets the same gradient."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.downsampling.pools import average_pool


def average_pooled(
    in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3, bias: bool = True, dimensions: int = 2
) -> nn.Sequential:
    """An average pool, then a convolution of stride 1: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y = b + W * z with z[i] the mean over block i of x. The gradient is constant on each block: even in mean and energy, exactly
    and for any weights. It sees `scale` times as far as `averaged`, and no detail within a block.

    Cost: m^D C multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gulrajani et al. 2017 ("MeanPoolConv", of shortcuts); timm's ResNet-D shortcuts (He et al. 2019).

    Example:
        >>> import torch
        >>> average_pooled(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    layers = convolution(in_channels, out_channels, kernel_size, bias=bias, dimensions=dimensions)
    return sequence({"pool": average_pool(scale, dimensions)} | layers)
