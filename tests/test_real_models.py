"""Trained networks on photographs: they are loaded as they were trained, and their gradients read as is known of them.

Figures measured on 12 lossless photographs stand beside the bounds; `pytest -s -m assets` prints them.
"""

from __future__ import annotations

import gzip
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor

from gradlens import models
from gradlens.compare import interval
from gradlens.gradients import GradientStatistics, collect
from gradlens.images import batches, fit, open_image, photographs
from gradlens.models import Model
from gradlens.probes import stages
from gradlens.spectra import set_imbalance

pytestmark = pytest.mark.assets

PHOTOGRAPHS = 12
PERIODS = (2, 4, 8, 16, 32)


@cache
def load(name: str, assets: Path) -> Model:
    """The networks of this file by their short names."""
    weights = assets / "weights"
    match name:
        case "resnet18":
            return models.classifier("resnet18", weights=weights / "resnet18_imagenet" / "resnet18_timm.safetensors")
        case "mobilenetv2":
            return models.classifier(
                "mobilenetv2_100",
                weights=weights / "mobilenetv2_imagenet" / "mobilenetv2_100_timm_1001_fp16.safetensors",
                model_args={"pad_type": "same"},
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                drop_first=1,
            )
        case "mnist":
            return models.discriminator(
                "gradlens.networks:MNISTDiscriminator",
                weights=weights / "dcgan_mnist" / "netD_epoch_99.pth",
                input_size=(1, 28, 28),
                mean=(0.5,),
                std=(0.5,),
            )
        case "random":
            return models.classifier("resnet18", weights="random")
        case _:
            return models.load(name)


def prepared(model: Model, picture: Image.Image) -> Tensor:
    info = model.info
    return fit(picture, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct)


@cache
def measured(name: str, assets: Path) -> GradientStatistics:
    """Gradients of a dozen lossless photographs, spread over the folder."""
    model = load(name, assets)
    found = photographs(assets / "data" / "photos" / "lossless")
    chosen = found[:: len(found) // PHOTOGRAPHS][:PHOTOGRAPHS]
    return collect(model, batches(chosen, lambda picture: prepared(model, picture), 6), periods=PERIODS)


def signed(name: str, period: int, assets: Path) -> float:
    """Mean contrast of the input gradient in dB."""
    return measured(name, assets).gradient.contrast["signed", period].mean().item()


def bounds(name: str, period: int, assets: Path) -> tuple[float, float]:
    """The bootstrap interval of `signed`."""
    return interval(measured(name, assets).gradient.contrast["signed", period].numpy())


def imbalance(name: str, period: int, assets: Path) -> float:
    return set_imbalance(measured(name, assets).gradient.energy[period]).item()


# Weights and preprocessing


@pytest.mark.parametrize(("name", "least"), [("resnet18", 0.6), ("mobilenetv2", 0.75)])
def test_imagenet_networks_know_their_photographs(name: str, least: float, assets: Path) -> None:
    """The README of the assets says 75.0 and 87.5 % on 200; three standard errors on 40 are 20 and 16 points."""
    model = load(name, assets)
    classes = ImageNetInfo().label_names()
    files = sorted((assets / "data" / "photos").rglob("n*.*"))[::4][:40]
    images = torch.stack([prepared(model, open_image(file)) for file in files])
    truth = torch.tensor([classes.index(file.name.split("_")[0]) for file in files])
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in images.split(8)]) == truth
    print(f"\n{name}: top-1 {right.float().mean():.3f} on {len(files)}")
    assert len(files) == 40 and right.float().mean() >= least


@pytest.mark.parametrize("name", ["resnet18_half", "resnetblur18_half"])
def test_bundled_networks_know_tiny_imagenet(name: str, assets: Path) -> None:
    """52.6 and 53.4 % of all validation images; 200 of 40 classes: three standard errors are 11 points."""
    model = load(name, assets)
    lines = (assets / "weights" / "resnet18_tiny_imagenet" / "classes.txt").read_text(encoding="utf-8").split("\n")
    order = [line.split()[0] for line in lines if line]
    images, truth = [], []
    for archive in sorted((assets / "data" / "tiny_imagenet").rglob("*val*.zip"))[:1]:
        with zipfile.ZipFile(archive) as file:
            for member in sorted(m for m in file.namelist() if m.lower().endswith(".jpeg"))[::10][:200]:
                with file.open(member) as picture:
                    images.append(prepared(model, Image.open(picture).convert("RGB")))
                truth.append(order.index(next(part for part in member.split("/") if part in order)))
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in torch.stack(images).split(20)])
    right = (found == torch.tensor(truth)).float().mean().item()
    print(f"\n{name}: top-1 {right:.3f} on {len(images)}")
    assert len(images) == 200 and right >= 0.41


# Gradients


def test_figures(assets: Path) -> None:
    """Every trained classifier is measurable on photographs at every period; the figures for a reader."""
    for name in ("random", "resnet18", "resnet18_half", "resnetblur18_half", "mobilenetv2"):
        statistics = measured(name, assets)
        print(f"\n{name}, mean and interval of signed contrast in dB, set imbalance")
        for period in PERIODS:
            low, high = bounds(name, period, assets)
            print(f"T={period} {signed(name, period, assets):.1f} [{low:.1f}, {high:.1f}]", end=" ")
            print(f"{imbalance(name, period, assets):.2f}")
            assert statistics.gradient.contrast["signed", period].isfinite().all()
            assert abs(statistics.control.contrast["signed", period].mean().item()) < 5


def test_imagenet_training_evened_out_the_stem(assets: Path) -> None:
    """-2.2 dB against -0.2 of random weights; imbalance 0.02 against 0.22."""
    assert signed("resnet18", 2, assets) < -1 < signed("random", 2, assets)
    assert bounds("resnet18", 2, assets)[1] < 0
    assert imbalance("resnet18", 2, assets) < 0.1 < imbalance("random", 2, assets)


def test_bundled_network_writes_period_2(assets: Path) -> None:
    assert signed("resnet18_half", 2, assets) > 3
    assert imbalance("resnet18_half", 2, assets) > 0.1


def test_anti_aliased_twin_loses_period_4_and_keeps_period_2(assets: Path) -> None:
    """1.1 dB against -1.2 at T=4, image by image; 4.9 and 4.3 at T=2."""
    plain, blurred = (
        measured(n, assets).gradient.contrast["signed", 4] for n in ("resnet18_half", "resnetblur18_half")
    )
    low, _ = interval((plain - blurred).numpy())
    assert low > 0.5 and plain.mean() > 0.5 and -2.5 < blurred.mean() < 0.5
    assert signed("resnetblur18_half", 2, assets) > 3


def test_mobilenet_without_pool_writes_little(assets: Path) -> None:
    """0.2 and 0.7 dB: the control."""
    for period in PERIODS:
        assert abs(signed("mobilenetv2", period, assets)) < 2


def test_order_at_period_2(assets: Path) -> None:
    trained, random, bundled = (signed(n, 2, assets) for n in ("resnet18", "random", "resnet18_half"))
    assert trained < random < bundled


# Discriminators


def test_svhn_discriminator_reads_real_images(assets: Path) -> None:
    model = load("dcgan_svhn", assets)
    found = photographs(assets / "data" / "photos" / "lossless", limit=12)
    down = stages(model, (3, 32, 32))
    statistics = collect(
        model, batches(found, lambda picture: prepared(model, picture), 5), periods=(2, 4, 8), stages=down
    )
    contrast = {t: round(statistics.gradient.contrast["signed", t].mean().item(), 1) for t in (2, 4, 8)}
    energy = {t: round(set_imbalance(statistics.gradient.energy[t]).item(), 2) for t in (2, 4, 8)}
    print(f"\ndcgan_svhn discriminator: {contrast} dB, imbalance {energy}")
    assert [stage.stride for stage in down] == [(2, 2), (4, 4), (8, 8)]
    assert statistics.gradient.count == 12 and energy[2] > 0.1


def test_mnist_discriminator_of_a_factory_reads_digits(assets: Path) -> None:
    """The README says a mean logit of -0.8 on digits and -27.9 on noise."""
    model = load("mnist", assets)
    raw = gzip.decompress((assets / "data" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    digits = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:64].copy()).float() / 255
    noise = torch.rand(digits.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        real, fake = model(digits).mean().item(), model(noise).mean().item()
    down = stages(model, (1, 28, 28))
    statistics = collect(model, digits.split(24), periods=(2, 4), stages=down)
    contrast = {t: round(statistics.gradient.contrast["signed", t].mean().item(), 1) for t in (2, 4)}
    energy = {t: round(set_imbalance(statistics.gradient.energy[t]).item(), 2) for t in (2, 4)}
    print(f"\nmnist discriminator: logits {real:.1f} and {fake:.1f}, {contrast} dB, imbalance {energy}")
    assert real > -5 and fake < -15
    assert [stage.size for stage in down] == [(14, 14), (7, 7), (3, 3)] and statistics.gradient.count == 64
