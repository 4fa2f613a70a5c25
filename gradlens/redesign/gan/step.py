"""One step of a GAN: the discriminator learns once or more, the generator once, its average follows.

A step is a function of the networks, their optimisers and what was drawn for it; nothing in it waits for the device, so that on a
GPU it is captured in a CUDA graph and replayed. One pass of the generator serves both networks, as in the DCGAN of the PyTorch
tutorial; the discriminator's weights get no gradient while the generator learns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.redesign.gan.augmentation import augment
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.losses import LOSSES
from gradlens.spectra import lattice_loss, spectrum_distance

Draws = Mapping[str, Tensor]
WARM = 3  # steps before a graph is captured


@dataclass
class Pair:
    """The two networks, the average of the generator's weights, and the two optimisers.

    `calls` holds what is called for each: the networks themselves, or their compiled forms.
    """

    generator: nn.Module
    discriminator: nn.Module
    averaged: nn.Module
    optimiser_g: torch.optim.Optimizer
    optimiser_d: torch.optim.Optimizer
    calls: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def mixes(self) -> bool:
        """Whether the discriminator's logit of an image depends on the others of its batch."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.discriminator.modules())


def take_step(
    pair: Pair, draws: Draws, config: TrainConfig, *, processes: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    """The losses `[2]` of discriminator and generator in one step, which changes `pair`.

    Args:
        pair: networks on one device, in train mode.
        draws: for each of K steps of the discriminator `real` `[K N C R R]` uint8, `latents` `[K N L]`, `mix` `[K N 1 1 1]`;
            `keep` `[]`, the share of the average that stays; random parameters of augmentation under `real/k/...`, `fake/k/...`
            and `generator/...`.
        config: its losses, weights and augmentation.
        processes: whose gradients are averaged.
        dtype: of autocast; None for none.
    """
    loss = LOSSES[config.loss]
    generate, judge = pair.calls["generator"], pair.calls["discriminator"]
    device = draws["latents"].device.type

    def cast() -> Any:
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None, cache_enabled=False)

    loss_d = fake = real = draws["latents"].new_zeros(())
    for k in range(loss.critic_steps):
        last = k == loss.critic_steps - 1
        real = _levels(draws["real"][k])
        with cast(), torch.set_grad_enabled(last):
            fake = generate(draws["latents"][k])
        fake = fake.float()
        seen = augment(real, _of(draws, f"real/{k}/")), augment(fake.detach(), _of(draws, f"fake/{k}/"))
        pair.optimiser_d.zero_grad(set_to_none=True)
        with cast():
            logits = _logits(judge, seen, apart=pair.mixes)
        loss_d = total = loss.discriminator(*logits)
        if loss.penalty is not None:
            total = total + loss.penalty(pair.discriminator, *seen, draws["mix"][k])
        total.backward()
        _average_gradients(pair.discriminator, processes)
        pair.optimiser_d.step()

    pair.discriminator.requires_grad_(False)
    pair.optimiser_g.zero_grad(set_to_none=True)
    with cast():
        logits_g = judge(augment(fake, _of(draws, "generator/"))).float()
        with torch.no_grad():
            logits_r = judge(augment(real, _of(draws, "generator/"))).float() if loss.paired else None
    loss_g = total = loss.generator(logits_g, logits_r)
    if config.lattice_weight:
        for period in config.measured:
            total = total + config.lattice_weight * lattice_loss(fake, period).float()
    if config.spectrum_weight:
        total = total + config.spectrum_weight * spectrum_distance(fake, real).float()
    total.backward()
    _average_gradients(pair.generator, processes)
    pair.optimiser_g.step()
    pair.discriminator.requires_grad_(True)
    _follow(pair.averaged, pair.generator, draws["keep"])
    return torch.stack([loss_d.detach(), loss_g.detach()])


def _levels(pixels: Tensor) -> Tensor:
    """uint8 as the networks take it: float32 in [-1, 1], channels last."""
    return (pixels.to(torch.float32) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _of(draws: Draws, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in draws.items() if k.startswith(prefix)}


def _logits(judge: Callable[[Tensor], Tensor], seen: tuple[Tensor, Tensor], *, apart: bool) -> tuple[Tensor, Tensor]:
    """The logits of real and generated images: in one pass, or in two where images of a batch know of each other."""
    if apart:
        real, fake = (judge(images).float() for images in seen)
        return real, fake
    real, fake = judge(torch.cat(seen)).float().chunk(2)
    return real, fake


def _average_gradients(network: nn.Module, processes: int) -> None:
    """Let every process have the mean gradient; in one message, as StyleGAN's loop does, and after any kind of backward pass."""
    if processes == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def _follow(averaged: nn.Module, network: nn.Module, keep: Tensor) -> None:
    """Move the average towards the weights; what is no weight (running statistics) is copied."""
    for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, (1 - keep).to(mean.dtype))
    for mean, now in zip(averaged.buffers(), network.buffers(), strict=True):
        mean.copy_(now)


class Captured:
    """A step as a CUDA graph: the first few run as they are, the next is captured, from then on it is replayed.

    Its inputs are copied into the tensors that the graph reads; shapes must stay.
    """

    def __init__(self, step: Callable[[Draws], Tensor]) -> None:
        self.step, self.done = step, 0
        self.inputs: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses = torch.empty(0)
        self.stream = torch.cuda.Stream()

    def __call__(self, draws: Draws) -> Tensor:
        if self.graph is None and self.done < WARM:
            self.done += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                losses = self.step(draws)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if self.graph is None:
            self.inputs = {name: value.clone() for name, value in draws.items()}
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may pin the next images
                self.losses = self.step(self.inputs)
            self.graph = graph
        for name, value in draws.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.losses.clone()
