"""Energy propagation through the backward pass: where the energy of an input gradient will lie.

One ordinary forward pass on noise sets gates, masks and routes. Then autograd's own backward pass runs with an `Energy` in
place of the gradient, and every operation that it calls squares what multiplies it: e = (M * M)^T 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from gradlens.geometry.energy.rules import RULES
from gradlens.geometry.energy.tensor import Energy, NoRuleError
from gradlens.modules import at_work, undisturbed

TOPS = 6  # noise images on which the top logit is looked up, to see whether they share it


def backward_energy(
    model: nn.Module, input_size: Sequence[int], *, seed: int = 0, score: Literal["random", "top"] = "random"
) -> Tensor:
    """Predicted energy at each position of the input gradient.

    "random" asks for a score in a random direction, another for each image: every entry of every floating-point output
    counts 1, and the energies of the outputs are added. "top" asks for `gradlens.gradients.top_logit`: where images share
    their top logit, as those of most untrained networks do, what reaches all positions with the same sign is added with
    its sign before it is squared. One direction paints one pattern into every image.

    Range: [0, inf), mean 1.
    Blind to: the sign of what passes; correlation between weights, which is what training adds.

    Args:
        model: any module that maps `[1 *input_size]` to a tensor, or to tuples, lists and dicts of tensors.
        input_size: `[C *spatial]` of one image, no batch.
        seed: of the noise image that sets gates, ReLU masks and pool routes.
        score: whose gradient; "top" looks the largest logit up on six noise images; of a critic it is the mean output.

    Returns:
        `[*spatial]`, summed over channels, float64 on the CPU.

    Raises:
        ValueError: the model cannot run at that size, returns no tensor that depends on its input, or lets no energy
            reach it; `score` is unknown, or is "top" where the model returns several maps.
        NotImplementedError: the backward pass meets an operation without a rule; the operation and its module are named.

    Source: ours.

    Example:
        >>> energy = backward_energy(nn.Conv2d(1, 1, 2, stride=2), (1, 8, 8))
        >>> energy.shape, round(energy.mean().item(), 6)
        (torch.Size([8, 8]), 1.0)
    """
    if not input_size or any(side < 1 for side in input_size):
        raise ValueError(f"input_size: must be [C *spatial] of positive sides, got {list(input_size)}")
    if score not in ("random", "top"):
        raise ValueError(f'score: must be "random" or "top", got {score!r}')
    origins = _Origins({module: name for name, module in model.named_modules()})
    with undisturbed(model), torch.enable_grad():
        image, *others = _noise(model, input_size, seed, TOPS if score == "top" else 1)
        image.requires_grad_()
        with sdpa_kernel(SDPBackend.MATH), origins:
            drawn = [list(_tensors(_run(model, image)))]
        with torch.no_grad():
            drawn += [list(_tensors(_run(model, other))) for other in others]
        draws = [d for d in zip(*drawn, strict=True) if d[0].requires_grad]
        outputs = [d[0] for d in draws]
        if not outputs:
            raise ValueError("model: returns no floating-point tensor that depends on its input")
        gradients = [_gradient(d, score) for d in draws]
        try:
            (energy,) = torch.autograd.grad(outputs, image, gradients, allow_unused=True)
        except NoRuleError as error:
            raise NotImplementedError(
                f"model: no rule for the energy of {error.operation} in the backward pass of {origins.of(error.node)}"
            ) from error
    if not isinstance(energy, Energy):
        raise ValueError("model: no gradient of its output reaches its input")
    return _map(energy)


class _Origins(TorchFunctionMode):
    """Notes which module made each node of autograd's graph."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self._names = names
        self._nodes: dict[Any, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t.grad_fn for t in _tensors(result) if t.grad_fn is not None and t.grad_fn not in self._nodes]
        if made:
            name = at_work(self._names)
            while made:
                node = made.pop()
                self._nodes[node] = name
                made += [n for n, _ in node.next_functions if n is not None and n not in self._nodes]
        return result

    def of(self, node: Any) -> str:
        """The module that made a node, in words."""
        name = self._nodes.get(node, "")
        return f"{name!r}" if name else "the network itself"


def _run(model: nn.Module, image: Tensor) -> Any:
    """What the model returns."""
    try:
        return model(image)
    except Exception as error:  # a network fails in its own way at a size that it was not made for
        layer = _failed_in(error, {module: name for name, module in model.named_modules()})
        raise ValueError(
            f"input_size: {list(image.shape[1:])} does not run through {layer}; give the size that the network is made "
            f"for ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _failed_in(error: Exception, names: Mapping[nn.Module, str]) -> str:
    """The innermost module that was running when the error was raised, in words."""
    name, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            name = names[owner]
        trace = trace.tb_next
    return repr(name) if name else "the network itself"


def _noise(model: nn.Module, input_size: Sequence[int], seed: int, count: int) -> list[Tensor]:
    """Standard normal images `[1 *input_size]` as the model's parameters are."""
    place = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *input_size, generator=generator).to(place) for _ in range(count)]


def _gradient(draws: Sequence[Tensor], score: str) -> Energy:
    """The gradient of the score with respect to an output, of which further images are at hand for the top logit.

    With n_k of K images that have logit k on top, two different images share it with probability n_k (n_k - 1) / K (K - 1):
    that is the energy of the mean; the rest of n_k / K is variance.
    """
    output = draws[0].detach()
    dtype = torch.promote_types(output.dtype, torch.float32)
    if score == "random":
        return Energy(torch.ones_like(output, dtype=dtype), 0, output.dtype, RULES)
    maps = [draw.detach().flatten(2) if draw.ndim > 2 else draw.detach().view(1, -1, 1) for draw in draws]
    shape = maps[0].shape
    if shape[1] > 1 and shape[2] > 1:
        raise ValueError(f'score: "top" needs logits, the output {list(output.shape)} is several maps; use "random"')
    tops = torch.stack([m.mean(2)[0].argmax() for m in maps]).bincount(minlength=shape[1]).to(dtype)
    shared = tops * (tops - 1) / (len(maps) * (len(maps) - 1))
    rest = (tops / len(maps) - shared)[:, None].expand(shape).reshape(output.shape)
    mean = shared.sqrt().to(output.dtype)[:, None].expand(shape).reshape(output.shape)
    return Energy(rest, 0, output.dtype, RULES).about(mean, 0, 1)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every floating-point tensor in `value`, which may be nested in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _map(energy: Energy) -> Tensor:
    """`[*spatial]` of mean 1."""
    values = energy.variance
    if energy.expected is not None:
        values = energy.plus(energy.expected.to(values.dtype).square(), 2 * energy.expected_exponent).variance
    total = values.detach().double().cpu().sum((0, 1)).clamp(min=0)
    mean = total.mean()
    if not 0 < mean < torch.inf:
        raise ValueError(
            f"model: the energy that reaches its input is {float(mean):g} on average, which has no map; is a layer on "
            "the way, such as the last, initialised to zero?"
        )
    return total / mean
