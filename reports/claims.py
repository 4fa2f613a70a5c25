"""What pages say of the sentences of `analyses.claims`: the rule in words, and a table of measurements and verdicts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analyses.claims import SUBJECT, Claim, Condition, verdict
from gradlens.report.document import Block, table
from gradlens.report.run import number

RULE = (
    "A condition is met if the 95 % interval over seeds lies in its band, missed if wholly outside it; a sentence is held if "
    "all of its conditions are met, not held if one is missed, else not decided, as with fewer than three seeds. The rules are "
    "in the code and older than the numbers. Of three seeds such an interval covers the truth in four of five cases."
)
MET = {True: "met", False: "missed", None: "open"}
Value = tuple[float, float, float, int]


def value(rows: pd.DataFrame, image: str = "") -> Value:
    """Value, interval and n of the one row of `image` among `rows`, the mean over seeds unless given; NaN where there is none."""
    rows = rows.loc[rows["image"] == image]
    if rows.empty:
        return float("nan"), float("nan"), float("nan"), 0
    first = rows.iloc[0]
    return float(first["value"]), float(first["low"]), float(first["high"]), int(first["n"])


def said(v: Value, digits: int = 1) -> str:
    """A value with its interval."""
    text = number(v[0], digits)
    return text if np.isnan(v[1]) else f"{text} ({number(v[1], digits)} to {number(v[2], digits)})"


def counted(t: pd.DataFrame, claims: Sequence[Claim], kind: str) -> dict[str, int]:
    """How many sentences have each verdict in a family."""
    verdicts = [verdict(t, claim.name, kind) for claim in claims]
    return {word: verdicts.count(word) for word in ("held", "not held", "not decided")}


def sentences(
    t: pd.DataFrame,
    claims: Sequence[Claim],
    kinds: Sequence[str],
    caption: str,
    *,
    shown: Sequence[str],
    digits: int = 1,
) -> Block:
    """Every sentence with its conditions, what was measured in the families `shown`, and the verdict of every family."""
    rows = [
        [
            f"“{claim.sentence}” ({claim.source})",
            "; ".join(_measured(t, claim.name, condition, shown, digits) for condition in claim.conditions),
            *(verdict(t, claim.name, kind) for kind in kinds),
        ]
        for claim in claims
    ]
    columns = {"sentence": "left", f"measured ({' / '.join(shown)})": "left", **dict.fromkeys(kinds, "left")}
    return table(columns, rows, caption=[caption]) | {"widths": [4, 5, *(0 for _ in kinds)]}


def _measured(t: pd.DataFrame, name: str, condition: Condition, shown: Sequence[str], digits: int) -> str:
    """A condition, its band, and what it has in each family: mean, interval, and whether it is met."""
    own = t.loc[(t["subject"] == SUBJECT) & (t["model"] == name) & (t["metric"] == condition.words)]
    found = []
    for kind in shown:
        v = value(own.loc[own["kind"] == kind])
        found.append(f"{said(v, digits if condition.unit == 'dB' else 2)} {MET[condition.met(v[1], v[2])]}")
    unit = "" if condition.unit == "1" else f" {condition.unit}"
    return f"{condition.words}, {condition.band}{unit}: {' / '.join(found)}"
