"""Rebuilding a network without its checkerboards: surgery on what there is."""

from gradlens.redesign.designs import CannotSwapError, designs_for
from gradlens.redesign.sites import Site, find
from gradlens.redesign.swap import SwapReport, swap

__all__ = ["CannotSwapError", "Site", "SwapReport", "designs_for", "find", "swap"]
