"""A convolution, then the largest of each window: its gradient goes to one pixel of a window, which only data can name."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.downsampling.pools import max_pool
from gradlens.filters import whole


def max_pooled(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    window: int | None = None,
) -> nn.Sequential:
    """A convolution of stride 1, then a max-pool: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y[i] = max over the window around s i of (b + W * x). Windows of 2 s - 1 pixels overlap: where both windows of an axis hold
    a pixel it is asked twice, and gets more. Blocks (`window=scale`) ask all pixels once: their energy is even on average,
    but the gradient of one image still sits on one pixel a block.

    Cost: s^D m^D C multiplications an output, and window^D - 1 comparisons.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        window: pixels a side, odd or `scale`; 2 s - 1, as in a ResNet's stem, unless given.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: He et al. 2016 (3 x 3, stride 2); Simonyan, Zisserman 2015 (2 x 2).

    Example:
        >>> import torch
        >>> max_pooled(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    layers = convolution(in_channels, out_channels, kernel_size, bias=bias, dimensions=dimensions)
    window = 2 * whole(scale, "scale", least=1) - 1 if window is None else window
    return sequence(layers | {"pool": max_pool(window, scale, dimensions)})
