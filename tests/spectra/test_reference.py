"""Every measure against its slow reference, written from the definitions alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlens import spectra
from gradlens.spectra.covariance import stretch
from gradlens.spectra.grid import Plan, plan, window_lengths
from gradlens.spectra.power import short_time
from gradlens.spectra.significance import _excesses
from tests import reference
from tests.spectra.measures import noise, planted

TOLERANCE = 1e-6  # dB: log(P - Re Q) of a nearly real bin loses digits; every other step agrees to 1e-13
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "1 axis, 2": ((2, 70), (2,)),
    "1 axis, 4": ((1, 64), (4,)),
    "1 axis, 7": ((1, 100), (7,)),
    "square, 2": ((3, 32, 32), (2, 2)),
    "small, 2": ((1, 28, 28), (2, 2)),
    "smallest, 2": ((2, 9, 8), (2, 2)),
    "oblong, 3": ((1, 36, 45), (3, 3)),
    "4": ((1, 47, 33), (4, 4)),
    "5": ((1, 40, 40), (5, 5)),
    "6": ((2, 33, 47), (6, 6)),
    "8": ((1, 32, 39), (8, 8)),
    "2 by 4": ((2, 40, 30), (2, 4)),
    "2 by 3": ((1, 40, 31), (2, 3)),
    "rows alone": ((1, 40, 20), (1, 3)),
    "3 axes, 2": ((1, 8, 9, 8), (2, 2, 2)),
    "3 axes, 4 by 2 by 1": ((1, 16, 9, 7), (4, 2, 1)),
}
cases = pytest.mark.parametrize(("shape", "periods"), CASES.values(), ids=CASES.keys())
kinds = pytest.mark.parametrize("kind", ["signed", "envelope"])


def images(shape: tuple[int, ...], periods: tuple[int, ...]) -> Tensor:
    """Noise with a mean and with a lattice of a size that any slip would show."""
    return planted("sign", 1.0, planted("energy", 0.5, noise(2, *shape), max(periods)), max(periods)) + 0.3


def each(of: Callable[..., object], x: Tensor, *args: object, **options: object) -> np.ndarray:
    return np.array([of(image, *args, **options) for image in x.numpy()])


@cases
@kinds
def test_contrast_and_lines(shape: tuple[int, ...], periods: tuple[int, ...], kind: str) -> None:
    x = images(shape, periods)
    expected = each(reference.lattice_contrast, x, periods, kind=kind)
    assert spectra.lattice_contrast(x, periods, kind=kind).numpy() == pytest.approx(expected, abs=TOLERANCE)
    assert spectra.lattice_test(x, periods, kind=kind).contrast.numpy() == pytest.approx(expected, abs=TOLERANCE)
    lines = each(reference.lattice_lines, x, periods, kind=kind)
    np.testing.assert_allclose(spectra.lattice_lines(x, periods, kind=kind), lines, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "periods"), [((1, 70, 45), (2, 2)), ((2, 40), (4,)), ((1, 20, 31), (3, 3))])
@kinds
def test_map(shape: tuple[int, ...], periods: tuple[int, ...], kind: str) -> None:
    x = images(shape, periods)
    expected = each(reference.lattice_map, x, periods, kind=kind)
    np.testing.assert_allclose(spectra.lattice_map(x, periods, kind=kind), expected, rtol=0, atol=TOLERANCE)


def test_lines_where_the_null_is_a_sample() -> None:
    """T = 16 has more than 600 null bins; a pool's mean is the same for all its lines, so their differences stand."""
    x = images((1, 70, 64), (16, 16))
    ours = spectra.lattice_lines(x, 16)[0].numpy()
    theirs = reference.lattice_lines(x[0].numpy(), (16, 16))
    for lines in (np.s_[1::2, 1:], np.s_[0, 1::2], np.s_[1::2, 0]):
        spread = (ours - theirs)[lines] - (ours - theirs)[lines].mean()
        assert np.abs(spread).max() < 1e-9
        assert abs((ours - theirs)[lines].mean()) < 0.8  # 5.6 dB of a log-exponential over sqrt(600), thrice


@pytest.mark.parametrize(
    ("period", "also"),
    [
        (2, ((4, 4), (8, 8))),
        (4, ((2, 2), (8, 8))),
        (3, ((2, 2), (5, 5))),
        (2, ((3, 3),)),
        (4, ((16, 16),)),
        (2, ((1, 6),)),
    ],
)
def test_also(period: int, also: tuple[tuple[int, int], ...]) -> None:
    x = images((1, 48, 40), (period, period))
    expected = each(reference.lattice_contrast, x, (period, period), also=also)
    assert spectra.lattice_test(x, period, also=also).contrast.numpy() == pytest.approx(expected, abs=TOLERANCE)


def ready_for(shape: tuple[int, ...], periods: tuple[int, ...], kind: str) -> Plan:
    lengths = window_lengths(shape[1:], periods, 32)
    assert lengths is not None
    found = plan(lengths, periods, (), reference.box_of(kind, periods), torch.device("cpu"))
    assert found is not None
    return found


def white_stretch(shape: tuple[int, ...], periods: tuple[int, ...], kind: str) -> float:
    return stretch(ready_for(shape, periods, kind), shape[1:], 1 if kind == "envelope" else shape[0])


STRETCHED = {
    "3 axes, 2": ((1, 8, 9, 8), (2, 2, 2)),
    "28 px, 2": ((1, 28, 28), (2, 2)),
    "28 px, 3": ((3, 28, 28), (3, 3)),
    "6": ((1, 33, 47), (6, 6)),
    "many windows, 4": ((3, 60, 96), (4, 4)),
    "8": ((1, 32, 32), (8, 8)),
    "16": ((1, 64, 64), (16, 16)),
    "2 by 4": ((2, 40, 30), (2, 4)),
}


@pytest.mark.parametrize(("shape", "periods"), STRETCHED.values(), ids=STRETCHED.keys())
def test_stretch_is_that_of_simulated_white_noise(shape: tuple[int, ...], periods: tuple[int, ...]) -> None:
    """1,500 images: the ratio of two standard deviations has an error of 2 %; four times that is allowed."""
    ready = ready_for(shape, periods, "signed")
    spectrum = short_time(noise(1500, *shape), ready.lengths, pseudo=ready.needs_pseudo)
    groups = [(excess.shape[-1], excess, null) for excess, null in _excesses(spectrum, ready)]
    statistic = sum((excess - null.mean(-1, keepdim=True)).sum(-1) for _, excess, null in groups)
    drawn = sum(n * null.var(-1, correction=0).mean() for n, _, null in groups)
    assert isinstance(statistic, Tensor)
    assert white_stretch(shape, periods, "signed") == pytest.approx((statistic.var() / drawn).sqrt().item(), rel=0.08)


@cases
@kinds
def test_p_value(shape: tuple[int, ...], periods: tuple[int, ...], kind: str) -> None:
    x = noise(2, *shape, seed=5)
    if len(shape) == 2:
        assert spectra.lattice_test(x, periods, kind=kind).p_value.isnan().all()  # fewer than 30 null bins
        return
    expected = each(reference.lattice_p_value, x, periods, kind=kind, stretch=white_stretch(shape, periods, kind))
    # 4,000 draws on one side and 20,000 on the other: an error of 0.009 at most, four times that is allowed
    assert spectra.lattice_test(x, periods, kind=kind).p_value.numpy() == pytest.approx(expected, abs=0.035)


@cases
@kinds
@pytest.mark.parametrize("new", [False, True])
def test_share(shape: tuple[int, ...], periods: tuple[int, ...], kind: str, new: bool) -> None:
    x = images(shape, periods)
    expected = each(reference.lattice_share, x, periods, kind=kind, new=new)
    assert spectra.lattice_share(x, periods, kind=kind, new=new).numpy() == pytest.approx(expected, rel=1e-9)


@cases
def test_phases(shape: tuple[int, ...], periods: tuple[int, ...]) -> None:
    x = images(shape, periods)
    energy = spectra.phase_energy(x, periods)
    np.testing.assert_allclose(energy, each(reference.phase_energy, x, periods), rtol=1e-10)
    for debias in (False, True):
        expected = each(reference.phase_imbalance, x, periods, debias=debias)
        actual = spectra.phase_imbalance(x, periods, debias=debias)
        np.testing.assert_allclose(actual, expected, rtol=1e-9)
    assert spectra.set_imbalance(energy).item() == pytest.approx(reference.set_imbalance(energy.numpy()), rel=1e-9)


def test_phases_pass_over_empty_neighbourhoods() -> None:
    x = noise(2, 1, 64, 48)
    x[..., :20, :] = 0
    np.testing.assert_allclose(spectra.phase_energy(x, 4), each(reference.phase_energy, x, (4, 4)), rtol=1e-10)
    imbalance = each(reference.phase_imbalance, x, (4, 4))
    np.testing.assert_allclose(spectra.phase_imbalance(x, 4), imbalance, rtol=1e-9)
    share = each(reference.lattice_share, x, (4, 4), kind="envelope")
    np.testing.assert_allclose(spectra.lattice_share(x, 4, kind="envelope"), share, rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 40), (2, 24, 17), (1, 9, 8, 7)])
@pytest.mark.parametrize("window", ["hann", "none"])
@pytest.mark.parametrize("size", [None, 8, 5, 2, 100])
def test_power_spectrum(shape: tuple[int, ...], window: str, size: int | None) -> None:
    x = noise(2, *shape) + 0.5
    expected = each(reference.power_spectrum, x, window=window, size=size)
    np.testing.assert_allclose(spectra.power_spectrum(x, window=window, size=size), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 40), (2, 24, 17), (1, 9, 8, 7)])
@pytest.mark.parametrize("bins", [None, 3, 7])
def test_radial_profile(shape: tuple[int, ...], bins: int | None) -> None:
    x = noise(2, *shape) + 0.5
    profile = spectra.radial_profile(x, bins=bins)
    for image, power in zip(x.numpy(), profile.power, strict=True):
        frequency, expected = reference.radial_profile(image, bins=bins)
        np.testing.assert_allclose(profile.frequency, frequency, rtol=1e-12)
        np.testing.assert_allclose(power, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "periods", [((2, 2),), ((2, 2), (3, 3)), ((2, 4),), ((4, 4), (6, 6)), ((1, 3), (4, 1))], ids=str
)
def test_notch(periods: tuple[tuple[int, int], ...]) -> None:
    x = noise(2, 2, 24, 12) + 0.5
    expected = each(reference.notch, x, periods)
    np.testing.assert_allclose(spectra.notch(x, periods), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 24), (1, 16, 13), (2, 6, 8, 7)])
def test_losses(shape: tuple[int, ...]) -> None:
    x, y = noise(3, *shape) + 0.5, 3 * noise(2, *shape, seed=1).cumsum(-1)
    expected = reference.spectrum_distance(x.numpy(), y.numpy())
    assert spectra.spectrum_distance(x, y).item() == pytest.approx(expected, rel=1e-9)
    for period in (2, 3):
        expected = reference.lattice_loss(x.numpy(), (period,) * (len(shape) - 1))
        assert spectra.lattice_loss(x, period).item() == pytest.approx(expected, rel=1e-9)  # 1e-12 in the denominator


def test_reference_counts_harmonics_by_hand() -> None:
    """The reference's own ground: lists short enough to write out."""
    assert reference.new_harmonics((2, 2)) == [(0, 1), (1, 0), (1, 1)]
    assert reference.new_harmonics((4,)) == [(1,), (3,)]
    assert reference.new_harmonics((1, 3)) == [(0, 1), (0, 2)]
    assert reference.new_harmonics((2, 4)) == [(0, 1), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert reference.window_starts(70, 32) == [0, 13, 25, 38]
    assert torch.tensor(reference.hann(4)).tolist() == pytest.approx([0, 0.5, 1, 0.5])
    assert reference.taps(16)[-8] == reference.taps(16)[8] == 1 / 32 and len(reference.taps(18)) == 19
    assert [reference.reflect(n, 4) for n in range(-4, 8)] == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
