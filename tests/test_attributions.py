"""Attributions are what captum and slow references say, keep their sign, and leave no trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum.attr import GuidedBackprop, InputXGradient, NoiseTunnel, Saliency
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens import models
from gradlens.gradients import METHODS, attribute, input_gradient, top_logit

CHEAP: dict[str, Any] = {"steps": 3, "samples": 3, "window": 4, "stride": 2}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Seeded images in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Net(nn.Module):
    """Convolution, norm, in-place ReLU, dropout, convolution, mean; weights from a seed of its own."""

    def __init__(self, inside: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.c1, self.c2 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 2, 1)
        self.norm, self.act, self.drop = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.inside = inside
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.c2(self.drop(self.act(self.norm(self.c1(self.inside(x)))))).mean((2, 3))


def net(inside: Callable[[Tensor], Tensor] = lambda y: y) -> Net:
    return Net(inside).double().eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """timm's ResNet-18 with random weights: in-place ReLU modules, each run once, and residual branches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet18", num_classes=10, zero_init_last=False).double().eval()


# Each method


def test_saliency_is_the_input_gradient_and_captums_with_its_sign() -> None:
    x = noise(3, 3, 16, 16)
    found = attribute(net(), x, "saliency")
    assert torch.equal(found, input_gradient(net(), x))
    assert (found < 0).any()
    expected = Saliency(net()).attribute(x.clone().requires_grad_(), target=net()(x).argmax(1), abs=False)
    torch.testing.assert_close(found, expected)


def test_input_x_gradient_is_captums() -> None:
    x = noise(3, 3, 16, 16)
    expected = InputXGradient(net()).attribute(x.clone().requires_grad_(), target=net()(x).argmax(1))
    torch.testing.assert_close(attribute(net(), x, "input-x-gradient"), expected)


def test_integrated_gradients_are_a_sum_over_the_path() -> None:
    """Captum rounds its weights to float32."""
    x, model = noise(2, 3, 16, 16), net()
    points, weights = np.polynomial.legendre.leggauss(7)
    expected = torch.zeros_like(x)
    for number, image in enumerate(x):
        winner = int(model(image[None]).argmax())
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            between = 0.25 + point * (image[None] - 0.25)
            expected[number] += weight * input_gradient(model, between, score=lambda y, k=winner: y[:, k])[0]
    found = attribute(model, x, "integrated-gradients", steps=7, baseline=0.25)
    torch.testing.assert_close(found, expected * (x - 0.25), rtol=1e-5, atol=1e-8)


def test_integrated_gradients_add_up_to_what_the_score_gained(resnet: nn.Module) -> None:
    """The score is piecewise linear along the path: 200 points find its integral to a part in a hundred."""
    x = noise(2, 3, 64, 64)
    winner = resnet(x).argmax(1, keepdim=True)
    gained = (resnet(x) - resnet(torch.zeros_like(x))).gather(1, winner)[:, 0]
    found = attribute(resnet, x, "integrated-gradients", steps=200).sum((1, 2, 3))
    torch.testing.assert_close(found, gained, rtol=0.01, atol=0)


def test_smoothgrad_is_captums_noise_tunnel() -> None:
    """With the same numbers: captum draws them from the global generator, one sample at a time."""
    x, model = 3 * noise(1, 3, 16, 16, dtype=torch.float32), Net().eval()
    found = attribute(model, x, "smoothgrad", samples=5, noise=0.2, seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = NoiseTunnel(Saliency(model)).attribute(
            x.clone(), nt_type="smoothgrad", nt_samples=5, nt_samples_batch_size=1,
            stdevs=0.2 * float(x.max() - x.min()), target=int(model(x).argmax()), abs=False,
        )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert (found < 0).any()


def test_smoothgrad_without_noise_is_saliency_and_its_noise_is_seeded() -> None:
    x, model = noise(2, 3, 16, 16), net()
    torch.testing.assert_close(attribute(model, x, "smoothgrad", noise=0), attribute(model, x, "saliency"))
    a, b, c = (attribute(model, x, "smoothgrad", samples=2, noise=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_noise_is_relative_to_the_range_of_each_image() -> None:
    """Scaling an image about 0 scales its noise: a net without offsets then sees the same gates."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3, bias=False)
    ).double()
    x = noise(1, 3, 8, 8)
    model(x)
    one, both = (attribute(model, images, "smoothgrad", noise=0.5) for images in (x, torch.cat([x, 100 * x])))
    torch.testing.assert_close(both, torch.cat([one, one]))


def occluded(model: nn.Module, x: Tensor, window: int, stride: int, baseline: float) -> Tensor:
    """Square by square: the score lost, and at each pixel the mean over its squares."""
    result = torch.zeros_like(x)
    for number, image in enumerate(x):
        winner = int(model(image[None]).argmax())
        clean = model(image[None])[0, winner].item()
        total, times = (torch.zeros(image.shape[1:], dtype=x.dtype) for _ in range(2))
        height, width = image.shape[1:]
        for top in range(0, height - window + stride, stride):
            for left in range(0, width - window + stride, stride):
                changed = image.clone()
                changed[:, top : top + window, left : left + window] = baseline
                lost = clean - model(changed[None])[0, winner].item()
                total[top : top + window, left : left + window] += lost
                times[top : top + window, left : left + window] += 1
        result[number] = total / times
    return result


@pytest.mark.parametrize(("window", "stride", "baseline"), [(4, 2, 0.0), (5, 3, 0.5), (3, 3, 0.0), (16, 1, 0.0)])
def test_occlusion_is_the_score_lost_square_by_square(window: int, stride: int, baseline: float) -> None:
    x, model = noise(2, 3, 16, 18), net()
    found = attribute(model, x, "occlusion", window=window, stride=stride, baseline=baseline)
    torch.testing.assert_close(found, occluded(model, x, window, stride, baseline), rtol=1e-6, atol=1e-9)
    assert (found < 0).any() and (found > 0).any()


def test_occlusion_is_constant_in_cells_of_its_stride() -> None:
    found = attribute(net(), noise(1, 3, 32, 32), "occlusion", window=8, stride=4)
    cells = found.unfold(2, 4, 4).unfold(3, 4, 4)
    assert torch.equal(cells, cells[..., :1, :1].expand_as(cells))
    assert found.std() > 0


@pytest.mark.parametrize("method", ["integrated-gradients", "smoothgrad", "occlusion"])
def test_the_class_is_the_one_that_wins_on_the_image_itself(method: Any) -> None:
    """Scores (s, 0.5 - s) of s, the mean: the second wins on dark images, the first on this one."""

    class TwoClasses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            s = x.mean((1, 2, 3))
            return torch.stack([s, 0.5 - s], 1)

    x = torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    x[..., ::2] = 0.31
    settings = {"window": 8, "stride": 8, "noise": 40.0, "samples": 20}
    found = attribute(TwoClasses(), x, method, **settings)
    expected = {"integrated-gradients": x / 64, "smoothgrad": torch.full_like(x, 1 / 64)}
    torch.testing.assert_close(found, expected.get(method, torch.full_like(x, float(x.mean()))), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_of_ones_own_is_asked_throughout(method: Any) -> None:
    x, model = noise(2, 3, 16, 16), net()
    losing = int(model(x)[0].argmin())
    found = attribute(model, x, method, score=lambda y: y[:, losing], **CHEAP)
    chosen = nn.Sequential(model, nn.Flatten(), PickOne(losing))
    torch.testing.assert_close(found, attribute(chosen, x, method, **CHEAP))
    assert not torch.allclose(found, attribute(model, x, method, **CHEAP))


class PickOne(nn.Module):
    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, y: Tensor) -> Tensor:
        return y[:, self.column]


# Guided backprop


class Guided(nn.Module):
    """The same by a hook on what the ReLU returns: what comes back is made positive before the gate."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        y.register_hook(lambda gradient: gradient.clamp(min=0))
        return y


def with_guides(model: nn.Module) -> nn.Module:
    """A copy in which each ReLU module is a `Guided`."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Guided())
    return model


def test_guided_backprop_of_a_real_network(resnet: nn.Module) -> None:
    x = noise(2, 3, 64, 64)
    found = attribute(resnet, x, "guided-backprop")
    torch.testing.assert_close(found, input_gradient(with_guides(resnet), x))
    assert (found - input_gradient(resnet, x)).norm() > 0.1 * found.norm()
    assert (found < 0).any()


def test_guided_backprop_by_hand() -> None:
    """Two dense layers: W1' [a > 0] [w > 0] w."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 1)).double()
    x = noise(2, 3, 2, 2)
    first, last = model[1].weight.detach(), model[3].weight.detach()[0]
    active = model[1](x.flatten(1)) > 0
    expected = ((active * last.clamp(min=0)) @ first).view_as(x)
    torch.testing.assert_close(attribute(model, x, "guided-backprop"), expected)


def test_guided_backprop_is_captums_on_a_chain_of_modules() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)
        ).double()
    x = noise(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=model(x).argmax(1))
    torch.testing.assert_close(attribute(model, x, "guided-backprop"), expected)


def into(x: Tensor, rectify: Callable[[Tensor], Any]) -> Tensor:
    """Rectified in place, whatever `rectify` returns."""
    rectify(x)
    return x


SHARED = nn.ReLU()
RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "in-place module": nn.ReLU(inplace=True),
    "shared module": SHARED,
    "F.relu": F.relu,
    "F.relu in place": lambda x: into(x, lambda y: F.relu(y, inplace=True)),
    "F.relu in place by position": lambda x: into(x, lambda y: F.relu(y, True)),
    "by keyword": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: into(x, torch.relu_),
    "method": lambda x: x.relu(),
    "method in place": lambda x: into(x, Tensor.relu_),
    "in place on a part": lambda x: torch.cat([into(part, Tensor.relu_) for part in (x[:, :2], x[:, 2:])], 1),
    "changed afterwards": lambda x: F.relu(x).mul_(1.0),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_spelling_of_a_relu_is_guided(name: str) -> None:
    """Three times in one network, with a branch around one of them, as captum's clamping would spoil."""

    class Spelled(nn.Module):
        def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.c = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 3)])
            self.relu = relu

        def forward(self, x: Tensor) -> Tensor:
            y = self.c[0](x)
            y = self.relu(y * 1) + y
            y = self.relu(self.c[1](y)) + y
            return self.relu(self.c[2](self.relu(y))).mean((2, 3))

    x = noise(2, 3, 12, 12)
    found = attribute(Spelled(RELUS[name]).double(), x, "guided-backprop")
    torch.testing.assert_close(found, input_gradient(Spelled(Guided()).double(), x))


def test_guided_backprop_without_a_relu_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    with pytest.raises(ValueError, match="guided-backprop guides ReLUs and the model runs none"):
        attribute(model, noise(1, 3, 8, 8), "guided-backprop")


# All of them


def state_of(model: nn.Module, x: Tensor) -> Any:
    """What must not change."""
    modules = list(model.modules())
    return (
        [m.training for m in modules],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        [(p.requires_grad, None if p.grad is None else p.grad.clone(), p.clone()) for p in model.parameters()],
        [b.clone() for b in model.buffers()],
        torch.random.get_rng_state(),
        (x.requires_grad, x.grad, x.detach().clone()),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("raises", [False, True], ids=["runs", "raises"])
def test_nothing_is_left_behind(method: Any, raises: bool) -> None:
    calls = 0

    def inside(y: Tensor) -> Tensor:
        nonlocal calls
        torch.rand(2)
        calls += 1
        if raises and calls == (2 if method in ("integrated-gradients", "smoothgrad", "occlusion") else 1):
            raise RuntimeError("broken inside")
        return y

    model = Net(inside).double().train()
    model.drop.training = False
    model.c1.weight.requires_grad_(False)
    model.c2.bias.grad = torch.ones_like(model.c2.bias)
    x = noise(2, 3, 16, 16)
    before = state_of(model, x)
    if raises:
        with pytest.raises(RuntimeError, match="broken inside"):
            attribute(model, x, method, **CHEAP)
    else:
        found = attribute(model, x, method, **CHEAP)
        assert not found.requires_grad
    for old, new in zip(before, state_of(model, x), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_images_and_batches_do_not_touch(method: Any) -> None:
    x, model = noise(5, 3, 16, 16), net()
    whole = attribute(model, x, method, **CHEAP)
    assert whole.shape == x.shape and whole.dtype == x.dtype
    model.seen.clear()
    torch.testing.assert_close(attribute(model, x, method, batch_size=2, **CHEAP), whole)
    assert max(model.seen) <= 2
    torch.testing.assert_close(attribute(model, x[3:4], method, **CHEAP), whole[3:4])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_do_not_matter(method: Any, grad: Any) -> None:
    x, model = noise(1, 3, 16, 16), net()
    expected = attribute(model, x, method, **CHEAP)
    with grad():
        assert torch.equal(attribute(model, x * 1, method, **CHEAP), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_may_begin_in_place(method: Any) -> None:
    x = noise(2, 3, 16, 16) - 0.5
    expected = attribute(net(lambda y: y.relu()), x, method, **CHEAP)
    torch.testing.assert_close(attribute(net(lambda y: y.relu_()), x, method, **CHEAP), expected)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_float64_within_its_rounding(method: Any) -> None:
    """Eight bits; a sum over the whole map, which gates near 0 do not decide."""
    x = noise(2, 3, 16, 16).bfloat16()
    exact = attribute(net(), x.double(), method, **CHEAP)
    found = attribute(Net().bfloat16(), x, method, **CHEAP)
    assert found.dtype is torch.bfloat16
    assert (found.double() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 16), (2, 8, 8), (1, 6, 6, 6)], ids=["1-D", "2-D", "3-D"])
def test_any_number_of_axes(method: Any, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = noise(2, *shape)
    model(x)
    assert attribute(model, x, method, **CHEAP).shape == x.shape


@pytest.mark.parametrize("method", METHODS)
def test_what_captum_says_stays_with_captum(method: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(net(), noise(3, 3, 16, 16), method, **CHEAP)


def test_a_model_of_gradlens_is_attributed_per_unit_of_intensity() -> None:
    info = models.ModelInfo("net", "classifier", "", "", (3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    model = models.Model(net(), info).double()
    x = noise(2, 3, 16, 16)
    expected = attribute(net(), (x - 0.5) / 0.25, "guided-backprop") / 0.25
    torch.testing.assert_close(attribute(model, x, "guided-backprop"), expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "gradcam"}, "method: must be one of saliency, input-x-gradient, .*occlusion, got 'gradcam'"),
        ({"steps": 0}, "steps: must be at least 1, got 0"),
        ({"samples": 0}, "samples: must be at least 1"),
        ({"noise": -0.1}, "noise: must be at least 0, got -0.1"),
        ({"noise": float("nan")}, "noise: must be at least 0, got nan"),
        ({"window": 4, "stride": 5}, "stride: must be at most window=4"),
        ({"window": 17}, "window: must be at most the image's 16 px, got 17"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attribute(net(), noise(1, 3, 16, 16), **{"method": "occlusion", **wrong})


@pytest.mark.parametrize("method", METHODS)
def test_segmentation_needs_a_score(method: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).double()
    with pytest.raises(ValueError, match="5 maps, not logits"):
        attribute(model, noise(1, 3, 16, 16), method, **CHEAP)
    found = attribute(model, noise(1, 3, 16, 16), method, score=lambda y: y.mean((1, 2, 3)), **CHEAP)
    assert found.abs().sum() > 0


def test_top_logit_is_the_default_score() -> None:
    x = noise(1, 3, 16, 16)
    same = attribute(net(), x, "smoothgrad", score=top_logit, **CHEAP)
    assert torch.equal(same, attribute(net(), x, "smoothgrad", **CHEAP))
