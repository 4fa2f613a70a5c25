"""Designs in the place of a transposed convolution that keep its weights."""

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor

from gradlens.redesign.designs.design import Design, refuse
from gradlens.redesign.designs.forms import ZeroInsertion, as_shuffled
from gradlens.redesign.kernels import evened, held_fit
from gradlens.redesign.moments import Moments, patch_moments
from gradlens.redesign.sites import Site
from gradlens.upsampling.held import HeldTransposed


def _deconv(site: Site) -> Any:
    layer: Any = site.layer
    if max(layer.dilation) > 1:
        refuse(site, f"a dilation of {layer.dilation} is not taken apart into phases")
    return layer


def even(site: Site) -> Design:
    """The same layer with the nearest kernel whose phases have one sum.

    Nearest in its taps: one that is nearest on the layer's input changes less and moves farther where that input has little
    energy, and on three of five published networks the lattice of what is no constant grew with it.
    """
    layer = _deconv(site)
    if any(m < s for m, s in zip(layer.kernel_size, layer.stride, strict=True)):
        refuse(site, f"a kernel of {layer.kernel_size} at stride {layer.stride} leaves holes, which no weights fill")
    new = deepcopy(layer)
    with torch.no_grad():
        new.weight.copy_(evened(layer.weight, layer.stride).kernel)
    return Design({site.name: new}, "fitted")


def _moments(site: Site, layer: Any, *, grow: int = 0) -> Moments | None:
    """Those of what the layer really reads, where the network was run."""
    if site.x is None:
        return None
    return patch_moments(
        site.x, layer.kernel_size, layer.stride, padding=layer.padding, output_padding=layer.output_padding,
        groups=layer.groups, grow=grow,
    )  # fmt: skip


def resize(site: Site, *, order: int = 0) -> Design:
    """The nearest resize-convolution: the same size, the same cost, the same place of every pixel."""
    layer = _deconv(site)
    short = [s * (order + 1) - order - m for m, s in zip(layer.kernel_size, layer.stride, strict=True)]
    grow = max(0, *(-(-n // 2) for n in short))
    fit = held_fit(layer.weight, layer.stride, order=order, grow=grow, moments=_moments(site, layer, grow=grow))
    return Design({site.name: _held(layer, fit.weight, order, [(grow, grow)] * len(layer.stride))}, "fitted")


def hold(site: Site, *, order: int = 0) -> Design:
    """The same taps, held over the stride: approach A, carried out inside the layer as C does."""
    layer = _deconv(site)
    reach = [s * (order + 1) - order - 1 for s in layer.stride]
    more = [(r // 2, r - r // 2) for r in reach]
    return Design({site.name: _held(layer, layer.weight / prod(layer.stride), order, more)}, "filtered")


def _held(layer: Any, weight: Tensor, order: int, more: Sequence[tuple[int, int]]) -> HeldTransposed:
    """A held layer whose kernel has `more` taps before and behind, with the map of `layer`."""
    crop = [
        (p + before, p - e + behind)
        for p, e, (before, behind) in zip(layer.padding, layer.output_padding, more, strict=True)
    ]
    new = HeldTransposed(
        layer.in_channels, layer.out_channels, weight.shape[2:], stride=layer.stride, crop=crop,
        bias=layer.bias is not None, groups=layer.groups, order=order,
    ).to(layer.weight)  # fmt: skip
    with torch.no_grad():
        new.weight.copy_(weight)
        if new.bias is not None:
            new.bias.copy_(layer.bias)
    return new


def subpixel(site: Site) -> Design:
    """A convolution and a shuffle, exact."""
    layer = _deconv(site)
    if len(set(layer.stride)) > 1:
        refuse(site, f"a shuffle has one scale for all axes, the stride is {layer.stride}")
    return Design({site.name: as_shuffled(layer)}, "exact")


def zero_insertion(site: Site) -> Design:
    """Zeros between the pixels and a convolution, exact."""
    return Design({site.name: ZeroInsertion(site.layer)}, "exact")
