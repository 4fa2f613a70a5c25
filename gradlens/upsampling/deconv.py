"""Transposed convolutions: the layer that writes the checkerboard, and the stride-1 tail that was proposed against it.

Of m taps and stride s an output pixel of phase p meets the taps W[p], W[p + s], ...: as many for every phase only where s
divides m, and of one sum for every phase only by chance or by `gradlens.upsampling.icnr`.
"""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import axes, whole

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def transposed(
    in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 4, bias: bool = True, dimensions: int = 2
) -> nn.Module:
    """A transposed convolution of stride `scale`: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y[i] = b + sum over n of W[i + P - s n] x[n] with P = ceil((m - s) / 2). `kernel_size=4` covers evenly at scale 2, 3 and 5
    unevenly (1 : 4 and 4 : 9 taps in two dimensions), 1 leaves holes. The forward
    certificate fails for learned and for drawn taps.

    Cost: (m / s)^D C multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd at scale 1.
        bias: whether to add one.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Odena, Dumoulin, Olah 2016; Radford, Metz, Chintala 2016 (the layer of DCGAN).

    Example:
        >>> import torch
        >>> transposed(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    channels = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
    s, m = whole(scale, "scale", least=1), whole(kernel_size, "kernel_size", least=1)
    extra = (m - s) % 2 if m >= s else s - m
    if s == 1 and extra:
        raise ValueError(f"kernel_size: must be odd at scale 1, got {m}")
    padding = max(m - s + extra, 0) // 2
    make = TRANSPOSED[axes(dimensions)]
    return make(*channels, m, stride=s, padding=padding, output_padding=extra, bias=bias)


def tailed(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 4,
    bias: bool = True,
    dimensions: int = 2,
    tail: int = 4,
) -> nn.Sequential:
    """A transposed convolution of stride `scale`, then one of stride 1: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    The tail is written as the convolution that it is (its taps reversed). It can remove a lattice whose period divides its size,
    if it learns to: a box of k taps is zero at the harmonics of every divisor of k. Nothing makes it: the forward
    certificate fails.

    Cost: ((m / s)^D C + k^D C') multiplications an output.

    Args:
        in_channels, out_channels: C and C'; C' between the two as well.
        scale: s.
        kernel_size: m; odd at scale 1.
        bias: whether to add one, behind the tail.
        dimensions: D, 1 to 3.
        tail: k.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Odena, Dumoulin, Olah 2016 (k from 2 to 9).

    Example:
        >>> import torch
        >>> tailed(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    up = transposed(in_channels, out_channels, scale=scale, kernel_size=kernel_size, bias=False, dimensions=dimensions)
    k = whole(tail, "tail", least=1)
    return sequence({"up": up} | convolution(out_channels, out_channels, k, bias=bias, dimensions=dimensions))
