"""Designs in the place of a layer that shrinks: the same weights, with a fixed filter before or behind them."""

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from gradlens.filters import Filter, binomial, hold
from gradlens.redesign.designs.design import Design, refuse
from gradlens.redesign.sites import MAX_POOLS, Site

AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def strided_filtered(site: Site, make: Callable[[int], Filter]) -> Design:
    """A fixed filter before the same strided convolution."""
    layer, scale = _strided(site)
    return Design(
        {site.name: nn.Sequential(OrderedDict(filter=make(scale).to(layer.weight), conv=deepcopy(layer)))}, "filtered"
    )


def strided_after(site: Site, make: Callable[[int, int], nn.Module]) -> Design:
    """The same convolution at every pixel, then something that shrinks."""
    layer, scale = _strided(site)
    conv = deepcopy(layer)
    conv.stride = (1,) * len(layer.stride)
    small = make(scale, len(layer.stride)).to(layer.weight)
    return Design({site.name: nn.Sequential(OrderedDict(conv=conv, pool=small))}, "filtered")


def _strided(site: Site) -> tuple[Any, int]:
    layer: Any = site.layer
    if len(set(layer.stride)) > 1:
        refuse(site, f"filters have one scale for all axes, the stride is {layer.stride}")
    return layer, layer.stride[0]


def maxpool_after(site: Site, make: Callable[[int, int], nn.Module]) -> Design:
    """The same maximum at every pixel, then something that shrinks."""
    layer: Any = site.layer
    sides = [layer.stride] if isinstance(layer.stride, int) else list(layer.stride)
    if len(set(sides)) > 1 or layer.ceil_mode or layer.return_indices:
        refuse(
            site,
            f"its max-pool has stride {layer.stride}, ceil_mode={layer.ceil_mode}, return_indices={layer.return_indices}",
        )
    dense = deepcopy(layer)
    dense.stride = 1
    axes = MAX_POOLS.index(type(layer)) + 1
    return Design({site.name: nn.Sequential(OrderedDict(max=dense, pool=make(sides[0], axes)))}, "filtered")


def averaged(scale: int, axes: int) -> nn.Module:
    return AVERAGE_POOLS[axes - 1](scale, ceil_mode=True, count_include_pad=False)


def blurred(scale: int, axes: int) -> nn.Module:
    return Filter(binomial(2 * scale - 1), stride=scale, padding="reflect")


def held(scale: int, axes: int) -> nn.Module:
    return Filter(hold(scale), stride=scale)
