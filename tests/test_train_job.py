"""The job `gradlens train`: what a run leaves behind, what it says, what it refuses."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens import commands, models, training
from gradlens.redesign.gan import outcome
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import seed_of
from gradlens.redesign.gan.run import Progress
from gradlens.results import COLUMNS, Results
from tests.gans import images

ROOT = Path(__file__).parents[1]


def folder_of_pictures(folder: Path, count: int = 10, side: int = 16) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images(count, side)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder


FLAGS = [
    "--resolution", "16", "--width", "2", "--latent", "4", "--batch-size", "4", "--steps", "4", "--log-every", "2",
    "--save-every", "2", "--draw-every", "2", "--rated", "0", "--periods", "2", "--periods", "4", "--accelerator", "cpu",
    "--upsampler", "deconv:5", "--upsampler", "resize", "--downsampler", "stride2", "--first", "stride1",
]  # fmt: skip


def launch(*words: str) -> Any:
    return training.build_app()(list(words))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run, and its command line."""
    place = tmp_path_factory.mktemp("job")
    words = [str(folder_of_pictures(place / "pictures")), *FLAGS, "--out", str(place / "run")]
    assert launch(*words) == 0
    return place / "run", words


def test_a_run_holds_its_files(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    assert {p.name for p in folder.iterdir() if not p.name.startswith("figures")} == {
        "table.csv", "arrays.safetensors", "manifest.json", "log.csv", "report.pdf", "checkpoints", "samples", "tensorboard",
    }  # fmt: skip
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        f"step-0000000{step}{zoom}.png" for step in (0, 2, 4) for zoom in ("-x6", "")
    ]
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")


def test_its_results_hold_what_was_agreed(job: tuple[Path, list[str]]) -> None:
    results = Results.read(job[0])
    assert list(results.table.columns) == list(COLUMNS)
    assert set(results.table["model"]) == {"deconv:5-resize/stride1+stride2"}
    assert set(results.table["subject"]) == {"sample", "input-gradient", "image"}
    assert set(results.table["period"]) == {2, 4} and set(results.table["image"]) == {""}
    arrays = results.arrays
    names = {
        f"{subject}/{kind}/{t}" for subject in ("sample", "gradient") for kind in ("signed", "envelope") for t in (2, 4)
    }
    log = {"step", "loss_discriminator", "loss_generator", "images_per_second"} | names
    assert {k for k in arrays if k.startswith("log/")} == {f"log/{name}" for name in log}
    assert arrays["log/step"].tolist() == [0, 2, 4] and arrays["log/step"].dtype == np.int64
    assert all(arrays[f"log/{name}"].dtype == np.float32 for name in log - {"step"})
    assert {k for k in arrays if k.startswith("real/")} == {
        f"real/{kind}/{t}" for kind in ("signed", "envelope") for t in (2, 4)
    }
    assert arrays["samples"].shape == (64, 3, 16, 16) and arrays["real"].shape == (10, 3, 16, 16)
    assert arrays["progress/step"].tolist() == [0, 2, 4]
    assert arrays["progress/samples"].shape == (3, 8, 3, 16, 16) and arrays["progress/samples"].dtype == np.uint8
    assert {arrays[f"power/{name}"].shape for name in ("sample", "gradient", "image")} == {(16, 16)}
    np.testing.assert_array_equal(
        arrays["progress/samples"][-1], (arrays["samples"][:8] * 255).round().astype(np.uint8)
    )


def test_the_samples_of_a_run_are_its_checkpoints(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    samples = Results.read(folder).arrays["samples"]
    latents = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed_of(0, "shown", 0)))
    found = models.generator(folder)(latents)
    np.testing.assert_allclose(found.numpy(), samples, rtol=0, atol=1e-6)


def test_its_manifest_holds_what_was_agreed(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    manifest = Results.read(folder).manifest
    told = manifest["training"]
    assert told["label"] == "deconv:5-resize/stride1+stride2" and told["steps"] == 4 and told["images"] == 16
    assert (told["processes"], told["precision"], told["device"], told["interrupted"]) == (1, "float32", "cpu", False)
    assert told["resumed"] == [] and told["periods"] == [2, 4] and manifest["partial"] is False
    assert told["data"]["source"] == "pictures" and told["data"]["used"] == 10 and told["data"]["skipped"] == {}
    assert [(x["layer"], x["kind"], x["certificate"]) for x in told["generator"]["layers"]] == [
        ("up1", "deconv:5", "fail"), ("up2", "resize", "pass"),
    ]  # fmt: skip
    assert [(x["layer"], x["kind"], x["certificate"]) for x in told["discriminator"]["layers"]] == [
        ("down1", "stride1", "pass"), ("down2", "stride2", "fail"),
    ]  # fmt: skip
    for role, load in (("generator", models.generator), ("discriminator", models.discriminator)):
        weights = sum(p.numel() for p in load(folder).parameters())
        assert told[role]["parameters"] == weights


def test_the_command_in_the_manifest_is_that_of_the_run(job: tuple[Path, list[str]]) -> None:
    folder, words = job
    command = shlex.split(Results.read(folder).manifest["command"])
    assert command[:2] == ["gradlens", "train"] and "--out" not in command
    captured: list[training.Config] = []
    for line in (words, command[2:]):
        app = training.build_app()
        _, bound, _ = app.parse_args(line, exit_on_error=False)[:3]
        captured.append(bound.arguments["config"])
    asked, again = captured
    assert replace(asked, out=None) == again


def test_grids_show_every_pixel_at_native_size_and_enlarged(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    samples = (Results.read(folder).arrays["samples"] * 255).round().astype(np.uint8)
    native = np.asarray(Image.open(folder / "samples" / "step-00000004.png"))
    large = np.asarray(Image.open(folder / "samples" / "step-00000004-x6.png"))
    assert native.shape == (128, 128, 3) and large.shape == (768, 768, 3)
    for number, image in enumerate(samples):
        row, column = divmod(number, 8)
        cell = native[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(cell, image.transpose(1, 2, 0))
    np.testing.assert_array_equal(large, native.repeat(6, 0).repeat(6, 1))


@pytest.mark.parametrize(("count", "channels", "side"), [(3, 1, 8), (9, 3, 8), (64, 3, 64), (9, 3, 128)])
def test_grids_of_other_sizes(count: int, channels: int, side: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).random((count, channels, side, side), np.float32)
    training.write_grids(samples, tmp_path / "grids", "it")
    files = sorted(p.name for p in (tmp_path / "grids").iterdir())
    sheet = np.atleast_3d(np.asarray(Image.open(tmp_path / "grids" / "it.png")))
    rows = -(-count // 8)
    assert sheet.shape == (rows * side, 8 * side, channels)
    zoom = int(files[0].removeprefix("it-x").removesuffix(".png"))
    assert zoom >= 2 and zoom * 8 * side >= 768 and (zoom == 2 or (zoom - 1) * 8 * side < 768)
    at = count - 1
    cell = sheet[at // 8 * side :, at % 8 * side :][:side, :side]
    np.testing.assert_array_equal(cell, (samples[at] * 255).round().astype(np.uint8).transpose(1, 2, 0))
    if count < 8 * rows:
        assert (sheet[(rows - 1) * side :, -side:] == 255).all()  # paper


def test_log_csv_is_the_log(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    arrays = Results.read(folder).arrays
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    assert {f"log/{name}" for name in rows[0]} == {name for name in arrays if name.startswith("log/")}
    for name in rows[0]:
        np.testing.assert_allclose([float(row[name]) for row in rows], arrays[f"log/{name}"], rtol=1e-5)


def test_tensorboard_reads_the_log_and_the_samples(job: tuple[Path, list[str]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = job
    arrays = Results.read(folder).arrays
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert {f"log/{name}" for name in board.Tags()["scalars"]} == {n for n in arrays if n.startswith("log/")} - {
        "log/step"
    }
    for name in board.Tags()["scalars"]:
        events = board.Scalars(name)
        known = ~np.isnan(arrays[f"log/{name}"])
        assert [e.step for e in events] == arrays["log/step"][known].tolist()
        np.testing.assert_allclose([e.value for e in events], arrays[f"log/{name}"][known], rtol=1e-6)
    drawn = board.Images("samples")
    assert [e.step for e in drawn] == [0, 2, 4]
    assert (drawn[0].width, drawn[0].height) == (128, 128)


def test_the_job_goes_on_where_it_was(
    job: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps more: the files are those of six steps, and stdout is one JSON object."""
    monkeypatch.setattr(outcome, "MEASURED", 16)
    folder = tmp_path / "run"
    shutil.copytree(job[0], folder)
    assert launch("--resume", "--out", str(folder), "--steps", "6", "--json") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["out"] == str(folder) and set(told) == {"out", "table", "manifest"}
    assert {row["subject"] for row in told["table"]} == {"sample", "input-gradient", "image"}
    assert told["manifest"]["training"]["steps"] == 6 and told["manifest"]["training"]["resumed"] == [4]
    assert "step 6 of 6: " in said.err and "untrained" not in said.err
    results = Results.read(folder)
    assert results.arrays["log/step"].tolist() == [0, 2, 4, 6]
    before = Results.read(job[0]).arrays
    np.testing.assert_array_equal(results.arrays["log/sample/signed/2"][:3], before["log/sample/signed/2"])
    np.testing.assert_array_equal(results.arrays["progress/samples"][:3], before["progress/samples"])
    assert sorted(p.name for p in (folder / "checkpoints").iterdir())[-1] == "step-00000006"


def test_an_earlier_run_is_not_written_over(job: tuple[Path, list[str]]) -> None:
    folder, _ = job
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(ValueError, match=r"--out|--force|holds"):
        training.train_model(training.Config((folder.parent / "pictures",), out=folder))
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "^--data: name a folder or zip file of pictures; --demo"),
        ({"data": (Path("nowhere"),)}, "^--data: there is no 'nowhere'"),
        ({"held_out": (Path("nowhere"),), "demo": True}, "^--held-out: there is no 'nowhere'"),
        ({"resume": True}, "^--resume: name the folder of the run with --out"),
        ({"resume": True, "out": Path("x"), "demo": True}, "^--resume: goes on with a run as it is"),
        ({"resume": True, "out": Path("x"), "force": True}, "^--resume: goes on with a run as it is"),
        ({"demo": True, "resolution": 33}, "^--resolution"),
    ],
    ids=str,
)  # fmt: skip
def test_the_job_refuses_in_one_sentence_and_writes_nothing(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        training.train_model(training.Config(**options))
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_flags_that_could_be_given() -> None:
    assert set(training.DEMO) <= {f.name for f in fields(TrainConfig)}
    config = training._settled(training.Config(demo=True))
    assert {name: getattr(config, name) for name in training.DEMO} == training.DEMO
    assert all(type(value) is type(getattr(TrainConfig(), name)) for name, value in training.DEMO.items())
    assert training._settled(training.Config(demo=True, steps=7)).steps == 7  # what is given wins
    flags = training.command(TrainConfig(**training.DEMO))
    assert flags == "gradlens train --demo"
    assert training.command(TrainConfig(**(training.DEMO | {"steps": 7}))) == "gradlens train --demo --steps 7"


def test_the_demo_of_pictures_cuts_no_squares(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "pictures")
    assert training._settled(training.Config((folder,), demo=True)).patches == 0


def test_a_line_of_progress_says_losses_speed_and_lattices() -> None:
    values = {
        "loss_discriminator": 1.234, "loss_generator": -0.5, "images_per_second": 12345.6, "sample/signed/4": 9.0,
        "sample/signed/2": 1.26, "gradient/signed/2": -0.74,
    }  # fmt: skip
    progress = Progress(20, 100, values, torch.zeros(1), False)
    assert training.line(progress) == (
        "step 20 of 100: 12,346 images/s, losses 1.23 and -0.50; lattice of 2 px: samples 1.3, gradient -0.7 dB"
    )
    assert training.line(replace(progress, step=0)) == "untrained: lattice of 2 px: samples 1.3, gradient -0.7 dB"


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; from gradlens import commands\n"
        "try: commands.COMMANDS['train']()(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'timm', 'lightning_fabric', 'matplotlib', 'numpy', 'PIL', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for field in fields(training.Config):
        assert f"--{field.name.replace('_', '-')}" in text or field.name in ("data",), field.name
    assert "train" in commands.COMMANDS
