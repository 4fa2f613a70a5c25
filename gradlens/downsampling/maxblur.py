"""A convolution, the largest of each window at every pixel, then a binomial blur with the stride: max-blur-pool."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.downsampling.pools import max_pool
from gradlens.filters import Filter, Padding, binomial, whole


def max_blurred(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    window: int | None = None,
    size: int = 3,
    padding: Padding = "reflect",
) -> nn.Sequential:
    """Convolution, max-pool of stride 1, binomial of stride `scale`: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    A max-pool is a maximum at every pixel, then a stride; the blur goes between them. Every pixel is asked by all the windows
    that hold it, so the mean of the gradient is even before a stride of 2, as of `blurred`.

    Cost: s^D m^D C + size (1 + s + ... + s^(D - 1)) multiplications an output, and s^D (window^D - 1) comparisons.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        window: pixels a side of the maximum, odd; 2 s - 1 unless given.
        size: taps of the blur.
        padding: of the blur, as `gradlens.filters.filtered`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Zhang 2019 ("MaxBlurPool").

    Example:
        >>> import torch
        >>> max_blurred(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    layers = convolution(in_channels, out_channels, kernel_size, bias=bias, dimensions=dimensions)
    window = 2 * whole(scale, "scale", least=1) - 1 if window is None else window
    blur = Filter(binomial(size), stride=scale, padding=padding)
    return sequence(layers | {"pool": max_pool(window, 1, dimensions), "blur": blur})
