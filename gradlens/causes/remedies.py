"""What to replace: the smallest set of layers without whose own backward pass most of the lattice is gone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlens.compare import SIGNIFICANCE

TOTALS = ("as_is", "all_replaced")  # metrics of v(all) and v(none)
JOIN = " + "  # between the players of a set
ENOUGH = 0.8  # of what the best set of any size removes


@dataclass(frozen=True)
class Remedy:
    """The players to replace, and what that does.

    Attributes:
        players: layers or kinds, as they are named in the table.
        removed: the share of the lattice that goes, 1 for all of it; below 0 if more comes than goes.
        effect: a row for each kind and period in dB: `kind`, `period`, `before` and `after` with the interval `low`, `high`
            of the latter, and `found`, whether the gradient as it is carries that lattice.
    """

    players: tuple[str, ...]
    removed: float
    effect: pd.DataFrame


def remedy(table: pd.DataFrame) -> Remedy | None:
    """The smallest of the best sets in a table of `blame` that removes at least 80 % of what the best of them removes.

    How much lattice there is: the sum over kinds and periods where one was found of the contrast above 0 dB, and elsewhere
    of what has come to it.

    Args:
        table: of one model.

    Returns:
        None where no lattice was found, or no replacement makes less of it.

    Source: ours.
    """
    means = table.loc[(table["image"] == "") & table["kind"].isin(("signed", "envelope"))]
    before = _by_cell(means.loc[means["metric"] == TOTALS[0]])
    found = np.array([is_found(row) for row in before.values()])
    sets = {
        name: _by_cell(part) for name, part in means.loc[means["metric"] == "replaced"].groupby("layer", sort=False)
    }
    if not sets or not found.any():
        return None
    values = {name: np.array([rows[cell]["value"] for cell in before]) for name, rows in sets.items()}
    was = np.array([row["value"] for row in before.values()])
    left = {name: burden(was, after, found) for name, after in values.items()}
    whole = burden(was, was, found)
    enough = whole - ENOUGH * (whole - min(left.values()))
    name = min((n for n in left if left[n] <= enough), key=lambda n: n.count(JOIN))
    effect = [
        {"kind": cell[0], "period": cell[1], "before": before[cell]["value"], "after": row["value"]}
        | {"low": row["low"], "high": row["high"], "found": bool(there)}
        for (cell, row), there in zip(((cell, sets[name][cell]) for cell in before), found, strict=True)
    ]
    return Remedy(tuple(name.split(JOIN)), 1 - left[name] / whole, pd.DataFrame(effect))


def burden(before: np.ndarray, after: np.ndarray, found: np.ndarray) -> float:
    """How much lattice there is, in dB over all cells: above 0 where one was `found`, elsewhere above what was `before`."""
    level = np.where(found, 0.0, np.maximum(np.nan_to_num(before), 0.0))
    return float(np.maximum(np.nan_to_num(after) - level, 0.0).sum())


def is_found(row: Mapping[str, Any]) -> bool:
    """Whether the row of a set's contrast is that of a lattice: p at most 0.01, and the interval, if any, above 0."""
    return bool(row["p"] <= SIGNIFICANCE and row["value"] > 0 and not row["low"] <= 0)


def _by_cell(rows: pd.DataFrame) -> dict[tuple[str, int], dict[Any, Any]]:
    return {(row["kind"], int(row["period"])): row for row in rows.to_dict("records")}
