"""What the analyses of GANs share: the data of the assets, one small setting for all, and the cells they have in common.

On a machine without a GPU runs are shortened; the manifest says so. Figures compare within a setting, not with papers.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from cyclopts import Parameter
from torch import Tensor

from gradlens.console import command_line, say
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


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What every analysis of GANs asks: which data and seeds, and where the training runs lie."""

    assets: Annotated[Path, Parameter(help="Folder of the assets.")] = Path("../shared/assets")
    _: KW_ONLY
    cells: Annotated[Path, Parameter(help="Folder of the training runs; a finished one is not run again.")] = Path(
        "runs/gans"
    )
    resolution: Annotated[int, Parameter(help="32: CIFAR-10, 64: Tiny ImageNet.")] = 32
    seeds: Annotated[tuple[int, ...], Parameter(help="Of weights, latents and order.", consume_multiple=True)] = SEEDS
    steps: Annotated[int | None, Parameter(help="Of training; 20,000 on a GPU, 1,000 without, unless given.")] = None
    train: Annotated[
        bool, Parameter(help="Train what is missing; otherwise go on with what is there.", negative="--no-train")
    ] = True
    workers: Annotated[int | None, Parameter(help="Runs at once; one a GPU unless given.")] = None
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/ANALYSIS-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False

    def __post_init__(self) -> None:
        if self.resolution not in DATA:
            raise ValueError(f"--resolution: must be one of {', '.join(map(str, DATA))}, got {self.resolution}")


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
    if not assets.is_dir():
        raise ValueError(f"assets: there is no folder {str(assets)!r}")
    training, others = (read([assets / name], resolution) for name in DATA[resolution])
    return training, others.images


Key = TypeVar("Key")


def trained(asked: Mapping[Key, TrainConfig], config: Config) -> tuple[dict[Key, Cell], Data]:
    """The cell of everything that is asked for, run where it was not (unless `config.train` is off), and their data."""
    data, others = pictures(config.assets, config.resolution)
    if config.train:
        found = run_grid(asked.values(), data.images, config.cells, held_out=others, workers=config.workers)
    else:
        found = cells(asked.values(), config.cells, of_tensor(data.images).sha256)
    missing = [cell.folder.name for cell in found if not cell.finished]
    if missing:
        say(f"{len(missing)} of {len(found)} cells are not there: {', '.join(missing)}")
    of_config = {repr(cell.config): cell for cell in found}  # what is asked for twice is one cell
    return {key: of_config[repr(one)] for key, one in asked.items()}, data


def command(analysis: str, config: Config) -> str:
    """The command of a run, with what it gave beside the folders."""
    told = replace(config, assets=Config.assets, cells=Config.cells, workers=None)
    return command_line(["python", "-m", f"analyses.{analysis}", "ASSETS"], told, "assets")
