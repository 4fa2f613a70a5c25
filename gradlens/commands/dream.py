"""`gradlens dream [MODEL]`: DeepDream with and without jitter."""

from gradlens.dreams import build_app

__all__ = ["build_app"]
