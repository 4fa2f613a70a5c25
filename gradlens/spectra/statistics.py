"""Every measure of a stream of images at several periods, ready for a table, in memory that does not grow with images.

Each image is measured once, where it lies; of a set only sums are kept, and a few numbers an image. A mean over images
gives each image the same weight, whatever its scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlens.spectra.envelope import Kind
from gradlens.spectra.lattice import lattice_share, lattice_share_floor
from gradlens.spectra.phases import phase_energy, phase_imbalance
from gradlens.spectra.power import power_spectrum
from gradlens.spectra.radial import radial_profile
from gradlens.spectra.signal import check_shape, holds_two, in_float64, periods_of, unit_scale
from gradlens.spectra.significance import lattice_tests

KINDS: tuple[Kind, ...] = ("signed", "envelope")
SPECTRUM_SIDE = 128
GROUPS = 256  # of images whose phase energies are kept apart


@dataclass(frozen=True)
class LatticeStatistics:
    """Measures of N images, on the CPU in float64.

    `contrast`, `p_value` and `share` hold `[N]` by (kind, period), `imbalance` `[N]` by period: NaN for an image that is
    too small or holds NaN or infinity. `energy` holds the phase energies `[G *T]` by period: each measured image's own,
    or where they are more than 256, the means of 256 groups; `mean_energy` `[*T]` the mean over all of them. `share_floor`
    is the mean over images of what white noise has.

    `size` and `window` (the window along each axis by period, empty where the image is too small) are those of the first
    image. Means over the images of that size, each first divided by its own mean power: `power` `[*frequency]` (windows
    of up to 128 px, summed over channels), `profile` `[B]` at `frequency` `[B]`, and `relative_energy` `[*spatial]`
    (mean 1).

    `skipped` images held NaN or infinity; the first of them is number `first_skipped`, counted from 0.
    """

    periods: tuple[int, ...]
    channels: int
    size: tuple[int, ...]
    count: int
    contrast: dict[tuple[Kind, int], Tensor]
    p_value: dict[tuple[Kind, int], Tensor]
    share: dict[tuple[Kind, int], Tensor]
    share_floor: dict[int, float]
    imbalance: dict[int, Tensor]
    energy: dict[int, Tensor]
    mean_energy: dict[int, Tensor]
    window: dict[int, tuple[int, ...]]
    power: Tensor
    frequency: Tensor
    profile: Tensor
    relative_energy: Tensor
    skipped: int = 0
    first_skipped: int | None = None


def lattice_statistics(x: Tensor, periods: Sequence[int], *, window: int = 32) -> LatticeStatistics:
    """The statistics of one batch `[N C *spatial]`: a `LatticeStream` with a single update.

    Raises:
        TypeError, ValueError: `x` is no `[N C *spatial]`, or a period is out of range.

    Example:
        >>> lattice_statistics(torch.randn(2, 3, 32, 32), (2, 4)).energy[4].shape
        torch.Size([2, 4, 4])
    """
    stream = LatticeStream(periods, window=window)
    stream.update(x)
    return stream.compute()


class LatticeStream:
    """The statistics of any number of images; nothing leaves their device, or waits for it, before `compute`.

    Args:
        periods: in pixels.
        window: as `lattice_test`.

    Example:
        >>> stream = LatticeStream((2, 4))
        >>> for side in (32, 48):
        ...     stream.update(torch.randn(2, 3, side, side))
        >>> stream.compute().count
        4
    """

    def __init__(self, periods: Sequence[int], *, window: int = 32) -> None:
        self.periods = tuple(periods)
        self.window = window
        self._values: dict[tuple, list[Tensor]] = {}
        self._sums: dict[tuple, Tensor] = {}
        self._floors: dict[int, tuple[float, int]] = dict.fromkeys(self.periods, (0.0, 0))
        self._first: tuple[int, ...] | None = None
        self._windows: dict[int, tuple[int, ...]] = {}
        self._frequency = torch.empty(0)
        self._count = 0

    def update(self, x: Tensor) -> None:
        """Measure a batch `[N C *spatial]`; sizes may differ between batches, the number of channels may not.

        Raises:
            TypeError, ValueError: `x` is no floating-point `[N C *spatial]`, its axes or channels are not those of the
                first batch, or a period is out of range.
        """
        check_shape(x)
        shape = tuple(x.shape[1:])
        if self._first is not None and (shape[0], len(shape)) != (self._first[0], len(self._first)):
            raise ValueError(f"x: images must have the channels and axes of the first, {self._first}, got {shape}")
        if not len(x):
            return
        x = in_float64(x.detach())
        finite = x.isfinite().flatten(1).all(1)
        x = unit_scale(torch.where(finite.view(-1, *[1] * len(shape)), x, 0.0))
        self._first = self._first or shape
        self._count += len(x)
        self._values.setdefault(("finite",), []).append(finite)
        self._measure(x, finite)
        if shape == self._first:
            self._average(x, finite)

    def _measure(self, x: Tensor, finite: Tensor) -> None:
        """Each image's own numbers, and the phase energies of its group."""
        for kind in KINDS:
            tests = lattice_tests(x, self.periods, kind=kind, window=self.window)
            for period, test in tests.items():
                self._windows.setdefault(period, test.window)
                self._keep("contrast", (kind, period), test.contrast, finite)
                self._keep("p_value", (kind, period), test.p_value, finite)
                self._keep("share", (kind, period), lattice_share(x, period, kind=kind), finite)
        for period in self.periods:
            if holds_two(x.shape[2:], periods_of(period, x.ndim - 2)):
                total, n = self._floors[period]
                floor = lattice_share_floor(x.shape[2:], period)
                self._floors[period] = (total + floor * len(x), n + len(x))
            self._keep("imbalance", period, phase_imbalance(x, period), finite)
            self._group(period, phase_energy(x, period), finite)

    def _keep(self, name: str, key: object, value: Tensor, finite: Tensor) -> None:
        self._values.setdefault((name, key), []).append(torch.where(finite, value, float("nan")))

    def _group(self, period: int, energy: Tensor, finite: Tensor) -> None:
        """Add phase energies `[N *T]` to their groups, in turn."""
        flat = energy.flatten(1)
        measured = finite & flat.isfinite().all(1)
        before = self._sums.get(("measured", period), measured.new_zeros((), dtype=torch.long))
        group = (before + measured.cumsum(0) - 1) % GROUPS
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)  # the last column counts
        flat = torch.where(measured[:, None], flat, 0.0)
        sums = self._sums.get(("energy", period), flat.new_zeros(GROUPS, flat.shape[1]))
        self._sums["energy", period] = sums.index_add(0, group, flat)
        self._sums["measured", period] = before + measured.sum()

    def _average(self, x: Tensor, finite: Tensor) -> None:
        """Add to the means over images of the first size."""
        square = x.square()
        axes = tuple(range(1, x.ndim))
        level = square.mean(axes, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        scaled = x / level.sqrt()
        self._frequency, profile = radial_profile(scaled)
        size = min(SPECTRUM_SIDE, *x.shape[2:])
        for name, value in (
            ("power", power_spectrum(scaled, size=size).sum(1)),
            ("profile", profile),
            ("relative_energy", (square / level).mean(1)),
            ("images", finite.to(x.dtype)),
        ):
            added = value.sum(0)
            self._sums[name,] = self._sums[name,] + added if (name,) in self._sums else added

    def compute(self) -> LatticeStatistics:
        """The statistics of all images so far.

        Raises:
            ValueError: there is no image yet.
        """
        if self._first is None:
            raise ValueError("x: must hold at least one image")

        def every(name: str) -> dict:
            return {key[1]: torch.cat(parts).cpu() for key, parts in self._values.items() if key[0] == name}

        skipped = ~torch.cat(self._values["finite",]).cpu()
        images = self._sums["images",].cpu()
        means = {n: self._sums[n,].cpu() / images for n in ("power", "profile", "relative_energy")}
        energy, mean_energy = {}, {}
        for period in self.periods:
            sums = self._sums["energy", period].cpu()
            shape = (period,) * (len(self._first) - 1)
            held = sums[sums[:, -1] > 0]
            energy[period] = (held[:, :-1] / held[:, -1:]).view(-1, *shape)
            mean_energy[period] = (held[:, :-1].sum(0) / held[:, -1].sum()).view(shape)
        return LatticeStatistics(
            periods=self.periods,
            channels=self._first[0],
            size=self._first[1:],
            count=self._count,
            contrast=every("contrast"),
            p_value=every("p_value"),
            share=every("share"),
            share_floor={period: total / n if n else float("nan") for period, (total, n) in self._floors.items()},
            imbalance=every("imbalance"),
            energy=energy,
            mean_energy=mean_energy,
            window=dict(self._windows),
            frequency=self._frequency.cpu(),
            skipped=int(skipped.sum()),
            first_skipped=int(skipped.nonzero()[0]) if skipped.any() else None,
            **means,
        )
