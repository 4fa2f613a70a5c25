"""The distance of two sets: the same number as the loss, and a p that is uniform where the sets are of one kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlens.spectra import normalised_power, power_spectrum, spectrum_distance, spectrum_distance_test
from gradlens.spectra.distance import mean_level
from tests.spectra.measures import checkerboard, noise


def powers(n: int, *, seed: int = 0, board: float = 0.0) -> Tensor:
    return normalised_power(noise(n, 1, 16, 16, seed=seed) + board * checkerboard(16, 16))


def test_power_is_a_share_without_dc() -> None:
    power = normalised_power(3 + noise(4, 3, 24, 16))
    torch.testing.assert_close(power.flatten(1).sum(1), torch.ones(4, dtype=torch.float64))
    assert (power[:, 0, 0] == 0).all() and power.shape == (4, 24, 16)
    torch.testing.assert_close(power, normalised_power(1e-3 * (3 + noise(4, 3, 24, 16)) + 0.5))
    plain = power_spectrum(noise(1, 2, 24, 16), size=8).sum(1)
    plain[:, 0, 0] = 0
    torch.testing.assert_close(normalised_power(noise(1, 2, 24, 16), size=8), plain / plain.sum())


def test_a_constant_picture_has_no_power() -> None:
    assert normalised_power(torch.full((1, 1, 8, 8), 0.3)).abs().max() == 0


def test_distance_is_that_of_the_loss() -> None:
    x, y = noise(5, 3, 20, 20), noise(7, 3, 20, 20, seed=1).cumsum(-1)
    found = spectrum_distance_test(normalised_power(x), normalised_power(y))[0]
    assert found == pytest.approx(spectrum_distance(x, y).item(), rel=1e-12)
    level = mean_level(normalised_power(x)) - mean_level(normalised_power(y))
    assert found == pytest.approx(level.flatten()[1:].square().mean().sqrt().item(), rel=1e-12)


def test_floor_and_p_are_those_of_plain_loops() -> None:
    """Every deal of 4 + 4 images, instead of 1,000 at random: the quantile and p agree within their sampling error."""
    from itertools import combinations

    x, y = powers(4), powers(4, seed=1, board=0.2)
    everyone = torch.cat([x, y])
    dealt = []
    for chosen in combinations(range(8), 4):
        rest = [i for i in range(8) if i not in chosen]
        level = mean_level(everyone[list(chosen)]) - mean_level(everyone[rest])
        dealt.append(level.flatten()[1:].square().mean().sqrt().item())
    distance, floor, p_value = spectrum_distance_test(x, y)
    share = np.mean(np.array(dealt) >= distance - 1e-9)
    assert abs(p_value - share) < 0.05  # 3 standard errors of 1,000 draws
    assert np.quantile(dealt, 0.9) <= floor <= np.quantile(dealt, 0.98)


def test_pairs_change_sides_within_themselves() -> None:
    """A small common change of very different images is found only pair by pair."""
    content = noise(12, 1, 16, 16).cumsum(-1) * torch.logspace(-1, 1, 12).view(-1, 1, 1, 1)
    x, y = (
        normalised_power(content),
        normalised_power(content + 0.3 * checkerboard(16, 16) * content.std((1, 2, 3), keepdim=True)),
    )
    assert spectrum_distance_test(x, y, paired=True)[2] < 0.01
    assert spectrum_distance_test(x, y)[1] > spectrum_distance_test(x, y, paired=True)[1]


@pytest.mark.parametrize("paired", [False, True])
def test_p_is_uniform_where_there_is_no_difference(paired: bool) -> None:
    """60 pairs of sets: at most 14 of 60 below 0.1 has probability 0.997, and one below it at least 0.998."""
    found = [
        spectrum_distance_test(powers(10, seed=2 * s), powers(10, seed=2 * s + 1), paired=paired)[2] for s in range(60)
    ]
    assert 1 <= sum(p <= 0.1 for p in found) <= 14


def test_a_lattice_is_beyond_chance() -> None:
    distance, floor, p_value = spectrum_distance_test(powers(20), powers(30, seed=1, board=0.5))
    assert distance > floor and p_value == 1 / 1001


def test_equal_sets_are_within_chance_and_float32_changes_nothing() -> None:
    x = powers(6)
    assert spectrum_distance_test(x, x)[0] == 0 and spectrum_distance_test(x, x)[2] == 1
    exact, rounded = (spectrum_distance_test(a.to(t), b.to(t)) for t in (torch.float64, torch.float32)
                      for a, b in ((x, powers(6, seed=3)),))  # fmt: skip
    assert rounded == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(("n", "m", "paired"), [(1, 1, False), (3, 3, False), (1, 18, False), (5, 5, True)])
def test_few_images_have_no_floor(n: int, m: int, paired: bool) -> None:
    distance, floor, p_value = spectrum_distance_test(powers(n), powers(m, seed=1), paired=paired)
    assert distance > 0 and math.isnan(floor) and math.isnan(p_value)


@pytest.mark.parametrize(("n", "m", "paired"), [(4, 4, False), (1, 19, False), (6, 6, True)])
def test_twenty_deals_are_enough(n: int, m: int, paired: bool) -> None:
    assert spectrum_distance_test(powers(n), powers(m, seed=1), paired=paired)[1] > 0


def test_leaves_the_generator_of_torch_alone() -> None:
    state = torch.get_rng_state()
    assert spectrum_distance_test(powers(5), powers(5, seed=1)) == spectrum_distance_test(powers(5), powers(5, seed=1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("x", "error"),
    [(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError), (torch.full((1, 1, 8, 8), math.nan), ValueError)],
)
def test_power_refuses_what_is_no_signal(x: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="x: "):
        normalised_power(x)


def test_refuses_what_does_not_compare() -> None:
    with pytest.raises(ValueError, match=r"frequencies of ours, and neither be empty, got \[2, 16, 16\], \[2, 8, 8\]"):
        spectrum_distance_test(powers(2), powers(2)[:, ::2, ::2])
    with pytest.raises(ValueError, match="neither be empty"):
        spectrum_distance_test(powers(2), powers(2)[:0])
    with pytest.raises(ValueError, match="as many images on both sides, got 2 and 3"):
        spectrum_distance_test(powers(2), powers(3), paired=True)
