"""A residual generator: each block enlarges once on its branch by the layer that is asked for, and by repetition beside it.

Source: Gulrajani et al. 2017; Miyato et al. 2018.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import whole
from gradlens.networks.stages import START, each_stage, layer, stage_count, widths
from gradlens.upsampling import UPSAMPLERS, ResizeConv


class ResidualGenerator(nn.Module):
    """Latents to images in residual blocks from 4 px: `[N latent]` to `[N C R R]` in [-1, 1].

    The branch beside each block repeats pixels, whatever `upsampler` is, and a 3x3 convolution at full resolution comes last:
    what a layer writes can be smoothed after it.

    Args:
        resolution: R; 8 times a power of two.
        latent: size of a latent vector, standard normal.
        width: channels of the last block; doubled for each block before it, at most eight times.
        channels: C.
        upsampler: how each block enlarges, one word for all or one for each, from 4 px up.

    Raises:
        TypeError, ValueError: an argument is out of its range; the message names it.

    Source: Gulrajani et al. 2017; Miyato et al. 2018.

    Example:
        >>> ResidualGenerator(16, latent=8, width=4, upsampler="deconv")(torch.zeros(2, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        resolution: int = 64,
        *,
        latent: int = 128,
        width: int = 64,
        channels: int = 3,
        upsampler: str | Sequence[str] = "resize",
    ) -> None:
        super().__init__()
        stages = stage_count(resolution)
        self.latent = whole(latent, "latent", least=1)
        wide = widths(width, stages)
        self.first = wide[0]
        self.fc = nn.Linear(latent, wide[0] * START**2)
        words = each_stage(upsampler, stages, "upsampler")
        pairs = zip([wide[0], *wide], wide, strict=False)
        self.blocks = nn.Sequential(*(_Block(a, b, word) for word, (a, b) in zip(words, pairs, strict=True)))
        self.norm = nn.BatchNorm2d(wide[-1])
        self.conv = nn.Conv2d(wide[-1], whole(channels, "channels", least=1), 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.blocks(self.fc(z).unflatten(1, (self.first, START, START)))
        return torch.tanh(self.conv(F.relu(self.norm(x))))


class _Block(nn.Module):
    """`[N C H W]` to `[N C' 2H 2W]`: norm, ReLU, the layer that enlarges, norm, ReLU, convolution; plus the repeated input."""

    def __init__(self, before: int, after: int, word: str) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.up = layer(UPSAMPLERS, word, before, after, "upsampler", bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv = nn.Conv2d(after, after, 3, padding=1)
        self.beside = ResizeConv(before, after, scale=2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.relu(self.norm1(x)))
        return self.conv(F.relu(self.norm2(y))) + self.beside(x)
