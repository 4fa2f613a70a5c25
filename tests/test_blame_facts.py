"""Facts of blame: games of known answer, planted culprits, and the bundled network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradlens import images, models
from gradlens.causes import antithetic_orders, blame, blaming, remedy, sampled_shapley, shapley
from gradlens.gradients import input_gradient
from gradlens.rules import Rules, kinds
from gradlens.spectra import lattice_contrast


def photos(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded noise in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


class Residual(nn.Module):
    """Stem, max-pool, and a residual block with a strided main path and a 1x1 shortcut; ReLUs in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 6, 5, 2, 2), nn.MaxPool2d(3, 2, 1)
        self.main, self.more = nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.short = nn.Conv2d(6, 8, 1, 2)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.stem(x)))
        x = self.act(self.more(self.act(self.main(x))) + self.short(x))
        return self.head(x.mean((2, 3)))


def residual() -> nn.Module:
    return seeded(Residual)


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mean(table: pd.DataFrame, layer: str, metric: str, kind: str = "signed", period: int = 2) -> float:
    """The value of a set row."""
    part = table.loc[
        (table["image"] == "")
        & (table["layer"] == layer)
        & (table["metric"] == metric)
        & (table["kind"] == kind)
        & (table["period"] == period)
    ]
    (value,) = part["value"]
    return float(value)


def test_shapley_values_of_the_glove_game() -> None:
    """One left glove, two right ones, a pair is worth 1: 2/3, 1/6, 1/6 (Shapley and Shubik)."""
    pair = [float(bool(s & 1) and bool(s & 6)) for s in range(8)]
    np.testing.assert_allclose(shapley(np.array(pair)), [2 / 3, 1 / 6, 1 / 6], rtol=1e-12)


def test_shapley_values_of_the_airport_game() -> None:
    """A runway as long as the longest aeroplane needs: each metre is shared by those who need it (Littlechild, Owen)."""
    cost = [max([c for i, c in enumerate((1.0, 2.0, 4.0)) if s >> i & 1], default=0.0) for s in range(8)]
    np.testing.assert_allclose(shapley(np.array(cost)), [1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 2], rtol=1e-12)


def test_sampled_values_of_pairwise_games_are_exact() -> None:
    """Where players interact by two, an order and its reverse add up to the Shapley value (Mitchell et al. 2022)."""
    generator = np.random.default_rng(0)
    own, between = generator.normal(size=5), np.triu(generator.normal(size=(5, 5)), 1)
    inside = np.array([[s >> i & 1 for i in range(5)] for s in range(32)])
    values = inside @ own + np.einsum("si,ij,sj->s", inside, between, inside)
    orders = antithetic_orders(5, 4)
    found, pairs = sampled_shapley(dict(enumerate(values)), orders)
    np.testing.assert_allclose(found, shapley(values), atol=1e-12)
    np.testing.assert_allclose(pairs.std(0), 0, atol=1e-12)


def test_a_layer_off_the_way_to_the_image_changes_nothing() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.beside = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x).mean((2, 3)) + self.beside(x.detach()).mean((2, 3))

    table = blame(seeded(Beside), photos(3, 3, 48, 48), periods=[2])
    part = table.loc[(table["layer"] == "beside") & table["metric"].isin(blaming.METRICS)]
    assert len(part) == 3 * 3 * 4  # if it were left out this would say nothing
    assert (part["value"] == 0).all()


def test_the_culprit_is_found() -> None:
    """A 1x1 of stride 2 leaves holes; a 2x2 average pool hands on evenly."""
    model = seeded(lambda: chain(nn.Conv2d(3, 8, 1, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 4, 3)))
    table = blame(model, photos(4, 3, 48, 48), periods=(2,))
    assert mean(table, "0", "shapley", "phase") > 1
    assert abs(mean(table, "2", "shapley", "phase")) < 0.05
    assert mean(table, "0", "leave_one_out", "phase") == pytest.approx(mean(table, "", "as_is", "phase"), abs=0.05)


def test_of_two_culprits_who_cover_for_each_other_none_shows_when_left_out() -> None:
    """Two parallel strided layers write the same lattice: without either it is still there, and each has half."""
    model = residual()
    table = blame(model, photos(4, 3, 48, 48), periods=(8,), layers=["main", "short"])
    total = mean(table, "", "as_is", "phase", 8) - mean(table, "", "all_replaced", "phase", 8)
    shares = [mean(table, layer, "shapley", "phase", 8) for layer in ("main", "short")]
    outer = [
        [mean(table, layer, metric, "phase", 8) for metric in ("leave_one_out", "only_one")]
        for layer in ("main", "short")
    ]
    assert sum(shares) == pytest.approx(total)
    assert shares == pytest.approx([sum(pair) / 2 for pair in outer])  # of two players


class Sliced(nn.Module):
    """A strided convolution, every second pixel of it, and a pool with windows of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool = nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveMaxPool2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.one(x)[:, :, ::2, ::2]).mean((2, 3))


def test_runs_are_counted_as_rules_count_them() -> None:
    """What the tracer finds between two calls is no run: the pool's first is its first."""
    model = seeded(Sliced)
    assert kinds(model, (3, 32, 32)) == {"one": "stem", "pool (subsample)": "other", "pool": "pool"}
    with Rules(model, {"pool#1": "average"}) as active:
        model(photos(1, 3, 32, 32))
    assert active.layers == ("pool",)


def test_the_remedy_of_the_bundled_resnet_is_its_stem() -> None:
    """Measured: 5.2 dB at 2 px as it is, -8.9 with the stem held; 1.0 at 4 px, of which the pool wrote 5.3."""
    model = models.classifier()
    info = model.info
    x = torch.stack(
        [
            images.fit(p.open(), info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct)
            for p in images.photographs()
        ]
    )
    table = blame(model, x, periods=(2, 4), by="kind")
    assert mean(table, "", "as_is") == pytest.approx(5.2, abs=0.5)
    assert mean(table, "stem", "shapley") > 10 > 3 > abs(mean(table, "pool", "shapley"))
    assert mean(table, "pool", "shapley", period=4) > mean(table, "stem", "shapley", period=4) > 1
    found = remedy(table)
    assert found is not None
    assert found.players == ("stem",)
    with Rules(model, {"stem": "held"}):
        held = input_gradient(model, x)
    (after,) = found.effect.loc[(found.effect["kind"] == "signed") & (found.effect["period"] == 2), "after"]
    assert after == pytest.approx(lattice_contrast(held, 2).mean().item(), abs=0.5)
    assert after < -5
