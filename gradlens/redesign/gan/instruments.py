"""What is looked at while a GAN trains: the lattice of its samples and of the gradient that the discriminator hands back.

Nothing here waits for the device: values stay on it until they are read, so that measuring costs what it computes and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlens.gradients import input_gradient
from gradlens.modules import undisturbed
from gradlens.spectra import fine_detail, lattice_contrasts
from gradlens.spectra.envelope import Kind

KINDS: tuple[Kind, ...] = ("signed", "envelope")
TOGETHER = 64  # images a pass


@dataclass(frozen=True)
class Look:
    """Samples `[N C R R]` in [0, 1], the gradients `[N C R R]` of the discriminator's logits there, and mean contrasts in dB."""

    samples: Tensor
    gradients: Tensor
    contrasts: dict[str, Tensor]


def look(generator: nn.Module, discriminator: nn.Module, latents: Tensor, periods: Sequence[int]) -> Look:
    """What a pair makes of `latents` `[N L]`; both are left as they were."""
    samples = generated(generator, latents)
    found = gradients_at(discriminator, samples)
    told = picture_contrasts(samples, periods, "sample") | contrasts(found, periods, "gradient")
    return Look(samples, found, told)


@torch.no_grad()
def settle(network: nn.Module, latents: Tensor) -> None:
    """Set the running statistics of a generator's batch norms to those of `latents` `[N L]`.

    Running ones are of other weights: they lag behind a network that trains, and know nothing of an untrained or averaged one.
    The constant that they leave comes out of an uneven kernel as a lattice which no image of the training had.

    Source: Brock, Donahue, Simonyan 2019, "standing statistics".
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with undisturbed(network):
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for number, part in enumerate(latents.split(TOGETHER), start=1):
            for norm in norms:
                norm.momentum = 1 / number  # every batch counts alike; as momentum None, which waits for the device
            network(part)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def generated(generator: nn.Module, latents: Tensor) -> Tensor:
    """The images of a generator in eval mode: `[N L]` to `[N C R R]` float32 in [0, 1]."""
    with undisturbed(generator):
        made = torch.cat([generator(part).float() for part in latents.split(TOGETHER)])
    return ((made + 1) / 2).clamp(0, 1)


def gradients_at(discriminator: nn.Module, images: Tensor) -> Tensor:
    """The gradient of each image's logit, per unit of [0, 1]: `[N C R R]`."""
    parts = [2 * input_gradient(discriminator, 2 * part - 1, score=_logit) for part in images.split(TOGETHER)]
    return torch.cat(parts)


def _logit(output: Tensor) -> Tensor:
    return output.flatten()


def contrasts(x: Tensor, periods: Sequence[int], name: str, kinds: Sequence[Kind] = KINDS) -> dict[str, Tensor]:
    """Mean contrast over images at each period: `NAME/signed/T` and `NAME/envelope/T`, in dB; NaN where `x` holds NaN."""
    found = lattice_contrasts(x, periods, kinds=kinds, finite=True)
    return {f"{name}/{kind}/{period}": values.mean() for (kind, period), values in found.items()}


def picture_contrasts(images: Tensor, periods: Sequence[int], name: str) -> dict[str, Tensor]:
    """As `contrasts`, the envelope that of the fine detail of pictures, as `gradlens measure` has it."""
    detail = fine_detail(images, finite=True)
    return contrasts(images, periods, name, ("signed",)) | contrasts(detail, periods, name, ("envelope",))
