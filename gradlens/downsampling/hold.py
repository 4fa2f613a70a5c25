"""A zero-order hold before a strided convolution: what it hands back is held over the stride, at the cost of the stride."""

from torch import nn

from gradlens.convolution import convolution, sequence
from gradlens.filters import Filter, Padding, axes, hold


def held(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    order: int = 0,
    padding: Padding = "replicate",
) -> nn.Sequential:
    """A hold, then a convolution of stride `scale`: `[N C *spatial]` to `[N C' *ceil(spatial / scale)]`.

    y = b + (W * H_d x) at every s-th pixel, H_d = `hold(scale, order)`. The gradient is the transposed convolution's, held: the
    mean is even for every W, every scale and every order. Order 0 keeps its energy even too, if the taps are independent; of
    higher orders the energy is uneven (d = 1, s = 2, m = 1: 4 : 2 an axis) and the response smoother.

    Cost: m^D C + s^D D (s (d + 1) - d) C / C' multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s, also the length of the hold.
        kernel_size: m; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        order: d.
        padding: of the hold, as `gradlens.filters.filtered`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Kinoshita, Kiya 2020 (order d, before strided convolutions); Sugawara et al. 2019 (order 0).

    Example:
        >>> import torch
        >>> held(3, 8, order=1)(torch.rand(1, 3, 9, 9)).shape
        torch.Size([1, 8, 5, 5])
    """
    smooth = {"hold": Filter(hold(scale, order), padding=padding)}
    conv = convolution(in_channels, out_channels, kernel_size, stride=scale, bias=bias, dimensions=axes(dimensions))
    return sequence(smooth | conv)
