"""`analyses.upsampler_zoo`: its parts, and pages from the table that landed."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses.upsampler_zoo import (
    BASELINE,
    JUDGED_ON,
    LAYERS,
    SIDE,
    TRAINED,
    TRAINED_ON,
    UNTRAINED,
    Autoencoder,
    Config,
    command,
    crops,
    drawn,
    known,
    timed,
    train,
)
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.upsampling import UPSAMPLERS
from reports.upsampler_zoo import certificates, contrast, layers, passing, row, write_report

LANDED = Path(__file__).parent.parent / "reports" / "upsampler_zoo.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED, dtype={"image": object, "layer": object}).fillna({"image": "", "layer": "", "kind": ""})
    told = {"seeds": 3, "steps": 150, "timed": [64, 64, 4], "device": "cpu", "threads": 1}
    return Results(table, {}, {"command": command(Config(steps=150, crops=64, pairs=7)), "versions": {}} | told)


def test_every_layer_of_the_zoo_is_there() -> None:
    assert set(LAYERS) == set(UPSAMPLERS) - {"deconv"} | {BASELINE, "deconv 3x3"}


def test_what_is_judged_is_not_trained_on() -> None:
    assert JUDGED_ON not in TRAINED_ON
    x = crops(JUDGED_ON, 5, torch.Generator().manual_seed(0))
    assert x.shape == (5, 3, SIDE, SIDE) and 0 <= x.min() < x.max() <= 1
    assert torch.equal(x, crops(JUDGED_ON, 5, torch.Generator().manual_seed(0)))


def test_layers_are_drawn_from_their_seed_alone() -> None:
    state = torch.get_rng_state()
    one, two = (drawn("deconv 3x3", 2, 3, seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_costs_and_verdicts_of_a_layer() -> None:
    found = {(r["metric"], r["kind"]): r["value"] for r in known("resize")}
    assert found["certificate", "forward"] == found["certificate", "backward"] == 1
    assert found["multiplications", ""] == 4 and found["parameters", ""] == pytest.approx(9 + 1 / 32)
    assert {(r["metric"], r["kind"]): r["value"] for r in known("deconv 3x3")}["certificate", "forward"] == 0


def test_both_sides_are_timed() -> None:
    rows = list(timed("resize", Config(channels=4, side=8, batch=1, pairs=3)))
    assert [r["kind"] for r in rows] == ["forward", "forward and backward"]
    assert all(r["low"] <= r["value"] <= r["high"] and r["n"] == 3 for r in rows)


def test_an_autoencoder_learns_and_ends_in_the_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Autoencoder(lambda a, b: LAYERS["resize"](a, b), 8)
    x = crops(TRAINED_ON[0], 16, torch.Generator().manual_seed(1))
    before = float((network(x) - x).detach().square().mean())
    train(network, 20, 0)
    assert float((network(x) - x).detach().square().mean()) < before


def test_the_command_names_what_was_given() -> None:
    assert command(Config()) == "python -m analyses.upsampler_zoo"
    assert command(replace(Config(), steps=9)) == "python -m analyses.upsampler_zoo --steps 9"


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    for name in layers(landed.table):
        for stage in (UNTRAINED, TRAINED):
            assert number(contrast(landed.table, name, stage, "signed", 2)["value"]) in text


def test_what_landed_is_small_and_whole(landed: Results) -> None:
    t = landed.table
    assert LANDED.stat().st_size < 200_000 and set(layers(t)) == set(LAYERS)
    assert set(passing(t)) == {"subpixel_icnr", "resize", "resize_bilinear", "hold_a", "hold_b", "hold_c", "sinc"}
    assert row(t, "resize", "multiplications")["value"] == row(t, BASELINE, "multiplications")["value"] == 4


def test_the_verdict_follows_the_rows(landed: Results) -> None:
    t = landed.table.copy()
    t.loc[(t["model"] == "sinc") & (t["metric"] == "certificate") & (t["kind"] == "forward"), "value"] = 0.0
    assert certificates(t).startswith("6 of 14 layers pass the forward certificate") and "sinc" not in certificates(t)
