"""Grids of tiny training runs in this process, for the analyses of GANs."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from analyses import gans
from analyses.gans import SHORT
from gradlens.redesign import grid
from gradlens.redesign.gan import outcome, run
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.dataset import of_tensor

TINY = replace(
    SHORT, width=2, latent=4, batch_size=4, steps=8, log_every=4, draw_every=4, save_every=8, rated=0, average=0.5,
    accelerator="cpu",
)  # fmt: skip


def pictures() -> Tensor:
    """What the cells are trained on: 16 images, so an epoch is 4 steps."""
    return torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small_grid(patch: pytest.MonkeyPatch) -> None:
    """Let the analyses of GANs train cells of `TINY` here, on `pictures`, and measure 8 images of each."""
    patch.setattr(gans, "SHORT", TINY)
    patch.setattr(gans, "pictures", lambda assets, resolution: (of_tensor(pictures()), pictures()))
    patch.setattr(gans, "run_grid", _run_here)
    patch.setattr(outcome, "MEASURED", 8)
    for name in ("SHOWN", "SETTLING"):
        patch.setattr(run, name, 8)
    patch.setattr(torch.cuda, "is_available", lambda: False)


def _run_here(configs: Iterable[TrainConfig], images: Tensor, folder: Path, **_: Any) -> list[grid.Cell]:
    folder.mkdir(exist_ok=True)
    every = grid.cells(configs, folder, of_tensor(images).sha256)
    for cell in every:
        if not cell.finished:
            grid._run(cell, images.numpy(), None)
    return every
