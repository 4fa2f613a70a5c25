"""`analyses.maxpool_gradients`: measures of known signals, pages from the table that landed; two photographs when slow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses.maxpool_gradients import AS_IS, BOTH, HELD, STEM, Config, described, fine_share, replacements, run
from gradlens import models
from gradlens.gradients import input_gradient
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.rules import Rules
from reports.maxpool_gradients import contrast, write_report

LANDED = Path(__file__).parent.parent / "reports" / "maxpool_gradients.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": "python -m analyses.maxpool_gradients ASSETS", "versions": {}})


def test_fine_is_a_quarter_of_a_cycle_and_more() -> None:
    place = torch.arange(32, dtype=torch.float64)
    slow, fast = (torch.cos(2 * torch.pi * f * place).expand(1, 1, 32, 32) for f in (1 / 8, 1 / 4))
    np.testing.assert_allclose(fine_share(torch.cat([slow, fast, slow + fast + 5])), [0, 1, 0.5], atol=1e-12)


@pytest.mark.parametrize("pooling", ["strided", "dense", "none"])
def test_every_backward_pass_runs_on_a_network_of_its_kind(pooling: str) -> None:
    model = {
        "strided": lambda: models.classifier(),
        "dense": lambda: models.classifier("resnetblur18_half"),
        "none": lambda: models.classifier("resnet18", weights="random", model_args={"replace_stem_pool": True}),
    }[pooling]()
    rules = replacements(pooling)  # type: ignore[arg-type]
    assert (HELD in rules, "average" in rules) == (pooling == "strided", pooling != "none")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = {}
    for words, given in rules.items():
        with Rules(model, given):
            found[words] = input_gradient(model, image)
    plain = input_gradient(model, image)
    assert torch.equal(found.pop(AS_IS), plain)
    assert all(not torch.equal(gradient, plain) and gradient.isfinite().all() for gradient in found.values())


def test_rows_of_a_sign_lattice_name_it() -> None:
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    x += torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    table = described(x, model="m", subject="input-gradient", layer="as it is")
    assert contrast(table, "m", "input-gradient", "as it is", 2, "signed").value > 10
    assert table.loc[table["metric"] == "fine_share", "value"].item() > 0.9


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    for layer in (AS_IS, STEM, BOTH):
        row = contrast(landed.table, "resnet18_half", "input-gradient", layer, 2, "signed")
        assert number(row.value) in text
    assert "Held in every network" in text or "networks" in text


def test_what_landed_is_small_and_whole(landed: Results) -> None:
    assert LANDED.stat().st_size < 200_000
    assert landed.table["model"].nunique() == 6
    assert (landed.table["n"] == 63).all()


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.assets
def test_two_photographs_through_all_networks(assets: Path) -> None:
    results = run(Config(assets, count=2))
    assert results.table["model"].nunique() == 6
    assert results.table["value"].notna().mean() > 0.9
