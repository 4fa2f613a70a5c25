"""`gradlens.redesign.losses` against the papers' equations in plain Python, its penalties against finite differences, and
what is known of their games."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan.augmentation import POLICIES, draw
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.step import Pair, take_step
from gradlens.redesign.losses import LOSSES, gradient_penalty, r1
from gradlens.spectra import signal

EVERY = pytest.mark.parametrize("name", LOSSES)
FLOAT64 = 1e-12  # of a few hundred operations
Logits = Sequence[float]


def logits(*shape: int, seed: int, spread: float = 3.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * spread


# Equations


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def goodfellow(r: Logits, f: Logits) -> tuple[float, float]:
    """Algorithm 1 ascends log D(x) + log(1 - D(G(z))); section 3: the generator ascends log D(G(z))."""
    judged = mean([math.log(sigmoid(x)) for x in r]) + mean([math.log(1 - sigmoid(x)) for x in f])
    return -judged, -mean([math.log(sigmoid(x)) for x in f])


def miyato(r: Logits, f: Logits) -> tuple[float, float]:
    """Eq. 16 and 17 of Miyato et al. 2018: V_D = E min(0, -1 + D(x)) + E min(0, -1 - D(G(z))), V_G = -E D(G(z))."""
    return -mean([min(0, -1 + x) for x in r]) - mean([min(0, -1 - x) for x in f]), -mean(f)


def gulrajani(r: Logits, f: Logits) -> tuple[float, float]:
    """Eq. 3 without its penalty, and algorithm 1, line 12."""
    return mean(f) - mean(r), -mean(f)


def jolicoeur_martineau(r: Logits, f: Logits) -> tuple[float, float]:
    """RSGAN: L_D = -E log sigmoid(C(x_r) - C(x_f)), L_G = -E log sigmoid(C(x_f) - C(x_r)), R3GAN's over pairs."""
    return (
        -mean([math.log(sigmoid(x - y)) for x, y in zip(r, f, strict=True)]),
        -mean([math.log(sigmoid(y - x)) for x, y in zip(r, f, strict=True)]),
    )


PAPERS: dict[str, Callable[[Logits, Logits], tuple[float, float]]] = {
    "non-saturating": goodfellow,
    "hinge": miyato,
    "wasserstein-gp": gulrajani,
    "relativistic": jolicoeur_martineau,
}


def test_there_are_these_losses() -> None:
    assert list(LOSSES) == list(PAPERS)
    assert {name: loss.critic_steps for name, loss in LOSSES.items() if loss.critic_steps != 1} == {"wasserstein-gp": 5}
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]
    assert [name for name, loss in LOSSES.items() if loss.penalty] == ["wasserstein-gp", "relativistic"]


@EVERY
@pytest.mark.parametrize("shape", [(7,), (7, 1), (1,)])
def test_every_loss_is_its_papers(name: str, shape: tuple[int, ...]) -> None:
    real, fake = logits(*shape, seed=0), logits(*shape, seed=1)
    expected = PAPERS[name](real.flatten().tolist(), fake.flatten().tolist())
    loss = LOSSES[name]
    found = loss.discriminator(real, fake), loss.generator(fake, real)
    assert all(value.shape == () for value in found)
    np.testing.assert_allclose([value.item() for value in found], expected, FLOAT64, FLOAT64)


@EVERY
def test_its_gradients_are_right(name: str) -> None:
    real, fake = (logits(5, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(LOSSES[name].discriminator, (real, fake))
    assert torch.autograd.gradcheck(LOSSES[name].generator, (fake, real))


@EVERY
def test_the_generator_needs_real_logits_only_where_they_are_paired(name: str) -> None:
    loss, fake = LOSSES[name], logits(5, seed=1)
    if not loss.paired:
        assert loss.generator(fake, None) == loss.generator(fake, logits(5, seed=0))


@EVERY
def test_the_discriminator_wants_real_logits_up_and_the_generator_its_own(name: str) -> None:
    loss = LOSSES[name]
    real, fake = (logits(64, seed=seed, spread=1.0).requires_grad_() for seed in (0, 1))
    of_real, of_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (of_real <= 0).all() and (of_fake >= 0).all()
    assert of_real.sum() < 0 < of_fake.sum()
    assert (torch.autograd.grad(loss.generator(fake, real), fake)[0] < 0).all()


@EVERY
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_stay_finite(name: str, size: float) -> None:
    real, fake = (torch.full((4,), sign * size).requires_grad_() for sign in (1, -1))
    for value in (LOSSES[name].discriminator(real, fake), LOSSES[name].generator(fake, real)):
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (real, fake), allow_unused=True)
                   if gradient is not None)  # fmt: skip


# Facts


def test_undecided_the_non_saturating_losses_are_log_two() -> None:
    loss, zero = LOSSES["non-saturating"], torch.zeros(3, dtype=torch.float64)
    assert loss.generator(zero, None).item() == pytest.approx(math.log(2), rel=1e-15)
    assert loss.discriminator(zero, zero).item() == pytest.approx(2 * math.log(2), rel=1e-15)


def test_a_generator_that_is_found_out_keeps_its_whole_gradient() -> None:
    fake = torch.full((1,), -40.0, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES["non-saturating"].generator(fake, None), fake)
    assert gradient.item() == pytest.approx(-1, abs=1e-15)  # log(1 - D) would leave exp(-40)


def test_hinge_is_flat_beyond_its_margins() -> None:
    real = torch.tensor([1.5, 40.0, 0.0, -2.0], dtype=torch.float64).requires_grad_()
    fake = torch.tensor([-1.5, -40.0, 0.0, 2.0], dtype=torch.float64).requires_grad_()
    value = LOSSES["hinge"].discriminator(real, fake)
    assert value.item() == (1 + 3) / 4 + (1 + 3) / 4
    of_real, of_fake = torch.autograd.grad(value, (real, fake))
    assert of_real.tolist() == [0, 0, -0.25, -0.25]
    assert of_fake.tolist() == [0, 0, 0.25, 0.25]


def test_relativistic_losses_do_not_see_a_constant_and_see_the_pairs() -> None:
    loss, real, fake = LOSSES["relativistic"], logits(6, seed=0), logits(6, seed=1)
    for value in (loss.discriminator, lambda r, f: loss.generator(f, r)):
        assert value(real + 5, fake + 5).item() == pytest.approx(value(real, fake).item(), rel=1e-12)
        assert value(real, fake.flip(0)).item() != pytest.approx(value(real, fake).item(), rel=1e-3)
    assert loss.discriminator(real, fake) == loss.generator(real, fake)  # each wants what the other does not


# Penalties


class Tiny(nn.Module):
    """D(x) = v . tanh(W x + b), whose slope is W' (v (1 - tanh^2))."""

    def __init__(self, *, inputs: int = 8, hidden: int = 5) -> None:
        super().__init__()
        draws = (
            logits(*shape, seed=seed, spread=0.7) for seed, shape in enumerate([(hidden, inputs), (hidden,), (hidden,)])
        )
        self.w, self.b, self.v = (nn.Parameter(values) for values in draws)

    def forward(self, images: Tensor) -> Tensor:
        return (torch.tanh(images.flatten(1) @ self.w.T + self.b) @ self.v)[:, None]

    def slope(self, image: np.ndarray) -> np.ndarray:
        w, b, v = (values.detach().numpy() for values in (self.w, self.b, self.v))
        return w.T @ (v * (1 - np.tanh(w @ image.ravel() + b) ** 2))


def batch(count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Real images, generated ones, and how they are mixed."""
    mix = torch.rand(count, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return logits(count, 2, 2, 2, seed=3, spread=1), logits(count, 2, 2, 2, seed=4, spread=1), mix


def slow_gradient_penalty(judge: Tiny, real: Tensor, fake: Tensor, mix: Tensor) -> float:
    """Gulrajani et al. 2017, algorithm 1: x = e x_real + (1 - e) x_fake, lambda (|dD/dx| - 1)^2 with lambda = 10."""
    each = []
    for one, other, e in zip(real.numpy(), fake.numpy(), mix.flatten().tolist(), strict=True):
        each.append(10 * (np.sqrt((judge.slope(e * one + (1 - e) * other) ** 2).sum()) - 1) ** 2)
    return mean(each)


def slow_r1(judge: Tiny, images: Tensor, gamma: float) -> float:
    """Mescheder et al. 2018, eq. 9: gamma / 2 E |dD/dx|^2."""
    return mean([gamma / 2 * (judge.slope(image) ** 2).sum() for image in images.numpy()])


def test_the_tiny_networks_slope_is_that_of_finite_differences() -> None:
    judge, image = Tiny(), batch()[0][:1]
    for place in range(8):
        step = torch.zeros(1, 8, dtype=torch.float64)
        step[0, place] = 1e-6
        rise = (judge(image.flatten(1) + step) - judge(image.flatten(1) - step)).item() / 2e-6
        assert judge.slope(image.numpy())[place] == pytest.approx(rise, rel=1e-7)


def test_penalties_are_their_papers() -> None:
    judge, (real, fake, mix) = Tiny(), batch()
    expected = slow_gradient_penalty(judge, real, fake, mix)
    assert gradient_penalty(judge, real, fake, mix).item() == pytest.approx(expected, rel=1e-12)
    assert gradient_penalty(judge, real, fake, mix, 2.5).item() == pytest.approx(expected / 4, rel=1e-12)
    for gamma in (1.0, 10.0):
        assert r1(judge, real, gamma).item() == pytest.approx(slow_r1(judge, real, gamma), rel=1e-12)
    wasserstein, relativistic = (LOSSES[name].penalty for name in ("wasserstein-gp", "relativistic"))
    assert wasserstein is not None and relativistic is not None
    assert wasserstein(judge, real, fake, mix).item() == pytest.approx(expected, rel=1e-12)
    both = slow_r1(judge, real, 1.0) + slow_r1(judge, fake, 1.0)  # R3GAN, eq. 3 and 4
    assert relativistic(judge, real, fake, mix).item() == pytest.approx(both, rel=1e-12)


@pytest.mark.parametrize("name", ["wasserstein-gp", "relativistic"])
def test_what_a_penalty_teaches_is_that_of_finite_differences(name: str) -> None:
    judge, images = Tiny(), batch()
    names, values = zip(*judge.named_parameters(), strict=True)

    def penalty(*own: Tensor) -> Tensor:
        found = LOSSES[name].penalty
        assert found is not None
        weights = dict(zip(names, own, strict=True))
        return found(lambda x: torch.func.functional_call(judge, weights, (x,)), *images)

    assert torch.autograd.gradcheck(penalty, values)


@pytest.mark.parametrize("name", ["wasserstein-gp", "relativistic"])
def test_a_penalty_teaches_every_weight_of_a_network_of_the_house(name: str) -> None:
    """Of a trained discriminator: a random direction in the space of weights, whose rise finite differences know."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = StagedDiscriminator(16, width=4, norm="none").double()
    penalty = LOSSES[name].penalty
    assert penalty is not None
    real, fake = logits(3, 3, 16, 16, seed=0, spread=0.5), logits(3, 3, 16, 16, seed=1, spread=0.5)
    images = real, fake, batch(3)[2]
    weights = [weight for weight in judge.parameters() if weight.ndim > 1]  # a bias moves gates alone
    gradients = torch.autograd.grad(penalty(judge, *images), weights)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    steps = [logits(*weight.shape, seed=seed, spread=1e-6) for seed, weight in enumerate(weights)]
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, step in zip(weights, steps, strict=True):
                weight += sign * step
        ends.append(penalty(judge, *images).item())
    foretold = sum((gradient * step).sum().item() for gradient, step in zip(gradients, steps, strict=True))
    assert (ends[0] - ends[1]) / 2 == pytest.approx(foretold, rel=1e-4)  # a gate or two may change between them


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 0.0), (3.0, 40.0), (0.0, 10.0)])
def test_the_gradient_penalty_of_a_linear_critic_is_known(norm: float, expected: float) -> None:
    real, fake, mix = batch()
    direction = logits(8, seed=9)
    slope = (direction / direction.norm() * norm).requires_grad_()
    value = gradient_penalty(lambda x: x.flatten(1) @ slope, real, fake, mix)
    assert value.item() == pytest.approx(expected, abs=1e-8)  # the root of 1e-20 at norm 0
    assert torch.autograd.grad(value, slope)[0].isfinite().all()


def test_the_mix_is_of_real_and_generated_images() -> None:
    real, fake, mix = batch()
    for extreme, images in ((torch.ones_like(mix), real), (torch.zeros_like(mix), fake)):
        seen = []
        gradient_penalty(lambda x, seen=seen: seen.append(x.detach()) or x.sum((1, 2, 3)), real, fake, extreme)
        assert torch.equal(seen[0], images)


@pytest.mark.parametrize("name", ["wasserstein-gp", "relativistic"])
def test_a_penalty_leaves_images_and_networks_as_they_were(name: str) -> None:
    judge, (real, fake, mix) = Tiny(), batch()
    fake.requires_grad_()
    copies = [real.clone(), fake.detach().clone()]
    penalty = LOSSES[name].penalty
    assert penalty is not None
    penalty(judge, real, fake, mix).backward()
    assert (real.requires_grad, fake.requires_grad) == (False, True)
    assert real.grad is None and fake.grad is None  # it is the discriminator's alone
    assert torch.equal(real, copies[0]) and torch.equal(fake.detach(), copies[1])
    assert all(weight.grad is not None for weight in judge.parameters())


@pytest.mark.parametrize("name", ["wasserstein-gp", "relativistic"])
def test_half_precision_sums_its_slopes_in_float32(name: str) -> None:
    judge, images = Tiny().float(), [x.float() for x in batch()]
    penalty = LOSSES[name].penalty
    assert penalty is not None
    expected = pytest.approx(penalty(judge, *images).item(), rel=0.05)  # 8 bits in each product
    with torch.autocast("cpu", torch.bfloat16):
        assert penalty(judge, *images).item() == expected
    found = penalty(judge.bfloat16(), *(x.bfloat16() for x in images))
    assert found.dtype == torch.float32
    assert found.item() == expected


# Capture


@EVERY
def test_nothing_in_a_step_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values know shapes alone: what asks for a number, or for a shape that depends on one, fails."""
    monkeypatch.setattr(signal, "_captured", lambda x: True)
    config = TrainConfig(loss=name, resolution=32, lattice_weight=1, spectrum_weight=1)  # type: ignore[arg-type]
    drawn = draw(4, POLICIES, (32, 32), generator=torch.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator, averaged = (StagedGenerator(32, width=4, latent=8) for _ in range(2))
        judge = StagedDiscriminator(32, width=4)
        optimisers = [torch.optim.SGD(network.parameters()) for network in (generator, judge)]
        calls: dict[str, Callable[[Tensor], Tensor]] = {"generator": generator, "discriminator": judge}
        pair = Pair(generator, judge, averaged, optimisers[0], optimisers[1], calls)
        steps = LOSSES[name].critic_steps
        draws = {f"{part}/{key}": values for key, values in drawn.items() for part in (*_parts(steps), "generator")}
        draws |= {
            "real": torch.zeros(steps, 4, 3, 32, 32, dtype=torch.uint8), "latents": torch.zeros(steps, 4, 8),
            "mix": torch.zeros(steps, 4, 1, 1, 1), "keep": torch.zeros(()),
        }  # fmt: skip
        losses = take_step(pair, draws, config)
    assert losses.shape == (2,)


def _parts(steps: int) -> list[str]:
    return [f"{side}/{k}" for side in ("real", "fake") for k in range(steps)]


# The smallest game: Dirac-GAN of Mescheder, Geiger, Nowozin 2018. Real data are 0, the generator is a number, D(x) = slope x.


def played(name: str, *, with_penalty: bool, steps: int = 1000, rate: float = 0.05) -> float:
    """How far from equilibrium (0, 0) alternating gradient descent ends, from (1, 1)."""
    loss = LOSSES[name]
    fake, slope = (torch.ones(1, dtype=torch.float64).requires_grad_() for _ in range(2))
    real, mix = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)

    def judge(x: Tensor) -> Tensor:
        return (slope * x).flatten()

    for _ in range(steps):
        image = fake.view(1, 1, 1, 1)
        value = loss.discriminator(judge(real), judge(image.detach()))
        if with_penalty and loss.penalty is not None:
            value = value + loss.penalty(judge, real, image.detach(), mix)
        (of_slope,) = torch.autograd.grad(value, slope)
        with torch.no_grad():
            slope -= rate * of_slope
        (of_fake,) = torch.autograd.grad(loss.generator(judge(image), judge(real)), fake)
        with torch.no_grad():
            fake -= rate * of_fake
    return math.hypot(fake.item(), slope.item())


def test_zero_centred_penalties_end_the_game_and_nothing_else_does() -> None:
    assert played("relativistic", with_penalty=True) < 0.01  # section 4: a linear rate
    assert played("relativistic", with_penalty=False) > 0.3  # 1 / sqrt(steps)
    assert played("hinge", with_penalty=False) == pytest.approx(math.sqrt(2), abs=0.01)  # inside the margins: a circle
    assert played("wasserstein-gp", with_penalty=True) > 1  # section 3: a slope of 1 is no equilibrium


def test_the_penalty_shrinks_the_dirac_discriminator_at_its_rate() -> None:
    slope = torch.tensor(0.8, dtype=torch.float64).requires_grad_()
    value = r1(lambda x: (slope * x).flatten(), torch.zeros(1, 1, 1, 1, dtype=torch.float64), gamma=4.0)
    assert torch.autograd.grad(value, slope)[0].item() == pytest.approx(4 * 0.8)
