"""Other backward passes for a max-pool: weights for the pixels of each window in place of all to the largest.

    g_in[p] = sum over the windows k that hold p of w[p, k] g_out[k]

A pixel outside of the map, or of value -inf (padding written out), is in no window; so a border loses no gradient.
"""

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.rules.rule import MAX_POOLS, Linear, Met, Rule


def average() -> Rule:
    """Max-pool backwards as average-pool: all pixels of a window alike, w = 1 / n."""

    def weights(windows: Tensor) -> Tensor:
        inside = (windows > -inf).to(windows.dtype)
        return inside / inside.sum(0).clamp(min=1)

    return Rule("average", MAX_POOLS, lambda met: _weighted(met, weights, alike=True), after=False)


def l2() -> Rule:
    """Max-pool backwards as L2-pool sqrt(sum x^2): w = x / ||x||, 0 for a window of zeros."""

    def weights(windows: Tensor) -> Tensor:
        values = windows.masked_fill(windows == -inf, 0.0)
        largest = values.abs().amax(0)
        scaled = values / torch.where(largest > 0, largest, 1.0)  # squares neither overflow nor vanish
        return scaled / torch.where(largest > 0, scaled.square().sum(0).sqrt(), 1.0)

    return Rule("l2", MAX_POOLS, lambda met: _weighted(met, weights), after=False)


def softmax(temperature: float = 1.0) -> Rule:
    """Max-pool backwards with the weights w = softmax(x / `temperature`) over the window.

    Towards 0 it is max-pool's own, towards infinity average-pool's. `temperature` is in the unit of the activations.

    Raises:
        ValueError: `temperature` is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: must be above 0, got {temperature}")

    def weights(windows: Tensor) -> Tensor:
        empty = windows.amax(0).isneginf()
        return (windows.masked_fill(empty, 0.0) / temperature).softmax(0)

    return Rule("softmax", MAX_POOLS, lambda met: _weighted(met, weights), after=False)


def _weighted(met: Met, weights: Callable[[Tensor], Tensor], *, alike: bool = False) -> Linear:
    """The map of a pool whose windows `[taps ...]` have `weights` `[taps ...]`, `alike` in all maps without padding."""
    call = met.geometry
    places = [place.to(met.x.device) for place in _places(met)]
    x = met.x.to(torch.promote_types(met.x.dtype, torch.float32))
    if alike and not x.isneginf().any():
        x = x.new_zeros(*[1] * (x.ndim - len(places)), *call.size)
    w = weights(_gathered(F.pad(x, [0, 1] * len(places), value=-inf), places))

    def backward(gradient: Tensor) -> Tensor:
        spread = _scattered(w * gradient, places, call.size)
        for axis, side in enumerate(call.size, start=-len(call.size)):
            spread = spread.narrow(axis, 0, side)
        return spread.to(gradient.dtype)

    return backward


def _places(met: Met) -> list[Tensor]:
    """For each axis which pixel each tap of each window reads `[taps windows]`; one behind the last for none."""
    call = met.geometry
    axes = zip(call.size, call.output_size, call.kernel, call.stride, call.padding, call.dilation, strict=True)
    if met.kind == "adaptive_max_pool":
        return [_adaptive(n, m, kernel) for n, m, kernel, *_ in axes]
    found = []
    for size, output, kernel, stride, padding, dilation in axes:
        place = dilation * torch.arange(kernel)[:, None] + int(stride) * torch.arange(output) - padding
        found.append(place.where((place >= 0) & (place < size), size))
    return found


def _adaptive(size: int, output: int, kernel: int) -> Tensor:
    """Window i of n reaches from floor(i N / n) to ceil((i + 1) N / n)."""
    window = torch.arange(output)
    place = torch.arange(kernel)[:, None] + window * size // output
    return place.where(place < -(-(window + 1) * size // output), size)


def _gathered(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """The pixels of `x` `[... *size]` that each tap of the windows reads: `[taps ... *windows]`."""
    first, *rest = places
    parts = [x.index_select(-len(places), place) for place in first]
    return torch.cat([_gathered(part, rest) for part in parts]) if rest else torch.stack(parts)


def _scattered(taps: Tensor, places: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The adjoint of `_gathered`: `[... *size + 1]`."""
    first, *rest = places
    axis = -len(places)
    parts = [_scattered(part, rest, size[1:]) if rest else part[0] for part in taps.chunk(len(first))]
    shape = list(parts[0].shape)
    shape[axis] = size[0] + 1
    into = taps.new_zeros(shape)
    for place, part in zip(first, parts, strict=True):
        into = into.index_add(axis, place, part)
    return into
