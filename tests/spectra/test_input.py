"""What is refused, in which words; what is accepted; what a call leaves behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlens import spectra
from gradlens.spectra import grid, signal, significance
from tests.spectra.measures import MEASURES, noise

CALLS: dict[str, Callable[[Tensor], object]] = {
    "power_spectrum": spectra.power_spectrum,
    "radial_profile": spectra.radial_profile,
    "lattice_contrast": lambda x: spectra.lattice_contrast(x, 2),
    "lattice_lines": lambda x: spectra.lattice_lines(x, 2),
    "lattice_map": lambda x: spectra.lattice_map(x, 2),
    "lattice_test": lambda x: spectra.lattice_test(x, 2),
    "lattice_tests": lambda x: spectra.lattice_tests(x, (2, 4)),
    "lattice_contrasts": lambda x: spectra.lattice_contrasts(x, (2, 4)),
    "lattice_share": lambda x: spectra.lattice_share(x, 2),
    "phase_energy": lambda x: spectra.phase_energy(x, 2),
    "phase_imbalance": lambda x: spectra.phase_imbalance(x, 2),
    "plain phase_imbalance": lambda x: spectra.phase_imbalance(x, 2, debias=False),
    "notch": lambda x: spectra.notch(x, 2),
    "lowpass": lambda x: spectra.lowpass(x, 0.25),
    "even_phases": lambda x: spectra.even_phases(x, 2),
    "lattice_loss": lambda x: spectra.lattice_loss(x, 2),
    "spectrum_distance": lambda x: spectra.spectrum_distance(x, x),
}
WITH_PERIOD: dict[str, Callable[[Tensor, object], object]] = {
    "lattice_contrast": spectra.lattice_contrast,
    "lattice_lines": spectra.lattice_lines,
    "lattice_map": spectra.lattice_map,
    "lattice_test": spectra.lattice_test,
    "lattice_test also": lambda x, period: spectra.lattice_test(x, 2, also=(period,)),
    "lattice_share": spectra.lattice_share,
    "phase_energy": spectra.phase_energy,
    "phase_imbalance": spectra.phase_imbalance,
    "notch": lambda x, period: spectra.notch(x, [period]),
    "even_phases": spectra.even_phases,
    "lattice_loss": spectra.lattice_loss,
    "lattice_share_floor": lambda x, period: spectra.lattice_share_floor(x.shape[2:], period),
    "phase_imbalance_floor": lambda x, period: spectra.phase_imbalance_floor(tuple(x.shape[1:]), period),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
with_period = pytest.mark.parametrize("call", WITH_PERIOD.values(), ids=WITH_PERIOD.keys())


@calls
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_image(call: Callable[[Tensor], object], bad: float) -> None:
    x = noise(4, 3, 32, 32, dtype=torch.float32)
    x[2, 1, 5, 7] = bad
    with pytest.raises(ValueError, match="image 2 "):
        call(x)


@calls
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.bool), TypeError, "bool"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.complex64), TypeError, "complex64"),
        (np.zeros((1, 3, 32, 32)), TypeError, "ndarray"),
        ([[[[0.0]]]], TypeError, "list"),
        (torch.zeros(32, 32), ValueError, r"\[32, 32\]"),
        (torch.zeros(1, 1, 8, 8, 8, 8), ValueError, r"\[1, 1, 8, 8, 8, 8\]"),
        (torch.zeros(1, 0, 32, 32), ValueError, r"\[1, 0, 32, 32\]"),
        (torch.zeros(1, 1, 32, 0), ValueError, r"\[1, 1, 32, 0\]"),
    ],
    ids=["uint8", "int64", "bool", "complex", "numpy", "list", "2-D", "6-D", "no channel", "no pixel"],
)
def test_what_is_no_signal_is_refused(
    call: Callable[[object], object], x: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(x)


@with_period
@pytest.mark.parametrize("period", [2.5, None, "two", True, (2, 2.5), (2, "4")], ids=repr)
def test_a_period_is_an_integer(call: Callable[[Tensor, object], object], period: object) -> None:
    with pytest.raises(TypeError) as raised:
        call(noise(1, 1, 32, 32), period)
    assert "period" in str(raised.value) and repr(period) in str(raised.value)


@with_period
@pytest.mark.parametrize("period", [0, 1, -2, (1, 1), (0, 2), (2,), (2, 2, 2), ()], ids=repr)
def test_a_period_fits_the_axes(call: Callable[[Tensor, object], object], period: object) -> None:
    with pytest.raises(ValueError) as raised:
        call(noise(1, 1, 32, 32), period)
    assert "period" in str(raised.value) and repr(period) in str(raised.value)


@with_period
def test_a_period_may_be_any_sequence(call: Callable[[Tensor, object], object]) -> None:
    x = noise(1, 1, 32, 32)
    assert repr(call(x, [2, 4])) == repr(call(x, (2, 4)))


def test_other_arguments_carry_their_value() -> None:
    x = noise(1, 1, 32, 32)
    for measure in (spectra.lattice_contrast, spectra.lattice_test, spectra.lattice_share, spectra.lattice_map):
        with pytest.raises(ValueError, match="'energy'"):
            measure(x, 2, kind="energy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'hamming'"):
        spectra.power_spectrum(x, window="hamming")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-3"):
        spectra.lattice_contrast(x, 2, window=-3)
    with pytest.raises(ValueError, match="0"):
        spectra.power_spectrum(x, size=0)
    with pytest.raises(ValueError, match="0"):
        spectra.radial_profile(x, bins=0)
    with pytest.raises(ValueError, match="15 x 16"):
        spectra.lattice_loss(noise(1, 1, 15, 16), 8)
    with pytest.raises(ValueError, match=r"\[1, 32, 31\]"):
        spectra.spectrum_distance(x, x[..., 1:])
    with pytest.raises(ValueError, match=r"\[4\]"):
        spectra.set_imbalance(torch.ones(4))


def test_a_kind_is_refused_also_where_nothing_is_measurable() -> None:
    for measure in (spectra.lattice_contrast, spectra.lattice_test, spectra.lattice_share, spectra.lattice_lines):
        with pytest.raises(ValueError, match="'energy'"):
            measure(noise(1, 1, 3, 3), 2, kind="energy")  # type: ignore[arg-type]


def test_a_refused_window_does_not_spoil_the_next_call() -> None:
    """32.0 == 32: a cache must not hand the one's plan to the other."""
    x = noise(1, 1, 64, 64)
    grid.plan.cache_clear()
    try:
        with pytest.raises((TypeError, ValueError)):
            spectra.lattice_contrast(x, 2, window=32.0)  # type: ignore[arg-type]
        assert spectra.lattice_contrast(x, 2).isfinite().all()
    finally:
        grid.plan.cache_clear()


@calls
def test_a_call_leaves_everything_as_it_was(call: Callable[[Tensor], object]) -> None:
    x = noise(2, 1, 32, 32).requires_grad_()
    before, state = x.detach().clone(), torch.get_rng_state()
    call(x)
    assert torch.equal(x.detach(), before) and x.requires_grad and x.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shape", [(3, 36, 36), (1, 64), (1, 7, 7)], ids=str)
def test_an_empty_batch_has_no_values(name: str, shape: tuple[int, ...]) -> None:
    full = MEASURES[name].of(noise(1, *shape), 2)
    assert MEASURES[name].of(torch.zeros(0, *shape), 2).shape == (0, *full.shape[1:])


# A device without float64


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    signal._say_fallback.cache_clear()


@pytest.mark.filterwarnings("ignore:cpu has no float64")
@pytest.mark.parametrize("name", MEASURES)
def test_without_float64(name: str, request: pytest.FixtureRequest) -> None:
    x = noise(2, 2, 36, 36, dtype=torch.float32)
    expected = MEASURES[name].of(x, 2)
    request.getfixturevalue("without_float64")
    value = MEASURES[name].of(x, 2)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.usefixtures("without_float64")
def test_the_fallback_is_said_once() -> None:
    x = noise(2, 2, 36, 36, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for call in CALLS.values():
            call(x)
    assert [str(warning.message) for warning in said] == ["cpu has no float64: gradlens.spectra computes on the CPU"]


# Several periods


@pytest.mark.parametrize("kind", ["signed", "envelope"])
@pytest.mark.parametrize("side", [40, 64, 140])
def test_several_periods_agree_with_each_alone(kind: str, side: int) -> None:
    x = noise(2, 2, side, side)
    periods = (2, 3, 4, 5, 6, 8, 16, 32)
    together = spectra.lattice_tests(x, periods, kind=kind)
    assert tuple(together) == periods
    for period, test in together.items():
        others = tuple(other for other in periods if other != period)
        alone = spectra.lattice_test(x, period, kind=kind, also=others)
        assert test.window == alone.window
        torch.testing.assert_close(test.contrast, alone.contrast, rtol=0, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(test.p_value, alone.p_value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("side", [40, 64, 140])
def test_several_contrasts_agree_with_each_alone(side: int) -> None:
    x = noise(2, 2, side, side)
    together = spectra.lattice_contrasts(x, (2, 3, 4, 5, 8, 16, 32))
    assert list(together) == [(kind, period) for kind in ("signed", "envelope") for period in (2, 3, 4, 5, 8, 16, 32)]
    for (kind, period), contrast in together.items():
        alone = spectra.lattice_contrast(x, period, kind=kind)
        torch.testing.assert_close(contrast, alone, rtol=0, atol=1e-12, equal_nan=True)  # sums in another order
    assert list(spectra.lattice_contrasts(x, (2,), kinds=("envelope",))) == [("envelope", 2)]


def test_what_is_said_to_be_finite_is_not_looked_at() -> None:
    x = noise(3, 1, 32, 32)
    x[1, 0, 3, 4] = float("nan")
    contrast = spectra.lattice_contrasts(spectra.fine_detail(x, finite=True), (2,), finite=True)["signed", 2]
    assert contrast.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("periods", "kind", "expected"),
    [
        ((2, 4, 8), "signed", [(32, 32)]),
        ((2, 3, 4, 5, 6), "signed", [(32, 32), (30, 30)]),
        ((2, 4, 16), "envelope", [(32, 32), (64, 64)]),
        ((3, 5), "envelope", [(30, 30), (30, 30)]),  # surroundings of 18 and of 20 px: two envelopes
    ],
)
def test_one_transform_serves_all_periods_with_a_window(
    monkeypatch: pytest.MonkeyPatch, periods: tuple[int, ...], kind: str, expected: list[tuple[int, int]]
) -> None:
    seen: list[tuple[int, ...]] = []
    short_time = significance.short_time

    def counted(x: Tensor, lengths: tuple[int, ...], *, pseudo: bool, by_window: bool = False) -> object:
        seen.append(lengths)
        return short_time(x, lengths, pseudo=pseudo, by_window=by_window)

    monkeypatch.setattr(significance, "short_time", counted)
    spectra.lattice_tests(noise(1, 1, 64, 64), periods, kind=kind)
    assert seen == expected
