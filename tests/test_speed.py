"""The timing analysis runs both sides and tells the ratio of each pair."""

import numpy as np
import pytest
import torch

from analyses.speed import Case, Config, _rows, _timed, run
from gradlens.results import COLUMNS


def test_every_case_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.speed.find_spec", lambda name: None)  # of Lucent, which is nobody's requirement
    config = Config(
        ("test_resnet",),
        side=64,
        batch_size=2,
        large_batch=2,
        batches=1,
        pairs=3,
        dream_side=64,
        dream_steps=1,
        channels=4,
        map_side=8,
        maps=1,
    )
    table = run(config).table
    assert list(table.columns) == list(COLUMNS)
    assert list(dict.fromkeys(table["model"])) == [
        "test_resnet, 64 px, batch 2", "resnet18, 64 px, batch 2", "test_resnet, 64 px, batch 1",
        "test_resnet, 64 px, 4 octaves, layer2", "4 channels, 8 px, batch 1",
    ]  # fmt: skip
    ratios = table[table["metric"] == "ratio"]
    assert ratios["kind"].tolist() == [
        "collect / autograd loop", "lattice_statistics / backward pass", "energy_map / backward pass",
        "dream / bare passes",
        "ResizeConv 3x3, forward / ConvTranspose2d 4x4, forward", "ResizeConv 3x3, training / ConvTranspose2d 4x4, training",
        "ResizeConv 3x3, forward / two steps, forward", "ResizeConv 3x3, training / two steps, training",
        "MaskedPixelDCL 2x2, training / ConvTranspose2d 4x4, training",
        *(
            f"ResizeConv {ours}, {kind} / ConvTranspose2d {peer}, {kind}"
            for ours, peer in (("5x5 x2", "6x6"), ("3x3 x3", "5x5"), ("3x3 x4", "6x6")) for kind in ("forward", "training")
        ),
        "fold / ResizeConv 3x3, training",
    ]  # fmt: skip
    assert (table.loc[table["metric"] != "bar", "n"] == 3).all()
    assert (ratios["low"] <= ratios["value"]).all() and (ratios["value"] <= ratios["high"]).all()
    assert table.loc[table["metric"] == "bar", "value"].tolist() == [
        1.05, 0.25, 3.0, 1.15, 1.1, 1.1, 1 / 1.8, 1 / 1.8, 1.3, *[1.1] * 6, 0.03,
    ]  # fmt: skip


def test_sides_alternate_after_a_warming_run_and_preparation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], []
    monkeypatch.setattr("analyses.speed.perf_counter", lambda: clock[0])

    def side(name: str, seconds: float) -> object:
        def prepare() -> object:
            clock[0] += 100

            def work() -> None:
                log.append(name)
                clock[0] += seconds

            return work

        return prepare

    case = Case("net", "ours", side("ours", 3.0), "peer", side("peer", 2.0), 8, 1.05)  # type: ignore[arg-type]
    times = _timed(case, 3, torch.device("cpu"), lambda: None)
    assert log == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    np.testing.assert_array_equal(times, [[3, 2]] * 3)
    rows = {(row["kind"], row["metric"]): row["value"] for row in _rows(case, times)}
    assert rows == {
        ("ours / peer", "ratio"): 1.5, ("ours / peer", "bar"): 1.05,
        ("ours", "time"): 3.0, ("peer", "time"): 2.0,
        ("ours", "rate"): 8 / 3, ("peer", "rate"): 4.0,
    }  # fmt: skip
