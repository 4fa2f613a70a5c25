"""What de-grids: `lowpass` keeps a disc of frequencies, `even_phases` evens energy; both beside `notch`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch

from gradlens import spectra
from tests.spectra.measures import checkerboard, noise, one_phase, planted, wave

SIZES = pytest.mark.parametrize("size", [(40,), (31, 36), (6, 9, 8)], ids=str)


def kept_slowly(image: np.ndarray, cutoff: float) -> np.ndarray:
    """Frequency by frequency from the definition of the transform: those of the disc, added up again."""
    size = image.shape
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    result = np.zeros(size, complex)
    for bin in np.ndindex(*size):
        frequency = np.array(
            [(k if 2 * k <= extent else k - extent) / extent for k, extent in zip(bin, size, strict=True)]
        )
        if np.sqrt((frequency**2).sum()) <= cutoff + 1e-12:
            turn = np.exp(2j * np.pi * (places @ frequency))
            result += (image * turn.conj()).sum() * turn / prod(size)
    return result.real


@pytest.mark.parametrize("size", [(15,), (9, 10), (4, 5, 6)], ids=str)
@pytest.mark.parametrize("cutoff", [0.0, 0.21, 0.5, 0.6])
def test_lowpass_keeps_the_disc(size: tuple[int, ...], cutoff: float) -> None:
    x = noise(2, 2, *size) + 3
    expected = np.stack([[kept_slowly(channel, cutoff) for channel in image] for image in x.numpy()])
    np.testing.assert_allclose(spectra.lowpass(x, cutoff), expected, rtol=0, atol=1e-12)  # float64 sums


@SIZES
def test_lowpass_is_a_projection_that_keeps_the_mean(size: tuple[int, ...]) -> None:
    x = noise(2, 2, *size) + 3
    once = spectra.lowpass(x, 0.2)
    axes = tuple(range(2, x.ndim))
    torch.testing.assert_close(spectra.lowpass(once, 0.2), once, rtol=0, atol=1e-13)
    torch.testing.assert_close(once.mean(axes), x.mean(axes), rtol=0, atol=1e-13)
    inner = (once - once.mean(axes, keepdim=True)).mul(x - once).sum(axes)
    torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-10)  # a sum of 1,000 products
    torch.testing.assert_close(spectra.lowpass(x, len(size) ** 0.5 / 2), x, rtol=0, atol=1e-13)


def test_lowpass_counts_a_frequency_on_the_circle_whatever_its_digits() -> None:
    for side in (30, 48, 49, 224):
        x = wave((side, side), (side, side), (3, 4))[None, None]
        torch.testing.assert_close(spectra.lowpass(x, 5 / side), x, rtol=0, atol=1e-11)  # turns of up to 7 periods
        assert spectra.lowpass(x, 4.99 / side).abs().max() < 1e-11


def test_lowpass_of_a_constant_and_of_a_checkerboard_is_exact() -> None:
    assert (spectra.lowpass(torch.full((1, 1, 7, 10), 0.1), 0.3) == 0.1).all()
    assert (spectra.lowpass(checkerboard(8, 10)[None, None] + 0.5, 0.5) == 0.5).all()


@SIZES
def test_lowpass_leaves_no_lattice_below_its_period(size: tuple[int, ...]) -> None:
    x = planted("sign", 3, noise(2, 2, *(4 * side for side in size)), 4)
    assert (spectra.lattice_share(x, 4) > 0.1).all()
    assert (spectra.lattice_share(spectra.lowpass(x, 0.24), 4) < 1e-20).all()


@pytest.mark.parametrize(
    ("cutoff", "error", "words"),
    [
        (-0.1, ValueError, "cutoff: must be at least 0 cycles per pixel, got -0.1"),
        (float("nan"), ValueError, "cutoff: must be at least 0"),
        (float("inf"), ValueError, "cutoff: must be at least 0"),
        ("0.1", TypeError, "cutoff: must be a number"),
        (True, TypeError, "cutoff: must be a number"),
    ],
    ids=str,
)
def test_lowpass_names_a_wrong_cutoff(cutoff: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        spectra.lowpass(noise(1, 1, 8, 8), cutoff)  # type: ignore[arg-type]


@pytest.mark.parametrize("degrid", [lambda x: spectra.lowpass(x, 0.2), lambda x: spectra.even_phases(x, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shape_dtype_batch_and_scale(degrid: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    x = noise(3, 2, 34, 36, dtype=dtype)
    found = degrid(x)
    assert found.shape == x.shape and found.dtype == dtype
    assert torch.equal(degrid(x[1:2]), found[1:2])
    torch.testing.assert_close(degrid(-2 * x), -2 * found, rtol=0, atol=0 if dtype is torch.float64 else 1e-2)
    assert degrid(x[:0]).shape == (0, 2, 34, 36)


@pytest.mark.parametrize(("size", "period"), [((4096,), 4), ((256, 256), 2), ((250, 262), (2, 4)), ((64, 64, 64), 2)])
def test_even_phases_undoes_what_a_stride_did(size: tuple[int, ...], period: int | tuple[int, ...]) -> None:
    """White noise with its phases scaled: the factors come back, each known as well as the energy of its pixels."""
    periods = period if isinstance(period, tuple) else (period,) * len(size)
    content = noise(4, 3, *size)
    scale = 1 + 2 * one_phase(size, periods, 1) + 0.5 * one_phase(size, periods)
    evened = spectra.even_phases(content * scale, period)
    assert (spectra.phase_imbalance(content * scale, period) > 0.5).all()
    assert (spectra.phase_imbalance(evened, period, debias=False) < 0.1).all()
    ratio = (evened / content).flatten(2)
    assert (ratio.std(2) / ratio.mean(2)).max() < 0.06  # energies of at least 3,000 pixels are known to 3 %


def test_even_phases_leaves_even_ones_a_hole_and_a_sign_alone() -> None:
    sign = checkerboard(32, 32)[None, None]
    assert torch.equal(spectra.even_phases(sign, 2), sign)
    hole = noise(1, 2, 64, 64) * one_phase((64, 64), (2, 2))
    evened = spectra.even_phases(hole, 2)
    torch.testing.assert_close(evened, hole / 2)  # all energy on one of four
    assert torch.equal(spectra.even_phases(0 * sign, 2), 0 * sign)


def test_each_sees_the_other_family() -> None:
    """Notch removes a lattice of sign and no other; evening one of energy and no other."""
    content = noise(8, 3, 128, 128, seed=1)
    energy, sign = planted("energy", 1, content, 2), content + checkerboard(128, 128)

    def heights(x: torch.Tensor) -> tuple[float, float]:
        return (
            float(spectra.lattice_contrast(x, 2).mean()),
            float(spectra.lattice_contrast(x, 2, kind="envelope").mean()),
        )

    assert heights(spectra.notch(energy, 2))[1] > 10 > 1 > abs(heights(spectra.even_phases(energy, 2))[1])
    before, evened = heights(sign)[0], heights(spectra.even_phases(sign, 2))[0]
    assert before > 5 > 1 > heights(spectra.notch(sign, 2))[0]
    assert abs(evened - before) < 0.1  # energies of 12,288 values are known to 1 %, so factors are near 1


def test_even_phases_refuses_what_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"x: each side must hold two periods of \(4, 4\), got \[1, 1, 7, 9\]"):
        spectra.even_phases(noise(1, 1, 7, 9), 4)
