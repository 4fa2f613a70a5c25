"""Sentences of a source, each with a rule that was written before its numbers were looked at: measurement, interval, verdict.

A condition is a number of each seed and the band that its mean must lie in. It is met if the 95 % interval over seeds lies in the
band, missed if that lies wholly outside, and open otherwise or with fewer than three seeds. A sentence is held if all of its
conditions are met, not held if one is missed, and not decided otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradlens.compare import interval
from gradlens.results import COLUMNS

SUBJECT, VERDICT = "claim", "held"
WORDS = {1.0: "held", 0.0: "not held"}
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Condition:
    """A number of each seed, and the band from `low` to `high` that it must lie in.

    `quantity` takes the runs of an analysis and a family (`signed`, `envelope`), and gives a value for each seed that it has.
    """

    words: str
    quantity: Callable[[Any, str], BySeed]
    low: float = -np.inf
    high: float = np.inf
    unit: str = "dB"

    def met(self, low: float, high: float) -> bool | None:
        """Whether an interval lies in the band: True, wholly outside: False, neither or no interval: None."""
        if np.isnan(low) or np.isnan(high):
            return None
        if self.low < low and high < self.high:
            return True
        return False if high <= self.low or low >= self.high else None

    @property
    def band(self) -> str:
        """The band in words."""
        if np.isinf(self.low):
            return f"below {self.high:g}"
        return f"above {self.low:g}" if np.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Claim:
    """A sentence, who said it, and its conditions."""

    name: str
    sentence: str
    source: str
    conditions: Sequence[Condition]


def together(answers: Sequence[bool | None]) -> bool | None:
    """The verdict of several conditions.

    Example:
        >>> together([True, None]), together([None, False]), together([True, True])
        (None, False, True)
    """
    if False in answers:
        return False
    return None if None in answers else True


def claim_rows(claims: Sequence[Claim], runs: Any, kinds: Sequence[str]) -> pd.DataFrame:
    """The rows of all claims in each family: of every condition each seed (`image` is `seed K`) and the mean, then the verdict.

    Returns:
        Columns `gradlens.results.COLUMNS`; subject `claim`, model its name, metric the words of the condition, or `held` with
        1, 0 or NaN.
    """
    rows = [row for claim in claims for kind in kinds for row in _rows(claim, runs, kind)]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _rows(claim: Claim, runs: Any, kind: str) -> Iterator[dict[str, Any]]:
    answers, seeds = [], []
    for condition in claim.conditions:
        told = {
            "model": claim.name,
            "subject": SUBJECT,
            "kind": kind,
            "metric": condition.words,
            "unit": condition.unit,
        }
        mean, *each = spread(condition.quantity(runs, kind), **told)
        answers.append(condition.met(mean["low"], mean["high"]))
        seeds.append(mean["n"])
        yield from (mean, *each)
    held = together(answers)
    yield {
        "model": claim.name, "subject": SUBJECT, "layer": "", "image": "", "kind": kind, "metric": VERDICT,
        "value": float("nan") if held is None else float(held), "n": min(seeds), "unit": "1",
    }  # fmt: skip


def spread(of_seeds: BySeed, **told: Any) -> list[dict[str, Any]]:
    """The row of the mean over seeds with its interval, and one of each seed; `told` goes into all. NaN does not count."""
    known = {seed: value for seed, value in of_seeds.items() if not np.isnan(value)}
    values = np.array(list(known.values()), float)
    low, high = interval(values)
    mean = float(values.mean()) if len(values) else float("nan")
    told = {"layer": ""} | told
    return [
        told | {"image": "", "value": mean, "low": low, "high": high, "n": len(values)},
        *(told | {"image": f"seed {seed}", "value": value, "n": 1} for seed, value in known.items()),
    ]


def verdict(table: pd.DataFrame, name: str, kind: str) -> str:
    """What a table says of a claim in one family: `held`, `not held` or `not decided`."""
    at = (table["subject"] == SUBJECT) & (table["model"] == name) & (table["kind"] == kind)
    value = float(table.loc[at & (table["metric"] == VERDICT), "value"].iloc[0])
    return WORDS.get(value, "not decided")
