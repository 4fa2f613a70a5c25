"""A network whose gradient is NaN for the first sample photograph, the only one with a light corner."""

import torch
from torch import Tensor, nn


class Spoilt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        factor = torch.where(x[:, 0, 0, 0] > 0.6, float("nan"), 1.0)
        return self.conv(x).relu().mean((2, 3)) * factor[:, None]


def network() -> nn.Module:
    return Spoilt()
