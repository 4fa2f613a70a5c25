"""Do images take over the lattice of the gradient that makes them?

(a) Training. Every few steps a run logs the contrast of its samples and of the discriminator's gradient at them. If the one
writes the other, a rise of the gradient's comes before a rise of the samples': first differences of both curves are correlated
at lags up to `REACH` measurements either way, a lag above 0 meaning that the gradient leads. The null keeps the spectrum of the
gradient's differences and draws their phases anew; p is of the strongest lag. The first tenth of a run, in which everything
changes at once, does not count.

(b) Free pixels, after Schwarz, Liao, Geiger 2021: no generator at all. Grey images with a little noise climb the logit of a
discriminator that was trained with a resize generator and is frozen, or of one that learns at the same time to tell them from
real images, with strided, average-pooled, blurred or held layers. Their settings: Adam (0, 0.99), 0.01 for pixels in [-1, 1],
0.001 for the discriminator, R1 of weight 10. Adam gives each pixel its own step size, which evens out the energy of a gradient
over pixels, so frozen discriminators are also climbed along the gradient itself.

Run: `python -m analyses.gradient_to_sample ASSETS`; on a GPU training is long, without one short. `--resolution 64` is Tiny
ImageNet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from analyses import gans
from analyses.claims import BySeed, Claim, Condition, claim_rows, spread, verdict
from analyses.gans import GENERATORS, LONG, padded, setting, trained
from gradlens.checkpoints import fill, newest, read_state
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.networks import StagedDiscriminator
from gradlens.redesign.gan.build import build
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import seed_of
from gradlens.redesign.gan.instruments import contrasts, gradients_at, picture_contrasts
from gradlens.redesign.grid import Cell
from gradlens.redesign.losses import r1
from gradlens.report.run import KINDS
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder

_TWO, _ONE, _RESIZE, _NEUTRAL = GENERATORS
_PLAIN = {"first": "stride1:5"}
DESIGNS: dict[str, dict[str, Any]] = {  # whose training is followed
    "two deconvolutions": GENERATORS[_TWO],
    "one deconvolution": GENERATORS[_ONE],
    "resize": GENERATORS[_RESIZE],
    "resize, stride 1": GENERATORS[_RESIZE] | _PLAIN,
    "neutral": GENERATORS[_NEUTRAL],
    "neutral, stride 1": GENERATORS[_NEUTRAL] | _PLAIN,
}
STRIDED = ("two deconvolutions", "one deconvolution", "resize", "neutral")
STRIDE, AVERAGE, BLUR, HOLD = "stride", "average", "blur", "hold"
SHRINKING = {
    STRIDE: "stride2:5",
    AVERAGE: "stride1:5",
    BLUR: "blur:5",
    HOLD: "hold:5",
}  # every layer of the discriminator
FROZEN, TOGETHER = "frozen", "co-trained"
Ascent = Literal["plain", "Adam"]
BEDS: tuple[tuple[str, Ascent], ...] = ((FROZEN, "plain"), (FROZEN, "Adam"), (TOGETHER, "Adam"))
PERIODS = (2, 4)
REACH, NEAR = 8, 4  # measurements: lags that are searched, and those that are averaged
SETTLED = 0.1  # of a run, which does not count
DRAWS = 1999
NOISE = 0.1  # standard deviation of the start, images in [0, 1]
RATE, JUDGE_RATE, BETAS, GAMMA = 0.005, 0.001, (0.0, 0.99), 10.0  # 0.01 in [-1, 1] is 0.005 in [0, 1]
PIXELS, GRADIENT, REAL, COUPLING = "pixels", "input-gradient", "image", "coupling"
MARGIN = 1.0  # dB: an excess below it is no artifact, as in `gan_upsampling`
SHOWN = 4
KEYS = ["model", "subject", "layer", "period", "kind", "metric", "unit"]


@dataclass(frozen=True)
class Coupling:
    """Cross-correlation of first differences at lags -`REACH` to `REACH` `[L]`, and what the null has `[draws L]`."""

    observed: np.ndarray
    null: np.ndarray

    @property
    def strongest(self) -> int:
        """The place of the strongest correlation, of either sign."""
        return int(np.abs(self.observed).argmax())

    @property
    def p(self) -> float:
        """The chance of one so strong at any lag."""
        reached = np.abs(self.null).max(1) >= np.abs(self.observed).max()
        return float((1 + reached.sum()) / (1 + len(self.null)))


def coupling(leader: np.ndarray, follower: np.ndarray, *, reach: int = REACH, seed: int = 0) -> Coupling:
    """How changes of `leader` `[K]` go with those of `follower` `[K]`, measured at the same, evenly spaced steps.

    Raises:
        ValueError: the curves are not longer than twice the reach.
    """
    first = int(np.ceil(SETTLED * (len(leader) - 1)))
    a, b = np.diff(leader[first:]), np.diff(follower[first:])
    if len(a) <= 2 * reach:
        raise ValueError(f"curves: must hold more than {2 * reach} differences, got {len(a)}")
    drawn = phase_randomised(a, DRAWS, np.random.default_rng(seed))
    return Coupling(cross_correlation(a, b, reach), cross_correlation(drawn, b, reach))


def cross_correlation(a: np.ndarray, b: np.ndarray, reach: int) -> np.ndarray:
    """Pearson correlation of `a` `[... K]` with `b` `[K]` taken `lag` later, lag from -reach to reach: `[... 2 reach + 1]`.

    Example:
        >>> a = np.random.default_rng(0).normal(size=50)
        >>> cross_correlation(a, np.roll(a, 3), 5).argmax() - 5
        np.int64(3)
    """
    k = b.shape[-1]
    found = []
    for lag in range(-reach, reach + 1):
        x, y = a[..., max(0, -lag) : k - max(0, lag)], b[max(0, lag) : k - max(0, -lag)]
        x, y = x - x.mean(-1, keepdims=True), y - y.mean()
        found.append((x * y).sum(-1) / np.maximum(np.sqrt((x**2).sum(-1) * (y**2).sum()), 1e-30))
    return np.stack(found, -1)


def phase_randomised(x: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Series with the power spectrum and mean of `x` `[K]` and random phases: `[draws K]`.

    Source: Theiler et al. 1992.
    """
    spectrum = np.fft.rfft(x)
    turn = np.exp(2j * np.pi * random.random((draws, len(spectrum))))
    turn[:, 0] = 1
    if len(x) % 2 == 0:
        turn[:, -1] = random.choice([-1.0, 1.0], draws)  # Nyquist stays real
    return np.fft.irfft(spectrum * turn, len(x))


def together(couplings: Sequence[Coupling]) -> Coupling:
    """The mean over seeds, observed and of the null."""
    return Coupling(np.mean([c.observed for c in couplings], 0), np.mean([c.null for c in couplings], 0))


def coupled(logs: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> Iterator[dict[str, Any]]:
    """The rows of (a): of each design, family of the gradient and period, over seeds and of each seed.

    Args:
        logs: arrays of runs by design and seed.
    """
    for (name, of_seeds), kind, period in product(logs.items(), KINDS, PERIODS):
        found = {seed: coupling(*curves(log, kind, period), seed=seed) for seed, log in of_seeds.items()}
        if not found:
            continue
        every = dict.fromkeys(found, int(np.diff(next(iter(of_seeds.values()))["log/step"])[0]))
        told = {"model": name, "subject": COUPLING, "kind": kind, "period": period}
        mean = together(list(found.values()))
        rows = spread({s: float(c.observed[mean.strongest]) for s, c in found.items()}, **told)
        yield rows[0] | {"metric": "strongest_correlation", "p": mean.p, "unit": "1"}
        lag = (mean.strongest - REACH) * next(iter(every.values()))
        yield told | {"layer": "", "image": "", "metric": "lag", "value": lag, "n": len(found), "unit": "steps"}
        for seed, c in found.items():
            own = told | {"layer": "", "image": f"seed {seed}", "n": 1}
            yield own | {"metric": "strongest_correlation", "value": c.observed[c.strongest], "p": c.p, "unit": "1"}
            yield own | {"metric": "lag", "value": (c.strongest - REACH) * every[seed], "unit": "steps"}
        for metric, at in WINDOWS.items():
            values = {s: float(c.observed[at].mean()) for s, c in found.items()}
            yield from spread(values, **told, metric=metric, unit="1")
        levels = {s: _levels(*curves(log, kind, period)) for s, log in of_seeds.items()}
        yield from spread(levels, **told, metric="level_correlation", unit="1")


WINDOWS = {  # means of the correlation over these lags
    "leading_correlation": slice(REACH + 1, REACH + NEAR + 1),
    "simultaneous_correlation": slice(REACH, REACH + 1),
    "following_correlation": slice(REACH - NEAR, REACH),
}


def curves(log: Mapping[str, np.ndarray], kind: str, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts of a run's gradient in one family, and of its samples, signed, at its measurements."""
    first = log[f"log/gradient/{kind}/{period}"].astype(float)
    return first, log[f"log/sample/signed/{period}"].astype(float)


def _levels(gradient: np.ndarray, sample: np.ndarray) -> float:
    first = int(np.ceil(SETTLED * (len(sample) - 1)))
    return float(cross_correlation(gradient[first:], sample[first:], 0)[0])


def noise(count: int, config: TrainConfig, seed: int) -> Tensor:
    """Where pixels start: grey images with a little noise, `[N C R R]` in [0, 1]."""
    random = torch.Generator().manual_seed(seed_of(seed, "pixels", 0))
    side = config.resolution
    return (0.5 + NOISE * torch.randn(count, config.channels, side, side, generator=random)).clamp(0, 1)


class Climb:
    """Pixels `[N C R R]` in [0, 1] on their way up a logit, by Adam or along the gradient of each image, scaled to rms 1."""

    def __init__(self, pixels: Tensor, ascent: Ascent) -> None:
        self.pixels, self.ascent = pixels.clone(), ascent
        self.optimiser = torch.optim.Adam([self.pixels], RATE, BETAS)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take one along `gradient` `[N C R R]`, staying in [0, 1]."""
        if self.ascent == "Adam":
            self.pixels.grad = -gradient
            self.optimiser.step()
        else:
            size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-30)
            self.pixels += RATE * gradient / size
        self.pixels.clamp_(0, 1)


def frozen(judge: nn.Module, start: Tensor, ascent: Ascent, stops: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Pixels at the steps `stops` as they climb the logit of a discriminator that does not change."""
    climb = Climb(start, ascent)
    for step in range(stops[-1] + 1):
        if step in stops:
            yield step, climb.pixels.clone()
        climb.step(gradients_at(judge, climb.pixels))


def co_trained(
    judge: nn.Module, start: Tensor, real: Tensor, stops: Sequence[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Pixels at the steps `stops` as they climb the logit of a discriminator that learns to tell them from `real`.

    `judge` is trained: non-saturating loss with R1 on real images, `[M C R R]` uint8, as many a step as there are pixels.
    """
    climb = Climb(start, "Adam")
    optimiser = torch.optim.Adam(judge.parameters(), JUDGE_RATE, BETAS)
    random = torch.Generator().manual_seed(seed_of(seed, "batches", 0))
    for step in range(stops[-1] + 1):
        if step in stops:
            yield step, climb.pixels.clone()
        chosen = torch.randint(len(real), (len(start),), generator=random)
        seen = real[chosen].float() / 127.5 - 1
        loss = F.softplus(-judge(seen)).mean() + F.softplus(judge(2 * climb.pixels - 1)).mean()
        optimiser.zero_grad()
        (loss + r1(judge, seen, GAMMA)).backward()
        optimiser.step()
        climb.step(gradients_at(judge, climb.pixels))


def of_cell(cell: Cell) -> nn.Module:
    """The trained discriminator of a run."""
    with torch.random.fork_rng(devices=[]):
        _, judge, _ = build(cell.config)
    path = newest(cell.folder) / "discriminator.safetensors"
    fill(judge, read_state(path), cell.folder.name)
    return judge.eval().requires_grad_(False)


def drawn(word: str, config: TrainConfig, width: int, seed: int) -> nn.Module:
    """An untrained discriminator without norms, whose layers shrink as `word` says."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return StagedDiscriminator(
            config.resolution, width=width, channels=config.channels, downsampler=word, norm="none"
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Config(gans.Config):
    """What is followed, how long pixels climb, and where the training runs lie."""

    _: KW_ONLY
    width: Annotated[int | None, Parameter(help="Channels at full resolution; the setting's unless given.")] = None
    images: Annotated[int, Parameter(help="Whose pixels are free.")] = 32
    stops: Annotated[
        tuple[int, ...], Parameter(help="Steps at which they are measured, from 0.", consume_multiple=True)
    ] = (0, 3, 10, 30, 100)
    judge_width: Annotated[int, Parameter(help="Channels of the discriminator that learns beside them.")] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stops[0] != 0 or list(self.stops) != sorted(set(self.stops)):
            raise ValueError(f"--stops: must rise from 0, got {list(self.stops)}")
        if self.images < 1:
            raise ValueError(f"--images: must be at least 1, got {self.images}")


def configs(config: Config) -> dict[tuple[str, int], TrainConfig]:
    """The training run of each design and seed, then of each frozen discriminator: those that are the same are run once."""
    base = setting(config.resolution, config.steps)
    base = base if config.width is None else replace(base, width=config.width)
    fields = {name: padded(own, config.resolution) for name, own in DESIGNS.items()}
    fields |= {f"{FROZEN} {name}": {"downsampler": (word,)} for name, word in SHRINKING.items()}
    return {(name, s): replace(base, **own, seed=s) for s, (name, own) in product(config.seeds, fields.items())}


def run(config: Config) -> Results:
    """Train what is missing, and the rows of all that is there.

    Raises:
        ValueError: no run is finished.
    """
    asked = configs(config)
    found, data = trained(asked, config)
    return gathered(found, data.images, config)


def gathered(found: Mapping[tuple[str, int], Cell], real: Tensor, config: Config) -> Results:
    """The rows of (a) and (b) from those cells that are finished."""
    done = {key: cell for key, cell in found.items() if cell.finished}
    logs: dict[str, dict[int, Mapping[str, np.ndarray]]] = {name: {} for name in DESIGNS}
    for (name, seed), cell in done.items():
        if name in DESIGNS:
            logs[name][seed] = cell.results().arrays
    pixels, shown = free_pixels(done, real, config)
    single = pd.concat([pd.DataFrame(list(coupled(logs))), pixels], ignore_index=True)
    if single.empty:
        raise ValueError(f"--cells: no run of this setting is finished in {str(config.cells)!r}")
    last = (
        single["subject"].isin([COUPLING, REAL]) | (single["layer"] == f"{config.stops[-1]}") | (single["image"] == "")
    )
    table = pd.concat([single.loc[last], claim_rows(claims(config), single, KINDS)], ignore_index=True)
    return Results(table.reindex(columns=list(COLUMNS)), _arrays(logs) | shown, _manifest(found, config))


def free_pixels(
    done: Mapping[tuple[str, int], Cell], real: Tensor, config: Config
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows of (b), means over seeds and each seed, and images of the first seed at the last step."""
    base = setting(config.resolution, config.steps)
    values: dict[tuple[str, str, str, str, int], dict[int, float]] = {}
    shown: dict[str, np.ndarray] = {}
    with progress("pixels", len(config.seeds) * len(SHRINKING) * len(BEDS)) as advance:
        for seed, (name, word), (bed, ascent) in product(config.seeds, SHRINKING.items(), BEDS):
            cell = done.get((f"{FROZEN} {name}", seed))
            if bed == TOGETHER or cell is not None:
                start = noise(config.images, base, seed)
                if bed == TOGETHER:
                    judge = drawn(word, base, config.judge_width, seed)
                    steps = co_trained(judge, start, real, config.stops, seed)
                else:
                    judge = of_cell(cell)  # type: ignore[arg-type]
                    steps = frozen(judge, start, ascent, config.stops)
                model = f"{name}, {bed}, {ascent}"
                for step, pixels in steps:
                    found = picture_contrasts(pixels, PERIODS, PIXELS)
                    found |= contrasts(gradients_at(judge, pixels), PERIODS, GRADIENT)
                    for key, value in found.items():
                        subject, kind, period = key.split("/")
                        values.setdefault((model, subject, str(step), kind, int(period)), {})[seed] = float(value)
                    levels = (255 * pixels[:SHOWN]).round().to(torch.uint8).numpy()
                    shown.setdefault(f"pixels/{model}/{step}", levels)
            advance()
    for seed in config.seeds:
        chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed_of(seed, "real", 0)))
        some = real[chosen[:256]].float() / 255
        for key, value in picture_contrasts(some, PERIODS, REAL).items():
            subject, kind, period = key.split("/")
            values.setdefault(("real images", subject, "", kind, int(period)), {})[seed] = float(value)
        shown.setdefault("real", real[chosen[:SHOWN]].numpy())
    names = ("model", "subject", "layer", "kind", "period")
    rows = [
        row
        for key, of_seeds in values.items()
        for row in spread(of_seeds, **dict(zip(names, key, strict=True)), metric="lattice_contrast", unit="dB")
    ]
    ends = {"0", str(config.stops[-1])}
    return pd.DataFrame(rows), {k: v for k, v in shown.items() if k == "real" or k.rpartition("/")[2] in ends}


def claims(config: Config) -> tuple[Claim, ...]:
    """The sentences, with their rules; pixels at the last step."""
    last = str(config.stops[-1])

    def pixels(name: str, bed: str, ascent: str, *, low: float = -np.inf, high: float = np.inf) -> Condition:
        def quantity(single: pd.DataFrame, kind: str) -> BySeed:
            real = of_seeds(single, "real images", REAL, "", kind)
            own = of_seeds(single, f"{name}, {bed}, {ascent}", PIXELS, last, kind)
            return {seed: value - max(0.0, real[seed]) for seed, value in own.items()}

        return Condition(f"excess of pixels, {name}, {bed}, {ascent}, 2 px", quantity, low, high)

    def more(other: str, bed: str, ascent: str) -> Condition:
        def quantity(single: pd.DataFrame, kind: str) -> BySeed:
            ours, theirs = (of_seeds(single, f"{n}, {bed}, {ascent}", PIXELS, last, kind) for n in (STRIDE, other))
            return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}

        return Condition(f"pixels, {STRIDE} minus {other}, {bed}, {ascent}, 2 px", quantity, low=0.0)

    article, schwarz, kinoshita = "Odena et al. 2016", "Schwarz et al. 2021", "Kinoshita, Kiya 2020"
    can = "gradient artifacts can affect an image being optimized based on a neural networks gradients"
    impaired = "The discriminator's downsampling impairs the training signal (finding 4, in our words)."
    fixed = "A hold before each strided convolution removes the checkerboard of the backward pass (in our words)."
    return (
        *(
            Claim(
                f"image, {ascent}", can, article,
                [pixels(STRIDE, FROZEN, ascent, low=0.0), more(AVERAGE, FROZEN, ascent)],
            )
            for bed, ascent in BEDS
            if bed == FROZEN
        ),
        *(
            Claim(f"follows, {name}", AS_OPTIMISED, article, [_window(name, "leading"), _ahead(name)])
            for name in STRIDED
        ),
        Claim("impairs", impaired, schwarz, [pixels(STRIDE, TOGETHER, "Adam", low=0.0), more(AVERAGE, TOGETHER, "Adam")]),
        Claim("hold", fixed, kinoshita, [pixels(HOLD, TOGETHER, "Adam", high=MARGIN), more(HOLD, TOGETHER, "Adam")]),
    )  # fmt: skip


AS_OPTIMISED = (
    "we might also expect it to affect the family of images parameterized by the generator as they're optimized by the "
    "discriminator in GANs."
)


def _window(name: str, which: str) -> Condition:
    return Condition(
        f"correlation, gradient {which} samples, {name}, 2 px",
        lambda single, kind: of_seeds(single, name, COUPLING, "", kind, metric=f"{which}_correlation"),
        low=0.0,
        unit="1",
    )


def _ahead(name: str) -> Condition:
    """The gradient leads by more than it follows."""

    def quantity(single: pd.DataFrame, kind: str) -> BySeed:
        lead, follow = (
            of_seeds(single, name, COUPLING, "", kind, metric=f"{which}_correlation")
            for which in ("leading", "following")
        )
        return {seed: lead[seed] - follow[seed] for seed in lead}

    return Condition(f"correlation, leading minus following, {name}, 2 px", quantity, low=0.0, unit="1")


def of_seeds(
    single: pd.DataFrame,
    model: str,
    subject: str,
    layer: str,
    kind: str,
    period: int = 2,
    *,
    metric: str = "lattice_contrast",
) -> BySeed:
    """A measure of each seed."""
    rows = single.loc[
        (single["model"] == model) & (single["subject"] == subject) & (single["layer"] == layer) & (single["kind"] == kind)
        & (single["period"] == period) & (single["metric"] == metric) & (single["image"] != "")
    ]  # fmt: skip
    return {int(i.removeprefix("seed ")): float(v) for i, v in zip(rows["image"], rows["value"], strict=True)}


def _arrays(logs: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Curves `[seeds K]` and mean correlations by lag `[L]`."""
    arrays: dict[str, np.ndarray] = {}
    for name, of_runs in logs.items():
        if not of_runs:
            continue
        arrays[f"step/{name}"] = next(iter(of_runs.values()))["log/step"]
        for key in ("sample/signed/2", "gradient/signed/2", "gradient/envelope/2"):
            arrays[f"curve/{name}/{key}"] = np.stack([log[f"log/{key}"] for log in of_runs.values()])
        for kind, period in product(KINDS, PERIODS):
            found = [coupling(*curves(log, kind, period), seed=seed) for seed, log in of_runs.items()]
            arrays[f"lags/{name}/{kind}/{period}"] = np.stack([c.observed for c in found])
            arrays[f"null/{name}/{kind}/{period}"] = np.quantile(np.abs(together(found).null), 0.95, axis=0)
    return arrays


def _manifest(found: Mapping[tuple[str, int], Cell], config: Config) -> dict[str, Any]:
    """How it came about, which runs are there and which are missing."""
    told = next(iter(found.values())).config
    names = dict.fromkeys(name for name, _ in found)
    devices = {cell.results().manifest["device"] for cell in found.values() if cell.finished}
    return circumstances() | {
        "command": gans.command("gradient_to_sample", config),
        "resolution": config.resolution,
        "seeds": {name: [s for (n, s), cell in found.items() if n == name and cell.finished] for name in names},
        "missing": [f"{name}, seed {seed}" for (name, seed), cell in found.items() if not cell.finished],
        "steps": told.steps, "every": told.log_every, "width": told.width, "batch_size": told.batch_size,
        "device": ", ".join(sorted(devices)) or "cpu", "shortened": told.steps < LONG.steps or told.width < LONG.width,
        "images": config.images, "stops": list(config.stops), "judge_width": config.judge_width,
    }  # fmt: skip


def main() -> None:
    """The command line."""
    app = application("python -m analyses.gradient_to_sample", "Do images take over the lattice of their gradient?")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "gradient_to_sample")
        results = run(config)
        with new_run(target, "gradient_to_sample", force=config.force) as folder:
            results.write(folder)
        for claim in claims(config):
            words = "  ".join(f"{kind}: {verdict(results.table, claim.name, kind):12}" for kind in KINDS)
            print(f"{claim.name:28} {words}")
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
