"""What do equations 1 to 3 and figure 4 of Gao et al. 2017 (pixel deconvolutional networks, 004) change?

A transposed convolution (DCL, eq. 1), iPixelDCL (eq. 2), PixelDCL (eq. 3) and its masked form (figure 4), beside a
resize-convolution, which is even by construction. Counted: parameters, multiplications, and which adjacent output pixels read
each other. Proved: the certificate and the predicted energy of each phase. Measured: the lattice and the correlation of
adjacent pixels that untrained layers write on noise and photographs, those that are left in the error of small
super-resolution networks after training, what these make of an even grey, and the time of the layers alone and in a
U-Net.

Run: `python -m analyses.pixel_deconvolution_layers [PHOTOGRAPHS]`, then `python -m reports.pixel_deconvolution_layers RUN`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import product
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gradlens.compare import interval, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import certify, energy_map
from gradlens.images import Photograph, photographs
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_statistics
from gradlens.upsampling import ResizeConv
from gradlens.upsampling.pixeldcl import IPixelDCL, MaskedPixelDCL, PixelDCL, phases

Layer = Callable[[int, int], nn.Module]

DCL, MASKED, EVEN = "DCL 4x4", "PixelDCL, masked", "resize, 3x3"
LAYERS: dict[str, Layer] = {  # kernels of 2x2 as in figure 4: four of them are the 4x4 of a DCL
    DCL: lambda c, n: nn.ConvTranspose2d(c, n, 4, stride=2, padding=1),
    "DCL 3x3": lambda c, n: nn.ConvTranspose2d(c, n, 3, stride=2, padding=1, output_padding=1),
    "iPixelDCL": lambda c, n: IPixelDCL(c, n, kernel_size=2),
    "PixelDCL": lambda c, n: PixelDCL(c, n, kernel_size=2),
    MASKED: MaskedPixelDCL,
    "iPixelDCL, 3x3": IPixelDCL,
    "PixelDCL, 3x3": PixelDCL,
    EVEN: ResizeConv,
}
EQUATIONS = {DCL: "1", "DCL 3x3": "1", "iPixelDCL": "2", "PixelDCL": "3", MASKED: "figure 4"}
PAPER = {  # table 2: training and prediction over those of the U-Net with DCL
    "iPixelDCL": (511.3 / 365.4, 253 / 162),
    MASKED: (464.5 / 365.4, 207 / 162),
}
PHOTOGRAPH, NOISE, UNBIASED = "photographs", "noise", "noise, biases 0"
LAST, INSIDE = PLACES = ("last layer", "inside")  # of a trained network
WIDTH = 64  # channels of what is counted and timed
OUT = 16  # channels of untrained layers on images
FEATURES, CROP, BATCH, RATE = 24, 24, 16, 2e-3  # of the networks that are trained
HELD_OUT = 4  # every fourth photograph
SIDE, BORDER = 256, 16  # of an evaluated photograph, and what is cut off around before measuring
LEVEL = 255
SHOWN = 40  # pixels a side of a picture that is kept
STRAIGHT, DIAGONAL = (
    ((0, 1), (1, 0)),
    ((1, 1), (1, -1)),
)  # of half of the neighbours: the others are their mirror images


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """How much to draw, to train and to time."""

    images: Annotated[Path | None, Parameter(help="Folder of lossless photographs; bundled samples unless given.")] = (
        None
    )
    _: KW_ONLY
    draws: Annotated[int, Parameter(help="Untrained layers of each kind.")] = 24
    seeds: Annotated[int, Parameter(help="Networks trained with each layer.")] = 3
    steps: Annotated[int, Parameter(help="Of training.")] = 400
    rounds: Annotated[int, Parameter(help="Timings of every layer.")] = 11
    seed: Annotated[int, Parameter(help="Of the first layer and network.")] = 0
    out: Annotated[
        Path | None, Parameter(help="Folder of this run; runs/pixel_deconvolution_layers-N unless given.")
    ] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """All that is counted, proved and measured of every layer, a row each; pictures as arrays."""
    found = photographs(config.images)
    evaluated = [tensor(photograph, SIDE) for photograph in found[::HELD_OUT]]
    seen = [tensor(p) for k, p in enumerate(found) if k % HELD_OUT]
    noise, small = _noise(config), _halved(evaluated, config.draws)
    arrays: dict[str, np.ndarray] = {}
    told: dict[str, dict[str, str]] = {}
    rows: list[dict[str, Any]] = []
    tables = [_lattice(torch.stack(evaluated), model=PHOTOGRAPH, subject=PHOTOGRAPH, layer="themselves")]
    with progress("pixel deconvolution", 2 * len(LAYERS) + 2) as advance:
        for name, make in LAYERS.items():
            rows += [*_counted(name, make), *_related(name, make), *_predicted(name, make, config)]
            verdicts, proved = _certified(name, make, config)
            told[name] = verdicts
            offsets = [(*phase, *step) for phase, steps in reads(make(1, 1)).items() for step in sorted(steps)]
            arrays[f"reads/{name}"] = np.array(offsets, dtype=np.int64).reshape(-1, 4)
            rows += proved
            for subject, inputs in ((NOISE, noise), (UNBIASED, noise), (PHOTOGRAPH, small)):
                outputs = _untrained(make, inputs, config, biased=subject != UNBIASED)
                tables.append(_lattice(outputs, model=name, subject=subject, layer="untrained"))
                rows += _correlated(name, subject, outputs)
            advance()
        for name, make in LAYERS.items():
            more, pictures = _trained(name, make, seen, evaluated, config)
            rows += more
            arrays |= pictures
            advance()
        rows += timed({name: make(WIDTH, WIDTH) for name, make in LAYERS.items()}, (8, WIDTH, 64, 64), "layer", config)
        advance()
        rows += timed({name: UNet(make) for name, make in LAYERS.items()}, (4, 3, 64, 64), "U-Net", config)
        advance()
    table = pd.concat([pd.DataFrame(rows), *tables], ignore_index=True).reindex(columns=list(COLUMNS))
    table[["layer", "image", "kind"]] = table[["layer", "image", "kind"]].fillna("")
    target = evaluated[0][:, SIDE // 2 - SHOWN // 2 :, SIDE // 2 - SHOWN // 2 :][:, :SHOWN, :SHOWN]
    manifest = circumstances() | {
        "command": command(config),
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "verdicts": told,
        "evaluated": [photograph.name for photograph in found[::HELD_OUT]],
        "trained_on": [p.name for k, p in enumerate(found) if k % HELD_OUT],
    }
    return Results(table, arrays | {"picture/target": target.numpy()}, manifest)


def command(config: Config) -> str:
    """The command of a run, with what it gave beside the folder."""
    given = {name: getattr(config, name) for name in ("draws", "seeds", "steps", "rounds", "seed")}
    options = [f"--{name} {value}" for name, value in given.items() if value != getattr(Config, name)]
    where = ["PHOTOGRAPHS"] if config.images else []
    return " ".join(["python -m analyses.pixel_deconvolution_layers", *where, *options])


def tensor(photograph: Photograph, side: int | None = None) -> Tensor:
    """A photograph `[3 H W]` in [0, 1], never resized; the `side` px of its middle where given."""
    pixels = torch.from_numpy(np.array(photograph.open().convert("RGB"))).movedim(-1, 0).float() / LEVEL
    if side is None:
        return pixels
    if min(pixels.shape[1:]) < side:
        raise ValueError(
            f"images: {photograph.name!r} must have at least {side} px a side, got {list(pixels.shape[1:])}"
        )
    top, left = ((n - side) // 2 for n in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def drawn(make: Layer, before: int, after: int, seed: int, *, biased: bool = True) -> nn.Module:
    """A layer with seeded weights, and biases unless `biased` is off."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = make(before, after).eval()
    for parameter in layer.parameters():
        if parameter.ndim == 1 and not biased:
            nn.init.zeros_(parameter)
    return layer


def _row(model: str, subject: str, metric: str, value: float, unit: str = "1", **more: Any) -> dict[str, Any]:
    return {"model": model, "subject": subject, "metric": metric, "value": value, "unit": unit} | more


# Counted and proved


def _counted(name: str, make: Layer) -> Iterator[dict[str, Any]]:
    """Weights, and multiplications an output value, of as many channels as are timed, each over the channels."""
    layer = make(WIDTH, WIDTH)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = layer(torch.zeros(1, WIDTH, 16, 16))
    yield _row(name, "count", "weights", weights / WIDTH**2, "C^2")
    yield _row(name, "count", "multiplications", counter.get_total_flops() / 2 / y.numel() / WIDTH, "C")


def reads(layer: nn.Module) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """The offsets at which an output pixel of each phase reads other output pixels, from the layer's kernels."""
    order = [(p, q) for p, q in phases(2)]
    found: dict[tuple[int, int], set[tuple[int, int]]] = {phase: set() for phase in order}
    if isinstance(layer, PixelDCL | IPixelDCL | MaskedPixelDCL):
        for n, conv in enumerate(layer.k):
            m = conv.get_submodule("conv").get_parameter("weight").shape[-1]
            window = list(product([2 * (k - (m - 1) // 2) for k in range(m)], repeat=2))
            found[order[n]] |= {(i + p - order[n][0], j + q - order[n][1]) for p, q in order[:n] for i, j in window}
    if isinstance(layer, MaskedPixelDCL):
        kernel = layer.kernel().abs().sum((0, 1))
        cross = {(i - 1, j - 1) for i, j in kernel.nonzero().tolist()}
        found |= dict.fromkeys(order[2:], cross)
    return found


def related(layer: nn.Module) -> dict[str, float]:
    """Of the pairs of adjacent output pixels, by side and by corner, the share of which one reads the other."""
    known = reads(layer)

    def joined(phase: tuple[int, int], step: tuple[int, int]) -> bool:
        other = ((phase[0] + step[0]) % 2, (phase[1] + step[1]) % 2)
        return step in known[phase] or (-step[0], -step[1]) in known[other]

    return {
        kind: float(np.mean([joined(phase, step) for phase in known for step in steps]))
        for kind, steps in (("side", STRAIGHT), ("corner", DIAGONAL))
    }


def _related(name: str, make: Layer) -> Iterator[dict[str, Any]]:
    for kind, value in related(make(1, 1)).items():
        yield _row(name, "count", "related", value, kind=kind)


def _certified(name: str, make: Layer, config: Config) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The verdicts and the deviation of both directions, of one draw."""
    verdicts, rows = {}, []
    for direction in ("forward", "backward"):
        found = certify(drawn(make, 3, 3, config.seed), (3, 24, 24), direction=direction, seed=config.seed)
        verdicts[direction] = found.verdict
        rows.append(_row(name, "certificate", "deviation", found.deviation, kind=direction))
    return verdicts, rows


def _predicted(name: str, make: Layer, config: Config) -> Iterator[dict[str, Any]]:
    """The energy of each phase before training, predicted and of noise, mean 1, and the imbalance of the predicted."""
    layer = drawn(make, WIDTH, WIDTH, config.seed, biased=False)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        y = layer(torch.randn(8, WIDTH, 24, 24, generator=generator)).square().mean((0, 1))
    maps = {"predicted": energy_map(layer, (WIDTH, 24, 24), direction="forward"), "measured": y}
    for kind, energy in maps.items():
        inside = energy[BORDER:-BORDER, BORDER:-BORDER].double()
        mean = {phase: inside[phase[0] :: 2, phase[1] :: 2].mean().item() for phase in phases(2)}
        level = float(np.mean(list(mean.values())))
        for (p, q), value in mean.items():
            yield _row(name, "energy", "phase_energy", value / level, kind=kind, layer=f"{p},{q}")
        yield _row(name, "energy", "imbalance", float(np.std(list(mean.values()))) / level, kind=kind)


# Untrained


def _noise(config: Config) -> list[Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    return [torch.randn(3, SIDE // 4, SIDE // 4, generator=generator) for _ in range(config.draws)]


def _halved(evaluated: Sequence[Tensor], count: int) -> list[Tensor]:
    """Photographs at half their size, about normalised; used again where there are too few."""
    return [2 * F.avg_pool2d(evaluated[k % len(evaluated)], 2) - 1 for k in range(count)]


@torch.no_grad()
def _untrained(make: Layer, inputs: Sequence[Tensor], config: Config, *, biased: bool) -> Tensor:
    """What a layer of its own makes of each input, without the border: `[N OUT h w]`."""
    layers = (drawn(make, 3, OUT, config.seed + k, biased=biased) for k in range(len(inputs)))
    outputs = [layer(x[None]) for layer, x in zip(layers, inputs, strict=True)]
    return torch.cat(outputs)[..., BORDER:-BORDER, BORDER:-BORDER]


def _lattice(x: Tensor, *, model: str, subject: str, layer: str) -> pd.DataFrame:
    """The set rows of the contrast of 2 px."""
    table = measure(lattice_statistics(x, (2,)), model=model, subject=subject, layer=layer)
    return table.loc[table["metric"] == "lattice_contrast"]


def correlations(x: Tensor) -> Tensor:
    """Correlation of adjacent pixels of `[N C H W]`, between the phases of 2 px: `[N C 8]`, a value for each phase and side."""
    found = []
    for (p, q), (i, j) in product(phases(2), STRAIGHT):
        one = x[..., p : -2 + p : 2, q : -2 + q : 2]
        other = x[..., p + i :: 2, q + j :: 2][..., : one.shape[-2], : one.shape[-1]]
        pair = torch.stack([one, other]).double().flatten(3)
        pair = pair - pair.mean(-1, keepdim=True)
        found.append((pair[0] * pair[1]).sum(-1) / pair.square().sum(-1).prod(0).sqrt().clamp(min=1e-30))
    return torch.stack(found, -1)


def _correlated(name: str, subject: str, x: Tensor) -> Iterator[dict[str, Any]]:
    """The mean correlation, and the rms, whose signs do not cancel; intervals over the images."""
    found = correlations(x).flatten(1)
    for kind, each in (("mean", found.mean(1)), ("rms", found.square().mean(1).sqrt())):
        low, high = interval(each.numpy())
        span = {"low": low, "high": high, "n": len(each)}
        yield _row(name, subject, "correlation", each.mean().item(), kind=kind, layer="untrained", **span)


# Trained


def network(make: Layer, *, inside: bool) -> nn.Sequential:
    """Two convolutions at low resolution, then the layer: it writes the image, or `inside` features for a last convolution.

    As the last layer a map in sequence knows of the input what the three channels of the map before it hold, and no more.
    """
    last = (
        [make(FEATURES, FEATURES), nn.ReLU(), nn.Conv2d(FEATURES, 3, 3, padding=1)] if inside else [make(FEATURES, 3)]
    )
    return nn.Sequential(
        nn.Conv2d(3, FEATURES, 3, padding=1), nn.ReLU(), nn.Conv2d(FEATURES, FEATURES, 3, padding=1), nn.ReLU(), *last
    )


def train(make: Layer, seen: Sequence[Tensor], steps: int, seed: int, *, inside: bool = False) -> nn.Module:
    """The network after so many steps of doubling the size of halved crops; the same crops for every layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(make, inside=inside)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        target = _crops(seen, generator)
        loss = F.mse_loss(model(F.avg_pool2d(target, 2)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def _crops(seen: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """A batch of crops at random places, which are no multiples of 8 px: `[BATCH 3 2 CROP 2 CROP]`."""
    crops = []
    for k in torch.randint(len(seen), (BATCH,), generator=generator).tolist():
        top, left = (int(torch.randint(n - 2 * CROP + 1, (), generator=generator)) for n in seen[k].shape[1:])
        crops.append(seen[k][:, top : top + 2 * CROP, left : left + 2 * CROP])
    return torch.stack(crops)


def _trained(
    name: str, make: Layer, seen: Sequence[Tensor], evaluated: Sequence[Tensor], config: Config
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What trained networks leave in their error, over seeds: mean, least and largest; pictures of the first network."""
    target = torch.stack(list(evaluated))
    values: dict[tuple[str, str, str, str], list[float]] = {}
    arrays: dict[str, np.ndarray] = {}
    for seed, layer in product(range(config.seed, config.seed + config.seeds), PLACES):
        model = train(make, seen, config.steps, seed, inside=layer == INSIDE)
        with torch.no_grad():
            y = torch.cat([model(F.avg_pool2d(image[None], 2)) for image in target])
            grey = model(torch.full((1, 3, 32, 32), 0.5))[0]
        error = (y - target)[..., BORDER:-BORDER, BORDER:-BORDER]
        for row in _lattice(error, model=name, subject="error", layer=layer).to_dict("records"):
            values.setdefault((layer, "error", "lattice_contrast", row["kind"]), []).append(row["value"])
        values.setdefault((layer, "error", "psnr", ""), []).append(-10 * error.square().mean().log10().item())
        values.setdefault((layer, "error", "correlation", "mean"), []).append(correlations(error).mean().item())
        flat = grey[:, BORDER:-BORDER, BORDER:-BORDER]
        departure = (flat - flat.mean((1, 2), keepdim=True)).square().mean().sqrt().item()
        values.setdefault((layer, "grey", "rms", ""), []).append(LEVEL * departure)
        if seed == config.seed and layer == LAST:
            middle = slice(SIDE // 2 - SHOWN // 2, SIDE // 2 - SHOWN // 2 + SHOWN)
            arrays = {f"picture/{name}": y[0, :, middle, middle].numpy(), f"grey/{name}": flat[:, :16, :16].numpy()}
    units = {"lattice_contrast": "dB", "psnr": "dB", "rms": "levels"}
    rows = [
        _row(name, subject, metric, float(np.mean(each)), units.get(metric, "1"), kind=kind, layer=layer,
             period=2 if metric == "lattice_contrast" else np.nan, low=min(each), high=max(each), n=len(each))
        for (layer, subject, metric, kind), each in values.items()
    ]  # fmt: skip
    return rows, arrays


# Timed


class UNet(nn.Module):
    """Four blocks that shrink by 2 and four that enlarge, as the paper's, of 16 to 128 channels: `[N 3 H W]` to `[N 21 H W]`.

    Args:
        make: the layer that enlarges.
    """

    def __init__(self, make: Layer) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(_block(c, n) for c, n in zip((3, *widths), widths, strict=False))
        self.bottom = _block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            make(c, n) for c, n in zip((widths[-1], *reversed(widths)), reversed(widths), strict=False)
        )
        self.joined = nn.ModuleList(_block(2 * n, n) for n in reversed(widths))
        self.last = nn.Conv2d(widths[0], 21, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            kept.append(block(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for up, block in zip(self.up, self.joined, strict=True):
            x = block(torch.cat([kept.pop(), up(x)], 1))
        return self.last(x)


def _block(c: int, n: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, n, 3, padding=1), nn.ReLU(), nn.Conv2d(n, n, 3, padding=1), nn.ReLU())


def timed(models: Mapping[str, nn.Module], size: tuple[int, ...], subject: str, config: Config) -> list[dict[str, Any]]:
    """Processor time of every model over that of the first in the same round: median and quartiles."""
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.randn(size, generator=generator)
    names = list(models)
    seconds = {kind: np.empty((config.rounds + 1, len(names))) for kind in ("training", "prediction")}
    for round_ in range(config.rounds + 1):
        for place in range(len(names)):
            k = (place + round_) % len(names)
            seconds["training"][round_, k] = _training_time(models[names[k]], x)
            seconds["prediction"][round_, k] = _prediction_time(models[names[k]], x)
    rows = []
    for kind, every in seconds.items():
        ratio = every[1:] / every[1:, :1]  # the first round warms up
        for k, name in enumerate(names):
            low, median, high = np.quantile(ratio[:, k], (0.25, 0.5, 0.75))
            rows.append(_row(name, subject, "time_ratio", median, kind=kind, low=low, high=high, n=config.rounds))
            rows.append(_row(name, subject, "time", float(np.median(every[1:, k])), "s", kind=kind, n=config.rounds))
    return rows


def _training_time(model: nn.Module, x: Tensor) -> float:
    leaf = x.clone().requires_grad_()
    start = process_time()
    y = model(leaf)
    torch.autograd.grad(y, [leaf, *model.parameters()], torch.ones_like(y))
    return process_time() - start


@torch.no_grad()
def _prediction_time(model: nn.Module, x: Tensor) -> float:
    start = process_time()
    model(x)
    return process_time() - start


def main() -> None:
    """The command line."""
    app = application("python -m analyses.pixel_deconvolution_layers", "What pixel deconvolution changes.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "pixel_deconvolution_layers")
        with new_run(target, "pixel_deconvolution_layers", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        shown = results.table.loc[:, ["model", "subject", "layer", "kind", "metric", "value", "low", "high"]]
        print(shown.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
