"""Every measure of a stream of images at several periods, ready for a table: what a run keeps of its gradients.

Signals are measured batch by batch and joined; a mean over images gives each image the same weight, whatever its scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlens.spectra.envelope import Kind
from gradlens.spectra.lattice import lattice_share
from gradlens.spectra.phases import phase_energy, phase_imbalance
from gradlens.spectra.power import power_spectrum
from gradlens.spectra.radial import radial_profile
from gradlens.spectra.signal import unit_scale
from gradlens.spectra.significance import lattice_tests

KINDS: tuple[Kind, ...] = ("signed", "envelope")
SPECTRUM_SIDE = 128


@dataclass(frozen=True)
class LatticeStatistics:
    """Measures of N images of one size, on the CPU in float64.

    `contrast`, `p_value` and `share` hold `[N]` by (kind, period); `imbalance` `[N]` and `energy` `[N *T]` by period;
    `window` the window along each axis by period, empty where the image is too small. Means over images, each image
    first divided by its own mean power: `power` `[*frequency]` (windows of up to 128 px, summed over channels),
    `profile` `[B]` at `frequency` `[B]`, and `relative_energy` `[*spatial]` (mean 1).
    """

    periods: tuple[int, ...]
    channels: int
    size: tuple[int, ...]
    count: int
    contrast: dict[tuple[Kind, int], Tensor]
    p_value: dict[tuple[Kind, int], Tensor]
    share: dict[tuple[Kind, int], Tensor]
    imbalance: dict[int, Tensor]
    energy: dict[int, Tensor]
    window: dict[int, tuple[int, ...]]
    power: Tensor
    frequency: Tensor
    profile: Tensor
    relative_energy: Tensor


def lattice_statistics(x: Tensor, periods: Sequence[int], *, window: int = 32) -> LatticeStatistics:
    """The statistics of a batch `[N C *spatial]`; `joined` puts batches together.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`, or a period is out of range.

    Example:
        >>> lattice_statistics(torch.randn(2, 3, 32, 32), (2, 4)).energy[4].shape
        torch.Size([2, 4, 4])
    """
    x = x.detach()
    tests = {kind: lattice_tests(x, periods, kind=kind, window=window) for kind in KINDS}
    pairs: list[tuple[Kind, int]] = [(kind, period) for kind in KINDS for period in periods]
    signal = unit_scale(x.double().cpu() if x.device.type == "mps" else x.double())
    square = signal.square()
    level = square.mean(tuple(range(1, x.ndim)), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    scaled = signal / level.sqrt()
    frequency, profile = radial_profile(scaled)
    return LatticeStatistics(
        periods=tuple(periods),
        channels=x.shape[1],
        size=tuple(x.shape[2:]),
        count=len(x),
        contrast={(k, p): tests[k][p].contrast.cpu() for k, p in pairs},
        p_value={(k, p): tests[k][p].p_value.cpu() for k, p in pairs},
        share={(k, p): lattice_share(x, p, kind=k).cpu() for k, p in pairs},
        imbalance={p: phase_imbalance(x, p).cpu() for p in periods},
        energy={p: phase_energy(x, p).cpu() for p in periods},
        window={p: tests["signed"][p].window for p in periods},
        power=power_spectrum(scaled, size=min(SPECTRUM_SIDE, *x.shape[2:])).sum(1).mean(0).cpu(),
        frequency=frequency.cpu(),
        profile=profile.mean(0).cpu(),
        relative_energy=(square / level).mean((0, 1)).cpu(),
    )


def joined(parts: Sequence[LatticeStatistics]) -> LatticeStatistics:
    """The statistics of all the images of `parts`.

    Raises:
        ValueError: there is no part, or they differ in size, channels, periods or window.
    """
    parts = [part for part in parts if part.count] or parts[:1]
    if not parts:
        raise ValueError("parts: must be at least one")
    first = parts[0]
    for part in parts[1:]:
        ours, theirs = ((s.periods, s.channels, s.size, s.window) for s in (first, part))
        if ours != theirs:
            raise ValueError(f"parts: periods, channels, size and window must agree, got {ours} and {theirs}")
    total = sum(part.count for part in parts)

    def every(name: str) -> dict:
        return {key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(first, name)}

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(part, name) * (part.count / total) for part in parts]).sum(0)

    return LatticeStatistics(
        periods=first.periods,
        channels=first.channels,
        size=first.size,
        count=total,
        contrast=every("contrast"),
        p_value=every("p_value"),
        share=every("share"),
        imbalance=every("imbalance"),
        energy=every("energy"),
        window=first.window,
        power=mean("power"),
        frequency=first.frequency,
        profile=mean("profile"),
        relative_energy=mean("relative_energy"),
    )
