"""Do the maps that people show in place of a gradient carry its lattice, does averaging over noise remove it, what does?

Three measurements on photographs. (a) The contrast of every method of `gradlens.gradients.attribute`. (b) SmoothGrad by its
number of samples, beside the part that two halves of the samples disagree in, which falls as 1 / n: of the whole map, and
of its lattice alone. (c) What de-grids, judged in one table: the lattice that is left, and deletion and insertion
(`gradlens.gradients.deletion`) paired with the map as it is. The cut-off of the low-pass is chosen for each network on
other photographs.
A map of noise, which knows nothing of the network, runs along: what smoothing gains there is no knowledge either.

Run: `python -m analyses.attribution_lattices ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn

from analyses.maxpool_gradients import networks as every_network
from gradlens.compare import interval, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import METHODS, Method, attribute, deletion, insertion, network_periods
from gradlens.images import Photograph, batches, fit, photographs
from gradlens.models import Model
from gradlens.probes import stages
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.rules import Rules
from gradlens.spectra import even_phases, lattice_statistics, lowpass, notch

NETWORKS = ("resnet18_half", "resnetblur18_half", "resnet18, ImageNet", "mobilenetv2, ImageNet")
PERIODS = (2, 4, 8)
KEPT = ("lattice_contrast", "set_imbalance")  # metrics of the table
SAMPLES = (1, 2, 5, 10, 20, 50)
CUTOFFS = (0.06, 0.12, 0.18, 0.24, 0.36)  # cycles per pixel
NONE, NOTCH, LOWPASS, EVEN, HELD = "none", "notch", "low-pass", "even phases", "stem held"
REMEDIES = (NONE, NOTCH, LOWPASS, EVEN, HELD)
CONTROL = "noise"  # a map of normal noise
CONTROLS = (NONE, LOWPASS)
DEGRIDDED: tuple[Method, ...] = ("saliency", "smoothgrad")
FEW = 10  # points of a path, and samples
STEPS = 20  # of deletion and insertion


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and photographs are, and how many."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Photographs of every method.")] = 12
    occluded: Annotated[int, Parameter(help="Photographs of occlusion.")] = 4
    judged: Annotated[int, Parameter(help="Photographs of the samples and of what de-grids.")] = 24
    others: Annotated[int, Parameter(help="Further photographs, on which the cut-off is chosen.")] = 12
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/attribution_lattices-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def networks(assets: Path) -> dict[str, Callable[[], Model]]:
    """How to load each network."""
    known = every_network(assets)
    return {name: known[name][0] for name in NETWORKS}


def run(config: Config) -> Results:
    """The lattices of every method and network, of SmoothGrad by samples, and what de-gridding leaves and costs."""
    photos = config.assets / "data" / "photos"
    judged = photographs(photos / "lossless", limit=config.judged)
    others = unseen(photographs(photos / "jpeg"), judged)[: config.others]
    known = networks(config.assets)
    tables = []
    with progress("measurements", 3 * len(known)) as advance:
        for name, load in known.items():
            model = load()
            images = prepared(model, judged)
            tables += list(_methods(name, model, images[: config.count], config.occluded))
            advance()
            tables.append(by_samples(model, images, name=name))
            advance()
            tables.append(judge(model, images, prepared(model, others), name=name))
            advance()
    manifest = circumstances() | {
        "command": command(config),
        "images": [photograph.name for photograph in judged],
        "chosen_on": [photograph.name for photograph in others],
        "seed": 0,
    }
    return Results(pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS)), {}, manifest)


def command(config: Config) -> str:
    """The command of a run, with what it gave beside the folder."""
    given = {name: getattr(config, name) for name in ("count", "occluded", "judged", "others")}
    options = [f"--{name} {value}" for name, value in given.items() if value != getattr(Config, name)]
    return " ".join(["python -m analyses.attribution_lattices ASSETS", *options])


def unseen(found: Sequence[Photograph], judged: Sequence[Photograph]) -> list[Photograph]:
    """Those of `found` whose picture is not among `judged` in another format."""
    seen = {Path(photograph.name).stem for photograph in judged}
    return [photograph for photograph in found if Path(photograph.name).stem not in seen]


def prepared(model: Model, found: Sequence[Photograph]) -> Tensor:
    """The photographs `[N C H W]` as the network was trained to see them."""
    info = model.info
    look = {"interpolation": info.interpolation, "crop_pct": info.crop_pct}
    return torch.cat([x for _, x in batches(found, lambda image: fit(image, info.input_size, **look), 16)])


def methods(model: nn.Module) -> list[Method]:
    """The methods for a network: without a ReLU (MobileNetV2 has ReLU6) none to guide."""
    guided = any(isinstance(module, nn.ReLU) for module in model.modules())
    return [method for method in METHODS if guided or method != "guided-backprop"]


def _methods(name: str, model: Model, images: Tensor, occluded: int) -> Iterator[pd.DataFrame]:
    """The set rows of every method of one network."""
    for method in methods(model):
        given = images[:occluded] if method == "occlusion" else images
        maps = attribute(model, given, method, steps=FEW, samples=FEW)
        yield lattices(maps, model=name, subject="attribution", layer=method)


def lattices(x: Tensor, *, model: str, subject: str, layer: str) -> pd.DataFrame:
    """The set rows of maps `[N C H W]`: contrasts and imbalance."""
    table = measure(lattice_statistics(x, PERIODS), model=model, subject=subject, layer=layer)
    return table.loc[table["metric"].isin(KEPT)]


def by_samples(model: Model, images: Tensor, samples: Sequence[int] = SAMPLES, *, name: str) -> pd.DataFrame:
    """SmoothGrad by its number of samples: its lattice, and the share of its energy that is noise."""
    drawn = torch.stack(
        [attribute(model, images, "smoothgrad", samples=1, seed=seed) for seed in range(max(samples))]
    )  # [samples N C H W]
    parts = {"signal": drawn, "lattice": torch.stack([x - notch(x, 2) for x in drawn])}
    tables = []
    for n in samples:
        label = {"model": name, "subject": "samples", "layer": str(n)}
        tables.append(lattices(drawn[:n].mean(0), **label))
        shares = [_row(noise_share(x[:n]).numpy(), "noise_share", kind=kind) for kind, x in parts.items() if n > 1]
        tables.append(pd.DataFrame(shares).assign(**label))
    return pd.concat(tables, ignore_index=True)


def noise_share(drawn: Tensor) -> Tensor:
    """The share `[N]` of the energy of the mean of n samples `[n N ...]` in which two halves of them disagree.

    With means A, B of a + b = n samples: a b / n^2 |A - B|^2 / |mean|^2. Of a fixed map and independent noise of
    energies s and v it is (v / n) / (s + v / n) on average; of noise alone 1.
    """
    n = len(drawn)
    first, second = drawn[: n // 2].double(), drawn[n // 2 :].double()
    apart = (first.mean(0) - second.mean(0)).flatten(1).square().sum(1) * len(first) * len(second) / n**2
    return apart / drawn.double().mean(0).flatten(1).square().sum(1)


def judge(model: Model, images: Tensor, others: Tensor, *, name: str) -> pd.DataFrame:
    """What is left of the lattice, deletion and insertion, of every map and remedy; each paired with the map as it is."""
    periods = network_periods(stages(model, model.info.input_size), model.info.input_size[1:])
    tables = []
    for method in (*DEGRIDDED, CONTROL):
        tables.append(choices(model, others, method, name=name))
        cutoff = best(tables[-1])
        maps = mapped(model, images, method)
        remedies = {
            NONE: lambda maps=maps: maps,
            NOTCH: lambda maps=maps: notch(maps, periods),
            LOWPASS: lambda maps=maps, cutoff=cutoff: lowpass(maps, cutoff),
            EVEN: lambda maps=maps: even_phases(maps, max(periods)),
            HELD: lambda method=method: held(model, images, method),
        }
        plain: dict[str, np.ndarray] = {}
        for remedy in CONTROLS if method == CONTROL else REMEDIES:
            label = {"model": name, "subject": "degridded", "layer": f"{method}, {remedy}"}
            x = remedies[remedy]()
            scores = faithfulness(model, images, x)
            plain = plain or scores
            rows = [_row(values, metric) for metric, values in scores.items()]
            rows += [_row(values - plain[metric], f"{metric}_change") for metric, values in scores.items()]
            tables += [lattices(x, **label), pd.DataFrame(rows).assign(**label)]
    return pd.concat(tables, ignore_index=True)


def choices(model: Model, others: Tensor, method: Method | str, *, name: str) -> pd.DataFrame:
    """Insertion minus deletion of each cut-off, a row each, over photographs that are not judged."""
    maps = mapped(model, others, method)
    rows = []
    for cutoff in CUTOFFS:
        scores = faithfulness(model, others, lowpass(maps, cutoff))
        row = _row(scores["insertion"] - scores["deletion"], "insertion_minus_deletion")
        rows.append(row | {"layer": f"{method}, {cutoff:g}"})
    return pd.DataFrame(rows).assign(model=name, subject="cutoff")


def best(table: pd.DataFrame) -> float:
    """The cut-off that `choices` names."""
    return float(table.loc[table["value"].idxmax(), "layer"].rpartition(", ")[2])


def mapped(model: Model, images: Tensor, method: Method | str) -> Tensor:
    """The maps `[N C H W]` of a method, or of noise, another for each image."""
    if method == CONTROL:
        return torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return attribute(model, images, method, samples=FEW)  # type: ignore[arg-type]


def held(model: Model, images: Tensor, method: Method | str) -> Tensor:
    """The maps with the true gradient of the stem, then its mean over a stride."""
    with Rules(model, {"stem": "held"}):
        return mapped(model, images, method)


def faithfulness(model: Model, images: Tensor, maps: Tensor) -> dict[str, np.ndarray]:
    """Deletion and insertion `[N]` by the probability of the class that wins on the image."""
    return {
        "deletion": deletion(model, images, maps, steps=STEPS).cpu().numpy(),
        "insertion": insertion(model, images, maps, steps=STEPS).cpu().numpy(),
    }


def _row(values: np.ndarray, metric: str, *, kind: str = "signal") -> dict[str, Any]:
    low, high = interval(values)
    return {
        "image": "", "period": float("nan"), "kind": kind, "metric": metric, "value": values.mean(), "low": low,
        "high": high, "n": len(values), "unit": "1",
    }  # fmt: skip


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.attribution_lattices", "Whether attributions carry lattices, and what de-grids."
    )

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "attribution_lattices")
        with new_run(target, "attribution_lattices", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        shown = t.loc[(t["metric"] == "lattice_contrast") & (t["subject"] == "attribution")]
        wide = shown.pivot_table(index=["model", "layer"], columns=["kind", "period"], values="value", sort=False)
        print(wide.to_string(float_format="{:.1f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
