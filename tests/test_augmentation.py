"""`gradlens.redesign.gan.augmentation`: each augmentation against loops, its gradients, and what becomes of a lattice."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradlens import images, models
from gradlens.dream import jitter_attenuation
from gradlens.redesign.gan.augmentation import POLICIES, augment, draw
from gradlens.spectra import lattice_contrast, phase_energy, power_spectrum, set_imbalance

EACH = [(name,) for name in POLICIES]
EVERY = pytest.mark.parametrize("policy", [*EACH, POLICIES], ids=lambda names: "+".join(names))
MOVES = ("flip", "translation", "cutout")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype) * 2 - 1


def photographed(side: int, *, wide: int) -> Tensor:
    """Crops `[N 3 side side]` of the sample photographs, which were JPEGs of 8 px once, at a whole period of neither 2 nor 4."""
    found = []
    for photograph in images.photographs():
        image = images.fit(photograph.open(), (3, wide, wide), interpolation="bilinear", crop_pct=1.0)
        found.append(image.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).movedim(1, 0))
    return torch.cat(found).double()


def parameters(count: int, policy: Iterable[str], *size: int, seed: int = 0) -> dict[str, Tensor]:
    return draw(count, list(policy), size, generator=seeded(seed))


def slow(image: np.ndarray, own: dict[str, Any]) -> np.ndarray:
    """One image `[C H W]`, pixel by pixel."""
    channels, height, width = image.shape
    if "brightness" in own:
        image = image + own["brightness"]
        for row in range(height):
            for column in range(width):
                grey = sum(image[:, row, column]) / channels
                image[:, row, column] = grey + own["saturation"] * (image[:, row, column] - grey)
        image = image.mean() + own["contrast"] * (image - image.mean())
    if own.get("flip"):
        image = image[:, :, ::-1]
    down, right = own.get("translation", (0, 0))
    first_row, first_column = own.get("cutout", (height, width))
    found = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                found[:, row, column] = image[:, row - down, column - right]
            if 0 <= row - first_row < height // 2 and 0 <= column - first_column < width // 2:
                found[:, row, column] = 0
    return found


@EVERY
@pytest.mark.parametrize("shape", [(6, 3, 16, 16), (5, 1, 17, 24)])
def test_every_pixel_is_as_in_loops(policy: tuple[str, ...], shape: tuple[int, ...]) -> None:
    images, drawn = pictures(*shape), parameters(shape[0], policy, *shape[2:])
    expected = [
        slow(image.numpy().copy(), {name: values[i].squeeze().tolist() for name, values in drawn.items()})
        for i, image in enumerate(images)
    ]
    torch.testing.assert_close(augment(images, drawn), torch.tensor(np.stack(expected)), rtol=0, atol=1e-14)


@EVERY
def test_what_is_drawn_depends_on_the_generator_alone(policy: tuple[str, ...]) -> None:
    state = torch.get_rng_state()
    one, same, other = (parameters(64, policy, 32, 32, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    for name in one:
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], other[name])
    backwards = parameters(64, policy[::-1], 32, 32, seed=3)
    assert all(torch.equal(one[name], backwards[name]) for name in one)


def test_the_ranges_are_those_of_the_paper() -> None:
    drawn = parameters(20_000, POLICIES, 32, 48)
    for name, low, high in (("brightness", -0.5, 0.5), ("saturation", 0, 2), ("contrast", 0.5, 1.5)):
        values = drawn[name]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() < high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)  # 10 standard errors
    for axis, (furthest, side) in enumerate([(4, 32), (6, 48)]):
        assert drawn["translation"][:, axis].unique().tolist() == list(range(-furthest, furthest + 1))
        assert drawn["cutout"][:, axis].unique().tolist() == list(range(-side // 4, side - side // 4))
    assert abs(drawn["flip"].double().mean() - 0.5) < 0.02  # 6 standard errors


def test_sides_below_eight_stay_where_they_are() -> None:
    images = pictures(4, 3, 7, 7)
    assert torch.equal(augment(images, parameters(4, ["translation"], 7, 7)), images)


def test_no_policy_leaves_the_images() -> None:
    images = pictures(2, 3, 8, 8)
    assert augment(images, parameters(2, [], 8, 8)) is images


def test_what_a_half_cuts_is_a_quarter_of_the_image_where_it_fits() -> None:
    images = torch.ones(200, 1, 32, 32)
    drawn = parameters(200, ["cutout"], 32, 32)
    fits = ((drawn["cutout"] >= 0) & (drawn["cutout"] <= 16)).all(1)
    left = augment(images, drawn).mean((1, 2, 3))
    assert fits.any() and not fits.all()
    assert (left[fits] == 0.75).all()
    assert (
        (left[~fits] > 0.75) & (left[~fits] <= 1 - 1 / 16)
    ).all()  # the middle is in the image: a quarter of it at least


@EVERY
def test_an_image_does_not_depend_on_its_batch(policy: tuple[str, ...]) -> None:
    images, drawn = pictures(5, 3, 16, 16), parameters(5, policy, 16, 16)
    alone = [augment(images[i : i + 1], {n: v[i : i + 1] for n, v in drawn.items()}) for i in range(5)]
    torch.testing.assert_close(augment(images, drawn), torch.cat(alone), rtol=0, atol=1e-15)  # means of other strides


# Gradients


@EVERY
def test_gradients_of_both_orders_are_right(policy: tuple[str, ...]) -> None:
    images, drawn = pictures(3, 2, 8, 8).requires_grad_(), parameters(3, policy, 8, 8, seed=1)

    def bent(x: Tensor) -> Tensor:  # the augmentation is linear in x: only what is not can have a second derivative
        return augment(x**3, drawn).square()

    assert torch.autograd.gradcheck(bent, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(bent, images, fast_mode=True)


def test_a_gradient_penalty_goes_through_it() -> None:
    drawn = parameters(4, POLICIES, 16, 16)
    images, weight = pictures(4, 3, 16, 16).requires_grad_(), pictures(4, 3, 16, 16, seed=1).requires_grad_()
    score = (augment(images, drawn) * weight).square().sum()
    (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    (of_the_weight,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert of_the_weight.abs().sum() > 0


@pytest.mark.parametrize("policy", [*EACH, POLICIES, MOVES], ids=lambda names: "+".join(names))
def test_every_pixel_that_is_shown_has_a_gradient_and_no_other(policy: tuple[str, ...]) -> None:
    drawn = parameters(8, policy, 16, 16, seed=2)
    if "saturation" in drawn:
        drawn["saturation"].clamp_(min=0.1)  # at 0 the derivative by a channel is a third of that by the grey, never 0
    images = pictures(8, 3, 16, 16).requires_grad_()
    upstream = pictures(8, 3, 16, 16, seed=5).abs() + 0.1
    (gradient,) = torch.autograd.grad(augment(images, drawn), images, upstream)
    moves = {name: values for name, values in drawn.items() if name in MOVES}
    places = torch.arange(1, 257, dtype=torch.float64).view(1, 1, 16, 16).expand(8, 1, 16, 16)
    for own, shown in zip(gradient, augment(places, moves), strict=True):
        seen = torch.isin(places[0, 0], shown.unique())
        if "brightness" in drawn:  # every pixel is in the mean
            assert (own != 0).all()
        else:
            assert ((own != 0) == seen).all()


# Where it runs


def test_it_runs_under_autocast_and_in_half_precision() -> None:
    drawn = parameters(4, POLICIES, 16, 16)
    images = pictures(4, 3, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(images, drawn)
    assert torch.equal(found, augment(images, drawn))
    half = augment(images.bfloat16(), drawn)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), found, rtol=0, atol=0.05)  # 8 bits of numbers up to 3, five times


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_the_memory_format_is_kept(policy: tuple[str, ...], channels: int) -> None:
    images, drawn = pictures(4, channels, 16, 24, dtype=torch.float32), parameters(4, policy, 16, 24)
    last = augment(images.contiguous(memory_format=torch.channels_last), drawn)
    assert last.is_contiguous(memory_format=torch.channels_last)
    first = augment(images, drawn)
    assert first.is_contiguous()
    torch.testing.assert_close(last, first, rtol=0, atol=1e-6)  # the mean in another order
    sliced = augment(pictures(4, channels + 2, 16, 24)[:, 1:-1], drawn)  # dense in neither
    assert torch.equal(sliced, augment(pictures(4, channels + 2, 16, 24)[:, 1:-1].contiguous(), drawn))


@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_into_one_graph_for_all_parameters() -> None:
    compiled = torch.compile(augment, fullgraph=True, dynamic=False, backend="aot_eager")
    images = pictures(4, 3, 16, 16, dtype=torch.float32).requires_grad_()
    for seed, stance in enumerate(("default", "fail_on_recompile", "fail_on_recompile")):
        drawn = parameters(4, POLICIES, 16, 16, seed=seed)
        with torch.compiler.set_stance(stance):  # type: ignore[arg-type]
            found = compiled(images, drawn)
        expected = augment(images, drawn)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(out.square().sum(), images)[0] for out in (found, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_captured_step_sees_the_parameters_that_are_copied_in() -> None:
    images = pictures(8, 3, 32, 32, dtype=torch.float32).cuda()
    held = draw(8, POLICIES, (32, 32), generator=seeded(0), device="cuda")
    augment(images, held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = augment(images, held)
    for seed in (1, 2):
        drawn = draw(8, POLICIES, (32, 32), generator=seeded(seed), device="cuda")
        for name, values in drawn.items():
            held[name].copy_(values)
        graph.replay()
        torch.testing.assert_close(out, augment(images, drawn))


# Lattices


def checkerboard(side: int) -> Tensor:
    place = torch.arange(side)
    return ((-1.0) ** (place[:, None] + place)).double().expand(1, 1, side, side)


@pytest.mark.parametrize("name", ["flip", "translation"])
def test_a_lattice_moves_and_stays_whole(name: str) -> None:
    images = checkerboard(32).expand(16, 1, 32, 32)
    moved = augment(images, parameters(16, [name], 32, 32))[:, :, 4:-4, 4:-4]  # what no border reaches
    signs = moved / images[:, :, 4:-4, 4:-4]
    assert (signs.abs() == 1).all()
    assert (signs.amax((1, 2, 3)) == signs.amin((1, 2, 3))).all()
    assert len(signs.unique()) == 2


@pytest.mark.parametrize("period", [2, 4])
def test_no_lattice_is_written_into_a_constant(period: int) -> None:
    images = pictures(32, 3, 1, 1).expand(-1, -1, 64, 64)
    drawn = parameters(32, ["colour", "flip", "translation"], 64, 64)
    inside = augment(images, drawn)[:, :, 8:-8, 8:-8]
    assert (inside.amax((2, 3)) == inside.amin((2, 3))).all()


@EVERY
def test_photographs_keep_the_contrast_they_have(policy: tuple[str, ...]) -> None:
    crops = photographed(64, wide=192)
    changed = augment(crops, parameters(len(crops), policy, 64, 64))
    for period in (2, 4):
        before, after = lattice_contrast(crops, period), lattice_contrast(changed, period)
        stray = {"colour": 0.05, "flip": 0.4, "translation": 1.2}.get(
            "".join(policy), 2
        )  # of edges; 1.5 of a cut rectangle
        assert abs(after.mean() - before.mean()) < stray


def pattern(side: int) -> Tensor:
    """Of period 2 and 4: the gradient of a linear discriminator, wherever the picture is."""
    place = torch.arange(side, dtype=torch.float64) * torch.pi
    line = torch.cos(place + 0.3) + torch.cos(place / 2 + 0.7)
    return line[:, None] + line


def returned(drawn: dict[str, Tensor], side: int) -> Tensor:
    """The gradient of that discriminator at images augmented with `drawn`."""
    count = len(next(iter(drawn.values())))
    images = torch.zeros(count, 1, side, side, dtype=torch.float64).requires_grad_()
    return torch.autograd.grad((augment(images, drawn) * pattern(side)).sum(), images)[0]


@pytest.mark.parametrize("side", [32, 64])
def test_translations_average_a_lattice_as_jitter_does(side: int) -> None:
    furthest = side // 8
    offsets = torch.arange(-furthest, furthest + 1)
    drawn = {"translation": torch.cartesian_prod(offsets, offsets)}
    inside = slice(furthest, -furthest)
    gradients = returned(drawn, side)[:, :, inside, inside]
    untouched = pattern(side)[inside, inside]
    for period in (2, 4):
        at = (side - 2 * furthest) // period

        def harmonic(x: Tensor, at: int = at) -> Tensor:
            return torch.fft.fft2(x)[..., at, 0].abs()

        each, mean = harmonic(gradients), harmonic(gradients.mean((0, 1)))
        torch.testing.assert_close(each, harmonic(untouched).expand_as(each))
        left = jitter_attenuation(2 * furthest + 1, period)
        torch.testing.assert_close(mean, left * harmonic(untouched))


def test_random_translations_leave_one_part_in_as_many_of_the_power() -> None:
    inside, left = slice(4, -4), []
    whole = power_spectrum(pattern(32)[None, None, inside, inside], window="none")[0, 0, 12, 0]
    for seed in range(200):
        mean = returned(parameters(16, ["translation"], 32, 32, seed=seed), 32)[:, :, inside, inside].mean(0)
        left.append(power_spectrum(mean[None], window="none")[0, 0, 12, 0] / whole)
    law = jitter_attenuation(9, 2, steps=16) ** 2
    assert abs(torch.stack(left).mean() / law - 1) < 0.25  # 200 values that spread as much as they are: 3.5 errors


def test_flips_leave_what_varies_along_columns() -> None:
    drawn = {"flip": torch.tensor([True, False])}
    both = torch.fft.fft2(returned(drawn, 32)[:, 0].mean(0)).abs()
    alone = torch.fft.fft2(pattern(32)).abs()
    assert both[0, 16] < 1e-9 * alone[0, 16]  # across: cos(pi x) and its mirror image are opposite
    torch.testing.assert_close(both[16, 0], alone[16, 0])


def test_translations_even_out_what_a_real_discriminator_returns() -> None:
    judge, crops = models.discriminator().double(), photographed(32, wide=128)
    images = (crops * 2 - 1).requires_grad_()

    def imbalance(policy: list[str]) -> float:
        seen = augment(images, parameters(len(images), policy, 32, 32))
        (gradient,) = torch.autograd.grad(judge((seen + 1) / 2).sum(), images)
        return float(set_imbalance(phase_energy(gradient, 2)))

    assert imbalance([]) > 0.2  # three layers of stride 2; 0.26 on 256 images of CIFAR-10
    assert imbalance(["translation"]) < 0.1  # 0.02 there


# Faults


def test_an_unknown_name_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^policy: must be names out of colour, flip, translation, cutout, got 'color'$"
    ):
        parameters(2, ["flip", "color"], 32, 32)


def test_parameters_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="flip is drawn for 8 images, got 4; draw as many"):
        augment(pictures(4, 3, 8, 8), parameters(8, ["flip"], 8, 8))
