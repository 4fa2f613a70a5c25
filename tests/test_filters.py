"""Taps by their definitions in loops, their spectra, and the separable filter against its sum."""

from itertools import product
from math import pi

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.filters import Filter, Padding, binomial, filtered, hold, windowed_sinc

EXACT = 1e-14  # sums of a few float64 numbers of order 1
SCALES = (1, 2, 3, 4, 5)


def convolved(a: list[float], b: list[float]) -> list[float]:
    """Two lines of taps convolved, by the definition."""
    out = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out


def response(taps: Tensor, frequency: float) -> float:
    """|sum of taps[k] exp(-2 pi i f k)|."""
    phase = 2 * pi * frequency * torch.arange(len(taps), dtype=torch.float64)
    return torch.hypot((taps * phase.cos()).sum(), (taps * phase.sin()).sum()).item()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_hold_is_boxes_convolved(scale: int, order: int) -> None:
    expected = [1 / scale] * scale
    for _ in range(order):
        expected = convolved(expected, [1 / scale] * scale)
    taps = hold(scale, order)
    assert len(taps) == scale * (order + 1) - order
    torch.testing.assert_close(taps, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_binomial_is_pairs_averaged(size: int) -> None:
    expected = [1.0]
    for _ in range(size - 1):
        expected = convolved(expected, [0.5, 0.5])
    assert binomial(size).tolist() == expected  # powers of two: exact


def test_binomials_are_the_holds_of_two() -> None:
    assert all(torch.equal(binomial(order + 2), hold(2, order)) for order in range(5))


ALL = {
    **{f"hold {s} {d}": hold(s, d) for s in SCALES for d in (0, 1, 2)},
    **{f"binomial {m}": binomial(m) for m in (1, 2, 3, 7)},
    **{f"sinc {s} {w}": windowed_sinc(s, window=w) for s in SCALES for w in ("kaiser", "hann")},
}


@pytest.mark.parametrize("taps", ALL.values(), ids=ALL.keys())
def test_taps_are_float64_symmetric_with_gain_one(taps: Tensor) -> None:
    assert taps.dtype == torch.float64
    torch.testing.assert_close(taps, taps.flip(0), rtol=0, atol=EXACT)
    assert abs(taps.sum().item() - 1) < EXACT


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_holds_and_sincs_vanish_at_every_harmonic_of_the_stride(scale: int) -> None:
    for taps in (hold(scale), hold(scale, 2), windowed_sinc(scale), windowed_sinc(scale, window="hann", half_width=3)):
        assert max(response(taps, k / scale) for k in range(1, scale)) < 1e-13
        assert len({round(taps[p::scale].sum().item(), 13) for p in range(scale)}) == 1


def test_binomials_vanish_at_nyquist_alone() -> None:
    phases = [binomial(5)[p::3].sum().item() for p in range(3)]
    assert phases == [5 / 16, 5 / 16, 6 / 16]
    assert response(binomial(5), 1 / 2) < EXACT < 0.05 < response(binomial(5), 1 / 3)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_response_of_a_hold(order: int) -> None:
    for scale, f in product((2, 3, 4), (0.07, 0.21, 0.4)):
        expected = abs(torch.sin(torch.tensor(pi * f * scale)) / (scale * torch.sin(torch.tensor(pi * f)))) ** (
            order + 1
        )
        assert response(hold(scale, order), f) == pytest.approx(expected.item(), rel=1e-5)  # the sines are float32


def test_only_order_zero_is_even_in_its_squares() -> None:
    squares = [hold(3, order).square() for order in (0, 1)]
    even, uneven = ([q[p::3].sum().item() for p in range(3)] for q in squares)
    assert even == pytest.approx([1 / 9] * 3)
    assert max(uneven) > 1.5 * min(uneven)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("attenuation", [40.0, 60.0, 80.0])
def test_the_stop_band_of_kaisers_window(scale: int, attenuation: float) -> None:
    """Where the docstring says it begins; phases and the design's own tolerance cost under 5 dB, of 80 under 10."""
    taps = windowed_sinc(scale, attenuation=attenuation)
    edge = 1 / (2 * scale) + (attenuation - 7.95) / (28.7 * (len(taps) - 1))
    worst = max(response(taps, f) for f in torch.linspace(edge, 0.5, 400).tolist())
    assert 20 * torch.log10(torch.tensor(worst)) < (5 if attenuation <= 60 else 10) - attenuation
    assert response(taps, 1 / (2 * scale)) == pytest.approx(0.5, abs=0.01)


def test_the_stop_band_of_hanns_window() -> None:
    for scale in (2, 3, 4):
        taps = windowed_sinc(scale, window="hann")
        worst = max(response(taps, f) for f in torch.linspace(1 / (2 * scale) + 1 / (4 * scale), 0.5, 400).tolist())
        assert 20 * torch.log10(torch.tensor(worst)) < -43


def test_a_lower_cutoff_lets_less_through() -> None:
    taps = windowed_sinc(2, cutoff=0.125)
    assert response(taps, 0.125) == pytest.approx(0.5, abs=0.01)
    assert response(taps, 0.25) < 0.05


def along(x: list[float], taps: list[float], stride: int, padding: Padding) -> list[float]:
    """The filter along one axis from its definition."""
    n, m = len(x), len(taps)

    def pixel(i: int) -> float:
        if 0 <= i < n:
            return x[i]
        beyond = {
            "zeros": None, "replicate": min(max(i, 0), n - 1), "circular": i % n, "reflect": -i if i < 0 else 2 * n - 2 - i,
        }[padding]  # fmt: skip
        return 0.0 if beyond is None else x[beyond]

    return [sum(t * pixel(start + k - (m - 1) // 2) for k, t in enumerate(taps)) for start in range(0, n, stride)]


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect", "circular"])
@pytest.mark.parametrize("shape", [(7,), (5, 8), (4, 5, 6)])
@pytest.mark.parametrize(("size", "stride"), [(1, 2), (2, 1), (2, 2), (3, 2), (5, 3), (6, 1)])
def test_filtered_is_its_sum(padding: Padding, shape: tuple[int, ...], size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
    taps = torch.randn(size, generator=generator, dtype=torch.float64)  # not symmetric: their order shows
    expected = x
    for axis in range(2, x.ndim):
        lines = expected.movedim(axis, -1)
        done = [along(line.tolist(), taps.tolist(), stride, padding) for line in lines.reshape(-1, lines.shape[-1])]
        expected = torch.tensor(done, dtype=torch.float64).view(*lines.shape[:-1], -1).movedim(-1, axis)
    torch.testing.assert_close(filtered(x, taps, stride=stride, padding=padding), expected)


def test_each_axis_may_have_its_own_taps() -> None:
    x = torch.rand(1, 1, 6, 7, dtype=torch.float64)
    both = filtered(x, [hold(2), binomial(5)])
    assert torch.equal(both, filtered(filtered(x, [hold(1), binomial(5)]), [hold(2), hold(1)]))


def test_a_constant_stays_constant_up_to_the_border() -> None:
    for padding in ("replicate", "reflect", "circular"):
        y = filtered(
            torch.full((1, 2, 9, 10), 0.3, dtype=torch.float64), windowed_sinc(2, half_width=2), padding=padding
        )
        torch.testing.assert_close(y, torch.full_like(y, 0.3), rtol=0, atol=EXACT)


def test_filtered_is_differentiable() -> None:
    x = torch.rand(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: filtered(x, binomial(3), stride=2), x)


def test_the_layer_saves_nothing_and_filters_alike() -> None:
    layer = Filter(hold(3, 1), stride=2, padding="reflect")
    assert not layer.state_dict() and not list(layer.parameters())
    x = torch.rand(1, 2, 9, 9)
    assert torch.equal(layer(x), filtered(x, hold(3, 1), stride=2, padding="reflect"))
    assert torch.equal(F.relu(layer(x)), layer(x))  # positive taps


WRONG = {
    "scale: must be at least 1, got 0": lambda: hold(0),
    "order: must be at least 0, got -1": lambda: hold(2, -1),
    "size: must be at least 1, got 0": lambda: binomial(0),
    "half_width: must be at least 1, got 0": lambda: windowed_sinc(2, half_width=0),
    "cutoff: must be above 0 and at most 0.25 cycles a pixel, got 0.3": lambda: windowed_sinc(2, cutoff=0.3),
    "cutoff: must be above 0 and at most 0.25 cycles a pixel, got 0": lambda: windowed_sinc(2, cutoff=0),
    "attenuation: must be above 21 and below 200 dB, got 20": lambda: windowed_sinc(2, attenuation=20),
    'window: must be "kaiser" or "hann", got \'box\'': lambda: windowed_sinc(2, window="box"),  # type: ignore[arg-type]
    "x: must be [N C *spatial] with 1 to 3 spatial axes, got [3, 4]": lambda: filtered(torch.ones(3, 4), hold(2)),
    "taps: must be one line of numbers for all or for each of 2 axes, got [[2]]": lambda: filtered(
        torch.ones(1, 1, 4, 4), [hold(2)]
    ),
    "stride: must be at least 1, got 0": lambda: Filter(hold(2), stride=0),
    "padding: must be one of zeros, replicate, reflect, circular, got 'same'": lambda: Filter(
        hold(2),
        padding="same",  # type: ignore[arg-type]
    ),
    'x: "reflect" padding of [5, 5] taps needs at least [3, 3] pixels, got [2, 9]; pad by "replicate"': lambda: (
        filtered(torch.ones(1, 1, 2, 9), binomial(5), padding="reflect")
    ),
    'x: "circular" padding of [9] taps needs at least [4] pixels, got [3]; pad by "replicate"': lambda: filtered(
        torch.ones(1, 1, 3), binomial(9), padding="circular"
    ),
}


@pytest.mark.parametrize("sentence", WRONG, ids=lambda s: s[:30])
def test_what_is_out_of_range_is_refused_in_a_sentence(sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        WRONG[sentence]()
    assert str(error.value) == sentence


@pytest.mark.parametrize("value", [2.0, "2", True, None])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="scale: must be an integer, got"):
        hold(value)  # type: ignore[arg-type]
