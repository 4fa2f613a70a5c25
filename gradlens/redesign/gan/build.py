"""The pair of a training run: built as configured or by its user's factories, tried once, described for a checkpoint."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradlens import networks
from gradlens.checkpoints import NETWORKS as HOME
from gradlens.console import first_line
from gradlens.models import factory
from gradlens.modules import undisturbed
from gradlens.redesign.gan.config import TrainConfig

GENERATORS = {
    "staged": networks.StagedGenerator,
    "residual": networks.ResidualGenerator,
    "neutral": networks.NeutralGenerator,
}


@dataclass(frozen=True)
class Ready:
    """A pair that has its weights already; it is trained in copies.

    Attributes:
        generator: `[N latent]` to `[N C R R]` in [-1, 1], what the configuration's `generator` and `generator_args` build; of a
            factory that is the user's it may be a changed one.
        discriminator: likewise; `[N C R R]` in [-1, 1] to one logit an image.
        origin: where the weights come from, in words; the manifest keeps it.
        recipe: of a changed generator, lines of Python that build and fill it and make images, for the model card.
        enlarging: the places where the generator enlarges, each with its modules in order; their certificates are told.
    """

    generator: nn.Module
    discriminator: nn.Module
    origin: str = "given"
    recipe: Sequence[str] = ()
    enlarging: Mapping[str, Sequence[str]] = field(default_factory=dict)


def build(config: TrainConfig, ready: Ready | None = None) -> tuple[nn.Module, nn.Module, dict[str, dict[str, Any]]]:
    """Generator, discriminator, and for each its `builder` and `arguments`, from the default generator of random numbers.

    Raises:
        ValueError: a word is unknown, or a network of the user's does not take or give what it should, or one that is ready is
            not what the configuration builds.
    """
    told = {"generator": _generator(config), "discriminator": _discriminator(config)}
    if ready is None:
        generator = _made("generator", told["generator"], config.generator_args)
        discriminator = _made("discriminator", told["discriminator"], config.discriminator_args)
    else:
        generator, discriminator = (
            deepcopy(network).requires_grad_(True) for network in (ready.generator, ready.discriminator)
        )
        for role, network in (("generator", generator), ("discriminator", discriminator)):
            told[role]["origin"] = ready.origin
            _check_described(role, network, told[role], config)
        if ready.recipe:
            told["generator"]["recipe"] = list(ready.recipe)
        if ready.enlarging:
            told["generator"]["enlarging"] = {name: list(names) for name, names in ready.enlarging.items()}
    _try(generator, discriminator, config)
    return generator, discriminator, told


def fresh_discriminator(config: TrainConfig) -> nn.Module:
    """The discriminator as configured, its weights from the seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        return _made("discriminator", _discriminator(config), config.discriminator_args)


def _check_described(role: str, network: nn.Module, told: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse a network that a checkpoint would describe wrongly."""
    if not told["builder"].startswith("gradlens.networks:"):
        return
    own = config.generator_args if role == "generator" else config.discriminator_args
    built, given = (
        {name: list(value.shape) for name, value in n.state_dict().items()} for n in (_made(role, told, own), network)
    )
    if built != given:
        apart = sorted(name for name in built.keys() | given.keys() if built.get(name) != given.get(name))
        raise ValueError(f"networks: the {role} is not what {told['builder']!r} builds; they differ in {apart[0]}")


def _generator(config: TrainConfig) -> dict[str, Any]:
    if ":" in config.generator:
        return {"builder": config.generator, "arguments": dict(config.generator_args)}
    if config.generator not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise ValueError(f"--generator: must be one of {known}, or package.module:factory, got {config.generator!r}")
    size: dict[str, Any] = {
        "resolution": config.resolution,
        "latent": config.latent,
        "width": config.width,
        "channels": config.channels,
    }
    if config.generator != "neutral":
        size["upsampler"] = _words(config.upsampler)
    return {"builder": _home(GENERATORS[config.generator]), "arguments": size | dict(config.generator_args)}


def _discriminator(config: TrainConfig) -> dict[str, Any]:
    if ":" in config.discriminator:
        return {"builder": config.discriminator, "arguments": dict(config.discriminator_args)}
    if config.discriminator != "staged":
        raise ValueError(f"--discriminator: must be staged, or package.module:factory, got {config.discriminator!r}")
    arguments = {
        "resolution": config.resolution, "width": config.width, "channels": config.channels,
        "downsampler": _words(config.downsampler), "first": config.first, "norm": config.norm,
    }  # fmt: skip
    return {"builder": _home(networks.StagedDiscriminator), "arguments": arguments | dict(config.discriminator_args)}


def _words(words: tuple[str, ...]) -> str | list[str]:
    """One word, or one for each stage."""
    return words[0] if len(words) == 1 else list(words)


def _home(network: type[nn.Module]) -> str:
    return f"{HOME}{network.__name__}"


def _made(role: str, told: Mapping[str, Any], own: Mapping[str, Any]) -> nn.Module:
    """The network that `told` describes; `own` are the arguments that its user added."""
    builder, arguments = told["builder"], told["arguments"]
    try:
        make = factory(builder)
    except ValueError as error:
        raise ValueError(f"--{role}: {str(error).removeprefix('model: ')}") from error
    try:
        network = make(**arguments)
    except Exception as error:  # a factory of the user's raises what it likes
        if not builder.startswith(HOME):
            raise ValueError(f"--{role}: {builder!r} fails with {arguments}: {error!r}") from error
        name = str(error).partition(":")[0]
        flag = f"--{role}-args: " if name in own or not name.isidentifier() else "--"
        raise ValueError(f"{flag}{error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"--{role}: {builder!r} returned a {type(network).__name__}, not an nn.Module")
    return network


def _try(generator: nn.Module, discriminator: nn.Module, config: TrainConfig) -> None:
    """Refuse a pair that does not fit together, before hours are spent."""
    wanted = [2, config.channels, config.resolution, config.resolution]
    latents = torch.zeros(2, config.latent)
    made = _ran("generator", generator, latents, f"{config.generator!r} does not run on latents [2, {config.latent}]")
    if list(made.shape) != wanted:
        raise ValueError(
            f"--generator: {config.generator!r} gives {list(made.shape)}; the discriminator is to see {wanted}"
        )
    logits = _ran("discriminator", discriminator, made, f"{config.discriminator!r} does not run on images {wanted}")
    if logits.numel() != 2:
        raise ValueError(
            f"--discriminator: {config.discriminator!r} gives {list(logits.shape)}; it must be one logit an image"
        )


def _ran(role: str, network: nn.Module, x: Tensor, failure: str) -> Tensor:
    try:
        with undisturbed(network), torch.no_grad():
            made = network(x)
    except Exception as error:  # as a factory does
        raise ValueError(f"--{role}: {failure} ({first_line(error)})") from error
    if not isinstance(made, Tensor):
        raise ValueError(f"--{role}: gives a {type(made).__name__}, not a tensor")
    return made


def described(role: str, told: Mapping[str, Any], config: TrainConfig, origin: str) -> dict[str, Any] | None:
    """What a checkpoint says of a network, as `gradlens.checkpoints` reads it; None for one of the user's."""
    if not told["builder"].startswith(HOME):
        return None
    side = config.resolution
    size = [config.latent] if role == "generator" else [config.channels, side, side]
    return {
        "role": role, "builder": told["builder"], "arguments": told["arguments"], "input_size": size, "mean": [0.5],
        "std": [0.5], "origin": origin,
    }  # fmt: skip
