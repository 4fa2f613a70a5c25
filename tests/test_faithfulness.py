"""Deletion and insertion: known areas of linear models, a slow reference, laws, and no trace left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradlens.gradients import deletion, insertion
from tests.test_attributions import Net, net, noise, state_of

BOTH = pytest.mark.parametrize("area", [deletion, insertion])


class Linear(nn.Module):
    """A weighted sum of the pixels `[N]`, given as `[N 1]`."""

    def __init__(self, *shape: int, seed: int = 1) -> None:
        super().__init__()
        self.weight = noise(1, *shape, seed=seed) - 0.5

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).flatten(1).sum(1, keepdim=True)


def first(output: Tensor) -> Tensor:
    return output[:, 0]


def slowly(model: nn.Module, start: Tensor, end: Tensor, importance: Tensor, winner: int | None, steps: int) -> float:
    """One image, one step after the other: pixels sorted in Python, the trapezoids added up."""
    size = importance.shape
    order = sorted(range(importance.numel()), key=lambda p: -importance.flatten()[p].item())
    counts = [int(k * len(order) / steps + 0.5) for k in range(steps + 1)]
    values = []
    for count in counts:
        x = start.clone()
        for pixel in order[:count]:
            place = tuple(int(i) for i in torch.unravel_index(torch.tensor(pixel), size))
            x[(slice(None), *place)] = end[(slice(None), *place)]
        output = model(x[None])[0]
        values.append(float(output[0] if winner is None else output.softmax(0)[winner]))
    pairs = zip(counts, counts[1:], values, values[1:], strict=False)
    return sum((b - a) / len(order) * (v + w) / 2 for a, b, v, w in pairs)


@pytest.mark.parametrize("steps", [1, 7, 16, 99])
@pytest.mark.parametrize("rank", ["absolute", "signed"])
def test_both_are_what_they_say_pixel_by_pixel(steps: int, rank: Any) -> None:
    x, model = noise(2, 3, 9, 11), net()
    a = noise(2, 3, 9, 11, seed=3) - 0.5
    blurred, mean = torch.full_like(x, 0.25), x.mean((2, 3), keepdim=True).expand_as(x)
    found = deletion(model, x, a, rank=rank, steps=steps)
    inserted = insertion(model, x, a, rank=rank, steps=steps, baseline=0.25)
    for n in range(2):
        importance = (a[n].abs() if rank == "absolute" else a[n]).sum(0)
        winner = int(model(x[n : n + 1]).argmax())
        expected = slowly(model, x[n], mean[n], importance, winner, steps)
        assert found[n].item() == pytest.approx(expected, abs=1e-12)  # float64 rounding
        expected = slowly(model, blurred[n], x[n], importance, winner, steps)
        assert inserted[n].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 12), (3, 6, 8), (1, 4, 4, 6)], ids=["1-D", "2-D", "3-D"])
def test_a_linear_model_has_its_area_in_closed_form(shape: tuple[int, ...]) -> None:
    """Ranked by what each pixel adds, the m-th of P that goes costs its share from there on."""
    x, model = noise(3, *shape), Linear(*shape)
    pixels = x[0, 0].numel()
    adds = model.weight * (x - 0.2)
    gone = adds.sum(1).flatten(1).sort(descending=True).values
    left = 1 - (torch.arange(pixels) + 0.5) / pixels
    expected = first(model(x)) - (gone * left).sum(1)
    settings: dict[str, Any] = {"rank": "signed", "score": first, "steps": pixels, "baseline": 0.2}
    torch.testing.assert_close(deletion(model, x, adds, **settings), expected)
    inserted = first(model(torch.full_like(x, 0.2))) + (gone * left).sum(1)
    torch.testing.assert_close(insertion(model, x, adds, **settings), inserted)


def test_of_a_linear_model_nothing_is_more_faithful_than_what_each_pixel_adds() -> None:
    x, model = noise(2, 3, 6, 8), Linear(3, 6, 8)
    adds = model.weight * (x - 0.2)
    settings: dict[str, Any] = {"rank": "signed", "score": first, "steps": 48, "baseline": 0.2}
    best = deletion(model, x, adds, **settings), insertion(model, x, adds, **settings)
    for seed in range(20):
        other = noise(2, 1, 6, 8, seed=seed)
        assert (deletion(model, x, other, **settings) > best[0]).all()
        assert (insertion(model, x, other, **settings) < best[1]).all()


@pytest.mark.parametrize("steps", [5, 48])
def test_a_random_order_has_the_mean_of_both_ends(steps: int) -> None:
    """An order and its reverse exactly; 400 orders of one image within four standard errors."""
    x, model = noise(1, 3, 6, 8), Linear(3, 6, 8)
    ends = (first(model(x)) + first(model(torch.zeros_like(x)))) / 2
    random = noise(400, 1, 6, 8, seed=5)
    settings: dict[str, Any] = {"rank": "signed", "score": first, "steps": steps, "baseline": 0.0}
    areas = deletion(model, x.expand(400, -1, -1, -1), random, **settings)
    backwards = deletion(model, x.expand(400, -1, -1, -1), -random, **settings)
    if steps == 48:
        torch.testing.assert_close((areas + backwards) / 2, ends.expand(400))
    assert abs(areas.mean() - ends) < 4 * areas.std() / 20
    constant = torch.ones(400, 1, 6, 8)
    tied = torch.stack([deletion(model, x, constant[:1], seed=seed, **settings)[0] for seed in range(400)])
    assert abs(tied.mean() - ends) < 4 * tied.std() / 20
    assert tied.std() > 0


@BOTH
def test_the_order_alone_counts(area: Any) -> None:
    x, model = noise(2, 3, 12, 12), net()
    a = noise(2, 1, 12, 12, seed=3).mul(4).round()  # five values: ties stay ties
    expected = area(model, x, a, rank="signed", steps=9)
    for monotone in (lambda v: 3 * v + 1, torch.exp, lambda v: v**3):
        assert torch.equal(area(model, x, monotone(a), rank="signed", steps=9), expected)
    assert torch.equal(area(model, x, -a, steps=9), expected)  # all of one sign: absolute is the same order
    assert not torch.equal(area(model, x, -a, rank="signed", steps=9), expected)


def test_insertion_is_deletion_backwards() -> None:
    x, a, model = noise(2, 3, 8, 8), noise(2, 1, 8, 8, seed=3), net()
    inserted = insertion(model, x, a, rank="signed", steps=16, baseline=0.3)
    torch.testing.assert_close(deletion(model, x, -a, rank="signed", steps=16, baseline=0.3), inserted)


@BOTH
def test_images_and_batches_do_not_touch(area: Any) -> None:
    x, a, model = noise(4, 3, 12, 12), noise(4, 3, 12, 12, seed=3), net()
    whole = area(model, x, a, steps=6)
    assert whole.shape == (4,) and whole.dtype == torch.float64
    assert ((whole > 0) & (whole < 1)).all()
    model.seen.clear()
    torch.testing.assert_close(area(model, x, a, steps=6, batch_size=3), whole)
    assert max(model.seen) <= 3
    torch.testing.assert_close(area(model, x[2:3], a[2:3], steps=6), whole[2:3])


@BOTH
def test_a_score_of_ones_own_is_used_as_it_is(area: Any) -> None:
    x, a, model = noise(2, 3, 12, 12), noise(2, 3, 12, 12, seed=3), net()
    logit = area(model, x, a, steps=6, score=lambda y: y[:, 2])
    shifted = area(model, x, a, steps=6, score=lambda y: 2 * y[:, 2] + 1)
    torch.testing.assert_close(shifted, 2 * logit + 1)


def test_the_class_is_the_one_that_wins_on_the_image_itself() -> None:
    class TwoClasses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.mean((1, 2, 3))
            return torch.stack([bright, 0.5 - bright], 1)

    x = torch.full((1, 1, 8, 8), 0.9, dtype=torch.float64)
    a = noise(1, 1, 8, 8)
    found = deletion(TwoClasses(), x, a, baseline=0.0, steps=64)
    bright = 0.9 * (1 - torch.arange(65, dtype=torch.float64) / 64)
    expected = torch.trapezoid((2 * bright - 0.5).sigmoid(), dx=1 / 64)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_baselines() -> None:
    x, a, model = noise(2, 3, 32, 40), noise(2, 1, 32, 40, seed=3), net()
    means = x.mean((2, 3), keepdim=True)
    assert torch.equal(deletion(model, x, a, steps=4, baseline=means), deletion(model, x, a, steps=4))
    colour = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    assert torch.equal(
        deletion(model, x, a, steps=4, baseline=colour),
        deletion(model, x, a, steps=4, baseline=colour.expand_as(x)),
    )
    flat = torch.full_like(x, 0.4)
    torch.testing.assert_close(  # the blur of a constant is that constant, at the border too
        insertion(model, flat, a, steps=4), insertion(model, flat, a, steps=4, baseline=0.4)
    )
    assert not torch.equal(insertion(model, x, a, steps=4), insertion(model, x, a, steps=4, baseline=means))


def test_the_blur_is_gaussian_with_its_deviation() -> None:
    """An impulse far from the border: its spread is 1/32 of the longest side, an axis."""
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x.flatten(1)[:, :2]

    x = torch.zeros(1, 1, 96, 128, dtype=torch.float64)
    x[..., 48, 64] = 1
    insertion(Watch(), x, x, steps=1)
    blurred = seen[1][0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-12)
    for axis, centre in ((0, 48), (1, 64)):
        along = blurred.sum(1 - axis)
        place = torch.arange(len(along)) - centre
        assert (along * place).sum().item() == pytest.approx(0, abs=1e-12)
        assert (along * place**2).sum().item() == pytest.approx(16, rel=1e-4)  # the tails end at the border


@BOTH
@pytest.mark.parametrize("raises", [False, True], ids=["runs", "raises"])
def test_nothing_is_left_behind(area: Any, raises: bool) -> None:
    calls = 0

    def inside(y: Tensor) -> Tensor:
        nonlocal calls
        torch.rand(2)
        calls += 1
        if raises and calls == 2:
            raise RuntimeError("broken inside")
        return y.relu_()  # begins in place

    model = Net(inside).double().train()
    model.drop.training = False
    model.c1.weight.requires_grad_(False)
    model.c2.bias.grad = torch.ones_like(model.c2.bias)
    x, a = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=3).requires_grad_()
    before = state_of(model, x)
    if raises:
        with pytest.raises(RuntimeError, match="broken inside"):
            area(model, x, a, steps=4)
    else:
        assert not area(model, x, a, steps=4).requires_grad
    for old, new in zip(before, state_of(model, x), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert a.grad is None


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtypes(area: Any, dtype: torch.dtype) -> None:
    """The order is that of the values given; the network rounds to 8 or 24 bits."""
    x, a = noise(2, 3, 12, 12).to(dtype), noise(2, 3, 12, 12, seed=3).to(dtype)
    exact = area(net(), x.double(), a.double(), steps=6)
    torch.testing.assert_close(area(Net().to(dtype), x, a, steps=6), exact, rtol=0.05, atol=0)


@BOTH
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps: must be from 1 to the image's 144 pixels, got 0"),
        ({"steps": 145}, "steps: must be from 1 to the image's 144 pixels, got 145"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"rank": "squared"}, "rank: must be one of absolute, signed, got 'squared'"),
        ({"baseline": "black"}, "baseline: must be one of mean, blur, a number or a tensor, got 'black'"),
        ({"baseline": torch.zeros(2, 5)}, r"baseline: must broadcast to images, \[2, 3, 12, 12\], got \[2, 5\]"),
        ({"attribution": torch.zeros(2, 2, 12, 12)}, r"attribution: must have the shape of images"),
        ({"attribution": torch.full((2, 1, 12, 12), torch.nan)}, "attribution: holds NaN or infinity"),
        ({"images": torch.zeros(2, 3, 12, 12, dtype=torch.uint8)}, "images: must be .*floating point, got .*uint8"),
        ({"model": Linear(3, 12, 12)}, "score: the model gives one value, not the logits of classes"),
        ({"score": lambda y: y}, r"score: must give one value for each of 16 rows, got \[16, 5\]"),
    ],
)
def test_settings_out_of_range_are_named(area: Any, wrong: dict[str, Any], words: str) -> None:
    x = noise(2, 3, 12, 12)
    with pytest.raises(ValueError, match=words):
        area(**{"model": net(), "images": x, "attribution": x, **wrong})
