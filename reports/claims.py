"""What pages say of the sentences of `analyses.claims`: the rule in words, and a table of measurements and verdicts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analyses.claims import SUBJECT, Claim, Condition, verdict
from gradlens.report.document import Block, table
from gradlens.report.run import KINDS, number

RULE = (
    "A condition is met if the 95 % interval over seeds lies in its band, missed if wholly outside it; a sentence is held if "
    "all of its conditions are met, not held if one is missed, else not decided, as with fewer than three seeds. The rules are "
    "in the code and older than the numbers. Of three seeds such an interval covers the truth in four of five cases."
)
Value = tuple[float, float, float, int]


def value(rows: pd.DataFrame) -> Value:
    """Value, interval and n of the mean over seeds among `rows`; NaN where there is none."""
    rows = rows.loc[rows["image"] == ""]
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


def sentences(t: pd.DataFrame, claims: Sequence[Claim], caption: str) -> Block:
    """Every sentence with the verdicts of both families, and what was measured."""
    rows = []
    for claim in claims:
        verdicts = " / ".join(verdict(t, claim.name, kind) for kind in KINDS)
        measured = " ".join(_measured(t, claim.name, condition) for condition in claim.conditions)
        rows.append([verdicts, f"{claim.sentence} [{claim.source}]", measured])
    columns = {"signed / envelope": "left", "sentence": "left", "condition: measured, signed / envelope": "left"}
    return table(columns, rows, caption=[caption])


def _measured(t: pd.DataFrame, name: str, condition: Condition) -> str:
    """A condition and what it has in both families."""
    own = t.loc[(t["subject"] == SUBJECT) & (t["model"] == name) & (t["metric"] == condition.words)]
    found = " / ".join(said(value(own.loc[own["kind"] == kind])) for kind in KINDS)
    unit = "" if condition.unit == "1" else f" {condition.unit}"
    return f"{condition.words}, {condition.band}{unit}: {found}."
