"""Laws that hold for every measure, whatever the image."""

from __future__ import annotations

from math import pi, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlens import spectra
from tests.spectra.measures import MEASURES, checkerboard, noise, one_phase, planted

all_measures = pytest.mark.parametrize("name", MEASURES)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def level(name: str, x: Tensor, period: int = 2) -> Tensor:
    """One number an image that grows with the lattice; of the phase energies their spread."""
    value = MEASURES[name].of(x, period).reshape(len(x), -1)
    return value.std(1) if name == "phase energy" else value.nanmean(1)


@all_measures
@pytest.mark.parametrize("size", [(128,), (48, 40), (16, 18, 32)], ids=str)
def test_grows_with_the_lattice(name: str, size: tuple[int, ...]) -> None:
    content = noise(6, 2, *size, seed=2).cumsum(-1) / 3 + noise(6, 2, *size, seed=3)
    levels = [level(name, planted(MEASURES[name].sees, amplitude, content, 2)).mean() for amplitude in (0, 1, 2, 4, 8)]
    steps = torch.stack(levels).diff()
    # p ends at its smallest value, 1 / 4001, where it can only stay
    assert (steps >= 0 if "p" in name.split() else steps > 0).all(), levels


@all_measures
def test_period_of_the_lattice_counts(name: str) -> None:
    """A lattice of 3 is seen at 3 and not at 2."""
    content = noise(20, 1, 60, 60, seed=4)
    x = planted(MEASURES[name].sees, 3, content, 3)
    rise = {period: (level(name, x, period) - level(name, content, period)).mean() for period in (2, 3)}
    chance = {period: level(name, content, period).std() for period in (2, 3)}
    assert rise[3] > chance[3]
    assert rise[2] < chance[2] + 0.05 * rise[3]  # fewer pixels carry the energy, which raises the floor a little


@all_measures
@pytest.mark.parametrize("period", [2, 4])
def test_independent_of_the_batch(name: str, period: int) -> None:
    x = torch.cat([noise(1, 2, 40, 40, seed=5), 1e200 * noise(3, 2, 40, 40), torch.zeros(1, 2, 40, 40)])
    alone = MEASURES[name].of(x[:1], period)
    # 4 images instead of 1 change the order of sums, not more
    torch.testing.assert_close(MEASURES[name].of(x, period)[:1], alone, rtol=1e-12, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(MEASURES[name].of(x.flip(0), period)[-1:], alone, rtol=1e-12, atol=1e-12, equal_nan=True)


@all_measures
@pytest.mark.parametrize("scale", [1e-30, 3.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_free_of_scale(name: str, scale: float, dtype: torch.dtype) -> None:
    x = planted("sign", 0.5, noise(2, 2, 36, 40, dtype=dtype), 2)
    # 2^-24 or 2^-53 of each pixel, and the digits that log(P - Re Q) of a nearly real bin loses
    rounding = 1e-5 if dtype is torch.float32 else 1e-8
    value, scaled = (MEASURES[name].of(image, 2) for image in (x, x * scale))
    if "p" in name.split():
        rounding = 2 / 4001  # a draw may pass the contrast
    torch.testing.assert_close(scaled.double(), value.double(), rtol=rounding, atol=rounding, equal_nan=True)


@all_measures
def test_a_power_of_two_changes_nothing(name: str) -> None:
    x = noise(2, 2, 36, 40)
    of = MEASURES[name].of
    torch.testing.assert_close(of(x * 2.0**-200, 2), of(x, 2), rtol=0, atol=1e-13, equal_nan=True)


@all_measures
def test_free_of_sign(name: str) -> None:
    x = planted("sign", 0.5, noise(2, 2, 36, 40), 2)
    torch.testing.assert_close(MEASURES[name].of(-x, 2), MEASURES[name].of(x, 2), rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in MEASURES if MEASURES[name].sees == "sign"])
def test_signed_measures_are_free_of_brightness(name: str) -> None:
    x = planted("sign", 0.5, noise(2, 2, 36, 40), 2)
    shifted, value = MEASURES[name].of(x + 5, 2), MEASURES[name].of(x, 2)
    torch.testing.assert_close(shifted, value, rtol=0, atol=1e-9, equal_nan=True)


@all_measures
@pytest.mark.parametrize("offset", [(4, 0), (8, 12)], ids=str)
def test_a_shift_of_whole_periods(name: str, offset: tuple[int, int]) -> None:
    """Two crops of one field share all but a strip: at most 13 % of their pixels differ."""
    sees = MEASURES[name].sees
    field = planted(sees, 6, noise(4, 2, 140, 140, seed=6), 4)
    here = field[..., :128, :128]
    there = field[..., offset[0] : offset[0] + 128, offset[1] : offset[1] + 128]
    before, after = level(name, here, 4), level(name, there, 4)
    # a shift that broke the phase would cost all of it: 10 dB, the whole share or imbalance
    tolerance = 1.5 if before.abs().max() > 3 else 0.05
    assert (after - before).abs().max() < tolerance, (before, after)


def test_phase_energy_moves_with_the_image() -> None:
    field = noise(50, 2, 66, 66) * (1 + 3 * one_phase((66, 66), (4, 4)))
    energy = spectra.phase_energy(field[..., :64, :64], 4)
    moved = spectra.phase_energy(field[..., 1:65, 2:66], 4)
    # the border pixels that differ and the neighbourhoods' new limits: 5 % of an energy of up to 8
    assert (moved - energy.roll((-1, -2), (1, 2))).abs().mean() < 0.1
    assert (moved - energy).abs().mean() > 0.4


@pytest.mark.parametrize("name", [name for name in MEASURES if MEASURES[name].sees == "energy"])
def test_energy_measures_are_free_of_the_contents_contrast(name: str) -> None:
    """A smooth positive field of a factor 7 in amplitude, 50 in energy, is what a picture's own contrast is."""
    x = planted("energy", 0.7, noise(8, 2, 128, 128, seed=7), 2)
    turn = torch.arange(128, dtype=torch.float64) * 2 * pi / 128
    field = (turn.cos()[:, None] * 0.5 + turn.sin() * 0.5).exp()
    plain, times = level(name, x), level(name, x * field)
    # inside 16 px the field itself varies by up to 40 %: the weights of pixels change, their phases do not
    tolerance = 0.7 if "contrast" in name or "lines" in name or "map" in name else 0.03 * plain.abs().max() + 0.01
    assert (times - plain).abs().mean() < tolerance, (plain, times)


@all_measures
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    x = noise(2, 1, 33, 40, dtype=dtype) * 0.1
    value = MEASURES[name].of(x, 2)
    assert value.dtype == torch.float64
    up = x.to(torch.promote_types(dtype, torch.float32))
    assert torch.equal(value.nan_to_num(), MEASURES[name].of(up, 2).nan_to_num())
    # windows are transformed in float32: one by itself is 2e-4 dB off, their mean 5e-6; a draw may pass the contrast
    slack = 2 / 4001 if "p" in name.split() else 1e-3
    torch.testing.assert_close(value, MEASURES[name].of(x.double(), 2), rtol=0, atol=slack, equal_nan=True)


def test_float16_is_cast_up_before_it_is_squared() -> None:
    x = noise(2, 1, 32, 32, dtype=torch.float16) * 1e4
    assert spectra.power_spectrum(x).isfinite().all()
    assert spectra.radial_profile(x).power.dtype == torch.float64
    assert spectra.notch(x, 2).dtype == torch.float16


@all_measures
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_free_of_the_default_dtype(name: str, dtype: torch.dtype) -> None:
    x = noise(2, 1, 30, 37)
    before = MEASURES[name].of(x, 3)
    torch.set_default_dtype(dtype)
    try:
        after = MEASURES[name].of(x, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


@all_measures
@pytest.mark.parametrize("layout", ["transposed", "channels last", "strided", "expanded"])
def test_memory_layout(name: str, layout: str) -> None:
    x = noise(2, 3, 36, 40)
    if layout == "transposed":
        x = x.transpose(2, 3)
    elif layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = noise(2, 3, 72, 40)[:, :, ::2]
    else:
        x = x[:1].expand(3, -1, -1, -1)
    of = MEASURES[name].of
    torch.testing.assert_close(of(x, 2), of(x.contiguous(), 2), rtol=1e-12, atol=1e-12, equal_nan=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sides=st.lists(st.integers(2, 12), min_size=1, max_size=3),
    period=st.integers(2, 4),
    untested=st.integers(0, 2),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_ranges(sides: list[int], period: int, untested: int, channels: int, seed: int) -> None:
    """Any small image: values in their documented range or, where it is too small, NaN."""
    periods = tuple(1 if len(sides) > 1 and axis == untested else period for axis in range(len(sides)))
    x = noise(2, channels, *sides, seed=seed)
    fits = all(side >= 2 * t for side, t in zip(sides, periods, strict=True) if t > 1)
    share, new = spectra.lattice_share(x, periods), spectra.lattice_share(x, periods, new=True)
    assert share.isfinite().all() == fits
    if fits:
        assert (new >= 0).all() and (new <= share + 1e-12).all() and (share <= 1 + 1e-12).all()
        energy = spectra.phase_energy(x, periods)
        assert energy.shape == (2, *periods) and (energy >= 0).all() and (energy <= prod(periods) + 1e-9).all()
        assert energy.flatten(1).mean(1).tolist() == pytest.approx([1, 1])
        plain = spectra.phase_imbalance(x, periods, debias=False)
        assert (plain >= 0).all() and (plain <= (prod(periods) - 1) ** 0.5 + 1e-9).all()
    test = spectra.lattice_test(x, periods)
    measurable = all(side // t >= 4 for side, t in zip(sides, periods, strict=True) if t > 1)
    if not measurable:
        assert test.contrast.isnan().all() and test.p_value.isnan().all()
    elif test.window:
        known = test.p_value[~test.p_value.isnan()]
        assert ((known >= 1 / 4001) & (known <= 1)).all() and test.contrast.isfinite().all()
    for kind in ("signed", "envelope"):
        table = spectra.lattice_lines(x, periods, kind=kind)
        assert table.shape == (2, *periods)


def test_share_of_four_contains_that_of_two() -> None:
    x = planted("sign", 0.5, noise(3, 2, 40, 44), 4)
    share = {period: spectra.lattice_share(x, period) for period in (2, 4)}
    torch.testing.assert_close(share[4], share[2] + spectra.lattice_share(x, 4, new=True), rtol=1e-12, atol=0)


def test_contrast_is_the_mean_of_its_lines_and_map_of_one_window() -> None:
    x = planted("sign", 0.5, noise(3, 2, 30, 30), 3)
    lines = spectra.lattice_lines(x, 3)
    one_of_each = torch.stack([lines[:, 0, 1], lines[:, 1, 0], lines[:, 1, 1], lines[:, 1, 2]], 1)
    torch.testing.assert_close(spectra.lattice_contrast(x, 3), one_of_each.mean(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(spectra.lattice_map(x, 3)[:, 0, 0], one_of_each.mean(1), rtol=0, atol=1e-11)
    assert torch.equal(lines[:, 1, 1], lines[:, 2, 2]) and torch.equal(lines[:, 0, 1], lines[:, 0, 2])


def test_map_says_where() -> None:
    x = noise(10, 2, 96, 64)
    x[..., :32, :] += 2 * checkerboard(32, 64)
    where = spectra.lattice_map(x, 2).mean(0)
    assert where.shape == (5, 3)
    assert where[0].min() > where[2:].max() + 5


def test_also_keeps_another_lattice_out_of_the_null() -> None:
    x = noise(1, 3, 64, 64) + 40 * one_phase((64, 64), (4, 4))
    lone, aware = (spectra.lattice_test(x, 8, also=also).contrast.item() for also in ((), (3,)))
    assert abs(lone - aware) < 1  # 3 is not there
    y = noise(1, 3, 64, 64) + 40 * one_phase((64, 64), (4, 4))
    assert spectra.lattice_test(y, 2).contrast < spectra.lattice_test(y, 2, also=(4,)).contrast - 1


# Spectra


@pytest.mark.parametrize("size", [(40,), (33, 20), (8, 9, 10)], ids=str)
def test_parseval(size: tuple[int, ...]) -> None:
    x = noise(2, 3, *size) + 1
    axes = tuple(range(2, x.ndim))
    power = spectra.power_spectrum(x, window="none")
    energy = (x - x.mean(axes, keepdim=True)).square().sum(axes)
    torch.testing.assert_close(power.sum(axes), energy, rtol=1e-12, atol=0)


@pytest.mark.parametrize("window", ["hann", "none"])
@pytest.mark.parametrize("size", [None, 16])
def test_white_noise_level(window: str, size: int | None) -> None:
    x = 3 * noise(200, 2, 48, 48)
    power = spectra.power_spectrum(x, window=window, size=size)
    assert power.shape == (200, 2, *([48, 48] if size is None else [16, 16]))
    assert power[..., 3:, 3:].mean().item() == pytest.approx(9, rel=0.02)
    profile = spectra.radial_profile(x, window=window)
    assert profile.power[:, 2:].mean().item() == pytest.approx(18, rel=0.02)  # summed over 2 channels


@pytest.mark.parametrize("window", ["hann", "none"])
def test_a_wave_is_at_its_frequency(window: str) -> None:
    x = (2 * pi * 10 * torch.arange(80, dtype=torch.float64) / 80).cos().view(1, 1, 80)
    assert sorted(spectra.power_spectrum(x, window=window)[0, 0].topk(2).indices.tolist()) == [10, 70]
    profile = spectra.radial_profile(x, bins=20, window=window)
    assert profile.frequency[profile.power[0].argmax()].item() == pytest.approx(10 / 80 + 1 / 80)


def test_spectrum_distance() -> None:
    x, y = noise(4, 2, 24, 24), noise(4, 2, 24, 24).cumsum(-1)
    assert spectra.spectrum_distance(x, x).item() == 0
    assert spectra.spectrum_distance(x, y).item() == pytest.approx(spectra.spectrum_distance(y, x).item())
    assert spectra.spectrum_distance(x, 1e9 * x + 4e9).item() < 1e-4  # brightness costs digits
    assert spectra.spectrum_distance(1e-200 * x, 1e200 * x).item() < 1e-9
    nearer = spectra.spectrum_distance(x, x + 0.1 * y)
    assert 0 < nearer < spectra.spectrum_distance(x, x + 0.5 * y) < spectra.spectrum_distance(x, y)


def test_lattice_loss() -> None:
    x = noise(200, 1, 32, 32)
    losses = [spectra.lattice_loss(x + a * checkerboard(32, 32), 2).item() for a in (0, 0.1, 0.3, 1)]
    assert losses == sorted(losses) and losses[3] > losses[0] + 3
    assert 0.4 < losses[0] < 0.7  # log 2 = 0.69 less the curvature of the logarithm
    highest = spectra.lattice_loss(checkerboard(32, 32)[None, None], 2).item()
    assert highest == pytest.approx(torch.tensor(1 + 1023 / 3, dtype=torch.float64).log().item(), rel=1e-9)


# Notch


@pytest.mark.parametrize("size", [(40,), (36, 48), (33, 35), (37, 36), (12, 9, 8)], ids=str)
@pytest.mark.parametrize("period", [2, 3, 4])
def test_notch_is_a_projection(size: tuple[int, ...], period: int) -> None:
    """Over whole periods: what a rest of the image holds beyond them has no part in the means."""
    x = planted("sign", 2, noise(2, 2, *size), period) + 3
    rest = spectra.notch(x, period)
    torch.testing.assert_close(spectra.notch(rest, period), rest, rtol=0, atol=1e-13)
    assert (x - rest).abs().amax() > 0.5
    whole = (..., *(slice(side // period * period) for side in size))
    x, rest = x[whole], rest[whole]
    axes = tuple(range(2, x.ndim))
    torch.testing.assert_close(rest.mean(axes), x.mean(axes), rtol=1e-13, atol=0)
    torch.testing.assert_close((rest * (x - rest)).sum(axes), x.mean(axes) * (x - rest).sum(axes), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "periods"), [((40,), (2,)), ((36, 48), (2,)), ((36, 48), (4, 6)), ((33, 35), (2,)), ((38, 37), (3, ))]
)  # fmt: skip
def test_notch_leaves_no_share(size: tuple[int, ...], periods: tuple[int, ...]) -> None:
    rest = spectra.notch(planted("sign", 2, noise(2, 2, *size), periods[0]) + 3, periods)
    for period in periods:
        assert spectra.lattice_share(rest, period).max() < 1e-25


@pytest.mark.parametrize("size", [(32, 32), (33, 35)], ids=str)
def test_notch_of_a_lattice_leaves_nothing(size: tuple[int, int]) -> None:
    """Rounding must not leave a lattice of its own in a flat image."""
    rest = spectra.notch((0.1 * checkerboard(*size) + 0.3)[None, None], 2)
    assert (rest - 0.3).abs().max() < 1e-2
    if size == (32, 32):
        assert spectra.lattice_share(rest, 2).item() == 0
