"""Two ways to do a thing, timed in turns in one process.

The sides alternate, and so does which goes first; a pair gives a ratio, of which the median and the quartiles are told. On one
thread of a CPU seconds are those of the process, so that other work on the machine counts little; else those of a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

Prepare = Callable[[], Callable[[], object]]  # does what is not timed and returns what is


@dataclass(frozen=True)
class Case:
    """Two ways to do a thing with `images` images or steps, and at most which share of the peer's time ours may take.

    `bar` is None where nothing is asked; `operations`, of an image, where the speed is to be told in operations.
    """

    model: str
    ours: str
    do: Prepare
    peer: str
    do_peer: Prepare
    images: int
    bar: float | None
    operations: float | None = None


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells the seconds on `device`."""
    return process_time if device.type == "cpu" and torch.get_num_threads() == 1 else perf_counter


def timed(case: Case, pairs: int, device: torch.device, advance: Callable[[], None]) -> np.ndarray:
    """Seconds of ours and of the peer, `[pairs 2]`, after one warming run of each."""
    clock = clock_of(device)

    def seconds(prepare: Prepare) -> float:
        work = prepare()
        _wait(device)
        start = clock()
        work()
        _wait(device)
        return clock() - start

    sides = (case.do, case.do_peer)
    for side in sides:
        seconds(side)
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[pair, side] = seconds(sides[side])
        advance()
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(case: Case, times: np.ndarray) -> list[dict]:
    """The rows of a case: the ratio, its bar, and the seconds and the speed of both sides."""
    plain: dict[str, Any] = {"model": case.model, "subject": "speed", "layer": "", "image": "", "n": len(times)}

    def row(kind: str, metric: str, values: np.ndarray, unit: str) -> dict:
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return plain | {"kind": kind, "metric": metric, "value": median, "low": low, "high": high, "unit": unit}

    kind = f"{case.ours} / {case.peer}"
    made = [row(kind, "ratio", times[:, 0] / times[:, 1], "1")]
    if case.bar is not None:
        made.append(plain | {"kind": kind, "metric": "bar", "value": case.bar, "unit": "1"})
    if case.operations is not None:
        made.append(
            plain | {"kind": kind, "metric": "operations", "value": case.operations, "unit": "operations/image"}
        )
    work, unit = (
        (case.images, "images/s") if case.operations is None else (case.images * case.operations, "operations/s")
    )
    for kind, seconds in ((case.ours, times[:, 0]), (case.peer, times[:, 1])):
        made += [row(kind, "time", seconds, "s"), row(kind, "rate", work / seconds, unit)]
    return made
