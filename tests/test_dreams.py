"""`gradlens dream` as a user types it: files, numbers, words, faults, Ctrl-C, and the pair of dreams in `analyze`."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from torch import Tensor, nn

from gradlens import commands, dreams, models
from gradlens.dream import dream, jitter, lattice_attenuation
from gradlens.dreams import Config, Dreamt, dream_model, dreamt, fitted, foretold, pair
from gradlens.figures import animation, png
from gradlens.figures.pictures import BAR
from gradlens.images import sample
from gradlens.report import write_report
from gradlens.report.run import number
from gradlens.results import COLUMNS, Results

ROOT = Path(__file__).parents[1]
SMALL = ["--size", "72", "64", "--steps", "3", "--octaves", "2"]

NETS = """
import time
import torch
from torch import nn

class Spoils(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step, self.passes = step, 0

    def forward(self, x):
        self.passes += torch.is_grad_enabled()
        return x * float("nan") if self.passes >= self.step else x

class Slow(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled():
            time.sleep(0.2)
        return x

class Only(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, x):
        assert x.shape[2:] == (self.side, self.side)
        return x

def make(first=None, channels=3, stride=2):
    layers = [nn.Conv2d(channels, 4, 3, stride, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride, 1)]
    return nn.Sequential(*([first] if first else []), *layers)

def spoilt(step=2): return make(Spoils(step))
def slow(): return make(Slow())
def only(side=32): return make(Only(side))
def grey(): return make(channels=1)
def two(): return make(channels=2)
def valid(): return nn.Sequential(nn.Conv2d(3, 4, 11, 2), nn.Tanh(), nn.Conv2d(4, 4, 1, 2))
def flat(): return make(stride=1)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, in which `nets:NAME` is a network."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def gradlens(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["gradlens", *words])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    return stop.value.code


def words_of(folder: Path) -> str:
    text = " ".join(page.extract_text() for page in PdfReader(folder / "report.pdf").pages)
    return " ".join(text.replace("\u00a0", " ").split())


def levels(image: np.ndarray) -> np.ndarray:
    """The 8-bit levels `[H W C]` of `image` `[C H W]` in [0, 1]."""
    return np.rint(255 * np.moveaxis(image, 0, -1)).astype(np.uint8)


def contrasts(table: pd.DataFrame) -> dict[tuple[str, int], float]:
    rows = table[(table["kind"] == "signed") & (table["metric"] == "lattice_contrast")]
    return {(r["image"], r["period"]): r["value"] for r in rows.to_dict("records")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `gradlens dream --jitter 0 --jitter 8` on a small picture."""
    folder = tmp_path_factory.mktemp("dream") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert gradlens(patch, "dream", *SMALL, "--jitter", "0", "--jitter", "8", "--out", str(folder)) == 0
    return folder


# What a run holds


def test_files_of_a_run(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [
        "arrays.safetensors", "comparison.png", "dream-jitter0.png", "dream-jitter8.png", "figures", "manifest.json",
        "report.pdf", "table.csv",
    ]  # fmt: skip


def test_pictures_are_the_arrays_at_native_size(saved: Path) -> None:
    arrays = Results.read(saved).arrays
    for n in (0, 8):
        with Image.open(saved / f"dream-jitter{n}.png") as picture:
            assert picture.mode == "RGB" and picture.size == (64, 72)
            np.testing.assert_array_equal(np.array(picture), levels(arrays[f"dream/dream-jitter{n}"]))


def test_the_comparison_shows_the_photograph_and_each_dream_under_a_bar(saved: Path) -> None:
    arrays = Results.read(saved).arrays
    with Image.open(saved / "comparison.png") as film:
        assert getattr(film, "n_frames", 1) == 3 and film.size == (64, 72 + BAR)
        for frame, name in enumerate(["photograph", "dream-jitter0", "dream-jitter8"]):
            film.seek(frame)
            shown = np.array(film.convert("RGB"))
            np.testing.assert_array_equal(shown[BAR:], levels(arrays[f"dream/{name}"]))
            assert shown[:BAR].min() < 128 < shown[:BAR].max()  # a name is written there


def test_the_dreams_are_those_of_the_library(saved: Path) -> None:
    results = Results.read(saved)
    model = models.load("resnet18_half")
    photograph = torch.from_numpy(results.arrays["dream/photograph"])[None]
    for n in (0, 8):
        made = dream(model, photograph, "layer2", transforms=[jitter(n)], steps=3, octaves=2)
        np.testing.assert_array_equal(made.images[0].numpy(), results.arrays[f"dream/dream-jitter{n}"])
        told = results.manifest["dreamt"]["scores"][f"dream-jitter{n}"]
        assert told == pytest.approx(made.scores[:, 0].tolist())


def test_the_table_holds_the_law_and_what_it_foretells(saved: Path) -> None:
    table = Results.read(saved).table
    assert list(table.columns) == list(COLUMNS) and set(table["subject"]) == {"dream"}
    assert set(table["image"]) == {"photograph", "dream-jitter0", "dream-jitter8"}
    found, signed = contrasts(table), table[table["kind"] == "signed"]
    for period in (2, 4, 8, 16):
        rows = signed[(signed["image"] == "dream-jitter8") & (signed["period"] == period)].set_index("metric")["value"]
        law = lattice_attenuation(jitter(8), period, 3)
        own = 10 ** (found["photograph", period] / 10)
        before, after = (10 ** (found[f"dream-jitter{n}", period] / 10) - own for n in (0, 8))
        assert rows["predicted_attenuation"] == pytest.approx(law, rel=1e-5)  # six digits in CSV
        expected = 10 * math.log10(own + max(before, 0) * law**2)
        assert rows["predicted_contrast"] == pytest.approx(expected, abs=1e-4)
        if before > 0:
            assert rows["measured_attenuation"] == pytest.approx(math.sqrt(max(after, 0) / before), abs=1e-3)
        else:
            assert math.isnan(rows["measured_attenuation"])


def test_the_report_says_the_numbers_of_the_table(saved: Path) -> None:
    text, table = words_of(saved), Results.read(saved).table
    found = contrasts(table)
    signed = table[(table["kind"] == "signed") & (table["image"] == "dream-jitter8")]
    for period in (2, 4, 8, 16):
        rows = signed[signed["period"] == period].set_index("metric")["value"]
        cells = ["8", str(period), *(number(found[f"dream-jitter{n}", period]) for n in (0, 8))]
        cells += [number(rows["predicted_contrast"])]
        cells += [number(rows[f"{kind}_attenuation"], 2) for kind in ("predicted", "measured")]
        assert " ".join(cells) in text, cells
    assert Results.read(saved).manifest["command"] in text
    assert "2 octaves of 3 steps" in text and "64 x 72 px" in text and "layer2" in text


def test_the_manifests_command_gives_the_same_bytes(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Results.read(saved).manifest["command"]
    assert command == "gradlens dream --jitter 0 8 --steps 3 --octaves 2 --size 72 64"
    assert gradlens(monkeypatch, *shlex.split(command)[1:], "--out", str(tmp_path / "run")) == 0
    capsys.readouterr()
    first, again = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (saved, tmp_path / "run")
    )
    assert first == again


def test_another_seed_gives_another_jittered_dream_and_the_same_fixed_one(saved: Path) -> None:
    other = dream_model(Config(jitter=(0, 8), size=(72, 64), steps=3, octaves=2, seed=1)).arrays
    arrays = Results.read(saved).arrays
    assert np.array_equal(other["dream/dream-jitter0"], arrays["dream/dream-jitter0"])
    assert not np.array_equal(other["dream/dream-jitter8"], arrays["dream/dream-jitter8"])


# Commands


def made(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> Results:
    assert gradlens(monkeypatch, "dream", *words, "--out", str(folder / "run")) == 0
    assert words_of(folder / "run")
    return Results.read(folder / "run")


def test_as_it_comes_it_dreams_at_a_fixed_position_and_with_as_many_offsets_as_remove_every_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gradlens(monkeypatch, "dream", "--size", "64", "--steps", "2", "--octaves", "1") == 0
    out, said = capsys.readouterr()
    folder = Path("runs/dream-1")
    assert said.splitlines()[0] == "gradlens: dreaming with resnet18_half; loading PyTorch"
    assert said.splitlines()[-1] == f"report: {folder / 'report.pdf'}"
    told = Results.read(folder).manifest["dreamt"]
    assert told["jitters"] == {"dream-jitter0": 0, "dream-jitter32": 32} and told["network_periods"] == [
        2,
        4,
        8,
        16,
        32,
    ]
    assert told["photograph"] == "chelsea" and told["objective"] == "layer2" and told["size"] == [43, 64]
    found = contrasts(Results.read(folder).table)
    line = next(line for line in out.splitlines() if line.startswith("     2"))
    assert line.split() == [
        "2",
        *(w for s in ("photograph", "dream-jitter0", "dream-jitter32") for w in (number(found[s, 2]), "dB")),
    ]


@pytest.mark.parametrize("jitters", [["auto"], ["32", "auto"], ["auto", "32"]])
def test_auto_is_the_number_of_offsets_that_it_stands_for(
    jitters: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = made(monkeypatch, tmp_path, "--size", "64", "--steps", "1", "--octaves", "1", "--jitter", *jitters)
    assert results.manifest["dreamt"]["jitters"] == {"dream-jitter32": 32}
    assert "predicted_attenuation" not in set(results.table["metric"])  # nothing to compare with


def test_0_and_1_offsets_are_one_fixed_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = made(monkeypatch, tmp_path, *SMALL, "--jitter", "4", "1", "0")
    assert sorted(results.manifest["dreamt"]["jitters"].values()) == [1, 4]
    assert "at a fixed position" in words_of(tmp_path / "run")
    with Image.open(tmp_path / "run" / "comparison.png") as film:
        assert getattr(film, "n_frames", 1) == 3


def test_a_published_recipe_with_fourier_and_adam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--recipe", "lucid", "--parameterisation", "fourier", "--optimiser", "adam", "--rate", "0.05"]
    results = made(
        monkeypatch, tmp_path, *SMALL, *words, "--normalisation", "none", "--jitter", "0", "--order", "cycle"
    )
    scores = results.manifest["dreamt"]["scores"]["dream-jitter0"]
    assert len(scores) == 6 and all(map(math.isfinite, scores))
    assert results.arrays["dream/dream-jitter0"].shape == (3, 72, 64)


def test_a_discriminator_of_32_px(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = made(monkeypatch, tmp_path, "dcgan_svhn", "--size", "32", "32", "--steps", "2", "--octaves", "1")
    told = results.manifest["dreamt"]
    assert told["objective"] == "bn3" and told["jitters"] == {"dream-jitter0": 0, "dream-jitter8": 8}
    assert told["periods"] == [2, 4, 8]


def test_a_network_of_grey_pictures(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample("coffee").resize((50, 41)).save(nets / "a.png")
    words = ["nets:grey", "--input-size", "1", "32", "32", "--image", "a.png", "--steps", "2", "--octaves", "2"]
    results = made(monkeypatch, nets, *words)
    assert results.arrays["dream/photograph"].shape == (1, 41, 50)
    with Image.open(nets / "run" / "dream-jitter0.png") as picture:
        assert picture.mode == "L" and picture.size == (50, 41)
        np.testing.assert_array_equal(np.array(picture), levels(results.arrays["dream/dream-jitter0"])[..., 0])


def test_a_network_that_never_shrinks_has_no_jitter_to_choose(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["nets:flat", "--input-size", "3", "32", "32", "--size", "40", "--steps", "1", "--octaves", "1"]
    assert gradlens(monkeypatch, "dream", *words) == 2
    results = made(monkeypatch, nets, *words, "--objective", "2:1")
    assert results.manifest["dreamt"]["jitters"] == {"dream-jitter0": 0}
    assert results.manifest["dreamt"]["network_periods"] == []


def test_tiles_leave_the_size_and_a_flag_file_holds_flags(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nets / "c.toml").write_text('jitter = [0, "auto"]\ntile = 32\nsteps = 1\noctaves = 1\nsize = [100, 90]\n')
    results = made(monkeypatch, nets, "nets:make", "--input-size", "3", "64", "64", "--config", "c.toml")
    assert results.arrays["dream/dream-jitter4"].shape == (3, 100, 90)


def test_json_is_one_object_also_when_a_score_is_none(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "nets:spoilt",
        "--input-size",
        "3",
        "32",
        "32",
        "--size",
        "40",
        "--octaves",
        "1",
        "--steps",
        "4",
        "--out",
        "run",
    ]
    assert gradlens(monkeypatch, "dream", *words, "--jitter", "0", "--json") == 0
    out, said = capsys.readouterr()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    told = json.loads(out, parse_constant=refuse)
    json.loads((nets / "run" / "manifest.json").read_text(), parse_constant=refuse)
    dreamt = told["manifest"]["dreamt"]
    assert dreamt["scores"]["dream-jitter0"][1] is None and len(dreamt["scores"]["dream-jitter0"]) == 2
    why = "dream-jitter0: step 2 of 4 met NaN or infinity; the picture is that before it"
    assert why in said and why in words_of(nets / "run") and "Warning" not in said
    assert np.isfinite(Results.read(nets / "run").arrays["dream/dream-jitter0"]).all()


# Refusals


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--image", "nowhere.png"], "--image: there is no file 'nowhere.png'"),
        (["--image", "text.png"], "--image: 'text.png' does not read as a picture"),
        (["--objective", "layer22"], "no 'layer22'; near names: layer2"),
        (["--objective", "layer2:64"], "channel: 'layer2' has 64, from 0 on, got 64"),
        (["--objective", "logit:200"], "logit: the network has 200, from 0 on, got 200"),
        (["--objective", "layer2:3@99,0"], "position: 'layer2' has"),
        (["--objective", "a b c"], "objective: 'a b c' is none; spell"),
        (["--jitter", "-1"], "--jitter: must be at least 0 offsets, or auto, got -1"),
        (["--jitter", "many"], "--jitter"),
        (["--jitter", "99", "--mode", "crop"], "99 offsets by cropping need sides of at least 99 px"),
        (["--mode", "wrap"], "--mode"),
        (["--recipe", "magic"], "--recipe"),
        (["--size", "1", "2", "3"], "--size: must be the longer side, or height and width, got [1, 2, 3]"),
        (["--size", "0"], "--size: "),
        (["--size", "6"], "--periods: 6 x 4 px hold four of none of"),
        (["--image", "dot.png"], "--periods: 1 x 1 px hold four of none of"),
        (["--periods", "1"], "--periods: must be at least 2 px"),
        (["--tile", "8"], "tile: must be at least 64 px, two periods of the network, got 8"),
        (["--rate", "0"], "rate: must be above 0"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--octave-scale", "1"], "octave_scale: must be above 1"),
        (["--seed", "-1"], "seed: "),
        (["--device", "cuda:77"], "--device: 'cuda:77' is not to be had here"),
        (["nets:two", "--input-size", "2", "32", "32"], "image: pictures have 1 or 3 channels, the network wants 2"),
        (["nets:only", "--input-size", "3", "32", "32"], "image: the network does not take 3 x"),
        (["nets:only", "--input-size", "3", "32", "32", "--size", "32", "32"], "octaves: the network does not take 3 x 23 x 23"),
        (["--out", "full"], "'full' is not empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(
    words: list[str], match: str, nets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (nets / "full").mkdir()
    (nets / "full" / "table.csv").write_text("earlier")
    (nets / "text.png").write_text("no picture")
    Image.new("RGB", (1, 1)).save(nets / "dot.png")
    size = [] if {"--size", "--image"} & set(words) else ["--size", "64"]
    assert gradlens(monkeypatch, "dream", *words, *size) == 2
    out, said = capsys.readouterr()
    assert out == "" and match in said.splitlines()[-1] and "Traceback" not in said
    assert not (nets / "runs").exists() and (nets / "full" / "table.csv").read_text() == "earlier"


def test_more_octaves_than_the_network_takes(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ResNet takes a single pixel, of which no map is left; a network that pads less does not."""
    words = ["--size", "32", "32", "--steps", "1", "--octaves", "20", "--jitter", "0"]
    assert gradlens(monkeypatch, "dream", *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "octaves: the network does not take 3 x 8 x 8 (one position of 'layer2' is left); 4 of 20" in last
    words = ["nets:valid", "--input-size", "3", "32", "32", "--size", "64", "64", "--octaves", "20"]
    assert gradlens(monkeypatch, "dream", *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "octaves: the network does not take 3 x 8 x 8 (" in last
    assert last.endswith("6 of 20 octaves fit this picture")


# Ctrl-C


def stopped_after(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run be asked to stop when it has asked so many times."""

    @contextmanager
    def stoppable() -> Iterator[Callable[[], bool]]:
        times = iter(range(10**6))
        yield lambda: next(times) >= asked

    monkeypatch.setattr(dreams, "stoppable", stoppable)


@pytest.mark.parametrize(("asked", "kept"), [(4, ["dream-jitter0"]), (9, ["dream-jitter0", "dream-jitter8"])])
def test_a_run_that_is_stopped_keeps_what_was_dreamt(
    asked: int, kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_after(asked, monkeypatch)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "table.csv").write_text("earlier")
    words = ["--jitter", "0", "8", "--out", str(tmp_path / "run"), "--force"]
    assert gradlens(monkeypatch, "dream", *SMALL, *words) == 130
    out, said = capsys.readouterr()
    folder = tmp_path / "run-partial"
    results = Results.read(folder)
    assert (tmp_path / "run" / "table.csv").read_text() == "earlier"
    assert results.manifest["partial"] and list(results.manifest["dreamt"]["jitters"]) == kept
    assert sorted(p.stem for p in folder.glob("dream-*.png")) == kept
    ended = results.manifest["dreamt"]["ended"]
    assert list(ended) == kept[-1:] and ended[kept[-1]].startswith("asked to stop after")
    assert out.startswith("Partial: interrupted.\n") and "Partial" in words_of(folder)
    assert said.rstrip().endswith(f"interrupted: what was measured is kept in {str(folder)!r}")


def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_after(0, monkeypatch)
    assert gradlens(monkeypatch, "dream", *SMALL, "--out", str(tmp_path / "run")) == 130
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err.rstrip().endswith("interrupted")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_dreamt(nets: Path) -> None:
    words = shlex.split("nets:slow --input-size 3 32 32 --size 48 --steps 10 --octaves 2 --out run")
    child = subprocess.Popen(
        [sys.executable, "-m", "gradlens.dreams", *words],
        cwd=nets, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if line.endswith(": 28 of 40\n"):
            break
    child.send_signal(signal.SIGINT)
    out, rest = child.communicate(timeout=120)
    assert child.returncode == 130 and "Traceback" not in rest, rest
    results = Results.read(nets / "run")
    told = results.manifest["dreamt"]
    assert results.manifest["partial"] and list(told["jitters"]) == ["dream-jitter0", "dream-jitter4"]
    assert len(told["scores"]["dream-jitter0"]) == 20 > len(told["scores"]["dream-jitter4"]) >= 8
    assert out.startswith("Partial: interrupted.\n") and (nets / "run" / "dream-jitter4.png").exists()


# Parts


def row(image: str, value: float, period: int = 2) -> dict[str, Any]:
    return {
        "model": "m", "subject": "dream", "layer": "l", "image": image, "kind": "signed", "metric": "lattice_contrast",
        "period": period, "value": value,
    }  # fmt: skip


@pytest.mark.parametrize("after", [12.0, 3.0, 0.0, -2.0])
@pytest.mark.parametrize("before", [10.0, 0.0, -1.0, math.nan])
def test_the_law_scales_what_stands_above_the_spectrum(before: float, after: float) -> None:
    own = -0.5
    rows = pd.DataFrame([row("photograph", own), row("a", before), row("b", after), row("c", 5.0)])
    found = foretold(rows, {"b": jitter(3), "a": jitter(1), "c": jitter(4)}, [2], steps=5)
    values = {(r["image"], r["metric"]): r["value"] for r in found.to_dict("records")}
    assert {image for image, _ in values} == {"b", "c"}
    law = lattice_attenuation(jitter(3), 2, 5)
    assert values["b", "predicted_attenuation"] == law and values["c", "predicted_attenuation"] == pytest.approx(
        0.2**0.5
    )
    lattice, left = (10 ** (x / 10) - 10 ** (own / 10) for x in (before, after))
    if lattice > 0:
        assert values["b", "measured_attenuation"] == pytest.approx(math.sqrt(max(left, 0) / lattice))
        assert values["b", "predicted_contrast"] == pytest.approx(10 * math.log10(10 ** (own / 10) + lattice * law**2))
    else:
        assert math.isnan(values["b", "measured_attenuation"])
        assert values["b", "predicted_contrast"] == pytest.approx(own) or math.isnan(before)


def test_without_a_fixed_position_nothing_is_foretold() -> None:
    assert foretold(pd.DataFrame([row("a", 3.0)]), {"a": jitter(8)}, [2], 5).empty


@pytest.mark.parametrize(
    ("size", "whole", "expected"),
    [(None, 1, (30, 45)), ((20,), 1, (13, 20)), ((99,), 1, (30, 45)), ((16, 40), 1, (16, 40)), ((45,), 16, (16, 32))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_reduced_and_cut_to_the_network(
    channels: int, size: tuple[int, ...] | None, whole: int, expected: tuple[int, int]
) -> None:
    image = sample("chelsea").resize((45, 30))
    found = fitted(image, (channels, 8, 8), size, whole=whole)
    assert found.shape == (channels, *expected) and found.min() >= 0 and found.max() <= 1
    if size is None:
        expected_levels = np.array(image.convert("L" if channels == 1 else "RGB")).reshape(30, 45, channels)
        np.testing.assert_array_equal(levels(found.numpy()), expected_levels)


def test_a_picture_is_cut_around_its_middle() -> None:
    image = sample("chelsea").resize((45, 30))
    expected = np.array(image)[7:23, 6:38]
    np.testing.assert_array_equal(levels(fitted(image, (3, 8, 8), None, whole=16).numpy()), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_rounds_and_clips(channels: int, tmp_path: Path) -> None:
    image = np.linspace(-0.2, 1.2, channels * 60, dtype=np.float32).reshape(channels, 6, 10)
    (tmp_path / "a.png").write_bytes(png(image))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        shown = np.array(picture).reshape(6, 10, channels)
    np.testing.assert_array_equal(shown, levels(image.clip(0, 1)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_animation_has_a_frame_for_each_picture_also_for_equal_ones(count: int, tmp_path: Path) -> None:
    image = np.full((3, 20, 60), 0.5, dtype=np.float32)
    (tmp_path / "a.png").write_bytes(animation({f"jitter over {n} offsets": image for n in range(count)}))
    with Image.open(tmp_path / "a.png") as film:
        assert getattr(film, "n_frames", 1) == count and film.size == (60, 20 + BAR)


# The pair in analyze


class Only(nn.Module):
    """Takes 48 px alone, and says nothing about it."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (48, 48)
        return x


def model_of(*layers: nn.Module) -> models.Model:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = nn.Sequential(*layers, nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, 2, 1))
        info = models.ModelInfo("net", "classifier", "", "", (3, 48, 48), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
        return models.Model(network, info)


def test_the_pair_dreams_at_whole_periods_and_at_the_networks_own_size_where_it_takes_no_other() -> None:
    image = sample("chelsea").resize((100, 70))
    for layers, size, octaves in (((), (64, 96), 4), ((Only(),), (48, 48), 1)):
        found = pair(model_of(*layers), image, name="chelsea", periods=[2, 4], seed=0)
        assert isinstance(found, Dreamt) and found.told["size"] == list(size) and found.told["octaves"] == octaves
        assert found.told["jitters"] == {"dream-jitter0": 0, "dream-jitter4": 4}
        assert all(found.arrays[f"dream/{name}"].shape == (3, *size) for name in ("photograph", *found.told["jitters"]))


def test_a_picture_too_small_to_tell_is_dreamt_all_the_same() -> None:
    photograph = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = dreamt(model_of(), photograph, Config(steps=1, octaves=1), name="noise", periods=[2, 8])
    measured = contrasts(found.rows)
    assert math.isnan(measured["dream-jitter0", 8]) and not math.isnan(measured["dream-jitter0", 2])


def test_a_report_is_drawn_from_the_saved_results_alone(saved: Path, tmp_path: Path) -> None:
    Results.read(saved).write(tmp_path)
    write_report(tmp_path)
    assert words_of(tmp_path) == words_of(saved)
