"""A convolution at full resolution, then a binomial blur with the stride: blur-pool."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import Filter, Padding, binomial, whole


def blurred(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    size: int = 3,
    padding: Padding = "reflect",
) -> nn.Sequential:
    """A convolution of stride 1, then a binomial of stride `scale`: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y[i] = sum over k of binomial(size)[k] (b + W * x)[s i + k - (size - 1) // 2], an axis at a time. Before a stride of 2 the
    mean of the gradient is even; its energy is not: squares of 1 2 1 are 1 4 1, of which one phase gets 4 and the other 2.
    For other scales the binomial has no zero where the lattice is, and neither is even: take `held`.

    Cost: s^D m^D C + size (1 + s + ... + s^(D - 1)) multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        size: taps of the blur.
        padding: of the blur, as `gradlens.filters.filtered`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Zhang 2019: a strided convolution becomes convolution, non-linearity, blur-pool; the non-linearity is left out here.

    Example:
        >>> import torch
        >>> blurred(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    layers = convolution(in_channels, out_channels, kernel_size, bias=bias, dimensions=dimensions)
    return sequence(layers | {"blur": Filter(binomial(size), stride=whole(scale, "scale", least=1), padding=padding)})
