"""`gradlens measure`: how much of any pictures is checkerboard."""

from gradlens.measure import build_app

__all__ = ["build_app"]
