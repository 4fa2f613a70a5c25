"""The DCGAN pair as its author trained it on SVHN, with 5x5 kernels of stride 2.

Source: Radford, Metz, Chintala 2016 (Newmu/dcgan_code). Each stride-2 layer halves or doubles the side.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DCGANGenerator(nn.Module):
    """Latents to images by transposed convolutions: `[N latent]` to `[N C H W]` in [-1, 1].

    Args:
        latent: size of a latent vector, standard normal.
        widths: channels of each stage; each doubles the side, starting from `start` pixels.
        channels: channels of an image.
        start: side of the first stage in pixels.
        eps: of the batch norms.
    """

    def __init__(
        self,
        latent: int = 100,
        widths: Sequence[int] = (256, 128, 64),
        channels: int = 3,
        start: int = 4,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.latent, self.start, self.widths = latent, start, tuple(widths)
        first = widths[0] * start**2
        self.fc = nn.Linear(latent, first, bias=False)
        self.bn0 = nn.BatchNorm1d(first, eps=eps)
        for stage, (wide, narrow) in enumerate(zip(widths, [*widths[1:], channels], strict=True), start=1):
            up = nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1, bias=False)
            setattr(self, f"up{stage}", up)
            if stage < len(widths):
                setattr(self, f"bn{stage}", nn.BatchNorm2d(narrow, eps=eps))

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.fc(z))).unflatten(1, (self.widths[0], self.start, self.start))
        for stage in range(1, len(self.widths)):
            x = F.relu(self.get_submodule(f"bn{stage}")(self.get_submodule(f"up{stage}")(x)))
        return torch.tanh(self.get_submodule(f"up{len(self.widths)}")(x))


class DCGANDiscriminator(nn.Module):
    """Images to one score each by strided convolutions: `[N C H W]` in [-1, 1] to `[N 1]`.

    Args:
        widths: channels after each stage; each halves the side.
        channels: channels of an image.
        side: side of an image in pixels.
        eps: of the batch norms.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256), channels: int = 3, side: int = 32, eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.stages = len(widths)
        for stage, (before, after) in enumerate(pairwise([channels, *widths]), start=1):
            setattr(self, f"c{stage}", nn.Conv2d(before, after, 5, stride=2, padding=2, bias=False))
            if stage > 1:
                setattr(self, f"bn{stage}", nn.BatchNorm2d(after, eps=eps))
            side = -(-side // 2)
        self.fc = nn.Linear(widths[-1] * side**2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.get_submodule("c1")(x), 0.2)
        for stage in range(2, self.stages + 1):
            x = F.leaky_relu(self.get_submodule(f"bn{stage}")(self.get_submodule(f"c{stage}")(x)), 0.2)
        return self.fc(x.flatten(1))
