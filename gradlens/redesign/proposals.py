"""Designs for a generator that are worth a training: those that pass the certificate, each ready for the loop.

The loop gives latents `[N L]` and wants images in [-1, 1]; a network of gradlens is described again, so that its checkpoints
describe themselves; of a user's factory the model card says how it is built.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.models import Model, bare
from gradlens.networks import Rebuilt
from gradlens.networks.rebuilt import described
from gradlens.redesign.designs import ENLARGING, CannotSwapError, designs_for
from gradlens.redesign.sites import find
from gradlens.redesign.surgery import SwapReport, swap
from gradlens.upsampling import HeldTransposed, ResizeConv

BEFORE = "before"  # the network as it is, which takes part: training alone must not be taken for the design
FRESH = "resize_fresh"
OURS = "gradlens.networks:"


@dataclass(frozen=True)
class Proposal:
    """A design for a generator, ready to be trained.

    Attributes:
        name: of the design; "before", the network as it is.
        network: `[N latent]` to `[N C R R]` in [-1, 1].
        builder, arguments: what builds it, as `TrainConfig.generator` and `generator_args` have it; of a user's factory, what
            builds it before the design.
        recipe: of a user's factory, lines of Python that build and fill it and make images.
        enlarging: the places that enlarge, by name, each with its modules in order.
        report: of the surgery; None for the network as it is.
    """

    name: str
    network: nn.Module
    builder: str
    arguments: Mapping[str, Any]
    recipe: tuple[str, ...]
    enlarging: Mapping[str, tuple[str, ...]]
    report: SwapReport | None = None


class FromVectors(nn.Module):
    """A generator of maps `[N L 1 1]` that is given vectors `[N L]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z[:, :, None, None])


def propose(
    model: Model,
    builder: str,
    arguments: Mapping[str, Any],
    example: Tensor,
    *,
    to: Sequence[str] | None = None,
    layers: str | Collection[str] | None = None,
    seed: int = 0,
) -> tuple[list[Proposal], dict[str, str]]:
    """The network as it is and every design worth a training; and why the others are none, in words, by name.

    Worth it are designs of `swap` that keep weights and pass the certificate at every place, and "resize_fresh": the
    resize-convolution with weights drawn anew, as spread as the fitted ones.

    Args:
        model: a generator, on the CPU.
        builder, arguments: what builds its network.
        example: latents, `[N ...]`.
        to: the designs to try; all unless given.
        layers: as `swap`.
        seed: of weights drawn anew.

    Raises:
        ValueError: nothing can be proposed; the message says why.
    """
    found, refused = [_ready(BEFORE, model, None, builder, arguments, example, layers)], {}
    names = list(to or [*designs_for(find(model, example)), FRESH])
    for name in names:
        try:
            report = swap(model, "resize" if name == FRESH else name, layers=layers, example=example)
        except CannotSwapError as error:
            refused[name] = str(error)
            continue
        if name == FRESH:
            report = redrawn(report, seed)
        if why := _unfit(name, report):
            refused[name] = why
        else:
            found.append(_ready(name, model, report, builder, arguments, example, layers))
    if len(found) == 1:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise CannotSwapError(f"--train: no design of {model.info.name!r} is worth a training ({reasons})")
    return found, refused


def _unfit(name: str, report: SwapReport) -> str:
    """Why a design is not trained; "" if it is."""
    verdicts = set(report.table["certificate_after"])
    if "refused" in set(report.table["kept"]):
        return "; ".join(reason for reason in report.table["reason"] if reason)
    if verdicts != {"pass"}:
        return "it does not pass the certificate"
    if "fresh" in set(report.table["kept"]) and name != FRESH:
        return "it keeps no weights"
    return ""


def redrawn(report: SwapReport, seed: int = 0) -> SwapReport:
    """The same network with the weights of its resize-convolutions drawn anew: normal, as spread as the fitted ones."""
    model = deepcopy(report.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, HeldTransposed | ResizeConv):
                noise = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(layer.weight.std() * noise)
    nan = float("nan")
    return replace(report, model=model, table=report.table.assign(kept="fresh", drift=nan), drift=nan, psnr=nan)


def _ready(
    name: str,
    model: Model,
    report: SwapReport | None,
    builder: str,
    arguments: Mapping[str, Any],
    example: Tensor,
    layers: str | Collection[str] | None,
) -> Proposal:
    changed = model if report is None else report.model
    maps = len(model.info.input_size) == 3
    recipe: tuple[str, ...] = ()
    if builder.startswith(OURS):
        network, builder, arguments = _described(bare(changed), bare(model), builder, arguments, maps)
    else:
        recipe = _recipe(name, model, builder, arguments, layers)
        network = FromVectors(deepcopy(bare(changed))) if maps else deepcopy(bare(changed))
    inside = "network." if isinstance(network, Rebuilt | FromVectors) else ""
    known = "network.network." if isinstance(bare(model), Rebuilt) else "network."
    places = {
        inside + site.name.removeprefix(known): tuple(inside + part.removeprefix(known) for part in site.modules)
        for site in find(model, example)
        if site.kind in ENLARGING and not site.refusal and _strided(site.layer)
    }
    return Proposal(name, network.requires_grad_(True), builder, arguments, recipe, places, report)


def _strided(layer: Any) -> bool:
    """Whether a transposed convolution enlarges; other layers of places that do are taken as they are."""
    return not getattr(layer, "transposed", False) or max(layer.stride) > 1


def _described(
    changed: nn.Module, was: nn.Module, builder: str, arguments: Mapping[str, Any], maps: bool
) -> tuple[nn.Module, str, dict[str, Any]]:
    """A network of gradlens, changed, as one that its description builds; and the description."""
    told: dict[str, Any] = {
        "builder": builder.removeprefix(OURS),
        "arguments": dict(arguments),
        "layers": {},
        "maps": maps,
    }
    if isinstance(was, Rebuilt) and isinstance(changed, Rebuilt):
        told |= dict(arguments)
        was, changed = was.network, changed.network
    there = dict(was.named_modules())
    new = {
        name: described(module)
        for name, module in changed.named_modules()
        if name in there and type(module) is not type(there[name])
    }
    told["layers"] = dict(told["layers"]) | new
    if not told["layers"] and not told["maps"]:
        return deepcopy(changed), OURS + told["builder"], told["arguments"]
    network = Rebuilt(**told)
    network.network.load_state_dict(changed.state_dict())
    return network, f"{OURS}Rebuilt", told


def _recipe(
    name: str, model: Model, builder: str, arguments: Mapping[str, Any], layers: str | Collection[str] | None
) -> tuple[str, ...]:
    """How the trained network of a user's factory is built and filled."""
    info = model.info
    size, chosen = list(info.input_size), "" if layers is None else f"layers={layers!r}, "
    state = 'load_file("generator.safetensors")'
    if len(size) == 3:
        state = f'{{k.removeprefix("network."): v for k, v in {state}.items()}}'
    lines = [
        "from gradlens.redesign import swap",
        "from safetensors.torch import load_file",
        "",
        f'generator = models.generator("{builder}", model_args={dict(arguments)}, input_size={size}, mean=[0.5], std=[0.5])',
    ]
    if name != BEFORE:
        to = "resize" if name == FRESH else name
        lines.append(
            f'generator = swap(generator, "{to}", {chosen}example=torch.randn(16, {", ".join(map(str, size))})).model'
        )
    images = f"images = generator(torch.randn(16, {', '.join(map(str, size))}))   # in [0, 1]"
    return (*lines, f"generator.network.load_state_dict({state})", images)
