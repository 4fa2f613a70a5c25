"""`analyses.prediction`: a small network end to end, its files kept, its pages from the table; eight networks when slow."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from pypdf import PdfReader

from analyses import prediction
from analyses.prediction import SIDES, Config, architectures, differences, random_network, summary
from gradlens.results import Results
from reports.prediction import cells, write_report


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def results(kept: Path) -> Results:
    return prediction.run(Config(networks=("test_resnet",), cells=kept))


def test_the_list_is_timms_and_has_two_hundred() -> None:
    names = architectures()
    assert len(names) == len(set(names)) >= 200
    assert all(timm.is_model(name) for name in names)


def test_prediction_and_measurement_of_a_small_network_agree(results: Results) -> None:
    found = differences(results.table)
    found = found.loc[(found["region"] == "whole") & (found["score"] == "random")]
    assert set(found["period"]) == {2, 4, 8, 16}
    assert (found["difference"].abs() <= found["allowed"] + found["scatter"]).all()
    assert (found["measured"] > 0.05).all()


def test_what_is_kept_is_not_done_again(results: Results, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(p.name for p in kept.iterdir()) == sorted(f"test_resnet.{side}.json" for side in SIDES)
    monkeypatch.setattr(prediction, "SIDES", dict.fromkeys(SIDES))  # None cannot be called
    again = prediction.run(Config(networks=("test_resnet",), cells=kept))
    pd.testing.assert_frame_equal(again.table, results.table)


def test_a_network_without_a_gradient_keeps_the_reason(tmp_path: Path) -> None:
    table = prediction.run(Config(networks=("no_such_network",), cells=tmp_path)).table
    assert table["metric"].tolist() == ["failed"]
    assert "no_such_network" in table["kind"][0]
    assert "error" in json.loads((tmp_path / "no_such_network.measured.json").read_text())


def test_weights_are_those_of_the_seed() -> None:
    (one, size), (same, _), (other, _) = (random_network("test_resnet", seed) for seed in (1, 1, 2))
    weights = [next(network.parameters()) for network in (one, same, other)]
    assert size == (3, 160, 160)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_head_that_starts_at_zero_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = prediction.classifier

    def zeroed(*args: object, model_args: dict[str, object], **options: object) -> object:
        model = real(*args, model_args=model_args, **options)  # type: ignore[arg-type]
        if "num_classes" not in model_args:
            torch.nn.init.zeros_(model.network.fc.weight)  # type: ignore[union-attr, arg-type]
            torch.nn.init.zeros_(model.network.fc.bias)  # type: ignore[union-attr, arg-type]
        return model

    monkeypatch.setattr(prediction, "classifier", zeroed)
    network, size = random_network("test_resnet", 0)
    assert isinstance(network.fc, torch.nn.Identity)
    assert network(torch.rand(1, *size)).any()


def test_pages_say_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    write_report(tmp_path)
    words = " ".join(" ".join(page.extract_text() for page in PdfReader(tmp_path / "report.pdf").pages).split())
    for row in summary(results.table).to_dict("records"):
        assert f"{row['median']:.3f}" in words
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert lines[0] == "model,period,region,measured,predicted,scatter,measured_top,predicted_top"
    assert lines[1].startswith("test_resnet,2,whole,")
    assert cells(differences(results.table)).splitlines() == lines


@pytest.mark.slow
def test_eight_networks_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider than the bars of the analysis: one draw of weights scatters by up to 0.1."""
    monkeypatch.setattr(prediction, "SEEDS", (0,))
    names = ("resnet18", "lcnet_035", "mobilenetv3_small_050", "repghostnet_050", "starnet_s050", "shvit_s1", "edgenext_xx_small",
             "regnetx_002")  # fmt: skip
    for name in names:
        cell = {side: SIDES[side](name, Config(cells=tmp_path)) for side in ("measured", "predicted")}
        for period in cell["predicted"]["periods"]:
            measured, predicted = (
                np.array(cell[side]["values"]["whole"][period]) for side in ("measured", "predicted")
            )
            assert abs(measured - predicted) <= max(0.15, 0.2 * measured), (name, period)
