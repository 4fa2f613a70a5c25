"""The table of layers: its cells, and its overlap beside what autograd counts."""

from math import isnan, prod

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlens.geometry import coverage, layers, trace
from gradlens.geometry.layers import COLUMNS, overlaps
from gradlens.networks import SRGANGenerator
from tests.geometry.test_trace import Written


def test_columns_hold_no_objects() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, (3, 5), (2, 1), groups=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    for direction in ("backward", "forward"):
        table = layers(network, (3, 16, 16), direction=direction)
        assert table.columns.tolist() == list(COLUMNS)
        assert {type(value) for row in table.itertuples(index=False) for value in row} <= {str, int, float, bool}
    row = layers(network, (3, 16, 16)).iloc[0]
    assert (row["kernel"], row["stride"], row["input"], row["output"], row["after"]) == (
        "3 x 5", "2 x 1", "16 x 16", "7 x 12", "-1",
    )  # fmt: skip
    assert (row["overlap_min"], row["overlap_max"], row["overlap"], row["writes"]) == (5, 10, "partial", True)
    assert (row["period"], row["periods"]) == (2.0, "2 x 1")
    assert row["effect"] == "writes T=2 x - unevenly, 1:2 and 5:5 taps an axis"


def test_a_network_without_spatial_layers_has_an_empty_table() -> None:
    table = layers(nn.Linear(8, 4), (8,))
    assert table.empty
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS


def test_forward_and_backward() -> None:
    back, forth = (layers(SRGANGenerator(), (3, 16, 16), direction=d) for d in ("backward", "forward"))
    up = back["kind"] == "pixel_shuffle"
    assert back[up]["period"].tolist() == [1.0, 0.5]
    assert forth[up]["period"].tolist() == [4.0, 2.0]
    assert not back["writes"].any()
    assert forth[up]["writes"].all() and forth["writes"].sum() == 2
    assert forth["period"].iloc[0] == 4.0 and forth["period"].iloc[-1] == 1.0


def test_one_position_has_no_lattice() -> None:
    row = layers(nn.AdaptiveAvgPool2d(1), (3, 16, 16)).iloc[0]
    assert isnan(row["period"]) and row["periods"] == "" and not row["writes"]


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (4, 2, 1), (1, 2, 1), (5, 3, 1), (3, 2, 2), (2, 4, 1)]
)
@pytest.mark.parametrize("axes", [1, 2])
def test_counts_are_those_of_autograd(kernel: int, stride: int, dilation: int, axes: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d)[axes - 1](1, 1, kernel, stride, dilation=dilation, bias=False).double()
    nn.init.ones_(conv.weight)
    x = torch.ones(1, 1, *[48] * axes, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x).sum(), x)
    inside = gradient[(..., *[slice(12, 36)] * axes)]
    row = layers(conv, (1, *[48] * axes)).iloc[0]
    assert (row["overlap_min"], row["overlap_max"]) == (inside.min(), inside.max())
    assert row["overlap_min"] == coverage(kernel, (stride,) * axes, dilation=dilation).min()


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("side", [5, 6, 8, 9, 12, 16, 18, 24, 30])
def test_resizes_have_holes_where_autograd_gives_no_gradient(mode: str, side: int) -> None:
    resize = Written(lambda x: F.interpolate(x, size=side, mode=mode))
    x = torch.ones(1, 1, 48, 48, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(resize(x).sum(), x)
    inside = gradient[..., 12:36, 12:36]
    (step,) = trace(resize, (1, 48, 48)).steps
    assert (prod(t.fewest for t in overlaps(step.call)) == 0) == bool((inside == 0).any())


@pytest.mark.parametrize("side", [5, 7, 9, 10, 13])
def test_adaptive_windows_are_counted(side: int) -> None:
    pool = Written(lambda x: F.adaptive_max_pool1d(x, side) + F.adaptive_avg_pool1d(x, side))
    seen = [0] * 48
    for i in range(side):
        for j in range(i * 48 // side, -(-(i + 1) * 48 // side)):
            seen[j] += 1
    for step in trace(pool, (1, 48)).steps:
        assert overlaps(step.call) == ((min(seen[12:36]), max(seen[12:36])),)


@pytest.mark.parametrize(
    ("layer", "direction", "words"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), "backward", "filters; equal taps would remove T=3 and its divisors"),
        (nn.Conv2d(3, 3, 1), "backward", "mixes channels alone"),
        (nn.AvgPool2d(3, 1, 1), "backward", "box of 3 x 3: removes T=3 and its divisors"),
        (nn.Conv2d(3, 3, 4, 2, 1), "backward", "even taps: equal weights leave nothing at T=2, random weights are still uneven"),
        (nn.Conv2d(3, 3, 2, 2), "backward", "one tap each: writes T=2 where the 4 sub-filters differ"),
        (nn.Conv2d(3, 3, 3, 2), "forward", "reads every 2 x 2 px: folds frequencies above 1/4 of them"),
        (nn.AvgPool2d(2), "backward", "holds evenly over 2 x 2: copies every 1/2 are damped by sinc"),
        (nn.MaxPool2d(2), "backward", "routes to the largest of 2 x 2: writes T=2, where depends on the data"),
        (nn.Upsample(scale_factor=2), "forward", "replicates the spectrum every 1/2 and damps the copies by sinc"),
        (
            nn.Upsample(scale_factor=2, mode="bilinear"), "forward",
            "replicates the spectrum every 1/2 and damps the copies by sinc^2",
        ),
        (nn.ConvTranspose2d(3, 3, 3, 2), "forward", "writes T=2 unevenly, 1:2 taps an axis"),
        (nn.ConvTranspose2d(3, 3, 1, 2), "forward", "writes T=2 with holes: at most 1 of 4 positions are reached"),
    ],
)  # fmt: skip
def test_effects(layer: nn.Module, direction: str, words: str) -> None:
    table = layers(layer, (3, 16, 16), direction=direction)  # type: ignore[arg-type]
    assert table["effect"].tolist() == [words]


def test_a_direction_that_is_none() -> None:
    with pytest.raises(ValueError, match="direction: must be"):
        layers(nn.Identity(), (3, 8, 8), direction="up")  # type: ignore[arg-type]


def test_a_table_is_a_data_frame_of_its_own() -> None:
    assert isinstance(layers(nn.Conv2d(3, 3, 1), (3, 8, 8)), pd.DataFrame)
