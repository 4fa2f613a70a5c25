"""Training a GAN: one loop in one process for each device, the same losses for any number of them.

Lightning Fabric finds devices and starts processes. Gradients are averaged by the step itself, after any kind of backward pass,
so the networks stay plain modules. What a step draws comes from (seed, step) alone: a run that is resumed from a checkpoint goes
on to the weights of one that was not interrupted, bit for bit on a CPU.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.console import out_of_memory, plain, stoppable
from gradlens.redesign.gan import checkpoint, dataset
from gradlens.redesign.gan.config import MAY_CHANGE, TrainConfig, check
from gradlens.redesign.gan.outcome import outcome
from gradlens.redesign.gan.run import Callback, Run, kept
from gradlens.results import Results

REFUSALS = ("ValueError", "OSError", "DivergedError")  # whose words are for the user


def train(
    config: TrainConfig,
    callback: Callback | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    images: Tensor | None = None,
) -> Results:
    """Train a generator and a discriminator; what came of it, as every run of gradlens leaves it.

    Args:
        config: what is trained, on what, and how.
        callback: told of each measurement, in the process that leads; picklable where there are several processes.
        folder: checkpoints go into it; None: none are kept.
        resume: go on from the newest checkpoint in `folder`. Fields at their defaults are then those of the checkpoint.
        images: `[N C R R]` uint8 instead of `config.data`.

    Returns:
        Table (lattices of samples, of the discriminator's gradient and of real images; ratings), arrays (samples, the log,
        spectra) and manifest. `manifest["partial"]` is true where Ctrl-C came before the last step.

    Raises:
        DivergedError: a loss is not finite; the message says the step and what is kept.
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.

    Example:
        >>> pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
        >>> tiny = TrainConfig(resolution=8, width=2, latent=4, batch_size=4, steps=2, rated=0, periods=(2,), accelerator="cpu")
        >>> results = train(tiny, images=pixels)
        >>> results.manifest["training"]["steps"], results.arrays["samples"].shape
        (2, (64, 3, 8, 8))
    """
    began = checkpoint.load(checkpoint.newest(folder)) if resume and folder is not None else None
    if began is not None:
        config = agreed(config, began.config)
    check(config)
    data = _decoded(config.data, config, images)
    if began is not None and began.data["sha256"] != data.sha256:
        raise ValueError("--resume: the pictures in --data are not those that the run began with")
    fabric = _fabric(config)
    if config.batch_size % fabric.world_size:
        raise ValueError(f"--batch-size: must be a multiple of {fabric.world_size} devices, got {config.batch_size}")
    held_out = _decoded(config.held_out, config, None).images if config.held_out and config.rated else None
    job = partial(
        _work,
        config=config,
        data=data,
        callback=callback,
        folder=folder,
        state=began and began.state,
        held_out=held_out,
    )
    return _launched(fabric, job, folder)


def agreed(config: TrainConfig, stored: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run that is resumed: the stored one, but for what may change.

    Raises:
        ValueError: a field that decides the weights was given another value than the run began with.
    """
    default, given = plain(TrainConfig()), plain(config)
    for name, value in given.items():
        if name not in stored or name in MAY_CHANGE or value == default[name]:
            continue
        if value != stored[name]:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{flag}: the run began with {stored[name]!r}, got {value!r}; leave it out to resume, or begin anew"
            )
    kept = {
        f.name: getattr(config, f.name)
        for f in fields(TrainConfig)
        if f.name in MAY_CHANGE and given[f.name] != default[f.name]
    }
    return TrainConfig(**(_restored(stored) | kept))


def _restored(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as the dataclass holds them, from JSON."""
    known = {f.name for f in fields(TrainConfig)}
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    return made | {"data": tuple(map(Path, stored["data"])), "held_out": tuple(map(Path, stored["held_out"]))}


def _decoded(sources: Sequence[Path], config: TrainConfig, images: Tensor | None) -> dataset.Data:
    if images is not None:
        wanted = (config.channels, config.resolution, config.resolution)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != wanted or len(images) < 2:
            raise ValueError(
                f"images: must be at least 2 of {list(wanted)} uint8, got {list(images.shape)} {images.dtype}"
            )
        return dataset.of_tensor(images)
    return dataset.read(
        sources,
        config.resolution,
        channels=config.channels,
        patches=config.patches,
        limit=config.limit,
        seed=config.seed,
    )


def _fabric(config: TrainConfig) -> Any:
    """Devices and processes.

    Raises:
        ValueError: Lightning Fabric is not installed, or the devices are not to be had.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ValueError("gradlens train needs Lightning Fabric: pip install 'gradlens[train]'") from error
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it tells which accelerators it sees
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    devices = "auto" if config.devices == "auto" else int(config.devices)
    try:
        alone = Fabric(accelerator=config.accelerator, devices=devices)
        if alone.world_size == 1:
            return alone
        return Fabric(accelerator=config.accelerator, devices=devices, strategy="ddp_spawn")
    except Exception as error:  # Fabric raises its own MisconfigurationException, ValueError or RuntimeError
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--accelerator, --devices: {config.accelerator} x {config.devices} is not to be had here ({reason})"
        ) from error


def _launched(fabric: Any, job: Callable[[Any], Results | None], folder: Path | None) -> Results:
    """What the leading process gives; a refusal of one process, or its death, ends all of them and is one sentence."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    with stoppable() if fabric.world_size > 1 else nullcontext():  # the processes are asked to stop themselves
        try:
            results = fabric.launch(job)
        except ProcessExitedException as error:
            reason = error.signal_name or f"exit code {error.exit_code}"
            raise ValueError(
                f"process {error.error_index} of {fabric.world_size} ended ({reason}), the others were stopped; {kept(folder)}"
            ) from error
        except ProcessRaisedException as error:
            name, _, said = str(error).strip().splitlines()[-1].partition(": ")
            if name.endswith(REFUSALS):
                raise ValueError(said) from None
            raise ValueError(
                f"process {error.error_index} of {fabric.world_size} failed ({name}: {said}), the others were stopped; "
                f"{kept(folder)}"
            ) from error
    assert results is not None
    return results


def _work(
    fabric: Any,
    *,
    config: TrainConfig,
    data: dataset.Data,
    callback: Callback | None,
    folder: Path | None,
    state: Mapping[str, Tensor] | None,
    held_out: Tensor | None,
) -> Results | None:
    """One process: the whole run; what came of it, in the one that leads."""
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), stoppable() as stopped:
        torch.random.default_generator.manual_seed(config.seed)
        run = Run(fabric, config, data, held_out, folder)
        if state is not None:
            run.restore(state)
        try:
            finished = run.go(callback, stopped)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ValueError(run.too_large()) from error
        return outcome(run.ended(finished=finished)) if fabric.is_global_zero else None
