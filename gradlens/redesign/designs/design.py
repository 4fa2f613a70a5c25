"""A design: what stands in the place of a site's modules, under the same names, and what became of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from torch import nn

from gradlens.redesign.sites import Site

Kept = Literal["exact", "fitted", "filtered", "fresh"]


class CannotSwapError(ValueError):
    """A place cannot be rebuilt as wanted; the message says which and why."""


@dataclass(frozen=True)
class Design:
    """What stands in the place of a site's modules, by name, and what became of the weights.

    `kept`: "exact", the same function; "fitted", the nearest of another kind by least squares; "filtered", the same weights
    with a fixed filter beside them; "fresh", drawn anew, of the same variance of the output.
    """

    modules: Mapping[str, nn.Module]
    kept: Kept


def refuse(site: Site, reason: str) -> NoReturn:
    """Raise a `CannotSwapError` that names the site."""
    raise CannotSwapError(f"{site.name}: {reason}")


def old_chain(site: Site) -> nn.Sequential:
    """The modules of a site as they are, one after the other."""
    return nn.Sequential(*site.modules.values())


def new_chain(site: Site, design: Design) -> nn.Sequential:
    """The modules that stand in their place."""
    return nn.Sequential(*(design.modules.get(name, module) for name, module in site.modules.items()))
