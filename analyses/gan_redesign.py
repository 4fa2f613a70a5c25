"""Which upsampler and downsampler make a generator without a lattice that is still good, and is it more than the seeds?

Any set of upsamplers, downsamplers, losses and seeds, trained as one grid that may be stopped and taken up again. Artifact-free
and a low Frechet distance are different axes (in Chandrasegaran et al. 2021 zero-insertion often has the better one), so what
comes out is a front: designs that no other beats in both the lattice of samples and FD. How sure a place on it is, is told by
drawing the seeds again. On a CPU, where the whole product is too much, each downsampler meets the resize-convolution and each
upsampler the first downsampler. Run: `python -m analyses.gan_redesign ASSETS`.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter

from analyses import gans
from analyses.gans import setting, trained
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
LATTICE, FD = "lattice_excess", "FD"
KEPT = (  # what the table keeps of a cell
    "lattice_contrast", "set_imbalance", "FD", "KID", "training_share", "copied_share", "spectrum_distance", "radial_distance",
    "images_per_second",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Config(gans.Config):
    """Which grid, and where its cells are kept."""

    _: KW_ONLY
    upsamplers: Annotated[tuple[str, ...], Parameter(help="Of generators.", consume_multiple=True)] = UPSAMPLERS
    downsamplers: Annotated[tuple[str, ...], Parameter(help="Of discriminators.", consume_multiple=True)] = DOWNSAMPLERS
    losses: Annotated[tuple[LossName, ...], Parameter(help="Adversarial losses.", consume_multiple=True)] = ("hinge",)
    cross: Annotated[
        bool | None, Parameter(help="The whole product; on a GPU unless given.", negative="--no-cross")
    ] = None


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


def run(config: Config) -> Results:
    """The table of all designs, their place on the front, and how they differ from the resize-convolution, seed by seed."""
    wanted = configs(config)
    of_number, data = trained(dict(enumerate(wanted)), config)
    found = list(of_number.values())
    done = [cell for cell in found if cell.finished]
    if not done:
        raise ValueError("cells: none could be trained")
    table = kept(over_seeds(done, name))
    table = pd.concat([table, excess(table)], ignore_index=True)
    table = pd.concat([table, on_front(table), against_reference(table)], ignore_index=True)
    manifest = circumstances() | {
        "command": gans.command("gan_redesign", config),
        "config": plain(config) | {"assets": config.assets.name, "cells": config.cells.name},
        "setting": {k: v for k, v in plain(wanted[0]).items() if k not in ("data", "seed", "upsampler", "downsampler")},
        "data": data.told | {"skipped": len(data.skipped)},
        "cells": len(found), "finished": len(done), "missing": [cell.folder.name for cell in found if not cell.finished],
        "hardware": hardware(), "steps": wanted[0].steps,
    }  # fmt: skip
    return Results(table.reindex(columns=list(COLUMNS)), pictures_of(done), manifest)


def hardware() -> str:
    """What the cells ran on, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "a CPU, one core a run; shortened for it"


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the front and its pages need."""
    metric = table["metric"].str.split("[", regex=False).str[0]
    rows = table.loc[metric.isin(KEPT) & ~((table["metric"] == "lattice_contrast") & ~table["period"].isin(PERIODS))]
    return rows.reset_index(drop=True)


def excess(table: pd.DataFrame) -> pd.DataFrame:
    """How far the lattice of samples stands above that of the real images: signed contrast, the larger of 2 and 4 px, in dB."""
    rows = table.loc[(table["metric"] == "lattice_contrast") & (table["kind"] == "signed") & table["image"].ne("")]
    wide = rows.pivot_table(index=["model", "image", "period"], columns="subject", values="value")
    worst = (wide["sample"] - wide["image"]).groupby(["model", "image"]).max()
    single = [
        {"model": model, "subject": "sample", "layer": "", "image": seed, "kind": "signed", "metric": LATTICE,
         "value": value, "n": 1, "unit": "dB"}
        for (model, seed), value in worst.items()
    ]  # fmt: skip
    means = []
    for model, values in worst.groupby(level="model"):
        low, high = interval(values.to_numpy())
        means.append(
            single[0]
            | {"model": model, "image": "", "value": values.mean(), "low": low, "high": high, "n": len(values)}
        )
    return pd.DataFrame([*means, *single])


def of_seeds(table: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """The values of a metric of the samples by design, each a series by seed."""
    begins = table["metric"].str.split("[", regex=False).str[0] == metric
    rows = table.loc[begins & (table["subject"] == "sample") & table["image"].ne("")]
    return {str(model): group.set_index("image")["value"] for model, group in rows.groupby("model", sort=False)}


def on_front(table: pd.DataFrame) -> pd.DataFrame:
    """Of each design whether it is on the front of lattice excess and FD, and in what share of draws of its seeds.

    An excess below 0 counts as 0: less lattice than real images have is no merit. `value` is the share of draws, and `low` is 1
    for the designs that are on the front of the means.
    """
    lattice, distance = of_seeds(table, LATTICE), of_seeds(table, FD)
    names = [name for name in lattice if name in distance]
    values = [
        np.stack([lattice[n].clip(lower=0).to_numpy(), distance[n].reindex(lattice[n].index).to_numpy()], 1)
        for n in names
    ]
    mean = front(np.stack([v.mean(0) for v in values]))
    random = np.random.default_rng(0)
    hits = np.zeros(len(names))
    for _ in range(DRAWS):
        hits += front(np.stack([v[random.integers(0, len(v), len(v))].mean(0) for v in values]))
    return pd.DataFrame([
        {"model": n, "subject": "sample", "layer": "", "image": "", "kind": "", "metric": "on_front", "value": hit / DRAWS,
         "low": float(now), "n": len(v), "unit": "1"}
        for n, hit, now, v in zip(names, hits, mean, values, strict=True)
    ])  # fmt: skip


def against_reference(table: pd.DataFrame) -> pd.DataFrame:
    """Every design against the resize-convolution with the same discriminator, seed by seed: excess, FD; mean and interval."""
    rows = []
    for metric, unit in ((LATTICE, "dB"), (FD, "1")):
        values = of_seeds(table, metric)
        for model, own in values.items():
            reference = f"{REFERENCE}/{model.partition('/')[2]}"
            if model == reference or reference not in values:
                continue
            difference = (own - values[reference]).dropna().to_numpy(float)
            low, high = interval(difference)
            rows.append(
                {"model": f"{model} - {reference}", "subject": "sample", "layer": "", "image": "", "kind": "",
                 "metric": metric, "value": difference.mean() if len(difference) else float("nan"), "low": low, "high": high,
                 "n": len(difference), "unit": unit}
            )  # fmt: skip
    return pd.DataFrame(rows)


def pictures_of(done: Sequence[Cell]) -> dict[str, Any]:
    """Eight samples of the first seed of each design, in the levels of 8 bits."""
    shown: dict[str, Any] = {}
    for cell in done:
        key = f"samples/{name(cell.config)}"
        if key not in shown:
            shown[key] = np.rint(255 * cell.results().arrays["samples"][:8]).astype(np.uint8)
    return shown


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.gan_redesign", "Train a grid of upsamplers and downsamplers; which design dominates?"
    )

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "gan_redesign")
        results = run(config)
        with new_run(target, "gan_redesign", force=config.force) as folder:
            results.write(folder)
        print(target)
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
