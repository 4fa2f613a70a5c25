"""The steady state of a module: what it makes of constants, far from the border (eq. 7), at several levels (eq. 10).

Source: Sugawara, Shiota, Kiya 2018. Its step K has one channel; here each channel has its own constant, because one that is
equal in all channels tests one vector only.
"""

from collections.abc import Sequence
from math import nan, prod

import torch
from torch import Tensor, nn

from gradlens.geometry.certificate.phases import fold, periods_of, unevenness
from gradlens.geometry.certificate.specimen import device_of, respond
from gradlens.geometry.certificate.verdicts import Row, judged

VECTORS = 8
LEAST = 1e-12  # of the largest activation: below it a response is rounding
TINY = 1e-300  # keeps 0 / 0 at 0
SILENT = 1e-9  # of the largest activation: below it a response does not depend on the constant


def responses(
    specimen: nn.Module, size: Sequence[int], levels: Sequence[float], strides: Sequence[int],
    generator: torch.Generator, tolerance: float,
) -> list[Row]:  # fmt: skip
    """Rows of the statement "response": by level, for every period that divides the accumulated strides.

    Args:
        specimen: in float64.
        size: `[C *spatial]`.
        levels: K.
        strides: accumulated, of the output.
        generator: of the vectors.
        tolerance: the largest deviation that passes.
    """
    channels, *sides = size
    half = torch.rand(VECTORS, channels, generator=generator, dtype=torch.float64) * 2 - 1
    vectors = torch.cat([half, -half]).view(-1, channels, *[1] * len(sides)).to(device_of(specimen))
    rows = []
    for level in levels:
        r = respond(specimen, (level * vectors).expand(-1, -1, *sides))
        phases = steady_phases(r, strides, tolerance / 10)
        largest = max(level, r.abs().amax().item())
        rows += _rows(phases, strides, level, largest, tolerance)
    return rows


def _rows(phases: Tensor | None, strides: Sequence[int], level: float, largest: float, tolerance: float) -> list[Row]:
    """The rows of one level; `phases` `[vectors channels *strides]` is None where no steady state was found."""
    rows = []
    for period in periods_of(strides) or [1]:
        deviation, verdict = nan, judged(nan, 0.0, tolerance)
        if phases is not None:
            uneven = unevenness(phases, strides, period)
            deviation = (uneven / response_scale(phases, largest)).amax().item()
            verdict = judged(deviation, 0.0, tolerance)
            even = verdict == "pass" or uneven.amax() <= SILENT * largest
            if even and not answers(phases, largest):
                deviation, verdict = 0.0, "vacuous"
        rows.append(Row("response", "measurement", "7, 10", period, level, deviation, 0.0, verdict))
    return rows


def response_scale(phases: Tensor, largest: float) -> Tensor:
    """max(|mean over phases|, rms over vectors and phases, 1e-12 of the largest activation): `[vectors channels]`."""
    axes = list(range(2, phases.ndim))
    rms = phases.square().mean(dim=[0, *axes]).sqrt()
    return torch.maximum(phases.mean(dim=axes).abs(), rms).clamp(min=LEAST * largest)


def answers(phases: Tensor, largest: float) -> bool:
    """Whether some channel's response depends on the constant."""
    return bool(phases.std(dim=0).amax() > SILENT * largest)


def steady_phases(r: Tensor, strides: Sequence[int], tolerance: float) -> Tensor | None:
    """The mean of each phase over the steady state, `[N C *strides]`; None where the output has none.

    Steady is the largest central box in which every value returns one stride further on, along every axis; it must be four
    strides wide. One stride at each side is then left out, so at least two remain.
    """
    sides = r.shape[2:]
    if any(side < 4 * t for side, t in zip(sides, strides, strict=True)):
        return None
    centre = tuple(slice(side // 4, side - side // 4) for side in sides)
    scale = response_scale(r[(..., *centre)], r.abs().amax().item()).clamp(min=TINY)
    scale = scale.view(*scale.shape, *[1] * len(sides))
    moved = [  # where the value does not return
        ((r.narrow(2 + a, t, side - t) - r.narrow(2 + a, 0, side - t)).abs() / scale).amax(dim=(0, 1)) > tolerance
        for a, (side, t) in enumerate(zip(sides, strides, strict=True))
    ]
    margin = 0
    while all(side - 2 * margin >= 4 * t for side, t in zip(sides, strides, strict=True)):
        inside = [slice(margin, side - margin) for side in sides]
        if not any(m[_before(inside, a, t)].any() for a, (m, t) in enumerate(zip(moved, strides, strict=True))):
            return _mean_phases(r, inside, strides)
        margin += 1
    return None


def _before(inside: Sequence[slice], axis: int, t: int) -> tuple[slice, ...]:
    """The box without its last stride along `axis`: where a difference starts."""
    return tuple(slice(s.start, s.stop - t * (a == axis)) for a, s in enumerate(inside))


def _mean_phases(r: Tensor, inside: Sequence[slice], strides: Sequence[int]) -> Tensor:
    """The mean of each phase over whole periods of the box, a stride from its sides."""
    whole = [(s.stop - s.start - 2 * t) // t for s, t in zip(inside, strides, strict=True)]
    box = tuple(slice(s.start + t, s.start + t + n * t) for s, n, t in zip(inside, whole, strides, strict=True))
    return fold(r[(..., *box)], strides) / prod(whole)
