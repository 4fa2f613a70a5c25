"""Which layers and published networks can write a lattice, by certificate, against what the papers say of them?

Every layer of the source papers with random weights, the cures they propose, and the published generators, style and
super-resolution networks, forward; strided layers, pools and discriminators backward. Run:
`python -m analyses.certificates [ASSETS]`; without ASSETS only the layers and the bundled networks are examined.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from analyses import layers
from gradlens import models, networks
from gradlens.checkpoints import fill, read_state
from gradlens.console import application, progress, say
from gradlens.console import run as run_command
from gradlens.geometry import Certificate, certify
from gradlens.geometry.certificate import Direction
from gradlens.results import Results, circumstances, new_run, run_folder
from gradlens.upsampling import HeldInside, IPixelDCL, MaskedPixelDCL, PixelDCL

CHANNELS = (layers.CHANNELS,) * 2
LAYER = (layers.CHANNELS, 24, 24)
WIDE = (layers.CHANNELS, 64, 64)
SHOWN = 16  # pixels a side of a response that is kept


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to examine."""

    assets: Annotated[Path | None, Parameter(help="Folder with the published weights.")] = None
    _: KW_ONLY
    seed: Annotated[int, Parameter(help="Of the layers' weights and of the vectors.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/certificates-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out.")] = False


@dataclass(frozen=True)
class Case:
    """A module, what to ask of it, and what a source says of it; `expects` is the verdict on the source's own statement."""

    make: Callable[[], nn.Module]
    size: tuple[int, ...]
    source: str
    says: str
    expects: str = ""
    statement: str = ""  # the source's, of a gradient; all where empty


OF_DECONVOLUTION = "periodic steady state unless eq. 8 holds"
OF_HOLD = "constant for any layer before it"
OF_PIXEL = "largely overcomes the checkerboard problem"
OF_STRIDE = "its gradient is a transposed convolution's"

ENLARGING: dict[str, Case] = {
    "deconvolution 3x3": Case(lambda: layers.deconvolution(3), LAYER, "001", "uneven overlap, 1:4", "fail"),
    "deconvolution 4x4": Case(lambda: layers.deconvolution(4), LAYER, "002", OF_DECONVOLUTION, "fail"),
    "deconvolution 1x1": Case(lambda: layers.deconvolution(1), LAYER, "002", OF_DECONVOLUTION, "fail"),
    "deconvolution 3x3, equalised": Case(
        lambda: layers.equalised_transposed(layers.deconvolution(3)), LAYER, "002", "eq. 8 suffices", "pass"
    ),
    "deconvolution 4x4, equalised": Case(
        lambda: layers.equalised_transposed(layers.deconvolution(4)), LAYER, "002", "eq. 8 suffices", "pass"
    ),
    "deconvolution 4x4, hold inside": Case(lambda: HeldInside(*CHANNELS), LAYER, "002", "approach C: constant", "pass"),
    "deconvolution 3x3, hold": Case(
        lambda: nn.Sequential(layers.deconvolution(3), layers.held()), LAYER, "002", OF_HOLD, "pass"
    ),
    "sub-pixel": Case(
        lambda: layers.subpixel(icnr=False, one_bias=False), LAYER, "002", "periodic unless eq. 8 and 9 hold", "fail"
    ),
    "sub-pixel, ICNR": Case(
        lambda: layers.subpixel(icnr=True, one_bias=True), LAYER, "Aitken 2017", "a nearest resize at the start", "pass"
    ),
    "sub-pixel, ICNR, biases differ": Case(
        lambda: layers.subpixel(icnr=True, one_bias=False), LAYER, "002", "eq. 9 is needed too", "fail"
    ),
    "sub-pixel, hold": Case(
        lambda: nn.Sequential(layers.subpixel(icnr=False, one_bias=False), layers.held()), LAYER, "002", OF_HOLD, "pass"
    ),
    "nearest resize, convolution": Case(lambda: layers.resize_convolution("nearest"), LAYER, "001", "no artifacts", "pass"),
    "bilinear resize, convolution": Case(lambda: layers.resize_convolution("bilinear"), LAYER, "001", "no artifacts", "pass"),
    "PixelDCL": Case(lambda: PixelDCL(*CHANNELS), LAYER, "004", OF_PIXEL, "pass"),
    "iPixelDCL": Case(lambda: IPixelDCL(*CHANNELS), LAYER, "004", "solves it to some extent"),
    "PixelDCL, masked": Case(lambda: MaskedPixelDCL(*CHANNELS), LAYER, "004", OF_PIXEL, "pass"),
    "PixelDCL, hold": Case(lambda: nn.Sequential(PixelDCL(*CHANNELS), layers.held()), LAYER, "002", OF_HOLD, "pass"),
    "windowed sinc": Case(lambda: layers.windowed_sinc(normalised=False), LAYER, "ours", "phases nearly equal"),
    "windowed sinc, phases normalised": Case(lambda: layers.windowed_sinc(normalised=True), LAYER, "ours", "", "pass"),
    "deconvolution, ReLU, deconvolution": Case(
        lambda: nn.Sequential(layers.deconvolution(3), nn.ReLU(), layers.deconvolution(3)), LAYER,
        "001", "artifacts on several scales", "fail",
    ),
    "even until a ReLU opens": Case(layers.LevelDependent, LAYER, "002", "eq. 10: one K says nothing", "level-dependent"),
    "dead ReLU, deconvolution": Case(lambda: layers.dead(layers.deconvolution(3)), LAYER, "ours", "", "vacuous"),
    "instance norm, deconvolution": Case(
        lambda: nn.Sequential(nn.InstanceNorm2d(layers.CHANNELS), layers.deconvolution(3)), LAYER, "ours", "", "vacuous"
    ),
}  # fmt: skip

SHRINKING: dict[str, Case] = {
    "convolution 3x3, stride 2": Case(lambda: layers.strided(3), WIDE, "001", OF_STRIDE, "fail"),
    "convolution 4x4, stride 2": Case(lambda: layers.strided(4), WIDE, "001", OF_STRIDE, "fail"),
    "convolution 1x1, stride 2": Case(lambda: layers.strided(1), WIDE, "001", OF_STRIDE, "fail"),
    "convolution 4x4, equalised": Case(
        lambda: layers.equalised_strided(layers.strided(4)), WIDE, "002", "eq. 8 suffices", "pass", "signed"
    ),
    "blur, convolution 3x3, stride 2": Case(
        lambda: nn.Sequential(layers.blurred(), layers.strided(3)),
        WIDE,
        "Zhang 2019",
        "less aliasing",
        "pass",
        "signed",
    ),
    "hold, convolution 3x3, stride 2": Case(
        lambda: nn.Sequential(layers.held(), layers.strided(3)),
        WIDE,
        "Kinoshita 2020",
        "kills the comb",
        "pass",
        "signed",
    ),
    "average pool 2x2": Case(lambda: nn.AvgPool2d(2), WIDE, "ours", "every tap equal", "pass"),
    "max-pool 2x2": Case(lambda: nn.MaxPool2d(2), WIDE, "001", "adds high-frequency artifacts"),
    "max-pool 3x3, stride 2": Case(lambda: nn.MaxPool2d(3, 2, 1), WIDE, "001", "adds high-frequency artifacts", "fail"),
    "convolution, ReLU, convolution": Case(
        lambda: nn.Sequential(layers.strided(3), nn.ReLU(), layers.strided(3)), WIDE, "001", OF_STRIDE, "fail"
    ),
}


class SVHNBody(nn.Module):
    """The convolutions of the bundled generator, behind its dense layer: `[N 256 h w]` to `[N 3 8h 8w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = models.generator("dcgan_svhn").get_submodule("network")

    def forward(self, x: Tensor) -> Tensor:
        g = self.generator
        for stage in (1, 2):
            x = F.relu(g.get_submodule(f"bn{stage}")(g.get_submodule(f"up{stage}")(x)))
        return torch.tanh(g.get_submodule("up3")(x))


class SVHNCriticBody(nn.Module):
    """The convolutions of the bundled discriminator, before its dense layer: `[N 3 8h 8w]` to `[N 256 h w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = models.discriminator("dcgan_svhn").get_submodule("network")

    def forward(self, x: Tensor) -> Tensor:
        d = self.critic
        x = F.leaky_relu(d.get_submodule("c1")(x), 0.2)
        for stage in (2, 3):
            x = F.leaky_relu(d.get_submodule(f"bn{stage}")(d.get_submodule(f"c{stage}")(x)), 0.2)
        return x


def stem(name: str) -> nn.Sequential:
    """A bundled classifier until its first block."""
    network = models.classifier(name).get_submodule("network")
    return nn.Sequential(*(network.get_submodule(part) for part in ("conv1", "bn1", "act1", "maxpool")))


def published(assets: Path | None) -> dict[str, Case]:
    """Networks as trained: the bundled ones, and those of the assets where there are any."""
    cases = {
        "DCGAN of SVHN": Case(SVHNBody, (256, 12, 12), "001", OF_DECONVOLUTION, "fail"),
    }
    if assets is None:
        return cases
    weights = assets / "weights"

    def filled(network: nn.Module, file: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            fill(network, read_state(weights / file), file)
            return network

        return make

    return cases | {
        "DCGAN of MNIST": Case(
            filled(networks.MNISTGenerator(), "dcgan_mnist/generator.pth"), (64, 12, 12), "002", OF_DECONVOLUTION, "fail"
        ),
        "style transfer, wave": Case(
            filled(networks.StyleTransfer(), "style/lengstrom_wave_fp16.safetensors"), (3, 160, 160),
            "001", "visible checkerboards", "fail",
        ),
        "style transfer, la muse": Case(
            filled(networks.StyleTransfer(), "style/lengstrom_la_muse_fp16.safetensors"), (3, 160, 160),
            "001", "visible checkerboards", "fail",
        ),
        "LapSRN": Case(
            filled(networks.LapSRN(), "lapsrn/lapsrn_x4.safetensors"), (1, 56, 56), "002", OF_DECONVOLUTION, "fail"
        ),
        "SRGAN": Case(
            filled(networks.SRGANGenerator(), "srgan/netG_epoch_4_100.pth"), (3, 48, 48),
            "002", "periodic unless eq. 8 and 9 hold", "fail",
        ),
    }  # fmt: skip


def critics(assets: Path | None) -> dict[str, Case]:
    """Trained networks that shrink, to where their spatial axes end or the receptive field would outgrow the image."""
    cases = {
        "critic of SVHN": Case(SVHNCriticBody, (3, 176, 176), "001", OF_STRIDE, "fail"),
        "resnet18_half, stem and pool": Case(lambda: stem("resnet18_half"), (3, 96, 96), "001", OF_STRIDE, "fail"),
        "resnetblur18_half, stem and pool": Case(
            lambda: stem("resnetblur18_half"), (3, 96, 96), "Zhang 2019", "less aliasing"
        ),
    }  # fmt: skip
    if assets is None:
        return cases

    def critic() -> nn.Module:
        network = networks.MNISTDiscriminator()
        fill(network, read_state(assets / "weights" / "dcgan_mnist" / "netD_epoch_99.pth"), "netD_epoch_99.pth")
        return network

    return cases | {"critic of MNIST": Case(critic, (1, 160, 160), "001", OF_STRIDE, "fail")}


def groups(assets: Path | None) -> dict[str, tuple[Direction, dict[str, Case]]]:
    """All cases: the direction and the cases of each group."""
    return {
        "layers that enlarge": ("forward", ENLARGING),
        "networks that enlarge": ("forward", published(assets)),
        "layers that shrink": ("backward", SHRINKING),
        "networks that shrink": ("backward", critics(assets)),
    }


def run(config: Config) -> Results:
    """The certificate of every case: a row for each statement, method, period and level; responses as arrays.

    Raises:
        ValueError: the assets lack a file.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    parts = groups(config.assets)
    with progress("certificates", sum(len(cases) for _, cases in parts.values())) as advance:
        for group, (direction, cases) in parts.items():
            for name, case in cases.items():
                module = _made(case, config.seed)
                found = certify(module, case.size, direction=direction, seed=config.seed)
                rows += [{"model": name, "subject": group} | r for r in _tidy(found)]
                told.append({"name": name} | _told(case, group, found))
                if direction == "forward":
                    arrays[f"response/{name}"] = response(module, case.size, found, config.seed)
                advance()
    command = "python -m analyses.certificates" + (" ASSETS" if config.assets else "")
    manifest = circumstances() | {"command": command, "seed": config.seed, "cases": told}
    return Results(pd.DataFrame(rows), arrays, manifest)


def _made(case: Case, seed: int) -> nn.Module:
    """The module with seeded weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return case.make().eval()


def _tidy(found: Certificate) -> list[dict[str, Any]]:
    """The certificate's table in the columns of every table here, and its own."""
    table = found.table.rename(columns={"statement": "kind", "deviation": "value"})
    return table.assign(metric="deviation", unit="1").to_dict("records")


def _told(case: Case, group: str, found: Certificate) -> dict[str, Any]:
    """What the manifest says of a case: the certificate in words, and the source beside it."""
    verdict = found.verdicts[case.statement] if case.statement else found.verdict
    return {
        "group": group,
        "input_size": list(case.size),
        "source": case.source,
        "says": case.says,
        "expects": case.expects,
        "statement": case.statement,
        "agrees": verdict == case.expects if case.expects else None,
        "verdict": found.verdict,
        "verdicts": found.verdicts,
        "periods": list(found.periods),
        "deviation": found.deviation,
        "why": found.why,
        "remedy": found.remedy,
    }


def response(module: nn.Module, size: tuple[int, ...], found: Certificate, seed: int) -> np.ndarray:
    """The centre of the output for one constant vector, minus its mean over its rms, of the most uneven channel: `[h w]`."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.rand(size[0], generator=generator, dtype=torch.float64) * 2 - 1
    level = 2.0 if found.verdict == "level-dependent" else 1.0
    x = (level * vector).view(1, -1, *[1] * (len(size) - 1)).expand(1, *size)
    with torch.no_grad():
        y = module.double()(x)[0]
    top, left = ((side - SHOWN) // 2 for side in y.shape[1:])
    y = y[:, top : top + SHOWN, left : left + SHOWN]
    rms = y.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    uneven = (y - y.mean(dim=(1, 2), keepdim=True)) / rms
    return uneven[uneven.abs().amax(dim=(1, 2)).argmax()].numpy()


def summary(results: Results) -> pd.DataFrame:
    """One row a case: the verdict on each statement, the deviation, and whether it is as the source says."""
    rows = []
    for told in results.manifest["cases"]:
        statements = ", ".join(f"{k} {v}" for k, v in told["verdicts"].items())
        periods = " ".join(map(str, told["periods"]))
        agrees = {True: "yes", False: "no", None: ""}[told["agrees"]]
        rows.append({"case": told["name"], "verdict": told["verdict"], "periods": periods, "deviation": told["deviation"],
                     "statements": statements, "source": told["source"], "as it says": agrees})  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """The command line."""
    app = application("python -m analyses.certificates", "Certificates of layers and published networks.")

    @app.default
    def launch(config: Config = Config()) -> int:
        target = run_folder(config.out, "certificates")
        with new_run(target, "certificates", force=config.force) as folder:
            results = run(config)
            results.write(folder)
        print(summary(results).to_string(index=False, float_format="{:.2g}".format))
        say(f"results: {target}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
