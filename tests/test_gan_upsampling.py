"""`analyses.claims`, `analyses.gans` and `analyses.gan_upsampling` in small: rules, cells that are found again, pages."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pypdf import PdfReader

from analyses import gans
from analyses.claims import VERDICT, Claim, Condition, claim_rows, spread, together, verdict
from analyses.gan_upsampling import (
    CLAIMS,
    DESIGNS,
    EPOCH,
    EVEN,
    NONE,
    SHORT_NAMES,
    TRAINED,
    TWO,
    UNTRAINED,
    Config,
    at,
    configs,
    epoch,
    excess,
    run,
)
from analyses.gans import padded, setting
from gradlens.compare import interval
from gradlens.redesign.gan.dataset import of_tensor
from gradlens.redesign.grid import cells
from gradlens.report.run import KINDS, number
from gradlens.results import Results
from reports.gan_upsampling import write_report
from tests.cells import pictures, small_grid

pytestmark = pytest.mark.slow  # their cells and runs take tens of seconds


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A configuration whose cells are tiny and trained in this process."""
    with pytest.MonkeyPatch.context() as patch:
        small_grid(patch)
        yield Config(cells=tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def results(tiny: Config) -> Results:
    return run(tiny)


def test_a_condition_is_met_missed_or_open() -> None:
    band = Condition("", lambda runs, kind: {}, low=0, high=2)
    assert [band.met(*ends) for ends in ((0.1, 1.9), (2.0, 3.0), (-2.0, 0.0), (-1.0, 1.0), (1.0, 3.0))] == [
        True, False, False, None, None,
    ]  # fmt: skip
    assert band.met(float("nan"), float("nan")) is None
    assert (band.band, replace(band, high=np.inf).band, replace(band, low=-np.inf).band) == (
        "0 to 2",
        "above 0",
        "below 2",
    )
    assert together([True, True]) is True
    assert together([None, False]) is False
    assert together([True, None]) is None


def test_a_claim_says_every_seed_their_mean_and_the_verdict() -> None:
    def value(runs: dict[str, dict[int, float]], kind: str) -> dict[int, float]:
        return runs[kind]

    claim = Claim("a", "A.", "us", [Condition("x", value, low=0), Condition("y", value, high=9)])
    runs = {"signed": {0: 1.0, 1: 1.5, 5: 2.0}, "envelope": {0: 1.0, 1: 2.0, 2: float("nan")}}
    t = claim_rows([claim], runs, KINDS)
    assert [verdict(t, "a", kind) for kind in KINDS] == ["held", "not decided"]
    mean = t.loc[(t["metric"] == "x") & (t["image"] == "") & (t["kind"] == "signed")].iloc[0]
    assert (mean["value"], mean["low"], mean["high"], mean["n"]) == (1.5, *interval(np.array([1.0, 1.5, 2.0])), 3)
    seeds = t.loc[(t["metric"] == "x") & (t["image"] != "") & (t["kind"] == "signed")]
    assert dict(zip(seeds["image"], seeds["value"], strict=True)) == {"seed 0": 1.0, "seed 1": 1.5, "seed 5": 2.0}
    assert list(t.loc[t["metric"] == VERDICT, "n"]) == [3, 2]
    low = claim_rows([claim], {"signed": {0: -1.0, 1: -1.5, 2: -2.0}}, ["signed"])
    assert verdict(low, "a", "signed") == "not held"
    assert spread({}, model="m")[0]["n"] == 0


def test_words_are_as_many_as_stages() -> None:
    fields = {"upsampler": ("resize", "deconv:5", "deconv:5")}
    assert padded(fields, 32) == fields
    assert padded(fields, 64)["upsampler"] == ("resize", "resize", "deconv:5", "deconv:5")
    assert padded({"upsampler": ("resize",)}, 64) == {"upsampler": ("resize",)}
    assert padded({"generator": "neutral"}, 64) == {"generator": "neutral"}
    for (name, seed), one in configs(setting(64, None), (0, 4)).items():
        assert (one.seed, one.resolution) == (seed, 64)
        assert len(one.upsampler) in (1, 4), name
    assert len(configs(setting(32, None), (0, 1, 2))) == 3 * len(DESIGNS)


def test_cells_are_found_and_those_that_are_missing_are_named(tiny: Config, results: Results) -> None:
    assert results.manifest["missing"] == []
    assert results.manifest["shortened"] is True
    stamps = {path: path.stat().st_mtime_ns for path in tiny.cells.rglob("*")}
    asked = configs(gans.setting(32, None), tiny.seeds)
    found = dict(zip(asked, cells(asked.values(), tiny.cells, of_tensor(pictures()).sha256), strict=True))
    gone = found[TWO, 1].folder / "run" / "manifest.json"
    aside = gone.rename(gone.with_suffix(".aside"))
    try:
        again = run(replace(tiny, train=False))
    finally:
        aside.rename(gone)
    assert again.manifest["missing"] == ["two, seed 1"]
    assert again.manifest["seeds"]["two"] == [0, 2]
    assert set(stamps) == set(tiny.cells.rglob("*"))
    t = again.table
    assert set(t.loc[(t["model"] == TWO) & (t["image"] == "") & (t["subject"] == UNTRAINED), "n"]) == {2}
    assert verdict(t, "last two", "signed") == "not decided"
    whole = run(replace(tiny, train=False))
    pd.testing.assert_frame_equal(whole.table, results.table)
    with pytest.raises(ValueError, match="no run of this setting is finished"):
        run(replace(tiny, train=False, cells=tiny.cells / "none"))


def test_rows_are_those_of_the_cells(tiny: Config, results: Results) -> None:
    asked = configs(gans.setting(32, None), tiny.seeds)
    found = dict(zip(asked, cells(asked.values(), tiny.cells, of_tensor(pictures()).sha256), strict=True))
    one, t = found[NONE, 2].results(), results.table
    assert epoch(one) == 4
    log = one.arrays["log/sample/signed/2"]
    assert [at(one, stage, "signed", 2) for stage in (UNTRAINED, EPOCH)] == [log[0], log[1]]
    rows = t.loc[(t["model"] == NONE) & (t["image"] == "seed 2") & (t["metric"] == "lattice_contrast")]
    rows = rows.loc[(rows["kind"] == "signed") & (rows["period"] == 2)].set_index("subject")["value"]
    assert rows["sample"] == at(one, TRAINED, "signed", 2)
    assert rows[UNTRAINED] == pytest.approx(float(log[0]))
    assert excess(one, TRAINED, "signed", 2) == rows["sample"] - max(0, rows["image"])
    step = results.arrays["step/none"]
    assert results.arrays["curve/none/signed/2"].shape == (3, len(step))
    np.testing.assert_array_equal(results.arrays["curve/none/signed/2"][2], log)
    assert results.arrays["samples/two"].shape == (2, 8, 3, 32, 32)


def test_an_untrained_generator_is_what_its_layers_say(results: Results) -> None:
    """Width 2, so in order only: two deconvolutions have more of 2 and 4 px than none."""
    t = results.table
    t = t.loc[(t["subject"] == UNTRAINED) & (t["image"] == "") & (t["kind"] == "signed")]
    values = {(r["model"], r["period"]): r["value"] for r in t.to_dict("records")}
    assert values[TWO, 2] > values[NONE, 2] + 3
    assert values[TWO, 4] > values[NONE, 4] + 3


def test_pages_say_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    words = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert results.manifest["command"] in words
    assert "shortened" in words
    t = results.table
    shown = t.loc[(t["metric"] == "lattice_contrast") & (t["image"] == "") & t["subject"].isin(["sample", UNTRAINED])]
    for value in shown.loc[shown["kind"] == "signed", "value"]:
        assert number(value) in words
    for claim in CLAIMS:
        assert " ".join(claim.sentence.split())[:30] in words
        for condition in claim.conditions:
            value = t.loc[(t["model"] == claim.name) & (t["metric"] == condition.words) & (t["image"] == ""), "value"]
            assert number(float(value.iloc[0])) in words
    for name in SHORT_NAMES.values():
        assert name in words


def test_a_command_says_what_it_gave() -> None:
    assert gans.command("gan_upsampling", Config()) == "python -m analyses.gan_upsampling ASSETS"
    given = Config(resolution=64, steps=20, seeds=(3, 4, 5), train=False)
    told = gans.command("gan_upsampling", given)
    assert told.endswith("ASSETS --resolution 64 --seeds 3 4 5 --steps 20 --no-train")
    with pytest.raises(ValueError, match=r"--seeds: needs 3 different ones, got \[0, 1\]"):
        Config(seeds=(0, 1))
    with pytest.raises(ValueError, match="--resolution: must be one of 32, 64, got 48"):
        Config(resolution=48)
    assert EVEN in DESIGNS
