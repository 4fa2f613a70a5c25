"""A network of gradlens with other layers in some of its places, as `gradlens.redesign.swap` puts them there.

What stands there is described by words and numbers that JSON holds, so that a checkpoint of it describes itself.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from gradlens.convolution import sequence
from gradlens.filters import Filter, hold
from gradlens.upsampling import HeldTransposed, ResizeConv


def held_shuffle(scale: int = 2, order: int = 0) -> nn.Sequential:
    """A pixel shuffle and the hold behind it: approach A of Sugawara, Shiota, Kiya 2018, in both modes."""
    return sequence({"shuffle": nn.PixelShuffle(scale), "hold": Filter(hold(scale, order))})


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "held": HeldTransposed,
    "resize": ResizeConv,
    "held_shuffle": held_shuffle,
    "nothing": nn.Identity,
}


class Rebuilt(nn.Module):
    """A network of `gradlens.networks` with other layers: what that network takes, to what it gives.

    Args:
        builder: name of the network's class, such as `DCGANGenerator`.
        arguments: its arguments.
        layers: for each place by name `kind`, a key of `LAYERS`, and `arguments` of that layer.
        maps: whether the network takes latents as maps `[N L 1 1]`; they are given as `[N L]` all the same.

    Raises:
        TypeError, ValueError: there is no such network, place or kind, or it does not take the arguments.

    Source: ours.

    Example:
        >>> import torch
        >>> layer = {"in_channels": 4, "out_channels": 3, "kernel_size": [4, 4], "stride": [2, 2], "crop": [[2, 1], [2, 1]]}
        >>> network = Rebuilt(
        ...     "DCGANGenerator", {"latent": 8, "widths": [4]}, {"up1": {"kind": "held", "arguments": layer}}
        ... )
        >>> network(torch.zeros(2, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        builder: str,
        arguments: Mapping[str, Any],
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        maps: bool = False,
    ) -> None:
        super().__init__()
        make = getattr(import_module("gradlens.networks"), builder, None)
        if make is Rebuilt or not (isinstance(make, type) and issubclass(make, nn.Module)):
            raise ValueError(f"builder: must be another network of gradlens.networks, got {builder!r}")
        self.maps = maps
        self.network = make(**arguments)
        there = dict(self.network.named_modules())
        for name, told in (layers or {}).items():
            if name not in there or not name:
                raise ValueError(f"layers: {builder} has no {name!r}")
            if told.get("kind") not in LAYERS:
                raise ValueError(f"layers: {name}: kind must be one of {', '.join(LAYERS)}, got {told.get('kind')!r}")
            self.network.set_submodule(name, LAYERS[told["kind"]](**told.get("arguments", {})))

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z[:, :, None, None] if self.maps else z)


def described(layer: nn.Module) -> dict[str, Any]:
    """`kind` and `arguments` of a layer as `Rebuilt` takes them; what it has learned is not in them.

    Raises:
        ValueError: it is of no kind that `LAYERS` has.
    """
    if isinstance(layer, HeldTransposed):
        told = {
            "in_channels": layer.in_channels, "out_channels": layer.out_channels, "kernel_size": list(layer.kernel_size),
            "stride": list(layer.stride), "crop": [list(pair) for pair in layer.crop], "bias": layer.bias is not None,
            "groups": layer.groups, "order": layer.order,
        }  # fmt: skip
        return {"kind": "held", "arguments": told}
    if isinstance(layer, ResizeConv):
        told = {
            "in_channels": layer.in_channels, "out_channels": layer.out_channels, "scale": layer.scale,
            "kernel_size": list(layer.kernel_size), "bias": layer.bias is not None, "dimensions": len(layer.kernel_size),
            "mode": layer.mode, "padding": layer.padding, "groups": layer.groups,
        }  # fmt: skip
        return {"kind": "resize", "arguments": told}
    if isinstance(layer, nn.Identity):
        return {"kind": "nothing", "arguments": {}}
    parts = list(layer.children())
    if len(parts) == 2 and isinstance(parts[0], nn.PixelShuffle) and isinstance(parts[1], Filter):
        scale = parts[0].upscale_factor
        order = (len(parts[1].taps) - 1) // (scale - 1) - 1 if scale > 1 else 0
        return {"kind": "held_shuffle", "arguments": {"scale": scale, "order": order}}
    raise ValueError(f"a {type(layer).__name__} is of no kind that a rebuilt network has: {', '.join(LAYERS)}")
