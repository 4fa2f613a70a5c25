"""Which shift of its input a module answers with a shift of its output, found by experiment.

A patch of noise on a constant moves by s input pixels; where the whole response moves by t output pixels, the module is
invariant to that shift. The smallest such s and t on an axis are its accumulated strides: the response to a constant can
only have the periods that divide t, the gradient of its input those that divide s. No layer is looked at, so functional
calls, branches and indexing tricks count like modules.
"""

from collections.abc import Sequence
from math import ceil, floor, inf

import torch
from torch import Tensor, nn

from gradlens.geometry.certificate.specimen import device_of, respond

PATCH = 5  # sides of the patch in pixels, at most
BATCH = 2  # constants and patches tried at once
MOST = 64  # the longest shift tried
SAME = 1e-9  # of the patch's response: what float64 leaves after deep networks
ALIKE = 0.01  # of it: where a norm over the image lets the border into every pixel; a wrong shift misses all of it
SEEN = 0.01  # of the patch's response must lie in the centre that is compared
DEAD = 1e-12  # of the largest value: no response at all
ROUNDING = 1e-14  # of the largest value
WINDOWS = (2, 4, 8)  # the centre is an output's side divided by this


def accumulated_strides(
    specimen: nn.Module, size: Sequence[int], generator: torch.Generator
) -> list[tuple[int, int] | None]:
    """For each spatial axis the smallest (input shift, output shift), None where no shift moves the response.

    Args:
        specimen: in float64.
        size: `[C *spatial]`.
        generator: of the patches, on the CPU.
    """
    channels, *sides = size
    device = device_of(specimen)
    corner = [BATCH, channels] + [1] * len(sides)
    background = torch.rand(corner, generator=generator, dtype=torch.float64) * 2 - 1
    extent = [min(PATCH, max(1, side // 4)) for side in sides]
    patch = 3 * torch.randn(BATCH, channels, *extent, generator=generator, dtype=torch.float64)

    def response(axis: int, shift: int) -> Tensor:
        x = background.expand(BATCH, channels, *sides).clone()
        start = [(side - e) // 2 + shift * (a == axis) for a, (side, e) in enumerate(zip(sides, extent, strict=True))]
        x[(..., *(slice(s, s + e) for s, e in zip(start, extent, strict=True)))] += patch
        return respond(specimen, x.to(device))

    still = response(0, 0)
    found: list[tuple[int, int] | None] = []
    for axis, side in enumerate(sides):
        ratio = still.shape[2 + axis] / side
        longest = min(MOST, side // 4)
        exact: tuple[int, int] | None = None
        nearly: tuple[int, int] | None = None
        for shift in range(1, longest + 1):
            if 1.6 * shift * ratio < 1 or (nearly and (shift % nearly[0] or shift > 4 * nearly[0])):
                continue
            t, mismatch = _move(still, response(axis, shift), axis, shift * ratio)
            if mismatch <= SAME:
                exact = (shift, t)
                break
            if mismatch <= ALIKE and nearly is None:
                nearly = (shift, t)
        found.append(exact or nearly)
    return found


def _move(still: Tensor, moved: Tensor, axis: int, about: float) -> tuple[int, float]:
    """The output shift near `about` that best carries the centre of `still` into `moved`, and what it misses."""
    scale = (moved - still).abs().amax()
    dead = scale <= DEAD * still.abs().amax()
    best = (0, inf)
    for part in WINDOWS:
        for t in range(max(1, floor(0.6 * about)), ceil(1.6 * about) + 1):
            centre = _centre(still.shape[2:], part, axis, t)
            if centre is None:
                continue
            there = [slice(c.start + t * (a == axis), c.stop + t * (a == axis)) for a, c in enumerate(centre)]
            before, after = still[(..., *centre)], moved[(..., *there)]
            changed, missed = (moved[(..., *centre)] - before).abs().amax(), (after - before).abs().amax()
            if not dead and changed < SEEN * scale:
                continue
            rounding = (SAME if dead else ROUNDING) * before.abs().amax()
            mismatch = 0.0 if missed <= rounding else inf if dead else (missed / changed).item()
            if mismatch < best[1]:
                best = (t, mismatch)
        if best[1] <= SAME:
            break
    return best


def _centre(sides: Sequence[int], part: int, axis: int, t: int) -> list[slice] | None:
    """The central `part`-th of an output, None where it does not hold the shift twice."""
    widths = [max(side // part, 1) for side in sides]
    if widths[axis] < 2 * t or (sides[axis] + widths[axis]) // 2 + t > sides[axis]:
        return None
    starts = [(side - width) // 2 for side, width in zip(sides, widths, strict=True)]
    return [slice(start, start + width) for start, width in zip(starts, widths, strict=True)]
