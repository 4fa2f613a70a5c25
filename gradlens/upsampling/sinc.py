"""A windowed sinc, then a convolution: the textbook's interpolation, which adds no image of the spectrum that was there.

With s - 1 zeros between the pixels of x its spectrum repeats s times; the sinc keeps the first copy, 60 dB above the others. It
is computed from the pixels that there are, a transposed convolution of each channel along each axis, not over the zeros.

Source: Crochiere, Rabiner 1983 (interpolation, polyphase); Sugawara, Shiota, Kiya 2018, eq. 8 (phases of one sum).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.convolution import CONVOLUTIONS, sequence
from gradlens.filters import Window, axes, whole, windowed_sinc
from gradlens.upsampling.folding import scatter

REPLICATED = {1: nn.ReplicationPad1d, 2: nn.ReplicationPad2d, 3: nn.ReplicationPad3d}


def sinc_interpolated(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 3,
    bias: bool = True,
    dimensions: int = 2,
    half_width: int = 4,
    window: Window = "kaiser",
) -> nn.Sequential:
    """An interpolation by a windowed sinc, then a convolution: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y = b + W * S x, S = `SincResize`. The phases of the sinc have one sum, so a constant stays constant for every W, up to the
    border: both borders are continued by their pixels. Both certificates pass for any W.

    Cost: m^D C + 2 half_width (1 + 1 / s + ...) C / C' multiplications an output, D terms.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m, of the convolution at full resolution, named `conv`; odd or even.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        half_width: of the sinc, in pixels of the input.
        window: of the sinc, "kaiser" (60 dB) or "hann".

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: interpolation of signals (Crochiere, Rabiner 1983); in networks Karras et al. 2021, with another design.

    Example:
        >>> sinc_interpolated(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    channels = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
    m, d = whole(kernel_size, "kernel_size", least=1), axes(dimensions)
    return sequence(
        {
            "sinc": SincResize(scale, half_width=half_width, window=window),
            "pad": REPLICATED[d](((m - 1) // 2, m // 2) * d),
            "conv": CONVOLUTIONS[d](*channels, m, bias=bias),
        }
    )


class SincResize(nn.Module):
    """Interpolation by a windowed sinc of gain s: `[N C *spatial]` to `[N C *(scale spatial)]`.

    y[i] = sum over n of s t[i + c - s n] x[n] along an axis, t = `windowed_sinc(scale)`, one axis after another, the last first.
    Pixel n of x lies at s n + (s - 1) // 2 of y: in the middle of its cell for odd s, half a pixel ahead of it for even s. Beyond
    its border x is continued by its border.

    The taps are a buffer that is not saved: no parameters, no keys in a state dict. In bfloat16 they are rounded, and so are the
    sums of their phases, to 2^-9.

    Args:
        scale: s.
        half_width, window: as `windowed_sinc`.

    Raises:
        TypeError, ValueError: an argument is out of its range; in `forward`, `x` has no or too many spatial axes.

    Source: Crochiere, Rabiner 1983.

    Example:
        >>> SincResize(2)(torch.ones(1, 1, 3)).allclose(torch.ones(1, 1, 6))
        True
    """

    taps: Tensor

    def __init__(self, scale: int, *, half_width: int = 4, window: Window = "kaiser") -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)
        taps = scale * windowed_sinc(scale, half_width=half_width, window=window)
        self.register_buffer("taps", taps.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (3, 4, 5):
            raise ValueError(f"x: must be [N C *spatial] with 1 to 3 spatial axes, got {list(x.shape)}")
        for axis in reversed(range(x.ndim - 2)) if self.scale > 1 else ():
            x = self._along(x, axis)
        return x

    def _along(self, x: Tensor, axis: int) -> Tensor:
        """`x` enlarged along one spatial axis."""
        s, length, dimensions = self.scale, len(self.taps), x.ndim - 2
        before = (length - 1) // 2 - (s - 1) // 2
        more = (length - 1 - before) // s, -(-before // s)  # pixels that the first and the last output read
        ones = [1] * dimensions
        size, stride, kernel, start = [*x.shape[2:]], [*ones], [*ones], [0] * dimensions
        size[axis], stride[axis], kernel[axis], start[axis] = s * size[axis], s, length, before + s * more[0]
        around = [side for a in reversed(range(dimensions)) for side in (more if a == axis else (0, 0))]
        weight = self.taps.to(x).view(1, 1, *kernel).expand(x.shape[1], 1, *kernel)
        padded = F.pad(x, around, mode="replicate")
        return scatter(padded, weight, None, stride=stride, before=start, size=size, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"scale={self.scale}, {len(self.taps)} taps"
