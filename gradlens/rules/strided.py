"""Other backward passes for a strided convolution or pool: the true one, and then a filter along each axis.

What an adjoint of stride s makes of a steady gradient repeats every s pixels. A filter with zeros at the frequencies k / s
takes that away and leaves what is slow; what weighs the s residue classes evenly takes the unevenness away and leaves
the sub-filters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradlens.filters import binomial, hold
from gradlens.rules.rule import CONVOLUTION, SPATIAL, Linear, Met, Rule


def held() -> Rule:
    """The adjoint, then the mean over the s pixels that end at each: a zero-order hold of what was accumulated.

    Its zeros are at all k / s, so nothing of the stride's harmonics is left, whatever the gradient; its gain at frequency
    0 is 1. A max-pool's routing is held likewise. Where kernel < stride it fills the holes: a 1x1 convolution of stride 2
    hands each gradient to a square of four. The square begins at the pixel that the window begins at, half a pixel from
    the middle for stride 2. What the square holds outside of the map is lost.
    """
    return Rule("held", SPATIAL, lambda met: _filtered(met, [hold(s) for s in _strides(met)], centred=False))


def blurred(size: int | None = None) -> Rule:
    """The adjoint, then the binomial of `size` taps, 2 s - 1 unless given: [1 2 1] / 4 for stride 2.

    Its one zero is at the frequency 1/2: it takes away all of stride 2 and the finest of more.

    Raises:
        ValueError: `size` is even, which would move the gradient by half a pixel, or below 3.
    """
    if size is not None and (size < 3 or size % 2 == 0):
        raise ValueError(f"size: must be odd and at least 3, got {size}")
    return Rule(
        "blurred",
        SPATIAL,
        lambda met: _filtered(
            met, [binomial((size or 2 * s - 1) if s > 1 else 1) for s in _strides(met)], centred=True
        ),
    )


def equalised() -> Rule:
    """The adjoint, with the taps of each residue class scaled to the same energy, that of all classes being kept.

    The pixels that lie alike in the stride are reached by one class of taps, so this scales pixels: by the root of the mean
    over the classes of sum w^2, over that of their own, summed over all channels. A class without taps, a hole, cannot be
    scaled; such a layer is refused.
    """
    return Rule("equalised", (CONVOLUTION,), _equalised)


def _strides(met: Met) -> list[int]:
    """The stride along each axis, refused where it is 1 along all or no whole number."""
    strides = met.geometry.stride
    if any(s.denominator > 1 for s in strides):
        raise met.refusal(f"has windows of several sizes (stride {strides[0]}); no filter fits all of them")
    if max(strides) == 1:
        raise met.refusal("has stride 1: its backward pass writes no lattice; leave it out")
    return [int(s) for s in strides]


def _filtered(met: Met, taps: Sequence[Tensor], *, centred: bool) -> Linear:
    """The convolution with `taps` along each axis, whose last or middle tap is at the pixel itself."""

    def backward(gradient: Tensor) -> Tensor:
        result = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        for axis, weights in enumerate(taps, start=-len(taps)):
            result = _along(result, axis, weights.tolist(), len(weights) // 2 if centred else 0)
        return result.to(gradient.dtype)

    return backward


def _along(x: Tensor, axis: int, taps: Sequence[float], ahead: int) -> Tensor:
    """sum over i of taps[i] x[p + ahead - i] along `axis`; zero outside of it."""
    if len(taps) == 1:
        return x
    side = x.shape[axis]
    result = torch.zeros_like(x)
    for i, weight in enumerate(taps):
        shift = i - ahead  # from the pixel that is read to the one that is written
        many = side - abs(shift)
        if many > 0:
            result.narrow(axis, max(shift, 0), many).add_(x.narrow(axis, max(-shift, 0), many), alpha=weight)
    return result


def _equalised(met: Met) -> Linear:
    strides, call = _strides(met), met.geometry
    assert met.weight is not None
    energy = met.weight.double().square().sum((0, 1))
    for axis, (s, d) in enumerate(zip(strides, call.dilation, strict=True)):
        residue = (d * torch.arange(energy.shape[axis], device=energy.device)) % s
        shape = [s if i == axis else n for i, n in enumerate(energy.shape)]
        energy = energy.new_zeros(shape).index_add(axis, residue, energy)
    if not (energy > 0).all():
        raise met.refusal("has residue classes without taps, which cannot be equalised; hold it instead")
    gain = (energy.mean() / energy).sqrt()
    for axis, (s, p, n) in enumerate(zip(strides, call.padding, call.size, strict=True)):
        gain = gain.index_select(axis, (torch.arange(n, device=gain.device) + p) % s)
    return lambda gradient: gradient * gain.to(gradient.dtype)
