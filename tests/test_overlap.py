"""The overlap analysis in small: what it counts, what it says of its sources, its pages, and its drawings."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle
from pypdf import PdfReader

from analyses import overlap
from gradlens import figures
from gradlens.geometry import TransposedConv, stack_overlap
from gradlens.results import Results
from reports.overlap import write_report


@pytest.fixture(scope="module")
def results() -> Results:
    return overlap.run(overlap.Config(draws=500, seeds=1, steps=2))


def value(results: Results, model: str, metric: str, **where: object) -> float:
    t = results.table
    t = t[(t["model"] == model) & (t["metric"] == metric)]
    for name, wanted in where.items():
        t = t[t[name] == wanted]
    assert len(t) == 1
    return float(t["value"].iloc[0])


def test_every_number_of_the_sources_is_what_is_counted(results: Results) -> None:
    table = overlap.claims(results.table)
    assert len(table) == 22
    assert bool(table["agrees"].all()), table.to_string()


def test_counts_known_layers(results: Results) -> None:
    assert value(results, "kernel 3, stride 2", "taps_ratio", layer="2-D") == 4
    assert value(results, "kernel 5, stride 2", "taps_ratio", layer="2-D") == 2.25
    assert value(results, "ResNet, stem", "taps_ratio") == pytest.approx(16 / 9)
    assert np.isnan(value(results, "ResNet, shortcut", "taps_ratio"))
    assert value(results, "3 s2, 3 s2", "line", period=4) > 0
    assert value(results, "3 s2, 3 s2, 4 s1", "line", period=2) == 0
    assert value(results, "3 equal taps", "left", period=2) == pytest.approx(1 / 3)
    assert value(results, "6 equal taps", "left", period=3) == 0


def test_random_kernels_follow_the_count_on_average_and_write_a_lattice_each(results: Results) -> None:
    for kernel, ratio in ((2, 1), (3, 2), (4, 1), (5, 1.5), (6, 1)):
        name = f"deconvolution, kernel {kernel}"
        energy = value(results, name, "energy_ratio", layer="all kernels")
        assert energy == pytest.approx(ratio, rel=0.25)  # 500 kernels: a phase of one tap is known to 6 %
        assert value(results, name, "constant_share") == pytest.approx(0.5, abs=0.06)  # standard error 0.016
    for name in ("nearest resize, kernel 3", "bilinear resize, kernel 3"):
        assert value(results, name, "constant_share") < 1e-20  # float64 rounding, squared


def test_a_nearest_resize_is_the_deconvolution_with_equal_phase_sums() -> None:
    deconvolution, nearest = (overlap.as_matrix(overlap.LAYERS[name], 8)[:, 4] for name in overlap.MATRICES[:2])
    sign = (1 - 2 * (torch.arange(16) % 2)).double()
    assert (sign @ nearest).abs().max() == 0  # a constant stays a constant
    tied = torch.cat([deconvolution, nearest], 1)
    assert torch.linalg.matrix_rank(tied) == torch.linalg.matrix_rank(deconvolution) == 4
    assert torch.linalg.matrix_rank(nearest) == 3  # of four, one is spent on the equal sums, and no more


def test_the_expected_power_is_the_hold_to_its_order() -> None:
    frequency = np.linspace(0, 0.5, 33)
    for name, order in zip(overlap.MATRICES, (0, 2, 6), strict=True):
        power = overlap.response(overlap.LAYERS[name]).numpy()
        np.testing.assert_allclose(power, np.cos(np.pi * frequency) ** order, atol=1e-14)  # float64 rounding


def test_the_same_seed_gives_the_same_table(results: Results) -> None:
    config = overlap.Config(draws=500, seeds=1, steps=2)
    again = overlap.run(dataclasses.replace(config, seed=0))
    assert again.table.equals(results.table)
    assert not overlap.run(dataclasses.replace(config, seed=1)).table.equals(results.table)


def test_the_pages_hold_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    text = " ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages)
    assert "22 of 22 statements" in text
    assert "python -m analyses.overlap" in text
    assert "ResNet-D, stem 3 2 2 backward 1 4 4.00 partial" in " ".join(text.split())
    assert "2: 0.333, 4: 0.111" in " ".join(text.split())
    assert {p.suffix for p in (tmp_path / "figures").iterdir()} == {".svg"}


def test_the_pages_refuse_another_run(results: Results, tmp_path: Path) -> None:
    dataclasses.replace(results, manifest={"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match=r"holds no run of analyses\.overlap"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "layers",
    [
        [TransposedConv(3, 2)],
        [TransposedConv(4, 2, padding=1), TransposedConv(3, 3)],
        [TransposedConv((3,), (2,), dilation=(2,))],
        [TransposedConv(1, 2, output_padding=1)],
    ],
)
def test_each_position_is_drawn_with_its_count_above_the_window_that_it_paints(layers: list[TransposedConv]) -> None:
    _, axes = figures.new_figure(4, 3)
    rows = [np.ones(5, dtype=int), *(stack_overlap(layers[: n + 1], 5).numpy() for n in range(len(layers)))]
    ax = figures.draw_overlap(axes[0, 0], rows, layers)
    assert [t.get_text() for t in ax.texts] == [str(n) for row in rows for n in row]
    cells = [p for p in ax.patches if isinstance(p, Rectangle)]
    windows = [p.get_xy() for p in ax.patches if isinstance(p, Polygon) and p.get_fill()]
    assert len(windows) == sum(len(row) for row in rows[:-1])
    whole = max(np.ptp(window[2:4, 0]) for window in windows)
    for cell, window in zip(cells, windows, strict=False):
        assert tuple(window[:2, 0]) == pytest.approx((cell.get_x(), cell.get_x() + 1))
        if np.ptp(window[2:4, 0]) == whole:  # not cut off by padding
            assert window[2:4, 0].mean() == pytest.approx(cell.get_x() + 0.5)


def test_a_hole_is_ringed_and_a_removed_period_too() -> None:
    _, axes = figures.new_figure(4, 3, 1, 2)
    holes = figures.draw_overlap_plane(axes[0, 0], np.array([1, 0]), np.array([1, 1]))
    ringed = [p for p in holes.patches if to_hex(p.get_edgecolor()) == figures.GRADIENT]
    assert len(ringed) == 3  # two of the plane, one at its edge
    tail = figures.draw_tail(axes[0, 1], [2, 3], [2], np.array([[0.0], [1 / 3]]))
    assert [t.get_text() for t in tail.texts] == ["0", "0.33"]
    assert sum(to_hex(p.get_edgecolor()) == figures.GRADIENT for p in tail.patches) == 1
