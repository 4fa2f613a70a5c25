"""Energy through the forward pass: closed forms, every rule against samples, and generators as they are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.checkpoints import fill, read_state
from gradlens.geometry import energy_map
from gradlens.geometry.energy.forward import forward_energy, unfused
from gradlens.geometry.energy.forward.moments import Moments
from gradlens.geometry.energy.forward.pointwise import entrywise
from gradlens.geometry.energy.forward.rules import RULES
from gradlens.networks import DCGANGenerator, MNISTGenerator, SRGANGenerator, StyleTransfer
from gradlens.spectra import phase_energy, phase_imbalance, set_imbalance


def matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The matrix of a linear layer without bias `[out in]`, one impulse at a time, and the shape it leads to."""
    impulses = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        columns = layer(impulses)
    return columns.flatten(1).mT, tuple(columns.shape[1:])


def flat(model: nn.Module, *, bias: bool = False) -> nn.Module:
    """`model` in float64, without its biases if asked."""
    for module in model.modules():
        if not bias and isinstance(getattr(module, "bias", None), Tensor):
            module.bias = None  # pyright: ignore[reportAttributeAccessIssue]
    return model.double()


def closed_form(layers: list[nn.Module], size: tuple[int, ...]) -> Tensor:
    """... (M2 * M2) (M1 * M1) 1, summed over channels, with mean 1."""
    energy, shape = torch.ones(math.prod(size), dtype=torch.float64), size
    for layer in layers:
        m, shape = matrix(layer, shape)
        energy = m.square() @ energy
    total = energy.view(shape).sum(0)
    return total / total.mean()


CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, (2, 9)),
    2: (nn.Conv2d, nn.ConvTranspose2d, (2, 5, 6)),
    3: (nn.Conv3d, nn.ConvTranspose3d, (2, 3, 4, 3)),
}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_linear_networks_are_exact(dimensions: int) -> None:
    """Float64 rounding alone: 1e-12 of a mean of 1."""
    conv, transposed, size = CONVOLUTIONS[dimensions]
    torch.manual_seed(0)
    layers = [
        conv(2, 4, 3, padding=1),
        transposed(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        conv(6, 4, 3, stride=2, padding=2, dilation=2),
        transposed(4, 2, 4, stride=3),
    ]
    network = flat(nn.Sequential(*layers))
    torch.testing.assert_close(forward_energy(network, size), closed_form(layers, size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(
    ("hold", "kernel", "padding"), [(2, 3, 1), (2, 4, 1), (3, 5, 2), (2, 2, 0), (4, 3, 1), (2, 1, 0)]
)
def test_copies_that_meet_in_a_convolution_are_added_first(
    dimensions: int, hold: int, kernel: int, padding: int
) -> None:
    """A nearest resize with its convolution is one linear map: the square of the product, not the product of squares."""
    conv, _, size = CONVOLUTIONS[dimensions]
    torch.manual_seed(0)
    one = nn.Sequential(nn.Upsample(scale_factor=hold), conv(2, 4, kernel, padding=padding, groups=2))
    layers = [conv(2, 2, 1), one]
    network = flat(nn.Sequential(*layers))
    torch.testing.assert_close(forward_energy(network, size), closed_form(layers, size), rtol=0, atol=1e-12)


def test_average_over_draws_is_exact() -> None:
    """Every sign of every weight and bias once: both the prediction and the energy of all latents, averaged, agree."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose1d(1, 1, 3, stride=2), nn.ConvTranspose1d(1, 1, 2, stride=2)).double()
    magnitudes = [p.detach().clone() for p in network.parameters()]
    latent = (1, 4)
    predicted, measured = [], []
    for signs in product([-1.0, 1.0], repeat=sum(p.numel() for p in magnitudes)):
        queue = list(signs)
        for p, magnitude in zip(network.parameters(), magnitudes, strict=True):
            with torch.no_grad():
                p.copy_(magnitude * torch.tensor([queue.pop() for _ in range(p.numel())]).view_as(p))
        offset = network(torch.zeros(1, *latent).double()).detach()
        columns = network(torch.eye(4).double().view(4, 1, 4)).detach() - offset
        measured.append((offset.square() + columns.square().sum(0))[0, 0])
        moment = carried(network, torch.zeros(1, *latent).double(), torch.ones(1, *latent).double())
        predicted.append((moment[0].square() + moment[1].square())[0, 0])
    torch.testing.assert_close(torch.stack(predicted).mean(0), torch.stack(measured).mean(0), rtol=1e-12, atol=0)


def test_a_kernel_smaller_than_its_stride_leaves_holes() -> None:
    energy = energy_map(nn.ConvTranspose2d(2, 3, 1, stride=2, bias=False), (2, 8, 8), direction="forward")
    assert energy.shape == (15, 15) and energy.dtype == torch.float64
    assert energy[1::2].eq(0).all() and energy[:, 1::2].eq(0).all() and energy[::2, ::2].gt(0).all()


# Every rule against samples


def carried(function: Callable[[Tensor], Tensor], mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The moment of `function` by the rules."""
    moments = Moments(RULES, entrywise, {})
    x = moments.write(mean.clone(), deviation)
    with torch.no_grad(), unfused(), moments:
        y = function(x)
    return y, moments.read(y).spread


def sampled(function: Callable[[Tensor], Tensor], mean: Tensor, deviation: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same by `count` draws of independent normal entries."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = mean + deviation * torch.randn(count, *mean.shape[1:], generator=generator, dtype=mean.dtype)
        y = function(drawn)
    return y.mean(0, keepdim=True), y.std(0, keepdim=True)


def written_into(x: Tensor) -> Tensor:
    """Slices of an empty tensor filled one by one, one of them again in place."""
    y = torch.zeros(len(x), 4, 8, 8, dtype=x.dtype)
    y[..., ::2, ::2] = x
    y[..., 1::2, 1::2].add_(x.relu())
    y[:, 1].mul_(3)
    y[:, 2].zero_()
    return y


def overwritten(a: Tensor, b: Tensor) -> Tensor:
    """A product with what a variable was before it was overwritten, and one with what took a function's place."""
    root, function = a.flip(1), a.sigmoid()
    before = root.sigmoid()
    root.copy_(b)
    function.copy_(b)
    return torch.cat([before * root, function * a], 1)


def halves(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of the first two and the last two channels."""
    return lambda x: function(*x.chunk(2, 1))


def layer(make: Callable[[], nn.Module]) -> Callable[[Tensor], Tensor]:
    """A module with random weights, in float64 and eval mode; norms keep statistics other than 0 and 1."""
    torch.manual_seed(3)
    module = make().double().eval()
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if value.ndim == 1 else value.normal_()
    return module


KERNEL = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x * 2, inplace=True),
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky relu by hand": lambda x: torch.max(x, 0.2 * x),
    "leaky relu by mask": lambda x: torch.where(x > 0, x, 0.2 * x),
    "relu by product": lambda x: x * (x > 0).to(x.dtype),
    "prelu": layer(lambda: nn.PReLU(4)),
    "silu": F.silu,
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "tanh": lambda x: 150 * torch.tanh(x) + 127.5,
    "softplus": F.softplus,
    "square": lambda x: x * x + x**2,
    "twice": lambda x: x + x,
    "none": lambda x: x - x,
    "negative": lambda x: 1 - 2 * (-x) / 3,
    "one minus": lambda x: torch.rsub(x, 1.0),
    "hardswish": F.hardswish,
    "sum of two": halves(lambda a, b: a - 2 * b),
    "product of two": halves(lambda a, b: a * b),
    "gated": lambda x: F.glu(x, 1),
    "larger of two": halves(torch.maximum),
    "smaller of two": halves(torch.minimum),
    "between two": halves(lambda a, b: torch.lerp(a, b, 0.3)),
    "sum and product": halves(lambda a, b: torch.addcmul(a, b, b.flip(1), value=0.5)),
    "chosen": halves(lambda a, b: torch.where(torch.arange(4) % 2 == 0, a, b)),
    "slices": written_into,
    "overwritten": halves(overwritten),
    "joined": lambda x: torch.cat([x, x.flip(1), x.roll(1, 2), torch.stack([x[:, 0], x[:, 1]], 1)], 1),
    "shuffled": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 4),
    "reflected": lambda x: F.pad(F.pad(x, (1, 2, 1, 0), mode="reflect"), (1, 1, 1, 1), value=3.0),
    "replicated": lambda x: F.pad(F.pad(x, (1, 2, 1, 0), mode="replicate"), (1, 1, 1, 1), mode="circular"),
    "indexed": lambda x: x[:, [2, 0]][..., torch.tensor([3, 1])].repeat_interleave(2, -1),
    "masked": lambda x: x.masked_fill(torch.eye(4, dtype=torch.bool), -2.0),
    "summed": lambda x: x.sum((1, 2)),
    "running sum": lambda x: x.cumsum(-1),
    "averaged": lambda x: x.mean((2, 3), keepdim=True),
    "unfolded": lambda x: F.unfold(x, 3, stride=2),
    "folded": lambda x: F.fold(x.flatten(2), (5, 5), 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest to a ratio": lambda x: F.interpolate(x, size=(7, 5)),
    "nearest twice": lambda x: F.conv2d(F.interpolate(F.interpolate(x, scale_factor=2), scale_factor=2), KERNEL),
    "nearest, relu, convolution": lambda x: F.conv2d(F.relu(F.interpolate(x, scale_factor=2)), KERNEL, padding=1),
    "nearest, bilinear": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), scale_factor=2, mode="bilinear"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=4, mode="bilinear"),
    "bilinear, corners": lambda x: F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True),
    "bilinear twice": lambda x: F.interpolate(
        F.interpolate(x, scale_factor=2, mode="bilinear"), scale_factor=2, mode="bilinear"
    ),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "linear": lambda x: F.interpolate(x.flatten(2), scale_factor=2, mode="linear"),
    "trilinear": lambda x: F.interpolate(x[:, None], scale_factor=2, mode="trilinear"),
    "antialiased": lambda x: F.interpolate(x, size=(2, 3), mode="bilinear", antialias=True),
    "average pool": lambda x: F.avg_pool2d(x, 2, stride=1, padding=1),
    "average pool of what is inside": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "average pool of one axis": lambda x: F.avg_pool2d(x, (1, 2)),
    "average pool with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "average pool 1": lambda x: F.avg_pool1d(x.flatten(2), 3),
    "average pool 3": lambda x: F.avg_pool3d(x[:, None], 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
    "dense": layer(lambda: nn.Linear(4, 3)),
    "dense in channels": lambda x: torch.einsum("nchw,dc->ndhw", x, KERNEL[:, :, 0, 0]),
    "matrix product of two": halves(lambda a, b: a @ b),
    "scaled matrix product": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2),
    "convolution": layer(lambda: nn.Conv2d(4, 2, 3, padding=1)),
    "batch norm": layer(lambda: nn.BatchNorm2d(4)),
    "dropout": lambda x: F.dropout(x, 0.3, training=False),
}


def check(function: Callable[[Tensor], Tensor], tolerance: float) -> None:
    """The rule against 20,000 draws of entries with means of -2 to 2 and deviations of 0.3 to 1.3."""
    generator = torch.Generator().manual_seed(5)
    mean = 4 * torch.rand(1, 4, 4, 4, generator=generator, dtype=torch.float64) - 2
    deviation = 0.3 + torch.rand(1, 4, 4, 4, generator=generator, dtype=torch.float64)
    got, want = carried(function, mean, deviation), sampled(function, mean, deviation, 20_000)
    scale = want[1].max().item() or 1.0
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", EXACT)
def test_rules_that_are_exact_for_normal_entries(name: str) -> None:
    """3 %: four standard errors of a deviation from 20,000 draws are 2 % of it, 3 % where the tails are long."""
    check(EXACT[name], 0.03)


APPROXIMATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": F.relu6,
    "absolute": torch.abs,
    "exponential": torch.exp,
    "quotient": halves(lambda a, b: a / (b.square() + 3)),
    "max pool": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "max pool 3": lambda x: F.max_pool3d(x[:, None], 2),
    "largest": lambda x: x.amax((1, 2)),
    "softmax": lambda x: F.softmax(x.flatten(2) / 2, -1),
    "group norm": lambda x: F.group_norm(x, 2, eps=1e-3),
    "instance norm": lambda x: F.instance_norm(x),
    "layer norm": lambda x: F.layer_norm(x, (4, 4, 4), None, None),
    "rms norm": lambda x: F.rms_norm(x, (4, 4)),
    "standardised by hand": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
    "pixel norm": lambda x: x * (x.square().mean((1, 2), keepdim=True) + 1e-8).rsqrt(),
    "of length 1": lambda x: F.normalize(x.flatten(1), dim=1).view(-1, 4, 4, 4),
    "attention": lambda x: F.scaled_dot_product_attention(x[:, :1] / 4, x[:, 1:2], x[:, 2:3]),
    "dropout that stays on": lambda x: F.dropout(x, 0.3, training=True),
    "noise": lambda x: x + 0.5 * torch.randn_like(x) + torch.rand_like(x),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_rules_that_are_close(name: str) -> None:
    """15 %: statistics of 16 to 64 entries vary between draws, and the larger of two normal values is not normal."""
    check(APPROXIMATE[name], 0.15)


def test_one_entry_has_no_statistics() -> None:
    """Standardised it is 0, its share is 1, and neither varies."""
    mean, deviation = torch.full((1, 4, 4, 1), 2.0).double(), torch.full((1, 4, 4, 1), 3.0).double()
    for function, value in ((lambda x: F.layer_norm(x, (1,)), 0), (lambda x: F.softmax(x, -1), 1)):
        got = carried(function, mean, deviation)
        assert got[0].eq(value).all() and got[1].eq(0).all()


def test_the_largest_of_nearly_constant_entries_is_the_largest() -> None:
    """Means 1e38 deviations apart, as in a window that reaches over the border: no more and no less than a maximum."""
    mean = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    got = carried(pool, mean, torch.full_like(mean, 1e-39))
    torch.testing.assert_close(got[0], pool(mean))  # the rounding of float32
    torch.testing.assert_close(got[1], torch.full_like(got[1], 1e-39), rtol=0, atol=1e-44)


def test_weights_that_depend_on_the_latent() -> None:
    """A modulated convolution, as in StyleGAN2: both of its operands vary; samples one by one."""

    def modulated(x: Tensor) -> Tensor:
        weight = KERNEL[:2, :2] * (1 + x[0, 2:, 0, 0]).view(1, 2, 1, 1)
        return F.conv2d(x[:, :2], weight, padding=1)

    mean, deviation = torch.zeros(1, 4, 4, 4).double(), torch.full((1, 4, 4, 4), 0.5).double()
    drawn = mean + deviation * torch.randn(20_000, *mean.shape, generator=torch.Generator().manual_seed(0)).double()
    values = torch.func.vmap(modulated)(drawn)
    got = carried(modulated, mean, deviation)
    scale = values.std(0).max().item()
    torch.testing.assert_close(got[0], values.mean(0), rtol=0, atol=0.03 * scale)
    torch.testing.assert_close(got[1], values.std(0), rtol=0, atol=0.05 * scale)


# Networks as they are drawn


def difference(make: Callable[[], nn.Module], size: tuple[int, ...], seed: int) -> list[tuple[float, float]]:
    """Imbalance at T = 2, 4, 8 of one draw of weights: measured on 64 latents, predicted."""
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        output = torch.cat([model(torch.randn(16, *size)) for _ in range(4)]).double()
    energy = output.square().sum(1, keepdim=True)
    energy = energy / energy.flatten(1).mean(1).view(-1, *[1] * (energy.ndim - 1))
    predicted = forward_energy(model, size).sqrt()[None, None]
    return [
        (
            set_imbalance(phase_energy(energy.sqrt(), period)).item(),
            phase_imbalance(predicted, period, debias=False).item(),
        )
        for period in (2, 4, 8)
    ]


class Decoder(nn.Module):
    """Group norms, SiLU by hand, attention in the middle, nearest resize and convolution: as in latent diffusion."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(4))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = self.norms[0](x).flatten(2).mT
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.unflatten(2, x.shape[2:])
        for norm, convolution in zip(self.norms[1:], self.convolutions, strict=True):
            inner = norm(x)
            x = F.interpolate(x + convolution(inner * torch.sigmoid(inner)), scale_factor=2)
        return self.out(F.silu(x))


class UNet(nn.Module):
    """One step down and up, with a skip."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        return self.out(torch.cat([skip, F.relu(self.up(F.relu(self.deep(F.max_pool2d(skip, 2)))))], 1))


def voxels() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose3d(32, 32, 4), nn.BatchNorm3d(32), nn.ReLU(), nn.ConvTranspose3d(32, 16, 3, 2), nn.ELU(),
        nn.ConvTranspose3d(16, 2, 4, 2, 1),
    )  # fmt: skip


def waves() -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad1d(3), nn.Conv1d(20, 64, 7), nn.LeakyReLU(0.2), nn.ConvTranspose1d(64, 32, 8, 4, 2),
        nn.LeakyReLU(0.2), nn.ConvTranspose1d(32, 16, 3, 2, 1, 1), nn.LeakyReLU(0.2), nn.Conv1d(16, 1, 7), nn.Tanh(),
    )  # fmt: skip


GENERATORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dcgan": (DCGANGenerator, (100,)),
    "mnist": (MNISTGenerator, (64, 1, 1)),
    "style": (lambda: StyleTransfer(16), (3, 32, 32)),
    "srgan": (lambda: SRGANGenerator(16), (3, 16, 16)),
    "decoder": (Decoder, (4, 4, 4)),
    "unet": (UNet, (3, 32, 32)),
    "voxels": (voxels, (32, 1, 1, 1)),
    "waves": (waves, (20, 16)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_untrained_generators_do_as_predicted(name: str) -> None:
    """One draw of weights each. Measured differences are below 0.03; 64 latents leave 0.01 to chance."""
    for measured, predicted in difference(*GENERATORS[name], seed=0):
        assert predicted == pytest.approx(measured, rel=0.15, abs=0.05)


def test_even_coverage_alone_does_not_make_a_generator_even() -> None:
    """4x4 kernels of stride 2 cover all pixels alike, and yet one draw of them has a lattice: in the mean."""
    torch.manual_seed(0)
    covered = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))
    resized = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(32, 3, 3, padding=1))
    read = [
        phase_imbalance(forward_energy(m, (8, 32, 32)).sqrt()[None, None], 2, debias=False).item()
        for m in (covered, resized)
    ]
    assert read[0] > 4 * read[1] and read[0] > 0.1


@pytest.mark.assets
@pytest.mark.parametrize(
    ("make", "weights", "size", "apart"),
    [
        (DCGANGenerator, "dcgan_svhn/generator.safetensors", (100,), 0.0),
        (StyleTransfer, "style/lengstrom_la_muse_fp16.safetensors", (3, 64, 64), 0.0),
        (SRGANGenerator, "srgan/netG_epoch_4_100.pth", (3, 24, 24), 0.2),
    ],
)
def test_training_evens_out_what_was_drawn(
    make: Callable[[], nn.Module], weights: str, size: tuple[int, ...], apart: float, assets: Path
) -> None:
    """Learned compensation at T = 2, predicted and measured: SVHN 0.017 and -0.003, style 0.034 and 0.040.

    SRGAN reads 0.316 and 0.013: training correlated the phases of its sub-pixel convolutions, which no square can see.
    """

    def trained() -> nn.Module:
        network = make()
        fill(network, read_state(assets / "weights" / weights), weights)
        return network

    (drawn, _, _), (measured, predicted) = difference(make, size, 0), difference(trained, size, 0)[0]
    print(f"\n{weights}: drawn {drawn[0]:.3f}, trained {measured:.3f}, predicted {predicted:.3f}")
    assert abs(measured) < 0.06 and predicted - measured > apart - 0.03
    assert apart or abs(predicted - measured) < 0.03


# Any magnitude, any machine, any module


def test_deep_networks_of_any_scale_agree() -> None:
    """Weights 1e-3 of those before, then 1e3: activations change by 1e-27 and 1e27, and their squares leave float32."""
    torch.manual_seed(0)
    layers = [nn.ConvTranspose2d(4, 4, 3, 2 if i in (3, 6) else 1, 1, bias=False) for i in range(9)]
    network = nn.Sequential(*[m for deconvolution in layers for m in (deconvolution, nn.ReLU())])
    before = forward_energy(network, (4, 6, 6))
    for factor in (1e-3, 1e6):
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(factor)
        torch.testing.assert_close(forward_energy(network, (4, 6, 6)), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_agree(dtype: torch.dtype) -> None:
    """bfloat16 rounds to 1 in 256, through a dozen operations."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), nn.BatchNorm2d(32), nn.LeakyReLU(0.2), nn.ConvTranspose2d(32, 32, 3, 2, 1, 1),
        nn.GroupNorm(4, 32), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(32, 3, 3, padding=1),
    )  # fmt: skip
    before = forward_energy(network, (4, 8, 8))
    tolerance = 1e-4 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(forward_energy(network.to(dtype), (4, 8, 8)), before, rtol=tolerance, atol=tolerance)


class Odd(nn.Module):
    """Calls `function` in a child named `inner`."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = Call(function)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.cumprod(-1), "aten.cumprod.default"),
        (lambda x: torch.fft.rfft(x).abs(), "aten._fft_r2c.default"),
        (lambda x: x if x.sum() > 0 else -x, "aten._local_scalar_dense.default"),
        (lambda x: x[x > 0], "aten.index.Tensor by indices or masks that depend on data"),
        (lambda x: torch.atan2(x, x.flip(-1)), "aten.atan2.default of two variables"),
        (lambda x: torch.view_as_complex(x.unflatten(-1, (-1, 2))).abs(), "as torch.complex64"),
        (lambda x: torch.add(x, 1, out=torch.empty_like(x)), "aten.add.out"),
    ],
)
def test_an_operation_without_a_rule_is_named_with_its_module(function: Callable[[Tensor], Any], named: str) -> None:
    with pytest.raises(NotImplementedError) as caught:
        forward_energy(Odd(function), (1, 4, 4))
    assert named in str(caught.value) and "'inner'" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Call(lambda x: (x, x)), "2 values"),
        (Call(lambda x: {"sample": x}), "a mapping with sample"),
        (nn.Flatten(), "a tensor of shape [1, 32]"),
        (Call(torch.zeros_like), "depends on its input"),
        (Call(lambda x: 0 * x), "magnitude of its output is 0.0"),
        (nn.Conv2d(3, 2, 3), "cannot run on [1, 2, 4, 4]"),
    ],
)
def test_what_has_no_map_says_so(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        forward_energy(model, (2, 4, 4))
    assert words in str(caught.value)


def test_a_network_in_training_is_read_as_in_use() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_var = torch.tensor([0.1, 1.0, 2.0, 9.0])
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(4, 1, 3))
    assert torch.equal(forward_energy(network.train(), (2, 8, 8)), forward_energy(network.eval(), (2, 8, 8)))


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU(inplace=True), nn.Dropout())
    network.append(Call(lambda x: x + torch.randn_like(x)))
    if fails:
        network.append(Call(lambda x: x.cumprod(-1)))
    network[0].weight.grad = torch.ones_like(network[0].weight)
    network[0].bias.requires_grad_(False)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    random = torch.get_rng_state()
    for _ in range(2):
        try:
            forward_energy(network, (2, 8, 8))
        except NotImplementedError:
            assert fails
    assert modes == [m.training for m in network.modules()] and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert network[0].weight.grad is not None and network[0].weight.grad.eq(1).all()
    assert network[0].weight.requires_grad and not network[0].bias.requires_grad
    assert torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("name", GENERATORS)
def test_a_gpu_predicts_the_same(name: str) -> None:
    make, size = GENERATORS[name]
    torch.manual_seed(0)
    model = make()
    before = forward_energy(model, size)
    torch.testing.assert_close(forward_energy(model.cuda(), size), before, rtol=0.01, atol=0.01)
