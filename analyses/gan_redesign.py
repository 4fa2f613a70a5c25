"""Which upsampler and downsampler make a generator without a lattice that is still good, and is the difference more than the seeds?

Any set of upsamplers, downsamplers, losses and seeds, trained as one grid that may be stopped and taken up again. Artifact-free and
a low Frechet distance are different axes (in Chandrasegaran et al. 2021 zero-insertion often has the better one), so what comes out
is a front: designs that no other beats in both the lattice of samples and FD. How sure a place on it is, is told by drawing the
seeds again. On a CPU, where the whole product is too much, each downsampler meets the resize-convolution and each upsampler the
first downsampler. Run: `python -m analyses.gan_redesign ASSETS`.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter

from analyses.gans import SEEDS, setting, trained
from gradlens.compare import interval
from gradlens.console import application, plain
from gradlens.console import run as run_command
from gradlens.redesign.gan.config import LossName, TrainConfig
from gradlens.redesign.grid import Cell, front, over_seeds
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder

UPSAMPLERS = (
    "resize", "resize_bilinear", "deconv:4", "deconv:5", "subpixel", "subpixel_icnr", "hold_a", "hold_b", "hold_c",
    "pixeldcl", "pixeldcl_masked", "sinc",
)  # fmt: skip
DOWNSAMPLERS = ("stride2:5", "stride1:5", "blur:5", "hold:5")
REFERENCE = "resize"
PERIODS = (2, 4)
DRAWS = 2000
KEPT = (  # what the table keeps of a cell
    "lattice_contrast", "set_imbalance", "FD", "KID", "training_share", "copied_share", "spectrum_distance", "radial_distance",
    "images_per_second",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Which grid, and where its cells are kept."""

    assets: Annotated[Path, Parameter(help="Folder of the assets.")] = Path("../shared/assets")
    _: KW_ONLY
    upsamplers: Annotated[tuple[str, ...], Parameter(help="Of generators.", consume_multiple=True)] = UPSAMPLERS
    downsamplers: Annotated[tuple[str, ...], Parameter(help="Of discriminators.", consume_multiple=True)] = DOWNSAMPLERS
    losses: Annotated[tuple[LossName, ...], Parameter(help="Adversarial losses.", consume_multiple=True)] = ("hinge",)
    seeds: Annotated[tuple[int, ...], Parameter(help="Of weights, latents and order.", consume_multiple=True)] = SEEDS
    cross: Annotated[
        bool | None, Parameter(help="The whole product; on a GPU unless given.", negative="no-")
    ] = None
    resolution: Annotated[int, Parameter(help="32: CIFAR-10; 64: Tiny ImageNet.")] = 32
    steps: Annotated[int | None, Parameter(help="Of each run; 20,000 on a GPU, 1,000 without.")] = None
    cells: Annotated[Path, Parameter(help="Folder of the cells, shared by the analyses of GANs.")] = Path("runs/gans")
    workers: Annotated[int | None, Parameter(help="Cells at once; one a GPU unless given.")] = None
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/gan_redesign-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def configs(config: Config) -> list[TrainConfig]:
    """What is trained, every design of one seed before the next seed."""
    base = setting(config.resolution, config.steps)
    whole = torch.cuda.is_available() if config.cross is None else config.cross
    first = config.downsamplers[0]
    pairs = [
        (up, down)
        for up, down in product(config.upsamplers, config.downsamplers)
        if whole or down == first or up == REFERENCE
    ]
    return [
        replace(base, upsampler=(up,), downsampler=(down,), loss=loss, seed=seed)
        for seed in config.seeds
        for loss in config.losses
        for up, down in pairs
    ]


def name(config: TrainConfig) -> str:
    """A design: `resize/stride2:5`, with its loss where that is not hinge."""
    return config.label if config.loss == "hinge" else f"{config.label}, {config.loss}"
