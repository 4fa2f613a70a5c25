"""Pixel deconvolution: each layer against its equation in loops, and what it costs and does to a constant."""

import copy
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gradlens.filters import CONVOLVE
from gradlens.geometry import certify, energy_map, layers
from gradlens.upsampling.pixeldcl import IPixelDCL, MaskedPixelDCL, PixelConv, PixelDCL, interleave, phases

ENLARGING: dict[str, Callable[..., nn.Module]] = {
    "pixeldcl": PixelDCL, "ipixeldcl": IPixelDCL, "pixeldcl_masked": MaskedPixelDCL,
}  # fmt: skip
LAYERS = {**ENLARGING, "pixelconv": PixelConv}
EVERY = pytest.mark.parametrize("name", LAYERS)
FLOAT64 = 1e-12  # of a few hundred products of order 1


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name: str, *channels: int, **options: Any) -> nn.Module:
    return LAYERS[name](*(channels or (3, 4)), **options).eval()


# Order of the phases


def test_the_diagonal_phases_come_first_and_the_rest_row_by_row() -> None:
    assert phases(1, 3) == [(0, 0, 0)]
    assert phases(3, 1) == [(0,), (1,), (2,)]
    assert phases(3) == [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert phases(2, 3)[:3] == [(0, 0, 0), (1, 1, 1), (0, 0, 1)]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_maps_are_interleaved_at_their_phases(dimensions: int, scale: int, last: bool) -> None:
    sides = [2, 3, 4][:dimensions]
    maps = [torch.randn(2, 3, *sides) for _ in range(scale**dimensions)]
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(dimensions)
    if last and layout:
        maps = [m.to(memory_format=layout) for m in maps]
    y = interleave(maps, scale)
    for m, phase in zip(maps, phases(scale, dimensions), strict=True):
        assert torch.equal(y[(..., *(slice(p, None, scale) for p in phase))], m)
    if layout:
        assert y.is_contiguous(memory_format=layout if last else torch.contiguous_format)


# Slow references, from the paper, a pixel at a time


def convolved_at(x: Tensor, conv: nn.Module, place: tuple[int, ...]) -> Tensor:
    """b + sum over k of W[k] x[p + k - (m - 1) // 2], zeros beyond the border: `[C']`."""
    weight, m = conv.weight, conv.weight.shape[-1]
    total = torch.zeros(len(weight), dtype=x.dtype) if conv.bias is None else conv.bias
    for k in product(range(m), repeat=len(place)):
        at = tuple(p + q - (m - 1) // 2 for p, q in zip(place, k, strict=True))
        if all(0 <= a < side for a, side in zip(at, x.shape[1:], strict=True)):
            total = total + weight[(..., *k)] @ x[(slice(None), *at)]
    return total


def at_every_pixel(f: Callable[[tuple[int, ...]], Tensor], sides: tuple[int, ...]) -> Tensor:
    return torch.stack([f(p) for p in product(*map(range, sides))], 1).unflatten(1, sides)


def put(y: Tensor, f: Tensor, phase: tuple[int, ...], scale: int) -> None:
    """y[s i + p] = f[i]."""
    for i in product(*map(range, f.shape[1:])):
        y[(slice(None), *(scale * a + p for a, p in zip(i, phase, strict=True)))] = f[(slice(None), *i)]


def sequential(layer: nn.Module, x: Tensor, from_input: bool) -> Tensor:
    """Eq. 2 and 3."""
    s, sides = layer.scale, tuple(x.shape[1:])
    maps: list[Tensor] = []
    for k in layer.k:
        seen = torch.cat([x, *maps] if from_input or not maps else maps)
        maps.append(at_every_pixel(partial(convolved_at, seen, k.get_submodule("conv")), sides))
    y = torch.zeros(len(maps[0]), *(s * n for n in sides), dtype=x.dtype)
    for f, phase in zip(maps, phases(s, len(sides)), strict=True):
        put(y, f, phase, s)
    return y


def masked(layer: nn.Module, x: Tensor) -> Tensor:
    """Figure 4: dilated and added diagonals, then a masked convolution of the large map, where it is empty."""
    s, d = layer.scale, x.ndim - 1
    sides = tuple(x.shape[1:])
    maps: list[Tensor] = []
    for k in layer.k:
        seen = torch.cat(maps) if maps else x
        maps.append(at_every_pixel(partial(convolved_at, seen, k.get_submodule("conv")), sides))
    large = torch.zeros(len(maps[0]), *(s * n for n in sides), dtype=x.dtype)
    for c, f in enumerate(maps):
        put(large, f, (c,) * d, s)
    y, w = large.clone(), layer.kernel()
    for p in product(*map(range, large.shape[1:])):
        if len({a % s for a in p}) == 1:
            continue
        total = layer.bias
        for offset in product(range(1 - s, s), repeat=d):
            at = tuple(a + o for a, o in zip(p, offset, strict=True))
            if all(0 <= a < side for a, side in zip(at, large.shape[1:], strict=True)):
                total = total + w[(..., *(o + s - 1 for o in offset))] @ large[(slice(None), *at)]
        y[(slice(None), *p)] = total
    return y


def pixel_convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """Section 2.4: one kernel with a stride on the shifted input, and the maps before."""
    s, order = layer.scale, phases(layer.scale, x.ndim - 1)
    sides = tuple(n // s for n in x.shape[1:])
    maps: list[Tensor] = []
    y = torch.zeros(layer.k.get_submodule("conv").out_channels, *x.shape[1:], dtype=x.dtype)
    for n, phase in enumerate(order):

        def value(i: tuple[int, ...], n: int = n, phase: tuple[int, ...] = phase) -> Tensor:
            place = tuple(s * a + p for a, p in zip(i, phase, strict=True))
            own = convolved_at(x, layer.k.get_submodule("conv"), place)
            return own + convolved_at(torch.cat(maps), layer.d[n - 1].get_submodule("conv"), i) if maps else own

        maps.append(at_every_pixel(value, sides))
        put(y, maps[-1], phase, s)
    return y


REFERENCES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "pixeldcl": lambda layer, x: sequential(layer, x, from_input=False),
    "ipixeldcl": lambda layer, x: sequential(layer, x, from_input=True),
    "pixeldcl_masked": masked,
    "pixelconv": pixel_convolved,
}


@EVERY
@pytest.mark.parametrize(("dimensions", "scale"), [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_each_layer_is_its_equation(name: str, dimensions: int, scale: int, kernel_size: int) -> None:
    layer = made(name, 2, 2, scale=scale, kernel_size=kernel_size, dimensions=dimensions).double()
    sides = [6, 6, 12][:dimensions] if name == "pixelconv" else [2, 3, 2][:dimensions]
    x = torch.randn(1, 2, *sides, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], REFERENCES[name](layer, x[0]), rtol=0, atol=FLOAT64)


def test_the_masked_layer_in_three_dimensions_at_scale_3() -> None:
    layer = made("pixeldcl_masked", 1, 1, scale=3, dimensions=3).double()
    x = torch.randn(1, 1, 2, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], masked(layer, x[0]), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize(("scale", "dimensions"), [(2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 2), (1, 2)])
def test_the_mask_keeps_the_offsets_that_join_no_two_diagonals(scale: int, dimensions: int) -> None:
    w = made("pixeldcl_masked", 2, 3, scale=scale, dimensions=dimensions).kernel()
    assert w.shape == (3, 3, *[2 * scale - 1] * dimensions)
    for offset in product(range(1 - scale, scale), repeat=dimensions):
        kept = len({o % scale for o in offset}) > 1
        assert bool((w[(..., *(o + scale - 1 for o in offset))] != 0).all()) == kept
        assert bool((w[(..., *(o + scale - 1 for o in offset))] == 0).all()) != kept


@pytest.mark.parametrize(("scale", "dimensions"), [(2, 2), (3, 2), (2, 3)])
def test_the_masked_convolution_of_the_large_map_never_touches_a_diagonal(scale: int, dimensions: int) -> None:
    layer = made("pixeldcl_masked", scale=scale, dimensions=dimensions, bias=False).double()
    x = torch.randn(1, 3, *[4] * dimensions, dtype=torch.float64)
    y = layer(x)
    diagonal = torch.zeros_like(y)
    for c in range(scale):
        diagonal[(..., *[slice(c, None, scale)] * dimensions)] = 1
    large = y * diagonal
    torch.testing.assert_close(
        large + CONVOLVE[dimensions](large, layer.kernel(), padding=scale - 1), y, rtol=0, atol=FLOAT64
    )


def test_in_one_dimension_all_phases_are_diagonal() -> None:
    one, other = made("pixeldcl_masked", scale=3, dimensions=1), made("pixeldcl", scale=3, kernel_size=2, dimensions=1)
    assert list(one.state_dict()) == list(other.state_dict())
    other.load_state_dict(one.state_dict())
    x = torch.rand(1, 3, 8)
    assert torch.equal(one(x), other(x))


def test_a_pixel_convolution_without_what_it_adds_is_a_convolution() -> None:
    layer, x = made("pixelconv", scale=3), torch.rand(1, 3, 9, 6)
    for part in layer.d:
        nn.init.zeros_(part.get_submodule("conv").weight)
    conv = layer.k.get_submodule("conv")
    torch.testing.assert_close(layer(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


# Cost, as the docstrings state it


def stated(name: str, c: int, n: int, s: int, m: int, d: int) -> tuple[float, int, int]:
    """Multiplications an output value, weights and biases."""
    phases, taps = s**d, (2 * s - 1) ** d - 1 - (s - 1) * 2**d
    match name:
        case "pixeldcl":
            each = m**d * (c + n * phases * (phases - 1) / 2)
            return each / phases, int(each * n), phases * n
        case "ipixeldcl":
            each = m**d * (c + n * (phases - 1) / 2)
            return each, int(phases * n * each), phases * n
        case "pixelconv":
            return m**d * (c + n * (phases - 1) / 2), int(m**d * (c + n * phases * (phases - 1) / 2) * n), n
    sequence = m**d * (c + n * s * (s - 1) / 2)
    return (sequence + s * taps * n) / phases, int((sequence + taps * n) * n), (s if d == 1 else s + 1) * n


@EVERY
@pytest.mark.parametrize(("s", "d"), [(2, 1), (2, 2), (3, 2), (2, 3), (4, 2)])
@pytest.mark.parametrize("m", [2, 3])
def test_costs_are_as_stated(name: str, s: int, d: int, m: int) -> None:
    layer = made(name, 3, 4, scale=s, kernel_size=m, dimensions=d)
    multiplications, weights, biases = stated(name, 3, 4, s, m, d)
    assert sum(p.numel() for p in layer.parameters()) == weights + biases
    assert (
        sum(p.numel() for p in made(name, 3, 4, scale=s, kernel_size=m, dimensions=d, bias=False).parameters())
        == weights
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = layer(torch.rand(1, 3, *[12] * d))
    assert counter.get_total_flops() == 2 * multiplications * prod(y.shape)


def test_the_masked_layer_multiplies_as_often_as_a_transposed_convolution() -> None:
    x, counts = torch.rand(1, 8, 16, 16), []
    for layer in (MaskedPixelDCL(8, 8), nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


# Laws


@pytest.mark.parametrize("name", ENLARGING)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_every_side_becomes_scale_times_it(name: str, dimensions: int, scale: int, kernel_size: int) -> None:
    layer = made(name, 2, 1, scale=scale, kernel_size=kernel_size, dimensions=dimensions)
    sides = [1, 4, 2][:dimensions]
    with torch.no_grad():
        assert layer(torch.rand(2, 2, *sides)).shape == (2, 1, *(scale * n for n in sides))


@EVERY
def test_copies_and_files_give_the_same_layer(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 6, 8)
    file = BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = made(name)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(other(x), layer(x))
    assert set(layer.state_dict()) == set(dict(layer.named_parameters()))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_comes_out_as_it_went_in(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name).to(dtype), torch.rand(1, 3, 8, 8, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    exact = layer.double()(x.double())
    assert (y.double() - exact).abs().max() < 16 * torch.finfo(
        dtype
    ).eps  # a few roundings of numbers below 2, in sequence


@EVERY
def test_autocast_runs_in_bfloat16(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).abs().max() < 16 * torch.finfo(torch.bfloat16).eps


@EVERY
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_channels_last_stays_and_says_the_same(name: str, kernel_size: int, dimensions: int) -> None:
    layout: Any = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions]
    layer, x = made(name, kernel_size=kernel_size, dimensions=dimensions), torch.rand(2, 3, *[4, 6, 4][:dimensions])
    plain = layer(x)
    assert plain.is_contiguous()
    y = layer.to(memory_format=layout)(x.to(memory_format=layout))
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, plain)


@EVERY
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    layer, x = made(name).double(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=0, atol=FLOAT64)


@pytest.mark.usefixtures("fresh_compiler")
@EVERY
@pytest.mark.parametrize("scale", [2, 3])
def test_it_compiles_without_a_break_and_trains(name: str, scale: int) -> None:
    layer, x = made(name, scale=scale).train(), torch.rand(1, 3, 6, 6)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_it_trains_under_data_parallel(tmp_path: Path) -> None:
    """One process: what it broadcasts and gathers."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for name in LAYERS:
            layer = nn.parallel.DistributedDataParallel(made(name).train())
            for _ in range(2):  # the second pass finds out what was not reduced in the first
                layer(torch.rand(1, 3, 6, 6)).square().sum().backward()
            assert all(p.grad is not None for p in layer.parameters())
    finally:
        distributed.destroy_process_group()


@EVERY
def test_gradcheck_twice(name: str) -> None:
    layer = made(name, 1, 1, kernel_size=2).double()
    x = torch.randn(1, 1, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


# What they are proved to be


@pytest.mark.parametrize("name", ENLARGING)
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_certificates_of_layers_that_enlarge(name: str, scale: int) -> None:
    layer = made(name, 3, 4, scale=scale)
    assert certify(layer, (3, 24, 24)).verdict == ("pass" if scale == 1 else "fail")
    assert certify(layer, (3, 24, 24), direction="backward").passed


def test_certificates_of_the_pixel_convolution() -> None:
    for direction in ("forward", "backward"):
        assert certify(made("pixelconv"), (3, 32, 32), direction=direction).verdict == "fail"
        assert certify(made("pixelconv", scale=1), (3, 32, 32), direction=direction).passed


@EVERY
def test_geometry_reads_every_layer(name: str) -> None:
    """The energy of noise at each phase is the predicted one, where maps are many and independent."""
    layer = made(name, 48, 48, bias=False)
    assert len(layers(layer, (48, 16, 16))) >= 4
    predicted = energy_map(layer, (48, 16, 16), direction="forward").double()
    with torch.no_grad():
        measured = layer(torch.randn(24, 48, 16, 16)).double().square().mean((0, 1))
    both = [m[4:-4, 4:-4].unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((0, 2)) for m in (predicted, measured)]
    relative = [phase / phase.mean() for phase in both]
    assert (relative[0] - relative[1]).abs().max() < 0.12  # weights of one draw are a little correlated with each other


# Faults

WRONG: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "scale: must be at least 1, got 0": (ValueError, {"scale": 0}),
    "scale: must be an integer, got 2.5": (TypeError, {"scale": 2.5}),
    "kernel_size: must be at least 1, got 0": (ValueError, {"kernel_size": 0}),
    "kernel_size: must be an integer, got '3'": (TypeError, {"kernel_size": "3"}),
    "dimensions: must be 1, 2 or 3, got 4": (ValueError, {"dimensions": 4}),
    "in_channels: must be at least 1, got 0": (ValueError, {"in_channels": 0}),
    "out_channels: must be at least 1, got -1": (ValueError, {"out_channels": -1}),
}


@EVERY
@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_out_of_range_is_refused_in_a_sentence(name: str, sentence: str) -> None:
    error, options = WRONG[sentence]
    channels = {"in_channels": 1, "out_channels": 1}
    with pytest.raises(error) as raised:
        LAYERS[name](**channels | options)
    assert str(raised.value) == sentence


def test_sides_that_are_no_multiple_of_the_scale_are_refused_by_the_pixel_convolution() -> None:
    with pytest.raises(ValueError, match=r"x: sides must be multiples of scale=2, got \[5, 6\]"):
        made("pixelconv")(torch.rand(1, 3, 5, 6))


def test_as_many_maps_as_phases_are_interleaved() -> None:
    with pytest.raises(ValueError, match=r"maps: must be scale\^2=4, got 3"):
        interleave([torch.rand(1, 1, 2, 2)] * 3, 2)
