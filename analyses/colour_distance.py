"""Is the lattice strongest where a colour is far from the average, as the article says, and is it deconvolution that makes it so?

Odena, Dumoulin and Olah 2016: the pattern is "most prominent in images with strong colors", since a bias gives the average colour
and "the further a color is away from the average color, the more deconvolution needs to contribute". Measured in samples of
trained generators: the rank correlation of a lattice with the distance of the colour from the mean colour of the data, between
images and, window by window, within them. The lattice is an amplitude, the rms of what `notch` removes, in grey levels, or a
contrast in dB. Strong colours may come with edges, which are lattice too in a small window: the partial correlation holds the rms
of the fine detail of what `notch` leaves, and a generator of resize-convolutions and real images are the controls. A tanh presses
the lattice of strong colours: what the last layer wrote is what the tanh undone gives.

Run: `python -m analyses.colour_distance ASSETS`; it trains the same runs as `analyses.gan_upsampling`, or finds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from analyses import gans
from analyses.claims import BySeed, Claim, Condition, claim_rows, spread, verdict
from analyses.gan_upsampling import ARTICLE, NONE, ONE, SHORT_NAMES, TWO
from analyses.gan_upsampling import configs as upsampling_configs
from analyses.gans import LONG, setting, trained
from analyses.generated_images import mnist_digits, mnist_generator
from gradlens import models
from gradlens.compare import LEAST_IMAGES, interval
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.redesign.grid import Cell
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import fine_detail, lattice_contrast, notch

DESIGNS = (TWO, ONE, NONE)
REAL, SVHN, MNIST = "real images", "published DCGAN, SVHN", "published DCGAN, MNIST"
PERIODS = (2, 4)
WINDOW = 4  # periods a side: as many as a contrast needs
BETWEEN, WITHIN = "between images", "within images"
AMPLITUDE, CONTRAST = KINDS = ("amplitude", "contrast")
IMAGE, WRITTEN = SPACES = ("", "before tanh")
PLAIN, PARTIAL = METRICS = ("rank_correlation", "partial_rank_correlation")
LEVELS = 255
SHOWN = 6  # images of each end that are kept
PARTS = 8  # equal parts by distance, whose mean amplitudes are kept

Key = tuple[str, str, int, str, str]  # where (between, within), space, period, kind, metric
Found = Mapping[Key, tuple[float, float, float, int]]  # value, low, high, n
Runs = Mapping[str, Mapping[int, Found]]  # by network and seed


def amplitude(x: Tensor, period: int) -> Tensor:
    """The rms over pixels and channels of what repeats with `period`: of `[N C H W]` in [0, 1] `[N]`, in grey levels."""
    return LEVELS * (x - notch(x, period)).square().mean((1, 2, 3)).sqrt()


def windows(x: Tensor, side: int) -> Tensor:
    """Half-overlapping squares of `[N C H W]`: `[N n C side side]`."""
    parts = x.unfold(2, side, side // 2).unfold(3, side, side // 2)  # [N C h w side side]
    return parts.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def written(x: Tensor) -> Tensor:
    """What a tanh made images in [0, 1] of, up to where 8 bits end; 0 is mid grey."""
    return torch.atanh((2 * x - 1).clamp(-1 + 1 / LEVELS, 1 - 1 / LEVELS))


def partial(ours: np.ndarray, theirs: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Spearman's rank correlations of `ours` and `theirs` with `held` held, all `[... N]`: `[...]`; NaN where one does not vary.

    Source: the partial correlation of ranks, (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2) (1 - r_bc^2)).
    """
    ab, ac, bc = (rank_correlation(*pair) for pair in ((ours, theirs), (ours, held), (theirs, held)))
    free = (1 - ac**2) * (1 - bc**2)
    return np.where(free > 1e-12, ab - ac * bc, np.nan) / np.sqrt(np.where(free > 1e-12, free, 1.0))


def rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Spearman's rank correlations of `[... N]`: `[...]`; NaN where one does not vary."""
    a, b = (stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (ours, theirs))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(scale > 0, (a * b).sum(-1), np.nan) / np.where(scale > 0, scale, 1.0)


def spearman_interval(value: float, n: int, held: int = 0) -> tuple[float, float]:
    """A 95 % interval of a rank correlation of `n` values with `held` variables held: Fisher's z with variance 1.06 / (n - 3).

    Source: Fieller, Hartley, Pearson 1957.
    """
    if np.isnan(value) or n - held < 5:
        return float("nan"), float("nan")
    half = stats.norm.ppf(0.975) * np.sqrt(1.06 / (n - held - 3))
    z = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def correlations(images: Tensor, average: Tensor) -> Found:
    """Every correlation of a set of images `[N C H W]` in [0, 1] with the distance from a colour `[C]`."""
    found: dict[Key, tuple[float, float, float, int]] = {}
    for space, period in product(SPACES, PERIODS):
        x, centre = (images, average) if space == IMAGE else (written(images), written(average))
        for where in (BETWEEN, WITHIN):
            distance, edges, lattice = _seen(x, centre, period, where)
            for kind in KINDS:
                for metric, value in _correlated(lattice[kind], distance, edges).items():
                    found[where, space, period, kind, metric] = value
    return found


def _seen(x: Tensor, centre: Tensor, period: int, where: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Distance, fine detail and lattice of each group of things that are compared: one of all images, or one of each image."""
    side = WINDOW * period
    detail = fine_detail(notch(x, period)).square().mean(1, keepdim=True)
    if where == BETWEEN:
        colours, edges = x.mean((2, 3))[None], detail.mean((1, 2, 3))[None]
        strength, contrast = amplitude(x, period)[None], lattice_contrast(x, period)[None]
    else:
        parts = windows(x, side)
        colours = parts.mean((3, 4))
        edges = F.avg_pool2d(detail, side, side // 2).flatten(1)
        strength = amplitude(parts.flatten(0, 1), period).view(len(x), -1)
        contrast = lattice_contrast(parts.flatten(0, 1), period).view(len(x), -1)
    distance = (colours - centre).norm(dim=-1)
    lattice = {AMPLITUDE: strength.numpy(), CONTRAST: contrast.numpy()}
    return distance.numpy(), edges.sqrt().numpy(), lattice


def _correlated(
    lattice: np.ndarray, distance: np.ndarray, edges: np.ndarray
) -> dict[str, tuple[float, float, float, int]]:
    """Plain and partial correlation of groups `[G n]`: of one group with Fisher's interval, of several the mean over groups."""
    each = {PLAIN: rank_correlation(lattice, distance), PARTIAL: partial(lattice, distance, edges)}
    found = {}
    for metric, values in each.items():
        if len(values) == 1:
            n = lattice.shape[1]
            found[metric] = (values[0], *spearman_interval(values[0], n, int(metric == PARTIAL)), n)
        else:
            known = values[~np.isnan(values)]
            mean = float(known.mean()) if len(known) else float("nan")
            found[metric] = (mean, *interval(known), len(known))
    return found


def _value(runs: Runs, name: str, key: Key) -> BySeed:
    return {seed: found[key][0] for seed, found in runs.get(name, {}).items()}


def _rising(where: str, space: str, metric: str, name: str, period: int) -> list[Condition]:
    """The lattice of a design grows with the distance, and more than that of resize-convolutions of the same seed."""

    def rises(runs: Runs, kind: str) -> BySeed:
        return _value(runs, name, (where, space, period, kind, metric))

    def more(runs: Runs, kind: str) -> BySeed:
        control = _value(runs, NONE, (where, space, period, kind, metric))
        return {seed: value - control[seed] for seed, value in rises(runs, kind).items() if seed in control}

    words = f"{metric.replace('_', ' ')} {where}{f', {space}' if space else ''}, {period} px"
    short = SHORT_NAMES[name]
    return [
        Condition(f"{short}: {words}", rises, low=0.0, unit="1"),
        Condition(f"{short} minus none: {words}", more, low=0.0, unit="1"),
    ]


CLAIMS = (
    Claim(
        "strong colours", "Mysteriously, the checkerboard pattern tends to be most prominent in images with strong colors.",
        ARTICLE,
        [c for name in (TWO, ONE) for c in _rising(BETWEEN, IMAGE, PLAIN, name, 2)],
    ),
    Claim(
        "unusual colours", "These artifacts tend to be most prominent when outputting unusual colors.", ARTICLE,
        [c for name in (TWO, ONE) for c in _rising(WITHIN, IMAGE, PLAIN, name, 2)],
    ),
    Claim(
        "further", "The further a color -- like bright red -- is away from the average color, the more deconvolution needs to "
        "contribute.", ARTICLE,
        [c for where in (BETWEEN, WITHIN) for name in (TWO, ONE) for c in _rising(where, WRITTEN, PARTIAL, name, 2)],
    ),
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Config(gans.Config):
    """Whose samples, and how many."""

    _: KW_ONLY
    count: Annotated[int, Parameter(help="Samples of each generator, and real images.")] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.seeds)) < LEAST_IMAGES:
            raise ValueError(f"--seeds: needs {LEAST_IMAGES} different ones, got {list(self.seeds)}")
        if self.count < 16:
            raise ValueError(f"--count: must be at least 16, got {self.count}")


def run(config: Config) -> Results:
    """Train what is missing, and the correlations of all.

    Raises:
        ValueError: no run of these generators is finished.
    """
    base = setting(config.resolution, config.steps)
    asked = {k: v for k, v in upsampling_configs(base, config.seeds).items() if k[0] in DESIGNS}
    found, data = trained(asked, config)
    return gathered(found, data.images, published(config), config)


def published(config: Config) -> dict[str, tuple[Tensor, Tensor]]:
    """Samples of the two published generators, each with its average colour: of its own samples for SVHN, whose images the assets
    do not hold, and of the test digits for MNIST."""
    svhn = sampled(models.generator(), config.count, 0)
    digits = torch.tensor([mnist_digits(config.assets).mean() / LEVELS], dtype=torch.float32)
    return {
        SVHN: (svhn, svhn.mean((0, 2, 3))),
        MNIST: (sampled(mnist_generator(config.assets), config.count, 0), digits),
    }


def gathered(
    found: Mapping[tuple[str, int], Cell],
    data: Tensor,
    others: Mapping[str, tuple[Tensor, Tensor]],
    config: Config,
) -> Results:
    """Table and profiles of the cells that are finished, of real images `[N C H W]` uint8 and of `others` with their averages."""
    average = data.double().mean((0, 2, 3)).float() / LEVELS
    sets: dict[str, dict[int, Tensor]] = {name: {} for name in DESIGNS}
    for (name, seed), cell in found.items():
        if cell.finished:
            sets[name][seed] = sampled(models.generator(cell.folder), config.count, seed)
    if not any(sets.values()):
        raise ValueError(f"--cells: no run of this setting is finished in {str(config.cells)!r}")
    sets[REAL] = {seed: _some(data, config.count, seed) for seed in config.seeds}
    runs = {name: {seed: correlations(x, average) for seed, x in of_seeds.items()} for name, of_seeds in sets.items()}
    rows = [row for name, of_seeds in runs.items() for row in _rows(name, of_seeds)]
    for name, (images, centre) in others.items():
        rows += [_row(name, key, value) for key, value in correlations(images, centre).items()]
    arrays = {"average": average.numpy()}
    for name, of_seeds in sets.items():
        if of_seeds:
            told, some = _profiles(name, list(of_seeds.values()), average)
            rows, arrays = rows + told, arrays | some
    table = pd.concat([pd.DataFrame(rows), claim_rows(CLAIMS, runs, KINDS)], ignore_index=True)
    return Results(table.reindex(columns=list(COLUMNS)), arrays, _manifest(found, config))


def _some(data: Tensor, count: int, seed: int) -> Tensor:
    """Real images `[N C H W]` in [0, 1], drawn from the seed."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order[:count]].float() / LEVELS


def sampled(model: models.Model, count: int, seed: int) -> Tensor:
    """Samples `[N C H W]` in [0, 1] of a generator, from standard normal latents."""
    latents = torch.randn(count, *model.info.input_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return torch.cat([model(part) for part in latents.split(64)]).clamp(0, 1)


def _rows(name: str, of_seeds: Mapping[int, Found]) -> list[dict[str, Any]]:
    """Of every correlation the mean over seeds, and each seed with its own interval over images."""
    rows = []
    for key in next(iter(of_seeds.values()), ()):
        mean, *each = spread({seed: found[key][0] for seed, found in of_seeds.items()}, **_told(name, key))
        rows += [mean] + [
            row
            | dict(zip(("low", "high", "n"), of_seeds[int(row["image"].removeprefix("seed "))][key][1:], strict=True))
            for row in each
        ]
    return rows


def _row(name: str, key: Key, found: tuple[float, float, float, int]) -> dict[str, Any]:
    """A correlation of one network, with its interval over images."""
    return _told(name, key) | {"image": ""} | dict(zip(("value", "low", "high", "n"), found, strict=True))


def _told(name: str, key: Key) -> dict[str, Any]:
    where, space, period, kind, metric = key
    return {
        "model": name, "subject": where, "layer": space, "period": period, "kind": kind, "metric": metric, "unit": "1",
    }  # fmt: skip


def _profiles(name: str, sets: Sequence[Tensor], average: Tensor) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Mean amplitude in equal parts by distance, nearest first, of each seed `[seeds 2 parts]`, and some images of both ends."""
    rows, arrays = [], {}
    short = SHORT_NAMES.get(name, name)
    for period, where in product(PERIODS, (BETWEEN, WITHIN)):
        parts = np.stack([_parts(*_seen(x, average, period, where)) for x in sets])
        arrays[f"profile/{short}/{where}/{period}"] = parts
        for place, which in ((0, "nearest"), (-1, "farthest")):
            of_seeds = dict(enumerate(parts[:, 1, place]))
            told = {"subject": where, "kind": AMPLITUDE, "metric": f"amplitude, {which} eighth", "unit": "grey levels"}
            rows += spread(of_seeds, model=name, layer=IMAGE, period=period, **told)[:1]
    distance = (sets[0].mean((2, 3)) - average).norm(dim=-1)
    ends = distance.argsort()[[*range(SHOWN), *range(-SHOWN, 0)]]
    arrays[f"ends/{short}"] = sets[0][ends].numpy()
    arrays[f"lattice/{short}"] = (sets[0][ends] - notch(sets[0][ends], 2)).numpy()
    return rows, arrays


def _parts(distance: np.ndarray, edges: np.ndarray, lattice: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean distance in grey levels and mean amplitude of each part `[2 parts]`."""
    order = np.argsort(distance, axis=None)
    ours = (LEVELS * distance.ravel()[order], lattice[AMPLITUDE].ravel()[order])
    return np.array([[part.mean() for part in np.array_split(values, PARTS)] for values in ours])


def _manifest(found: Mapping[tuple[str, int], Cell], config: Config) -> dict[str, Any]:
    told = next(iter(found.values())).config
    some = next(cell for cell in found.values() if cell.finished).results().manifest
    seeds = {SHORT_NAMES[n]: [s for (m, s), cell in found.items() if m == n and cell.finished] for n in DESIGNS}
    return circumstances() | {
        "command": gans.command("colour_distance", config),
        "resolution": config.resolution,
        "count": config.count,
        "seeds": seeds,
        "missing": [f"{SHORT_NAMES[n]}, seed {seed}" for (n, seed), cell in found.items() if not cell.finished],
        "steps": told.steps,
        "shortened": told.steps < LONG.steps,
        "trained": {"device": some["device"], "width": told.width, "batch_size": told.batch_size},
    }


def main() -> None:
    """The command line."""
    app = application("python -m analyses.colour_distance", "The lattice of samples against the distance of colours.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "colour_distance")
        with new_run(target, "colour_distance", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        for claim in CLAIMS:
            told = "  ".join(f"{kind}: {verdict(results.table, claim.name, kind):12}" for kind in KINDS)
            print(f"{claim.name:18} {told}")
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
