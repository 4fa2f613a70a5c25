"""What goes between the host and a GPU that works through a queue of its own, without the host waiting for it.

A copy from memory that is not pinned waits for all that is queued before it; one to the host does, whatever the memory, unless it
is asked not to. On other devices a copy is a copy.
"""

import time

import torch
from torch import Tensor

Moment = float | torch.cuda.Event


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` of the host on `device`."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def fetched(x: Tensor) -> Tensor:
    """`x` on the host; from a GPU not before a `moment` after it has passed."""
    if x.device.type != "cuda":
        return x.cpu()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def moment(device: torch.device) -> Moment:
    """Now, in the order of the work of `device`."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: Moment, then: Moment) -> float:
    """The seconds from one moment to another, when that has passed."""
    if isinstance(first, torch.cuda.Event):
        then.synchronize()  # type: ignore[union-attr]  # both are of one device
        return first.elapsed_time(then) / 1000  # type: ignore[arg-type]
    return then - first  # type: ignore[operator]
