"""Where a network shrinks or enlarges a map, and whether that place can be rebuilt.

A network is run once on real input while its calls of torch are watched: what a module does is known from the functions it
ends in, what feeds what from the tensors themselves. So a pair (a convolution and the shuffle of its output, a resize and the
convolution of what it gave) is one only if nothing stands between, however the network is written. Without an input only what
the modules themselves say is known: single layers, and pairs that follow each other in an `nn.Sequential`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from gradlens.modules import at_work, undisturbed

Kind = Literal["deconv", "subpixel", "resize", "strided", "maxpool"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
PADS = (
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.ReplicationPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
)  # fmt: skip
MAIN = ("conv", "max_pool", "shuffle", "interpolate", "pad")  # in the names of the functions that these end in
LEAVES = (*CONVOLUTIONS, *TRANSPOSED, *MAX_POOLS, *PADS, nn.PixelShuffle, nn.Upsample)


@dataclass(frozen=True)
class Site:
    """A place where a map is shrunk or enlarged.

    Attributes:
        name: the module that has the weights, or the pool, as in `named_modules()`.
        kind: "deconv", a transposed convolution; "subpixel", a convolution and the shuffle of what it gave; "resize", an
            `nn.Upsample` and the convolution after it; "strided", a convolution with a stride; "maxpool".
        modules: all modules of the place by name, in the order in which they run.
        refusal: why it cannot be rebuilt, in words; "" if it can.
        x: what the first of the modules was given, `[N C *spatial]`; None where the network was not run.
    """

    name: str
    kind: Kind
    modules: Mapping[str, nn.Module]
    refusal: str = ""
    x: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def layer(self) -> nn.Module:
        """The module of that name."""
        return self.modules[self.name]


@dataclass(frozen=True)
class Seen:
    """A call of one of the modules that matter: its first tensor and what came out."""

    name: str
    x: Tensor
    y: Tensor


class Watch(TorchFunctionMode):
    """The calls of torch that are made inside of leaf modules, in order."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.names = names
        self.modules = {name: module for module, name in names.items()}
        self.seen: list[Seen] = []
        self.by_hand: dict[int, tuple[str, Tensor]] = {}  # of a tensor, the function that made it outside of all layers
        self._padded: dict[int, Tensor] = {}
        self._readers: Counter[int] = Counter()
        self._kept: list[Tensor] = []  # a tensor that is kept keeps its id

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        called = getattr(func, "__name__", "")
        if called == "__get__":
            return result  # a shape that is asked for reads nothing
        given = (args, kwargs or {})
        self._readers.update({id(x) for x in _tensors(given)})
        name = at_work(self.names)
        if not isinstance(result, Tensor) or not any(main in called for main in MAIN):
            return result
        if not name:
            self.by_hand[id(result)] = called, next(_tensors(given))
            self._kept.append(result)
            return result
        x = next(_tensors(given))
        self._kept += [x, result]
        self._readers[id(result)] = 0  # the id may have been another tensor's
        if called == "pad" and isinstance(self.modules[name], CONVOLUTIONS):  # its own, by `padding_mode`
            self._padded[id(result)] = x
        else:
            self.seen.append(Seen(name, self._padded.get(id(x), x), result))
        return result

    def alone(self, call: Seen) -> bool:
        """Whether what a call gave was read by one call only."""
        return self._readers[id(call.y)] == 1


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def find(model: nn.Module, example: Tensor | None = None) -> list[Site]:
    """Every place where `model` shrinks or enlarges a map by a layer, in the order of the run (of `named_modules` without).

    Args:
        model: any module; left as it was found.
        example: `[N ...]`, what it takes, on its device; None for what modules alone say.

    Raises:
        ValueError: the model does not run on the example.

    Example:
        >>> model = nn.Sequential(nn.ConvTranspose2d(3, 2, 4, 2), nn.Conv2d(2, 4, 3), nn.PixelShuffle(2))
        >>> [(site.name, site.kind) for site in find(model, torch.rand(1, 3, 8, 8))]
        [('0', 'deconv'), ('1', 'subpixel')]
    """
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, LEAVES)}
    modules = {name: module for module, name in names.items()}
    if example is None:
        sites = list(_standing(model, modules))
        calls: Counter[str] = Counter()
    else:
        watch = _watched(model, example, names)
        calls = Counter(call.name for call in watch.seen)
        sites = list(_running(watch, modules))
    doubled = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    doubled.update(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return [replace(site, refusal=site.refusal or _refusal(site, calls, doubled)) for site in sites]


def _watched(model: nn.Module, example: Tensor, names: Mapping[nn.Module, str]) -> Watch:
    watch = Watch(names)
    with undisturbed(model), torch.no_grad():
        try:
            with watch:
                model(example)
        except Exception as error:  # a network raises what it likes
            raise ValueError(f"example: the model does not run on {list(example.shape)}: {error}") from error
    return watch


def _running(watch: Watch, modules: Mapping[str, nn.Module]) -> Iterable[Site]:
    """The sites of a run: pairs by the tensors that they hand on."""
    found: dict[str, Site] = {}
    taken: set[str] = set()
    given = {id(call.y): call for call in watch.seen}

    def before(call: Seen) -> Seen | None:
        ahead = given.get(id(call.x))
        return ahead if ahead is not None and watch.alone(ahead) else None

    shuffled = {id(x): called for called, x in watch.by_hand.values() if "shuffle" in called}
    for call in watch.seen:
        module = modules[call.name]
        called, _ = watch.by_hand.get(id(call.x), ("", None))
        if isinstance(module, CONVOLUTIONS) and ("interpolate" in called or id(call.y) in shuffled):
            kind, what = ("resize", called) if called else ("subpixel", shuffled[id(call.y)])
            refusal = f"{what} is called by hand in the forward pass; put a layer there (nn.Upsample, nn.PixelShuffle)"
            found[call.name] = Site(call.name, kind, {call.name: module}, refusal, call.x)
        elif isinstance(module, nn.PixelShuffle):
            ahead = before(call)
            if ahead is not None and isinstance(modules[ahead.name], CONVOLUTIONS):
                pair = {ahead.name: modules[ahead.name], call.name: module}
                found[ahead.name] = Site(ahead.name, "subpixel", pair, x=ahead.x)
                taken.add(ahead.name)
            else:
                found[call.name] = Site(
                    call.name, "subpixel", {call.name: module}, "no convolution alone feeds the shuffle", call.x
                )
        elif isinstance(module, CONVOLUTIONS):
            chain = {call.name: module}
            ahead = before(call)
            if ahead is not None and isinstance(modules[ahead.name], PADS):
                chain = {ahead.name: modules[ahead.name], **chain}
                ahead = before(ahead)
            if ahead is not None and isinstance(modules[ahead.name], nn.Upsample):
                found.setdefault(
                    call.name,
                    Site(call.name, "resize", {ahead.name: modules[ahead.name], **chain}, x=ahead.x),
                )
            elif call.name not in taken:
                for site in _single(call.name, module, call.x):
                    found.setdefault(call.name, site)
        else:
            for site in _single(call.name, module, call.x):
                found.setdefault(call.name, site)
    yield from found.values()


def _standing(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterable[Site]:
    """The sites that modules tell: pairs are neighbours in an `nn.Sequential`."""
    pairs: dict[str, Site] = {}
    for path, parent in model.named_modules():
        if isinstance(parent, nn.Sequential):
            named = [(f"{path}.{child}" if path else child, module) for child, module in parent.named_children()]
            for (one, first), (two, second) in pairwise(named):
                if isinstance(first, CONVOLUTIONS) and isinstance(second, nn.PixelShuffle):
                    pairs[one] = Site(one, "subpixel", {one: first, two: second})
                elif isinstance(first, nn.Upsample) and isinstance(second, CONVOLUTIONS):
                    pairs[two] = Site(two, "resize", {one: first, two: second})
    for name, module in modules.items():
        yield from [pairs[name]] if name in pairs else _single(name, module, None)


def _single(name: str, module: nn.Module, x: Tensor | None) -> Iterable[Site]:
    if isinstance(module, TRANSPOSED):
        yield Site(name, "deconv", {name: module}, x=x)
    elif isinstance(module, CONVOLUTIONS) and max(module.stride) > 1:
        yield Site(name, "strided", {name: module}, x=x)
    elif isinstance(module, MAX_POOLS) and max(_sides(module.stride)) > 1:
        yield Site(name, "maxpool", {name: module}, x=x)


def _sides(value: int | Sequence[int]) -> Sequence[int]:
    return [value] if isinstance(value, int) else value


def _refusal(site: Site, calls: Mapping[str, int], doubled: Mapping[int, int]) -> str:
    """What about the modules of a site forbids surgery."""
    for name, module in site.modules.items():
        if calls.get(name, 1) > 1:
            return f"{name} runs {calls[name]} times in one forward pass"
        if doubled[id(module)] > 1:
            return f"{name} stands in the model under more than one name"
        if any(doubled[id(p)] > 1 for p in module.parameters(recurse=False)):
            return f"{name} shares a parameter with another layer"
        if parametrize.is_parametrized(module):
            return f"{name} has parametrizations; remove them (torch.nn.utils.parametrize.remove_parametrizations)"
        if _hooked(module):
            return f"{name} has hooks (spectral_norm and weight_norm of old are some); remove them"
        if type(module) not in LEAVES:
            return f"{name} is a {type(module).__name__} with a forward pass of its own"
    return ""


def _hooked(module: nn.Module) -> bool:
    return any(
        getattr(module, kind)
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )
