"""What does the architecture alone say? Predicted and measured unevenness of input gradients in over 200 networks.

Each of `analyses/architectures.txt` is built by timm with random weights of three seeds (`zero_init_last=False` where it is
taken, or a default residual network sends its gradient through its shortcuts alone). Measured: gradients of the largest
logit at 32 images of normal noise, each image's energy divided by its mean, `set_imbalance` over the images. Predicted:
the imbalance of `energy_map`, which sees one noise image and no gradient. Both are averaged over the seeds, at every
period of the network up to a seventh of its input, on the whole map and 32 px inside its border. One file a network is
kept in `--cells`; what is there is not done again. Run: `python -m analyses.prediction`.
"""

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn

from gradlens import geometry
from gradlens.console import application, first_line, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import input_gradient
from gradlens.models import bare, classifier
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder, write_whole
from gradlens.spectra import phase_energy, phase_imbalance, set_imbalance

LIST = Path(__file__).with_name("architectures.txt")
SEEDS = (0, 1, 2)
IMAGES = 32
INSIDE = 32  # pixels from the border
SHARE = 7  # the longest period is this part of the input
REGIONS = ("whole", "inside")


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Which networks, and where their files are kept."""

    networks: Annotated[
        tuple[str, ...], Parameter(help="timm names; the list unless given.", consume_multiple=True)
    ] = ()
    _: KW_ONLY
    cells: Annotated[Path, Parameter(help="Folder of one file a network, kept between runs.")] = Path("runs/prediction")
    batch_size: Annotated[int, Parameter(help="Noise images at once.")] = 8
    device: Annotated[str, Parameter(help="cpu, cuda.")] = "cpu"
    only_measure: Annotated[bool, Parameter(help="Leave the predictions to a later run.")] = False
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/prediction-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def architectures() -> list[str]:
    """The networks of the list."""
    return [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def run(config: Config) -> Results:
    """One row a network, period and region for what is measured, what is predicted, and the scatter over seeds."""
    names = config.networks or tuple(architectures())
    config.cells.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    with progress("prediction", len(names)) as advance:
        for name in names:
            measured = _cell(config, name, "measured")
            if not config.only_measure:
                rows += _rows(name, measured, _cell(config, name, "predicted"))
            advance()
    manifest = circumstances() | {"command": "python -m analyses.prediction", "seeds": SEEDS, "device": config.device}
    return Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {}, manifest)


def _cell(config: Config, name: str, what: str) -> dict[str, Any]:
    """What is kept of a network, or is made and kept now; a network that fails keeps the reason."""
    path = config.cells / f"{name}.{what}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    try:
        cell = (measured if what == "measured" else predicted)(name, config)
    except Exception as error:  # each network fails in its own way; the table tells it
        cell = {"error": f"{type(error).__name__}: {first_line(error)}"}
    write_whole(path, json.dumps(cell).encode())
    return cell


def measured(name: str, config: Config) -> dict[str, Any]:
    """Imbalance of the input gradients of each seed, `{region: {period: [value of each seed]}}`, at every period."""
    values: dict[str, dict[int, list[float]]] = {region: {} for region in REGIONS}
    size: tuple[int, ...] = ()
    for seed in SEEDS:
        network, size = random_network(name, seed)
        network.to(config.device)
        energy = _energies(network, size, seed, config)
        for region, part in _regions(energy):
            for period in _periods(size):
                phases = phase_energy(part.sqrt()[:, None], period)
                values[region].setdefault(period, []).append(set_imbalance(phases).item())
    return {"input_size": size, "values": values}


def predicted(name: str, config: Config) -> dict[str, Any]:
    """The same of `energy_map`, and the network's periods."""
    values: dict[str, dict[int, list[float]]] = {region: {} for region in REGIONS}
    periods: Sequence[int] = ()
    size: tuple[int, ...] = ()
    for seed in SEEDS:
        network, size = random_network(name, seed)
        periods = geometry.periods(network, size)
        energy = geometry.energy_map(network.to(config.device), size, seed=seed)[None].cpu()
        for region, part in _regions(energy):
            for period in _periods(size):
                value = phase_imbalance(part.sqrt()[:, None], period, debias=False)
                values[region].setdefault(period, []).append(value.item())
    return {"input_size": size, "periods": list(periods), "values": values}


def random_network(name: str, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of timm with random weights, without normalisation of its input, and its input size."""
    for arguments in ({"zero_init_last": False}, {}):
        try:
            model = classifier(name, weights="random", seed=seed, model_args=arguments)
        except ValueError:
            if not arguments:
                raise
            continue
        return bare(model), model.info.input_size
    raise AssertionError


def _energies(network: nn.Module, size: Sequence[int], seed: int, config: Config) -> Tensor:
    """The energy `[N H W]` of the input gradient at each noise image, over its mean."""
    generator = torch.Generator().manual_seed(1000 + seed)
    found = []
    for start in range(0, IMAGES, config.batch_size):
        images = torch.randn(min(config.batch_size, IMAGES - start), *size, generator=generator)
        gradient = input_gradient(network, images.to(config.device)).double().cpu()
        if not gradient.isfinite().all():
            raise ValueError("the gradient holds NaN or infinity")
        gradient /= gradient.abs().amax((1, 2, 3), keepdim=True)
        energy = gradient.square().sum(1)
        found.append(energy / energy.mean((1, 2), keepdim=True))
    return torch.cat(found)


def _regions(energy: Tensor) -> list[tuple[str, Tensor]]:
    """The whole map `[N H W]` and what lies 32 px inside its border, by name."""
    return list(zip(REGIONS, (energy, energy[:, INSIDE:-INSIDE, INSIDE:-INSIDE]), strict=True))


def _periods(size: Sequence[int]) -> list[int]:
    """Every period up to a seventh of the input that strides of 2, 3 and 7 and their products make."""
    made = (odd * 2**power for odd in (1, 3, 7) for power in range(10))
    return sorted(period for period in made if 2 <= period <= min(size[1:]) // SHARE)


def _rows(name: str, measured: dict[str, Any], predicted: dict[str, Any]) -> list[dict]:
    """The rows of one network; one with the reason where it gave nothing."""
    plain = {"model": name, "subject": "input-gradient", "layer": "", "image": "", "n": len(SEEDS), "unit": "1"}
    failed = measured.get("error") or predicted.get("error")
    if failed:
        return [plain | {"metric": "failed", "kind": failed}]
    rows = []
    for region in REGIONS:
        for period in predicted["periods"]:
            if period not in _periods(measured["input_size"]):
                continue
            m, p = (np.array(cell["values"][region][str(period)]) for cell in (measured, predicted))
            row = plain | {"period": period, "kind": region}
            rows.append(row | {"metric": "set_imbalance", "value": m.mean(), "low": m.min(), "high": m.max()})
            rows.append(row | {"metric": "predicted_imbalance", "value": p.mean(), "low": p.min(), "high": p.max()})
    return rows


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """One row a network, period and region: `measured, predicted, difference, scatter` (of the measured over seeds)."""
    values = table.pivot_table(
        index=["model", "period", "kind"], columns="metric", values=["value", "low", "high"], sort=False
    )
    measured, predicted = (values["value"][m] for m in ("set_imbalance", "predicted_imbalance"))
    scatter = values["high"]["set_imbalance"] - values["low"]["set_imbalance"]
    found = pd.DataFrame({"measured": measured, "predicted": predicted, "difference": predicted - measured})
    return found.assign(scatter=scatter).reset_index()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For each region: networks, cells, the median absolute difference, its 95th percentile, and how many are outside.

    A cell is outside where the difference is above 0.10 and above 15 % of what is measured.
    """
    rows = []
    for region, part in differences(table).groupby("kind", sort=False):
        off = part["difference"].abs()
        allowed = np.maximum(0.10, 0.15 * part["measured"].abs())
        rows.append(
            {"region": region, "networks": part["model"].nunique(), "cells": len(part), "median": off.median()}
            | {"95 %": off.quantile(0.95), "inside the bar": (off <= allowed).mean(), "undefined": off.isna().sum()}
        )
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.prediction", "Predicted and measured unevenness of input gradients.")

    @app.default
    def launch(config: Config = Config()) -> int:
        if config.only_measure:
            run(config)
            return 0
        target = run_folder(config.out, "prediction")
        with new_run(target, "prediction", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        print(summary(results.table).to_string(index=False, float_format="{:.3f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
