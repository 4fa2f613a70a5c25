"""A grid of training runs: what a cell is, that it is run once and goes on, one that dies alone, and the front."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradlens.compare import interval
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.grid import Cell, cells, front, over_seeds, run_grid

TINY = TrainConfig(
    resolution=8, width=2, latent=4, batch_size=4, steps=2, log_every=1, rated=0, periods=(2,), accelerator="cpu"
)
DYING = """
import os
from torch import nn

class Dying(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3 * 64)

    def forward(self, z):
        if z.abs().max() > 0:  # not at the trial before the run
            os._exit(9)
        return self.fc(z).view(-1, 3, 8, 8)
"""


def pixels(count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_cell_is_what_decides_its_results(tmp_path: Path) -> None:
    same = [TINY, TINY, replace(TINY, data=(Path("elsewhere"),), devices="2", save_every=7)]
    assert len(cells(same, tmp_path, "a")) == 1
    others = [
        replace(TINY, seed=1),
        replace(TINY, steps=3),
        replace(TINY, upsampler=("deconv",)),
        replace(TINY, rated=5),
    ]
    found = cells([TINY, *others], tmp_path, "a")
    assert len({cell.folder for cell in found}) == 5
    assert cells([TINY], tmp_path, "b")[0].folder != found[0].folder


def test_a_cell_is_found_under_another_name(tmp_path: Path) -> None:
    [cell] = cells([TINY], tmp_path, "a")
    cell.folder.mkdir()
    moved = cell.folder.rename(tmp_path / f"renamed-{cell.folder.name.rsplit('-', 1)[1]}")
    assert cells([TINY], tmp_path, "a")[0].folder == moved


def test_the_front_against_every_pair() -> None:
    points = np.random.default_rng(0).integers(0, 6, (40, 3)).astype(float)
    expected = [
        not any((q <= p).all() and (q < p).any() for q in points)
        for p in points
    ]  # fmt: skip
    assert front(points).tolist() == expected and 0 < sum(expected) < 40


def test_equal_points_are_both_on_the_front() -> None:
    assert front(np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])).tolist() == [True, True, False]


@pytest.mark.slow
def test_a_finished_cell_is_not_run_again_and_one_that_dies_takes_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets.py").write_text(DYING)
    monkeypatch.chdir(tmp_path)
    configs = [TINY, replace(TINY, generator="nets:Dying"), replace(TINY, seed=1)]
    found = run_grid(configs, pixels(), tmp_path / "cells", workers=1)
    assert [cell.finished for cell in found] == [True, False, True]
    assert "its process died" in capsys.readouterr().err
    before = {c.folder: (c.folder / "run" / "table.csv").stat().st_mtime_ns for c in found if c.finished}
    again = run_grid([TINY, replace(TINY, seed=1), replace(TINY, seed=2)], pixels(), tmp_path / "cells", workers=2)
    assert all(cell.finished for cell in again)
    assert before == {c.folder: (c.folder / "run" / "table.csv").stat().st_mtime_ns for c in again[:2]}
    assert "3 cells, 2 of them finished before" in capsys.readouterr().err
    table = over_seeds(again)
    check_means(table, again)


def check_means(table: object, found: list[Cell]) -> None:
    """The mean over seeds and its interval, once more."""
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    rows = table.loc[
        (table["metric"] == "lattice_contrast") & (table["kind"] == "signed") & (table["subject"] == "sample")
    ]
    own = []
    for cell in found:
        t = cell.results().table
        t = t.loc[(t["metric"] == "lattice_contrast") & (t["kind"] == "signed") & (t["subject"] == "sample")]
        own.append(float(t["value"].iloc[0]))
    mean = rows.loc[rows["image"] == ""].iloc[0]
    assert rows.loc[rows["image"] != "", "value"].tolist() == own and mean["n"] == 3
    assert mean["value"] == pytest.approx(np.mean(own))
    assert (mean["low"], mean["high"]) == pytest.approx(interval(np.array(own)), nan_ok=True)
