"""Designs in the place of a sub-pixel convolution that keep its weights."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.filters import Filter
from gradlens.filters import hold as hold_taps
from gradlens.redesign.designs.design import Design, refuse
from gradlens.redesign.kernels import alike, held_fit
from gradlens.redesign.moments import patch_moments
from gradlens.redesign.rewrites import from_subpixel, transposed_form
from gradlens.redesign.sites import Site
from gradlens.upsampling.held import HeldTransposed


def convolution_of(site: Site) -> tuple[Any, str, int]:
    """The convolution, the name of the shuffle, its scale."""
    layer: Any = site.layer
    name = next(name for name in site.modules if name != site.name)
    if set(layer.stride) != {1} or set(layer.dilation) != {1} or layer.padding_mode != "zeros":
        refuse(
            site,
            f"its convolution has stride {layer.stride}, dilation {layer.dilation} and {layer.padding_mode} padding",
        )
    if isinstance(layer.padding, str):
        refuse(site, f"a padding of {layer.padding!r} is not read")
    if any(p >= j for p, j in zip(layer.padding, layer.kernel_size, strict=True)):
        refuse(site, f"a padding of {layer.padding} is more than the kernel of {layer.kernel_size} reaches")
    return layer, name, site.modules[name].upscale_factor  # type: ignore[return-value]


def even(site: Site) -> Design:
    """The nearest filters whose phases have one sum (eq. 8), and one bias for all (eq. 9)."""
    layer, _, scale = convolution_of(site)
    new = deepcopy(layer)
    with torch.no_grad():
        new.weight.copy_(alike(layer.weight, scale))
        if new.bias is not None:
            new.bias.copy_(_one_bias(layer.bias, scale).repeat_interleave(scale**2))
    return Design({site.name: new}, "fitted")


def deconv(site: Site) -> Design:
    """A transposed convolution, exact where all phases have one bias (eq. 9)."""
    layer, name, scale = convolution_of(site)
    if layer.bias is not None and not torch.equal(layer.bias, _one_bias(layer.bias, scale).repeat_interleave(scale**2)):
        refuse(site, "its phases have biases of their own (eq. 9), a transposed convolution has one a channel")
    form = transposed_form(
        layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), stride=scale,
        around=[(p, p) for p in layer.padding], groups=layer.groups,
    )  # fmt: skip
    new = nn.ConvTranspose2d(
        layer.in_channels, layer.out_channels // scale**2, tuple(form.weight.shape[2:]), stride=scale,  # type: ignore[arg-type]
        padding=tuple(before for before, _ in form.crop), groups=layer.groups, bias=form.bias is not None,  # type: ignore[arg-type]
    ).to(layer.weight)  # fmt: skip
    new.load_state_dict({"weight": form.weight} | ({} if form.bias is None else {"bias": form.bias}))
    return Design({site.name: new, name: nn.Identity()}, "exact")


def resize(site: Site, *, order: int = 0) -> Design:
    """The nearest resize-convolution to the transposed convolution that it is, with the mean of the biases."""
    layer, name, scale = convolution_of(site)
    weight = from_subpixel(layer.weight, scale, groups=layer.groups)
    stride, kernel = (scale,) * 2, tuple(weight.shape[2:])
    padding = _crops(layer, scale)
    moments = None
    if site.x is not None:
        moments = patch_moments(site.x, kernel, stride, padding=padding, groups=layer.groups)
    fit = held_fit(weight, stride, order=order, moments=moments)
    new = HeldTransposed(
        layer.in_channels, layer.out_channels // scale**2, fit.weight.shape[2:], stride=stride,
        crop=[(p, p) for p in padding], bias=layer.bias is not None, groups=layer.groups, order=order,
    ).to(layer.weight)  # fmt: skip
    with torch.no_grad():
        new.weight.copy_(fit.weight)
        if new.bias is not None:
            new.bias.copy_(_one_bias(layer.bias, scale))
    return Design({site.name: new, name: nn.Identity()}, "fitted")


def hold(site: Site, *, order: int = 0) -> Design:
    """A hold after the shuffle: approach A."""
    layer, name, scale = convolution_of(site)
    after = OrderedDict(shuffle=deepcopy(site.modules[name]), hold=Filter(hold_taps(scale, order)).to(layer.weight))
    return Design({site.name: deepcopy(layer), name: nn.Sequential(after)}, "filtered")


def _crops(layer: Any, scale: int) -> tuple[int, ...]:
    """Of the whole map of the transposed convolution that a sub-pixel convolution is, what lies outside of it."""
    return tuple(scale * (j - 1 - p) for j, p in zip(layer.kernel_size, layer.padding, strict=True))


def _one_bias(bias: Tensor, scale: int) -> Tensor:
    return bias.detach().unflatten(0, (-1, scale**2)).mean(1)
