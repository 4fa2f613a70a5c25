"""`gradlens predict MODEL`: what the architecture alone says."""

from gradlens.predict import build_app

__all__ = ["build_app"]
