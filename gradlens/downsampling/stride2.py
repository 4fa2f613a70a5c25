"""A strided convolution: the layer whose gradient is a transposed convolution's, uneven unless its taps happen to be even."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import whole


def strided(
    in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3, bias: bool = True, dimensions: int = 2
) -> nn.Sequential:
    """A convolution of stride `scale`: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y[i] = b + sum over k of W[k] x[s i + k - (m - 1) // 2], zeros beyond the border. The gradient of pixel p meets the taps
    W[k] with k = p modulo s: of m = 3, s = 2 one or two of them an axis, so its energy is 1 : 4 in two dimensions. Where s
    divides m the counts are even, and the taps alone decide.

    Cost: m^D C multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Odena, Dumoulin, Olah 2016; `kernel_size=4` is DCGAN's discriminator (Radford et al. 2016).

    Example:
        >>> import torch
        >>> strided(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    stride = whole(scale, "scale", least=1)
    return sequence(
        convolution(in_channels, out_channels, kernel_size, stride=stride, bias=bias, dimensions=dimensions)
    )
