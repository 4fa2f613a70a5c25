"""What jitter leaves of a lattice: known numbers, the sum over all offsets, random draws, and the transforms themselves."""

from itertools import product
from math import ceil, log10, pi, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradlens.dream import Jitter, Moment, cycle, dream, jitter, jitter_attenuation, lattice_attenuation
from gradlens.spectra.grid import new_harmonics
from tests.dream import reference


def decibels(amplitude: float) -> int:
    return round(20 * log10(amplitude))


def wave(period: int, harmonic: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """`[1 1 *size]`, a cosine of unit amplitude at harmonic / period, of a phase that hides nothing."""
    grids = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    turns = sum(k * grid for k, grid in zip(harmonic, grids, strict=True))
    return (2 * pi * turns / period + 0.7).cos()[None, None]


def amplitude(x: Tensor, period: int, harmonic: tuple[int, ...]) -> float:
    """Of the wave in `x` `[1 1 *size]`, whose sides are multiples of the period."""
    grids = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in x.shape[2:]), indexing="ij")
    turns = sum(k * grid for k, grid in zip(harmonic, grids, strict=True))
    return (x[0, 0] * torch.polar(torch.ones_like(turns), 2 * pi * turns / period)).mean().abs().item()


def whole_cycle(move: Jitter, axes: int = 2) -> list[Moment]:
    return [Moment(step, torch.Generator()) for step in range(move.count**axes)]


# The law


@pytest.mark.parametrize(
    ("n", "period", "expected"),
    [(65, 2, -36), (9, 2, -19), (9, 4, -19), (9, 8, -19), (9, 16, -5), (9, 32, -1)],
)
def test_known_numbers(n: int, period: int, expected: int) -> None:
    assert decibels(jitter_attenuation(n, period)) == expected


def test_eight_offsets_remove_2_4_and_8_and_leave_16_and_32() -> None:
    assert [jitter_attenuation(8, period) for period in (2, 4, 8)] == [0, 0, 0]
    assert jitter_attenuation(8, 16) > 0.6 and jitter_attenuation(8, 32) > 0.9


@pytest.mark.parametrize(("steps", "expected"), [(20, -13), (60, -18)])
@pytest.mark.parametrize("n", [2, 8, 32, 64])
def test_random_steps_leave_their_floor_whatever_n(n: int, steps: int, expected: int) -> None:
    assert decibels(jitter_attenuation(n, 2, steps=steps)) == expected


@pytest.mark.parametrize("n", [0, 1])
def test_a_fixed_position_leaves_everything(n: int) -> None:
    assert jitter_attenuation(n, 4) == jitter_attenuation(n, 4, steps=3) == 1
    assert lattice_attenuation(jitter(n), 4, 3) == lattice_attenuation(jitter(n, order="cycle"), 4, 3) == 1


@given(
    n=st.integers(1, 24),
    period=st.integers(1, 24),
    harmonic=st.lists(st.integers(-30, 30), min_size=1, max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_the_law_is_the_mean_over_all_offsets(n: int, period: int, harmonic: list[int]) -> None:
    expected = reference.attenuation(n, period, harmonic)
    assert jitter_attenuation(n, period, harmonic=harmonic) == pytest.approx(
        expected, abs=1e-12
    )  # rounding of 576 terms
    if len(harmonic) == 1:
        assert jitter_attenuation(n, period, harmonic=harmonic[0]) == jitter_attenuation(n, period, harmonic=harmonic)


@given(n=st.integers(1, 200), period=st.integers(2, 40), axes=st.integers(1, 2))
@settings(max_examples=100, deadline=None)
def test_all_new_harmonics_vanish_if_and_only_if_the_period_divides_n(n: int, period: int, axes: int) -> None:
    left = [jitter_attenuation(n, period, harmonic=k) for k in new_harmonics((period,) * axes)]
    assert (max(left) == 0) == (n % period == 0)
    assert (lattice_attenuation(jitter(n), period, 10**12, axes=axes) < 2e-6) == (n % period == 0)  # 1 / sqrt(steps)


@given(n=st.integers(0, 100), period=st.integers(1, 50), k=st.integers(-99, 99), steps=st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_between_0_and_1_and_more_steps_leave_less(n: int, period: int, k: int, steps: int) -> None:
    law = jitter_attenuation(n, period, harmonic=k)
    some, more = (jitter_attenuation(n, period, harmonic=k, steps=s) for s in (steps, steps + 1))
    assert 0 <= law <= more <= some <= 1
    assert jitter_attenuation(n, period, harmonic=k, steps=1) == pytest.approx(1)


@pytest.mark.parametrize(("n", "period", "harmonic"), [(3, 4, (1, 0)), (5, 8, (3, 1)), (4, 4, (1, 2)), (2, 16, (1, 1))])
def test_random_draws_leave_the_power_that_is_foretold(n: int, period: int, harmonic: tuple[int, int]) -> None:
    steps, trials = 12, 2000
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randint(n, (trials, steps, 2), generator=generator).double()
    turns = (offsets @ torch.tensor(harmonic).double()) * 2 * pi / period
    power = torch.polar(torch.ones_like(turns), turns).mean(1).abs().square()
    spread = (power.std() / trials**0.5).item()
    expected = jitter_attenuation(n, period, harmonic=harmonic, steps=steps) ** 2
    assert power.mean().item() == pytest.approx(expected, abs=4 * spread)


def test_the_draws_of_a_transform_leave_the_power_that_is_foretold() -> None:
    steps, trials, move, period = 10, 400, jitter(6), 4
    generator = torch.Generator().manual_seed(1)
    lattice, found = wave(period, (1, 0), (4, 4)), []
    for _ in range(trials):
        mean = sum(move(lattice, Moment(step, generator)) for step in range(steps)) / steps
        found.append((amplitude(mean, period, (1, 0)) / amplitude(lattice, period, (1, 0))) ** 2)
    power = torch.tensor(found)
    expected = jitter_attenuation(6, period, steps=steps) ** 2
    assert power.mean().item() == pytest.approx(expected, abs=4 * (power.std() / trials**0.5).item())


@pytest.mark.parametrize("what", ["n", "period", "steps"])
def test_what_makes_no_sense_is_refused_by_name(what: str) -> None:
    settings = {"n": 8, "period": 2, "steps": 3} | {what: -1}
    with pytest.raises(ValueError, match=rf"^{what}: .*got -1"):
        jitter_attenuation(**settings)


# The order that sees all offsets


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("n", range(1, 13))
def test_a_cycle_sees_every_offset_once(n: int, axes: int) -> None:
    seen = [tuple(cycle(n, axes, step)) for step in range(n**axes)]
    assert sorted(seen) == sorted(product(range(n), repeat=axes))
    assert cycle(n, axes, n**axes) == cycle(n, axes, 0)  # and begins again


@pytest.mark.parametrize(("n", "early"), [(8, (2, 4)), (12, (2, 4)), (15, (3,)), (32, (2, 4, 8, 16)), (6, (2,))])
def test_a_cycle_sees_the_residues_of_small_factors_first(n: int, early: tuple[int, ...]) -> None:
    for period in early:
        for block in range(3):
            steps = range(block * period**2, (block + 1) * period**2)
            residues = [tuple(o % period for o in cycle(n, 2, step)) for step in steps]
            assert sorted(residues) == sorted(product(range(period), repeat=2))
        assert lattice_attenuation(jitter(n, order="cycle"), period, period**2) == 0


@given(n=st.integers(2, 10), period=st.integers(2, 8), steps=st.integers(1, 40), axes=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_a_cycle_leaves_what_its_offsets_leave(n: int, period: int, steps: int, axes: int) -> None:
    offsets = [cycle(n, axes, step) for step in range(steps)]
    found = lattice_attenuation(jitter(n, order="cycle"), period, steps, axes=axes)
    assert found == pytest.approx(reference.attenuation_by(offsets, period), abs=1e-9)


@pytest.mark.parametrize(("n", "period"), [(6, 3), (9, 2), (5, 8), (10, 5)])
def test_a_whole_cycle_reaches_the_law(n: int, period: int) -> None:
    powers = [jitter_attenuation(n, period, harmonic=k) ** 2 for k in new_harmonics((period, period))]
    law = (sum(powers) / len(powers)) ** 0.5
    assert lattice_attenuation(jitter(n, order="cycle"), period, n**2) == pytest.approx(law, abs=1e-12)


# The transforms keep the law


@pytest.mark.parametrize("mode", ["roll", "crop", "reflect", "zeros"])
@pytest.mark.parametrize(
    ("n", "period", "harmonic"), [(4, 4, (1, 0)), (5, 4, (1, 3)), (9, 2, (1, 1)), (8, 16, (3, 5)), (3, 8, (0, 1))]
)
def test_a_lattice_that_stays_with_the_network_is_averaged_by_the_law(
    mode: str, n: int, period: int, harmonic: tuple[int, int]
) -> None:
    """Gradients with respect to the picture of a sum over the moved picture times a lattice, over all offsets."""
    side = 64
    move = jitter(n, mode=mode, order="cycle")  # type: ignore[arg-type]
    total = torch.zeros(1, 1, side, side, dtype=torch.float64)
    for moment in whole_cycle(move):
        x = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        shown = move(x, moment)
        total += torch.autograd.grad((shown * wave(period, harmonic, shown.shape[2:])).sum(), x)[0]
    border = 0 if mode == "roll" else ceil(n / period) * period
    inside = total[..., border : side - border, border : side - border] / n**2
    whole = amplitude(wave(period, harmonic, inside.shape[2:]), period, harmonic)
    expected = jitter_attenuation(n, period, harmonic=harmonic)
    assert amplitude(inside, period, harmonic) / whole == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [(24,), (8, 12), (4, 8, 4)])
def test_roll_keeps_the_law_in_one_two_and_three_dimensions(size: tuple[int, ...]) -> None:
    n, period, harmonic = 3, 4, (1, 2, 1)[: len(size)]
    move, lattice = jitter(n, order="cycle"), wave(4, harmonic, size)
    moments = whole_cycle(move, len(size))
    mean = sum(move(lattice, moment) for moment in moments) / len(moments)
    left = amplitude(mean, period, harmonic) / amplitude(lattice, period, harmonic)
    assert left == pytest.approx(prod(jitter_attenuation(n, period, harmonic=k) for k in harmonic), abs=1e-12)


# Auto


def test_auto_takes_the_least_common_multiple_of_the_networks_periods() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Conv2d(4, 4, 3, stride=2))  # periods 3 and 6
    picture = torch.rand(1, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    found, expected, other = (
        dream(model, picture, "1", transforms=[jitter(n)], steps=3).images for n in ("auto", 6, 12)
    )
    assert torch.equal(found, expected) and not torch.equal(found, other)
    assert jitter("auto").fitted([3, 6, 4]) == jitter(12) and jitter(5).fitted([3, 6]) == jitter(5)
    assert jitter("auto").fitted([]) == jitter(1)


def test_auto_without_a_network_says_so() -> None:
    with pytest.raises(ValueError, match="only dream"):
        jitter("auto")(torch.zeros(1, 1, 4, 4), Moment(0, torch.Generator()))
