"""`analyses.jitter_law`: its measures where the answer is exact; its pages from the table that landed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import nn

from analyses.jitter_law import MOST, _compared, _coprime, _power, excess, moved_gradient
from gradlens.dream import cycle, jitter_attenuation
from gradlens.report.run import number
from gradlens.results import Results
from reports.jitter_law import FIRST, series, write_report

LANDED = Path(__file__).parent.parent / "reports" / "jitter_law.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": "python -m analyses.jitter_law ASSETS", "versions": {}})


class Fixed(nn.Module):
    """A linear network whose gradient is one pattern, whatever it sees and wherever the picture is."""

    def __init__(self, pattern: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("pattern", pattern)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.pattern).sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("n", [2, 4, 5, 8, 9])
@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_linear_networks_lattice_goes_exactly_as_the_law_says(n: int, period: int) -> None:
    place = torch.arange(64, dtype=torch.float64)
    pattern = torch.stack([torch.cos(2 * torch.pi * k * place / period + k) for k in _coprime(period)]).sum(0)
    model = Fixed(pattern.expand(1, 1, 64, 64).clone())
    image = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    offsets = range(-(n // 2), n - n // 2)
    mean = torch.stack([moved_gradient(model, image, [0, o], "roll") for o in offsets]).mean(0)  # type: ignore[arg-type]
    still = excess(moved_gradient(model, image, [0, 0], "roll"), period, 1)  # type: ignore[arg-type]
    power = np.mean([jitter_attenuation(n, period, harmonic=k) ** 2 for k in _coprime(period)])
    np.testing.assert_allclose(excess(mean, period, 1).lattice / still.lattice, power, atol=1e-9)
    assert n <= MOST


def test_the_power_of_a_whole_cycle_is_the_laws() -> None:
    assert _power([cycle(4, 2, step) for step in range(16)], 4) < 1e-24
    assert _power([[0, 0]], 4) == 1.0


def test_nothing_is_measured_where_there_is_no_lattice() -> None:
    noise = np.random.default_rng(0).normal(size=8)
    rows = {row["metric"]: row for row in _compared(noise, noise - noise.mean() - 0.01, np.ones(8), np.ones(8), 0.25)}
    assert np.isnan(rows["measured_attenuation"]["value"])
    assert rows["predicted_attenuation"]["value"] == 0.5
    assert rows["content_attenuation"]["value"] == 1.0


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    found = series(landed.table, FIRST, "averaged-gradient", "roll", "n", 2)
    assert list(found.index) == [1, 2, 4, 5, 8, 9, 16, 32, 64, 65]
    for law, measured in zip(found["law"], found["measured"], strict=True):
        assert f"{number(law, 2)} {number(measured, 2)}" in text
    assert LANDED.stat().st_size < 200_000


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)
