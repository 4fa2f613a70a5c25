"""Models: what they hold, how they prepare an image, and what they refuse."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from gradlens import models
from gradlens.networks import DCGANDiscriminator
from tests.hub import serving

CLASSES = 7  # of the small checkpoints
FACTORIES = """
import torch
from torch import nn

number = 3

def plain(classes=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(12, classes))

def no_module():
    return "a string"

def painter(channels=3):
    return nn.Sequential(nn.ConvTranspose2d(8, channels, 4), nn.Tanh())

def broken():
    raise TypeError("broken as asked")
"""


class Bomb:
    """Unpickled with trust, it makes a file; that file must never appear."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def small(classes: int = CLASSES, seed: int = 1) -> nn.Module:
    """timm's smallest ResNet with random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model("test_resnet", num_classes=classes)
    return network.eval()


def pictures(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(x.shape[1])], 1)


def described(path: Path, state: dict[str, Tensor], card: Any) -> Path:
    """A safetensors file that describes itself with `card`, which need not be a good one."""
    save_file(state, path, metadata={"gradlens": card if isinstance(card, str) else json.dumps(card)})
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    return small().state_dict()


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable module of factories; `sys.path` and `sys.modules` are put back."""
    (tmp_path / "own_networks.py").write_text(FACTORIES)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "own_networks"
    sys.modules.pop("own_networks", None)


# The bundled networks


@pytest.mark.parametrize("name", ["resnet18_half", "resnetblur18_half"])
def test_a_bundled_classifier_loads_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model = models.classifier(name)
    assert model(pictures()).shape == (2, 200)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet18_half", "resnetblur18_half"])
def test_a_bundled_classifier_is_timms_network_on_normalised_images(name: str) -> None:
    file = resources.files("gradlens").joinpath(f"weights/{name}.safetensors")
    network = timm.create_model(name.removesuffix("_half"), channels=(32, 64, 128, 256), num_classes=200).eval()
    network.load_state_dict(load_file(str(file)), strict=True)
    inside = normalised(pictures(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(models.classifier(name)(pictures()), network(inside))


def test_a_gradient_is_per_unit_of_unit_intensity() -> None:
    x = pictures().requires_grad_()
    model = models.classifier()
    (outer,) = torch.autograd.grad(model(x)[:, 3].sum(), x)
    y = normalised(pictures(), model.info.mean, model.info.std).requires_grad_()
    (inner,) = torch.autograd.grad(model.network(y)[:, 3].sum(), y)
    torch.testing.assert_close(outer, inner / torch.tensor(model.info.std).view(1, 3, 1, 1))


def test_bare_is_the_network_inside() -> None:
    model, module = models.classifier(), nn.Identity()
    assert models.bare(model) is model.network
    assert models.bare(module) is module


def test_there_are_200_class_names() -> None:
    names = models.tiny_imagenet_classes()
    assert len(names) == 200
    assert names[:3] == ["Egyptian cat", "reel", "volleyball"]
    assert all(name == name.strip() and name for name in names)


@pytest.mark.parametrize(
    ("load", "file"),
    [
        (models.classifier, "resnet18_half"),
        (models.discriminator, "dcgan_svhn_discriminator"),
        (models.generator, "dcgan_svhn_generator"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_the_hash_of_a_bundled_network_is_that_of_its_file(load: Any, file: str) -> None:
    content = resources.files("gradlens").joinpath(f"weights/{file}.safetensors").read_bytes()
    info = load().info
    assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert info.weights.startswith("bundled, ")


def test_the_generator_paints_in_the_unit_range() -> None:
    model = models.generator()
    z = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    images = model(z)
    assert images.shape == (64, 3, 32, 32)
    assert images.min() >= 0 and images.max() <= 1
    assert images.max() - images.min() > 0.7
    torch.testing.assert_close(images, (model.network(z) + 1) / 2)


def test_the_critic_gives_one_score_an_image() -> None:
    model = models.discriminator()
    x = pictures()
    assert model(x).shape == (2, 1)
    torch.testing.assert_close(model(x), model.network(2 * x - 1))


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("classifier", "dcgan_svhn", "'dcgan_svhn' is a discriminator and a generator, not a classifier"),
        ("discriminator", "resnet18_half", "'resnet18_half' is a classifier, not a discriminator"),
        ("generator", "resnetblur18_half", "'resnetblur18_half' is a classifier, not a generator"),
    ],
)
def test_a_bundled_network_keeps_to_its_role(role: str, name: str, said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        getattr(models, role)(name)
    assert str(refusal.value) == said


# Random weights


@pytest.mark.parametrize("name", ["resnet18_half", "test_resnet", "test_vit"])
def test_a_seed_fixes_random_weights(name: str) -> None:
    first, again, other = (models.classifier(name, weights="random", seed=seed) for seed in (3, 3, 4))
    assert first.info == again.info
    assert first.info.sha256 != other.info.sha256
    a, b = first.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert first.info.weights == "random, seed 3"


def test_random_weights_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    models.classifier("test_resnet", weights="random", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_do_not_depend_on_the_global_generator() -> None:
    first = models.classifier("test_resnet", weights="random").info.sha256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert models.classifier("test_resnet", weights="random").info.sha256 == first


def test_random_weights_are_not_those_of_the_bundle() -> None:
    assert models.classifier(weights="random").info.sha256 != models.classifier().info.sha256
    key = "conv1.weight"
    random, bundled = (models.classifier(weights=w).network.state_dict()[key] for w in ("random", "pretrained"))
    assert not torch.equal(random, bundled)


# Weights from a file

WRAPPINGS: dict[str, Any] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "ema": lambda s: {"state_dict_ema": s, "state_dict": {k: torch.zeros_like(v) for k, v in s.items()}},
    "DDP": lambda s: {f"module.{k}": v for k, v in s.items()},
    "state_dict of DDP": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_pickle_is_taken_out_of_its_wrapping(wrap: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / "net.pth")
    read = models.read_state(tmp_path / "net.pth")
    assert set(read) == set(state)
    assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth", "net.pt", "net"])
def test_a_file_fills_the_network_and_sets_its_classes(file: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / file
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    model = models.classifier("test_resnet", weights=path)
    x = pictures()
    torch.testing.assert_close(model(x), small()(normalised(x, model.info.mean, model.info.std)))
    assert model(x).shape == (2, CLASSES)
    assert model.info.weights == f"file {file}"
    assert model.info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet.r160_in1k"])
def test_the_number_of_classes_follows_the_file(name: str, tmp_path: Path) -> None:
    network = timm.create_model(name.split(".")[0], num_classes=5)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "net.safetensors")
    assert models.classifier(name, weights=tmp_path / "net.safetensors").network.num_classes == 5


def test_the_number_of_classes_of_a_bundled_name_follows_the_file(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", channels=(32, 64, 128, 256), num_classes=10)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    assert models.classifier("resnet18_half", weights=tmp_path / "net.safetensors")(pictures()).shape == (2, 10)


def test_half_precision_weights_become_float32(state: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(halves, tmp_path / "net.safetensors")
    network = models.classifier("test_resnet", weights=tmp_path / "net.safetensors").network
    assert all(torch.equal(v, halves[k].to(v.dtype)) for k, v in network.state_dict().items())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_leading_logits_can_be_left_out(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    x = pictures()
    whole = models.classifier("test_resnet", weights=tmp_path / "net.safetensors")(x)
    rest = models.classifier("test_resnet", weights=tmp_path / "net.safetensors", drop_first=2)(x)
    assert torch.equal(rest, whole[:, 2:])


def test_a_network_without_a_head_is_a_network() -> None:
    model = models.classifier("test_resnet", weights="random", model_args={"num_classes": 0})
    assert model(torch.rand(1, *model.info.input_size)).ndim == 2  # its features


def test_mean_std_and_input_size_can_be_given() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    model = models.classifier("test_resnet", weights="random", mean=mean, std=std, input_size=(3, 40, 48))
    assert (model.info.mean, model.info.std, model.info.input_size) == (mean, std, (3, 40, 48))
    x = pictures()
    torch.testing.assert_close(model(x), model.network(normalised(x, mean, std)))


def test_one_mean_serves_every_channel() -> None:
    assert models.classifier("test_resnet", weights="random", mean=[0.25]).info.mean == (0.25, 0.25, 0.25)


def test_a_mean_for_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mean: needs one value for each of 3 channels, got \[0.0, 0.5\]"):
        models.classifier("test_resnet", weights="random", mean=[0, 0.5])


def test_the_preparation_is_timms() -> None:
    info = models.classifier("test_vit", weights="random").info
    config = timm.get_pretrained_cfg("test_vit")
    assert config is not None
    told = (info.input_size, info.mean, info.std, info.interpolation, info.crop_pct)
    assert told == (config.input_size, config.mean, config.std, config.interpolation, config.crop_pct)


def test_model_args_reach_timm() -> None:
    model = models.classifier("test_resnet", weights="random", model_args={"num_classes": 11})
    assert model(pictures()).shape == (2, 11)


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [("test_resnet", {"in_chans": 1}, (1, 160, 160)), ("test_vit", {"img_size": 32}, (3, 32, 32))],
)
def test_the_input_size_follows_model_args(name: str, arguments: dict[str, Any], size: tuple[int, ...]) -> None:
    model = models.classifier(name, weights="random", model_args=arguments)
    assert model.info.input_size == size
    assert model(torch.zeros(1, *size)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"std": (0.5, float("nan"), 0.5)}, "std"),
        ({"input_size": (3, 32)}, "input_size"),
        ({"drop_first": -1}, "drop_first"),
        ({"drop_first": 1000}, "drop_first"),
    ],
    ids=str,
)
def test_a_preparation_that_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        models.classifier("test_resnet", weights="random", **options)


def test_a_model_arg_that_timm_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match=r"timm cannot build 'test_resnet'.*nonsense"):
        models.classifier("test_resnet", weights="random", model_args={"nonsense": 1})


def test_load_does_not_drop_options_for_a_discriminator() -> None:
    assert models.load("dcgan_svhn", mean=[0.0], std=[1.0]).info.mean == (0.0, 0.0, 0.0)


# Files that are refused


def test_a_pickle_with_code_is_refused_and_not_run(state: dict[str, Tensor], tmp_path: Path) -> None:
    mark = tmp_path / "the code ran"
    torch.save({**state, "bomb": Bomb(mark)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"weights: 'net.pth' does not read as plain tensors"):
        models.classifier("test_resnet", weights=tmp_path / "net.pth")
    assert not mark.exists()
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert mark.exists()  # the bomb is a live one


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_a_truncated_file_is_refused_by_name(file: str, share: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / file
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        path.write_bytes(save(state))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"weights: '{file}' "):
        models.classifier("test_resnet", weights=path)


NOT_WEIGHTS: dict[str, Any] = {
    "text": b"these are no weights\n",
    "a page of the hub": b"<!DOCTYPE html><html></html>",
    "a list": [torch.zeros(2)],
    "a tensor": torch.zeros(2),
    "an optimiser": {"state_dict": {"lr": 0.1}},
    "numbered tensors": {0: torch.zeros(2), 1: torch.zeros(2)},
}


@pytest.mark.parametrize("content", NOT_WEIGHTS.values(), ids=NOT_WEIGHTS)
def test_what_holds_no_weights_is_refused_by_name(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights: 'net.pth' "):
        models.classifier("test_resnet", weights=path)


def test_a_refusal_of_weights_does_not_advise_to_trust_them(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**state, "bomb": Bomb(tmp_path / "ran")}, tmp_path / "net.pth")
    with pytest.raises(ValueError) as refusal:
        models.read_state(tmp_path / "net.pth")
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize("weights", ["nowhere.pth", "nowhere.safetensors", "pretraind"])
def test_missing_weights_are_named(weights: str) -> None:
    with pytest.raises(ValueError, match=f"weights: there is no file '{weights}'"):
        models.classifier("test_resnet", weights=weights)


def test_a_checkpoint_that_does_not_fit_names_five_keys_of_each_fault(state: dict[str, Tensor], tmp_path: Path) -> None:
    norms = [key for key in state if key.endswith("running_mean")]
    assert len(norms) > 5
    missing = {key: value for key, value in state.items() if key not in norms}
    strange = {f"extra.{i}": torch.zeros(1) for i in range(7)}
    shapes = {key: torch.zeros(*value.shape, 2) for key, value in missing.items() if key.endswith("running_var")}
    torch.save({**missing, **strange, **shapes}, tmp_path / "net.pth")
    with pytest.raises(ValueError) as refusal:
        models.classifier("test_resnet", weights=tmp_path / "net.pth")
    told = "; ".join(
        f"{len(keys)} {fault}: {', '.join(keys[:5])}"
        for fault, keys in (("missing", norms), ("unexpected", [*strange]), ("of another shape", [*shapes]))
    )
    assert str(refusal.value) == f"weights: file net.pth does not fit the network ({told})"


# Names


@pytest.mark.parametrize(
    ("name", "near"), [("resnet18_hlaf", "resnet18_half"), ("resnet81", "resnet18"), ("test_resnett", "test_resnet")]
)
def test_an_unknown_name_gives_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError) as refusal:
        models.classifier(name)
    said = str(refusal.value)
    assert said.startswith(f"model: '{name}' is neither")
    assert near in said.split("near names: ")[1].split(", ")


def test_a_name_near_nothing_gives_none() -> None:
    with pytest.raises(ValueError, match=r"nor timm's; gradlens ls models says what may be named$"):
        models.classifier("zzzzzz")


@pytest.mark.parametrize("weights", ["random", "file"])
def test_an_unknown_tag_is_a_wrong_value(weights: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="bogus"):
        models.classifier("test_resnet.bogus", weights=weights if weights == "random" else tmp_path / "net.safetensors")


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no file 'nowhere.safetensors'"):
        models.load("nowhere.safetensors")


def test_a_model_can_be_renamed() -> None:
    model = models.classifier("test_resnet", weights="random")
    info = model.info
    assert models.renamed(model, "mine") is model
    assert model.info.name == "mine" and model.info.sha256 == info.sha256 and info.name == "test_resnet"


# Factories


def test_a_factory_builds_with_its_arguments(factories: str) -> None:
    model = models.classifier(f"{factories}:plain", model_args={"classes": 9}, input_size=(3, 16, 16))
    assert model(pictures()).shape == (2, 9)
    assert (model.info.mean, model.info.std, model.info.crop_pct) == ((0.0,) * 3, (1.0,) * 3, 1.0)
    assert model.info.weights == "as the factory made them, seed 0"
    assert not model.network.training and not any(p.requires_grad for p in model.parameters())


def test_a_factory_can_be_filled_from_a_file(factories: str, tmp_path: Path) -> None:
    source = models.classifier(f"{factories}:plain", seed=7, input_size=(3, 16, 16))
    torch.save(source.network.state_dict(), tmp_path / "net.pth")
    filled = models.classifier(f"{factories}:plain", weights=tmp_path / "net.pth", input_size=(3, 16, 16))
    assert torch.equal(source(pictures()), filled(pictures()))
    assert not torch.equal(
        models.classifier(f"{factories}:plain", input_size=(3, 8, 8))(pictures()), filled(pictures())
    )


def test_a_factory_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_cwd.py").write_text(FACTORIES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    assert models.classifier("networks_of_cwd:plain", input_size=(3, 8, 8))(pictures()).shape == (2, 4)
    sys.modules.pop("networks_of_cwd")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_networks:no_module", "'own_networks:no_module' returned a str, not an nn.Module"),
        ("own_networks:nothing", "module 'own_networks' has no 'nothing'"),
        ("own_networks:number", "own_networks:number"),
        ("nowhere_at_all:net", "cannot import 'nowhere_at_all'"),
        (":net", "':net'"),
        ("own_networks:broken", "own_networks:broken"),
    ],
)
def test_a_factory_that_does_not_serve_is_named(factories: str, name: str, said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refusal:
        models.classifier(name, input_size=(3, 8, 8))
    assert said in str(refusal.value)


def test_a_factory_needs_an_input_size(factories: str) -> None:
    with pytest.raises(ValueError, match=r"input_size: 'own_networks:plain' does not say it; give C H W"):
        models.classifier(f"{factories}:plain")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_generator_may_take_maps(factories: str, channels: int) -> None:
    half = [0.5] * channels
    model = models.generator(
        f"{factories}:painter", input_size=(8, 1, 1), mean=half, std=half, model_args={"channels": channels}
    )
    z = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    assert model(z).shape == (2, channels, 4, 4)
    torch.testing.assert_close(model(z), (model.network(z) + 1) / 2)


# Checkpoints that describe themselves

CARD = {
    "builder": "timm:test_resnet", "arguments": {"num_classes": CLASSES}, "role": "classifier", "origin": "ours",
    "input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic",
    "crop_pct": 0.9, "format": 1,
}  # fmt: skip


def test_a_checkpoint_that_describes_itself_needs_only_its_path(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path / "mine.safetensors", state, CARD)
    info = models.load(str(path)).info
    assert info == models.ModelInfo(
        "mine.safetensors", "classifier", "file mine.safetensors", hashlib.sha256(path.read_bytes()).hexdigest(),
        (3, 48, 48), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "bicubic", 0.9,
    )  # fmt: skip
    x = pictures()
    torch.testing.assert_close(models.load(str(path))(x), small()(normalised(x, info.mean, info.std)))


def test_a_checkpoint_of_a_critic_loads_as_one(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"widths": [4, 6], "side": 16}
    card = {**CARD, "builder": "gradlens.networks:DCGANDiscriminator", "arguments": arguments, "role": "discriminator"}
    path = described(tmp_path / "critic.safetensors", DCGANDiscriminator(**arguments).state_dict(), card)
    assert models.load(str(path)).info.role == "discriminator"
    assert models.load(str(path))(torch.zeros(2, 3, 16, 16)).shape == (2, 1)
    with pytest.raises(ValueError, match="is a discriminator, not a generator"):
        models.generator(path)


@pytest.mark.parametrize("builder", ["os:system", "own_networks:plain", "gradlens.networksx:f", "builtins:eval", None])
def test_a_checkpoint_may_not_name_a_builder_of_its_own(
    builder: str | None, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = described(tmp_path / "net.safetensors", state, {**CARD, "builder": builder})
    for load in (models.load, models.classifier, models.discriminator, models.generator):
        with pytest.raises(
            ValueError, match=r"'net.safetensors' names the builder .*; only timm and gradlens.networks"
        ):
            load(str(path))


BAD_CARDS: dict[str, Any] = {
    "no JSON": "{",
    "a list": [1],
    "a string": '"timm:test_resnet"',
    "no role": {k: v for k, v in CARD.items() if k != "role"},
    "no arguments": {k: v for k, v in CARD.items() if k != "arguments"},
    "arguments in a list": {**CARD, "arguments": [1]},
    "no class of ours": {**CARD, "builder": "gradlens.networks:torch", "arguments": {}},
    "an unknown argument": {**CARD, "builder": "gradlens.networks:DCGANGenerator", "arguments": {"depth": 3}},
}


@pytest.mark.parametrize("card", BAD_CARDS.values(), ids=BAD_CARDS)
def test_a_bad_description_is_refused_by_name(card: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path / "net.safetensors", state, card)
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        models.load(str(path))


def test_a_checkpoint_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for classes in (3, 4):
        described(path, small(classes).state_dict(), {**CARD, "arguments": {"num_classes": classes}})
        assert models.load(str(path))(pictures()).shape == (2, classes)


def test_the_same_relative_path_elsewhere_is_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for classes in (3, 4):
        (tmp_path / str(classes)).mkdir()
        monkeypatch.chdir(tmp_path / str(classes))
        described(Path("net.safetensors"), small(classes).state_dict(), {**CARD, "arguments": {"num_classes": classes}})
        assert models.load("net.safetensors")(pictures()).shape == (2, classes)


def test_a_file_without_description_is_not_a_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="does not describe its network; name the network and give --weights"):
        models.load(str(tmp_path / "net.safetensors"))


def test_a_described_checkpoint_can_be_filled_at_random(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path / "net.safetensors", state, CARD)
    model = models.load(str(path), weights="random", seed=2)
    assert model.info.weights == "random, seed 2" and model.info.input_size == (3, 48, 48)
    assert not torch.equal(model.network.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


# What a model is held against


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_plain_weights_are_held_against_as_the_same_network(
    file: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / file
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    info = models.load_against(str(path), "test_resnet").info
    assert (info.name, info.weights) == ("test_resnet", f"file {file}")


def test_a_described_checkpoint_is_held_against_as_itself(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path / "net.safetensors", state, CARD)
    assert models.load_against(str(path), "resnet18_half").info.name == "net.safetensors"


def test_a_name_is_held_against_as_itself() -> None:
    assert models.load_against("resnetblur18_half", "resnet18_half").info.name == "resnetblur18_half"


# The hub

ASK = """
from gradlens import models
try:
    model = models.classifier("test_resnet.r160_in1k")
except (OSError, ValueError) as error:
    print(error)
else:
    from safetensors.torch import save_file
    save_file(model.network.state_dict(), "got.safetensors")
    print(model.info.weights, model.info.sha256)
"""


def ask(folder: Path, script: str = ASK, **environment: str) -> str:
    """What a fresh process says that loads a small model from the hub; `folder` is its home."""
    proxies = {f"{scheme}_proxy" for scheme in ("http", "https", "all")}
    kept = {key: value for key, value in os.environ.items() if key.lower() not in proxies}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, check=True, capture_output=True, text=True, timeout=120,
        env={**kept, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.slow
def test_pretrained_weights_come_from_the_hub(tmp_path: Path) -> None:
    served = small(1000, seed=5).state_dict()
    with serving("timm/test_resnet.r160_in1k", save(served)) as hub:
        said = ask(tmp_path, HF_ENDPOINT=hub.endpoint)
    got = load_file(tmp_path / "got.safetensors")
    assert set(got) == set(served) and all(torch.equal(got[key], served[key]) for key in served)
    assert said.startswith("pretrained, timm ")
    assert any(line.startswith("GET /timm/test_resnet.r160_in1k/resolve/") for line in hub.asked)


@pytest.mark.slow
def test_weights_once_fetched_need_no_hub(tmp_path: Path) -> None:
    with serving("timm/test_resnet.r160_in1k", save(small(1000, seed=5).state_dict())) as hub:
        first = ask(tmp_path, HF_ENDPOINT=hub.endpoint)
    assert ask(tmp_path, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1") == first


@pytest.mark.slow
@pytest.mark.parametrize("why", ["offline", "unknown repository"])
def test_without_the_hub_one_sentence_names_the_way_out(why: str, tmp_path: Path) -> None:
    with serving("timm/another", b"") as hub:
        offline = "1" if why == "offline" else "0"
        said = ask(tmp_path, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE=offline)
    host = hub.endpoint.removeprefix("http://")
    assert said.startswith(
        f"the weights of 'test_resnet.r160_in1k' are not on this machine and {host}/timm/test_resnet.r160_in1k gave none ("
    )
    assert said.endswith("give --weights FILE or --weights random") and "\n" not in said


@pytest.mark.slow
def test_a_hub_out_of_reach_is_not_asked_for_a_minute(tmp_path: Path) -> None:
    with serving("timm/another", b"") as hub:
        pass  # its port is closed again
    timed = "import time; began = time.monotonic()" + ASK + "print(time.monotonic() - began)"
    *said, seconds = ask(tmp_path, timed, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0").splitlines()
    assert "gave none (" in said[0] and said[0].endswith("give --weights FILE or --weights random")
    assert float(seconds) < 40  # with the library's own repetitions, 46 s of waiting alone


@pytest.mark.slow
def test_a_damaged_file_of_the_hub_is_no_traceback(tmp_path: Path) -> None:
    with serving("timm/test_resnet.r160_in1k", b"<html>proxy login</html>") as hub:
        said = ask(tmp_path, HF_ENDPOINT=hub.endpoint)
    assert "test_resnet.r160_in1k" in said
