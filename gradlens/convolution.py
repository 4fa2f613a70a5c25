"""The convolution inside the layers that shrink and enlarge, with as many zeros around as keep `ceil(side / stride)` outputs.

A convolution of k taps with stride s has ceil(side / s) outputs if k - 1 zeros are around: half of them before, and the odd one
of an even k behind, where an even side never reads it.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import axes, whole

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class OddZero(nn.Module):
    """The zero behind an axis that a strided convolution of an even kernel reads, where it does: `[*lead *spatial]`.

    Of k - 1 zeros the convolution has k / 2 - 1 on both sides itself, for nothing; the odd one is a copy of the map. With s = 2
    an even side never reads it.

    Args:
        stride: s of the convolution.
        dimensions: spatial axes.
    """

    def __init__(self, stride: int, dimensions: int) -> None:
        super().__init__()
        self.stride, self.dimensions = stride, dimensions

    def forward(self, x: Tensor) -> Tensor:
        read = [(side - 1) % self.stride == 0 for side in x.shape[-self.dimensions :]]
        return F.pad(x, [zeros for one in reversed(read) for zeros in (0, int(one))]) if any(read) else x

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool, dimensions: int
) -> dict[str, nn.Module]:
    """`conv` by its name, after a `pad` where the kernel is even: `[N C *spatial]` to `[N C' *ceil(spatial / stride)]`."""
    in_channels, out_channels = (
        whole(in_channels, "in_channels", least=1),
        whole(out_channels, "out_channels", least=1),
    )
    k = whole(kernel_size, "kernel_size", least=1)
    make = CONVOLUTIONS[axes(dimensions)]
    conv = make(in_channels, out_channels, k, stride=stride, padding=(k - 1) // 2, bias=bias)
    return {"conv": conv} if k % 2 else {"pad": OddZero(stride, dimensions), "conv": conv}


def sequence(layers: dict[str, nn.Module]) -> nn.Sequential:
    """The layers, one after the other, by name."""
    return nn.Sequential(OrderedDict(layers))
