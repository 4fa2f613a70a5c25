"""Training a GAN: one loop in one process for each device, the same losses for any number of them.

Lightning Fabric finds devices and starts processes. Gradients are averaged by the step itself, after any kind of backward pass,
so the networks stay plain modules. What a step draws comes from (seed, step) alone: a run that is resumed from a checkpoint goes
on to the weights of one that was not interrupted, bit for bit on a CPU.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import active_children
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

from gradlens.checkpoints import kept
from gradlens.console import out_of_memory, plain, stoppable
from gradlens.redesign.gan import checkpoint, dataset
from gradlens.redesign.gan.build import Ready
from gradlens.redesign.gan.config import MAY_CHANGE, TrainConfig, check, stored
from gradlens.redesign.gan.outcome import outcome
from gradlens.redesign.gan.run import Callback, Run
from gradlens.results import Results

STOP = "stop"  # a file that tells processes to
REFUSALS = ("ValueError", "OSError", "DivergedError")  # whose words are for the user


@dataclass
class Job:
    """What every process does; called with the Fabric of its process."""

    config: TrainConfig
    data: dataset.Data
    held_out: Tensor | None
    callback: Callback | None
    folder: Path | None
    state: Mapping[str, Tensor] | None
    networks: Ready | None = None
    results: Path | None = None  # a folder to leave them in, for a process that is not this one
    starter: int = 0  # the number of that process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _hush()  # in a process of its own, before Fabric speaks there
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; one process tells the others

    def __call__(self, fabric: Any) -> list[Results]:
        """The results, in the process that leads, unless they go to a folder."""
        cuda = [fabric.device] if fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), stoppable() as stopped:
            torch.random.default_generator.manual_seed(self.config.seed)
            run = Run(fabric, self.config, self.data, self.held_out, self.folder, self.networks)
            if self.state is not None:
                run.restore(self.state)
            try:
                finished = run.go(self.callback, lambda: stopped() or self._told_to_stop())
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                finished = None
            if finished is None:  # outside of `except`, whose error holds on to tensors
                raise ValueError(run.too_large())
            if not fabric.is_global_zero:
                return []
            made = outcome(run.ended(finished=finished))
            if self.results is None:
                return [made]
            made.write(self.results)
            return []

    def _told_to_stop(self) -> bool:
        """Whether the process that started this one was asked to stop, or is gone."""
        return self.results is not None and ((self.results / STOP).exists() or os.getppid() != self.starter)


def train(
    config: TrainConfig,
    callback: Callback | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    images: Tensor | dataset.Data | None = None,
    held_out: Tensor | None = None,
    networks: Ready | None = None,
) -> Results:
    """Train a generator and a discriminator; what came of it, as every run of gradlens leaves it.

    Args:
        config: what is trained, on what, and how.
        callback: told of each measurement, in the process that leads; picklable where there are several processes.
        folder: checkpoints go into it; None: none are kept.
        resume: go on from the newest checkpoint in `folder`. Fields at their defaults are then those of the checkpoint. Without
            it, `folder` holds no checkpoint yet.
        images, held_out: `[N C R R]` uint8 instead of `config.data` and `config.held_out`; of `images` also what
            `gan.dataset.read` gave.
        networks: a pair that has its weights already, in place of fresh ones; to resume, the same again, or none where the
            configuration builds its like.

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
    began = _began(folder, resume=resume)
    if began is not None:
        config = agreed(config, began.config)
    check(config)
    data = _decoded(config.data, config, images)
    if began is not None and began.data["sha256"] != data.sha256:
        raise ValueError("--resume: the pictures in --data are not those that the run began with")
    fabric = _fabric(config)
    if config.batch_size % fabric.world_size:
        raise ValueError(f"--batch-size: must be a multiple of {fabric.world_size} devices, got {config.batch_size}")
    if held_out is None and config.held_out and config.rated:
        held_out = _decoded(config.held_out, config, None).images
    job = Job(config, data, held_out, callback, folder, None if began is None else began.state, networks)
    return _launched(fabric, job, folder)


def _began(folder: Path | None, *, resume: bool) -> checkpoint.Checkpoint | None:
    """The newest checkpoint of a run that goes on; None for one that begins.

    Raises:
        ValueError: there is none to go on from, one where a run begins, or it is damaged.
    """
    found = [] if folder is None else checkpoint.checkpoints(folder)
    if resume and not found:
        raise ValueError(
            f"--resume: {str(folder)!r} holds no checkpoint of gradlens train; name the folder of a run, or begin anew"
        )
    if found and not resume:
        raise ValueError(
            f"folder: {str(folder)!r} holds {found[-1].name} of another run; resume it, or name another folder"
        )
    return checkpoint.load(found[-1]) if resume else None


def agreed(config: TrainConfig, told: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run that is resumed: the stored one, but for what may change.

    Raises:
        ValueError: a field that decides the weights was given another value than the run began with.
    """
    default, given = plain(TrainConfig()), plain(config)
    for name, value in given.items():
        if name not in told or name in MAY_CHANGE or value == default[name]:
            continue
        if value != told[name]:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{flag}: the run began with {told[name]!r}, got {value!r}; leave it out to resume, or begin anew"
            )
    kept = {
        f.name: getattr(config, f.name)
        for f in fields(TrainConfig)
        if f.name in MAY_CHANGE and given[f.name] != default[f.name]
    }
    return replace(stored(told), **kept)


def _decoded(sources: Sequence[Path], config: TrainConfig, images: Tensor | dataset.Data | None) -> dataset.Data:
    known = images if isinstance(images, dataset.Data) else None
    images = images.images if isinstance(images, dataset.Data) else images
    if images is not None:
        wanted = (config.channels, config.resolution, config.resolution)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != wanted or len(images) < 2:
            raise ValueError(
                f"images: must be at least 2 of {list(wanted)} uint8, got {list(images.shape)} {images.dtype}"
            )
        return known or dataset.of_tensor(images)
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
    _hush()
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


def _launched(fabric: Any, job: Job, folder: Path | None) -> Results:
    """What the leading process gives; a refusal of one process, or its death, ends all of them and is one sentence."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    if fabric.world_size == 1:
        return fabric.launch(job)[0]
    with stoppable() as stopped, TemporaryDirectory() as results, _heard(stopped, Path(results) / STOP), _none_left():
        try:
            fabric.launch(replace(job, results=Path(results), starter=os.getpid()))
            return Results.read(Path(results))
        except ProcessExitedException as error:
            if stopped():
                raise KeyboardInterrupt from None  # while they were starting
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


@contextmanager
def _heard(stopped: Callable[[], bool], file: Path) -> Iterator[None]:
    """While it lasts, make `file` as soon as this process, which waits for others, was asked to stop."""
    over = Event()

    def watch() -> None:
        while not over.wait(0.1):
            if stopped():
                file.touch()
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _none_left() -> Iterator[None]:
    """No process that was started in the block outlives it."""
    before = active_children()
    try:
        yield
    finally:
        for child in active_children():
            if child not in before:
                child.kill()
                child.join()


def _hush() -> None:
    """Let Fabric not tell of every process it starts, nor torch of those it stops."""
    for name in ("lightning_fabric", "lightning.fabric", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.ERROR)
