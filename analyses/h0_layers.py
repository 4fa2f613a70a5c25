"""Does a zero-order hold remove the checkerboard of super-resolution networks, and what does it cost?

The networks of table 1 of Sugawara, Shiota and Kiya 2018 (figure 2, U = 4): deconvolution, sub-pixel convolution and
resize-convolution, with the hold H0 behind them after training (A), while training (B) and inside the kernel (C). Of each,
untrained and trained on luma with the squared error: its steady state after a step of several heights (eq. 7, 10), the
sums of its polyphase filters and its biases (eq. 2, 8, 9), the lattices of Set5 and Set14 enlarged, and PSNR beside the paper's
(of another loss and 200,000 steps). Then table 2, seconds at five sizes, and what it does not have: resize-convolution, fused,
and transposed convolutions written as sub-pixel convolutions.

Run: `python -m analyses.h0_layers ASSETS`, with the folder `data/sr` in ASSETS.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from analyses.generated_images import LUMA
from gradlens.compare import measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import certify
from gradlens.redesign import swap
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import LatticeStream
from gradlens.upsampling import HeldInside, ResizeConv, held_after, hold_b, subpixel, transposed

SCALE = 4  # U
PERIODS = (2, 4)
SETS = ("set5", "set14")
LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # K of eq. 10
SHAVE = SCALE  # pixels of a border that PSNR and contrasts leave out
STEP = 40  # pixels a side of a step of the input, from its pixel 16 on
STEADY = 28  # pixel of the input where its answer is steady: 12 px from the step and from the border
SHOWN = {"set5": "butterfly_GT"}
WINDOW = (104, 64, 72)  # top, left, side of what is shown of it
SIZES = ((69, 69), (125, 90), (128, 128), (132, 164), (180, 144))  # of table 2

Make = Callable[[], nn.Module]
DECONV, SUBPIXEL, RESIZE = "Deconv", "Sub-pixel", "ResizeConv"
TRAINED: dict[str, Make] = {  # what is put in the place of layer 3, 32 channels to 1
    DECONV: lambda: transposed(32, 1, scale=SCALE, kernel_size=9),
    "Deconv + H0, B": lambda: hold_b(32, 1, scale=SCALE, kernel_size=9),
    "Deconv + H0, C": lambda: HeldInside(32, 1, scale=SCALE, kernel_size=9),
    SUBPIXEL: lambda: subpixel(32, 1, scale=SCALE, kernel_size=3),
    "Sub-pixel + H0, B": lambda: hold_b(32, 1, scale=SCALE, kernel_size=3, base="subpixel", tied_bias=False),
    RESIZE: lambda: ResizeConv(32, 1, scale=SCALE, kernel_size=9, fused=True),
}
HELD: dict[str, tuple[str, int]] = {  # approach A: behind which trained layer, of which order
    "Deconv + H0, A": (DECONV, 0),
    "Deconv + H1, A": (DECONV, 1),
    "Sub-pixel + H0, A": (SUBPIXEL, 0),
}
NAMES = (
    DECONV, "Deconv + H0, A", "Deconv + H1, A", "Deconv + H0, B", "Deconv + H0, C", SUBPIXEL, "Sub-pixel + H0, A",
    "Sub-pixel + H0, B", RESIZE,
)  # fmt: skip
PAPER_PSNR = {  # of figure 7, perceptual loss: Set5, Set14
    DECONV: (22.06, 21.58), "Deconv + H0, A": (28.30, 26.26), "Deconv + H0, B": (28.99, 26.81),
    "Deconv + H0, C": (29.33, 27.06), SUBPIXEL: (22.10, 21.57), "Sub-pixel + H0, A": (28.39, 26.29),
    "Sub-pixel + H0, B": (29.03, 26.84), RESIZE: (29.26, 27.03),
}  # fmt: skip
TIMED: dict[str, Make] = {
    DECONV: TRAINED[DECONV],
    "Deconv + H0, A or B": TRAINED["Deconv + H0, B"],
    "Deconv + H0, C": TRAINED["Deconv + H0, C"],
    SUBPIXEL: TRAINED[SUBPIXEL],
    "Sub-pixel + H0, A or B": TRAINED["Sub-pixel + H0, B"],
    RESIZE: lambda: ResizeConv(32, 1, scale=SCALE, kernel_size=9, fused=False),
    "ResizeConv, fused": TRAINED[RESIZE],
    "ResizeConv, fused, as sub-pixel": lambda: _as_subpixel(
        ResizeConv(32, 1, scale=SCALE, kernel_size=9).as_transposed()
    ),
    "Deconv, as sub-pixel": lambda: _as_subpixel(TRAINED[DECONV]()),
}
PAPER_SECONDS = {  # of table 2, at SIZES
    DECONV: (0.00871, 0.0185, 0.0244, 0.0291, 0.0343),
    "Deconv + H0, A or B": (0.0115, 0.0270, 0.0348, 0.0393, 0.0476),
    "Deconv + H0, C": (0.0100, 0.0227, 0.0295, 0.0377, 0.0421),
    SUBPIXEL: (0.0159, 0.0398, 0.0437, 0.0696, 0.0647),
    "Sub-pixel + H0, A or B": (0.0242, 0.0558, 0.0619, 0.0806, 0.102),
    RESIZE: (0.107, 0.224, 0.299, 0.383, 0.450),
}


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to train on, and for how long."""

    assets: Annotated[Path, Parameter(help="Folder with the published data.")]
    _: KW_ONLY
    steps: Annotated[int, Parameter(help="Of training.")] = 1500
    batch_size: Annotated[int, Parameter(help="Patches in a step.")] = 8
    rate: Annotated[float, Parameter(help="Of Adam.")] = 1e-3
    seeds: Annotated[int, Parameter(help="Trained networks of each kind.")] = 3
    untrained: Annotated[int, Parameter(help="Untrained networks of each kind.")] = 10
    rounds: Annotated[int, Parameter(help="Timings of each network at each size.")] = 10
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/h0_layers-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def network(layer: nn.Module) -> nn.Sequential:
    """Figure 2: two convolutions, (K1, N1) = (5, 64) and (K2, N2) = (3, 32), with ReLU, and the layer that enlarges."""
    features = nn.Conv2d(1, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU()
    return nn.Sequential(*features, layer)


def drawn(make: Make, seed: int) -> nn.Sequential:
    """A network with weights by He et al. 2015, of as many taps as reach an output, and biases of 0; the seed fixes all."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = network(make())
        for module in made.modules():
            if isinstance(module, nn.Conv2d | ResizeConv | nn.ConvTranspose2d | HeldInside):
                spread = isinstance(module, nn.ConvTranspose2d | HeldInside)
                fan = module.in_channels * module.weight[0, 0].numel() / (SCALE**2 if spread else 1)
                nn.init.normal_(module.weight, std=(2 / fan) ** 0.5)
                nn.init.zeros_(module.bias) if module.bias is not None else None
    return made


def held(networks: dict[str, nn.Sequential]) -> dict[str, nn.Sequential]:
    """All networks by `NAMES`: those that are trained, and approach A behind copies of two of them."""
    behind = {}
    for name, (base, order) in HELD.items():
        *features, layer = deepcopy(networks[base])
        behind[name] = nn.Sequential(*features, held_after(layer, SCALE, order=order))
    every = networks | behind
    return {name: every[name].eval() for name in NAMES}


# Steady states


@torch.no_grad()
def steady_state(net: nn.Module, level: float) -> Tensor:
    """What the answer to K I_step, a quadrant of K on zeros, repeats: one block `[U U]`, far from step and border."""
    step = torch.zeros(1, 1, STEP, STEP, dtype=torch.float64)
    step[..., 16:, 16:] = level
    return _block(deepcopy(net).double()(step))[0, 0]


@torch.no_grad()
def polyphase(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Of a layer the sums of its polyphase filters `[channels U^2]` and its biases `[U^2]`, by what constants become."""
    layer = deepcopy(layer).double()
    one_each = torch.cat([torch.zeros(1, 32, dtype=torch.float64), torch.eye(32, dtype=torch.float64)])
    blocks = _block(layer(one_each[..., None, None].expand(-1, -1, STEP, STEP))).flatten(1)
    return blocks[1:] - blocks[0], blocks[0]


def _block(y: Tensor) -> Tensor:
    at = slice(SCALE * STEADY, SCALE * (STEADY + 1))
    return y[..., at, at]


def unevenness(values: Tensor) -> float:
    """The largest departure from the mean over phases, the last axis, in rms of all: 0 if eq. 2, 7 or 8 holds."""
    return float((values - values.mean(-1, keepdim=True)).abs().max() / values.square().mean().sqrt().clamp(min=1e-12))


def _steady_rows(by_seed: list[dict[str, nn.Sequential]], subject: str) -> Iterator[dict]:
    for name in NAMES:
        nets = [networks[name] for networks in by_seed]
        for level in LEVELS:
            found = [unevenness(steady_state(net, level).flatten()) for net in nets]
            yield _row(name, subject, "step_deviation", found, layer=f"K = {level:g}")
        filters, biases = zip(*(polyphase(net[-1]) for net in nets), strict=True)
        yield _row(name, subject, "polyphase_deviation", [unevenness(r) for r in filters])
        yield _row(name, subject, "bias_deviation", [float((b - b.mean()).abs().max()) for b in biases])


# Pictures


def luma(path: Path) -> np.ndarray:
    """Y of BT.601, 16 to 235 of 255, in [0, 1]: `[H W]`, sides cut to multiples of U."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    height, width = (SCALE * (side // SCALE) for side in pixels.shape[:2])
    return (pixels[:height, :width] @ np.array(LUMA, np.float32) + 16 / 255).astype(np.float32)


def resized(y: np.ndarray, factor: float) -> np.ndarray:
    """By PIL's bicubic kernel, which smooths where it shrinks."""
    size = round(y.shape[1] * factor), round(y.shape[0] * factor)
    return np.array(Image.fromarray(y).resize(size, Image.Resampling.BICUBIC))


def patches(folder: Path) -> tuple[Tensor, Tensor]:
    """Pairs of 18 and 72 px of the pictures in `folder`, every 36 px: `[P 1 18 18]`, `[P 1 72 72]`."""
    small, large = [], []
    for path in sorted(folder.glob("*.png")):
        y = luma(path)
        x = resized(y, 1 / SCALE)
        for i in range(0, x.shape[0] - 17, 9):
            for j in range(0, x.shape[1] - 17, 9):
                small.append(x[i : i + 18, j : j + 18])
                large.append(y[SCALE * i : SCALE * (i + 18), SCALE * j : SCALE * (j + 18)])
    return tuple(torch.from_numpy(np.stack(side))[:, None] for side in (small, large))  # type: ignore[return-value]


def trained(net: nn.Sequential, pairs: tuple[Tensor, Tensor], config: Config, seed: int) -> nn.Sequential:
    """`net` after `steps` of Adam on the squared error of patches, turned and mirrored; the order is the seed's."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.train().parameters(), lr=config.rate)
    for _ in range(config.steps):
        chosen = torch.randint(len(pairs[0]), (config.batch_size,), generator=generator)
        turns, mirrored = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
        x, y = (side[chosen].rot90(turns, (2, 3)) for side in pairs)
        x, y = (side.flip(3) if mirrored else side for side in (x, y))
        optimiser.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimiser.step()
    return net


@torch.no_grad()
def _enlarged(networks: dict[str, nn.Sequential], x: np.ndarray) -> dict[str, np.ndarray]:
    given = torch.from_numpy(x)[None, None]
    pictures = {name: net(given)[0, 0].numpy() for name, net in networks.items()}
    return pictures | {"bicubic": resized(x, SCALE)}


def psnr(y: np.ndarray, truth: np.ndarray) -> float:
    """In dB of luma in [0, 1], clipped, without a border of `SHAVE` pixels."""
    inside = (slice(SHAVE, -SHAVE),) * 2
    return float(-10 * np.log10(np.mean((y.clip(0, 1) - truth)[inside] ** 2, dtype=np.float64)))


def _picture_rows(by_seed: list[dict[str, nn.Sequential]], sr: Path, arrays: dict[str, np.ndarray]) -> Iterator[dict]:
    """PSNR and contrasts of both sets, each network a mean over images, of each seed; crops of the first seed."""
    for subject in SETS:
        quality: dict[str, list[float]] = {}
        streams: dict[str, list[LatticeStream]] = {}
        for seed, networks in enumerate(by_seed):
            for path in sorted((sr / subject).glob("*.png")):
                truth = luma(path)
                pictures = _enlarged(networks, resized(truth, 1 / SCALE)) | {"ground truth": truth}
                for name, y in pictures.items():
                    quality.setdefault(name, []).append(psnr(y, truth) if y is not truth else np.inf)
                    own = streams.setdefault(name, [LatticeStream(PERIODS) for _ in by_seed])
                    own[seed].update(torch.from_numpy(y[SHAVE:-SHAVE, SHAVE:-SHAVE].copy())[None, None])
                if seed == 0 and path.stem == SHOWN.get(subject):
                    top, left, side = WINDOW
                    arrays |= {f"crop/{n}": y[top : top + side, left : left + side] for n, y in pictures.items()}
        for name, values in quality.items():
            if name != "ground truth":
                yield _row(name, subject, "psnr", np.reshape(values, (len(by_seed), -1)).mean(1), unit="dB")
            tables = [measure(stream.compute(), model=name, subject=subject) for stream in streams[name]]
            for period in PERIODS:
                for kind in ("signed", "envelope"):
                    found = [_contrast(table, period, kind) for table in tables]
                    yield _row(name, subject, "lattice_contrast", found, unit="dB") | {"period": period, "kind": kind}
    for name, values in PAPER_PSNR.items():
        for subject, value in zip(SETS, values, strict=True):
            yield _row(name, subject, "psnr_paper", [value], unit="dB")


def _contrast(table: pd.DataFrame, period: int, kind: str) -> float:
    at = (table["metric"] == "lattice_contrast") & (table["period"] == period) & (table["kind"] == kind)
    return float(table.loc[at, "value"].iloc[0])


# Time


def _as_subpixel(layer: nn.Module) -> nn.Module:
    """A transposed convolution written as a convolution and a shuffle: the same numbers."""
    example = torch.zeros(1, 32, 16, 16)
    return swap(nn.Sequential(layer), to="subpixel", example=example).model.get_submodule("0")


@torch.no_grad()
def _time_rows(rounds: int, advance: Callable[[], None]) -> Iterator[dict]:
    """Table 2: whole networks, and the layers that enlarge alone; all networks in turn, the order reversed every time."""
    networks = {name: network(make()).eval() for name, make in TIMED.items()}
    for number, size in enumerate(SIZES):
        x = torch.rand(1, 1, *size)
        cases = {
            "network": (networks, x),
            "layer": ({n: net[-1] for n, net in networks.items()}, networks[DECONV][:4](x)),
        }
        for subject, (modules, given) in cases.items():
            seconds = {name: np.zeros(rounds) for name in modules}
            for module in modules.values():
                module(given)
            for turn in range(rounds):
                for name in list(modules) if turn % 2 == 0 else reversed(list(modules)):
                    start = process_time()
                    modules[name](given)
                    seconds[name][turn] = process_time() - start
            for name, values in seconds.items():
                where = {"layer": f"{size[0]} x {size[1]}"}
                ratios = np.quantile(values / seconds[DECONV], (0.5, 0.25, 0.75))
                yield _row(name, subject, "seconds", [values.mean()], unit="s", **where) | {"n": rounds}
                told = dict(zip(("value", "low", "high"), ratios, strict=True))
                yield _row(name, subject, "ratio", [0.0], **where) | told | {"n": rounds}
                if subject == "network" and name in PAPER_SECONDS:
                    yield _row(name, subject, "seconds_paper", [PAPER_SECONDS[name][number]], unit="s", **where)
            advance()


def _row(model: str, subject: str, metric: str, values: Any, *, layer: str = "", unit: str = "1") -> dict:
    """A row: the median over seeds, and the least and the most of them."""
    values = np.asarray(values, float)
    several = len(values) > 1
    return {
        "model": model, "subject": subject, "layer": layer, "image": "", "kind": "", "metric": metric,
        "value": np.median(values), "low": values.min() if several else np.nan,
        "high": values.max() if several else np.nan, "n": len(values), "unit": unit,
    }  # fmt: skip


def run(config: Config) -> Results:
    """Steady states, pictures and times of all networks.

    Raises:
        ValueError: the assets lack the pictures.
    """
    sr = config.assets / "data" / "sr"
    for name in ("t91", *SETS):
        if not any((sr / name).glob("*.png")):
            raise ValueError(f"assets: {str(sr / name)!r} holds no PNG")
    arrays: dict[str, np.ndarray] = {}
    rows: list[dict] = []
    with progress("h0_layers", len(TRAINED) * config.seeds + 2 * len(SIZES) + 3) as advance:
        untrained = [
            held({name: drawn(make, seed) for name, make in TRAINED.items()}) for seed in range(config.untrained)
        ]
        rows += _steady_rows(untrained, "untrained")
        advance()
        pairs = patches(sr / "t91")
        by_seed = []
        for seed in range(config.seeds):
            networks = {}
            for name, make in TRAINED.items():
                networks[name] = trained(drawn(make, seed), pairs, config, seed)
                advance()
            by_seed.append(held(networks))
        rows += _steady_rows(by_seed, "trained")
        arrays |= {f"steady/{name}": steady_state(net, 1.0).numpy() for name, net in by_seed[0].items()}
        verdicts = {name: certify(net, (1, STEP, STEP)).verdict for name, net in by_seed[0].items()}
        advance()
        rows += _picture_rows(by_seed, sr, arrays)
        advance()
        rows += _time_rows(config.rounds, advance)
    manifest = circumstances() | {
        "command": "python -m analyses.h0_layers ASSETS",
        "seed": 0, "steps": config.steps, "batch_size": config.batch_size, "rate": config.rate,
        "patches": len(pairs[0]), "threads": torch.get_num_threads(), "verdicts": verdicts,
    }  # fmt: skip
    return Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), arrays, manifest)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.h0_layers", "Zero-order holds in super-resolution networks.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "h0_layers")
        with new_run(target, "h0_layers", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        for metric in ("step_deviation", "polyphase_deviation", "bias_deviation", "psnr", "ratio"):
            shown = t.loc[t["metric"] == metric]
            print(metric)
            wide = shown.pivot_table(index="model", columns=["subject", "layer"], values="value", sort=False)
            print(wide.to_string(float_format="{:.3g}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
