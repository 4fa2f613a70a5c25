"""Fast style transfer: a network that repaints photographs, with two transposed convolutions that cover pixels unevenly.

Source: Johnson, Alahi, Fei-Fei 2016, with instance norm (Ulyanov, Vedaldi, Lempitsky 2016), as in
lengstrom/fast-style-transfer. Its TensorFlow pads by the rule SAME: to an output of ceil(side / stride), the odd pixel
after the image; a transposed convolution is the adjoint of that, so it drops its last row and column.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StyleTransfer(nn.Module):
    """Photographs repainted in one style: `[N 3 H W]` RGB levels 0 to 255 to `[N 3 h w]` in (-22.5, 277.5).

    h and w are H and W rounded up to a multiple of 4; levels beyond 0 to 255 are the caller's to clip. Layers `c.0` to
    `c.2` shrink, `c.3` to `c.12` are five residual blocks, `t.0` and `t.1` enlarge; `n`, `tn` and `on` are their norms.

    Args:
        width: channels after the first layer; a block has four times as many.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide = 4 * width
        self.c = nn.ModuleList(
            [
                nn.Conv2d(3, width, 9, padding=4, bias=False),
                nn.Conv2d(width, 2 * width, 3, stride=2, bias=False),
                nn.Conv2d(2 * width, wide, 3, stride=2, bias=False),
                *(nn.Conv2d(wide, wide, 3, padding=1, bias=False) for _ in range(10)),
            ]
        )
        self.n = nn.ModuleList([InstanceNorm(width), InstanceNorm(2 * width), *(InstanceNorm(wide) for _ in range(11))])
        self.t = nn.ModuleList(
            [
                nn.ConvTranspose2d(wide, 2 * width, 3, stride=2, bias=False),
                nn.ConvTranspose2d(2 * width, width, 3, stride=2, bias=False),
            ]
        )
        self.tn = nn.ModuleList([InstanceNorm(2 * width), InstanceNorm(width)])
        self.o = nn.Conv2d(width, 3, 9, padding=4, bias=False)
        self.on = InstanceNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n[0](self.c[0](x)))
        for i in (1, 2):
            x = F.relu(self.n[i](self.c[i](same_padded(x, 3, 2))))
        for i in range(3, 13, 2):
            inner = F.relu(self.n[i](self.c[i](x)))
            x = x + self.n[i + 1](self.c[i + 1](inner))
        for up, norm in zip(self.t, self.tn, strict=True):
            x = F.relu(norm(up(x)[..., :-1, :-1]))
        return 150 * torch.tanh(self.on(self.o(x))) + 127.5


class InstanceNorm(nn.Module):
    """Each channel of each image at mean 0 and variance 1, then scaled and shifted: `[N C H W]` to the same.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.scale, bias=self.shift, eps=self.eps)


def same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """`x` `[N C H W]` with the zeros that TensorFlow's rule SAME puts around it, for an output of ceil(side / stride).

    Example:
        >>> same_padded(torch.ones(1, 1, 4, 5), 3, 2).shape
        torch.Size([1, 1, 5, 7])
    """
    around = []
    for side in (x.shape[-1], x.shape[-2]):
        zeros = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        around += [zeros // 2, zeros - zeros // 2]
    return F.pad(x, around)
