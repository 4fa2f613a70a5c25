"""The calibration analysis in small: its rows, its laws, and its halves of photographs."""

from pathlib import Path

import pytest

from analyses import calibration
from gradlens.images import sample


def test_measures_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "NOISE", {"white": calibration.white})
    monkeypatch.setattr(calibration, "SHAPES", ((1, 28),))
    for name in ("coffee", "rocket"):
        sample(name).save(tmp_path / f"{name}.png")
    table = calibration.run(calibration.Config(tmp_path, draws=200)).table
    white = table[(table["model"] == "white, 28 px, grey") & (table["metric"] == "lattice_test")]
    assert set(white["period"]) == {2, 3, 4, 6}
    assert set(white["p"]) == {0.01, 0.1}
    rejected = white[white["p"] == 0.1]["value"]
    assert rejected.between(0.03, 0.2).all()  # 200 images: 0.1 with a standard error of 0.02
    imbalance = table.loc[table["metric"] == "phase_imbalance"].set_index("model")["value"]
    assert imbalance["white, 64 px, RGB, planted 0.484"] == pytest.approx(0.484, rel=0.03)
    assert abs(imbalance["white, 64 px, RGB"]) < 0.02
    found = table[(table["model"] == "photographs, sign lattice of 2 grey levels") & (table["p"] == 0.01)]
    assert found["value"].tolist() == [1.0]
    assert found["n"].tolist() == [2]
