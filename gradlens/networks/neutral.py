"""A generator that enlarges nothing: it favours no pixel over another, so what lattice its images have came from elsewhere.

Source: Odena, Dumoulin, Olah 2016, where such a generator shows what a discriminator's gradients write.
"""

import torch
from torch import Tensor, nn

from gradlens.filters import whole


class NeutralGenerator(nn.Module):
    """Latents to maps at full resolution, then convolutions of stride 1: `[N latent]` to `[N C R R]` in [-1, 1].

    Args:
        resolution: R, any.
        latent: size of a latent vector, standard normal.
        width: channels at full resolution; the linear layer has `latent * width * R * R` weights.
        channels: C.
        depth: convolutions before the last one; 0: the linear layer and one convolution.
        kernel_size: of the convolutions; odd.

    Raises:
        TypeError, ValueError: an argument is out of its range; the message names it.

    Source: Odena, Dumoulin, Olah 2016 name no architecture: this one is ours.

    Example:
        >>> NeutralGenerator(16, latent=8, width=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        resolution: int = 32,
        *,
        latent: int = 128,
        width: int = 16,
        channels: int = 3,
        depth: int = 2,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if whole(kernel_size, "kernel_size", least=1) % 2 == 0:
            raise ValueError(f"kernel_size: must be odd, got {kernel_size}")
        self.latent, self.side = whole(latent, "latent", least=1), whole(resolution, "resolution", least=1)
        self.fc = nn.Linear(latent, whole(width, "width", least=1) * resolution**2, bias=False)
        layers: list[nn.Module] = []
        for _ in range(whole(depth, "depth", least=0)):
            conv = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, bias=False)
            layers += [nn.BatchNorm2d(width), nn.ReLU(), conv]
        last = nn.Conv2d(width, whole(channels, "channels", least=1), kernel_size, padding=kernel_size // 2)
        layers += [nn.BatchNorm2d(width), nn.ReLU(), last]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(self.fc(z).unflatten(1, (-1, self.side, self.side))))
