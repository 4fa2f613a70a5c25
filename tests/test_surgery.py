"""`analyses.surgery`: what it compares, pages from the table that landed; two networks through everything when slow."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import nn

from analyses.surgery import ALL, BEFORE, DESIGNS, LAST, PERIODS, REAL, TUNED, Case, Config, command, made, run, tuned
from gradlens.report.run import number
from gradlens.results import Results
from reports.surgery import contrast, labels, networks, value, without_training, write_report

LANDED = Path(__file__).parent.parent / "reports" / "surgery.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    told = {"steps": 60, "rate": 1e-4, "count": 16, "seed": 0}
    return Results(table, {}, {"command": command(Config(Path("ASSETS"), count=16, steps=60)), "versions": {}} | told)


def case(network: nn.Module) -> Case:
    def batch(g: torch.Generator) -> torch.Tensor:
        return torch.randn(8, 2, 4, 4, generator=g)

    g = torch.Generator().manual_seed(0)
    return Case(network, batch(g), list(batch(g).split(1)), batch, [])


def test_tuning_moves_a_copy_towards_the_old_network() -> None:
    old, new = nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.ConvTranspose2d(2, 3, 4, 2, 1)
    own = case(old.requires_grad_(False))
    before = new.weight.detach().clone()
    after = tuned(own, new, Config(Path(), steps=50, rate=0.01))
    assert torch.equal(new.weight, before)

    def apart(network: nn.Module) -> float:
        return sum(float((a - b).square().sum()) for a, b in zip(made(own, old), made(own, network), strict=True))

    assert apart(after) < 0.5 * apart(new)


def test_the_command_names_what_was_given() -> None:
    plain = Config(Path("assets"))
    assert command(plain) == "python -m analyses.surgery ASSETS"
    assert command(replace(plain, steps=9)) == "python -m analyses.surgery ASSETS --steps 9"


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    t = landed.table
    for name in networks(t):
        for design in DESIGNS:
            assert number(value(t, name, f"{design}, {ALL}", "drift"), 3) in text
            assert number(contrast(t, name, f"{design}, {ALL}", 2).value) in text


def test_what_landed_is_small_and_whole(landed: Results) -> None:
    t = landed.table
    assert LANDED.stat().st_size < 200_000
    assert len(networks(t)) == 6
    expected = {
        REAL,
        BEFORE,
        *(f"{d}, {reach}" for d in DESIGNS for reach in (ALL, LAST)),
        *(f"{d}, {ALL}, tuned" for d in TUNED),
    }
    for name in networks(t):
        assert set(labels(t, name)) == expected
        for design in DESIGNS:
            assert value(t, name, f"{design}, {ALL}", "passed") == 1
            assert value(t, name, f"{design}, {ALL}", "passed_before") == 0
            assert value(t, name, f"{design}, {LAST}", "drift") <= value(t, name, f"{design}, {ALL}", "drift")
    assert set(t["period"].dropna()) == set(PERIODS)


def test_the_verdict_follows_the_rows(landed: Results) -> None:
    t = landed.table.copy()
    t.loc[t["metric"] == "lattice_contrast", ["value", "low", "high", "p"]] = (-1.0, -2.0, 0.0, 0.9)
    assert without_training(t).count("leaves 0 at 2 and 0 at 4 px and lowers that at 2 px in 0") == len(DESIGNS)


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.assets
def test_two_generators_through_everything(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyses import surgery

    some = list(surgery.cases(Config(assets)))[:2]
    monkeypatch.setattr(surgery, "cases", lambda config: iter(some))
    t = run(Config(assets, count=4, steps=2)).table
    assert set(t["model"]) == {"dcgan, svhn", "dcgan, mnist"}
    assert (t.loc[t["metric"] == "passed", "value"] == 1).all()
