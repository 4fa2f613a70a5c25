"""The statistics of a stream are the measures of its images; means weigh every image the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from gradlens import spectra
from gradlens.spectra import LatticeStatistics, LatticeStream, lattice_statistics
from gradlens.spectra.statistics import GROUPS, KINDS

PERIODS = (2, 3, 4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGES = noise(5, 3, 36, 48)


@pytest.fixture(scope="module")
def whole() -> LatticeStatistics:
    return lattice_statistics(IMAGES, PERIODS)


def same(a: Tensor, b: Tensor) -> None:
    """Equal up to the rounding of sums in another order; NaN equals NaN."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)


def assert_same(found: LatticeStatistics, expected: LatticeStatistics) -> None:
    for field in fields(LatticeStatistics):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, Tensor):
            same(a, b)
        elif not isinstance(b, dict) or field.name in ("window", "share_floor"):
            assert a == b, field.name
        else:
            assert list(a) == list(b), field.name
            for key in b:
                same(a[key], b[key])


def streamed(batches: Iterable[Tensor], periods: tuple[int, ...] = PERIODS) -> LatticeStatistics:
    stream = LatticeStream(periods)
    for batch in batches:
        stream.update(batch)
    return stream.compute()


# Fields


def test_tests_and_shares_are_those_of_direct_calls(whole: LatticeStatistics) -> None:
    keys = [(kind, period) for kind in KINDS for period in PERIODS]
    assert list(whole.contrast) == list(whole.p_value) == list(whole.share) == keys
    for kind, period in keys:
        test = spectra.lattice_test(IMAGES, period, kind=kind, also=[p for p in PERIODS if p != period])
        same(whole.contrast[kind, period], test.contrast)
        same(whole.p_value[kind, period], test.p_value)
        same(whole.share[kind, period], spectra.lattice_share(IMAGES, period, kind=kind))
        assert whole.window[period] == test.window


def test_phases_are_those_of_direct_calls(whole: LatticeStatistics) -> None:
    for period in PERIODS:
        same(whole.imbalance[period], spectra.phase_imbalance(IMAGES, period))
        same(whole.energy[period], spectra.phase_energy(IMAGES, period))


def test_window_is_handed_on() -> None:
    found = lattice_statistics(IMAGES, (2,), window=16)
    same(found.contrast["signed", 2], spectra.lattice_contrast(IMAGES, 2, window=16))
    assert found.window[2] == (16, 16)


def test_shape_and_count(whole: LatticeStatistics) -> None:
    assert (whole.periods, whole.channels, whole.size, whole.count) == (PERIODS, 3, (36, 48), 5)


def test_means_are_over_images_of_unit_power(whole: LatticeStatistics) -> None:
    powers, energies = [], []
    for image in IMAGES:
        unit = (image / image.square().mean().sqrt())[None]
        powers.append(spectra.power_spectrum(unit, size=36)[0].sum(0))
        energies.append(unit[0].square().mean(0))
    same(whole.power, sum(powers) / 5)
    square = spectra.radial_profile(IMAGES[:, :, :36, :36])  # rings of a window of 36 px
    same(whole.frequency, square.frequency)
    frequency = torch.fft.fftfreq(36, dtype=torch.float64)
    ring = ((frequency[:, None].square() + frequency.square()).sqrt() * 36).long()
    ring[(frequency[:, None].square() + frequency.square()).sqrt() == 0.5] = 17
    for number, level in enumerate(whole.profile):
        same(level, whole.power[ring == number].mean())
    same(whole.relative_energy, sum(energies) / 5)
    assert whole.relative_energy.mean().item() == pytest.approx(1, rel=1e-12)


def test_spectrum_has_windows_of_at_most_128_pixels() -> None:
    large = noise(1, 1, 160, 132)
    found = lattice_statistics(large, (2,))
    assert found.power.shape == (128, 128)
    same(found.power, spectra.power_spectrum(large / large.square().mean().sqrt(), size=128)[0, 0])


@pytest.mark.parametrize("size", [(96,), (24, 32), (12, 14, 16)], ids=["1-D", "2-D", "3-D"])
def test_any_dimension(size: tuple[int, ...]) -> None:
    found = lattice_statistics(noise(2, 1, *size), (2,))
    assert found.energy[2].shape == (2, *[2] * len(size)) and found.relative_energy.shape == size


def test_period_that_does_not_fit_is_nan() -> None:
    found = lattice_statistics(noise(2, 1, 20, 20), (2, 16))
    assert found.contrast["signed", 2].isfinite().all() and found.window[16] == ()
    for value in (found.contrast["signed", 16], found.p_value["envelope", 16], found.share["signed", 16]):
        assert value.isnan().all()


# Weights of images


def test_scale_of_an_image_does_not_weigh(whole: LatticeStatistics) -> None:
    scale = torch.tensor([1e-30, 1e-3, 1.0, 1e6, 1e30], dtype=torch.float64).view(5, 1, 1, 1)
    assert_same(lattice_statistics(IMAGES * scale, PERIODS), whole)


def test_every_image_weighs_the_same_in_uneven_batches() -> None:
    one, two = noise(1, 1, 16, 16, seed=1), noise(1, 1, 16, 16, seed=2)
    parts = [one, torch.cat([two, two, two])]
    powers = [lattice_statistics(part, (2,)).power for part in parts]
    same(streamed(parts, (2,)).power, (powers[0] + 3 * powers[1]) / 4)


def test_image_without_energy_spoils_nothing() -> None:
    found = lattice_statistics(torch.cat([IMAGES[:1], torch.zeros_like(IMAGES[:1])]), (2,))
    for value in (found.power, found.profile, found.relative_energy, found.share["signed", 2], found.energy[2]):
        assert value.isfinite().all()
    same(found.power, lattice_statistics(IMAGES[:1], (2,)).power / 2)


def test_statistics_hold_no_graph() -> None:
    found = lattice_statistics(IMAGES[:1].clone().requires_grad_(), (2,))
    assert not found.power.requires_grad and not found.contrast["signed", 2].requires_grad


def test_statistics_are_float64_of_any_dtype() -> None:
    found = lattice_statistics(IMAGES.to(torch.bfloat16), (2,))
    expected = lattice_statistics(IMAGES.to(torch.bfloat16).float(), (2,))
    assert found.power.dtype is found.profile.dtype is found.contrast["signed", 2].dtype is torch.float64
    assert_same(found, expected)


# Streams


@pytest.mark.parametrize("sizes", [(5,), (1, 4), (2, 2, 1), (1, 1, 1, 1, 1), (0, 5)])
def test_batches_make_the_whole(sizes: tuple[int, ...], whole: LatticeStatistics) -> None:
    assert_same(streamed(IMAGES.split(sizes)), whole)


def test_order_of_images_is_kept(whole: LatticeStatistics) -> None:
    back = streamed([IMAGES[3:], IMAGES[:3]])
    same(back.contrast["signed", 2], whole.contrast["signed", 2].roll(2, 0))


def test_nothing_streamed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        LatticeStream((2,)).compute()


@pytest.mark.parametrize("shape", [(1, 36, 48), (3, 36), (3, 8, 36, 48)], ids=["channels", "1-D", "3-D"])
def test_images_of_other_channels_or_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"channels and axes of the first, \(3, 36, 48\), got"):
        streamed([IMAGES, noise(1, *shape)])


def test_sizes_may_differ(whole: LatticeStatistics) -> None:
    small, other = noise(2, 3, 6, 6, seed=1), noise(1, 3, 64, 40, seed=2)
    found = streamed([IMAGES, small, other])
    apart = [whole, lattice_statistics(small, PERIODS), lattice_statistics(other, PERIODS)]
    assert (found.count, found.size, found.window) == (8, (36, 48), whole.window)
    for field in ("contrast", "p_value", "share", "imbalance"):
        for key, value in getattr(found, field).items():
            same(value, torch.cat([getattr(part, field)[key] for part in apart]))
    assert found.contrast["signed", 4][5:7].isnan().all() and found.share["signed", 2][5:7].isfinite().all()
    for field in ("power", "profile", "relative_energy"):  # of the first size alone
        same(getattr(found, field), getattr(whole, field))
    same(found.energy[4], torch.cat([whole.energy[4], apart[2].energy[4]]))
    assert found.share_floor[4] == pytest.approx((5 * whole.share_floor[4] + apart[2].share_floor[4]) / 6)


def test_an_image_that_is_not_finite_is_counted_and_left_out(whole: LatticeStatistics) -> None:
    spoilt = noise(2, 3, 36, 48, seed=3)
    spoilt[0, 0, 0, 0], spoilt[1, 2, 5, 7] = float("nan"), float("inf")
    found = streamed([IMAGES[:2], spoilt, IMAGES[2:]])
    assert (found.count, found.skipped, found.first_skipped) == (7, 2, 2)
    assert (whole.skipped, whole.first_skipped) == (0, None)
    for key, value in found.contrast.items():
        assert value[2:4].isnan().all()
        same(torch.cat([value[:2], value[4:]]), whole.contrast[key])
    for field in ("power", "profile", "relative_energy"):
        same(getattr(found, field), getattr(whole, field))
    for period in PERIODS:
        same(found.energy[period], whole.energy[period])
        same(found.mean_energy[period], whole.energy[period].mean(0))


def test_phase_energies_beyond_the_groups_are_their_means() -> None:
    images = noise(GROUPS + 3, 1, 8, 8)
    found = streamed(images.split(100), (2,))
    own = spectra.phase_energy(images, 2)
    assert found.energy[2].shape == (GROUPS, 2, 2)
    same(found.energy[2][:3], (own[:3] + own[GROUPS:]) / 2)
    same(found.energy[2][3:], own[3:GROUPS])
    same(found.mean_energy[2], own.mean(0))


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.ones(1, 1, 8, 8, dtype=torch.uint8), TypeError),
        (torch.ones(8, 8), ValueError),
    ],
    ids=["uint8", "no batch"],
)
def test_what_is_no_signal_is_refused(x: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        lattice_statistics(x, (2,))
