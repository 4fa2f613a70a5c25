"""Adversarial losses by name: what a discriminator and a generator minimise, and what keeps the discriminator smooth.

With logits r of real and f of generated images:

    non-saturating   D: softplus(-r) + softplus(f)      G: softplus(-f)
    hinge            D: max(0, 1 - r) + max(0, 1 + f)   G: -f
    wasserstein-gp   D: f - r + 10 (|dD/dx| - 1)^2 at mixed images   G: -f
    relativistic     D: softplus(f - r) + gamma / 2 (|dD/dreal|^2 + |dD/dfake|^2)   G: softplus(r - f)

Sources: Goodfellow et al. 2014; Lim, Ye 2017 and Miyato et al. 2018; Gulrajani et al. 2017; Jolicoeur-Martineau 2018 and Huang et
al. 2024 (R3GAN); Mescheder, Geiger, Nowozin 2018 (R1). The losses on spectra are in `gradlens.spectra`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Critic = Callable[[Tensor], Tensor]
GAMMA = 1.0  # of R1 and R2
WEIGHT = 10.0  # of the gradient penalty


@dataclass(frozen=True)
class Loss:
    """A pair of losses.

    `discriminator(real_logits, fake_logits)` and `generator(fake_logits, real_logits)` give scalars; logits are `[N]` or `[N 1]`.
    `paired` says whether the generator's needs the real ones (else they may be None). `penalty(discriminator, real, fake, mix)`
    is added to the discriminator's loss, `mix` `[N 1 1 1]` in [0, 1]; None where there is none. `critic_steps`: how often the
    discriminator steps for one step of the generator.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    penalty: Callable[[Critic, Tensor, Tensor, Tensor], Tensor] | None = None
    paired: bool = False
    critic_steps: int = 1


def gradient_penalty(discriminator: Critic, real: Tensor, fake: Tensor, mix: Tensor, weight: float = WEIGHT) -> Tensor:
    """A differentiable scalar: weight times the mean over images of (|dD/dx| - 1)^2 at x = mix real + (1 - mix) fake.

    Range: [0, inf); 0 where the critic has slope 1 at these images.

    Args:
        discriminator: images `[N C H W]` to logits, each of its own image alone (no batch norm).
        real, fake: `[N C H W]`.
        mix: `[N 1 1 1]` in [0, 1], uniform.
        weight: of the penalty.

    Source: Gulrajani et al. 2017, eq. 3.

    Example:
        >>> x = torch.ones(4, 1, 2, 2)
        >>> gradient_penalty(lambda x: 0.5 * x.sum((1, 2, 3)), x, -x, torch.rand(4, 1, 1, 1)).item()
        0.0
    """
    between = (mix * real + (1 - mix) * fake).detach()
    slope = (_squared_slope(discriminator, between) + 1e-20).sqrt()  # the root has no slope at 0
    return weight * (slope - 1).square().mean()


def r1(discriminator: Critic, images: Tensor, gamma: float = GAMMA) -> Tensor:
    """A differentiable scalar: gamma / 2 times the mean over images of |dD/dx|^2; of generated images it is R2.

    Range: [0, inf); 0 for a discriminator that is flat there.

    Args:
        discriminator: images `[N C H W]` to logits, each of its own image alone (no batch norm).
        images: `[N C H W]`.
        gamma: of the penalty.

    Source: Mescheder, Geiger, Nowozin 2018, eq. 9.

    Example:
        >>> r1(lambda x: 3 * x.sum((1, 2, 3)), torch.zeros(4, 1, 2, 2), gamma=2.0).item()
        36.0
    """
    return gamma / 2 * _squared_slope(discriminator, images.detach()).mean()


def _squared_slope(discriminator: Critic, images: Tensor) -> Tensor:
    """|dD/dx|^2 of each image: `[N]`, differentiable."""
    images = images.requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return slope.to(torch.promote_types(slope.dtype, torch.float32)).flatten(1).square().sum(1)


def _r1_and_r2(discriminator: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    return r1(discriminator, real) + r1(discriminator, fake)


def _needed(real: Tensor | None) -> Tensor:
    assert real is not None
    return real


LOSSES: dict[str, Loss] = {
    "non-saturating": Loss(
        discriminator=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda fake, real: F.softplus(-fake).mean(),
    ),
    "hinge": Loss(
        discriminator=lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        generator=lambda fake, real: -fake.mean(),
    ),
    "wasserstein-gp": Loss(
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda fake, real: -fake.mean(),
        penalty=gradient_penalty,
        critic_steps=5,
    ),
    "relativistic": Loss(
        discriminator=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda fake, real: F.softplus(_needed(real) - fake).mean(),
        penalty=_r1_and_r2,
        paired=True,
    ),
}
