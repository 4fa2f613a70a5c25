"""Every measure of a stream of images at several periods, ready for a table, in memory that does not grow with images.

Each image is measured once, where it lies; of a set only sums are kept, and a few numbers an image. A mean over images
gives each image the same weight, whatever its scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from gradlens.spectra.envelope import Kind, Views, neighbourhood
from gradlens.spectra.lattice import lattice_share_floor, lattice_shares
from gradlens.spectra.phases import departures, mean_energy, unbiased_square
from gradlens.spectra.power import whole_spectrum
from gradlens.spectra.radial import over_rings
from gradlens.spectra.signal import check_shape, holds_two, in_float64, is_finite, periods_of, precision_of, signed_root
from gradlens.spectra.significance import ShortTimes, prepare

KINDS: tuple[Kind, ...] = ("signed", "envelope")
SPECTRUM_SIDE = 128
LEAST_ROOM = 1024  # numbers of images that are kept in one piece
GROUPS = 256  # of images whose phase energies are kept apart
VALUES_AT_ONCE = (1 << 26, 1 << 19)  # elsewhere, and on a CPU, whose caches hold 4 MiB


@dataclass(frozen=True)
class LatticeStatistics:
    """Measures of N images, on the CPU in float64.

    `contrast`, `p_value` and `share` hold `[N]` by (kind, period), `imbalance` `[N]` by period: NaN for an image that is
    too small or holds NaN or infinity. `energy` holds the phase energies `[G *T]` by period: each measured image's own,
    or where they are more than 256, the means of 256 groups; `mean_energy` `[*T]` the mean over all of them. `share_floor`
    is the mean over images of what white noise has.

    `size` and `window` (the window along each axis by period, empty where the image is too small) are those of the first
    image. Means over the images of that size, each first divided by its own mean power: `power` `[*frequency]` (windows
    of up to 128 px, summed over channels), its radial `profile` `[B]` at `frequency` `[B]`, and `relative_energy`
    `[*spatial]` (mean 1).

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


def of_pictures(pictures: LatticeStatistics, detail: LatticeStatistics) -> LatticeStatistics:
    """The statistics of `pictures`, with the measures of energy taken from their `detail` (`gradlens.spectra.fine_detail`)."""
    mixed = {
        name: {key: getattr(detail if key[0] == "envelope" else pictures, name)[key] for key in getattr(pictures, name)}
        for name in ("contrast", "p_value", "share")
    }
    return replace(pictures, **mixed, imbalance=detail.imbalance, energy=detail.energy, mean_energy=detail.mean_energy)


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
        self._values: dict[tuple, tuple[Tensor, int]] = {}
        self._sums: dict[tuple, Tensor] = {}
        self._floors: dict[int, tuple[float, int]] = dict.fromkeys(self.periods, (0.0, 0))
        self._first: tuple[int, ...] | None = None
        self._windows: dict[int, tuple[int, ...]] = {}
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
        self._first = self._first or shape
        self._count += len(x)
        axes = len(shape) - 1
        signal = in_float64(x[:0])
        every = {period: periods_of(period, axes) for period in self.periods}
        others = {period: [q for q in self.periods if q != period] for period in self.periods}
        plans = {(k, p): prepare(signal, p, k, self.window, others[p]) for k in KINDS for p in self.periods}
        side = (min(SPECTRUM_SIDE, *shape[1:]),) * axes
        spectra = ShortTimes(plans.values(), also=(side,))
        finite, levels = [], []
        for part in x.detach().split(max(1, VALUES_AT_ONCE[x.device.type == "cpu"] // prod(shape))):
            part = in_float64(part.contiguous())  # gradients of a channels-last network are not
            finite.append(is_finite(part))
            if part.device.type != "cpu" or not finite[-1].all():  # elsewhere to ask is to wait
                part = torch.where(finite[-1].view(-1, *[1] * (1 + axes)), part, 0.0)
            views = Views(part, precision_of(x))
            spectra.add(views)
            levels.append(self._measure(views, every, finite[-1]))
        whole = torch.cat(finite)
        self._keep("finite", None, whole)
        for key, ready in plans.items():
            test = spectra.test(ready, len(x), shape, signal)
            self._windows.setdefault(key[1], test.window)
            self._keep("contrast", key, test.contrast, whole)
            self._keep("p_value", key, test.p_value, whole)
        if shape == self._first:
            self._add("power", (spectra.power(side) / torch.cat(levels)[:, None]).sum(0))
            self._add("images", whole.sum())
        for period, size in every.items():
            if holds_two(shape[1:], size):
                total, n = self._floors[period]
                self._floors[period] = (total + lattice_share_floor(shape[1:], period) * len(x), n + len(x))

    def _measure(self, views: Views, every: Mapping[int, tuple[int, ...]], finite: Tensor) -> Tensor:
        """Everything but the tests of some images; returns their mean power."""
        for kind in KINDS:
            groups: dict[tuple[int, ...], list[int]] = {}  # periods with the same view
            for period, size in every.items():
                groups.setdefault(() if kind == "signed" else tuple(map(neighbourhood, size)), []).append(period)
            shares: dict[int, Tensor] = {}
            for group in groups.values():
                seen = views.seen(kind, every[group[0]]).double()
                shares |= dict(zip(group, lattice_shares(seen, [every[p] for p in group]), strict=True))
            for period in every:
                self._keep("share", (kind, period), shares[period], finite)
        for period, size in every.items():
            departure, held = departures(views.energy, size)
            self._keep("imbalance", period, signed_root(unbiased_square(departure, held)), finite)
            self._group(period, mean_energy(departure, held), finite)
        level = views.energy.flatten(1).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
        if tuple(views.signal.shape[1:]) == self._first:
            self._add(
                "relative_energy", (views.energy.squeeze(1) / level.view(-1, *[1] * (views.energy.ndim - 2))).sum(0)
            )
        return level / views.signal.shape[1]

    def _keep(self, name: str, key: object, value: Tensor, finite: Tensor | None = None) -> None:
        """Note the numbers of some images; NaN where an image is not finite."""
        value = value if finite is None else torch.where(finite, value, float("nan"))
        held, n = self._values.get((name, key), (value.new_empty(0), 0))
        if n + len(value) > len(held):  # one tensor a batch, strewn over the heap, would keep its holes from being used
            held = torch.cat([held[:n], value.new_empty(max(LEAST_ROOM, n + len(value)))])
        held[n : n + len(value)] = value
        self._values[name, key] = held, n + len(value)

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name,] = self._sums[name,] + value if (name,) in self._sums else value

    def _group(self, period: int, flat: Tensor, finite: Tensor) -> None:
        """Add phase energies `[N phases]` to their groups, in turn."""
        measured = finite & flat.isfinite().all(1)
        before = self._sums.get(("measured", period), measured.new_zeros((), dtype=torch.long))
        group = (before + measured.cumsum(0) - 1) % GROUPS
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)  # the last column counts
        flat = torch.where(measured[:, None], flat, 0.0)
        sums = self._sums.get(("energy", period), flat.new_zeros(GROUPS, flat.shape[1]))
        self._sums["energy", period] = sums.index_add(0, group, flat)
        self._sums["measured", period] = before + measured.sum()

    def compute(self) -> LatticeStatistics:
        """The statistics of all images so far.

        Raises:
            ValueError: there is no image yet.
        """
        if self._first is None:
            raise ValueError("x: must hold at least one image")

        def every(name: str) -> dict:
            return {key[1]: held[:n].cpu().clone() for key, (held, n) in self._values.items() if key[0] == name}

        held, n = self._values["finite", None]
        skipped = ~held[:n].cpu()
        images = self._sums["images",].cpu()
        side = (min(SPECTRUM_SIDE, *self._first[1:]),) * (len(self._first) - 1)
        power = whole_spectrum(self._sums["power",].cpu() / images, side)
        frequency, profile = over_rings(power[None])
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
            power=power,
            frequency=frequency,
            profile=profile[0],
            relative_energy=self._sums["relative_energy",].cpu() / images,
            skipped=int(skipped.sum()),
            first_skipped=int(skipped.nonzero()[0]) if skipped.any() else None,
        )
