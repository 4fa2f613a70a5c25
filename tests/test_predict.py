"""`gradlens predict` and its page in `analyze`: the numbers are geometry's, the words are the numbers'."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pypdf import PdfReader
from torch import nn

from gradlens import commands, geometry, models
from gradlens.analyze import Config as Analysis
from gradlens.analyze import measure_models
from gradlens.figures import Unevenness
from gradlens.models import bare
from gradlens.predict import Config, predict_model, predicted, short_table
from gradlens.report import write_report
from gradlens.report.prediction import Predicted, _compensation, _coverage, conclusion, of_run
from gradlens.report.run import number
from gradlens.results import COLUMNS, Results
from gradlens.spectra import phase_energy, phase_imbalance


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    predict_model(Config(model="resnet18_half")).write(folder)
    write_report(folder)
    return folder


def text_of(folder: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(folder / "report.pdf").pages)


def gradlens(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["gradlens", *words])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    return stop.value.code


def test_the_table_holds_what_geometry_says(saved: Path) -> None:
    results = Results.read(saved)
    network = bare(models.load("resnet18_half", weights="random"))
    amplitude = geometry.energy_map(network, (3, 128, 128)).sqrt()[None, None]
    t = results.table
    assert list(t.columns) == list(COLUMNS)
    assert sorted(set(t["period"])) == [2, 4, 8, 16, 32]
    for period in (2, 8, 32):
        rows = t.loc[t["period"] == period].set_index("metric")["value"]
        phases = phase_energy(amplitude, period)
        expected = phase_imbalance(amplitude, period, debias=False).item()
        assert rows["predicted_imbalance"] == pytest.approx(expected, rel=1e-5)  # six digits in CSV
        assert rows["predicted_ratio"] == pytest.approx((phases.max() / phases.min()).item(), rel=1e-5)
        np.testing.assert_allclose(results.arrays[f"predicted/{period}"], phases[0], rtol=1e-6)


def test_the_writers_are_the_layers_that_change_the_resolution(saved: Path) -> None:
    told = of_run(Results.read(saved))
    writers = {period: [layer["layer"] for layer in told.writers(period)] for period in told.values}
    assert writers[2] == ["conv1"]
    assert writers[4] == ["maxpool"]
    assert writers[8] == ["layer2.0.conv1", "layer2.0.downsample.0"]
    assert not told.writers(3)
    (stem,) = told.writers(2)
    assert _coverage(stem).tolist() == [[16, 12], [12, 9]]


def test_page_and_terminal_say_the_numbers(saved: Path) -> None:
    told = of_run(Results.read(saved))
    page, terminal = text_of(saved), short_table(saved)
    for value in told.values.values():
        assert number(value.predicted, 2) in page
        assert number(value.predicted, 2) in terminal
    assert "conv1" in page
    assert len(PdfReader(saved / "report.pdf").pages) == 1
    worst = max(told.values.values(), key=lambda v: v.predicted)
    assert conclusion(told).startswith("Uneven by design.")
    assert number(worst.predicted, 2) in conclusion(told)
    assert terminal.startswith(conclusion(told))


def test_forward_is_about_the_output(tmp_path: Path) -> None:
    results = predict_model(Config(model="dcgan_svhn", direction="forward"))
    assert set(results.table["subject"]) == {"sample"}
    results.write(tmp_path)
    told = of_run(results)
    assert {p: [layer["layer"] for layer in told.writers(p)] for p in (2, 4, 8)} == {2: ["up3"], 4: ["up2"], 8: ["up1"]}
    write_report(tmp_path)
    assert "one forward pass" in " ".join(text_of(tmp_path).split())


def test_silent_layers_are_named() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
            self.short, self.last = nn.Conv2d(3, 4, 1, stride=2), nn.Linear(4, 2)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last((self.norm(self.conv(x)) + self.short(x)).mean((2, 3)))

    sys.modules["silent"] = type(sys)("silent")
    sys.modules["silent"].Block = Block  # type: ignore[attr-defined]
    try:
        model = models.load("silent:Block", input_size=(3, 16, 16))
    finally:
        del sys.modules["silent"]
    found = predicted(model, "backward")
    assert found.told["silent"] == ["norm"]
    value = next(r["value"] for r in found.rows if r["metric"] == "predicted_imbalance")
    assert value == pytest.approx(3**0.5)  # the 1x1 shortcut alone: one position in four has everything


def test_a_network_that_keeps_its_resolution_has_nothing_to_predict(tmp_path: Path) -> None:
    told = Predicted("net", "backward", "random, seed 0", [], {}, {}, [], {})
    assert conclusion(told) == "Nothing to predict. No layer of net changes the resolution."


@pytest.mark.parametrize(
    ("weights", "measured", "start"),
    [
        ("file a", 0.2, "As predicted."),
        ("file a", 0.5, "Learned compensation:"),
        ("random, seed 0", 0.5, "Beside the prediction:"),
    ],
)
def test_what_departs_is_laid_to_training_if_there_was_any(weights: str, measured: float, start: str) -> None:
    value = Unevenness(0.2, measured, measured - 0.05, measured + 0.05, 0.01)
    told = Predicted("net", "backward", weights, [], {2: value}, {2: 1.5}, [], {})
    said = "".join(part["text"] for part in _compensation(told))
    assert said.startswith(start)
    assert (number(measured, 2) in said) == (measured == 0.5)


def test_analyze_holds_it_against_what_it_measured(tmp_path: Path) -> None:
    results = measure_models(Analysis(limit=3, without=("dream", "blame")))
    t = results.table
    assert set(t.loc[t["metric"] == "predicted_imbalance", "subject"]) == {"input-gradient"}
    results.write(tmp_path)
    write_report(tmp_path)
    words = " ".join(text_of(tmp_path).split())
    assert "What the architecture predicted" in words
    assert "Learned compensation:" in words
    assert results.manifest["models"][0]["prediction"]["direction"] == "backward"


def test_analyze_goes_on_without_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise NotImplementedError("model: no rule for the energy of aten::odd in the backward pass of 'conv1'")

    monkeypatch.setattr(geometry, "energy_map", refuse)
    results = measure_models(Analysis(limit=2, periods=(2,), without=("dream", "blame")))
    assert "no prediction for 'resnet18_half': model: no rule for the energy of aten::odd" in capsys.readouterr().err
    results.write(tmp_path)
    write_report(tmp_path)
    assert "No prediction: model: no rule" in " ".join(text_of(tmp_path).split())


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert gradlens(monkeypatch, "predict", "--out", str(tmp_path / "run"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["manifest"]["command"] == "gradlens predict"
    assert {row["metric"] for row in told["table"]} == {"predicted_imbalance", "predicted_ratio"}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "arrays.safetensors", "figures", "manifest.json", "report.pdf", "table.csv",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet18_hal"], "near names: resnet18_half"),
        (["resnet18_half", "--seed", "-1"], "seed: must be from 0"),
        (["resnet18_half", "--weights", "none.safetensors"], "weights: there is no file"),
        (["gradlens.networks:MNISTDiscriminator", "--input-size", "1", "8", "8"], "1 x 8 x 8: layer"),
    ],
)
def test_refusals(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradlens(monkeypatch, "predict", *words, "--out", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
