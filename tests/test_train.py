"""Training a GAN: a run goes on bit for bit, leaves the process alone, takes the user's networks, and processes are one."""

import json
import random
import signal
import sys
import threading
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradlens import models
from gradlens.console import plain
from gradlens.redesign import train
from gradlens.redesign.gan import checkpoint, loop, outcome
from gradlens.redesign.gan.config import TrainConfig
from gradlens.redesign.gan.normalisation import SyncedBatchNorm, synchronised
from gradlens.redesign.gan.outcome import Ended
from gradlens.redesign.gan.run import Progress
from gradlens.redesign.losses import LOSSES
from gradlens.results import Results
from tests.gans import begun, images, tiny, trained

ROOT = Path(__file__).parents[1]
CLOCKED = {"trained", "resumed", "log/images_per_second"}  # of a state: not of the weights


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run without its measurements, which take seconds."""

    def facts(run: Ended) -> Results:
        return Results(outcome.pd.DataFrame(), dict(run.logged), {"partial": not run.finished, "steps": run.step})

    monkeypatch.setattr(loop, "outcome", facts)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], but: set[str] = CLOCKED) -> None:
    assert one.keys() == other.keys()
    for key in one.keys() - but:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0, equal_nan=True, msg=key)


# Going on


KINDS: dict[str, dict[str, Any]] = {
    **{loss: {"loss": loss} for loss in LOSSES},
    "augmentation": {"augment": ("colour", "flip", "translation", "cutout")},
    "spectral losses": {"lattice_weight": 0.5, "spectrum_weight": 0.1},
    "batch norm": {"norm": "batch", "upsampler": ("deconv:5",)},
    "residual": {"generator": "residual", "upsampler": ("subpixel", "resize:5"), "norm": "none"},
    "neutral": {"generator": "neutral"},
    "held": {"upsampler": ("hold_b", "pixeldcl"), "downsampler": ("hold",), "first": "blur"},
    "bfloat16": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_resumed_is_the_uninterrupted_one_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config = tiny(**KINDS[kind], steps=5, save_every=3)
    whole = trained(config).state()
    trained(replace(config, steps=3), tmp_path)
    resumed = trained(config, tmp_path, resume=True)
    assert resumed.resumed == [3]
    assert len(whole["log/step"]) < len(resumed.state()["log/step"])  # the first part ended, and looked, at step 3
    for key, values in resumed.state().items():
        if key.startswith("log/") and key not in CLOCKED:
            rows = [n for n, step in enumerate(resumed.state()["log/step"].tolist()) if step != 3]
            torch.testing.assert_close(values[rows], whole[key], rtol=0, atol=0, equal_nan=True, msg=key)
    strips = {"strip/step", "strip/samples"}
    assert_same(_without_log(resumed.state()), _without_log(whole), CLOCKED | strips)


def _without_log(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("log/")}


def test_a_run_that_is_stopped_goes_on_with_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    """Stopped between two measurements, as Ctrl-C does: nothing is looked at that would not have been."""
    config = tiny(steps=6, log_every=2, save_every=6)
    whole = trained(config)
    stopped = begun(config, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert stopped.go(None, lambda: stopped.step == 3) is False
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000003"]
    resumed = trained(config, tmp_path, resume=True)
    assert_same(resumed.state(), whole.state())
    assert resumed.resumed == [3] and resumed.state()["log/step"].tolist() == [0, 2, 4, 6]


def test_networks_with_dropout_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They draw from the global generator, whose state a checkpoint holds."""
    factories(tmp_path, monkeypatch)
    config = tiny(discriminator="own:forgetful", discriminator_args={"share": 0.5}, steps=6, save_every=3, log_every=3)

    def states(folder: Path, *, stop: int | None) -> dict[str, Tensor]:
        run = begun(config, folder)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            run.go(None, lambda: run.step == stop)
            return run.state()

    whole = states(tmp_path / "whole", stop=None)
    states(tmp_path / "cut", stop=3)
    resumed = begun(config, tmp_path / "cut")
    with torch.random.fork_rng():
        resumed.restore(checkpoint.load(checkpoint.newest(tmp_path / "cut")).state)
        resumed.go(None, lambda: False)
        now = resumed.state()
    assert_same(now, whole)


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    folders = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trained(tiny(seed=seed), tmp_path / name)
        folders.append(tmp_path / name / "checkpoints" / "step-00000004")
    for file in ("generator.safetensors", "discriminator.safetensors", "README.md"):
        one, other, third = ((folder / file).read_bytes() for folder in folders)
        assert one == other != third, file


def test_the_log_says_what_the_instruments_saw_and_nothing_they_do_changes_a_weight() -> None:
    often, seldom = trained(tiny(steps=6, log_every=1)), trained(tiny(steps=6, log_every=6))
    for network, other in (
        (often.pair.generator, seldom.pair.generator),
        (often.pair.discriminator, seldom.pair.discriminator),
    ):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in network.state_dict().items())
    assert often.logged()["step"].tolist() == list(range(7))
    assert seldom.logged()["step"].tolist() == [0, 6]
    for name, column in seldom.logged().items():
        if name != "images_per_second":
            np.testing.assert_array_equal(column, often.logged()[name][[0, 6]], name)
    assert np.isnan(often.logged()["loss_generator"]).tolist() == [True] + [False] * 6


# What is left alone


def test_a_run_leaves_the_process_as_it_found_it(unmeasured: None, tmp_path: Path) -> None:
    def circumstances() -> list[Any]:
        return [
            torch.get_rng_state().tolist(), random.getstate(), torch.get_num_threads(),
            torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
            signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), threading.active_count(),
            sorted(tmp_path.iterdir()), torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
        ]  # fmt: skip

    torch.manual_seed(5)
    before = circumstances()
    given = images()
    copy = given.clone()
    train(tiny(), images=given)
    assert circumstances() == before
    assert torch.equal(given, copy)

    def fails(progress: Progress) -> None:
        raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback"):
        train(tiny(), fails, images=given)
    assert circumstances() == before


def test_the_state_of_the_process_decides_nothing(unmeasured: None) -> None:
    logs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        logs.append(train(tiny(), images=images()).arrays)
    assert all(
        np.array_equal(column, logs[1][name], equal_nan=True)
        for name, column in logs[0].items()
        if name != "images_per_second"
    )


def test_the_callback_is_told_what_is_in_the_log(unmeasured: None) -> None:
    told: list[Progress] = []
    results = train(tiny(steps=5, log_every=2, draw_every=4), told.append, images=images())
    assert [(p.step, p.steps) for p in told] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert results.arrays["step"].tolist() == [0, 2, 4, 5]
    assert [p.draw for p in told] == [True, False, True, True]
    for row, progress in enumerate(told):
        assert {"step", *progress.values} == set(results.arrays)
        for name, value in progress.values.items():
            np.testing.assert_equal(np.float32(value), results.arrays[name][row], name)
        assert progress.samples.shape == (64, 3, 16, 16)
        assert progress.samples.min() >= 0 and progress.samples.max() <= 1
    assert not torch.equal(told[0].samples, told[-1].samples)


# Networks of the user's


OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, latent=4, side=16):
        super().__init__()
        self.fc, self.side = nn.Linear(latent, 3 * side * side), side
    def forward(self, z):
        return torch.tanh(self.fc(z)).view(-1, 3, self.side, self.side)

def judge(side=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 1), nn.Flatten(0))

def forgetful(share):
    return nn.Sequential(nn.Flatten(), nn.Dropout(share), nn.Linear(768, 1))

def several():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2))

def no_network():
    return 5

class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(768, 1)
    def forward(self, x):
        return self.fc(x.flatten(1)), x

class Silent(nn.Module):
    def forward(self, x):
        raise IndexError

def refuses(width):
    raise RuntimeError("the weights are on the moon")
"""


def factories(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own.py").write_text(OWN)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.syspath_prepend(str(folder))


def test_networks_of_the_users_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factories(tmp_path, monkeypatch)
    config = tiny(generator="own:Own", generator_args={"side": 16}, discriminator="own:judge")
    run = trained(config, tmp_path / "run")
    start = begun(config)
    for network, before in (
        (run.pair.generator, start.pair.generator),
        (run.pair.discriminator, start.pair.discriminator),
    ):
        moved = {
            k: not torch.equal(v, before.state_dict()[k]) for k, v in network.state_dict().items() if "weight" in k
        }
        assert moved and all(moved.values())
    folder = tmp_path / "run" / "checkpoints" / "step-00000004"
    card = (folder / "README.md").read_text()
    assert card.startswith("# own:Own/own:judge, 16 px, step 4\n")
    recipe = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(recipe, found)
        torch.manual_seed(0)
        assert torch.equal(found["images"], run.pair.averaged(torch.randn(16, 4)) * 0.5 + 0.5)
    z = torch.randn(2, 4)
    loaded = models.generator(
        "own:Own", weights=folder / "generator.safetensors", input_size=[4], mean=[0.5], std=[0.5]
    )
    assert torch.equal(loaded(z), run.pair.averaged(z) * 0.5 + 0.5)
    with pytest.raises(ValueError, match=r"does not describe its network; name the network and give --weights"):
        models.generator(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"generator": "own:Own", "generator_args": {"side": 8}},
            r"--generator: 'own:Own' gives \[2, 3, 8, 8\]; the disc.* \[2, 3, 16, 16\]",
        ),
        (
            {"generator": "own:Own", "generator_args": {"latent": 5}},
            r"--generator: 'own:Own' does not run on latents \[2, 4\] \(",
        ),
        (
            {"generator": "own:Own", "generator_args": {"depth": 2}},
            r"--generator: 'own:Own' fails with {'depth': 2}: TypeError",
        ),
        ({"generator": "own:nothing"}, r"--generator: 'own:nothing': module 'own' has no 'nothing'"),
        ({"generator": "nowhere:Own"}, r"--generator: 'nowhere:Own': cannot import 'nowhere'"),
        ({"generator": "own:no_network"}, r"--generator: 'own:no_network' returned a int, not an nn.Module"),
        (
            {"generator": "own:refuses", "generator_args": {"width": 2}},
            r"--generator: 'own:refuses' fails with {'width': 2}: .*on the moon",
        ),
        (
            {"generator": "staged2"},
            r"--generator: must be one of staged, residual, neutral, or package.module:factory, got 'staged2'",
        ),
        (
            {"discriminator": "own:judge", "discriminator_args": {"side": 8}},
            r"--discriminator: 'own:judge' does not run on images \[2, 3, 16, 16\]",
        ),
        (
            {"discriminator": "own:Silent"},
            r"--discriminator: 'own:Silent' does not run on images \[2, 3, 16, 16\] \(IndexError\)",
        ),
        (
            {"discriminator": "own:several"},
            r"--discriminator: 'own:several' gives \[2, 2\]; it must be one logit an image",
        ),
        ({"discriminator": "own:Pairs"}, r"--discriminator: gives a tuple, not a tensor"),
        ({"discriminator": "residual"}, r"--discriminator: must be staged, or package.module:factory, got 'residual'"),
        ({"upsampler": ("deconvolve",)}, r"--upsampler: must be one of deconv, .*, got 'deconvolve'"),
        ({"upsampler": ("resize",) * 3}, r"--upsampler: needs one word, or one for each of 2 stages, got 3"),
        ({"downsampler": ("resize",)}, r"--downsampler: must be one of stride2, .*, got 'resize'"),
        ({"first": "resize"}, r"--first: must be one of stride2, .*, got 'resize'"),
        ({"generator_args": {"depth": 2}}, r"--generator-args: StagedGenerator.* unexpected keyword argument 'depth'"),
        ({"generator_args": {"width": 2.5}}, r"--generator-args: width: must be an integer, got 2.5"),
        (
            {"generator": "neutral", "generator_args": {"kernel_size": 2}},
            r"--generator-args: kernel_size: must be odd, got 2",
        ),
    ],
    ids=str,
)
def test_a_pair_that_cannot_be_trained_is_refused_in_one_sentence(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=f"^{said}") as refusal:
        train(tiny(**options), images=images(), folder=tmp_path / "run")
    assert "\n" not in str(refusal.value)


# What resuming refuses


def test_a_resumed_run_keeps_its_flags_and_refuses_others() -> None:
    stored = json.loads(json.dumps(plain(tiny(upsampler=("deconv:5",), seed=3, data=(Path("a"),)))))
    assert loop.agreed(TrainConfig(), stored) == tiny(upsampler=("deconv:5",), seed=3, data=(Path("a"),))
    more = loop.agreed(TrainConfig(steps=9, log_every=1, seed=3), stored)
    assert (more.steps, more.log_every, more.seed, more.upsampler) == (9, 1, 3, ("deconv:5",))
    with pytest.raises(
        ValueError, match=r"^--upsampler: the run began with \['deconv:5'\], got \['subpixel'\]; leave it out"
    ):
        loop.agreed(TrainConfig(upsampler=("subpixel",)), stored)
    with pytest.raises(ValueError, match=r"^--learning-rate: the run began with 0.0002, got 0.1"):
        loop.agreed(TrainConfig(learning_rate=0.1), stored)


def test_other_pictures_are_refused_on_resume(unmeasured: None, tmp_path: Path) -> None:
    train(tiny(), images=images(), folder=tmp_path)
    with pytest.raises(ValueError, match="pictures in --data are not those that the run began with"):
        train(TrainConfig(steps=6), images=images().flip(0), folder=tmp_path, resume=True)
    results = train(TrainConfig(steps=6), images=images(), folder=tmp_path, resume=True)
    assert results.manifest["steps"] == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolution": 48}, "--resolution"), ({"channels": 2}, "--channels"), ({"batch_size": 1}, "--batch-size"),
        ({"steps": 0}, "--steps"), ({"learning_rate": float("nan")}, "--learning-rate"), ({"average": 1.0}, "--average"),
        ({"betas": (0.5, 1.0)}, "--betas"), ({"periods": (8,)}, "--periods"), ({"periods": (1,)}, "--periods"),
        ({"devices": "two"}, "--devices"), ({"devices": "0"}, "--devices"), ({"seed": -1}, "--seed"), ({"seed": 2**31}, "--seed"),
        ({"lattice_weight": -1.0}, "--lattice-weight"), ({"spectrum_weight": float("inf")}, "--spectrum-weight"),
        ({"limit": 0}, "--limit"), ({"loss": "relativistic", "norm": "batch"}, "--norm"), ({"log_every": 0}, "--log-every"),
        ({"accelerator": "abacus"}, "--accelerator, --devices: abacus x auto is not to be had here"),
        ({"augment": ("rotation",)}, r"(--augment|policy): must be names out of"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_out_of_range_is_refused_by_its_flag(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as refusal:
        train(tiny(**options), images=images())
    assert "\n" not in str(refusal.value)


# Processes


def _norm_of_half(rank: int, folder: Path) -> None:
    """What one of two processes computes of its half of a batch; half a batch each, by turns."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    kept = torch.load(folder / "given.pt", weights_only=True)
    network = synchronised(_normed(kept["state"]))
    x = kept["x"][rank::2].clone().requires_grad_()
    y = network.train()(x)
    (y * kept["weights"][rank::2]).sum().backward()
    gradients = []
    for weight in network.parameters():
        assert weight.grad is not None
        torch.distributed.all_reduce(weight.grad)
        gradients.append(weight.grad)
    calm = network.eval()(x.detach())
    torch.save(
        {"y": y.detach(), "x": x.grad, "weights": gradients, "state": network.state_dict(), "calm": calm.detach()},
        folder / f"{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def _normed(state: dict[str, Tensor] | None = None) -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(4, momentum=None)
    )
    network.append(nn.Flatten()).append(nn.BatchNorm1d(4 * 36, affine=False))
    if state is not None:
        network.load_state_dict(state)
    return network


@pytest.mark.slow
def test_norms_of_two_processes_are_the_norm_of_the_joined_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _normed()
    x, weights = torch.randn(6, 3, 8, 8) + 1, torch.randn(6, 144)
    torch.save({"state": network.state_dict(), "x": x, "weights": weights}, tmp_path / "given.pt")
    torch.multiprocessing.spawn(_norm_of_half, (tmp_path,), nprocs=2)
    x.requires_grad_()
    y = network.train()(x)
    (y * weights).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums in another order
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert x.grad is not None
        torch.testing.assert_close(found["y"], y.detach()[rank::2], **close)
        torch.testing.assert_close(found["x"], x.grad[rank::2], **close)
        for gradient, weight in zip(found["weights"], network.parameters(), strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-4)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(found["state"][key], value, msg=key, **close)
        torch.testing.assert_close(found["calm"], deepcopy(network).eval()(x)[rank::2].detach(), **close)


def test_synchronised_norms_keep_names_and_are_plain_in_eval_mode() -> None:
    torch.manual_seed(0)
    plain = _normed()
    plain.train()(torch.randn(5, 3, 8, 8))
    synced = synchronised(deepcopy(plain))
    assert list(synced.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in synced.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert sum(isinstance(m, SyncedBatchNorm) for m in synced.modules()) == 3
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(synced.eval()(x), plain.eval()(x))


PROCESSES: dict[str, dict[str, Any]] = {
    **{loss: {"loss": loss} for loss in LOSSES},
    "batch norm, augmentation": {"norm": "batch", "augment": ("colour", "translation"), "upsampler": ("deconv",)},
    "spectral losses": {"norm": "none", "lattice_weight": 0.5, "spectrum_weight": 0.1, "generator": "residual"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSES)
def test_two_processes_give_the_losses_of_one(kind: str, tmp_path: Path) -> None:
    config = tiny(**PROCESSES[kind], batch_size=8, steps=4, log_every=1, save_every=4)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = train(config, images=images(), folder=tmp_path / "one")
    two = train(replace(config, devices="2"), images=images(), folder=tmp_path / "two")
    assert torch.equal(torch.get_rng_state(), before)
    assert two.manifest["training"]["processes"] == 2
    assert one.arrays["log/step"].tolist() == two.arrays["log/step"].tolist() == [0, 1, 2, 3, 4]
    for name in ("log/loss_discriminator", "log/loss_generator"):
        # float32 in another order; Adam divides by the root of squares near 0, and so enlarges it step by step
        np.testing.assert_allclose(two.arrays[name][1:3], one.arrays[name][1:3], rtol=1e-3, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(two.arrays[name][3:], one.arrays[name][3:], rtol=2e-2, atol=5e-3, err_msg=name)
    assert json.loads(_record(tmp_path / "two")) == json.loads(_record(tmp_path / "one")) | {"devices": "2"}
    state = checkpoint.load(checkpoint.newest(tmp_path / "two")).state
    assert state.keys() == checkpoint.load(checkpoint.newest(tmp_path / "one")).state.keys()


def _record(folder: Path) -> str:
    record = json.loads((checkpoint.newest(folder) / "checkpoint.json").read_text())
    return json.dumps(record["config"])


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two_and_back(tmp_path: Path) -> None:
    config = tiny(batch_size=8, steps=2, log_every=1, save_every=1)
    whole = train(replace(config, steps=6), images=images())
    train(config, images=images(), folder=tmp_path)
    train(TrainConfig(steps=4, devices="2"), images=images(), folder=tmp_path, resume=True)
    found = train(TrainConfig(steps=6, devices="1"), images=images(), folder=tmp_path, resume=True)
    assert found.arrays["log/step"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    for name in ("log/loss_discriminator", "log/loss_generator"):
        np.testing.assert_allclose(found.arrays[name][1:], whole.arrays[name][1:], rtol=2e-2, atol=5e-3, err_msg=name)
    assert found.manifest["training"]["resumed"] == [2, 4]


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--batch-size: must be a multiple of 2 devices, got 5"):
        train(tiny(batch_size=5, devices="2"), images=images())
