"""`analyses.pixel_deconvolution_layers`: what it counts and correlates, a small run, and pages that hold the table's numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses.pixel_deconvolution_layers import (
    DCL,
    EVEN,
    INSIDE,
    LAST,
    LAYERS,
    MASKED,
    PAPER,
    PLACES,
    Config,
    UNet,
    command,
    correlations,
    drawn,
    reads,
    related,
    run,
    timed,
    train,
)
from gradlens.report.run import number
from gradlens.results import COLUMNS, Results
from reports.pixel_deconvolution_layers import found, solved, trained, write_report

LANDED = Path(__file__).parent.parent / "reports" / "pixel_deconvolution_layers.csv"


@pytest.fixture(scope="module")
def landed() -> pd.DataFrame:
    return pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": "", "kind": ""})


# What is counted


def test_the_papers_ratios_are_those_of_its_table() -> None:
    """365m26s, 511m19s, 464m31s; 2m42s, 4m13s, 3m27s."""
    assert [round(r, 2) for r in PAPER["iPixelDCL"]] == [1.40, 1.56]
    assert [round(r, 2) for r in PAPER[MASKED]] == [1.27, 1.28]


@pytest.mark.parametrize("name", LAYERS)
def test_a_pixel_reads_what_changes_it(name: str) -> None:
    """By intervention: a map is moved by one after it was made; what follows it moves where it is read, and nowhere else."""
    layer = drawn(LAYERS[name], 1, 1, seed=1).double()
    known = reads(layer)
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    if not any(known.values()):
        return
    made = [(0, 0), (1, 1), (0, 1), (1, 0)]
    for n, (p, q) in enumerate(made):
        if name == MASKED and n > 1:
            continue
        with torch.no_grad():
            before = layer(x)[0, 0]
            impulse = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
            impulse[..., 4, 4] = 1
            hook = layer.k[n].register_forward_hook(lambda module, given, y, i=impulse: y + i)
            moved = (layer(x)[0, 0] - before).abs() > 1e-12
            hook.remove()
        at = (8 + p, 8 + q)
        assert moved[at]
        direct = {(i - di, j - dj) for i, j in [at] for phase in made for di, dj in known[phase]
                  if ((i - di) % 2, (j - dj) % 2) == phase}  # fmt: skip
        assert {tuple(place) for place in moved.nonzero().tolist()} >= direct
        last = made[-1] if name != MASKED else None
        if n == 2 and last:  # only one map follows: nothing is read on the way
            assert {tuple(place) for place in moved.nonzero().tolist()} == direct | {at}


def test_pairs_of_adjacent_pixels_are_counted_by_side_and_corner() -> None:
    assert related(LAYERS[DCL](1, 1)) == related(LAYERS[EVEN](1, 1)) == {"side": 0, "corner": 0}
    assert related(LAYERS[MASKED](1, 1)) == {"side": 1, "corner": 0.5}
    assert related(LAYERS["PixelDCL"](1, 1)) == related(LAYERS["iPixelDCL"](1, 1)) == {"side": 0.75, "corner": 0.75}
    assert related(LAYERS["PixelDCL, 3x3"](1, 1)) == {"side": 1, "corner": 1}


def test_correlations_of_noise_copies_and_opposites() -> None:
    noise = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert correlations(noise).shape == (2, 3, 8)
    assert correlations(noise).abs().max() < 5 / 63  # 3969 pairs: standard error 1 / 63
    rows = noise[..., :1].expand(-1, -1, -1, 128)  # the same along a row, independent along a column
    assert correlations(rows)[..., ::2].sub(1).abs().max() < 1e-9
    assert correlations(rows)[..., 1::2].abs().max() < 0.5  # 63 rows of one value each
    assert correlations(torch.zeros(1, 1, 8, 8)).abs().max() == 0


def test_networks_with_a_seed_are_the_same_and_leave_the_generator_alone() -> None:
    photographs = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (train(LAYERS[DCL], photographs, 1, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_times_are_over_the_first_model_of_the_same_round() -> None:
    models = {name: UNet(LAYERS[name]) for name in (DCL, EVEN)}
    rows = pd.DataFrame(timed(models, (1, 3, 32, 32), "U-Net", Config(rounds=2)))
    first = rows[(rows["model"] == DCL) & (rows["metric"] == "time_ratio")]
    assert (first[["value", "low", "high"]] == 1).all(axis=None)
    assert (rows["value"] > 0).all()
    assert UNet(LAYERS[DCL])(torch.rand(1, 3, 32, 48)).shape == (1, 21, 32, 48)


# A run, and its pages


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analyses.pixel_deconvolution_layers.timed", fake_times)
        return run(Config(draws=3, seeds=1, steps=2, rounds=1))


def fake_times(models: dict, size: tuple, subject: str, config: Config) -> list[dict]:
    return [
        {"model": name, "subject": subject, "metric": "time_ratio", "value": 1.5, "low": 1.25, "high": 1.75, "kind": kind,
         "n": config.rounds, "unit": "1"}
        for name in models
        for kind in ("training", "prediction")
    ]  # fmt: skip


@pytest.mark.slow
def test_every_layer_has_every_measurement(results: Results) -> None:
    t = results.table
    assert list(t.columns) == list(COLUMNS)
    for name in LAYERS:
        assert all(np.isfinite(found(t, name, "error", "psnr", layer=place).value) for place in PLACES)
        assert found(t, name, "certificate", "deviation", "backward").value < 1e-9
    assert found(t, EVEN, "certificate", "deviation", "forward").value < 1e-9
    assert found(t, EVEN, "grey", "rms", layer=LAST).value < 1e-3  # float32, in levels of 255
    assert results.manifest["verdicts"][MASKED] == {"forward": "fail", "backward": "pass"}
    assert not set(results.manifest["evaluated"]) & set(results.manifest["trained_on"])


@pytest.mark.slow
def test_the_pages_hold_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    run_together = text.replace("\u200b", "").replace(" ", "")  # a line may break within the command
    assert results.manifest["command"].replace(" ", "") in run_together
    for name in LAYERS:
        assert name in text
        assert number(found(results.table, name, "error", "psnr", layer=INSIDE).value) in text
    assert "1.50 (1.25 to 1.75)" in text
    replace(results, manifest={"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match=r"holds no run of analyses\.pixel_deconvolution_layers"):
        write_report(tmp_path)


def test_the_command_names_what_was_given() -> None:
    assert command(Config()) == "python -m analyses.pixel_deconvolution_layers"
    assert (
        command(Config(Path("photos"), steps=3))
        == "python -m analyses.pixel_deconvolution_layers PHOTOGRAPHS --steps 3"
    )


# The table that landed


def test_what_the_docstrings_say_is_in_the_table_that_landed(landed: pd.DataFrame) -> None:
    assert "5 of 5" in solved(landed)
    assert (
        found(landed, MASKED, "count", "multiplications").value
        == found(landed, DCL, "count", "multiplications").value
        == 4
    )
    assert found(landed, MASKED, "count", "weights").value == 12
    for name in LAYERS:
        predicted, measured = (
            found(landed, name, "energy", "imbalance", kind).value for kind in ("predicted", "measured")
        )
        assert predicted == pytest.approx(measured, abs=0.05)
    for name in (DCL, MASKED, EVEN):
        assert number(found(landed, name, "error", "lattice_contrast", "signed", LAST).value) in trained(landed)


def test_the_masked_layer_takes_at_most_1_3_of_a_transposed_convolution(landed: pd.DataFrame) -> None:
    for subject in ("layer", "U-Net"):
        assert found(landed, MASKED, subject, "time_ratio", "training").value <= 1.3
