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
    assert torch.allclose(predicted, total / total.mean(), rtol=1e-12, atol=0)  # float64 rounding of a few hundred terms


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
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
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
    nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink,
    nn.Tanhshrink, lambda: nn.GELU("tanh"), lambda: nn.Threshold(0.3, 0.1), nn.Dropout,
]  # fmt: skip

NORMS = [
    lambda: nn.BatchNorm2d(4), lambda: nn.BatchNorm2d(4, track_running_stats=False), lambda: nn.InstanceNorm2d(4),
    lambda: nn.InstanceNorm2d(4, affine=True), lambda: nn.GroupNorm(2, 4), lambda: nn.LayerNorm([4, 6, 6]),
    lambda: nn.LayerNorm(6), lambda: nn.LayerNorm(6, elementwise_affine=False), lambda: nn.RMSNorm(6),
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
    assert torch.allclose(energy_map(module, (4, 6, 6)), slow, rtol=1e-9, atol=1e-11)  # differences of sums cancel digits
