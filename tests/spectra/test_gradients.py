"""Gradients: right in float64, finite where a value is defined by convention, free of what ran before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from gradlens import spectra
from gradlens.spectra import grid
from tests.spectra.measures import MEASURES, noise, planted

DIFFERENTIABLE = [name for name in MEASURES if MEASURES[name].differentiable]
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "power_spectrum": lambda x: spectra.power_spectrum(x, size=4),
    "power_spectrum without window": lambda x: spectra.power_spectrum(x, window="none"),
    "radial_profile": lambda x: spectra.radial_profile(x).power,
    "notch": lambda x: spectra.notch(x, 2),
    "lowpass": lambda x: spectra.lowpass(x, 0.3),
    "even_phases": lambda x: spectra.even_phases(x, 2),
    "notch of two periods": lambda x: spectra.notch(x, (2, 3)),
    "lattice_loss": lambda x: spectra.lattice_loss(x, 2),
    "spectrum_distance": lambda x: spectra.spectrum_distance(x, noise(2, 1, *x.shape[2:], seed=1).cumsum(-1)),
    "spectrum_distance of the second": lambda x: spectra.spectrum_distance(
        noise(2, 1, *x.shape[2:], seed=1).cumsum(-1), x
    ),
}
SIZES: dict[str, tuple[tuple[int, ...], int]] = {
    "one axis": ((37,), 2),
    "one axis, period 3": ((37,), 3),
    "two axes": ((8, 18), 2),
}
sizes = pytest.mark.parametrize(("size", "period"), SIZES.values(), ids=SIZES.keys())


def defined(value: Tensor) -> Tensor:
    return value[~value.isnan()]


@sizes
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_measures(name: str, size: tuple[int, ...], period: int) -> None:
    if name == "imbalance" and len(size) == 2:
        size = (8, 32)  # two neighbourhoods
    x = planted("energy", 1, noise(1, 1, *size), period).requires_grad_()
    value = defined(MEASURES[name].of(x, period))
    assert value.numel() and value.requires_grad
    assert gradcheck(lambda x: defined(MEASURES[name].of(x, period)), x)


@pytest.mark.parametrize("size", [(14,), (7, 8), (4, 4, 5)], ids=str)
@pytest.mark.parametrize("of", OTHERS.values(), ids=OTHERS.keys())
def test_spectra_notch_and_losses(of: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> None:
    assert gradcheck(lambda x: defined(of(x)), noise(1, 1, *size).requires_grad_())


@pytest.mark.parametrize("level", [0.0, 0.1])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_finite_at_a_constant(name: str, level: float) -> None:
    x = torch.full((1, 2, 33, 36), level, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(defined(MEASURES[name].of(x, 2)).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 0.1])
@pytest.mark.parametrize("of", OTHERS.values(), ids=OTHERS.keys())
def test_others_are_finite_at_a_constant(of: Callable[[Tensor], Tensor], level: float) -> None:
    x = torch.full((1, 1, 12, 12), level, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(defined(of(x)).sum(), x)
    assert gradient.isfinite().all()


def test_spectrum_distance_at_its_minimum() -> None:
    x = noise(2, 1, 12, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(spectra.spectrum_distance(x, x.detach().clone()), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_after_inference_mode(name: str) -> None:
    """What is kept from a call without gradients serves one with them."""
    x = noise(1, 1, 36, 36).requires_grad_()
    grid.plan.cache_clear()
    try:
        with torch.inference_mode():
            MEASURES[name].of(noise(1, 1, 36, 36), 2)
        (gradient,) = torch.autograd.grad(defined(MEASURES[name].of(x, 2)).sum(), x)
    finally:
        grid.plan.cache_clear()
    assert gradient.isfinite().all()


def test_the_test_has_no_gradient() -> None:
    test = spectra.lattice_test(noise(1, 1, 32, 32).requires_grad_(), 2)
    assert not test.contrast.requires_grad and not test.p_value.requires_grad


@pytest.mark.parametrize("period", [2, 3])
def test_descent_removes_the_lattice(period: int) -> None:
    x = planted("sign", 1, noise(1, 1, 24, 24), period).requires_grad_()
    before = spectra.lattice_share(x, period)
    for _ in range(20):
        (gradient,) = torch.autograd.grad(spectra.lattice_loss(x, period), x)
        x = (x - 2 * gradient / gradient.norm()).detach().requires_grad_() if gradient.norm() > 1e-3 else x
    assert spectra.lattice_share(x, period) < 0.3 * before
