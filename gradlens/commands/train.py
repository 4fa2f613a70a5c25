"""`gradlens train --data DIR`: a GAN from pictures, its lattices watched."""

from gradlens.training import build_app

__all__ = ["build_app"]
