"""The timing analysis runs both sides and tells the ratio of each pair."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from analyses.speed import SECTIONS, Config, run
from analyses.speed_training import counted, started, textbook
from analyses.timing import Case, clock_of, rows, timed
from gradlens.redesign.gan.config import TrainConfig
from gradlens.results import COLUMNS

TINY = TrainConfig(
    resolution=8, width=2, latent=100, batch_size=4, accelerator="cpu", devices="1", downsampler=("stride2:4",), norm="batch",
    loss="non-saturating",
)  # fmt: skip


def test_every_case_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.speed.find_spec", lambda name: None)  # of Lucent, which is nobody's requirement
    config = Config(
        ("test_resnet",),
        side=64,
        batch_size=2,
        large_batch=2,
        batches=1,
        pairs=3,
        dream_side=64,
        dream_steps=1,
        channels=4,
        map_side=8,
        maps=1,
        only=tuple(name for name in SECTIONS if name != "training"),
    )
    table = run(config).table
    assert list(table.columns) == list(COLUMNS)
    assert list(dict.fromkeys(table["model"])) == [
        "test_resnet, 64 px, batch 2", "resnet18, 64 px, batch 2", "test_resnet, 64 px, batch 1",
        "test_resnet, 64 px, 4 octaves, layer2", "4 channels, 8 px, batch 1",
    ]  # fmt: skip
    ratios = table[table["metric"] == "ratio"]
    assert ratios["kind"].tolist() == [
        "collect / autograd loop", "lattice_statistics / backward pass", "energy_map / backward pass",
        "dream / bare passes",
        "ResizeConv 3x3, forward / ConvTranspose2d 4x4, forward", "ResizeConv 3x3, training / ConvTranspose2d 4x4, training",
        "ResizeConv 3x3, forward / two steps, forward", "ResizeConv 3x3, training / two steps, training",
        "MaskedPixelDCL 2x2, training / ConvTranspose2d 4x4, training",
        *(
            f"ResizeConv {ours}, {kind} / ConvTranspose2d {peer}, {kind}"
            for ours, peer in (("5x5 x2", "6x6"), ("3x3 x3", "5x5"), ("3x3 x4", "6x6")) for kind in ("forward", "training")
        ),
        "fold / ResizeConv 3x3, training",
    ]  # fmt: skip
    assert (table.loc[table["metric"] != "bar", "n"] == 3).all()
    assert (ratios["low"] <= ratios["value"]).all() and (ratios["value"] <= ratios["high"]).all()
    assert table.loc[table["metric"] == "bar", "value"].tolist() == [
        1.05, 0.25, 3.0, 1.15, 1.1, 1.1, 1 / 1.8, 1 / 1.8, 1.3, *[1.1] * 6, 0.03,
    ]  # fmt: skip


def test_sides_alternate_after_a_warming_run_and_preparation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], []
    monkeypatch.setattr("analyses.timing.clock_of", lambda device: lambda: clock[0])

    def side(name: str, seconds: float) -> object:
        def prepare() -> object:
            clock[0] += 100

            def work() -> None:
                log.append(name)
                clock[0] += seconds

            return work

        return prepare

    case = Case("net", "ours", side("ours", 3.0), "peer", side("peer", 2.0), 8, 1.05)  # type: ignore[arg-type]
    times = timed(case, 3, torch.device("cpu"), lambda: None)
    assert log == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    np.testing.assert_array_equal(times, [[3, 2]] * 3)
    made = {(row["kind"], row["metric"]): row["value"] for row in rows(case, times)}
    assert made == {
        ("ours / peer", "ratio"): 1.5, ("ours / peer", "bar"): 1.05,
        ("ours", "time"): 3.0, ("peer", "time"): 2.0,
        ("ours", "rate"): 8 / 3, ("peer", "rate"): 4.0,
    }  # fmt: skip


def test_a_speed_is_told_in_operations_where_they_are_known_and_without_a_bar_there_is_none() -> None:
    case = Case("net", "ours", lambda: int, "peer", lambda: int, 8, None, 10.0)
    made = {(row["kind"], row["metric"]): (row["value"], row["unit"]) for row in rows(case, np.array([[2.0, 4.0]]))}
    assert made == {
        ("ours / peer", "ratio"): (0.5, "1"), ("ours / peer", "operations"): (10.0, "operations/image"),
        ("ours", "time"): (2.0, "s"), ("peer", "time"): (4.0, "s"),
        ("ours", "rate"): (40.0, "operations/s"), ("peer", "rate"): (20.0, "operations/s"),
    }  # fmt: skip


def test_one_thread_is_timed_by_its_own_clock_and_several_by_that_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    named = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        named.append(clock_of(torch.device("cpu")).__name__)
    assert [*named, clock_of(torch.device("cuda")).__name__] == ["process_time", "perf_counter", "perf_counter"]


def test_training_is_timed_beside_the_textbook_beside_transposed_convolutions_and_beside_what_looking_costs() -> None:
    table = run(Config(only=("training",), training_batches=(4,), training_side=16, training_width=2, pairs=2)).table
    assert set(table["model"]) == {"DCGAN, 16 px, batch 4"}
    ratios = table[table["metric"] == "ratio"]
    assert ratios["kind"].tolist() == [
        "training step / training step, textbook", "training step / training step, transposed convolutions",
        "look / training step", "matrix product / training step",
    ]  # fmt: skip
    assert table.loc[table["metric"] == "bar", "value"].tolist() == [1 / 1.5, 1 / 0.95, 2.0]
    assert table["metric"].tolist().count("operations") == 1


def test_sections_are_chosen_by_name() -> None:
    with pytest.raises(ValueError, match=r"--only: must be of gradients, metrics, .*, training, got speed"):
        run(Config(only=("training", "speed")))


def _convolved(resolution: int, width: int, taps: int) -> int:
    """Products an image of the layers from 4 px to `resolution`, of `taps` products a channel and pixel of the larger map."""
    sides = [2**k for k in range(3, resolution.bit_length())]
    wide = [3, *(width * 2**k for k in range(len(sides)))]
    return sum(side**2 * a * b * taps for side, (a, b) in zip(reversed(sides), pairwise(wide), strict=True))


def test_a_step_computes_what_it_must_and_the_textbooks_what_it_says() -> None:
    resolution, width, batch = 16, 8, 16
    images = torch.randint(256, (64, 3, resolution, resolution), dtype=torch.uint8)
    ours = started(replace(TINY, resolution=resolution, width=width, batch_size=batch), images)
    latents = 100 * 2 * width * 16
    d = _convolved(resolution, width, 16 // 4) + 2 * width * 16  # strided: a quarter of the pixels
    judging = 2 * (
        3 * d - (resolution // 2) ** 2 * 3 * width * 16
    )  # no gradient of an image in the discriminator's step
    folds = 2 * 9 * 16 * (2 * width * width + width * 3)  # forward and backward, once a batch
    made = 3 * _convolved(resolution, width, 4) + 2 * latents  # no gradient of a latent
    assert counted(ours.advance) == 2 * (batch * (made + judging + 2 * d) + folds)
    made = 3 * _convolved(resolution, width, 9) + 2 * latents
    assert counted(textbook(images, batch, width, seed=0)) == 2 * batch * (made + judging + 3 * d)


def test_the_textbook_goes_through_its_images_in_steps_of_a_batch() -> None:
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    seen: list[torch.Tensor] = []

    def watch(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Sequential) and given[0].shape[1] == 3:
            seen.append(given[0].detach())

    step = textbook(images, 4, 2, seed=0)
    handle = nn.modules.module.register_module_forward_pre_hook(watch)
    try:
        step()
        step()
    finally:
        handle.remove()
    real, once, again = seen[::3], seen[1::3], seen[2::3]
    torch.testing.assert_close(torch.cat(real), images / 127.5 - 1)
    torch.testing.assert_close(once, again, rtol=0, atol=0)  # the generator's one pass serves both networks
