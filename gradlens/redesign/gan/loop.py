"""The loop: deal, draw, step, look, save; one process for each device, the same losses for any number of them.

Lightning Fabric finds devices and starts processes. Gradients are averaged by the step itself, after any kind of backward pass, so
the networks stay plain modules. What a step draws comes from (seed, step) alone: a run that is resumed from a checkpoint goes on to
the weights of one that was not interrupted, bit for bit on a CPU.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradlens.console import out_of_memory, plain, stoppable
from gradlens.redesign.gan import checkpoint, dataset
from gradlens.redesign.gan.augmentation import draw
from gradlens.redesign.gan.build import build, described
from gradlens.redesign.gan.card import model_card
from gradlens.redesign.gan.config import MAY_CHANGE, TrainConfig, check
from gradlens.redesign.gan.instruments import contrasts, look
from gradlens.redesign.gan.normalisation import synchronised
from gradlens.redesign.gan.outcome import outcome
from gradlens.redesign.gan.step import Captured, Pair, take_step
from gradlens.redesign.losses import LOSSES
from gradlens.results import Results

SHOWN = 64  # latents that are looked at
STRIP = 8  # of them that are kept as training went on
LOSS_NAMES = ("loss_discriminator", "loss_generator")
DIVERGED = "the loss of step {step} is not finite; "


@dataclass(frozen=True)
class Progress:
    """What a callback is told at each measurement: `values` by the names of the log, `samples` `[64 C R R]` in [0, 1] of the averaged
    generator, always of the same latents, and whether a grid of them is due."""

    step: int
    steps: int
    values: Mapping[str, float]
    samples: Tensor
    draw: bool


Callback = Callable[[Progress], None]


class DivergedError(ValueError):
    """A loss that is no number: the run is over, the checkpoints before it are whole."""


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
    data = _data(config, images)
    if began is not None and began.data["sha256"] != data.sha256:
        raise ValueError("--resume: the pictures in --data are not those that the run began with")
    fabric = _fabric(config)
    if config.batch_size % fabric.world_size:
        raise ValueError(f"--batch-size: must be a multiple of {fabric.world_size} devices, got {config.batch_size}")
    job = partial(_work, config=config, data=data, callback=callback, folder=folder, state=began and began.state)
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
            raise ValueError(f"{flag}: the run began with {stored[name]!r}, got {value!r}; leave it out to resume, or begin anew")
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
    return made | {"data": tuple(Path(p) for p in stored["data"])}


def _data(config: TrainConfig, images: Tensor | None) -> dataset.Data:
    if images is not None:
        wanted = (config.channels, config.resolution, config.resolution)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != wanted or len(images) < 2:
            raise ValueError(f"images: must be at least 2 of {list(wanted)} uint8, got {list(images.shape)} {images.dtype}")
        return dataset.of_tensor(images)
    return dataset.read(
        config.data, config.resolution, channels=config.channels, patches=config.patches, limit=config.limit, seed=config.seed
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
        raise ValueError(f"--accelerator, --devices: {config.accelerator} x {config.devices} is not to be had here ({reason})") from error


def _launched(fabric: Any, job: Callable[[Any], Results], folder: Path | None) -> Results:
    """What the leading process gives; a refusal of one process, or its death, ends all of them and is one sentence."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    kept = _kept(folder)
    try:
        made = fabric.launch(job)
    except ProcessExitedException as error:
        reason = error.signal_name or f"exit code {error.exit_code}"
        raise ValueError(f"process {error.error_index} of {fabric.world_size} ended ({reason}), the others were stopped; {kept()}") from error
    except ProcessRaisedException as error:
        last = str(error).strip().splitlines()[-1]
        raise ValueError(f"process {error.error_index} of {fabric.world_size} failed ({last}); {kept()}") from error
    if isinstance(made, BaseException):
        raise made
    return made


def _kept(folder: Path | None) -> Callable[[], str]:
    """Says what there is to go on from."""

    def said() -> str:
        found = checkpoint.checkpoints(folder) if folder is not None else []
        return f"{found[-1].name} is kept, --resume goes on from it" if found else "no checkpoint had been written"

    return said


def _work(
    fabric: Any,
    *,
    config: TrainConfig,
    data: dataset.Data,
    callback: Callback | None,
    folder: Path | None,
    state: Mapping[str, Tensor] | None,
) -> "Results | BaseException | None":
    """One process: the whole run. What it refuses is returned, so that its own words reach the user."""
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), stoppable() as stopped:
        torch.random.default_generator.manual_seed(config.seed)
        try:
            run = Run(fabric, config, data, folder)
            if state is not None:
                run.restore(state)
            finished = run.go(callback, stopped)
            return run.outcome(finished) if fabric.is_global_zero else None
        except (ValueError, OSError) as error:
            if fabric.world_size == 1:
                raise
            return error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            refused = ValueError(_too_large(config, fabric))
            if fabric.world_size == 1:
                raise refused from error
            return refused


class Run:
    """A run under way: networks, optimisers, what has been logged, and the step it is at."""

    def __init__(self, fabric: Any, config: TrainConfig, data: dataset.Data, folder: Path | None) -> None:
        self.fabric, self.config, self.data, self.folder = fabric, config, data, folder
        self.device: torch.device = fabric.device
        generator, discriminator, self.told = build(config)
        averaged = deepcopy(generator).requires_grad_(False)
        networks = [
            n.to(self.device, memory_format=torch.channels_last) for n in (generator, discriminator, averaged)
        ]  # fmt: skip
        if fabric.world_size > 1:
            networks[:2] = [synchronised(n) for n in networks[:2]]
        self.pair = Pair(*networks, *(self._optimiser(n) for n in networks[:2]))
        self.pair.calls = self._calls()
        self.dtype = torch.bfloat16 if self._bfloat16() else None
        self.dealer = dataset.Dealer(
            data.images, config.batch_size, self.device, seed=config.seed, rank=fabric.global_rank, processes=fabric.world_size
        )
        self.take = self._taker()
        self.latents = self._normal("shown", 0, SHOWN).to(self.device)
        self.step = 0
        self.resumed: list[int] = []
        self.log: list[dict[str, float]] = []
        self.strip: list[tuple[int, np.ndarray]] = []
        self.waiting: tuple[int, dict[str, Tensor | float], Tensor] | None = None
        self.bad = torch.full((), -1.0, device=self.device)
        self.clock, self.clocked, self.trained = time.perf_counter(), 0, 0.0

    def _optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        graph = self._graphed()
        return torch.optim.Adam(
            network.parameters(), lr=self.config.learning_rate, betas=self.config.betas,
            fused=self.device.type in ("cpu", "cuda"), capturable=graph,
        )  # fmt: skip

    def _fast(self) -> bool:
        """Whether networks are compiled."""
        return self.device.type == "cuda" if self.config.compile is None else self.config.compile

    def _graphed(self) -> bool:
        return self._fast() and self.device.type == "cuda" and self.fabric.world_size == 1

    def _bfloat16(self) -> bool:
        if self.config.precision == "auto":
            return self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.config.precision == "bfloat16"

    def _calls(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What is called for each network; a penalty differentiates twice, which compiled code does not."""
        made: dict[str, Callable[[Tensor], Tensor]] = {"generator": self.pair.generator, "discriminator": self.pair.discriminator}
        return {name: torch.compile(network) for name, network in made.items()} if self._fast() else made

    def _taker(self) -> Callable[[Mapping[str, Tensor]], Tensor]:
        take = partial(
            take_step, self.pair, config=self.config, processes=self.fabric.world_size, dtype=self.dtype
        )  # fmt: skip
        return Captured(take) if self._graphed() else take

    # what a step draws

    def _normal(self, purpose: str, number: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(dataset.seed_of(self.config.seed, purpose, number))
        return torch.randn(count, self.config.latent, generator=generator)

    def draws(self, step: int) -> dict[str, Tensor]:
        """All that step number `step` draws, of this process."""
        config, fabric = self.config, self.fabric
        loss = LOSSES[config.loss]
        generator = torch.Generator().manual_seed(dataset.seed_of(config.seed, "step", step))
        batch = config.batch_size
        mine = slice(fabric.global_rank, None, fabric.world_size)
        real, latents, mix, drawn = [], [], [], {}

        def augmentation(name: str) -> dict[str, Tensor]:
            found = draw(batch, config.augment, (config.resolution,) * 2, generator=generator)
            return {f"{name}/{k}": v[mine].to(self.device, non_blocking=True) for k, v in found.items()}

        for k in range(loss.critic_steps):
            real.append(self.dealer.deal(step * loss.critic_steps + k))
            latents.append(torch.randn(batch, config.latent, generator=generator)[mine])
            mix.append(torch.rand(batch, 1, 1, 1, generator=generator)[mine])
            drawn |= augmentation(f"real/{k}") | augmentation(f"fake/{k}")
        drawn |= augmentation("generator")
        keep = min(config.average, (1 + step) / (10 + step))
        return drawn | {
            "real": torch.stack(real),
            "latents": torch.stack(latents).to(self.device, non_blocking=True),
            "mix": torch.stack(mix).to(self.device, non_blocking=True),
            "keep": torch.tensor(keep).to(self.device),
        }

    # the run

    def go(self, callback: Callback | None, stopped: Callable[[], bool]) -> bool:
        """Train to the last step, or until it is asked to stop; whether it came to the end."""
        config = self.config
        self.pair.generator.train()
        self.pair.discriminator.train()
        self.clock, self.clocked = time.perf_counter(), self.step
        while self.step < config.steps:
            losses = self.take(self.draws(self.step))
            self.step += 1
            losses = self._agreed(losses)
            fine = losses.isfinite().all() | (self.bad >= 0)
            self.bad = torch.where(fine, self.bad, float(self.step))
            if self.device.type == "cpu":
                self._check()
            last = self.step == config.steps
            if self.step % config.log_every == 0 or last:
                self._look(losses, callback)
            stop = self._all(stopped) if self.device.type == "cpu" or self.step % 10 == 0 else False
            if self.step % config.save_every == 0 or last or stop:
                self._read(callback)
                self._check()
                self._save()
            if stop and not last:
                return False
        self._read(callback)
        return True

    def _agreed(self, losses: Tensor) -> Tensor:
        """The losses of the whole batch: each process has those of its part."""
        if self.fabric.world_size == 1:
            return losses
        torch.distributed.all_reduce(losses)
        return losses / self.fabric.world_size

    def _all(self, stopped: Callable[[], bool]) -> bool:
        """Whether any process was asked to stop."""
        if self.fabric.world_size == 1:
            return stopped()
        flag = torch.tensor(float(stopped()), device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag)

    def _check(self) -> None:
        """Stop at a loss that is no number.

        Raises:
            DivergedError: it has come to that.
        """
        if self.bad >= 0:
            said = DIVERGED.format(step=int(self.bad))
            raise DivergedError(f"{said}{_kept(self.folder)()}; a smaller --learning-rate or another --loss may hold")

    def _look(self, losses: Tensor, callback: Callback | None) -> None:
        """Measure, in the process that leads; on a device that works by itself the values are read when the next are due."""
        if not self.fabric.is_global_zero:
            return
        self._read(callback)
        now = time.perf_counter()
        speed = (self.step - self.clocked) * self._images_a_step() / max(now - self.clock, 1e-9)
        self.trained += now - self.clock
        seen = look(self.pair.averaged, self.pair.discriminator, self.latents, self.config.measured)
        told: dict[str, Tensor | float] = dict(zip(LOSS_NAMES, losses.clone(), strict=True))
        self.waiting = (self.step, told | {"images_per_second": speed} | seen.contrasts, seen.samples)
        if self.device.type == "cpu":
            self._read(callback)
        self.clock, self.clocked = time.perf_counter(), self.step

    def _read(self, callback: Callback | None) -> None:
        """Take in what was measured last."""
        if self.waiting is None:
            return
        step, told, samples = self.waiting
        self.waiting = None
        values = {name: float(value) for name, value in told.items()}
        self.log.append({"step": step} | values)
        due = step % self.config.draw_every == 0 or step == self.config.steps
        if due or not self.strip:
            self.strip.append((step, _levels(samples[:STRIP])))
        if callback is not None:
            callback(Progress(step, self.config.steps, values, samples.cpu(), due))

    def _images_a_step(self) -> int:
        """Real images that a step looks at."""
        return self.config.batch_size * LOSSES[self.config.loss].critic_steps

    # what is kept

    def _save(self) -> None:
        if self.folder is None or not self.fabric.is_global_zero:
            return
        origin = f"gradlens train, {self.config.label}, step {self.step}, seed {self.config.seed}"
        networks = {
            role: (network.state_dict(), described(role, self.told[role], self.config, origin))
            for role, network in (("generator", self.pair.averaged), ("discriminator", self.pair.discriminator))
        }
        checkpoint.save(
            self.folder, self.step, networks=networks, state=self.state(), config=plain(self.config), data=self.data.told,
            card=model_card(self.config, self.told, self.data, self.step),
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, and the log: flat."""
        pair = self.pair
        state = {f"generator/{k}": v for k, v in pair.generator.state_dict().items()}
        state |= {f"discriminator/{k}": v for k, v in pair.discriminator.state_dict().items()}
        state |= {f"averaged/{k}": v for k, v in pair.averaged.state_dict().items()}
        for name, optimiser in (("generator", pair.optimiser_g), ("discriminator", pair.optimiser_d)):
            for number, slots in optimiser.state_dict()["state"].items():
                state |= {f"optimiser/{name}/{number}/{slot}": torch.as_tensor(v) for slot, v in slots.items()}
        state["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        state["step"] = torch.tensor(self.step)
        state["trained"] = torch.tensor(self.trained, dtype=torch.float64)
        state["resumed"] = torch.tensor(self.resumed, dtype=torch.int64)
        state |= {f"log/{k}": torch.from_numpy(v) for k, v in self.logged().items()}
        if self.strip:
            state["strip/step"] = torch.tensor([step for step, _ in self.strip])
            state["strip/samples"] = torch.from_numpy(np.stack([samples for _, samples in self.strip]))
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        pair = self.pair
        for name, network in (("generator", pair.generator), ("discriminator", pair.discriminator), ("averaged", pair.averaged)):
            network.load_state_dict(_below(state, f"{name}/"))
        for name, optimiser in (("generator", pair.optimiser_g), ("discriminator", pair.optimiser_d)):
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(state, f"optimiser/{name}/").items():
                number, _, slot = key.partition("/")
                slots.setdefault(int(number), {})[slot] = value
            optimiser.load_state_dict(optimiser.state_dict() | {"state": slots})
        torch.set_rng_state(state["rng/cpu"])
        if "rng/cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng/cuda"], self.device)
        self.step, self.trained = int(state["step"]), float(state["trained"])
        self.resumed = [*state["resumed"].tolist(), self.step]
        columns = _below(state, "log/")
        if columns:
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            self.log = [dict(zip(columns, row, strict=True)) for row in rows]
        if "strip/step" in state:
            self.strip = list(zip(state["strip/step"].tolist(), state["strip/samples"].numpy(), strict=True))

    def logged(self) -> dict[str, np.ndarray]:
        """The log by column."""
        if not self.log:
            return {}
        return {
            name: np.array([row[name] for row in self.log], np.int64 if name == "step" else np.float32)
            for name in self.log[0]
        }

    def outcome(self, finished: bool) -> Results:
        """What the run leaves."""
        return outcome(self, finished)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _levels(images: Tensor) -> np.ndarray:
    """[0, 1] in the levels of 8 bits."""
    return (images * 255).round().to(torch.uint8).cpu().numpy()
