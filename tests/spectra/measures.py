"""The measures that laws are asked of, and the content they are asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from gradlens import spectra

Period = int | tuple[int, ...]


@dataclass(frozen=True)
class Measure:
    """A measure of `[N C *spatial]` at a period; `sees` is the lattice it grows with, `differentiable` its gradient."""

    of: Callable[[Tensor, Period], Tensor]
    sees: str
    differentiable: bool = True


def chance(x: Tensor, period: Period, kind: Literal["signed", "envelope"]) -> Tensor:
    """1 - p, with the long windows that one axis needs."""
    return 1 - spectra.lattice_test(x, period, kind=kind, window=128 if x.ndim == 3 else 32).p_value


MEASURES: dict[str, Measure] = {
    "contrast": Measure(lambda x, t: spectra.lattice_contrast(x, t), "sign"),
    "contrast of the envelope": Measure(lambda x, t: spectra.lattice_contrast(x, t, kind="envelope"), "energy"),
    "1 - p": Measure(lambda x, t: chance(x, t, "signed"), "sign", differentiable=False),
    "1 - p of the envelope": Measure(lambda x, t: chance(x, t, "envelope"), "energy", differentiable=False),
    "lines": Measure(lambda x, t: spectra.lattice_lines(x, t), "sign"),
    "lines of the envelope": Measure(lambda x, t: spectra.lattice_lines(x, t, kind="envelope"), "energy"),
    "map": Measure(lambda x, t: spectra.lattice_map(x, t), "sign"),
    "map of the envelope": Measure(lambda x, t: spectra.lattice_map(x, t, kind="envelope"), "energy"),
    "share": Measure(lambda x, t: spectra.lattice_share(x, t), "sign"),
    "new share": Measure(lambda x, t: spectra.lattice_share(x, t, new=True), "sign"),
    "share of the envelope": Measure(lambda x, t: spectra.lattice_share(x, t, kind="envelope"), "energy"),
    "phase energy": Measure(lambda x, t: spectra.phase_energy(x, t), "energy"),
    "imbalance": Measure(lambda x, t: spectra.phase_imbalance(x, t), "energy"),
    "plain imbalance": Measure(lambda x, t: spectra.phase_imbalance(x, t, debias=False), "energy"),
}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Seeded white noise of variance 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def checkerboard(*size: int) -> Tensor:
    """+1 and -1 in turn along every axis, `[*size]`."""
    steps = torch.meshgrid(*[torch.arange(side) for side in size], indexing="ij")
    return 1.0 - 2.0 * (sum(steps) % 2).double()


def one_phase(size: tuple[int, ...], periods: tuple[int, ...], phase: int = 0) -> Tensor:
    """1 on one sampling phase of the period and 0 elsewhere, `[*size]`."""
    here = torch.zeros(size, dtype=torch.float64)
    here[tuple(slice(phase % period, None, period) for period in periods)] = 1
    return here


def wave(size: tuple[int, ...], periods: tuple[int, ...], harmonic: tuple[int, ...]) -> Tensor:
    """A plane wave on the lattice, turned so that no harmonic has an unlucky phase, `[*size]`."""
    steps = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in size], indexing="ij")
    turns = sum(k * step / period for k, step, period in zip(harmonic, steps, periods, strict=True))
    return (2 * pi * turns + 0.3).cos()


def planted(sees: str, amplitude: float, x: Tensor, period: int) -> Tensor:
    """`x` with a lattice of one phase in T^D: added to the signal, or to the energy of each pixel."""
    size = tuple(x.shape[2:])
    lattice = one_phase(size, (period,) * len(size))
    return x + amplitude * lattice if sees == "sign" else x * (1 + amplitude * lattice)
