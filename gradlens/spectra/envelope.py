"""The envelope: where the energy of a signal is, whatever its sign, freed of the content's own contrast.

    e = sum_c x_c^2 / (mean of sum_c x_c^2 over the surrounding square)

The square has the smallest side of at least 16 px that is a multiple of the period, so that it does not ripple with the
lattice it shall show. A strided layer places energy unevenly while its sign stays random: only an envelope sees that.
"""

from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from gradlens.spectra.signal import unit_scale

Kind = Literal["signed", "envelope"]

NEIGHBOURHOOD = 16


def neighbourhood(period: int) -> int:
    """Side in pixels of the surroundings that energy is relative to: whole periods, at least 16 px."""
    return -(-NEIGHBOURHOOD // period) * period


def envelope(energy: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Relative energy `[N 1 *spatial]` from energy of that shape; 0 where the surroundings hold none.

    The square is centred: an even side counts half of the two rows at its ends. At the border the image is reflected.
    """
    local = energy
    for axis, side in enumerate(sides, start=2):
        local = _moving_mean(local, axis, side)
    return energy / torch.where(local == 0, 1.0, local)  # a pixel is in its own surroundings: none there, none here


def check_kind(kind: str) -> None:
    """Raise a ValueError if `kind` is neither family."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind: must be one of {', '.join(get_args(Kind))}, got {kind!r}")


class Views:
    """A batch of signals at unit scale, its energy and its envelopes, each made once and when it is asked for.

    Args:
        x: in float64.
        precision: of the transforms, as `precision_of` the data.
    """

    def __init__(self, x: Tensor, precision: torch.dtype = torch.float64) -> None:
        self.signal = unit_scale(x)
        self.precision = precision
        self._envelopes: dict[tuple[int, ...], Tensor] = {}
        self._rounded: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def energy(self) -> Tensor:
        """Summed over channels: `[N 1 *spatial]`."""
        return self.signal.square().sum(1, keepdim=True)

    def seen(self, kind: Kind, periods: tuple[int, ...]) -> Tensor:
        """What a lattice is looked for in: the signal itself, or its envelope in the precision of transforms."""
        if kind == "signed":
            return self.signal
        sides = tuple(map(neighbourhood, periods))
        if sides not in self._envelopes:
            self._envelopes[sides] = envelope((2.0**100 * self.energy).to(self.precision), sides)  # no square vanishes
        return self._envelopes[sides]

    def rounded(self, kind: Kind, periods: tuple[int, ...]) -> Tensor:
        """The same, to be transformed."""
        sides = () if kind == "signed" else tuple(map(neighbourhood, periods))
        if sides not in self._rounded:
            self._rounded[sides] = self.seen(kind, periods).to(self.precision)
        return self._rounded[sides]


def _moving_mean(x: Tensor, axis: int, side: int) -> Tensor:
    """Mean over `side` pixels around each pixel along `axis`, with reflection; sums of zeros stay exactly zero."""
    extent = x.shape[axis]
    reach = side // 2
    cycle = max(2 * (extent - 1), 1)
    index = torch.arange(-reach, reach, device=x.device)
    index[reach:] += extent
    before, after = x.index_select(axis, torch.minimum(index % cycle, -index % cycle)).split(reach, axis)
    inner = _moving_sum(torch.cat([before, x, after], axis), axis, side)
    if side % 2:
        return inner / side
    return (inner.narrow(axis, 0, extent) + inner.narrow(axis, 1, extent)).div_(2 * side)  # half of each end


def _moving_sum(x: Tensor, axis: int, side: int) -> Tensor:
    """Sums of `side` consecutive values along `axis`, by doubling."""
    count = x.shape[axis] - side + 1
    total, done, doubled, width = None, 0, x, 1
    while done < side:
        if side & width:
            part = doubled.narrow(axis, done, count)
            total, done = (part if total is None else total + part), done + width
        doubled = (
            doubled.narrow(axis, 0, doubled.shape[axis] - width)
            + doubled.narrow(axis, width, doubled.shape[axis] - width)
            if done < side
            else doubled
        )
        width *= 2
    assert total is not None
    return total
