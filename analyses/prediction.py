"""What does the architecture alone say? Predicted and measured unevenness of input gradients in over 200 networks.

Each of `analyses/architectures.txt` is built by timm with random weights of three seeds (`zero_init_last=False` where it is
taken, or a default residual network sends its gradient through its shortcuts alone; a head that starts at zero is left
out). Measured: gradients at 32 images of normal noise, each image's energy divided by its mean, `set_imbalance` over the
images. The score is a random direction among the logits, another for each image; of the first `--top` networks also the
largest logit, often the same one for all noise, which then paints one pattern into every image. Predicted: the imbalance of
`energy_map` for either score, which sees noise but no gradient. All are averaged over the seeds, at every period of the
network up to a seventh of its input (the divisors of its strides), on the whole map and 32 px inside its border. One file a
network and side is kept in `--cells`; what is there is not done again. Run: `python -m analyses.prediction`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn

from gradlens import geometry
from gradlens.console import application, first_line, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import input_gradient
from gradlens.gradients.scores import Score, logits, top_logit
from gradlens.models import Model, bare, classifier
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder, write_whole
from gradlens.spectra import phase_energy, phase_imbalance, set_imbalance

LIST = Path(__file__).with_name("architectures.txt")
SEEDS = (0, 1, 2)
IMAGES = 32
INSIDE = 32  # pixels from the border
SHARE = 7  # the longest period is this part of the input
REGIONS = ("whole", "inside")
RANDOM = ("measured", "predicted")
METRICS = {
    "measured": "set_imbalance", "predicted": "predicted_imbalance",
    "measured_top": "set_imbalance, largest logit", "predicted_top": "predicted_imbalance, largest logit",
}  # fmt: skip
Values = dict[str, dict[int, list[float]]]  # by region and period, one of each seed


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Which networks, and where their files are kept."""

    networks: Annotated[
        tuple[str, ...], Parameter(help="timm names; the list unless given.", consume_multiple=True)
    ] = ()
    _: KW_ONLY
    cells: Annotated[Path, Parameter(help="Folder of one file a network, kept between runs.")] = Path("runs/prediction")
    top: Annotated[int, Parameter(help="Of so many networks, the first ones, also the largest logit.")] = 100
    batch_size: Annotated[int, Parameter(help="Noise images at once.")] = 8
    device: Annotated[str, Parameter(help="cpu, cuda.")] = "cpu"
    sides: Annotated[
        tuple[str, ...],
        Parameter(help="Make only these files, and no table.", consume_multiple=True),
    ] = ()
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
        for number, name in enumerate(names):
            sides = config.sides or (SIDES if number < config.top else RANDOM)
            rows += _rows(name, {side: _cell(config, name, side) for side in sides})
            advance()
    manifest = circumstances() | {"command": "python -m analyses.prediction", "seeds": SEEDS, "device": config.device}
    return Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {}, manifest)


def _cell(config: Config, name: str, side: str) -> dict[str, Any]:
    """What is kept of a network, or is made and kept now; a network that fails keeps the reason."""
    path = config.cells / f"{name}.{side}.json"
    if not path.is_file():
        try:
            cell = SIDES[side](name, config)
        except Exception as error:  # each network fails in its own way; the table tells it
            cell = {"error": f"{type(error).__name__}: {first_line(error)}"}
        write_whole(path, json.dumps(cell).encode())
    return json.loads(path.read_text(encoding="utf-8"))


def measured(name: str, config: Config) -> dict[str, Any]:
    """Imbalance of the gradients of random directions among the logits."""
    return _measured(name, config, _random_directions)


def measured_at_top(name: str, config: Config) -> dict[str, Any]:
    """Imbalance of the gradients of the largest logits."""
    return _measured(name, config, lambda generator: top_logit)


def _measured(name: str, config: Config, scores: Callable[[torch.Generator], Score]) -> dict[str, Any]:
    values: Values = {region: {} for region in REGIONS}
    size: tuple[int, ...] = ()
    for seed in SEEDS:
        network, size = random_network(name, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        energy = _energies(network.to(config.device), size, scores(generator), generator, config)
        for region, part in _regions(energy):
            for period in _periods(size):
                phases = phase_energy(part.sqrt()[:, None], period)
                values[region].setdefault(period, []).append(set_imbalance(phases).item())
    return {"input_size": size, "values": values}


def predicted(name: str, config: Config) -> dict[str, Any]:
    """Imbalance of `energy_map` for random directions, and the network's periods."""
    return _predicted(name, config, "random")


def predicted_at_top(name: str, config: Config) -> dict[str, Any]:
    """The same for the largest logit."""
    return _predicted(name, config, "top")


def _predicted(name: str, config: Config, score: Literal["random", "top"]) -> dict[str, Any]:
    values: Values = {region: {} for region in REGIONS}
    strides: set[int] = set()
    size: tuple[int, ...] = ()
    for seed in SEEDS:
        network, size = random_network(name, seed)
        strides |= {period for axis in geometry.periods(network, size) for period in axis}
        energy = geometry.energy_map(network.to(config.device), size, seed=seed, score=score)[None].cpu()
        for region, part in _regions(energy):
            for period in _periods(size):
                value = phase_imbalance(part.sqrt()[:, None], period, debias=False)
                values[region].setdefault(period, []).append(value.item())
    periods = [d for d in _periods(size) if any(stride % d == 0 for stride in strides)]
    return {"input_size": size, "periods": periods, "values": values}


SIDES: dict[str, Callable[[str, Config], dict[str, Any]]] = {
    "measured": measured, "predicted": predicted, "measured_top": measured_at_top, "predicted_top": predicted_at_top,
}  # fmt: skip


def _random_directions(generator: torch.Generator) -> Score:
    """A score that is another normal direction among the logits for each image."""

    def score(output: Any) -> Tensor:
        values = logits(output)
        return (values * torch.randn(values.shape, generator=generator).to(values)).sum(1)

    return score


def random_network(name: str, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of timm with random weights, without normalisation of its input, and its input size.

    Where its head starts at zero it is without one: a random direction among its features is a random head.
    """
    model = _random_model(name, seed, {})
    noise = torch.randn(1, *model.info.input_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        silent = not logits(bare(model)(noise)).any()
    if silent:
        model = _random_model(name, seed, {"num_classes": 0})
    return bare(model), model.info.input_size


def _random_model(name: str, seed: int, arguments: dict[str, Any]) -> Model:
    """The same with its normalisation; no last norm of a residual block starts at zero, where that can be asked for."""
    try:
        return classifier(name, weights="random", seed=seed, model_args=arguments | {"zero_init_last": False})
    except ValueError:
        return classifier(name, weights="random", seed=seed, model_args=arguments)


def _energies(
    network: nn.Module, size: Sequence[int], score: Score, generator: torch.Generator, config: Config
) -> Tensor:
    """The energy `[N H W]` of the input gradient at each noise image, over its mean."""
    found = []
    for start in range(0, IMAGES, config.batch_size):
        images = torch.randn(min(config.batch_size, IMAGES - start), *size, generator=generator)
        gradient = input_gradient(network, images.to(config.device), score=score).double().cpu()
        peak = gradient.abs().amax((1, 2, 3), keepdim=True)
        if not peak.isfinite().all():
            raise ValueError("the gradient holds NaN or infinity")
        if not peak.all():
            raise ValueError("no gradient reaches the image, as where a head starts at zero")
        gradient /= peak
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


def _rows(name: str, cells: dict[str, dict[str, Any]]) -> list[dict]:
    """The rows of one network; one with the reason where it gave nothing."""
    plain = {"model": name, "subject": "input-gradient", "layer": "", "image": "", "n": len(SEEDS), "unit": "1"}
    failed = next((cell["error"] for cell in cells.values() if "error" in cell), None)
    if failed:
        return [plain | {"metric": "failed", "kind": failed}]
    if not set(cells) >= set(RANDOM):
        return []
    rows = []
    for region in REGIONS:
        for period in cells["predicted"]["periods"]:
            if period not in _periods(cells["measured"]["input_size"]):
                continue
            for side, cell in cells.items():
                value = np.array(cell["values"][region][str(period)])
                row = plain | {"period": period, "kind": region, "metric": METRICS[side]}
                rows.append(row | {"value": value.mean(), "low": value.min(), "high": value.max()})
    return rows


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """One row a network, period, region and score: `measured, predicted, difference, allowed, scatter` (over the seeds).

    Allowed is max(0.10, 15 % of what is measured).
    """
    cells = table.loc[table["metric"] != "failed"]
    values = cells.pivot_table(
        index=["model", "period", "kind"], columns="metric", values=["value", "low", "high"], sort=False
    )
    found = []
    for score, ending in (("random", ""), ("top", "_top")):
        measured, predicted = (METRICS[f"{side}{ending}"] for side in ("measured", "predicted"))
        if measured not in values["value"]:
            continue
        part = pd.DataFrame({"measured": values["value"][measured], "predicted": values["value"][predicted]})
        part = part.assign(
            score=score,
            difference=part["predicted"] - part["measured"],
            allowed=np.maximum(0.10, 0.15 * part["measured"].abs()),
            scatter=values["high"][measured] - values["low"][measured],
        )
        found.append(part.dropna(subset=["measured", "predicted"], how="all").reset_index())
    return pd.concat(found, ignore_index=True).rename(columns={"kind": "region"})


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For each region and score: networks, cells, and of |difference| the median, 95th percentile and share allowed."""
    rows = []
    found = differences(table)
    for region, score in dict.fromkeys(zip(found["region"], found["score"], strict=True)):
        part = found.loc[(found["region"] == region) & (found["score"] == score)]
        off = part["difference"].abs()
        rows.append(
            {"region": region, "score": score, "networks": part["model"].nunique(), "cells": len(part)}
            | {"median": off.median(), "95 %": off.quantile(0.95), "allowed": (off <= part["allowed"]).mean()}
            | {"scatter over seeds": part["scatter"].median(), "undefined": int(off.isna().to_numpy().sum())}
        )
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.prediction", "Predicted and measured unevenness of input gradients.")

    @app.default
    def launch(config: Config = Config()) -> int:
        if config.sides:
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
