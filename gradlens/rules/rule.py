"""What a rule is: told of a layer that runs, it answers with a linear map of gradients."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gradlens.geometry.tracing.calls import Call

Linear = Callable[[Tensor], Tensor]

CONVOLUTION, AVERAGE_POOLS = "conv", ("avg_pool", "adaptive_avg_pool")
MAX_POOLS = ("max_pool", "adaptive_max_pool")
SPATIAL = (CONVOLUTION, *AVERAGE_POOLS, *MAX_POOLS)
RELUS = ("relu", "relu6", "leaky_relu")
WORDS = {
    "conv": "convolution", "avg_pool": "average pool", "adaptive_avg_pool": "average pool", "max_pool": "max-pool",
    "adaptive_max_pool": "max-pool", "relu": "ReLU", "relu6": "ReLU", "leaky_relu": "ReLU",
}  # fmt: skip


class RefusalError(ValueError):
    """A rule cannot do a layer right; `layer` is its name."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"rules: layer {layer!r} {why}")
        self.layer = layer
        self.why = why


@dataclass(frozen=True)
class Met:
    """A layer that runs, as a rule is told of it.

    Attributes:
        layer: its name, `name#2` where it runs again.
        kind: `conv`, `max_pool`, `avg_pool`, with `adaptive_` before a pool's, `relu`, `relu6` or `leaky_relu`.
        x: its input, detached; `[N C *spatial]` of a spatial layer.
        call: kernel, stride, padding and sizes of a spatial layer, None of a ReLU.
        weight: of a convolution, detached.
        slope: of a leaky ReLU.
    """

    layer: str
    kind: str
    x: Tensor
    call: Call | None = None
    weight: Tensor | None = None
    slope: float = 0.0

    @property
    def geometry(self) -> Call:
        """`call` of a layer that has one."""
        assert self.call is not None
        return self.call

    def refusal(self, why: str) -> RefusalError:
        """That a rule cannot do this layer right."""
        return RefusalError(self.layer, why)


@dataclass(frozen=True)
class Rule:
    """A replacement for layers of `kinds`: `answer` is asked each time that one runs.

    It returns a linear map to the gradient with respect to the layer's input `[N C *spatial]`: from the true one if the
    rule comes `after` the layer's own backward pass, else from the gradient with respect to the layer's output.

    Raises:
        ValueError: it is for convolutions and does not come after; their parameters would have no gradient.
    """

    name: str
    kinds: tuple[str, ...]
    answer: Callable[[Met], Linear]
    after: bool = True

    def __post_init__(self) -> None:
        if CONVOLUTION in self.kinds and not self.after:
            raise ValueError(f"rule {self.name!r}: one for convolutions must come after their own backward pass")

    def __call__(self, met: Met) -> Linear:
        return self.answer(met)
