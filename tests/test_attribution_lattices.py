"""`analyses.attribution_lattices`: its laws, what it may choose on, pages from the table that landed; small when slow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses.attribution_lattices import (
    DEGRIDDED,
    NETWORKS,
    NONE,
    REMEDIES,
    Config,
    best,
    by_samples,
    command,
    held,
    mapped,
    methods,
    noise_share,
    run,
    unseen,
)
from gradlens import models
from gradlens.gradients import METHODS
from gradlens.images import Photograph
from gradlens.report.run import number
from gradlens.results import Results
from reports.attribution_lattices import averaging, carriers, costs, expected, found, remaining, remedies, write_report

BUNDLED = NETWORKS[0]
LANDED = Path(__file__).parent.parent / "reports" / "attribution_lattices.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": command(Config(Path("ASSETS"))), "versions": {}})


def test_noise_falls_as_one_by_n_and_a_fixed_map_has_none() -> None:
    fixed = torch.randn(1, 40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for n in (2, 5, 20, 50):
        assert noise_share(fixed.expand(n, -1, -1, -1, -1)).max() < 1e-12
        assert float(noise_share(noise[:n]).mean()) == pytest.approx(1, rel=0.03)  # 40 x 768 values, two halves
        share = float(noise_share(fixed + noise[:n]).mean())
        assert share == pytest.approx((1 / n) / (1 + 1 / n), rel=0.03)
        assert share == pytest.approx(expected(0.5, 1, n), rel=0.03)


def test_noise_alone_stays_noise() -> None:
    assert expected(2.5, 2, 50) == 1


def test_one_sample_more_changes_what_disagrees_and_not_its_mean() -> None:
    model = models.classifier(BUNDLED)
    table = by_samples(model, torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), (1, 2), name="it")
    shares = table.loc[table["metric"] == "noise_share"]
    assert list(shares["layer"]) == ["2", "2"] and shares["value"].between(0, 1).all()
    assert set(table.loc[table["metric"] == "lattice_contrast", "layer"]) == {"1", "2"}


def test_what_is_judged_chooses_nothing() -> None:
    judged = [Photograph(name, lambda: None) for name in ("n01_tench.png", "n02_frog.png")]  # type: ignore[arg-type]
    others = [Photograph(name, lambda: None) for name in ("n02_frog.jpg", "n03_fox.jpg")]  # type: ignore[arg-type]
    assert [photograph.name for photograph in unseen(others, judged)] == ["n03_fox.jpg"]


def test_the_best_cutoff_is_that_of_the_highest_row() -> None:
    assert best(pd.DataFrame({"layer": ["saliency, 0.06", "saliency, 0.18"], "value": [0.1, 0.2]})) == 0.18


def test_a_network_without_relu_is_not_guided() -> None:
    assert methods(models.classifier(BUNDLED)) == list(METHODS)
    assert methods(torch.nn.Sequential(torch.nn.ReLU6())) == [m for m in METHODS if m != "guided-backprop"]


def test_the_command_names_what_was_given() -> None:
    plain = Config(Path("assets"))
    assert command(plain) == "python -m analyses.attribution_lattices ASSETS"
    assert command(replace(plain, judged=16)) == "python -m analyses.attribution_lattices ASSETS --judged 16"


def test_holding_the_stem_evens_the_map_and_leaves_the_model() -> None:
    model = models.classifier(BUNDLED)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, evened = mapped(model, images, "saliency"), held(model, images, "saliency")
    assert not torch.equal(before, evened)
    assert torch.equal(mapped(model, images, "saliency"), before)


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    for network in NETWORKS:
        for method in DEGRIDDED:
            for remedy in REMEDIES:
                row = found(landed.table, network, "degridded", f"{method}, {remedy}", "insertion")
                assert number(row.value, 3) in text
    assert "removes it in 0 of 4 networks" in averaging(landed.table)


def test_the_verdict_follows_the_rows(landed: Results) -> None:
    t = landed.table.copy()
    t.loc[t["metric"] == "lattice_contrast", ["value", "low", "high", "p"]] = (-1.0, -2.0, 0.0, 0.9)
    t.loc[t["metric"].str.endswith("_change"), ["value", "low", "high"]] = (0.0, -1.0, 1.0)
    assert "saliency in 0 of 4" in carriers(t) and "removes it in 4 of 4" in averaging(t)
    assert remaining(t).count(" 0 of 16") == len(REMEDIES)
    assert "notch in 4, low-pass in 4, even phases in 4 and stem held in 4" in remedies(t)
    assert "none has an interval off 0" in costs(t)
    held = (t["model"] == BUNDLED) & (t["layer"] == "saliency, stem held") & (t["metric"] == "deletion_change")
    t.loc[held, ["value", "low", "high"]] = (-0.2, -0.3, -0.1)
    assert costs(t).endswith("more faithful: stem held of saliency, resnet18_half (deletion \u22120.200).")


def test_what_landed_is_small_and_whole(landed: Results) -> None:
    t = landed.table
    assert LANDED.stat().st_size < 200_000
    assert set(t["model"]) == set(NETWORKS)
    judged = t.loc[(t["subject"] == "degridded") & t["metric"].isin(("deletion", "insertion"))]
    assert (judged["n"] == 24).all() and judged["value"].between(0, 1).all()
    plain = t.loc[t["layer"].str.endswith(f", {NONE}") & t["metric"].str.endswith("_change"), "value"]
    np.testing.assert_array_equal(plain, 0)


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.assets
def test_three_photographs_through_everything(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.attribution_lattices.NETWORKS", NETWORKS[:1])  # the others take minutes
    results = run(Config(assets, count=1, occluded=1, judged=3, others=3))
    assert set(results.table["subject"]) == {"attribution", "samples", "cutoff", "degridded"}
    assert set(results.table["model"]) == {BUNDLED}
