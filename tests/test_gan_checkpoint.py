"""Checkpoints of a training run: whole or not there, and good for gradlens, for plain torch and for going on."""

import errno
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from gradlens import models
from gradlens.console import plain
from gradlens.redesign.gan import checkpoint
from gradlens.redesign.gan.build import build
from gradlens.redesign.gan.card import model_card, plain_recipe
from gradlens.redesign.gan.dataset import of_tensor
from gradlens.redesign.gan.run import Run
from tests.gans import images, tiny, trained

STATE = {
    "generator/w": torch.arange(6.0).view(2, 3), "step": torch.tensor(7), "rng/cpu": torch.arange(5, dtype=torch.uint8),
    "half": torch.ones(2, dtype=torch.bfloat16), "none": torch.empty(0, dtype=torch.int64),
    "last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}  # fmt: skip


def saved(run: Path, step: int, **state: Tensor) -> Path:
    networks: dict[str, Any] = {
        "generator": ({"w": torch.full((3,), float(step))}, {"role": "generator"}),
        "discriminator": ({"v": torch.zeros(2)}, None),
    }
    return checkpoint.save(
        run, step, networks=networks, state=STATE | state, config={"steps": 9, "data": ["a"]}, data={"sha256": "ff"},
        card=f"# step {step}\n",
    )  # fmt: skip


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path, 7)
    assert folder == tmp_path / "checkpoints" / "step-00000007"
    found = checkpoint.load(folder)
    assert (found.folder, found.step) == (folder, 7)
    assert (found.config, found.data) == ({"steps": 9, "data": ["a"]}, {"sha256": "ff"})
    assert found.state.keys() == STATE.keys()
    for key, value in STATE.items():
        assert found.state[key].dtype == value.dtype and torch.equal(found.state[key], value), key


def test_a_checkpoint_is_these_files_and_their_hashes(tmp_path: Path) -> None:
    folder = saved(tmp_path, 7)
    files = {"generator.safetensors", "discriminator.safetensors", "training.safetensors"}
    assert {p.name for p in folder.iterdir()} == files | {"checkpoint.json", "README.md"}
    record = json.loads((folder / "checkpoint.json").read_text())
    assert record["sha256"] == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    assert (folder / "README.md").read_text() == "# step 7\n"
    assert folder.stat().st_mode & 0o777 == 0o755  # others may read what is shared
    with safe_open(folder / "generator.safetensors", "pt") as file:
        assert json.loads(file.metadata()["gradlens"]) == {"role": "generator"}
    with safe_open(folder / "discriminator.safetensors", "pt") as file:
        assert "gradlens" not in (file.metadata() or {})


def test_the_newest_three_are_kept_by_number(tmp_path: Path) -> None:
    for step in (2, 9, 99_999_999, 100_000_000):
        saved(tmp_path, step)
    assert names(tmp_path) == ["step-00000009", "step-100000000", "step-99999999"]
    assert checkpoint.newest(tmp_path).name == "step-100000000"


@pytest.mark.parametrize(
    "what", ["run", "checkpoint", "generator.safetensors", "training.safetensors", "checkpoint.json"]
)
def test_the_newest_is_found_from_anywhere_in_a_run(what: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    newest = saved(tmp_path, 2)
    assert checkpoint.newest({"run": tmp_path, "checkpoint": newest}.get(what, newest / what)) == newest


def test_a_step_that_is_saved_again_replaces_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    folder = saved(tmp_path, 2, half=torch.zeros(3))
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert torch.equal(checkpoint.load(folder).state["half"], torch.zeros(3))


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
@pytest.mark.parametrize("file", [1, 2, 3, 4, 5])
def test_where_there_is_no_room_what_was_there_is_whole(
    file: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved(tmp_path, 1)
    written = 0

    def fails(write: Any) -> Any:
        def wrapped(path: Path, *arguments: Any) -> None:
            nonlocal written
            written += 1
            if written == file:
                path.write_bytes(b"half of")
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, *arguments)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", fails(checkpoint._write))
        patch.setattr(checkpoint, "_write_text", fails(checkpoint._write_text))
        with pytest.raises(OSError, match="No space left"):
            saved(tmp_path, 1 if again else 2, half=torch.zeros(3))
    assert names(tmp_path) == ["step-00000001"]
    assert torch.equal(checkpoint.load(before).state["half"], STATE["half"])
    assert torch.equal(checkpoint.load(saved(tmp_path, 2)).state["half"], STATE["half"])


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    left = tmp_path / "checkpoints" / ".step-00000002-abc"
    left.mkdir()
    (left / "generator.safetensors").write_bytes(b"half of")
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000001"]
    saved(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors", "training.safetensors"])
def test_one_bit_of_damage_is_seen_and_named(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"is damaged: {name} is not what was written$"):
        checkpoint.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"is damaged: {name} is missing$"):
        checkpoint.load(folder)


def test_damage_names_the_checkpoint_to_go_back_to(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    folder = saved(tmp_path, 2)
    (folder / "generator.safetensors").unlink()
    with pytest.raises(ValueError, match=r"remove that folder to go on from step-00000001$"):
        checkpoint.load(folder)


# What a run writes


def networks_of(run: Run) -> tuple[Any, Any]:
    return run.pair.averaged.eval(), run.pair.discriminator.eval()


PAIRS: dict[str, dict[str, Any]] = {
    "resize": {},
    "deconv:5": {"upsampler": ("deconv:5",), "downsampler": ("stride2",), "norm": "batch"},
    "mixed": {"upsampler": ("resize:5", "deconv"), "downsampler": ("blur", "hold"), "first": "stride1", "channels": 1},
    "mixed kernels": {"upsampler": ("deconv:3", "deconv:6", "resize:1"), "resolution": 32},
    "kernels below the stride": {"upsampler": ("deconv:1", "deconv:2")},
    "subpixel": {"upsampler": ("subpixel",), "norm": "none"},
    "residual": {"generator": "residual", "upsampler": ("resize", "deconv")},
    "neutral": {"generator": "neutral", "generator_args": {"depth": 1}},
}
WITHOUT_RECIPE = {"subpixel", "residual", "neutral"}


@pytest.mark.parametrize("name", PAIRS)
def test_both_networks_load_by_file_and_by_folder(name: str, tmp_path: Path) -> None:
    run = trained(tiny(**PAIRS[name]), tmp_path)
    generator, discriminator = networks_of(run)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.rand(3, run.config.channels, run.config.resolution, run.config.resolution)
    newest = tmp_path / "checkpoints" / "step-00000004"
    for place in (tmp_path, newest):
        assert torch.equal(models.generator(place)(z), generator(z) * 0.5 + 0.5)
        torch.testing.assert_close(models.discriminator(place)(x), discriminator((x - 0.5) / 0.5))
    by_file = models.generator(newest / "generator.safetensors")
    assert torch.equal(by_file(z), generator(z) * 0.5 + 0.5)
    assert by_file.info.input_size == (4,)
    judge = models.discriminator(newest / "discriminator.safetensors")
    assert judge.info.input_size == (run.config.channels, run.config.resolution, run.config.resolution)
    with pytest.raises(ValueError, match="is a generator, not a discriminator"):
        models.discriminator(newest / "generator.safetensors")
    before = models.generator(tmp_path / "checkpoints" / "step-00000002")
    assert not torch.equal(before(z), by_file(z))


@pytest.mark.parametrize("name", PAIRS)
def test_the_recipes_of_the_model_card_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user pastes them, beside the files; weights other than those of the first steps, so that all of them count."""
    config = tiny(**PAIRS[name], steps=1, log_every=1, save_every=1)
    run = trained(config, None)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for key, value in run.pair.averaged.state_dict().items():
            if value.is_floating_point() and ("bn" in key or key.endswith("bias")):
                torch.nn.init.uniform_(value, 0.5, 1.5)
    monkeypatch.setattr("gradlens.redesign.gan.run.settle", lambda network, latents: None)
    run.folder = tmp_path
    run._save()
    generator, _ = networks_of(run)
    folder = tmp_path / "checkpoints" / "step-00000001"
    card = (folder / "README.md").read_text()
    recipes = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(recipes) == (1 if name in WITHOUT_RECIPE else 2)
    assert ("With torch and safetensors alone" in card) == (name not in WITHOUT_RECIPE)
    monkeypatch.chdir(folder)
    for recipe in recipes:
        assert "gradlens" not in recipe or recipe is recipes[0]
        found: dict[str, Any] = {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            exec(recipe, found)
            torch.manual_seed(0)
            expected = (generator(torch.randn(16, 4)) + 1) / 2
        assert found["images"].shape == (16, config.channels, config.resolution, config.resolution)
        torch.testing.assert_close(found["images"], expected, rtol=0, atol=1e-5)  # other order of sums
        assert expected.std() > 0.01


def test_the_card_says_what_it_is_and_what_was_left_out() -> None:
    config = tiny(upsampler=("deconv:5",), loss="relativistic", seed=5)
    data = of_tensor(images())
    told = build(config)[2]
    card = model_card(config, told, data, 12)
    assert card.startswith("# deconv:5/stride1, 16 px, step 12\n")
    assert "on a tensor (10 images of 10 pictures), loss relativistic, batch 4, seed 5" in card
    left_out = type(data)(data.images, "photos", 12, {"a.png": "too small", "b.png": "too small"}, data.sha256)
    assert "on photos (10 images of 12 pictures, 2 left out)" in model_card(config, told, left_out, 12)
    assert plain_recipe(tiny(upsampler=("resize:4",))) == []  # an even kernel needs another border
    assert plain_recipe(tiny(generator_args={"width": 3})) == []  # the recipe's sizes are the flags'


def test_what_is_stored_is_the_whole_state(tmp_path: Path) -> None:
    run = trained(tiny(), tmp_path)
    found = checkpoint.load(checkpoint.newest(tmp_path))
    assert found.step == 4
    assert found.config == json.loads(json.dumps(plain(run.config)))
    assert found.data == run.data.told
    now = run.state()
    assert found.state.keys() == now.keys()
    others = {"trained", "log/images_per_second", "rng/cpu"}  # of clocks, and the generator of this process
    for key in found.state.keys() - others:
        torch.testing.assert_close(found.state[key], now[key], rtol=0, atol=0, equal_nan=True, msg=key)
    kinds = {key.split("/")[0] for key in now}
    assert kinds == {
        "generator", "discriminator", "averaged", "optimiser", "rng", "step", "trained", "resumed", "log", "strip",
    }  # fmt: skip
    for name, network in (("generator", run.pair.generator), ("discriminator", run.pair.discriminator)):
        weights = list(network.parameters())
        slots = {key for key in now if key.startswith(f"optimiser/{name}/")}
        assert slots == {
            f"optimiser/{name}/{n}/{slot}" for n in range(len(weights)) for slot in ("step", "exp_avg", "exp_avg_sq")
        }
