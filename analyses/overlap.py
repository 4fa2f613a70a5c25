"""What do the numbers of a layer alone say about its checkerboard?

Counted: the overlap of every kernel and stride, of stacks and behind a stride-1 tail, with what Odena, Dumoulin and Olah 2016
(Distill) and a blog post after it report beside it. Computed: deconvolution and resize-convolution as matrices, random
kernels, and kernels trained to repaint rows of photographs. Run: `python -m analyses.overlap`, then
`python -m reports.overlap RUN` for the pages.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from math import gcd, nan
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from cyclopts import Parameter
from torch import Tensor

from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import (
    TransposedConv,
    box_response,
    coverage,
    overlap,
    overlap_class,
    stack_coverage,
    stack_overlap,
    stack_periods,
)
from gradlens.images import SAMPLES, sample
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import lattice_share

KERNELS, STRIDES = range(1, 10), range(1, 7)
TAILS, TAIL_PERIODS = range(2, 10), (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 32)
IN_USE = {  # kernel, stride, axes, and the pass in which it paints
    "DCGAN, generator": (5, 2, 2, "forward"),
    "pix2pixHD; style transfer": (3, 2, 2, "forward"),
    "LapSRN": (4, 2, 2, "forward"),
    "MelGAN, first two layers": (16, 8, 1, "forward"),
    "Demucs": (8, 4, 1, "forward"),
    "ResNet, stem": (7, 2, 2, "backward"),
    "ResNet-D, stem": (3, 2, 2, "backward"),
    "ResNet, shortcut": (1, 2, 2, "backward"),
    "AlexNet, first layer": (11, 4, 2, "backward"),
    "ConvNeXt, stem": (4, 4, 2, "backward"),
    "ViT/16, patches": (16, 16, 2, "backward"),
}
STACKS = (  # kernel and stride of each layer
    ((3, 2), (3, 2)), ((5, 2), (5, 2)), ((4, 2), (4, 2)), ((3, 2), (2, 2)), ((3, 2), (4, 2)), ((5, 2), (11, 3)),
    ((3, 2), (3, 2), (3, 2)), ((3, 2), (3, 2), (3, 1)), ((3, 2), (3, 2), (4, 1)), ((3, 2), (3, 2), (9, 1)),
)  # fmt: skip
DECONVOLUTION = TransposedConv(3, 2)
RESIZE = (TransposedConv(2, 2), TransposedConv(3))  # to the nearest neighbour, then a convolution
GENERATORS = {  # of Distill, with the periods of the caption
    "deconvolution in the last two layers": ((DECONVOLUTION, DECONVOLUTION), (2, 4)),
    "deconvolution only in the last layer": ((*RESIZE, DECONVOLUTION), (2,)),
    "all layers resize-convolution": ((*RESIZE, *RESIZE), ()),
}
DRAWN = {  # Distill's three interactive figures at their default settings, and others beside: input positions, layers
    "kernel 3, stride 2": (6, (DECONVOLUTION,)),
    "kernel 4, stride 2": (6, (TransposedConv(4, 2),)),
    "kernel 5, stride 2": (6, (TransposedConv(5, 2),)),
    "kernel 2, stride 3": (5, (TransposedConv(2, 3),)),
    "two layers of kernel 3, stride 2": (6, (DECONVOLUTION, DECONVOLUTION)),
    "kernel 3, stride 2, then a tail of 4": (6, (DECONVOLUTION, TransposedConv(4))),
}
STEPS = (0, 10, 30, 100, 300, 1000)  # of training, at which it is measured
CHANNELS, WIDTH, BORDER = 8, 64, 8

Network = Callable[[Tensor], Tensor]
Layer = Callable[[Tensor, Tensor], Tensor]  # [N C L] and a kernel [C O K] to [N O 2L]


def deconvolution(x: Tensor, kernel: Tensor) -> Tensor:
    """A transposed convolution of stride 2, cut to twice the length."""
    first = (kernel.shape[2] - 2) // 2
    return F.conv_transpose1d(x, kernel, stride=2)[..., first : first + 2 * x.shape[2]]


def nearest_resize(x: Tensor, kernel: Tensor) -> Tensor:
    """Each value twice, then a convolution."""
    return F.conv1d(F.interpolate(x, scale_factor=2), kernel.movedim(0, 1), padding="same")


def bilinear_resize(x: Tensor, kernel: Tensor) -> Tensor:
    """Interpolated to twice the length, then a convolution."""
    return F.conv1d(F.interpolate(x, scale_factor=2, mode="linear"), kernel.movedim(0, 1), padding="same")


LAYERS: dict[str, tuple[int, Layer]] = {
    **{f"deconvolution, kernel {k}": (k, deconvolution) for k in range(2, 7)},
    "nearest resize, kernel 3": (3, nearest_resize),
    "bilinear resize, kernel 3": (3, bilinear_resize),
}
MATRICES = ("deconvolution, kernel 4", "nearest resize, kernel 3", "bilinear resize, kernel 3")


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """How much to draw and to train."""

    _: KW_ONLY
    draws: Annotated[int, Parameter(help="Random kernels of each layer.")] = 20_000
    seeds: Annotated[int, Parameter(help="Networks trained with each layer.")] = 10
    steps: Annotated[int, Parameter(help="Of training, at most.")] = STEPS[-1]
    seed: Annotated[int, Parameter(help="Of the kernels, and of the first network.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/overlap-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


def run(config: Config) -> Results:
    """All counts and claims, the matrices, and what random and trained kernels do."""
    arrays = {f"matrix/{name}": as_matrix(LAYERS[name], 4).numpy() for name in MATRICES}
    arrays |= {f"response/{name}": response(LAYERS[name]).numpy() for name in MATRICES}
    arrays["matrix/convolution"] = convolution_matrix().numpy()
    for name, (length, layers) in DRAWN.items():
        arrays[f"paths/{name}/0"] = np.ones(length, dtype=np.int64)
        arrays |= {f"paths/{name}/{n}": stack_overlap(layers[:n], length).numpy() for n in range(1, len(layers) + 1)}
    rows = [*_taps(), *_stacks(), *_tails(config), *_distill(), *_blog(), *_matrices(), *_random(config)]
    trained, flat = _trained(config)
    table = pd.DataFrame(rows + trained).assign(subject="overlap", unit="1").reindex(columns=list(COLUMNS))
    manifest = circumstances() | {"command": "python -m analyses.overlap", "seed": config.seed}
    return Results(table, arrays | flat, manifest)


def as_matrix(layer: tuple[int, Layer], length: int) -> Tensor:
    """A layer over `length` positions as a matrix: float64 `[output input taps]`, how much of each tap is in an entry."""
    taps, apply = layer
    one_hot = torch.eye(length, dtype=torch.float64)[:, None]
    kernels = torch.eye(taps, dtype=torch.float64)
    return torch.stack([apply(one_hot, kernel[None, None])[:, 0].T for kernel in kernels], -1)


def response(layer: tuple[int, Layer]) -> Tensor:
    """Expected power that a layer with independent taps writes at each frequency m / 64, that at 0 being 1: `[33]`."""
    impulse = as_matrix(layer, 32)[:, 16]  # [64 taps]
    power = torch.fft.rfft(impulse, dim=0).abs().square().sum(1)
    return power / power[0]


def convolution_matrix(side: int = 4, kernel: int = 3) -> Tensor:
    """A convolution of a `side` x `side` image as a matrix: `[output input taps]`, 1 where a tap meets a pixel."""
    pixels = torch.eye(side**2, dtype=torch.float64).view(-1, 1, side, side)
    taps = torch.eye(kernel**2, dtype=torch.float64).view(-1, 1, kernel, kernel)
    return F.conv2d(pixels, taps).flatten(2).permute(2, 0, 1)


def _row(model: str, metric: str, value: float | Tensor, **more: Any) -> dict[str, Any]:
    return {"model": model, "layer": "", "image": "", "kind": "", "metric": metric, "value": float(value)} | more


def _taps() -> Iterator[dict]:
    """Least and most taps of a position and their ratio: every kernel and stride, then layers in use."""
    cases = [(f"kernel {k}, stride {s}", k, s, axes, "") for axes in (1, 2) for k in KERNELS for s in STRIDES]
    cases += [(name, *numbers) for name, numbers in IN_USE.items()]
    for name, kernel, stride, axes, direction in cases:
        taps = coverage(kernel, (stride,) * axes)
        fewest, most = int(taps.min()), int(taps.max())
        layer = f"{axes}-D" if not direction else f"kernel {kernel}, stride {stride}, {axes}-D, {direction}"
        what = {"layer": layer, "kind": overlap_class(kernel, (stride,) * axes), "period": stride}
        yield _row(name, "taps_fewest", fewest, **what)
        yield _row(name, "taps_most", most, **what)
        yield _row(name, "taps_ratio", most / fewest if fewest else nan, **what)


def _stacks() -> Iterator[dict]:
    """Fewest and most paths to a position behind each stack, and how strong each of its periods is, along an axis."""
    for sizes in STACKS:
        layers = [TransposedConv(*size) for size in sizes]
        name = ", ".join(f"{k} s{s}" for k, s in sizes)
        paths, written = stack_coverage(layers), stack_periods(layers)[0]
        yield _row(name, "paths_fewest", int(paths.min()))
        yield _row(name, "paths_most", int(paths.max()))
        lines = torch.fft.fft(paths.double()).abs() / paths.sum()
        for period in (t for t in range(2, len(paths) + 1) if len(paths) % t == 0):
            yield _row(name, "line", _strongest(lines, period) if period in written else 0, period=period)


def _strongest(lines: Tensor, period: int) -> float:
    """The largest of harmonics m / T, m coprime to T: those that no smaller period has."""
    step = len(lines) // period
    return max(float(lines[step * m]) for m in range(1, period) if gcd(m, period) == 1)


def _tails(config: Config) -> Iterator[dict]:
    """What a stride-1 layer leaves of each period: with equal taps, and with random ones at period 2."""
    generator = torch.Generator().manual_seed(config.seed)
    for kernel in TAILS:
        for period in TAIL_PERIODS:
            yield _row(f"{kernel} equal taps", "left", _strongest(box_response(kernel, period), period), period=period)
        taps = torch.randn(config.draws, kernel, generator=generator, dtype=torch.float64)
        sign = 1.0 - 2.0 * (torch.arange(kernel) % 2)
        left = ((taps * sign).sum(1).square().mean() / taps.sum(1).square().mean()).sqrt()
        yield _row(f"{kernel} random taps", "left", left.item(), period=2, n=config.draws)


def _claim(source: str, what: str, reported: float, counted: float | Tensor, **more: Any) -> Iterator[dict]:
    yield _row(source, "claim", reported, layer=what, kind="reported", **more)
    yield _row(source, "claim", counted, layer=what, kind="counted", **more)


def _distill() -> Iterator[dict]:
    """The statements of the article that are numbers."""
    one, two = coverage(3, 2), coverage(3, (2, 2))
    yield from _claim("Distill, figure 1", "kernel 3, stride 2: most over fewest taps", 2, one.max() / one.min())
    yield from _claim("Distill, figure 2", "the same in 2-D", 4, two.max() / two.min())
    sliders = [(k, s) for k in range(1, 9) for s in range(1, 7)]
    uneven = sum((overlap_class(k, s) in ("holes", "partial")) == (k % s > 0) for k, s in sliders)
    yield from _claim("Distill, text", "uneven where stride does not divide kernel, of 48 settings", 48, uneven)
    for name, (layers, periods) in GENERATORS.items():
        for period in (2, 4):
            written = period in stack_periods(layers)[0]
            yield from _claim(
                "Distill, captions", f"{name}: period {period}", period in periods, written, period=period
            )
    pairs = [(k, t) for k in TAILS for t in range(2, k + 1)]
    left = {(k, t): _strongest(box_response(k, t), t) for k, t in pairs}
    removed = sum((value == 0) == (k % t == 0) for (k, t), value in left.items())
    reduced = sum(value < 1 for value in left.values())
    what = f"of {len(pairs)} periods up to the kernel, 2 to 9"
    yield from _claim("Distill, text", f"stride-1 tail removes those that divide it, {what}", len(pairs), removed)
    yield from _claim("Distill, text", f"stride-1 tail removes or reduces all, {what}", len(pairs), reduced)


def _blog() -> Iterator[dict]:
    """The statements of the blog post that are numbers; visits are counted over three windows along each axis."""
    matrix = convolution_matrix()
    yield from _claim("blog, figure 2", "rows of the matrix: positions of the kernel", 4, matrix.shape[0])
    yield from _claim("blog, figure 2", "columns of the matrix: pixels", 16, matrix.shape[1])
    generator = torch.Generator().manual_seed(0)
    kernel, x = (torch.randn(1, 1, n, n, generator=generator, dtype=torch.float64) for n in (3, 2))
    padded = F.pad(x, (2, 2, 2, 2))
    transposed = (matrix @ kernel.flatten()).T @ x.flatten()
    direct = F.conv2d(padded, kernel.flip(2, 3))
    yield from _claim("blog, figure 3", "side of the transposed convolution's output", 4, direct.shape[2])
    yield from _claim("blog, figure 3", "cells of the padded input", 36, padded.numel())
    yield from _claim("blog, figure 3", "of them that hold information", 4, padded.count_nonzero())
    error = (transposed - direct.flatten()).abs().max()
    yield from _claim("blog, figure 3", "largest difference of the two ways", 0, 0 if error < 1e-14 else error)
    yield from _claim("blog, figure 3", "side of the output at stride 1/2", 5, len(overlap(3, 2, 2)))
    three, four = overlap(3, (2, 2), 3), overlap(4, (2, 2), 3)
    yield from _claim("blog, figure 4", "kernel 3, stride 2: most visits of a cell", 4, three.max())
    yield from _claim("blog, figure 4", "fewest visits", 1, three.min())
    yield from _claim("blog, figure 6", "kernel 4, stride 2: most visits of a cell", 4, four.max())
    middle = four[2:-2, 2:-2]
    yield from _claim(
        "blog, figure 6", "share of the centre that has the most", 1, (middle == four.max()).double().mean()
    )


def _matrices() -> Iterator[dict]:
    """How far weights are tied: free taps, the difference of the phase sums, and the power kept at high frequencies."""
    for name in MATRICES:
        matrix, power = as_matrix(LAYERS[name], 16), response(LAYERS[name])
        even, odd = matrix.sum(1)[16:18]
        yield _row(name, "entries", int((matrix[:, 8] != 0).any(1).sum()))
        yield _row(name, "free_taps", int(torch.linalg.matrix_rank(matrix.flatten(0, 1))))
        yield _row(name, "phase_sum_difference", (even - odd).abs().max().item())
        yield _row(name, "response", power[16].item(), period=4)
        yield _row(name, "response", power[32].item(), period=2)


def _random(config: Config) -> Iterator[dict]:
    """Random kernels: the lattice in the answer to a constant, and how unevenly energy comes out, beside the count.

    `constant_share` is a mean over kernels; `energy_ratio`, most over least energy of the two phases, is of the mean energy
    over kernels where `layer` is "all kernels", and the median of each kernel's own, or of each set of 64, elsewhere.
    """
    for name, (taps, apply) in LAYERS.items():
        generator = torch.Generator().manual_seed(config.seed)
        phases = as_matrix((taps, apply), 16)[16:18]  # [2 input taps]
        kernels = torch.randn(config.draws, taps, generator=generator, dtype=torch.float64)
        entries = torch.einsum("rik,nk->nri", phases, kernels)
        constant, energy = entries.sum(2), entries.square().sum(2)
        share = constant.var(1, correction=0) / constant.square().mean(1)
        yield _row(name, "constant_share", share.mean().item(), period=2, n=config.draws)
        sets = {"all kernels": config.draws, "64 channels": 64, "1 kernel": 1}
        for layer, size in sets.items():
            mean = energy[: len(energy) // size * size].view(-1, size, 2).mean(1)
            ratio = (mean.amax(1) / mean.amin(1)).median()
            yield _row(name, "energy_ratio", ratio.item(), layer=layer, period=2, n=len(mean))


def photograph_rows(names: tuple[str, ...]) -> Tensor:
    """Pieces of 64 px of every row of the sample photographs, grey in [0, 1]: `[N 1 64]`."""
    rows = []
    for name in names:
        grey = torch.from_numpy(np.asarray(sample(name).convert("L"), dtype=np.float32) / 255)
        rows += grey[:, : grey.shape[1] // WIDTH * WIDTH].split(WIDTH, 1)
    return torch.cat(rows)[:, None]


def _trained(config: Config) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Autoencoders with two layers of each kind: the lattice of what they repaint as they learn, over the data's own.

    Each value is the median over networks, with the least and the largest. Beside the rows, what each first network makes of
    an even grey, before and after.
    """
    train, test = photograph_rows(SAMPLES[:2]), photograph_rows(SAMPLES[2:])
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:512]]
    rows, flat = [], {}
    with progress("training", len(LAYERS) * config.seeds) as advance:
        for name, layer in LAYERS.items():
            shares: dict[int, list[list[float]]] = {}
            for seed in range(config.seed, config.seed + config.seeds):
                for step, network in _training(layer, train, seed, config.steps):
                    with torch.no_grad():
                        shares.setdefault(step, []).append(_shares(network(test), test))
                        grey = network(torch.full((1, 1, 2 * WIDTH), 0.5))[0, 0, WIDTH // 2 : -WIDTH // 2]
                    if seed == config.seed and step in (0, config.steps):
                        flat[f"flat/{name}/{'after' if step else 'before'}"] = grey.numpy()
                advance()
            for step, values in shares.items():
                for metric, period, value in zip(_METRICS, (2, 4, nan), np.array(values).T, strict=True):
                    what = {"layer": f"step {step}", "period": period, "n": len(value)}
                    rows.append(_row(name, metric, np.median(value), low=value.min(), high=value.max(), **what))
    return rows, flat


_METRICS = ("share_over_data", "share_over_data", "mean_squared_error")


def _shares(repainted: Tensor, data: Tensor) -> list[float]:
    """New lattice energy of periods 2 and 4 inside the border, as multiples of the data's; the mean squared error."""
    ours, real = (x[..., BORDER:-BORDER] for x in (repainted, data))
    over = [(lattice_share(ours, t, new=True).mean() / lattice_share(real, t, new=True).mean()).item() for t in (2, 4)]
    return [*over, (ours - real).square().mean().item()]


def _training(layer: tuple[int, Layer], data: Tensor, seed: int, steps: int) -> Iterator[tuple[int, Network]]:
    """The network at each of `STEPS` up to `steps`, and at `steps`."""
    generator = torch.Generator().manual_seed(seed)
    taps, upsample = layer
    shapes = ((CHANNELS, 1, 4), (CHANNELS, CHANNELS, 4), (CHANNELS, CHANNELS, taps), (CHANNELS, 1, taps))
    kernels = [torch.randn(s, generator=generator) * (2 / (CHANNELS * s[2])) ** 0.5 for s in shapes]
    biases = [torch.zeros(n, 1) for n in (CHANNELS, CHANNELS, CHANNELS, 1)]
    weights = [w.requires_grad_() for w in (*kernels, *biases)]

    def network(x: Tensor) -> Tensor:
        for kernel, bias in zip(weights[:2], weights[4:6], strict=True):
            x = (F.conv1d(x, kernel, stride=2, padding=1) + bias).relu()
        x = (upsample(x, weights[2]) + weights[6]).relu()
        return upsample(x, weights[3]) + weights[7]

    optimizer = torch.optim.Adam(weights, 3e-3)
    for step in range(steps + 1):
        if step in STEPS or step == steps:
            yield step, network
        batch = data[torch.randint(len(data), (32,), generator=generator)]
        optimizer.zero_grad()
        F.mse_loss(network(batch), batch).backward()
        optimizer.step()


def main() -> None:
    """The command line."""
    app = application("python -m analyses.overlap", "Count the overlap of layers, and compare with what was published.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "overlap")
        with new_run(target, "overlap", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        print(claims(results.table).to_string(index=False, float_format="{:.4g}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """One row a statement of a source: what it reports, what was counted, and whether they agree."""
    sides = {
        kind: table.loc[(table["metric"] == "claim") & (table["kind"] == kind)] for kind in ("reported", "counted")
    }
    reported, counted = (side["value"].to_numpy() for side in sides.values())
    found = {"source": sides["reported"]["model"], "statement": sides["reported"]["layer"], "reported": reported}
    return pd.DataFrame(found | {"counted": counted, "agrees": reported == counted})


if __name__ == "__main__":
    main()
