"""`gradlens.redesign.swap`: what is found, exact rewrites, what is kept, what is refused and how it is said."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

from gradlens import models
from gradlens.geometry import certify
from gradlens.redesign import CannotSwapError, designs_for, find, swap
from gradlens.redesign.designs.deconv import hold
from gradlens.redesign.sites import Site

EXACT = 1e-5  # float32
FLOAT64 = 1e-10


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class SuperResolution(nn.Module):
    """A sub-pixel pair and a resize pair by attributes, called in another order than they are defined."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 3, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.between = between or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.shuffle(self.between(self.conv(x)))))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.ConvTranspose2d(6, 3, 3, 2, 1, 1), nn.Tanh(),
    ).eval()  # fmt: skip


# What is found


def test_pairs_are_found_by_what_they_hand_on() -> None:
    found = find(SuperResolution(), torch.rand(1, 3, 8, 8))
    assert [(site.name, site.kind, list(site.modules)) for site in found] == [
        ("conv", "subpixel", ["conv", "shuffle"]),
        ("last", "resize", ["up", "last"]),
    ]
    assert all(site.x is not None and not site.refusal for site in found)


def test_what_stands_between_a_pair_parts_it() -> None:
    model = SuperResolution(nn.BatchNorm2d(16)).eval()
    found = {site.name: site for site in find(model, torch.rand(1, 3, 8, 8))}
    assert "no convolution alone feeds the shuffle" in found["shuffle"].refusal
    with pytest.raises(CannotSwapError, match="shuffle: no convolution alone feeds"):
        swap(model, "even", example=torch.rand(1, 3, 8, 8))


def test_what_is_found_does_not_hang_on_where_tensors_lie_in_memory() -> None:
    """Tensors that are gone leave their ids to others: what had read those does not count."""

    class Busy(SuperResolution):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(20):
                (x + 1).sum(), (x * 2).mean()
            return super().forward(x)

    x = torch.rand(1, 3, 8, 8)
    assert all([site.refusal for site in find(Busy(), x)] == ["", ""] for _ in range(10))


def test_a_convolution_read_twice_is_no_pair() -> None:
    class Skip(SuperResolution):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(self.up(self.shuffle(y))) + y.mean()

    found = {site.name: site for site in find(Skip(), torch.rand(1, 3, 8, 8))}
    assert found["shuffle"].refusal and "conv" not in found


def test_what_is_called_by_hand_is_refused_by_name() -> None:
    class ByHand(SuperResolution):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.interpolate(F.pixel_shuffle(self.conv(x), 2), scale_factor=2))

    with pytest.raises(
        CannotSwapError, match=r"conv: pixel_shuffle is called by hand.*; last: interpolate is called by"
    ):
        swap(ByHand(), "resize", example=torch.rand(1, 3, 8, 8))


def test_without_an_example_neighbours_in_a_sequence_are_pairs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3))
    assert [(site.name, site.kind, site.x) for site in find(model)] == [("0", "subpixel", None), ("3", "resize", None)]


def test_layers_that_shrink_are_found_in_a_classifier() -> None:
    found = find(models.classifier(), torch.rand(1, 3, 64, 64))
    assert [site.kind for site in found] == ["strided", "maxpool", *["strided"] * 6]
    assert designs_for(found) == ["hold", "sinc", "blur", "stride1"]


def test_a_model_that_does_not_run_is_said() -> None:
    with pytest.raises(ValueError, match=r"example: the model does not run on \[1, 4, 8, 8\]"):
        find(network(), torch.rand(1, 4, 8, 8))


# Exact rewrites

GEOMETRIES = [
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1},
    {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2},
    {"kernel_size": (3, 5), "stride": 2, "padding": (0, 2)},
    {"kernel_size": 6, "stride": 2, "padding": 2, "bias": False},
    {"kernel_size": 2, "stride": 3, "output_padding": 1},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("to", ["subpixel", "zero_insertion"])
def test_the_same_function_is_the_same_to_the_last_border(geometry: dict[str, Any], to: str) -> None:
    layer = nn.ConvTranspose2d(4, 6, **geometry).double()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    report = swap(layer, to, example=x)
    assert report.table["kept"].tolist() == ["exact"]
    torch.testing.assert_close(report.model(x), layer(x), rtol=0, atol=FLOAT64)
    larger = torch.randn(1, 4, 9, 6, dtype=torch.float64)  # not only at the size of the example
    torch.testing.assert_close(report.model(larger), layer(larger), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("to", ["subpixel", "zero_insertion", "even", "resize", "hold"])
def test_one_and_three_axes(axes: int, to: str) -> None:
    make = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[axes]
    layer = make(4, 3, 4, 2, 1)
    x = torch.randn(1, 4, *[6] * axes)
    report = swap(layer, to, example=x)
    assert report.model(x).shape == layer(x).shape
    if to in ("subpixel", "zero_insertion"):
        assert report.drift < EXACT
    else:
        assert report.table["certificate_after"].tolist() == ["pass"]


def test_dilation_is_kept_by_zero_insertion_and_refused_by_phases() -> None:
    layer, x = nn.ConvTranspose2d(2, 2, 3, 2, dilation=2), torch.randn(1, 2, 6, 6)
    assert swap(layer, "zero_insertion", example=x).drift < EXACT
    for to in ("even", "resize", "hold", "subpixel"):
        with pytest.raises(CannotSwapError, match=r"0: a dilation of \(2, 2\) is not taken apart into phases"):
            swap(layer, to, example=x)


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_sub_pixel_convolution_of_one_bias_is_a_transposed_one(kernel_size: int, scale: int) -> None:
    conv = nn.Conv2d(3, 2 * scale**2, kernel_size, padding=(kernel_size - 1) // 2)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([0.5, -1.0]).repeat_interleave(scale**2))
    model, x = nn.Sequential(conv, nn.PixelShuffle(scale)), torch.randn(2, 3, 6, 7)
    report = swap(model, "deconv", example=x)
    assert report.table["kept"].tolist() == ["exact"] and report.drift < EXACT
    assert isinstance(report.model[0], nn.ConvTranspose2d) and isinstance(report.model[1], nn.Identity)  # type: ignore[index]
    there = swap(report.model[0], "subpixel", example=x)  # type: ignore[index]
    torch.testing.assert_close(there.model(x), model(x), rtol=0, atol=EXACT)


def test_phases_with_biases_of_their_own_are_no_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    with pytest.raises(CannotSwapError, match=r"0: its phases have biases of their own \(eq. 9\)"):
        swap(model, "deconv", example=torch.rand(1, 3, 6, 6))


@pytest.mark.parametrize(
    "pair",
    [
        [nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=1)],
        [nn.Upsample(scale_factor=3, mode="bilinear"), nn.Conv2d(3, 4, 5, padding=2)],
        [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)],
        [nn.Upsample(scale_factor=2), nn.ReplicationPad2d(2), nn.Conv2d(3, 4, 5)],
        [nn.Upsample(scale_factor=(2, 2)), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, bias=False)],
        [nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1, groups=2, padding_mode="reflect")],
    ],
)
def test_a_resize_and_its_convolution_are_fused_exactly(pair: list[nn.Module]) -> None:
    model = nn.Sequential(*pair)
    x = torch.rand(2, 4 if pair[-1].groups == 2 else 3, 7, 8)
    report = swap(model, "resize", example=x)
    assert report.table["kept"].tolist() == ["exact"] and report.drift < EXACT
    assert set(report.model.state_dict()) == set(model.state_dict())  # names, and weights of the convolution
    report.model.load_state_dict(model.state_dict())
    torch.testing.assert_close(report.model(x), model(x), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ([nn.Upsample(size=(9, 9)), nn.Conv2d(3, 4, 3, padding=1)], r"its resize has size=\(9, 9\)"),
        ([nn.Upsample(scale_factor=1.5), nn.Conv2d(3, 4, 3, padding=1)], "scale_factor=1.5, not one whole factor"),
        ([nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(3, 4, 3, padding=1)], "mode='bicubic'"),
        ([nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(3, 4, 3, padding=1)], "align_corners=True"),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3)], "does not keep the size"),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 4, padding=2)], "does not keep the size"),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, 2, 1)], r"its convolution has stride \(2, 2\)"),
        ([nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=2, dilation=2)], r"dilation \(2, 2\)"),
    ],
)  # fmt: skip
def test_a_resize_that_is_no_whole_one_is_refused(pair: list[nn.Module], words: str) -> None:
    with pytest.raises(CannotSwapError, match=words):
        swap(nn.Sequential(*pair), "resize", example=torch.rand(1, 3, 6, 6))


# What keeps the weights


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g["kernel_size"] != 2])
@pytest.mark.parametrize("to", ["even", "resize", "hold"])
def test_every_fit_passes_and_keeps_the_size(geometry: dict[str, Any], to: str) -> None:
    layer, x = nn.ConvTranspose2d(4, 6, **geometry), torch.randn(2, 4, 6, 7)
    report = swap(layer, to, example=x)
    row = report.table.iloc[0]
    assert (row["certificate_before"], row["certificate_after"]) == ("fail", "pass")
    assert report.model(x).shape == layer(x).shape
    assert certify(report.model, (4, 24, 24)).passed


@pytest.mark.parametrize("order", [0, 1])
def test_a_hold_keeps_the_mean_over_the_phases_of_a_constant(order: int) -> None:
    layer = nn.ConvTranspose2d(3, 2, 5, stride=2).double()
    x = torch.ones(1, 3, 12, 12, dtype=torch.float64)
    site = find(nn.Sequential(layer), x)[0]
    held = hold(site, order=order).modules["0"]
    inside = (..., slice(6, 18), slice(6, 18))
    expected = layer(x)[inside].mean((2, 3), keepdim=True)
    torch.testing.assert_close(held(x)[inside], expected.expand(1, 2, 12, 12), rtol=0, atol=FLOAT64)


def test_holes_are_held_but_not_evened() -> None:
    layer, x = nn.ConvTranspose2d(2, 3, 2, stride=3, output_padding=1), torch.randn(1, 2, 6, 6)
    with pytest.raises(CannotSwapError, match=r"a kernel of \(2, 2\) at stride \(3, 3\) leaves holes"):
        swap(layer, "even", example=x)
    for to in ("resize", "hold"):
        assert swap(layer, to, example=x).table["certificate_after"].tolist() == ["pass"]


def test_a_resize_convolution_in_disguise_is_found_again() -> None:
    """A fit of a kernel that is held already changes nothing."""
    conv = nn.Conv2d(3, 4, 3, padding=1)
    hidden = swap(nn.Sequential(nn.Upsample(scale_factor=2), conv), "resize", example=torch.rand(1, 3, 6, 6))
    plain = hidden.model[1].as_transposed()  # type: ignore[index,operator]
    x = torch.randn(4, 3, 9, 9)
    for to in ("even", "resize"):
        assert swap(plain, to, example=x).drift < EXACT


def test_the_fit_to_real_input_is_nearer_than_that_of_the_taps() -> None:
    layer = nn.ConvTranspose2d(3, 2, 5, 2, 2, 1)
    x = F.avg_pool2d(torch.randn(8, 3, 40, 40), 5, 1) + 0.5  # neighbours alike, as in photographs
    drifts = []
    for example in (x, None):
        made = swap(layer, "resize", example=example).model
        drifts.append(float((made(x) - layer(x)).detach().norm()))
    assert drifts[0] < drifts[1]


def test_one_kernel_for_all_phases_of_a_sub_pixel_pair() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)), torch.randn(2, 3, 8, 8)
    for to in ("even", "resize", "hold"):
        report = swap(model, to, example=x)
        assert report.table["certificate_after"].tolist() == ["pass"] and report.model(x).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("to", ["subpixel_icnr", "resize_bilinear", "deconv_tail"])
def test_fresh_layers_have_the_variance_of_the_old(to: str) -> None:
    layer, x = nn.ConvTranspose2d(8, 6, 3, 2), torch.randn(8, 8, 12, 12)
    report = swap(layer, to, example=x)
    assert report.table["kept"].tolist() == ["fresh"]
    y = report.model(x)
    assert y.shape == layer(x).shape
    assert float(y.detach().std()) == pytest.approx(
        float(layer(x).detach().std()), rel=0.05
    )  # the border is repeated, or cut


@pytest.mark.parametrize("to", ["hold", "sinc", "blur", "stride1"])
def test_layers_that_shrink_keep_size_and_weights(to: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 4, 4, 2)
    ).eval()
    for side in (37, 40, 41):
        x = torch.randn(2, 3, side, side)
        layers = None if to != "sinc" else ["strided"]
        report = swap(model, to, example=x, layers=layers)
        assert report.model(x).shape == model(x).shape
    assert set(report.table["kept"]) == {"filtered"}
    strided = report.table.loc[report.table["kind"] == "strided", "certificate_after"]
    assert set(strided) == {"pass"}
    found = [m.weight for m in report.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(torch.equal(a, model[i].weight) for a, i in zip(found, (0, 3, 4), strict=True))


# The copy and the original


def test_the_model_is_left_and_children_keep_names_and_modes() -> None:
    model = network().train()
    model[2].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(2, 3, 8, 8)
    report = swap(model, "resize", example=x)
    assert model.training and all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True)
    )
    assert [name for name, _ in report.model.named_children()] == [name for name, _ in model.named_children()]
    assert report.model.training and report.model[2].training  # type: ignore[index]
    assert not any(m._forward_hooks for m in report.model.modules())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in report.model.parameters()}
    assert not shared
    again = swap(model, "resize", example=x).model
    again.load_state_dict(report.model.state_dict())
    torch.testing.assert_close(again.eval()(x), report.model.eval()(x))


def test_the_changed_network_trains() -> None:
    report = swap(network(), "resize", example=torch.rand(2, 3, 8, 8))
    report.model(torch.rand(1, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in report.model.parameters())


def test_frozen_layers_stay_frozen() -> None:
    model = network().requires_grad_(False)
    assert not any(p.requires_grad for p in swap(model, "even", example=torch.rand(1, 3, 8, 8)).model.parameters())


def test_only_what_is_named_is_changed() -> None:
    model, x = network(), torch.rand(1, 3, 8, 8)
    report = swap(model, "even", layers=["5"], example=x)
    assert report.table["layer"].tolist() == ["5"]
    assert torch.equal(report.model[2].weight, model[2].weight)  # type: ignore[index]
    assert swap(model, "even", layers="deconv", example=x).table["layer"].tolist() == ["2", "5"]


def test_without_an_example_there_is_no_drift_but_a_certificate() -> None:
    report = swap(network(), "even")
    assert report.drift != report.drift and report.table["drift"].isna().all()
    assert report.table["certificate_after"].tolist() == ["pass", "pass"]


def test_costs_are_those_of_the_layers() -> None:
    report = swap(network(), "hold", layers=["2"], example=torch.rand(1, 3, 8, 8))
    row = report.table.iloc[0]
    assert (row["parameters_before"], row["parameters_after"]) == (8 * 6 * 16 + 6,) * 2
    assert row["multiplications_before"] == 8 * 6 * 4  # 4 x 4 taps at stride 2, of 6 channels
    assert row["multiplications_after"] == pytest.approx(8 * 6 * 25 / 4)


# What is refused


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
def test_parametrised_layers_are_refused_by_name(norm: Any) -> None:
    model = nn.Sequential(norm(nn.ConvTranspose2d(3, 2, 4, 2, 1)))
    with pytest.raises(CannotSwapError, match=r"0: 0 has (?:parametrizations|hooks)"):
        swap(model, "even", example=torch.rand(1, 3, 6, 6))


def test_hooked_layers_are_refused_by_name() -> None:
    model = network()
    handle = model[2].register_forward_hook(lambda *_: None)
    with pytest.raises(CannotSwapError, match="2: 2 has hooks"):
        swap(model, "even", layers=["2"], example=torch.rand(1, 3, 6, 6))
    report = swap(model, "even", example=torch.rand(1, 3, 6, 6))
    assert report.table["kept"].tolist() == ["refused", "fitted"] and "has hooks" in report.table["reason"][0]
    handle.remove()


def test_a_layer_that_runs_twice_or_stands_twice_is_refused() -> None:
    up = nn.ConvTranspose2d(3, 3, 4, 2, 1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = up

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.up(x))

    with pytest.raises(CannotSwapError, match="up runs 2 times in one forward pass"):
        swap(Twice(), "even", example=torch.rand(1, 3, 6, 6))
    with pytest.raises(CannotSwapError, match="stands in the model under more than one name"):
        swap(nn.ModuleDict({"a": up, "b": up}), "even")


def test_a_shared_parameter_is_refused() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 3, 4, 2, 1), nn.ConvTranspose2d(3, 3, 4, 2, 1))
    model[1].weight = model[0].weight
    with pytest.raises(CannotSwapError, match="0 shares a parameter with another layer"):
        swap(model, "resize", example=torch.rand(1, 3, 6, 6))


def test_a_layer_that_is_called_with_an_output_size_is_refused() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=[12, 12])

    with pytest.raises(CannotSwapError, match=r"model: it does not run after the swap \(.*output_size"):
        swap(Sized(), "resize", example=torch.rand(1, 3, 6, 6))


@pytest.mark.parametrize("to", ["hold_a", "hold_b", "hold_c"])
def test_all_approaches_of_trained_weights_are_the_hold(to: str) -> None:
    model, x = network(), torch.rand(2, 3, 8, 8)
    report = swap(model, to, example=x)
    assert set(report.table["kept"]) == {"filtered"}
    assert torch.equal(report.model(x), swap(model, "hold", example=x).model(x))


def test_a_subclass_with_its_own_forward_is_refused() -> None:
    class Odd(nn.ConvTranspose2d):
        def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
            return super().forward(x).relu()

    with pytest.raises(CannotSwapError, match="0: 0 is a Odd with a forward pass of its own"):
        swap(nn.Sequential(Odd(3, 3, 4, 2, 1)), "even", example=torch.rand(1, 3, 6, 6))


@pytest.mark.parametrize(
    ("to", "layers", "words"),
    [
        ("resise", None, "to: 'resise' is none of .*; nearest: resize"),
        ("even", ["9"], "layers: '9' neither shrinks nor enlarges; nearest:"),
        ("blur", ["2"], "2: a deconv layer cannot become 'blur'"),
        ("blur", None, r"nothing in the model can become 'blur'; it has 2 \(deconv\), 5 \(deconv\)"),
    ],
)
def test_what_is_not_known_is_said_with_the_nearest(to: str, layers: list[str] | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        swap(network(), to, layers=layers, example=torch.rand(1, 3, 8, 8))


def test_a_network_without_resampling_has_nothing_to_swap() -> None:
    with pytest.raises(CannotSwapError, match="it has no layer that shrinks or enlarges"):
        swap(nn.Sequential(nn.Conv2d(3, 3, 3)), "even", example=torch.rand(1, 3, 8, 8))


def test_a_site_knows_its_layer() -> None:
    conv = nn.Conv2d(3, 4, 3, 2)
    assert Site("a", "strided", {"a": conv}).layer is conv
