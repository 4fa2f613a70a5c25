"""A layer of the zoo in the place of one that enlarges, with weights drawn anew."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.redesign.designs import subpixel
from gradlens.redesign.designs.design import Design, old_chain, refuse
from gradlens.redesign.designs.forms import Crop
from gradlens.redesign.sites import Site


def fresh(site: Site, make: Callable[..., nn.Module]) -> Design:
    """A layer of the zoo with weights drawn anew, of the variance of the old output on the same input."""
    c, out, stride, groups = _outline(site)
    if len(set(stride)) > 1 or groups > 1:
        refuse(site, f"the zoo has no layers of stride {stride} and {groups} groups; rewrite or fit it instead")
    old = old_chain(site)
    layer: Any = site.layer
    sample = (
        site.x
        if site.x is not None
        else torch.randn(2, c, *[8] * len(stride), generator=torch.Generator().manual_seed(0))
    )
    sample = sample.to(layer.weight)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # layers draw from the global state, which is given back
        new = make(c, out, scale=stride[0], bias=layer.bias is not None, dimensions=len(stride)).to(layer.weight)
        before, after = old(sample), new(sample)
        more = [a - b for a, b in zip(after.shape[2:], before.shape[2:], strict=True)]
        cut = [(n // 2, n - n // 2) for n in more]
        _match(new, before, after)
    placed = new if not any(more) else nn.Sequential(OrderedDict(up=new, crop=Crop(*zip(*cut, strict=True))))
    gone = {name: nn.Identity() for name in site.modules if name != site.name}
    return Design(gone | {site.name: placed}, "fresh")


def _outline(site: Site) -> tuple[int, int, tuple[int, ...], int]:
    """Channels, stride and groups of a site that enlarges."""
    layer: Any = site.layer
    if site.kind == "deconv":
        return layer.in_channels, layer.out_channels, tuple(layer.stride), layer.groups
    if site.kind == "subpixel":
        _, _, scale = subpixel.convolution_of(site)
        return layer.in_channels, layer.out_channels // scale**2, (scale,) * 2, layer.groups
    up: Any = next(module for module in site.modules.values() if isinstance(module, nn.Upsample))
    d = len(layer.kernel_size)
    scales = [up.scale_factor] * d if not isinstance(up.scale_factor, tuple) else up.scale_factor
    if any(s is None or s != int(s) for s in scales):
        refuse(site, f"its resize has size={up.size} and scale_factor={up.scale_factor}, not a whole factor")
    return layer.in_channels, layer.out_channels, tuple(int(s) for s in scales), layer.groups


def _match(new: nn.Module, before: Tensor, after: Tensor) -> None:
    """Scale the last convolution of `new` so that its output varies as much as the old one's."""
    last = [m for m in new.modules() if getattr(m, "weight", None) is not None][-1]
    gain = before.std() / after.std().clamp(min=1e-12)
    for parameter in last.parameters(recurse=False):
        parameter.mul_(gain)
