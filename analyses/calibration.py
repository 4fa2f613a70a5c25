"""Are the p-values of `gradlens.spectra` honest, and what do they find?

White, pink and edge-like noise and photographs without a lattice, then photographs with one of one or two grey levels.
A calibrated test rejects a share of the first equal to its level, a powerful one all of the second. Photographs are
split in two halves by a hash of their name: choices are made on the first and reported on both. Also the bias of the
imbalance, and how often the intervals of few images hold the true mean. Run:
`python -m analyses.calibration PHOTOGRAPHS`; without photographs only the noise is measured. `summary` makes the page of
the report from the table.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from torch import Tensor

from gradlens.compare import interval
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.images import photographs
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import fine_detail, lattice_test, phase_imbalance
from gradlens.spectra.envelope import Kind
from gradlens.spectra.statistics import KINDS

PERIODS = (2, 3, 4, 6, 8, 16, 32)
PHOTOGRAPH_PERIODS = (2, 4, 8)
LEVELS = (0.01, 0.1)
WHAT_IS_TESTED: dict[str, tuple[tuple[Kind, tuple[int, ...]], ...]] = {
    "photographs": (("signed", PHOTOGRAPH_PERIODS), ("envelope", PHOTOGRAPH_PERIODS)),
    "photographs' detail": (("envelope", PHOTOGRAPH_PERIODS),),  # what `gradlens measure` tests
    "photographs, sign lattice of 1 grey level": (("signed", (2,)),),
    "photographs, sign lattice of 2 grey levels": (("signed", (2,)),),
}
SHRINK = 0.47  # no small multiple of 1/8: the 8 px lattice of JPEG does not become another period of ours
LEAST_SIDE = 120


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to measure."""

    images: Annotated[Path | None, Parameter(help="Folder of photographs.")] = None
    _: KW_ONLY
    draws: Annotated[int, Parameter(help="Noise images of each kind.")] = 2000
    seed: Annotated[int, Parameter(help="Of the noise.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/calibration-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def white(n: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """`[N C H W]` of independent normal values."""
    return torch.randn(n, channels, side, side, generator=generator)


def pink(n: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """`[N C H W]` with power 1 / f^2, the slope of natural images."""
    noise = torch.fft.rfft2(white(n, channels, side, generator))
    radius = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)).clamp(min=1 / side)
    return torch.fft.irfft2(noise / radius, s=(side, side))


def edges(n: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """`[N C H W]` of thirty upright rectangles of random place, size and level: ridges on both frequency axes."""
    images = 0.02 * white(n, channels, side, generator)
    position = torch.arange(side)
    for _ in range(30):
        corner, extent = (torch.randint(side, (2, n, 1), generator=generator) for _ in range(2))
        inside = [(position >= c) & (position < c + e) for c, e in zip(corner, extent, strict=True)]
        level = torch.randn(n, channels, 1, 1, generator=generator)
        images = images + level * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return images


NOISE: dict[str, Callable[[int, int, int, torch.Generator], Tensor]] = {"white": white, "pink": pink, "edges": edges}
SHAPES = ((1, 28), (3, 28), (1, 32), (3, 32), (1, 128), (3, 128))


def run(config: Config) -> Results:
    """The share of rejections of each kind of image at each period, and the imbalance's bias and gain."""
    found = [] if config.images is None else photographs(config.images)
    rows: list[dict] = []
    with progress("calibration", len(NOISE) * len(SHAPES) + len(found)) as advance:
        for name, make in NOISE.items():
            for channels, side in SHAPES:
                generator = torch.Generator().manual_seed(config.seed)
                batches = [
                    make(min(250, config.draws - k), channels, side, generator) for k in range(0, config.draws, 250)
                ]
                rows += _rejections(f"{name}, {side} px, {'grey' if channels == 1 else 'RGB'}", batches, PERIODS)
                advance()
        rows += _imbalances(config)
        rows += _coverages(config)
        rows += _photographs([(p.name, p.open()) for p in found], advance)
    manifest = circumstances() | {"command": "python -m analyses.calibration PHOTOGRAPHS", "seed": config.seed}
    return Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {}, manifest)


def _rejections(model: str, batches: list[Tensor], periods: tuple[int, ...]) -> list[dict]:
    """For each family and period the mean contrast and the share of p at most each level."""
    rows = []
    for kind in KINDS:
        for period in periods:
            tests = [lattice_test(batch, period, kind=kind) for batch in batches]
            contrast = torch.cat([t.contrast for t in tests])
            p = torch.cat([t.p_value for t in tests])
            if contrast.isnan().any():
                continue
            rows += _rows(model, kind, period, contrast, p)
    return rows


def _rows(model: str, kind: str, period: int, contrast: Tensor, p: Tensor) -> list[dict]:
    plain = {"model": model, "subject": "image", "layer": "", "image": "", "period": period, "kind": kind, "n": len(p)}
    rows = [plain | {"metric": "lattice_contrast", "value": contrast.mean().item(), "unit": "dB"}]
    return rows + [
        plain | {"metric": "lattice_test", "p": level, "value": (p <= level).double().mean().item(), "unit": "rejected"}
        for level in LEVELS
    ]


def _imbalances(config: Config) -> list[dict]:
    """The debiased imbalance on white and heavy-tailed noise, without and with a planted 0.484."""
    generator = torch.Generator().manual_seed(config.seed)
    energy = torch.tensor([[1 + 0.484 * 3**0.5, 1 - 0.484 / 3**0.5], [1 - 0.484 / 3**0.5] * 2])  # std / mean = 0.484
    rows = []
    for channels in (1, 3):
        normal = white(config.draws, channels, 64, generator)
        heavy = torch.distributions.StudentT(torch.tensor(5.0))
        tails = (
            normal
            / torch.from_numpy(np.random.default_rng(config.seed).chisquare(heavy.df.item(), tuple(normal.shape)) / 5)
            .sqrt()
            .float()
        )
        for name, x in (("white", normal), ("Student t, 5 degrees", tails)):
            for planted in (False, True):
                signal = x * energy.sqrt().repeat(32, 32) if planted else x
                value = phase_imbalance(signal, 2)
                square = (value.sign() * value.square()).mean()
                model = f"{name}, 64 px, {'grey' if channels == 1 else 'RGB'}{', planted 0.484' if planted else ''}"
                rows.append(
                    {"model": model, "subject": "image", "layer": "", "image": "", "period": 2, "kind": "phase"}
                    | {"metric": "phase_imbalance", "n": len(value), "unit": "1"}
                    | {"value": (square.sign() * square.abs().sqrt()).item()}
                )
    return rows


def _coverages(config: Config) -> list[dict]:
    """How often the interval of the mean of few values holds the true mean."""
    generator = np.random.default_rng(config.seed)
    draw = {
        "normal": (lambda size: generator.standard_normal(size), 0.0),
        "lognormal": (lambda size: generator.lognormal(size=size), np.exp(0.5)),
    }
    rows = []
    for name, (values, mean) in draw.items():
        for n in (3, 4, 8, 16, 64):
            sets = [interval(values(n)) for _ in range(config.draws)]
            rows.append(
                {"model": f"intervals, {name} values", "subject": "image", "layer": "", "image": "", "kind": ""}
                | {"metric": "interval", "n": n, "unit": "covered"}
                | {"value": np.mean([low <= mean <= high for low, high in sets])}
            )
    return rows


def _photographs(found: list[tuple[str, Image.Image]], advance: Callable[[], None]) -> list[dict]:
    """Rejections on photographs of each half and of both, plain and with a planted sign lattice."""
    measured: dict[tuple[str, str, int], list[tuple[int, float, float]]] = {}
    for name, image in found:
        advance()
        size = (round(SHRINK * image.width), round(SHRINK * image.height))
        if min(size) < LEAST_SIDE:
            continue
        half = hashlib.sha256(name.encode()).digest()[0] % 2
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
        x = torch.from_numpy(pixels).movedim(-1, 0)[None]
        for what, y in _variants(x):
            for kind, periods in WHAT_IS_TESTED[what]:
                for period in periods:
                    test = lattice_test(y, period, kind=kind)
                    entry = (half, test.contrast.item(), test.p_value.item())
                    measured.setdefault((what, kind, period), []).append(entry)
    rows = []
    for (what, kind, period), entries in measured.items():
        for half, word in ((0, ", first half"), (1, ", second half"), (None, "")):
            part = [e[1:] for e in entries if half is None or e[0] == half]
            if part:
                values = torch.tensor(part, dtype=torch.float64)
                rows += _rows(what + word, kind, period, values[:, 0], values[:, 1])
    return rows


def _variants(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The photograph, its fine detail, and its central 128 px with a sign lattice of one and of two grey levels."""
    yield "photographs", x
    yield "photographs' detail", fine_detail(x)
    top, left = ((side - min(side, 128)) // 2 for side in x.shape[2:])
    crop = x[..., top : top + 128, left : left + 128]
    rows, columns = (torch.arange(side) for side in crop.shape[2:])
    sign = 1.0 - 2.0 * ((rows[:, None] + columns) % 2)
    for levels in (1, 2):
        yield (
            f"photographs, sign lattice of {levels} grey level{'s' * (levels > 1)}",
            (crop + levels * sign).clamp(0, 255),
        )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of image and family: the least and the largest share of p at most 0.01 and 0.1 over its rows.

    Columns `what, kind, periods, n, low_01, high_01, low_1, high_1`; of intervals, the coverage by `n`.
    """
    records = table.to_dict(orient="records")
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        if record["metric"] == "lattice_test":
            what = re.sub(r", \d+ px, (grey|RGB)$", "", record["model"])
            groups.setdefault((what, record["kind"]), []).append(record)
    rows = []
    for (what, kind), group in groups.items():
        periods = sorted({int(r["period"]) for r in group})
        row = {"what": what, "kind": kind, "periods": " ".join(map(str, periods)), "n": max(int(r["n"]) for r in group)}
        for level, name in zip(LEVELS, ("01", "1"), strict=True):
            shares = [r["value"] for r in group if r["p"] == level]
            row |= {f"low_{name}": min(shares), f"high_{name}": max(shares)}
        rows.append(row)
    for record in records:
        if record["metric"] in ("phase_imbalance", "interval"):
            row = {"what": record["model"], "kind": record["metric"], "periods": "", "n": int(record["n"])}
            rows.append(row | {"low_01": record["value"]})
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.calibration", "Rejections of the lattice test where there is a lattice and not."
    )

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "calibration")
        with new_run(target, "calibration", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        print(summary(t).to_string(index=False, float_format="{:.3f}".format, na_rep=""))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
