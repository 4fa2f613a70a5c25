"""What do jitter, penalties, parameterisations and other backward passes do to the lattice of a dream?

Distill's figure: the same network, photograph and steps, at a fixed position and with jitter; several networks, several
photographs, several numbers of offsets. Then the ladder of regularisation of Olah et al. 2017, from naive pixels to
everything, on channels of one layer from grey noise. Then dreams whose max-pool, or stem, runs backwards as another.

Run: `python -m analyses.dream_jitter ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from cyclopts import Parameter
from torch import Tensor, nn

from analyses.maxpool_gradients import networks
from gradlens import models
from gradlens.compare import interval
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.dream import (
    RECIPES,
    Objective,
    Transform,
    channel,
    distance,
    dream,
    fourier,
    jitter,
    pixels,
    rotate,
    scale,
    total_variation,
)
from gradlens.dreams import default_objective, fitted
from gradlens.images import Photograph, photographs
from gradlens.models import Model
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.rules import Rules, softmax
from gradlens.spectra import lattice_contrast

PERIODS = (2, 4, 8)
SIDE, WHOLE = 256, 32
OCTAVES, STEPS = 4, 20
JITTERS: dict[str, Transform] = {
    "fixed position": jitter(0),
    "n = 8": jitter(8),
    "n = 9": jitter(9),
    "n = 32": jitter(32),
    "n = 65": jitter(65),
    "n = auto": jitter("auto"),
    "n = 32, cycle": jitter(32, order="cycle"),
}
DRAWN = ("fixed position", "n = 32", "n = 32, cycle")
NETWORKS = ("resnet18_half", "resnetblur18_half", "resnet18, ImageNet", "mobilenetv2, ImageNet")
LAYER, CHANNELS = "layer3", (3, 17, 40, 64, 90, 101)
CANVAS, LADDER_STEPS, RATE = 160, 192, 0.05
WIDE = (scale([1 + (i - 5) / 50 for i in range(11)]), rotate(range(-10, 11)))


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and photographs are."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Photographs of the assets beside the four samples.")] = 4
    seed: Annotated[int, Parameter(help="Of offsets and noise.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/dream_jitter-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


@dataclass(frozen=True)
class Rung:
    """A step of the ladder: what is subtracted from the channel's mean, what moves the picture, what is optimised."""

    penalty: Callable[[], Objective | None]
    transforms: tuple[Transform, ...]
    preconditioned: bool


LADDER: dict[str, Rung] = {
    "naive pixels": Rung(lambda: None, (), preconditioned=False),
    "penalties": Rung(lambda: 4.0 * total_variation() + 1.0 * distance(0.5), (), preconditioned=False),
    "jitter": Rung(lambda: None, (jitter(16),), preconditioned=False),
    "jitter, scale, rotate": Rung(lambda: None, (jitter(16), *WIDE), preconditioned=False),
    "preconditioned": Rung(lambda: None, (), preconditioned=True),
    "everything (Lucid)": Rung(lambda: None, RECIPES["lucid"], preconditioned=True),
}


def relaxations() -> dict[str, dict[str, Any]]:
    """The rules of each dream, by its words."""
    return {
        "as it is": {},
        "pool: average": {"pool": "average"},
        "pool: L2": {"pool": "l2"},
        "pool: softmax, t = 1": {"pool": softmax(1.0)},
        "pool held": {"pool": "held"},
        "stem held": {"stem": "held"},
        "both held": {"pool": "held", "stem": "held"},
    }


def run(config: Config) -> Results:
    """The contrast of every dream, mean over photographs or channels, and the pictures that are drawn."""
    found = [*photographs(), *photographs(config.assets / "data" / "photos" / "lossless", limit=config.count)]
    rows: list[dict] = []
    arrays: dict[str, np.ndarray] = {}
    with progress("dreams", len(NETWORKS) + 2) as advance:
        for number, name in enumerate(NETWORKS):
            model = networks(config.assets)[name][0]()
            rows += list(_jittered(name, number, model, found, config.seed, arrays))
            advance()
        rows += list(_ladder(models.classifier(), config.seed, arrays))
        advance()
        rows += list(_relaxed(models.classifier(), found, config.seed, arrays))
        advance()
    manifest = circumstances() | {
        "command": "python -m analyses.dream_jitter ASSETS",
        "images": [photograph.name for photograph in found],
        "networks": list(NETWORKS),
        "seed": config.seed,
    }
    return Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), arrays, manifest)


def _jittered(
    name: str, number: int, model: Model, found: Sequence[Photograph], seed: int, arrays: dict[str, np.ndarray]
) -> Iterator[dict]:
    """Every photograph dreamt at every jitter: contrast of the picture and of what was added."""
    objective = default_objective(model)
    photos = [_canvas(photograph, model) for photograph in found]
    arrays[f"jitter/{number}/photograph"] = photos[1][0].numpy()  # the cat
    made: dict[str, list[Tensor]] = {}
    for words, move in JITTERS.items():
        made[words] = [_dreamt(model, photo, objective, (move,), seed) for photo in photos]
        if words in DRAWN:
            arrays[f"jitter/{number}/{words}"] = made[words][1][0].numpy()
    yield from _rows(photos, model=name, subject="image", layer="photograph")
    for words, pictures in made.items():
        yield from _rows(pictures, model=name, subject="dream", layer=words)
        added = [picture - photo for picture, photo in zip(pictures, photos, strict=True)]
        yield from _rows(added, model=name, subject="dream-addition", layer=words)


def _dreamt(model: nn.Module, photo: Tensor, objective: str, transforms: Sequence[Transform], seed: int) -> Tensor:
    return dream(model, photo, objective, transforms=transforms, steps=STEPS, octaves=OCTAVES, seed=seed).images


def _canvas(photograph: Photograph, model: Model) -> Tensor:
    return fitted(photograph.open(), model.info.input_size, (SIDE,), whole=WHOLE)[None]


def _ladder(model: Model, seed: int, arrays: dict[str, np.ndarray]) -> Iterator[dict]:
    """Each rung on six channels of a layer, from grey noise, by Adam as Lucid has it."""
    for words, rung in LADDER.items():
        objectives = []
        for index in CHANNELS:
            wanted, penalty = channel(LAYER, index), rung.penalty()
            objectives.append(wanted if penalty is None else wanted - penalty)
        made = dream(
            model, (3, CANVAS, CANVAS), objectives, transforms=rung.transforms, steps=LADDER_STEPS, seed=seed,
            parameterisation=fourier() if rung.preconditioned else pixels(), optimiser="adam", normalisation="none",
            rate=RATE if rung.preconditioned else RATE / 5,
        ).images  # fmt: skip
        arrays[f"ladder/{words}"] = made.numpy()
        yield from _rows(list(made[:, None]), model="resnet18_half", subject="feature", layer=words)


def _relaxed(model: Model, found: Sequence[Photograph], seed: int, arrays: dict[str, np.ndarray]) -> Iterator[dict]:
    """Dreams at a fixed position whose pool or stem runs backwards as another."""
    for words, rules in relaxations().items():
        at_work: AbstractContextManager = Rules(model, rules) if rules else nullcontext()
        with at_work:
            made = [_dreamt(model, _canvas(photograph, model), "layer2", (), seed) for photograph in found]
        arrays[f"relaxed/{words}"] = made[1][0].numpy()
        yield from _rows(made, model="resnet18_half", subject="relaxed-dream", layer=words)


def _rows(pictures: Sequence[Tensor], **where: str) -> Iterator[dict]:
    """The mean contrast of pictures `[1 C H W]` at each period, with its interval, and the first one's of each set."""
    for period in PERIODS:
        for kind in ("signed", "envelope"):
            values = np.array([lattice_contrast(p, period, kind=kind).item() for p in pictures])  # type: ignore[arg-type]
            low, high = interval(values)
            row: Mapping[str, Any] = where | {"image": "", "period": period, "kind": kind, "metric": "lattice_contrast"}
            yield row | {"value": values.mean(), "low": low, "high": high, "n": len(values), "unit": "dB"}  # type: ignore[operator]
            shown = DRAWN_CHANNEL if where["subject"] == "feature" else DRAWN_PHOTOGRAPH
            yield row | {"image": "drawn", "value": values[shown], "n": 1, "unit": "dB"}  # type: ignore[operator]


DRAWN_CHANNEL, DRAWN_PHOTOGRAPH = 3, 1  # which of them the pages show: the fourth channel, the cat


def main() -> None:
    """The command line."""
    app = application("python -m analyses.dream_jitter", "Dreams with and without jitter, and what else helps.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "dream_jitter")
        with new_run(target, "dream_jitter", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        shown = t.loc[(t["kind"] == "signed") & (t["image"] == "")]
        wide = shown.pivot_table(index=["model", "subject", "layer"], columns="period", values="value", sort=False)
        print(wide.to_string(float_format="{:.1f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
