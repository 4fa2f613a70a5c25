"""`analyses.colour_distance`: correlations against plain ones, images whose lattice follows their colour, tiny cells, pages."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pypdf import PdfReader
from scipy import stats

from analyses import colour_distance
from analyses.claims import verdict
from analyses.colour_distance import (
    AMPLITUDE,
    BETWEEN,
    CLAIMS,
    CONTRAST,
    DESIGNS,
    IMAGE,
    KINDS,
    LEVELS,
    METRICS,
    MNIST,
    PARTIAL,
    PERIODS,
    PLAIN,
    REAL,
    SPACES,
    SVHN,
    WITHIN,
    WRITTEN,
    Config,
    amplitude,
    correlations,
    partial,
    rank_correlation,
    run,
    spearman_interval,
    windows,
    written,
)
from analyses.gan_upsampling import NONE, ONE, TWO
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.spectra import notch
from reports.colour_distance import write_report
from tests.cells import small_grid

pytestmark = pytest.mark.slow  # their cells and runs take tens of seconds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    def published(config: Config) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        x = torch.rand(config.count, 1, 28, 28, generator=torch.Generator().manual_seed(1))
        return {SVHN: (x.repeat(1, 3, 1, 1), torch.full((3,), 0.4)), MNIST: (x, torch.tensor([0.1]))}

    with pytest.MonkeyPatch.context() as patch:
        small_grid(patch)
        patch.setattr(colour_distance, "published", published)
        patch.setattr(colour_distance, "upsampling_configs", _of_these(colour_distance.upsampling_configs))
        yield run(Config(cells=tmp_path_factory.mktemp("cells"), count=16))


def _of_these(configs: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    return lambda base, seeds: {key: one for key, one in configs(base, seeds).items() if key[0] in DESIGNS}


def coloured(count: int, *, follows: bool, seed: int = 0) -> torch.Tensor:
    """Images of one colour with noise and a checkerboard, whose height follows the distance from mid grey, or not."""
    g = torch.Generator().manual_seed(seed)
    colour = 0.5 + 0.2 * (torch.rand(count, 3, 1, 1, generator=g) - 0.5)
    heights = (colour - 0.5).norm(dim=1, keepdim=True)
    if not follows:
        heights = heights[torch.randperm(count, generator=g)]
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    return colour + heights * 0.3 * board + 0.005 * torch.randn(count, 3, 32, 32, generator=g)


def test_amplitude_is_the_height_of_the_board() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    x = 0.5 + torch.tensor([0.0, 2 / LEVELS]).view(2, 1, 1, 1) * board.repeat(2, 3, 1, 1)
    torch.testing.assert_close(amplitude(x, 2), torch.tensor([0.0, 2.0]), atol=1e-4, rtol=0)  # float32 rounding of 0.5
    torch.testing.assert_close(amplitude(x, 4), amplitude(x, 2))
    torch.testing.assert_close(amplitude(notch(x, 2), 2), torch.zeros(2), atol=1e-4, rtol=0)


def test_windows_overlap_by_half() -> None:
    x = torch.arange(2 * 16 * 16.0).view(2, 1, 16, 16)
    parts = windows(x, 8)
    assert parts.shape == (2, 9, 1, 8, 8)
    for n, (i, j) in enumerate([(i, j) for i in (0, 4, 8) for j in (0, 4, 8)]):
        assert torch.equal(parts[1, n], x[1, :, i : i + 8, j : j + 8])


def test_written_undoes_a_tanh() -> None:
    u = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(written((torch.tanh(u) + 1) / 2), u, atol=1e-5, rtol=1e-5)
    assert written(torch.tensor([0.0, 1.0])).isfinite().all()


def test_correlations_of_ranks_are_those_of_scipy_and_of_residuals() -> None:
    g = np.random.default_rng(0)
    c = g.normal(size=200)
    a, b = c + g.normal(size=200), np.exp(c + g.normal(size=200))
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    ranks = [stats.rankdata(v) for v in (a, b, c)]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert partial(a, b, c) == pytest.approx(stats.pearsonr(*left).statistic)
    assert abs(partial(a, b, c)) < 0.2 < rank_correlation(a, b)
    assert np.isnan(rank_correlation(a, np.ones(200)))
    assert np.isnan(partial(a, b, np.ones(200)))
    assert np.isnan(partial(a, a, a))


def test_an_interval_covers_what_it_says() -> None:
    """Normal pairs of correlation 0.5, whose Spearman is 6/pi asin(1/4): 0.92 to 0.98 of 400 intervals hold it (4 sd)."""
    g, truth, held = np.random.default_rng(1), 6 / np.pi * np.arcsin(0.25), 0
    for _ in range(400):
        x = g.normal(size=(2, 60))
        low, high = spearman_interval(rank_correlation(x[0], 0.5 * x[0] + np.sqrt(0.75) * x[1]), 60)
        held += low < truth < high
    assert 0.91 <= held / 400 <= 0.99
    assert np.isnan(spearman_interval(float("nan"), 60)).all()
    assert np.isnan(spearman_interval(0.5, 4)).all()


@pytest.mark.parametrize("space", SPACES)
def test_a_board_that_follows_the_colour_is_found_between_images(space: str) -> None:
    centre = torch.full((3,), 0.5)
    found = correlations(coloured(64, follows=False), centre)
    for kind in KINDS:
        assert abs(found[BETWEEN, space, 2, kind, PLAIN][0]) < 0.4  # 64 images: 0 within 3 sd of 0.13
    found = correlations(coloured(64, follows=True), centre)
    assert found[BETWEEN, space, 2, AMPLITUDE, PLAIN][0] > 0.9
    assert found[BETWEEN, space, 2, AMPLITUDE, PARTIAL][0] > 0.7
    assert found[BETWEEN, space, 2, CONTRAST, PLAIN][0] > 0.3  # one line of three: the others are chance
    assert found[BETWEEN, space, 2, AMPLITUDE, PLAIN][3] == 64


def test_a_board_that_follows_the_colour_is_found_within_images() -> None:
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-0.3, 0.3, 32).expand(8, 3, 32, 32)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    noise = 0.01 * torch.randn(8, 3, 32, 32, generator=g)
    centre = torch.full((3,), 0.5)
    follows = correlations(0.5 + ramp + 0.2 * ramp.abs() * board + noise, centre)
    flat = correlations(0.5 + ramp + 0.05 * board + noise, centre)
    assert follows[WITHIN, IMAGE, 2, AMPLITUDE, PLAIN][0] > 0.8
    assert abs(flat[WITHIN, IMAGE, 2, AMPLITUDE, PLAIN][0]) < 0.3
    assert follows[WITHIN, IMAGE, 2, AMPLITUDE, PLAIN][3] == 8


def test_edges_are_held() -> None:
    """Noise that follows the colour is lattice too; with the detail held little is left."""
    g = torch.Generator().manual_seed(0)
    colour = 0.5 + 0.4 * (torch.rand(96, 3, 1, 1, generator=g) - 0.5)
    strength = (colour - 0.5).norm(dim=1, keepdim=True)
    x = colour + 0.2 * strength * torch.randn(96, 3, 32, 32, generator=g)
    found = correlations(x, torch.full((3,), 0.5))
    plain, held = (found[BETWEEN, IMAGE, 2, AMPLITUDE, metric][0] for metric in METRICS)
    assert plain > 0.6
    assert abs(held) < 0.3


def test_rows_of_every_network_seed_and_claim(results: Results) -> None:
    t = results.table
    every = len(PERIODS) * len(SPACES) * 2 * len(KINDS) * len(METRICS)
    correlated = t.loc[t["metric"].isin(METRICS)]
    for name in (*DESIGNS, REAL):
        assert len(correlated.loc[correlated["model"] == name]) == 4 * every
    for name in (SVHN, MNIST):
        assert len(correlated.loc[correlated["model"] == name]) == every
    chosen = (t["model"] == TWO) & (t["subject"] == BETWEEN) & (t["layer"] == WRITTEN) & (t["period"] == 2)
    rows = t.loc[chosen & (t["kind"] == AMPLITUDE) & (t["metric"] == PARTIAL)].set_index("image")["value"]
    assert rows[""] == pytest.approx(rows[["seed 0", "seed 1", "seed 2"]].mean())
    claimed = t.loc[(t["model"] == "further") & (t["image"] == "") & (t["kind"] == AMPLITUDE)]
    assert len(claimed) == 2 * 2 * 2 + 1
    for claim in CLAIMS:
        assert verdict(t, claim.name, AMPLITUDE) in ("held", "not held", "not decided")
    assert {ONE, NONE} < set(t["model"])


def test_pages_say_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    words = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert results.manifest["command"] in words
    t = results.table
    shown = t.loc[(t["metric"] == PLAIN) & (t["image"] == "") & (t["layer"] == IMAGE)]
    assert len(shown) == 6 * len(PERIODS) * 2 * len(KINDS)
    for value in shown["value"].dropna():
        assert number(value, 2) in words
    for claim in CLAIMS:
        assert claim.sentence[:20] in words
