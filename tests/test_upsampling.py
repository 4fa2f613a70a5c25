"""Laws over every layer of `UPSAMPLERS`; the layers of the owner's own files against their equations, in loops."""

import copy
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from gradlens.geometry import certify, energy_map, layers, lint
from gradlens.upsampling import (
    UPSAMPLERS,
    ResizeConv,
    fold,
    icnr_,
    icnr_transposed_,
    shuffle,
    subpixel,
    subpixel_icnr,
    tailed,
    transposed,
)
from gradlens.upsampling.folding import resize_taps

EVERY = pytest.mark.parametrize("name", UPSAMPLERS)
FLOAT64 = 1e-12  # of a few hundred products of order 1
FLOAT32 = 1e-5


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name: str, *channels: int, **options: Any) -> nn.Module:
    return UPSAMPLERS[name](*(channels or (3, 4)), **options).eval()


# Shape, state, dtype, layout


@EVERY
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [3, 4, 5])
def test_every_side_becomes_scale_times_it(name: str, dimensions: int, scale: int, kernel_size: int) -> None:
    if scale == 1 and kernel_size == 4 and not name.startswith(("subpixel", "resize")):
        kernel_size = 3  # a transposed convolution of even size has no middle
    layer = made(name, 2, 3, scale=scale, kernel_size=kernel_size, dimensions=dimensions)
    sides = [5, 4, 6][:dimensions]
    assert layer(torch.rand(2, 2, *sides)).shape == (2, 3, *(scale * n for n in sides))


@EVERY
def test_copies_and_files_give_the_same_layer(name: str) -> None:
    layer, x = made(name), torch.rand(1, 3, 7, 8)
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


@EVERY
def test_a_weight_that_lies_channels_last_lets_the_map_lie_so(name: str) -> None:
    layer = made(name).to(memory_format=torch.channels_last)
    assert layer(torch.rand(2, 3, 9, 8)).is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    layer, x = made(name).double(), torch.rand(3, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), rtol=0, atol=FLOAT64)


@pytest.mark.usefixtures("fresh_compiler")
@EVERY
def test_it_compiles_without_a_break_and_trains(name: str) -> None:
    layer, x = made(name).train(), torch.rand(1, 3, 8, 8)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_it_trains_under_data_parallel(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for name in UPSAMPLERS:
            layer = nn.parallel.DistributedDataParallel(made(name).train())
            for _ in range(2):  # the second pass finds out what was not reduced in the first
                layer(torch.rand(1, 3, 6, 6)).square().sum().backward()
            assert all(p.grad is not None for p in layer.parameters())
    finally:
        distributed.destroy_process_group()


@EVERY
def test_gradcheck_twice(name: str) -> None:
    """Second derivatives too: penalties on gradients need them."""
    layer = made(name, 1, 2).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


@EVERY
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_shift_by_one_pixel_is_one_by_the_scale(name: str, scale: int) -> None:
    layer = made(name, scale=scale, kernel_size=3).double()
    x = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    y, moved = layer(x), layer(x.roll((1, 2), (2, 3)))
    inside = (..., slice(12 * scale, -12 * scale), slice(12 * scale, -12 * scale))
    torch.testing.assert_close(moved[inside], y.roll((scale, 2 * scale), (2, 3))[inside], rtol=0, atol=FLOAT64)


@EVERY
@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"scale": 0}, ValueError, "scale: must be at least 1, got 0"),
        ({"scale": 1.5}, TypeError, "scale: must be an integer, got 1.5"),
        ({"kernel_size": 0}, ValueError, "kernel_size: must be at least 1, got 0"),
        ({"dimensions": 4}, ValueError, "dimensions: must be 1, 2 or 3, got 4"),
    ],
)
def test_what_cannot_be_is_said(name: str, given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(name, **given)
    with pytest.raises(ValueError, match="in_channels: must be at least 1"):
        made(name, 0, 4)


@EVERY
def test_geometry_reads_every_layer(name: str) -> None:
    assert len(layers(made(name), (3, 24, 24), direction="forward"))


# Certificates: what a constant becomes

FORWARD = {  # untrained; by name
    "deconv": "fail", "deconv_tail": "fail", "subpixel": "fail", "subpixel_icnr": "pass", "resize": "pass",
    "resize_bilinear": "pass", "hold_a": "pass", "hold_b": "pass", "hold_c": "pass", "pixeldcl": "fail",
    "ipixeldcl": "fail", "pixeldcl_masked": "fail", "sinc": "pass",
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("scale", [2, 3])
def test_the_forward_certificate_of_each(name: str, scale: int) -> None:
    found = certify(made(name, 4, 3, scale=scale), (4, 40, 40))
    assert found.verdict == FORWARD[name]


@EVERY
def test_the_backward_certificate_passes_for_every_layer_that_enlarges(name: str) -> None:
    assert certify(made(name, 4, 3), (4, 40, 40), direction="backward").passed


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("name", ["deconv", "resize", "resize_bilinear"])
def test_certificates_on_one_and_three_axes(dimensions: int, name: str) -> None:
    size = (2, *[24 if dimensions == 1 else 12] * dimensions)
    assert certify(made(name, 2, 2, dimensions=dimensions), size).verdict == FORWARD[name]


def test_what_folds_its_kernel_evenly_has_no_findings_and_what_is_uneven_has() -> None:
    for scale, k in product((2, 3), (3, 5)):
        assert not lint(ResizeConv(4, 3, scale=scale, kernel_size=k), (4, 24, 24), direction="forward")
    found = lint(transposed(4, 3, kernel_size=3), (4, 24, 24), direction="forward")
    assert [finding.rule for finding in found] == ["partial-overlap"]
    assert found[0].severity == "error"


def test_a_kernel_that_is_folded_unevenly_is_still_found() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

        def kernel(self) -> Tensor:
            return self.weight * 2

        def forward(self, x: Tensor) -> Tensor:
            return F.conv_transpose2d(x, self.kernel(), stride=2)

    assert [finding.rule for finding in lint(Uneven(), (4, 24, 24), direction="forward")] == ["partial-overlap"]


# Transposed, tail, sub-pixel


def scattered(x: Tensor, weight: Tensor, s: int) -> Tensor:
    """Every pixel of `x` `[C H W]` times the kernel `[C C' m m]`, added where it lands: the whole map."""
    _, h, w = x.shape
    m = weight.shape[-1]
    y = x.new_zeros(weight.shape[1], (h - 1) * s + m, (w - 1) * s + m)
    for i, j in product(range(h), range(w)):
        y[:, s * i : s * i + m, s * j : s * j + m] += torch.einsum("c,cokl->okl", x[:, i, j], weight)
    return y


@pytest.mark.parametrize(("scale", "kernel_size"), [(2, 4), (2, 3), (2, 5), (3, 3), (3, 4), (3, 2), (4, 2), (1, 3)])
def test_a_transposed_convolution_scatters_its_kernel(scale: int, kernel_size: int) -> None:
    layer = transposed(2, 3, scale=scale, kernel_size=kernel_size).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    whole = scattered(x[0], weight, scale)
    before = -(-max(kernel_size - scale, 0) // 2)
    expected = F.pad(whole, [0, 2 * scale] * 2)[:, before : before + 4 * scale, before : before + 5 * scale]
    torch.testing.assert_close(layer(x)[0], expected + bias.view(-1, 1, 1), rtol=0, atol=FLOAT64)


def test_a_tail_is_a_convolution_after_it_and_a_box_of_it_removes_the_lattice() -> None:
    layer = tailed(2, 1, tail=2).double()
    with torch.no_grad():
        layer.get_submodule("conv").get_parameter("weight").fill_(0.25)
    assert certify(layer, (2, 24, 24)).passed
    assert not certify(tailed(2, 1, tail=3), (2, 24, 24)).passed


def test_even_kernels_without_a_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size: must be odd at scale 1, got 4"):
        transposed(1, 1, scale=1)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_shuffling_puts_channels_between_pixels(dimensions: int, scale: int) -> None:
    x = torch.randn(2, 2 * scale**dimensions, *(2, 3, 4)[:dimensions])
    y = shuffle(x, scale)
    for c, phase in product(range(2), product(range(scale), repeat=dimensions)):
        channel = c * scale**dimensions + sum(p * scale**e for e, p in enumerate(reversed(phase)))
        assert torch.equal(y[:, c][(slice(None), *(slice(p, None, scale) for p in phase))], x[:, channel])


def test_shuffling_in_two_dimensions_is_torchs() -> None:
    x = torch.randn(2, 12, 3, 4)
    assert torch.equal(shuffle(x, 2), F.pixel_shuffle(x, 2))
    with pytest.raises(ValueError, match=r"channels must be a multiple of scale\^2=9, got 12"):
        shuffle(x, 3)


# ICNR


@pytest.mark.parametrize("initialiser", [nn.init.kaiming_normal_, nn.init.orthogonal_, nn.init.xavier_uniform_])
def test_icnr_is_a_resize_behind_a_convolution(initialiser: Any) -> None:
    layer = subpixel_icnr(3, 2, scale=3, initialiser=initialiser)
    x = torch.rand(1, 3, 5, 6)
    weight = layer.get_submodule("conv").get_parameter("weight")
    plain = F.conv2d(x, weight[::9], padding=1)
    torch.testing.assert_close(layer(x), F.interpolate(plain, scale_factor=3))
    assert weight[::9].std() > 0


@pytest.mark.parametrize(("scale", "kernel_size"), [(2, 4), (2, 2), (2, 6), (3, 6), (4, 4), (2, 3), (2, 5), (3, 5)])
def test_icnr_of_a_transposed_convolution_passes_and_its_phases_are_one(scale: int, kernel_size: int) -> None:
    layer = transposed(3, 2, scale=scale, kernel_size=kernel_size)
    icnr_transposed_(layer.get_parameter("weight"), scale)
    assert certify(layer, (3, 40, 40)).passed
    if kernel_size % scale == 0:  # a convolution of kernel / s taps at low resolution, then a resize
        y = layer(torch.randn(1, 3, 6, 6))
        crop = (kernel_size - scale + 1) // 2 % scale
        blocks = y[..., (scale - crop) % scale :, (scale - crop) % scale :]
        blocks = blocks[..., : blocks.shape[2] // scale * scale, : blocks.shape[3] // scale * scale]
        first = blocks[..., ::scale, ::scale]
        torch.testing.assert_close(blocks, F.interpolate(first, scale_factor=scale))


def test_icnr_keeps_what_the_initialiser_gives_and_refuses_holes() -> None:
    weight = icnr_(torch.empty(8, 5, 3, 3), 2, lambda one: nn.init.constant_(one, 0.5))
    assert (weight == 0.5).all()
    with pytest.raises(ValueError, match="first size must be a multiple of 4 phases"):
        icnr_(torch.empty(6, 5, 3, 3), 2)
    with pytest.raises(ValueError, match=r"kernels must not be smaller than scale=3, got \[2, 2\]"):
        icnr_transposed_(torch.empty(6, 5, 2, 2), 3)


def test_variance_of_a_drawn_layer_is_that_of_the_initialiser() -> None:
    """Kaiming's: twice the mean square of a white input, before a ReLU; 64 x 4096 outputs, three per cent."""
    x = torch.randn(8, 64, 16, 16)
    for layer in (subpixel_icnr(64, 64, bias=False), transposed(64, 64, bias=False), transposed(64, 64, kernel_size=5)):
        if isinstance(layer, nn.ConvTranspose2d):
            icnr_transposed_(layer.weight, 2)
            layer.bias = None
        assert float(layer(x).detach()[..., 3:-3, 3:-3].var()) == pytest.approx(2, rel=0.1)


# Resize-convolution, fused


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_fused_is_two_steps_also_at_the_border(padding: Any, mode: Any, dimensions: int) -> None:
    named = {1: "linear", 2: "bilinear", 3: "trilinear"}[dimensions] if mode == "linear" else mode
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    for scale, k, side in product((1, 2, 3, 4), (1, 2, 3, 4, 5, 7), (4, 11)):
        if (dimensions == 3 and (k > 4 or side > 4)) or (padding == "reflect" and k // 2 >= scale * side):
            continue
        layer = ResizeConv(
            2, 3, scale=scale, kernel_size=k, dimensions=dimensions, mode=mode, padding=padding, fused=True
        ).double()
        x = torch.randn(2, 2, side, *(side + 1, side + 2)[: dimensions - 1], dtype=torch.float64)
        resized = F.interpolate(x, scale_factor=scale, mode=named)
        around = [(k - 1) // 2, k // 2] * dimensions
        wide = F.pad(resized, around, mode="constant" if padding == "zeros" else padding) if k > 1 else resized
        torch.testing.assert_close(layer(x), convolve(wide, layer.weight, layer.bias), rtol=0, atol=FLOAT64)


def test_gradients_of_the_fused_layer_are_those_of_two_steps() -> None:
    for mode, padding in product(("nearest", "linear"), ("zeros", "reflect", "replicate")):
        one = ResizeConv(2, 3, kernel_size=5, mode=mode, padding=padding, fused=True).double()  # type: ignore[arg-type]
        two = copy.deepcopy(one)
        two.fused = False
        x = torch.randn(1, 2, 12, 13, dtype=torch.float64)
        found = []
        for layer in (one, two):
            given = x.clone().requires_grad_()
            found.append(torch.autograd.grad(layer(given).square().sum(), [given, *layer.parameters()]))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 9])
@pytest.mark.parametrize(("scale", "kernel_size"), [(2, 5), (4, 9), (3, 7), (2, 3)])
def test_few_channels_and_many_are_the_same_layer(channels: int, scale: int, kernel_size: int) -> None:
    """Eight are written as a convolution and a shuffle on a CPU, nine as a transposed convolution."""
    layer = ResizeConv(3, channels, scale=scale, kernel_size=kernel_size).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    two = copy.deepcopy(layer)
    two.fused = False
    torch.testing.assert_close(layer(x), two(x), rtol=0, atol=FLOAT64)
    assert layer(x.float().double()).is_contiguous() and not lint(layer, (3, 24, 24), direction="forward")


def test_groups_and_kernels_of_two_sizes_are_folded_too() -> None:
    layer = ResizeConv(4, 6, scale=3, kernel_size=(1, 3), groups=2, fused=True).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=3), layer.weight, layer.bias, padding=(0, 1), groups=2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=FLOAT64)


def test_the_fold_of_an_impulse_is_the_taps_of_the_resize() -> None:
    for scale, mode in product((2, 3, 4), ("nearest", "linear")):
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        torch.testing.assert_close(fold(one, scale, mode).flatten(), resize_taps(scale, mode))  # type: ignore[arg-type]
    assert fold(torch.ones(1, 1, 3, 3), 2)[0, 0].tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]


@pytest.mark.parametrize(
    "write",
    [
        lambda layer: layer.weight.data.mul_(2),  # what moving averages do, unseen by version counters
        lambda layer: layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()}),
        lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.detach() * 2)),
        lambda layer: torch._foreach_mul_([layer.weight.data], 2),
    ],
    ids=["data", "state", "parameter", "foreach"],
)
def test_the_folded_kernel_is_never_stale(write: Any) -> None:
    layer, x = ResizeConv(2, 3, bias=False), torch.rand(1, 2, 5, 5)
    with torch.no_grad():
        before, twin = layer(x), copy.deepcopy(layer)
        write(layer)
        torch.testing.assert_close(layer(x), 2 * before)
        torch.testing.assert_close(twin(x), before)
        torch.testing.assert_close(layer.double()(x.double()), 2 * before.double(), rtol=1e-5, atol=1e-6)


def test_thirds_stay_exact_through_bfloat16_and_meta() -> None:
    layer = ResizeConv(1, 1, scale=3, mode="linear", padding="replicate", fused=True)
    state = copy.deepcopy(layer.state_dict())
    there = layer.bfloat16().double().to("meta").to_empty(device="cpu")
    there.load_state_dict(state)
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    again = ResizeConv(1, 1, scale=3, mode="linear", padding="replicate", fused=False).double()
    again.load_state_dict(state)
    torch.testing.assert_close(there(x), again(x), rtol=0, atol=FLOAT64)


def test_what_is_exported_is_a_plain_transposed_convolution() -> None:
    layer, x = ResizeConv(4, 6, scale=3, groups=2), torch.rand(1, 4, 5, 6)
    plain = layer.as_transposed()
    assert type(plain) is nn.ConvTranspose2d
    torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=FLOAT32)
    for other in (
        ResizeConv(1, 1, padding="reflect", kernel_size=7),
        ResizeConv(1, 1, mode="linear"),
        ResizeConv(1, 1, kernel_size=2),
    ):
        with pytest.raises(ValueError, match="as_transposed: needs nearest taps, odd kernels and a border of zeros"):
            other.as_transposed()


def test_a_resize_is_faulted_by_name() -> None:
    with pytest.raises(ValueError, match="padding: must be one of zeros, reflect, replicate, got 'same'"):
        ResizeConv(1, 1, padding="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='mode: must be "nearest" or "linear", got \'cubic\''):
        ResizeConv(1, 1, mode="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups: must divide 3 and 4 channels, got 2"):
        ResizeConv(3, 4, groups=2)
    with pytest.raises(ValueError, match=r"x: must be \[N C \*spatial\] with 2 spatial axes, got \[1, 3, 5\]"):
        ResizeConv(3, 4)(torch.rand(1, 3, 5))
    with pytest.raises(ValueError, match=r"kernel_size: must be one or 2 integers, got \(1, 2, 3\)"):
        ResizeConv(3, 4, kernel_size=(1, 2, 3))


def test_the_predicted_energy_of_a_resize_is_even_where_its_taps_are() -> None:
    """K = 3, s = 2: phases have 1 and 2, or 2 and 1, of three taps together; 64 x 64 kernels leave some per cent."""
    even = energy_map(ResizeConv(64, 64), (64, 24, 24), direction="forward")[16:32, 16:32]
    uneven = energy_map(transposed(64, 64, kernel_size=3), (64, 24, 24), direction="forward")[16:32, 16:32]
    assert float(even.max() / even.min()) < 1.1
    assert float(uneven.max() / uneven.min()) == pytest.approx(4, rel=0.1)


def test_sub_pixels_start_apart_and_with_icnr_alike() -> None:
    assert not certify(subpixel(3, 4), (3, 24, 24)).passed
    assert certify(subpixel_icnr(3, 4), (3, 24, 24)).passed
