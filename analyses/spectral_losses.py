"""Does a spectral regulariser pull? One generator of transposed convolutions, trained with none and with five.

    none                      L = L_G
    azimuthal, as published   L = L_G + w c L_G, c detached: what the code of Durall, Keuper, Keuper 2020 does
    azimuthal, attached       L = L_G + w c, c the cross-entropy of azimuthal profiles: what their paper says
    lattice                   c = sum over T of `gradlens.spectra.lattice_loss`
    contrast                  c = sum over T of the mean `gradlens.spectra.lattice_contrast` above that of the real batch
    spectrum                  c = `gradlens.spectra.spectrum_distance` to the real batch

A detached c is a number: the gradient of L is (1 + w c) times the adversarial one, of cosine 1, and for Adam, which divides a
gradient by its size, nearly the same step. So as they train, from the same weights, latents and images: the cosine between the
gradients of L and of L_G over the generator's weights, the losses, and the lattice of samples; in the end FD and distance of
spectra. What a regulariser does alone is told by free pixels: samples of the untrained generator, moved without any network.

Samples are those of the averaged weights with the norms' statistics taken anew for them ("standing", Brock, Donahue, Simonyan
2019): running ones lag behind, and the constant that they leave comes out of an uneven kernel as a lattice.
Run: `python -m analyses.spectral_losses ASSETS`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens import models, spectra
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan.dataset import read
from gradlens.redesign.gan.instruments import generated
from gradlens.redesign.losses import LOSSES
from gradlens.redesign.quality import features, frechet_distance
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra.envelope import Kind

SIDE, LATENT, WIDTH, BATCH = 32, 64, 16, 32
UPSAMPLER, LOSS = "deconv:5", LOSSES["hinge"]
RATE, BETAS, KEPT = 2e-4, (0.5, 0.999), 0.99
PERIODS = (2, 4)
MEASURED = 10  # times, and at the start
LOOKED_AT = 128  # samples each time
SHOWN = 8
STANDING = (8, 64)  # batches, latents in each
PIXEL_STEPS, PIXEL_RATE = 60, 0.02
LUMA = (0.2989, 0.5870, 0.1140)
BACKBONE = "resnet18_half"
REAL = "real"

Term = Callable[[Tensor, Tensor], Tensor]
Look = Callable[[int, nn.Module, dict[str, float]], None]


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where CIFAR-10 is, and how much is trained."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    steps: Annotated[int, Parameter(help="Of each run.")] = 400
    seeds: Annotated[int, Parameter(help="Runs of each loss.")] = 3
    rated: Annotated[int, Parameter(help="Samples, and real images, for FD.")] = 600
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/spectral_losses-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


@dataclass(frozen=True)
class Regulariser:
    """A term of generated and real images `[N C H W]` in [-1, 1] and its weight; detached, it scales the adversarial loss."""

    weight: float
    term: Term
    detached: bool = False

    def total(self, adversarial: Tensor, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's whole loss."""
        term = self.weight * self.term(fake.detach() if self.detached else fake, real).to(adversarial)
        return adversarial + (term * adversarial if self.detached else term)


def lattices(fake: Tensor, real: Tensor) -> Tensor:
    """The lattice loss, over both periods."""
    return torch.stack([spectra.lattice_loss(fake, period) for period in PERIODS]).sum()


def contrasts_above(fake: Tensor, real: Tensor) -> Tensor:
    """By how many dB the mean lattice contrast of `fake` is above that of `real`, over both periods."""
    above = [spectra.lattice_contrast(fake, T).mean() - spectra.lattice_contrast(real, T).mean() for T in PERIODS]
    return torch.stack(above).relu().sum()


def azimuthal_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Binary cross-entropy of the mean azimuthal profile of `fake` against that of `real`.

    Source: Durall, Keuper, Keuper 2020, section 4.2.
    """
    return F.binary_cross_entropy(azimuthal_profile(fake).mean(0), azimuthal_profile(real).mean(0))


def azimuthal_profile(x: Tensor) -> Tensor:
    """The mean level of the grey image's spectrum at each whole radius, the least of an image 0 and the largest 1: `[N bins]`.

    Source: Durall, Keuper, Keuper 2020; grey, dB and range as in their code.
    """
    grey = torch.einsum("nchw,c->nhw", x.double(), torch.tensor(LUMA, dtype=torch.float64))
    level = 20 * torch.log10(torch.fft.fft2(grey).abs() + 1e-8).flatten(1)
    place = torch.fft.fftfreq(x.shape[-1], 1 / x.shape[-1])
    radius = torch.hypot(place[:, None], place).long().flatten()
    profile = level.new_zeros(len(x), int(radius.max()) + 1).index_add(1, radius, level) / radius.bincount()
    low, high = profile.amin(1, keepdim=True), profile.amax(1, keepdim=True)
    return (profile - low) / (high - low)


REGULARISERS = {
    "none": Regulariser(0, lattices),
    "azimuthal, as published": Regulariser(1, azimuthal_distance, detached=True),
    "azimuthal, attached": Regulariser(0.2, azimuthal_distance),
    "lattice": Regulariser(0.3, lattices),
    "contrast": Regulariser(0.05, contrasts_above),
    "spectrum": Regulariser(0.1, spectra.spectrum_distance),
}


@dataclass
class Table:
    """Rows under way."""

    rows: list[dict] = field(default_factory=list)

    def add(self, metric: str, value: float, unit: str = "1", **where: Any) -> None:
        self.rows.append({"image": "", "layer": "", "metric": metric, "value": value, "unit": unit} | where)

    def add_contrasts(self, images: Tensor, kinds: Sequence[Kind] = ("signed",), **where: Any) -> None:
        for kind in kinds:
            for period in PERIODS:
                value = spectra.lattice_contrast(images, period, kind=kind).mean().item()
                self.add("lattice_contrast", value, "dB", period=period, kind=kind, n=len(images), **where)


def run(config: Config) -> Results:
    """Every regulariser on free pixels, and in the training of as many generators as there are seeds."""
    for name, least in (("steps", MEASURED), ("seeds", 1), ("rated", 300)):
        if getattr(config, name) < least:
            raise ValueError(f"{name}: must be at least {least}, got {getattr(config, name)}")
    images = read([config.assets / "data" / "cifar10" / "train.zip"], SIDE).images
    others = spread(read([config.assets / "data" / "cifar10" / "test.zip"], SIDE).images, config.rated) / 255
    control = spread(images, config.rated) / 255
    judge = models.classifier(BACKBONE)
    known = features(judge, others)
    table, arrays = Table(), {"real": others[:: len(others) // SHOWN][:SHOWN].numpy()}
    _rate(table, control, others, known, judge, model=REAL, subject="image")
    for name, regulariser in REGULARISERS.items():
        free_pixels(regulariser, images, table, model=name)
    with progress("runs", len(REGULARISERS) * config.seeds) as advance:
        for name, regulariser in REGULARISERS.items():
            for seed in range(config.seeds):
                where = {"model": name, "image": f"seed {seed}"}
                generator = trained(regulariser, seed, images, config.steps, _looker(table, where))
                samples = generated(generator, latents(config.rated, seed, "rated"))
                _rate(table, samples, others, known, judge, subject="sample", **where)
                if seed == 0:
                    arrays[f"samples/{name}"] = samples[:SHOWN].numpy()
                advance()
    manifest = circumstances() | {
        "command": command(config), "steps": config.steps, "seeds": config.seeds, "rated": config.rated,
        "weights": {name: regulariser.weight for name, regulariser in REGULARISERS.items()},
    }  # fmt: skip
    return Results(pd.DataFrame(table.rows).reindex(columns=list(COLUMNS)), arrays, manifest)


def command(config: Config) -> str:
    """The command of a run, with what it gave beside the folder."""
    given = {name: getattr(config, name) for name in ("steps", "seeds", "rated")}
    options = [f"--{name} {value}" for name, value in given.items() if value != getattr(Config, name)]
    return " ".join(["python -m analyses.spectral_losses ASSETS", *options])


def spread(images: Tensor, count: int) -> Tensor:
    """`count` of `images`, evenly spaced: they are in the order of their classes."""
    return images[torch.linspace(0, len(images) - 1, count).long()]


def latents(count: int, seed: int, purpose: str) -> Tensor:
    """`[count LATENT]`, another draw for each purpose."""
    offset = ("weights", "looked at", "rated", "standing").index(purpose)
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(1000 * seed + offset))


def free_pixels(regulariser: Regulariser, images: Tensor, table: Table, **where: Any) -> None:
    """Rows of 32 samples of an untrained generator whose pixels follow the regulariser alone."""
    pixels = (2 * generated(standing(_pair(0)[0], 0), latents(BATCH, 0, "looked at")) - 1).requires_grad_()
    real = in_range(spread(images, BATCH))
    optimiser = torch.optim.Adam([pixels], lr=PIXEL_RATE)
    for step in range(PIXEL_STEPS + 1):
        if step % (PIXEL_STEPS // MEASURED) == 0:
            table.add_contrasts(pixels.detach(), subject="pixels", layer=f"step {step}", **where)
        total = regulariser.total(torch.zeros(()), pixels, real)
        pixels.grad = torch.autograd.grad(total, pixels)[0] if total.requires_grad else torch.zeros_like(pixels)
        optimiser.step()


def in_range(pixels: Tensor) -> Tensor:
    """uint8 as the networks take it, in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def _pair(seed: int) -> tuple[StagedGenerator, StagedDiscriminator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            StagedGenerator(SIDE, latent=LATENT, width=WIDTH, upsampler=UPSAMPLER),
            StagedDiscriminator(SIDE, width=WIDTH),
        )


def trained(regulariser: Regulariser, seed: int, images: Tensor, steps: int, look: Look) -> nn.Module:
    """The averaged generator after `steps`, with standing statistics; `look` sees it, and what the step told, on the way."""
    generator, judge = _pair(seed)
    averaged = deepcopy(generator)
    optimiser_g, optimiser_d = (torch.optim.Adam(n.parameters(), lr=RATE, betas=BETAS) for n in (generator, judge))
    source = torch.Generator().manual_seed(seed)
    weights, every = list(generator.parameters()), max(steps // MEASURED, 1)
    for step in range(steps + 1):
        real = in_range(images[torch.randint(len(images), (BATCH,), generator=source)])
        fake = generator(torch.randn(BATCH, LATENT, generator=source))
        loss_d = LOSS.discriminator(judge(real), judge(fake.detach()))
        _descend(optimiser_d, list(judge.parameters()), torch.autograd.grad(loss_d, list(judge.parameters())))
        adversarial = LOSS.generator(judge(fake), None)
        total = regulariser.total(adversarial, fake, real)
        gradients = torch.autograd.grad(total, weights, retain_graph=True)
        if step % every == 0:
            told = {"loss_discriminator": loss_d.item(), "loss_generator": adversarial.item()}
            told |= {"regulariser": regulariser.term(fake.detach(), real).item()}
            told |= against(gradients, torch.autograd.grad(adversarial, weights))
            look(step, standing(averaged, seed), told)
        _descend(optimiser_g, weights, gradients)
        with torch.no_grad():
            keep = min(KEPT, (1 + step) / (10 + step))
            for mean, now in zip(averaged.parameters(), weights, strict=True):
                mean.lerp_(now, 1 - keep)
    return standing(averaged, seed)


def against(gradients: Sequence[Tensor], adversarial: Sequence[Tensor]) -> dict[str, float]:
    """Cosine and ratio of sizes of the whole gradient and the adversarial one, over all weights."""
    ours, theirs = (torch.cat([g.double().flatten() for g in group]) for group in (gradients, adversarial))
    sizes = ours.norm(), theirs.norm()
    return {"cosine": (ours @ theirs / sizes[0] / sizes[1]).item(), "gradient_ratio": (sizes[0] / sizes[1]).item()}


def _descend(optimiser: torch.optim.Optimizer, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimiser.step()


@torch.no_grad()
def standing(generator: nn.Module, seed: int) -> nn.Module:
    """A copy whose batch norms hold the mean statistics of a few batches of latents.

    Source: Brock, Donahue, Simonyan 2019, appendix A.
    """
    copy = deepcopy(generator).train()
    for module in copy.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over batches
    batches, count = STANDING
    for part in latents(batches * count, seed, "standing").split(count):
        copy(part)
    return copy


def _looker(table: Table, where: dict[str, Any]) -> Look:
    def look(step: int, generator: nn.Module, told: dict[str, float]) -> None:
        layer = f"step {step}"
        samples = generated(generator, latents(LOOKED_AT, 0, "looked at"))
        table.add_contrasts(samples, subject="sample", layer=layer, **where)
        for metric, value in told.items():
            table.add(metric, value, subject="training", layer=layer, n=BATCH, **where)

    return look


def _rate(table: Table, images: Tensor, others: Tensor, known: Tensor, judge: nn.Module, **where: Any) -> None:
    """Contrasts of both kinds, FD and distance of spectra to the real images `others` with the features `known`."""
    table.add_contrasts(images, ("signed", "envelope"), **where)
    found = frechet_distance(features(judge, images), known)
    table.add(f"FD[{BACKBONE}, {len(images)}]", found.value, low=found.low, high=found.high, n=len(images), **where)
    table.add("spectrum_distance", spectra.spectrum_distance(images, others).item(), "dB", n=len(images), **where)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.spectral_losses", "Does a spectral regulariser pull?")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "spectral_losses")
        with new_run(target, "spectral_losses", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        last = t[(t["layer"] == "") & (t["subject"] != "pixels")]
        wide = last.pivot_table(
            index="model", columns=["metric", "kind", "period"], values="value", sort=False, dropna=False
        )
        print(wide.dropna(axis=1, how="all").to_string(float_format="{:.2f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
