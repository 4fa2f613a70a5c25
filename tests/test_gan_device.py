"""What trains on a GPU neither waits for it nor takes anything from the host on the way; tested on tensors without values."""

import contextlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradlens.downsampling import DOWNSAMPLERS
from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.redesign.gan.augmentation import POLICIES, draw
from gradlens.redesign.gan.build import build
from gradlens.redesign.gan.config import LossName, TrainConfig
from gradlens.redesign.gan.device import between, fetched, moment, sent
from gradlens.redesign.gan.instruments import look, settle
from gradlens.redesign.gan.step import Pair, take_step
from gradlens.redesign.losses import LOSSES
from gradlens.spectra import signal
from gradlens.upsampling import UPSAMPLERS

CPU = torch.device("cpu")


class Mixed(TorchDispatchMode):
    """Notes operations between the host and the device, here "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            self.found.append(str(func))
        return result


def _configs() -> list[TrainConfig]:
    common: dict[str, Any] = {"resolution": 32, "width": 4, "latent": 8, "batch_size": 4}
    return [
        *(TrainConfig(loss=cast(LossName, loss), augment=POLICIES, **common) for loss in LOSSES),
        *(TrainConfig(upsampler=(word,), **common) for word in UPSAMPLERS),
        *(TrainConfig(downsampler=(word,), norm="batch", **common) for word in DOWNSAMPLERS),
        *(TrainConfig(generator=word, **common) for word in ("residual", "neutral")),
        TrainConfig(lattice_weight=1, spectrum_weight=1, **common),
    ]


@pytest.mark.parametrize("config", _configs(), ids=lambda c: f"{c.loss}, {c.label}")
def test_nothing_in_a_step_comes_from_the_host(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph may hold no copy from the host."""
    monkeypatch.setattr(signal, "_captured", lambda x: True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # "meta" has none
    generator, discriminator, _ = build(config)
    generator, discriminator, averaged = (n.to("meta") for n in (generator, discriminator, deepcopy(generator)))
    of_g, of_d = (torch.optim.SGD(n.parameters()) for n in (generator, discriminator))
    calls: dict[str, Callable[[Tensor], Tensor]] = {"generator": generator, "discriminator": discriminator}
    pair = Pair(generator, discriminator, averaged, of_g, of_d, calls)
    batch, steps, side = config.batch_size, LOSSES[config.loss].critic_steps, config.resolution
    draws = {
        f"{part}/{key}": values.to("meta")
        for part in [*(f"{of}/{k}" for of in ("real", "fake") for k in range(steps)), "generator"]
        for key, values in draw(batch, config.augment, (side, side), generator=torch.Generator()).items()
    }
    draws |= {
        "real": torch.empty(steps, batch, 3, side, side, dtype=torch.uint8, device="meta"),
        "keep": torch.empty((), device="meta"),
        "latents": torch.empty(steps, batch, 8, device="meta"), "mix": torch.empty(steps, batch, 1, 1, 1, device="meta"),
    }  # fmt: skip
    with Mixed() as mixed:
        take_step(pair, draws, config)
    assert mixed.found == []


def test_what_comes_from_the_host_would_be_seen() -> None:
    with Mixed() as mixed:
        torch.ones(2).to("meta")
    assert mixed.found == ["aten._to_copy.default"]


def test_looking_waits_for_nothing() -> None:
    """Tensors without values know shapes alone: what asks for a number fails."""
    generator, discriminator = StagedGenerator(32, latent=8, width=4), StagedDiscriminator(32, width=4)
    latents, periods = torch.randn(4, 8), (2, 4)
    look(generator, discriminator, latents, periods)  # what is computed once for a size has its values
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(latents)
        settle(generator, fake)
        seen = look(generator, discriminator, fake, periods)
    assert len(seen.contrasts) == 8


def test_settled_norms_have_the_statistics_of_all_parts_alike() -> None:
    network = StagedGenerator(8, latent=4, width=2)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    latents = torch.randn(3 * 64, 4)
    settle(network, latents)
    assert [norm.momentum for norm in norms] == [0.1]
    with torch.no_grad():
        parts = [network.fc(part).unflatten(1, (-1, 16)) for part in latents.split(64)]
    mean = torch.stack([part.mean((0, 2)) for part in parts]).mean(0)
    variance = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
    torch.testing.assert_close(norms[0].running_mean, mean)
    torch.testing.assert_close(norms[0].running_var, variance)


def test_on_a_cpu_a_copy_is_a_copy_and_a_moment_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([2.0, 5.5])
    monkeypatch.setattr("gradlens.redesign.gan.device.time.perf_counter", lambda: next(clock))
    x = torch.randn(3)
    assert sent(x, CPU) is x and fetched(x) is x
    assert between(moment(CPU), moment(CPU)) == 3.5
