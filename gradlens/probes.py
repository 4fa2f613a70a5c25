"""Looking into a network while it runs: activations at named layers, their gradients, and where the resolution changes.

A probe leaves no trace. Hooks go when its block ends, also when the model raises; modes, `requires_grad`, `.grad` and the
random state are as before. What is recorded is a copy and what flows on another, so that work in place before and after
does not rewrite it.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.models import bare
from gradlens.modules import undisturbed

SHRINK = 1.5  # the stride must grow by this factor to count as another resolution
SKEWED_LITTLE = 1.2  # as far as rounding takes a small map from the picture's proportions
SKEWED = 2.1  # a map further from the picture's proportions is none of it, but a matrix of attention
LARGER = 192  # pixels added to each side for the second run: a multiple of every usual stride


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
        self.wanted: frozenset[str] = frozenset()  # once these are recorded, the forward pass ends

    def __enter__(self) -> "Probe":
        if self._handles:
            raise RuntimeError("the probe is open already")
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
        for name in self.activations:
            self.activation(name)
        values = torch.autograd.grad(
            score.sum(), list(self.activations.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return dict(zip(self.activations, values, strict=True))

    def activation(self, name: str) -> Tensor:
        """A recorded activation that a gradient can reach.

        Raises:
            ValueError: it was not recorded, or carries no gradient.
        """
        if name not in self.activations:
            raise ValueError(f"the forward pass never reached {name!r}")
        if not self.activations[name].requires_grad:
            raise ValueError(f"layer {name!r} returns a tensor without a gradient; does the input require one?")
        return self.activations[name]

    def check_reached(self, layers: Iterable[str] | None = None) -> None:
        """Raise a ValueError that names those of `layers`, all unless given, that the forward pass did not reach."""
        missing = [name for name in layers or self._modules if name not in self.activations]
        if missing:
            raise ValueError(f"the forward pass never reached {', '.join(map(repr, missing))}")

    def _recorder(self, name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def record(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"layer {name!r} returns a {type(output).__name__}, not a tensor; name a layer inside it"
                )
            calls = sum(key == name or key.startswith(f"{name}#") for key in self.activations)
            key = name if calls == 0 else f"{name}#{calls + 1}"
            if self.wanted and self.wanted <= {key, *self.activations}:
                self.activations[key] = output
                raise _EnoughError
            kept = output.clone()  # a layer may return its own input, which others may work on in place
            self.activations[key] = kept
            return kept.clone()

        return record


class _EnoughError(Exception):
    """All that was asked for is recorded; the rest of the forward pass is for nobody."""


def activations(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """What `layers` return for `images`, from a forward pass that ends at the last of them.

    Args:
        model: any module; it runs in the mode it is in.
        images: `[N C *spatial]`, as the model takes them.
        layers: dotted names, as in `named_modules()`, `name#2` for the second run of a layer.

    Raises:
        ValueError: there is no such layer, it was never reached, or it returns no tensor.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(1, 1))
        >>> activations(model, torch.rand(1, 3, 8, 8), ["1"])["1"].shape    # the last layer, which would fail, never runs
        torch.Size([1, 4, 6, 6])
    """
    probe = Probe(model, sorted({layer.split("#")[0] for layer in layers}))
    probe.wanted = frozenset(layers)
    try:
        with probe:
            model(images)
    except _EnoughError:
        pass
    probe.check_reached(layers)
    return {layer: probe.activations[layer] for layer in layers}


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
    extent = tuple(input_size[1:])
    calls = _run(model, input_size, whole=True)
    larger = _run(model, [input_size[0], *(side + LARGER for side in extent)], whole=False)
    _set_strides(calls, larger, extent)
    while len(calls.inside) == 1 and calls.inside[0].inside:  # a wrapper around the network
        (calls,) = calls.inside
    found: list[_Call] = []
    _descend(calls, 1.0, found)
    return list(_stages(found))


@dataclass
class _Call:
    """One run of a layer: its map (size and layout, None if it returned none), stride, and the runs inside it, in order.

    A layer that runs again is called `name#2`, as in `Probe`.
    """

    name: str
    map: tuple[tuple[int, ...], str] | None
    inside: list["_Call"] = field(default_factory=list)
    strides: tuple[float, ...] = (1.0,)

    @property
    def stride(self) -> float:
        return max(self.strides)

    @property
    def depth(self) -> int:
        return self.name.count(".")


def _run(model: nn.Module, input_size: Sequence[int], *, whole: bool) -> _Call:
    """Every run of every layer while `model` looks at one blank image of `input_size` `[C *spatial]`.

    Where it need not run as a whole, the layers before the one that refuses this size are enough.
    """
    root = _Call("", None)
    open_calls = [root]
    times: Counter[str] = Counter()

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            times[name] += 1
            call = _Call(name if times[name] == 1 else f"{name}#{times[name]}", None)
            open_calls[-1].inside.append(call)
            open_calls.append(call)

        return note

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        open_calls.pop().map = _spatial(output, tuple(input_size[1:]))

    handles = []
    for name, module in bare(model).named_modules():
        if name:
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    place = next(iter(model.parameters()), torch.empty(0))
    try:
        with undisturbed(model), torch.no_grad():
            model(torch.zeros(1, *input_size, device=place.device, dtype=place.dtype))
    except Exception:  # each network refuses another size in its own way
        if whole:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return root


def _set_strides(call: _Call, larger: _Call | None, extent: tuple[int, ...]) -> None:
    """The stride of every map: by how much it grows with the image or, where that is unknown, its share of the image.

    Unpadded kernels take rows away, which changes the share and not the growth.
    """
    if call.map is not None:
        size = call.map[0]
        grown = larger.map[0] if larger is not None and larger.map is not None and larger.name == call.name else size
        call.strides = tuple(LARGER / (g - s) if g > s else e / s for e, s, g in zip(extent, size, grown, strict=True))
    others = larger.inside if larger is not None else []
    for number, part in enumerate(call.inside):
        _set_strides(part, others[number] if number < len(others) else None, extent)


def _descend(call: _Call, stride: float, found: list[_Call]) -> float:
    """Add to `found` the resolutions above `stride` on the trunk inside `call`; returns the last stride.

    A layer that keeps the resolution is not looked into: what shrinks inside it is a branch, not the trunk.
    """
    for part in call.inside:
        if part.map is None or part.stride >= SHRINK * stride:
            before, known = stride, len(found)
            _descend(part, stride, found)
            while len(found) > known and part.map and found[-1].stride >= SHRINK * part.stride:
                found.pop()  # coarser than what its container returns: a branch that came back
            stride = found[-1].stride if len(found) > known else before
        if part.map is None or max(part.map[0]) <= 1:
            continue
        if part.stride >= SHRINK * stride:
            found.append(part)
            stride = part.stride
        elif found and part.stride * SHRINK > stride and part.depth <= found[-1].depth:
            found[-1] = part
    return stride


def _stages(found: Sequence[_Call]) -> Iterator[Stage]:
    """Stages with whole strides; each step is rounded by itself."""
    before: list[float] | None = None
    whole: list[int] = []
    for call in found:
        assert call.map is not None
        size, layout = call.map
        if before is None:
            before, whole = [1.0] * len(size), [1] * len(size)
        whole = [max(1, w * round(s / b)) for w, s, b in zip(whole, call.strides, before, strict=True)]
        before = list(call.strides)
        yield Stage(call.name, size, tuple(whole), layout)


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
    channels_last = len(extent) > 1 and misfit(last) < misfit(first) and misfit(first) > SKEWED_LITTLE
    size, layout = (last, "NHWC") if channels_last else (first, "NCHW")
    return (size, layout) if misfit(size) < SKEWED else None


def _layer(model: nn.Module, name: str) -> nn.Module:
    """The layer called `name`."""
    layers: Mapping[str, nn.Module] = dict(bare(model).named_modules())
    if name in layers and name:
        return layers[name]
    near = difflib.get_close_matches(name, list(layers), n=3, cutoff=0.3)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise ValueError(f"layer: the model has no {name!r}{hint}")
