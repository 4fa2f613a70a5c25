"""Many training runs as one grid: a folder a cell, a finished cell is never run again, one that was cut short goes on.

Cells run side by side, one on each GPU, or on a CPU as many as are asked for; one that crashes takes only itself.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradlens.compare import interval
from gradlens.console import plain, say
from gradlens.redesign.gan.config import MAY_CHANGE, TrainConfig
from gradlens.results import COLUMNS, Results, new_run

FILES = ("table.csv", "arrays.safetensors", "manifest.json")
IDENTITY = frozenset(
    {"data", *MAY_CHANGE} - {"steps", "rated", "backbone", "log_every"}
)  # does not change what a cell finds


@dataclass(frozen=True)
class Cell:
    """One run of a grid; its folder is named by what it is."""

    config: TrainConfig
    folder: Path

    @property
    def finished(self) -> bool:
        return all((self.folder / "run" / name).is_file() for name in FILES)

    def results(self) -> Results:
        """What it left."""
        return Results.read(self.folder / "run")


def cells(configs: Iterable[TrainConfig], folder: Path, data_hash: str) -> list[Cell]:
    """A cell for each configuration, each once; a cell of the same configuration on the same data is the same."""
    found: dict[str, Cell] = {}
    for config in configs:
        told = {k: v for k, v in plain(config).items() if k not in IDENTITY}
        key = hashlib.sha256(json.dumps([told, data_hash], sort_keys=True).encode()).hexdigest()[:10]
        name = f"{config.label.replace('/', '_').replace(':', '')}-seed{config.seed}-{key}"
        there = next(folder.glob(f"*-{key}"), folder / name)  # whatever it was called
        found[key] = Cell(config, there)
    return list(found.values())


def run_grid(
    configs: Iterable[TrainConfig],
    images: Tensor,
    folder: Path,
    *,
    held_out: Tensor | None = None,
    workers: int | None = None,
) -> list[Cell]:
    """Run every cell that is not finished; all cells, finished or not.

    Args:
        configs: their `data` and `devices` are not read.
        images: `[N C R R]` uint8, for all.
        folder: of the grid; it may hold cells of other grids.
        held_out: images that are not trained on.
        workers: how many run at once; the number of GPUs, or 1 without any, unless given.

    Returns:
        The cells in the order of `configs`. What failed is said on stderr, and tried again by the next call.
    """
    from gradlens.redesign.gan.dataset import of_tensor

    folder.mkdir(parents=True, exist_ok=True)
    every = cells(configs, folder, of_tensor(images).sha256)
    waiting = [cell for cell in every if not cell.finished]
    say(f"{len(every)} cells, {len(every) - len(waiting)} of them finished before")
    gpus = torch.cuda.device_count()
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(workers or max(gpus, 1)):
        slots.put(slot)
    with ThreadPoolExecutor(workers or max(gpus, 1)) as threads:
        ended = threads.map(lambda cell: _alone(cell, images, held_out, slots, gpus), waiting)
        for done, (cell, reason) in enumerate(ended, start=1):
            say(f"{done} of {len(waiting)}: {cell.folder.name}{f' failed: {reason}' if reason else ''}")
    return every


def _alone(
    cell: Cell, images: Tensor, held_out: Tensor | None, slots: "SimpleQueue[int]", gpus: int
) -> tuple[Cell, str]:
    """Run a cell in a process of its own; why it failed, in words."""
    slot = slots.get()
    try:
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_settle_in, initargs=(slot, gpus)
        ) as pool:
            pool.submit(_run, cell, images.numpy(), None if held_out is None else held_out.numpy()).result()
    except BrokenProcessPool:
        return cell, "its process died"
    except Exception as error:  # of a cell: the grid goes on without it
        return cell, " ".join(str(error).split())
    finally:
        slots.put(slot)
    return cell, ""


def _settle_in(slot: int, gpus: int) -> None:
    """Give a process its GPU, or one core of the CPU."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    else:
        torch.set_num_threads(1)


def _run(cell: Cell, images: np.ndarray, held_out: np.ndarray | None) -> None:
    """Train a cell, going on where it was cut short, and keep its results and its newest checkpoint."""
    from gradlens.checkpoints import checkpoints
    from gradlens.redesign.gan.loop import train

    cell.folder.mkdir(exist_ok=True)
    resume = bool(checkpoints(cell.folder))
    config = replace(cell.config, data=(), held_out=(), devices="1")
    results = train(
        config, folder=cell.folder, resume=resume, images=torch.from_numpy(images),
        held_out=None if held_out is None else torch.from_numpy(held_out),
    )  # fmt: skip
    with new_run(cell.folder / "run", "train", force=True) as folder:
        results.write(folder)


def over_seeds(found: Sequence[Cell], name: Callable[[TrainConfig], str] = lambda config: config.label) -> pd.DataFrame:
    """The rows of all finished cells, one for each seed (`image` is `seed K`), and their mean over seeds with a 95 % interval.

    Args:
        found: cells of one grid.
        name: of the design of a configuration; cells of one name differ in the seed.

    Returns:
        Columns `gradlens.results.COLUMNS`; `n` of a mean counts seeds.
    """
    tables = []
    for cell in found:
        if cell.finished:
            results = cell.results()
            table = results.table.assign(model=name(cell.config), image=f"seed {cell.config.seed}")
            speed = pd.DataFrame([_fact(name(cell.config), cell.config.seed, results.manifest["training"])])
            tables.append(pd.concat([table, speed], ignore_index=True))
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    single = pd.concat(tables, ignore_index=True)
    keys = ["model", "subject", "layer", "period", "kind", "metric", "unit"]
    rows = []
    for _, group in single.groupby(keys, sort=False, dropna=False):
        first = group.to_dict("records")[0]
        values = group["value"].to_numpy(float)
        low, high = interval(values)
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else float("nan")
        rows.append(
            {k: first[k] for k in keys} | {"image": "", "value": mean, "low": low, "high": high, "n": len(known)}
        )
    return pd.concat([pd.DataFrame(rows), single], ignore_index=True).reindex(columns=list(COLUMNS))


def _fact(model: str, seed: int, training: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model, "subject": "training", "layer": "", "image": f"seed {seed}", "kind": "", "metric": "images_per_second",
        "value": training["images_per_second"], "n": 1, "unit": "images/s",
    }  # fmt: skip


def front(points: np.ndarray) -> np.ndarray:
    """Which points `[K M]` no other dominates (is at most as large in every column and smaller in one): `[K]` bool.

    Example:
        >>> front(np.array([[1.0, 3.0], [2.0, 1.0], [2.0, 4.0]])).tolist()
        [True, True, False]
    """
    least = (points[:, None] <= points).all(-1) & (points[:, None] < points).any(-1)  # [k j]: k dominates j
    return np.logical_not(least.any(0))
