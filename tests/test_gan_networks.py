"""The networks that `gradlens train` builds, against their forward passes written out in plain torch."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from gradlens import geometry, models
from gradlens.downsampling import DOWNSAMPLERS
from gradlens.filters import binomial, hold, windowed_sinc
from gradlens.networks import NeutralGenerator, ResidualGenerator, StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan.build import described
from gradlens.redesign.gan.config import TrainConfig
from gradlens.upsampling import UPSAMPLERS

FLOAT64 = 1e-10  # of values near 1, after some thousand sums
ROUNDING = 1e-5  # of float32 in another order of sums
GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "staged": StagedGenerator,
    "residual": ResidualGenerator,
    "neutral": NeutralGenerator,
}
State = Mapping[str, Tensor]


def seeded(make: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    """A network of seed 0 whose every parameter and running statistic is other than where it starts, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(*arguments, **options)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert values is not None
                    nn.init.uniform_(values, 0.5, 1.5)
    return network.eval()


def latents(count: int, size: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def pictures(count: int, side: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, channels, side, side, dtype=dtype, generator=torch.Generator().manual_seed(2)) * 2 - 1


# Generators, written out


def normed(x: Tensor, w: State, name: str) -> Tensor:
    mean, variance, scale, shift = (
        w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def enlarged(x: Tensor, w: State, name: str, word: str) -> Tensor:
    """Twice the side: what the words say, in the operations of torch."""
    key, _, kernel = word.partition(":")
    if key in ("subpixel", "subpixel_icnr"):
        return F.pixel_shuffle(F.conv2d(x, w[f"{name}.conv.weight"], w.get(f"{name}.conv.bias"), padding=1), 2)
    weight, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
    if key == "resize":
        return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, bias, padding=int(kernel or 3) // 2)
    assert key == "deconv"
    padding, extra = {3: (1, 1), 4: (1, 0), 5: (2, 1), 6: (2, 0)}[int(kernel or 4)]
    return F.conv_transpose2d(x, weight, bias, 2, padding, extra)


def staged(z: Tensor, w: State, words: list[str]) -> Tensor:
    x = (z @ w["fc.weight"].T).reshape(len(z), -1, 4, 4)
    for stage, word in enumerate(words, start=1):
        x = enlarged(F.relu(normed(x, w, f"bn{stage - 1}")), w, f"up{stage}", word)
    return torch.tanh(x)


def residual(z: Tensor, w: State, words: list[str]) -> Tensor:
    x = (z @ w["fc.weight"].T + w["fc.bias"]).reshape(len(z), -1, 4, 4)
    for number, word in enumerate(words):
        name = f"blocks.{number}"
        y = enlarged(F.relu(normed(x, w, f"{name}.norm1")), w, f"{name}.up", word)
        y = F.conv2d(F.relu(normed(y, w, f"{name}.norm2")), w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], padding=1)
        beside = F.conv2d(x, w[f"{name}.beside.weight"], w[f"{name}.beside.bias"])
        x = y + beside.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.tanh(F.conv2d(F.relu(normed(x, w, "norm")), w["conv.weight"], w["conv.bias"], padding=1))


def neutral(z: Tensor, w: State, depth: int) -> Tensor:
    width = w["layers.0.weight"].numel()
    x = (z @ w["fc.weight"].T).reshape(len(z), width, -1)
    x = x.unflatten(2, (round(x.shape[2] ** 0.5), -1))
    for number in range(depth + 1):
        weight = w[f"layers.{3 * number + 2}.weight"]
        bias = w.get(f"layers.{3 * number + 2}.bias")
        assert (bias is not None) == (number == depth)
        x = F.conv2d(F.relu(normed(x, w, f"layers.{3 * number}")), weight, bias, padding=weight.shape[-1] // 2)
    return torch.tanh(x)


WORDS = [
    "resize", "deconv:5", "deconv", ["deconv:3", "resize"], ["resize:5", "subpixel"], ["subpixel_icnr", "deconv:6"], ["resize:1"],
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS, ids=str)
@pytest.mark.parametrize(("make", "reference"), [(StagedGenerator, staged), (ResidualGenerator, residual)])
def test_a_generator_is_what_it_is_in_plain_torch(make: Any, reference: Any, words: str | list[str]) -> None:
    network = seeded(make, 16, latent=8, width=3, channels=2, upsampler=words).double()
    z = latents(3, dtype=torch.float64)
    told = [words] if isinstance(words, str) else words
    expected = reference(z, network.state_dict(), told * 2 if len(told) == 1 else told)
    torch.testing.assert_close(network(z), expected, rtol=0, atol=FLOAT64)
    assert expected.std() > 0.05  # not all of it saturated, not all of it flat
    assert expected.shape == (3, 2, 16, 16)


@pytest.mark.parametrize(("depth", "kernel"), [(0, 3), (2, 3), (1, 5)])
def test_the_neutral_generator_is_what_it_is_in_plain_torch(depth: int, kernel: int) -> None:
    network = seeded(NeutralGenerator, 12, latent=8, width=3, depth=depth, kernel_size=kernel).double()
    z = latents(3, dtype=torch.float64)
    torch.testing.assert_close(network(z), neutral(z, network.state_dict(), depth), rtol=0, atol=FLOAT64)


def test_generators_train_with_the_statistics_of_their_batch() -> None:
    network = seeded(StagedGenerator, 16, latent=8, width=3).double().train()
    found = network(latents(5, dtype=torch.float64))
    w = {k: v for k, v in network.state_dict().items() if "running" not in k}
    x = (latents(5, dtype=torch.float64) @ w["fc.weight"].T).reshape(5, -1, 4, 4)
    for stage in (1, 2):
        norm = f"bn{stage - 1}"
        w[f"{norm}.running_mean"], w[f"{norm}.running_var"] = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        x = enlarged(F.relu(normed(x, w, norm)), w, f"up{stage}", "resize")
    torch.testing.assert_close(found, torch.tanh(x), rtol=0, atol=FLOAT64)


# Discriminators, written out


def convolved(x: Tensor, w: State, name: str, stride: int = 1) -> Tensor:
    """Zeros around: of k taps (k - 1) // 2 before and k // 2 behind."""
    weight, kernel = w[f"{name}.conv.weight"], w[f"{name}.conv.weight"].shape[-1]
    before, behind = (kernel - 1) // 2, kernel // 2
    return F.conv2d(F.pad(x, (before, behind) * 2), weight, w.get(f"{name}.conv.bias"), stride)


def each_channel(x: Tensor, taps: Tensor, mode: str, stride: int = 1) -> Tensor:
    """Filtered by `taps` along both axes; tap (m - 1) // 2 lies on the pixel."""
    m, channels = len(taps), x.shape[1]
    kernel = torch.outer(taps, taps).to(x).expand(channels, 1, m, m)
    return F.conv2d(F.pad(x, ((m - 1) // 2, m // 2) * 2, mode=mode), kernel, stride=stride, groups=channels)


SHRUNK: dict[str, Callable[[Tensor, State, str], Tensor]] = {
    "stride2": lambda x, w, name: convolved(x, w, name, 2),
    "stride1": lambda x, w, name: F.avg_pool2d(convolved(x, w, name), 2),
    "maxpool": lambda x, w, name: F.max_pool2d(convolved(x, w, name), 3, 2, 1),
    "avgpool": lambda x, w, name: convolved(F.avg_pool2d(x, 2), w, name),
    "blur": lambda x, w, name: each_channel(convolved(x, w, name), binomial(3), "reflect", 2),
    "maxblur": lambda x, w, name: each_channel(F.max_pool2d(convolved(x, w, name), 3, 1, 1), binomial(3), "reflect", 2),
    "hold": lambda x, w, name: convolved(each_channel(x, hold(2, 0), "replicate"), w, name, 2),
    "sinc": lambda x, w, name: convolved(each_channel(x, windowed_sinc(2), "replicate"), w, name, 2),
}


def judged(x: Tensor, w: State, words: list[str]) -> Tensor:
    for stage, word in enumerate(words, start=1):
        x = SHRUNK[word.partition(":")[0]](x, w, f"down{stage}")
        x = F.leaky_relu(normed(x, w, f"bn{stage}") if f"bn{stage}.weight" in w else x, 0.2)
    return x.flatten(1) @ w["fc.weight"].T + w["fc.bias"]


def bounded(state: State) -> State:
    """Weights by their plain names: W / (u W v) where a spectral norm keeps W, u and v."""
    made = {k: v for k, v in state.items() if "parametrizations" not in k}
    for name in (k.removesuffix(".original") for k in state if k.endswith("weight.original")):
        weight, u, v = (state[f"{name}.{part}"] for part in ("original", "0._u", "0._v"))
        made[name.replace("parametrizations.", "")] = weight / (u @ weight.flatten(1) @ v)
    return made


@pytest.mark.parametrize("norm", ["spectral", "batch", "none"])
@pytest.mark.parametrize(
    "words",
    [*([word, word] for word in SHRUNK), ["stride2:4", "blur:5"], ["avgpool:1", "stride2:5"], ["hold:4", "maxpool:2"]],
    ids=str,
)
def test_a_discriminator_is_what_it_is_in_plain_torch(words: list[str], norm: Any) -> None:
    network = seeded(StagedDiscriminator, 16, width=3, channels=2, downsampler=words, norm=norm).double()
    x = pictures(3, 16, 2, torch.float64)
    expected = judged(x, bounded(network.state_dict()), words)
    # taps of the filters are kept as float32
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-6 if "sinc" in words else FLOAT64)
    assert expected.shape == (3, 1)
    assert expected.std() > 1e-3


def test_there_is_a_reference_for_every_downsampler() -> None:
    assert set(SHRUNK) == set(DOWNSAMPLERS)


def test_the_first_layer_is_apart() -> None:
    same = seeded(StagedDiscriminator, 32, width=3, downsampler="stride2", first="blur:5").state_dict()
    other = seeded(StagedDiscriminator, 32, width=3, downsampler=["blur:5", "stride2", "stride2"]).state_dict()
    assert same.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in same.items())
    x = pictures(2, 32, dtype=torch.float64)
    network = seeded(StagedDiscriminator, 32, width=3, downsampler="stride2", first="stride1").double()
    expected = judged(x, bounded(network.state_dict()), ["stride1", "stride2", "stride2"])
    torch.testing.assert_close(network(x), expected, rtol=0, atol=FLOAT64)


def test_batch_norm_follows_every_stage_but_the_first() -> None:
    """Radford, Metz, Chintala 2016: not at the input layer of the discriminator."""
    network = seeded(StagedDiscriminator, 32, width=3, norm="batch")
    assert {k.split(".")[0] for k in network.state_dict() if "running_mean" in k} == {"bn2", "bn3"}
    assert {k for k in network.state_dict() if k.endswith("bias") and k.startswith("down")} == {"down1.conv.bias"}


def test_only_the_batch_norm_knows_of_other_images() -> None:
    x = pictures(4, 16)
    for norm, knows in (("spectral", False), ("none", False), ("batch", True)):
        network = seeded(StagedDiscriminator, 16, width=3, norm=norm)
        network.train()
        alone = deepcopy(network)(x[:2])
        assert torch.allclose(deepcopy(network)(x)[:2], alone, atol=ROUNDING) == (not knows), norm


def test_spectral_norm_bounds_every_weight() -> None:
    network = seeded(StagedDiscriminator, 32, width=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(100):  # power iterations, one a pass
        network(pictures(1, 32))
    bounds = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(bounds) == 4
    for module in bounds:
        assert parametrize.is_parametrized(module, "weight")
        largest = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)  # the power iteration comes from below
    now = network.state_dict()
    assert all(torch.equal(before[name], now[name]) for name in before if not name.endswith(("_u", "_v")))


# Sizes and words


@pytest.mark.parametrize("side", [32, 64, 128, 256])
@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_gives_images_of_its_resolution(make: Callable[..., nn.Module], side: int) -> None:
    images = seeded(make, side, latent=8, width=2, channels=1)(latents(2))
    assert images.shape == (2, 1, side, side)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("side", [32, 64, 128, 256])
def test_a_discriminator_gives_one_logit_an_image(side: int) -> None:
    network = seeded(StagedDiscriminator, side, width=2, channels=1)
    assert network(pictures(2, side, 1)).shape == (2, 1)
    assert [name for name, _ in network.named_children() if name.startswith("down")] == [
        f"down{stage}" for stage in range(1, {32: 3, 64: 4, 128: 5, 256: 6}[side] + 1)
    ]


def test_channels_double_down_to_four_pixels_and_eight_times_at_most() -> None:
    generator = seeded(StagedGenerator, 256, latent=8, width=2)
    wide = [generator.get_submodule(f"bn{stage}").num_features for stage in range(6)]
    assert wide == [16, 16, 16, 8, 4, 2]
    discriminator = seeded(StagedDiscriminator, 256, width=2)
    made = [discriminator.get_submodule(f"down{stage}.conv").out_channels for stage in range(1, 7)]
    assert made == [2, 4, 8, 16, 16, 16]
    blocks = seeded(ResidualGenerator, 256, latent=8, width=2).get_submodule("blocks")
    assert [block.conv.out_channels for block in blocks.children()] == [16, 16, 16, 8, 4, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("key", UPSAMPLERS)
@pytest.mark.parametrize("make", [StagedGenerator, ResidualGenerator])
def test_every_upsampler_serves(make: Callable[..., nn.Module], key: str) -> None:
    network = seeded(make, 16, latent=8, width=2, upsampler=key).train()
    images = network(latents(3))
    assert images.shape == (3, 3, 16, 16)
    gradients = torch.autograd.grad(images.square().sum(), list(network.parameters()), allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("key", DOWNSAMPLERS)
def test_every_downsampler_serves_and_learns(key: str) -> None:
    network = seeded(StagedDiscriminator, 32, width=2, downsampler=key).train()
    gradients = torch.autograd.grad(network(pictures(3, 32)).sum(), list(network.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_words_set_the_kernel_alone() -> None:
    for word, shape in (("resize:5", (3, 2, 5, 5)), ("resize:1", (3, 2, 1, 1)), ("deconv:6", (2, 3, 6, 6))):
        weight = seeded(StagedGenerator, 16, latent=8, width=2, upsampler=word).get_parameter("up2.weight")
        assert weight.shape == shape
    for word, side in (("stride2:4", 4), ("blur:5", 5), ("stride1", 3)):
        network = seeded(StagedDiscriminator, 16, width=2, downsampler=word, norm="none")
        assert network.get_parameter("down1.conv.weight").shape == (2, 3, side, side)


def test_the_neutral_generator_enlarges_nothing() -> None:
    network = seeded(NeutralGenerator, 32, latent=8, width=4)
    assert not any(type(layer) in (nn.ConvTranspose2d, nn.Upsample, nn.PixelShuffle) for layer in network.modules())
    found = geometry.layers(network, [8], direction="forward")
    assert len(found) == 3
    assert set(found["stride"]) == {"1 x 1"} and set(found["output"]) == {"32 x 32"} and set(found["writes"]) == {False}
    assert geometry.lint(network, [8]) == []
    uneven = seeded(StagedGenerator, 32, latent=8, width=4, upsampler="deconv:5")
    assert set(geometry.layers(uneven, [8], direction="forward")["writes"]) == {True}
    assert len(geometry.lint(uneven, [8])) == 3


# What is refused


REFUSED: list[tuple[Callable[..., nn.Module], dict[str, Any], str]] = [
    (StagedGenerator, {"resolution": 48}, "resolution: must be 8, 16, 32, 64, 128, 256 or another power of two, got 48"),
    (StagedGenerator, {"resolution": 4}, "resolution: must be 8,"),
    (StagedGenerator, {"resolution": 0}, "resolution: must be at least 1, got 0"),
    (StagedGenerator, {"resolution": 32.0}, "resolution: must be an integer, got 32.0"),
    (StagedGenerator, {"latent": 0}, "latent: must be at least 1, got 0"),
    (StagedGenerator, {"width": 0}, "width: must be at least 1, got 0"),
    (StagedGenerator, {"channels": 0}, "channels: must be at least 1, got 0"),
    (StagedGenerator, {"upsampler": "deconvolve"}, "upsampler: must be one of deconv, .*, got 'deconvolve'"),
    (StagedGenerator, {"upsampler": "deconv:x"}, "upsampler: must be one of deconv, .*deconv:5, got 'deconv:x'"),
    (StagedGenerator, {"upsampler": "deconv:"}, "upsampler: must be one of deconv, .*, got 'deconv:'"),
    (StagedGenerator, {"upsampler": "deconv:-3"}, "upsampler: must be one of deconv, .*, got 'deconv:-3'"),
    (StagedGenerator, {"upsampler": ""}, "upsampler: must be one of deconv, .*, got ''"),
    (StagedGenerator, {"upsampler": []}, r"upsampler: needs one word, or one for each of 3 stages, got 0: \[\]"),
    (StagedGenerator, {"upsampler": ["resize"] * 4}, "upsampler: needs one word, or one for each of 3 stages, got 4"),
    (StagedGenerator, {"upsampler": "deconv:0"}, "upsampler: 'deconv:0' cannot be built"),
    (ResidualGenerator, {"upsampler": "stride2"}, "upsampler: must be one of deconv,"),
    (ResidualGenerator, {"resolution": 36}, "resolution: must be 8,"),
    (ResidualGenerator, {"latent": -1}, "latent: must be at least 1, got -1"),
    (ResidualGenerator, {"channels": 0}, "channels: must be at least 1, got 0"),
    (NeutralGenerator, {"kernel_size": 4}, "kernel_size: must be odd, got 4"),
    (NeutralGenerator, {"depth": -1}, "depth: must be at least 0, got -1"),
    (NeutralGenerator, {"resolution": 0}, "resolution: must be at least 1, got 0"),
    (NeutralGenerator, {"latent": True}, "latent: must be an integer, got True"),
    (NeutralGenerator, {"width": 0}, "width: must be at least 1, got 0"),
    (NeutralGenerator, {"channels": 0}, "channels: must be at least 1, got 0"),
    (StagedDiscriminator, {"resolution": 7}, "resolution: must be at least 8, got 7"),
    (StagedDiscriminator, {"downsampler": "resize"}, "downsampler: must be one of stride2, .*, got 'resize'"),
    (StagedDiscriminator, {"downsampler": ["blur"] * 2}, "downsampler: needs one word, or one for each of 3 stages"),
    (StagedDiscriminator, {"first": "resize"}, "first: must be one of stride2, .*, got 'resize'"),
    (StagedDiscriminator, {"first": "blur:0"}, "first: 'blur:0' cannot be built"),
    (StagedDiscriminator, {"norm": "layer"}, "norm: must be one of spectral, batch, none, got 'layer'"),
    (StagedDiscriminator, {"width": 2.5}, "width: must be an integer, got 2.5"),
    (StagedDiscriminator, {"channels": 0}, "channels: must be at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "said"), REFUSED, ids=str)
def test_what_cannot_be_built_is_refused_in_one_sentence(
    make: Callable[..., nn.Module], options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{said}") as refusal:
        make(**({"resolution": 32, "width": 2} | options))
    assert "\n" not in str(refusal.value)


# As modules


EVERY: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], Callable[[], Tensor]]] = {
    "staged": (StagedGenerator, {"latent": 8, "upsampler": ["resize:5", "deconv"]}, lambda: latents(3)),
    "residual": (ResidualGenerator, {"latent": 8, "upsampler": "subpixel"}, lambda: latents(3)),
    "neutral": (NeutralGenerator, {"latent": 8, "depth": 1}, lambda: latents(3)),
    "spectral": (StagedDiscriminator, {"first": "stride1", "downsampler": "hold"}, lambda: pictures(3, 16)),
    "batch": (StagedDiscriminator, {"norm": "batch", "downsampler": "blur"}, lambda: pictures(3, 16)),
}
each = pytest.mark.parametrize("name", EVERY)


def built(name: str) -> tuple[nn.Module, Tensor]:
    make, options, x = EVERY[name]
    return seeded(make, 16, width=4, **options), x()


@each
def test_a_copy_computes_the_same_and_shares_nothing(name: str) -> None:
    network, x = built(name)
    expected = network(x)
    copy = deepcopy(network)
    assert torch.equal(copy(x), expected)
    with torch.no_grad():
        for weight in copy.parameters():
            weight += 1
    assert torch.equal(network(x), expected)
    assert not torch.equal(copy(x), expected)


@each
def test_a_state_dict_is_all_that_there_is(name: str) -> None:
    network, x = built(name)
    make, options, _ = EVERY[name]
    other = make(16, width=4, **options).eval()
    assert not torch.equal(other(x), network(x))
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other(x), network(x))


@each
def test_the_seed_of_torch_decides_the_weights(name: str) -> None:
    make, options, _ = EVERY[name]
    states = []
    for seed in (3, 3, 4):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(make(16, width=4, **options).state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())


@each
def test_autocast_changes_nothing_but_the_rounding(name: str) -> None:
    network, x = built(name)
    expected = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * max(1, expected.abs().max())  # 8 bits in each product


@each
def test_channels_last_changes_nothing_but_the_rounding(name: str) -> None:
    network, x = built(name)
    expected = network(x)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected, rtol=ROUNDING, atol=ROUNDING)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in EVERY if name not in ("staged", "spectral")]


@pytest.mark.parametrize("name", ["staged", "spectral", *SLOW])
def test_compiled_it_trains_the_same(name: str, fresh_compiler: None) -> None:
    network, x = built(name)
    network.train()
    twin = deepcopy(network)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        found, expected = compiled(x), network(x)
        torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
        gradients = [
            torch.autograd.grad(y.square().sum(), list(n.parameters())) for y, n in ((found, twin), (expected, network))
        ]
        for of_compiled, gradient in zip(*gradients, strict=True):
            torch.testing.assert_close(of_compiled, gradient, rtol=1e-3, atol=1e-4)  # sums of some thousand products
    for key, value in network.state_dict().items():  # running statistics, power iterations
        torch.testing.assert_close(twin.state_dict()[key], value, rtol=ROUNDING, atol=ROUNDING, msg=key)


@each
def test_a_file_that_describes_it_loads_as_a_model(name: str, tmp_path: Path) -> None:
    """The arguments survive JSON; images of a model are in [0, 1]."""
    network, x = built(name)
    make, options, _ = EVERY[name]
    role = "generator" if name in GENERATORS else "discriminator"
    told = {
        "builder": f"gradlens.networks:{make.__name__}",  # type: ignore[attr-defined]
        "arguments": {"resolution": 16, "width": 4, **options},
    }
    card = described(role, told, TrainConfig(resolution=16, latent=8), "a test")
    assert card is not None and json.loads(json.dumps(card)) == card
    save_file(network.state_dict(), tmp_path / "net.safetensors", {"gradlens": json.dumps(card)})
    load = models.generator if role == "generator" else models.discriminator
    model = load(tmp_path / "net.safetensors")
    assert type(model.network) is make
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    if role == "generator":
        assert model.info.input_size == (8,)
        assert torch.equal(model(x), network(x) * 0.5 + 0.5)
        assert model(x).min() >= 0 and model(x).max() <= 1
    else:
        assert model.info.input_size == (3, 16, 16)
        torch.testing.assert_close(model((x + 1) / 2), network(x), rtol=ROUNDING, atol=ROUNDING)
