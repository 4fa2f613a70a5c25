"""Fine detail: what the blur keeps is gone, exactly as its transfer function says, on any number of axes."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch

from gradlens.spectra import fine_detail, lattice_contrast
from tests.spectra.measures import checkerboard, noise, one_phase


@pytest.mark.parametrize("size", [(40,), (24, 40), (12, 16, 20)])
def test_a_wave_keeps_what_the_transfer_function_says(size: tuple[int, ...]) -> None:
    turns = (3,) * len(size)
    steps = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in size], indexing="ij")
    x = torch.ones(size, dtype=torch.float64)
    kept = 1.0
    for step, turn, side in zip(steps, turns, size, strict=True):
        x = x * (2 * pi * turn * step / side).cos()
        kept *= cos(pi * turn / side) ** 2
    inside = (..., *[slice(2, -2)] * len(size))
    torch.testing.assert_close(fine_detail(x[None, None])[inside], (1 - kept) ** 2 * x[None, None][inside])


def test_a_checkerboard_passes_whole_and_a_constant_not_at_all() -> None:
    board = checkerboard(12, 10)[None, None]
    assert torch.equal(fine_detail(board), board)
    assert fine_detail(torch.full((1, 3, 7, 5), 0.7)).abs().max() < 1e-15


def test_is_linear_and_keeps_images_and_channels_apart() -> None:
    x = noise(3, 2, 9, 14)
    torch.testing.assert_close(fine_detail(2 * x + 1), 2 * fine_detail(x))
    for image in range(3):
        for channel in range(2):
            alone = fine_detail(x[image, channel][None, None])[0, 0]
            torch.testing.assert_close(fine_detail(x)[image, channel], alone)


def test_is_a_plain_loop() -> None:
    x = noise(1, 1, 5, 6)

    def without_blur(x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape
        result = x.clone()
        mirror = lambda i, n: -i if i < 0 else 2 * (n - 1) - i if i >= n else i  # noqa: E731
        for i in range(rows):
            for j in range(columns):
                for di, a in ((-1, 0.25), (0, 0.5), (1, 0.25)):
                    for dj, b in ((-1, 0.25), (0, 0.5), (1, 0.25)):
                        result[i, j] -= a * b * x[mirror(i + di, rows), mirror(j + dj, columns)]
        return result

    torch.testing.assert_close(fine_detail(x)[0, 0], without_blur(without_blur(x[0, 0])))


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_pictures(side: int) -> None:
    assert fine_detail(torch.rand(1, 1, side, side)).isfinite().all()


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(fine_detail, noise(1, 2, 4, 5).requires_grad_())


def test_shade_no_longer_hides_uneven_noise() -> None:
    """Faint noise in a shaded picture, three times as strong on one pixel in 4 x 4: the picture's own envelope is blind."""
    along = torch.linspace(0, 5, 128, dtype=torch.float64).cos()
    strength = 1 + 2 * one_phase((128, 128), (4, 4))
    x = 0.5 + 0.3 * along * along[:, None] + 0.01 * strength * noise(8, 1, 128, 128)
    drowned = lattice_contrast(x, 4, kind="envelope").mean()
    seen = lattice_contrast(fine_detail(x), 4, kind="envelope").mean()
    assert abs(drowned) < 0.5 and seen > 8  # measured 0.0 and 9.6
