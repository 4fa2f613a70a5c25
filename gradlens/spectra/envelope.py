"""The envelope: where the energy of a signal is, whatever its sign, freed of the content's own contrast.

    e = sum_c x_c^2 / (mean of sum_c x_c^2 over the surrounding square)

The square has the smallest side of at least 16 px that is a multiple of the period, so that it does not ripple with the
lattice it shall show. A strided layer places energy unevenly while its sign stays random: only an envelope sees that.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.spectra.signal import unit_scale

Kind = Literal["signed", "envelope"]

NEIGHBOURHOOD = 16


def neighbourhood(period: int) -> int:
    """Side in pixels of the surroundings that energy is relative to: whole periods, at least 16 px."""
    return -(-NEIGHBOURHOOD // period) * period


def envelope(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Relative energy `[N 1 *spatial]` of a signal `[N C *spatial]`; 0 where the surroundings hold none.

    The square is centred: an even side counts half of the two rows at its ends. At the border the image is reflected.
    """
    energy = unit_scale(x).square().sum(1, keepdim=True)
    local = energy
    for axis, side in enumerate(sides, start=2):
        local = _moving_mean(local, axis, side)
    empty = local == 0
    return torch.where(empty, 0.0, energy / torch.where(empty, 1.0, local))


def check_kind(kind: str) -> None:
    """Raise a ValueError if `kind` is neither family."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind: must be one of {', '.join(get_args(Kind))}, got {kind!r}")


def seen(x: Tensor, kind: Kind, periods: tuple[int, ...]) -> Tensor:
    """What a lattice is looked for in: the signal itself, or its envelope, at unit scale."""
    return unit_scale(x) if kind == "signed" else envelope(x, tuple(map(neighbourhood, periods)))


def _moving_mean(x: Tensor, axis: int, side: int) -> Tensor:
    """Mean over `side` pixels around each pixel along `axis`, with reflection; sums of zeros stay exactly zero."""
    extent = x.shape[axis]
    reach = side // 2
    weight = x.new_ones(2 * reach + 1)
    if side % 2 == 0:
        weight[0] = weight[-1] = 0.5
    cycle = max(2 * (extent - 1), 1)
    index = torch.arange(-reach, extent + reach, device=x.device) % cycle
    padded = x.index_select(axis, torch.minimum(index, cycle - index) if extent > 1 else torch.zeros_like(index))
    rows = padded.movedim(axis, -1)
    mean = F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), (weight / side).view(1, 1, -1))
    return mean.view(*rows.shape[:-1], extent).movedim(-1, axis)
