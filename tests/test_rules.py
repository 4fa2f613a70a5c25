"""Rules: the forward pass to the bit, every backward pass against loops written from its docstring, and nothing left behind."""

import copy
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil, floor, inf
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.dream import dream
from gradlens.models import classifier
from gradlens.rules import (
    NAMES,
    Met,
    RefusalError,
    Rule,
    Rules,
    Switch,
    average,
    blurred,
    held,
    kinds,
    l2,
    smooth,
    softmax,
)
from gradlens.spectra import lattice_share

FLOAT64 = 1e-12  # of a few hundred products of order 1
WHOLE = "(network)"  # the one layer of a network that is a layer
CONVOLUTIONS = ("held", "blurred", "equalised")
POOLS = ("average", "l2", "softmax", "held", "blurred")
AVERAGE_POOLS = ("held", "blurred")
RELUS = ("smooth", "identity")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Called(nn.Module):
    """A network that calls one function."""

    def __init__(self, function: Callable[..., Any], *weights: Tensor, **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.weights, **self.options)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, 2), (2, 3, 17), CONVOLUTIONS),
    "conv2d": (lambda: nn.Conv2d(3, 4, 5, 2, padding=2), (2, 3, 12, 13), CONVOLUTIONS),
    "conv2d, two strides": (lambda: nn.Conv2d(3, 4, (3, 4), (1, 3), padding=1), (2, 3, 9, 13), CONVOLUTIONS),
    "conv2d, groups": (lambda: nn.Conv2d(4, 8, 3, 2, padding=1, groups=4, bias=False), (2, 4, 11, 12), CONVOLUTIONS),
    "conv2d, dilation": (lambda: nn.Conv2d(3, 4, 3, 2, dilation=3), (2, 3, 13, 14), CONVOLUTIONS),
    "conv2d, circular": (lambda: nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular"), (2, 3, 8, 8), CONVOLUTIONS),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, 2, padding=1), (2, 2, 6, 7, 8), CONVOLUTIONS),
    "F.conv2d": (lambda: Called(F.conv2d, drawn(4, 3, 3, 3), drawn(4), stride=2), (2, 3, 9, 9), CONVOLUTIONS),
    "max-pool 1d": (lambda: nn.MaxPool1d(3, 2), (2, 3, 12), POOLS),
    "max-pool 2d": (lambda: nn.MaxPool2d(3, 2, padding=1), (2, 3, 11, 12), POOLS),
    "max-pool 2d, no overlap": (lambda: nn.MaxPool2d(2), (2, 3, 8, 9), POOLS),
    "max-pool 2d, ceil_mode": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (2, 3, 8, 10), POOLS),
    "max-pool 2d, dilation": (lambda: nn.MaxPool2d(2, 2, dilation=3), (2, 3, 10, 11), POOLS),
    "max-pool 2d, holes": (lambda: nn.MaxPool2d((1, 2), 3), (2, 3, 9, 10), POOLS),
    "max-pool 2d, stride 1": (lambda: nn.MaxPool2d(3, 1, 1), (2, 3, 7, 7), ("average", "l2", "softmax")),
    "max-pool 3d": (lambda: nn.MaxPool3d(3, 2, padding=1), (2, 2, 5, 6, 7), POOLS),
    "F.max_pool2d": (lambda: Called(F.max_pool2d, kernel_size=3, stride=2), (2, 3, 9, 9), POOLS),
    "adaptive max-pool": (lambda: nn.AdaptiveMaxPool2d((3, 4)), (2, 3, 8, 9), ("average", "l2", "softmax")),
    "adaptive max-pool, whole": (lambda: nn.AdaptiveMaxPool2d(4), (2, 3, 8, 12), POOLS),
    "average pool": (lambda: nn.AvgPool2d(3, 2, padding=1), (2, 3, 9, 10), AVERAGE_POOLS),
    "adaptive average pool": (lambda: nn.AdaptiveAvgPool2d(3), (2, 3, 9, 6), AVERAGE_POOLS),
    "relu": (lambda: nn.ReLU(), (2, 3, 5, 5), RELUS),
    "F.relu": (lambda: Called(F.relu), (2, 3, 5), RELUS),
    "torch.relu": (lambda: Called(torch.relu), (2, 3, 5), RELUS),
    "Tensor.relu": (lambda: Called(Tensor.relu), (2, 3, 5), RELUS),
    "relu6": (lambda: nn.ReLU6(), (2, 3, 5, 5), RELUS),
    "F.relu6": (lambda: Called(F.relu6), (2, 3, 5), RELUS),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), (2, 3, 5), RELUS),
    "F.leaky_relu": (lambda: Called(F.leaky_relu, negative_slope=0.3), (2, 3, 5), RELUS),
}
EACH = pytest.mark.parametrize(("case", "rule"), [(case, rule) for case in CASES for rule in CASES[case][2]])


def under(network: nn.Module, x: Tensor, rules: Any, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What `network` makes of `x`, a gradient of it, and what becomes of that at `x`."""
    x = x.clone().requires_grad_()
    with Rules(network, rules):
        y = network(x.clone())
    g = torch.randn(y.shape, dtype=torch.float64).to(y.dtype) if weights is None else weights
    return y.detach(), g, torch.autograd.grad(y, x, g)[0]


# The forward pass


@EACH
@DTYPES
def test_the_forward_pass_is_the_same_to_the_bit(case: str, rule: str, dtype: torch.dtype) -> None:
    make, shape, _ = CASES[case]
    network, x = make().to(dtype), 3 * drawn(*shape, dtype=dtype)
    y, _, gradient = under(network, x, {WHOLE: rule})
    assert torch.equal(y, network(x.clone()))
    assert y.dtype == gradient.dtype == dtype
    assert gradient.isfinite().all()


def test_every_rule_has_a_case() -> None:
    assert {rule for _, _, rules in CASES.values() for rule in rules} == set(NAMES)


@pytest.mark.parametrize("rule", RELUS)
@pytest.mark.parametrize(
    "gate",
    [
        nn.ReLU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.LeakyReLU(0.2, inplace=True),
        Called(F.relu, inplace=True),
        Called(torch.relu_),
        Called(Tensor.relu_),
        Called(F.leaky_relu_, negative_slope=0.2),
    ],
)
def test_a_relu_in_place_changes_its_input_and_has_the_gradient_of_one_that_does_not(
    gate: nn.Module, rule: str
) -> None:
    before, weight = drawn(2, 3, 6, 6), drawn(4, 3, 1, 1)
    network = nn.Sequential(Called(lambda x, w: F.conv2d(x, w), weight), gate)
    kept: list[Tensor] = []
    handle = network[0].register_forward_hook(lambda module, args, output: kept.append(output))
    y, g, gradient = under(network, before, {"1": rule})
    handle.remove()
    assert torch.equal(kept[0], y)  # the map before it was written over
    x = F.conv2d(before, weight)
    assert torch.equal(y, network(before))
    expected = F.conv_transpose2d(g * gate_of(gate, x, rule), weight)
    assert (gradient - expected).abs().max() < FLOAT64


def test_a_rule_may_read_the_input_of_a_relu_in_place_later() -> None:
    late = Rule("late", ("relu",), lambda met: lambda gradient: gradient * met.x, after=False)
    network, x = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)).double(), drawn(2, 3, 5)
    _, g, gradient = under(network, x, {"relu": late})
    assert torch.equal(gradient, g * x)


def gate_of(layer: nn.Module, x: Tensor, rule: str) -> Tensor:
    """sigmoid(x), of a ReLU6 times sigmoid(6 - x); a leaky ReLU opens from its slope on."""
    if rule == "identity":
        return torch.ones_like(x)
    options = getattr(layer, "options", {})
    slope = options.get("negative_slope", getattr(layer, "negative_slope", 0.0))
    gate = x.sigmoid() * ((6 - x).sigmoid() if isinstance(layer, nn.ReLU6) else 1.0)
    return slope + (1 - slope) * gate


@pytest.mark.parametrize("case", ["relu", "F.relu", "torch.relu", "Tensor.relu", "relu6", "leaky relu", "F.leaky_relu"])
@pytest.mark.parametrize("rule", RELUS)
def test_a_gate_is_a_sigmoid_or_open(case: str, rule: str) -> None:
    make, shape, _ = CASES[case]
    network, x = make(), 4 * drawn(*shape)
    _, g, gradient = under(network, x, {WHOLE: rule})
    assert (gradient - g * gate_of(network, x, rule)).abs().max() < FLOAT64


def test_a_sharp_gate_is_the_relus_own() -> None:
    for network in (nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2)):
        x = 4 * drawn(2, 3, 8)
        x = x[((x.abs() > 0.01) & ((6 - x).abs() > 0.01))]  # where a gate of sharpness 1e5 has opened
        _, g, gradient = under(network, x, {"relu": smooth(1e5)})
        assert (gradient - true(network, x, g)).abs().max() < FLOAT64


def test_indices_of_a_max_pool_come_along() -> None:
    network, x = Called(F.max_pool2d, kernel_size=2, return_indices=True), drawn(1, 2, 6, 6).requires_grad_()
    with Rules(network, {"pool": "average"}):
        y, indices = network(x)
    expected = network(x)
    assert torch.equal(y, expected[0])
    assert torch.equal(indices, expected[1])
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 0.25))


def test_without_gradients_it_runs_as_ever() -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2)), drawn(1, 3, 12, 12)
    network.double()
    with torch.inference_mode(), Rules(network, {"stem": "held", "relu": "smooth", "pool": "l2"}):
        y = network(x)
    assert torch.equal(y, network(x))


# The backward pass, against loops


def true(network: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(network(x.clone()), x, g)[0]


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def windows_of(pool: nn.Module, size: Sequence[int], output: Sequence[int]) -> list[list[int]]:
    """The pixels of each window that lie in the map, as numbers into the flat map."""
    axes, by_axis = len(size), []
    for axis, (n, m) in enumerate(zip(size, output, strict=True)):
        if hasattr(pool, "output_size"):
            by_axis.append([list(range(floor(i * n / m), ceil((i + 1) * n / m))) for i in range(m)])
            continue
        options = pool.options if isinstance(pool, Called) else vars(pool)
        kernel, stride = (per_axis(options[name], axes)[axis] for name in ("kernel_size", "stride"))
        padding, dilation = (
            per_axis(options.get(name, default), axes)[axis] for name, default in (("padding", 0), ("dilation", 1))
        )
        starts = [i * stride - padding for i in range(m)]
        by_axis.append([[p for k in range(kernel) if 0 <= (p := start + dilation * k) < n] for start in starts])
    flat = torch.arange(torch.Size(size).numel()).view(*size)
    return [[int(flat[place]) for place in product(*window)] for window in product(*by_axis)]


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda v: (v > -inf).double() / (v > -inf).sum(-1, keepdim=True),
    "l2": lambda v: v / v.square().sum(-1, keepdim=True).sqrt(),
    "softmax": lambda v: v.exp() / v.exp().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("rule", WEIGHTS)
@pytest.mark.parametrize("case", [case for case in CASES if "average" in CASES[case][2]])
def test_a_pool_hands_on_by_the_weights_of_its_windows(case: str, rule: str) -> None:
    make, shape, _ = CASES[case]
    network, x = make(), drawn(*shape)
    y, g, gradient = under(network, x, {WHOLE: rule})
    expected = torch.zeros_like(x).flatten(2)
    for number, pixels in enumerate(windows_of(network, shape[2:], y.shape[2:])):
        expected[..., pixels] += WEIGHTS[rule](x.flatten(2)[..., pixels]) * g.flatten(2)[..., number, None]
    assert (gradient - expected.view_as(x)).abs().max() < FLOAT64


@pytest.mark.parametrize("case", [case for case in CASES if "average" in CASES[case][2]])
def test_softmax_lies_between_the_pools_own_and_the_average(case: str) -> None:
    make, shape, _ = CASES[case]
    network, x = make(), drawn(*shape)
    _, g, cold = under(network, x, {WHOLE: softmax(1e-9)})
    assert (cold - true(network, x, g)).abs().max() < FLOAT64
    _, _, warm = under(network, x, {WHOLE: softmax(1e12)}, g)
    _, _, even = under(network, x, {WHOLE: average()}, g)
    assert (warm - even).abs().max() < 1e-10  # the weights differ by x / 1e12


@pytest.mark.parametrize("rule", [average(), softmax(0.5)])
def test_a_border_of_a_pool_loses_no_gradient(rule: Rule) -> None:
    network, x = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), drawn(2, 3, 10, 10)
    _, g, gradient = under(network, x, {"pool": rule})
    assert (gradient.sum() - g.sum()).abs() < FLOAT64


@pytest.mark.parametrize("rule", WEIGHTS)
def test_padding_written_out_is_padding(rule: str) -> None:
    """As of a network that pads with -inf by itself."""
    x = drawn(1, 2, 8, 8)
    padded = Called(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-inf), 3, 2))
    _, g, gradient = under(padded, x, {"pool": rule})
    _, _, expected = under(nn.MaxPool2d(3, 2, padding=1), x, {"pool": rule}, g)
    assert (gradient - expected).abs().max() < FLOAT64


def test_a_window_of_zeros_has_no_l2_gradient_and_one_of_extremes_a_finite_one() -> None:
    network = nn.MaxPool2d(2)
    _, g, gradient = under(network, torch.zeros(1, 1, 4, 4), {"pool": l2()})
    assert gradient.eq(0).all()
    for scale in (1e-30, 1e30):  # whose squares are 0 or infinite in float32
        _, _, gradient = under(network, torch.full((1, 1, 4, 4), scale), {"pool": l2()}, g)
        assert torch.allclose(gradient, 0.5 * F.interpolate(g, scale_factor=2), rtol=1e-6)


def filtered(x: Tensor, taps: Sequence[Sequence[float]], ahead: Sequence[int]) -> Tensor:
    """sum over i of taps[i] x[p + ahead - i], axis by axis, pixel by pixel; zero outside."""
    for axis, (weights, first) in enumerate(zip(taps, ahead, strict=True), start=2):
        result = torch.zeros_like(x)
        for p in range(x.shape[axis]):
            for i, weight in enumerate(weights):
                if 0 <= p + first - i < x.shape[axis]:
                    result.select(axis, p).add_(weight * x.select(axis, p + first - i))
        x = result
    return x


def strides_of(layer: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    axes = len(shape) - 2
    if hasattr(layer, "output_size"):
        return tuple(n // m for n, m in zip(shape[2:], per_axis(layer.output_size, axes), strict=True))
    return per_axis(layer.options["stride"] if isinstance(layer, Called) else layer.stride, axes)


BINOMIALS = {1: [1.0], 2: [0.25, 0.5, 0.25], 3: [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16]}  # of 2 s - 1 taps


@pytest.mark.parametrize("rule", ["held", "blurred"])
@pytest.mark.parametrize("case", [case for case in CASES if "held" in CASES[case][2] and "circular" not in case])
def test_held_and_blurred_are_the_adjoint_and_then_a_filter(case: str, rule: str) -> None:
    make, shape, _ = CASES[case]
    network, x = make().double(), drawn(*shape)
    _, g, gradient = under(network, x, {WHOLE: rule})
    strides = strides_of(network, shape)
    boxes = [[1 / s] * s if rule == "held" else BINOMIALS[s] for s in strides]
    ahead = [0 if rule == "held" else s - 1 for s in strides]
    assert (gradient - filtered(true(network, x, g), boxes, ahead)).abs().max() < FLOAT64


def test_a_blur_has_the_size_that_is_asked_for() -> None:
    network, x = nn.Conv2d(2, 3, 3, 2).double(), drawn(1, 2, 15, 15)
    _, g, gradient = under(network, x, {"stem": blurred(5)})
    taps = BINOMIALS[3]
    assert (gradient - filtered(true(network, x, g), [taps, taps], [2, 2])).abs().max() < FLOAT64


@pytest.mark.parametrize("case", [case for case in CASES if "equalised" in CASES[case][2] and "circular" not in case])
def test_equalised_is_the_adjoint_of_taps_whose_classes_have_equal_energy(case: str) -> None:
    make, shape, _ = CASES[case]
    network, x = make().double(), drawn(*shape)
    _, g, gradient = under(network, x, {WHOLE: "equalised"})
    strides = strides_of(network, shape)
    other = copy.deepcopy(network)
    weight = other.weights[0] if isinstance(other, Called) else other.weight
    assert isinstance(weight, Tensor)
    dilation = per_axis(getattr(network, "dilation", 1), len(strides))
    energy: dict[tuple[int, ...], float] = {}
    taps = list(product(*map(range, weight.shape[2:])))
    classes = {tap: tuple(d * k % s for d, k, s in zip(dilation, tap, strides, strict=True)) for tap in taps}
    for tap, residue in classes.items():
        energy[residue] = energy.get(residue, 0.0) + float(weight[(..., *tap)].detach().square().sum())
    mean = sum(energy.values()) / len(energy)
    with torch.no_grad():
        for tap, residue in classes.items():
            weight[(..., *tap)] *= (mean / energy[residue]) ** 0.5
    assert (gradient - true(other, x, g)).abs().max() < FLOAT64


@EACH
def test_the_gradient_of_the_parameters_is_the_true_one(case: str, rule: str) -> None:
    make, shape, _ = CASES[case]
    after = nn.Conv2d(3, 3, 1) if len(shape) == 4 and shape[1] == 3 and "conv" not in case else nn.Identity()
    network, x = nn.Sequential(make(), after).double(), drawn(*shape)
    parameters = list(network.parameters())
    with Rules(network, {"0": rule}):
        y = network(x.clone().requires_grad_())
    g = torch.randn_like(y)
    if parameters:
        found, expected = (torch.autograd.grad(out, parameters, g) for out in (y, network(x)))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 4, 3), nn.Conv2d(2, 3, 5, 2), nn.MaxPool2d(3, 2), nn.Conv2d(2, 3, 1, 4)]
)
def test_held_leaves_nothing_of_the_harmonics_of_the_stride(layer: nn.Module) -> None:
    layer = layer.double()
    s, x = strides_of(layer, (1, 2, 48, 48))[0], drawn(1, 2, 48, 48)
    g = torch.zeros_like(layer(x))
    g[..., 2:-2, 2:-2] = drawn(*g[..., 2:-2, 2:-2].shape)  # so that the border cuts nothing off
    _, _, gradient = under(layer, x, {WHOLE: held()}, g)
    sums = gradient.unflatten(3, (-1, s)).unflatten(2, (-1, s)).sum((2, 4))  # by phase
    assert (sums - sums.mean((2, 3), keepdim=True)).abs().max() < FLOAT64
    assert lattice_share(gradient, s).item() < 1e-24  # FLOAT64, squared
    assert lattice_share(true(layer, x, g), s).item() > 1e-4
    assert (gradient.sum() - true(layer, x, g).sum()).abs() < FLOAT64  # the gain at frequency 0 is 1


def test_a_hold_fills_the_holes_of_a_shortcut() -> None:
    layer, x = nn.Conv2d(2, 3, 1, 2, bias=False).double(), drawn(1, 2, 8, 8)
    _, g, gradient = under(layer, x, {"stem": "held"})
    assert true(layer, x, g).eq(0).double().mean() == 0.75
    squares = F.conv_transpose2d(g, layer.weight.detach()).repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    assert (gradient - squares).abs().max() < FLOAT64
    assert gradient.ne(0).all()


def test_the_arguments_of_rules_have_a_range() -> None:
    for wrong, said in [
        (lambda: smooth(0), "sharpness: must be above 0, got 0"),
        (lambda: softmax(-1), "temperature: must be above 0, got -1"),
        (lambda: blurred(4), "size: must be odd and at least 3, got 4"),
        (lambda: blurred(1), "size: must be odd and at least 3, got 1"),
        (lambda: Rule("mine", ("conv",), lambda met: lambda g: g, after=False), "must come after"),
    ]:
        with pytest.raises(ValueError, match=said):
            wrong()


# Selectors


def spied(network: nn.Module, selector: str, size: int = 64) -> list[str]:
    """The layers that a rule of `selector` is asked about."""
    asked: list[str] = []

    def spy(met: Met) -> Callable[[Tensor], Tensor]:
        asked.append(met.layer)
        return lambda gradient: gradient

    with torch.no_grad(), Rules(network, {selector: spy}) as active:
        network(torch.rand(1, 3, size, size))
    assert list(active.layers) == asked
    return asked


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet18").eval()


def test_kinds_of_a_residual_network(resnet: nn.Module) -> None:
    assert spied(resnet, "stem") == ["conv1"]
    assert spied(resnet, "pool") == ["maxpool"]
    assert spied(resnet, "shortcut") == [f"layer{n}.0.downsample.0" for n in (2, 3, 4)]
    assert spied(resnet, "strided") == [f"layer{n}.0.conv1" for n in (2, 3, 4)] == spied(resnet, "strided 3x3")
    assert spied(resnet, "relu") == [name for name, m in resnet.named_modules() if isinstance(m, nn.ReLU)]
    assert spied(resnet, "layer1.0.conv2") == ["layer1.0.conv2"]
    assert "strided 5x5" not in kinds(resnet, (3, 64, 64)).values()
    with pytest.raises(ValueError, match=r"'strided 5x5' met no .*; its layers are conv1 \(stem\), maxpool \(pool\)"):
        spied(resnet, "strided 5x5")


def test_kinds_of_a_network_of_relu6() -> None:
    network = timm.create_model("mobilenetv2_100").eval()
    assert spied(network, "stem") == ["conv_stem"]
    assert spied(network, "strided 3x3") == [f"blocks.{n}.0.conv_dw" for n in (1, 2, 3, 5)]
    assert spied(network, "relu") == [name for name, m in network.named_modules() if isinstance(m, nn.ReLU6)]
    with pytest.raises(ValueError, match="'shortcut' met no"):
        spied(network, "shortcut")


class Twice(nn.Module):
    """One pool that runs twice, whose name is that of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.pool(F.relu(x))))


def test_runs_of_one_layer_are_told_apart() -> None:
    network = Twice()
    assert spied(network, "pool") == ["pool", "pool#2"]
    assert spied(network, "pool#1") == ["pool"]
    assert spied(network, "pool#2") == ["pool#2"]
    assert spied(network, "relu") == [WHOLE, "relu"]
    assert spied(network, "relu#1") == ["relu"]
    assert spied(network, WHOLE) == [WHOLE]
    with pytest.raises(ValueError, match="'pool#3' met no"):
        spied(network, "pool#3")


def test_runs_are_counted_anew_by_each_forward_pass() -> None:
    network = Twice()
    with Rules(network, {"pool#2": "average"}) as active:
        for _ in range(3):
            network(drawn(1, 1, 8, 8))
    assert active.layers == ("pool#2",)


class Blurred(nn.Module):
    """Fixed taps before a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "taps", torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])).repeat(3, 1, 1, 1) / 16
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.taps, stride=2, groups=3)


def test_kinds_of_all_the_others() -> None:
    layers = Blurred(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 4, (5, 3), 2, (2, 1)), nn.AvgPool2d(3, 2, 1)
    assert kinds(nn.Sequential(*layers, nn.PixelUnshuffle(2)), (3, 64, 64)) == {
        "0": "blur", "1": "pool of stride 1", "2": "strided 5x3", "3": "average pool", "4 (pixel_unshuffle)": "other",
    }  # fmt: skip
    assert kinds(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 16, 16)) == {}


def test_of_two_selectors_for_one_layer_the_later_one_holds(resnet: nn.Module) -> None:
    asked: list[str] = []

    def noted(name: str) -> Callable[[Met], Callable[[Tensor], Tensor]]:
        def spy(met: Met) -> Callable[[Tensor], Tensor]:
            asked.append(f"{name} {met.layer}")
            return lambda gradient: gradient

        return spy

    with torch.no_grad(), Rules(resnet, {"strided": noted("first"), "layer3.0.conv1": noted("second")}):
        resnet(torch.rand(1, 3, 64, 64))
    assert asked == ["first layer2.0.conv1", "second layer3.0.conv1", "first layer4.0.conv1"]


def test_a_wrong_selector_is_told_the_nearest(resnet: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"no layer or kind 'layer2.0.conv3'; near names: layer2.0.conv\d"):
        Rules(resnet, {"layer2.0.conv3": "held"})
    with pytest.raises(ValueError, match=r"no layer or kind 'shortcuts'; near names: shortcut"):
        Rules(resnet, {"shortcuts": "held"})
    with pytest.raises(ValueError, match=r"there is no rule 'hold'; there are average, l2"):
        Rules(resnet, {"stem": "hold"})


def test_a_selector_that_meets_nothing_is_an_error_at_the_end() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.ReLU())
    for rules, said in [
        ({"0": "average"}, "'0' met no max-pool for 'average'"),
        ({"1": "held"}, "'1' met no convolution or average pool or max-pool for 'held'"),
        ({"pool": "held"}, r"'pool' met no .*; its layers are 0 \(stem\)"),
    ]:
        with pytest.raises(ValueError, match=said), Rules(network, rules):
            network(torch.rand(1, 1, 8, 8))
    said = r"'stem' met no .*; kinds are known only of a network that is called as a whole"
    with pytest.raises(ValueError, match=said), Rules(network, {"stem": "held"}):
        pass
    with pytest.raises(KeyError, match="another"), Rules(network, {"stem": "held"}):
        raise KeyError("another")  # is not hidden by what met nothing


@pytest.mark.parametrize(
    ("layer", "rule", "said"),
    [
        (nn.MaxPool2d(3, 1, 1), "held", "layer 'down' has stride 1"),
        (nn.Conv2d(3, 4, 3), "blurred", "layer 'down' has stride 1"),
        (nn.Conv2d(3, 4, 1, 2), "equalised", "layer 'down' has residue classes without taps"),
        (nn.Conv2d(3, 4, 3, 2, dilation=2), "equalised", "layer 'down' has residue classes without taps"),
        (nn.AdaptiveAvgPool2d(5), "held", "layer 'down' has windows of several sizes"),
    ],
)
def test_a_refusal_names_the_layer(layer: nn.Module, rule: str, said: str) -> None:
    network = nn.Sequential()
    network.add_module("down", layer)
    with pytest.raises(RefusalError, match=said) as caught, Rules(network, {"down": rule}):
        network(torch.rand(1, 3, 12, 12))
    assert caught.value.layer == "down"
    assert isinstance(caught.value, ValueError)


# Blocks in blocks, and switches


def doubled(met: Met) -> Callable[[Tensor], Tensor]:
    return lambda gradient: 2 * gradient


def raised(met: Met) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient + 1


def test_of_two_blocks_for_a_convolution_the_outer_one_comes_first() -> None:
    network, x = nn.Conv2d(1, 1, 3, 2).double(), drawn(1, 1, 9, 9).requires_grad_()
    with Rules(network, {"stem": doubled}), Rules(network, {"stem": raised}):
        y = network(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, 2 * true(network, x, torch.ones_like(y)) + 1)


@pytest.mark.parametrize(
    ("layer", "one", "other"), [(nn.MaxPool2d(2), "l2", "average"), (nn.ReLU(inplace=True), "smooth", "identity")]
)
def test_of_two_blocks_for_a_pool_or_relu_the_inner_one_holds(layer: nn.Module, one: str, other: str) -> None:
    x = drawn(1, 2, 6, 6)
    alone = under(layer, x, {WHOLE: other})
    with Rules(layer, {WHOLE: one}):
        y, _, gradient = under(layer, x, {WHOLE: other}, alone[1])
    assert torch.equal(y, alone[0])
    assert torch.equal(gradient, alone[2])


def test_rules_of_several_layers_and_blocks_add_up() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2)).double()
    x = drawn(1, 3, 14, 14)
    _, g, together = under(network, x, {"stem": "held", "relu": "smooth", "pool": "average"})
    with Rules(network, {"stem": "held"}):
        _, _, nested = under(network, x, {"relu": "smooth", "pool": "average"}, g)
    assert torch.equal(together, nested)
    before = network[0](x)
    _, _, above = under(network[2], before.relu(), {"pool": "average"}, g)
    _, _, expected = under(network[0], x, {"stem": "held"}, above * before.detach().sigmoid())
    assert (together - expected).abs().max() < FLOAT64


def test_rules_are_entered_once_at_a_time() -> None:
    network = nn.MaxPool2d(2)
    rules = Rules(network, {"pool": "average"})
    with rules:
        network(torch.rand(1, 1, 4, 4))
        with pytest.raises(RuntimeError, match="at work already"):
            rules.__enter__()
    with rules:
        network(torch.rand(1, 1, 4, 4))


def switched() -> tuple[Rules, Callable[[], Tensor], dict[frozenset[str], Tensor]]:
    """Rules with a graph of theirs, its gradient as they are set, and what it must be by layers replaced."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2)).double()
    given = {"0": "held", "1": "smooth", "2": "average"}
    x = drawn(1, 3, 14, 14).requires_grad_()
    with Rules(network, given) as active:
        y = network(x)
    g = torch.randn_like(y)
    subsets = [
        frozenset(name for name, on in zip(given, bits, strict=True) if on) for bits in product((0, 1), repeat=3)
    ]
    expected = {s: under(network, x.detach(), {name: given[name] for name in s}, g)[2] for s in subsets}
    return active, lambda: torch.autograd.grad(y, x, g, retain_graph=True)[0], expected


def test_only_switches_between_backward_passes_of_one_forward_pass() -> None:
    active, gradient, expected = switched()
    assert active.layers == ("0", "1", "2")
    assert torch.equal(gradient(), expected[frozenset("012")])
    for layers, correct in expected.items():
        active.only(layers)
        assert torch.equal(gradient(), correct)
    active.only(None)
    assert torch.equal(gradient(), expected[frozenset("012")])
    assert len({tuple(one.flatten().tolist()) for one in expected.values()}) == 8  # the test can fail
    with pytest.raises(ValueError, match="only: '3' is not among the replaced layers 0, 1, 2"):
        active.only(["3"])


def test_only_works_across_threads() -> None:
    active, gradient, expected = switched()
    found: list[Tensor] = []

    def work() -> None:
        found.append(gradient())
        active.only({"1"})
        found.append(gradient())

    active.only({"2"})
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert torch.equal(found[0], expected[frozenset("2")])
    assert torch.equal(found[1], expected[frozenset("1")])
    assert torch.equal(gradient(), expected[frozenset("1")])


def test_rules_see_no_other_network_and_no_other_thread() -> None:
    network, other, x = nn.MaxPool2d(2), nn.MaxPool2d(2), drawn(1, 1, 4, 4).requires_grad_()
    found: list[Tensor] = []
    with Rules(network, {"pool": "average"}):
        network(x)
        (gradient,) = torch.autograd.grad(other(x).sum(), x)
        thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(network(x).sum(), x)[0]))
        thread.start()
        thread.join()
    assert torch.equal(gradient, true(network, x, torch.ones(1, 1, 2, 2, dtype=torch.float64)))
    assert torch.equal(found[0], gradient)


# Nothing is left


class Failing(nn.Module):
    """Raises in the middle, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.down = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu_()
        if self.fails:
            raise OSError("in the middle")
        return self.down(x)


def state(network: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(m.training, *(len(getattr(m, name)) for name in hooks), "forward" in vars(m)) for m in network.modules()],
        [(p.requires_grad, p.grad, p.grad_fn, p.data.tolist()) for p in network.parameters()],
        [buffer.tolist() for buffer in network.buffers()],
        torch.get_rng_state().tolist(),
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
    ]


@pytest.mark.parametrize(
    "failing", ["nothing", "the network", "the network, looked at", "a rule", "the block", "a selector"]
)
def test_nothing_is_left(failing: str) -> None:
    network = Failing().eval()
    network.down.train()
    network.norm.weight.requires_grad_(False)
    x = torch.rand(2, 3, 16, 16).requires_grad_()
    before = state(network)
    network.fails = failing.startswith("the network")
    given: dict[str, Any] = {"stem#1": "held", "down": "average", "relu": "smooth"}
    if failing != "the network":
        given["pool"] = "l2"  # a kind, for which the network is looked at first
    if failing == "a rule":
        given["stem#1"] = lambda met: (_ for _ in ()).throw(OSError("of a rule"))
    if failing == "a selector":
        given["norm"] = "held"
    raising = ValueError if failing in ("a selector", "the network, looked at") else OSError
    try:
        with Rules(network, given):
            torch.autograd.grad(network(x).sum(), x)
            if failing == "the block":
                raise OSError("of the block")
    except raising:
        assert failing != "nothing"
    else:
        assert failing == "nothing"
    assert state(network) == before
    assert x.grad is None
    network.fails = False
    assert torch.equal(torch.autograd.grad(network(x).sum(), x)[0], true(network, x, torch.ones_like(network(x))))


def test_many_forward_passes_in_one_block_keep_nothing() -> None:
    network = Failing().eval()
    x = torch.rand(1, 3, 16, 16).requires_grad_()

    def alive() -> int:
        gc.collect()
        return sum(type(one) is Switch for one in gc.get_objects())

    before = alive()
    with Rules(network, {"stem": "held", "relu": "smooth", "pool": "average"}) as active:
        for _ in range(20):
            torch.autograd.grad(network(x).sum(), x)
        assert alive() == before
        y = network(x)
        assert alive() == before + len(active.layers) == before + 3
        del y
    assert alive() == before


def test_a_dream_runs_under_rules_by_kind() -> None:
    """The look at the kinds happens inside a forward pass that a probe ends early."""
    model = classifier()
    with Rules(model, {"pool": "held", "stem": "held"}) as active:
        held = dream(model, (3, 64, 64), "layer2", steps=2)
        assert active.layers == ("conv1", "maxpool")
    assert not torch.equal(held.images, dream(model, (3, 64, 64), "layer2", steps=2).images)
