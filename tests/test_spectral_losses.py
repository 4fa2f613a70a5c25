"""`analyses.spectral_losses`: what detaching does to a gradient, its terms against loops, pages from the table that landed."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import Tensor, nn

from analyses.spectral_losses import (
    BATCH,
    LUMA,
    REGULARISERS,
    Config,
    Regulariser,
    Table,
    against,
    azimuthal_profile,
    command,
    free_pixels,
    latents,
    run,
    standing,
    trained,
)
from gradlens.report.run import number
from gradlens.results import Results
from reports.spectral_losses import CONTRAST, NONE, PUBLISHED, course, final, span_of, variants, write_report

LANDED = Path(__file__).parent.parent / "reports" / "spectral_losses.csv"
ATTACHED = [name for name, regulariser in REGULARISERS.items() if regulariser.weight and not regulariser.detached]


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object, "layer": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": command(Config(Path("ASSETS"))), "versions": {}})


def images(count: int, side: int, seed: int, *, lattice: float = 0.3) -> Tensor:
    """Smooth ones with a lattice of 2 and 4 px of so large a step."""
    source = torch.Generator().manual_seed(seed)
    smooth = torch.randn(count, 3, side, side, dtype=torch.float64, generator=source).cumsum(2).cumsum(3) / side
    place = torch.arange(side)
    return smooth + lattice * (place % 2 == 0) * (place[:, None] % 4 == 0)


def gradients(regulariser: Regulariser) -> tuple[Tensor, Tensor, float]:
    """Of the whole loss and of an adversarial one at the same pixels; and what the term is."""
    fake, real = images(4, 32, 0).requires_grad_(), images(4, 32, 1)
    adversarial = (fake * images(4, 32, 2)).sum()
    (whole,) = torch.autograd.grad(regulariser.total(adversarial, fake, real), fake, retain_graph=True)
    (alone,) = torch.autograd.grad(adversarial, fake)
    return whole, alone, regulariser.term(fake.detach(), real).item()


@pytest.mark.parametrize("name", [NONE, *ATTACHED])
def test_detached_every_regulariser_is_a_number_that_scales(name: str) -> None:
    regulariser = replace(REGULARISERS[name], weight=0.7, detached=True)
    whole, alone, term = gradients(regulariser)
    torch.testing.assert_close(whole, (1 + 0.7 * term) * alone, rtol=1e-12, atol=0)
    assert against([whole], [alone])["cosine"] == pytest.approx(1, abs=1e-14)
    fake = images(4, 32, 0).requires_grad_()
    assert not regulariser.term(fake.detach(), images(4, 32, 1)).requires_grad


@pytest.mark.parametrize("name", ATTACHED)
def test_attached_it_pulls_where_the_adversary_does_not(name: str) -> None:
    whole, alone, _ = gradients(replace(REGULARISERS[name], weight=1e3))
    assert abs(against([whole], [alone])["cosine"]) < 0.99
    assert (whole - alone).norm() > 0.1


@pytest.mark.parametrize("name", ATTACHED)
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    real = images(3, 32, 1)
    assert torch.autograd.gradcheck(
        lambda fake: REGULARISERS[name].term(fake, real), images(2, 32, 0).requires_grad_(), fast_mode=True
    )


def test_the_published_one_is_detached_and_the_others_are_not() -> None:
    assert [name for name, regulariser in REGULARISERS.items() if regulariser.detached] == [PUBLISHED]


def test_the_azimuthal_profile_is_that_of_loops() -> None:
    x = images(2, 8, 0)
    found = azimuthal_profile(x)
    for image, own in zip(x.numpy(), found.numpy(), strict=True):
        spectrum = np.abs(np.fft.fft2(sum(weight * channel for weight, channel in zip(LUMA, image, strict=True))))
        rings: dict[int, list[float]] = {}
        for row in range(8):
            for column in range(8):
                radius = int(math.hypot(min(row, 8 - row), min(column, 8 - column)))
                rings.setdefault(radius, []).append(20 * math.log10(spectrum[row, column] + 1e-8))
        means = [sum(rings[radius]) / len(rings[radius]) for radius in range(6)]
        expected = [(mean - min(means)) / (max(means) - min(means)) for mean in means]
        np.testing.assert_allclose(own, expected, atol=1e-7)  # the weights of grey are in float32


@pytest.mark.parametrize("name", [PUBLISHED, "lattice", "contrast"])
def test_free_pixels_lose_their_lattice_to_what_is_attached(name: str) -> None:
    table, real = Table(), (127.5 + 40 * images(BATCH, 32, 1, lattice=0)).clamp(0, 255).to(torch.uint8)
    free_pixels(REGULARISERS[name], real, table, model=name)
    found = pd.DataFrame(table.rows)
    for period in (2, 4):
        values = found.loc[found["period"] == period, "value"].to_numpy()
        assert values[0] > 8
        if name == PUBLISHED:
            assert (values == values[0]).all()
        else:
            assert values[-1] < values[0] - 6


def test_training_is_the_same_without_a_weight_and_without_a_regulariser() -> None:
    real = (127.5 + 40 * images(64, 32, 1)).clamp(0, 255).to(torch.uint8)
    told: dict[str, list[dict[str, float]]] = {name: [] for name in (NONE, "spectrum")}
    ends = []
    for name, own in told.items():
        regulariser = replace(REGULARISERS[name], weight=0)
        ends.append(trained(regulariser, 3, real, 3, lambda step, network, values, own=own: own.append(values)))
    for one, other in zip(*(network.state_dict().values() for network in ends), strict=True):
        assert torch.equal(one, other)
    assert [values["cosine"] for values in told[NONE]] == pytest.approx([1] * 4)
    assert [values["loss_generator"] for values in told[NONE]] == [v["loss_generator"] for v in told["spectrum"]]


def test_standing_statistics_are_the_mean_of_batches_and_of_a_copy() -> None:
    network = nn.Sequential(nn.Linear(64, 5), nn.Unflatten(1, (5, 1, 1)), nn.BatchNorm2d(5)).eval()
    before = deepcopy(network.state_dict())
    norm = standing(network, 0).get_submodule("2")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training
    with torch.no_grad():
        parts = [network[:2](part) for part in latents(512, 0, "standing").split(64)]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))


def test_the_command_names_what_was_given() -> None:
    assert command(Config(Path("assets"))) == "python -m analyses.spectral_losses ASSETS"
    assert command(Config(Path("assets"), steps=20)) == "python -m analyses.spectral_losses ASSETS --steps 20"


def test_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="rated: must be at least 300, got 20"):
        run(Config(Path("assets"), rated=20))


# What landed


def test_what_landed_says_that_the_detached_one_does_not_pull(landed: Results) -> None:
    t = landed.table
    assert course(t, "training", PUBLISHED, "cosine").to_numpy() == pytest.approx(1, abs=1e-6)  # gradients in float32
    pixels = course(t, "pixels", PUBLISHED, CONTRAST, 2)
    assert np.ptp(pixels.to_numpy()) == 0
    for name in ("lattice", "contrast"):
        assert course(t, "training", name, "cosine").to_numpy().mean() < 0.95
        assert final(t, name, CONTRAST, 2, "signed").mean() < final(t, NONE, CONTRAST, 2, "signed").mean() - 3


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    t = landed.table
    assert variants(t) == list(REGULARISERS)
    for name in variants(t):
        cosine = number(float(course(t, "training", name, "cosine").to_numpy().mean()), 2)
        cells = [span_of(final(t, name, CONTRAST, period, "signed")) for period in (2, 4)]
        assert f"{name} {' '.join(cells)}" in text
        assert cosine in text
    assert LANDED.stat().st_size < 200_000


def test_the_spread_is_half_of_what_lies_between_the_runs() -> None:
    assert span_of(np.array([1.0, 3.0, 2.5])) == "2.2 ± 1.0"
    assert span_of(np.array([-1.0])) == "−1.0"


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.assets
@pytest.mark.slow
def test_a_short_run_fills_every_cell(assets: Path, tmp_path: Path) -> None:
    results = run(Config(assets, steps=10, seeds=1, rated=300))
    assert np.isfinite(results.table["value"].to_numpy(float)).all()
    results.write(tmp_path)
    assert write_report(tmp_path).stat().st_size > 10_000
