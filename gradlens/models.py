"""Networks that take images in [0, 1]: timm's classifiers, discriminators, generators and a user's own.

Whatever the source, the result is one `Model`: it normalises inside, so a gradient is per unit of [0, 1] intensity, it
is in eval mode and frozen, and its `info` says which weights it holds and how its images are prepared. A checkpoint that
describes itself (`gradlens` in its safetensors metadata) needs only its path; the bundled networks are such files.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, resources
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradlens import hub
from gradlens.checkpoints import card, file_hash, fill, newest, read_state, state_hash

Role = Literal["classifier", "discriminator", "generator"]

BUNDLED: dict[str, dict[Role, str]] = {
    "resnet18_half": {"classifier": "resnet18_half"},
    "resnetblur18_half": {"classifier": "resnetblur18_half"},
    "dcgan_svhn": {"discriminator": "dcgan_svhn_discriminator", "generator": "dcgan_svhn_generator"},
}


@dataclass(frozen=True)
class ModelInfo:
    """Where a model comes from and how its images are prepared.

    `input_size` is `[C H W]`; `mean` and `std` are per channel of a [0, 1] image; `weights` says in words what was
    loaded and `sha256` is the hash of that file, or of the state dict where there is none.
    """

    name: str
    role: Role
    weights: str
    sha256: str
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


class Model(nn.Module):
    """A network with its normalisation: images `[N C H W]` in [0, 1] to what the network returns.

    `network` is the bare network; layers are named as in it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, info: ModelInfo, *, drop_first: int = 0) -> None:
        super().__init__()
        self.network = network
        self.info = info
        self.drop_first = drop_first
        spatial = 2 if info.role == "generator" else len(info.input_size) - 1
        shape = (1, -1, *[1] * spatial)
        self.register_buffer("mean", torch.tensor(info.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(info.std).view(shape), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        if self.info.role == "generator":
            return self.network(images) * self.std + self.mean
        output = self.network((images - self.mean) / self.std)
        return output[:, self.drop_first :] if self.drop_first else output


def bare(model: nn.Module) -> nn.Module:
    """The network inside a `Model`, or the module itself: where layer names are looked up."""
    return model.network if isinstance(model, Model) else model


def load(
    name: str = "resnet18_half",
    *,
    weights: str | Path = "pretrained",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    drop_first: int = 0,
) -> Model:
    """The classifier or discriminator called `name`: bundled, a checkpoint, `package.module:factory`, or timm's.

    Args, Returns, Raises: as `classifier` and `discriminator`.
    """
    options: dict[str, Any] = {
        "weights": weights, "seed": seed, "model_args": model_args, "input_size": input_size, "mean": mean, "std": std,
    }  # fmt: skip
    told = card(Path(name)) if Path(name).is_file() else None
    role = told["role"] if told else next(iter(BUNDLED.get(name, {"classifier": name})))
    if role == "discriminator":
        return discriminator(name, **options)
    return classifier(name, **options, drop_first=drop_first)


def load_against(name_or_file: str, name: str, **options: Any) -> Model:
    """The model to hold `name` against: another name, or `name` with the weights of a file that describes no network.

    Of `options`, those of `load`, another network takes only the seed and, if it is a factory's, the input size.
    """
    path = Path(name_or_file)
    if path.is_file() and card(path) is None:
        return load(name, weights=path, **options)
    shared = ("seed", "input_size") if ":" in name_or_file else ("seed",)
    return load(name_or_file, **{k: v for k, v in options.items() if k in shared})


def classifier(
    name: str = "resnet18_half",
    *,
    weights: str | Path = "pretrained",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    drop_first: int = 0,
) -> Model:
    """A classifier that takes [0, 1] images, normalises inside, in eval mode, frozen.

    Args:
        name: a bundled name (`resnet18_half`, `resnetblur18_half`), any timm name, a checkpoint of gradlens, or
            `package.module:factory`, which is called with `model_args` and must return an `nn.Module`.
        weights: `"pretrained"` (bundled, or timm's from the hub), `"random"`, or the path of a safetensors file or a
            pickle, which is read with `weights_only=True`. The number of classes follows the file.
        seed: of random weights.
        model_args: go to `timm.create_model` or to the factory.
        input_size: `[C H W]`; the network's own unless given. Needed for a factory.
        mean, std: per channel of a [0, 1] image; the network's own unless given, 0 and 1 for a factory.
        drop_first: leave out so many leading logits, such as a background class.

    Raises:
        ValueError: the name is unknown, the weights do not read or do not fit, or `input_size` is missing.
        OSError: the weights must be downloaded and the hub cannot be reached.
    """
    return _build(
        "classifier", name, weights=weights, seed=seed, model_args=model_args, input_size=input_size, mean=mean, std=std,
        drop_first=drop_first,
    )  # fmt: skip


def discriminator(
    name_or_path: str | Path = "dcgan_svhn",
    *,
    weights: str | Path = "pretrained",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """A GAN discriminator that takes [0, 1] images, normalises inside, in eval mode, frozen.

    Args:
        name_or_path: `dcgan_svhn` (bundled), a checkpoint of gradlens (a file, or the folder of a run of `gradlens train`),
            or `package.module:factory` with `weights=path`.
        weights, seed, model_args, input_size, mean, std: as `classifier`.

    Raises:
        ValueError, OSError: as `classifier`.
    """
    return _build(
        "discriminator", str(name_or_path), weights=weights, seed=seed, model_args=model_args, input_size=input_size,
        mean=mean, std=std,
    )  # fmt: skip


def generator(
    name_or_path: str | Path = "dcgan_svhn",
    *,
    weights: str | Path = "pretrained",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """A GAN generator from latents `[N latent]` to images `[N C H W]` in [0, 1], in eval mode, frozen.

    Args:
        name_or_path: `dcgan_svhn` (bundled), a checkpoint of gradlens (a file, or the folder of a run of `gradlens train`),
            or `package.module:factory` with `weights=path`.
        weights, seed, model_args: as `classifier`.
        input_size: `[latent]`, or `[C 1 1]` for one that takes maps.
        mean, std: an image is `output * std + mean`; 0.5 and 0.5 for a tanh at the end.

    Raises:
        ValueError, OSError: as `classifier`.
    """
    return _build(
        "generator", str(name_or_path), weights=weights, seed=seed, model_args=model_args, input_size=input_size,
        mean=mean, std=std,
    )  # fmt: skip


def fetched_from(name: str, weights: str | Path = "pretrained") -> str | None:
    """Where `load` must fetch weights from, as host and path; None if they are on this machine or none are wanted."""
    if weights != "pretrained" or name in BUNDLED or ":" in name or Path(name).is_file() or not hub.is_known(name):
        return None
    return hub.fetched_from(name)


def built_by(
    name: str, role: Role, *, weights: str | Path = "pretrained", model_args: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """What builds the network called `name`, `timm:NAME` or `package.module:factory`, and its arguments."""
    recipe = _recipe(role, name, str(weights), 0, model_args or {})
    return recipe.builder, recipe.arguments


def tiny_imagenet_classes() -> list[str]:
    """Names of the 200 classes of the bundled classifiers, in order."""
    text = resources.files("gradlens").joinpath("weights/tiny_imagenet_classes.txt").read_text(encoding="utf-8")
    return [line.split("\t", 1)[1] for line in text.splitlines()]


def _build(
    role: Role,
    name: str,
    *,
    weights: str | Path,
    seed: int,
    model_args: Mapping[str, Any] | None,
    input_size: Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    drop_first: int = 0,
) -> Model:
    """One road for every source: describe the network, build it, fill it, wrap it."""
    recipe = _recipe(role, name, str(weights), seed, model_args or {})
    state = None if recipe.file is None else read_state(recipe.file)
    network, preparation = _network(recipe, seed, state)
    preparation |= {k: v for k, v in recipe.told.items() if k in preparation}
    preparation |= {k: v for k, v in (("input_size", input_size), ("mean", mean), ("std", std)) if v is not None}
    if (
        preparation["input_size"] is not None
        and recipe.builder.startswith("timm:")
        and len(preparation["input_size"]) != 3
    ):
        raise ValueError(f"input_size: must be C H W, got {list(preparation['input_size'])}")
    if preparation["input_size"] is None:
        raise ValueError(f"input_size: {name!r} does not say it; give C H W, as in --input-size 3 224 224")
    classes = getattr(network, "num_classes", None)
    if drop_first < 0 or (drop_first and isinstance(classes, int) and drop_first >= classes):
        raise ValueError(f"drop_first: must leave at least one of {classes} logits, got {drop_first}")
    if state is not None:
        fill(network, state, recipe.weights)
    info = ModelInfo(
        name=_legible(Path(name).name),
        role=role,
        weights=recipe.weights,
        sha256=state_hash(network) if recipe.file is None else file_hash(recipe.file),
        input_size=tuple(preparation["input_size"]),
        mean=_each_channel("mean", preparation["mean"], role, preparation["input_size"]),
        std=_each_channel("std", preparation["std"], role, preparation["input_size"]),
        interpolation=preparation["interpolation"],
        crop_pct=preparation["crop_pct"],
    )
    return Model(network, info, drop_first=drop_first)


@dataclass(frozen=True)
class _Recipe:
    """What must be built and filled: `told` is what a checkpoint says of itself, `weights` what is loaded, in words."""

    builder: str
    arguments: dict[str, Any]
    file: Path | None
    from_hub: bool
    weights: str
    told: Mapping[str, Any]


def _recipe(role: Role, name: str, weights: str, seed: int, model_args: Mapping[str, Any]) -> _Recipe:
    """How to come by the network called `name`.

    Raises:
        ValueError: it is of another role, or there is no such file.
    """
    path = _checkpoint_path(role, name)
    told = (card(path) if path is not None else None) or {}
    if told and told["role"] != role:
        raise ValueError(f"{name!r} is a {told['role']}, not a {role}")
    builder = told.get("builder") or (name if ":" in name else f"timm:{name}")
    file = path if weights == "pretrained" else None if weights == "random" else Path(weights)
    from_hub = builder.startswith("timm:") and weights == "pretrained" and file is None
    if file is not None:
        words = f"bundled, {told['origin']}" if name in BUNDLED and file == path else f"file {_legible(file.name)}"
    elif from_hub:
        words = "pretrained, timm"
    else:
        words = f"random, seed {seed}" if weights == "random" else f"as the factory made them, seed {seed}"
    arguments = dict(told.get("arguments", {}))
    if file != path:
        arguments.pop("num_classes", None)  # those of another file are that file's
    return _Recipe(builder, arguments | dict(model_args), file, from_hub, words, told)


def renamed(model: Model, name: str) -> Model:
    """`model` under another name in tables."""
    model.info = replace(model.info, name=name)
    return model


def _checkpoint_path(role: Role, name: str) -> Path | None:
    """The file of a bundled network or a checkpoint, None for a name that must be built.

    Raises:
        ValueError: the bundled network has no such role, or a path is named where there is no such file.
    """
    if name in BUNDLED:
        if role not in BUNDLED[name]:
            raise ValueError(f"{name!r} is a {' and a '.join(BUNDLED[name])}, not a {role}")
        return Path(str(resources.files("gradlens").joinpath(f"weights/{BUNDLED[name][role]}.safetensors")))
    path = Path(name)
    if path.is_dir() and ":" not in name:
        path = newest(path) / f"{role}.safetensors"
        name = str(path)
    if path.is_file():
        if card(path) is None:
            raise ValueError(f"{name!r} does not describe its network; name the network and give --weights {name}")
        return path
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        raise ValueError(f"there is no file {name!r}")
    return None


def _network(recipe: _Recipe, seed: int, state: Mapping[str, Tensor] | None) -> tuple[nn.Module, dict[str, Any]]:
    """The network and how its images are prepared. Random weights come from `seed`; the global RNG is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        if recipe.builder.startswith("timm:"):
            name = recipe.builder.removeprefix("timm:")
            return hub.build(name, recipe.arguments, state, pretrained=recipe.from_hub, near=tuple(BUNDLED))
        make = factory(recipe.builder)
        try:
            network = make(**recipe.arguments)
        except Exception as error:  # a factory of the user's raises what it likes
            source = f"{recipe.file.name!r}: " if recipe.told and recipe.file else ""
            raise ValueError(f"model: {source}{recipe.builder!r} fails with {recipe.arguments}: {error!r}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{recipe.builder!r} returned a {type(network).__name__}, not an nn.Module")
    plain = {"input_size": None, "mean": (0.0,), "std": (1.0,), "interpolation": "bilinear", "crop_pct": 1.0}
    return network, plain


def _legible(name: str) -> str:
    """`name` with bytes that are no Unicode, which a table cannot hold, spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def factory(name: str) -> Callable[..., Any]:
    """The callable `package.module:factory`, with the working directory on the path as for `python -m`.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"model: {name!r} is not package.module:factory")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ValueError(f"model: {name!r}: cannot import {module!r} ({error})") from error
    except AttributeError as error:
        raise ValueError(f"model: {name!r}: module {module!r} has no {attribute!r}") from error
    if not callable(factory):
        raise ValueError(f"model: {name!r} is a {type(factory).__name__}, not a callable that returns a network")
    return factory


def _each_channel(name: str, values: Sequence[float], role: Role, input_size: Sequence[int]) -> tuple[float, ...]:
    """`values` for every channel of an image; one value serves all.

    Raises:
        ValueError: their number is wrong, or one is not finite or, of `std`, not above 0.
    """
    values = tuple(float(v) for v in values)
    if not all(isfinite(v) and (name == "mean" or v > 0) for v in values):
        raise ValueError(f"{name}: must be finite{' and above 0' if name == 'std' else ''}, got {list(values)}")
    if role == "generator":
        return values  # of its images, whose channels its latents do not tell
    if len(values) == 1:
        return values * input_size[0]
    if len(values) != input_size[0]:
        raise ValueError(f"{name}: needs one value for each of {input_size[0]} channels, got {list(values)}")
    return values
