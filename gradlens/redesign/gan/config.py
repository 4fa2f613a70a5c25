"""What a GAN is trained from and how: one frozen dataclass, for Python and for the command line. Nothing here loads torch."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Precision = Literal["auto", "float32", "bfloat16"]
LossName = Literal["non-saturating", "hinge", "wasserstein-gp", "relativistic"]
MAY_CHANGE = (
    "data",  # where the same pictures lie
    "held_out",
    "steps",
    "devices",
    "accelerator",
    "log_every",
    "save_every",
    "draw_every",
    "rated",
    "backbone",
)  # on resume


@Parameter(name="*")
@dataclass(frozen=True)
class TrainConfig:
    """A training run. `MAY_CHANGE` names what may differ when it is resumed; everything else decides the weights."""

    data: Annotated[
        tuple[Path, ...], Parameter(help="Pictures to learn: folders, zip files, files.", consume_multiple=True)
    ] = ()
    _: KW_ONLY
    upsampler: Annotated[
        tuple[str, ...],
        Parameter(
            help="How the generator enlarges: a key of gradlens.upsampling, with its kernel if you like (deconv:5); one for all "
            "stages, or one for each from 4 px up.",
            consume_multiple=True,
        ),
    ] = ("resize",)
    downsampler: Annotated[
        tuple[str, ...],
        Parameter(
            help="How the discriminator shrinks: a key of gradlens.downsampling, likewise; from the image down.",
            consume_multiple=True,
        ),
    ] = ("stride1",)
    first: Annotated[str | None, Parameter(help="How its first layer shrinks; as the others unless given.")] = None
    resolution: Annotated[int, Parameter(help="Side of an image in pixels: 32, 64, 128, 256.")] = 64
    channels: Annotated[int, Parameter(help="3 for colour, 1 for grey.")] = 3
    patches: Annotated[
        int, Parameter(help="Cut so many random squares out of each picture; 0: the middle of each, once.")
    ] = 0
    limit: Annotated[int | None, Parameter(help="At most so many pictures.")] = None
    generator: Annotated[str, Parameter(help="staged (DCGAN), residual, neutral, or package.module:factory.")] = (
        "staged"
    )
    discriminator: Annotated[str, Parameter(help="staged, or package.module:factory.")] = "staged"
    generator_args: Annotated[
        dict[str, int | float | bool | str],
        Parameter(help="For the generator or its factory: --generator-args.depth 4."),
    ] = field(default_factory=dict)
    discriminator_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For the discriminator or its factory.")
    ] = field(default_factory=dict)
    width: Annotated[int, Parameter(help="Channels at full resolution.")] = 64
    latent: Annotated[int, Parameter(help="Size of a latent vector.")] = 128
    norm: Annotated[Literal["spectral", "batch", "none"], Parameter(help="Of the discriminator.")] = "spectral"
    loss: Annotated[LossName, Parameter(help="Adversarial loss.")] = "hinge"
    augment: Annotated[
        tuple[str, ...], Parameter(help="For little data: colour, translation, cutout, flip.", consume_multiple=True)
    ] = ()
    lattice_weight: Annotated[float, Parameter(help="Of the lattice loss of the samples, in the generator's loss.")] = (
        0.0
    )
    spectrum_weight: Annotated[float, Parameter(help="Of their spectrum distance to the real batch, likewise.")] = 0.0
    periods: Annotated[
        tuple[int, ...] | None,
        Parameter(help="To measure, in pixels; 2 and 4, and 8 from 64 px on, unless given.", consume_multiple=True),
    ] = None
    batch_size: Annotated[int, Parameter(help="Images a step, over all devices.")] = 64
    steps: Annotated[int, Parameter(help="Steps of the generator.")] = 20_000
    learning_rate: Annotated[float, Parameter(help="Of Adam, for both networks.")] = 2e-4
    betas: Annotated[tuple[float, float], Parameter(help="Of Adam.")] = (0.5, 0.999)
    average: Annotated[
        float, Parameter(help="Of the generator's weights: the share of yesterday's that a step keeps.")
    ] = 0.999
    seed: Annotated[int, Parameter(help="Of weights, latents and the order of images.")] = 0
    devices: Annotated[str, Parameter(help="auto, or how many.")] = "auto"
    accelerator: Annotated[str, Parameter(help="auto, cpu, cuda, mps.")] = "auto"
    precision: Annotated[Precision, Parameter(help="auto: bfloat16 where a GPU has it.")] = "auto"
    compile: Annotated[
        bool | None, Parameter(help="torch.compile and CUDA graphs; on a GPU unless given.", negative="--no-compile")
    ] = None
    log_every: Annotated[int, Parameter(help="Steps between measurements.")] = 100
    save_every: Annotated[int, Parameter(help="Steps between checkpoints.")] = 1000
    draw_every: Annotated[int, Parameter(help="Steps between grids of samples.")] = 1000
    rated: Annotated[int, Parameter(help="Samples that are rated at the end (FD, KID, memorising); 0: none.")] = 1000
    held_out: Annotated[
        tuple[Path, ...],
        Parameter(help="Pictures that are not trained on, to tell learning from memorising.", consume_multiple=True),
    ] = ()
    backbone: Annotated[str, Parameter(help="Network whose features rate them.")] = "resnet18_half"

    @property
    def label(self) -> str:
        """The run's name in tables, such as `resize/stride1`."""
        made = "-".join(self.upsampler) if self.generator in ("staged", "residual") else self.generator
        if self.discriminator != "staged":
            return f"{made}/{self.discriminator}"
        shrunk = "-".join(self.downsampler)
        return f"{made}/{shrunk}" if self.first is None else f"{made}/{self.first}+{shrunk}"

    @property
    def measured(self) -> tuple[int, ...]:
        """The periods that are measured."""
        if self.periods is not None:
            return self.periods
        return (2, 4) if self.resolution < 64 else (2, 4, 8)


AT_LEAST = {
    "resolution": 8, "patches": 0, "width": 1, "latent": 1, "batch_size": 2, "steps": 1, "log_every": 1, "save_every": 1,
    "draw_every": 1, "rated": 0, "seed": 0, "lattice_weight": 0, "spectrum_weight": 0,
}  # fmt: skip


def check(config: TrainConfig) -> None:
    """Refuse what can be refused before torch is loaded.

    Raises:
        ValueError: a field is out of its range; the message names its flag.
    """
    for name, least in AT_LEAST.items():
        value = getattr(config, name)
        if not (isfinite(value) and value >= least):
            raise ValueError(f"{_flag(name)}: must be at least {least}, got {value}")
    side = config.resolution
    if config.generator in ("staged", "residual") and side & (side - 1):
        raise ValueError(f"--resolution: must be 32, 64, 128, 256 or another power of two, got {side}")
    if config.limit is not None and config.limit < 1:
        raise ValueError(f"--limit: must be at least 1, got {config.limit}")
    if config.channels not in (1, 3):
        raise ValueError(f"--channels: must be 1 or 3, got {config.channels}")
    if config.seed >= 2**31:
        raise ValueError(f"--seed: must be below 2**31, got {config.seed}")
    if not (isfinite(config.learning_rate) and config.learning_rate > 0):
        raise ValueError(f"--learning-rate: must be above 0, got {config.learning_rate}")
    if not 0 <= config.average < 1:
        raise ValueError(f"--average: must be from 0 to below 1, got {config.average}")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"--betas: must be from 0 to below 1, got {list(config.betas)}")
    for period in config.measured:
        if not 2 <= period <= side // 4:
            raise ValueError(f"--periods: must be from 2 to a quarter of the resolution, {side // 4}, got {period}")
    if config.devices != "auto" and not (config.devices.isdecimal() and int(config.devices) > 0):
        raise ValueError(f"--devices: must be auto or a number, got {config.devices!r}")
    if (
        config.loss in ("wasserstein-gp", "relativistic")
        and config.norm == "batch"
        and config.discriminator == "staged"
    ):
        raise ValueError(
            f"--norm: {config.loss} penalises each image alone, which batch norm mixes; use spectral or none"
        )


def stored(told: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a manifest or checkpoint holds as JSON."""
    known = {f.name for f in fields(TrainConfig)}
    made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known}
    made |= {name: tuple(map(Path, told[name])) for name in ("data", "held_out")}
    return TrainConfig(**made)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
