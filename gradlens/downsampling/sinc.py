"""A windowed sinc before a strided convolution: the textbook's decimation, without the band that would alias."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import Filter, Padding, Window, windowed_sinc


def sinc_filtered(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    half_width: int = 4,
    window: Window = "kaiser",
    padding: Padding = "replicate",
) -> nn.Sequential:
    """A windowed sinc, then a convolution of stride `scale`: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y = b + (W * S x) at every s-th pixel, S = `windowed_sinc(scale)`: what the stride cannot represent is gone before it. Its
    phases have one sum, so the mean of the gradient is even. Its squares do not (the centre tap of s = 2 has half of the energy),
    so before few taps the energy is uneven: 8 % for m = 3, s = 2.

    Cost: m^D C + s^D D (2 half_width s - 1) C / C' multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        half_width: of the sinc, in pixels after the stride.
        window: of the sinc, "kaiser" (60 dB) or "hann".
        padding: of the sinc, as `gradlens.filters.filtered`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: decimation of signals (Crochiere, Rabiner 1983); in networks Karras et al. 2021, with another design.

    Example:
        >>> import torch
        >>> sinc_filtered(3, 8)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    smooth = {"sinc": Filter(windowed_sinc(scale, half_width=half_width, window=window), padding=padding)}
    return sequence(
        smooth | convolution(in_channels, out_channels, kernel_size, stride=scale, bias=bias, dimensions=dimensions)
    )
