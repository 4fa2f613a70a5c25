"""What a network's architecture says about its checkerboards, before any training and without data."""

from gradlens.geometry.energy import energy_map

__all__ = ["energy_map"]
