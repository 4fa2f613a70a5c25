"""Laws over every layer of `DOWNSAMPLERS`, each against its equation in loops, and what their gradients are proved to be."""

import copy
from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from gradlens.downsampling import DOWNSAMPLERS, averaged, blurred, held, max_pooled, strided
from gradlens.filters import binomial, hold, windowed_sinc
from gradlens.geometry import certify, energy_map, layers, lint

EVERY = pytest.mark.parametrize("name", DOWNSAMPLERS)
FLOAT64 = 1e-12  # of a few hundred products of order 1
TAPS32 = 1e-6  # fixed taps are kept in float32
ROOM = 12  # pixels that no border reaches, of the outputs below


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name: str, *channels: int, **options: Any) -> nn.Sequential:
    return DOWNSAMPLERS[name](*(channels or (3, 4)), **options).eval()


def test_the_names_are_those_of_the_design() -> None:
    assert list(DOWNSAMPLERS) == ["stride2", "stride1", "maxpool", "avgpool", "blur", "maxblur", "hold", "sinc"]


# Shape, state, dtype, layout


@EVERY
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_every_side_becomes_the_next_whole_part_of_it(name: str, dimensions: int, scale: int, kernel_size: int) -> None:
    layer = made(name, 2, 3, scale=scale, kernel_size=kernel_size, dimensions=dimensions)
    for side in (5, 6, 7, 8):
        sides = [side, *range(8, 8 + dimensions - 1)]
        assert layer(torch.rand(2, 2, *sides)).shape == (2, 3, *(-(-n // scale) for n in sides))


@EVERY
def test_weights_move_from_one_layer_to_another(name: str) -> None:
    one = strided(3, 4)
    other = made(name)
    other.load_state_dict(one.state_dict(), strict=True)
    assert list(other.state_dict()) == ["conv.weight", "conv.bias"]
    assert list(made(name, bias=False).state_dict()) == ["conv.weight"]


@EVERY
def test_copies_and_files_give_the_same_layer(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 11, 12)
    file = BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = made(name)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(other(x), layer(x))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_comes_out_as_it_went_in(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name).to(dtype), torch.rand(1, 3, 12, 12, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    exact = layer.double()(x.double())
    assert (y.double() - exact).abs().max() < 8 * torch.finfo(dtype).eps  # a few roundings of numbers below 1


@EVERY
def test_autocast_runs_in_bfloat16(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).abs().max() < 8 * torch.finfo(torch.bfloat16).eps


@EVERY
def test_channels_last_stays_and_says_the_same(name: str) -> None:
    layer, x = made(name), torch.rand(2, 3, 13, 12)
    y = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x.contiguous()))


@pytest.mark.parametrize(("side", "copies"), [(12, 0), (13, 1)])
def test_an_even_kernel_costs_no_copy_of_an_even_map(side: int, copies: int) -> None:
    layer, x = strided(3, 4, kernel_size=4), torch.rand(1, 3, side, side)
    padded = layer.pad(x)
    assert (padded is not x) == copies
    assert padded.shape[-1] == side + copies


@EVERY
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    layer, x = made(name).double(), torch.rand(3, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=0, atol=FLOAT64)


@pytest.mark.usefixtures("fresh_compiler")
@EVERY
def test_it_compiles_without_a_break_and_trains(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 12, 12)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_it_trains_under_data_parallel(tmp_path: Path) -> None:
    """One process: what it broadcasts and gathers; fixed taps are no parameters, so none goes without a gradient."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for name in DOWNSAMPLERS:
            layer = nn.parallel.DistributedDataParallel(made(name))
            for _ in range(2):  # the second pass finds out what was not reduced in the first
                layer(torch.rand(1, 3, 8, 8)).square().sum().backward()
            assert all(p.grad is not None for p in layer.parameters())
    finally:
        distributed.destroy_process_group()


@EVERY
def test_gradcheck(name: str) -> None:
    layer = made(name, 1, 2, kernel_size=2).double()
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


# Constants and shifts


@EVERY
@pytest.mark.parametrize("scale", [2, 3])
def test_a_constant_stays_one_and_is_the_convolutions(name: str, scale: int) -> None:
    """Away from the border, where the convolution meets zeros."""
    layer = made(name, scale=scale).double()
    v = torch.tensor([0.5, -2.0, 1.25], dtype=torch.float64)
    y = layer(v.view(1, 3, 1, 1).expand(1, 3, 60, 60))[0, :, 5:-5, 5:-5]
    conv = layer.get_submodule("conv")
    expected = torch.einsum("oihw,i->o", conv.weight, v) + conv.bias
    torch.testing.assert_close(y, expected.view(4, 1, 1).expand_as(y), rtol=0, atol=10 * TAPS32)


@EVERY
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_shift_by_the_scale_is_a_shift_by_one_pixel(name: str, scale: int) -> None:
    layer = made(name, scale=scale).double()
    x = torch.randn(1, 3, 60, 66, dtype=torch.float64)
    y, moved = layer(x), layer(x.roll((scale, 2 * scale), (2, 3)))
    inside = (..., slice(8 + ROOM // scale, -8), slice(8 + ROOM // scale, -8))
    inside = inside if scale < 3 else (..., slice(8, -6), slice(8, -6))
    torch.testing.assert_close(moved[inside], y.roll((1, 2), (2, 3))[inside], rtol=0, atol=FLOAT64)


# Slow references: each layer from its equation, a pixel at a time


def convolution_at(x: Tensor, conv: nn.Module, place: tuple[int, int]) -> Tensor:
    """b + sum of W[k] x[p + k - (m - 1) // 2], zeros beyond the border: `[out]`."""
    weight, total = conv.weight, conv.bias.clone()
    m = weight.shape[-1]
    for p, q in product(range(m), repeat=2):
        i, j = place[0] + p - (m - 1) // 2, place[1] + q - (m - 1) // 2
        if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
            total = total + weight[:, :, p, q] @ x[:, i, j]
    return total


def at_every_pixel(x: Tensor, conv: nn.Module) -> Tensor:
    places = product(range(x.shape[1]), range(x.shape[2]))
    return torch.stack([convolution_at(x, conv, p) for p in places], 1).view(-1, *x.shape[1:])


def window_of(x: Tensor, i: int, j: int, before: int, after: int) -> Tensor:
    """The pixels there are from `before` ahead of (i, j) to `after` behind: `[C h w]`."""
    return x[:, max(i - before, 0) : i + after + 1, max(j - before, 0) : j + after + 1]


def smoothed(x: Tensor, taps: Tensor, padding: str) -> Tensor:
    """The outer product of taps, summed at every pixel; beyond the border its own pixel or its mirror."""
    m, (h, w) = len(taps), x.shape[1:]

    def inside(i: int, n: int) -> int:
        return min(max(i, 0), n - 1) if padding == "replicate" else -i if i < 0 else min(i, 2 * n - 2 - i)

    out = torch.zeros_like(x)
    for i, j, p, q in product(range(h), range(w), range(m), range(m)):
        out[:, i, j] += taps[p] * taps[q] * x[:, inside(i + p - (m - 1) // 2, h), inside(j + q - (m - 1) // 2, w)]
    return out


def picked(f: Callable[[int, int], Tensor], x: Tensor, s: int) -> Tensor:
    """f at every s-th pixel: `[C h w]`."""
    h, w = range(0, x.shape[1], s), range(0, x.shape[2], s)
    return torch.stack([f(i, j) for i, j in product(h, w)], 1).view(-1, len(h), len(w))


def reference(name: str, x: Tensor, conv: nn.Module, s: int) -> Tensor:
    """`DOWNSAMPLERS[name]` of one image `[C H W]`."""
    if name == "avgpool":
        return at_every_pixel(picked(lambda i, j: window_of(x, i, j, 0, s - 1).mean((1, 2)), x, s), conv)
    if name in ("hold", "sinc"):
        x = smoothed(x, hold(s) if name == "hold" else windowed_sinc(s), "replicate")
        return picked(lambda i, j: convolution_at(x, conv, (i, j)), x, s)
    y = at_every_pixel(x, conv)
    match name:
        case "stride2":
            return picked(lambda i, j: y[:, i, j], x, s)
        case "stride1":
            return picked(lambda i, j: window_of(y, i, j, 0, s - 1).mean((1, 2)), x, s)
        case "maxpool":
            return picked(lambda i, j: window_of(y, i, j, s - 1, s - 1).amax((1, 2)), x, s)
        case "maxblur":
            y = picked(lambda i, j: window_of(y, i, j, s - 1, s - 1).amax((1, 2)), y, 1)
    blurry = smoothed(y, binomial(3), "reflect")
    return picked(lambda i, j: blurry[:, i, j], x, s)


@EVERY
@pytest.mark.parametrize(
    ("scale", "kernel_size", "sides"), [(2, 3, (7, 8)), (2, 4, (6, 5)), (3, 3, (7, 6)), (3, 2, (8, 9))]
)
def test_each_layer_is_its_equation(name: str, scale: int, kernel_size: int, sides: tuple[int, int]) -> None:
    layer = made(name, 2, 3, scale=scale, kernel_size=kernel_size).double()
    x = torch.randn(1, 2, *sides, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(name, x[0], layer.get_submodule("conv"), scale)
        torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=TAPS32)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_hold_before_the_stride_is_the_pool_after_the_convolution(scale: int) -> None:
    """Filters commute: one linear map, for which `held` needs a stride-th of the multiplications an axis."""
    before, after = held(3, 4, scale=scale).double(), averaged(3, 4, scale=scale).double()
    after.load_state_dict(before.state_dict())
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    ahead = (scale - 1) // 2  # a pool begins where its output is, a hold is around it
    inside = (..., slice(3, -3), slice(3, -3))
    moved = before(x.roll((-ahead, -ahead), (2, 3)))
    torch.testing.assert_close(moved[inside], after(x)[inside], rtol=0, atol=TAPS32)


def test_a_blur_of_two_is_a_pool() -> None:
    small, pool = blurred(3, 4, size=2).double(), averaged(3, 4).double()
    pool.load_state_dict(small.state_dict())
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(small(x), pool(x), rtol=0, atol=FLOAT64)


def test_without_a_scale_every_linear_layer_is_its_convolution() -> None:
    conv, x = strided(3, 4, scale=1), torch.rand(1, 3, 9, 9)
    for name in ("stride1", "avgpool", "hold", "maxpool"):
        layer = made(name, scale=1)
        layer.load_state_dict(conv.state_dict())
        assert torch.equal(layer(x), conv(x))


# What their gradients are proved to be

SIGNED = {  # the mean of the gradient: verdict by scale
    "stride2": {2: "fail", 3: "fail"}, "stride1": {2: "pass", 3: "pass"}, "maxpool": {2: "fail", 3: "fail"},
    "avgpool": {2: "pass", 3: "pass"}, "blur": {2: "pass", 3: "fail"}, "maxblur": {2: "pass", 3: "fail"},
    "hold": {2: "pass", 3: "pass"}, "sinc": {2: "pass", 3: "pass"},
}  # fmt: skip
LARGE = {"sinc": 96}


@EVERY
@pytest.mark.parametrize("scale", [2, 3])
def test_certificates_of_the_mean(name: str, scale: int) -> None:
    side = LARGE.get(name, 64)
    found = certify(made(name, 4, 8, scale=scale), (4, side, side), direction="backward")
    assert found.verdicts["signed"] == SIGNED[name][scale]


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize(
    ("name", "verdict"), [("stride2", "fail"), ("hold", "pass"), ("blur", "pass"), ("avgpool", "pass")]
)
def test_certificates_on_one_and_three_axes(dimensions: int, name: str, verdict: str) -> None:
    size = (2, *[32 if dimensions == 1 else 16] * dimensions)
    found = certify(made(name, 2, 2, dimensions=dimensions), size, direction="backward")
    assert found.verdicts["signed"] == verdict


def test_a_pool_before_the_convolution_passes_in_mean_and_energy_for_any_weights() -> None:
    for scale in (2, 3, 4):
        assert certify(made("avgpool", scale=scale), (3, 64, 64), direction="backward").passed


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_a_hold_of_any_order_makes_the_mean_even(order: int, kernel_size: int) -> None:
    layer = held(3, 3, order=order, kernel_size=kernel_size)
    assert certify(layer, (3, 48, 48), direction="backward").verdicts["signed"] == "pass"


def test_blocks_of_a_max_pool_are_even_in_energy_and_overlapping_windows_are_not() -> None:
    blocks, overlapping = max_pooled(4, 8, window=2), max_pooled(4, 8)
    uneven = [certify(layer, (4, 64, 64), direction="backward").verdicts for layer in (blocks, overlapping)]
    assert [v["energy"] for v in uneven] == ["pass", "fail"]


ENERGY = {  # of the phases of an axis, untrained, by the squares of 1 1, 1 2 1 and the coverage 1 2 of three taps
    "stride2": (1, 2), "stride1": (1, 1), "avgpool": (1, 1), "hold": (1, 1), "blur": (8, 10),
}  # fmt: skip


@pytest.mark.parametrize("name", ENERGY)
def test_the_energy_of_the_phases_is_what_squared_taps_say(name: str) -> None:
    energy = energy_map(made(name, 32, 64), (32, 48, 48))[12:36, 12:36]
    phases = energy.view(12, 2, 12, 2).mean((0, 2)).double()
    low, high = (torch.tensor(ENERGY[name], dtype=torch.float64) * 2 / sum(ENERGY[name])).sort().values
    expected = torch.tensor([low * low, low * high, low * high, high * high])
    away = (phases.flatten().sort().values / phases.mean() - expected).abs().max()
    assert away < 0.05  # of 64 x 32 kernels each energy is a mean of 2048 squares: 3 % of it


@EVERY
def test_geometry_reads_every_layer(name: str) -> None:
    layer = made(name)
    table = layers(layer, (3, 48, 48))
    assert table["period"].max() == 2
    rules = {finding.rule for finding in lint(layer, (3, 48, 48)) if finding.severity != "note"}
    assert {"stride2": "partial-overlap", "maxpool": "max-pool"}.get(name) in rules | {None}
    if name in ("stride1", "avgpool"):
        assert not rules


# Faults

WRONG: dict[str, Callable[[], nn.Module]] = {
    "in_channels: must be at least 1, got 0": lambda: strided(0, 1),
    "out_channels: must be at least 1, got -1": lambda: strided(1, -1),
    "kernel_size: must be at least 1, got 0": lambda: strided(1, 1, kernel_size=0),
    "dimensions: must be 1, 2 or 3, got 4": lambda: strided(1, 1, dimensions=4),
    "window: must be odd or the scale, 2, got 4": lambda: max_pooled(1, 1, window=4),
    "order: must be at least 0, got -1": lambda: held(1, 1, order=-1),
    "size: must be at least 1, got 0": lambda: blurred(1, 1, size=0),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_out_of_range_is_refused_in_a_sentence(sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        WRONG[sentence]()
    assert str(error.value) == sentence


@EVERY
def test_a_scale_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="scale: must be at least 1, got 0"):
        made(name, scale=0)
    with pytest.raises(TypeError, match=r"scale: must be an integer, got 2\.5"):
        made(name, scale=2.5)
    with pytest.raises(ValueError, match="dimensions: must be 1, 2 or 3, got 0"):
        made(name, dimensions=0)


def test_an_image_too_small_to_reflect_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError, match=r'"reflect" padding of \[5, 5\] taps needs at least \[3, 3\] pixels, got \[2, 2\]'
    ):
        blurred(1, 1, size=5)(torch.ones(1, 1, 2, 2))
