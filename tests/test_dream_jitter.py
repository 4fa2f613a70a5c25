"""`analyses.dream_jitter`: its rows by hand, its pages from a small run; what landed is whole."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses import dream_jitter
from analyses.dream_jitter import JITTERS, LADDER, Config, _rows, relaxations, run
from gradlens import models
from gradlens.images import sample
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.spectra import lattice_contrast
from reports.dream_jitter import FIXED, JITTERED, contrast, write_report

LANDED = Path(__file__).parent.parent / "reports" / "dream_jitter.csv"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two networks, few steps, small pictures."""
    photos = tmp_path_factory.mktemp("assets") / "data" / "photos" / "lossless"
    photos.mkdir(parents=True)
    sample("coffee").resize((120, 80)).save(photos / "coffee.png")
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SIDE": 64,
            "STEPS": 1,
            "LADDER_STEPS": 2,
            "CANVAS": 64,
            "NETWORKS": ("resnet18_half",),
        }.items():
            patch.setattr(dream_jitter, name, value)
        patch.setattr(dream_jitter, "networks", lambda assets: {"resnet18_half": (models.classifier, "strided")})
        run(Config(photos.parents[2], count=1)).write(folder)
    write_report(folder)
    return folder


def test_rows_are_means_over_pictures_and_the_one_that_is_drawn() -> None:
    pictures = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    rows = [r for r in _rows(pictures, subject="dream") if (r["period"], r["kind"]) == (2, "signed")]
    values = [lattice_contrast(picture, 2).item() for picture in pictures]
    assert [row["image"] for row in rows] == ["", "drawn"]
    assert rows[0]["value"] == pytest.approx(sum(values) / 3) and rows[1]["value"] == values[1]


def test_every_dream_has_its_rows_and_the_page_its_numbers(small: Path) -> None:
    results = Results.read(small)
    layers = {s: set(part["layer"]) for s, part in results.table.groupby("subject")}
    assert layers == {
        "image": {"photograph"}, "dream": set(JITTERS), "dream-addition": set(JITTERS), "feature": set(LADDER),
        "relaxed-dream": set(relaxations()),
    }  # fmt: skip
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(small / "report.pdf").pages).split())
    for layer in (FIXED, JITTERED):
        assert number(contrast(results.table, "resnet18_half", "dream", layer, 2, "signed").value) in text


def test_what_landed_is_small_and_whole() -> None:
    table = pd.read_csv(LANDED)
    assert LANDED.stat().st_size < 200_000
    assert table.loc[table["subject"] == "dream", "model"].nunique() == 4


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)
