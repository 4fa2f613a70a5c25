"""Blame: games of known answer, every coalition against a forward and a backward pass of its own, and what to replace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations, product
from math import factorial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn

from gradlens.causes import antithetic_orders, blame, blaming, remedy, sampled_shapley, shapley
from gradlens.causes.games import coalitions_of
from gradlens.causes.passes import gradients, segments
from gradlens.compare import measure
from gradlens.gradients import top_logit
from gradlens.results import COLUMNS
from gradlens.rules import Rules, kinds
from gradlens.spectra import lattice_statistics

FLOAT64 = 1e-9  # of contrasts of some dB, after sums of thousands of numbers
GRADIENT = 1e-10  # relative to the largest, of sums in another order
CELLS = ("signed", "envelope", "phase")


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Games


def values_of(players: int, worth: Callable[[frozenset[int]], float]) -> np.ndarray:
    coalitions = range(2**players)
    return np.array([worth(frozenset(i for i in range(players) if s >> i & 1)) for s in coalitions])


def by_permutations(values: np.ndarray) -> np.ndarray:
    n = len(values).bit_length() - 1
    total = np.zeros((n, *values.shape[1:]))
    for order in permutations(range(n)):
        for place, player in enumerate(order):
            before = sum(1 << i for i in order[:place])
            total[player] += values[before + (1 << player)] - values[before]
    return total / factorial(n)


def test_shapley_of_games_of_known_answer() -> None:
    worths = [0.5, -2.0, 3.0, 0.0]
    assert np.allclose(shapley(values_of(4, lambda s: sum(worths[i] for i in s))), worths, atol=1e-14)
    glove = values_of(3, lambda s: float(2 in s and len(s) > 1))  # one right glove, two left ones
    assert np.allclose(shapley(glove), [1 / 6, 1 / 6, 4 / 6], atol=1e-14)
    symmetric = values_of(5, lambda s: len(s) ** 3)
    assert np.allclose(shapley(symmetric), 25.0, atol=1e-12)
    dummy = values_of(4, lambda s: len(s - {1}) ** 2 + 7)
    assert np.allclose(shapley(dummy), [3, 0, 3, 3], atol=1e-14)
    assert shapley(np.array([4.0])).shape == (0,)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_shapley_is_the_mean_over_all_orders(players: int) -> None:
    values = np.random.default_rng(players).normal(size=(2**players, 2, 3))
    found = shapley(values)
    assert np.abs(found - by_permutations(values)).max() < 1e-13
    assert np.abs(found.sum(0) - (values[-1] - values[0])).max() < 1e-13


def test_shapley_needs_all_coalitions() -> None:
    for number in (0, 3, 6):
        with pytest.raises(ValueError, match=rf"all 2\^n coalitions, got {number}"):
            shapley(np.zeros(number))


def test_orders_come_in_pairs_and_from_a_seed() -> None:
    orders = antithetic_orders(6, 8, seed=3)
    assert len(orders) == 8
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert all(two == one[::-1] for one, two in zip(orders[::2], orders[1::2], strict=True))
    assert orders == antithetic_orders(6, 8, seed=3) != antithetic_orders(6, 8, seed=4)
    for wrong in (2, 5, 0):
        with pytest.raises(ValueError, match=f"permutations: must be even and at least 4, for pairs, got {wrong}"):
            antithetic_orders(6, wrong)


def test_all_orders_are_exact() -> None:
    values = np.random.default_rng(0).normal(size=(16, 2))
    firsts = [order for order in permutations(range(4)) if order[0] < order[-1]]
    orders = [order for one in firsts for order in (one, one[::-1])]
    found, pairs = sampled_shapley(dict(enumerate(values)), orders)
    assert np.abs(found - shapley(values)).max() < 1e-13
    assert pairs.shape == (12, 4, 2)


def test_drawn_orders_are_unbiased_and_their_error_is_told() -> None:
    values = np.random.default_rng(0).normal(size=32)
    exact, draws = shapley(values), 400
    found, errors = np.zeros((draws, 5)), np.zeros((draws, 5))
    for number in range(draws):
        orders = antithetic_orders(5, 12, seed=number)
        known = {s: values[s] for s in coalitions_of(orders)}  # no other is asked for
        found[number], pairs = sampled_shapley(known, orders)
        errors[number] = pairs.std(0, ddof=1) / len(pairs) ** 0.5
        assert abs(found[number].sum() - (values[-1] - values[0])) < 1e-13
    spread = found.std(0, ddof=1)
    assert (np.abs(found.mean(0) - exact) < 4 * spread / draws**0.5).all()
    assert np.allclose((errors**2).mean(0), spread**2, rtol=0.25)  # a variance of 400 is known to 7 %


# Blame, against Rules built anew for every coalition


def small() -> nn.Sequential:
    """A stem, a pool and a strided convolution, in float64."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 5),
    )  # fmt: skip
    return network.double().eval()


def noise(images: int = 4, side: int = 48) -> Tensor:
    return torch.rand(images, 3, side, side, dtype=torch.float64)


def gradient_of(network: nn.Module, images: Tensor, rules: Mapping[str, Any]) -> Tensor:
    leaf = images.clone().requires_grad_()
    with Rules(network, rules):
        value = top_logit(network(leaf)).sum()
    return torch.autograd.grad(value, leaf)[0]


def slow(
    network: nn.Module, images: Tensor, players: Sequence[Sequence[str]], periods: Sequence[int], rule: Any = "held"
) -> np.ndarray:
    """v `[2^n N 3 P]` of every coalition, each with its own forward and backward pass."""
    values = []
    for coalition in range(2 ** len(players)):
        gone = [name for i, group in enumerate(players) if not coalition >> i & 1 for name in group]
        found = lattice_statistics(gradient_of(network, images, dict.fromkeys(gone, rule)), periods, window=32)
        contrast = [[found.contrast[kind, p].numpy() for p in periods] for kind in ("signed", "envelope")]
        values.append(np.array([*contrast, [found.imbalance[p].numpy() for p in periods]]).transpose(2, 0, 1))
    return np.stack(values)


def cells(table: pd.DataFrame, metric: str, layer: str, images: Sequence[str], periods: Sequence[int]) -> np.ndarray:
    """The values `[N 3 P]` of one metric of one player."""
    rows = table[(table["metric"] == metric) & (table["layer"] == layer)]
    found = rows.set_index(["image", "kind", "period"])["value"]
    assert found.index.is_unique
    return np.array([[[found[image, kind, period] for period in periods] for kind in CELLS] for image in images])


def check(table: pd.DataFrame, values: np.ndarray, players: Sequence[str], periods: Sequence[int]) -> None:
    """That a table is what the coalitions' `values` `[2^n N 3 P]` make of it."""
    everyone = len(values) - 1
    images = [str(i + 1) for i in range(values.shape[1])]
    expected = {("as_is", ""): values[everyone], ("all_replaced", ""): values[0]}
    for i, (player, share) in enumerate(zip(players, by_permutations(values), strict=True)):
        expected["shapley", player] = share
        expected["leave_one_out", player] = values[everyone] - values[everyone - 2**i]
        expected["only_one", player] = values[2**i] - values[0]
    for (metric, layer), value in expected.items():
        found = cells(table, metric, layer, images, periods)
        assert np.abs(found - value).max() < FLOAT64, (metric, layer)
        assert np.abs(cells(table, metric, layer, [""], periods)[0] - value.mean(0)).max() < FLOAT64
    assert set(table.loc[table["metric"] != "replaced", "layer"]) == {"", *players}
    assert set(table.loc[table["metric"] == "replaced", "image"]) <= {""}


PERIODS = (2, 4, 8)  # that the small network can write


@pytest.fixture(scope="module")
def worked() -> tuple[nn.Sequential, Tensor, pd.DataFrame, np.ndarray]:
    """The small network, images, their table, and the values of all coalitions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = small(), noise()
    values = slow(network, images, [["0"], ["2"], ["3"]], PERIODS)
    return network, images, blame(network, images, batch_size=3), values


Worked = tuple[nn.Sequential, Tensor, pd.DataFrame, np.ndarray]


def test_blame_is_that_of_passes_of_their_own(worked: Worked) -> None:
    _, _, table, values = worked
    check(table, values, ["0", "2", "3"], PERIODS)
    assert list(table.columns) == list(COLUMNS)
    assert set(table["unit"]) == {"dB", "1"}
    assert (table["subject"] == "input-gradient").all()


def test_batches_and_names_change_no_value(worked: Worked) -> None:
    network, images, table, _ = worked
    one = blame(network, images, batch_size=1, names="abcd")
    assert np.abs(one["value"] - table["value"]).max() < FLOAT64
    assert list(one["image"]) == ["abcd"[int(name) - 1] if name else "" for name in table["image"]]


def test_shapley_values_sum_to_what_replacing_all_does(worked: Worked) -> None:
    table = worked[2]
    assert tuple(sorted(table["period"].unique())) == PERIODS
    every = ["", "1", "2", "3", "4"]
    total = sum(cells(table, "shapley", layer, every, PERIODS) for layer in ("0", "2", "3"))
    change = cells(table, "as_is", "", every, PERIODS) - cells(table, "all_replaced", "", every, PERIODS)
    assert np.abs(total - change).max() < FLOAT64
    assert np.abs(change).max() > 0.1  # dB; the test can fail


def test_totals_have_the_p_of_the_set(worked: Worked) -> None:
    network, images, table, _ = worked
    for metric, rules in (("as_is", {}), ("all_replaced", {"0": "held", "2": "held", "3": "held"})):
        statistics = lattice_statistics(gradient_of(network, images, rules), PERIODS, window=32)
        tests = measure(statistics, model="", subject="").dropna(subset="p").set_index(["kind", "period"])["p"]
        rows = table[(table["metric"] == metric) & (table["image"] == "")].set_index(["kind", "period"])["p"]
        assert len(tests) == len(rows) == 9
        assert np.abs(rows[tests.index] - tests).max() < FLOAT64


def test_replacements_are_those_that_are_asked_for() -> None:
    network, images = small(), noise(2)
    table = blame(network, images, periods=[2], layers=["2"], pool="average")
    check(table, slow(network, images, [["2"]], [2], "average"), ["2"], [2])
    table = blame(network, images, periods=[2], layers=["3", "0"], strided="blurred")
    check(table, slow(network, images, [["0"], ["3"]], [2], "blurred"), ["0", "3"], [2])


class Again(nn.Module):
    """A strided convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.head = nn.Conv2d(3, 3, 3, 2, padding=1), nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.down(self.down(x).relu()).flatten(1))


def test_two_runs_of_one_layer_are_two_players() -> None:
    network, images = Again().double(), noise(2, 32)
    table = blame(network, images, periods=[2, 4])
    check(table, slow(network, images, [["down#1"], ["down#2"]], [2, 4]), ["down", "down#2"], [2, 4])


@pytest.fixture(scope="module")
def residual() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_resnet").double().eval()


def test_kinds_play_as_one(residual: nn.Module) -> None:
    images, groups = noise(2, 64), {}
    for name, kind in kinds(residual, (3, 64, 64)).items():
        groups.setdefault(kind.split(" 3x3")[0], []).append(name)
    assert list(groups) == ["stem", "pool", "strided", "average pool"]
    table = blame(residual, images, periods=[2, 4], by="kind")
    check(table, slow(residual, images, list(groups.values()), [2, 4]), list(groups), [2, 4])


class Wide(nn.Module):
    """Nine strided convolutions beside each other: more players than are worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Conv2d(3, 2, 3, 2, padding=1) for _ in range(9))
        self.head = nn.Linear(2 * 256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(way(x).relu() for way in self.ways).flatten(1))


def test_orders_are_drawn_where_players_are_many() -> None:
    network, images = Wide().double(), noise(2, 32)
    table = blame(network, images, periods=[2], permutations=4, names=["1", "2"])
    players, every = [f"ways.{i}" for i in range(9)], ["", "1", "2"]
    total = sum(cells(table, "shapley", layer, every, [2]) for layer in players)
    change = cells(table, "as_is", "", every, [2]) - cells(table, "all_replaced", "", every, [2])
    assert np.abs(total - change).max() < FLOAT64
    errors = table[table["metric"] == "shapley_error"]
    assert list(errors["layer"]) == [layer for layer in players for _ in CELLS]
    assert (errors["value"] >= 0).all()
    assert (errors["n"] == 4).all()
    assert (errors["image"] == "").all()
    again = blame(network, images, periods=[2], permutations=4, names=["1", "2"])
    pd.testing.assert_frame_equal(again, table)


def test_drawn_orders_agree_with_all_of_them_within_their_error(
    worked: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, exact, values = worked
    monkeypatch.setattr(blaming, "EXACT", 2)
    drawn = blame(network, images, permutations=64, seed=1)
    _, pairs = sampled_shapley(dict(enumerate(values)), antithetic_orders(3, 64, seed=1))
    expected = pairs.mean(2).std(0, ddof=1) / 32**0.5  # of the mean over images; 32 pairs
    for i, layer in enumerate(("0", "2", "3")):
        ours, theirs = (cells(table, "shapley", layer, [""], PERIODS)[0] for table in (drawn, exact))
        error = cells(drawn, "shapley_error", layer, [""], PERIODS)[0]
        assert (np.abs(ours - theirs) <= 4 * error + FLOAT64).all()
        assert np.abs(error - expected[i]).max() < FLOAT64
        for metric in ("leave_one_out", "only_one"):
            ours, theirs = (cells(table, metric, layer, [""], PERIODS) for table in (drawn, exact))
            assert np.abs(ours - theirs).max() < FLOAT64


# What cannot be


class Sliced(nn.Module):
    """A stride that can be replaced, one that is a slice before `mix`, and a pool of several sizes of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 4, 3, 2, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.uneven, self.head = nn.AdaptiveAvgPool2d(5), nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.uneven(self.mix(self.stem(x)[:, :, ::2, ::2]).relu()).flatten(1))


def test_layers_that_cannot_be_replaced_right_are_named() -> None:
    network, images = Sliced().double(), noise(2, 32)
    table = blame(network, images, periods=[2])
    refused = table[table["metric"] == "refused"].set_index("layer")["kind"]
    assert refused["mix (subsample)"] == "strides in a way that no rule is for"
    assert refused["uneven"].startswith("has windows of several sizes")
    assert len(refused) == 2
    check(table[table["metric"] != "refused"], slow(network, images, [["stem"]], [2]), ["stem"], [2])
    with pytest.raises(
        ValueError, match=r"model: no replacement is right for its strided layers: .*uneven has windows"
    ):
        blame(network, images, periods=[2], layers=["uneven"])


def test_wrong_arguments_are_named() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(4 * 44 * 44, 2))
    with pytest.raises(ValueError, match="no strided layer and no max-pool that could write a period"):
        blame(flat.double(), noise(1))
    network, images = small(), noise(2)
    for options, said in [
        ({"layers": ["1"]}, "layers: '1' is no strided layer or max-pool; near names: 0, 2, 3"),
        ({"by": "image"}, "by: must be 'layer' or 'kind', got 'image'"),
        ({"names": ["one"]}, "names: 1 for 2 images"),
        ({"pool": "hold"}, "there is no rule 'hold'"),
        ({"score": lambda output: output.detach().sum(1)}, "score: does not depend on the images"),
    ]:
        with pytest.raises(ValueError, match=said):
            blame(network, images, **options)


@pytest.mark.parametrize("raises", [False, True])
def test_the_network_is_left_as_it_was_found(raises: bool) -> None:
    network, images = small().train(), noise(2)
    network[4].eval()
    network[0].weight.requires_grad_(False)

    def score(output: Tensor) -> Tensor:
        if raises:
            raise OSError("of the score")
        return top_logit(output)

    def state() -> list[Any]:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return [
            [(m.training, *(len(getattr(m, name)) for name in hooks)) for m in network.modules()],
            [(p.requires_grad, p.grad, p.data.tolist()) for p in network.parameters()],
            (images.requires_grad, images.grad, images.tolist()),
            torch.get_rng_state().tolist(),
            torch._C._len_torch_function_stack(),
        ]

    before = state()
    if raises:
        with pytest.raises(OSError, match="of the score"):
            blame(network, images, periods=[2], score=score)
    else:
        with torch.inference_mode():  # gradients all the same
            blame(network, images, periods=[2], score=score)
    assert state() == before


# What to replace


def total(metric: str, layer: str = "", **values: tuple[float, float, float]) -> list[dict]:
    """Rows of a set: p, value, low of each kind, at period 2."""
    rows = []
    for kind, (p, value, low) in values.items():
        row = {"metric": metric, "layer": layer, "image": "", "period": 2, "kind": kind, "p": p, "value": value}
        rows.append(row | {"low": low, "high": value + 1})
    return rows


def table_of(replaced: Mapping[str, tuple[float, float]], *, low: float = 8.0, p: float = 0.001) -> pd.DataFrame:
    """A gradient with a signed lattice of 10 dB and no other, and what is left of both by set."""
    rows = total("as_is", signed=(p, 10.0, low), envelope=(0.5, -1.0, -2.0), phase=(0.001, 3.0, 2.0))
    rows += total("all_replaced", signed=(0.5, 0.0, -1.0), envelope=(0.5, 0.0, -1.0))
    for name, (signed, envelope) in replaced.items():
        rows += total("replaced", name, signed=(float("nan"), signed, 0), envelope=(float("nan"), envelope, 0))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("replaced", "players", "removed"),
    [
        ({"a": (3, 0), "a + b": (1, 0), "a + b + c": (0, 0)}, ("a", "b"), 0.9),
        ({"a": (2, 0), "a + b": (1, 0), "a + b + c": (0, 0)}, ("a",), 0.8),  # enough to the last digit
        ({"a": (5, 0), "b + c": (4.1, 0)}, ("a",), 0.5),  # of what can be removed
        ({"a": (-3, -4), "a + b": (-9, -9)}, ("a",), 1.0),  # below 0 dB is no better than at it
        ({"a": (0, 5), "a + b": (1, 0)}, ("a", "b"), 0.9),  # a new lattice counts
        ({"a + b + c": (2, 1)}, ("a", "b", "c"), 0.7),
    ],
)
def test_a_remedy_is_the_smallest_set_that_is_enough(
    replaced: Mapping[str, tuple[float, float]], players: tuple[str, ...], removed: float
) -> None:
    found = remedy(table_of(replaced))
    assert found is not None
    assert found.players == players
    assert found.removed == pytest.approx(removed, abs=1e-12)
    signed, envelope = found.effect.to_dict("records")
    after = replaced[" + ".join(players)]
    assert signed == {
        "kind": "signed", "period": 2, "before": 10.0, "after": after[0], "low": 0, "high": after[0] + 1, "found": True
    }  # fmt: skip
    assert (envelope["before"], envelope["after"], envelope["found"]) == (-1.0, after[1], False)


def test_without_a_lattice_there_is_no_remedy() -> None:
    assert remedy(table_of({})) is None
    assert remedy(table_of({"a": (0, 0)}, p=0.5)) is None
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * 256, 2)).double()  # hands all on evenly
    table = blame(network, noise(4, 32), periods=[2], strided=lambda met: lambda gradient: gradient)
    assert "replaced" not in set(table["metric"])  # nothing gets better
    assert remedy(table) is None


def test_a_row_is_found_by_its_p_and_its_interval() -> None:
    left = {"a": (1.0, 0.0)}
    for options, there in [({}, True), ({"low": -0.1}, False), ({"p": 0.02}, False), ({"low": float("nan")}, True)]:
        assert (remedy(table_of(left, **options)) is not None) == there, options


def test_the_remedy_of_a_stem_with_holes_is_to_hold_it() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 1, 2), nn.ReLU(), nn.Conv2d(6, 6, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 121, 4)
    ).double()  # fmt: skip
    images = noise(4, 48)
    table = blame(network, images, periods=[2])
    found = remedy(table)
    assert found is not None
    assert found.players == ("0",)
    assert found.removed > 0.8
    means = found.effect.to_dict("records")
    values = slow(network, images, [["0"], ["2"]], [2])
    for k, row in enumerate(means):
        assert row["before"] == pytest.approx(values[3, :, k, 0].mean(), abs=FLOAT64)
        assert row["after"] == pytest.approx(values[2, :, k, 0].mean(), abs=FLOAT64)  # of the second alone
    sizes = [layer.count(" + ") for layer in table.loc[table["metric"] == "replaced", "layer"].unique()]
    assert sizes == sorted(set(sizes))


# Passes that share what they have in common


def walked(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Rules]:
    leaf = images.clone().requires_grad_()
    selectors = [name if "#" in name else f"{name}#1" for name in kinds(network, tuple(images.shape[1:]))]
    with Rules(network, dict.fromkeys(selectors, "held")) as active:
        score = top_logit(network(leaf.clone())).sum()
    return score, leaf, active


def test_the_graph_of_a_chain_is_cut_at_every_switch() -> None:
    score, leaf, _ = walked(small(), noise(1))
    parts = segments(score, leaf)
    assert [part.layers for part in parts if part.layers] == [{"3"}, {"2"}, {"0"}]
    assert parts[0].start.node is score.grad_fn
    assert all(one.end == two.start for one, two in pairwise(parts))
    assert parts[-1].end.node is torch.autograd.graph.get_gradient_edge(leaf).node


def test_the_graph_of_a_residual_network_is_cut_between_blocks(residual: nn.Module) -> None:
    score, leaf, active = walked(residual, noise(1, 64))
    found = [part.layers for part in segments(score, leaf) if part.layers]
    names = list(active.layers)
    blocks = [{name for name in names if name.startswith(f"layer{n}.0.")} for n in (4, 3, 2)]
    assert found == [*blocks, {"maxpool"}, {"conv1.0"}]
    assert sum(map(len, found)) == len(names) == 8


def test_shared_passes_give_the_gradients_of_passes_of_their_own(residual: nn.Module) -> None:
    images = noise(1, 64)
    score, leaf, active = walked(residual, images)
    names = active.layers
    bits = np.random.default_rng(0).integers(0, 2, (12, len(names)))
    wanted = [frozenset(name for name, on in zip(names, row, strict=True) if on) for row in bits]
    wanted += [frozenset(), frozenset(names)]
    found = {layers: gradient for same, gradient in gradients(score, leaf, active, wanted) for layers in same}
    assert set(found) == set(wanted)
    for layers, gradient in found.items():
        expected = gradient_of(residual, images, {f"{name}#1": "held" for name in layers})
        assert (gradient - expected).abs().max() < GRADIENT * expected.abs().max()
    assert leaf.grad is None
    (after,) = torch.autograd.grad(score, leaf, retain_graph=True)  # all are on again
    assert (after - found[frozenset(names)]).abs().max() < GRADIENT * after.abs().max()


class Parted(nn.Module):
    """Ways that part before a switch and meet behind it, one around everything, and a map that is split and put together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.down = (nn.Conv2d(c, 4, 3, 2, padding=1) for c in (3, 3, 8))
        self.head = nn.Linear(4 * 8 * 8 + 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.cat([self.one(x), self.other(x)], 1).chunk(2, 1)
        y = self.down(torch.cat([a.relu(), b * a], 1))
        return self.head(torch.cat([y.flatten(1), x.mean((2, 3))], 1))


def test_ways_around_a_switch_are_not_lost() -> None:
    network, images = Parted().double(), noise(2, 32)
    score, leaf, active = walked(network, images)
    assert sorted(active.layers) == ["down", "one", "other"]
    wanted = [frozenset(n for n, on in zip(active.layers, row, strict=True) if on) for row in product((0, 1), repeat=3)]
    for same, gradient in gradients(score, leaf, active, wanted):
        for layers in same:
            expected = gradient_of(network, images, {f"{name}#1": "held" for name in layers})
            assert (gradient - expected).abs().max() < GRADIENT * expected.abs().max()


def test_sets_that_come_to_the_same_come_together_and_an_end_ahead_of_time_leaves_all_on() -> None:
    network, images = small(), noise(1)
    score, leaf, active = walked(network, images)
    wanted = [frozenset({"0"}), frozenset({"0", "gone"}), frozenset()]
    found = [set(same) for same, _ in gradients(score, leaf, active, wanted)]
    assert found == [set(wanted[:2]), {frozenset()}]
    early = gradients(score, leaf, active, [frozenset(), frozenset({"3"})])
    next(early)
    early.close()
    (after,) = torch.autograd.grad(score, leaf)
    expected = gradient_of(network, images, dict.fromkeys(("0", "2", "3"), "held"))
    assert (after - expected).abs().max() < GRADIENT * expected.abs().max()
