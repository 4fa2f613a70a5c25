"""One step of training against the textbook's loop in plain torch: its own Adam, its own average, two forward passes."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan.augmentation import augment, draw
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.step import Pair, take_step
from gradlens.redesign.losses import LOSSES
from gradlens.spectra import lattice_loss, spectrum_distance

SIDE, BATCH, LATENT = 16, 6, 8
EVERY = pytest.mark.parametrize("loss", LOSSES)
Draws = dict[str, Tensor]


class Adam:
    """Kingma, Ba 2015, algorithm 1, as a list of steps."""

    def __init__(self, weights: list[Tensor], rate: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999)) -> None:
        self.weights, self.rate, (self.beta1, self.beta2), self.t = weights, rate, betas, 0
        self.m = [torch.zeros_like(w) for w in weights]
        self.v = [torch.zeros_like(w) for w in weights]

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        self.t += 1
        for w, m, v, g in zip(self.weights, self.m, self.v, gradients, strict=True):
            m.copy_(self.beta1 * m + (1 - self.beta1) * g)
            v.copy_(self.beta2 * v + (1 - self.beta2) * g * g)
            rise, spread = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
            w.data -= self.rate * rise / (spread.sqrt() + 1e-8)


def of_discriminator(name: str, real: Tensor, fake: Tensor) -> Tensor:
    return {
        "non-saturating": lambda: -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean(),
        "hinge": lambda: (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
        "wasserstein-gp": lambda: fake.mean() - real.mean(),
        "relativistic": lambda: -F.logsigmoid(real - fake).mean(),
    }[name]()


def of_generator(name: str, fake: Tensor, real: Tensor) -> Tensor:
    return {
        "non-saturating": lambda: -F.logsigmoid(fake).mean(),
        "hinge": lambda: -fake.mean(),
        "wasserstein-gp": lambda: -fake.mean(),
        "relativistic": lambda: -F.logsigmoid(fake - real).mean(),
    }[name]()


def slope(judge: nn.Module, images: Tensor) -> Tensor:
    images = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


def penalty(name: str, judge: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor | float:
    if name == "wasserstein-gp":
        return 10 * (slope(judge, mix * real + (1 - mix) * fake) - 1).square().mean()
    if name == "relativistic":
        return (slope(judge, real).square().mean() + slope(judge, fake).square().mean()) / 2
    return 0.0


class Textbook:
    """Goodfellow et al. 2014, algorithm 1, with what came after it: critic steps, penalties, augmentation, an average."""

    def __init__(self, pair: Pair, config: TrainConfig) -> None:
        self.config = config
        self.generator, self.judge = copy.deepcopy(pair.generator), copy.deepcopy(pair.discriminator)
        self.average = {k: v.clone() for k, v in pair.averaged.state_dict().items()}
        self.of_g, self.of_d = (Adam(list(network.parameters())) for network in (self.generator, self.judge))

    def step(self, draws: Draws) -> list[float]:
        name, steps = self.config.loss, len(draws["real"])
        for k in range(steps):
            real = draws["real"][k].double() / 127.5 - 1
            if k == steps - 1:
                fake = self.generator(draws["latents"][k])
            else:
                with torch.no_grad():
                    fake = self.generator(draws["latents"][k])
            seen_real = augment(real, below(draws, f"real/{k}/"))
            seen_fake = augment(fake.detach(), below(draws, f"fake/{k}/"))
            if self.config.norm == "batch":
                logits = self.judge(seen_real), self.judge(seen_fake)
            else:  # its power iteration runs once a pass
                logits = self.judge(torch.cat([seen_real, seen_fake])).chunk(2)
            loss_d = of_discriminator(name, *logits)
            total = loss_d + penalty(name, self.judge, seen_real, seen_fake, draws["mix"][k])
            self.of_d.step(torch.autograd.grad(total, list(self.judge.parameters())))
        logits_g = self.judge(augment(fake, below(draws, "generator/")))
        with torch.no_grad():
            paired = name == "relativistic"
            logits_r = self.judge(augment(real, below(draws, "generator/"))) if paired else torch.zeros(())
        loss_g = total = of_generator(name, logits_g, logits_r)
        for period in self.config.measured:
            total = total + self.config.lattice_weight * lattice_loss(fake, period)
        total = total + self.config.spectrum_weight * spectrum_distance(fake, real)
        self.of_g.step(torch.autograd.grad(total, list(self.generator.parameters())))
        keep = draws["keep"].item()
        weights = dict(self.generator.named_parameters())
        for key, now in self.generator.state_dict().items():
            self.average[key] = keep * self.average[key] + (1 - keep) * now if key in weights else now.clone()
        return [loss_d.item(), loss_g.item()]


def below(draws: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in draws.items() if key.startswith(prefix)}


def config_of(loss: str, **options: Any) -> TrainConfig:
    return TrainConfig(loss=loss, resolution=SIDE, latent=LATENT, width=3, batch_size=BATCH, **options)  # type: ignore[arg-type]


def pair_of(config: TrainConfig, dtype: torch.dtype = torch.float64) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StagedGenerator(SIDE, latent=LATENT, width=3, upsampler="deconv").to(dtype)
        judge = StagedDiscriminator(SIDE, width=3, downsampler="stride1", norm=config.norm).to(dtype)
    averaged = copy.deepcopy(generator).requires_grad_(False)
    optimisers = [
        torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=config.betas) for network in (generator, judge)
    ]  # fmt: skip
    return Pair(
        generator, judge, averaged, optimisers[0], optimisers[1], {"generator": generator, "discriminator": judge}
    )


def draws_of(config: TrainConfig, step: int, dtype: torch.dtype = torch.float64) -> Draws:
    random = torch.Generator().manual_seed(step)
    steps = LOSSES[config.loss].critic_steps
    parts = [f"{side}/{k}" for side in ("real", "fake") for k in range(steps)]
    drawn: Draws = {}
    for part in [*parts, "generator"]:
        found = draw(BATCH, config.augment, (SIDE, SIDE), generator=random)
        drawn |= {f"{part}/{key}": value for key, value in found.items()}
    return drawn | {
        "real": torch.randint(0, 256, (steps, BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=random),
        "latents": torch.randn(steps, BATCH, LATENT, dtype=dtype, generator=random),
        "mix": torch.rand(steps, BATCH, 1, 1, 1, dtype=dtype, generator=random),
        "keep": torch.tensor(0.25 + 0.1 * step, dtype=dtype),
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "spectral norm": {},
    "no norm": {"norm": "none"},
    "batch norm": {"norm": "batch"},
    "augmentation": {"augment": ("colour", "flip", "translation", "cutout")},
    "lattice": {"lattice_weight": 0.7, "periods": (2, 4)},
    "spectrum": {"spectrum_weight": 0.2},
}
PENALISED = ("wasserstein-gp", "relativistic")
CASES = [(loss, what) for loss in LOSSES for what in OPTIONS if not (what == "batch norm" and loss in PENALISED)]


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step computes logits, images and losses in float32: here what it calls float is double."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr("gradlens.redesign.gan.step._levels", lambda pixels: pixels.double() / 127.5 - 1)


@pytest.mark.parametrize(("loss", "what"), CASES)
def test_steps_are_the_textbooks(loss: str, what: str, in_float64: None) -> None:
    config = config_of(loss, **OPTIONS[what])
    pair = pair_of(config)
    textbook = Textbook(pair, config)
    start = {key: value.clone() for key, value in pair.generator.state_dict().items()}
    for step in range(4):
        draws = draws_of(config, step)
        found, expected = take_step(pair, draws, config), textbook.step(draws)
        assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for network, other in ((pair.generator, textbook.generator), (pair.discriminator, textbook.judge)):
        for key, value in other.state_dict().items():
            # Adam divides by the root of tiny squares: rounding grows to some 1e-9 of a step of 2e-4
            torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=1e-9, msg=key)
    for key, value in textbook.average.items():
        torch.testing.assert_close(pair.averaged.state_dict()[key], value, rtol=0, atol=1e-9, msg=key)
    moved = [
        (value - start[key]).abs().max().item() for key, value in pair.generator.state_dict().items() if "weight" in key
    ]
    assert min(moved) > 2e-4  # of every layer, more than a step


def test_levels_are_from_minus_one_to_one() -> None:
    seen = []
    config = config_of("hinge")
    pair = pair_of(config, torch.float32)
    judge = pair.discriminator
    pair.calls["discriminator"] = lambda x: seen.append(x.detach()) or judge(x)
    draws = draws_of(config, 0, torch.float32)
    draws["real"][:, :, :, 0] = 0
    draws["real"][:, :, :, 1] = 255
    take_step(pair, draws, config)
    real, fake = seen[0].chunk(2)
    assert (real[:, :, 0] == -1).all() and (real[:, :, 1] == 1).all()
    torch.testing.assert_close((real + 1) * 127.5, draws["real"][0].float(), rtol=0, atol=1e-4)
    assert torch.equal(seen[1], fake)  # one pass of the generator serves both


@EVERY
def test_the_generators_loss_moves_no_weight_of_the_discriminator(loss: str) -> None:
    """Were its gradient left, the next step of the discriminator would not see it either: zero_grad comes first."""
    config = config_of(loss)
    pair = pair_of(config, torch.float32)
    at_its_step: list[list[Tensor]] = []
    step = pair.optimiser_d.step

    def watched(*arguments: Any, **options: Any) -> Any:
        at_its_step.append([p.grad.clone() for p in pair.discriminator.parameters() if p.grad is not None])
        return step(*arguments, **options)

    pair.optimiser_d.step = watched  # type: ignore[method-assign]
    take_step(pair, draws_of(config, 0, torch.float32), config)
    assert len(at_its_step) == LOSSES[loss].critic_steps
    left = [p.grad for p in pair.discriminator.parameters()]
    assert len(left) == len(at_its_step[-1])
    for now, then in zip(left, at_its_step[-1], strict=True):
        assert now is not None and torch.equal(now, then)


@EVERY
def test_modes_and_what_is_learned_are_left_as_they_were(loss: str) -> None:
    config = config_of(loss)
    pair = pair_of(config, torch.float32)
    networks = (pair.generator, pair.discriminator, pair.averaged)
    before = [[(p.requires_grad, p.dtype) for p in n.parameters()] + [n.training] for n in networks]
    losses = take_step(pair, draws_of(config, 0, torch.float32), config)
    assert [[(p.requires_grad, p.dtype) for p in n.parameters()] + [n.training] for n in networks] == before
    assert losses.shape == (2,) and not losses.requires_grad
    assert all(p.grad is None for p in pair.averaged.parameters())


@EVERY
def test_a_step_is_a_function_of_its_draws(loss: str) -> None:
    """It draws nothing itself, and leaves what it is given as it was."""
    config = config_of(loss, augment=("colour", "cutout"))
    states = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            pair, draws = pair_of(config, torch.float32), draws_of(config, 0, torch.float32)
            kept = {key: value.clone() for key, value in draws.items()}
            take_step(pair, draws, config)
            assert torch.equal(torch.get_rng_state(), before)
            assert all(torch.equal(value, kept[key]) for key, value in draws.items())
        states.append(pair.generator.state_dict() | pair.discriminator.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_the_average_keeps_its_share(keep: float) -> None:
    config = config_of("hinge")
    pair = pair_of(config, torch.float32)
    with torch.no_grad():
        for weight in pair.averaged.parameters():
            weight += 1
    before = {key: value.clone() for key, value in pair.averaged.named_parameters()}
    take_step(pair, draws_of(config, 0, torch.float32) | {"keep": torch.tensor(keep)}, config)
    for key, now in pair.generator.named_parameters():
        found = dict(pair.averaged.named_parameters())[key]
        torch.testing.assert_close(found, keep * before[key] + (1 - keep) * now, rtol=0, atol=1e-6)
        if keep in (0.0, 1.0):
            assert torch.equal(found, before[key] if keep else now)
    for key, now in pair.generator.named_buffers():
        assert torch.equal(dict(pair.averaged.named_buffers())[key], now)


@pytest.mark.parametrize(("loss", "critic", "generator"), [("hinge", 1, 1), ("wasserstein-gp", 5, 1)])
def test_the_discriminator_steps_as_often_as_the_loss_says(loss: str, critic: int, generator: int) -> None:
    config = config_of(loss)
    pair = pair_of(config, torch.float32)
    take_step(pair, draws_of(config, 0, torch.float32), config)
    for optimiser, steps in ((pair.optimiser_d, critic), (pair.optimiser_g, generator)):
        assert {int(slots["step"]) for slots in optimiser.state.values()} == {steps}


def test_whether_images_of_a_batch_mix_is_known() -> None:
    for norm, mixes in (("spectral", False), ("none", False), ("batch", True)):
        assert pair_of(config_of("hinge", norm=norm)).mixes == mixes


@EVERY
def test_in_bfloat16_a_step_is_near_and_its_weights_stay_float32(loss: str) -> None:
    config = config_of(loss, augment=("colour", "translation"), lattice_weight=0.1)
    found = []
    for dtype in (None, torch.bfloat16):
        pair, draws = pair_of(config, torch.float32), draws_of(config, 0, torch.float32)
        found.append(take_step(pair, draws, config, dtype=dtype))
        assert all(p.dtype == torch.float32 for n in (pair.generator, pair.discriminator) for p in n.parameters())
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05)  # 8 bits in each product


def test_images_reach_the_discriminator_channels_last() -> None:
    formats = []
    config = config_of("hinge", augment=("colour", "flip", "cutout"))
    pair = pair_of(config, torch.float32)
    for network in (pair.generator, pair.discriminator):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge = pair.discriminator
    pair.calls["discriminator"] = lambda x: formats.append(x) or judge(x)
    take_step(pair, draws_of(config, 0, torch.float32), config)
    assert len(formats) == 2
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in formats)


def test_a_lattice_loss_pulls_the_lattice_down() -> None:
    """From a generator of uneven kernels, ten steps with it and without: the share of its samples' lattice."""
    shares = []
    for weight in (0.0, 20.0):
        config = config_of("hinge", lattice_weight=weight, periods=(2,), learning_rate=2e-3)
        pair = pair_of(config, torch.float32)
        z = draws_of(config, 99, torch.float32)["latents"][0]
        for step in range(10):
            take_step(pair, draws_of(config, step, torch.float32), config)
        with torch.no_grad():
            shares.append(lattice_loss(pair.generator(z), 2).item())
    assert shares[1] < shares[0] - 0.2


def test_the_reference_is_adam() -> None:
    """Of a constant gradient every step is the rate, whatever its size; of one that alternates in sign it dies away."""
    w = torch.zeros(2, dtype=torch.float64)
    adam = Adam([w], rate=0.1)
    for _ in range(3):
        adam.step((torch.tensor([5.0, -1e-3], dtype=torch.float64),))
    assert w.tolist() == pytest.approx([-0.3, 0.3], rel=1e-4)
    assert math.isclose(adam.m[0][0].item(), 5 * (1 - 0.5**3))
