"""Sub-pixel convolution: a convolution to s^D times the channels, whose groups become the phases of the enlarged map."""

from collections.abc import Callable

from torch import Tensor, nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import axes, whole
from gradlens.upsampling.icnr import icnr_
from gradlens.upsampling.shuffling import Shuffle


def subpixel(
    in_channels: int, out_channels: int, *, scale: int = 2, kernel_size: int = 3, bias: bool = True, dimensions: int = 2
) -> nn.Sequential:
    """A convolution, then a pixel shuffle: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y[s i + p] = b_p + sum over k of W_p[k] x[i + k - (m - 1) // 2]: every phase p has filters and a bias of its own, and nothing
    makes their sums equal, so the forward certificate fails.

    Cost: m^D C multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m; odd or even.
        bias: whether to add one to each phase.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Shi et al. 2016.

    Example:
        >>> import torch
        >>> subpixel(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    s = whole(scale, "scale", least=1)
    wide = whole(out_channels, "out_channels", least=1) * s ** axes(dimensions)
    layers = convolution(in_channels, wide, kernel_size, bias=bias, dimensions=dimensions)
    return sequence(layers | {"shuffle": nn.PixelShuffle(s) if dimensions == 2 else Shuffle(s)})


def subpixel_icnr(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    initialiser: Callable[[Tensor], object] = nn.init.kaiming_normal_,
) -> nn.Sequential:
    """A sub-pixel convolution that starts as a nearest-neighbour resize: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    All phases start with one filter (`icnr_`) and one bias, 0. The forward certificate passes before the first
    step of training and fails afterwards: nothing keeps the phases together.

    Cost, Args: as `subpixel`, and
        initialiser: fills the filter that the phases share in place.

    Source: Aitken et al. 2017.

    Example:
        >>> import torch
        >>> y = subpixel_icnr(8, 3)(torch.rand(1, 8, 5, 6))
        >>> torch.equal(y[..., ::2, ::2], y[..., 1::2, 1::2])
        True
    """
    layer = subpixel(in_channels, out_channels, scale=scale, kernel_size=kernel_size, bias=bias, dimensions=dimensions)
    conv = layer.get_submodule("conv")
    icnr_(conv.get_parameter("weight"), scale, initialiser)
    if bias:
        nn.init.zeros_(conv.get_parameter("bias"))
    return layer
