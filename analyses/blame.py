"""How much of the lattice in an input gradient comes from strided convolution, and how much from max-pooling?

Odena, Dumoulin and Olah 2016 name both and measure neither. Every strided layer and pool of six networks is replaced in the
backward pass alone, one by one, all but one, and in every combination (`gradlens.causes.blame`); each has its Shapley
value. The remedy is chosen on half of the pictures and measured on the other half.

Run: `python -m analyses.blame ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

import gzip
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from torch import Tensor

from analyses.maxpool_gradients import networks
from gradlens import models
from gradlens.causes import blame, remedy
from gradlens.compare import interval, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import input_gradient
from gradlens.images import batches, fit, photographs
from gradlens.models import Model
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.rules import Rules, kinds
from gradlens.spectra import lattice_statistics

PERIODS = (2, 4, 8)
Pictures = Callable[[Path, Model, int], Tensor]


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and pictures are."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Pictures that are blamed; as many others test the remedy.")] = 12
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/blame-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def photos(assets: Path, model: Model, count: int) -> Tensor:
    """Photographs `[count 3 H W]` as the network sees them."""
    info = model.info
    found = photographs(assets / "data" / "photos" / "lossless", limit=count)
    _, images = next(
        batches(
            found, lambda p: fit(p, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct), count
        )
    )
    return images


def small(assets: Path, model: Model, count: int) -> Tensor:
    """Test images of CIFAR-10 `[count 3 32 32]`, of every class."""
    with zipfile.ZipFile(assets / "data" / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        chosen = names[:: len(names) // count][:count]
        pixels = [
            np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB"), np.float32) / 255 for name in chosen
        ]
    return torch.from_numpy(np.stack(pixels)).movedim(-1, 1)


def digits(assets: Path, model: Model, count: int) -> Tensor:
    """Test digits of MNIST `[count 1 28 28]`."""
    raw = gzip.decompress((assets / "data" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    levels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    return torch.from_numpy(levels.astype(np.float32) / 255)


def cases(assets: Path) -> dict[str, tuple[Callable[[], Model], Pictures]]:
    """How to load each network, and its pictures."""
    known = networks(assets)
    classifiers = ("resnet18_half", "resnetblur18_half", "resnet18, ImageNet", "mobilenetv2, ImageNet")
    found: dict[str, tuple[Callable[[], Model], Pictures]] = {name: (known[name][0], photos) for name in classifiers}
    mnist = assets / "weights" / "dcgan_mnist" / "netD_epoch_99.pth"
    return found | {
        "discriminator, SVHN": (models.discriminator, small),
        "discriminator, MNIST": (
            lambda: models.discriminator(
                "gradlens.networks:MNISTDiscriminator", weights=mnist, input_size=(1, 28, 28), mean=(0.5,), std=(0.5,)
            ),
            digits,
        ),
    }


def run(config: Config) -> Results:
    """For each network the contributions of its layers, of their kinds, and the remedy measured on other pictures."""
    known = cases(config.assets)
    tables = []
    with progress("networks", len(known)) as advance:
        for name, (load, pictures) in known.items():
            model = load()
            images = pictures(config.assets, model, 2 * config.count)
            tables += [table.assign(model=name) for table in _tables(model, images, config.count)]
            advance()
    manifest = circumstances() | {"command": "python -m analyses.blame ASSETS", "seed": 0, "count": config.count}
    return Results(pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS)), {}, manifest)


def _tables(model: Model, images: Tensor, count: int) -> Iterator[pd.DataFrame]:
    """Rows of one network: by layer (subject `input-gradient`), by kind (`kinds`), and the remedy (`remedy`)."""
    periods = [period for period in PERIODS if 4 * period <= min(images.shape[2:])]
    first, others = images[:count], images[count:]
    table = blame(model, first, periods=periods)
    yield table.loc[(table["image"] == "") & (table["kind"] != "phase")]
    yield _by_kind(table, kinds(model, tuple(images.shape[1:]))).assign(subject="kinds")
    cure = remedy(table)
    if cure is None:
        return
    before = input_gradient(model, others)
    with Rules(model, dict.fromkeys(cure.players, "held")):
        after = input_gradient(model, others)
    for words, x in (("as it is", before), (" + ".join(cure.players), after)):
        rows = measure(lattice_statistics(x, periods), model="", subject="remedy", layer=words)
        yield rows.loc[rows["metric"] == "lattice_contrast"]


def _by_kind(table: pd.DataFrame, known: dict[str, str]) -> pd.DataFrame:
    """The Shapley values of each image summed over the layers of a kind: stem, shortcut, strided, pool; their mean."""
    own = table.loc[(table["metric"] == "shapley") & (table["image"] != "") & (table["kind"] != "phase")]
    own = own.assign(layer=[known[layer].split(" ")[0] for layer in own["layer"]])
    sums = own.groupby(["layer", "period", "kind", "image"], sort=False)["value"].sum(min_count=1).reset_index()
    rows = []
    for (layer, period, kind), part in sums.groupby(["layer", "period", "kind"], sort=False):
        values = part["value"].dropna().to_numpy()
        low, high = interval(values)
        mean = values.mean() if len(values) else float("nan")
        rows.append(
            {
                "layer": layer,
                "period": period,
                "kind": kind,
                "metric": "shapley",
                "value": mean,
                "low": low,
                "high": high,
            }
            | {"image": "", "n": len(values), "unit": "dB"}
        )
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.blame", "Which layers write the lattice of an input gradient?")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "blame")
        with new_run(target, "blame", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        shown = t.loc[(t["metric"] == "shapley") & (t["subject"] == "kinds")]
        wide = shown.pivot_table(index=["model", "layer"], columns=["kind", "period"], values="value", sort=False)
        print(wide.to_string(float_format="{:.1f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
