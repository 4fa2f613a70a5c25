"""Objectives: what each reads off a layer, arithmetic, the text that spells them, and what is refused."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradlens.dream import (
    IMAGE,
    OUTPUT,
    Objective,
    channel,
    direction,
    distance,
    dream,
    layer,
    logit,
    named,
    neuron,
    total_variation,
)
from tests.dream import reference


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SEEN = {
    IMAGE: noise(2, 3, 8, 6, seed=1),
    "map": noise(2, 5, 4, 3),
    "other": noise(2, 7, 2, 2, seed=2),
    "tokens": noise(2, 9, 4, seed=3),
    "last": noise(2, 4, 3, 5, seed=4),
    "flat": noise(2, 6, seed=5),
    OUTPUT: noise(2, 10, seed=6),
}

EXACT: dict[str, tuple[Objective, Callable[[dict[str, Tensor]], Tensor]]] = {
    "layer": (layer("map"), lambda s: (s["map"] ** 2).sum((1, 2, 3)) / 60),
    "layer of features": (layer("flat"), lambda s: (s["flat"] ** 2).sum(1) / 6),
    "channel": (channel("map", 4), lambda s: s["map"][:, 4].sum((1, 2)) / 12),
    "channel of tokens": (channel("tokens", 3), lambda s: s["tokens"][:, :, 3].sum(1) / 9),
    "channel that comes last": (channel("last", 4, axis=-1), lambda s: s["last"][..., 4].sum((1, 2)) / 12),
    "channel of a series": (channel("tokens", 8, axis=1), lambda s: s["tokens"][:, 8].sum(1) / 4),
    "channel of features": (channel("flat", 5), lambda s: s["flat"][:, 5]),
    "neuron in the middle": (neuron("map", 0), lambda s: s["map"][:, 0, 2, 1]),
    "neuron": (neuron("map", 2, (3, 0)), lambda s: s["map"][:, 2, 3, 0]),
    "neuron of tokens": (neuron("tokens", 1, [8]), lambda s: s["tokens"][:, 8, 1]),
    "neuron of features": (neuron("flat", 1), lambda s: s["flat"][:, 1]),
    "logit": (logit(9), lambda s: s[OUTPUT][:, 9]),
    "direction": (direction("map", noise(5)), lambda s: torch.einsum("nchw,c->n", s["map"], noise(5)) / 12),
    "direction of features": (direction("flat", noise(6)), lambda s: s["flat"] @ noise(6)),
    "variation": (
        total_variation(),
        lambda s: s[IMAGE].diff(dim=2).abs().sum((1, 2, 3)) / 126 + s[IMAGE].diff(dim=3).abs().sum((1, 2, 3)) / 120,
    ),
    "distance": (distance(0.25, power=2), lambda s: (s[IMAGE] - 0.25).square().sum((1, 2, 3)) / 144),
    "sum": (layer("map") + channel("other", 6), lambda s: s["map"].square().mean((1, 2, 3)) + s["other"][:, 6].mean((1, 2))),
    "difference": (logit(1) - logit(2), lambda s: s[OUTPUT][:, 1] - s[OUTPUT][:, 2]),
    "multiple": (2 * logit(1) * 3, lambda s: 6 * s[OUTPUT][:, 1]),
    "fraction": (-logit(1) / 4, lambda s: -s[OUTPUT][:, 1] / 4),
    "bracket": (0.5 * (logit(1) + logit(2)), lambda s: 0.5 * (s[OUTPUT][:, 1] + s[OUTPUT][:, 2])),
    "difference of a sum": (logit(0) - (logit(1) + logit(2)), lambda s: s[OUTPUT] @ torch.tensor([1.0, -1, -1, *[0] * 7])),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_values(name: str) -> None:
    objective, by_hand = EXACT[name]
    found = objective.value({key: SEEN[key] for key in objective.layers})  # and nothing else
    torch.testing.assert_close(found, by_hand(SEEN), rtol=1e-5, atol=1e-6)  # float32 sums of 144


def test_arithmetic_names_what_it_does_and_asks_for_each_layer_once() -> None:
    found = 0.5 * (layer("a") + channel("b", 3)) - layer("a")
    assert found.name == "0.5 * (a + b:3) + -1 * a"
    assert found.layers == ("a", "b")


@pytest.mark.parametrize("wrong", [1, "layer2", None, [1.0]])
def test_arithmetic_with_what_is_no_objective_is_a_type_error(wrong: object) -> None:
    for attempt in (lambda: layer("a") + wrong, lambda: layer("a") * layer("b")):
        with pytest.raises(TypeError):
            attempt()


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5, 4.0])
def test_direction_is_the_slow_one(power: float) -> None:
    vector = noise(5, seed=9)
    found = direction("map", vector, cosine_power=power).value(SEEN)
    expected = reference.along(SEEN["map"].double().numpy(), vector.double().numpy(), power)
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


def test_direction_along_an_axis_is_that_channel() -> None:
    axis = torch.eye(5)[3]
    torch.testing.assert_close(direction("map", axis).value(SEEN), channel("map", 3).value(SEEN))


def test_direction_of_nothing_has_a_finite_gradient() -> None:
    still = torch.zeros(1, 4, 3, 3, requires_grad=True)
    value = direction("a", torch.ones(4), cosine_power=2).value({"a": still})
    assert torch.autograd.grad(value.sum(), still)[0].isfinite().all()


def test_values_of_a_half_precision_layer_are_float32() -> None:
    low = {name: x.bfloat16() for name, x in SEEN.items()}
    for objective, _ in EXACT.values():
        assert objective.value(low).dtype == torch.float32


# Text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("map", layer("map")),
        ("  map ", layer("map")),
        ("map:3", channel("map", 3)),
        ("map:3@", neuron("map", 3)),
        ("map:3@1,2", neuron("map", 3, (1, 2))),
        ("tokens:1@8", neuron("tokens", 1, (8,))),
        ("logit:7", logit(7)),
        ("map + 0.5*other:4", layer("map") + 0.5 * channel("other", 4)),
        ("-2 * map:0+1e-1*logit:3 + other", -2 * channel("map", 0) + 0.1 * logit(3) + layer("other")),
    ],
)
def test_text_spells_objectives(text: str, same: Objective) -> None:
    found = named(text)
    assert found.layers == same.layers and found.name == same.name
    assert torch.equal(found.value(SEEN), same.value(SEEN))


NONSENSE = [
    "", " ", "+", "map +", "+ map", "map:", "map:x", "map:-1", "map:1.5", "map@3", "map:1@a", "map:1@1,", "map:1@,",
    "map:1@-1", "two words", "a*b", "-*map", "e*map", "map*2", "map:1:2", "map - other", "@", ":", "logit:",
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_refused_with_the_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r"^objective: .*(spell LAYER|no number)"):
        named(text)


@given(st.text(alphabet="ab.:@*+-, 0123456789eE#\n", max_size=20))
def test_any_text_is_an_objective_or_refused(text: str) -> None:
    with suppress(ValueError):  # and nothing else
        assert named(text).layers


# Refusals


@pytest.mark.parametrize(
    ("objective", "match"),
    [
        (channel("map", 5), r"channel: 'map' has 5, from 0 on, got 5"),
        (channel("map", -1), r"channel: .*got -1"),
        (channel("tokens", 4), r"channel: 'tokens' has 4.*got 4"),
        (neuron("map", 9), r"channel: 'map' has 5.*got 9"),
        (neuron("map", 0, (4, 0)), r"position: 'map' has \[4, 3\] positions, got \[4, 0\]"),
        (neuron("map", 0, (0, -1)), r"position: .*got \[0, -1\]"),
        (neuron("map", 0, (1,)), r"position: .*got \[1\]"),
        (logit(10), r"logit: the network has 10, from 0 on, got 10"),
        (logit(-1), r"logit: .*got -1"),
        (direction("map", torch.ones(4)), r"vector: 'map' has 5 channels, got \[4\]"),
    ],
)
def test_what_is_out_of_range_is_named_with_the_range(objective: Objective, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        objective.value(SEEN)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 4),
        )  # fmt: skip


@pytest.mark.parametrize("text", ["0:6", "2:1@8,8", "logit:4", "5:4", "nowhere"])
def test_a_dream_refuses_before_its_first_step(text: str) -> None:
    taken: list[int] = []
    with pytest.raises(ValueError, match=r"^(channel|position|logit|layer): "):
        dream(network(), (3, 32, 32), text, octaves=2, advance=taken.append)
    assert not taken


# Several at once


@pytest.mark.parametrize("optimiser", ["ascent", "adam"])
def test_a_batch_of_objectives_is_so_many_separate_dreams(optimiser: str) -> None:
    model, start = network(), torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(0))
    objectives = ["0:1", channel("2", 3) - total_variation(), "logit:2", "2"]
    together = dream(model, start, objectives, steps=3, octaves=2, optimiser=optimiser)  # type: ignore[arg-type]
    assert together.images.shape == (4, 3, 24, 28) and together.scores.shape == (6, 4)
    for number, objective in enumerate(objectives):
        alone = dream(model, start, objective, steps=3, octaves=2, optimiser=optimiser)  # type: ignore[arg-type]
        # convolutions of a batch add up in another order
        torch.testing.assert_close(together.images[number : number + 1], alone.images, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.scores[:, number : number + 1], alone.scores, rtol=1e-4, atol=1e-6)


def test_pictures_and_objectives_must_be_as_many() -> None:
    model = network()
    with pytest.raises(ValueError, match="image: 3 pictures for 2 objectives"):
        dream(model, torch.rand(3, 3, 16, 16), ["0", "2"])
    assert dream(model, torch.rand(2, 3, 16, 16), ["0", "2"], steps=1).images.shape[0] == 2
    assert dream(model, torch.rand(3, 3, 16, 16), "0", steps=1).scores.shape == (1, 3)
    with pytest.raises(ValueError, match="objective: there must be at least one"):
        dream(model, torch.rand(1, 3, 16, 16), [])


def test_an_objective_that_is_no_number_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective: must give one value an image, got \[1, 6, 8, 8\]"):
        dream(network(), (3, 16, 16), Objective("all", ("0",), lambda seen: seen["0"]))


# Real layouts


def test_a_channel_of_swin_comes_last() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224")
    made = dream(model, (3, 224, 224), channel("layers.1", 150, axis=-1), steps=1)
    assert made.images.isfinite().all() and made.scores.abs().item() > 0
    with pytest.raises(ValueError, match=r"channel: 'layers\.1' has 28"):  # rows, without the axis
        dream(model, (3, 224, 224), channel("layers.1", 150), steps=1)


def test_vit_dreams_at_its_own_size_and_refuses_others_in_a_sentence() -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    made = dream(model, (3, 224, 224), "blocks.2:100", steps=2)
    assert made.images.shape == (1, 3, 224, 224) and made.scores[1] > made.scores[0]
    with pytest.raises(ValueError, match=r"^image: the network does not take 3 x 256 x 256 \(Input height"):
        dream(model, (3, 256, 256), "blocks.2:100")
    with pytest.raises(ValueError, match=r"^octaves: .* 3 x 160 x 160 .*1 of 2 octaves fit this picture$"):
        dream(model, (3, 224, 224), "blocks.2:100", octaves=2)
