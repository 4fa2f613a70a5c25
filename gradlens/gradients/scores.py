"""From what a network returns to one number an image: the score whose gradient is taken."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Score = Callable[[Any], Tensor]


def top_logit(output: Any) -> Tensor:
    """The largest logit of each image `[N]`; of a critic, whose output is one value or one map, that (mean) value.

    Args:
        output: what a network returned: a tensor, a tuple whose first is one, or a dictionary with `logits` or `out`.

    Raises:
        ValueError: it holds no clear logits, or several maps, as of a segmentation network.
    """
    return logits(output).amax(1)


def logits(output: Any) -> Tensor:
    """The logits `[N K]` in what a network returned; K is 1 for a critic.

    Raises:
        ValueError: as `top_logit`.
    """
    output = output_tensor(output)
    if output.ndim == 0:
        raise ValueError("score: the output is one number, not one for each image; give a score for it")
    if output.ndim == 1:
        return output[:, None]
    channels = output.shape[1]
    flat = output.flatten(2) if output.ndim > 2 else output[..., None]
    if channels > 1 and flat.shape[2] > 1:
        raise ValueError(
            f"score: the output {list(output.shape)} is {channels} maps, not logits; give a score for it, in Python score=..."
        )
    return flat.mean(2)


def output_tensor(output: Any) -> Tensor:
    """The logits in what a network returned: a tensor, the first of a tuple, or `logits` or `out` of a dictionary.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[k] for k in ("logits", "out") if isinstance(output.get(k), Tensor)]
        tensors = named or [v for v in output.values() if isinstance(v, Tensor)]
        if named or len(tensors) == 1:
            return tensors[0]
        raise ValueError(
            f"the model returns a dictionary with {', '.join(map(str, output))}; give a score that picks one"
        )
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ValueError(f"the model returns a {type(output).__name__}, not a tensor; give a score that picks one from it")
