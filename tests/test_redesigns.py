"""`gradlens redesign` as a user types it: files, numbers, words, what is recommended, faults."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pypdf import PdfReader
from safetensors.torch import load_file

from gradlens import commands, models
from gradlens.redesign import swap
from gradlens.redesigns import BEFORE, Config, finish, recommended, redesign
from gradlens.report.redesign import conclusion, of_run
from gradlens.report.run import number
from gradlens.results import COLUMNS, Results

LAST = ("network.up3",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Config("dcgan_svhn", to=("even", "resize", "subpixel"), layers=LAST, count=8)
    return redesign(Config(**{**vars(config), "out": tmp_path_factory.mktemp("redesign") / "run"}))


def test_a_run_is_whole_and_its_table_is_tidy(run: Path) -> None:
    expected = {"table.csv", "arrays.safetensors", "manifest.json", "figures", "report.pdf", "redesigned.safetensors"}
    assert expected | {f"before-and-{name}.png" for name in ("even", "resize", "subpixel")} == {
        p.name for p in run.iterdir()
    }
    results = Results.read(run)
    assert list(results.table.columns) == list(COLUMNS)
    assert set(results.table["model"]) == {BEFORE, "even", "resize", "subpixel"}
    assert results.manifest["command"].startswith("gradlens redesign dcgan_svhn --to even resize subpixel")


def test_the_numbers_are_those_of_the_surgery(run: Path) -> None:
    told = of_run(Results.read(run))
    example = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    report = swap(models.generator(), "even", layers=LAST, example=example)
    assert told.drift("even") == pytest.approx(report.drift, rel=1e-4)
    assert told.drift("subpixel") < 1e-5 and told.kept("subpixel") == ["exact"]
    assert told.passed("resize") == "1 / 1" and told.passed("subpixel") == "0 / 1"
    assert told.ratio("resize", "parameters") == pytest.approx(16 / 25) and told.dearer("resize") == 1


def test_the_pdf_says_what_the_table_holds(run: Path) -> None:
    told = of_run(Results.read(run))
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(run / "report.pdf").pages).split())
    assert "Of 1 layer that enlarge" in text and told.best in text
    for name in told.designs:
        assert name in text and number(told.drift(name), 3) in text


def test_pictures_stand_side_by_side_at_native_size(run: Path) -> None:
    picture = np.asarray(Image.open(run / "before-and-even.png"))
    assert picture.shape == (64, 8 * 32, 3)
    exact = np.asarray(Image.open(run / "before-and-subpixel.png")).astype(int)
    assert np.abs(exact[:32] - exact[32:]).max() <= 1


def test_the_weights_load_into_what_swap_gives(run: Path) -> None:
    told = of_run(Results.read(run))
    example = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    report = swap(models.generator(), told.best, layers=LAST, example=example)
    network = report.model.get_submodule("network")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    network.load_state_dict(load_file(run / "redesigned.safetensors"))
    made = Results.read(run).arrays[f"sample/{told.best}"]
    np.testing.assert_allclose(report.model(example).numpy(), made, atol=1e-5)


def test_what_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run, as_json=False)
    printed = capsys.readouterr().out
    assert printed.startswith("Of 1 layer that enlarge") and "subpixel          exact       0 / 1" in printed
    finish(run, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"out", "table", "manifest"}


def test_a_report_is_drawn_again_from_its_results_alone(run: Path) -> None:
    from gradlens.report import write_report

    before = (run / "report.pdf").read_bytes()
    assert write_report(run).read_bytes() == before


def fake(drift: float, *, passes: bool = True, kept: str = "fitted", cost: float = 1.0) -> Any:
    table = pd.DataFrame(
        {
            "certificate_after": ["pass" if passes else "fail"], "kept": [kept], "multiplications_before": [10.0],
            "multiplications_after": [10.0 * cost],
        }
    )  # fmt: skip
    return SimpleNamespace(table=table, drift=drift)


def test_what_is_recommended() -> None:
    one, far, dear, fresh = fake(0.1), fake(0.3), fake(0.05, cost=2), fake(0.9, kept="fresh")
    assert recommended({"one": one, "far": far, "dear": dear, "fresh": fresh})[0] == "one"
    assert recommended({"one": one, "far": far}, clean={"far"})[0] == "far"
    assert recommended({"fresh": fresh, "dear": dear})[0] == "fresh"
    assert recommended({"subpixel_icnr": fresh})[0] == ""  # it passes until it is trained
    name, why = recommended({"dear": dear})
    assert name == "dear" and "2.00 times" in why
    assert recommended({"bad": fake(0.0, passes=False)}) == ("", "no design passes the certificate of every layer")


def test_nothing_recommended_is_said(run: Path, tmp_path: Path) -> None:
    results = Results.read(run)
    told = results.manifest["redesigned"] | {"recommended": "", "why": "no design passes"}
    said = conclusion(of_run(Results(results.table, results.arrays, dict(results.manifest) | {"redesigned": told})))
    assert said.endswith("Nothing is recommended: no design passes.")


def test_what_training_may_undo_is_said(run: Path) -> None:
    results = Results.read(run)
    for best, said in (("even", True), ("resize", False)):
        told = dict(results.manifest) | {"redesigned": results.manifest["redesigned"] | {"recommended": best}}
        assert (
            "Training may part the sums" in conclusion(of_run(Results(results.table, results.arrays, told)))
        ) is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dcgan_svhn", "--count", "0"], "--count: must be at least 1, got 0"),
        (["dcgan_svhn", "--periods", "1"], "--periods: must be at least 2 px, got [1]"),
        (["dcgan_svhn", "--levels", "0"], "--levels: must be above 0"),
        (["dcgan_svhn", "--images", "nowhere"], "--images: there is no 'nowhere'"),
        (["dcgan_svhn", "--to", "resise"], "to: 'resise' is none of"),
        (["dcgan_svhn", "--to", "blur"], "nothing in the model can become 'blur'"),
        (
            ["dcgan_svhn", "--to", "even", "--layers", "up9"],
            "layers: 'up9' neither shrinks nor enlarges; nearest: network.up",
        ),
        (["dcgan_svhn", "--role", "classifier"], "is a discriminator and a generator, not a classifier"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gradlens", "redesign", *words, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_classifier_is_redesigned_by_its_gradients(tmp_path: Path) -> None:
    told = of_run(Results.read(redesign(Config(to=("hold",), count=2, out=tmp_path / "run"))))
    assert told.measured == "input gradients" and told.passed("hold") == "8 / 8"
    assert told.contrast("hold", 2, "signed").value < told.contrast(BEFORE, 2, "signed").value
