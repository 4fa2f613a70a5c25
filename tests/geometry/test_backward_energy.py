"""Energy through the backward pass: closed forms, every rule against a squared Jacobian, state, scale, faults."""

import copy
import itertools
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.geometry import energy_map
from gradlens.geometry.energy.backward import _gradient
from gradlens.geometry.energy.rules import RULES
from gradlens.geometry.energy.tensor import Energy, NoRuleError
from gradlens.gradients import input_gradient
from gradlens.spectra import phase_energy, phase_imbalance, set_imbalance


def noise(size: tuple[int, ...], seed: int = 0) -> Tensor:
    """The image on which `energy_map` sets gates and routes."""
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(seed))


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`[outputs *input]`, one row an output."""
    return torch.autograd.functional.jacobian(lambda x: f(x).flatten(), x).squeeze(1)


def squared_jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(M * M)^T 1 of the Jacobian M at x, summed over channels, mean 1: the slow way."""
    energy = jacobian(f, x).square().sum((0, 1))
    return energy / energy.mean()


class Call(nn.Module):
    """A function as a module of one parameter, which sets the precision."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f
        self.register_parameter("precision", nn.Parameter(torch.zeros(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights of a seed, also in its norms, in float64 and eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        module = build()
        if not list(module.parameters()):
            module = Call(module)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.2 if tensor.ndim < 2 else torch.randn_like(tensor))
    return module.double().eval()


# Closed forms: linear networks


LINEAR = {
    "1-D": (lambda: [nn.Conv1d(1, 1, 3, 2, bias=False), nn.Conv1d(1, 1, 2, bias=False)], (1, 9)),
    "2-D": (lambda: [nn.Conv2d(1, 1, 2, 2, 1, bias=False), nn.Conv2d(1, 1, 2, bias=False)], (1, 6, 6)),
    "3-D": (lambda: [nn.Conv3d(1, 1, (2, 1, 2), (1, 2, 1), bias=False), nn.Conv3d(1, 1, (1, 2, 2), bias=False)], (1, 3, 4, 3)),
    "1-D up": (lambda: [nn.ConvTranspose1d(1, 1, 3, 2, bias=False), nn.Conv1d(1, 1, 3, bias=False)], (1, 5)),
    "channels": (lambda: [nn.Conv1d(1, 2, 2, 2, bias=False), nn.Conv1d(2, 1, 2, bias=False)], (1, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_mean_over_all_signs_of_the_weights_is_exact(name: str) -> None:
    """Weights of random sign are independent with zero mean; the mean over all sign patterns is no estimate."""
    layers, size = LINEAR[name]
    network = seeded(lambda: nn.Sequential(*layers()))
    weights = [p.detach().clone() for p in network.parameters()]
    predicted = energy_map(network, size)
    total = torch.zeros(size[1:], dtype=torch.float64)
    basis = torch.eye(predicted.numel(), dtype=torch.float64).view(-1, *size)
    for signs in itertools.product((-1.0, 1.0), repeat=sum(w.numel() for w in weights)):
        parts = torch.tensor(signs, dtype=torch.float64).split([w.numel() for w in weights])
        for p, w, part in zip(network.parameters(), weights, parts, strict=True):
            p.data = w * part.view(w.shape)
        with torch.no_grad():
            columns = network(basis).flatten(1)  # row k: what a unit at input k makes of the outputs
        total += columns.square().sum(1).view(size[1:])
    assert torch.allclose(
        predicted, total / total.mean(), rtol=1e-12, atol=0
    )  # float64 rounding of a few hundred terms


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), (4, 9, 8)),
        (lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), (4, 8, 8)),
        (lambda: nn.Conv1d(3, 5, 4, 3), (3, 16)),
        (lambda: nn.Conv3d(2, 3, 3, 2, 1), (2, 5, 6, 7)),
        (lambda: nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), (2, 7)),
        (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 6, 5)),
        (lambda: nn.ConvTranspose3d(2, 2, 3, 2), (2, 3, 3, 4)),
        (lambda: nn.Linear(6, 5), (2, 4, 6)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 5)), (2, 4, 4)),
    ],
)
def test_one_linear_layer_is_exact_whatever_its_weights(layer: Callable[[], nn.Module], size: tuple[int, ...]) -> None:
    module = seeded(layer)
    slow = squared_jacobian(module, noise(size).double())
    assert torch.allclose(energy_map(module, size), slow, rtol=1e-12, atol=1e-14)  # another order of summation


# Rules: one operation, independent gradients


ELEMENTWISE = [
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softshrink, nn.Hardshrink,
    lambda: nn.GELU("tanh"), lambda: nn.Threshold(0.3, 0.1), nn.Dropout,
]  # fmt: skip

NORMS = [
    lambda: nn.BatchNorm2d(4), lambda: nn.BatchNorm2d(4, track_running_stats=False), lambda: nn.InstanceNorm2d(4),
    lambda: nn.InstanceNorm2d(4, affine=True), lambda: nn.GroupNorm(2, 4), lambda: nn.LayerNorm([4, 6, 6]),
    lambda: nn.LayerNorm(6), lambda: nn.LayerNorm(6, elementwise_affine=False),
    lambda: nn.Softmax(-1), lambda: nn.Softmax(1), lambda: nn.LogSoftmax(1),
]  # fmt: skip

PLACING = [
    lambda: nn.MaxPool2d(2), lambda: nn.MaxPool2d(3, 2, 1), lambda: nn.AdaptiveMaxPool2d((3, 2)),
    lambda: nn.AvgPool2d(2), lambda: nn.AvgPool2d(3, 2, 1), lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    lambda: nn.AvgPool2d(3, 2, ceil_mode=True), lambda: nn.AvgPool2d(2, divisor_override=3),
    lambda: nn.AdaptiveAvgPool2d((4, 5)), lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.AdaptiveAvgPool2d((3, 2)),
    lambda: nn.ReflectionPad2d(2), lambda: nn.ReplicationPad2d(1), lambda: nn.ZeroPad2d((1, -1, 2, 0)),
    lambda: nn.PixelShuffle(2), lambda: nn.PixelUnshuffle(2), lambda: nn.ChannelShuffle(2), lambda: nn.Unfold(3, stride=2),
    lambda: nn.Upsample(scale_factor=2), lambda: nn.Upsample(size=(9, 7), mode="nearest-exact"),
    lambda: nn.Upsample(scale_factor=2, mode="bilinear"), lambda: nn.Upsample(size=(9, 4), mode="bilinear"),
    lambda: nn.Upsample(size=(11, 8), mode="bilinear", align_corners=True), lambda: nn.Upsample(size=(9, 4), mode="bicubic"),
    lambda: Call(lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True)),
    lambda: Call(lambda x: F.interpolate(x, scale_factor=0.7, mode="bicubic", antialias=True)),
    lambda: Call(lambda x: F.fold(x.flatten(2)[..., :9], (4, 4), 2)),
    lambda: Call(lambda x: x.mean((2, 3))), lambda: Call(lambda x: x.sum(1)), lambda: Call(lambda x: x.cumsum(2)),
    lambda: Call(lambda x: torch.cat([x[:, 1:], x.new_zeros(1, 1, 6, 6)], 1)), lambda: Call(lambda x: x.roll(2, 3).flip(2)),
    lambda: Call(lambda x: x[:, :, ::2, [1, 1, 0]]), lambda: Call(lambda x: x.unfold(2, 3, 1)), lambda: Call(lambda x: x.amax(2)),
    lambda: Call(lambda x: torch.stack(x.unbind(1))[:3]), lambda: Call(lambda x: x.masked_fill(x > 0.5, 0.0)),
    lambda: Call(lambda x: torch.where(x > 0, x, 0.2 * x.abs())), lambda: Call(lambda x: x.transpose(1, 3).reshape(1, 3, -1)),
    lambda: Call(lambda x: 3 - x / torch.arange(1.0, 7.0).double()), lambda: Call(lambda x: x.square() + 1),
    lambda: Call(lambda x: x * torch.arange(6.0).double()[:, None]), lambda: Call(lambda x: x.repeat(1, 1, 2, 1)),
    lambda: Call(lambda x: torch.einsum("bchw,cd->bdhw", x, torch.arange(8.0).double().view(4, 2))),
    lambda: Call(lambda x: F.glu(x, 1)), lambda: Call(lambda x: x.std((2, 3))), lambda: Call(lambda x: x.norm(dim=1)),
    lambda: Call(lambda x: torch.baddbmm(torch.ones(4, 6, 2).double(), x[0], torch.arange(48.0).double().view(4, 6, 2), alpha=2)),
    lambda: Call(lambda x: x[:, :2].clone().to(torch.float64, memory_format=torch.channels_last)),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(ELEMENTWISE + NORMS + PLACING)))
def test_rule_is_the_squared_jacobian(index: int) -> None:
    """One operation whose output gradient is independent: no assumption is left, so that only rounding is."""
    module = seeded((ELEMENTWISE + NORMS + PLACING)[index])
    slow = squared_jacobian(module, noise((4, 6, 6)).double())
    assert torch.allclose(
        energy_map(module, (4, 6, 6)), slow, rtol=1e-9, atol=1e-11
    )  # differences of sums cancel digits


def test_softmax_attention_with_fixed_queries_is_exact_in_its_values() -> None:
    """The fused attention of the forward pass takes the path whose rules are known."""
    queries = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(1)).double()
    module = Call(lambda x: F.scaled_dot_product_attention(queries, queries, x[None])).double()
    slow = squared_jacobian(module, noise((2, 5, 4)).double())
    assert torch.allclose(energy_map(module, (2, 5, 4)), slow, rtol=1e-12, atol=1e-14)


def test_a_fused_operation_is_sampled_without_bias() -> None:
    """An LSTM's energy is sampled twice an operation: two draws of 64 features have a scatter of 12 %, 0.3 is 2.5 of it."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 64, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x.transpose(1, 2))[0]

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        module = Recurrent().eval()
    slow = squared_jacobian(module, noise((64, 6)))
    assert torch.allclose(energy_map(module, (64, 6)).float(), slow, rtol=0.3)


def test_all_outputs_count() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 3, 3, 2), nn.Conv1d(2, 1, 2, 3)

        def forward(self, x: Tensor) -> object:
            return {"a": self.a(x), "rest": (self.b(x), [x[:, :1]]), "index": torch.arange(3), "none": None}

    module = seeded(Several)
    together = nn.Sequential(
        Call(lambda x: torch.cat([module(x)["a"].flatten(), *(t.flatten() for t in tensors(module(x)))]))
    )
    slow = squared_jacobian(together, noise((2, 12)).double())
    assert torch.allclose(energy_map(module, (2, 12)), slow, rtol=1e-12)


def tensors(output: dict) -> list[Tensor]:
    """The outputs of `Several` but its first."""
    return [output["rest"][0], output["rest"][1][0]]


# The top logit


def test_top_logit_of_a_linear_network_is_its_gradient_squared() -> None:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 8, 3), nn.AvgPool2d(5), nn.Flatten()))
    network[1].bias.data[3] = 1e3  # all images share their top logit
    gradient = input_gradient(network, noise((3, 15, 15)).double())
    energy = gradient.square().sum((0, 1))
    assert torch.allclose(energy_map(network, (3, 15, 15), score="top"), energy / energy.mean(), rtol=1e-10)


def test_top_logits_that_images_do_not_share_are_variance() -> None:
    """Of six images three share logit 4: two of them do with probability 3 * 2 / (6 * 5), and that is its mean squared."""
    energy = _gradient([F.one_hot(torch.tensor([top]), 6).float() for top in (4, 4, 4, 0, 1, 2)], "top")
    assert energy.expected is not None
    assert energy.expected.square()[0].tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0])
    assert energy.variance[0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0, 0.3, 0])


def test_top_logit_needs_logits() -> None:
    with pytest.raises(ValueError, match="several maps"):
        energy_map(nn.Conv2d(3, 4, 3), (3, 8, 8), score="top")


# Scale, seeds, precision


def block(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


def small(seed: int = 0, depth: int = 3) -> nn.Module:
    """A strided stem, a pool and some blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        stem = [nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
        return nn.Sequential(*stem, *(block(32) for _ in range(depth)), *tail)


def test_branches_keep_their_ratio() -> None:
    """Float32, where the squares of one branch pass through 1e-40 and those of the other do not."""

    def both(x: Tensor) -> Tensor:
        small = F.conv2d(F.conv2d(x, taps[:1, :, :1, :1] * 1e-10), taps[:1, :, :1, :1] * 1e-10)
        return torch.cat([small.flatten() * 1e20, F.conv2d(x, taps, stride=2).flatten()])

    taps = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    module = Call(both)
    assert torch.allclose(energy_map(module, (1, 9, 9)).float(), squared_jacobian(module, noise((1, 9, 9))), rtol=1e-4)


def test_a_number_among_energies_counts_with_its_square() -> None:
    energy = Energy(torch.ones(2), 4, torch.float32, RULES)
    joined = torch.cat([energy, torch.tensor([3.0])])
    assert joined.at(0).tolist() == [16, 16, 9]


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
def test_scale_of_the_weights_does_not_matter(factor: float) -> None:
    """Float32 squares of 1e-12 in four layers would be 1e-96. ReLU is homogeneous, so that its masks stay."""

    def build(factor: float) -> nn.Module:
        layers = [nn.Conv2d(3, 8, 3, 2, bias=False), nn.ReLU(), *(nn.Conv2d(8, 8, 3, bias=False) for _ in range(3))]
        network = nn.Sequential(*layers)
        for index, p in enumerate(network.parameters()):
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(index)) * factor
        return network

    assert torch.allclose(energy_map(build(factor), (3, 24, 24)), energy_map(build(1.0), (3, 24, 24)), rtol=1e-4)


def test_three_hundred_layers_neither_underflow_nor_overflow() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, 2), *(nn.Conv2d(2, 2, 1, bias=False) for _ in range(300)))
    with torch.no_grad():
        for p in list(network.parameters())[2:]:
            p.copy_(torch.eye(2)[..., None, None] * 1e-3)
    energy = energy_map(network, (3, 15, 15))
    assert torch.allclose(energy, energy_map(network[0], (3, 15, 15)), rtol=1e-4)


def test_precisions_agree() -> None:
    network = small().eval()
    double = energy_map(copy.deepcopy(network).double(), (3, 32, 32))
    assert torch.allclose(energy_map(network, (3, 32, 32)), double, rtol=1e-3)  # the rounding of float32, added up
    half = energy_map(copy.deepcopy(network).bfloat16(), (3, 32, 32))
    assert (half - double).abs().mean() < 0.05  # three digits; a few masks differ


def test_two_seeds_agree() -> None:
    one, other = (energy_map(small(), (3, 64, 64), seed=seed) for seed in (0, 1))
    values = [phase_imbalance(e.sqrt()[None, None], 2, debias=False).item() for e in (one, other)]
    assert not torch.equal(one, other)
    assert values[0] == pytest.approx(values[1], rel=0.05)


# State and faults


class Failing(nn.Module):
    """Draws random numbers, then fails or has a backward operation without a rule."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.mixer, self.how = nn.Conv2d(1, 1, 1), Mixer(how), how

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return self.mixer(self.first(x))


class Strange(torch.autograd.Function):
    """An operation whose gradient is not linear."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.cos()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.sin()


class Mixer(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "size":
            return x.view(1, 7)
        if self.how == "rule":
            return Strange.apply(x) + 1  # a function is found where its result is used first
        if self.how == "complex":
            return torch.fft.rfft2(x).abs()
        return x.detach() if self.how == "detached" else x


@pytest.mark.parametrize("how", ["fine", "size", "rule", "detached"])
def test_nothing_is_changed(how: str) -> None:
    model = Failing(how).train()
    model.first.eval().weight.requires_grad_(False)
    model.first.bias.grad = torch.ones(1)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fused = torch.backends.cuda.flash_sdp_enabled()
    if how == "fine":
        energy_map(model, (1, 4, 4))
    else:
        with pytest.raises((ValueError, NotImplementedError)):
            energy_map(model, (1, 4, 4))
    assert model.training and model.mixer.training and not model.first.training
    assert not model.first.weight.requires_grad and model.first.bias.requires_grad
    assert model.first.weight.grad is None and model.first.bias.grad.tolist() == [1]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state()) and fused == torch.backends.cuda.flash_sdp_enabled()
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.parametrize(("how", "named"), [("rule", "aten::sin"), ("complex", "aten::mul of complex numbers")])
def test_operation_without_a_rule_is_named_with_its_module(how: str, named: str) -> None:
    with pytest.raises(NotImplementedError, match=f"no rule for the energy of {named} in the backward pass of 'mixer'"):
        energy_map(Failing(how), (1, 4, 4))


def test_product_of_two_gradients_has_no_rule() -> None:
    one, other = (Energy(torch.ones(2, 2), 0, torch.float32, RULES) for _ in range(2))
    for product in (torch.mul, torch.mm, torch.div):
        with pytest.raises(NoRuleError):
            product(one, other)


@pytest.mark.parametrize(
    ("model", "size", "options", "words"),
    [
        (Failing("size"), (1, 4, 4), {}, "does not run through 'mixer'"),
        (Failing("detached"), (1, 4, 4), {}, "depends on its input"),
        (Failing("fine"), (), {}, "input_size"),
        (Failing("fine"), (1, 0, 4), {}, "input_size"),
        (Failing("fine"), (1, 4, 4), {"score": "best"}, "score"),
        (Failing("fine"), (1, 4, 4), {"direction": "sideways"}, "direction"),
        (Call(lambda x: 0 * x), (1, 4, 4), {}, "initialised to zero"),
        (Call(lambda x: torch.zeros(1, 2).requires_grad_()), (1, 4, 4), {}, "no gradient"),
    ],
)
def test_bad_input_is_named(model: nn.Module, size: tuple[int, ...], options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        energy_map(model, size, **options)


# Whole networks

FAMILIES = (
    "resnet10t mobilenetv3_small_050 lcnet_035 efficientnet_b0 ghostnet_050 regnety_002 starnet_s050 efficientvit_m0 repvit_m0_9 "
    "vit_tiny_patch16_224 swin_tiny_patch4_window7_224 convnext_atto convnextv2_atto xcit_nano_12_p16_224 pvt_v2_b0 levit_128s "
    "mobilevit_xxs poolformer_s12 densenet121 dla46_c edgenext_xx_small hgnetv2_b0 nf_regnet_b0 cspnext_tiny repghostnet_050"
)


def random_network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        try:
            return timm.create_model(name, pretrained=False, zero_init_last=False).eval()
        except TypeError:
            return timm.create_model(name, pretrained=False).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES.split())
def test_every_operation_of_a_family_has_a_rule(name: str) -> None:
    model = random_network(name)
    energy = energy_map(model, model.pretrained_cfg["input_size"])
    assert energy.dtype == torch.float64 and energy.shape == torch.Size(model.pretrained_cfg["input_size"][1:])
    assert energy.isfinite().all() and (energy >= 0).all() and energy.mean().item() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["random", "top"])
@pytest.mark.parametrize(
    "name",
    [
        "resnet10t", "mobilenetv3_small_050", "lcnet_035", "ghostnet_050", "regnety_002", "starnet_s050", "efficientvit_m0",
        "convnext_atto",
    ],
)  # fmt: skip
def test_prediction_is_what_is_measured(name: str, score: str) -> None:
    """One weight seed and 32 noise images: within 0.1 or a quarter. Over 200 networks and three seeds: reports/prediction.csv."""
    model, generator = random_network(name), torch.Generator().manual_seed(7)
    maps = []
    for _ in range(32):
        image = torch.randn(1, 3, 224, 224, generator=generator)
        direction = torch.randn(1000, generator=generator)
        chosen = {"score": lambda logits, u=direction: logits @ u} if score == "random" else {}
        energy = input_gradient(model, image, **chosen).double().square().sum(1)
        maps.append(energy / energy.mean())
    predicted = energy_map(model, (3, 224, 224), score=score).sqrt()[None, None]
    for period in (2, 4, 8, 16, 32):
        measured = set_imbalance(phase_energy(torch.cat(maps).sqrt()[:, None], period)).item()
        value = phase_imbalance(predicted, period, debias=False).item()
        assert value == pytest.approx(measured, abs=max(0.1, 0.25 * measured)), period
