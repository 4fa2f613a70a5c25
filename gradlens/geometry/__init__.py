"""What a network's architecture says about its checkerboards, before any training and without data."""

from gradlens.geometry.certificate import Certificate, certify
from gradlens.geometry.energy import energy_map
from gradlens.geometry.layers import layers
from gradlens.geometry.lint import Finding, lint
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
from gradlens.geometry.tracing import Trace, periods, trace

__all__ = [
    "Certificate",
    "Finding",
    "OverlapClass",
    "Trace",
    "TransposedConv",
    "box_response",
    "certify",
    "coverage",
    "energy_map",
    "layers",
    "lint",
    "overlap",
    "overlap_class",
    "periods",
    "stack_coverage",
    "stack_overlap",
    "stack_periods",
    "trace",
]
