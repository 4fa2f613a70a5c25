"""`gradlens sample`: as many pictures as asked for, of the network and no others, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens import models
from gradlens.console import run
from gradlens.samples import build_app


def sampled(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        run(build_app(), list(words))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_files_are_the_pictures_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampled("dcgan_svhn", "-n", "11", "--seed", "3", "--out", str(tmp_path / "s")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "s")
    files = sorted((tmp_path / "s").glob("*.png"))
    assert [f.name for f in files] == [f"{n:02}.png" for n in range(11)]
    latents = torch.randn(11, 100, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = models.generator("dcgan_svhn")(latents).clamp(0, 1).numpy()
    levels = np.stack([np.asarray(Image.open(f)) for f in files]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(levels, np.rint(255 * wanted).astype(np.uint8))
    grid = np.asarray(Image.open(tmp_path / "s" / "grid" / "samples.png"))
    assert grid.shape == (64, 256, 3) and (grid[:32, 32:64] == levels[1].transpose(1, 2, 0)).all()
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["command"] == "gradlens sample --count 11 --seed 3" and manifest["sampled"]["name"] == "dcgan_svhn"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "0"], "--count: must be at least 1, got 0"),
        (["resnet18_half"], "is a classifier, not a generator"),
        (["no_such.safetensors"], "there is no file 'no_such.safetensors'"),
        (["--seed", "-1"], "--seed: must be from 0 to 2**63 - 1, got -1"),
    ],
)
def test_what_it_refuses(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sampled(*words, "--out", "s") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampled(str(tmp_path), "--out", str(tmp_path / "s")) == 2
    assert "holds no checkpoint of gradlens train" in capsys.readouterr().err
