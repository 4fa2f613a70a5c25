"""Hostile bytes, names and settings, made by hypothesis: a result or one sentence, never another error, never code run."""

import io
import json
import os
import pickle
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from gradlens import analyze, checkpoints, console, images, models
from gradlens.results import Results, new_run

pytestmark = pytest.mark.slow
SETTINGS = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
REFUSALS = (ValueError, TypeError, OSError)  # what the command line prints as one sentence
Edits = list[tuple[float, int, bytes]]


def encoded(suffix: str, **options: Any) -> bytes:
    levels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(levels).save(content, suffix, **options)
    return content.getvalue()


PICTURES = {
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG"),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "GIF": encoded("GIF"),
    "TIFF": encoded("TIFF"),
    "packed TIFF": encoded("TIFF", compression="tiff_lzw"),
    "WEBP": encoded("WEBP"),
    "BMP": encoded("BMP"),
    "PPM": encoded("PPM"),
}
STATE = save(timm.create_model("test_resnet", num_classes=3).state_dict())

# Where (as a share of the length), how many bytes go, and what comes in their place
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)


def edited(content: bytes, changes: Edits, within: int | None = None) -> bytes:
    for share, gone, come in changes:
        at = int(share * (len(content) if within is None else min(within, len(content))))
        content = content[:at] + come + content[at + gone :]
    return content


def written(content: bytes, name: str, folder: Path) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def check_sentence(said: str, path: Path) -> None:
    assert repr(path.name) in said and str(path.parent) not in said


def opened(path: Path) -> Image.Image | None:
    """The picture in a file, None if it is refused in one sentence that names it."""
    try:
        image = images.open_image(path)
    except images.UnreadableError as error:
        check_sentence(str(error), path)
        return None
    assert image.mode in ("L", "RGB") and min(image.size) > 0
    return image


@SETTINGS
@given(form=st.sampled_from([*PICTURES]), changes=edits)
def test_a_damaged_picture_is_a_picture_or_refused(form: str, changes: Edits, tmp_path: Path) -> None:
    opened(written(edited(PICTURES[form], changes), "x.png", tmp_path))


@SETTINGS
@given(form=st.sampled_from([*PICTURES]), share=st.floats(0, 1))
def test_a_cut_picture_is_whole_or_refused(form: str, share: float, tmp_path: Path) -> None:
    whole = PICTURES[form]
    image = opened(written(whole[: int(share * len(whole))], "x.png", tmp_path))
    assert image is None or np.array_equal(
        np.asarray(image), np.asarray(images.open_image(written(whole, "y.png", tmp_path)))
    )


@SETTINGS
@given(
    content=st.binary(max_size=300),
    begins=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6\n", b"RIFF"]),
)
def test_bytes_are_no_picture(begins: bytes, content: bytes, tmp_path: Path) -> None:
    opened(written(begins + content, "x.png", tmp_path))


def read(path: Path) -> None:
    """Read weights and what they say of themselves, or see them refused."""
    for ask in (checkpoints.card, checkpoints.read_state):
        try:
            ask(path)
        except REFUSALS as error:
            check_sentence(str(error), path)


@SETTINGS
@given(changes=edits)
def test_a_damaged_header_is_read_or_refused(changes: Edits, tmp_path: Path) -> None:
    read(written(edited(STATE, changes, within=2000), "x.safetensors", tmp_path))


@SETTINGS
@given(length=st.integers(0, 2**64 - 1), header=st.text(max_size=200))
def test_any_header_is_read_or_refused(length: int, header: str, tmp_path: Path) -> None:
    read(written(length.to_bytes(8, "little") + header.encode(), "x.safetensors", tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CARD = {
    "role": "classifier", "builder": "timm:test_resnet", "arguments": {"num_classes": 3}, "input_size": [3, 32, 32],
    "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_pct": 1.0,
}  # fmt: skip


@SETTINGS
@given(key=st.sampled_from([*CARD]), value=json_values)
def test_any_description_builds_or_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    content = save(state, metadata={"gradlens": json.dumps(CARD | {key: value})})
    try:
        model = models.load(str(written(content, "x.safetensors", tmp_path)))
    except REFUSALS as error:
        assert str(error)  # noqa: PT017
    else:
        size = model.info.input_size
        image = images.fit(
            images.sample("coffee"), size, interpolation=model.info.interpolation, crop_pct=model.info.crop_pct
        )
        assert image.shape == size


class Call:
    """Unpickled with trust, it calls `function(argument)`."""

    def __init__(self, function: Callable[[Any], object], argument: object) -> None:
        self.made = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.made


@SETTINGS
@given(
    function=st.sampled_from([os.system, os.mkdir, eval, exec, Path.touch, Path.mkdir, torch.load]),
    protocol=st.sampled_from([None, 0, 1, 2, 3, 4, 5]),
    changes=st.just([]) | edits,
)
def test_no_pickle_runs_code(
    function: Callable[[Any], object], protocol: int | None, changes: Edits, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    words = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')", exec: f"open({str(mark)!r}, 'w')"}
    bomb = {"layer": torch.zeros(2), "bomb": Call(function, words.get(function, mark))}
    content = io.BytesIO()
    torch.save(bomb, content) if protocol is None else pickle.dump(bomb, content, protocol)
    read(written(edited(content.getvalue(), changes), "x.pth", tmp_path))
    assert not mark.exists()


@SETTINGS
@given(changes=edits)
def test_a_damaged_pickle_is_read_or_refused(changes: Edits, tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"state_dict": {f"layer{i}": torch.zeros(3, 4) for i in range(3)}}, content)
    read(written(edited(content.getvalue(), changes), "x.pth", tmp_path))


names = st.binary(min_size=1, max_size=60).filter(lambda n: not set(n) & {0, ord("/")} and n not in (b".", b".."))


@SETTINGS
@given(chosen=st.lists(names, min_size=1, max_size=4, unique=True))
def test_any_name_is_found_measured_and_written(chosen: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            with open(os.path.join(os.fsencode(folder), name + b".png"), "wb") as file:
                file.write(PICTURES["PNG"])
        found = images.photographs(Path(folder))
        assert len(found) == len(chosen) and all(p.open().size == (20, 24) for p in found)
        table = analyze.measure_models(
            analyze.Config("test_resnet", weights="random", images=Path(folder), input_size=(3, 16, 16), periods=(2,))
        )
        with new_run(Path(folder) / "run", "analyze", force=False) as work:
            table.write(work)
        assert Results.read(Path(folder) / "run").manifest["images"] == [p.name for p in found]


KEYS = [
    "model", "images", "out", "force", "weights", "seed", "model-args", "input-size", "mean", "std", "drop-first", "against",
    "periods", "window", "batch-size", "limit", "device", "dtype", "json",
]  # fmt: skip


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value) if isinstance(value, str) else str(value)


simple = st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=12)
settings_of_a_file = st.dictionaries(st.sampled_from(KEYS), simple | st.lists(simple, max_size=4), max_size=4)


@SETTINGS
@given(chosen=settings_of_a_file, tail=st.text(max_size=20) | st.just(""))
def test_any_settings_are_run_or_refused_in_a_sentence(
    chosen: dict[str, Any],
    tail: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The flags are taken apart and checked; nothing is measured, so the fuzz is of what comes before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(analyze, "analyze", lambda config: analyze._check_early(config) or Path("run"))
    monkeypatch.setattr(analyze, "finish", lambda folder, as_json: None)
    text = "".join(f"{key} = {toml(value)}\n" for key, value in chosen.items()) + tail
    (tmp_path / "c.toml").write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(SystemExit) as stop:
        console.run(analyze.build_app(), ["--config", "c.toml"])
    said = capsys.readouterr()
    assert stop.value.code in (0, 2)
    assert stop.value.code == 0 or (said.err.startswith("gradlens: ") and said.err.count("\n") == 1)
