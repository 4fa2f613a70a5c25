"""Which of several trained generators to go on with: by their lattice and by how good their samples are, from table rows.

Each is a point: the lattice that its samples have and the real images have not, in dB, and the distance to the real images. The
front is what no other beats in both; of the front the least lattice is chosen, and of equals the least distance. The network as
it is, trained as briefly, takes part: where it is chosen, training alone did it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradlens.compare import SIGNIFICANCE
from gradlens.redesign.grid import front
from gradlens.redesign.proposals import BEFORE

REAL = "data"  # the real images, in the column `model`
RULE = (
    "Of each network that was trained as briefly, two numbers: the lattice that its samples have and the real images have not "
    "(the largest difference of contrasts over periods and kinds, counted where the lattice is found and the interval of the "
    "samples lies above that of the real images; else 0 dB), and {metric} to the real images. The front is what no other beats "
    "in both. Of the front the least lattice is chosen, of equals the least {metric}. The network as it is takes part: where "
    "it is chosen, training alone did it."
)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and among what.

    `points` `[K 2]` holds lattice excess in dB and distance; `front` `[K]` says which of them no other beats; `metric` names
    the distance, "" where there is none; `why` is in words.
    """

    labels: tuple[str, ...]
    points: np.ndarray
    front: np.ndarray
    metric: str
    chosen: str
    why: str


def choose(table: pd.DataFrame, labels: Sequence[str], *, control: str = BEFORE) -> Choice:
    """The label to go on with, by the rule above.

    Args:
        table: columns `gradlens.results.COLUMNS`: rows of subject "sample" by label in `model`, and those of the real images,
            subject "image" and model "data".
        labels: what takes part.
        control: the label of the network as it is.
    """
    metric = distance_name(table, labels)
    points = np.array([[excess(table, label), distance(table, label, metric)] for label in labels])
    best = front(points)
    order = sorted(np.flatnonzero(best).tolist(), key=lambda at: tuple(points[at]))
    chosen = labels[order[0]]
    lattice, away = points[order[0]]
    beside = (
        f"{lattice:.1f} dB of lattice beyond the real images" if lattice else "no lattice that the real images have not"
    )
    measured = f" and {metric} {away:.4g}" if metric else ""
    why = f"on the front ({len(order)} of {len(labels)}), {beside}{measured}"
    if chosen == control:
        why += "; training alone did it, no design is needed"
    return Choice(tuple(labels), points, best, metric, chosen, why)


def excess(table: pd.DataFrame, label: str) -> float:
    """The lattice of the samples beyond that of the real images, in dB: the largest over periods and kinds, 0 where none is.

    Range: [0, inf).
    """
    t = table.loc[(table["metric"] == "lattice_contrast") & (table["image"] == "")]
    ours = t.loc[(t["model"] == label) & (t["subject"] == "sample")]
    real = t.loc[(t["model"] == REAL) & (t["subject"] == "image")]
    both = ours.merge(real, on=["period", "kind"], suffixes=("", "_real"))
    found = (both["p"] <= SIGNIFICANCE) & (both["value"] > 0) & ~(both["low"] <= 0)
    beyond = found & ~(both["low"] <= both["high_real"])
    return max(0.0, float((both["value"] - both["value_real"]).loc[beyond].max())) if beyond.any() else 0.0


def distance_name(table: pd.DataFrame, labels: Sequence[str]) -> str:
    """The distance that all of `labels` have: FD or, of few images, KID; "" if there is none."""
    t = table.loc[(table["subject"] == "sample") & table["value"].notna()]
    for kind in ("FD[", "KID["):
        for name in dict.fromkeys(t.loc[t["metric"].str.startswith(kind), "metric"]):
            if set(labels) <= set(t.loc[t["metric"] == name, "model"]):
                return str(name)
    return ""


def distance(table: pd.DataFrame, label: str, metric: str) -> float:
    """That distance of one of them; 0 where there is none."""
    t = table.loc[(table["subject"] == "sample") & (table["model"] == label) & (table["metric"] == metric)]
    return float(t["value"].iloc[0]) if len(t) else 0.0
