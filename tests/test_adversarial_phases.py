"""`analyses.adversarial_phases`: a network with holes, exact tests, the page from the table that landed."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import Tensor, nn

from analyses.adversarial_phases import (
    ATTACKED,
    CHOOSING,
    LARGE,
    MASKS,
    PERIODS,
    Attack,
    Config,
    ascent,
    attacks,
    class_of,
    compared,
    extremes,
    fooled,
    mcnemar,
    named,
    phase_mask,
    random_masks,
    run,
    wilson,
)
from analyses.maxpool_gradients import AS_IS, STEM
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.spectra import phase_energy
from reports.adversarial_phases import WEAKEST, cell, verdicts, write_report

LANDED = Path(__file__).parent.parent / "reports" / "adversarial_phases.csv"
SIDE = 32


class Holed(nn.Module):
    """Two logits, minus and plus the sum over the pixels of phase (1, 1) alone, as a 1x1 convolution of stride 2 has it."""

    def forward(self, images: Tensor) -> Tensor:
        total = images[..., 1::2, 1::2].mean((1, 2, 3)) - 0.5
        return torch.stack([-total, total], 1)


@pytest.fixture(scope="module")
def landed() -> Results:
    table = pd.read_csv(LANDED).astype({"image": object}).fillna({"image": "", "layer": ""})
    return Results(table, {}, {"command": "python -m analyses.adversarial_phases ASSETS", "versions": {}})


@pytest.fixture
def images() -> Tensor:
    """Eight images whose mean of phase (1, 1) lies just above 0.5."""
    found = torch.rand(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    held = found[..., 1::2, 1::2]
    found[..., 1::2, 1::2] = held - held.mean((2, 3), keepdim=True) + 0.5 + 0.01
    return found


@pytest.mark.parametrize("attack", [Attack(16), Attack(16, 10)], ids=["FGSM", "PGD"])
def test_the_phase_without_a_gradient_never_succeeds_and_the_one_with_all_always(
    images: Tensor, attack: Attack
) -> None:
    model, labels = Holed(), torch.ones(8, dtype=torch.long)
    assert torch.equal(named(model, images), labels)
    chosen = extremes(phase_energy(ascent(model, images, labels)[0], 2))
    assert chosen["strongest"] == (1, 1) != chosen["weakest"]
    won = {mask: fooled(model, images, labels, phase_mask(at, 2, (SIDE, SIDE)), attack) for mask, at in chosen.items()}
    assert won["strongest"].all()
    assert not won["weakest"].any()


@pytest.mark.parametrize("attack", [Attack(3), Attack(3, 10)], ids=["FGSM", "PGD"])
def test_an_attack_reaches_no_further_than_eps(images: Tensor, attack: Attack) -> None:
    model, labels = Holed(), torch.ones(8, dtype=torch.long)
    everywhere = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    near, far = (images + lift - 0.01 for lift in (2.9 / 255, 3.1 / 255))
    assert fooled(model, near, labels, everywhere, attack).all()
    assert not fooled(model, far, labels, everywhere, attack).any()


def test_an_attack_sees_allowed_pixels_of_the_image_alone(images: Tensor) -> None:
    seen: list[Tensor] = []

    class Watched(Holed):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    allowed = random_masks(8, SIDE, (SIDE, SIDE), torch.Generator().manual_seed(1))
    before = images.clone()
    fooled(Watched(), images, torch.ones(8, dtype=torch.long), allowed, Attack(1, 10))
    assert torch.equal(images, before)
    assert len(seen) == 11
    assert any(not torch.equal(x, images) for x in seen)
    for x in seen:
        assert torch.equal(x * ~allowed, images * ~allowed)
        assert (x - images).abs().max() <= 1 / 255 + 1e-6  # rounding of float32
        assert 0 <= x.min() <= x.max() <= 1


def test_random_pixels_are_as_many_as_a_phase_has() -> None:
    masks = random_masks(5, 256, (SIDE, SIDE), torch.Generator().manual_seed(0))
    assert masks.flatten(1).sum(1).tolist() == [int(phase_mask((1, 0), 2, (SIDE, SIDE)).sum())] * 5
    assert not torch.equal(masks[0], masks[1])


def test_phases_cut_the_image_into_equal_parts() -> None:
    for period in PERIODS:
        every = [phase_mask((p, q), period, (SIDE, SIDE)) for p in range(period) for q in range(period)]
        assert torch.equal(torch.stack(every).sum(0), torch.ones(1, 1, SIDE, SIDE, dtype=torch.long))


def test_intervals_of_wilson() -> None:
    z = 1.959963984540054
    assert wilson(0, 10) == pytest.approx((0, z**2 / (10 + z**2)))
    assert wilson(10, 10) == pytest.approx((10 / (10 + z**2), 1))
    middle, half = 0.5, z * (10 / 4 + z**2 / 4) ** 0.5 / (10 + z**2)
    assert wilson(5, 10) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 1, 10 / 16), (9, 1, 22 / 1024)]
)
def test_the_exact_test_of_mcnemar(gained: int, lost: int, p: float) -> None:
    ours = np.array([True] * gained + [False] * lost + [True, False] * 7)
    theirs = np.array([False] * gained + [True] * lost + [True, False] * 7)
    assert mcnemar(ours, theirs) == pytest.approx(p)


def test_rates_and_differences_of_three_masks() -> None:
    found = dict(zip(MASKS, (np.array(v, bool) for v in ([1, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0])), strict=True))
    rows = {row["kind"]: row for row in compared(found)}
    assert [rows[mask]["value"] for mask in MASKS] == [0.75, 0.25, 0.75]
    assert rows[WEAKEST]["value"] == 0.5
    assert rows[WEAKEST]["p"] == 0.5
    assert rows["strongest - random"]["p"] == 1


def test_an_image_of_no_class_is_refused() -> None:
    assert class_of("n01440764_tench.png", ["n00000001", "n01440764"]) == 1
    with pytest.raises(ValueError, match=r"'photo\.png' must begin with one of the 2"):
        class_of("photo.png", ["n00000001", "n01440764"])


def test_the_page_says_what_the_table_holds(landed: Results, tmp_path: Path) -> None:
    landed.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    ahead, behind, rest = verdicts(landed.table, WEAKEST)
    assert f"in {len(ahead)} of {len(ahead) + len(behind) + len(rest)} paired tests" in text
    assert f"fewer in {len(behind)}" in text
    energy = landed.table.loc[landed.table["metric"] == "phase_energy", "value"]
    assert all(number(value, 2) in text for value in energy)
    assert "python-manalyses.adversarial_phasesASSETS" in text.replace(" ", "")  # a line may end within it


def test_a_page_of_nothing_found_says_so(landed: Results, tmp_path: Path) -> None:
    Results(landed.table.assign(p=1.0), {}, landed.manifest).write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert "Not found. The strongest phase fools more images than the weakest in 0 of 28" in text


def test_what_landed_is_small_and_whole(landed: Results) -> None:
    assert LANDED.stat().st_size < 200_000
    t = landed.table
    assert t["model"].nunique() == 4
    for model, period, (name, attack), mask in product(t["model"].unique(), PERIODS, attacks().items(), MASKS):
        assert (cell(t, model, name, AS_IS, period, mask) is None) == (attack.steps > 1 and model in LARGE)
        assert (cell(t, model, name, STEM, period, mask) is None) == (attack.steps > 1)
    assert set(t.loc[t["metric"] == "phase_energy", "subject"]) == {CHOOSING, ATTACKED}


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"model": []}), {}, {"command": "python -m analyses.speed"}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyses"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.assets
def test_a_few_images_through_all_networks(assets: Path) -> None:
    table = run(Config(assets, count=6, photos=3, choosing=4, iterated=1)).table
    assert table["model"].nunique() == 4
    assert table.loc[table["metric"] == "success", "value"].between(0, 1).all()
