"""How much of the noise in a gradient is max-pooling's, and is it less organised than that of strides?

Odena, Dumoulin and Olah 2016 write that max-pooling "seems to cause" some of it, "a less organized high-frequency pattern",
and do not test it. Here the forward pass stays and the backward pass of the pools alone is replaced (`gradlens.rules`):
by average-pooling's, L2-pooling's, softmax weights, or by the true one held; and of strided convolutions, for comparison.
What a replacement takes away is itself measured: the difference of the two gradients. Beside networks with pools stand
those without one: MobileNetV2, and an untrained ResNet-18 whose pool is a strided convolution.

Run: `python -m analyses.maxpool_gradients ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor

from gradlens import models
from gradlens.compare import interval, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.gradients import input_gradient
from gradlens.images import batches, fit, photographs
from gradlens.models import Model
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.rules import NAMES, Rule, Rules, softmax
from gradlens.spectra import lattice_statistics

PERIODS = (2, 4, 8, 16, 32)
AS_IS = "as it is"
STEM = "stem held"
HELD = "pool held"
BOTH = "pool held, stem held"
KEPT = ("lattice_contrast", "set_imbalance")  # metrics of the table
FINE = 0.25  # cycles per pixel, from which on a frequency is called high
TEMPERATURES = (0.1, 1.0)
Pooling = Literal["strided", "dense", "none"]
Replacements = dict[str, dict[str, Rule]]


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and photographs are."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Most photographs.")] = 63
    batch_size: Annotated[int, Parameter(help="Photographs at once.")] = 16
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/maxpool_gradients-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def networks(assets: Path) -> dict[str, tuple[Callable[[], Model], Pooling]]:
    """How to load each network, and what its max-pool does: it strides, it does not (a blur after it does), or there is none."""
    weights = assets / "weights"
    return {
        "resnet18_half": (models.classifier, "strided"),
        "resnetblur18_half": (lambda: models.classifier("resnetblur18_half"), "dense"),
        "resnet18, ImageNet": (
            lambda: models.classifier("resnet18", weights=weights / "resnet18_imagenet" / "resnet18_timm.safetensors"),
            "strided",
        ),
        "mobilenetv2, ImageNet": (
            lambda: models.classifier(
                "mobilenetv2_100",
                weights=next((weights / "mobilenetv2_imagenet").glob("*.safetensors")),
                model_args={"pad_type": "same"},
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                drop_first=1,
            ),
            "none",
        ),
        "resnet18, untrained": (
            lambda: models.classifier("resnet18", weights="random", model_args=UNTRAINED),
            "strided",
        ),
        "resnet18, untrained, strided convolution as pool": (
            lambda: models.classifier("resnet18", weights="random", model_args=UNTRAINED | {"replace_stem_pool": True}),
            "none",
        ),
    }


UNTRAINED = {"zero_init_last": False}  # or the residual blocks of an untrained network would be silent


def replacements(pooling: Pooling) -> Replacements:
    """The rules of each backward pass, by the words of the table; the first is the network as it is."""
    found: Replacements = {AS_IS: {}, STEM: {"stem": NAMES["held"]()}}
    if pooling != "none":
        found |= {name: {"pool": NAMES[name]()} for name in ("average", "l2")}
        found |= {f"softmax, t = {t:g}": {"pool": softmax(t)} for t in TEMPERATURES}
    if pooling == "strided":
        found[HELD] = {"pool": NAMES["held"]()}
        found[BOTH] = {"pool": NAMES["held"](), "stem": NAMES["held"]()}
    return found


def run(config: Config) -> Results:
    """For each network and backward pass the lattice of the gradient, and of what the replacement took from it."""
    found = photographs(config.assets / "data" / "photos" / "lossless", limit=config.count)
    known = networks(config.assets)
    tables = []
    with progress("networks", len(known)) as advance:
        for name, (load, pooling) in known.items():
            tables += list(_tables(name, load(), replacements(pooling), found, config))
            advance()
    manifest = circumstances() | {
        "command": "python -m analyses.maxpool_gradients ASSETS",
        "images": [photograph.name for photograph in found],
        "seed": 0,
    }
    return Results(pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS)), {}, manifest)


def _tables(
    name: str, model: Model, rules: Mapping[str, Mapping[str, Rule]], found: list, config: Config
) -> Iterator[pd.DataFrame]:
    """The set rows of every backward pass of one network."""
    info = model.info
    stream = batches(
        found,
        lambda image: fit(image, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct),
        config.batch_size,
    )
    gradients: dict[str, list[Tensor]] = {words: [] for words in rules}
    for _, images in stream:
        for words, given in rules.items():
            if given:
                with Rules(model, given):
                    gradients[words].append(input_gradient(model, images))
            else:
                gradients[words].append(input_gradient(model, images))
    whole = {words: torch.cat(parts) for words, parts in gradients.items()}
    for words, gradient in whole.items():
        yield described(gradient, model=name, subject="input-gradient", layer=words)
        if words != AS_IS:
            taken = whole[AS_IS] - gradient
            yield described(taken, model=name, subject="gradient-difference", layer=words)
            yield _share_of_energy(taken, whole[AS_IS], model=name, layer=words)


def described(x: Tensor, *, model: str, subject: str, layer: str) -> pd.DataFrame:
    """The set rows of gradients `[N C H W]`: contrasts, imbalance, and the share of fine structure."""
    periods = [period for period in PERIODS if 4 * period <= min(x.shape[2:])]
    table = measure(lattice_statistics(x, periods), model=model, subject=subject, layer=layer)
    table = table.loc[table["metric"].isin(KEPT)]
    fine = pd.DataFrame([_row(fine_share(x), "fine_share")]).assign(model=model, subject=subject, layer=layer)
    return pd.concat([table, fine], ignore_index=True)


def fine_share(x: Tensor) -> np.ndarray:
    """The share `[N]` of the energy of `[N C H W]`, without DC, at frequencies of 1/4 cycle per pixel and more."""
    power = torch.fft.fft2(x.double()).abs().square().sum(1)
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in x.shape[2:])
    radius = (rows[:, None].square() + columns.square()).sqrt()
    return ((power * (radius >= FINE)).sum((1, 2)) / (power * (radius > 0)).sum((1, 2))).numpy()


def _share_of_energy(part: Tensor, whole: Tensor, *, model: str, layer: str) -> pd.DataFrame:
    """The energy of what was taken over that of the gradient as it is."""
    share = (part.double().square().flatten(1).sum(1) / whole.double().square().flatten(1).sum(1)).numpy()
    return pd.DataFrame([_row(share, "energy_share")]).assign(model=model, subject="gradient-difference", layer=layer)


def _row(values: np.ndarray, metric: str) -> dict:
    low, high = interval(values)
    return {
        "image": "", "period": float("nan"), "kind": "signed", "metric": metric, "value": values.mean(), "low": low,
        "high": high, "n": len(values), "unit": "1",
    }  # fmt: skip


def main() -> None:
    """The command line."""
    app = application("python -m analyses.maxpool_gradients", "How much of a gradient's noise is max-pooling's.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "maxpool_gradients")
        with new_run(target, "maxpool_gradients", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        shown = t.loc[(t["metric"] == "lattice_contrast") & t["period"].isin((2, 4))]
        wide = shown.pivot_table(
            index=["model", "subject", "layer"], columns=["kind", "period"], values="value", sort=False
        )
        print(wide.to_string(float_format="{:.1f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
