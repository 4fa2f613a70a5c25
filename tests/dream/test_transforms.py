"""Transforms: exact moves, their adjoints, sizes, dimensions, draws, and the recipes on a real network."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradlens import models
from gradlens.dream import RECIPES, Moment, Transform, dream, fitted_to, jitter, pad, rotate, scale
from gradlens.models import bare

MODES = ("roll", "crop", "reflect", "zeros")
TRANSFORMS: dict[str, Callable[[], Transform]] = {
    **{f"jitter {mode}": lambda mode=mode: jitter(5, mode=mode) for mode in MODES},
    **{f"pad {mode}": lambda mode=mode: pad(3, mode=mode) for mode in ("constant", "reflect", "replicate", "circular")},
    "scale": lambda: scale([0.7, 1.0, 1.3]),
    "rotate": lambda: rotate([-20, 0, 35]),
    "crop to": lambda: fitted_to((9, 8)),
    "pad to": lambda: fitted_to((21, 19)),
}


def moment(seed: int = 0, step: int = 0) -> Moment:
    return Moment(step, torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_flows_back_is_the_adjoint(name: str, seed: int) -> None:
    """<T x - T 0, y> = <x, T* y>: linear up to a constant, and nothing detached."""
    transform = TRANSFORMS[name]()
    x = noise(2, 3, 12, 15).requires_grad_()
    shown = transform(x, moment(seed))
    y = noise(*shown.shape, seed=1)
    (back,) = torch.autograd.grad((shown * y).sum(), x)
    linear = shown - transform(torch.zeros_like(x), moment(seed))
    assert (linear * y).sum().item() == pytest.approx((x * back).sum().item(), rel=1e-12)  # sums of 500 products


@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_of_a_batch_go_alike_and_apart(name: str) -> None:
    transform, x = TRANSFORMS[name](), noise(3, 2, 12, 15)
    together = transform(x, moment(4))
    torch.testing.assert_close(together[1:2], transform(x[1:2], moment(4)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_same_seed_same_draws(name: str) -> None:
    transform, x, generators = TRANSFORMS[name](), noise(1, 1, 12, 15), [moment(3).generator for _ in range(2)]
    runs = [[transform(x, Moment(step, generator)) for step in range(6)] for generator in generators]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


# Jitter


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [2, 5, 8])
def test_every_offset_moves_whole_pixels(mode: str, n: int) -> None:
    """Away from the border, pixel (i, j) goes to (i + a, j + b), with a and b from -(n // 2) on."""
    x, move = noise(1, 2, 24, 20), jitter(n, mode=mode, order="cycle")  # type: ignore[arg-type]
    lost = n - 1 if mode == "crop" else 0
    before = n - 1 - n // 2 if mode == "crop" else 0
    for a in range(n):
        for b in range(n):
            step = next(s for s in range(n * n) if _offsets(n, s) == [a, b])
            shown = move(x, moment(step=step))
            assert shown.shape == (1, 2, 24 - lost, 20 - lost)
            down, right = a - n // 2 - before, b - n // 2 - before
            inner = shown[..., n:-n, n:-n] if not lost else shown[..., 1:-1, 1:-1]
            top = (n if not lost else 1) - down
            left = (n if not lost else 1) - right
            expected = x[..., top : top + inner.shape[2], left : left + inner.shape[3]]
            assert torch.equal(inner, expected), (a, b)


def _offsets(n: int, step: int) -> list[int]:
    from gradlens.dream import cycle

    return cycle(n, 2, step)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_roll_loses_nothing_and_zeros_and_reflections_fill(n: int) -> None:
    x = noise(1, 1, 16, 16) + 1  # none is black
    for step in range(n * n):
        down, right = (o - n // 2 for o in _offsets(n, step))
        rolled, black, mirrored = (
            jitter(n, mode=mode, order="cycle")(x, moment(step=step)) for mode in ("roll", "zeros", "reflect")
        )
        assert torch.equal(rolled, x.roll((down, right), (2, 3)))
        kept = (16 - abs(down)) * (16 - abs(right))
        assert (black != 0).sum() == kept and torch.equal(black[black != 0], rolled[black != 0])
        rows = [abs(i - down) if i - down <= 15 else 30 - (i - down) for i in range(16)]
        columns = [abs(j - right) if j - right <= 15 else 30 - (j - right) for j in range(16)]
        assert torch.equal(mirrored[0, 0], x[0, 0][rows][:, columns])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(17,), (9, 10), (7, 8, 9)])
def test_jitter_and_pad_in_one_two_and_three_dimensions(mode: str, size: tuple[int, ...]) -> None:
    x = noise(2, 3, *size)
    shown = jitter(4, mode=mode)(x, moment())  # type: ignore[arg-type]
    lost = 3 if mode == "crop" else 0
    assert shown.shape == (2, 3, *(side - lost for side in size))
    padded = pad(2)(x, moment())
    middle = (..., *(slice(2, 2 + side) for side in size))
    assert torch.equal(padded[middle], x)
    assert padded.sum() - x.sum() == pytest.approx(0.5 * (padded.numel() - x.numel()))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_fixed_position_changes_nothing(mode: str, n: int) -> None:
    x = noise(1, 1, 5, 5)
    assert torch.equal(jitter(n, mode=mode)(x, moment()), x)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["crop", "reflect"])
def test_too_many_offsets_for_the_picture_are_refused_with_its_size(mode: str) -> None:
    with pytest.raises(ValueError, match=r"jitter: 40 .*got 12 x 15"):
        jitter(40, mode=mode)(noise(1, 1, 12, 15), moment())  # type: ignore[arg-type]
    smallest = noise(1, 1, 12, 12)
    n = 12 if mode == "crop" else 23
    for seed in range(20):
        jitter(n, mode=mode)(smallest, moment(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: jitter(-1), "n: .*got -1"),
        (lambda: jitter(3, mode="wrap"), "mode: .*got 'wrap'"),  # type: ignore[arg-type]
        (lambda: jitter(3, order="sorted"), "order: .*got 'sorted'"),  # type: ignore[arg-type]
        (lambda: pad(-1), "width: .*got -1"),
        (lambda: scale([]), "factors: "),
        (lambda: scale([1, 0]), "factors: .*0"),
        (lambda: rotate([]), "degrees: "),
    ],
)
def test_nonsense_is_refused_by_name(make: Callable[[], Transform], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# Scale, rotate, fit


@given(height=st.integers(1, 40), width=st.integers(1, 40), factor=st.floats(0.05, 3))
@settings(max_examples=40, deadline=None)
def test_scale_rounds_the_sides(height: int, width: int, factor: float) -> None:
    shown = scale([factor])(torch.full((1, 1, height, width), 0.25), moment())
    assert shown.shape[2:] == (max(1, round(height * factor)), max(1, round(width * factor)))
    torch.testing.assert_close(shown, torch.full_like(shown, 0.25))


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles_on_a_square_are_exact(side: int, turns: int) -> None:
    x = noise(1, 2, side, side)
    shown = rotate([90 * turns])(x, moment())
    # float64 throughout; cos of 90 degrees is 1e-16 and the grid is as exact
    torch.testing.assert_close(shown, x.rot90(turns, (2, 3)), rtol=0, atol=1e-5)


def test_rotation_keeps_distances_in_a_picture_that_is_not_square() -> None:
    """A spot 12 px to the right of the middle goes, at 30 degrees, 6 px up and 10.4 px to the right."""
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(81.0), indexing="ij")
    spot = torch.exp(-((rows - 20) ** 2 + (columns - 52) ** 2) / 8)[None, None]
    shown = rotate([30])(spot, moment())[0, 0]
    place = [((grid * shown).sum() / shown.sum()).item() for grid in (rows, columns)]
    assert place == pytest.approx([20 - 6, 40 + 12 * math.cos(math.pi / 6)], abs=0.05)  # bilinear, of a spot of 2 px


def test_rotation_repeats_the_border() -> None:
    x = torch.full((1, 1, 20, 30), 0.7)
    torch.testing.assert_close(rotate([45])(x, moment()), x)


@pytest.mark.parametrize("size", [(4, 6), (15, 16), (5, 19), (12, 15)])
def test_fitted_to_crops_around_the_middle_and_pads_with_grey(size: tuple[int, int]) -> None:
    x = noise(1, 2, 12, 15)
    shown = fitted_to(size)(x, moment())
    assert shown.shape == (1, 2, *size)
    cut = [max(0, (have - want) // 2) for have, want in zip((12, 15), size, strict=True)]
    put = [max(0, (want - have) // 2) for have, want in zip((12, 15), size, strict=True)]
    kept = [min(have, want) for have, want in zip((12, 15), size, strict=True)]
    inside = shown[..., put[0] : put[0] + kept[0], put[1] : put[1] + kept[1]]
    assert torch.equal(inside, x[..., cut[0] : cut[0] + kept[0], cut[1] : cut[1] + kept[1]])
    assert shown.sum() - inside.sum() == pytest.approx(0.5 * (shown.numel() - inside.numel()))


# Recipes


def test_recipes_are_the_published_ones() -> None:
    assert RECIPES["none"] == ()
    assert RECIPES["deepdream"] == (jitter(65),)
    assert [RECIPES["lucid"][i] for i in (1, 4)] == [jitter(9, mode="crop"), jitter(5, mode="crop")]
    assert [RECIPES["lucent"][i] for i in (1, 4)] == [jitter(8, mode="zeros"), jitter(4, mode="zeros")]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_run_on_a_real_network_and_reproduce(name: str) -> None:
    model = bare(models.load("resnet18_half", weights="random"))
    first, again, other = (
        dream(model, (3, 80, 72), "layer2", transforms=RECIPES[name], steps=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first.images.shape == (1, 3, 80, 72) and first.images.isfinite().all()
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
