"""What a response that should be constant has at each phase, and how much of each period is in that.

A signal of period T on an axis is T numbers, one a phase. A harmonic k/T belongs to the smallest period that has it,
T / gcd(k, T), over several axes to the least common multiple: so the unevenness of period 4 is told from that of period 2,
which repeats in it. The harmonics of all periods together are everything but the mean.
"""

from collections.abc import Sequence
from math import gcd, lcm

import torch
from torch import Tensor


def periods_of(strides: Sequence[int]) -> list[int]:
    """The periods above 1 that a response with these accumulated strides can have, shortest first."""
    whole = lcm(*strides)
    return [t for t in range(2, whole + 1) if whole % t == 0]


def fold(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Sum over whole periods: `[... *spatial]`, sides multiples of `strides`, to `[... *strides]`."""
    lead = x.ndim - len(strides)
    shape = [n for side, t in zip(x.shape[lead:], strides, strict=True) for n in (side // t, t)]
    return x.reshape(*x.shape[:lead], *shape).sum(dim=[lead + 2 * axis for axis in range(len(strides))])


def unevenness(phases: Tensor, strides: Sequence[int], period: int) -> Tensor:
    """The largest departure from the mean that the harmonics new at `period` make: `[... *strides]` to `[...]`.

    Of period 1, which has no harmonic but the mean, 0.
    """
    if period == 1:
        return phases.new_zeros(phases.shape[: phases.ndim - len(strides)])
    order = torch.ones((), dtype=torch.long)
    for axis, t in enumerate(strides):
        own = torch.tensor([t // gcd(k, t) for k in range(t)]).view(
            [-1 if a == axis else 1 for a in range(len(strides))]
        )
        order = torch.lcm(order, own)
    axes = list(range(-len(strides), 0))
    spectrum = torch.fft.fftn(phases, dim=axes) * (order == period).to(phases.device)
    return torch.fft.ifftn(spectrum, dim=axes).real.abs().amax(dim=axes)
