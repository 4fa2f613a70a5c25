"""Probes record what autograd says and leave no trace; stages name where a network's resolution changes."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.gradients import network_periods
from gradlens.models import Model, ModelInfo
from gradlens.probes import Probe, Stage, activations, stages


def images(*shape: int, seed: int = 0) -> Tensor:
    """Seeded noise that wants a gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


class Residual(nn.Module):
    """A probed convolution whose output is added to, in place, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        y *= y.detach().tanh()
        return y.square().flatten(1).sum(1)


class Kept(nn.Module):
    """A layer that hands on its own input, which is then worked on in place: dropout in eval mode does so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.keep = nn.Conv2d(3, 3, 3), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        kept = self.keep(y)
        y.mul_(3)
        return (kept * y).flatten(1).sum(1)


class Reused(nn.Module):
    """One layer that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.step(self.step(x).tanh()).tanh()).flatten(1).sum(1)


class Branches(nn.Module):
    """`used` reaches the score, `idle` runs but does not, `never` does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.never = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.used(x).square().flatten(1).sum(1)


class Returns(nn.Module):
    """A network around a layer that returns whatever `wrap` makes of a tensor."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Conv2d(3, 3, 3), wrap
        self.layer.register_forward_hook(lambda module, inputs, output: self.wrap(output))

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class Broken(nn.Module):
    """Runs a layer, draws a random number and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x))
        torch.rand(3)
        raise RuntimeError("broken inside")


def trace(model: nn.Module) -> list[Any]:
    """Everything about a model and the random state that a probe could leave changed."""
    state: list[Any] = [torch.random.get_rng_state().tolist(), torch.is_grad_enabled()]
    for module in model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        state.append((module.training, *(list(h) for h in hooks)))
    state += [(p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist()) for p in model.parameters()]
    return [*state, *(b.tolist() for b in model.buffers())]


def mixed_modes(model: nn.Module) -> nn.Module:
    """Every second module in train mode, one parameter frozen, one with a gradient."""
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.full_like(parameter, 2.0) if number % 2 == 0 else None
    return model


# Activations and gradients


def test_activations_and_gradients_are_those_of_autograd() -> None:
    first, second, head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 2)
    model = nn.Sequential(first, nn.Tanh(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    x = images(2, 3, 8, 8)
    with Probe(model, ["0", "2"]) as probe:
        score = model(x)[:, 1]
    a = first(x)
    b = second(a.tanh())
    by_hand = torch.autograd.grad(head(b.mean((2, 3)))[:, 1].sum(), [a, b])
    found = probe.gradients(score)
    for name, activation, gradient in zip(["0", "2"], [a, b], by_hand, strict=True):
        torch.testing.assert_close(probe.activations[name], activation, rtol=0, atol=0)
        torch.testing.assert_close(found[name], gradient)


def test_gradients_can_be_asked_for_several_scores_of_one_pass() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with Probe(model, ["0"]) as probe:
        output = model(images(2, 3, 8, 8))
    parts = [probe.gradients(output[:, k])["0"] for k in range(4)]
    torch.testing.assert_close(sum(parts), probe.gradients(output)["0"])


@pytest.mark.parametrize(
    "after",
    [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.LeakyReLU(0.2, inplace=True)],
    ids=lambda m: type(m).__name__,
)
def test_in_place_activation_after_a_probed_layer_rewrites_nothing(after: nn.Module) -> None:
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, after)
    x = images(1, 3, 6, 6)
    with Probe(model, ["0"]) as probe:
        score = model(x).square().sum()
    a = conv(x)
    expected = torch.autograd.grad(after(a.clone()).square().sum(), a)[0]
    torch.testing.assert_close(probe.activations["0"], a, rtol=0, atol=0)
    torch.testing.assert_close(probe.gradients(score)["0"], expected)


def test_probed_layer_that_works_in_place_gives_what_it_returns() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    x = images(1, 3, 6, 6)
    with Probe(model, ["0", "1"]) as probe:
        score = model(x).square().sum()
    a = model[0](x)
    b = a.relu()
    expected = torch.autograd.grad(b.square().sum(), [a, b])
    found = probe.gradients(score)
    for name, activation, gradient in zip(["0", "1"], [a, b], expected, strict=True):
        torch.testing.assert_close(probe.activations[name], activation, rtol=0, atol=0)
        torch.testing.assert_close(found[name], gradient)


def test_arithmetic_in_place_on_a_probed_output_rewrites_nothing() -> None:
    model = Residual()
    x = images(2, 3, 6, 6)
    with Probe(model, ["conv"]) as probe:
        score = model(x)
    a = model.conv(x)
    total = a + x
    expected = torch.autograd.grad((total * total.detach().tanh()).square().sum(), a)[0]
    torch.testing.assert_close(probe.activations["conv"], a, rtol=0, atol=0)
    torch.testing.assert_close(probe.gradients(score)["conv"], expected)


def test_layer_that_hands_on_its_input_is_not_rewritten_through_that_input() -> None:
    model = Kept().eval()
    x = images(1, 3, 6, 6)
    with Probe(model, ["keep"]) as probe:
        model(x)
    torch.testing.assert_close(probe.activations["keep"], model.conv(x), rtol=0, atol=0)


def test_probe_does_not_change_the_output() -> None:
    for model in (Residual(), Reused(), Branches()):
        x = images(2, 3, 8, 8)
        expected = model(x)
        with Probe(model, [n for n, _ in model.named_modules() if n]):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_reused_layer_is_recorded_run_by_run() -> None:
    model = Reused()
    x = images(1, 3, 6, 6)
    with Probe(model, ["step"]) as probe:
        score = model(x)
    a = model.step(x)
    b = model.step(a.tanh())
    c = model.step(b.tanh())
    expected = torch.autograd.grad(c.sum(), [a, b, c])
    assert list(probe.activations) == ["step", "step#2", "step#3"]
    for found, gradient in zip(probe.gradients(score).values(), expected, strict=True):
        torch.testing.assert_close(found, gradient)


def test_names_that_share_a_beginning_are_counted_apart() -> None:
    model = nn.Sequential(OrderedDict(step=nn.Conv2d(3, 3, 1), step1=nn.Conv2d(3, 3, 1)))
    with Probe(model, ["step", "step1"]) as probe:
        model(images(1, 3, 4, 4))
    assert list(probe.activations) == ["step", "step1"]


def test_layer_that_the_score_does_not_use_has_zero_gradient() -> None:
    model = Branches()
    with Probe(model, ["used", "idle"]) as probe:
        score = model(images(1, 3, 6, 6))
    found = probe.gradients(score)
    assert found["idle"].shape == (1, 2, 4, 4) and not found["idle"].any() and found["used"].any()


def test_layer_that_never_runs_is_named() -> None:
    model = Branches()
    with Probe(model, ["used", "never"]) as probe:
        score = model(images(1, 3, 6, 6))
    with pytest.raises(ValueError, match="never reached 'never'"):
        probe.gradients(score)


def test_layer_without_a_gradient_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten()).requires_grad_(False)
    with Probe(model, ["0"]) as probe:
        score = model(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"layer '0'.*does the input require one"):
        probe.gradients(score)


@pytest.mark.parametrize(
    ("wrap", "kind"), [(lambda t: (t, t), "tuple"), (lambda t: {"out": t}, "dict"), (lambda t: [t], "list")]
)
def test_layer_that_returns_no_tensor_is_refused(wrap: Callable[[Tensor], Any], kind: str) -> None:
    model = Returns(wrap)
    before = trace(model)
    with pytest.raises(ValueError, match=f"layer 'layer' returns a {kind}"), Probe(model, ["layer"]):
        model(images(1, 3, 6, 6))
    assert trace(model) == before


@pytest.mark.parametrize(
    ("name", "near"), [("layer5", "layer4"), ("layer1.0.conv", "layer1.0.conv1"), ("fcc", "fc"), ("conv_1", "conv1")]
)
def test_wrong_name_lists_near_names(name: str, near: str) -> None:
    model = timm.create_model("resnet10t")
    with pytest.raises(ValueError, match=rf"no '{name}'; near names: .*\b{near}\b"):
        Probe(model, [name])


def test_whole_model_is_not_a_layer() -> None:
    with pytest.raises(ValueError, match="no ''"):
        Probe(nn.Sequential(nn.ReLU()), [""])


def test_layers_of_a_model_are_named_as_in_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    info = ModelInfo("net", "classifier", "", "", (3, 8, 8), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    model = Model(network, info)
    x = images(1, 3, 8, 8)
    with Probe(model, ["0"]) as probe:
        model(x)
    torch.testing.assert_close(probe.activations["0"], network[0]((x - 0.5) / 0.25))
    with pytest.raises(ValueError, match=r"no 'network\.0'"):
        Probe(model, ["network.0"])


# No trace


def test_probe_leaves_no_trace() -> None:
    model = mixed_modes(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU(inplace=True)))
    model[1].training = False  # a norm in train mode moves its own statistics, probed or not
    x = images(2, 3, 6, 6)
    before = trace(model)
    with Probe(model, ["0", "1", "2"]) as probe:
        probe_score = model(x).sum()
    probe.gradients(probe_score)
    assert trace(model) == before and x.grad is None


def test_probe_leaves_no_trace_when_the_model_raises() -> None:
    model = mixed_modes(Broken())
    model.second.training = False
    hooks = [trace(module) for module in model.children()]
    with pytest.raises(RuntimeError, match="broken inside"), torch.random.fork_rng(), Probe(model, ["first", "second"]):
        model(images(1, 3, 6, 6))
    assert [trace(module) for module in model.children()] == hooks


def test_hooks_of_others_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("ours"))
    with Probe(model, ["0"]):
        model(images(1, 3, 6, 6))
    model(images(1, 3, 6, 6))
    assert seen == ["ours", "ours"]


def test_two_probes_nest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    before = trace(model)
    x = images(1, 3, 6, 6)
    with Probe(model, ["0"]) as outer, Probe(model, ["0", "1"]) as inner:
        score = model(x).square().sum()
    torch.testing.assert_close(outer.activations["0"], inner.activations["0"])
    torch.testing.assert_close(outer.gradients(score)["0"], inner.gradients(score)["0"])
    assert trace(model) == before


def test_one_probe_serves_twice() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    probe = Probe(model, ["0"])
    for seed in (0, 1):
        x = images(1, 3, 6, 6, seed=seed)
        with probe:
            model(x)
        assert list(probe.activations) == ["0"]
        torch.testing.assert_close(probe.activations["0"], model[0](x))


def test_probe_entered_inside_itself_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    probe = Probe(model, ["0"])
    with suppress(RuntimeError, ValueError), probe, probe:  # a refusal would do as well
        model(images(1, 3, 6, 6))
    assert not model[0]._forward_hooks


# A forward pass that ends early


class Counts(nn.Module):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x


def test_activations_are_those_of_the_whole_pass_and_nothing_behind_runs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), Counts(), nn.Linear(1, 1))
    x = images(2, 3, 8, 8)
    found = activations(model, x, ["2", "0"])
    assert list(found) == ["2", "0"] and model[3].runs == 0
    torch.testing.assert_close(found["0"], model[0](x), rtol=0, atol=0)
    torch.testing.assert_close(found["2"], model[2](model[0](x).tanh()), rtol=0, atol=0)


def test_gradients_flow_through_activations() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3))
    x = images(1, 3, 8, 8)
    found = activations(model, x, ["0", "1"])
    slope = torch.autograd.grad(found["0"].square().sum() + found["1"].sum(), x)[0]
    a = model[0](x)
    torch.testing.assert_close(slope, torch.autograd.grad(a.square().sum() + a.relu().sum(), x)[0])


def test_activations_of_one_run_of_a_layer_that_runs_again() -> None:
    model = Reused()
    x = images(1, 3, 6, 6)
    first = model.step(x)
    second = model.step(first.tanh())
    runs: list[None] = []
    model.step.register_forward_pre_hook(lambda module, inputs: runs.append(None))
    for wanted in (["step"], ["step#2"], ["step#2", "step"]):
        found = activations(model, x, wanted)
        assert list(found) == wanted and len(runs) == (1 if wanted == ["step"] else 2)
        runs.clear()
        for name in wanted:
            torch.testing.assert_close(found[name], first if name == "step" else second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        (["never"], "never reached 'never'"),
        (["used", "never"], "never reached 'never'"),
        (["used#2"], "never reached 'used#2'"),
        (["usde"], "no 'usde'; near names: used"),
        ([""], "no ''"),
    ],
)
def test_activations_that_are_not_to_be_had_are_named(layers: list[str], match: str) -> None:
    model = Branches()
    before = trace(model)
    with pytest.raises(ValueError, match=match):
        activations(model, images(1, 3, 8, 8), layers)
    assert trace(model) == before


def test_activations_of_a_layer_that_returns_no_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="'layer' returns a tuple, not a tensor"):
        activations(Returns(lambda output: (output,)), images(1, 3, 8, 8), ["layer"])


@pytest.mark.parametrize("raises", [False, True])
def test_activations_leave_no_trace_and_run_in_the_mode_that_is_set(raises: bool) -> None:
    model = mixed_modes(Broken() if raises else nn.Sequential(nn.Conv2d(3, 3, 3), nn.Dropout(), nn.Conv2d(3, 3, 3)))
    before = trace(model)[1:]  # dropout in training mode draws
    if raises:
        with pytest.raises(RuntimeError, match="broken inside"):
            activations(model, images(1, 3, 8, 8), ["second", "first#2"])
    else:
        activations(model, images(1, 3, 8, 8), ["1"])
    assert trace(model)[1:] == before


def test_a_pass_that_ends_early_in_a_model_is_named_as_in_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    info = ModelInfo("net", "classifier", "", "", (3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    x = torch.rand(1, 3, 16, 16)
    found = activations(Model(network, info), x, ["0"])["0"]
    torch.testing.assert_close(found, network[0]((x - 0.5) / 0.25))


# Stages


def down(*steps: tuple[str, int, int], layout: str = "NCHW", dimensions: int = 2) -> list[Stage]:
    """Stages from (layer, side, stride)."""
    return [Stage(layer, (side,) * dimensions, (stride,) * dimensions, layout) for layer, side, stride in steps]


TIMM: dict[str, list[Stage]] = {
    "resnet18": down(("act1", 112, 2), ("layer1", 56, 4), ("layer2", 28, 8), ("layer3", 14, 16), ("layer4", 7, 32)),
    "vgg11_bn": down(
        ("features.6", 112, 2), ("features.13", 56, 4), ("features.20", 28, 8), ("features.27", 14, 16),
        ("features", 7, 32),
    ),
    "densenet121": down(
        ("features.norm0", 112, 2), ("features.denseblock1", 56, 4), ("features.denseblock2", 28, 8),
        ("features.denseblock3", 14, 16), ("features", 7, 32),
    ),
    "mobilenetv2_100": down(
        ("bn1", 112, 2), ("blocks.1", 56, 4), ("blocks.2", 28, 8), ("blocks.4", 14, 16), ("bn2", 7, 32)
    ),
    "swin_tiny_patch4_window7_224": down(
        ("patch_embed", 56, 4), ("layers.1", 28, 8), ("layers.2", 14, 16), ("norm", 7, 32), layout="NHWC"
    ),
    "pvt_v2_b0": down(("patch_embed", 56, 4), layout="NHWC")
    + down(("stages.1", 28, 8), ("stages.2", 14, 16), ("stages", 7, 32)),
    "vit_tiny_patch16_224": down(("patch_embed.proj", 14, 16)),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_stages_of_timm_models(name: str) -> None:
    assert stages(timm.create_model(name), (3, 224, 224)) == TIMM[name]


class Pooled(nn.Module):
    """VGG's pattern with one ReLU and one pool for all: each runs at several resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x)))))).mean((2, 3))


class UNet(nn.Module):
    """Down twice and up again, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down1, self.down2 = (nn.Conv2d(4, 4, 3, 2, 1) for _ in range(2))
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.up2, self.up1 = (nn.ConvTranspose2d(4, 4, 2, 2) for _ in range(2))
        self.leave = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.down1(a)
        return self.leave(a + self.up1(b + self.up2(self.middle(self.down2(b)))))


class Squeezed(nn.Module):
    """A block with squeeze-excitation and an attention map at half resolution: branches, not the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())
        self.coarse = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y) + self.coarse(y)


KERNEL_11 = nn.Sequential(nn.Conv2d(3, 8, 11, stride=3), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=2), nn.ReLU())
LENET = nn.Sequential(
    nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
)  # fmt: skip
AUDIO = nn.Sequential(nn.Conv1d(1, 4, 9, 4, 4), nn.ReLU(), nn.Conv1d(4, 4, 5, 2, 2), nn.AdaptiveAvgPool1d(1))
VOLUME = nn.Sequential(nn.Conv3d(1, 2, 3, 2, 1), nn.Conv3d(2, 2, 3, 2, 1), nn.AdaptiveAvgPool3d(1))


@pytest.mark.parametrize(
    ("model", "input_size", "expected"),
    [
        pytest.param(
            KERNEL_11, (3, 224, 224),
            [Stage("1", (72, 72), (3, 3), "NCHW"), Stage("3", (34, 34), (6, 6), "NCHW")], id="kernel 11, stride 3"
        ),
        pytest.param(
            KERNEL_11, (3, 64, 64),
            [Stage("1", (18, 18), (3, 3), "NCHW"), Stage("3", (7, 7), (6, 6), "NCHW")], id="kernel 11, stride 3, 64 px"
        ),
        pytest.param(
            LENET, (1, 28, 28), [Stage("2", (8, 8), (2, 2), "NCHW"), Stage("3", (4, 4), (4, 4), "NCHW")], id="LeNet"
        ),
        pytest.param(UNet(), (3, 64, 64), down(("down1", 32, 2), ("middle", 16, 4)), id="U-Net"),
        pytest.param(
            nn.Sequential(Squeezed(), nn.Conv2d(3, 3, 3, 2, 1)), (3, 32, 32), down(("1", 16, 2)), id="branches"
        ),
        pytest.param(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 32, 32), [], id="never shrinks"),
        pytest.param(AUDIO, (1, 1024), [Stage("1", (256,), (4,), "NCHW"), Stage("2", (128,), (8,), "NCHW")], id="1-D"),
        pytest.param(
            VOLUME, (1, 16, 16, 16), down(("0", 8, 2), ("1", 4, 4), dimensions=3), id="3-D"
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)), (3, 96, 64),
            [Stage("0", (48, 32), (2, 2), "NCHW"), Stage("1", (24, 16), (4, 4), "NCHW")], id="not square"
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(3, 4, 3, (2, 1), 1), nn.Conv2d(4, 4, 3, (1, 2), 1)), (3, 32, 32),
            down(("1", 16, 2)), id="one axis, then the other"
        ),
    ],
)  # fmt: skip
def test_stages_of_nets_by_hand(model: nn.Module, input_size: tuple[int, ...], expected: list[Stage]) -> None:
    assert stages(model, input_size) == expected


def test_periods_of_kernel_11_stride_3_hold_3_and_6() -> None:
    """captum issue 852: the grids of a stride-3 stem and of the stride-2 layer behind it."""
    assert network_periods(stages(KERNEL_11, (3, 224, 224)), (224, 224)) == (2, 3, 6)


@pytest.mark.parametrize(
    ("strides", "size", "expected"),
    [
        ((), (64, 64), (2, 4, 8)),
        ((2, 4), (64, 64), (2, 4)),
        ((12,), (64, 64), (2, 3, 4, 6, 12)),
        ((32,), (48, 224), (2, 4, 8, 16)),
        ((16,), (28, 28), (2, 4, 8)),
        ((), (7, 7), (2,)),
    ],
)
def test_network_periods_divide_the_strides(
    strides: tuple[int, ...], size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    found = [Stage("", (8, 8), (stride, stride), "NCHW") for stride in strides]
    assert network_periods(found, size) == expected


def test_stage_of_a_layer_that_runs_at_several_resolutions_can_be_probed() -> None:
    model = Pooled()
    found = stages(model, (3, 32, 32))
    with Probe(model, [stage.layer.split("#")[0] for stage in found]) as probe:
        model(images(1, 3, 32, 32))
    assert [(s.size, s.stride) for s in found] == [((16, 16), (2, 2)), ((8, 8), (4, 4))]
    assert [tuple(probe.activations[stage.layer].shape[2:]) for stage in found] == [(16, 16), (8, 8)]


def test_stages_of_a_model_are_those_of_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1))
    info = ModelInfo("net", "classifier", "", "", (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    assert stages(Model(network, info), (3, 32, 32)) == stages(network, (3, 32, 32)) == down(("0", 16, 2), ("1", 8, 4))


def test_stages_does_not_depend_on_a_wrapper_around_a_classifier() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wrapped = nn.Sequential(OrderedDict(inside=network))
    expected = [Stage(f"inside.{s.layer}", s.size, s.stride, s.layout) for s in stages(network, (3, 32, 32))]
    assert stages(wrapped, (3, 32, 32)) == expected


def test_strides_of_a_picture_that_is_not_square() -> None:
    """24 channels of 12 x 20 px fit the proportions of the larger second run better read as channels last."""
    steps = [nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 16), (16, 24))]
    found = stages(nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1)), (3, 96, 160))
    assert [(stage.size, stage.stride, stage.layout) for stage in found] == [
        ((48, 80), (2, 2), "NCHW"),
        ((24, 40), (4, 4), "NCHW"),
        ((12, 20), (8, 8), "NCHW"),
    ]


def test_stages_runs_in_the_dtype_of_the_model() -> None:
    assert stages(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)).double(), (3, 32, 32)) == down(("0", 16, 2))


@pytest.mark.parametrize("raises", [False, True])
def test_stages_leaves_no_trace(raises: bool) -> None:
    model = mixed_modes(
        Broken()
        if raises
        else nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3))
    )
    before = trace(model)
    if raises:
        with pytest.raises(RuntimeError, match="broken inside"):
            stages(model, (3, 16, 16))
    else:
        stages(model, (3, 16, 16))
    assert trace(model) == before


def test_stages_sees_functional_pooling_in_the_layer_behind_it() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c2(F.max_pool2d(self.c1(x), 2))

    assert stages(Functional(), (3, 32, 32)) == down(("c2", 16, 2))
