"""The generator of SRGAN x4: residual blocks at low resolution, then two sub-pixel convolutions.

Source: Ledig et al. 2017, as in leftthomas/SRGAN: five blocks, a PReLU of one slope after each pixel shuffle.
"""

import torch
from torch import Tensor, nn


class SRGANGenerator(nn.Module):
    """Photographs enlarged four times: `[N 3 H W]` RGB in [0, 1] to `[N 3 4H 4W]` in [0, 1].

    Layers: `block1` the 9x9 stem, `block2` to `block6` residual, `block7` the last before the skip from the stem, `block8`
    two enlargements and a 9x9 convolution.

    Args:
        width: channels.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        self.block2 = _Residual(width)
        self.block3 = _Residual(width)
        self.block4 = _Residual(width)
        self.block5 = _Residual(width)
        self.block6 = _Residual(width)
        self.block7 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.block8 = nn.Sequential(_SubPixel(width), _SubPixel(width), nn.Conv2d(width, 3, 9, padding=4))

    def forward(self, x: Tensor) -> Tensor:
        stem = self.block1(x)
        x = self.block6(self.block5(self.block4(self.block3(self.block2(stem)))))
        return (torch.tanh(self.block8(stem + self.block7(x))) + 1) / 2


class _Residual(nn.Module):
    """Two 3x3 convolutions with norms, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class _SubPixel(nn.Module):
    """A convolution to four times the channels, shuffled to twice the side: `[N C H W]` to `[N C 2H 2W]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.pixel_shuffle(self.conv(x)))
