"""`gradlens sample CHECKPOINT`: pictures of a generator."""

from gradlens.samples import build_app

__all__ = ["build_app"]
