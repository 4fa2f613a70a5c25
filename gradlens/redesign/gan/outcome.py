"""What a training run leaves: lattices of samples, gradients and real images, ratings, certificates of layers, the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradlens.compare import measure
from gradlens.console import plain
from gradlens.downsampling import DOWNSAMPLERS
from gradlens.modules import undisturbed
from gradlens.networks import ResidualGenerator, StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan import dataset
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.instruments import generated, gradients_at, picture_contrasts
from gradlens.redesign.surgery import certified
from gradlens.results import COLUMNS, Results, cache_folder, circumstances
from gradlens.spectra import fine_detail, lattice_statistics
from gradlens.spectra.statistics import of_pictures
from gradlens.upsampling import UPSAMPLERS

MEASURED = 256  # images of each kind
SHOWN = 64


@dataclass(frozen=True)
class Ended:
    """A run at its end: the networks on their device, and what is known of the training."""

    config: TrainConfig
    data: dataset.Data
    held_out: Tensor | None
    generator: nn.Module
    discriminator: nn.Module
    told: Mapping[str, Mapping[str, Any]]
    logged: Mapping[str, np.ndarray]
    strip: list[tuple[int, np.ndarray]]
    latents: Tensor
    step: int
    finished: bool
    facts: Mapping[str, Any]


def outcome(run: Ended) -> Results:
    """The results of a run; samples are of the averaged generator, drawn from the seed."""
    config, device = run.config, run.latents.device
    samples = generated(run.generator, rated_latents(config).to(device))
    real = some_real(run.data.images, config)
    looked = {
        "sample": samples[:MEASURED],
        "input-gradient": gradients_at(run.discriminator, samples[:MEASURED]),
        "image": (real[:MEASURED].float() / 255).to(device),
    }
    tables, arrays = [], {f"log/{name}": column for name, column in run.logged.items()}
    for subject, x in looked.items():
        table, power = lattices(x, config.label, subject, config.measured)
        tables.append(table)
        arrays[f"power/{'gradient' if subject == 'input-gradient' else subject}"] = power
    if config.rated and run.finished:
        tables.append(rated(samples[: config.rated], real, config, run.held_out))
    told = picture_contrasts(looked["image"], config.measured, "real")
    arrays |= {name: value.float().cpu().numpy() for name, value in told.items()}
    arrays["samples"] = generated(run.generator, run.latents).cpu().numpy()
    arrays["real"] = looked["image"][:SHOWN].cpu().numpy()
    if run.strip:
        arrays["progress/step"] = np.array([step for step, _ in run.strip], np.int64)
        arrays["progress/samples"] = np.stack([images for _, images in run.strip])
    rows = pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS))
    return Results(rows, arrays, _manifest(run))


def rated_latents(config: TrainConfig) -> Tensor:
    """The latents whose samples are measured, the first of them also rated: `[n latent]`, of the seed."""
    more = torch.Generator().manual_seed(dataset.seed_of(config.seed, "measured", 0))
    return torch.randn(max(MEASURED, config.rated), config.latent, generator=more)


def some_real(images: Tensor, config: TrainConfig) -> Tensor:
    """The real images that samples are held against, the same ones in every run on them."""
    return _some(images, max(MEASURED, 2 * config.rated))


def lattices(x: Tensor, label: str, subject: str, periods: Sequence[int]) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a set of pictures or gradients `[N C R R]`, and their mean power `[F F]`."""
    statistics = lattice_statistics(x, periods)
    if subject != "input-gradient":  # energy of pictures is that of their fine detail, as `gradlens measure` has it
        statistics = of_pictures(statistics, lattice_statistics(fine_detail(x), periods))
    table = measure(statistics, model=label, subject=subject)
    return table.loc[table["image"] == ""], statistics.power.float().cpu().numpy()


def _some(images: Tensor, count: int) -> Tensor:
    """At most `count` of the images, drawn at random, the same ones in every run on them."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:count]]


def rated(samples: Tensor, real: Tensor, config: TrainConfig, held_out: Tensor | None = None) -> pd.DataFrame:
    """How good samples are against real images, beside the control, as configured; features of these are cached."""
    from gradlens.redesign.quality import rate

    others = None if held_out is None else _some(held_out, 2 * config.rated)
    return rate(
        samples.cpu(), real, backbone=config.backbone, held_out=others, label=config.label, seed=config.seed,
        device=samples.device, cache=cache_folder() / "features",
    )  # fmt: skip


def _manifest(run: Ended) -> dict[str, Any]:
    config = run.config
    networks = {
        role: dict(run.told[role])
        | {
            "parameters": sum(p.numel() for p in network.parameters()),
            "layers": _layers(network, config, run.told[role]),
        }
        for role, network in (("generator", run.generator), ("discriminator", run.discriminator))
    }
    speeds = run.logged.get("images_per_second", np.array([np.nan]))
    training = {
        "config": plain(config), "label": config.label, "data": run.data.told, "steps": run.step,
        "images": run.step * config.batch_size * run.facts["critic_steps"], "images_per_second": float(np.nanmedian(speeds)),
        "periods": list(config.measured), "interrupted": not run.finished,
    }  # fmt: skip
    manifest = circumstances() | {"training": training | networks | dict(run.facts)}
    return manifest | {
        "seed": config.seed, "device": run.facts["device"], "partial": not run.finished,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _layers(network: nn.Module, config: TrainConfig, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The layers of a family's network that enlarge or shrink, each with the certificate of its own constants or gradients.

    Of another network those that it came with.
    """
    if "enlarging" in told:
        return certified_places(network, told["enlarging"])
    if isinstance(network, StagedGenerator):
        names = [f"up{stage}" for stage in range(1, network.stages + 1)]
        return _certified(network, names, config.upsampler, UPSAMPLERS, "forward")
    if isinstance(network, ResidualGenerator):
        names = [f"blocks.{number}.up" for number in range(len(network.blocks))]
        return _certified(network, names, config.upsampler, UPSAMPLERS, "forward")
    if isinstance(network, StagedDiscriminator):
        names = [f"down{stage}" for stage in range(1, network.stages + 1)]
        words = list(config.downsampler) * (network.stages if len(config.downsampler) == 1 else 1)
        words = words if config.first is None else [config.first, *words[1:]]
        return _certified(network, names, words, DOWNSAMPLERS, "backward")
    return []


def certified_places(network: nn.Module, places: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Each place where a network enlarges, the modules that stand there in order, with its forward certificate."""
    found = []
    for name, modules in places.items():
        chain = nn.Sequential(*(network.get_submodule(module) for module in modules))
        with undisturbed(chain):
            verdict, deviation = certified(chain, _channels(chain), 2, "forward")
        kind = ", ".join(type(m).__name__ for m in chain if not isinstance(m, nn.Identity))
        found.append({"layer": name, "kind": kind, "certificate": verdict, "deviation": deviation})
    return found


def _certified(
    network: nn.Module,
    names: list[str],
    words: Any,
    table: Mapping[str, Any],
    direction: Literal["forward", "backward"],
) -> list[dict[str, Any]]:
    words = list(words) * (len(names) if len(words) == 1 else 1)
    found = []
    for name, word in zip(names, words, strict=True):
        layer = network.get_submodule(name)
        with undisturbed(layer):
            verdict, deviation = certified(layer, _channels(layer), 2, direction)
        found.append({"layer": name, "kind": word, "certificate": verdict, "deviation": deviation})
    return found


def _channels(layer: nn.Module) -> int:
    """The channels that a layer takes: those of its first convolution."""
    for module in layer.modules():
        if hasattr(module, "in_channels"):
            return int(module.in_channels)  # type: ignore[arg-type]
    raise AssertionError(f"{type(layer).__name__} has no channels")
