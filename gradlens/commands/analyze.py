"""`gradlens analyze`: the same as `python -m gradlens.analyze`."""

from gradlens.analyze import build_app

__all__ = ["build_app"]
