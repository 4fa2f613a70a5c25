"""Running somebody's network: nothing of it is changed afterwards, and it is known which of its modules is at work."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode and give it and the random state back as they were."""
    modes = {module: module.training for module in model.modules()}
    cuda = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def at_work(names: Mapping[nn.Module, str]) -> str:
    """The name of the innermost module of `names` that is running, found in the call stack; "" outside of all.

    It serves functional calls as well as modules, and needs no hook.

    Args:
        names: the modules of a network, such as `{m: name for name, m in network.named_modules()}`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if "self" in frame.f_code.co_varnames[:1]:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and owner in names:
                return names[owner]
        frame = frame.f_back
    return ""
