"""The rules at work: what sees a network's calls, runs each as it is, and puts a switch into the backward pass."""

import difflib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradlens.geometry.tracing.calls import NAME, spatial_call
from gradlens.models import bare
from gradlens.modules import at_work
from gradlens.rules.gates import identity, smooth
from gradlens.rules.kinds import KINDS, kinds
from gradlens.rules.pools import average, l2, softmax
from gradlens.rules.rule import CONVOLUTION, RELUS, SPATIAL, WORDS, Linear, Met, Rule
from gradlens.rules.strided import blurred, equalised, held

NAMES: dict[str, Callable[[], Rule]] = {
    "average": average, "l2": l2, "softmax": softmax, "held": held, "blurred": blurred, "equalised": equalised,
    "smooth": smooth, "identity": identity,
}  # fmt: skip
OUTSIDE = "(network)"  # the layer of a call that no module but the network itself makes
EVERY = (*SPATIAL, *RELUS)
GATES: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", Tensor.relu: "relu", Tensor.relu_: "relu",
    F.relu6: "relu6", F.hardtanh: "relu6", F.leaky_relu: "leaky_relu", F.leaky_relu_: "leaky_relu",
}  # fmt: skip
GATE_SIGNATURES = {
    F.hardtanh: ("min_val", "max_val", "inplace"), F.leaky_relu: ("negative_slope", "inplace"),
    F.leaky_relu_: ("negative_slope",),
}  # fmt: skip
IN_PLACE = (torch.relu_, Tensor.relu_, F.leaky_relu_)
RELU = "relu"  # the kind of every ReLU


class Rules:
    """Replaces the backward pass of layers while it is entered; the forward pass is bit-identical.

    Calls of functions count as much as modules. What has run inside keeps its rules for every backward pass through it,
    also later and from another thread; `only` switches them off and on between two of them. Rules of several layers, and
    of nested blocks, add up: of two for the same pool or ReLU the inner one holds, of two for a convolution the outer one
    comes first.

    Args:
        model: any module; the layers of a `gradlens.models.Model` are named as in its network.
        rules: by selector. A selector is a layer's dotted name, which stands for every run of it (`name#2` for the second
            alone, `name#1` for the first), `(network)` for what no layer but the network itself calls, or a kind of
            `kinds`: `stem`, `shortcut`, `strided` (any size), `strided 3x3`, `pool`, `average pool`, `blur`, or `relu`
            for every ReLU. A layer with the name of a kind is reached as `name#1`. A rule is one of `NAMES`, a `Rule`,
            or a function as `Rule.answer` of one that comes after. Where two selectors mean one layer, the later one
            holds.

    Raises:
        ValueError: there is no such layer, kind or rule, the nearest names are told; while it runs, a layer for which
            its rule is not right; at the end of the block, a selector that met nothing.

    Source: ours.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, stride=2), nn.Flatten(), nn.Linear(4, 1))
        >>> image = torch.rand(1, 1, 4, 4, requires_grad=True)
        >>> with Rules(model, {"stem": "held"}):
        ...     (gradient,) = torch.autograd.grad(model(image).sum(), image)
        >>> bool((gradient[0, 0, 0, 0] == gradient[0, 0, 1, 1]) and gradient.ne(0).all())
        True
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, str | Rule | Callable[[Met], Linear]]) -> None:
        self._network = bare(model)
        self._names = {m: name or OUTSIDE for name, m in self._network.named_modules()}
        self._rules = {selector: _rule(given) for selector, given in rules.items()}
        for selector in self._rules:
            _check_selector(selector, self._names.values())
        self._switches: dict[str, WeakSet[Switch]] = {}
        self._mode: _Replacing | None = None
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that were replaced, in the order in which they ran; the second run of one is `name#2`."""
        return tuple(self._switches)

    def only(self, layers: Collection[str] | None) -> None:
        """From now on backward passes replace only `layers`, all of them for None.

        Args:
            layers: names as in `layers`; a bare name stands for that run alone.

        Raises:
            ValueError: a layer was not replaced when the network ran.
        """
        for name in layers or ():
            if name not in self._switches:
                raise ValueError(f"only: {name!r} is not among the replaced layers {', '.join(self._switches)}")
        for name, switches in self._switches.items():
            for switch in switches:
                switch.on = layers is None or name in layers

    def __enter__(self) -> "Rules":
        if self._mode is not None:
            raise RuntimeError("these rules are at work already")
        self._switches = {}
        self._mode = _Replacing(self._rules, self._names, self._switches)
        self._handle = self._network.register_forward_pre_hook(self._mode.begin, with_kwargs=True)
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._mode is not None
        assert self._handle is not None
        mode, self._mode = self._mode, None
        mode.__exit__(kind, error, trace)
        self._handle.remove()
        if error is None:
            mode.check_all_met()


def _unchanged(gradient: Tensor) -> Tensor:
    return gradient


@dataclass(eq=False)
class Switch:
    """Between a layer and its gradient: the true one passes, or, while `on`, what `linear` makes of it."""

    layer: str
    on: bool = True
    linear: Linear = _unchanged


class _Filtered(torch.autograd.Function):
    """Its argument; backwards, while the switch is on, the gradient is filtered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, switch: Switch) -> Tensor:
        ctx.switch = switch
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.switch.linear(gradient) if ctx.switch.on else gradient, None


class _Replaced(torch.autograd.Function):
    """What a layer made, `y`, of `x`; backwards either y's own way or, while the switch is on, another one to `x`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, switch: Switch) -> Tensor:
        ctx.switch = switch
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (None, ctx.switch.linear(gradient), None) if ctx.switch.on else (gradient, None, None)


@contextmanager
def _without_hooks(network: nn.Module) -> Iterator[None]:
    """`network` without what hooks in after its layers: a probe would record, or end, a run that is only a look."""
    kept = {module: module._forward_hooks for module in network.modules()}
    for module in kept:
        module._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for module, hooks in kept.items():
            module._forward_hooks = hooks


class _Replacing(TorchFunctionMode):
    """Sees every call of the network while it is entered.

    Args:
        rules: by selector.
        names: of the network's modules.
        switches: by layer; that of each call that is replaced is added.
    """

    def __init__(
        self, rules: Mapping[str, Rule], names: Mapping[nn.Module, str], switches: dict[str, WeakSet[Switch]]
    ) -> None:
        super().__init__()
        self.rules = rules
        self.names = names
        self.switches = switches
        self.kinds: dict[str, str] | None = None
        self.met: set[str] = set()
        self._runs: Counter[tuple[str, bool]] = Counter()
        self._looking = False

    def begin(self, network: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any]) -> None:
        """A forward pass begins: runs are counted anew, and kinds looked up where they are asked for and not known."""
        if self._looking:
            return
        self._runs.clear()
        if self.kinds is None and any(_is_kind(selector) and selector != RELU for selector in self.rules):
            self._looking = True
            try:
                image = next(x for x in (*inputs, *named.values()) if isinstance(x, Tensor))
                with _without_hooks(network):
                    self.kinds = kinds(network, tuple(image.shape[1:]))
            finally:
                self._looking = False

    def check_all_met(self) -> None:
        """Raise a ValueError that names a selector which met nothing, if there is one."""
        for selector, rule in self.rules.items():
            if selector not in self.met:
                what = " or ".join(dict.fromkeys(WORDS[kind] for kind in rule.kinds))
                raise ValueError(
                    f"rules: {selector!r} met no {what} for {rule.name!r} while the network ran{self._known()}"
                )

    def _known(self) -> str:
        """What there is to choose from, for a message."""
        if self.kinds:
            return f"; its layers are {', '.join(f'{name} ({kind})' for name, kind in self.kinds.items())}"
        return "; kinds are known only of a network that is called as a whole" if self.kinds is None else ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = _gate_kind(func, args, kwargs) or _spatial_kind(func)
        name = at_work(self.names) if kind and not self._looking else ""
        if not name:
            return func(*args, **kwargs)
        gate = kind in RELUS
        self._runs[name, gate] += 1
        run = self._runs[name, gate]
        layer = name if run == 1 else f"{name}#{run}"
        rule = self._rule(name, run, kind)
        if rule is None:
            return func(*args, **kwargs)
        switch = Switch(layer)
        self.switches.setdefault(layer, WeakSet()).add(switch)
        x, args, kwargs = _taken(args, kwargs)
        return (_gated if gate else _in_space)(func, kind, rule, switch, x, args, kwargs)

    def _rule(self, name: str, run: int, kind: str) -> Rule | None:
        """The rule of the last selector that means this run and is for this kind of layer."""
        chosen = None
        for selector, rule in self.rules.items():
            if kind in rule.kinds and self._means(selector, name, run, kind):
                self.met.add(selector)
                chosen = rule
        return chosen

    def _means(self, selector: str, name: str, run: int, kind: str) -> bool:
        if selector == RELU:
            return kind in RELUS
        if _is_kind(selector):
            its = (self.kinds or {}).get(name if run == 1 else f"{name}#{run}", "") if kind not in RELUS else ""
            return its == selector or its.startswith(f"{selector} ")
        base, _, number = selector.partition("#")
        return base == name and number in ("", str(run))


def _in_space(
    func: Any, kind: str, rule: Rule, switch: Switch, x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The call of a convolution or a pool, and its switch."""
    output = func(_Filtered.apply(x, switch) if rule.after else x, *args, **kwargs)
    call = spatial_call(func, (x, *args), kwargs, output)
    weight = kwargs.get("weight", args[0] if args else None) if kind == CONVOLUTION else None
    switch.linear = rule(Met(switch.layer, kind, x.detach(), call, None if weight is None else weight.detach()))
    if rule.after:
        return output
    if isinstance(output, Tensor):
        return _Replaced.apply(output, x, switch)
    return _Replaced.apply(output[0], x, switch), *output[1:]  # with its indices


def _gated(
    func: Any, kind: str, rule: Rule, switch: Switch, x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    """The call of a ReLU, in place or not, and its switch."""
    given = _gate_arguments(func, args, kwargs)
    slope = given.get("negative_slope", 0.01) if kind == "leaky_relu" else 0.0
    in_place = func in IN_PLACE or given.get("inplace", False)
    switch.linear = rule(Met(switch.layer, kind, (x.clone() if in_place else x).detach(), slope=slope))
    source = _Filtered.apply(x, switch) if rule.after else x
    output = func(source.clone() if in_place else source, *args, **kwargs)
    if not rule.after:
        output = _Replaced.apply(output, x, switch)
    return x.copy_(output) if in_place else output


def _taken(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Sequence[Any], dict[str, Any]]:
    """The input of a call, and its other arguments."""
    if args:
        return args[0], args[1:], dict(kwargs)
    return kwargs["input"], (), {name: value for name, value in kwargs.items() if name != "input"}


def _gate_kind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The kind of a ReLU, "" of any other function; `nn.ReLU6` is a hard tanh from 0 to 6."""
    if func is F.hardtanh:
        given = _gate_arguments(func, args[1:], kwargs)
        return "relu6" if (given.get("min_val"), given.get("max_val")) == (0, 6) else ""
    return GATES.get(func, "")


def _gate_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a ReLU but for its input, by name."""
    return dict(zip(GATE_SIGNATURES.get(func, ("inplace",)), args, strict=False)) | dict(kwargs)


def _spatial_kind(func: Any) -> str:
    """The kind of a convolution or pool, "" of any other function."""
    found = NAME.fullmatch(getattr(func, "__name__", ""))
    return found["family"] if found and found["family"] in SPATIAL else ""


def _is_kind(selector: str) -> bool:
    return selector in (*KINDS, RELU) or selector.startswith("strided ")


def _check_selector(selector: str, layers: Collection[str]) -> None:
    if _is_kind(selector) or selector.partition("#")[0] in layers:
        return
    near = difflib.get_close_matches(selector, [*KINDS, RELU, *layers], n=3, cutoff=0.3)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise ValueError(f"rules: the model has no layer or kind {selector!r}{hint}")


def _rule(given: str | Rule | Callable[[Met], Linear]) -> Rule:
    if isinstance(given, Rule):
        return given
    if callable(given):
        return Rule(getattr(given, "__name__", "it"), EVERY, given)
    if given not in NAMES:
        raise ValueError(f"rules: there is no rule {given!r}; there are {', '.join(NAMES)}")
    return NAMES[given]()
