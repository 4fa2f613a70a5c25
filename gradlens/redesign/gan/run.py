"""A run under way: what a step draws, the steps, what is looked at on the way, and the state that all of it is resumed from."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradlens.checkpoints import kept
from gradlens.console import out_of_memory, plain
from gradlens.redesign.gan import checkpoint, dataset
from gradlens.redesign.gan.augmentation import draw
from gradlens.redesign.gan.build import Ready, build, described
from gradlens.redesign.gan.card import model_card
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.device import Moment, between, fetched, moment, sent
from gradlens.redesign.gan.instruments import Look, look, settle
from gradlens.redesign.gan.normalisation import synchronised
from gradlens.redesign.gan.outcome import Ended
from gradlens.redesign.gan.step import Captured, Pair, take_step
from gradlens.redesign.losses import LOSSES

SHOWN = 64  # latents that are looked at
SETTLING = 256  # latents that norms of the average take their statistics from
STRIP = 8  # of them that are kept as training went on
LOSS_NAMES = ("loss_discriminator", "loss_generator")


@dataclass(frozen=True)
class Waiting:
    """What was measured, on its way to the host: there when `ended` has passed."""

    step: int
    images: int  # since `since`
    since: Moment
    begun: Moment
    ended: Moment
    names: tuple[str, ...]
    values: Tensor
    samples: Tensor


@dataclass(frozen=True)
class Progress:
    """What a callback is told at each measurement.

    `values` go by the names of the log; `samples` `[64 C R R]` in [0, 1] are the averaged generator's, always of the same
    latents; `draw` says whether a grid of them is due.
    """

    step: int
    steps: int
    values: Mapping[str, float]
    samples: Tensor
    draw: bool


Callback = Callable[[Progress], None]


class DivergedError(ValueError):
    """A loss that is no number: the run is over, the checkpoints before it are whole."""


class Run:
    """A run under way: networks, optimisers, what has been logged, and the step it is at."""

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        data: dataset.Data,
        held_out: Tensor | None,
        folder: Path | None,
        ready: Ready | None = None,
    ) -> None:
        self.fabric, self.config, self.data, self.held_out, self.folder = fabric, config, data, held_out, folder
        self.device: torch.device = fabric.device
        generator, discriminator, self.told = build(config, ready)
        averaged = deepcopy(generator).requires_grad_(False)
        networks = [_placed(n, self.device) for n in (generator, discriminator, averaged)]
        if fabric.world_size > 1:
            networks[:2] = [synchronised(n) for n in networks[:2]]
        optimisers = [self._optimiser(n) for n in networks[:2]]
        self.pair = Pair(*networks, *optimisers)  # type: ignore[arg-type]
        self.pair.calls = self._calls()
        self.dtype = torch.bfloat16 if self._bfloat16() else None
        self.dealer = dataset.Dealer(
            data.images,
            config.batch_size,
            self.device,
            seed=config.seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        )
        self.take = self._taker()
        self.latents = self._normal("shown", 0, SHOWN).to(self.device)
        self.settling = self._normal("settling", 0, SETTLING).to(self.device)
        self.step = 0
        self.resumed: list[int] = []
        self.log: list[dict[str, float]] = []
        self.strip: list[tuple[int, np.ndarray]] = []
        self.waiting: Waiting | None = None
        self.bad = torch.full((), -1.0, device=self.device)
        self.clock, self.clocked, self.trained = moment(self.device), 0, 0.0

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
        made: dict[str, Callable[[Tensor], Tensor]] = {
            "generator": self.pair.generator,
            "discriminator": self.pair.discriminator,
        }
        return {name: torch.compile(network, dynamic=False) for name, network in made.items()} if self._fast() else made

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
            return {f"{name}/{k}": sent(v[mine], self.device) for k, v in found.items()}

        for k in range(loss.critic_steps):
            real.append(self.dealer.deal(step * loss.critic_steps + k))
            latents.append(torch.randn(batch, config.latent, generator=generator)[mine])
            mix.append(torch.rand(batch, 1, 1, 1, generator=generator)[mine])
            drawn |= augmentation(f"real/{k}") | augmentation(f"fake/{k}")
        drawn |= augmentation("generator")
        keep = min(config.average, (1 + step) / (10 + step))
        return drawn | {
            "real": torch.stack(real),
            "latents": sent(torch.stack(latents), self.device),
            "mix": sent(torch.stack(mix), self.device),
            "keep": sent(torch.tensor(keep), self.device),
        }

    # the run

    def go(self, callback: Callback | None, stopped: Callable[[], bool]) -> bool:
        """Train to the last step, or until it is asked to stop; whether it came to the end."""
        config = self.config
        self.pair.generator.train()
        self.pair.discriminator.train()
        if not self.log:
            self._look(torch.full((2,), float("nan")), callback)
        self.clock, self.clocked = moment(self.device), self.step
        while self.step < config.steps:
            losses = self.advance()
            if self.device.type == "cpu":
                self._check()
            last = self.step == config.steps
            if self.step % config.log_every == 0 or last:
                self._look(losses, callback)
            stop = self._all(stopped) if self.device.type == "cpu" or self.step % 10 == 0 else False
            if self.step % config.save_every == 0 or last or stop:
                self._read(callback)
                self._check()
                self._check_weights()
                self._save()
            if stop and not last:
                return False
        self._read(callback)
        return True

    def advance(self) -> Tensor:
        """Take one step: the losses `[2]` of discriminator and generator, of the whole batch."""
        losses = self.take(self.draws(self.step))
        self.step += 1
        losses = self._agreed(losses)
        fine = losses.isfinite().all() | (self.bad >= 0)
        self.bad = torch.where(fine, self.bad, float(self.step))
        return losses

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
            raise DivergedError(
                f"the loss of step {int(self.bad)} is not finite; {kept(self.folder, to_resume=False)}; begin anew with a "
                "smaller --learning-rate or another --loss"
            )

    def _check_weights(self) -> None:
        """Stop before a checkpoint is written that nothing can go on from.

        Raises:
            DivergedError: a weight is no number.
        """
        pair = self.pair
        tensors = [t for n in (pair.generator, pair.discriminator, pair.averaged) for t in n.state_dict().values()]
        slots = [s for o in (pair.optimiser_g, pair.optimiser_d) for p in o.state.values() for s in p.values()]
        if not torch.stack([t.isfinite().all().to(self.device) for t in [*tensors, *slots]]).all():
            raise DivergedError(
                f"after step {self.step} the weights are not finite; {kept(self.folder, to_resume=False)}; begin anew with a "
                "smaller --learning-rate or another --loss"
            )

    def look(self) -> Look:
        """What the averaged generator makes of the latents that are shown, and what the discriminator hands back there."""
        settle(self.pair.averaged, self.settling)
        return look(self.pair.averaged, self.pair.discriminator, self.latents, self.config.measured)

    def _look(self, losses: Tensor, callback: Callback | None) -> None:
        """Measure, in the process that leads; on a device that works by itself the values are read when the next are due."""
        if not self.fabric.is_global_zero:
            return
        self._read(callback)
        begun, images = moment(self.device), (self.step - self.clocked) * self._images_a_step()
        seen = self.look()
        told = dict(zip(LOSS_NAMES, losses.unbind(), strict=True)) | seen.contrasts
        values = fetched(torch.stack([value.float() for value in told.values()]))
        samples, ended = fetched(seen.samples), moment(self.device)
        self.waiting = Waiting(self.step, images, self.clock, begun, ended, tuple(told), values, samples)
        if self.device.type == "cpu":
            self._read(callback)
        self.clock, self.clocked = ended, self.step

    def _read(self, callback: Callback | None) -> None:
        """Take in what was measured last."""
        if self.waiting is None:
            return
        last, self.waiting = self.waiting, None
        between(last.begun, last.ended)
        seconds = between(last.since, last.begun)
        self.trained += seconds
        told = dict(zip(last.names, last.values.tolist(), strict=True))
        speed = last.images / max(seconds, 1e-9) if last.images else float("nan")
        values = {name: told.pop(name) for name in LOSS_NAMES} | {"images_per_second": speed} | told
        self.log.append({"step": last.step} | values)
        due = last.step % self.config.draw_every == 0 or last.step == self.config.steps
        if due or not self.strip:
            self.strip.append((last.step, _levels(last.samples[:STRIP])))
        if callback is not None:
            callback(Progress(last.step, self.config.steps, values, last.samples, due))

    def _images_a_step(self) -> int:
        """Real images that a step looks at."""
        return self.config.batch_size * LOSSES[self.config.loss].critic_steps

    def too_large(self) -> str:
        """What to do where the memory does not suffice: the largest batch of which one step fits, found by halving."""
        batch, each = self.config.batch_size, self.fabric.world_size
        fits = self._largest_batch(batch // each) * each
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        remedy = (
            f"--batch-size {fits} fits" if fits else "not even a batch of 2 fits; try a smaller --width or --resolution"
        )
        return f"--batch-size: {where} has too little memory for {batch} images; {remedy}"

    def _largest_batch(self, batch: int) -> int:
        """The largest batch of one process below `batch` of which a step fits, by halving; 0 if none does."""
        while batch := batch // 2 if batch > 3 else 0:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.config = replace(self.config, batch_size=batch * self.fabric.world_size)
            self.dealer.batch_size = self.config.batch_size
            try:
                take_step(self.pair, self.draws(self.step), self.config, dtype=self.dtype).tolist()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            else:
                return batch
        return 0

    # what is kept

    def _save(self) -> None:
        if self.folder is None or not self.fabric.is_global_zero:
            return
        settle(self.pair.averaged, self.settling)
        origin = f"gradlens train, {self.config.label}, step {self.step}, seed {self.config.seed}"
        networks = {
            role: (network.state_dict(), described(role, self.told[role], self.config, origin))
            for role, network in (("generator", self.pair.averaged), ("discriminator", self.pair.discriminator))
        }
        try:
            checkpoint.save(
                self.folder, self.step, networks=networks, state=self.state(), config=plain(self.config), data=self.data.told,
                card=model_card(self.config, self.told, self.data, self.step),
            )  # fmt: skip
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {self.step} cannot be written to {str(self.folder)!r} ({error.strerror}); "
                f"{kept(self.folder)}"
            ) from error

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
        for name, network in (
            ("generator", pair.generator),
            ("discriminator", pair.discriminator),
            ("averaged", pair.averaged),
        ):
            network.load_state_dict(_below(state, f"{name}/"))
        for name, optimiser in (("generator", pair.optimiser_g), ("discriminator", pair.optimiser_d)):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(state, f"optimiser/{name}/").items():
                number, _, slot = key.partition("/")
                slots.setdefault(int(number), {})[slot] = _laid_out(value, parameters[int(number)])
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

    def ended(self, *, finished: bool) -> Ended:
        """The run at its end."""
        settle(self.pair.averaged, self.settling)
        facts = {
            "device": str(self.device.type), "processes": self.fabric.world_size,
            "precision": "float32" if self.dtype is None else "bfloat16", "compiled": self._fast(), "graph": self._graphed(),
            "resumed": self.resumed, "seconds": self.trained, "critic_steps": LOSSES[self.config.loss].critic_steps,
        }  # fmt: skip
        return Ended(
            self.config, self.data, self.held_out, self.pair.averaged, self.pair.discriminator, self.told, self.logged(),
            self.strip, self.latents, self.step, finished, facts,
        )  # fmt: skip


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """On its device, maps channels-last: a parameter of four axes in that order too."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A slot of an optimiser in the memory order of its parameter: a fused step goes through both as they lie.

    Always a copy: what was handed to processes on a CPU lies in memory that they share.
    """
    laid_out = (
        torch.empty_like(parameter, dtype=value.dtype) if value.shape == parameter.shape else torch.empty_like(value)
    )
    return laid_out.copy_(value)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _levels(images: Tensor) -> np.ndarray:
    """[0, 1] in the levels of 8 bits."""
    return (images * 255).round().to(torch.uint8).cpu().numpy()
