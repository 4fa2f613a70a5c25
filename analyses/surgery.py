"""What does surgery do to published generators: to their lattice, to their pictures, before and after a little training?

SVHN and MNIST DCGANs, two style-transfer networks, LapSRN and SRGAN. In each, every layer that enlarges, or the last alone, is
replaced by the nearest kernel whose phases have one sum ("even"), the nearest resize-convolution ("resize"), or its own taps held
over the stride ("hold"), fitted to inputs that judge nothing. Then the network is tuned for a few steps to give what it gave
before: does the lattice stay away? Run: `python -m analyses.surgery ASSETS`, with the folders `weights` and `data` in ASSETS.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from analyses.generated_images import filled, luma, pixels, quartered
from gradlens import models, networks
from gradlens.compare import measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.images import photographs
from gradlens.redesign import CannotSwapError, SwapReport, find, swap
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder
from gradlens.spectra import LatticeStream

PERIODS = (2, 3, 4)
DESIGNS = ("even", "resize", "hold")
TUNED = ("even", "resize")
BEFORE, REAL = "before", "real"
ALL, LAST = "all layers", "last layer"
KEPT = 2  # pictures of each network and design


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Where the weights and pictures are, and how much is done with them."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Most pictures that are judged of each network.")] = 64
    steps: Annotated[int, Parameter(help="Of tuning.")] = 150
    rate: Annotated[float, Parameter(help="Of Adam.")] = 1e-4
    seed: Annotated[int, Parameter(help="Of latents and crops.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/surgery-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


@dataclass(frozen=True)
class Case:
    """A network and what it is fitted to, judged on and tuned with; `scale` takes its pictures to [0, 1].

    `judged` are its inputs, one picture each; `real` pictures that it should resemble; `truth`, where there is one, what each of
    its pictures should be.
    """

    network: nn.Module
    example: Tensor
    judged: Sequence[Tensor]
    batch: Callable[[torch.Generator], Tensor]
    real: Sequence[Tensor]
    truth: Sequence[Tensor] = ()
    scale: float = 1.0


def cases(config: Config) -> Iterator[tuple[str, Callable[[], Case]]]:
    """How to set up each network, by its name."""
    yield "dcgan, svhn", lambda: _latent(config, models.generator(), _cifar(config))
    weights = config.assets / "weights"
    generator = models.generator(
        "gradlens.networks:MNISTGenerator", weights=weights / "dcgan_mnist" / "generator.pth", input_size=(64, 1, 1),
        mean=(0.5,), std=(0.5,),
    )  # fmt: skip
    yield "dcgan, mnist", lambda: _latent(config, generator, _digits(config))
    for name in ("wave", "la_muse"):
        path = weights / "style" / f"lengstrom_{name}_fp16.safetensors"
        yield f"style, {name}", lambda path=path: _style(config, filled(networks.StyleTransfer(), path))
    lapsrn = weights / "lapsrn" / "lapsrn_x4.safetensors"
    yield "lapsrn", lambda: _enlarging(config, filled(networks.LapSRN(), lapsrn), luma)
    srgan = weights / "srgan" / "netG_epoch_4_100.pth"
    yield "srgan", lambda: _enlarging(config, filled(networks.SRGANGenerator(), srgan), lambda x: x)


def _latent(config: Config, generator: models.Model, real: list[Tensor]) -> Case:
    """A GAN's generator: fitted to 64 latents, judged on others."""
    source = torch.Generator().manual_seed(config.seed)
    size = generator.info.input_size
    example = torch.randn(64, *size, generator=source)
    judged = list(torch.randn(config.count, 1, *size, generator=source))
    return Case(generator, example, judged, lambda g: torch.randn(64, *size, generator=g), real[: config.count])


def _cifar(config: Config) -> list[Tensor]:
    """Real pictures of 32 px, in place of SVHN's, which the assets lack."""
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(config.assets / "data" / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        chosen = names[:: max(len(names) // config.count, 1)]
        return [pixels(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]


def _digits(config: Config) -> list[Tensor]:
    import gzip

    raw = gzip.decompress((config.assets / "data" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 1, 28, 28)[: config.count]
    return [torch.from_numpy(digit / 255).float() for digit in digits]


def _style(config: Config, network: nn.Module) -> Case:
    """Fitted and tuned on the JPEG photographs, judged on lossless ones."""
    others = photographs(config.assets / "data" / "photos" / "jpeg")
    found = photographs(config.assets / "data" / "photos" / "lossless", limit=min(config.count, 24))
    real = [pixels(photograph.open().convert("RGB")) for photograph in found]
    crops = [255 * pixels(photograph.open().convert("RGB")) for photograph in others[:40]]
    example = torch.cat([_cropped(x, 192, torch.Generator().manual_seed(0)) for x in crops[:6]])

    def batch(g: torch.Generator) -> Tensor:
        picked = torch.randint(len(crops), (2,), generator=g)
        return torch.cat([_cropped(crops[i], 96, g) for i in picked])

    return Case(network, example, [255 * x for x in real], batch, real, scale=1 / 255)


def _enlarging(config: Config, network: nn.Module, seen: Callable[[Tensor], Tensor]) -> Case:
    """Fitted and tuned on T91, judged on Set5 and Set14 at native size."""
    pairs = [
        (pixels(small), pixels(whole))
        for name in ("set5", "set14")
        for _, whole, small, _ in quartered(config.assets / "data" / "sr" / name)
    ][: config.count]
    training = [seen(pixels(small)) for _, _, small, _ in quartered(config.assets / "data" / "sr" / "t91")]
    training = [x for x in training if min(x.shape[2:]) >= 24]
    source = torch.Generator().manual_seed(config.seed)

    def batch(g: torch.Generator, count: int = 8) -> Tensor:
        return torch.cat([_cropped(training[i], 24, g) for i in torch.randint(len(training), (count,), generator=g)])

    truth = [seen(whole) for _, whole in pairs]
    return Case(network, batch(source, 32), [seen(small) for small, _ in pairs], batch, truth, truth)


def _cropped(x: Tensor, side: int, g: torch.Generator) -> Tensor:
    """A square of a picture `[1 C H W]`, or all of it where it is smaller."""
    places = [int(torch.randint(max(n - side, 0) + 1, (1,), generator=g)) for n in x.shape[2:]]
    return x[..., places[0] : places[0] + side, places[1] : places[1] + side]


def run(config: Config) -> Results:
    """The lattice, the drift and the cost of every network, design and reach, before and after tuning."""
    if config.count < 1 or config.steps < 1:
        raise ValueError(f"count, steps: must be at least 1, got {config.count} and {config.steps}")
    tables, arrays = [], {}
    known = list(cases(config))
    with progress("networks", len(known)) as advance:
        for name, set_up in known:
            for table, kept in _of_network(name, set_up(), config):
                tables.append(table)
                arrays |= kept
            advance()
    manifest = circumstances() | {
        "command": command(config), "seed": config.seed, "count": config.count, "steps": config.steps,
        "rate": config.rate,
    }  # fmt: skip
    return Results(pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS)), arrays, manifest)


def command(config: Config) -> str:
    """The command of a run, with what it gave beside the folder."""
    given = {name: getattr(config, name) for name in ("count", "steps", "rate", "seed")}
    options = [f"--{name} {value}" for name, value in given.items() if value != getattr(Config, name)]
    return " ".join(["python -m analyses.surgery ASSETS", *options])


def _of_network(name: str, case: Case, config: Config) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows and pictures of one network."""
    old = made(case, case.network)
    yield _lattices(case.real, name, REAL), {}
    yield _lattices(old, name, BEFORE), _pictures(old, name, BEFORE)
    if case.truth:
        yield pd.DataFrame(_truth(case, old, name, BEFORE)), {}
    last = [site.name for site in find(case.network, case.example[:2]) if _enlarges(site)][-1:]
    for design in DESIGNS:
        for reach, layers in ((ALL, None), (LAST, last)):
            try:
                report = swap(case.network, design, layers=layers, example=case.example)
            except CannotSwapError as error:
                say(f"{name}: {error}")
                continue
            label = f"{design}, {reach}"
            yield from _judged(case, report.model, old, name, label)
            yield pd.DataFrame(_costs(report, name, label)), {}
            if design in TUNED and reach == ALL:
                yield from _judged(case, tuned(case, report.model, config), old, name, f"{label}, tuned")


def _enlarges(site: Any) -> bool:
    return site.kind == "subpixel" or (site.kind == "deconv" and max(site.layer.stride) > 1)


def made(case: Case, network: nn.Module) -> list[Tensor]:
    """The pictures of the judged inputs, `[1 C H W]` in or around [0, 1]."""
    with torch.no_grad():
        return [case.scale * network(x) for x in case.judged]


def tuned(case: Case, network: nn.Module, config: Config) -> nn.Module:
    """A copy of `network` after a few steps towards what the network gave before surgery, norms as in inference."""
    student = deepcopy(network).eval().requires_grad_(True)
    optimiser = torch.optim.Adam(student.parameters(), lr=config.rate)
    g = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        x = case.batch(g)
        with torch.no_grad():
            wanted = case.scale * case.network(x)
        optimiser.zero_grad()
        F.mse_loss(case.scale * student(x), wanted).backward()
        optimiser.step()
    return student.requires_grad_(False)


def _judged(
    case: Case, network: nn.Module, old: list[Tensor], name: str, label: str
) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    new = made(case, network)
    yield _lattices(new, name, label), _pictures(new, name, label)
    change = sum(float((a - b).double().square().sum()) for a, b in zip(old, new, strict=True))
    power = sum(float(a.double().square().sum()) for a in old)
    errors = [float((a - b).double().square().mean()) for a, b in zip(old, new, strict=True)]
    psnr = -10 * np.log10(np.maximum(errors, 1e-12)).mean()
    rows = [
        _row(name, label, "drift", (change / power) ** 0.5, len(old)),
        _row(name, label, "psnr", psnr, len(old), "dB"),
    ]
    if case.truth:
        rows += _truth(case, new, name, label)
    yield pd.DataFrame(rows), {}


def _truth(case: Case, new: list[Tensor], name: str, label: str) -> list[dict[str, Any]]:
    """PSNR to the truth, 4 px cropped."""
    inner = (..., slice(4, -4), slice(4, -4))
    errors = [float((a.clamp(0, 1) - b)[inner].double().square().mean()) for a, b in zip(new, case.truth, strict=True)]
    return [_row(name, label, "psnr_to_truth", -10 * np.log10(errors).mean(), len(new), "dB")]


def _costs(report: SwapReport, name: str, label: str) -> list[dict[str, Any]]:
    """Ratios of parameters and of the dearest layer's multiplications, and how many layers pass."""
    t = report.table.to_dict("records")
    old, new = (sum(record[f"parameters_{when}"] for record in t) for when in ("before", "after"))
    dearest = max(record["multiplications_after"] / record["multiplications_before"] for record in t)
    passed = {when: np.mean([record[f"certificate_{when}"] == "pass" for record in t]) for when in ("before", "after")}
    return [
        _row(name, label, "parameters_ratio", new / old, len(t)),
        _row(name, label, "multiplications_ratio", dearest, len(t)),
        _row(name, label, "passed", float(passed["after"]), len(t)),
        _row(name, label, "passed_before", float(passed["before"]), len(t)),
    ]


def _row(name: str, label: str, metric: str, value: float, n: int, unit: str = "1") -> dict[str, Any]:
    return {
        "model": name, "subject": "surgery", "layer": label, "image": "", "metric": metric, "value": value, "n": n,
        "unit": unit,
    }  # fmt: skip


def _lattices(pictures: Sequence[Tensor], name: str, label: str) -> pd.DataFrame:
    """The contrasts of a set of pictures, which may differ in size."""
    stream = LatticeStream(PERIODS)
    for x in pictures:
        stream.update(x)
    table = measure(stream.compute(), model=name, subject="surgery", layer=label)
    return table.loc[(table["metric"] == "lattice_contrast") & (table["image"] == "")]


def _pictures(pictures: Sequence[Tensor], name: str, label: str) -> dict[str, Any]:
    """The first pictures as 8-bit levels."""
    return {
        f"{name}/{label}/{i}": (255 * x[0]).round().clamp(0, 255).byte().numpy() for i, x in enumerate(pictures[:KEPT])
    }


def main() -> None:
    """The command line."""
    app = application(
        "python -m analyses.surgery", "Surgery on published generators: lattice, drift, a little training."
    )

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "surgery")
        with new_run(target, "surgery", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        t = results.table
        signed = t.loc[(t["metric"] == "lattice_contrast") & (t["kind"] == "signed")]
        wide = signed.pivot_table(index=["model", "layer"], columns="period", values="value", sort=False)
        drift = t.loc[t["metric"] == "drift"].set_index(["model", "layer"])["value"]
        print(wide.assign(drift=drift).to_string(float_format="{:.2f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
