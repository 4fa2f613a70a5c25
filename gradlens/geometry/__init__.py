"""What a network's architecture says about its checkerboards, before any training and without data."""

from gradlens.geometry.overlap import OverlapClass, coverage, overlap_class

__all__ = ["OverlapClass", "coverage", "overlap_class"]
