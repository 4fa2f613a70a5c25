"""Layers that are certified beside those of `gradlens.upsampling` and `downsampling`: bare, with cures by hand, broken ones.

Sources: 002 = Sugawara, Shiota, Kiya 2018 (zero-order hold: approach A is behind the layer, C inside it); 004 = Gao et al.
2017 (pixel deconvolution); Shi et al. 2016 and Aitken et al. 2017 (sub-pixel convolution, ICNR); Zhang 2019 (blur before a
stride); Kinoshita, Kiya 2020 (hold before a stride).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import Filter, binomial, hold

CHANNELS = 3


def held() -> Filter:
    """The zero-order hold of 002, eq. 4, over 2 px, behind a layer or before one."""
    return Filter(hold(2))


class LevelDependent(nn.Module):
    """Even for constants below 1.2, from where a ReLU opens an uneven branch."""

    def __init__(self) -> None:
        super().__init__()
        self.even = equalised_transposed(deconvolution(4))
        self.uneven = deconvolution(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.even(x) + self.uneven(F.relu(x - 1.2))


def deconvolution(kernel: int, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution of random weights."""
    return nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride=stride)


def equalised_transposed(layer: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """The layer with the taps of each phase shifted to one sum: eq. 8."""
    with torch.no_grad():
        layer.weight.copy_(_equalised(layer.weight, layer.stride[0]))
    return layer


def equalised_strided(layer: nn.Conv2d) -> nn.Conv2d:
    """The same for the gradient of a strided convolution."""
    with torch.no_grad():
        layer.weight.copy_(_equalised(layer.weight, layer.stride[0]))
    return layer


def _equalised(weight: Tensor, stride: int) -> Tensor:
    """Add one number to the taps of each phase, so that their sums are the mean of all phases' sums."""
    weight = weight.detach().clone().double()
    phases = [(..., slice(p, None, stride), slice(q, None, stride)) for p in range(stride) for q in range(stride)]
    mean = weight.sum(dim=(-2, -1), keepdim=True) / len(phases)
    for phase in phases:
        taps = weight[phase]
        taps += (mean - taps.sum(dim=(-2, -1), keepdim=True)) / taps[0, 0].numel()
    return weight


def subpixel(*, icnr: bool, one_bias: bool) -> nn.Sequential:
    """A convolution to four times the channels, shuffled; ICNR: the four kernels of a channel start equal."""
    conv = nn.Conv2d(CHANNELS, 4 * CHANNELS, 3, padding=1)
    assert conv.bias is not None
    with torch.no_grad():
        if icnr:
            conv.weight.copy_(conv.weight[::4].repeat_interleave(4, dim=0))
        if one_bias:
            conv.bias.copy_(conv.bias[::4].repeat_interleave(4))
    return nn.Sequential(conv, nn.PixelShuffle(2))


def resize_convolution(mode: str) -> nn.Sequential:
    """Odena's cure: an enlargement without weights, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))


def windowed_sinc(*, normalised: bool, half_width: int = 4) -> nn.ConvTranspose2d:
    """Enlargement by 2 with a sinc under a Hann window; normalised: each of its phases to sum 1.

    Centred on a pixel, one phase is a single 1 and the other, cut off, has a sum near 1. (Centred between pixels the two
    phases of a factor 2 mirror each other, and no truncation makes them differ.)
    """
    t = torch.arange(1 - 2 * half_width, 2 * half_width, dtype=torch.float64) / 2  # in input pixels
    line = torch.sinc(t) * torch.cos(torch.pi * t / (2 * half_width)).square()
    if normalised:
        line[::2] /= line[::2].sum()
        line[1::2] /= line[1::2].sum()
    layer = nn.ConvTranspose2d(CHANNELS, CHANNELS, len(line), stride=2, groups=CHANNELS, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(line, line))
    return layer


def blurred() -> Filter:
    """A fixed blur of 1 2 1 an axis."""
    return Filter(binomial(3))


def strided(kernel: int, stride: int = 2) -> nn.Conv2d:
    """A convolution of stride 2 with random weights."""
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride=stride, padding=(kernel - 1) // 2)


def dead(*layers: nn.Module) -> nn.Sequential:
    """The layers behind a ReLU that nothing passes."""
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, -100.0)
    return nn.Sequential(conv, nn.ReLU(), *layers)
