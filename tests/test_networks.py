"""The DCGAN pair: shapes, keys, and the bundled weights against those they were made from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gradlens import models
from gradlens.networks import DCGANDiscriminator, DCGANGenerator

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def latents(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


def norms(*names: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in NORM}


@pytest.mark.parametrize(
    ("latent", "widths", "channels", "start", "side"),
    [(100, (256, 128, 64), 3, 4, 32), (8, (6, 4), 1, 7, 28), (5, (4,), 2, 3, 6)],
)
def test_each_stage_of_the_generator_doubles_the_side(
    latent: int, widths: tuple[int, ...], channels: int, start: int, side: int
) -> None:
    images = DCGANGenerator(latent, widths, channels, start).eval()(latents(2, latent))
    assert images.shape == (2, channels, side, side)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(
    ("widths", "channels", "side"),
    [((64, 128, 256), 3, 32), ((4, 6), 1, 28), ((4,), 2, 6), pytest.param((4, 6, 8), 1, 28, id="odd side at last")],
)
def test_the_discriminator_gives_one_score_an_image(widths: tuple[int, ...], channels: int, side: int) -> None:
    assert DCGANDiscriminator(widths, channels, side).eval()(torch.zeros(3, channels, side, side)).shape == (3, 1)


def test_the_generator_has_the_keys_of_its_author() -> None:
    weights = {f"{name}.weight" for name in ("fc", "up1", "up2", "up3")}
    assert set(DCGANGenerator().state_dict()) == weights | norms("bn0", "bn1", "bn2")


def test_the_discriminator_has_the_keys_of_its_author() -> None:
    weights = {f"{name}.weight" for name in ("c1", "c2", "c3", "fc")}
    assert set(DCGANDiscriminator().state_dict()) == weights | norms("bn2", "bn3")


def test_the_generator_is_its_stages_in_order() -> None:
    """The forward pass once more, written out."""
    g = DCGANGenerator(8, (6, 4), 3, 2).eval()
    z = latents(2, 8)
    x = torch.relu(g.bn0(g.fc(z))).reshape(2, 6, 2, 2)
    x = torch.relu(g.bn1(g.up1(x)))
    assert torch.equal(g(z), torch.tanh(g.up2(x)))


def test_the_discriminator_is_its_stages_in_order() -> None:
    """The forward pass once more, written out: leaky ReLU of slope 0.2, no norm after the first stage."""
    d = DCGANDiscriminator((4, 6), 3, 8).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def leaky(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    expected = d.fc(leaky(d.bn2(d.c2(leaky(d.c1(x))))).reshape(2, -1))
    torch.testing.assert_close(d(x), expected)


def test_the_norms_have_the_eps_of_their_author() -> None:
    g, d = DCGANGenerator(), DCGANDiscriminator()
    assert {norm.eps for norm in (g.bn0, g.bn1, g.bn2, d.bn2, d.bn3)} == {1e-8}


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "file"), [("resnet18_half", "resnet18"), ("resnetblur18_half", "resnetblur18")], ids=lambda v: v
)
def test_the_bundled_classifiers_hold_exactly_the_trained_weights(name: str, file: str, assets: Path) -> None:
    trained = load_file(assets / "weights" / "resnet18_tiny_imagenet" / f"{file}.safetensors")
    bundled = models.classifier(name).network.state_dict()
    assert set(bundled) == set(trained)
    assert all(torch.equal(bundled[key], trained[key].to(bundled[key].dtype)) for key in trained)


@pytest.mark.assets
def test_the_class_names_are_those_of_the_training(assets: Path) -> None:
    lines = (assets / "weights" / "resnet18_tiny_imagenet" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert models.tiny_imagenet_classes() == [line.split("\t")[1] for line in lines]


@pytest.mark.assets
@pytest.mark.parametrize("role", ["discriminator", "generator"])
def test_the_bundled_gan_holds_its_authors_weights_to_fp16(role: str, assets: Path) -> None:
    original = load_file(assets / "weights" / "dcgan_svhn" / f"{role}.safetensors")
    bundled = getattr(models, role)("dcgan_svhn").network.state_dict()
    assert set(bundled) == set(original)
    for key, value in original.items():
        assert torch.equal(bundled[key], value.half().to(bundled[key].dtype)), key
        assert bundled[key].isfinite().all(), key  # fp16 ends at 65504


@pytest.mark.assets
def test_the_bundled_generator_paints_what_its_author_painted(assets: Path) -> None:
    original = DCGANGenerator().eval()
    original.load_state_dict(load_file(assets / "weights" / "dcgan_svhn" / "generator.safetensors"), strict=True)
    z = latents(16, 100)
    with torch.no_grad():
        away = (models.generator()(z) - (original(z) + 1) / 2).abs()
    assert away.max() < 0.5 / 255  # measured 0.14 / 255: no 8-bit level is off by one


@pytest.mark.assets
def test_the_bundled_discriminator_judges_as_its_author_did(assets: Path) -> None:
    original = DCGANDiscriminator().eval()
    original.load_state_dict(load_file(assets / "weights" / "dcgan_svhn" / "discriminator.safetensors"), strict=True)
    images = models.generator()(latents(16, 100))
    with torch.no_grad():
        wanted = original(2 * images - 1)
        away = (models.discriminator()(images) - wanted).abs()
    assert away.max() < 0.01 * wanted.std()  # measured 0.004; std is 2.4 logits
