"""What can be put in a place that shrinks or enlarges, with as much of its weights as can be kept."""

from collections.abc import Callable, Sequence

from gradlens.filters import Filter, hold, windowed_sinc
from gradlens.redesign.designs import deconv, resize, shrinking, subpixel
from gradlens.redesign.designs.design import CannotSwapError, Design, Kept, new_chain, old_chain
from gradlens.redesign.designs.fresh import fresh
from gradlens.redesign.sites import Kind, Site
from gradlens.upsampling import UPSAMPLERS

Builder = Callable[[Site], Design]

DESIGNS: dict[Kind, dict[str, Builder]] = {
    "deconv": {
        "even": deconv.even, "resize": deconv.resize, "hold": deconv.hold, "hold_a": deconv.hold, "hold_b": deconv.hold,
        "hold_c": deconv.hold,
        "subpixel": deconv.subpixel, "zero_insertion": deconv.zero_insertion,
    },
    "subpixel": {
        "even": subpixel.even, "resize": subpixel.resize, "hold": subpixel.hold, "hold_a": subpixel.hold,
        "hold_b": subpixel.hold,
        "deconv": subpixel.deconv,
    },
    "resize": {"resize": resize.fused},
    "strided": {
        "hold": lambda site: shrinking.strided_filtered(site, lambda s: Filter(hold(s))),
        "sinc": lambda site: shrinking.strided_filtered(site, lambda s: Filter(windowed_sinc(s))),
        "blur": lambda site: shrinking.strided_after(site, shrinking.blurred),
        "stride1": lambda site: shrinking.strided_after(site, shrinking.averaged),
    },
    "maxpool": {
        "hold": lambda site: shrinking.maxpool_after(site, shrinking.held),
        "blur": lambda site: shrinking.maxpool_after(site, shrinking.blurred),
        "maxblur": lambda site: shrinking.maxpool_after(site, shrinking.blurred),
        "stride1": lambda site: shrinking.maxpool_after(site, shrinking.averaged),
    },
}  # fmt: skip
ENLARGING: tuple[Kind, ...] = ("deconv", "subpixel", "resize")
ALIASES = ("hold_a", "hold_b", "hold_c", "maxblur")  # of trained weights what "hold" is; of a max-pool "blur"


def builder(kind: Kind, to: str) -> Builder | None:
    """How to make `to` of a place of that kind; None where there is no way."""
    if to in DESIGNS[kind]:
        return DESIGNS[kind][to]
    if kind in ENLARGING and to in UPSAMPLERS and to != kind:  # what it is already
        return lambda site: fresh(site, UPSAMPLERS[to])
    return None


def designs_for(sites: Sequence[Site]) -> list[str]:
    """The designs that there are for the places that enlarge or, if there are none, for those that shrink; each once."""
    kinds = {site.kind for site in sites}
    there: list[Kind] = [kind for kind in DESIGNS if kind in kinds]
    meant: list[Kind] = [kind for kind in there if kind in ENLARGING] or there
    names = [name for name in targets() if any(builder(kind, name) for kind in meant)]
    return [name for name in names if name not in ALIASES]


def targets() -> list[str]:
    """Every name that `to` can be."""
    return list(dict.fromkeys([*(name for made in DESIGNS.values() for name in made), *UPSAMPLERS]))


__all__ = [
    "DESIGNS",
    "ENLARGING",
    "CannotSwapError",
    "Design",
    "Kept",
    "builder",
    "designs_for",
    "new_chain",
    "old_chain",
    "targets",
]
