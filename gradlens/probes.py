"""Looking into a network while it runs: activations at named layers, their gradients, and where the resolution changes.

A probe leaves no trace. Hooks go when its block ends, also when the model raises; modes, `requires_grad`, `.grad` and the
random state are as before. What flows on from a probed layer is a copy, so that work in place further down does not
rewrite what was recorded.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.models import bare

SHRINK = 1.5  # a side must fall by this factor to count as another resolution: unpadded kernels only nibble at it


class Probe:
    """Records what named layers return, and the gradients of a score with respect to it.

    A layer that runs several times is recorded as `name`, `name#2`, `name#3` and so on.

    Args:
        model: any module; the layers of a `gradlens.models.Model` are named as in its network.
        layers: dotted names, as in `named_modules()`.

    Raises:
        ValueError: there is no such layer; the nearest names are told.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> image = torch.rand(1, 3, 8, 8, requires_grad=True)
        >>> with Probe(model, ["0"]) as probe:
        ...     score = model(image).sum()
        >>> probe.activations["0"].shape, probe.gradients(score)["0"].shape
        (torch.Size([1, 4, 6, 6]), torch.Size([1, 4, 6, 6]))
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self._modules = {name: _layer(model, name) for name in layers}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.activations: dict[str, Tensor] = {}

    def __enter__(self) -> "Probe":
        self.activations = {}
        self._handles = [m.register_forward_hook(self._recorder(n)) for n, m in self._modules.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def gradients(self, score: Tensor) -> dict[str, Tensor]:
        """d(sum of `score`) / d(each recorded activation), in its shape; zero where the score does not depend on it.

        Raises:
            ValueError: a layer was never reached, or what it returned carries no gradient.
        """
        self.check_reached()
        for name, activation in self.activations.items():
            if not activation.requires_grad:
                raise ValueError(f"layer {name!r} returns a tensor without a gradient; does the input require one?")
        values = torch.autograd.grad(
            score.sum(), list(self.activations.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return dict(zip(self.activations, values, strict=True))

    def check_reached(self) -> None:
        """Raise a ValueError that names the layers the forward pass did not reach, if there are any."""
        missing = [name for name in self._modules if name not in self.activations]
        if missing:
            raise ValueError(f"the forward pass never reached {', '.join(map(repr, missing))}")

    def _recorder(self, name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def record(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"layer {name!r} returns a {type(output).__name__}, not a tensor; name a layer inside it"
                )
            calls = sum(key == name or key.startswith(f"{name}#") for key in self.activations)
            self.activations[name if calls == 0 else f"{name}#{calls + 1}"] = output
            return output.clone()

        return record


@dataclass(frozen=True)
class Stage:
    """A resolution of a network on its way down: the last layer at it, its side in pixels and its stride.

    `stride` is the input pixels that one pixel of the stage spans, along each axis; `layout` says where the channels
    are: `"NCHW"` or `"NHWC"`.
    """

    layer: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    layout: str


def stages(model: nn.Module, input_size: Sequence[int]) -> list[Stage]:
    """Where the resolution of `model` changes on the way from the image to its scores, found by running it once.

    For each resolution the outermost layer that returns a map of it last before the trunk shrinks further.

    Args:
        model: any module that takes `[N C *spatial]`.
        input_size: `[C *spatial]` of one image.

    Returns:
        From fine to coarse, without the image itself and without maps of a single pixel.
    """
    network = bare(model)
    extent = tuple(input_size[1:])
    root = _Call("")
    open_calls = [root]

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            open_calls[-1].inside.append(_Call(name))
            open_calls.append(open_calls[-1].inside[-1])

        return note

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        open_calls.pop().map = _spatial(output, extent)

    handles = []
    for name, module in network.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        with undisturbed(model), torch.no_grad():
            place = next(iter(model.parameters()), torch.empty(0))
            model(torch.zeros(1, *input_size, device=place.device, dtype=place.dtype))
    finally:
        for handle in handles:
            handle.remove()
    found: list[_Call] = []
    _descend(root, max(extent), found)
    return _with_strides(found, extent)


@dataclass
class _Call:
    """One run of a layer: its map (size and layout, None if it returned none) and the runs inside it, in order."""

    name: str
    map: tuple[tuple[int, ...], str] | None = None
    inside: list["_Call"] = field(default_factory=list)

    @property
    def side(self) -> int:
        return max(self.map[0]) if self.map else 0


def _descend(call: _Call, side: int, found: list[_Call]) -> int:
    """Add to `found` the resolutions below `side` on the trunk inside `call`; returns the last side.

    A layer that keeps the resolution is not looked into: what shrinks inside it is a branch, not the trunk.
    """
    for part in call.inside:
        if part.map is None or part.side * SHRINK <= side:
            before, known = side, len(found)
            side = _descend(part, side, found)
            while len(found) > known and part.map and found[-1].side * SHRINK <= part.side:
                found.pop()  # smaller than what its container returns: a branch that came back
            side = found[-1].side if len(found) > known else before
        if part.map is None or part.side <= 1:
            continue
        if part.side * SHRINK <= side:
            found.append(part)
            side = part.side
        elif found and part.side <= found[-1].side and part.name.count(".") <= found[-1].name.count("."):
            found[-1] = part
    return side


def _with_strides(found: Sequence[_Call], extent: tuple[int, ...]) -> list[Stage]:
    """Stages with their accumulated strides: unpadded kernels take rows away, so each step is rounded by itself."""
    result = []
    before, stride = extent, (1,) * len(extent)
    for call in found:
        if call.map is None:
            continue
        size, layout = call.map
        stride = tuple(t * round(b / s) for t, b, s in zip(stride, before, size, strict=True))
        before = size
        result.append(Stage(call.name, size, stride, layout))
    return result


def _spatial(output: Any, extent: tuple[int, ...]) -> tuple[tuple[int, ...], str] | None:
    """Size and layout of the map that a layer returned for one image; None if that is no map of the whole picture.

    Channels come last only if that keeps the picture's proportions and channels first does not.
    """
    if not isinstance(output, Tensor) or output.ndim != len(extent) + 2 or len(output) != 1 or 0 in output.shape:
        return None

    def misfit(size: tuple[int, ...]) -> float:
        ratios = [s / e for s, e in zip(size, extent, strict=True)]
        return max(ratios) / min(ratios)

    first, last = tuple(output.shape[2:]), tuple(output.shape[1:-1])
    size, layout = (last, "NHWC") if len(extent) > 1 and misfit(last) < misfit(first) else (first, "NCHW")
    return (size, layout) if misfit(size) < SHRINK else None


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode and give it and the random state back as they were."""
    modes = {module: module.training for module in model.modules()}
    cuda = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def _layer(model: nn.Module, name: str) -> nn.Module:
    """The layer called `name`."""
    layers: Mapping[str, nn.Module] = dict(bare(model).named_modules())
    if name in layers and name:
        return layers[name]
    near = difflib.get_close_matches(name, list(layers), n=3, cutoff=0.3)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise ValueError(f"layer: the model has no {name!r}{hint}")
