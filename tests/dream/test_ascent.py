"""The ascent: a step by hand, octaves, tiles, what stops it, what it leaves behind, and networks of every kind."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradlens import models
from gradlens.dream import Dream, Moment, channel, distance, dream, fourier, jitter, layer, rotate, total_variation
from gradlens.dream.ascent import NORMALISERS
from gradlens.dream.tiles import _cores, smallest_window, tiled
from tests.dream import reference

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}


def network(*layers: nn.Module) -> nn.Module:
    """Seeded weights; smooth and of strides 2 and 4 unless told."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        found = nn.Sequential(*(layers or (nn.Conv2d(3, 5, 3, 2, 1), nn.Tanh(), nn.Conv2d(5, 4, 3, 2, 1))))
        for parameter in found.parameters():
            nn.init.normal_(parameter, std=0.3)
        return found


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*(shape or (1, 3, 24, 28)), generator=torch.Generator().manual_seed(seed))


def gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean square of what `model` returns, image by image, by hand."""
    x = images.clone().requires_grad_()
    score = model(x).square().mean((1, 2, 3))
    return torch.autograd.grad(score.sum(), x)[0], score.detach()


# A step


@pytest.mark.parametrize("normalisation", NORMALISERS)
def test_a_step_is_the_formula(normalisation: str) -> None:
    model, x = network(), picture(2, 3, 24, 28)
    found = dream(model, x, "2", steps=1, rate=0.03, normalisation=normalisation)  # type: ignore[arg-type]
    slope, score = gradient(model, x)
    expected = reference.step(x, slope, 0.03, normalisation)
    torch.testing.assert_close(found.images.double(), expected, rtol=0, atol=1e-6)  # float32
    torch.testing.assert_close(found.scores, score[None], rtol=1e-6, atol=0)
    assert found.octaves == ((24, 28),) and found.snapshots == {} and found.stopped == ""


def test_with_the_mean_a_typical_pixel_moves_by_the_rate() -> None:
    x = torch.full((1, 3, 24, 28), 0.5)
    moved = (dream(network(), x, "2", steps=1, rate=0.002).images - x).abs()
    assert moved.mean().item() == pytest.approx(0.002, rel=1e-4)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_optimisers_are_those_of_torch(optimiser: str) -> None:
    model, x = network(), picture()
    found = dream(model, x, "2", steps=4, rate=0.02, optimiser=optimiser, normalisation="none")  # type: ignore[arg-type]
    values = x.clone()
    inner = OPTIMISERS[optimiser]([values], lr=0.02)
    for _ in range(4):
        values.grad = -gradient(model, values)[0]
        inner.step()
        values.clamp_(0, 1)
    torch.testing.assert_close(found.images, values, rtol=0, atol=1e-5)


def test_fourier_takes_its_steps_in_coefficients() -> None:
    model, x, kind = network(), picture(1, 3, 24, 27), fourier()
    found = dream(model, x, "2", steps=1, rate=0.5, parameterisation=kind, normalisation="none")
    values = kind.encode(x).requires_grad_()
    score = model(kind.decode(values, (24, 27))).square().mean()
    expected = kind.decode(values + 0.5 * torch.autograd.grad(score, values)[0], (24, 27))
    torch.testing.assert_close(found.images, expected.detach(), rtol=0, atol=1e-6)


def test_the_gradient_flows_back_through_the_transforms() -> None:
    model, x, move = network(), picture(), jitter(5, mode="crop")
    found = dream(model, x, "2", steps=1, transforms=[move, rotate([7])], normalisation="none", rate=0.1, seed=3)
    generator, leaf = torch.Generator().manual_seed(3), x.clone().requires_grad_()
    shown = rotate([7])(move(leaf, Moment(0, generator)), Moment(0, generator))
    slope = torch.autograd.grad(model(shown).square().mean(), leaf)[0]
    torch.testing.assert_close(found.images, (x + 0.1 * slope).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_the_score_goes_the_way_it_is_sent(weight: float) -> None:
    scores = dream(network(), picture(), weight * layer("2"), steps=12).scores[:, 0]
    assert (scores.diff() > 0).all()


def test_the_score_of_a_real_network_rises() -> None:
    model = models.load("resnet18_half")
    made = dream(model, picture(1, 3, 64, 64), "layer2", steps=5)
    assert made.scores[-1] > 1.5 * made.scores[0]


def test_a_penalty_alone_needs_no_network() -> None:
    made = dream(network(), picture(), -distance(0.5, power=2), steps=60, rate=0.01)
    assert made.scores[-1] > 0.5 * made.scores[0]  # both negative
    assert dream(network(), picture(), -total_variation(), steps=5).scores.diff(dim=0).min() > 0


def test_pictures_stay_within_0_and_1() -> None:
    for options in ({"rate": 1.0}, {"rate": 1.0, "octaves": 3}, {"parameterisation": fourier(), "rate": 50.0}):
        made = dream(network(), picture(), "2", steps=3, **options)  # type: ignore[arg-type]
        assert made.images.min() >= 0 and made.images.max() <= 1


def test_an_image_whose_gradient_is_zero_stays() -> None:
    model = network(nn.Conv2d(3, 2, 1), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100)  # type: ignore[union-attr, operator, index]
    x = picture()
    for normalisation in NORMALISERS:
        assert torch.equal(dream(model, x, "1", steps=2, normalisation=normalisation).images, x)


# Seeds


@pytest.mark.parametrize("start", [(3, 24, 28), picture()], ids=["grey", "picture"])
def test_the_seed_decides(start: Any) -> None:
    def made(seed: int) -> Dream:
        return dream(network(), start, "2", steps=3, octaves=2, transforms=[jitter(4)], tile=16, seed=seed)

    first, again, other = made(5), made(5), made(6)
    assert torch.equal(first.images, again.images) and torch.equal(first.scores, again.scores)
    assert not torch.equal(first.images, other.images)


def test_grey_starts_with_a_little_noise() -> None:
    snapshot = dream(network(), (3, 40, 40), "2", steps=1, rate=1e-9, snapshots=[1]).snapshots[1]
    assert snapshot.mean().item() == pytest.approx(0.5, abs=0.001) and 0.008 < snapshot.std().item() < 0.012


def test_noise_comes_once() -> None:
    taken = dream(network(), (3, 56, 56), "2", steps=1, rate=1e-9, octaves=2, snapshots=[1, 2]).snapshots
    assert taken[2].std() < taken[1].std()  # enlarged, and none added


def test_what_was_given_is_not_changed() -> None:
    x = picture()
    before = x.clone()
    dream(network(), x, "2", steps=2, octaves=2)
    assert torch.equal(x, before) and not x.requires_grad


# What is left behind


def trace(model: nn.Module) -> list[Any]:
    state: list[Any] = [
        torch.random.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    ]
    for module in model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        state.append((module.training, *(list(h) for h in hooks)))
    state += [(p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist()) for p in model.parameters()]
    return [*state, *(b.tolist() for b in model.buffers())]


class Fails(nn.Module):
    """Draws a random number, and raises at the second forward pass that wants a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        self.passes += torch.is_grad_enabled()
        if self.passes == 2:
            raise RuntimeError("broken inside")
        return x


@pytest.mark.parametrize("objective", ["1", "logit:1 + 1"])
@pytest.mark.parametrize("raises", [False, True])
def test_a_dream_leaves_no_trace(raises: bool, objective: str) -> None:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = network(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), Fails() if raises else nn.Identity(), *head)
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.full_like(parameter, 2.0) if number % 2 == 0 else None
    before = trace(model)
    wanted = "4" if objective == "1" else objective
    if raises:
        with pytest.raises(RuntimeError, match="broken inside"):
            dream(model, picture(), wanted, steps=3, transforms=[jitter(3)])
    else:
        dream(model, picture(), wanted, steps=3, transforms=[jitter(3)])
    assert trace(model) == before


def test_modules_in_training_mode_dream_as_in_eval_mode() -> None:
    model = network(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3))
    training, evaluating = (dream(model.train(mode), picture(), "3", steps=2).images for mode in (True, False))
    assert torch.equal(training, evaluating)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no grad", "inference"])
def test_dreams_within_blocks_that_switch_gradients_off(mode: Callable[[], Any]) -> None:
    x = picture()
    expected = dream(network(), x, "2", steps=2, octaves=2, parameterisation=fourier()).images
    model = network()
    with mode():
        found = dream(model, x.clone(), "2", steps=2, octaves=2, parameterisation=fourier()).images
    assert torch.equal(found, expected) and not found.is_inference()


# Octaves


def test_octaves_shrink_by_the_scale_and_end_at_the_picture() -> None:
    made = dream(network(), picture(1, 3, 60, 81), "2", steps=2, octaves=3, octave_scale=1.5, snapshots=[1, 3, 6])
    assert made.octaves == ((27, 36), (40, 54), (60, 81))
    assert {step: tuple(taken.shape[2:]) for step, taken in made.snapshots.items()} == {
        1: (27, 36), 3: (40, 54), 6: (60, 81)
    }  # fmt: skip
    assert torch.equal(made.snapshots[6], made.images) and made.scores.shape == (6, 1)


def test_snapshots_are_the_pictures_of_shorter_dreams() -> None:
    long = dream(network(), picture(), "2", steps=4, transforms=[jitter(3)], snapshots=[2])
    assert torch.equal(long.snapshots[2], dream(network(), picture(), "2", steps=2, transforms=[jitter(3)]).images)


def test_an_octave_that_adds_nothing_leaves_the_picture_alone() -> None:
    x = picture(1, 3, 60, 81)
    made = dream(network(), x, "2", steps=1, octaves=3, rate=1e-9)
    torch.testing.assert_close(made.images, x, rtol=0, atol=1e-6)


def test_the_first_octave_is_shown_within_0_and_1() -> None:
    """Bicubic overshoots at black and white."""
    x = torch.zeros(1, 3, 56, 56)
    x[..., 28:] = 1
    made = dream(network(), x, -distance(0.5), steps=1, octaves=2, rate=1e-9, snapshots=[1])
    assert made.scores.min() >= -0.5


@pytest.mark.parametrize("kind", ["runtime", "assert", "silent"])
def test_octaves_below_the_networks_minimum_are_refused_before_the_first_step(kind: str) -> None:
    class Wants(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if kind == "assert":
                assert min(x.shape[2:]) >= 30, "30 px are needed"
            elif kind == "silent":
                assert min(x.shape[2:]) >= 30
            return x

    layers = (nn.Conv2d(3, 2, 30),) if kind == "runtime" else (Wants(), nn.Conv2d(3, 2, 3))
    taken: list[int] = []
    name = "0" if kind == "runtime" else "1"
    with pytest.raises(ValueError, match=r"^octaves: .* 3 x 29 x 41 \(.+\); 3 of 20 octaves fit this picture$"):
        dream(network(*layers), picture(1, 3, 80, 112), name, octaves=20, advance=taken.append)
    with pytest.raises(ValueError, match=r"^image: the network does not take 3 x 20 x 20 \(.+\)$"):
        dream(network(*layers), (3, 20, 20), name, advance=taken.append)
    assert not taken
    assert len(dream(network(*layers), picture(1, 3, 80, 112), name, steps=1, octaves=3).scores) == 3


# Refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps: .*got 0"),
        ({"octaves": 0}, "octaves: .*got 0"),
        ({"octaves": 2, "octave_scale": 1.0}, "octave_scale: .*got 1"),
        ({"rate": 0.0}, "rate: .*got 0"),
        ({"rate": float("nan")}, "rate: .*got nan"),
        ({"rate": float("inf")}, "rate: .*got inf"),
        ({"normalisation": "l2"}, "normalisation: .*mean-abs.*got 'l2'"),
        ({"optimiser": "sgd"}, "optimiser: .*adam.*got 'sgd'"),
        ({"snapshots": [0]}, "snapshots: .*from 1 to 20.*got 0"),
        ({"snapshots": [20, 21]}, "snapshots: .*got 21"),
        ({"tile": 7}, "tile: must be at least 8 px.*got 7"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"^{match}"):
        dream(network(), picture(), "2", **options)


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"torch\.uint8 \[1, 3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float16), r"torch\.float16"),
        (torch.zeros(16, 16), r"\[16, 16\]"),
        (torch.zeros(0, 3, 16, 16), r"\[0, 3, 16, 16\]"),
        (2 * picture(), r"in \[0, 1\], got 0.\d+ to \d"),
        (picture() - 1, r"in \[0, 1\], got -"),
        (picture() * float("nan"), "nan to nan"),
        ((3,), r"must be \[C \*spatial\], got \[3\]"),
        ((3, 0, 8), r"got \[3, 0, 8\]"),
        (picture(1, 1, 16, 16), "the network does not take 1 x 16 x 16"),
    ],
)
def test_pictures_that_are_none_are_refused(image: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf"^image: .*{match}"):
        dream(network(), image, "2")


def test_a_wrong_layer_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no 'layer22'; near names: layer2"):
        dream(models.load("resnet18_half", weights="random"), (3, 64, 64), "layer22")


class Cut(nn.Module):
    """Returns its input without a gradient."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1, keepdim=True).float() if self.how == "argmax" else x.detach()


@pytest.mark.parametrize("how", ["argmax", "detach"])
@pytest.mark.parametrize("behind", [False, True], ids=["at the layer", "before it"])
def test_a_layer_that_no_gradient_leaves_is_refused(how: str, behind: bool) -> None:
    model, taken = network(nn.Conv2d(3, 1, 3), Cut(how), nn.Conv2d(1, 2, 3)), []
    name = "2" if behind else "1"
    with pytest.raises(ValueError, match=rf"^objective: .*'{name}'.* the picture"):
        dream(model, picture(), name, advance=taken.append)
    assert not taken


# What stops a dream


class Spoils(nn.Module):
    """From its `step`-th forward pass with gradients on, the value or only the gradient is not finite."""

    def __init__(self, step: int, how: str) -> None:
        super().__init__()
        self.step, self.how, self.passes = step, how, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += torch.is_grad_enabled()
        if self.passes < self.step:
            return x
        if self.how == "gradient":
            return x + 0 * (x * 0).sqrt()  # 0 times an infinite slope
        if self.how == "value":
            return x + float("inf")
        return x * float(self.how)


@pytest.mark.parametrize("kind", ["ascent", "adam", "nadam", "fourier"])
@pytest.mark.parametrize("how", ["nan", "inf", "gradient", "value"])
@pytest.mark.parametrize("step", [1, 3])
def test_what_is_not_finite_ends_the_dream_with_what_was_made(step: int, how: str, kind: str) -> None:
    options: dict[str, Any] = {"optimiser": "ascent" if kind == "fourier" else kind, "transforms": [jitter(3)]}
    if kind == "fourier":
        options["parameterisation"] = fourier()
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh())
    x, counted, objective = picture(), [], "2:1" if how == "value" else "2"  # the gradient of a mean stays finite
    with pytest.warns(UserWarning, match=f"^dream: step {step} of 6 met NaN or infinity"):
        made = dream(
            network(*layers, Spoils(step, how)),
            x,
            objective,
            steps=6,
            snapshots=[1, 2, 3, 6],
            advance=counted.append,
            **options,
        )
    assert made.stopped == f"step {step} of 6 met NaN or infinity; the picture is that before it"
    assert made.scores.shape == (step, 1) and made.scores[:-1].isfinite().all() and len(counted) == step
    assert set(made.snapshots) == set(range(1, step))
    if step > 1:
        expected = dream(network(*layers, nn.Identity()), x, objective, steps=step - 1, **options).images
        assert torch.equal(made.images, expected)
    else:
        torch.testing.assert_close(made.images, x.clamp(1e-3, 1 - 1e-3) if kind == "fourier" else x, rtol=0, atol=2e-5)


def test_nan_in_a_later_octave_leaves_a_whole_picture() -> None:
    model = network(nn.Conv2d(3, 4, 3, 2, 1), Spoils(4, "nan"))
    with pytest.warns(UserWarning, match="step 4 of 9"):
        made = dream(model, picture(1, 3, 56, 56), "1", steps=3, octaves=3)
    assert made.images.shape == (1, 3, 56, 56) and made.images.isfinite().all() and len(made.scores) == 4
    assert made.images.min() >= 0 and made.images.max() <= 1 and made.octaves == ((29, 29), (40, 40), (56, 56))


@pytest.mark.parametrize("asked", [0, 1, 4, 6])
def test_a_dream_that_is_asked_to_stop_keeps_what_it_has(asked: int) -> None:
    counted: list[int] = []
    made = dream(
        network(), picture(), "2", steps=3, octaves=2, advance=counted.append, stopped=lambda: len(counted) >= asked
    )
    assert made.scores.shape == (asked, 1) and made.images.shape == (1, 3, 24, 28)
    assert made.stopped == ("" if asked == 6 else f"asked to stop after {asked} of 6 steps")
    if asked == 0:
        torch.testing.assert_close(made.images, picture(), rtol=0, atol=1e-6)


# Networks


def test_a_bfloat16_network_dreams_a_float32_picture() -> None:
    model = network()
    expected = dream(model, picture(), "2", steps=1, rate=0.01).images
    found = dream(model.bfloat16(), picture(), "2", steps=1, rate=0.01).images
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 1e-3  # a tenth of a step: eight bits of mantissa, and signs near 0


def test_a_float64_picture_stays_float64() -> None:
    x = picture().double()
    for model in (network(), network().double()):
        assert dream(model, x, "2", steps=1, octaves=2, parameterisation=fourier()).images.dtype == torch.float64


def test_a_network_that_begins_in_place_does_not_rewrite_the_picture() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.Tanh())
    found, expected = (
        dream(network(nn.ReLU(inplace=flag), *layers), picture(), layer("2") - 0.1 * total_variation(), steps=3).images
        for flag in (True, False)
    )
    assert torch.equal(found, expected)


class Twice(nn.Module):
    """One layer that runs twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.step = network(nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.step(x).tanh()).mean((2, 3))


def test_the_second_run_of_a_layer_alone_and_beside_a_logit() -> None:
    alone = dream(Twice(), picture(), "step#2", steps=1)
    beside = dream(Twice(), picture(), "step#2 + 0*logit:1", steps=1)
    first = dream(Twice(), picture(), "step", steps=1)
    assert torch.equal(alone.images, beside.images) and not torch.equal(alone.images, first.images)
    for text in ("step#3", "step#3 + logit:1"):
        with pytest.raises(ValueError, match="never reached 'step#3'"):
            dream(Twice(), picture(), text)


def test_series_and_volumes() -> None:
    series = network(nn.Conv1d(2, 4, 5, 2, 2), nn.Tanh())
    made = dream(series, (2, 90), channel("1", 3, axis=1), steps=4, octaves=2, transforms=[jitter(2)])
    assert made.images.shape == (1, 2, 90) and made.octaves == ((64,), (90,)) and made.scores[3] > made.scores[0]
    volume = network(nn.Conv3d(1, 4, 3, 2, 1), nn.Tanh())
    made = dream(volume, picture(1, 1, 12, 14, 16), "1:2", steps=3, octaves=2, transforms=[jitter(2)], tile=8)
    assert made.images.shape == (1, 1, 12, 14, 16) and made.images.isfinite().all()


def test_one_picture_without_a_batch() -> None:
    x = picture(3, 24, 28)
    assert torch.equal(dream(network(), x, "2", steps=1).images, dream(network(), x[None], "2", steps=1).images)


def test_layers_behind_the_objective_never_run() -> None:
    model = network(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Linear(1, 1))  # which does not fit
    assert len(dream(model, picture(), "1", steps=2).scores) == 2


# Tiles


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(96, 96), (90, 75), (33, 130), (16, 100)])
def test_the_gradient_in_tiles_is_that_of_the_whole_where_the_margin_covers_what_is_seen(
    size: tuple[int, int], seed: int
) -> None:
    """7 px are seen to each side; tiles of 32 px have a margin of 16."""
    model, x = network(), picture(1, 3, *(4 * (side // 4) for side in size))
    whole = dream(model, x, channel("2", 1), steps=1, rate=1.0, normalisation="none").images - x
    found = dream(model, x, channel("2", 1), steps=1, rate=1.0, normalisation="none", tile=32, seed=seed).images - x
    torch.testing.assert_close(found, whole, rtol=0, atol=2e-6 * whole.abs().max().item() + 1e-7)


def test_tiles_share_the_value_by_their_area() -> None:
    model = network(nn.Conv2d(3, 5, 1), nn.Tanh())
    x = torch.full((2, 3, 50, 70), 0.4)
    whole, found = (dream(model, x, "1", steps=1, tile=tile).scores for tile in (None, 16))
    torch.testing.assert_close(found, whole)  # a uniform picture: every tile has the same mean


def test_a_picture_within_a_tile_is_dreamt_as_a_whole() -> None:
    x = picture()
    options: dict[str, Any] = {"steps": 3, "octaves": 2, "transforms": [jitter(4)]}
    whole, found = (dream(network(), x, "2", tile=tile, **options) for tile in (None, 32))
    assert torch.equal(whole.images, found.images) and torch.equal(whole.scores, found.scores)


@given(
    extent=st.integers(1, 300), period=st.integers(1, 16), periods=st.integers(2, 8), spare=st.integers(0, 15),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_tiles_cover_the_picture_once_and_begin_at_whole_periods(
    extent: int, period: int, periods: int, spare: int, seed: int
) -> None:
    tile = period * periods + spare % period
    seen: list[tuple[int, ...]] = []

    def graded(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
        assert share == pytest.approx(images.shape[2] / extent)
        seen.append((int(images[0, 0, 0].item()), images.shape[2]))
        return torch.ones(1) * share, torch.ones_like(images)

    x = torch.arange(float(extent))[None, None]
    generator = torch.Generator().manual_seed(seed)
    value, slope = tiled(x, graded, tile, period=period, generator=generator)
    assert torch.equal(slope, torch.ones_like(x)) and value.item() == pytest.approx(1, rel=1e-5)  # float32 sums
    assert all(begin % period == 0 for begin, _ in seen)
    assert min(length for _, length in seen) >= smallest_window(extent, tile, period)
    assert max(length for _, length in seen) <= 2 * tile + period
    cores = list(_cores(extent, period * periods, period, torch.Generator().manual_seed(seed)))
    assert [a for a, _ in cores[1:]] == [b for _, b in cores[:-1]] and (cores[0][0], cores[-1][1]) == (0, extent)


def test_seams_fall_elsewhere_at_every_step() -> None:
    generator = torch.Generator().manual_seed(0)
    first = {next(_cores(200, 32, 4, generator))[1] for _ in range(100)}
    assert first == set(range(4, 33, 4))


def test_tiles_too_small_for_the_network_are_refused_before_the_first_step() -> None:
    model, taken = network(nn.Conv2d(3, 2, 41), nn.Conv2d(2, 2, 3, 2)), []
    with pytest.raises(ValueError, match=r"^image: the network does not take 3 x 90 x 90 in tiles of 24 px \("):
        dream(model, picture(1, 3, 90, 90), "1", tile=24, advance=taken.append)
    assert not taken
    assert len(dream(model, picture(1, 3, 90, 90), "1", tile=96, steps=2).scores) == 2


def test_no_warning_in_a_plain_dream() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dream(network(), (3, 32, 32), "2", steps=2, octaves=2, transforms=[jitter(3)], tile=8, optimiser="adam")
