"""What does a step of training cost? Cases of `analyses.speed`: a DCGAN in the loop of `gradlens train`, beside its peers.

The networks are those of the PyTorch DCGAN tutorial, their transposed convolutions replaced by resize-convolutions: batch norm in
both, binary cross-entropy, Adam. The peer is the tutorial's loop: float32, eager, maps as torch lays them, a resize and then a
convolution, two passes of the discriminator for its own step and one for the generator's, which leave gradients in its weights
each time. Its images lie on the device as floats, and it reads no loss on the way. Ours does what `gradlens train` does by
default: the resize folded into the convolution, maps channels-last, no gradients where nobody uses them, an average of the
generator's weights besides; on a GPU bfloat16, compiled, captured in a graph.

Operations are counted as executed, a multiplication and an addition as two (`torch.utils.flop_counter`), and set beside a matrix
product of as many in the same precision: that ratio is the share of the peak that is reached.

Source: Radford, Metz, Chintala 2016; https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analyses.timing import Case, Prepare
from gradlens.networks.stages import stage_count, widths
from gradlens.redesign.gan import dataset
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.run import Run

STEPS = {"cpu": 1, "cuda": 100}  # in one timing
FASTER = {"cpu": 1 / 1.5, "cuda": 1 / 3.5}  # than the textbook
LOOP = 1000  # steps of a whole loop, on a GPU
SIDE = 4096  # of the square matrix of the product


def training_cases(
    batch: int, device: torch.device, *, seed: int, resolution: int = 64, width: int = 64
) -> Iterator[Case]:
    """Our step against the textbook's and against one with transposed convolutions; what looking costs; the share of the peak.

    Args:
        batch: images a step.
        device: of the networks and the images.
        seed: of weights, images and latents.
        resolution: of the images, in pixels.
        width: channels at full resolution.
    """
    words, steps = f"DCGAN, {resolution} px, batch {batch}", STEPS[device.type]
    several = "training step" if steps == 1 else f"{steps} training steps"
    config = TrainConfig(
        upsampler=("resize",), downsampler=("stride2:4",), norm="batch", loss="non-saturating", latent=100, width=width,
        resolution=resolution, batch_size=batch, accelerator=device.type, devices="1", seed=seed,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (8 * batch, 3, resolution, resolution), dtype=torch.uint8, generator=generator)
    ours = started(config, images)
    peer = textbook(images.to(device), batch, width, seed=seed)
    yield Case(
        words, several, _times(steps, ours.advance), f"{several}, textbook", _times(steps, peer), steps * batch,
        FASTER[device.type],
    )  # fmt: skip
    deconvolved = started(replace(config, upsampler=("deconv:4",)), images)
    yield Case(
        words, several, _times(steps, ours.advance), f"{several}, transposed convolutions",
        _times(steps, deconvolved.advance), steps * batch, 1 / 0.95,
    )  # fmt: skip
    yield Case(
        words, "look", _times(1, ours.look), several,
        _times(steps, ours.advance), steps * batch, 0.02 * config.log_every / steps,
    )  # fmt: skip
    if device.type == "cuda":
        yield Case(
            words, f"{LOOP} steps, a look every {config.log_every}", _whole(ours, config.log_every),
            f"{LOOP} steps, a look at the ends", _whole(ours, LOOP), LOOP * batch, 1.02,
        )  # fmt: skip
    operations = counted(started(replace(config, compile=False), images).advance) / batch
    yield Case(
        words, "matrix product", _product(steps * batch * operations, device), several, _times(steps, ours.advance),
        steps * batch, None, operations,
    )  # fmt: skip


def started(config: TrainConfig, images: Tensor) -> Run:
    """A run of `gradlens train` on `images` `[N 3 R R]` uint8, before its first step."""
    from lightning_fabric import Fabric  # of the extra "train"

    fabric = Fabric(accelerator=config.accelerator, devices=1)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(config.seed)
        return Run(fabric, config, dataset.of_tensor(images), None, None)


def counted(work: Callable[[], object]) -> int:
    """The operations of convolutions and matrix products, a multiplication and an addition as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def textbook(images: Tensor, batch: int, width: int, *, seed: int) -> Callable[[], None]:
    """A step of the tutorial's loop on `images` `[N 3 R R]` uint8, on their device; each call is the next."""
    device, count = images.device, len(images)
    pixels = images.float() / 127.5 - 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        generator, discriminator = _networks(images.shape[-1], width)
    generator, discriminator = generator.to(device), discriminator.to(device)
    rate: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
    of_g, of_d = (torch.optim.Adam(n.parameters(), **rate) for n in (generator, discriminator))
    criterion = nn.BCEWithLogitsLoss()
    one, zero = torch.ones(batch, device=device), torch.zeros(batch, device=device)
    at = 0

    def step() -> None:
        nonlocal at
        real = pixels[at : at + batch]
        at = (at + batch) % count
        discriminator.zero_grad()
        criterion(discriminator(real).view(-1), one).backward()
        fake = generator(torch.randn(batch, 100, 1, 1, device=device))
        criterion(discriminator(fake.detach()).view(-1), zero).backward()
        of_d.step()
        generator.zero_grad()
        criterion(discriminator(fake).view(-1), one).backward()
        of_g.step()

    return step


def _networks(resolution: int, width: int) -> tuple[nn.Module, nn.Module]:
    """The tutorial's pair, a resize and a convolution in the place of each transposed convolution that enlarges."""
    wide = widths(width, stage_count(resolution))
    up: list[nn.Module] = [nn.ConvTranspose2d(100, wide[0], 4, bias=False)]
    for before, after in pairwise([*wide, 3]):
        up += [nn.BatchNorm2d(before), nn.ReLU(inplace=True), nn.Upsample(scale_factor=2)]
        up.append(nn.Conv2d(before, after, 3, padding=1, bias=False))
    down: list[nn.Module] = []
    for before, after in pairwise([3, *reversed(wide)]):
        down.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
        down += [nn.BatchNorm2d(after)] if before > 3 else []
        down.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*up, nn.Tanh()), nn.Sequential(*down, nn.Conv2d(wide[0], 1, 4, bias=False))


def _times(count: int, work: Callable[[], object]) -> Prepare:
    def all_of_it() -> None:
        for _ in range(count):
            work()

    return lambda: all_of_it


def _whole(run: Run, log_every: int) -> Prepare:
    """The loop of `gradlens train`, from its first step on."""

    def prepare() -> Callable[[], object]:
        run.step, run.config = 0, replace(run.config, steps=LOOP, log_every=log_every, save_every=LOOP)
        return lambda: run.go(None, lambda: False)

    return prepare


def _product(operations: float, device: torch.device) -> Prepare:
    """A matrix product of as many operations, in the precision of the training step."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = max(1, round(operations / (2 * SIDE**2)))
    a, b = (torch.randn(n, SIDE, device=device, dtype=dtype) for n in (rows, SIDE))
    out = torch.empty(rows, SIDE, device=device, dtype=dtype)
    return lambda: lambda: torch.mm(a, b, out=out)
