"""The job `gradlens sample CHECKPOINT`: pictures of a generator at native size, one file each, and a grid of them.

model -> pictures. `gradlens measure` says what lattices they carry.
"""

import json
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gradlens.console import (
    NOT_IN_COMMAND,
    application,
    carry_out,
    command_line,
    deliver,
    device_named,
    plain,
    progress,
    run,
    say,
)
from gradlens.results import circumstances, new_run, run_folder, write_whole
from gradlens.training import write_grids

PURPOSE = "Draw samples of a generator: a checkpoint or run of gradlens train, a bundled one, or your own."
TOGETHER = 64
IN_GRID = 64


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """Which generator, and how many samples."""

    model: Annotated[
        str, Parameter(help="A run or checkpoint of gradlens train, dcgan_svhn, or package.module:factory.")
    ] = "dcgan_svhn"
    _: KW_ONLY
    count: Annotated[int, Parameter(name=["--count", "-n"], help="Samples.")] = 64
    seed: Annotated[int, Parameter(help="Of the latents.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of the samples; runs/sample-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new samples are complete.")] = False
    weights: Annotated[str, Parameter(help="'pretrained', 'random', or a safetensors or pickle file.")] = "pretrained"
    model_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For a factory: --model-args.width 32.")
    ] = field(default_factory=dict)
    input_size: Annotated[
        tuple[int, ...] | None, Parameter(help="Of a factory's latents: 128, or 64 1 1.", consume_multiple=True)
    ] = None
    mean: Annotated[
        tuple[float, ...] | None, Parameter(help="An image is output * std + mean.", consume_multiple=True)
    ] = None
    std: Annotated[tuple[float, ...] | None, Parameter(help="Likewise.", consume_multiple=True)] = None
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")] = "cpu"
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the folder.")] = False


def sample(config: Config) -> Path:
    """Draw the samples; returns their folder.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
    """
    if config.count < 1:
        raise ValueError(f"--count: must be at least 1, got {config.count}")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"--seed: must be from 0 to 2**63 - 1, got {config.seed}")
    target = run_folder(config.out, "sample")
    with new_run(target, "sample", force=config.force) as folder:
        say(f"gradlens: drawing {config.count} samples of {config.model}; loading PyTorch")
        _draw(config, folder)
    return target


def _draw(config: Config, folder: Path) -> None:
    import numpy as np
    import torch

    from gradlens import models
    from gradlens.figures import png

    device = device_named(config.device)
    model = models.generator(
        config.model, weights=config.weights, seed=config.seed, model_args=config.model_args, input_size=config.input_size,
        mean=config.mean, std=config.std,
    ).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    size = model.info.input_size
    digits = len(str(config.count - 1))
    shown = []
    with progress("samples", config.count) as advance, torch.no_grad():
        for first in range(0, config.count, TOGETHER):
            latents = torch.randn(min(TOGETHER, config.count - first), *size, generator=generator)
            images = model(latents.to(device)).float().clamp(0, 1).cpu().numpy()
            if images.ndim != 4 or images.shape[1] not in (1, 3):
                raise ValueError(f"model: {config.model!r} gives {list(images.shape)}, no grey or RGB pictures")
            for number, image in enumerate(images, start=first):
                (folder / f"{number:0{digits}}.png").write_bytes(png(image))
                advance()
            if first < IN_GRID:
                shown.append(images)
    write_grids(np.concatenate(shown), folder / "grid", "samples")
    manifest = circumstances() | {
        "command": command(config), "sampled": asdict(model.info), "count": config.count, "seed": config.seed,
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
    }  # fmt: skip
    write_whole(folder / "manifest.json", (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


def command(config: Config) -> str:
    """The command line that draws the same samples."""
    return command_line(["gradlens", "sample"], config, "model")


def finish(folder: Path, *, as_json: bool) -> None:
    """Print where the samples are."""
    if as_json:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        deliver(json.dumps({"out": str(folder), "manifest": manifest}, ensure_ascii=False))
        return
    deliver(str(folder))


def build_app(name: str = "gradlens sample") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: sample(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.samples"))
