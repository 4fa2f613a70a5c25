"""Gradients of pictures larger than memory: tile by tile, each with what surrounds it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

Graded = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # images and their share of the whole to value [N], gradient


def tiled(
    images: Tensor, graded: Graded, tile: int, *, period: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Value `[N]` and gradient of a sum over the picture, from tiles of about `tile` px.

    Each tile is seen with up to half its side around it, and only its own pixels' gradient is kept: inside, that is the
    gradient of the whole where nothing reaches further. The seams fall elsewhere at every step, by multiples of `period`,
    so that the network's lattice stays where it is.

    Args:
        images: `[N C *spatial]`.
        graded: value and gradient of some images.
        tile: side of a tile in px, at least twice `period`.
        period: of the network.
        generator: draws where the seams fall.
    """
    gradient = torch.zeros_like(images)
    value = images.new_zeros(len(images), dtype=torch.float32)
    side, margin = _side_and_margin(tile, period)
    axes = [list(_cores(extent, side, period, generator)) for extent in images.shape[2:]]
    pixels = images[0, 0].numel()
    for core in product(*axes):
        window = [(max(a - margin, 0), min(b + margin, s)) for (a, b), s in zip(core, images.shape[2:], strict=True)]
        seen = images[(..., *(slice(a, b) for a, b in window))]
        found, part = graded(seen, seen[0, 0].numel() / pixels)
        inner = tuple(slice(a - w, b - w) for (a, b), (w, _) in zip(core, window, strict=True))
        gradient[(..., *(slice(a, b) for a, b in core))] = part[(..., *inner)]
        value += found.detach() * (_pixels(core) / seen[0, 0].numel())
    return value, gradient


def smallest_window(extent: int, tile: int, period: int) -> int:
    """The shortest side of what the network is shown along an axis of `extent` px: of a tile at the border, one period long."""
    side, margin = _side_and_margin(tile, period)
    return extent if extent <= side else period + margin


def _side_and_margin(tile: int, period: int) -> tuple[int, int]:
    """Of a tile, in whole periods."""
    side = max(tile // period, 1) * period
    return side, max(side // 2 // period, 1) * period


def _pixels(core: Sequence[tuple[int, int]]) -> int:
    """The pixels of a tile."""
    pixels = 1
    for a, b in core:
        pixels *= b - a
    return pixels


def _cores(extent: int, side: int, period: int, generator: torch.Generator) -> Iterator[tuple[int, int]]:
    """Where the tiles of an axis begin and end: the first has a random length, in whole periods; no sliver at the end."""
    if extent <= side:
        yield 0, extent
        return
    begin = 0
    end = period * int(torch.randint(1, side // period + 1, (), generator=generator))
    while extent - end >= period:
        yield begin, end
        begin, end = end, end + side
    yield begin, extent
