"""What a strided layer is in its network: its stem, a shortcut, a pool, or one of the others."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from gradlens.geometry.layers import by_axis
from gradlens.geometry.tracing import Trace, trace
from gradlens.geometry.tracing.tracer import INPUT, Step
from gradlens.models import bare
from gradlens.rules.rule import AVERAGE_POOLS, CONVOLUTION, MAX_POOLS, SPATIAL

KINDS = ("stem", "shortcut", "strided", "pool", "average pool", "blur")  # of layers; those with a size begin so
UNSTRIDED_POOL = "pool of stride 1"
OTHER = "other"  # writes a period in a way for which there is no rule


def kinds(model: nn.Module, input_size: Sequence[int]) -> dict[str, str]:
    """The layers of `model` that can write a period into its input gradient, and max-pools; each one's kind, in order.

    - `stem`: a strided convolution that no strided layer comes before.
    - `shortcut`: one whose kernel is at most its stride and whose map is added to, or put beside, that of a longer path
      from the same map, as the 1x1 of stride 2 of a residual network.
    - `blur`: one with fixed taps, as a blur-pool's.
    - `strided 3x3`: any other, by its kernel.
    - `pool`: a max-pool; `pool of stride 1`, though it writes no period.
    - `average pool`: one with a stride.
    - `other`: what strides in another way (`x[:, :, ::2]`, pixel unshuffle, a resize); there is no rule for it.

    Args:
        model: any module; it is run once, on tensors without data where it can be.
        input_size: `[C *spatial]` of one image.

    Returns:
        Kinds by layer, the second convolution or pool that a module runs as `name#2`, one of `other` with its operation, as
        `name (pixel_unshuffle)`; empty for a network that never shrinks a map.

    Raises:
        ValueError: as `gradlens.geometry.trace`.

    Example:
        >>> kinds(nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.MaxPool2d(2)), (3, 32, 32))
        {'0': 'stem', '2': 'pool'}
    """
    run = trace(bare(model), input_size)
    runs: Counter[str] = Counter()
    found = {}
    for step in run.steps:
        layer = f"{step.module} ({step.call.kind})"
        if step.call.kind in SPATIAL:  # a step of another kind is no run that a rule could mean
            runs[step.module] += 1
            layer = step.module if runs[step.module] == 1 else f"{step.module}#{runs[step.module]}"
        if kind := _kind(run, step):
            found[layer] = kind
    return found


def _kind(run: Trace, step: Step) -> str:
    """The kind of `step`, "" for one that writes no period."""
    call = step.call
    spatial = any(value is not None for period in run.periods(step, "backward") for value in period)
    if call.kind in MAX_POOLS and call.direction != "up" and spatial and max(call.kernel) > 1:
        return "pool" if call.direction == "down" else UNSTRIDED_POOL
    if not run.written(step, "backward"):
        return ""
    if call.kind in AVERAGE_POOLS:
        return "average pool"
    if call.kind != CONVOLUTION:
        return OTHER
    if step.even is not None:
        return "blur"
    if _is_shortcut(run, step):
        return "shortcut"
    if not any(run.steps[i].call.direction == "down" for i in _before(run, step.sources)):
        return "stem"
    return f"strided {by_axis(call.kernel).replace(' ', '')}"


def _is_shortcut(run: Trace, step: Step) -> bool:
    """Whether the way over `step` is the short one of two from the same map, and reads no pixel twice."""
    if any(k > s for k, s in zip(step.call.kernel, step.call.stride, strict=True)):
        return False
    for meeting in run.meetings:
        if frozenset([step.index]) in meeting.branches:
            others = (branch for branch in meeting.branches if branch != frozenset([step.index]))
            if any(step.sources == run.steps[i].sources for b in others for i in _before(run, b) - {step.index}):
                return True
    return False


def _before(run: Trace, sources: frozenset[int]) -> set[int]:
    """The steps among `sources` and all that feed them."""
    found: set[int] = set()
    waiting = [i for i in sources if i != INPUT]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += [j for j in run.steps[i].sources if j != INPUT]
    return found
