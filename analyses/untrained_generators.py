"""Does a generator write its lattice before any training, at the periods that its layers say, and is it known beforehand?

Odena, Dumoulin and Olah 2016 show samples of generators with random weights: deconvolution in the last two layers, "artifacts
of frequency 2 and 4"; in the last alone, 2; resize-convolution throughout, none. Here each is drawn many times, by PyTorch's
default and by DCGAN's N(0, 0.02), with kernels of 3, 4 and 5, beside sub-pixel layers and ICNR. The unit is the seed: one draw
of all weights. A seed's contrast is its mean over latents, its p twice the median of theirs, which is a p however dependent
they are (Rueger 1978); seeds are joined by Fisher's method and periods adjusted by Benjamini and Hochberg.

Predicted: `energy_map(direction="forward")` of each draw, which sees no latent. A norm without statistics of its own takes
those of its batch, in the sample and in the prediction. What repeats with 2 px repeats with 4 px too; a period's own imbalance
is what is left of it without that. Beside it stands what the map says of the same weights where the norms hold the statistics
that they are made with, 0 and 1, which no batch has touched. Run: `python -m analyses.untrained_generators`.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from scipy import stats
from torch import Tensor, nn

from gradlens.compare import SIGNIFICANCE, adjusted, fisher, interval
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import energy_map
from gradlens.report.prediction import EVEN
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_statistics, phase_energy, phase_ratio, set_imbalance
from gradlens.upsampling import UPSAMPLERS, icnr_transposed_

LATENT = 100
WIDTHS = {32: (256, 128, 64, 3), 64: (512, 256, 128, 64, 3)}  # by side, of the stages; each doubles, from 4 px
START = 4
PERIODS = (2, 4)
FAMILIES = ("signed", "envelope")
SHOWN = 2  # samples of each kind that are kept
PUBLISHED = Path(__file__).parents[1] / "reports" / "published_figures.csv"
ARTICLE = "the article's picture"
FRESH = "predicted_imbalance, fresh statistics"
Fill = Callable[[Tensor], object]
Layer = Callable[[int, int, Fill | None], nn.Module]
Values = dict[tuple[str, int], list[float]]  # one of each seed, by metric and period


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """How many draws, and of how many latents each."""

    seeds: Annotated[int, Parameter(help="Draws of all weights.")] = 12
    _: KW_ONLY
    latents: Annotated[int, Parameter(help="Samples of each draw.")] = 64
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/untrained_generators-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False

    def __post_init__(self) -> None:
        for name, least in (("seeds", 3), ("latents", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Kind:
    """Which layer enlarges in the last `count` stages, a resize-convolution in those before, and what the article says.

    `claim` are the periods of its caption; None where it shows no such generator. `caption` is that group's name in
    `reports/published_figures.csv`.
    """

    layer: Layer
    count: int
    claim: tuple[int, ...] | None = None
    caption: str = ""


def _drawn(name: str, **options: int) -> Layer:
    """A layer of `UPSAMPLERS` with the weights that `fill` draws, or its own."""

    def make(before: int, after: int, fill: Fill | None) -> nn.Module:
        layer = UPSAMPLERS[name](before, after, bias=False, **options)
        if fill is not None:
            for weight in layer.parameters():
                fill(weight)
        return layer

    return make


def _subpixel_icnr(before: int, after: int, fill: Fill | None) -> nn.Module:
    return UPSAMPLERS["subpixel_icnr"](before, after, bias=False, **({"initialiser": fill} if fill else {}))


def _transposed_icnr(before: int, after: int, fill: Fill | None) -> nn.Module:
    layer = UPSAMPLERS["deconv"](before, after, bias=False)
    icnr_transposed_(layer.get_parameter("weight"), 2, **({"initialiser": fill} if fill else {}))
    return layer


_CAPTIONS = {2: "untrained, deconvolution in the last two layers", 1: "untrained, deconvolution in the last layer"}
_CLAIMS = {2: (2, 4), 1: (2,)}
_WORDS = {2: "last two", 1: "last"}

KINDS: dict[str, Kind] = {
    f"deconvolution {k}x{k}, {_WORDS[count]}": Kind(_drawn("deconv", kernel_size=k), count, _CLAIMS[count], _CAPTIONS[count])
    for count in (2, 1)
    for k in (3, 4, 5)
} | {
    "resize-convolution, all": Kind(_drawn("resize"), 0, (), "untrained, all resize-convolution"),
    "sub-pixel, last two": Kind(_drawn("subpixel"), 2),
    "sub-pixel ICNR, last two": Kind(_subpixel_icnr, 2),
    "deconvolution 4x4 ICNR, last two": Kind(_transposed_icnr, 2),
}  # fmt: skip


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, 0, 0.02)


INITIAL: dict[str, Fill | None] = {"PyTorch": None, "DCGAN": _normal}


def generator(kind: Kind, initial: str, side: int, seed: int, *, fresh: bool = False) -> nn.Sequential:
    """A DCGAN-like generator with random weights: latents `[N 100]` to images `[N 3 side side]` in [-1, 1].

    Its batch norms keep no running statistics, so they take those of their batch in every mode; `fresh` ones have those that
    no batch has touched, 0 and 1.

    Args:
        kind: which layers enlarge.
        initial: of `INITIAL`; DCGAN's draws the norms' scales from N(1, 0.02) as well.
        side: of `WIDTHS`.
        seed: of the weights; the random state is left as it was.
        fresh: whether its batch norms have running statistics. The weights are the same.

    Source: Radford, Metz, Chintala 2016.
    """
    widths, fill = WIDTHS[side], INITIAL[initial]
    stages = len(widths) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dense = nn.Linear(LATENT, widths[0] * START**2, bias=False)
        if fill is not None:
            fill(dense.weight)
        parts: dict[str, nn.Module] = {"fc": dense, "map": nn.Unflatten(1, (widths[0], START, START))}
        parts |= {"bn0": _norm(widths[0], fill, fresh), "relu0": nn.ReLU()}
        for stage, (before, after) in enumerate(pairwise(widths), start=1):
            layer = kind.layer if stage > stages - kind.count else _drawn("resize")
            parts[f"up{stage}"] = layer(before, after, fill)
            if stage < stages:
                parts |= {f"bn{stage}": _norm(after, fill, fresh), f"relu{stage}": nn.ReLU()}
    return nn.Sequential(OrderedDict(parts | {"tanh": nn.Tanh()}))


def _norm(channels: int, fill: Fill | None, fresh: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, track_running_stats=fresh)
    if fill is not None:
        nn.init.normal_(norm.weight, 1, 0.02)
    return norm


def own(energy: Tensor) -> Tensor:
    """Phase energies `[N T T]`, T even, without what repeats with T / 2: mean 1.

    Example:
        >>> own(torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])).tolist()
        [[[2.0, 0.0], [1.0, 1.0]]]
    """
    half = energy.shape[-1] // 2
    cells = energy.unflatten(1, (2, half)).unflatten(3, (2, half))  # [N 2 h 2 h]
    rest = cells - cells.mean((1, 3), keepdim=True) + 1
    return rest.flatten(3).flatten(1, 2)


def imbalance(energy: Tensor) -> float:
    """The root mean square departure of phase energies of mean 1 from 1, as `phase_imbalance(debias=False)`."""
    return float((energy - 1).square().mean().sqrt())


def measured(images: Tensor) -> dict[tuple[str, int], float]:
    """By metric and period what the samples `[N C H W]` of one draw show."""
    found = lattice_statistics(images, PERIODS)
    values: dict[tuple[str, int], float] = {}
    for period in PERIODS:
        for family in FAMILIES:
            values[family, period] = float(found.contrast[family, period].mean())
            values[f"{family}, p", period] = min(1.0, 2 * float(found.p_value[family, period].median()))
        energy = found.energy[period]
        values["set_imbalance", period] = float(set_imbalance(energy))
        values["own_imbalance", period] = float(set_imbalance(own(energy)))
        values["phase_ratio", period] = float(phase_ratio(found.mean_energy[period][None]))
    return values


def predicted(network: nn.Module) -> dict[tuple[str, int], float]:
    """By metric and period what the energy map of one draw says; it draws no latent."""
    amplitude = energy_map(network, (LATENT,), direction="forward").sqrt()[None, None]
    values: dict[tuple[str, int], float] = {}
    for period in PERIODS:
        energy = phase_energy(amplitude, period)
        values["predicted_imbalance", period] = imbalance(energy)
        values["predicted_own_imbalance", period] = imbalance(own(energy))
        values["predicted_ratio", period] = float(phase_ratio(energy))
    return values


def run(config: Config) -> Results:
    """A row for each kind, initialisation, side, period and metric; the seeds' values and some samples as arrays."""
    rows, arrays = _of_the_article(), {}
    cells = list(product(WIDTHS, INITIAL, KINDS))
    with progress("generators", len(cells)) as advance:
        for side, initial, name in cells:
            values: Values = {}
            for seed in range(config.seeds):
                network = generator(KINDS[name], initial, side, seed)
                latents = torch.randn(config.latents, LATENT, generator=torch.Generator().manual_seed(1000 + seed))
                with torch.no_grad():
                    images = network(latents)
                found = measured(images) | predicted(network)
                other = predicted(generator(KINDS[name], initial, side, seed, fresh=True))
                found |= {(FRESH, period): other["predicted_imbalance", period] for period in PERIODS}
                for key, value in found.items():
                    values.setdefault(key, []).append(value)
                if seed == 0:
                    arrays[f"samples/{name}/{initial}, {side} px"] = ((images[:SHOWN] + 1) / 2).numpy()
            layer = f"{initial}, {side} px"
            rows += [row | {"model": name, "layer": layer} for row in _rows(values)]
            for metric in ("own_imbalance", "predicted_own_imbalance"):
                arrays[f"{metric}/{name}/{layer}"] = np.array([values[metric, p] for p in PERIODS])
            advance()
    table = pd.DataFrame(rows)
    table = pd.concat([table, pd.DataFrame(_correlations(table))], ignore_index=True)
    table = table.assign(subject="sample", image="").reindex(columns=list(COLUMNS))
    command = f"python -m analyses.untrained_generators --seeds {config.seeds} --latents {config.latents}"
    manifest = circumstances() | {"command": command, "seeds": config.seeds, "latents": config.latents}
    return Results(table, arrays, manifest)


def _rows(values: Values) -> list[dict[str, Any]]:
    """The mean over seeds of every metric with its bootstrap interval; contrasts with their p."""
    rows = []
    for family in FAMILIES:
        p = adjusted(np.array([fisher(np.array(values[f"{family}, p", period])) for period in PERIODS]))
        for period, joint in zip(PERIODS, p, strict=True):
            row = {"period": period, "kind": family, "metric": "lattice_contrast", "p": joint, "unit": "dB"}
            rows.append(row | _mean(values[family, period]))
    for (metric, period), of_seeds in values.items():
        if metric.removesuffix(", p") not in FAMILIES:
            rows.append({"period": period, "kind": "phase", "metric": metric, "unit": "1"} | _mean(of_seeds))
    return rows


def _mean(of_seeds: list[float]) -> dict[str, float]:
    values = np.array(of_seeds)
    low, high = interval(values)
    return {"value": values.mean(), "low": low, "high": high, "n": len(values)}


def _of_the_article() -> list[dict[str, Any]]:
    """The contrasts of the article's own pictures, as `analyses.published_figures` measured them."""
    t = pd.read_csv(PUBLISHED, keep_default_na=False, na_values={n: [""] for n in ("value", "low", "high", "p")})
    captions = sorted({kind.caption for kind in KINDS.values()} - {""})
    t = t.loc[t["model"].isin(captions) & (t["image"] == "") & (t["metric"] == "lattice_contrast")]
    return t.assign(layer=ARTICLE).drop(columns=["subject", "image"]).to_dict("records")


def _correlations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Spearman's rank correlation over the kinds of predicted and measured, the own imbalance."""
    rows = []
    for layer, period in product(_layers(table), PERIODS):
        part = table.loc[(table["layer"] == layer) & (table["period"] == period)]
        sides = [part.loc[part["metric"] == m, "value"] for m in ("own_imbalance", "predicted_own_imbalance")]
        found: Any = stats.spearmanr(*sides)
        rows.append(
            {"model": "over all kinds", "layer": layer, "period": period, "kind": "phase", "metric": "rank_correlation",
             "value": found.statistic, "n": len(sides[0]), "unit": "1"}
        )  # fmt: skip
    return rows


def _layers(table: pd.DataFrame) -> list[str]:
    """Initialisation and side, in the words of the table."""
    return [layer for layer in dict.fromkeys(table["layer"]) if layer != ARTICLE]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row a kind, initialisation and side: periods claimed, found and predicted, and whether they are the same.

    Found: signed contrast with p at most 0.01, above 0, and so its interval where there is one. Predicted: the mean own
    imbalance is above `EVEN`. `held` is None where the article claims nothing, `foreseen` None for its own pictures.
    """
    rows = []
    for model, layer in table.loc[table["metric"] == "lattice_contrast", ["model", "layer"]].drop_duplicates().values:
        part = table.loc[(table["model"] == model) & (table["layer"] == layer)]
        kind = KINDS.get(model) or next(k for k in KINDS.values() if k.caption == model)
        signed = part.loc[(part["metric"] == "lattice_contrast") & (part["kind"] == "signed")]
        signed = signed.loc[(signed["p"] <= SIGNIFICANCE) & (signed["value"] > 0) & ~(signed["low"] <= 0)]
        uneven = part.loc[(part["metric"] == "predicted_own_imbalance") & (part["value"] > EVEN), "period"]
        found, said = (tuple(int(p) for p in periods) for periods in (signed["period"], uneven))
        rows.append(
            {"model": model, "layer": layer, "claim": kind.claim, "found": found, "predicted": said,
             "held": None if kind.claim is None else found == kind.claim,
             "foreseen": None if layer == ARTICLE else said == found}
        )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.untrained_generators", "The lattices of generators before any training.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "untrained_generators")
        with new_run(target, "untrained_generators", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        print(verdicts(results.table).to_string(index=False))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
