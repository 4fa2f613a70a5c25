"""`analyses.blame`: its pages from the table that landed; three pictures of every network when slow."""

from pathlib import Path

import pandas as pd
import pytest
from pypdf import PdfReader

from analyses.blame import Config, _by_kind, run
from gradlens.report.run import number
from gradlens.results import Results
from reports.blame import contribution, write_report

LANDED = Path(__file__).parent.parent / "reports" / "blame.csv"


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": "python -m analyses.blame ASSETS", "versions": {}})


def test_kinds_are_sums_over_layers_of_each_image() -> None:
    plain = {"metric": "shapley", "period": 2, "kind": "signed"}
    values = {("a", "1"): 1.0, ("b", "1"): 2.0, ("c", "1"): 10.0, ("a", "2"): 3.0, ("b", "2"): -1.0, ("c", "2"): 20.0}
    table = pd.DataFrame([plain | {"layer": l, "image": i, "value": v} for (l, i), v in values.items()])  # noqa: E741
    table = pd.concat([table, table.assign(image="", value=99.0)], ignore_index=True)
    found = _by_kind(table, {"a": "strided 3x3", "b": "strided 1x1", "c": "stem"}).set_index("layer")
    assert found["value"].to_dict() == {"strided": 2.5, "stem": 15.0}
    assert found["n"].tolist() == [2, 2]


def test_contributions_of_what_landed_sum_to_the_difference(landed: Results) -> None:
    t = landed.table
    for model in t["model"].unique():
        own = t.loc[(t["model"] == model) & (t["period"] == 2) & (t["kind"] == "signed")]
        parts = own.loc[(own["metric"] == "shapley") & (own["subject"] == "kinds"), "value"].sum()
        ends = [own.loc[own["metric"] == metric, "value"].item() for metric in ("as_is", "all_replaced")]
        assert parts == pytest.approx(ends[0] - ends[1], abs=1e-3)  # six digits in CSV


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    for layer in ("stem", "pool"):
        row = contribution(landed.table, "resnet18_half", layer, 4, "signed")
        assert row is not None
        assert number(row.value) in text
    assert LANDED.stat().st_size < 200_000


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.assets
def test_three_pictures_of_every_network(assets: Path) -> None:
    table = run(Config(assets, count=3)).table
    assert table["model"].nunique() == 6
    stem = contribution(table, "resnet18_half", "stem", 2, "signed")
    assert stem is not None
    assert stem.value > 5
