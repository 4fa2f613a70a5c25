"""Rebuilding a network without its checkerboards: surgery on what there is, and training of what comes after.

Names load when they are first used: a command's help need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlens.redesign.designs import CannotSwapError, designs_for
    from gradlens.redesign.gan.config import TrainConfig
    from gradlens.redesign.gan.loop import train
    from gradlens.redesign.sites import Site, find
    from gradlens.redesign.surgery import SwapReport, swap

HOMES = {
    "CannotSwapError": "designs",
    "Site": "sites",
    "SwapReport": "surgery",
    "TrainConfig": "gan.config",
    "designs_for": "designs",
    "find": "sites",
    "swap": "surgery",
    "train": "gan.loop",
}

__all__ = ["CannotSwapError", "Site", "SwapReport", "TrainConfig", "designs_for", "find", "swap", "train"]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"gradlens.redesign.{HOMES[name]}"), name)
    raise AttributeError(f"module 'gradlens.redesign' has no attribute {name!r}")
