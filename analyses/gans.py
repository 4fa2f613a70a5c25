"""What the analyses of GANs share: the data of the assets, one small setting for all, and the cells they have in common.

On a machine without a GPU runs are shortened; the manifest says so. Figures compare within a setting, not with papers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.console import say
from gradlens.networks.stages import stage_count
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import Data, of_tensor, read
from gradlens.redesign.grid import Cell, cells, run_grid

SEEDS = (0, 1, 2)
SHORT = TrainConfig(  # on a CPU: two to three minutes of one core a run
    resolution=32, width=16, batch_size=64, steps=1000, average=0.99, log_every=25, draw_every=250, save_every=500, rated=500,
    downsampler=("stride2:5",),
)  # fmt: skip
LONG = replace(
    SHORT,
    width=64,
    batch_size=128,
    steps=20_000,
    average=0.999,
    log_every=200,
    draw_every=2000,
    save_every=5000,
    rated=2000,
)
GENERATORS: dict[str, dict[str, Any]] = {  # of the article, and the neutral one
    "deconvolution in the last two layers": {"upsampler": ("resize", "deconv:5", "deconv:5")},
    "deconvolution in the last layer": {"upsampler": ("resize", "resize", "deconv:5")},
    "resize-convolution in all layers": {"upsampler": ("resize",)},
    "neutral": {"generator": "neutral"},
}
FIRST = {"stride 2 in the first layer": None, "stride 1 in the first layer": "stride1:5"}
DATA = {
    32: ("data/cifar10/train.zip", "data/cifar10/test.zip"),
    64: ("data/tiny_imagenet/train.zip", "data/tiny_imagenet/val.zip"),
}


def setting(resolution: int, steps: int | None) -> TrainConfig:
    """What all cells have in common: long runs on a GPU, short ones without."""
    config = LONG if torch.cuda.is_available() else SHORT
    return replace(config, resolution=resolution, **({} if steps is None else {"steps": steps}))


def padded(fields: dict[str, Any], resolution: int) -> dict[str, Any]:
    """`fields` with as many words of `upsampler` as a generator of `resolution` has stages; one word stands for all."""
    words = fields.get("upsampler", ())
    if len(words) < 2:
        return fields
    return fields | {"upsampler": ("resize",) * (stage_count(resolution) - len(words)) + words}


def pictures(assets: Path, resolution: int) -> tuple[Data, Tensor]:
    """Training images of the assets, and others of the same kind that are not trained on."""
    training, others = (read([assets / name], resolution) for name in DATA[resolution])
    return training, others.images


def trained(
    configs: list[TrainConfig],
    assets: Path,
    folder: Path,
    *,
    resolution: int,
    workers: int | None,
    train: bool = True,
) -> tuple[list[Cell], Data]:
    """All cells of an analysis, run where they were not (unless `train` is off), and their data."""
    data, others = pictures(assets, resolution)
    if train:
        found = run_grid(configs, data.images, folder, held_out=others, workers=workers)
    else:
        found = cells(configs, folder, of_tensor(data.images).sha256)
    missing = [cell.folder.name for cell in found if not cell.finished]
    if missing:
        say(f"{len(missing)} of {len(found)} cells are not there: {', '.join(missing)}")
    return found, data
