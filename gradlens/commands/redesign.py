"""`gradlens redesign [MODEL]`: other layers where a network shrinks or enlarges."""

from gradlens.redesigns import build_app

__all__ = ["build_app"]
