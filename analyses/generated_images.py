"""Which lattices do published generators leave in their outputs, against their own real data?

Two DCGANs against real images, two style-transfer networks against the photographs they repainted, LapSRN (luma) and
SRGAN against the ground truth of Set5, with bicubic enlargement beside them. Every picture, real ones too, is saved as
8-bit PNG, as people save theirs, and measured from that file. Run: `python -m analyses.generated_images ASSETS`, with the
folders `weights` and `data` in ASSETS. The run keeps the pictures: `samples/CASE/GENERATOR/` and `real/CASE/`.
"""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from torch import Tensor, nn

from gradlens import models, networks
from gradlens.checkpoints import fill, read_state
from gradlens.compare import contrast, contrast_of_sets, measure
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.images import photographs
from gradlens.results import Results, circumstances, new_run, run_folder
from gradlens.spectra import LatticeStream

PERIODS = (2, 4, 8)
REAL = "real"
LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # Y of YCbCr by BT.601, without its 16: what LapSRN's PSNR is of


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to draw from, and how much."""

    assets: Annotated[Path, Parameter(help="Folder with the published weights and data.")]
    _: KW_ONLY
    count: Annotated[int, Parameter(help="Most pictures of each kind.")] = 256
    seed: Annotated[int, Parameter(help="Of the latents.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/generated_images-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


Pictures = Iterator[tuple[str, str, Image.Image]]  # generator or "real", name, picture


@dataclass(frozen=True)
class Case:
    """The pictures of one comparison; `real` says in words what the real ones are.

    Where `paired`, a sample bears the name of the real picture that it was made from or should be.
    """

    pictures: Callable[[Config], Pictures]
    real: str
    paired: bool


def svhn(config: Config) -> Pictures:
    """Samples of the DCGAN author's own generator, and test images of CIFAR-10: those of SVHN are not in the assets."""
    yield from _drawn(models.generator(), config)
    with zipfile.ZipFile(config.assets / "data" / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        for name in names[:: max(len(names) // config.count, 1)][: config.count]:  # of every class
            yield REAL, name.rpartition(".")[0].replace("/", "-"), Image.open(io.BytesIO(archive.read(name)))


def mnist(config: Config) -> Pictures:
    """Samples of the MNIST generator, and test digits."""
    yield from _drawn(mnist_generator(config.assets), config)
    for number, digit in enumerate(mnist_digits(config.assets)[: config.count]):
        yield REAL, f"digit-{number:05}", Image.fromarray(digit)


def mnist_generator(assets: Path) -> models.Model:
    """The published generator of digits, latents `[N 64 1 1]`."""
    weights = assets / "weights" / "dcgan_mnist" / "generator.pth"
    return models.generator(
        "gradlens.networks:MNISTGenerator", weights=weights, input_size=(64, 1, 1), mean=(0.5,), std=(0.5,)
    )


def mnist_digits(assets: Path) -> np.ndarray:
    """The test digits `[N 28 28]` uint8."""
    raw = gzip.decompress((assets / "data" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


def style(config: Config) -> Pictures:
    """Photographs of 256 px, and what two style-transfer networks make of them."""
    painters = {
        name: filled(
            networks.StyleTransfer(), config.assets / "weights" / "style" / f"lengstrom_{name}_fp16.safetensors"
        )
        for name in ("wave", "la_muse")
    }
    for photograph in photographs(config.assets / "data" / "photos" / "lossless", limit=config.count):
        name, picture = Path(photograph.name).stem, photograph.open().convert("RGB")
        yield REAL, name, picture
        for painter, network in painters.items():
            yield painter, name, _picture(network(255 * pixels(picture)) / 255)


def set5_luma(config: Config) -> Pictures:
    """The luma of Set5, and what LapSRN and bicubic enlargement make of a quarter of it."""
    network = filled(networks.LapSRN(), config.assets / "weights" / "lapsrn" / "lapsrn_x4.safetensors")
    for name, whole, small, bicubic in quartered(config.assets / "data" / "sr" / "set5", config.count):
        yield REAL, name, _picture(luma(pixels(whole)))
        yield "lapsrn", name, _picture(network(luma(pixels(small))))
        yield "bicubic", name, _picture(luma(pixels(bicubic)))


def set5(config: Config) -> Pictures:
    """Set5 in colour, and what SRGAN and bicubic enlargement make of a quarter of it."""
    network = filled(networks.SRGANGenerator(), config.assets / "weights" / "srgan" / "netG_epoch_4_100.pth")
    for name, whole, small, bicubic in quartered(config.assets / "data" / "sr" / "set5", config.count):
        yield REAL, name, whole
        yield "srgan", name, _picture(network(pixels(small)))
        yield "bicubic", name, bicubic


CASES: dict[str, Case] = {
    "svhn": Case(svhn, "CIFAR-10 in place of SVHN", paired=False),
    "mnist": Case(mnist, "MNIST", paired=False),
    "style": Case(style, "photographs", paired=True),
    "set5_luma": Case(set5_luma, "Set5 luma", paired=True),
    "set5": Case(set5, "Set5", paired=True),
}


def run(config: Config, folder: Path | None = None) -> Results:
    """The rows of every generator and its real data, and of their differences.

    Args:
        config: what to draw from.
        folder: where the pictures stay; nowhere if None.

    Raises:
        ValueError, OSError: `count` is below 1, or the assets lack a file.
    """
    if config.count < 1:
        raise ValueError(f"count: must be at least 1 picture, got {config.count}")
    if folder is None:
        with TemporaryDirectory() as away:
            return run(config, Path(away))
    tables = []
    with progress("cases", len(CASES)) as advance:
        for name, case in CASES.items():
            sources = _saved(name, case.pictures(config), folder)
            real = _measured(sources.pop(REAL), case.real, "image")
            tables.append(real)
            for source, pictures in sources.items():
                samples = _measured(pictures, f"{source}, {name}", "sample")
                compared = contrast if case.paired else contrast_of_sets
                tables += [samples, compared(samples, real.assign(subject="sample"))]
            advance()
    manifest = circumstances() | {
        "command": "python -m analyses.generated_images ASSETS",
        "count": config.count,
        "seed": config.seed,
        "cases": {name: {"real": case.real, "paired": case.paired} for name, case in CASES.items()},
        "pictures": "8-bit PNG",
    }
    return Results(pd.concat(tables, ignore_index=True), {}, manifest)


def _saved(case: str, pictures: Pictures, folder: Path) -> dict[str, Path]:
    """Write `pictures` as PNG; the folder of each source."""
    folders: dict[str, Path] = {}
    for source, name, picture in pictures:
        target = folder / "real" / case if source == REAL else folder / "samples" / case / source
        if source not in folders:
            target.mkdir(parents=True)
            folders[source] = target
        picture.save(target / f"{name}.png")
    return folders


def _measured(folder: Path, model: str, subject: str) -> pd.DataFrame:
    """The rows of the pictures in `folder`, which may differ in size."""
    stream = LatticeStream(PERIODS)
    found = photographs(folder)
    for photograph in found:
        stream.update(pixels(photograph.open()))
    return measure(stream.compute(), model=model, subject=subject, names=[p.name for p in found])


def _drawn(generator: models.Model, config: Config) -> Pictures:
    """Samples of a GAN's generator from standard normal latents."""
    latents = torch.randn(
        config.count, *generator.info.input_size, generator=torch.Generator().manual_seed(config.seed)
    )
    for number, z in enumerate(latents):
        yield "dcgan", f"sample-{number:05}", _picture(generator(z[None]))


def filled(network: nn.Module, weights: Path) -> nn.Module:
    """`network` with the weights of a file, in eval mode, frozen."""
    fill(network, read_state(weights), weights.name)
    return network.eval().requires_grad_(False)


def quartered(folder: Path, limit: int | None = None) -> Iterator[tuple[str, Image.Image, Image.Image, Image.Image]]:
    """Of each picture in a folder: name, the picture with sides cut to multiples of 4, a quarter of it, that enlarged."""
    for photograph in photographs(folder, limit=limit):
        picture = photograph.open().convert("RGB")
        width, height = (4 * (side // 4) for side in picture.size)
        whole = picture.crop((0, 0, width, height))
        small = whole.resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        yield Path(photograph.name).stem, whole, small, small.resize((width, height), Image.Resampling.BICUBIC)


def pixels(picture: Image.Image) -> Tensor:
    """`[1 C H W]` in [0, 1]."""
    levels = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(levels[None, None] if levels.ndim == 2 else levels.transpose(2, 0, 1)[None].copy())


def luma(x: Tensor) -> Tensor:
    """Y in 16/255 to 235/255, `[N 1 H W]`, of RGB `[N 3 H W]` in [0, 1]."""
    return (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + 16 / 255


def _picture(x: Tensor) -> Image.Image:
    """`[1 C H W]`, clipped to [0, 1], as 8-bit levels."""
    levels = (255 * x[0]).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def differences(results: Results) -> pd.DataFrame:
    """One row a generator and period: its contrasts, those of the real data, and the difference with its interval."""
    t = results.table
    t = t.loc[(t["image"] == "") & (t["metric"] == "lattice_contrast")]
    values = t.set_index(["model", "period", "kind"])["value"]
    rows = []
    for record in t.loc[t["model"].str.contains(" - ")].to_dict("records"):
        model, _, real = record["model"].partition(" - ")
        at = (record["period"], record["kind"])
        row = {"generator": model, "against": real, "period": at[0], "kind": at[1]}
        row |= {"contrast": values[model, *at], "real": values[real, *at], "difference": record["value"]}
        rows.append(row | {k: record[k] for k in ("low", "high", "n")})
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.generated_images", "The lattices in the outputs of published generators.")

    @app.default
    def launch(config: Config) -> int:
        target = run_folder(config.out, "generated_images")
        with new_run(target, "generated_images", force=config.force) as folder:
            results = run(config, folder)
            results.write(folder)
        print(differences(results).to_string(index=False, float_format="{:.2f}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
