"""A generator and a discriminator of MNIST digits after DCGAN, published by two people: they are no pair.

Source: Radford, Metz, Chintala 2016. The generator is that of the course "Build Basic GANs" (deeplearning.ai) as trained
by Md. Ryhan Uddin; the discriminator is that of csinva/gan-vae-pretrained-pytorch.
"""

from torch import Tensor, nn


class MNISTGenerator(nn.Module):
    """Latents to digits by four transposed convolutions without padding: `[N latent 1 1]` to `[N 1 28 28]` in [-1, 1].

    Sides 1, 3, 6, 13, 28: the kernels 3x3 of stride 2 cover pixels unevenly, the 4x4 of stride 2 at last evenly.

    Args:
        latent: size of a latent vector, standard normal.
        width: channels of the third stage; the second has twice, the first four times as many.
    """

    def __init__(self, latent: int = 64, width: int = 64) -> None:
        super().__init__()
        self.latent = latent
        self.gen = nn.Sequential(
            _stage(latent, 4 * width, 3, 2),
            _stage(4 * width, 2 * width, 4, 1),
            _stage(2 * width, width, 3, 2),
            nn.Sequential(nn.ConvTranspose2d(width, 1, 4, stride=2), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.gen(z)


def _stage(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    """A transposed convolution with its norm and ReLU."""
    up = nn.ConvTranspose2d(before, after, kernel, stride=stride)
    return nn.Sequential(up, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class MNISTDiscriminator(nn.Module):
    """Digits to one logit each by four 4x4 convolutions of stride 2: `[N 1 28 28]` in [-1, 1] to `[N 1 1 1]`.

    Args:
        width: channels after the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * width), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4 * width, 1, 4, 2, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)
