"""Certificates: exact cases, the papers' layers, slow references of equations 1, 6, 8 and 9, and what is left untouched."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analyses.layers import (
    LevelDependent,
    blurred,
    dead,
    deconvolution,
    equalised_strided,
    equalised_transposed,
    held,
    resize_convolution,
    strided,
    subpixel,
    windowed_sinc,
)
from gradlens.geometry import certify, coverage
from gradlens.geometry.certificate.forward import steady_phases
from gradlens.geometry.certificate.phases import periods_of, unevenness
from gradlens.geometry.certificate.polyphase import backward_links, chain, gains
from gradlens.geometry.certificate.shifts import accumulated_strides
from gradlens.geometry.certificate.specimen import in_float64
from gradlens.upsampling import HeldInside, IPixelDCL, MaskedPixelDCL, PixelDCL

SIZE = (3, 24, 24)
FLOAT32 = 1e-6  # sums of float32 taps
FLOAT64 = 1e-10  # of a few hundred products


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Slow references, from the paper's equations


def polyphase_dc(weight: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """R_{c,q}(1) of eq. 1 by loops: `[in, out, *phases]` of a transposed convolution without groups."""
    axes = weight.ndim - 2
    found = torch.zeros(*weight.shape[:2], *[stride] * axes, dtype=torch.float64)
    for tap in product(*(range(k) for k in weight.shape[2:])):
        phase = tuple(dilation * n % stride for n in tap)
        found[(..., *phase)] += weight[(..., *tap)].double()
    return found


def rolled_alike(a: Tensor, b: Tensor, axes: int, tolerance: float) -> bool:
    """Whether `a` is `b` up to a cyclic shift of its last axes: borders only move phases."""
    shifts = product(*(range(n) for n in b.shape[-axes:]))
    return any(torch.allclose(a, b.roll(s, list(range(-axes, 0))), rtol=0, atol=tolerance) for s in shifts)


@pytest.mark.parametrize(("axes", "kernel", "stride", "dilation"), [
    (1, 3, 2, 1), (1, 16, 8, 1), (1, 5, 3, 2), (2, 3, 2, 1), (2, 4, 2, 1), (2, 2, 3, 1), (2, 3, 4, 3), (3, 3, 2, 1),
])  # fmt: skip
def test_filters_are_those_of_equation_1(axes: int, kernel: int, stride: int, dilation: int) -> None:
    make = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    layer = make(2, 3, kernel, stride=stride, dilation=dilation).double()
    links = chain(layer, 2, axes)
    assert links is not None
    gain, offset = gains(links, 2, axes, torch.zeros((), dtype=torch.float64))
    assert rolled_alike(gain, polyphase_dc(layer.weight, stride, dilation), axes, FLOAT64)
    assert layer.bias is not None
    assert torch.equal(offset, layer.bias.view(-1, *[1] * axes).expand_as(offset))


def test_a_strided_convolution_hands_back_the_filters_of_its_transposed_one() -> None:
    layer = nn.Conv2d(3, 4, 5, stride=2).double()
    links = chain(layer, 3, 2)
    assert links is not None
    gain, _ = gains(backward_links(links), 4, 2, layer.weight)
    assert rolled_alike(gain, polyphase_dc(layer.weight, 2), 2, FLOAT64)


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
    "sub-pixel": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2)),
    "two": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2), nn.ConvTranspose2d(3, 2, 3, stride=2)),
    "tail": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2), nn.ReflectionPad2d(2), nn.Conv2d(3, 2, 5)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Upsample(scale_factor=2)), nn.Dropout(), nn.Conv2d(4, 2, 3)),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear 3": lambda: nn.Upsample(scale_factor=3, mode="bilinear"),
    "resized twice": lambda: nn.Sequential(
        nn.ConvTranspose2d(4, 3, 3, stride=2),
        nn.Upsample(scale_factor=3, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "norm": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 3, stride=2), nn.BatchNorm2d(3)),
    "hold": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 1, stride=2), nn.AvgPool2d(2, stride=1)),
    "down": lambda: nn.Sequential(nn.Conv2d(4, 3, 3, stride=2), nn.ConvTranspose2d(3, 2, 3, stride=2)),
    "three halves": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 4, stride=3), nn.Conv2d(3, 2, 3, stride=2)),
    "unshuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.ConvTranspose2d(16, 3, 3, stride=2)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_weights_say_what_is_measured(name: str) -> None:
    """Equation 6: a constant A comes out as sum_c A_c R_c,q + b_q, whatever the chain."""
    specimen = in_float64(CHAINS[name]())
    links = chain(specimen, 4, 2)
    assert links is not None
    gain, offset = gains(links, 4, 2, torch.zeros((), dtype=torch.float64))
    constants = torch.randn(2, 4, dtype=torch.float64)
    said = torch.einsum("nc,co...->no...", constants, gain) + offset
    found = steady_phases(specimen(constants[..., None, None].expand(2, 4, 48, 48)), gain.shape[2:], 1e-7)
    assert found is not None and found.shape == said.shape
    assert rolled_alike(found.detach(), said, 2, FLOAT64)


def test_other_layers_are_no_chain() -> None:
    class Own(nn.Conv2d):
        pass

    layers = [nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3), Own(3, 3, 3),
              nn.Upsample(size=9), nn.Upsample(scale_factor=1.5), nn.Upsample(scale_factor=2, mode="bicubic"),
              nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)]  # fmt: skip
    assert all(chain(nn.Sequential(layer), 3, 2) is None for layer in layers)


def test_harmonics_belong_to_the_smallest_period_that_has_them() -> None:
    columns = torch.tensor([1.0, -1, 1, -1])
    assert periods_of((4, 4)) == [2, 4] and periods_of((2, 3)) == [2, 3, 6] and periods_of((1, 1)) == []
    assert unevenness(columns, (4,), 2) == 1 and unevenness(columns, (4,), 4) < FLOAT64
    square = torch.tensor([1.0, 0, -1, 0])
    assert unevenness(square, (4,), 2) < FLOAT64 and unevenness(square, (4,), 4) == 1
    board = columns[:2, None] * torch.tensor([1.0, 1, -2])
    board = board.double()
    assert unevenness(board, (2, 3), 6) == pytest.approx(2)
    assert unevenness(board, (2, 3), 2) < FLOAT64 > unevenness(board, (2, 3), 3)


# Accumulated strides


STRIDES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, int] | None]]] = {
    "convolution": (lambda: nn.Conv2d(3, 3, 3), [(1, 1)] * 2),
    "deconvolution": (lambda: nn.ConvTranspose2d(3, 3, 5, stride=3), [(1, 3)] * 2),
    "two": (lambda: nn.Sequential(deconvolution(3), nn.ReLU(), deconvolution(3)), [(1, 4)] * 2),
    "unequal": (lambda: nn.ConvTranspose2d(3, 3, 5, stride=(1, 4)), [(1, 1), (1, 4)]),
    "down and up": (lambda: nn.Sequential(strided(3), strided(3), deconvolution(3), deconvolution(3)), [(4, 4)] * 2),
    "three halves": (lambda: nn.Sequential(deconvolution(4, 3), nn.Conv2d(3, 3, 2, stride=2)), [(2, 3)] * 2),
    "max-pool": (lambda: nn.Sequential(strided(7), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), [(4, 1)] * 2),
    "norm over the image": (lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.InstanceNorm2d(3), deconvolution(3)), [(1, 2)] * 2),
    "norm that sees the border": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 5, padding=2), nn.InstanceNorm2d(3), strided(5), nn.ReLU(),
                              nn.InstanceNorm2d(3), deconvolution(3)), [(2, 2)] * 2),
    "holes": (lambda: deconvolution(1, 4), [(1, 4)] * 2),
    "indexing": (lambda: Interleaved(), [(1, 2), (1, 1)]),
    "dense": (lambda: Dense(), [None, None]),
}  # fmt: skip


class Interleaved(nn.Module):
    """Two convolutions written to even and odd rows: no layer says that it enlarges."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(x.shape[0], 3, 2 * x.shape[2], x.shape[3])
        y[:, :, ::2], y[:, :, 1::2] = self.even(x), self.odd(x)
        return y


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32 * 32, 32 * 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2)).view_as(x)


@pytest.mark.parametrize("name", STRIDES)
def test_strides_are_found_by_shifting(name: str) -> None:
    make, strides = STRIDES[name]
    found = accumulated_strides(in_float64(make()), (3, 32, 32), torch.Generator().manual_seed(0))
    assert found == strides


# Forward


def test_deviation_is_the_departure_from_the_mean() -> None:
    """Phases 1 and 1.2: 0.1 / 1.1, by weights and by measurement; the largest constant has the larger mean, not the rms."""
    layer = nn.ConvTranspose1d(1, 1, 2, stride=2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.2], dtype=torch.float64))
    table = certify(layer, (1, 24)).table
    rms = (1.1**2 + 0.1**2) ** 0.5
    assert table.loc[table["method"] == "weights", "deviation"].item() == pytest.approx(0.1 / rms, rel=1e-9)
    measured = table.loc[table["method"] == "measurement", "deviation"]
    assert len(measured) == 3 and measured.to_numpy() == pytest.approx([0.1 / 1.1] * 3, rel=1e-9)


FORWARD: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "deconvolution 3x3": (lambda: deconvolution(3), "fail", (2,)),
    "deconvolution 4x4": (lambda: deconvolution(4), "fail", (2,)),
    "deconvolution 3x3, equalised": (lambda: equalised_transposed(deconvolution(3)), "pass", ()),
    "deconvolution 4x4, equalised": (lambda: equalised_transposed(deconvolution(4)), "pass", ()),
    "deconvolution with the hold inside": (lambda: HeldInside(3, 3), "pass", ()),
    "sub-pixel": (lambda: subpixel(icnr=False, one_bias=True), "fail", (2,)),
    "sub-pixel, ICNR": (lambda: subpixel(icnr=True, one_bias=True), "pass", ()),
    "sub-pixel, ICNR, biases differ": (lambda: subpixel(icnr=True, one_bias=False), "fail", (2,)),
    "resize": (lambda: resize_convolution("nearest"), "pass", ()),
    "bilinear resize": (lambda: resize_convolution("bilinear"), "pass", ()),
    "pixel deconvolution": (lambda: PixelDCL(3, 3), "fail", (2,)),
    "pixel deconvolution from the input": (lambda: IPixelDCL(3, 3), "fail", (2,)),
    "pixel deconvolution, masked": (lambda: MaskedPixelDCL(3, 3), "fail", (2,)),
    "sinc": (lambda: windowed_sinc(normalised=False), "fail", (2,)),
    "sinc, normalised": (lambda: windowed_sinc(normalised=True), "pass", ()),
    "two": (lambda: nn.Sequential(deconvolution(3), nn.ReLU(), deconvolution(3)), "fail", (2, 4)),
    "uneven, then even": (lambda: nn.Sequential(deconvolution(3), nn.Upsample(scale_factor=2)), "fail", (4,)),
    "even, then uneven": (lambda: nn.Sequential(resize_convolution("nearest"), nn.ReLU(), deconvolution(3)), "fail", (2,)),
    "convolution": (lambda: nn.Conv2d(3, 3, 3), "pass", ()),
    "level-dependent": (LevelDependent, "level-dependent", (2,)),
    "dead": (lambda: dead(deconvolution(3)), "vacuous", ()),
    "dead, then biases of a sub-pixel layer": (lambda: dead(subpixel(icnr=True, one_bias=False)), "fail", (2,)),
    "norm of a constant": (lambda: nn.Sequential(nn.InstanceNorm2d(3), deconvolution(4)), "vacuous", ()),
    "no weights": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Sigmoid()), "pass", ()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str) -> None:
    make, verdict, periods = FORWARD[name]
    found = certify(make(), SIZE)
    assert (found.verdict, found.periods) == (verdict, periods), f"{found.why}\n{found.table}"
    assert found.passed == (verdict == "pass")
    assert (found.remedy == "") == found.passed and found.why
    measured = found.table[found.table["method"] == "measurement"]
    assert sorted(set(measured["level"])) == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("make", [
    lambda: deconvolution(3), lambda: deconvolution(1), lambda: subpixel(icnr=False, one_bias=False), lambda: PixelDCL(3, 3),
    lambda: MaskedPixelDCL(3, 3),
])  # fmt: skip
def test_a_zero_order_hold_makes_any_period_constant(make: Callable[[], nn.Module]) -> None:
    """002, approach A: its mean over U pixels is the same from every phase on."""
    layer = make()
    assert certify(layer, SIZE).verdict == "fail"
    found = certify(nn.Sequential(layer, held()), SIZE)
    assert found.passed and found.deviation < FLOAT64, found.table


def test_equation_9_alone_fails_and_is_named() -> None:
    found = certify(subpixel(icnr=True, one_bias=False), SIZE)
    assert found.verdicts == {"filters": "pass", "biases": "fail", "response": "fail"}
    assert "eq. 9" in found.why and "one bias" in found.remedy


def test_a_deconvolution_always_has_one_bias() -> None:
    """002, section 3.3: only eq. 8 has to be considered."""
    assert certify(deconvolution(4), SIZE).verdicts["biases"] == "pass"


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 2, 1), (2, 3, 1), (3, 2, 2)])
def test_holes_fail_first(kernel: int, stride: int, dilation: int) -> None:
    assert not coverage(kernel, (stride, stride), dilation=dilation).all()
    layer = nn.ConvTranspose2d(3, 3, kernel, stride=stride, dilation=dilation)
    found = certify(layer, SIZE)
    first = found.table.iloc[0]
    assert (first["statement"], first["method"], first["verdict"]) == ("holes", "overlap", "fail")
    assert "holes" in found.why


def test_holes_that_are_held_are_a_nearest_resize() -> None:
    found = certify(nn.Sequential(deconvolution(1), nn.AvgPool2d(2, stride=1)), SIZE)
    assert found.passed and "holes" not in found.verdicts


def test_pixel_deconvolution_passes_only_where_its_kernels_happen_to_repeat_the_first_map() -> None:
    """Dependence is not equality: eq. 7 is met by k2, k3, k4 that hand on means of the maps before, which nothing asks for."""
    layer = PixelDCL(3, 3)
    with torch.no_grad():
        for number, k in enumerate([conv for conv in layer.k.modules() if isinstance(conv, nn.Conv2d)][1:], start=1):
            assert k.bias is not None
            k.weight.zero_()
            k.bias.zero_()
            for before in range(number):
                k.weight[:, 3 * before : 3 * before + 3, 1, 1] = torch.eye(3) / number
    assert certify(layer, SIZE).passed
    with torch.no_grad():
        layer.k[1].get_parameter("conv.weight").mul_(1.01)
    assert 0.003 < certify(layer, SIZE).deviation < 0.01


def test_the_truncated_sinc_is_nearly_even() -> None:
    found = certify(windowed_sinc(normalised=False), SIZE)
    assert 1e-5 < found.deviation < 0.01
    assert certify(windowed_sinc(normalised=False), SIZE, tolerance=0.01).passed


def test_level_dependent_by_level() -> None:
    table = certify(LevelDependent(), SIZE).table
    assert dict(zip(table["level"], table["verdict"], strict=True)) == {0.5: "pass", 1.0: "pass", 2.0: "fail"}
    assert certify(LevelDependent(), SIZE, levels=(0.5, 1.0)).passed


def test_constants_of_one_value_would_not_have_seen_it() -> None:
    """Filters of two channels that cancel for a constant equal in both: the vectors tell."""
    layer = nn.ConvTranspose1d(2, 1, 2, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0]], [[2.0, 1.0]]]))
    same = layer(torch.ones(1, 2, 9))
    assert torch.equal(same, same.mean().expand_as(same))
    assert certify(layer, (2, 24)).verdict == "fail"


@pytest.mark.parametrize("size", [(2, 64), (2, 24, 24), (2, 12, 12, 12)])
def test_one_two_and_three_axes(size: tuple[int, ...]) -> None:
    axes = len(size) - 1
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1](2, 2, 3, stride=2)
    down = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 2, 3, stride=2)
    assert certify(up, size).periods == (2,)
    assert certify(nn.Sequential(nn.Upsample(scale_factor=2)), size).passed
    assert certify(nn.Sequential(up, nn.ReLU()), size).verdict == "fail"
    assert certify(down, size, direction="backward").periods == (2,)
    assert certify((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 1](2), size, direction="backward").passed


def test_unequal_strides() -> None:
    found = certify(nn.ConvTranspose2d(3, 3, (3, 1), stride=(2, 1)), SIZE)
    assert found.periods == (2,)
    assert certify(nn.ConvTranspose2d(3, 3, (3, 4), stride=(2, 3)), SIZE).periods == (2, 3, 6)


def test_too_small_says_which_size_would_do() -> None:
    layers = nn.Sequential(deconvolution(3), nn.ReLU(), deconvolution(3))
    found = certify(layers, (3, 3, 3))
    assert (found.verdict, found.passed, found.periods) == ("not decidable", False, ())
    assert "give input_size (3, 6, 6)" in found.remedy
    assert certify(layers, (3, 6, 6)).verdict == "fail"


def test_weights_decide_where_the_size_does_not() -> None:
    for layer, verdict in ((resize_convolution("nearest"), "pass"), (deconvolution(3), "fail")):
        found = certify(layer, (3, 2, 2))
        assert (found.verdict, found.verdicts["response"]) == (verdict, "not decidable")
    found = certify(nn.AvgPool2d(2), (3, 2, 2), direction="backward")
    assert found.passed and "not decidable" in set(found.table["verdict"])


# Backward


BACKWARD: dict[str, tuple[Callable[[], nn.Module], str, dict[str, str]]] = {
    "3x3": (lambda: strided(3), "fail", {"signed": "fail", "energy": "fail"}),
    "4x4": (lambda: strided(4), "fail", {"signed": "fail", "energy": "fail"}),
    "4x4, equalised": (lambda: equalised_strided(strided(4)), "fail", {"signed": "pass", "energy": "fail"}),
    "1x1": (lambda: strided(1), "fail", {"holes": "fail", "signed": "fail", "energy": "fail"}),
    "blurred": (lambda: nn.Sequential(blurred(), strided(3)), "fail", {"signed": "pass", "energy": "fail"}),
    "held": (lambda: nn.Sequential(held(), strided(3)), "fail", {"signed": "pass", "energy": "fail"}),
    "held by a known layer": (lambda: nn.Sequential(nn.AvgPool2d(2, 1), strided(3)), "fail",
                              {"signed": "pass", "energy": "fail"}),
    "average pool": (lambda: nn.AvgPool2d(2), "pass", {"signed": "pass", "energy": "pass"}),
    "average pool 3": (lambda: nn.AvgPool2d(3, 2), "fail", {"signed": "fail", "energy": "fail"}),
    "max-pool": (lambda: nn.MaxPool2d(2), "pass", {"signed": "pass", "energy": "pass"}),
    "max-pool 3": (lambda: nn.MaxPool2d(3, 2, 1), "fail", {"signed": "fail", "energy": "fail"}),
    "stride 1": (lambda: strided(3, 1), "pass", {"signed": "pass", "energy": "pass"}),
    "through ReLU": (lambda: nn.Sequential(strided(3), nn.ReLU(), strided(3)), "fail", {"signed": "fail", "energy": "fail"}),
    "dead": (lambda: dead(strided(3)), "vacuous", {"signed": "vacuous", "energy": "vacuous"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str) -> None:
    make, verdict, verdicts = BACKWARD[name]
    found = certify(make(), (3, 64, 64), direction="backward")
    assert (found.verdict, found.verdicts) == (verdict, verdicts), f"{found.why}\n{found.table}"


def test_energy_of_a_blur_is_the_sum_of_squared_taps() -> None:
    """[1 2 1] with stride 2: one tap of 2, two of 1: 4 and 2, a third from their mean; the sums are 2 and 2."""
    layer = nn.Conv1d(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2, 1]))
    table = certify(layer, (1, 32), direction="backward").table
    assert set(table["method"]) == {"weights", "measurement"}
    assert table.loc[table["statement"] == "signed", "deviation"].max() < FLOAT64
    assert table.loc[table["statement"] == "energy", "deviation"].to_numpy() == pytest.approx([1 / 3] * 2, rel=1e-9)


@pytest.mark.parametrize("name", ["six", "three halves"])
def test_measured_taps_are_those_of_the_jacobian(name: str) -> None:
    """Energy of a linear chain against its dense Jacobian, summed by phase over one period of outputs."""
    layers, period, outputs = {
        "six": (nn.Sequential(nn.Conv1d(2, 3, 4, stride=2, padding=1), nn.Conv1d(3, 2, 3, stride=3, padding=1)), 6, 1),
        "three halves": (nn.Sequential(nn.ConvTranspose1d(2, 3, 4, stride=3), nn.Conv1d(3, 2, 3, stride=2)), 2, 3),
    }[name]
    layers = layers.double()
    x = torch.zeros(1, 2, 60, dtype=torch.float64)
    middle = layers(x).shape[2] // 2  # far from the border
    jacobian = torch.autograd.functional.jacobian(lambda v: layers(v)[0, :, middle : middle + outputs], x)
    energy = jacobian.square().sum(dim=(0, 1, 2, 3)).view(-1, period).sum(0)
    table = certify(layers, (2, 60), direction="backward").table
    table = table[(table["statement"] == "energy") & (table["method"] == "measurement")]
    assert sorted(table["period"]) == periods_of((period,))
    for t, deviation in zip(table["period"], table["deviation"], strict=True):
        assert deviation == pytest.approx((unevenness(energy, (period,), t) / energy.mean()).item(), rel=1e-9)


def test_overlapping_max_pool_sends_twice_the_energy_to_pixels_in_two_windows() -> None:
    """In one dimension, independent input: 1/3 and 2/3. Six standard errors of 32 draws of 500 pixels are 3 %."""
    table = certify(nn.MaxPool1d(3, 2, 1), (1, 1024), direction="backward").table
    energy = table.loc[table["statement"] == "energy"]
    assert energy["deviation"].to_numpy() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert (energy["floor"] < 0.05).all()


def test_chance_is_rarely_taken_for_unevenness() -> None:
    """A max-pool of 2 is even: 20 seeds, 6 rows of p < 1/1001 each, one false alarm has a chance of 11 % at most."""
    verdicts = [certify(nn.MaxPool2d(2), (2, 24, 24), direction="backward", seed=s).verdict for s in range(20)]
    assert verdicts.count("fail") <= 1


def test_a_constant_input_would_have_blamed_the_pool() -> None:
    """Ties of a constant send the whole gradient to one phase in four."""
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)
    assert (gradient != 0).double().mean() == 0.25


# What is left untouched, and refusals


def state(module: nn.Module) -> list[Any]:
    modes = [m.training for m in module.modules()]
    parameters = [(p.detach().clone(), p.requires_grad, p.dtype, None if p.grad is None else p.grad.clone(), p._version)
                  for p in module.parameters()]  # fmt: skip
    return [modes, parameters, [b.clone() for b in module.buffers()], torch.get_rng_state(), torch.get_default_dtype()]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_module_is_left_as_it_was_found(direction: Any) -> None:
    module = nn.Sequential(strided(3), nn.BatchNorm2d(3), nn.Dropout(), nn.ReLU(), deconvolution(3)).train()
    module[0].weight.requires_grad_(False)
    module[2].eval()
    module[4].weight.grad = torch.ones_like(module[4].weight)
    before = state(module)
    certify(module, SIZE, direction=direction)
    assert same(before, state(module))
    with pytest.raises(ValueError, match="does not run"):
        certify(module, (5, 24, 24), direction=direction)
    assert same(before, state(module))


def test_the_same_seed_gives_the_same_certificate() -> None:
    layer = nn.Sequential(strided(3), nn.ReLU())
    tables = [certify(layer, SIZE, direction="backward", seed=1).table for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_networks_with_an_old_weight_norm_and_plain_tensors() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = torch.ones(1, 1, 2, 2) / 4  # neither a parameter nor a buffer

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel.expand(x.shape[1], 1, 2, 2), groups=x.shape[1])

    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(deconvolution(3))
    layer = nn.Sequential(normed, Plain())
    assert certify(layer, SIZE).passed
    assert certify(layer[0], SIZE).verdict == "fail"
    assert layer[1].kernel.dtype == torch.float32


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "channels": (nn.Sequential(nn.Conv2d(3, 3, 3)), (4, 24, 24), "its layer '0' (Conv2d) stops"),
    "too small": (nn.Sequential(nn.Conv2d(3, 3, 9)), (3, 5, 5), "it runs at input_size (3, 16, 16)"),
    "odd": (nn.PixelUnshuffle(4), (3, 30, 30), "it runs at input_size (3, 32, 32)"),
    "tuple": (Returns(lambda x: (x, x)), SIZE, "returns a tuple; wrap it"),
    "classifier": (Returns(lambda x: x.mean((2, 3))), SIZE, "without the spatial axes of its input; certify the part"),
    "latent": (nn.Linear(3, 3), (100,), "certify the part behind that layer"),
    "not finite": (Returns(lambda x: x / 0), SIZE, "not finite"),
    "zero": (nn.Identity(), (3, 0, 4), "each at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_refusals_are_one_sentence_with_a_remedy(name: str, direction: Any) -> None:
    module, size, said = REFUSED[name]
    with pytest.raises(ValueError) as refused:
        certify(module, size, direction=direction)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_arguments_are_checked() -> None:
    for options, said in (({"direction": "up"}, "direction"), ({"levels": ()}, "levels"),
                          ({"levels": (0.0,)}, "levels"), ({"tolerance": 0.0}, "tolerance")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            certify(nn.Identity(), SIZE, **options)
    with pytest.raises(TypeError, match="module"):
        certify(torch.relu, SIZE)  # type: ignore[arg-type]


def test_a_gradient_that_is_cut_is_named() -> None:
    with pytest.raises(ValueError, match="cuts the gradient"):
        certify(Returns(lambda x: x.detach()), SIZE, direction="backward")


def test_noise_inside_is_not_decidable() -> None:
    found = certify(Returns(lambda x: x + torch.randn_like(x)), SIZE)
    assert found.verdict == "not decidable" and "noise" in found.why
