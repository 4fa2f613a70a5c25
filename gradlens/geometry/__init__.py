"""What a network's architecture says about its checkerboards, before any training and without data."""

from gradlens.geometry.certificate import Certificate, certify
from gradlens.geometry.energy import energy_map
from gradlens.geometry.overlap import (
    OverlapClass,
    TransposedConv,
    box_response,
    coverage,
    overlap,
    overlap_class,
    stack_coverage,
    stack_overlap,
    stack_periods,
)

__all__ = [
    "Certificate",
    "OverlapClass",
    "TransposedConv",
    "box_response",
    "certify",
    "coverage",
    "energy_map",
    "overlap",
    "overlap_class",
    "stack_coverage",
    "stack_overlap",
    "stack_periods",
]
