"""Input gradients are those of captum, of float64 and of finite differences; a stream of them is the sum of its images."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from gradlens import models
from gradlens.gradients import (
    GradientStatistics,
    attribute,
    collect,
    input_gradient,
    output_tensor,
    stage_periods,
    top_logit,
)
from gradlens.gradients.stream import _fetched
from gradlens.images import batches, fit, photographs
from gradlens.probes import Stage, stages
from gradlens.spectra import LatticeStatistics, lattice_statistics
from tests import reference


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded images in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


class Net(nn.Module):
    """Two stride-2 convolutions, a norm and dropout; weights from a seed of its own; `end` shapes the output."""

    def __init__(self, end: Callable[[Tensor], Any] | None = None, *, smooth: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.c1, self.c2 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 2, 1)
            self.norm, self.drop = nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.act = nn.Tanh() if smooth else nn.ReLU(inplace=True)
        self.end = end or (lambda y: y.mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.end(self.c2(self.drop(self.act(self.norm(self.c1(x))))))


class Last(nn.Module):
    """Moves channels to the end, as Swin does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).contiguous()


@pytest.fixture(scope="module")
def resnet() -> models.Model:
    return models.load("resnet18_half")


@pytest.fixture(scope="module")
def photos(resnet: models.Model) -> Tensor:
    info = resnet.info
    prepared = [
        fit(p.open(), info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct) for p in photographs()
    ]
    return torch.stack(prepared)


# One gradient


def test_gradient_is_captums_saliency_without_the_absolute_value(resnet: models.Model, photos: Tensor) -> None:
    classes = resnet(photos).argmax(1)
    expected = Saliency(resnet).attribute(photos.clone().requires_grad_(), target=classes, abs=False)
    found = input_gradient(resnet, photos)
    assert (found < 0).any()
    assert distance(found, expected) < 1e-5


def test_gradient_of_float32_is_that_of_float64(resnet: models.Model, photos: Tensor) -> None:
    """Rounding may route a pool or open a gate differently, so single pixels may differ by more than the rounding."""
    expected = input_gradient(copy.deepcopy(resnet).double(), photos.double())
    assert distance(input_gradient(resnet, photos), expected) < 1e-3


def test_gradient_of_a_smooth_net_is_its_finite_difference() -> None:
    net = Net(smooth=True).double().eval()
    x = noise(1, 3, 8, 8, dtype=torch.float64)

    def score(image: np.ndarray) -> float:
        return net(torch.from_numpy(image)[None]).amax().item()

    expected = reference.finite_differences(score, x[0].numpy())
    np.testing.assert_allclose(input_gradient(net, x)[0].numpy(), expected, rtol=1e-6, atol=1e-10)


def test_gradient_of_an_image_does_not_depend_on_its_batch(resnet: models.Model, photos: Tensor) -> None:
    """Up to the order of sums in a convolution, which may change with the batch."""
    together = input_gradient(resnet, photos)
    for number in range(len(photos)):
        assert distance(together[number : number + 1], input_gradient(resnet, photos[number : number + 1])) < 1e-4


def test_gradient_is_per_unit_of_intensity() -> None:
    info = models.ModelInfo("net", "classifier", "", "", (3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    net = Net().eval()
    x = noise(2, 3, 16, 16)
    expected = input_gradient(net, (x - 0.5) / 0.25) / 0.25
    torch.testing.assert_close(input_gradient(models.Model(net, info), x), expected)


@pytest.mark.parametrize("shape", [(1, 16), (3, 8, 8), (1, 4, 4, 4)], ids=["1-D", "2-D", "3-D"])
def test_gradient_has_the_shape_of_its_images(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    x = noise(2, *shape)
    net(x)
    weight = net[1].weight
    expected = weight[net(x).argmax(1)].view_as(x)
    torch.testing.assert_close(input_gradient(net, x), expected, rtol=0, atol=0)


# Scores


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4,), lambda y: y),
        ((4, 1), lambda y: y[:, 0]),
        ((4, 1, 1, 1), lambda y: y[:, 0, 0, 0]),
        ((4, 1, 3, 5), lambda y: y.mean((1, 2, 3))),
        ((4, 1, 7), lambda y: y.mean((1, 2))),
        ((4, 6), lambda y: y.amax(1)),
        ((4, 6, 1, 1), lambda y: y.amax((1, 2, 3))),
    ],
)  # fmt: skip
def test_top_logit_is_the_largest_or_the_mean_of_a_critic(
    shape: tuple[int, ...], expected: Callable[[Tensor], Tensor]
) -> None:
    output = noise(*shape) - 2
    torch.testing.assert_close(top_logit(output), expected(output))


@pytest.mark.parametrize("shape", [(2, 21, 8, 8), (2, 21, 8), (2, 2, 2, 2, 2)])
def test_segmentation_needs_a_score(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"score: .*{shape[1]} maps, not logits; give a score"):
        top_logit(noise(*shape))


def test_score_of_a_whole_batch_in_one_number_is_refused_in_words() -> None:
    with pytest.raises(ValueError):
        top_logit(torch.tensor(1.0))


def test_segmentation_is_refused_by_input_gradient_and_runs_with_a_score() -> None:
    net = Net(lambda y: y).eval()
    x = noise(2, 3, 16, 16)
    with pytest.raises(ValueError, match="5 maps"):
        input_gradient(net, x)
    one_map = input_gradient(net, x, score=lambda y: y[:, 2].mean((1, 2)))
    torch.testing.assert_close(one_map, input_gradient(Net(lambda y: y[:, 2].mean((1, 2))), x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, "state"),
        lambda y: [y, y + 1],
        lambda y: {"logits": y, "hidden": y + 1},
        lambda y: OrderedDict(out=y, aux=2 * y),
        lambda y: {"aux": 2 * y, "logits": y, "out": 3 * y},
        lambda y: {"anything": y, "loss": None},
    ],
    ids=["tuple", "list", "logits", "out", "logits before out", "the only tensor"],
)
def test_logits_are_found_in_what_a_model_returns(wrap: Callable[[Tensor], Any]) -> None:
    x = noise(2, 3, 16, 16)
    expected = input_gradient(Net(), x)
    assert torch.equal(input_gradient(Net(lambda y: wrap(y.mean((2, 3)))), x), expected)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, "dictionary with a, b"),
        ({}, "dictionary"),
        ((), "returns a tuple"),
        (("no", torch.ones(2)), "returns a tuple"),
        (None, "returns a NoneType"),
        (3.0, "returns a float"),
    ],
    ids=str,
)
def test_outputs_without_clear_logits_are_refused(output: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        output_tensor(output)


def test_score_can_pick_from_an_ambiguous_dictionary_as_its_error_says() -> None:
    """The error says: give a score that picks one."""
    x = noise(2, 3, 16, 16)
    net = Net(lambda y: {"a": y.mean((2, 3)), "b": 2 * y.mean((2, 3))})
    pick: Any = lambda output: output["b"].amax(1)  # noqa: E731
    torch.testing.assert_close(input_gradient(net, x, score=pick), 2 * input_gradient(Net(), x))


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "trainable"])
def test_output_that_does_not_depend_on_the_images_is_refused(trainable: bool) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3), requires_grad=trainable)

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 3)

    with pytest.raises(ValueError, match="does not depend on the images"):
        input_gradient(Constant(), noise(2, 3, 8, 8))


# No trace


def state_of(model: nn.Module) -> list[Any]:
    """Modes, hooks, parameters, their gradients, buffers and the random state."""
    state: list[Any] = [torch.random.get_rng_state().tolist()]
    state += [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    state += [(p.requires_grad, None if p.grad is None else p.grad.tolist(), p.tolist()) for p in model.parameters()]
    return [*state, *(b.tolist() for b in model.buffers())]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_is_found_in_any_grad_mode(mode: Callable[[], Any]) -> None:
    net, x = Net(), noise(2, 3, 16, 16)
    expected = input_gradient(net, x)
    with mode():
        was = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert torch.equal(input_gradient(net, x), expected)
        assert torch.equal(input_gradient(net, x * 1), expected)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == was


def test_training_model_is_measured_in_eval_mode_and_stays_as_it_was() -> None:
    x = noise(4, 3, 16, 16)
    expected = input_gradient(Net().eval(), x)
    net = Net().train()
    net.drop.training = False
    net.c1.weight.requires_grad_(False)
    for parameter in net.c2.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = state_of(net)
    assert torch.equal(input_gradient(net, x), expected)
    assert state_of(net) == before


def test_collect_leaves_a_training_model_as_it_was() -> None:
    net = Net().train()
    found = stages(net, (3, 32, 32))
    before = state_of(net)
    collect(net, [noise(2, 3, 32, 32)], periods=(2, 4), stages=found)
    assert state_of(net) == before


def test_model_that_raises_stays_as_it_was() -> None:
    def broken(y: Tensor) -> Tensor:
        torch.rand(4)
        raise RuntimeError("broken inside")

    net = Net(broken).train()
    before = state_of(net)
    with pytest.raises(RuntimeError, match="broken inside"):
        input_gradient(net, noise(2, 3, 16, 16))
    with pytest.raises(RuntimeError, match="broken inside"):
        collect(net, [noise(2, 3, 32, 32)], stages=[Stage("c1", (16, 16), (2, 2), "NCHW")], periods=(2,))
    assert state_of(net) == before


def test_images_are_left_as_they_were() -> None:
    x = noise(2, 3, 16, 16).requires_grad_()
    before = x.detach().clone()
    found = input_gradient(nn.Sequential(nn.ReLU(inplace=True), Net()), x)
    assert x.grad is None and x.requires_grad and torch.equal(x, before)
    assert not found.requires_grad


def test_images_do_not_come_to_want_a_gradient() -> None:
    x = noise(2, 3, 16, 16)
    input_gradient(Net(), x)
    assert not x.requires_grad and x.is_leaf


# A stream of images


def assert_same(found: LatticeStatistics, expected: LatticeStatistics, *, rtol: float = 0, atol: float = 0) -> None:
    """All fields agree; NaN equals NaN."""
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if isinstance(value, dict):
            assert list(other) == list(value), name
            pairs = [(other[key], value[key]) for key in value]
        else:
            pairs = [(other, value)]
        for a, b in pairs:
            if isinstance(b, Tensor):
                torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)
            else:
                assert a == (pytest.approx(b, rel=1e-12) if isinstance(b, float) else b), name


IMAGES = noise(6, 3, 48, 48, dtype=torch.float64)
PERIODS = (2, 4)


def collected(net: nn.Module, size: int, **options: Any) -> GradientStatistics:
    return collect(net, [IMAGES[i : i + size] for i in range(0, len(IMAGES), size)], periods=PERIODS, **options)


def test_collect_is_what_is_computed_by_hand() -> None:
    net = Net().double().eval()
    found = collected(net, 2)
    gradients = []
    for image in IMAGES:
        leaf = image[None].clone().requires_grad_()
        gradients.append(torch.autograd.grad(net(leaf).amax(1).sum(), leaf)[0])
    assert_same(found.gradient, lattice_statistics(torch.cat(gradients), PERIODS), rtol=1e-9, atol=1e-9)
    assert_same(found.control, lattice_statistics(IMAGES, PERIODS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.example_gradients, torch.cat(gradients[:4]).float())
    assert found.layers == {}


def test_batch_size_does_not_change_the_result() -> None:
    """Float64: sums in another order differ by rounding; p counts draws, which rounding does not move here."""
    net = Net().double()
    found = stages(net, (3, 48, 48))
    one, four = (collected(net, size, stages=found) for size in (1, 4))
    assert one.names == four.names
    assert_same(one.gradient, four.gradient, rtol=1e-9, atol=1e-9)
    for stage in one.layers:
        assert_same(one.layers[stage], four.layers[stage], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.example_gradients, four.example_gradients)


def test_images_are_named_or_numbered() -> None:
    net = Net().double()
    assert collected(net, 4).names == ("1", "2", "3", "4", "5", "6")
    named = [(["cat", "dog"], IMAGES[:2]), (["owl"], IMAGES[2:3])]
    assert collect(net, named, periods=(2,)).names == ("cat", "dog", "owl")


def test_photographs_stream_with_their_names(resnet: models.Model, photos: Tensor) -> None:
    info = resnet.info
    stream = batches(
        photographs(),
        lambda image: fit(image, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct),
        3,
    )
    found = collect(resnet, stream, periods=(2,))
    assert found.names == ("astronaut", "chelsea", "coffee", "rocket")
    assert torch.equal(found.example_images, photos)


@pytest.mark.parametrize("size", [1, 3, 6])
def test_examples_are_the_first_four(size: int) -> None:
    found = collected(Net().double(), size)
    assert torch.equal(found.example_images, IMAGES[:4])
    assert found.example_gradients.shape == (4, 3, 48, 48)


def test_examples_outlive_a_buffer_that_is_filled_again() -> None:
    buffer = torch.empty_like(IMAGES[:1])

    def stream() -> Any:
        for image in IMAGES[:3]:
            buffer[0] = image
            yield buffer

    assert torch.equal(collect(Net().double(), stream(), periods=(2,)).example_images, IMAGES[:3])


def test_advance_is_told_of_each_batch() -> None:
    told: list[int] = []
    collected(Net().double(), 4, advance=told.append)
    assert told == [4, 2]


@pytest.mark.parametrize(
    ("stride", "periods", "expected"),
    [
        ((2, 2), (2, 4, 6, 8), (2, 3, 4)),
        ((4, 4), (2, 4, 8, 12, 32), (2, 3, 8)),
        ((3, 3), (2, 3, 6), (2,)),
        ((2, 4), (2, 4, 8), ()),
        ((8,), (8, 16), (2,)),
        ((16, 16), (2, 4, 8), ()),
    ],
)
def test_stage_periods_are_multiples_of_the_stride(
    stride: tuple[int, ...], periods: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert stage_periods(Stage("", (8,) * len(stride), stride, "NCHW"), periods) == expected


def test_stages_are_measured_at_their_own_periods() -> None:
    net = Net().double()
    found = stages(net, (3, 48, 48))
    assert [(s.layer, s.stride) for s in found] == [("drop", (2, 2)), ("c2", (4, 4))]
    statistics = collect(net, [IMAGES], periods=(2, 4, 8), stages=found)
    assert [(s.layer, v.periods) for s, v in statistics.layers.items()] == [("drop", (2, 4)), ("c2", (2,))]
    net.eval()
    leaf = IMAGES.clone().requires_grad_()
    a = net.norm(net.c1(leaf)).relu()
    by_hand = torch.autograd.grad(net.c2(a).mean((2, 3)).amax(1).sum(), a)[0]
    assert_same(statistics.layers[found[0]], lattice_statistics(by_hand, (2, 4)), rtol=1e-9, atol=1e-9)


def test_channels_last_stages_are_measured_with_channels_first() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), Last(), nn.Linear(24, 5), nn.Tanh()).double()
        whole = nn.Sequential(net, nn.Flatten(), nn.Linear(24 * 24 * 5, 4).double())
    stage = Stage("0.1", (24, 24), (2, 2), "NHWC")
    assert stages(whole, (3, 48, 48)) == [Stage("0", (24, 24), (2, 2), "NHWC")]
    found = collect(whole, [IMAGES], periods=(4,), stages=[stage]).layers[stage]
    a = net[1](net[0](IMAGES)).detach().requires_grad_()
    gradient = torch.autograd.grad(whole[2](net[3](net[2](a)).flatten(1)).amax(1).sum(), a)[0]
    by_hand = torch.stack([gradient[..., channel] for channel in range(24)], 1)
    assert (found.channels, found.size) == (24, (24, 24))
    assert_same(found, lattice_statistics(by_hand, (2,)), rtol=1e-6, atol=1e-6)


def test_stage_of_a_layer_that_runs_at_several_resolutions_is_measured_at_its_own() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x)))))).mean((2, 3))

    net = Pooled().double()
    found = collect(net, [IMAGES], periods=(2, 4, 8), stages=stages(net, (3, 48, 48)))
    assert [(stage.size, value.size) for stage, value in found.layers.items()] == [((24, 24),) * 2, ((12, 12),) * 2]


def test_stage_that_no_gradient_reaches_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.c = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                gate = self.look(x).mean((2, 3))
            return self.c(x).mean((2, 3)) * gate

    net = Detached().requires_grad_(False)
    with pytest.raises(ValueError, match="'look'"):
        collect(net, [noise(2, 3, 32, 32)], periods=(4,), stages=[Stage("look", (16, 16), (2, 2), "NCHW")])


def test_stage_that_never_runs_is_named() -> None:
    net = Net()
    net.add_module("spare", nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="never reached 'spare'"):
        collect(net, [noise(2, 3, 32, 32)], periods=(4,), stages=[Stage("spare", (16, 16), (2, 2), "NCHW")])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtype_runs_in_a_copy(dtype: torch.dtype) -> None:
    net, x = Net(), noise(3, 3, 48, 48)
    before = state_of(net)
    found = collect(net, [x], periods=(2,), dtype=dtype)
    assert state_of(net) == before and net.c1.weight.dtype is torch.float32
    assert found.gradient.power.dtype is torch.float64
    expected = collect(copy.deepcopy(net).to(dtype), [x.to(dtype)], periods=(2,))
    assert_same(found.gradient, expected.gradient)
    torch.testing.assert_close(found.control.power, lattice_statistics(x, (2,)).power)


def test_bfloat16_reads_as_float32_within_its_rounding(resnet: models.Model, photos: Tensor) -> None:
    """Eight bits of mantissa: noise on every pixel, so contrasts agree to about a decibel."""
    full, half = (collect(resnet, [photos], periods=(2, 4), dtype=d).gradient for d in (None, torch.bfloat16))
    for key, value in full.contrast.items():
        assert abs(float(half.contrast[key].mean() - value.mean())) < 1.5, key


def test_model_in_place_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module) -> nn.Module:
        raise AssertionError("copied")

    monkeypatch.setattr("gradlens.gradients.stream.copy.deepcopy", refuse)
    collect(Net(), [noise(1, 3, 32, 32)], periods=(2,), device="cpu", dtype=torch.float32)


class Spoilt(nn.Module):
    """Linear; the gradient of an image that holds more than 1 is `value`."""

    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        factor = torch.where(x.flatten(1).amax(1) > 1, self.value, 1.0)
        return (x.square().flatten(1) @ torch.eye(x[0].numel(), 4, dtype=x.dtype)) * factor[:, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradient_that_is_not_finite_is_left_out_and_named(value: float) -> None:
    x = noise(5, 3, 32, 32)
    x[0, 0, 0, 0] = x[3, 0, 0, 0] = 2
    stream = [(["a", "b"], x[:2]), (["c", "d", "e"], x[2:])]
    found = collect(Spoilt(value), stream, periods=(2,))
    assert (found.skipped, found.first_skipped, found.names) == (2, "a", ("a", "b", "c", "d", "e"))
    assert found.gradient.contrast["signed", 2].isnan().tolist() == [True, False, False, True, False]
    assert found.example_names == ("b", "c", "e")
    assert torch.equal(found.example_images, x[[1, 2, 4]]) and found.example_gradients.isfinite().all()
    clean = collect(Spoilt(value), [x[[1, 2, 4]]], periods=(2,))
    assert (clean.skipped, clean.first_skipped) == (0, None)
    torch.testing.assert_close(found.gradient.power, clean.gradient.power)


def test_only_gradients_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="every image holds NaN or infinity, of 'a' first"):
        collect(Spoilt(), [(["a", "b"], 2 + noise(2, 3, 32, 32))], periods=(2,))


# What comes in


def test_images_of_8_bits_are_those_of_floats() -> None:
    levels = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        whole = torch.float64 if dtype is torch.float64 else torch.float32
        found, expected = (
            collect(Net(), [images[:3], images[3:]], periods=(2,), dtype=dtype)
            for images in (levels, levels.to(whole) / 255)
        )
        assert_same(found.gradient, expected.gradient)
        assert_same(found.control, expected.control)
        assert torch.equal(found.example_images, levels[:4].to(whole) / 255)


def test_other_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batches: .*got torch.int64"):
        collect(Net(), [torch.ones(2, 3, 32, 32, dtype=torch.int64)])


def test_sizes_may_differ() -> None:
    net = Net().double()
    sizes = [(48, 48), (32, 40), (48, 48)]
    stream = [noise(2, 3, *size, seed=seed, dtype=torch.float64) for seed, size in enumerate(sizes)]
    found = collect(net, stream, periods=(2,), stages=[Stage("c1", (24, 24), (2, 2), "NCHW")])
    alone = [collect(net, [x], periods=(2,)).gradient.contrast["signed", 2] for x in stream]
    torch.testing.assert_close(found.gradient.contrast["signed", 2], torch.cat(alone), rtol=1e-9, atol=1e-9)
    assert found.example_images.shape == (4, 3, 48, 48)
    assert found.example_names == ("1", "2", "5", "6")


def test_the_control_may_be_left_out() -> None:
    found = collected(Net().double(), 3, control=False)
    assert found.control is None
    assert_same(found.gradient, collected(Net().double(), 3).gradient)


@pytest.mark.parametrize("method", ["input-x-gradient", "guided-backprop"])
def test_an_attribution_is_measured_in_place_of_the_gradient(method: Any) -> None:
    found = collected(Net().double(), 4, method=method)
    expected = attribute(Net().double(), IMAGES, method)
    assert_same(found.gradient, lattice_statistics(expected, PERIODS), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.example_gradients, expected[:4].float())


def test_an_attribution_has_no_stages() -> None:
    net = Net()
    with pytest.raises(ValueError, match="stages: only the gradient passes them, not smoothgrad"):
        collect(net, [noise(1, 3, 32, 32)], method="smoothgrad", stages=stages(net, (3, 32, 32)))


# Channels last


@pytest.mark.parametrize("channels_last", [None, True, False])
def test_channels_last_is_for_networks_of_timm_and_changes_rounding_alone(
    resnet: models.Model, photos: Tensor, channels_last: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding may route a pool or open a gate differently, as in float64."""
    seen: list[bool] = []
    forward = type(resnet.network).forward

    def see(network: nn.Module, x: Tensor) -> Tensor:
        weight = network.get_parameter("layer1.0.conv1.weight")
        seen.append(all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight)))
        return forward(network, x)

    monkeypatch.setattr(type(resnet.network), "forward", see)
    found = collect(resnet, [photos], periods=(2,), channels_last=channels_last)
    assert seen == [channels_last is not False]
    assert resnet.network.get_parameter("layer1.0.conv1.weight").is_contiguous()
    assert distance(found.example_gradients, input_gradient(resnet, photos)) < 1e-3


def test_a_network_of_ones_own_may_view_its_maps() -> None:
    net = Net(lambda y: y.view(len(y), -1)[:, :10])
    found = collect(net, [noise(2, 3, 32, 32)], periods=(2,), stages=stages(net, (3, 32, 32)))
    assert found.skipped == 0


# Fetching ahead


def fetchers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("gradlens-fetch")]


def test_batches_are_drawn_by_another_thread_two_ahead_and_it_ends() -> None:
    drawn: list[threading.Thread] = []
    seen: list[int] = []

    def stream() -> Any:
        for image in IMAGES:
            drawn.append(threading.current_thread())
            yield image[None]

    def advance(images: int) -> None:
        seen.append(len(drawn))
        assert len(fetchers()) == 1

    collect(Net().double(), stream(), periods=(2,), advance=advance)
    assert threading.main_thread() not in drawn and len(set(drawn)) == 1
    assert all(done <= ahead <= done + 3 for done, ahead in enumerate(seen))  # one in hand and two ahead
    assert not fetchers()


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()], ids=repr)
def test_what_goes_wrong_in_the_stream_comes_through(error: BaseException) -> None:
    def stream() -> Any:
        yield IMAGES[:2]
        raise error

    told: list[int] = []
    with pytest.raises(type(error)) as raised:
        collect(Net().double(), stream(), periods=(2,), advance=told.append)
    assert raised.value is error
    assert told == [2] and not fetchers()


def test_the_fetching_thread_takes_no_cores_from_the_network() -> None:
    """Two pools of OpenMP on two cores took a ResNet-18 from 1.2 to 1.8 times its bare loop."""
    seen: dict[str, int] = {}

    def drawn() -> Iterator[Tensor]:
        seen["fetching"] = torch.get_num_threads()
        yield torch.rand(2, 3, 8, 8)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in _fetched(drawn(), torch.device("cpu")):
            seen["here"] = torch.get_num_threads()
        later = threading.Thread(target=lambda: seen.update(later=torch.get_num_threads()))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(before)
    assert seen == {"fetching": 1, "here": 2, "later": 2}


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_the_thread_ends_when_the_caller_is_interrupted(error: BaseException) -> None:
    drawn = 0

    def stream() -> Any:
        nonlocal drawn
        while True:
            drawn += 1
            yield IMAGES[:1]

    def advance(images: int) -> None:
        raise error

    net = Net().double().train()
    before = state_of(net)
    with pytest.raises(type(error)):
        collect(net, stream(), periods=(2,), advance=advance)
    assert drawn <= 3 and not fetchers()
    assert state_of(net) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_stream_runs_in_the_grad_mode_of_its_caller(mode: Callable[[], Any]) -> None:
    modes: list[bool] = []

    def stream() -> Any:
        modes.append(torch.is_grad_enabled())
        yield IMAGES

    with mode():
        collect(Net().double(), stream(), periods=(2,))
        assert modes == [torch.is_grad_enabled()]


# Compiled


def test_compiled_network_sees_one_size_of_batch_and_no_trainable_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net().double()
    before = state_of(net)
    seen: list[tuple[int, bool]] = []

    def compiled(model: nn.Module) -> nn.Module:
        def see(module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen.append((len(inputs[0]), any(p.requires_grad for p in module.parameters())))

        model.register_forward_pre_hook(see)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    found = collected(net, 4, compile=True)
    monkeypatch.undo()
    assert seen == [(4, False), (4, False)]
    assert_same(found.gradient, collected(net, 4).gradient, rtol=1e-9, atol=1e-9)
    assert state_of(net) == before


def test_compiled_network_has_no_attribution() -> None:
    with pytest.raises(ValueError, match=r"compile: .*leave out stages and method"):
        collect(Net(), [noise(1, 3, 32, 32)], compile=True, method="guided-backprop")


# Memory

MEASURE = """
import resource, sys, torch
from gradlens.gradients import collect
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
generator = torch.Generator().manual_seed(0)
def stream(n):
    for _ in range(n // 10):
        yield torch.randint(256, (10, 3, 64, 64), dtype=torch.uint8, generator=generator)
found = collect(net, stream(int(sys.argv[1])), periods=(2, 4, 8))
assert found.gradient.count == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_thousand_images_need_the_memory_of_fifty() -> None:
    """Peak resident memory of a process of its own; the statistics of an image are about 400 bytes."""

    def peak(images: int) -> int:
        root = Path(__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(images)], cwd=root, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    few, many = peak(50), peak(1000)
    assert many < 1.05 * few


@pytest.mark.parametrize("stream", [[], [IMAGES[:0]]], ids=["no batch", "an empty batch"])
def test_no_image_is_refused(stream: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        collect(Net().double(), stream)


def test_empty_batch_adds_nothing() -> None:
    net = Net().double()
    found = collect(net, [IMAGES, IMAGES[:0]], periods=(2,))
    assert_same(found.gradient, collect(net, [IMAGES], periods=(2,)).gradient)


def test_names_must_be_as_many_as_images() -> None:
    with pytest.raises(ValueError):
        collect(Net().double(), [(["only"], IMAGES[:2])], periods=(2,))


def test_compiled_network_has_no_stages() -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"compile: .*leave out stages"):
        collect(net, [noise(1, 3, 32, 32)], periods=(2,), compile=True, stages=stages(net, (3, 32, 32)))


def test_gradients_differ_from_image_to_image() -> None:
    found = input_gradient(Net(), noise(3, 3, 16, 16))
    assert all(distance(found[a], found[b]) > 0.01 for a, b in itertools.combinations(range(3), 2))
