"""What a dream makes large: numbers read off a network's layers, which add up, scale and subtract.

objective = channel("layer3", 17) - 0.1 * total_variation()
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradlens.gradients import logits

IMAGE = "image"  # in `layers`: the picture as the network is shown it
OUTPUT = ""  # in `layers`: what the network returns

Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """A value for each image, from what `layers` return; sums, differences and multiples are objectives too.

    `value` takes the outputs by layer and gives `[N]`. `name` says it in words. `local` says whether it is a mean over
    positions, which parts of a picture have too.
    """

    name: str
    layers: tuple[str, ...]
    value: Callable[[Outputs], Tensor]
    local: bool = True

    def __add__(self, other: "Objective") -> "Objective":
        if not isinstance(other, Objective):
            return NotImplemented
        layers = tuple(dict.fromkeys((*self.layers, *other.layers)))
        local = self.local and other.local
        return Objective(
            f"{self.name} + {other.name}", layers, lambda seen: self.value(seen) + other.value(seen), local
        )

    def __mul__(self, weight: float) -> "Objective":
        if not isinstance(weight, int | float):
            return NotImplemented
        name = f"({self.name})" if " + " in self.name else self.name
        return Objective(f"{weight:g} * {name}", self.layers, lambda seen: weight * self.value(seen), self.local)

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return -1 * self

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other

    def __truediv__(self, weight: float) -> "Objective":
        return self * (1 / weight)


def layer(name: str) -> Objective:
    """The mean square of all that a layer returns: DeepDream's.

    Source: Mordvintsev et al. 2015, who take the sum.
    """
    return Objective(name, (name,), lambda seen: _mean(_exact(seen[name]).square()))


def channel(name: str, index: int, *, axis: int | None = None) -> Objective:
    """The mean of one channel of a layer.

    Args:
        name: of the layer.
        index: of the channel.
        axis: that of the channels; 1 unless given, the last one of tokens `[N L C]`. Give -1 for maps `[N H W C]`.

    Source: Olah et al. 2017.
    """
    return Objective(f"{name}:{index}", (name,), lambda seen: _mean(_channel(seen, name, index, axis)))


def neuron(name: str, index: int, position: Sequence[int] | None = None, *, axis: int | None = None) -> Objective:
    """One channel of a layer at one `position`, the middle unless given.

    Args:
        name, index, axis: as `channel`.
        position: along each axis of the map.
    """

    def value(seen: Outputs) -> Tensor:
        plane = _channel(seen, name, index, axis)
        place = tuple(side // 2 for side in plane.shape[1:]) if position is None else tuple(position)
        inside = len(place) == plane.ndim - 1 and all(0 <= p < s for p, s in zip(place, plane.shape[1:], strict=True))
        if not inside:
            raise ValueError(f"position: {name!r} has {list(plane.shape[1:])} positions, got {list(place)}")
        return plane[:, *place]

    where = "" if position is None else f"@{','.join(map(str, position))}"
    return Objective(f"{name}:{index}{where or '@'}", (name,), value, local=False)


def logit(index: int) -> Objective:
    """One logit of the network, before any softmax."""

    def value(seen: Outputs) -> Tensor:
        found = logits(seen[OUTPUT])
        if not 0 <= index < found.shape[1]:
            raise ValueError(f"logit: the network has {found.shape[1]}, from 0 on, got {index}")
        return _exact(found[:, index])

    return Objective(f"logit:{index}", (OUTPUT,), value, local=False)


def direction(name: str, vector: Tensor, *, cosine_power: float = 0.0, axis: int | None = None) -> Objective:
    """How far a layer's channels point along `vector`: their mean dot product, times a power of their cosine.

    Args:
        name, axis: as `channel`.
        vector: `[channels]`.
        cosine_power: 0 for the dot product alone; 1 to 4 keeps other directions out.

    Source: Carter et al. 2019.
    """

    def value(seen: Outputs) -> Tensor:
        found = _exact(seen[name]).movedim(_axis(seen, name, axis), -1)
        if vector.shape != found.shape[-1:]:
            raise ValueError(f"vector: {name!r} has {found.shape[-1]} channels, got {list(vector.shape)}")
        along = vector.to(found)
        dot = found @ along
        if cosine_power:
            cosine = dot / (found.norm(dim=-1) * along.norm()).clamp(min=1e-12)
            dot = dot * cosine.clamp(min=0.1) ** cosine_power
        return _mean(dot)

    return Objective(f"direction of {name}", (name,), value)


def total_variation() -> Objective:
    """The mean absolute difference of neighbouring pixels of the picture; a penalty, to be subtracted.

    Source: Mahendran and Vedaldi 2015.
    """

    def value(seen: Outputs) -> Tensor:
        images = _exact(seen[IMAGE])
        steps = [_mean(images.diff(dim=axis).abs()) for axis in range(2, images.ndim)]
        return torch.stack(steps).sum(0)

    return Objective("total variation", (IMAGE,), value)


def distance(level: float = 0.5, *, power: float = 1.0) -> Objective:
    """The mean of |pixel - `level`|^`power` of the picture; a penalty, to be subtracted: L1 of contrast unless told."""
    return Objective(f"L{power:g}", (IMAGE,), lambda seen: _mean((_exact(seen[IMAGE]) - level).abs().pow(power)))


def named(text: str) -> Objective:
    """The objective that `text` spells.

    - `layer2`: `layer`
    - `layer2:17`: `channel`; `layer2:17@`: `neuron` in the middle; `layer2:17@3,4`: there
    - `logit:207`: `logit`
    - `layer2 + 0.5*layer3:4`: sums and multiples of these.

    Raises:
        ValueError: it spells none.

    Example:
        >>> named("layer2 + 0.5*logit:3").layers
        ('layer2', '')
    """
    total: Objective | None = None
    for part in text.split("+"):
        found = re.fullmatch(r"\s*(?:([-0-9.eE]+)\s*\*)?\s*([^\s:@*]+)(?::(\d+)(@(?:\d+(?:,\d+)*)?)?)?\s*", part)
        if found is None:
            raise ValueError(
                f"objective: {part.strip()!r} is none; spell LAYER, LAYER:CHANNEL, LAYER:CHANNEL@ROW,COLUMN or logit:INDEX, "
                "and sums as A + 0.5*B; a difference is A + -1*B"
            )
        weight, name, index, position = found.groups()
        term = _term(name, index, position)
        if weight is not None:
            term = _number(weight) * term
        total = term if total is None else total + term
    assert total is not None
    return total


def _term(name: str, index: str | None, position: str | None) -> Objective:
    if index is None:
        return layer(name)
    if position is not None:
        return neuron(name, int(index), [int(p) for p in position[1:].split(",")] if position[1:] else None)
    return logit(int(index)) if name == "logit" else channel(name, int(index))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"objective: {text!r} is no number to multiply by") from error


def _exact(values: Tensor) -> Tensor:
    """`values` in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor) -> Tensor:
    """The mean `[N]` of `[N ...]`, which may have nothing but N."""
    return values.reshape(len(values), -1).mean(1)


def _axis(seen: Outputs, name: str, axis: int | None) -> int:
    """The axis of the channels: 1, the last of tokens `[N L C]` unless the picture is a series `[N C L]` itself."""
    tokens = seen[name].ndim == 3 and (IMAGE not in seen or seen[IMAGE].ndim != 3)
    return axis if axis is not None else -1 if tokens else 1


def _channel(seen: Outputs, name: str, index: int, axis: int | None) -> Tensor:
    """One channel `[N *positions]` of what the layer `name` returned."""
    activation, along = seen[name], _axis(seen, name, axis)
    if not 0 <= index < activation.shape[along]:
        raise ValueError(f"channel: {name!r} has {activation.shape[along]}, from 0 on, got {index}")
    return _exact(activation.select(along, index))


def mean_of(objectives: Sequence[Objective], seen: Outputs, share: float) -> Tensor:
    """The value `[N]` of each image: of one objective, or image i of objective i; times `share`."""
    if len(objectives) == 1:
        return share * objectives[0].value(seen)
    values = [
        objective.value({name: output[number : number + 1] for name, output in seen.items()})
        for number, objective in enumerate(objectives)
    ]
    return share * torch.cat(values)
