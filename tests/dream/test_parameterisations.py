"""Parameterisations: there and back, gradients, and Fourier's weights as a sum of waves."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlens.dream import PARAMETERISATIONS, fourier, pixels
from gradlens.dream.parameterisations import COLOURS, EDGE
from tests.dream import reference

SIZES = [(1, 9, 7), (3, 8, 8), (3, 1, 5), (3, 6, 1), (2, 5, 6), (3, 16), (1, 7), (3, 4, 5, 6), (1, 3, 3, 3)]


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_decode_undoes_encode(name: str, size: tuple[int, ...]) -> None:
    kind, x = PARAMETERISATIONS[name](), picture(*size)
    x[0, 0], x[1, 0] = 0, 1  # black and white are moved by EDGE
    back = kind.decode(kind.encode(x), size[1:])
    expected = x if name == "pixels" else x.clamp(EDGE, 1 - EDGE)
    assert back.shape == x.shape
    torch.testing.assert_close(back, expected, rtol=0, atol=2e-5)  # logits up to 7, in float32, there and back


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("decorrelate", [False, True])
def test_every_setting_of_fourier_can_be_undone(decay: float, decorrelate: bool) -> None:
    kind, x = fourier(decay=decay, decorrelate=decorrelate), picture(3, 9, 12, dtype=torch.float64)
    back = kind.decode(kind.encode(x), (9, 12))
    torch.testing.assert_close(back, x.clamp(EDGE, 1 - EDGE), rtol=0, atol=1e-6)  # the weights are float32


@pytest.mark.parametrize("size", [(3, 5, 4), (1, 4, 3), (3, 6), (1, 2, 3, 2)], ids=str)
def test_gradients_of_fourier_are_its_derivatives(size: tuple[int, ...]) -> None:
    kind = fourier()
    values = kind.encode(picture(*size, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: kind.decode(v, size[1:]), values)


@pytest.mark.parametrize("size", [(5, 7), (9, 3)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_fourier_is_the_weighted_sum_of_waves_in_decorrelated_colours(decay: float, size: tuple[int, int]) -> None:
    values = torch.randn(1, 3, size[0], size[1] // 2 + 1, 2, generator=torch.Generator().manual_seed(1)).double()
    values[:, :, :, 0, :] = 0  # of the waves that are each other's conjugates within the half plane
    found = fourier(decay=decay).decode(values, size)[0]
    expected = reference.fourier_picture(values[0].numpy(), size, decay, np.array(COLOURS))
    np.testing.assert_allclose(found, expected, atol=1e-6)  # the weights are float32


def test_fourier_weights_fall_as_the_frequency() -> None:
    """A unit step of the coefficient at 2 cycles moves levels twice as far as one at 4 cycles."""
    moved = []
    for cycles in (2, 4, 8):
        values = torch.zeros(1, 1, 32, 17, 2, dtype=torch.float64)
        values[0, 0, 0, cycles, 0] = 1
        moved.append(fourier().decode(values, (32, 32)).logit().square().mean().sqrt().item())
    assert moved[0] / moved[1] == pytest.approx(2) and moved[1] / moved[2] == pytest.approx(2)


def test_colours_are_left_alone_unless_there_are_three() -> None:
    values = torch.randn(1, 2, 6, 4, 2, generator=torch.Generator().manual_seed(0))
    both = [fourier(decorrelate=flag).decode(values, (6, 6)) for flag in (True, False)]
    assert torch.equal(*both)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_bounded_means_what_it_says(name: str) -> None:
    kind = PARAMETERISATIONS[name]()
    values = 100 * torch.randn(kind.encode(picture(3, 8, 8)).shape, generator=torch.Generator().manual_seed(0))
    shown = kind.decode(values, (8, 8))
    assert kind.bounded == bool(shown.min() >= 0 and shown.max() <= 1)
    assert pixels().bounded is False and fourier().bounded is True
