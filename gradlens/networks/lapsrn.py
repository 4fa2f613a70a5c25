"""LapSRN x4: super-resolution as a pyramid, each level one transposed convolution on features and one on the image.

Source: Lai, Huang, Ahuja, Yang 2017, as in twtygqyy/pytorch-LapSRN. All kernels of stride 2 are 4x4: even coverage.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class LapSRN(nn.Module):
    """Luma enlarged four times: `[N 1 H W]` in [0, 1] to `[N 1 4H 4W]`, around [0, 1] and not clipped.

    Luma is the Y of YCbCr by BT.601, 16/255 to 235/255: the published PSNR is of that. Layers of level i: `convt_Fi`
    features, `convt_Ii` the image, `convt_Ri` what is added to it.

    Args:
        width: channels of the features.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv_input = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.convt_F1 = nn.Sequential(_Features(width))
        self.convt_I1 = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
        self.convt_R1 = nn.Conv2d(width, 1, 3, padding=1, bias=False)
        self.convt_F2 = nn.Sequential(_Features(width))
        self.convt_I2 = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
        self.convt_R2 = nn.Conv2d(width, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.convt_F1(F.leaky_relu(self.conv_input(x), 0.2))
        x = self.convt_I1(x) + self.convt_R1(features)  # [N 1 2H 2W]
        return self.convt_I2(x) + self.convt_R2(self.convt_F2(features))


class _Features(nn.Module):
    """Ten 3x3 convolutions and a transposed one, each with leaky ReLU: `[N C H W]` to `[N C 2H 2W]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(10)]
        up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
        self.cov_block = nn.Sequential(
            *(m for layer in (*layers, up) for m in (layer, nn.LeakyReLU(0.2, inplace=True)))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cov_block(x)
