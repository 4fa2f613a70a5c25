"""Small training runs in this process, without what is measured at their end."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gradlens.redesign.gan import checkpoint, dataset
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.run import Callback, Run

ALONE = SimpleNamespace(device=torch.device("cpu"), world_size=1, global_rank=0, is_global_zero=True)  # of Fabric
TINY = TrainConfig(
    resolution=16, width=2, latent=4, batch_size=4, steps=4, log_every=2, save_every=2, draw_every=2, rated=0, periods=(2,),
    accelerator="cpu",
)  # fmt: skip


def tiny(**options: Any) -> TrainConfig:
    return replace(TINY, **options)


def images(count: int = 10, side: int = 16, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=random)


def begun(config: TrainConfig, folder: Path | None = None, *, resume: bool = False) -> Run:
    """A run before its first step, or at the newest checkpoint in `folder`; the global generator is left alone."""
    data = dataset.of_tensor(images(side=config.resolution, channels=config.channels))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        run = Run(ALONE, config, data, None, folder)
    if resume:
        assert folder is not None
        with torch.random.fork_rng():
            run.restore(checkpoint.load(checkpoint.newest(folder)).state)
    return run


def trained(
    config: TrainConfig, folder: Path | None = None, *, resume: bool = False, callback: Callback | None = None
) -> Run:
    """A run at its last step."""
    run = begun(config, folder, resume=resume)
    with torch.random.fork_rng():
        torch.manual_seed(run.step)
        assert run.go(callback, lambda: False)
    return run
