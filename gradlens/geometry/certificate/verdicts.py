"""From rows to a verdict, and the words for it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

Direction: TypeAlias = Literal["forward", "backward"]
Verdict: TypeAlias = Literal["pass", "fail", "level-dependent", "vacuous", "not decidable"]
WORST_LAST: tuple[Verdict, ...] = ("pass", "vacuous", "not decidable", "level-dependent", "fail")
UNCERTAIN = 0.2  # a floor above this decides nothing


@dataclass(frozen=True)
class Row:
    """One statement at one period and level; `floor` is the deviation that chance alone makes (0: none). Both are relative.

    `period` is 0 where the accumulated stride was not found, 1 where there is none; `level` is NaN where none enters.
    """

    statement: str
    method: Literal["overlap", "weights", "measurement"]
    equation: str
    period: int
    level: float
    deviation: float
    floor: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Certificate:
    """Whether a module can write a lattice, with the evidence.

    Args:
        direction: "forward" of its output, "backward" of the gradient of its input.
        verdict: "pass"; "fail"; "level-dependent", it holds at some levels and fails at others; "vacuous", nothing answers,
            so nothing is shown; "not decidable" at this size.
        deviation: the largest of the table: max over phases |r - mean| / max(|mean|, rms of r); NaN if nothing was measured.
        periods: at which it fails, in pixels of the output (forward) or of the input (backward).
        verdicts: by statement.
        why: one sentence.
        remedy: one sentence, "" where none is needed.
        table: a row for each statement, method, period and level.
    """

    direction: Direction
    verdict: Verdict
    deviation: float
    periods: tuple[int, ...]
    verdicts: dict[str, Verdict]
    why: str
    remedy: str
    table: "pd.DataFrame"

    @property
    def passed(self) -> bool:
        """Every statement holds at every period and level."""
        return self.verdict == "pass"


def judged(deviation: float, floor: float, tolerance: float) -> Verdict:
    """The verdict on one row: NaN is not decidable."""
    if isnan(deviation) or (deviation <= floor and floor > UNCERTAIN):
        return "not decidable"
    return "pass" if deviation <= max(floor, tolerance) else "fail"


def certificate(direction: Direction, rows: Sequence[Row], words: tuple[str, str]) -> Certificate:
    """The certificate of the rows; `words` are its why and remedy."""
    import pandas as pd

    found = [r.deviation for r in rows if not isnan(r.deviation)]
    table = pd.DataFrame([{"direction": direction} | asdict(r) for r in rows])
    return Certificate(
        direction, overall(rows), max(found, default=nan), failing(rows), verdicts_of(rows), *words, table
    )


def verdicts_of(rows: Sequence[Row]) -> dict[str, Verdict]:
    """The verdict on each statement."""
    names = dict.fromkeys(r.statement for r in rows)
    return {name: _of_statement([r for r in rows if r.statement == name]) for name in names}


def overall(rows: Sequence[Row]) -> Verdict:
    """The worst verdict over all statements.

    Weights know every constant and size: where they speak, a measurement that is not decidable takes nothing away.
    """
    verdicts = verdicts_of(rows)
    if "filters" in verdicts and verdicts["response"] == "not decidable":
        del verdicts["response"]
    return _worst(verdicts.values())


def failing(rows: Sequence[Row]) -> tuple[int, ...]:
    """Periods at which a row fails, shortest first."""
    return tuple(sorted({r.period for r in rows if r.verdict == "fail"}))


def _of_statement(rows: Sequence[Row]) -> Verdict:
    """The verdict on one statement over its periods and levels."""
    read = [r for r in rows if r.method == "weights"]
    if read and any(r.verdict == "not decidable" for r in rows):
        rows = read
    levels = dict.fromkeys(str(r.level) for r in rows)  # NaN is one level
    each: set[Verdict] = {_worst(r.verdict for r in rows if str(r.level) == level) for level in levels}
    return "level-dependent" if {"pass", "fail"} <= each else _worst(each)


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=WORST_LAST.index)
