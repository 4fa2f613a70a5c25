"""Who wrote the lattice of an input gradient: the table of what each layer, or kind of layer, contributes."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradlens.causes.games import antithetic_orders, coalitions_of, sampled_shapley, shapley
from gradlens.causes.passes import Layers, gradients
from gradlens.causes.remedies import JOIN, TOTALS, burden, is_found
from gradlens.compare import interval, measure
from gradlens.gradients import Score, network_periods, top_logit
from gradlens.models import Model
from gradlens.modules import undisturbed
from gradlens.probes import stages
from gradlens.results import COLUMNS
from gradlens.rules import OTHER, UNSTRIDED_POOL, Linear, Met, RefusalError, Rule, Rules, kinds
from gradlens.spectra import LatticeStream, lattice_statistics

METRICS = ("shapley", "leave_one_out", "only_one")
EXACT = 8  # players whose 2^n coalitions are all worked out
AT_ONCE = 64  # gradients that are measured together
UNITS = {"signed": "dB", "envelope": "dB", "phase": "1"}

Choice = str | Rule | Callable[[Met], Linear]


def blame(
    model: nn.Module,
    images: Tensor,
    *,
    periods: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    strided: Choice = "held",
    pool: Choice = "held",
    by: Literal["layer", "kind"] = "layer",
    score: Score = top_logit,
    permutations: int = 64,
    seed: int = 0,
    window: int = 32,
    names: Sequence[str] = (),
    batch_size: int = 16,
) -> pd.DataFrame:
    """What each strided layer and max-pool contributes to the lattice of the input gradient, at each period.

    Three values are asked for: the lattice contrast of the gradient, `signed` and `envelope`, in dB, and its phase
    imbalance (`phase`). The forward pass runs once a batch; the backward passes share what they have in common. Replaced
    means held unless said otherwise: then a layer hands on nothing of the harmonics of its own stride, and what is left at a
    period is what others wrote. Where nearly nothing fine is left, the envelope's contrast stands on little; `phase` says
    how uneven it still is. A max-pool of stride 1 writes no period and takes no part.

    By kind, the players are whole kinds, not sums over layers: that is the act of somebody who replaces all shortcuts, it
    counts the interaction of two shortcuts as theirs alone, and 2^kinds coalitions are few. The sum of the layers'
    Shapley values over a kind is another number, and at hand from the table by layer.

    Args:
        model: any module that takes `images`; it is left as it was found.
        images: `[N C *spatial]`, as the model takes them, on its device.
        periods: in pixels; those that the network's strides can write unless given.
        layers: the players, of those that `gradlens.rules.kinds` names; all unless given. The others stay as they are.
        strided: the replacement of convolutions and average pools with a stride, as in `gradlens.rules.Rules`.
        pool: that of max-pools; `"average"` is average-pooling's, which writes a lattice where its windows overlap unevenly.
        by: `"layer"`, or `"kind"` as of `gradlens.rules.kinds`, all sizes of `strided` together.
        score: from what the model returns to `[N]`; the largest logit unless given.
        permutations: how many orders of the players are drawn where there are more than 8, in antithetic pairs.
        seed: of those.
        window: as `gradlens.spectra.lattice_test`.
        names: of the N images.
        batch_size: images that the network sees at once.

    Returns:
        Columns `gradlens.results.COLUMNS`; `layer` is the player. Rows of `shapley`, `leave_one_out` and `only_one` for each
        image, and without an image the mean with its interval; `as_is` and `all_replaced` without a layer are v(all) and
        v(none), the set's with the p of its test. Where orders were drawn, `shapley_error` is the standard error that the
        drawing gives the mean. Where the gradient carries a lattice, `replaced` rows tell what is left when the best set of
        one, two, ... players is replaced, named `a + b`; `remedy` reads them. `refused` rows name layers that took no part
        because their replacement would not be right.

    Raises:
        ValueError: the network has no strided layer or max-pool, or there is no such layer; or as `Rules` and
            `input_gradient`.

    Source: ours; Odena et al. 2016 conjecture what it measures.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> table = blame(network, torch.rand(3, 3, 32, 32), periods=[2])
        >>> sorted(set(table["metric"]) - {"replaced"})
        ['all_replaced', 'as_is', 'leave_one_out', 'only_one', 'shapley']
    """
    if by not in ("layer", "kind"):
        raise ValueError(f"by: must be 'layer' or 'kind', got {by!r}")
    if names and len(names) != len(images):
        raise ValueError(f"names: {len(names)} for {len(images)} images")
    labels = list(names) or [str(n + 1) for n in range(len(images))]
    size = tuple(images.shape[1:])
    known = kinds(model, size)
    chosen = _chosen(known, layers)
    periods = network_periods(stages(model, size), size[1:]) if periods is None else tuple(periods)
    asked = {name if "#" in name else f"{name}#1": pool if known[name] == "pool" else strided for name in chosen}
    with torch.inference_mode(False), torch.enable_grad(), undisturbed(model):
        refused = {name: "strides in a way that no rule is for" for name in known if known[name] == OTHER}
        refused |= _refusals(model, images[:1], asked)
        players = _players([name for name in chosen if name not in refused], known, by)
        if not players:
            raise ValueError(f"model: no replacement is right for its strided layers: {_listed(refused)}")
        asked = {selector: rule for selector, rule in asked.items() if selector.removesuffix("#1") not in refused}
        game = _Game(model, images, asked, list(players.values()), score, periods, window, batch_size)
        orders = [] if len(players) <= EXACT else antithetic_orders(len(players), permutations, seed=seed)
        alone = [1 << i for i in range(len(players))]
        grown = coalitions_of(orders) if orders else range(1 << len(players))
        game.play([*grown, *alone, *(game.everyone ^ one for one in alone)])
        rows = [*_totals(game, labels), *_contributions(game, list(players), orders, labels)]
        rows += _replacements(game, list(players))
    rows += [{"layer": name, "metric": "refused", "kind": why, "n": 0} for name, why in refused.items()]
    name = model.info.name if isinstance(model, Model) else type(model).__name__
    table = pd.DataFrame(rows).assign(model=name, subject="input-gradient")
    return table.reindex(columns=list(COLUMNS)).fillna({"image": "", "layer": "", "unit": ""})


def _chosen(known: Mapping[str, str], layers: Sequence[str] | None) -> list[str]:
    """The layers that can be replaced, of those asked for."""
    able = [name for name, kind in known.items() if kind not in (OTHER, UNSTRIDED_POOL)]
    if layers is None:
        if not able:
            raise ValueError(
                "model: it has no strided layer and no max-pool that could write a period; nothing to blame"
            )
        return able
    for name in layers:
        if name not in able:
            near = difflib.get_close_matches(name, able, n=3, cutoff=0.3) or able
            raise ValueError(f"layers: {name!r} is no strided layer or max-pool; near names: {', '.join(near)}")
    return [name for name in able if name in layers]


def _refusals(model: nn.Module, image: Tensor, asked: Mapping[str, Choice]) -> dict[str, str]:
    """The layers whose replacement would not be right, and why."""
    refused: dict[str, str] = {}
    left = dict(asked)
    while left:
        try:
            with torch.no_grad(), Rules(model, left):
                model(image.clone())
        except RefusalError as refusal:
            refused[refusal.layer] = refusal.why
            del left[refusal.layer if "#" in refusal.layer else f"{refusal.layer}#1"]
        else:
            break
    return refused


def _listed(refused: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {why}" for name, why in refused.items())


def _players(layers: Iterable[str], known: Mapping[str, str], by: str) -> dict[str, Layers]:
    """The layers of each player."""
    players: dict[str, set[str]] = {}
    for name in layers:
        kind = "strided" if known[name].startswith("strided ") else known[name]
        players.setdefault(name if by == "layer" else kind, set()).add(name)
    return {name: frozenset(group) for name, group in players.items()}


class _Game:
    """The lattice of the gradients of some images by coalition: who of the players runs backwards as it is.

    `values` holds `[N 3 P]` by coalition: contrasts, signed and of the envelope, and the imbalance; `totals` the statistics
    where nobody and where everybody is replaced, by coalition.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        rules: Mapping[str, Choice],
        players: Sequence[Layers],
        score: Score,
        periods: Sequence[int],
        window: int,
        batch_size: int,
    ) -> None:
        self.model, self.images, self.rules, self.players, self.score = model, images, rules, players, score
        self.periods, self.window, self.batch_size = tuple(periods), window, batch_size
        self.everyone = (1 << len(players)) - 1
        self.totals = {total: LatticeStream(self.periods, window=window) for total in (self.everyone, 0)}
        self.values: dict[int, np.ndarray] = {}

    def replaced(self, coalition: int) -> Layers:
        """The layers of those who are not in it."""
        return frozenset().union(*(group for i, group in enumerate(self.players) if not coalition >> i & 1))

    def play(self, coalitions: Iterable[int]) -> None:
        """Find the values of those coalitions that are not known."""
        new = [c for c in dict.fromkeys(coalitions) if c not in self.values]
        sets: dict[Layers, list[int]] = {}
        for coalition in new:
            sets.setdefault(self.replaced(coalition), []).append(coalition)
        found: dict[int, list[np.ndarray]] = {coalition: [] for coalition in new}
        for batch in self.images.split(self.batch_size):
            for layers, values in self._measured(batch, list(sets)):
                for coalition in sets[layers]:
                    found[coalition].append(values)
        self.values |= {coalition: np.concatenate(parts) for coalition, parts in found.items()}

    def _measured(self, batch: Tensor, sets: Sequence[Layers]) -> Iterator[tuple[Layers, np.ndarray]]:
        """The values `[n 3 P]` of a batch for each set of layers that is replaced."""
        image = batch.detach().clone().requires_grad_()
        with Rules(self.model, self.rules) as active:
            value = self.score(self.model(image.clone())).sum()
        if not value.requires_grad:
            raise ValueError("score: does not depend on the images; no gradient reaches them")
        waiting: list[tuple[list[Layers], Tensor]] = []
        for same, gradient in gradients(value, image, active, sets):
            for total, stream in self.totals.items():
                if self.replaced(total) in same:
                    stream.update(gradient)
            waiting.append((same, gradient))
            if len(waiting) * len(batch) >= AT_ONCE:
                yield from self._values(waiting)
                waiting = []
        yield from self._values(waiting)

    def _values(self, waiting: Sequence[tuple[list[Layers], Tensor]]) -> Iterator[tuple[Layers, np.ndarray]]:
        if not waiting:
            return
        found = lattice_statistics(torch.cat([gradient for _, gradient in waiting]), self.periods, window=self.window)
        columns = [[found.contrast[kind, p] for p in self.periods] for kind in ("signed", "envelope")]
        columns.append([found.imbalance[p] for p in self.periods])
        values = torch.stack([torch.stack(column, 1) for column in columns], 1).numpy()
        for (same, _), part in zip(waiting, np.split(values, len(waiting)), strict=True):
            yield from ((layers, part) for layers in same)


def _totals(game: _Game, labels: Sequence[str]) -> Iterator[dict]:
    """v(all) and v(none), with the p of the set."""
    for metric, (coalition, stream) in zip(TOTALS, game.totals.items(), strict=True):
        tests = measure(stream.compute(), model="", subject="").dropna(subset="p")
        p = {(row["kind"], row["period"]): row["p"] for row in tests.to_dict("records")}
        for row in _rows(game, "", metric, game.values[coalition], labels):
            own = p.get((row["kind"], row["period"]), float("nan"))
            yield row if row["image"] else row | {"p": own}


def _contributions(
    game: _Game, players: Sequence[str], orders: Sequence[Sequence[int]], labels: Sequence[str]
) -> Iterator[dict]:
    v, everyone = game.values, game.everyone
    if orders:
        shares, pairs = sampled_shapley(v, orders)
        error = np.nanmean(pairs, 2).std(0, ddof=1) / len(pairs) ** 0.5  # [n 3 P]
    else:
        shares, error = shapley(np.stack([v[coalition] for coalition in range(everyone + 1)])), None
    for i, player in enumerate(players):
        yield from _rows(game, player, "shapley", shares[i], labels)
        if error is not None:
            for row in _rows(game, player, "shapley_error", error[i][None], ()):
                yield row | {"n": len(orders)}
        yield from _rows(game, player, "leave_one_out", v[everyone] - v[everyone ^ 1 << i], labels)
        yield from _rows(game, player, "only_one", v[1 << i] - v[0], labels)


def _replacements(game: _Game, players: Sequence[str]) -> Iterator[dict]:
    """What is left when the best set of one, two, ... players is replaced, as long as a larger one is better."""
    found = _found(game)
    if not found.any():
        return
    before = _means(game.values[game.everyone])

    def left(coalition: int) -> float:
        return burden(before, _means(game.values[coalition]), found)

    coalition, least = game.everyone, left(game.everyone)
    for size in range(1, len(players) + 1):
        if len(players) <= EXACT:
            among = [c for c in game.values if c.bit_count() == len(players) - size]
        else:
            among = [coalition ^ 1 << i for i in range(len(players)) if coalition >> i & 1]
            game.play(among)
        coalition = min(among, key=left)
        if left(coalition) >= least:
            return
        least = left(coalition)
        name = JOIN.join(player for i, player in enumerate(players) if not coalition >> i & 1)
        yield from _rows(game, name, "replaced", game.values[coalition], ())


def _found(game: _Game) -> np.ndarray:
    """Whether the gradient as it is carries a lattice: `[2 P]`, signed and envelope."""
    rows = {(row["kind"], row["period"]): row for row in _totals(game, ()) if row["metric"] == TOTALS[0]}
    return np.array([[is_found(rows[kind, p]) for p in game.periods] for kind in ("signed", "envelope")])


def _means(values: np.ndarray) -> np.ndarray:
    """The mean contrasts over images `[2 P]`; 0 where none is measured."""
    measured = ~np.isnan(values[:, :2])
    return np.where(measured, values[:, :2], 0).sum(0) / measured.sum(0).clip(1)


def _rows(game: _Game, player: str, metric: str, values: np.ndarray, labels: Sequence[str]) -> Iterator[dict]:
    """The rows of values `[N 3 P]`: the mean with its interval, and each image's where they have labels."""
    for k, (kind, unit) in enumerate(UNITS.items()):
        for number, period in enumerate(game.periods):
            own = values[:, k, number]
            row = {"layer": player, "image": "", "period": period, "kind": kind, "metric": metric, "unit": unit}
            low, high = interval(own)
            measured = own[~np.isnan(own)]
            mean = float(measured.mean()) if len(measured) else float("nan")
            yield row | {"value": mean, "low": low, "high": high, "n": len(measured)}
            if labels and len(labels) == len(own):
                for label, value in zip(labels, own, strict=True):
                    yield row | {"image": label, "value": float(value), "n": 1}
