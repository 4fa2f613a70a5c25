"""Every layer that enlarges, side by side: certificate, predicted energy, lattice untrained and trained, cost and time.

The lattice is that of a small autoencoder of photographs, 32 px to 8 px and back through two of the layers, the last of which
writes the image: periods 2 and 4. It is trained on crops of three sample photographs and judged on crops of the fourth. Times are
relative to a transposed convolution of 4x4 taps at stride 2, the two alternating. Run: `python -m analyses.upsampler_zoo`, on a
GPU `python -m analyses.upsampler_zoo --device cuda`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.compare import interval, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import certify, energy_map
from gradlens.images import sample
from gradlens.redesign.surgery import multiplications
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_statistics, phase_energy, phase_imbalance, phase_ratio
from gradlens.upsampling import UPSAMPLERS

BASELINE = "deconv 4x4"
LAYERS: dict[str, Callable[..., nn.Module]] = {
    BASELINE: lambda *c: UPSAMPLERS["deconv"](*c, kernel_size=4),
    "deconv 3x3": lambda *c: UPSAMPLERS["deconv"](*c, kernel_size=3),
    **{key: make for key, make in UPSAMPLERS.items() if key != "deconv"},
}
PERIODS = (2, 4)
SIDE, SMALL = 32, 24  # px of the autoencoder's pictures; of the maps that certificates and energies are of
TRAINED_ON, JUDGED_ON = ("astronaut", "coffee", "rocket"), "chelsea"
UNTRAINED, TRAINED = "untrained", "trained"


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """How much is trained, and what is timed."""

    seeds: Annotated[int, Parameter(help="Autoencoders of each layer.")] = 3
    _: KW_ONLY
    steps: Annotated[int, Parameter(help="Of training.")] = 300
    width: Annotated[int, Parameter(help="Channels of the autoencoder.")] = 24
    crops: Annotated[int, Parameter(help="Pictures that are judged.")] = 96
    channels: Annotated[int, Parameter(help="Of the layers that are timed.")] = 64
    side: Annotated[int, Parameter(help="Of the maps that they enlarge, in pixels.")] = 64
    batch: Annotated[int, Parameter(help="Of these.")] = 4
    pairs: Annotated[int, Parameter(help="Timings of each layer and its peer.")] = 9
    device: Annotated[str, Parameter(help="cpu, cuda; on a GPU times are in bfloat16.")] = "cpu"
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/upsampler_zoo-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """The rows of every layer."""
    if min(config.seeds, config.steps, config.crops, config.pairs) < 1:
        raise ValueError("seeds, steps, crops, pairs: must be at least 1")
    if config.device == "cpu":
        torch.set_num_threads(1)
    tables = []
    with progress("layers", len(LAYERS)) as advance:
        for name in LAYERS:
            tables.append(pd.DataFrame([*known(name), *timed(name, config)]))
            tables += list(lattices(name, config))
            advance()
    manifest = circumstances() | {
        "command": command(config), "seeds": config.seeds, "steps": config.steps, "crops": config.crops,
        "timed": [config.channels, config.side, config.batch], "device": config.device,
        "threads": torch.get_num_threads(), "order": list(LAYERS),
    }  # fmt: skip
    return Results(pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS)), {}, manifest)


def command(config: Config) -> str:
    """The command of a run, with what it gave beside the folder."""
    names = ("seeds", "steps", "width", "crops", "channels", "side", "batch", "pairs", "device")
    options = [f"--{n} {getattr(config, n)}" for n in names if getattr(config, n) != getattr(Config, n)]
    return " ".join(["python -m analyses.upsampler_zoo", *options])


def drawn(name: str, *channels: int, seed: int = 0) -> nn.Module:
    """A layer with weights from `seed`; the global random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LAYERS[name](*channels)


def known(name: str) -> Iterator[dict[str, Any]]:
    """What a layer is by itself: certificates, predicted energy, parameters and multiplications of a pixel and channel."""
    layer = drawn(name, 8, 8).eval()
    size = (8, SMALL, SMALL) if name != "sinc" else (8, 2 * SMALL, 2 * SMALL)
    for direction in ("forward", "backward"):
        found = certify(layer, size, direction=direction)
        kind = {"pass": 1.0, "fail": 0.0}.get(found.verdict, float("nan"))
        yield _row(name, "certificate", kind, kind=direction)
        yield _row(name, "certificate_deviation", found.deviation, kind=direction)
    wide = drawn(name, 32, 32).eval()
    amplitude = energy_map(wide, (32, *size[1:]), direction="forward").sqrt()[None, None, 8:-8, 8:-8]
    yield _row(name, "predicted_imbalance", phase_imbalance(amplitude, 2, debias=False).item(), period=2, kind="phase")
    yield _row(name, "predicted_ratio", phase_ratio(phase_energy(amplitude, 2)).item(), period=2, kind="phase")
    yield _row(name, "parameters", sum(p.numel() for p in wide.parameters()) / 32**2)
    yield _row(name, "multiplications", multiplications(wide, torch.zeros(1, 32, 64, 64)) / 32**2)


def timed(name: str, config: Config) -> Iterator[dict[str, Any]]:
    """Time of a layer relative to the baseline, forward and with backward: median and quartiles of pairs."""
    device, c = torch.device(config.device), config.channels
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sides = [drawn(n, c, c).train().to(device, dtype).to(memory_format=torch.channels_last) for n in (name, BASELINE)]
    x = torch.randn(config.batch, c, config.side, config.side, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype, memory_format=torch.channels_last)
    for kind, backward in (("forward", False), ("forward and backward", True)):
        seconds = np.empty((config.pairs, 2))
        for side in sides:
            _seconds(side, x, backward)
        for pair in range(config.pairs):
            for at in (0, 1) if pair % 2 == 0 else (1, 0):
                seconds[pair, at] = _seconds(sides[at], x, backward)
        low, median, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
        yield _row(name, "time_ratio", median, kind=kind) | {"low": low, "high": high, "n": config.pairs}


def _seconds(layer: nn.Module, x: Tensor, backward: bool) -> float:
    """Of one pass; on a CPU the time of this process, which other work does not lengthen much."""
    clock = process_time if x.device.type == "cpu" else perf_counter
    leaf = x.detach().requires_grad_(backward)
    repeats = 1 if x.device.type == "cpu" else 20
    _wait(x)
    start = clock()
    for _ in range(repeats):
        with torch.set_grad_enabled(backward):
            y = layer(leaf)
        if backward:
            torch.autograd.grad(y.float().square().sum(), [leaf, *layer.parameters()])
    _wait(x)
    return (clock() - start) / repeats


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


class Autoencoder(nn.Module):
    """Pictures `[N 3 32 32]` to the same, through 8 px: convolutions and average pools down, two layers of the zoo up.

    Args:
        up: makes a layer from its channels.
        width: channels.
    """

    def __init__(self, up: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.decoder = nn.Sequential(OrderedDict(up1=up(2 * width, width), relu=nn.ReLU(), up2=up(width, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def lattices(name: str, config: Config) -> Iterator[pd.DataFrame]:
    """Contrasts of the autoencoders' pictures before and after training, a row a seed and their mean; the error."""
    judged = crops(JUDGED_ON, config.crops, torch.Generator().manual_seed(0))
    found: dict[tuple[str, str, int], list[float]] = {}
    errors = []
    for seed in range(config.seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = Autoencoder(lambda a, b: LAYERS[name](a, b), config.width)
        for stage in (UNTRAINED, TRAINED):
            if stage == TRAINED:
                train(network, config.steps, seed)
            with torch.no_grad():
                made = network.eval()(judged)
            rows = measure(lattice_statistics(made, PERIODS), model=name, subject=stage)
            rows = rows.loc[(rows["metric"] == "lattice_contrast") & (rows["image"] == "")]
            for record in rows.to_dict("records"):
                found.setdefault((stage, record["kind"], int(record["period"])), []).append(record["value"])
        errors.append(float(F.mse_loss(made, judged)))
    yield pd.DataFrame([_over_seeds(name, values, *key) for key, values in found.items()])
    psnr = -10 * np.log10(errors)
    yield pd.DataFrame([_row(name, "psnr", psnr.mean()) | _spread(psnr) | {"subject": TRAINED, "unit": "dB"}])
    if name == BASELINE:
        real = measure(lattice_statistics(judged, PERIODS), model="photograph", subject=TRAINED)
        yield real.loc[(real["metric"] == "lattice_contrast") & (real["image"] == "")]


def train(network: nn.Module, steps: int, seed: int) -> None:
    """Adam at 0.002 on the squared error of random crops, 32 a step."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    g = torch.Generator().manual_seed(seed)
    for step in range(steps):
        x = crops(TRAINED_ON[step % len(TRAINED_ON)], 32, g)
        optimiser.zero_grad()
        F.mse_loss(network(x), x).backward()
        optimiser.step()


def crops(name: str, count: int, g: torch.Generator) -> Tensor:
    """Squares of 32 px of a sample photograph at half its size, `[N 3 32 32]` in [0, 1]."""
    picture = _PICTURES.get(name)
    if picture is None:
        whole = torch.from_numpy(np.asarray(sample(name).convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
        picture = _PICTURES.setdefault(name, F.avg_pool2d(whole, 2))
    at = [torch.randint(side - SIDE + 1, (count,), generator=g).tolist() for side in picture.shape[1:]]
    return torch.stack([picture[:, i : i + SIDE, j : j + SIDE] for i, j in zip(*at, strict=True)])


_PICTURES: dict[str, Tensor] = {}


def _over_seeds(name: str, values: list[float], stage: str, kind: str, period: int) -> dict[str, Any]:
    row = _row(name, "lattice_contrast", float(np.mean(values)), period=period, kind=kind)
    return row | _spread(np.array(values)) | {"subject": stage, "unit": "dB"}


def _spread(values: np.ndarray) -> dict[str, Any]:
    low, high = interval(values) if len(values) > 1 else (float("nan"),) * 2
    return {"low": low, "high": high, "n": len(values)}


def _row(name: str, metric: str, value: float, *, period: float = float("nan"), kind: str = "") -> dict[str, Any]:
    return {
        "model": name, "subject": "layer", "layer": "", "image": "", "period": period, "kind": kind, "metric": metric,
        "value": value, "n": 1, "unit": "1",
    }  # fmt: skip


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.upsampler_zoo", "Every layer that enlarges: certificate, lattice, cost, time."
    )

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "upsampler_zoo")
        with new_run(target, "upsampler_zoo", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        t = t.assign(
            what=t["subject"]
            + " "
            + t["metric"]
            + " "
            + t["kind"]
            + " "
            + t["period"].fillna(0).astype(int).astype(str)
        )
        print(
            t.pivot_table(index="model", columns="what", values="value", sort=False).T.to_string(
                float_format="{:.2f}".format
            )
        )
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
