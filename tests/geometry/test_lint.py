"""Findings name the layer, the period and a remedy; a clean architecture has none above a note."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.geometry import Finding, lint
from gradlens.geometry.lint import RULES, SEVERITIES
from gradlens.networks import DCGANGenerator, LapSRN, SRGANGenerator, StyleTransfer
from tests.geometry.test_trace import Written


def told(found: list[Finding]) -> list[tuple[str, str, str, Any]]:
    assert all(f.rule in RULES and f.severity in SEVERITIES and f.reason and f.remedy for f in found)
    return [(f.severity, f.layer, f.rule, f.period) for f in found]


def severe(found: list[Finding]) -> list[tuple[str, str, str, Any]]:
    return [row for row in told(found) if row[0] != "note"]


def test_the_network_of_captum_852() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 11, stride=3), nn.Conv2d(8, 8, 5, stride=2))
    assert severe(lint(network, (3, 64, 64))) == [
        ("warning", "0", "partial-overlap", 3),
        ("warning", "1", "partial-overlap", 6),
    ]


def test_the_upsampling_of_pix2pixhd_is_flagged_and_its_remedy_keeps_the_size() -> None:
    up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
    found = lint(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), up, nn.Conv2d(8, 3, 7, padding=3)), (8, 16, 16))
    assert told(found) == [("error", "1", "partial-overlap", 2)]
    assert found[0].remedy.startswith("take a kernel of 4 x 4, padding 1 x 1 and no output_padding")
    x = torch.zeros(1, 8, 16, 16)
    assert nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)(x).shape == up(x).shape


class Block(nn.Module):
    """A residual block of a diffusion model's decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(4, channels),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = self.norm(x).view(n, c, h * w).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        y = self.out(F.scaled_dot_product_attention(q, k, v))
        return x + y.transpose(1, 2).reshape(n, c, h, w)


class Decoder(nn.Module):
    """As the decoder of diffusers' AutoencoderKL: nearest resize, then a 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 16, 3, padding=1)
        self.mid = nn.Sequential(Block(16), Attention(16), Block(16))
        self.blocks = nn.ModuleList([Block(16) for _ in range(3)])
        self.ups = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        x = self.mid(self.conv_in(z))
        for block, up in zip(self.blocks, self.ups, strict=False):
            x = up(F.interpolate(block(x), scale_factor=2.0, mode="nearest"))
        return {"sample": self.conv_out(F.silu(self.blocks[-1](x)))}


def test_a_decoder_of_nearest_resize_and_convolution_is_clean() -> None:
    assert lint(Decoder(), (4, 8, 8)) == []


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_patches_are_a_note(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    found = told(lint(network, (3, 224, 224)))
    assert {row[0] for row in found} == {"note"}
    assert {row[2] for row in found} == {"learned-taps"}


def test_resnet50() -> None:
    with torch.device("meta"):
        network = timm.create_model("resnet50")
    found = told(lint(network, (3, 224, 224)))
    assert found == [
        ("warning", "conv1", "partial-overlap", 2),
        ("warning", "maxpool", "max-pool", 4),
        ("warning", "layer2.0.conv2", "partial-overlap", 8),
        ("warning", "layer2.0.downsample.0", "holes", 8),
        ("warning", "layer3.0.conv2", "partial-overlap", 16),
        ("warning", "layer3.0.downsample.0", "holes", 16),
        ("warning", "layer4.0.conv2", "partial-overlap", 32),
        ("warning", "layer4.0.downsample.0", "holes", 32),
    ]


def test_fixed_blurs_are_no_finding() -> None:
    found = told(lint(timm.create_model("resnetblur18"), (3, 224, 224)))
    assert {row[1] for row in found} == {"conv1", *(f"layer{i}.0.downsample.0" for i in (2, 3, 4))}


def test_the_networks_here() -> None:
    assert told(lint(DCGANGenerator(), (100,))) == [
        ("error", f"up{i}", "partial-overlap", period) for i, period in ((1, 8), (2, 4), (3, 2))
    ]
    lapsrn = told(lint(LapSRN(), (1, 16, 16)))
    assert [row[0] for row in lapsrn] == ["note", "note", "warning", "note"]
    assert lapsrn[2] == ("warning", "convt_I2", "last-upsampling", 2)
    assert told(lint(SRGANGenerator(), (3, 16, 16))) == [
        ("warning", "block8.0.pixel_shuffle", "sub-pixel", 4),
        ("warning", "block8.1.pixel_shuffle", "sub-pixel", 2),
    ]
    style = told(lint(StyleTransfer(), (3, 32, 32)))
    assert style == [
        ("warning", "c.1", "partial-overlap", 2),
        ("warning", "c.2", "partial-overlap", 4),
        ("error", "t.0", "partial-overlap", 4),
        ("error", "t.1", "partial-overlap", 2),
    ]
    assert told(lint(StyleTransfer(), (3, 32, 32), direction="forward")) == style[2:]
    assert told(lint(StyleTransfer(), (3, 32, 32), direction="backward")) == style[:2]


def initialised_alike(network: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        weight = network[0].weight
        weight.copy_(weight[::4].repeat_interleave(4, 0))
    return network


def sub_pixel() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(4, 3, 3, padding=1))


def test_icnr_makes_a_note_of_a_sub_pixel_convolution() -> None:
    assert told(lint(sub_pixel(), (4, 8, 8))) == [("warning", "1", "sub-pixel", 2)]
    assert told(lint(initialised_alike(sub_pixel()), (4, 8, 8))) == [("note", "1", "sub-pixel", 2)]
    with torch.device("meta"):
        without_data = sub_pixel()
    unknown = lint(without_data, (4, 8, 8))
    assert told(unknown) == [("warning", "1", "sub-pixel", 2)]
    assert "unless they are initialised alike" in unknown[0].reason


def test_a_transposed_convolution_of_its_stride_is_a_sub_pixel_convolution() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 3, 3))
    assert told(lint(network, (4, 8, 8))) == [("warning", "0", "sub-pixel", 2)]
    nn.init.constant_(network[0].weight, 0.1)
    assert told(lint(network, (4, 8, 8))) == [("note", "0", "sub-pixel", 2)]


def conv(*args: Any, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    layer = nn.Conv2d(4, 4, *args, **kwargs)
    return lambda x: layer(x)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (conv(1, 2), ("error", "holes", 2)),
        (lambda x: conv(1, 2)(x) + F.avg_pool2d(x, 2), ("warning", "holes", 2)),
        (lambda x: x[:, :, ::2, 1::2].mul(2), ("error", "holes", 2)),
        (lambda x: F.interpolate(x, scale_factor=0.5), ("error", "holes", 2)),
        (lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear"), ("error", "holes", 4)),
        (lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True), None),
        (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"), None),
        (lambda x: F.interpolate(x, scale_factor=0.5, mode="area"), None),
        (lambda x: F.max_pool2d(x, 2), ("warning", "max-pool", 2)),
        (lambda x: F.adaptive_max_pool2d(x, 8), ("warning", "max-pool", 2)),
        (lambda x: F.avg_pool2d(x, 2), None),
        (lambda x: F.avg_pool2d(x, 4, 2, 1), None),
        (lambda x: F.avg_pool2d(x, 3, 2, 1), ("warning", "partial-overlap", 2)),
        (lambda x: F.adaptive_avg_pool2d(x, 8), None),
        (lambda x: F.adaptive_avg_pool2d(x, 7), ("warning", "partial-overlap", 16 / 7)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), None),
        (conv(4, 2, 1), ("note", "learned-taps", 2)),
        (conv(3, 1, 1), None),
        (lambda x: F.interpolate(x, scale_factor=2), None),
        (lambda x: F.interpolate(x, size=24), ("warning", "uneven-resize", 1.5)),
        (lambda x: F.interpolate(x, size=24, mode="bilinear"), None),
        (lambda x: F.interpolate(x, size=31, mode="bilinear", align_corners=True), ("note", "align-corners", 31 / 16)),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 1, 1, return_indices=True), 2), ("error", "holes", 2)),
        (lambda x: F.grid_sample(x, torch.zeros(1, 16, 16, 2), align_corners=False), ("note", "unknown-resampling", None)),
    ],
)  # fmt: skip
def test_rules(write: Callable, expected: tuple[str, str, Any] | None) -> None:
    found = [(severity, rule, period) for severity, _, rule, period in told(lint(Written(write), (4, 16, 16)))]
    assert found == ([] if expected is None else [expected])


def test_the_last_layer_that_enlarges() -> None:
    up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
    assert told(lint(nn.Sequential(up, nn.Conv2d(4, 3, 1)), (4, 8, 8))) == [("warning", "0", "last-upsampling", 2)]
    assert told(lint(nn.Sequential(up, nn.Conv2d(4, 3, 3)), (4, 8, 8))) == [("note", "0", "learned-taps", 2)]


def test_output_padding_beyond_the_padding() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 0, output_padding=1), nn.Conv2d(4, 3, 3))
    assert severe(lint(network, (4, 8, 8))) == [("warning", "0", "output-padding", None)]
    with torch.no_grad():
        y = network[0](torch.ones(1, 4, 8, 8))
    assert torch.equal(y[0, :, -1], network[0].bias[:, None].expand(-1, y.shape[-1]))


@pytest.mark.parametrize(
    ("network", "side", "rows"),
    [
        (nn.Conv2d(4, 4, 4, 4), 18, True),
        (nn.Conv2d(4, 4, 4, 4), 20, False),
        (nn.Conv2d(4, 4, 7, 2, 3), 224, False),
        (nn.Conv2d(4, 4, 1, 2), 16, False),
        (nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), nn.Conv2d(4, 4, 4, 4)), 18, False),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 4, 4)), 18, True),
    ],
)
def test_sizes_that_do_not_divide(network: nn.Module, side: int, rows: bool) -> None:
    """What the rule says of rows is what autograd says of them."""
    x = torch.ones(1, 4, side, side, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    found = [f for f in lint(network, (4, side, side)) if f.rule == "rows-dropped"]
    stride = 2 if side in (224, 16) else 4
    assert bool((gradient[..., -1, :] == 0).all()) == rows or stride == 2
    assert bool(found) == rows
    assert not rows or "give it " in found[0].remedy


def test_branches_that_meet() -> None:
    parts = {"down": nn.Conv2d(4, 4, 4, 2, 1), "side": nn.Conv2d(4, 4, 1)}
    network = Written(lambda x, down, side: side(x) + F.interpolate(down(x), scale_factor=2), **parts)
    assert ("note", "(network)", "meeting", None) in told(lint(network, (4, 16, 16)))
    cropped = Written(lambda x, down, side: side(x)[..., :8, :8] + down(x), **parts)
    assert ("warning", "(network)", "meeting", None) in told(lint(cropped, (4, 16, 16)))


def test_unused_layers_and_control_flow_that_depends_on_data() -> None:
    parts = {"used": nn.Conv2d(4, 4, 1), "idle": nn.Conv2d(4, 4, 1)}
    network = Written(lambda x, used, idle: used(x) if x.sum() > -1e9 else idle(x), **parts)
    assert told(lint(network, (4, 8, 8))) == [
        ("note", "(network)", "data-dependent", None),
        ("note", "parts.idle", "unused-layer", None),
    ]


def test_directions() -> None:
    with pytest.raises(ValueError, match="direction: must be"):
        lint(nn.Identity(), (3, 8, 8), direction="sideways")  # type: ignore[arg-type]
