"""The copy in float64 that is examined in a module's place, and what it answers; refusals that say what would do."""

import copy
from collections.abc import Sequence
from operator import index
from types import TracebackType

import torch
from torch import Tensor, nn

ROOM = (
    2**16
)  # values that one batch of inputs or outputs holds at most: float64 convolutions unfold them many times over


def in_float64(module: nn.Module) -> nn.Module:
    """A frozen copy of `module` in float64 and eval mode, with its plain tensor attributes, which `.double()` leaves.

    Raises:
        ValueError: the module cannot be copied.
    """
    derived = {  # an old weight norm keeps a tensor with a history, which deepcopy refuses and its hook makes anew
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        specimen = copy.deepcopy(module, dict(derived))
    except Exception as error:  # whatever somebody's __deepcopy__ raises
        raise ValueError(
            f"module: {type(module).__name__} cannot be copied to float64 ({_line(error)}); "
            "give it without what it holds open"
        ) from error
    if any(p.device.type == "mps" for p in specimen.parameters()):
        specimen = specimen.cpu()  # no float64 there
    specimen = specimen.double().eval().requires_grad_(False)
    for part in specimen.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                object.__setattr__(part, name, value.detach().double())
    return specimen


def check_size(input_size: Sequence[int]) -> tuple[int, ...]:
    """`[C *spatial]` of one image.

    Raises:
        ValueError: it is not one channel count and one to three sides, each at least 1.
    """
    try:
        size = tuple(index(side) for side in input_size)
    except TypeError:
        size = ()
    if len(size) not in (2, 3, 4) or min(size) < 1:
        raise ValueError(
            f"input_size: must be channels and 1 to 3 spatial sides, each at least 1, such as (3, 64, 64), got {input_size}; "
            "of a generator with a dense layer, certify the part behind that layer"
        )
    return size


def respond(specimen: nn.Module, x: Tensor) -> Tensor:
    """What the specimen gives for `x` `[N C *spatial]`, in parts where the batch is large.

    Raises:
        ValueError: it does not run, gives no tensor `[N C *spatial]`, or values that are not finite.
    """
    with torch.no_grad():
        first = answered(specimen, x[:1])
        parts = x[1:].split(max(1, ROOM // max(x[0].numel(), first.numel())))
        return torch.cat([first, *(answered(specimen, part) for part in parts if len(part))])


def answered(specimen: nn.Module, x: Tensor) -> Tensor:
    """The output for one batch, checked; autograd follows it where `x` requires a gradient."""
    name = type(specimen).__name__
    try:
        y = specimen(x)
    except Exception as error:  # whatever somebody's forward raises
        raise ValueError(_refusal(specimen, x, error)) from error
    if not isinstance(y, Tensor):
        raise ValueError(f"module: {name} returns a {type(y).__name__}; wrap it so that it returns one tensor")
    if y.ndim != x.ndim or y.shape[0] != x.shape[0]:
        raise ValueError(
            f"module: {name} makes {list(y.shape)} of {list(x.shape)}, without the spatial axes of its input; "
            "certify the part that keeps them, before the pooling or the dense layer"
        )
    if not y.is_floating_point() or not y.isfinite().all():
        raise ValueError(f"module: {name} gives values that are not finite real numbers; look at its weights first")
    return y


def device_of(specimen: nn.Module) -> torch.device:
    """Where it computes; the CPU if it holds nothing."""
    held = next((t for t in (*specimen.parameters(), *specimen.buffers())), None)
    return torch.device("cpu") if held is None else held.device


def _refusal(specimen: nn.Module, x: Tensor, error: Exception) -> str:
    """One sentence: which layer stopped, why, and a size that would do."""
    size = tuple(x.shape[1:])
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error):
        return f"module: {type(specimen).__name__} at input_size {size} in float64 does not fit in memory; give a smaller one"
    layer = _layer_of(specimen, error.__traceback__)
    other = next((s for s in _other_sizes(size) if _runs(specimen, x, s)), None)
    remedy = f"it runs at input_size {other}" if other else "give input_size as [C *spatial] of one of its inputs"
    return (
        f"module: {type(specimen).__name__} does not run at input_size {size}, {layer} stops ({_line(error)}); {remedy}"
    )


def _layer_of(specimen: nn.Module, trace: TracebackType | None) -> str:
    """The innermost layer in a traceback, by its name."""
    names = {part: name for name, part in specimen.named_modules()}
    found = specimen
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            found = owner
        trace = trace.tb_next
    return f"its layer {names[found]!r} ({type(found).__name__})" if names[found] else "it"


def _other_sizes(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sides rounded up to powers of two that networks divide by, then the customary sides."""
    channels, *sides = size
    rounded = [(channels, *(-(-side // unit) * unit for side in sides)) for unit in (2, 4, 8, 16, 32, 64)]
    customary = [(channels, *[side] * len(sides)) for side in (64, 96, 128, 224)]
    return [other for other in (*rounded, *customary) if other != size]


def _runs(specimen: nn.Module, x: Tensor, size: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            specimen(x.new_zeros(1, *size))
    except Exception:  # any reason not to run is one
        return False
    return True


def _line(error: Exception) -> str:
    """The first line of an error's words."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
