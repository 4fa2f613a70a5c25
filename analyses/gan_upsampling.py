"""The article's generator experiment: deconvolution in the last two layers, in the last, in none, before and after training.

Odena, Dumoulin and Olah 2016 caption samples of such generators with the periods of their artifacts. Here each is trained from
several seeds on images of the assets, and its lattice is measured at 2 and 4 px beside that of the real images: untrained, after
the first epoch, at the end. `CLAIMS` holds every sentence of the article and of the blog on the matter with its rule. An excess
is a contrast above that of the real images or above 0 dB, whichever is more. Kernels of 4 and 5 in all layers are for the
sentences about even overlap; a discriminator whose first layer has stride 1 tells what of a resize generator's lattice its
discriminator wrote.

Run: `python -m analyses.gan_upsampling ASSETS`; on a GPU runs are long, without one short. `--resolution 64` is Tiny ImageNet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from cyclopts import Parameter
from scipy import stats

from analyses import gans
from analyses.claims import BySeed, Claim, Condition, claim_rows, spread, verdict
from analyses.gans import GENERATORS, LONG, padded, setting, trained
from gradlens.compare import LEAST_IMAGES
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.grid import Cell, over_seeds
from gradlens.report.run import KINDS
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder

TWO, ONE, NONE = list(GENERATORS)[:3]
EVEN, UNEVEN = "deconvolution 4x4 in all layers", "deconvolution 5x5 in all layers"
CONTROL = "resize-convolution, discriminator's first layer of stride 1"
DESIGNS: dict[str, dict[str, Any]] = {
    **{name: GENERATORS[name] for name in (TWO, ONE, NONE)},
    EVEN: {"upsampler": ("deconv:4",)},
    UNEVEN: {"upsampler": ("deconv:5",)},
    CONTROL: GENERATORS[NONE] | {"first": "stride1:5"},
}
SHORT_NAMES = {TWO: "two", ONE: "one", NONE: "none", EVEN: "all, 4x4", UNEVEN: "all, 5x5", CONTROL: "none, D stride 1"}
UNTRAINED, EPOCH, TRAINED = "untrained", "first epoch", "trained"
PERIODS = (2, 4)
MARGIN = 1.0  # dB: an excess below it is no artifact; real images of one kind stray that far from 0 dB
UNAFFECTED = 3.0  # dB, a factor of two in power: a change within it leaves a lattice "largely unaffected"
SHOWN = 8  # latents whose samples are kept
KEPT = ("lattice_contrast", "set_imbalance", "images_per_second")  # and the ratings FD and KID

Runs = Mapping[str, Mapping[int, Results]]  # by design and seed


def at(results: Results, stage: str, kind: str, period: int) -> float:
    """The contrast of a run's samples at a stage of its training, in dB; NaN where it did not come so far."""
    if stage == TRAINED:
        return _of_table(results, "sample", kind, period)
    curve, steps = results.arrays[f"log/sample/{kind}/{period}"], results.arrays["log/step"]
    reached = np.flatnonzero(steps >= (epoch(results) if stage == EPOCH else 0))
    return float(curve[reached[0]]) if len(reached) else float("nan")


def epoch(results: Results) -> float:
    """Steps of an epoch."""
    training = results.manifest["training"]
    return training["data"]["used"] * training["steps"] / training["images"]


def excess(results: Results, stage: str, kind: str, period: int) -> float:
    """How far a run's samples are above real images and above 0 dB."""
    return at(results, stage, kind, period) - max(0.0, _of_table(results, "image", kind, period))


def _of_table(results: Results, subject: str, kind: str, period: int) -> float:
    t = results.table
    chosen = (t["subject"] == subject) & (t["metric"] == "lattice_contrast") & (t["kind"] == kind)
    return float(t.loc[chosen & (t["period"] == period), "value"].iloc[0])


def _excess(name: str, stage: str, period: int, low: float = -np.inf, high: float = np.inf) -> Condition:
    def quantity(runs: Runs, kind: str) -> BySeed:
        return {seed: excess(results, stage, kind, period) for seed, results in runs.get(name, {}).items()}

    return Condition(f"excess of {SHORT_NAMES[name]}, {stage}, {period} px", quantity, low, high)


def _present(name: str, stage: str, *periods: int) -> list[Condition]:
    return [_excess(name, stage, period, low=0.0) for period in periods]


def _absent(name: str, stage: str, *periods: int) -> list[Condition]:
    return [_excess(name, stage, period, high=MARGIN) for period in periods]


def _change(name: str, start: str, period: int, low: float = -np.inf, high: float = np.inf) -> Condition:
    def quantity(runs: Runs, kind: str) -> BySeed:
        return {
            seed: at(results, TRAINED, kind, period) - at(results, start, kind, period)
            for seed, results in runs.get(name, {}).items()
        }

    return Condition(f"{SHORT_NAMES[name]}, trained minus {start}, {period} px", quantity, low, high)


def _more(name: str, other: str, period: int) -> Condition:
    """One design's trained samples have more of a lattice than another's, seed by seed."""

    def quantity(runs: Runs, kind: str) -> BySeed:
        ours, theirs = runs.get(name, {}), runs.get(other, {})
        return {
            seed: at(ours[seed], TRAINED, kind, period) - at(theirs[seed], TRAINED, kind, period)
            for seed in ours
            if seed in theirs
        }

    return Condition(f"{SHORT_NAMES[name]} minus {SHORT_NAMES[other]}, trained, {period} px", quantity, low=0.0)


def _order(period: int) -> Condition:
    """Kendall's tau of untrained and trained contrast over the article's three designs."""

    def quantity(runs: Runs, kind: str) -> BySeed:
        names = (TWO, ONE, NONE)
        shared = set.intersection(*(set(runs.get(name, {})) for name in names))
        found = {}
        for seed in sorted(shared):
            before, after = ([at(runs[n][seed], stage, kind, period) for n in names] for stage in (UNTRAINED, TRAINED))
            found[seed] = float(np.asarray(stats.kendalltau(before, after))[0])
        return found

    return Condition(f"rank correlation untrained with trained, {period} px", quantity, low=0.0, unit="1")


ARTICLE, BLOG = "Odena et al. 2016", "blog"
CLAIMED = ((TWO, 2), (TWO, 4), (ONE, 2))  # where the article sees artifacts
CLAIMS = (
    Claim("last two", "Deconv in last two layers. Artifacts of frequency 2 and 4.", ARTICLE, _present(TWO, TRAINED, 2, 4)),
    Claim(
        "last", "Deconv only in last layer. Artifacts of frequency 2.", ARTICLE,
        [*_present(ONE, TRAINED, 2), *_absent(ONE, TRAINED, 4)],
    ),
    Claim("none", "All layers use resize-convolution. No artifacts.", ARTICLE, _absent(NONE, TRAINED, 2, 4)),
    Claim(
        "switching", "Simply switching out the standard deconvolutional layers for nearest-neighbor resize followed by "
        "convolution causes artifacts of different frequencies to disappear.", ARTICLE,
        [_more(TWO, NONE, 2), _more(TWO, NONE, 4), *_absent(NONE, TRAINED, 2, 4)],
    ),
    Claim(
        "compound", "While it's possible for these stacked deconvolutions to cancel out artifacts, they often compound, creating "
        "artifacts on a variety of scales.", ARTICLE, [*_present(TWO, TRAINED, 2, 4), _more(TWO, ONE, 4)],
    ),
    Claim(
        "before, last two", "Deconvolution in last two layers. Artifacts prior to any training.", ARTICLE,
        _present(TWO, UNTRAINED, 2, 4),
    ),
    Claim(
        "before, last", "Deconvolution only in last layer. Artifacts prior to any training.", ARTICLE, _present(ONE, UNTRAINED, 2)
    ),
    Claim(
        "before or after", "All layers use resize-convolution. No artifacts before or after training.", ARTICLE,
        [*_absent(NONE, UNTRAINED, 2, 4), *_absent(NONE, TRAINED, 2, 4)],
    ),
    Claim(
        "not training", "the artifacts are due to this method of generating images, rather than adversarial training.", ARTICLE,
        [*(c for name, period in CLAIMED for c in _present(name, UNTRAINED, period)),
         *(_change(name, UNTRAINED, period, high=MARGIN) for name, period in (*CLAIMED, (NONE, 2), (NONE, 4)))],
    ),
    Claim(
        "without feedback", "we might be able to learn a lot about good generator design without the slow feedback cycle of "
        "training models.", ARTICLE, [_order(2), _order(4)],
    ),
    Claim(
        "struggle", "In practice, neural networks struggle to learn to completely avoid these patterns.", ARTICLE,
        [*_present(TWO, TRAINED, 2), *_present(ONE, TRAINED, 2)],
    ),
    Claim(
        "even", "models with even overlap often learn kernels that cause similar artifacts!", ARTICLE, _present(EVEN, TRAINED, 2)
    ),
    Claim(
        "even, milder", "the artifacts are still present in these models, although they seem milder.", ARTICLE,
        [*_present(EVEN, TRAINED, 2), _more(UNEVEN, EVEN, 2)],
    ),
    Claim(
        "inherent", "these artifacts are a network-inherent issue and not related to training.", BLOG,
        [*(c for name, period in CLAIMED for c in _present(name, UNTRAINED, period)),
         *(_change(name, UNTRAINED, period, low=-UNAFFECTED, high=UNAFFECTED) for name, period in CLAIMED)],
    ),
    Claim(
        "first epoch", "Already after the first epoch you can spot the artifacts,", BLOG,
        [c for name, period in CLAIMED for c in _present(name, EPOCH, period)],
    ),
    Claim(
        "unaffected", "and they remain largely unaffected by training.", BLOG,
        [_change(name, EPOCH, period, low=-UNAFFECTED, high=UNAFFECTED) for name, period in CLAIMED],
    ),
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Config(gans.Config):
    """What is trained, and where the runs lie."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.seeds)) < LEAST_IMAGES:
            raise ValueError(f"--seeds: needs {LEAST_IMAGES} different ones, got {list(self.seeds)}")


def configs(base: TrainConfig, seeds: Sequence[int]) -> dict[tuple[str, int], TrainConfig]:
    """The training run of each design and seed, seed by seed."""
    side = base.resolution
    return {
        (name, seed): replace(base, **padded(fields, side), seed=seed)
        for seed, (name, fields) in product(seeds, DESIGNS.items())
    }


def run(config: Config) -> Results:
    """Train what is missing, and the rows, curves and samples of all.

    Raises:
        ValueError: no run is finished.
    """
    base = setting(config.resolution, config.steps)
    asked = configs(base, config.seeds)
    found, _ = trained(asked, config)
    return gathered(found, config)


def gathered(found: Mapping[tuple[str, int], Cell], config: Config) -> Results:
    """Table, curves and samples of the cells, by design and seed, that are finished."""
    runs: dict[str, dict[int, Results]] = {name: {} for name in DESIGNS}
    for (name, seed), cell in found.items():
        if cell.finished:
            runs[name][seed] = cell.results()
    if not any(runs.values()):
        raise ValueError(f"--cells: no run of this setting is finished in {str(config.cells)!r}")
    t = over_seeds(list(found.values()), lambda one: next(n for (n, _), cell in found.items() if cell.config == one))
    rated = t["metric"].str.startswith(("FD[", "KID["))
    t = t.loc[(t["metric"].isin(KEPT) | rated) & (t["subject"] != "input-gradient")]
    rows = pd.concat([t, *(_stage(runs, stage) for stage in (UNTRAINED, EPOCH)), _ratings(t)], ignore_index=True)
    rows = pd.concat([rows, claim_rows(CLAIMS, runs, KINDS)], ignore_index=True)
    return Results(rows.reindex(columns=list(COLUMNS)), _arrays(runs), _manifest(found, runs, config))


def _stage(runs: Runs, stage: str) -> pd.DataFrame:
    """Contrasts of all designs at a stage of training: their mean over seeds and each seed."""
    rows = []
    for name, of_seeds in runs.items():
        for kind, period in product(KINDS, PERIODS) if of_seeds else ():
            values = {seed: at(results, stage, kind, period) for seed, results in of_seeds.items()}
            told = {"kind": kind, "period": period, "metric": "lattice_contrast", "unit": "dB"}
            rows += spread(values, model=name, subject=stage, **told)
    return pd.DataFrame(rows)


def _ratings(t: pd.DataFrame) -> pd.DataFrame:
    """FD and KID of each design minus those of the one without deconvolution, seed by seed."""
    rated = t.loc[t["metric"].str.startswith(("FD[", "KID[")) & (t["subject"] == "sample") & (t["image"] != "")]
    rows = []
    for metric, part in rated.groupby("metric", sort=False):
        of_designs = {name: dict(zip(g["image"], g["value"], strict=True)) for name, g in part.groupby("model")}
        baseline = of_designs.pop(NONE, {})
        for name, values in of_designs.items():
            paired = {int(s.removeprefix("seed ")): v - baseline[s] for s, v in values.items() if s in baseline}
            rows += spread(paired, model=f"{name} - {NONE}", subject="sample", kind="", metric=metric, unit="1")
    return pd.DataFrame(rows)


def _arrays(runs: Runs) -> dict[str, np.ndarray]:
    """Curves `[seeds K]`, the samples of the first seed at the first and last of its grids, and real images."""
    arrays: dict[str, np.ndarray] = {}
    for name, of_seeds in runs.items():
        if not of_seeds:
            continue
        short, of_runs = SHORT_NAMES[name], list(of_seeds.values())
        first = of_runs[0].arrays
        arrays[f"step/{short}"] = first["log/step"]
        for kind, period in product(KINDS, PERIODS):
            arrays[f"curve/{short}/{kind}/{period}"] = np.stack(
                [r.arrays[f"log/sample/{kind}/{period}"] for r in of_runs]
            )
        arrays[f"samples/{short}"] = first["progress/samples"][[0, -1], :SHOWN]  # [untrained, trained; n C H W]
        arrays.setdefault("real", first["real"][:SHOWN])
    return arrays


def _manifest(found: Mapping[tuple[str, int], Cell], runs: Runs, config: Config) -> dict[str, Any]:
    """How it came about, which runs are there and which are missing."""
    some = next(results for of_seeds in runs.values() for results in of_seeds.values())
    training = some.manifest["training"]
    told = next(iter(found.values())).config
    return circumstances() | {
        "command": gans.command("gan_upsampling", config),
        "resolution": config.resolution,
        "seeds": {SHORT_NAMES[name]: list(of_seeds) for name, of_seeds in runs.items()},
        "missing": [f"{SHORT_NAMES[n]}, seed {seed}" for (n, seed), cell in found.items() if not cell.finished],
        "steps": told.steps,
        "shortened": told.steps < LONG.steps,
        "epoch": epoch(some),
        "trained": {
            "device": some.manifest["device"], "width": told.width, "batch_size": told.batch_size,
            "parameters": training["generator"]["parameters"], "data": training["data"]["used"], "rated": told.rated,
        },
    }  # fmt: skip


def main() -> None:
    """The command line."""
    app = application("python -m analyses.gan_upsampling", "The article's generators, before and after training.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "gan_upsampling")
        with new_run(target, "gan_upsampling", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        for claim in CLAIMS:
            print(f"{claim.name:18} " + "  ".join(f"{kind}: {verdict(t, claim.name, kind):12}" for kind in KINDS))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
