"""A network run on distributions: every real tensor is a mean, and a shadow of its storage holds standard deviations.

Views, slices and writes into slices need no rule: they reach the shadow as they reach the storage. What mixes positions
makes entries that count as independent of each other. What acts on each entry by itself is followed back to where it
started, so that x * sigmoid(x), x + x or a leaky ReLU written by hand are functions of one variable. Deviations are
carried instead of energies, and scaled before they are squared: they overflow or vanish only where activations do.
Source: ours; mean and variance through layers are Frey and Hinton's 1999 and Gast and Roth's 2018.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from gradlens.modules import at_work

aten = torch.ops.aten


class Moment(NamedTuple):
    """Means and standard deviations of the entries of a tensor; no deviations where it is constant."""

    mean: Tensor
    deviation: Tensor | None

    @property
    def spread(self) -> Tensor:
        """Deviations, 0 where it is constant."""
        return torch.zeros_like(self.mean) if self.deviation is None else self.deviation


@dataclass(frozen=True)
class Origin:
    """The variable that a tensor is a function of, entry by entry: where it lies, its moment, and the function."""

    place: tuple[Any, ...]
    moment: Moment
    value: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stretch:
    """What a tensor was resized from: independent entries, a matrix along each axis, and the factors of a nearest resize."""

    deviation: Tensor
    maps: tuple[Tensor, ...]
    hold: tuple[int, ...] | None = None


@dataclass
class _Shadow:
    """Deviations of all entries of a storage: none for masks and indices, which depend on data and have no moments."""

    deviation: Tensor | None
    geometry: tuple[Any, ...] = ()
    origin: Origin | None = None
    stretch: Stretch | None = None
    writes: int = 0


Rule = Callable[["Moments", Any, tuple[Any, ...], dict[str, Any]], Any]


class Moments(TorchDispatchMode):
    """Run a network inside to carry moments through it.

    Args:
        rules: one for each operation, by its overload packet: (moments, operation, arguments, keywords) to its result.
        pointwise: the rule of every other operation that acts on each entry by itself.
        names: the network's modules, for errors.
    """

    def __init__(self, rules: Mapping[Any, Rule], pointwise: Rule, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self._rules, self._pointwise, self._names = rules, pointwise, names
        self._shadows = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        carried = self.carriers((args, kwargs)) or func.overloadpacket in DRAWS
        aliases = func.is_view or func.overloadpacket in ALIASES or torch.Tag.inplace_view in func.tags
        if aliases or not carried:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._in_place(func, args, kwargs)
        return self._rule(func)(self, func, args, kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled in here, and torch would import its compiler for seconds to make sure."""
        return False

    def carriers(self, tree: Any) -> list[Tensor]:
        """The tensors among arguments that depend on what the network was given."""
        return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.untyped_storage() in self._shadows]

    def read(self, x: Tensor) -> Moment:
        """The moment of a tensor.

        Raises:
            NotImplementedError: `x` is another view of bytes than that in which it was written, as of complex numbers.
        """
        shadow = self._shadows.get(x.untyped_storage())
        if shadow is None or shadow.deviation is None:
            return Moment(x, None)
        if shadow.deviation.dtype != x.dtype:
            raise self.unruled(f"a view of {shadow.deviation.dtype} as {x.dtype}")
        return Moment(x, shadow.deviation.as_strided(x.shape, x.stride(), x.storage_offset()))

    def write(
        self, mean: Tensor, deviation: Tensor | None, *, origin: Origin | None = None, stretch: Stretch | None = None
    ) -> Tensor:
        """`mean` as a tensor that carries deviations."""
        flat = None if deviation is None else mean.new_zeros(_capacity(mean))
        self._shadows[mean.untyped_storage()] = _Shadow(flat, _geometry(mean), origin, stretch)
        if deviation is not None:
            self.read(mean).spread.copy_(deviation)
        return mean

    def origin(self, x: Tensor) -> Origin:
        """What `x` is a function of, entry by entry: itself, if nothing else is known."""
        shadow = self._shadows[x.untyped_storage()]
        known = shadow.origin
        if known is not None and shadow.geometry == _geometry(x) and known.place == self._place(known.moment.mean):
            return known
        return Origin(self._place(x), self.read(x), lambda value: value)

    def stretch(self, x: Tensor) -> Stretch | None:
        """The resize that `x` came from, if nothing that matters to it lies between."""
        shadow = self._shadows.get(x.untyped_storage())
        return shadow.stretch if shadow is not None and shadow.geometry == _geometry(x) else None

    def unruled(self, what: Any) -> NotImplementedError:
        """The error of an operation without a rule."""
        name = at_work(self._names)
        return NotImplementedError(
            f"model: no rule for the energy of {what} in the forward pass of {repr(name) if name else 'the network itself'}"
        )

    def _rule(self, func: Any) -> Rule:
        rule = self._rules.get(func.overloadpacket)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = self._pointwise
        if rule is None:
            raise self.unruled(func)
        return rule

    def _place(self, x: Tensor) -> tuple[Any, ...]:
        storage = x.untyped_storage()
        shadow = self._shadows.get(storage)
        return id(storage), shadow.writes if shadow else 0, _geometry(x)

    def _in_place(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """An operation that overwrites its first argument: its value by the operation that does not, copied there."""
        packet, target = func.overloadpacket, args[0]
        if packet in OVERWRITES:
            moment = OVERWRITES[packet](self, *args, **kwargs)
        else:
            pure = getattr(getattr(aten, packet.__name__.removesuffix("_"), None), func._overloadname, None)
            if pure is None or pure._schema.is_mutable:
                raise self.unruled(func)
            moment = self.read(self._rule(pure)(self, pure, args, kwargs))
        storage = target.untyped_storage()
        shadow = self._shadows.get(storage)
        if shadow is None or shadow.deviation is None:
            shadow = self._shadows[storage] = _Shadow(target.new_zeros(_capacity(target)))
        target.copy_(moment.mean)
        self.read(target).spread.copy_(moment.spread)
        shadow.geometry, shadow.origin, shadow.stretch = (), None, None
        shadow.writes += 1
        return target


def _capacity(x: Tensor) -> int:
    """How many entries the storage of `x` has."""
    return x.untyped_storage().nbytes() // x.element_size()


def _geometry(x: Tensor) -> tuple[Any, ...]:
    return tuple(x.shape), x.stride(), x.storage_offset()


def _copied(moments: Moments, target: Tensor, source: Tensor, non_blocking: bool = False) -> Moment:
    return Moment(*(t.to(target).expand_as(target).clone() for t in (source, moments.read(source).spread)))


def _filled(moments: Moments, target: Tensor, value: Any = 0) -> Moment:
    if moments.carriers(value):
        raise moments.unruled("fill_ with a value that depends on data")
    return Moment(torch.full_like(target, float(value)), None)


def _normal(moments: Moments, target: Tensor, mean: float = 0, std: float = 1, **_: Any) -> Moment:
    return Moment(torch.full_like(target, mean), torch.full_like(target, std))


def _uniform(moments: Moments, target: Tensor, low: float = 0, high: float = 1, **_: Any) -> Moment:
    return _normal(moments, target, (low + high) / 2, (high - low) / 12**0.5)


def _coin(moments: Moments, target: Tensor, p: float = 0.5, **_: Any) -> Moment:
    return _normal(moments, target, p, (p * (1 - p)) ** 0.5)


ALIASES = {aten._unsafe_view, aten.lift_fresh}  # they share storage, though their schema does not say so
DRAWS = {aten.randn, aten.randn_like, aten.rand, aten.rand_like, aten.normal_, aten.uniform_, aten.bernoulli_}
OVERWRITES: dict[Any, Callable[..., Moment]] = {
    aten.copy_: _copied,
    aten.zero_: _filled,
    aten.fill_: _filled,
    aten.normal_: _normal,
    aten.uniform_: _uniform,
    aten.bernoulli_: _coin,
}
