"""Measures of checkerboards in any `[N C *spatial]` tensor: pure torch, differentiable, one value an image.

Two families, to be read together: *signed* measures see a pattern that repeats with its sign, *envelope* and *phase*
measures see energy that is placed unevenly while its sign is random, as a strided layer does to a gradient.
"""

from gradlens.spectra.detail import fine_detail
from gradlens.spectra.distance import normalised_power, spectrum_distance_test
from gradlens.spectra.even import even_phases
from gradlens.spectra.lattice import lattice_share, lattice_share_floor, notch
from gradlens.spectra.losses import lattice_loss, spectrum_distance
from gradlens.spectra.lowpass import lowpass
from gradlens.spectra.phases import (
    phase_energy,
    phase_imbalance,
    phase_imbalance_floor,
    phase_ratio,
    set_imbalance,
    set_imbalance_test,
)
from gradlens.spectra.power import power_spectrum
from gradlens.spectra.radial import RadialProfile, radial_profile
from gradlens.spectra.significance import (
    LatticeTest,
    lattice_contrast,
    lattice_contrasts,
    lattice_lines,
    lattice_map,
    lattice_test,
    lattice_tests,
)
from gradlens.spectra.statistics import LatticeStatistics, LatticeStream, lattice_statistics

__all__ = [
    "LatticeStatistics",
    "LatticeStream",
    "LatticeTest",
    "RadialProfile",
    "even_phases",
    "fine_detail",
    "lattice_contrast",
    "lattice_contrasts",
    "lattice_lines",
    "lattice_loss",
    "lattice_map",
    "lattice_share",
    "lattice_share_floor",
    "lattice_statistics",
    "lattice_test",
    "lattice_tests",
    "lowpass",
    "normalised_power",
    "notch",
    "phase_energy",
    "phase_imbalance",
    "phase_imbalance_floor",
    "phase_ratio",
    "power_spectrum",
    "radial_profile",
    "set_imbalance",
    "set_imbalance_test",
    "spectrum_distance",
    "spectrum_distance_test",
]
