"""`analyses.gradient_to_sample`: lags and their null, pixels that climb, rules, pages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import Tensor, nn

from analyses.claims import claim_rows, verdict
from analyses.gradient_to_sample import (
    AVERAGE,
    COUPLING,
    DESIGNS,
    FROZEN,
    PIXELS,
    RATE,
    REACH,
    REAL,
    SHRINKING,
    STRIDE,
    Climb,
    Config,
    claims,
    co_trained,
    configs,
    coupled,
    coupling,
    cross_correlation,
    drawn,
    frozen,
    gathered,
    noise,
    of_cell,
    of_seeds,
    phase_randomised,
    together,
)
from gradlens.redesign.gan.dataset import of_tensor
from gradlens.redesign.grid import cells, run_grid
from gradlens.report.run import number
from gradlens.results import Results
from reports.gradient_to_sample import write_report
from tests.gans import images, tiny

pytestmark = pytest.mark.slow  # their cells and runs take tens of seconds

K = 41


def series(seed: int, lag: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two curves of which the second follows the first by `lag`."""
    random = np.random.default_rng(seed)
    changes = random.normal(size=K + 2 * REACH)
    follower = strength * np.roll(changes, lag) + random.normal(size=len(changes)) * 0.5
    return tuple(np.cumsum(x[REACH:-REACH]) for x in (changes, follower))  # type: ignore[return-value]


@pytest.mark.parametrize("lag", [-5, 0, 3])
def test_a_lag_is_found_with_its_sign(lag: int) -> None:
    found = coupling(*series(1, lag))
    assert found.strongest - REACH == lag and found.observed[found.strongest] > 0.7 and found.p < 0.01


def test_a_falling_follower_correlates_negatively() -> None:
    found = coupling(*series(1, 2, strength=-1.0))
    assert found.observed[found.strongest] < -0.7 and found.p < 0.01


def test_cross_correlation_is_numpys_on_the_overlap() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20))
    found = cross_correlation(a, b, 3)
    wanted = [np.corrcoef(a[max(0, -k) : 20 - max(0, k)], b[max(0, k) : 20 - max(0, -k)])[0, 1] for k in range(-3, 4)]
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("length", [20, 21])
def test_random_phases_keep_mean_and_spectrum(length: int) -> None:
    x = np.random.default_rng(0).normal(size=length) + 2
    found = phase_randomised(x, 5, np.random.default_rng(1))
    assert np.abs(np.fft.rfft(found)) == pytest.approx(np.broadcast_to(np.abs(np.fft.rfft(x)), (5, length // 2 + 1)))
    assert found.mean(1) == pytest.approx([x.mean()] * 5) and found.std(0).min() > 0.01


def test_unrelated_curves_are_found_as_often_as_they_should() -> None:
    p = [coupling(*series(seed, 0, strength=0.0), seed=seed).p for seed in range(100)]
    assert sum(v <= 0.05 for v in p) <= 12  # of 100 at 0.05; 13 or more have a chance below 0.002


def test_seeds_together_find_what_one_does_not() -> None:
    each = [coupling(*series(seed, 2, strength=0.3), seed=seed) for seed in range(8)]
    mean = together(each)
    assert mean.strongest - REACH == 2 and mean.p < min(0.01, float(np.median([c.p for c in each])))


def test_short_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="curves: must hold more than 16 differences, got 9"):
        coupling(np.arange(11.0), np.arange(11.0))


def log(seed: int, lag: int) -> dict[str, np.ndarray]:
    leader, follower = series(seed, lag)
    told = {f"log/gradient/{kind}/{p}": leader for kind in ("signed", "envelope") for p in (2, 4)}
    return {"log/step": 25 * np.arange(K)} | told | {f"log/sample/signed/{p}": follower for p in (2, 4)}


def test_a_gradient_that_leads_is_held_and_one_that_follows_is_not() -> None:
    for lag, wanted in ((2, "held"), (-2, "not held")):
        single = pd.DataFrame(list(coupled({name: {s: log(s, lag) for s in range(3)} for name in DESIGNS})))
        rows = single.loc[(single["metric"] == "lag") & (single["image"] == "")]
        assert set(rows["value"]) == {25 * lag}
        table = claim_rows(claims(Config()), single, ("signed",))
        assert {verdict(table, f"follows, {name}", "signed") for name in ("resize", "neutral")} == {wanted}


class Linear(nn.Module):
    """A logit that is the sum of the image times `pattern`, as the networks see images."""

    def __init__(self, pattern: Tensor) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.pattern).sum((1, 2, 3))


def test_pixels_climb_along_the_gradient_of_a_frozen_logit() -> None:
    pattern = torch.tensor([[1.0, -3.0], [2.0, 0.0]]).repeat(1, 3, 8, 8)
    start = torch.full((2, 3, 16, 16), 0.5)
    (_, first), (_, last) = frozen(Linear(pattern), start, "plain", (0, 10))
    assert torch.equal(first, start)
    step = 10 * RATE * pattern / pattern.square().mean().sqrt()
    torch.testing.assert_close(last - start, step.expand(2, -1, -1, -1))
    (_, _), (_, even) = frozen(Linear(pattern), start, "Adam", (0, 10))
    moved = 10 * RATE * pattern.sign()  # Adam takes the sign of a gradient that does not change
    torch.testing.assert_close(even - start, moved.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-6)


def test_pixels_stay_between_black_and_white() -> None:
    climb = Climb(torch.full((1, 3, 8, 8), 0.999), "plain")
    climb.step(torch.ones(1, 3, 8, 8))
    assert climb.pixels.max() == 1


def test_a_discriminator_that_learns_tells_pixels_from_images() -> None:
    config = tiny()
    judge = drawn("stride2:5", config, 2, 0)
    before = [p.clone() for p in judge.parameters()]
    runs = [
        list(co_trained(drawn("stride2:5", config, 2, 0), noise(4, config, 0), images(), (0, 3), 0)) for _ in range(2)
    ]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*runs, strict=True))
    list(co_trained(judge, noise(4, config, 0), images(), (0, 3), 0))
    assert any(not torch.equal(a, b) for a, b in zip(before, judge.parameters(), strict=True))


def test_what_is_drawn_comes_from_its_seed_alone() -> None:
    config, state = tiny(), torch.get_rng_state()
    one, two, other = (drawn("blur:5", config, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(one.fc.weight, two.fc.weight) and not torch.equal(one.fc.weight, other.fc.weight)  # type: ignore[union-attr]
    assert torch.equal(noise(2, config, 5), noise(2, config, 5)) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("pixels", "wanted"), [((9.0, 1.0), "held"), ((-3.0, 1.0), "not held"), ((2.0, 2.0), "not decided")]
)
def test_the_rules_of_free_pixels(pixels: tuple[float, float], wanted: str) -> None:
    rows = []
    for seed in range(3):
        for model, value in zip((STRIDE, AVERAGE), pixels, strict=True):
            own = value + (0.1 * seed if model == STRIDE else 0.2 * (seed % 2))
            rows.append({"model": f"{model}, {FROZEN}, plain", "subject": PIXELS, "layer": "100", "value": own})
        rows.append({"model": "real images", "subject": REAL, "layer": "", "value": -1.0})
        for row in rows[-3:]:
            row |= {"image": f"seed {seed}", "kind": "signed", "period": 2, "metric": "lattice_contrast"}
    table = claim_rows(claims(Config()), pd.DataFrame(rows), ("signed",))
    assert verdict(table, "image, plain", "signed") == wanted
    assert verdict(table, "impairs", "signed") == "not decided"


def test_cells_are_shared_and_each_is_asked_for_once() -> None:
    asked = configs(Config(seeds=(0,)))
    assert repr(asked["resize", 0]) == repr(asked[f"{FROZEN} {STRIDE}", 0])
    assert len(asked) == len(DESIGNS) + len(SHRINKING) and len({repr(one) for one in asked.values()}) == len(asked) - 1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"stops": (3, 1)}, "--stops: must rise from 0"), ({"images": 0}, "--images: must be at least 1"),
     ({"resolution": 48}, "--resolution: must be one of 32, 64")],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path, Config]:
    """Of one seed the resize generator alone was trained; pixels of two steps."""
    folder = tmp_path_factory.mktemp("cells")
    config = Config(seeds=(0,), steps=20, width=2, cells=folder, images=2, stops=(0, 2), judge_width=2)
    small = {
        key: replace(one, batch_size=4, latent=4, log_every=1, rated=0, accelerator="cpu")
        for key, one in configs(config).items()
    }
    pixels = images(12, 32)
    run_grid([small["resize", 0]], pixels, folder)
    of_config = {repr(c.config): c for c in cells(small.values(), folder, of_tensor(pixels).sha256)}
    found = {key: of_config[repr(one)] for key, one in small.items()}
    assert sum(p.requires_grad for p in of_cell(found["resize", 0]).parameters()) == 0
    return gathered(found, pixels, config), folder, config


def test_it_goes_on_with_what_is_there(made: tuple[Results, Path, Config]) -> None:
    results, _, _ = made
    t = results.table
    assert set(t.loc[t["subject"] == COUPLING, "model"]) == {"resize"}
    there = {name for name in t.loc[t["subject"] == PIXELS, "model"] if FROZEN in name}
    assert there == {"stride, frozen, plain", "stride, frozen, Adam"}
    assert len(results.manifest["missing"]) == len(DESIGNS) + len(SHRINKING) - 2 and results.manifest["shortened"]
    assert results.arrays["lags/resize/signed/2"].shape == (1, 2 * REACH + 1)


def test_the_page_says_what_the_table_holds(made: tuple[Results, Path, Config], tmp_path: Path) -> None:
    results, _, _ = made
    results.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert "0 of 8 sentences held" in text and "Not there: two deconvolutions, seed 0" in text
    assert "shortened for a CPU" in text and "python -m analyses.gradient_to_sample ASSETS" in text
    for name in SHRINKING:
        value = of_seeds(results.table, f"{name}, co-trained, Adam", PIXELS, "2", "signed")[0]
        assert f"{number(value)} dB ({name})" in text
