"""`gradlens lint`: what in a network's architecture makes checkerboards."""

from gradlens.lint import build_app

__all__ = ["build_app"]
