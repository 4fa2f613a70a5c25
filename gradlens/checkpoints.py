"""Files of weights: read without running code, filled in strictly, named by their hash.

A checkpoint of gradlens is a safetensors file whose metadata field `gradlens` describes its network in JSON: `role`,
`builder` (`timm:NAME` or a class of `gradlens.networks`), `arguments`, `input_size`, `mean`, `std`, `interpolation`,
`crop_pct` and `origin`. It may name no other builder, so a file cannot choose what code runs.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradlens import networks

FOLDER, RECORD = "checkpoints", "checkpoint.json"  # of a training run, and of one checkpoint in it
STEP = re.compile(r"step-(\d{8,})")
NETWORKS = "gradlens.networks:"  # the only factories that a checkpoint may name


def card(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of its network, None if it says nothing.

    Raises:
        ValueError: its description is not one that gradlens may follow.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("gradlens")
        told = json.loads(text) if text else None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name!r} is no whole safetensors file ({error})") from error
    if told is not None:
        _check(told, path.name)
    return told


def _check(told: Any, name: str) -> None:
    """Refuse a description that gradlens cannot or may not follow."""
    builder = told.get("builder") if isinstance(told, dict) else ""
    if builder != "" and not (isinstance(builder, str) and builder.startswith(("timm:", NETWORKS))):
        raise ValueError(f"{name!r} names the builder {builder!r}; only timm and gradlens.networks may be")
    if not isinstance(told, dict) or not all(k in told for k in NEEDED):
        raise ValueError(f"{name!r} does not describe its network: needs {', '.join(NEEDED)}")
    for key, (right, wanted) in RIGHT.items():
        if key in told and not right(told[key]):
            raise ValueError(f"{name!r} says {key} {told[key]!r:.100}; it must be {wanted}")
    refused = sorted(NOT_BY_FILE & set(told["arguments"]))
    if refused:
        raise ValueError(f"{name!r} sets {', '.join(refused)}, which a checkpoint may not")
    assert isinstance(builder, str)
    if builder.startswith(NETWORKS):
        made = getattr(networks, builder.removeprefix(NETWORKS), None)
        if not (isinstance(made, type) and issubclass(made, nn.Module)):
            raise ValueError(f"{name!r} names {builder!r}, which is no network of gradlens")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 64 and all(map(_is_number, value))


NEEDED = ("role", "builder", "arguments", "input_size")
NOT_BY_FILE = {  # arguments of timm.create_model that read other files
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
}  # fmt: skip
ROLES, RESIZERS = ("classifier", "discriminator", "generator"), ("nearest", "bilinear", "bicubic", "lanczos")
RIGHT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "role": (lambda v: v in ROLES, f"one of {', '.join(ROLES)}"),
    "arguments": (lambda v: isinstance(v, dict), "an object"),
    "input_size": (
        lambda v: _are_numbers(v) and all(isinstance(n, int) and 0 < n <= 65536 for n in v),
        "a list of whole numbers from 1 to 65536",
    ),
    "mean": (_are_numbers, "a list of numbers"),
    "std": (_are_numbers, "a list of numbers"),
    "interpolation": (lambda v: v in RESIZERS, f"one of {', '.join(RESIZERS)}"),
    "crop_pct": (lambda v: _is_number(v) and 0.1 <= v <= 10, "a number from 0.1 to 10"),
}


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a training run, the newest last."""
    found = [p for p in (run / FOLDER).glob("step-*") if STEP.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def kept(run: Path | None, *, to_resume: bool = True) -> str:
    """What there is of a training run, in words."""
    found = [] if run is None else checkpoints(run)
    if not found:
        return "no checkpoint had been written"
    return f"{found[-1].name} is kept{', --resume goes on from it' if to_resume else ''}"


def newest(path: Path) -> Path:
    """The checkpoint that `path` means: itself, the newest of a run, or the folder that a file lies in.

    Raises:
        ValueError: there is none.
    """
    if path.is_file() and path.name in (
        "generator.safetensors",
        "discriminator.safetensors",
        "training.safetensors",
        RECORD,
    ):
        path = path.parent
    if (path / RECORD).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise ValueError(f"{str(path)!r} holds no checkpoint of gradlens train")
    return found[-1]


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or a pickle, taken out of its wrapping (`state_dict`, `model`, `module.`).

    Raises:
        ValueError: there is no such file, it does not read, or it needs code to be read (which is never run).
    """
    if not path.is_file():
        raise ValueError(f"weights: there is no file {str(path)!r}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"weights: {path.name!r} is no whole safetensors file ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, EOFError, RuntimeError, ... for a bad file
        raise ValueError(f"weights: {path.name!r} does not read as plain tensors ({_reason(error)})") from error
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ValueError(f"weights: {path.name!r} holds no state dict")
    prefix = "module."
    if all(k.startswith(prefix) for k in state):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return dict(state)


def _reason(error: Exception) -> str:
    """Why a pickle was not read, without torch's advice to trust it."""
    if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {code[1]}, and gradlens reads without running code; save the state dict alone"
    if "eights only" in str(error) or "torch.jit" in str(error):  # it advises to trust the file
        return "it is no pickle of tensors"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def fill(network: nn.Module, state: Mapping[str, Tensor], label: str) -> None:
    """Load `state` strictly, in the network's own dtype.

    Raises:
        ValueError: keys are missing or unexpected, or a shape differs; the first five are named.
    """
    own = network.state_dict()
    faults = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(v)} {k}: {', '.join(v[:5])}" for k, v in faults.items() if v)
        raise ValueError(f"weights: {label} does not fit the network ({told})")
    network.load_state_dict(dict(state), strict=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` gives it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_hash(network: nn.Module) -> str:
    """SHA-256 over names and bytes of the state dict, in its order."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
