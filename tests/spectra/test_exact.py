"""Exact facts: inputs whose value is known without the code."""

from __future__ import annotations

from math import isnan, prod, sqrt

import pytest
import torch
from torch import Tensor

from gradlens import spectra
from gradlens.spectra import power
from tests.spectra.measures import MEASURES, checkerboard, noise, one_phase, wave

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LATTICES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "one axis": ((64,), (2,)),
    "period 3": ((60, 60), (3, 3)),
    "period 5": ((60, 60), (5, 5)),
    "period 6": ((60, 72), (6, 6)),
    "period 2 by 4": ((32, 48), (2, 4)),
    "one tested axis": ((20, 48), (1, 3)),
    "three axes": ((32, 16, 16), (2, 2, 2)),
}
TWO_PERIODS = ("share", "new share", "share of the envelope", "phase energy", "imbalance", "plain imbalance")
lattices = pytest.mark.parametrize(("size", "periods"), LATTICES.values(), ids=LATTICES.keys())


def standard_error(values: Tensor) -> float:
    return float(values.std() / sqrt(len(values)))


def test_prototype_table() -> None:
    white = noise(500, 1, 32, 32)
    table = {
        "white noise": white,
        "one phase of four": white * one_phase((32, 32), (2, 2)),
        "sign checkerboard": checkerboard(32, 32).expand(1, 1, 32, 32),
    }
    rows = {
        name: (
            spectra.lattice_share(x, 2).mean().item(),
            spectra.lattice_share(x, 2, kind="envelope").mean().item(),
            spectra.phase_imbalance(x, 2, debias=False).mean().item(),
        )
        for name, x in table.items()
    }
    assert rows["white noise"] == pytest.approx((0.003, 0.003, 0.07), abs=0.005)
    assert rows["one phase of four"][0] == pytest.approx(0.003, abs=0.0005)
    # x^2 itself has 3 / 11; the local mean takes in the pixel, and so a part of the tail: 0.278 to 0.290
    assert rows["one phase of four"][1] == pytest.approx(0.278, abs=0.015)
    assert rows["one phase of four"][2] == pytest.approx(sqrt(3), abs=1e-12)
    assert rows["sign checkerboard"] == pytest.approx((1, 0, 0), abs=1e-12)


@pytest.mark.parametrize(("channels", "side", "period"), [(1, 28, 2), (3, 28, 2), (1, 32, 4), (3, 64, 2), (1, 64, 8)])
def test_white_noise_has_no_contrast(channels: int, side: int, period: int) -> None:
    contrast = spectra.lattice_contrast(noise(600, channels, side, side), period)
    assert abs(contrast.mean()) < 0.2 + 2 * standard_error(contrast)


@pytest.mark.parametrize("period", [2, 3, 4])
@pytest.mark.parametrize("kind", ["signed", "envelope"])
def test_p_of_white_noise_is_uniform(kind: str, period: int) -> None:
    p = spectra.lattice_test(noise(500, 1, 40, 40, seed=3), period, kind=kind).p_value
    assert (p <= 0.01).double().mean() <= 0.03  # the prototype's .007 to .021 and two binomial errors
    assert 0.05 <= (p <= 0.1).double().mean() <= 0.15
    assert 0.4 <= (p <= 0.5).double().mean() <= 0.6


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(("size", "period"), [((32, 32), 2), ((35, 33), 4), ((60,), 6), ((9, 9, 9), 3)])
def test_white_noise_has_the_share_of_its_floor(size: tuple[int, ...], period: int, new: bool) -> None:
    share = spectra.lattice_share(noise(400, 2, *size), period, new=new)
    assert abs(share.mean() - spectra.lattice_share_floor(size, period, new=new)) < 4 * standard_error(share)


def test_share_floor_counts_frequencies() -> None:
    assert spectra.lattice_share_floor((32, 48), 2) == 3 / (32 * 48 - 1)
    assert spectra.lattice_share_floor((33, 49), (1, 4), new=True) == 2 / (33 * 48 - 1)


@pytest.mark.parametrize("period", [2, 4, 5])
def test_white_noise_is_balanced(period: int) -> None:
    imbalance = spectra.phase_imbalance(noise(400, 1, 64, 64), period)
    square = imbalance * imbalance.abs()
    assert abs(square.mean()) < 4 * standard_error(square)


def test_plain_imbalance_of_white_noise_is_its_floor() -> None:
    plain = spectra.phase_imbalance(noise(300, 3, 64, 64), 4, debias=False)
    # the floor leaves out a factor sqrt(1 - 1 / T^2) = 0.97, and a mean root is below the root of a mean
    assert plain.mean() == pytest.approx(spectra.phase_imbalance_floor((3, 64, 64), 4), rel=0.08)


def test_sign_checkerboard_is_one_line() -> None:
    x = checkerboard(32, 32).expand(1, 3, 32, 32)
    lines = spectra.lattice_lines(x, 2)[0]
    assert lines[1, 1] > 100
    assert lines[0, 1].abs() < 1e-6 and lines[1, 0].abs() < 1e-6 and lines[0, 0].isnan()
    assert spectra.lattice_share(x, 2).item() == 1
    assert spectra.lattice_share(x, 4).item() == 1
    assert spectra.lattice_share(x, 4, new=True).item() < 1e-30
    assert spectra.phase_imbalance(x, 2).item() == 0
    assert spectra.lattice_test(x, 2).p_value.item() == pytest.approx(1 / 4001)


@lattices
def test_one_phase_holds_everything(size: tuple[int, ...], periods: tuple[int, ...]) -> None:
    x = noise(3, 2, *size) * one_phase(size, periods, phase=1)
    most = sqrt(prod(periods) - 1)
    assert spectra.phase_imbalance(x, periods, debias=False).tolist() == pytest.approx([most] * 3, rel=1e-12)
    assert spectra.phase_imbalance(x, periods).tolist() == pytest.approx([most] * 3, rel=1e-12)
    energy = spectra.phase_energy(x, periods)
    assert energy.shape == (3, *periods)
    assert energy.flatten(1).amax(1).tolist() == pytest.approx([prod(periods)] * 3, rel=1e-12)
    assert energy[(0, *[1 % period for period in periods])] == energy[0].max()


@lattices
def test_a_wave_on_the_lattice_is_one_line(size: tuple[int, ...], periods: tuple[int, ...]) -> None:
    harmonic = tuple(int(period > 1) for period in periods)
    x = wave(size, periods, harmonic)[None, None]
    lines = spectra.lattice_lines(x + 1e-3 * noise(1, 1, *size), periods)[0]
    highest = [tuple(index.tolist()) for index in (lines > 30).nonzero()]
    assert highest == sorted({harmonic, tuple(-k % period for k, period in zip(harmonic, periods, strict=True))})
    assert spectra.lattice_share(x, periods).item() == pytest.approx(1, rel=1e-12)
    assert spectra.lattice_share(x, periods, new=True).item() == pytest.approx(1, rel=1e-12)


def test_new_harmonics_of_four_leave_out_those_of_two() -> None:
    listed = spectra.lattice_lines(noise(1, 1, 32, 32), 4)[0].isnan().nonzero().tolist()
    assert listed == [[0, 0], [0, 2], [2, 0], [2, 2]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0.0, 0.1, -1 / 3])
@pytest.mark.parametrize("size", [(300,), (36, 35), (33, 9, 8)])
def test_constant_image(size: tuple[int, ...], level: float, dtype: torch.dtype) -> None:
    x = torch.full((2, 3, *size), level, dtype=dtype)
    nothing = [0.0, 0.0]
    for kind in ("signed", "envelope"):
        test = spectra.lattice_test(x, 2, kind=kind, window=128 if len(size) == 1 else 32)
        assert test.contrast.tolist() == nothing
        assert test.p_value.tolist() == [1.0, 1.0]
        assert spectra.lattice_contrast(x, 2, kind=kind).tolist() == nothing
        assert spectra.lattice_share(x, 2, kind=kind).tolist() == nothing
    assert spectra.lattice_lines(x, 2).nan_to_num().count_nonzero() == 0
    assert spectra.lattice_map(x, 2).count_nonzero() == 0
    for debias in (True, False):  # sums of equals may round
        assert spectra.phase_imbalance(x, 2, debias=debias).tolist() == pytest.approx(nothing, abs=1e-14)
    torch.testing.assert_close(spectra.phase_energy(x, 2), torch.ones(2, *[2] * len(size)).double(), rtol=1e-15, atol=0)
    assert spectra.power_spectrum(x).count_nonzero() == 0
    assert spectra.lattice_loss(x, 2) == 0
    torch.testing.assert_close(spectra.notch(x, 2), x, rtol=1e-15, atol=0)  # an average of equals may round


def test_content_in_rounding_alone_is_not_significant() -> None:
    """One pixel has a flat spectrum: every excess is 0 but for rounding, and rounding is no lattice."""
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[0, 0, 20, 33] = 1
    for period in (3, 4, 5, 6, 8):
        test = spectra.lattice_test(x, period)
        assert test.contrast.abs() < 1e-9
        assert test.p_value > 0.05, period


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in TWO_PERIODS])
@pytest.mark.parametrize(("size", "period"), [((15, 64), 4), ((7,), 2), ((64, 64), 17), ((8, 8, 7), 2)])
def test_not_measurable_below_four_periods(name: str, size: tuple[int, ...], period: int) -> None:
    assert MEASURES[name].of(noise(2, 1, *size), period).isnan().all()


def test_measurable_from_four_periods_on() -> None:
    test = spectra.lattice_test(noise(1, 1, 16, 17), 4)
    assert test.window == (16, 16) and test.contrast.isfinite()
    nothing = spectra.lattice_test(noise(2, 1, 16, 15), 4)
    assert nothing.window == () and nothing.contrast.isnan().all() and nothing.p_value.isnan().all()


@pytest.mark.parametrize("name", TWO_PERIODS)
def test_not_measurable_below_two_periods(name: str) -> None:
    assert MEASURES[name].of(noise(2, 1, 64, 15), 8).isnan().all()
    if name != "imbalance":
        assert MEASURES[name].of(noise(2, 1, 64, 16), 8).isfinite().all()


def test_debiasing_needs_two_neighbourhoods() -> None:
    assert spectra.phase_imbalance(noise(1, 1, 31, 31), 2).isnan()
    assert spectra.phase_imbalance(noise(1, 1, 31, 32), 2).isfinite()


@pytest.mark.parametrize(
    ("side", "period", "window", "length"),
    [(100, 2, 32, 32), (100, 3, 32, 30), (100, 5, 32, 30), (100, 16, 32, 64), (28, 2, 32, 28), (29, 4, 32, 28),
     (100, 2, 50, 50), (100, 4, 9, 16), (200, 32, 32, 128)],
)  # fmt: skip
def test_window_length(side: int, period: int, window: int, length: int) -> None:
    assert spectra.lattice_test(noise(1, 1, side, side), period, window=window).window == (length, length)


def test_untested_axis_takes_the_window_that_fits() -> None:
    assert spectra.lattice_test(noise(1, 1, 20, 40), (1, 3)).window == (20, 30)
    assert spectra.lattice_test(noise(1, 1, 50, 40), (1, 3)).window == (32, 30)


def test_an_axis_of_one_pixel_is_measurable_where_it_is_not_tested() -> None:
    """A signal along one axis may come as an image of one column: every measure gives it a number."""
    x = noise(1, 1, 64, 1)
    flat = x[..., 0]
    assert spectra.lattice_test(x, (4, 1)).contrast.isfinite()
    assert spectra.lattice_share(x, (4, 1)).item() == pytest.approx(spectra.lattice_share(flat, 4).item(), rel=1e-12)
    assert spectra.phase_imbalance(x, (4, 1)).item() == pytest.approx(spectra.phase_imbalance(flat, 4).item())


def test_set_imbalance() -> None:
    common = spectra.phase_energy(noise(200, 1, 32, 32) * (1 + one_phase((32, 32), (2, 2))), 2)
    none = spectra.phase_energy(noise(200, 1, 32, 32), 2)
    # one phase of four with 4 times the energy: e = (16, 4, 4, 4) / 7, coefficient of variation 3 sqrt(3) / 7
    assert spectra.set_imbalance(common).item() == pytest.approx(3 * sqrt(3) / 7, rel=0.02)
    assert abs(spectra.set_imbalance(none)) < 0.03
    assert spectra.set_imbalance(common[:1]).isnan()
    assert spectra.set_imbalance_test(common)[1] == 1 / 1001
    assert spectra.set_imbalance_test(none)[1] > 0.05
    assert spectra.set_imbalance_test(none)[0] > spectra.set_imbalance(none)
    assert all(isnan(value) for value in spectra.set_imbalance_test(common[:1]))
    assert spectra.phase_ratio(common).item() == pytest.approx(4, rel=0.1)
    assert spectra.phase_ratio(torch.tensor([[0.0, 2.0]])).item() == float("inf")


def test_p_of_set_imbalance_is_uniform() -> None:
    energies = spectra.phase_energy(noise(30 * 12, 1, 32, 32), 4).view(30, 12, 4, 4)
    tests = [spectra.set_imbalance_test(energy, seed=seed) for seed, energy in enumerate(energies)]
    p = torch.tensor([p_value for _, p_value in tests])
    assert 0.25 < (p <= 0.5).double().mean() < 0.75  # 30 sets: three binomial errors
    assert (p <= 0.05).double().mean() < 0.15
    for energy, (floor, p_value) in zip(energies, tests, strict=True):
        if abs(p_value - 0.05) > 0.002:
            assert (spectra.set_imbalance(energy) > floor) == (p_value < 0.05)


@pytest.mark.parametrize("size", [(300,), (75, 130), (17, 20, 16)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("window", [8, 16])
def test_strips_of_a_large_image_are_its_whole(
    size: tuple[int, ...], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each strip holds one row of windows, at places where their phases must be turned too."""
    x = noise(2, 3, *size)

    def measured() -> list[Tensor]:
        test = spectra.lattice_test(x, 2, window=window)
        return [test.contrast, test.p_value.nan_to_num(), spectra.power_spectrum(x, size=window)]

    whole = measured()
    monkeypatch.setattr(power, "WINDOWED_VALUES", (1, 1))
    torch.testing.assert_close(measured(), whole, rtol=1e-9, atol=1e-9)
