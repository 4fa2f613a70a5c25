"""Does jitter remove a network's lattice as the law says, from averaged gradients and from dreams?

    G_n(x) = mean over n consecutive offsets o of R_-o g(R_o x)

The picture moves by o, the network stays, the gradient is moved back: what stays with the network is averaged over n
phases, and harmonic k of T is left with |D(k)| of `gradlens.dream.jitter_attenuation`. Offsets are along one axis and
harmonics on it, so 65 gradients serve every n; each axis in turn. What is measured is the power at a harmonic above that of
its neighbours two bins away, summed over harmonics and mean over images, against the same at a fixed position.

What is not lattice falls too, as the gradients of a moved picture differ: the neighbours' own power is told beside it. A
pattern of the photographs (theirs were JPEG once: 8 px) moves with them and is none of the network's: no jitter removes it.

Then N steps, random or in the order of the cycle, of 8 x 8 offsets; and dreams of N = 20 steps, which see what they have
made. Run: `python -m analyses.jitter_law ASSETS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor

from analyses.maxpool_gradients import networks
from gradlens.compare import RESAMPLES
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.dream import cycle, dream, jitter, jitter_attenuation, moved
from gradlens.gradients import input_gradient
from gradlens.images import photographs
from gradlens.models import Model
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import power_spectrum

OFFSETS = (1, 2, 4, 5, 8, 9, 16, 32, 64, 65)  # n = 0 is n = 1
MOST = max(OFFSETS)
PERIODS = (2, 4, 8, 16, 32)
MODES = ("roll", "crop", "zeros")
STEPS = (1, 4, 16, 64, 256)
GRID = 8  # offsets on each axis, for N steps
DRAWS = 16  # of N random steps
DREAM_STEPS = 20
SIDE = 256
BORDERS = {"roll": 0, "crop": 64, "zeros": 32}  # px that not every offset shows, left out


@dataclass(frozen=True)
class Part:
    """A network, the modes that it is tried with, and how many photographs."""

    network: str
    modes: tuple[str, ...]
    count: int


PARTS = (
    Part("resnet18_half", MODES, 10),
    Part("resnetblur18_half", ("roll",), 8),
    Part("resnet18, ImageNet", ("roll",), 6),
    Part("mobilenetv2, ImageNet", ("roll",), 6),
)


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and photographs are."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    share: Annotated[float, Parameter(help="Of the photographs; less is faster.")] = 1.0
    seed: Annotated[int, Parameter(help="Of random offsets.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/jitter_law-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """Predicted and measured attenuation of every network, mode, period and number of offsets or steps."""
    known = networks(config.assets)
    rows: list[dict] = []
    names: dict[str, list[str]] = {}
    with progress("networks", len(PARTS)) as advance:
        for part in PARTS:
            model = known[part.network][0]()
            count = max(3, round(part.count * config.share))
            found = photographs(config.assets / "data" / "photos" / "lossless", limit=count)
            images = torch.stack([_whole(photograph.open()) for photograph in found])
            names[part.network] = [photograph.name for photograph in found]
            for mode in part.modes:
                rows += [row | {"model": part.network} for row in _consecutive(model, images, mode)]
            rows += [row | {"model": part.network} for row in _steps(model, images, config.seed)]
            if part.network == "resnet18_half":
                rows += [row | {"model": part.network} for row in _dreams(model, images, config.seed)]
            advance()
    manifest = circumstances() | {
        "command": "python -m analyses.jitter_law ASSETS",
        "images": names,
        "seed": config.seed,
    }
    table = pd.DataFrame(rows).assign(image="")
    return Results(table.reindex(columns=list(COLUMNS)), {}, manifest)


def _whole(image: object) -> Tensor:
    """A photograph of 256 px `[3 256 256]` in [0, 1], as it is."""
    from PIL import Image

    assert isinstance(image, Image.Image)
    pixels = np.array(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)[:, :SIDE, :SIDE].contiguous()


def moved_gradient(model: Model, images: Tensor, offsets: Sequence[int], mode: str) -> Tensor:
    """The gradient of `images` `[N C H W]` seen at `offsets`, moved back: as a step of a dream takes it."""
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        shown = moved(leaf, offsets, MOST, mode)  # type: ignore[arg-type]
    inner = input_gradient(model, shown.detach())
    return torch.autograd.grad(shown, leaf, inner)[0]


@dataclass(frozen=True)
class Excess:
    """Power at the harmonics above their neighbours, and of the neighbours themselves, of each image `[N]`."""

    lattice: np.ndarray
    around: np.ndarray


def excess(x: Tensor, period: int, axis: int | None) -> Excess:
    """Of gradients `[N C H W]`, at the new harmonics of `period` on one axis, or of both axes (None) on and off them.

    The windows have 16 bins between lattice lines at T = 2 and at least 4; what is two bins away on both sides along each
    tested axis, the geometric mean of them, is what the harmonic stands above.
    """
    length = max(32, 4 * period)
    power = power_spectrum(x, size=length).sum(1)  # [N L L]
    step = length // period
    from gradlens.spectra.grid import new_harmonics

    found = [(k, m) for k, m in new_harmonics((period, period)) if axis is None or (k, m)[1 - axis] == 0]
    at = np.array(found) * step
    here = power[:, at[:, 0], at[:, 1]]
    beside = []
    for shift in (-2, 2):
        for along in (0, 1) if axis is None else (axis,):
            place = at.copy()
            place[:, along] = (place[:, along] + shift) % length
            beside.append(power[:, place[:, 0], place[:, 1]].log())
    around = torch.stack(beside).mean(0).exp()
    return Excess((here - around).sum(1).numpy(), around.sum(1).numpy())


def _consecutive(model: Model, images: Tensor, mode: str) -> Iterator[dict]:
    """Averages over n consecutive offsets on each axis in turn, from 65 gradients an axis."""
    lattice: dict[tuple[int, int], list[np.ndarray]] = {}
    around: dict[tuple[int, int], list[np.ndarray]] = {}
    for axis in (0, 1):
        taken = [moved_gradient(model, images, [o if a == axis else 0 for a in (0, 1)], mode) for o in _range(MOST)]
        for n in OFFSETS:
            first = MOST // 2 - n // 2
            mean = torch.stack(taken[first : first + n]).mean(0)
            inner = slice(BORDERS[mode], SIDE - BORDERS[mode])
            mean = mean[..., inner, inner]
            for period in PERIODS:
                found = excess(mean, period, axis)
                lattice.setdefault((n, period), []).append(found.lattice)
                around.setdefault((n, period), []).append(found.around)
    for period in PERIODS:
        still, content = sum(lattice[1, period]), sum(around[1, period])
        for n in OFFSETS:
            power = np.mean([jitter_attenuation(n, period, harmonic=k) ** 2 for k in _coprime(period)])
            yield from _compared(
                sum(lattice[n, period]), still, sum(around[n, period]), content, float(power),  # type: ignore[arg-type]
                layer=f"{mode}, n = {n}", period=period, subject="averaged-gradient",
            )  # fmt: skip


def _range(n: int) -> range:
    return range(-(n // 2), n - n // 2)


def _coprime(period: int) -> list[int]:
    return [k for k in range(1, period) if np.gcd(k, period) == 1]


def _steps(model: Model, images: Tensor, seed: int) -> Iterator[dict]:
    """Averages over N steps of 8 x 8 offsets, drawn at random and in the order of the cycle."""
    taken = {(a, b): moved_gradient(model, images, [a - 4, b - 4], "roll") for a in range(GRID) for b in range(GRID)}
    fixed = taken[4, 4]
    generator = torch.Generator().manual_seed(seed)
    for period in PERIODS[:3]:
        still = excess(fixed, period, None)
        for steps in STEPS:
            lattice, around = [], []
            for _ in range(DRAWS):
                places = torch.randint(GRID, (steps, 2), generator=generator).tolist()
                found = excess(torch.stack([taken[a, b] for a, b in places]).mean(0), period, None)
                lattice.append(found.lattice)
                around.append(found.around)
            yield from _compared(
                np.mean(lattice, 0), still.lattice, np.mean(around, 0), still.around, 1 / steps,
                layer=f"random, N = {steps}", period=period, subject="averaged-gradient",
            )  # fmt: skip
            if steps > GRID**2:
                continue
            places = [cycle(GRID, 2, step) for step in range(steps)]
            found = excess(torch.stack([taken[a, b] for a, b in places]).mean(0), period, None)
            yield from _compared(
                found.lattice, still.lattice, found.around, still.around, _power(places, period),
                layer=f"cycle, N = {steps}", period=period, subject="averaged-gradient",
            )  # fmt: skip


def _power(places: Sequence[Sequence[int]], period: int) -> float:
    """The mean over harmonics of |mean over places of exp(2 pi i k . o / T)|^2."""
    from gradlens.spectra.grid import new_harmonics

    harmonics = np.array(new_harmonics((period, period)))
    turns = np.exp(2j * np.pi * (np.array(places) @ harmonics.T) / period)
    return float(np.mean(np.abs(turns.mean(0)) ** 2))


def _dreams(model: Model, images: Tensor, seed: int) -> Iterator[dict]:
    """What a dream of layer2 in 20 steps and one octave has added to the picture."""
    for order in ("random", "cycle"):
        added = {
            n: dream(
                model, images, "layer2", transforms=[jitter(n, order=order)], steps=DREAM_STEPS, seed=seed  # type: ignore[arg-type]
            ).images - images
            for n in OFFSETS
        }  # fmt: skip
        for period in PERIODS[:3]:  # layer2 has stride 8
            still = excess(added[1], period, None)
            for n in OFFSETS:
                found = excess(added[n], period, None)
                if order == "cycle":
                    power = _power([cycle(n, 2, step) for step in range(DREAM_STEPS)], period)
                else:
                    power = float(
                        np.mean(
                            [jitter_attenuation(n, period, harmonic=h, steps=DREAM_STEPS) ** 2 for h in _plane(period)]
                        )
                    )
                yield from _compared(
                    found.lattice, still.lattice, found.around, still.around, power,
                    layer=f"{order}, n = {n}", period=period, subject="dream",
                )  # fmt: skip


def _plane(period: int) -> list[tuple[int, ...]]:
    from gradlens.spectra.grid import new_harmonics

    return new_harmonics((period, period))


def _compared(
    lattice: np.ndarray,
    still: np.ndarray,
    around: np.ndarray,
    content: np.ndarray,
    law: float,
    **where: object,
) -> Iterator[dict]:
    """Rows in amplitude: the law's attenuation, what was measured of the lattice, and of what lies around it.

    Without a lattice at the fixed position (its interval over images holds 0) nothing is measured.
    """
    drawn = _resampled(np.stack([lattice, still, around, content]))
    if np.quantile(drawn[1], 0.025) <= 0:
        drawn = np.full_like(drawn, np.nan)
    ratio, left = drawn[0] / drawn[1], drawn[2] / drawn[3]
    values = {
        "predicted_attenuation": (law, np.nan, np.nan),
        "measured_attenuation": (lattice.mean() / still.mean(), *np.quantile(ratio, (0.025, 0.975))),
        "content_attenuation": (around.mean() / content.mean(), *np.quantile(left, (0.025, 0.975))),
    }
    if np.isnan(drawn[0]).all():
        values["measured_attenuation"] = (np.nan,) * 3
    for metric, power in values.items():
        value, low, high = np.sqrt(np.maximum(power, 0))
        yield where | {
            "kind": "signed", "metric": metric, "value": value, "low": low, "high": high, "n": len(lattice), "unit": "1"
        }  # fmt: skip


def _resampled(values: np.ndarray) -> np.ndarray:
    """Means of each of `values` `[M N]` over bootstrap samples of the images: `[M resamples]`."""
    n = values.shape[1]
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return values @ counts.T / n


def main() -> None:
    """The command line."""
    app = application("python -m analyses.jitter_law", "Does jitter remove a lattice as the law says?")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "jitter_law")
        with new_run(target, "jitter_law", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        wide = t.pivot_table(
            index=["model", "subject", "layer"], columns=["period", "metric"], values="value", sort=False
        )
        print(wide.to_string(float_format="{:.2f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
