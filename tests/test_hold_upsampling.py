"""Holds in and behind layers that enlarge, and the windowed sinc: each against its equation in loops, eq. 3 and 7 to 10 of
Sugawara, Shiota, Kiya 2018, and what `tests/test_upsampling.py` asks of every layer for their own options."""

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from gradlens.filters import hold, windowed_sinc
from gradlens.geometry import certify
from gradlens.upsampling import (
    HeldInside,
    ResizeConv,
    held_after,
    hold_a,
    hold_b,
    icnr_,
    sinc_interpolated,
    subpixel,
    transposed,
)
from gradlens.upsampling.sinc import SincResize

FLOAT64 = 1e-12  # of a few hundred products of order 1
TAPS32 = 1e-6  # fixed taps behind a layer are kept in float32
SCALES = pytest.mark.parametrize("scale", [2, 3, 4])
ORDERS = pytest.mark.parametrize("order", [0, 1, 2])

VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "A, sub-pixel": lambda *c, **o: hold_a(*c, base="subpixel", **o),
    "A, order 1": lambda *c, **o: hold_a(*c, order=1, **o),
    "B, sub-pixel": lambda *c, **o: hold_b(*c, base="subpixel", **o),
    "B, biases apart": lambda *c, **o: hold_b(*c, base="subpixel", tied_bias=False, **o),
    "B, order 2, mirrored": lambda *c, **o: hold_b(*c, order=2, padding="reflect", **o),
    "C, zeros": lambda *c, **o: HeldInside(*c, padding="zeros", **o),
    "C, mirrored": lambda *c, **o: HeldInside(*c, padding="reflect", **o),
    "C, wrapped, order 1": lambda *c, **o: HeldInside(*c, padding="circular", order=1, **o),
    "sinc, Hann": lambda *c, **o: sinc_interpolated(*c, window="hann", half_width=3, **o),
}
EVERY = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name: str, *channels: int, **options: Any) -> nn.Module:
    return VARIANTS[name](*(channels or (3, 4)), **options).eval()


# Slow references: from the paper's figures 3, 4 and 6, a pixel at a time


def beyond(i: int, n: int, padding: str) -> int | None:
    """Which of n pixels lies at place i, None for a zero."""
    if 0 <= i < n:
        return i
    match padding:
        case "replicate":
            return min(max(i, 0), n - 1)
        case "reflect":
            return -i if i < 0 else 2 * n - 2 - i
        case "circular":
            return i % n
    return None


def deconvolved(x: Tensor, weight: Tensor, s: int, start: int, padding: str = "zeros") -> Tensor:
    """The up-sampler by s and the filter W, s pixels for each of `x` `[C H W]`, from place `start` of the whole map."""
    h, w, m = *x.shape[1:], weight.shape[-1]
    y = x.new_zeros(weight.shape[1], s * h, s * w)
    for i, j in product(range(s * h), range(s * w)):
        for a, b in product(range(m), repeat=2):
            (p, p_off), (q, q_off) = divmod(i + start - a, s), divmod(j + start - b, s)
            if p_off or q_off:
                continue  # the up-sampler's zeros
            row, column = beyond(p, h, padding), beyond(q, w, padding)
            if row is not None and column is not None:
                y[:, i, j] += x[:, row, column] @ weight[:, :, a, b]
    return y


def held(y: Tensor, taps: Tensor, padding: str) -> Tensor:
    """The outer product of taps, summed around every pixel, an even one half a pixel ahead."""
    out, (h, w) = torch.zeros_like(y), y.shape[1:]
    ahead = (len(taps) - 1) // 2
    for i, j, (a, t), (b, u) in product(range(h), range(w), enumerate(taps), enumerate(taps)):
        row, column = beyond(i + a - ahead, h, padding), beyond(j + b - ahead, w, padding)
        if row is not None and column is not None:
            out[:, i, j] += t * u * y[:, row, column]
    return out


def convolved(w: Tensor, taps: Tensor) -> Tensor:
    """W * H along both axes, a product at a time: `[C C' m+L-1 m+L-1]`."""
    m, length = w.shape[-1], len(taps)
    v = w.new_zeros(*w.shape[:2], m + length - 1, m + length - 1)
    for a, b, (k, t), (n, u) in product(range(m), range(m), enumerate(taps), enumerate(taps)):
        v[:, :, a + k, b + n] += t * u * w[:, :, a, b]
    return v


SHAPES = [(2, 4, 0), (2, 3, 1), (2, 3, 0), (3, 4, 0), (3, 3, 1), (4, 9, 0), (3, 2, 0), (4, 2, 2), (2, 1, 0)]


@pytest.mark.parametrize("padding", ["replicate", "zeros", "reflect", "circular"])
@pytest.mark.parametrize(("scale", "kernel_size", "order"), SHAPES)
def test_a_hold_behind_a_deconvolution_is_its_equation(scale: int, kernel_size: int, order: int, padding: Any) -> None:
    layer = hold_b(2, 2, scale=scale, kernel_size=kernel_size, order=order, padding=padding).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    weight, bias = layer.get_parameter("up.weight"), layer.get_parameter("up.bias")
    with torch.no_grad():
        plain = deconvolved(x[0], weight, scale, -(-max(kernel_size - scale, 0) // 2)) + bias.view(-1, 1, 1)
        torch.testing.assert_close(layer(x)[0], held(plain, hold(scale, order), padding), rtol=0, atol=TAPS32)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("scale", "order"), [(2, 0), (3, 1)])
def test_a_hold_behind_a_sub_pixel_convolution_is_its_equation(scale: int, order: int, tied: bool) -> None:
    """Eq. 6 with a hold behind it: phase n of the map is the convolution with R_c,n, plus b_n, or b where it is tied."""
    layer = hold_b(2, 3, scale=scale, kernel_size=3, order=order, base="subpixel", tied_bias=tied).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    filters = layer.get_parameter("up.conv.weight").unflatten(0, (3, scale, scale))
    bias = layer.get_parameter("up.shared.bias" if tied else "up.conv.bias")
    biases = bias.view(3, 1, 1).expand(3, scale, scale) if tied else bias.unflatten(0, (3, scale, scale))
    plain = x.new_zeros(3, 5 * scale, 4 * scale)
    with torch.no_grad():
        for p, q in product(range(scale), repeat=2):
            plain[:, p::scale, q::scale] = F.conv2d(x, filters[:, p, q], biases[:, p, q], padding=1)[0]
        expected = held(plain, hold(scale, order), "replicate")
        torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=TAPS32)


@pytest.mark.parametrize("padding", ["replicate", "zeros", "reflect", "circular"])
@pytest.mark.parametrize(("scale", "kernel_size", "order"), SHAPES)
def test_a_hold_inside_is_its_equation(scale: int, kernel_size: int, order: int, padding: Any) -> None:
    layer = HeldInside(2, 3, scale=scale, kernel_size=kernel_size, order=order, padding=padding).double()
    x, taps = torch.randn(1, 2, 5, 4, dtype=torch.float64), hold(scale, order)
    start = -(-max(kernel_size - scale, 0) // 2) + len(taps) // 2
    with torch.no_grad():
        expected = deconvolved(x[0], convolved(layer.weight, taps), scale, start, padding)
        torch.testing.assert_close(layer(x)[0], expected + layer.bias.view(-1, 1, 1), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize(("scale", "kernel_size"), [(2, 3), (3, 3), (3, 2), (4, 5)])
def test_a_sinc_is_its_equation_over_inserted_zeros(scale: int, kernel_size: int) -> None:
    layer = sinc_interpolated(1, 2, scale=scale, kernel_size=kernel_size).double()
    x, taps = torch.randn(1, 1, 4, 3, dtype=torch.float64), scale * windowed_sinc(scale)
    start = (len(taps) - 1) // 2 - (scale - 1) // 2
    wide = deconvolved(x[0], torch.outer(taps, taps)[None, None], scale, start, "replicate")
    conv, m = layer.get_submodule("conv"), kernel_size
    around = ((m - 1) // 2, m // 2) * 2
    with torch.no_grad():
        expected = F.conv2d(F.pad(wide, around, mode="replicate"), conv.weight, conv.bias)
        torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=10 * TAPS32)


# Eq. 3, 8, 9: kernels and biases


@SCALES
@ORDERS
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 9])
def test_eq_3_the_hold_divides_the_kernel_and_what_learns_is_left(scale: int, order: int, kernel_size: int) -> None:
    """H(z) = P(z) H_0(z)^(d + 1) / s^(d + 1): a division of polynomials without a remainder."""
    layer = HeldInside(1, 1, scale=scale, order=order, kernel_size=kernel_size, dimensions=1).double()
    kernel = layer.kernel().detach().flatten().numpy()
    box = np.ones(scale) / scale
    for _ in range(order + 1):
        kernel, rest = np.polydiv(kernel, box)
        assert np.abs(rest).max() < FLOAT64 * scale**order * 10  # long division loses a digit a time
    np.testing.assert_allclose(kernel, layer.weight.detach().flatten().numpy(), rtol=0, atol=1e-9)


@SCALES
@ORDERS
def test_eq_8_all_polyphase_filters_of_the_kernel_have_one_sum(scale: int, order: int) -> None:
    layer = HeldInside(3, 2, scale=scale, order=order, kernel_size=5).double()
    kernel = layer.kernel().detach()
    sums = torch.stack([kernel[..., p::scale, q::scale].sum((2, 3)) for p, q in product(range(scale), repeat=2)])
    expected = layer.weight.detach().sum((2, 3)) / scale**2
    torch.testing.assert_close(sums, expected.expand_as(sums), rtol=0, atol=FLOAT64)
    plain = torch.stack([layer.weight[..., p::scale, :].sum((2, 3)) for p in range(scale)])
    assert plain.std(0).min() > 1e-3


@SCALES
def test_eq_9_filters_of_one_sum_need_one_bias_too(scale: int) -> None:
    """Section 3.3: without eq. 9 filters that satisfy eq. 8 do not suffice."""
    for tied in (True, False):
        up = hold_b(3, 4, scale=scale, kernel_size=3, base="subpixel", tied_bias=tied).get_submodule("up")
        icnr_(up.get_parameter("conv.weight"), scale)
        assert certify(up, (3, 24, 24)).passed is tied


def test_a_tied_bias_is_one_a_channel_and_none_where_none_is_asked_for() -> None:
    sizes = {k: v.numel() for k, v in hold_b(3, 4, base="subpixel").state_dict().items()}
    assert sizes == {"up.conv.weight": 16 * 3 * 16, "up.shared.bias": 4}
    assert list(hold_b(3, 4, base="subpixel", bias=False).state_dict()) == ["up.conv.weight"]
    assert list(hold_b(3, 4, base="subpixel", tied_bias=False).state_dict()) == ["up.conv.weight", "up.conv.bias"]


# Eq. 7 and 10: step responses


def network(layer: nn.Module) -> nn.Sequential:
    """Figure 2 in one dimension."""
    return nn.Sequential(nn.Conv1d(1, 6, 5), nn.ReLU(), nn.Conv1d(6, 3, 3), nn.ReLU(), layer).double().eval()


def steady(net: nn.Module, scale: int, level: float) -> Tensor:
    """The phases of the steady state of the answer to K I_step: `[C' s]`, the last s pixels that no border reaches."""
    step = torch.zeros(1, 1, 120, dtype=torch.float64)
    step[..., 40:] = level
    with torch.no_grad():
        y = net(step)[0]
    block = y[:, 80 * scale : 81 * scale]
    torch.testing.assert_close(block, y[:, 79 * scale : 80 * scale], rtol=0, atol=FLOAT64)  # it is steady
    return block


LEVELS = (-2.0, 0.1, 0.5, 1.0, 3.0)


@SCALES
@ORDERS
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: hold_a(3, 2, kernel_size=9, dimensions=1, **o),
        lambda **o: hold_b(3, 2, kernel_size=9, dimensions=1, **o),
        lambda **o: hold_b(3, 2, kernel_size=3, dimensions=1, base="subpixel", **o),
        lambda **o: hold_b(3, 2, kernel_size=3, dimensions=1, base="subpixel", tied_bias=False, **o),
        lambda **o: HeldInside(3, 2, kernel_size=9, dimensions=1, **o),
    ],
    ids=["A", "B", "B, sub-pixel", "B, biases apart", "C"],
)
def test_eq_7_and_10_the_steady_state_is_one_value_at_every_level(make: Any, scale: int, order: int) -> None:
    net = network(make(scale=scale, order=order))
    for level in LEVELS:
        phases = steady(net, scale, level)
        assert float((phases.amax(1) - phases.amin(1)).max()) < TAPS32


@SCALES
def test_eq_7_is_not_met_without_a_hold_and_the_held_value_is_the_mean_of_the_phases(scale: int) -> None:
    layer = hold_a(3, 2, kernel_size=9, dimensions=1, scale=scale)
    net, plain = network(layer), network(layer.get_submodule("up"))
    plain.load_state_dict({k.replace("4.up.", "4."): v for k, v in net.state_dict().items()})
    for level in LEVELS:
        before, after = steady(plain, scale, level), steady(net, scale, level)
        assert float((before.amax(1) - before.amin(1)).min()) > 1e-3
        torch.testing.assert_close(after, before.mean(1, keepdim=True).expand_as(after), rtol=0, atol=TAPS32)


@SCALES
@ORDERS
def test_the_hold_makes_a_constant_of_any_periodic_signal(scale: int, order: int) -> None:
    """Section 3.3, whatever made it, also what is not linear."""
    pattern = torch.randn(3, scale, scale, dtype=torch.float64)

    class Periodic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pattern.repeat(1, 6, 6)[None].sinh() + F.interpolate(x, scale_factor=scale).square()

    layer = held_after(Periodic(), scale, order=order, training=True).double()
    y = layer(torch.full((1, 3, 6, 6), 0.5, dtype=torch.float64))
    inside = slice(2 * scale, -2 * scale) if order < 2 else slice((5 * scale) // 2, -(5 * scale) // 2)
    expected = (pattern.sinh().mean((1, 2)) + 0.25).view(1, 3, 1, 1)
    y = y[..., inside, inside]
    torch.testing.assert_close(y, expected.expand_as(y), rtol=0, atol=10 * TAPS32)


# C is B, and both hold what the plain layer does


@SCALES
@ORDERS
@pytest.mark.parametrize(("kernel_size", "dimensions"), [(3, 1), (4, 1), (3, 2), (4, 2), (9, 2), (1, 2), (3, 3)])
def test_c_is_b_away_from_the_border(scale: int, order: int, kernel_size: int, dimensions: int) -> None:
    options = {"scale": scale, "order": order, "kernel_size": kernel_size, "dimensions": dimensions}
    b, c = hold_b(2, 3, **options).double(), HeldInside(2, 3, **options).double()  # type: ignore[arg-type]
    c.load_state_dict(b.get_submodule("up").state_dict())
    x = torch.randn(1, 2, *[20 if dimensions < 3 else 10] * dimensions, dtype=torch.float64)
    reach = kernel_size + scale * (order + 1)
    inside = (..., *[slice(reach, -reach)] * dimensions)
    y = b(x)[inside]
    assert y.numel()
    torch.testing.assert_close(c(x)[inside], y, rtol=0, atol=TAPS32)


@SCALES
def test_c_of_order_0_is_a_resize_convolution_with_the_kernel_reversed(scale: int) -> None:
    """Also how far it lies before it: L // 2 + P of the one, 4 of 9 taps of the other."""
    held, resized = (
        HeldInside(2, 3, scale=scale, kernel_size=9).double(),
        ResizeConv(2, 3, scale=scale, kernel_size=9).double(),
    )
    with torch.no_grad():
        resized.weight.copy_(held.weight.flip(2, 3).transpose(0, 1) / scale**2)
        resized.bias.copy_(held.bias)
        x = torch.randn(1, 2, 12, 12, dtype=torch.float64)
        ahead = -(-(9 - scale) // 2) + scale // 2 - 4
        moved = resized(x).roll((-ahead, -ahead), (2, 3))[..., 9:-9, 9:-9]
    torch.testing.assert_close(held(x)[..., 9:-9, 9:-9], moved, rtol=0, atol=FLOAT64)
    assert ahead in (0, 1)


def test_a_trained_deconvolution_goes_into_all_three() -> None:
    """And what A learns goes on to B and C; A learns as if no hold were there."""
    trained, x = nn.ConvTranspose2d(3, 4, 4, 2, 1), torch.rand(2, 3, 7, 8)
    state = trained.state_dict()
    a, b, c = hold_a(3, 4), hold_b(3, 4), HeldInside(3, 4)
    for layer in (a.get_submodule("up"), b.get_submodule("up"), c):
        layer.load_state_dict(state, strict=True)
    assert torch.equal(a.train()(x), trained(x))
    assert torch.equal(a.eval()(x), b.train()(x))
    assert torch.equal(b.eval()(x), b.train()(x))
    torch.testing.assert_close(c(x)[..., 4:-4, 4:-4], b(x)[..., 4:-4, 4:-4])
    b.load_state_dict(a.state_dict(), strict=True)


def test_all_three_are_drawn_as_torch_draws_a_deconvolution() -> None:
    def drawn(make: Callable[[], nn.Module]) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return list(make().parameters())

    plain = drawn(lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1))
    for make in (lambda: hold_a(3, 4), lambda: hold_b(3, 4), lambda: HeldInside(3, 4)):
        assert all(torch.equal(a, b) for a, b in zip(plain, drawn(make), strict=True))


@pytest.mark.parametrize("layer", [subpixel(3, 4), transposed(3, 4, kernel_size=1), ResizeConv(3, 4)])
def test_a_hold_goes_behind_any_layer_and_only_in_eval_mode(layer: nn.Module) -> None:
    held, x = held_after(layer, 2), torch.rand(1, 3, 8, 8)
    assert held.get_submodule("up") is layer
    assert torch.equal(held.train()(x), layer(x))
    assert not torch.equal(held.eval()(x), layer(x))
    assert certify(held, (3, 24, 24)).passed


def test_without_a_scale_all_three_are_the_plain_layer() -> None:
    plain, x = transposed(3, 4, scale=1, kernel_size=3), torch.rand(1, 3, 6, 6)
    held = held_after(plain, 1, training=True)
    inside = HeldInside(3, 4, scale=1, kernel_size=3, padding="zeros")
    inside.load_state_dict(plain.state_dict())
    assert torch.equal(held(x), plain(x))
    torch.testing.assert_close(inside(x), plain(x))


# Borders and places


@SCALES
@ORDERS
@pytest.mark.parametrize("padding", ["replicate", "reflect", "circular", "zeros"])
def test_a_constant_stays_one_up_to_the_border_of_c_unless_zeros_are_there(
    scale: int, order: int, padding: Any
) -> None:
    for kernel_size in (3, 4, 9):
        layer = HeldInside(2, 3, scale=scale, order=order, kernel_size=kernel_size, padding=padding).double()
        v = torch.tensor([0.5, -1.5], dtype=torch.float64)
        y = layer(v.view(1, 2, 1, 1).expand(1, 2, 9, 10))
        expected = torch.einsum("cokl,c->o", layer.weight, v) / scale**2 + layer.bias
        away = (y - expected.view(1, 3, 1, 1)).abs().max()
        assert bool(away < FLOAT64) is (padding != "zeros")


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_a_constant_stays_one_up_to_the_border_of_a_sinc(scale: int, kernel_size: int) -> None:
    layer = sinc_interpolated(2, 3, scale=scale, kernel_size=kernel_size).double()
    v = torch.tensor([0.5, -1.5], dtype=torch.float64)
    y = layer(v.view(1, 2, 1, 1).expand(1, 2, 3, 4))
    expected = torch.einsum("oikl,i->o", layer.get_parameter("conv.weight"), v) + layer.get_parameter("conv.bias")
    torch.testing.assert_close(y, expected.view(1, 3, 1, 1).expand_as(y), rtol=0, atol=10 * TAPS32)


def centre(y: Tensor) -> float:
    """The centre of mass of a line."""
    line = y.detach().flatten()
    return float((line * torch.arange(len(line))).sum() / line.sum())


@SCALES
@ORDERS
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_an_even_hold_moves_the_map_half_a_pixel_ahead(scale: int, order: int, kernel_size: int) -> None:
    """Of a pixel at n the plain layer puts the middle of its taps at s n + (m - 1) / 2 - P."""
    x = torch.zeros(1, 1, 21)
    x[..., 10] = 1
    plain = transposed(1, 1, scale=scale, kernel_size=kernel_size, bias=False, dimensions=1)
    nn.init.ones_(plain.weight)
    half = 0.5 * (len(hold(scale, order)) % 2 == 0)
    inside = HeldInside(1, 1, scale=scale, kernel_size=kernel_size, bias=False, dimensions=1, order=order)
    inside.load_state_dict(plain.state_dict())
    for layer in (held_after(plain, scale, order=order, training=True), inside):
        assert centre(layer(x)) == pytest.approx(centre(plain(x)) - half, abs=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
def test_a_sinc_puts_a_pixel_in_the_middle_of_its_cell_or_half_a_pixel_ahead(scale: int) -> None:
    x = torch.zeros(1, 1, 31)
    x[..., 15] = 1
    y = SincResize(scale)(x)
    assert int(y.argmax()) == scale * 15 + (scale - 1) // 2
    assert centre(y) == pytest.approx(scale * 15 + (scale - 1) // 2, abs=1e-4)


@SCALES
def test_a_sinc_continues_a_wave_and_adds_no_image_of_it(scale: int) -> None:
    """A wave of half the Nyquist frequency comes out as itself, sampled finer; the sinc is 60 dB down by then."""
    n = torch.arange(64, dtype=torch.float64)
    y = SincResize(scale).double()(torch.cos(torch.pi * n / 2).view(1, 1, -1))[0, 0]
    i = torch.arange(64 * scale, dtype=torch.float64) - (scale - 1) // 2
    expected = torch.cos(torch.pi * i / (2 * scale))
    inside = slice(8 * scale, -8 * scale)
    assert float((y - expected)[inside].abs().max()) < 2e-3


# State and precision


def test_the_kernel_is_folded_in_float32_and_never_stale() -> None:
    layer, x = HeldInside(2, 3, scale=3, bias=False), torch.rand(1, 2, 5, 5)
    with torch.no_grad():
        kernel, y = layer.kernel(), layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.kernel(), kernel)
        layer.weight.data.mul_(2)  # unseen by version counters
        torch.testing.assert_close(layer(x), 2 * y)
        there = layer.bfloat16().double()
        torch.testing.assert_close(there.matrix, HeldInside(1, 1, scale=3).double().matrix, rtol=0, atol=FLOAT64)


def test_gradients_reach_the_kernel_through_the_fold() -> None:
    b, c = hold_b(2, 3).double(), HeldInside(2, 3).double()
    c.load_state_dict(b.get_submodule("up").state_dict())
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    found = [
        torch.autograd.grad(layer(x)[..., 8:-8, 8:-8].square().sum(), list(layer.parameters())) for layer in (b, c)
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# What test_upsampling.py asks of every layer, of the options


@EVERY
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_every_side_becomes_scale_times_it(name: str, dimensions: int, scale: int, kernel_size: int) -> None:
    layer = made(name, 2, 3, scale=scale, kernel_size=kernel_size, dimensions=dimensions)
    sides = [7, 6, 5][:dimensions]
    assert layer(torch.rand(2, 2, *sides)).shape == (2, 3, *(scale * n for n in sides))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_comes_out_as_it_went_in(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name).to(dtype), torch.rand(1, 3, 8, 8, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    exact = layer.double()(x.double())
    assert (y.double() - exact).abs().max() < 24 * torch.finfo(dtype).eps  # of sums and kernels rounded in sequence


@EVERY
def test_autocast_runs_in_bfloat16(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).abs().max() < 24 * torch.finfo(torch.bfloat16).eps


@EVERY
def test_channels_last_stays_and_says_the_same(name: str) -> None:
    layer, x = made(name), torch.rand(2, 3, 9, 8)
    plain = layer(x)
    y = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, plain)


@SCALES
@ORDERS
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 9])
def test_no_hold_inside_hands_on_a_view_of_a_larger_map(scale: int, order: int, kernel_size: int) -> None:
    layer = HeldInside(2, 3, scale=scale, order=order, kernel_size=kernel_size)
    assert layer(torch.rand(1, 2, 6, 5)).is_contiguous()


@EVERY
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("training", [True, False])
def test_it_compiles_without_a_break_and_trains(name: str, training: bool) -> None:
    layer, x = made(name).train(training), torch.rand(1, 3, 8, 8)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_it_trains_under_data_parallel(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for name in VARIANTS:
            layer = nn.parallel.DistributedDataParallel(made(name).train())
            for _ in range(2):  # the second pass finds out what was not reduced in the first
                layer(torch.rand(1, 3, 6, 6)).square().sum().backward()
            assert all(p.grad is not None for p in layer.parameters())
    finally:
        distributed.destroy_process_group()


@EVERY
def test_states_and_copies_give_the_same_layer(name: str) -> None:
    layer, other, x = made(name), made(name), torch.rand(1, 3, 7, 8)
    assert set(layer.state_dict()) == set(dict(layer.named_parameters()))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


# Certificates


@SCALES
@ORDERS
def test_certificates_pass_for_all_of_them_forward(scale: int, order: int) -> None:
    for layer in (
        hold_a(3, 2, scale=scale, order=order),
        hold_a(3, 2, scale=scale, order=order, base="subpixel", kernel_size=3, tied_bias=False),
        hold_b(3, 2, scale=scale, order=order),
        hold_b(3, 2, scale=scale, order=order, base="subpixel", kernel_size=3),
        HeldInside(3, 2, scale=scale, order=order),
        HeldInside(3, 2, scale=scale, order=order, kernel_size=9, padding="zeros"),
    ):
        assert certify(layer, (3, 32, 32)).verdict == "pass"


@EVERY
def test_certificates_pass_backward(name: str) -> None:
    assert certify(made(name), (3, 40, 40), direction="backward").passed


@SCALES
def test_the_certificate_of_a_sinc_passes_and_that_of_a_layer_without_its_hold_fails(scale: int) -> None:
    assert certify(sinc_interpolated(3, 2, scale=scale), (3, 40, 40)).passed
    for base in ("deconv", "subpixel"):
        layer = hold_a(3, 2, scale=scale, base=base, tied_bias=False)  # type: ignore[arg-type]
        assert certify(layer.get_submodule("up"), (3, 32, 32)).verdict == "fail"


# Faults

WRONG: dict[str, Callable[[], object]] = {
    'base: must be "deconv" or "subpixel", got \'resize\'': lambda: hold_a(1, 1, base="resize"),  # type: ignore[arg-type]
    "order: must be at least 0, got -1": lambda: hold_b(1, 1, order=-1),
    "padding: must be one of zeros, replicate, reflect, circular, got 'same'": lambda: HeldInside(1, 1, padding="same"),  # type: ignore[arg-type]
    "kernel_size: must be odd at scale 1, got 4": lambda: HeldInside(1, 1, scale=1),
    "out_channels: must be at least 1, got 0": lambda: sinc_interpolated(1, 0),
    "half_width: must be at least 1, got 0": lambda: sinc_interpolated(1, 1, half_width=0),
    'window: must be "kaiser" or "hann", got \'box\'': lambda: sinc_interpolated(1, 1, window="box"),  # type: ignore[arg-type]
    "scale: must be at least 1, got 0": lambda: held_after(nn.Identity(), 0),
    "x: must be [N C *spatial] with 2 spatial axes, got [1, 1, 4]": lambda: HeldInside(1, 1)(torch.rand(1, 1, 4)),
    "x: must be [N C *spatial] with 1 to 3 spatial axes, got [1, 4]": lambda: SincResize(2)(torch.rand(1, 4)),
    'x: "reflect" padding needs at least 3 pixels a side, got [2, 9]; pad by "replicate"': lambda: HeldInside(
        1, 1, scale=4, kernel_size=9, padding="reflect"
    )(torch.rand(1, 1, 2, 9)),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_out_of_range_is_refused_in_a_sentence(sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        WRONG[sentence]()
    assert str(error.value) == sentence
