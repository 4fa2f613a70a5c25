"""The DCGAN family: a generator that doubles the side stage by stage, and a discriminator that halves it.

How a stage enlarges or shrinks is a word, `KEY` or `KEY:KERNEL` of `gradlens.upsampling.UPSAMPLERS` and
`gradlens.downsampling.DOWNSAMPLERS`; everything else stays, so that two networks differ in that alone.

Source: Radford, Metz, Chintala 2016; spectral norm: Miyato et al. 2018.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gradlens.downsampling import DOWNSAMPLERS
from gradlens.filters import whole
from gradlens.networks.stages import START, each_stage, halvings, layer, stage_count, widths
from gradlens.upsampling import UPSAMPLERS

Norm = Literal["spectral", "batch", "none"]


class StagedGenerator(nn.Module):
    """Latents to images in stages from 4 px: `[N latent]` to `[N C R R]` in [-1, 1].

    The last layer that enlarges writes the image itself, as in DCGAN: what it writes, nothing smooths.

    Args:
        resolution: R; 8 times a power of two.
        latent: size of a latent vector, standard normal.
        width: channels before the last stage; doubled for each stage before it, at most eight times.
        channels: C.
        upsampler: how each stage enlarges, one word for all or one for each, from 4 px up: `resize`, `deconv:5`, ...

    Raises:
        TypeError, ValueError: an argument is out of its range; the message names it.

    Source: Radford, Metz, Chintala 2016.

    Example:
        >>> network = StagedGenerator(16, latent=8, width=4, upsampler=["resize", "deconv:5"])
        >>> network(torch.zeros(2, 8)).shape
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
        self.latent, self.stages = whole(latent, "latent", least=1), stages
        wide = widths(width, stages)
        self.fc = nn.Linear(latent, wide[0] * START**2, bias=False)
        self.bn0 = nn.BatchNorm2d(wide[0])
        words = each_stage(upsampler, stages, "upsampler")
        wide.append(whole(channels, "channels", least=1))
        for stage, (word, (before, after)) in enumerate(zip(words, pairwise(wide), strict=True), start=1):
            last = stage == stages
            setattr(self, f"up{stage}", layer(UPSAMPLERS, word, before, after, "upsampler", bias=last))
            if not last:
                setattr(self, f"bn{stage}", nn.BatchNorm2d(after))

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).unflatten(1, (self.bn0.num_features, START, START))
        for stage in range(1, self.stages + 1):
            x = F.relu(self.get_submodule(f"bn{stage - 1}")(x))
            x = self.get_submodule(f"up{stage}")(x)
        return torch.tanh(x)


class StagedDiscriminator(nn.Module):
    """Images to one logit each in stages down to 3 or 4 px: `[N C R R]` in [-1, 1] to `[N 1]`.

    Args:
        resolution: R, at least 8; a stage halves what is above 4 px, rounded up.
        width: channels after the first stage; doubled with each, at most eight times.
        channels: C.
        downsampler: how each stage shrinks, one word for all or one for each, from the image down: `stride2`, `blur:5`, ...
        first: how the first stage shrinks, whose gradient the image gets; as the others where None.
        norm: `spectral` of every weight, `batch` after every stage but the first, or `none`.

    Raises:
        TypeError, ValueError: an argument is out of its range; the message names it.

    Source: Radford, Metz, Chintala 2016; Miyato et al. 2018.

    Example:
        >>> network = StagedDiscriminator(16, width=4, downsampler="stride2", first="stride1")
        >>> network(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        resolution: int = 64,
        *,
        width: int = 64,
        channels: int = 3,
        downsampler: str | Sequence[str] = "stride2",
        first: str | None = None,
        norm: Norm = "spectral",
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"norm: must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        self.stages, side = halvings(resolution)
        words = each_stage(downsampler, self.stages, "downsampler")
        words = words if first is None else [first, *words[1:]]
        wide = [whole(channels, "channels", least=1), *reversed(widths(width, self.stages))]
        for stage, (word, (before, after)) in enumerate(zip(words, pairwise(wide), strict=True), start=1):
            normed = norm == "batch" and stage > 1
            argument = "first" if stage == 1 and first is not None else "downsampler"
            setattr(self, f"down{stage}", layer(DOWNSAMPLERS, word, before, after, argument, bias=not normed))
            setattr(self, f"bn{stage}", nn.BatchNorm2d(after) if normed else nn.Identity())
        self.fc = nn.Linear(wide[-1] * side**2, 1)
        if norm == "spectral":
            for module in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
                spectral_norm(module)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"down{stage}")(x)
            x = F.leaky_relu(self.get_submodule(f"bn{stage}")(x), 0.2)
        return self.fc(x.flatten(1))
