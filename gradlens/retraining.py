"""The job `gradlens redesign MODEL --data DIR --train`: designs for a generator, tried by training, and the best one trained.

verdicts -> designs -> brief training -> front -> longer training. The network as it is, trained as briefly against the same
discriminator on the same batches, is the control: training alone must not be taken for the design. Torch is imported after the
first line is out.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gradlens.console import say
from gradlens.results import COLUMNS, Results, circumstances, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from gradlens.models import Model
    from gradlens.redesign import TrainConfig
    from gradlens.redesign.gan.dataset import Data
    from gradlens.redesign.gan.run import Progress
    from gradlens.redesign.proposals import Proposal

SHOWN = 8  # samples of each that are kept
LOOKS = 12  # measurements in a brief training
BLAMED = 32  # samples at which the discriminator's gradient is looked into
SAVED = 1000  # steps between checkpoints
WIDTH = 32  # of a fresh discriminator
ACCELERATORS = ("cpu", "cuda", "mps")
TRIALS, WINNER = ".trials", "winner"


@Parameter(name="*")
@dataclass(frozen=True)
class Retraining:
    """What to redesign; whether designs are tried by training, on what, and for how long."""

    model: Annotated[
        str, Parameter(help="Bundled name (gradlens ls models), timm name, checkpoint, or package.module:factory.")
    ] = "resnet18_half"
    _: KW_ONLY
    train: Annotated[
        bool,
        Parameter(
            help="Train designs for a generator briefly, pick one by lattice and FD, train it longer; with the defaults about "
            "a quarter of an hour on one core."
        ),
    ] = False
    data: Annotated[
        tuple[Path, ...],
        Parameter(help="For --train: pictures to learn, folders, zip files, files.", consume_multiple=True),
    ] = ()
    brief_steps: Annotated[int, Parameter(help="For --train: steps of each design and of the network as it is.")] = 200
    steps: Annotated[int, Parameter(help="For --train: steps of the chosen one, the brief ones included.")] = 600
    batch_size: Annotated[int, Parameter(help="For --train: images a step.")] = 32
    rated: Annotated[int, Parameter(help="For --train: samples that FD and KID are taken of.")] = 400
    discriminator: Annotated[
        str,
        Parameter(
            help="For --train: auto (the network's own where it has one, else staged), staged (fresh), or "
            "package.module:factory."
        ),
    ] = "auto"
    discriminator_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For staged or the factory: --discriminator-args.width 64.")
    ] = field(default_factory=dict)


def check_early(config: Retraining) -> None:
    """Refuse what can be refused before PyTorch is loaded.

    Raises:
        ValueError: a flag is out of its range.
    """
    if not config.train:
        default = Retraining()
        for name in ("data", "brief_steps", "steps", "batch_size", "rated", "discriminator", "discriminator_args"):
            if getattr(config, name) != getattr(default, name):
                raise ValueError(f"--{name.replace('_', '-')}: is for --train; add --train, or leave it out")
        return
    if not config.data:
        raise ValueError("--data: --train learns from pictures; name a folder or zip file of them")
    for path in config.data:
        if not path.exists():
            raise ValueError(f"--data: there is no {str(path)!r}")
    for name, least in (("brief_steps", 1), ("batch_size", 2), ("rated", 20)):
        if getattr(config, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: must be at least {least}, got {getattr(config, name)}")
    if config.steps < config.brief_steps:
        raise ValueError(f"--steps: must be at least --brief-steps={config.brief_steps}, got {config.steps}")


@dataclass(frozen=True)
class Task:
    """What is redesigned: a generator with its latents, what builds it, and the flags that decide how."""

    model: "Model"
    example: "Tensor"
    name: str  # as it was asked for
    built_by: tuple[str, Mapping[str, Any]]
    flags: Retraining
    to: Sequence[str] | None
    layers: Sequence[str] | None
    periods: Sequence[int]
    seed: int
    device: str
    command: str


def retrain(task: Task, folder: Path) -> Results:
    """Do the whole job; the chosen generator's run of training is left in `folder/winner`.

    Raises:
        ValueError: the network is no generator of vectors, or nothing can be proposed; the message names what and the remedy.
    """
    side, channels = _checked(task)
    from gradlens.redesign.gan.dataset import read
    from gradlens.redesign.proposals import propose

    data = read(task.flags.data, side, channels=channels, seed=task.seed)
    proposals, refused = propose(
        task.model, *task.built_by, task.example, to=task.to, layers=task.layers, seed=task.seed
    )
    run = _Course(task, data, proposals, folder)
    say(f"{len(proposals) - 1} designs pass: {', '.join(p.name for p in proposals[1:])}")
    try:
        run.read_verdicts()
        run.look_untrained()
        run.try_briefly()
        run.train_chosen()
    except KeyboardInterrupt:
        if not run.stages:
            raise
        run.partial = True
    finally:
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
    return run.results(refused)


def _checked(task: Task) -> tuple[int, int]:
    """Side and channels of the images.

    Raises:
        ValueError: the network does not make square images in [-1, 1] of vectors.
    """
    import torch

    info, name = task.model.info, task.model.info.name
    size = info.input_size
    if info.role != "generator" or not (len(size) == 1 or (len(size) == 3 and size[1:] == (1, 1))):
        raise ValueError(
            f"--train: needs a generator of latents [N L] or [N L 1 1]; {name!r} is a {info.role} of {list(size)}"
        )
    if set(info.mean) != {0.5} or set(info.std) != {0.5}:
        raise ValueError(
            f"--train: needs a network whose images are in [-1, 1] (a tanh at the end); of {name!r} an image is output * "
            f"{list(info.std)} + {list(info.mean)}; give --mean 0.5 --std 0.5 if that is wrong"
        )
    with torch.no_grad():
        made = task.model(task.example[:2])
    if made.ndim != 4 or made.shape[1] not in (1, 3) or made.shape[2] != made.shape[3]:
        raise ValueError(f"--train: needs square grey or RGB images, {name!r} makes {list(made.shape[1:])}")
    if made.shape[2] < 8:
        raise ValueError(f"--train: needs images of at least 8 px, {name!r} makes {made.shape[2]} px")
    return made.shape[2], made.shape[1]


class _Course:
    """The job under way: what is measured is kept as it comes, so that an interruption loses only what is not done."""

    def __init__(self, task: Task, data: "Data", proposals: "Sequence[Proposal]", folder: Path) -> None:
        from gradlens.redesign.gan.outcome import some_real

        self.task, self.data, self.folder = task, data, folder
        self.proposals = {p.name: p for p in proposals}
        self.tables: list[pd.DataFrame] = []
        self.arrays: dict[str, Any] = {}
        self.stages: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {}
        self.partial = False
        side = data.images.shape[-1]
        self.periods = tuple(p for p in task.periods if p <= side // 4)
        if not self.periods:
            raise ValueError(f"--periods: must be at most a quarter of {side} px, got {list(task.periods)}")
        self.discriminator, self.against = _discriminator(task, data)
        self.plain = _config(task, data, self.proposals["before"], self.against, self.periods)
        self.real = some_real(data.images, self.plain)

    # before training

    def read_verdicts(self) -> None:
        """What the architecture predicts of each design, and which layer of the discriminator writes into the gradient."""
        from gradlens.models import bare

        size, notes = self.task.model.info.input_size, {}
        for name, proposal in self.proposals.items():
            network = bare(self.task.model if proposal.report is None else proposal.report.model)
            rows, why = _predicted(network, size, name, self.periods)
            self.tables.append(rows)
            if why:
                notes[f"prediction of {name}"] = why
        rows, why = _blamed(self.discriminator, self.task, self.periods)
        self.tables.append(rows)
        if why:
            notes["blame"] = why
        self.told["notes"] = notes

    def look_untrained(self) -> None:
        """Measure and rate the network as it is and every design before any training."""
        from gradlens.redesign.gan.instruments import settle
        from gradlens.redesign.gan.outcome import lattices
        from gradlens.redesign.proposals import FRESH

        table, power = lattices(self.real.float() / 255, "data", "image", self.periods)
        self.tables.append(table)
        self.arrays |= {"power/data": power, "picture/data": (self.real[:SHOWN].float() / 255).numpy()}
        for name, proposal in self.proposals.items():
            say(f"measuring {name}, untrained")
            if name == FRESH:
                settle(proposal.network, self.task.example.flatten(1))
            self._look(name, proposal.network)
            self.stages.append({"design": name, "steps": 0, "label": name})
            self._costs(proposal)

    def _look(self, label: str, network: "nn.Module") -> None:
        """Measure and rate what a network makes of latents that are the same for all."""
        from gradlens.redesign.gan.instruments import generated
        from gradlens.redesign.gan.outcome import lattices, rated, rated_latents

        samples = generated(network, rated_latents(self.plain))
        table, power = lattices(samples, label, "sample", self.periods)
        quality = rated(samples[: self.plain.rated], self.real, self.plain)
        quality["model"] = [label if subject == "sample" else "data" for subject in quality["subject"]]
        self.tables += [table, quality if label == "before" else quality.loc[quality["subject"] == "sample"]]
        self.arrays |= {f"picture/{label}": samples[:SHOWN].numpy(), f"power/{label}": power}

    def _costs(self, proposal: "Proposal") -> None:
        """Drift, and of each layer the deviation of its certificate and its multiplications."""
        import pandas as pd

        if proposal.report is None:
            return
        common = {"model": proposal.name, "subject": "redesign", "image": "", "n": 1, "unit": "1"}
        rows: list[dict[str, Any]] = [common | {"layer": "", "metric": "drift", "value": proposal.report.drift}]
        for record in proposal.report.table.to_dict("records"):
            for metric in ("deviation", "parameters", "multiplications"):
                named = "certificate_deviation" if metric == "deviation" else metric
                rows += [
                    common | {"layer": record["layer"], "kind": kind, "metric": named, "value": record[f"{metric}_{kind}"]}
                    for kind in ("before", "after")
                ]  # fmt: skip
        self.tables.append(pd.DataFrame(rows))

    # training

    def try_briefly(self) -> None:
        """Train the network as it is and each design for a few steps, each from the same discriminator on the same batches."""
        from gradlens.redesign.gan.run import DivergedError

        steps = self.task.flags.brief_steps
        began, total = time.perf_counter(), len(self.proposals)
        for number, (name, proposal) in enumerate(self.proposals.items(), start=1):
            say(f"training {name}, {steps} steps ({number} of {total})")
            try:
                self._train(proposal, steps, self.folder / TRIALS / name)
            except DivergedError as error:  # one design: the others go on
                say(f"{name}: {error}")
                self.told["notes"][f"training of {name}"] = str(error)
            if number == 1 and not self.partial:
                each = time.perf_counter() - began
                left = each * (total - 1 + (self.task.flags.steps - steps) / steps)
                say(f"that took {each:.0f} s; about {max(1, round(left / 60))} min to go")
            if self.partial:
                return

    def train_chosen(self) -> None:
        """Pick by the front, and go on training what was picked."""
        if self.partial:
            return
        import pandas as pd

        from gradlens.redesign.choice import RULE, choose

        brief = {stage["design"]: stage["label"] for stage in self.stages if stage["steps"]}
        if not brief:
            raise ValueError(f"--train: every training diverged ({'; '.join(self.told['notes'].values())})")
        choice = choose(pd.concat(self.tables), list(brief.values()), control=brief.get("before", ""))
        chosen = next(name for name, label in brief.items() if label == choice.chosen)
        self.told["choice"] = {
            "design": chosen, "label": choice.chosen, "why": choice.why, "metric": choice.metric,
            "rule": RULE.format(metric=choice.metric or "the distance (too few samples here: 0)"),
            "points": {label: point.tolist() for label, point in zip(choice.labels, choice.points, strict=True)},
            "front": [label for label, best in zip(choice.labels, choice.front, strict=True) if best],
        }  # fmt: skip
        say(f"chosen: {chosen}, {choice.why}")
        (self.folder / TRIALS / chosen).rename(self.folder / WINNER)
        steps = self.task.flags.steps
        say(f"training {chosen} on, to {steps} steps")
        results = self._train(self.proposals[chosen], steps, self.folder / WINNER, resume=True)
        self._leave(results)

    def _train(self, proposal: "Proposal", steps: int, folder: Path, *, resume: bool = False) -> Results:
        """Train a design to `steps`, and keep what was measured of it."""
        from gradlens.redesign import train
        from gradlens.redesign.gan.build import Ready

        folder.mkdir(parents=True, exist_ok=True)
        config = replace(
            _config(self.task, self.data, proposal, self.against, self.periods), steps=steps,
            rated=self.plain.rated if resume else 0, log_every=max(1, steps // LOOKS),
            save_every=min(steps, SAVED), draw_every=steps,
        )  # fmt: skip
        origin = f"gradlens redesign of {self.task.name}, {proposal.name}"
        ready = Ready(proposal.network, self.discriminator, origin, proposal.recipe, proposal.enlarging)
        results = train(config, _tell, folder=folder, resume=resume, images=self.data, networks=ready)
        self.partial = bool(results.manifest["partial"])
        self._take_in(proposal, results, folder)
        return results

    def _take_in(self, proposal: "Proposal", results: Results, folder: Path) -> None:
        """Keep what a training found, under its label, and look at the generator that it left."""
        import pandas as pd

        from gradlens.checkpoints import newest, read_state

        training = results.manifest["training"]
        label = f"{proposal.name}, {training['steps']} steps"
        self.arrays |= {f"log/{proposal.name}/{k[4:]}": v for k, v in results.arrays.items() if k.startswith("log/")}
        if any(stage["label"] == label for stage in self.stages):
            return
        network = deepcopy(proposal.network)
        network.load_state_dict(read_state(newest(folder) / "generator.safetensors"))
        self._look(label, network)
        common = {"model": label, "subject": "redesign", "image": "", "kind": "after", "n": 1, "unit": "1"}
        layers = training["generator"]["layers"]
        rows = [
            common | {"layer": x["layer"], "metric": "certificate_deviation", "value": x["deviation"]} for x in layers
        ]
        gradient = results.table.loc[results.table["subject"] == "input-gradient"].assign(model=label)
        self.tables += [gradient, pd.DataFrame(rows)]
        self.stages.append(
            {
                "design": proposal.name, "steps": training["steps"], "label": label, "layers": layers,
                "images_per_second": training["images_per_second"],
            }
        )  # fmt: skip

    def _leave(self, results: Results) -> None:
        """Let the chosen run stand as one of `gradlens train`, with its report."""
        from gradlens.report import write_report

        folder = self.folder / WINNER
        told = dict(results.manifest) | {"command": self.task.command}
        Results(results.table, results.arrays, told).write(folder)
        write_report(folder)

    # what is kept

    def results(self, refused: Mapping[str, str]) -> Results:
        """All of it, for the pages."""
        import pandas as pd
        import torch

        rows = pd.concat([t for t in self.tables if len(t)], ignore_index=True).reindex(columns=list(COLUMNS))
        surgery = [
            {"design": name} | {k: v for k, v in record.items() if v == v}  # NaN is no JSON
            for name, proposal in self.proposals.items()
            if proposal.report is not None
            for record in proposal.report.table.to_dict("records")
        ]
        told = asdict(self.task.model.info) | self.told | {
            "designs": list(self.proposals), "refused": dict(refused), "stages": self.stages, "layers": surgery,
            "periods": list(self.periods), "data": self.data.told, "discriminator": self.against["words"],
            "brief_steps": self.task.flags.brief_steps, "steps": self.task.flags.steps,
            "batch_size": self.task.flags.batch_size, "learning_rate": self.plain.learning_rate, "loss": self.plain.loss,
            "recipes": {name: list(p.recipe) for name, p in self.proposals.items() if p.recipe},
        }  # fmt: skip
        manifest = circumstances() | {
            "command": self.task.command, "retrained": told, "seed": self.task.seed, "device": self.task.device,
            "threads": torch.get_num_threads(), "partial": self.partial,
        }  # fmt: skip
        return Results(rows, self.arrays, manifest)


def _tell(progress: "Progress") -> None:
    """One line of a training under way."""
    values = progress.values
    period = min(int(name.rsplit("/", 1)[1]) for name in values if name.startswith("sample/signed/"))
    if progress.step:
        speed, lattice = values["images_per_second"], values[f"sample/signed/{period}"]
        say(f"step {progress.step} of {progress.steps}: {speed:,.0f} images/s; lattice of {period} px {lattice:.1f} dB")


def _config(
    task: Task, data: "Data", proposal: "Proposal", against: Mapping[str, Any], periods: tuple[int, ...]
) -> "TrainConfig":
    """The training of one design."""
    from gradlens.redesign import TrainConfig

    kind, _, number = task.device.partition(":")
    if kind not in ACCELERATORS or int(number or 0):
        raise ValueError(f"--device: --train takes {', '.join(ACCELERATORS)}, got {task.device!r}")
    return TrainConfig(
        task.flags.data, generator=proposal.builder, generator_args=dict(proposal.arguments),
        discriminator=against["builder"], discriminator_args=dict(against["arguments"]), width=WIDTH,
        resolution=data.images.shape[-1], channels=data.images.shape[1], latent=task.model.info.input_size[0],
        periods=periods, batch_size=task.flags.batch_size, steps=task.flags.brief_steps, rated=task.flags.rated,
        seed=task.seed, devices="1", accelerator=kind,
    )  # fmt: skip


def _discriminator(task: Task, data: "Data") -> "tuple[nn.Module, dict[str, Any]]":
    """The network that all are trained against, with `builder` and `arguments` for the configuration, and in `words`."""
    from gradlens import models
    from gradlens.redesign import TrainConfig
    from gradlens.redesign.gan.build import fresh_discriminator

    _, channels, side, _ = data.images.shape
    wanted = task.flags.discriminator
    pair = _pair(task.name) if wanted == "auto" else None
    if pair is not None:
        own = models.discriminator(pair)
        if own.info.input_size == (channels, side, side):
            builder, arguments = models.built_by(pair, "discriminator")
            words = f"its own, {builder.rsplit(':', 1)[-1]}, {own.info.weights}"
            return own.network, {"builder": builder, "arguments": arguments, "words": words}
    name = "staged" if wanted == "auto" else wanted
    config = TrainConfig(
        discriminator=name, discriminator_args=task.flags.discriminator_args, width=WIDTH, resolution=side,
        channels=channels, seed=task.seed,
    )  # fmt: skip
    words = "a fresh StagedDiscriminator (averaged strides, spectral norm)" if name == "staged" else f"a fresh {name}"
    return fresh_discriminator(config), {
        "builder": name, "arguments": task.flags.discriminator_args, "words": f"{words}, seed {task.seed}",
    }  # fmt: skip


def _pair(name: str) -> str | None:
    """What `models.discriminator` calls the other network of a pair; None where there is none."""
    from gradlens.checkpoints import newest
    from gradlens.models import BUNDLED

    if name in BUNDLED:
        return name if "discriminator" in BUNDLED[name] else None
    path = Path(name)
    if ":" in name or not path.exists():
        return None
    beside = (newest(path) if path.is_dir() else path.parent) / "discriminator.safetensors"
    return str(beside) if beside.is_file() else None


def _predicted(
    network: "nn.Module", size: Sequence[int], name: str, periods: Sequence[int]
) -> "tuple[pd.DataFrame, str]":
    """How unevenly the energy of an image will lie, from the architecture alone; and why that is not known."""
    import pandas as pd

    from gradlens.geometry import energy_map
    from gradlens.spectra import phase_imbalance

    try:
        amplitude = energy_map(network, size, direction="forward").sqrt()[None, None]
    except (NotImplementedError, ValueError) as error:
        return pd.DataFrame(columns=list(COLUMNS)), str(error)
    common = {"model": name, "subject": "sample", "layer": "", "image": "", "kind": "phase", "n": 1, "unit": "1"}
    return pd.DataFrame(
        [
            common
            | {
                "metric": "predicted_imbalance",
                "period": period,
                "value": phase_imbalance(amplitude, period, debias=False).item(),
            }
            for period in periods
        ]
    ), ""


def _blamed(discriminator: "nn.Module", task: Task, periods: Sequence[int]) -> "tuple[pd.DataFrame, str]":
    """Which layers of the discriminator write lattices into the gradient that the generator learns from; or why not known."""
    import pandas as pd
    import torch

    from gradlens.causes import blame

    with torch.no_grad():
        samples = 2 * task.model(task.example[:BLAMED]) - 1
    try:
        table = blame(discriminator, samples, periods=periods, score=_logit, seed=task.seed)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        return pd.DataFrame(columns=list(COLUMNS)), " ".join(str(error).split())
    kept = table["metric"].isin(["as_is", "all_replaced", "shapley"]) & (table["image"] == "")
    return table.loc[kept].assign(model="discriminator"), ""


def _logit(output: "Tensor") -> "Tensor":
    return output.flatten()


def write_pictures(results: Results, folder: Path) -> None:
    """Write eight samples at every step, a row each, real images last, at native size as `steps.png`."""
    import numpy as np

    from gradlens.figures import png

    labels = [stage["label"] for stage in results.manifest["retrained"]["stages"]] + ["data"]
    rows = [
        np.concatenate(list(results.arrays[f"picture/{label}"]), axis=2)
        for label in labels
        if f"picture/{label}" in results.arrays
    ]
    if rows:
        write_whole(folder / "steps.png", png(np.concatenate(rows, axis=1)))
