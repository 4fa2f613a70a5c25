"""Does a strided discriminator write its gradient's lattice into the images of a generator that would draw none itself?

Odena, Dumoulin and Olah 2016 show it with a generator "neither biased for or against checkerboard patterns": a first layer of
stride 2 in the discriminator gives strong artifacts, one of stride 1 very mild ones. Here a generator of resize-convolutions and
a neutral one, which enlarges nothing, each meet both, from several seeds. The lattice of the samples and of the discriminator's
gradient at them is measured before the first step and after the last, beside that of the real images. `CLAIMS` holds the
article's sentences with their rules. An excess is a contrast above that of the real images or above 0 dB, whichever is more.

`--search` adds neutral generators of other depths and kernels, other losses and discriminators. Run:
`python -m analyses.gan_discriminator ASSETS`; on a GPU runs are long, without one short. `--resolution 64` is Tiny ImageNet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor

from analyses import gans
from analyses.claims import BySeed, Claim, Condition, claim_rows, spread, verdict
from analyses.gans import FIRST, GENERATORS, LONG, setting, trained
from gradlens.compare import LEAST_IMAGES, measure
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.redesign.gan.build import build
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import seed_of
from gradlens.redesign.gan.instruments import generated, gradients_at, settle
from gradlens.redesign.gan.outcome import MEASURED
from gradlens.redesign.gan.run import SETTLING
from gradlens.redesign.grid import Cell
from gradlens.redesign.losses import LOSSES
from gradlens.report.run import KINDS
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import fine_detail, lattice_statistics
from gradlens.spectra.statistics import of_pictures

RESIZE, NEUTRAL = "resize", "neutral"
MADE = {RESIZE: GENERATORS["resize-convolution in all layers"], NEUTRAL: GENERATORS["neutral"]}
STRIDE, PLAIN = "stride 2", "stride 1"  # of the discriminator's first layer
FIRSTS = dict(zip((STRIDE, PLAIN), FIRST.values(), strict=True))
VARIATIONS: dict[str, dict[str, Any]] = {  # of the neutral generator and what it meets
    "depth 0": {"generator_args": {"depth": 0}},
    "depth 4": {"generator_args": {"depth": 4}},
    "kernel 1": {"generator_args": {"kernel_size": 1}},
    "kernel 5": {"generator_args": {"kernel_size": 5}},
    "depth 0, kernel 1": {"generator_args": {"depth": 0, "kernel_size": 1}},
    "twice as wide": {},
    "non-saturating": {"loss": "non-saturating"},
    "relativistic": {"loss": "relativistic", "norm": "none"},
    "Wasserstein": {"loss": "wasserstein-gp", "norm": "none"},
    "D 3x3": {"downsampler": ("stride2:3",)},
}
UNTRAINED, TRAINED = "untrained", "trained"
SAMPLE, GRADIENT, REAL = "sample", "input-gradient", "image"
PERIODS = (2, 4)
KEPT = ("lattice_contrast", "set_imbalance", "phase_ratio")
KEYS = ["model", "subject", "layer", "period", "kind", "metric", "unit"]
STRONG = 5.0  # dB, the least that the article's own images of deconvolution generators have at 2 px
MILD = STRONG / 2
MANY = 2.0  # times the gradient of a neighbour
SHOWN = 8


def named(generator: str, first: str) -> str:
    """A design, such as `neutral, stride 2`."""
    return f"{generator}, {first}"


def of_seeds(
    single: pd.DataFrame,
    model: str,
    subject: str,
    kind: str,
    period: int,
    *,
    stage: str = TRAINED,
    metric: str = "lattice_contrast",
) -> BySeed:
    """A measure of each seed."""
    stage = "" if subject == REAL else stage
    rows = single.loc[
        (single["model"] == model) & (single["subject"] == subject) & (single["layer"] == stage)
        & (single["period"] == period) & (single["kind"] == kind) & (single["metric"] == metric) & (single["image"] != "")
    ]  # fmt: skip
    return {
        int(image.removeprefix("seed ")): float(v) for image, v in zip(rows["image"], rows["value"], strict=True)
    }  # fmt: skip


def excess(single: pd.DataFrame, model: str, kind: str, period: int) -> BySeed:
    """How far a design's trained samples are above real images and above 0 dB, by seed."""
    real = of_seeds(single, model, REAL, kind, period)
    return {
        seed: value - max(0.0, real[seed]) for seed, value in of_seeds(single, model, SAMPLE, kind, period).items()
    }  # fmt: skip


def _excess(model: str, *, low: float = -np.inf, high: float = np.inf) -> Condition:
    return Condition(
        f"excess of samples, {model}, 2 px", lambda single, kind: excess(single, model, kind, 2), low, high
    )


def _more(generator: str, subject: str) -> Condition:
    """Stride 2 gives more than stride 1, seed by seed."""

    def quantity(single: pd.DataFrame, kind: str) -> BySeed:
        ours, theirs = (of_seeds(single, named(generator, f), subject, kind, 2) for f in FIRSTS)
        return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}

    words = "samples" if subject == SAMPLE else "gradient"
    return Condition(f"{words}, {generator}, {STRIDE} minus {PLAIN}, 2 px", quantity, low=0.0)


def _ratio(model: str) -> Condition:
    def quantity(single: pd.DataFrame, _: str) -> BySeed:
        return of_seeds(single, model, GRADIENT, "phase", 2, metric="phase_ratio")

    return Condition(f"gradient's energy, largest to smallest phase, {model}, 2 px", quantity, low=MANY, unit="1")


ARTICLE = "Odena et al. 2016"
AFFECTED = (
    "If gradient artifacts can affect an image being optimized based on a neural networks gradients in feature visualization, we "
    "might also expect it to affect the family of images parameterized by the generator as they're optimized by the "
    "discriminator in GANs. We've found that this does happen in some cases."
)
CLAIMS = (
    Claim("some cases, neutral", AFFECTED, ARTICLE, [_more(NEUTRAL, GRADIENT), _more(NEUTRAL, SAMPLE)]),
    Claim("some cases, resize", AFFECTED, ARTICLE, [_more(RESIZE, GRADIENT), _more(RESIZE, SAMPLE)]),
    Claim(
        "neutral", "When the generator is neither biased for or against checkerboard patterns, strided convolutions in the "
        "discriminator can cause them.", ARTICLE, [_excess(named(NEUTRAL, STRIDE), low=0.0), _more(NEUTRAL, SAMPLE)],
    ),
    Claim(
        "stride 2", "Discriminator has stride 2 convolution in first layer. Strong frequency 2 artifacts.", ARTICLE,
        [_excess(named(NEUTRAL, STRIDE), low=STRONG)],
    ),
    Claim(
        "stride 1", "Discriminator has regular convolution in first layer. Very mild artifacts.", ARTICLE,
        [_excess(named(NEUTRAL, PLAIN), high=MILD)],
    ),
    Claim(
        "many times", "some neurons will get many times the gradient of their neighbors, basically arbitrarily.", ARTICLE,
        [_ratio(named(NEUTRAL, STRIDE)), _ratio(named(RESIZE, STRIDE))],
    ),
    Claim(
        "strided layers", "Analogous arguments suggest that standard strided convolutional layers may also have issues.", ARTICLE,
        [_more(NEUTRAL, GRADIENT), _more(RESIZE, GRADIENT)],
    ),
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Config(gans.Config):
    """What is trained, and where the runs lie."""

    _: KW_ONLY
    width: Annotated[int | None, Parameter(help="Channels at full resolution; the setting's unless given.")] = None
    search: Annotated[bool, Parameter(help="Also other neutral generators, losses and discriminators.")] = False
    variations: Annotated[
        tuple[str, ...] | None, Parameter(help="Which of these; all unless given.", consume_multiple=True)
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.variations or () if name not in VARIATIONS]
        if unknown:
            raise ValueError(f"--variations: must be some of {', '.join(VARIATIONS)}, got {unknown[0]!r}")


def configs(config: Config) -> dict[tuple[str, int], TrainConfig]:
    """The training run of each design and seed, seed by seed."""
    base = setting(config.resolution, config.steps)
    base = base if config.width is None else replace(base, width=config.width)
    generators = {name: replace(base, **fields) for name, fields in MADE.items()}
    if config.search:
        for name in config.variations or VARIATIONS:
            wide = {"width": 2 * base.width} if name == "twice as wide" else {}
            generators[f"{NEUTRAL}, {name}"] = replace(generators[NEUTRAL], **VARIATIONS[name], **wide, rated=0)
    return {
        (named(name, first), seed): replace(made, first=_like(word, made), seed=seed)
        for seed, (name, made), (first, word) in product(config.seeds, generators.items(), FIRSTS.items())
    }


def _like(word: str | None, config: TrainConfig) -> str | None:
    """The word of the first layer, with the kernel that the other layers have."""
    return word and f"{word.partition(':')[0]}:{config.downsampler[0].partition(':')[2]}"


def run(config: Config) -> Results:
    """Train what is missing, and the rows, curves and samples of all that is there.

    Raises:
        ValueError: no run is finished.
    """
    asked = configs(config)
    found, _ = trained(asked, config)
    return gathered(found, config)


def gathered(found: Mapping[tuple[str, int], Cell], config: Config) -> Results:
    """Table, curves and samples of those cells that are finished, by design and seed."""
    done = {key: cell for key, cell in found.items() if cell.finished}
    if not done:
        raise ValueError(f"--cells: no run of this setting is finished in {str(config.cells)!r}")
    single = pd.concat([rows for (name, _), cell in done.items() for rows in looked_at(name, cell)], ignore_index=True)
    single = pd.concat([single, *differences(single)], ignore_index=True)
    table = pd.concat([means(single), single, claim_rows(CLAIMS, single, KINDS)], ignore_index=True)
    return Results(table.reindex(columns=list(COLUMNS)), _arrays(done), _manifest(found, config))


def looked_at(name: str, cell: Cell) -> Iterator[pd.DataFrame]:
    """The rows of a run that are kept: before its first step, and after its last."""
    told = {"model": name, "image": f"seed {cell.config.seed}"}
    for stage, table in ((UNTRAINED, untrained(cell.config)), (TRAINED, cell.results().table)):
        rows = table.loc[table["metric"].isin(KEPT) & table["period"].isin(PERIODS)]
        if stage == UNTRAINED:
            rows = rows.loc[rows["subject"] != REAL]
        yield rows.assign(layer=np.where(rows["subject"] == REAL, "", stage), **told)


def untrained(config: TrainConfig) -> pd.DataFrame:
    """Samples and gradients of the pair that the seed of a run draws, before its first step; measured as a run measures them."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)  # as the run itself does, before it builds them
        generator, discriminator, _ = build(config)
    settle(generator, _normal(config, "settling", SETTLING))
    samples = generated(generator, _normal(config, "measured", MEASURED))
    of_samples = of_pictures(lattice_statistics(samples, PERIODS), lattice_statistics(fine_detail(samples), PERIODS))
    of_gradients = lattice_statistics(gradients_at(discriminator, samples), PERIODS)
    tables = [
        measure(of_samples, model="", subject=SAMPLE),
        measure(of_gradients, model="", subject=GRADIENT),
    ]
    return pd.concat(tables, ignore_index=True)


def _normal(config: TrainConfig, purpose: str, count: int) -> Tensor:
    random = torch.Generator().manual_seed(seed_of(config.seed, purpose, 0))
    return torch.randn(count, config.latent, generator=random)


def differences(single: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Stride 2 minus stride 1 of each generator, and trained minus untrained of each design, seed by seed."""
    for generator in dict.fromkeys(model.rpartition(", ")[0] for model in single["model"]):
        ours, theirs = (single.loc[single["model"] == named(generator, first)] for first in FIRSTS)
        yield _minus(ours, theirs, ["subject", "layer"], model=f"{generator}: {STRIDE} - {PLAIN}")
    for _, own in single.groupby("model", sort=False):
        after, before = (own.loc[own["layer"] == stage] for stage in (TRAINED, UNTRAINED))
        yield _minus(after, before, ["subject", "model"], layer=f"{TRAINED} - {UNTRAINED}")


def _minus(ours: pd.DataFrame, theirs: pd.DataFrame, shared: Sequence[str], **told: str) -> pd.DataFrame:
    """Rows of the one minus those of the other, where both are; contrasts and imbalances."""
    keys = [*shared, "image", "period", "kind", "metric", "unit"]
    pairs = ours.merge(theirs[[*keys, "value"]], on=keys, suffixes=("", "_other"))
    pairs = pairs.loc[(pairs["metric"] != "phase_ratio") & (pairs["subject"] != REAL)]
    pairs = pairs.assign(value=pairs["value"] - pairs["value_other"], low=np.nan, high=np.nan, p=np.nan, **told)
    return pairs.drop(columns="value_other")


def means(single: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of what single seeds have (`image` is `seed K`), with its interval."""
    rows = []
    for _, group in single.groupby(KEYS, sort=False, dropna=False):
        values = {int(i.removeprefix("seed ")): v for i, v in zip(group["image"], group["value"], strict=True)}
        first = group.to_dict("records")[0]
        rows.append(spread(values, **{str(key): first[key] for key in KEYS})[0])
    return pd.DataFrame(rows)


def _arrays(done: Mapping[tuple[str, int], Cell]) -> dict[str, np.ndarray]:
    """Samples of the first seed of each design at the first and last of its grids, its gradient's spectrum, real images."""
    arrays: dict[str, np.ndarray] = {}
    for (name, _), cell in done.items():
        if f"samples/{name}" in arrays:
            continue
        first = cell.results().arrays
        arrays[f"samples/{name}"] = first["progress/samples"][[0, -1], :SHOWN]  # [untrained, trained; n C H W]
        arrays[f"power/{name}"] = first["power/gradient"]
        arrays.setdefault("real", np.rint(255 * first["real"][:SHOWN]).astype(np.uint8))
    return arrays


def _manifest(found: Mapping[tuple[str, int], Cell], config: Config) -> dict[str, Any]:
    """How it came about, which runs are there, which are missing and what they would take."""
    done = {key: cell for key, cell in found.items() if cell.finished}
    missing = {key: cell for key, cell in found.items() if not cell.finished}
    told = next(iter(found.values())).config
    some = next(iter(done.values())).results().manifest
    each = _seconds_a_step(done)
    seconds = sum(each(cell.config) * cell.config.steps for cell in missing.values())
    if missing:
        say(f"{len(missing)} runs are missing, about {seconds / 60:.0f} minutes on the device of the others")
    return circumstances() | {
        "command": gans.command("gan_discriminator", config),
        "resolution": config.resolution,
        "seeds": {name: [s for n, s in done if n == name] for name in dict.fromkeys(n for n, _ in found)},
        "missing": [f"{name}, seed {seed}" for name, seed in missing],
        "missing_minutes": round(seconds / 60, 1),
        "steps": told.steps, "width": told.width, "batch_size": told.batch_size, "device": some["device"],
        "shortened": told.steps < LONG.steps or told.width < LONG.width,
        "few": len(config.seeds) < LEAST_IMAGES,
    }  # fmt: skip


def _seconds_a_step(done: Mapping[tuple[str, int], Cell]) -> Callable[[TrainConfig], float]:
    """What a step of a run takes by those that are there: of its kind of generator, for each step of the discriminator."""
    known: dict[str, list[float]] = {}
    for cell in done.values():
        training = cell.results().manifest["training"]
        each = training["seconds"] / training["steps"] / LOSSES[cell.config.loss].critic_steps
        known.setdefault(cell.config.generator, []).append(each)
    every = [value for values in known.values() for value in values]
    return lambda config: (
        float(np.median(known.get(config.generator, every))) * LOSSES[config.loss].critic_steps
    )  # fmt: skip


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.gan_discriminator", "Strided discriminators and the lattice of what they judge."
    )

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "gan_discriminator")
        results = run(config)
        with new_run(target, "gan_discriminator", force=config.force) as folder:
            results.write(folder)
        for claim in CLAIMS:
            words = "  ".join(f"{kind}: {verdict(results.table, claim.name, kind):12}" for kind in KINDS)
            print(f"{claim.name:20} {words}")
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
