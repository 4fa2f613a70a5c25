"""`analyses.gan_redesign`: which cells, what the excess and the front are of a table that is known, and the pages."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pypdf import PdfReader

from analyses import gan_redesign
from analyses.gan_redesign import FD, LATTICE, Config, against_reference, configs, excess, name, on_front
from gradlens.results import COLUMNS, Results, circumstances
from reports.gan_redesign import conclusion, write_report

CLEAN, DIRTY, WORSE = "resize/stride2:5", "deconv:5/stride2:5", "sinc/stride2:5"
CONTRAST = {CLEAN: (-4.0, -3.0, -3.5), DIRTY: (8.0, 7.0, 9.0), WORSE: (-2.0, -1.0, -1.5)}
DISTANCE = {CLEAN: (60.0, 62.0, 61.0), DIRTY: (50.0, 52.0, 54.0), WORSE: (80.0, 82.0, 84.0)}


def table() -> pd.DataFrame:
    """Three designs of three seeds; the real images read 0 dB."""
    rows = []
    for model, seed, period in product(CONTRAST, range(3), (2, 4)):
        common = {"model": model, "layer": "", "image": f"seed {seed}", "n": 1}
        contrast = {"metric": "lattice_contrast", "kind": "signed", "period": period, "unit": "dB"}
        low = CONTRAST[model][seed] - (period == 4)
        rows += [common | contrast | {"subject": "sample", "value": low}]
        rows += [common | contrast | {"subject": "image", "value": 0.0}]
        if period == 2:
            rows.append(
                common
                | {
                    "subject": "sample",
                    "metric": "FD[net, 500]",
                    "kind": "",
                    "value": DISTANCE[model][seed],
                    "unit": "1",
                }
            )
    single = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    keys = ["model", "subject", "layer", "period", "kind", "metric", "unit"]
    means = single.groupby(keys, dropna=False, as_index=False).agg(value=("value", "mean"), n=("n", "sum"))
    return pd.concat([means.assign(image=""), single], ignore_index=True).reindex(columns=list(COLUMNS))


def whole() -> pd.DataFrame:
    t = pd.concat([table(), excess(table())], ignore_index=True)
    return pd.concat([t, on_front(t), against_reference(t)], ignore_index=True)


def test_without_a_gpu_two_arms_of_the_product_are_run() -> None:
    made = configs(Config(upsamplers=("resize", "sinc"), downsamplers=("stride2:5", "hold"), seeds=(0, 1), cross=False))
    assert [name(c) for c in made[:3]] == ["resize/stride2:5", "resize/hold", "sinc/stride2:5"]
    assert len(made) == 6 and [c.seed for c in made] == [0] * 3 + [1] * 3
    assert (
        len(configs(Config(upsamplers=("resize", "sinc"), downsamplers=("stride2:5", "hold"), seeds=(0,), cross=True)))
        == 4
    )


def test_the_excess_is_the_larger_of_both_periods_above_the_real_images() -> None:
    t = excess(table())
    single = t.loc[(t["model"] == DIRTY) & (t["image"] == "seed 1"), "value"].iloc[0]
    mean = t.loc[(t["model"] == DIRTY) & (t["image"] == "")].iloc[0]
    assert single == 7.0 and mean["value"] == 8.0 and mean["low"] < 8 < mean["high"] and mean["n"] == 3


def test_the_front_is_of_lattice_and_distance() -> None:
    t = whole()
    rows = t.loc[t["metric"] == "on_front"].set_index("model")
    assert rows["low"].to_dict() == {CLEAN: 1.0, DIRTY: 1.0, WORSE: 0.0}  # -1.5 counts as 0, as -3.5 does
    assert rows["value"].to_dict() == {CLEAN: 1.0, DIRTY: 1.0, WORSE: 0.0}


def test_designs_are_held_against_the_resize_convolution_seed_by_seed() -> None:
    t = whole()
    row = t.loc[(t["model"] == f"{DIRTY} - {CLEAN}") & (t["metric"] == FD)].iloc[0]
    assert row["value"] == pytest.approx(-9.0) and row["n"] == 3
    assert t.loc[(t["model"] == f"{WORSE} - {CLEAN}") & (t["metric"] == LATTICE), "value"].iloc[0] == pytest.approx(2.0)


def test_pages_say_what_the_table_says(tmp_path: Path) -> None:
    manifest = circumstances() | {
        "command": "python -m analyses.gan_redesign assets", "finished": 9, "cells": 9, "steps": 1000, "hardware": "a CPU",
        "setting": {"resolution": 32, "batch_size": 64, "width": 16},
    }  # fmt: skip
    pictures = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    Results(whole(), {f"samples/{model}": pictures for model in CONTRAST}, manifest).write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert "On the front of lattice against FD are" in conclusion(whole()) and "61.0" in text and "9 of 9 runs" in text
    assert gan_redesign.REFERENCE in text
