"""Which layer is guilty: what each strided layer and pool contributes to the lattice, and the remedy that this suggests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.causes import Remedy, remedy
from gradlens.report.document import Block, Part, heading, listing, paragraph, picture, plain, strong, table
from gradlens.report.run import KINDS, NBSP, Row, Run, as_row, counted, enumeration, named, number, span

MOST = 10  # layers in the chart
ROWS = ("shapley", "shapley_error", "as_is", "all_replaced", "replaced", "refused")
TRIED = ("as it is", "remedied")


@dataclass(frozen=True)
class Blamed:
    """The rows of `gradlens.causes.blame` for one model, the photographs they are of, and whether its remedy was measured on
    others."""

    model: str
    table: pd.DataFrame
    images: Sequence[str]
    others: bool

    @property
    def layers(self) -> list[str]:
        """The players, from the image on."""
        return list(dict.fromkeys(self._of("shapley")["layer"]))

    @property
    def sampled(self) -> bool:
        """Whether orders of the layers were drawn."""
        return bool((self.table["metric"] == "shapley_error").any())

    @property
    def refused(self) -> dict[str, str]:
        """The layers that took no part, and why."""
        return {str(row["layer"]): str(row["kind"]) for row in self._of("refused").to_dict("records")}

    def contribution(self, layer: str, period: int, kind: str) -> Row:
        return self._row("shapley", layer, period, kind)

    def total(self, metric: str, period: int, kind: str) -> Row:
        """The contrast with every layer as it is (`as_is`), or with every layer replaced (`all_replaced`)."""
        return self._row(metric, "", period, kind)

    def _row(self, metric: str, layer: str, period: int, kind: str) -> Row:
        t = self._of(metric)
        t = t.loc[(t["layer"] == layer) & (t["period"] == period) & (t["kind"] == kind)]
        return as_row(t.iloc[0].to_dict())

    def _of(self, metric: str) -> pd.DataFrame:
        return self.table.loc[self.table["metric"] == metric]

    def tried(self, layer: str) -> list[Row]:
        """The contrasts of the gradient before (`as it is`) or after the remedy (`remedied`), by kind and period."""
        t = self._of("lattice_contrast")
        return [as_row(row) for row in t.loc[t["layer"] == layer].to_dict("records")]

    def periods(self) -> list[int]:
        """The periods at which anything was measured."""
        t = self._of("as_is")
        return sorted({int(p) for p in t.loc[t["value"].notna() & t["kind"].isin(KINDS), "period"]})

    def headline(self) -> tuple[int, str] | None:
        """The period and kind of the strongest lattice that was found."""
        rows = [r for k in KINDS for p in self.periods() if (r := self.total("as_is", p, k)).found]
        best = max(rows, key=lambda row: row.value, default=None)
        return None if best is None else (best.period, best.kind)


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    """The pages of `analyze`, one a model; nothing for an attribution."""
    if run.method != "gradient" or not any("blame" in model for model in run.models):
        return [], {}
    blocks: list[Block] = [
        heading("Which layer is guilty"),
        paragraph(
            "The forward pass stays, bit by bit; backwards one layer after the other hands its gradient on evenly, held over "
            "its stride. What then goes is its contribution. Layers interact, so each has its Shapley value: the mean change "
            "that it makes over all orders in which layers are put back. They sum to the whole.",
            sticky=True,
        ),
    ]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.models):
        said: Mapping[str, Any] = model.get("blame", {})
        if "failed" in said:
            blocks.append(paragraph(strong(f"{model['name']}. "), f"Nobody to blame: {said['failed']}"))
        elif said:
            t = run.results.table
            t = t.loc[(t["model"] == model["name"]) & (t["metric"].isin(ROWS) | (t["subject"] == "remedy"))]
            more, figures_ = _page(Blamed(model["name"], t, said["images"], said["others"]), index)
            blocks += more
            drawn |= figures_
    return blocks, drawn


def _page(blamed: Blamed, index: int) -> tuple[list[Block], dict[str, bytes]]:
    path = f"figures/blame-{index}.svg"
    found = remedy(blamed.table)
    left_out = [f"{layer} {why}" for layer, why in blamed.refused.items()]
    blocks: list[Block] = [
        paragraph(*verdict(blamed)),
        *([paragraph(strong("Left out. "), f"{enumeration(left_out)}.")] if left_out else []),
        picture(
            path,
            alt=f"Contribution of each strided layer of {blamed.model} to the contrast of each period",
            caption=[
                f"{blamed.model}. Shapley value of each layer in dB of contrast, n = {counted(len(blamed.images), 'image')}"
                f"{_drawn(blamed)}; above 0 it adds to the lattice, below 0 it takes from what others write."
            ],
        ),
        *_remedy(blamed, found),
    ]
    return blocks, {path: _figure(blamed)}


def verdict(blamed: Blamed) -> list[Part]:
    """Who wrote the strongest lattice."""
    headline = blamed.headline()
    if headline is None:
        return [strong("Nothing to blame. "), plain(f"No lattice was found in the gradient of {blamed.model}.")]
    period, kind = headline
    whole, rest = (blamed.total(metric, period, kind) for metric in ("as_is", "all_replaced"))
    made = {layer: blamed.contribution(layer, period, kind) for layer in blamed.layers}
    ranked = sorted(made, key=lambda layer: -made[layer].value)
    largest = sorted(made, key=lambda layer: -abs(made[layer].value))[:2]
    said = [
        f"{named(layer)} {'adds' if made[layer].value >= 0 else 'takes'} {number(abs(made[layer].value))} dB"
        f"{_interval(made[layer])}"
        for layer in largest
    ]
    return [
        strong(f"{named(ranked[0])}. ".capitalize() if ranked[0].isdigit() else f"{ranked[0]}. "),
        plain(
            f"The {kind} contrast of {blamed.model} at {period} px is {number(whole.value)} dB as it is and "
            f"{number(rest.value)} dB with every layer held. Between the two {enumeration(said)}."
        ),
    ]


def _interval(row: Row) -> str:
    """The interval of a contribution, in the sign in which it is told."""
    if np.isnan(row.low):
        return ""
    low, high = (row.low, row.high) if row.value >= 0 else (-row.high, -row.low)
    return f" ({number(low)}{NBSP}to{NBSP}{number(high)})"


def _drawn(blamed: Blamed) -> str:
    interval = " with 95 % bootstrap intervals" if len(blamed.images) > 2 else ""
    return interval + (", over orders that were drawn" if blamed.sampled else ", exact")


def _remedy(blamed: Blamed, found: Remedy | None) -> list[Block]:
    """The smallest replacement that does most, and what it does."""
    if found is None:
        return []
    rules = ", ".join(f'"{player}": "held"' for player in found.players)
    before, after = (blamed.tried(layer) for layer in TRIED)
    rows = [
        [row.kind, str(row.period), number(row.value), span(row), number(then.value), span(then)]
        for row, then in zip(before, after, strict=True)
        if row.found or then.found
    ]
    same = "other photographs than it was chosen on" if blamed.others else "the photographs that it was chosen on"
    return [
        paragraph(
            strong("The remedy. "),
            f"Hold {enumeration([named(player) for player in found.players])} backwards, {len(found.players)} of "
            f"{counted(len(blamed.layers), 'layer')}; the scores do not change by a bit. It was measured on {same}, "
            f"n = {before[0].n}:",
            sticky=True,
        ),
        table(
            {
                "contrast": "left",
                "period, px": "right",
                "as it is, dB": "right",
                "interval": "right",
                "remedied, dB": "right",
            }
            | {"its interval": "right"},
            rows,
            caption=["Mean contrast where a lattice was found before or after."],
        ),
        listing(f"with gradlens.rules.Rules(model, {{{rules}}}):\n    gradient = input_gradient(model, images)"),
    ]


@figures.styled
def _figure(blamed: Blamed) -> bytes:
    """A panel a period, on one scale; of many layers those that contribute most."""
    periods = blamed.periods()
    layers = _largest(blamed)
    figure, axes = figures.new_figure(6.7, 0.75 + 0.26 * len(layers), 1, len(periods), sharex=True)
    for number_, (ax, period) in enumerate(zip(axes[0], periods, strict=True)):
        series = {}
        for kind in KINDS:
            rows = [blamed.contribution(layer, period, kind) for layer in layers]
            series[kind] = [(row.value, row.low, row.high) for row in rows]
        figures.draw_blame(ax, [_tail(layer) for layer in layers], series, f"{period} px")
        if number_:
            ax.set_yticklabels([])
    axes[0, 0].set_xlabel("contribution, dB")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=2, loc="outside lower center")
    return figures.svg(figure)


def _largest(blamed: Blamed) -> list[str]:
    """The layers with the largest contributions at any period, from the image on."""

    def size(layer: str) -> float:
        rows = [blamed.contribution(layer, period, kind) for period in blamed.periods() for kind in KINDS]
        return max(abs(row.value) for row in rows if not np.isnan(row.value))

    kept = sorted(blamed.layers, key=size, reverse=True)[:MOST]
    return [layer for layer in blamed.layers if layer in kept]


def _tail(layer: str, room: int = 20) -> str:
    return layer if len(layer) <= room else f"…{layer[-room + 1 :]}"
