"""The analysis of generated images: whole on networks that know nothing, on a planted lattice, and on the real ones."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analyses import generated_images
from analyses.generated_images import Case, Config, Pictures, differences, run
from gradlens.images import photographs
from gradlens.networks import LapSRN, MNISTGenerator, SRGANGenerator, StyleTransfer


def picture(width: int, height: int, seed: int, lattice: int = 0) -> Image.Image:
    """Noise in RGB, with a sign checkerboard of `lattice` levels on it."""
    levels = np.random.default_rng(seed).normal(128, 20, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    levels += lattice * (1 - 2 * ((rows + columns) % 2))[..., None]
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


@pytest.fixture
def random_assets(tmp_path: Path) -> Path:
    """A folder laid out as the assets: untrained networks and noise."""
    weights, data = tmp_path / "assets" / "weights", tmp_path / "assets" / "data"
    for name in ("dcgan_mnist", "style", "lapsrn", "srgan"):
        (weights / name).mkdir(parents=True)
    for name in ("cifar10", "mnist", "photos/lossless", "sr/set5"):
        (data / name).mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        torch.save(MNISTGenerator().state_dict(), weights / "dcgan_mnist" / "generator.pth")
        torch.save(SRGANGenerator().state_dict(), weights / "srgan" / "netG_epoch_4_100.pth")
        save_file(LapSRN().state_dict(), weights / "lapsrn" / "lapsrn_x4.safetensors")
        for name in ("wave", "la_muse"):
            save_file(StyleTransfer().state_dict(), weights / "style" / f"lengstrom_{name}_fp16.safetensors")
    with zipfile.ZipFile(data / "cifar10" / "test.zip", "w") as archive:
        for number, name in enumerate(("cat/0000", "cat/0001", "frog/0000", "frog/0001")):
            content = io.BytesIO()
            picture(32, 32, number).save(content, "JPEG")
            archive.writestr(f"{name}.jpg", content.getvalue())
    digits = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    (data / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + digits.tobytes()))
    for number in range(4):
        picture(32, 32, number).save(data / "photos" / "lossless" / f"photo_{number}.png")
        picture(41 + 4 * number, 38, number).save(data / "sr" / "set5" / f"set5_{number}.png")
    return tmp_path / "assets"


def test_draws_saves_and_measures_every_case(random_assets: Path, tmp_path: Path) -> None:
    table = run(Config(random_assets, count=2), tmp_path / "run").table
    kept = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*.png")}
    photos, five = ([f"{name}_{n}" for n in (0, 1)] for name in ("photo", "set5"))
    expected = {
        "real/svhn": ["cat-0000", "frog-0000"], "samples/svhn/dcgan": ["sample-00000", "sample-00001"],
        "real/mnist": ["digit-00000", "digit-00001"], "samples/mnist/dcgan": ["sample-00000", "sample-00001"],
        "real/style": photos, "samples/style/wave": photos, "samples/style/la_muse": photos,
        "real/set5_luma": five, "samples/set5_luma/lapsrn": five, "samples/set5_luma/bicubic": five,
        "real/set5": five, "samples/set5/srgan": five, "samples/set5/bicubic": five,
    }  # fmt: skip
    assert kept == {f"{folder}/{name}.png" for folder, names in expected.items() for name in names}
    for folder, mode in (("real/svhn", "RGB"), ("samples/mnist/dcgan", "L"), ("samples/set5_luma/lapsrn", "L")):
        assert {p.open().mode for p in photographs(tmp_path / "run" / folder)} == {mode}
    sizes = [[p.open().size for p in photographs(tmp_path / "run" / f)] for f in ("real/set5", "samples/set5/srgan")]
    assert sizes == [[(40, 36), (44, 36)]] * 2
    measured = table[(table["metric"] == "lattice_contrast") & (table["image"] == "")]
    assert set(measured["period"]) == {2, 4, 8}
    assert measured.groupby("subject")["model"].nunique().to_dict() == {"image": 5, "sample": 2 * 8}


def test_without_a_folder_nothing_stays(random_assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_images, "CASES", {"set5": generated_images.CASES["set5"]})
    before = set(Path.cwd().iterdir())
    results = run(Config(random_assets, count=1))
    assert len(differences(results)) == 2 * 3 * 2 and set(Path.cwd().iterdir()) == before
    assert results.manifest["cases"] == {"set5": {"real": "Set5", "paired": True}}


def planted(paired: bool) -> Callable[[Config], Pictures]:
    def pictures(config: Config) -> Pictures:
        for number in range(config.count):
            size = (48 + 4 * number, 40)
            yield "real", f"{number}", picture(*size, number)
            yield "painter", f"{number}" if paired else f"sample-{number}", picture(*size, number + 99, lattice=20)

    return pictures


@pytest.mark.parametrize("paired", [True, False])
def test_a_planted_lattice_is_the_difference(paired: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generated_images, "CASES", {"noise": Case(planted(paired), "plain noise", paired)})
    found = differences(run(Config(tmp_path, count=8)))
    assert set(found["generator"]) == {"painter, noise"} and set(found["against"]) == {"plain noise"}
    assert set(found["n"]) == {8 if paired else 16}
    signed = found[found["kind"] == "signed"].set_index("period")
    assert signed.loc[2, "low"] > 5  # one line of three, 40 times the noise's amplitude at it
    assert signed.loc[4, "low"] < 0 < signed.loc[4, "high"]
    assert (found["difference"] - (found["contrast"] - found["real"])).abs().max() < 1e-9
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()


def test_a_picture_survives_its_way_through_a_network() -> None:
    for mode in ("RGB", "L"):
        whole = picture(9, 7, 0).convert(mode)
        assert generated_images._picture(generated_images.pixels(whole)).tobytes() == whole.tobytes()
    between = torch.tensor([-3, 100.4, 100.6, 300]).view(1, 1, 1, 4) / 255
    assert generated_images._picture(between).tobytes() == bytes([0, 100, 101, 255])


def test_luma_is_that_of_bt_601() -> None:
    """Black, white, red, green, blue: the levels of video."""
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).view(5, 3, 1, 1)
    assert (255 * generated_images.luma(colours)).flatten().round().tolist() == [16, 235, 81, 145, 41]


def test_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count: must be at least 1 picture, got 0"):
        run(Config(tmp_path, count=0))


def case(name: str, monkeypatch: pytest.MonkeyPatch, config: Config) -> dict[tuple[str, int], dict]:
    """The signed differences of one case by generator and period."""
    monkeypatch.setattr(generated_images, "CASES", {name: generated_images.CASES[name]})
    found = differences(run(config))
    signed = found[found["kind"] == "signed"]
    return {(row["generator"].split(",")[0], row["period"]): row for row in signed.to_dict("records")}


@pytest.mark.assets
def test_transposed_convolutions_of_two_style_networks_paint_their_periods(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two 3x3 layers of stride 2: periods 2 and 4, nothing at 8; the photographs have neither."""
    rows = case("style", monkeypatch, Config(assets, count=5))
    for painter in ("wave", "la_muse"):
        for period in (2, 4):
            assert rows[painter, period]["low"] > 1 and rows[painter, period]["contrast"] > 2
            assert rows[painter, period]["real"] < 0.5
        assert abs(rows[painter, 8]["difference"]) < 1


@pytest.mark.assets
def test_srgan_leaves_a_lattice_where_lapsrn_and_bicubic_do_not(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sub-pixel layers against 4x4 transposed ones, which cover evenly: full run 8.7 and 6.5 dB against 0.7 and 0.0."""
    colour = case("set5", monkeypatch, Config(assets))
    monkeypatch.undo()
    luma = case("set5_luma", monkeypatch, Config(assets))
    for period in (2, 4):
        assert colour["srgan", period]["low"] > 2
        assert abs(luma["lapsrn", period]["difference"]) < 1
        assert colour["bicubic", period]["difference"] < 0 and luma["bicubic", period]["difference"] < 0


@pytest.mark.assets
def test_the_svhn_generator_leaves_what_photographs_of_its_size_do_not(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = case("svhn", monkeypatch, Config(assets, count=64))
    assert rows["dcgan", 2]["low"] > 2 and rows["dcgan", 4]["low"] > 1  # 64 of each; the full run has 5.2 and 2.8 dB
