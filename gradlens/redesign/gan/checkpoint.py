"""Checkpoints of a training run: a folder each, which appears whole or not at all, and is checked by hash when it is read.

checkpoints/step-00001000/generator.safetensors       the averaged generator, which describes itself: for use
                          discriminator.safetensors   likewise
                          training.safetensors        everything that the next step depends on, and the log
                          checkpoint.json             the step, the configuration, SHA-256 of each file and of itself
                          README.md                   model card
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gradlens.checkpoints import FOLDER, RECORD, checkpoints, file_hash, newest

__all__ = ["Checkpoint", "checkpoints", "load", "newest", "save"]

FORMAT = "gradlens training 1"
KEPT = 3
SEAL = "sealed"  # SHA-256 of the rest of checkpoint.json


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: `state` is the flat content of training.safetensors, `config` the flags as JSON holds them."""

    folder: Path
    step: int
    config: dict[str, Any]
    data: dict[str, Any]
    state: dict[str, Tensor]


def save(
    run: Path,
    step: int,
    *,
    networks: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Any] | None]],
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    card: str,
) -> Path:
    """Write the checkpoint of `step` into `run`, and remove all but the newest three.

    Args:
        run: the folder of the run.
        step: names it.
        networks: for `generator` and `discriminator` the state dict and the description of `gradlens.checkpoints`, None for one
            that only its owner's factory builds.
        state: flat, what training goes on from.
        config, data: JSON objects.
        card: text of the model card.

    Returns:
        Its folder.

    Raises:
        OSError: there is no room; what was there before is whole.
    """
    home = run / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(".step-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".step-{step:08}-", dir=home))
    try:
        for name, (tensors, told) in networks.items():
            metadata = {} if told is None else {"gradlens": json.dumps(told)}
            _write(work / f"{name}.safetensors", tensors, metadata)
        _write(work / "training.safetensors", state, {})
        record = {
            "format": FORMAT,
            "step": step,
            "config": dict(config),
            "data": dict(data),
            "sha256": {p.name: file_hash(p) for p in sorted(work.iterdir())},
        }
        _write_text(work / "README.md", card)  # which its owner may edit
        _write_text(work / RECORD, json.dumps(record | {SEAL: _seal(record)}, indent=1, sort_keys=True) + "\n")
        work.chmod(0o755)
        _flush(work)
        target = home / f"step-{step:08}"
        if target.exists():  # of a run that was resumed from before it
            aside = Path(tempfile.mkdtemp(prefix=".step-old-", dir=home))
            target.rename(aside / target.name)
            work.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            work.rename(target)
        _flush(home)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for old in checkpoints(run)[:-KEPT]:
        old.rename(aside := old.with_name(f".{old.name}-gone"))
        shutil.rmtree(aside, ignore_errors=True)
    return target


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, every file checked by its hash.

    Raises:
        ValueError: it is not one of gradlens, or it is damaged.
    """
    from safetensors.torch import load_file

    record = _record(folder)
    for name, wanted in record["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} is damaged: {name} is missing{_remedy(folder)}")
        if file_hash(path) != wanted:
            raise ValueError(f"{str(folder)!r} is damaged: {name} is not what was written{_remedy(folder)}")
    state = load_file(folder / "training.safetensors")
    return Checkpoint(folder, record["step"], record["config"], record["data"], state)


def _record(folder: Path) -> dict[str, Any]:
    """What checkpoint.json says."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{str(folder)!r} is no checkpoint of gradlens train: {RECORD} is missing{_remedy(folder)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(folder)!r} is damaged: {RECORD} does not read ({error}){_remedy(folder)}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(
            f"{str(folder)!r} is no checkpoint of this gradlens: its format is not {FORMAT!r}{_remedy(folder)}"
        )
    if record.pop(SEAL, None) != _seal(record):
        raise ValueError(f"{str(folder)!r} is damaged: {RECORD} is not what was written{_remedy(folder)}")
    files = record.get("sha256")
    if (
        not isinstance(files, dict)
        or not {"generator.safetensors", "training.safetensors"} <= set(files)
        or any(Path(name).name != name for name in files)
    ):
        raise ValueError(f"{str(folder)!r} is damaged: {RECORD} does not name its files{_remedy(folder)}")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _remedy(folder: Path) -> str:
    """How to go on from an earlier checkpoint of the same run."""
    earlier = [p for p in checkpoints(folder.parent.parent) if p.name < folder.name]
    return f"; remove that folder to go on from {earlier[-1].name}" if earlier else ""


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    with path.open("wb") as file:
        file.write(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Let the names in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
