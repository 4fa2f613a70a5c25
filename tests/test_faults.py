"""What can go wrong with `python -m gradlens.analyze`, one case a line: what it says, how it ends, what it leaves.

`CASES` is the list. A case that is refused exits with 2, says one sentence that names the thing and the remedy, and
leaves the folder as it was; a case that is not exits with 0 and leaves a whole run. Kills and Ctrl-C are in
`test_killed.py`, hostile bytes in `test_fuzz.py`.
"""

import ctypes
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gradlens import commands
from gradlens.results import Results

Prepare = Callable[[Path], object]

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    "As small as a network with a stride can be; it has room for so many images at once."

    def __init__(self, room=99):
        super().__init__()
        self.room, self.first, self.last = room, nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2)

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return self.last(self.first(x).square().mean((2, 3)))

class Full(Net):
    def forward(self, x):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

class Faulty(Net):
    def forward(self, x):
        return {}["no such key"]

class Flat(Net):
    def forward(self, x):
        return super().forward(x.detach())

def strange():
    raise KeyError("no such thing")
"""
NET = ["net:Net", "--input-size", "3", "16", "16", "--periods", "2"]


@dataclass(frozen=True)
class Case:
    """Words after `gradlens`, what stderr must then hold, what stands in the folder before, and how it ends."""

    words: list[str]
    said: tuple[str, ...] = ()
    prepare: Prepare = lambda folder: None
    code: int = 2
    images: tuple[str, ...] | None = None  # measured, by the manifest
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def analyze(*words: str) -> list[str]:
    return ["analyze", NET[0], "--without", "dream", "blame", *NET[1:], *words]


# What stands in the folder


def picture(*names: str | bytes, size: tuple[int, int] = (24, 20)) -> Prepare:
    """Pictures of noise by these names in `photos`."""

    def make(folder: Path) -> None:
        for seed, name in enumerate(names):
            path = os.path.join(os.fsencode(folder / "photos"), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            with open(path, "wb") as file:
                Image.fromarray(levels).save(file, "PNG")

    return make


def both(*several: Prepare) -> Prepare:
    def make(folder: Path) -> None:
        for one in several:
            one(folder)

    return make


def file(name: str, content: bytes | str = b"") -> Prepare:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def folder_of(name: str) -> Prepare:
    return lambda folder: (folder / name).mkdir(parents=True)


def cut(name: str, suffix: str, share: float = 0.6) -> Prepare:
    """A picture of which the end is missing."""

    def make(folder: Path) -> None:
        picture("whole.png", size=(64, 64))(folder)
        path = folder / "photos" / name
        Image.open(folder / "photos" / "whole.png").save(path, suffix)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        (folder / "photos" / "whole.png").unlink()

    return make


def weights(name: str, change: Callable[[dict], Any] = lambda state: state) -> Prepare:
    """A checkpoint of timm's smallest ResNet, changed."""

    def make(folder: Path) -> None:
        state = change(timm.create_model("test_resnet", num_classes=3).state_dict())
        if name.endswith(".safetensors"):
            save_file(state, folder / name)
        else:
            torch.save(state, folder / name)

    return make


def half(name: str) -> Prepare:
    def make(folder: Path) -> None:
        weights(name)(folder)
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])

    return make


class Bomb:
    """Unpickled with trust, it makes the file `exploded`."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("exploded",))


def described(**changed: object) -> Prepare:
    """A checkpoint of gradlens that says of itself what is `changed`."""
    told = {"role": "classifier", "builder": "timm:test_resnet", "arguments": {"num_classes": 3}} | {
        "input_size": [3, 32, 32], "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_pct": 1.0,
    } | changed  # fmt: skip

    def make(folder: Path) -> None:
        state = timm.create_model("test_resnet", num_classes=3).state_dict()
        save_file(state, folder / "own.safetensors", metadata={"gradlens": json.dumps(told)})

    return make


def run_at(name: str) -> Prepare:
    """What stands for an earlier run."""
    return file(f"{name}/table.csv", "earlier")


# Around a case


@contextmanager
def no_privilege() -> Iterator[None]:
    """Root is bound by permissions as everybody is: without the capabilities that pass over them (Linux)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        pytest.skip("root cannot be bound by permissions here")
    before = sets[0]
    sets[0] = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)


@contextmanager
def offline() -> Iterator[None]:
    """As with HF_HUB_OFFLINE=1, which is read when the hub's library is loaded, and nothing fetched before."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as empty:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", empty)
        yield


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow over 2 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def closed(name: str, mode: int = 0o000) -> Prepare:
    return lambda folder: (folder / name).chmod(mode)


def state_without(*keys: str, **more: torch.Tensor) -> Callable[[dict], dict]:
    return lambda state: {k: v for k, v in state.items() if k not in keys} | more


PHOTOS = ("--images", "photos")
LONG = "x" * 246 + ".png"
CASES = {
    # names
    "unknown model": Case(
        ["analyze", "resnet5"], ("'resnet5' is neither bundled, a file, module:factory, nor timm's; near names: ",)
    ),
    "a model near nothing": Case(["analyze", "zzzzzz"], ("'zzzzzz' is neither", "gradlens ls models")),
    "unknown tag": Case(["analyze", "resnet18.bogus"], ("'resnet18.bogus' is neither", "near names: resnet18, ")),
    "no such module": Case(["analyze", "nowhere:Net"], ("cannot import 'nowhere'",)),
    "no such factory": Case(["analyze", "net:Nut"], ("module 'net' has no 'Nut'",)),
    "a factory that fails": Case(
        ["analyze", "net:strange"], ("'net:strange' fails with {}: KeyError('no such thing')",)
    ),
    "a factory without size": Case(["analyze", "net:Net"], ("--input-size 3 224 224",)),
    "a network that fails": Case(
        ["analyze", "net:Faulty", *NET[1:]], ("'net:Faulty' does not take 3 x 16 x 16", "no such key")
    ),
    "a network without gradient": Case(["analyze", "net:Flat", *NET[1:]], ("returns a tensor without a gradient",)),
    "a size it does not take": Case(
        ["analyze", "test_vit", "--weights", "random", "--input-size", "3", "50", "50"],
        ("--input-size: 'test_vit' does not take 3 x 50 x 50",),
    ),
    "a size of nothing": Case(["analyze", "net:Net", "--input-size", "3", "0", "0"], ("--input-size: ", "3 x 0 x 0")),
    "a size below nothing": Case(
        ["analyze", "net:Net", "--input-size", "3", "-4", "8"], ("--input-size: ", "3 x -4 x 8")
    ),
    "a size without periods": Case(
        ["analyze", "net:Net", "--input-size", "3", "2", "2"], ("--input-size: 2 x 2 px hold no period",)
    ),
    # weights
    "an offline hub": Case(
        ["analyze", "test_resnet"],
        (
            "fetching the weights of test_resnet from ",
            "/timm/test_resnet.r160_in1k gave none (HF_HUB_OFFLINE is set); give --weights FILE or --weights random",
        ),
        around=offline,
    ),
    "no such weights": Case(["analyze", "--weights", "w.pth"], ("there is no file 'w.pth'",)),
    "weights that are a folder": Case(
        ["analyze", "--weights", "used"], ("weights: there is no file 'used'",), run_at("used")
    ),
    "keys missing and unexpected": Case(
        ["analyze", "test_resnet", "--weights", "w.safetensors"],
        ("w.safetensors does not fit the network (1 missing: bn1.weight; 6 unexpected: x0, x1, x2, x3, x4)",),
        weights("w.safetensors", state_without("bn1.weight", **{f"x{i}": torch.zeros(1) for i in range(6)})),
    ),
    "another network's weights": Case(
        ["analyze", "--weights", "w.pth"],
        ("w.pth does not fit the network (", "missing: ", "unexpected: "),
        weights("w.pth"),
    ),
    "truncated safetensors": Case(
        ["analyze", "test_resnet", "--weights", "w.safetensors"],
        ("'w.safetensors' is no whole safetensors file",),
        half("w.safetensors"),
    ),
    "truncated pickle": Case(
        ["analyze", "test_resnet", "--weights", "w.pth"], ("'w.pth' does not read as plain tensors",), half("w.pth")
    ),
    "a header of 10^18 bytes": Case(
        ["analyze", "test_resnet", "--weights", "w.safetensors"],
        ("'w.safetensors' is no whole safetensors file",),
        file("w.safetensors", (10**18).to_bytes(8, "little") + b"{}"),
    ),
    "a pickle with code in it": Case(
        ["analyze", "test_resnet", "--weights", "w.pth"],
        ("'w.pth' does not read as plain tensors", "it holds posix.mkdir, and gradlens reads without running code"),
        weights("w.pth", lambda state: {**state, "bomb": Bomb()}),
    ),
    "a pickle with code as a model": Case(
        ["analyze", "w.pth"],
        ("'w.pth' does not describe its network; name the network and give --weights",),
        weights("w.pth", lambda state: {**state, "bomb": Bomb()}),
    ),
    "a checkpoint that names code": Case(
        ["analyze", "own.safetensors"], ("names the builder 'os:system'",), described(builder="os:system")
    ),
    "a checkpoint that names a file": Case(
        ["analyze", "own.safetensors"],
        ("'own.safetensors'", "checkpoint_path"),
        described(arguments={"checkpoint_path": "w.pth"}),
    ),
    "a checkpoint of no size": Case(
        ["analyze", "own.safetensors"], ("'own.safetensors'", "input_size"), described(input_size=["a", 3])
    ),
    "a checkpoint of no resizer": Case(
        ["analyze", "own.safetensors"], ("'own.safetensors'", "interpolation"), described(interpolation="magic")
    ),
    "a checkpoint of no mean": Case(
        ["analyze", "own.safetensors"], ("'own.safetensors'", "mean"), described(mean="grey")
    ),
    "weights without permission": Case(
        ["analyze", "test_resnet", "--weights", "w.pth"],
        ("'w.pth'", "Permission denied"),
        both(weights("w.pth"), closed("w.pth")),
        around=no_privilege,
    ),
    # pictures that do not read
    "no such pictures": Case(analyze("--images", "nowhere"), ("there is no file or folder 'nowhere'",)),
    "an empty folder": Case(analyze("--images", "empty"), ("'empty' holds no picture (.bmp, ",), folder_of("empty")),
    "a folder of texts": Case(analyze(*PHOTOS), ("'photos' holds no picture",), file("photos/a.txt")),
    "a truncated picture": Case(
        analyze(*PHOTOS),
        ("1 of 2 images could not be read and was left out: 'b.jpg' (image file is truncated",),
        both(cut("b.jpg", "JPEG"), picture("a.png")),
        0,
        ("a.png",),
    ),
    "only truncated pictures": Case(
        analyze(*PHOTOS),
        ("none of the 2 pictures could be read; the first, 'a.jpg': image file is truncated",),
        both(cut("a.jpg", "JPEG"), cut("b.png", "PNG")),
    ),
    "one truncated picture": Case(
        analyze("--images", "photos/a.jpg"),
        ("'a.jpg' does not read as a picture (image file is truncated",),
        cut("a.jpg", "JPEG"),
    ),
    "an empty picture": Case(
        analyze(*PHOTOS),
        ("1 of 2 images could not be read and was left out: 'b.png' (of no known format)",),
        both(picture("a.png"), file("photos/b.png")),
        0,
        ("a.png",),
    ),
    "many that do not read": Case(
        analyze(*PHOTOS),
        ("5 of 6 images could not be read and were left out: 'b0.png' ", "'b2.png' (of no known format) and 2 more"),
        both(picture("a.png"), *(file(f"photos/b{i}.png") for i in range(5))),
        0,
        ("a.png",),
    ),
    "a decompression bomb": Case(
        analyze(*PHOTOS),
        ("'b.png' (more than 178,956,970 pixels; make it smaller)",),
        both(picture("a.png"), lambda f: Image.new("1", (20_000, 20_000)).save(f / "photos" / "b.png")),
        0,
        ("a.png",),
    ),
    "a folder named like a picture": Case(
        analyze(*PHOTOS), (), both(picture("a.png"), folder_of("photos/b.png")), 0, ("a.png",)
    ),
    "a pipe": Case(
        analyze(*PHOTOS),
        ("'b.png' (no file, or a link to none)",),
        both(picture("a.png"), lambda f: os.mkfifo(f / "photos" / "b.png")),
        0,
        ("a.png",),
    ),
    "a link to nothing": Case(
        analyze(*PHOTOS),
        ("'b.png' (no file, or a link to none)",),
        both(picture("a.png"), lambda f: (f / "photos" / "b.png").symlink_to("nowhere")),
        0,
        ("a.png",),
    ),
    "a link to itself": Case(
        analyze(*PHOTOS),
        ("'b.png' (no file, or a link to none)",),
        both(picture("a.png"), lambda f: (f / "photos" / "b.png").symlink_to("b.png")),
        0,
        ("a.png",),
    ),
    "a folder that links to its parent": Case(
        analyze(*PHOTOS), (), both(picture("a.png"), lambda f: (f / "photos" / "up").symlink_to("..")), 0, ("a.png",)
    ),
    "a picture without permission": Case(
        analyze(*PHOTOS),
        ("'b.png' (Permission denied)",),
        both(picture("a.png", "b.png"), closed("photos/b.png")),
        0,
        ("a.png",),
        no_privilege,
    ),
    "a folder without permission": Case(
        analyze(*PHOTOS),
        ("the folder 'photos/deep' cannot be read (Permission denied)",),
        both(picture("a.png", "deep/b.png"), closed("photos/deep")),
        around=no_privilege,
    ),
    # pictures of odd sizes and names
    "smaller than a period": Case(
        analyze(*PHOTOS),
        ("1 of 1 images are smaller than 16 x 16 px and were enlarged",),
        picture("a.png", size=(1, 1)),
        0,
    ),
    "a strip": Case(
        analyze(*PHOTOS),
        ("2 of 2 images are smaller",),
        both(picture("a.png", size=(1, 5000)), picture("b/b.png", size=(5000, 1))),
        0,
    ),
    "odd names": Case(
        analyze(*PHOTOS),
        (),
        picture(
            "a b.png",
            "c'\".png",
            "d#.png",
            "e été 漢😀.png",
            LONG,
            "-dash.png",
            "100%.png",
            "[bold].png",
            "$(x).png",
            "new\nline.png",
        ),
        0,
        (
            "$(x).png",
            "-dash.png",
            "100%.png",
            "[bold].png",
            "a b.png",
            "c'\".png",
            "d#.png",
            "e été 漢😀.png",
            "new\nline.png",
            LONG,
        ),
    ),
    "a name that is no Unicode": Case(analyze(*PHOTOS, "--json"), (), picture(b"caf\xe9.png"), 0, ("caf\\xe9.png",)),
    "a name of no Unicode that does not read": Case(
        analyze(*PHOTOS),
        ("'caf\\\\xe9.png' (of no known format)",),
        lambda f: both(picture("a.png"), file("photos/" + os.fsdecode(b"caf\xe9.png")))(f),
        0,
        ("a.png",),
    ),
    # what is measured
    "period 1": Case([*analyze()[:-1], "1"], ("--periods: 1 px cannot be measured in 16 x 16 px; from 2 to 8",)),
    "a period larger than the picture": Case(
        [*analyze()[:-1], "2", "9"], ("--periods: 9 px cannot be measured in 16 x 16 px; from 2 to 8",)
    ),
    "a period twice": Case([*analyze()[:-1], "2", "2"], ("--periods: 2 px stands twice",)),
    "a period that is no number": Case([*analyze()[:-1], "two"], ("--periods",)),
    "batch size 0": Case(analyze("--batch-size", "0"), ("batch_size: must be at least 1, got 0",)),
    "an endless batch": Case(analyze("--batch-size", str(10**30)), (), code=0),
    "limit 0": Case(analyze("--limit", "0"), ("limit: must be at least 1, got 0",)),
    "an endless limit": Case(analyze(*PHOTOS, "--limit", str(10**30)), (), picture("a.png"), 0),
    "window 0": Case(analyze("--window", "0"), ("window: must be at least 1, got 0",)),
    "an endless window": Case(analyze("--window", str(10**30)), (), code=0),
    "a seed of 100 bits": Case(
        ["analyze", "test_resnet", "--weights", "random", "--seed", str(2**100)], ("seed: must be from 0 to 2**63 - 1",)
    ),
    "no such dtype": Case(analyze("--dtype", "int8"), ("--dtype",)),
    "a mean that is no number": Case(analyze("--mean", "nan"), ("mean: must be finite",)),
    "no such device": Case(
        analyze("--device", "cuda:99"), ("--device: 'cuda:99' is not to be had here", "without it the cpu is used")
    ),
    "no device at all": Case(analyze("--device", "toaster"), ("--device: 'toaster' is not to be had here",)),
    "a device without memory of its own": Case(
        analyze("--device", "meta"), ("--device: 'meta' is not to be had here",)
    ),
    "too little memory for a batch": Case(
        analyze(*PHOTOS, "--model-args.room", "3"),
        ("too little memory on cpu for 16 images at once; from here on --batch-size 8", "from here on --batch-size 2"),
        picture(*(f"{i}.png" for i in range(5))),
        0,
        tuple(f"{i}.png" for i in range(5)),
    ),
    "too little memory for one image": Case(
        ["analyze", "net:Full", *NET[1:]],
        ("--device: 'cpu' has too little memory for 'net:Full' and one image; try another device",),
    ),
    # where it goes
    "output in use": Case(
        analyze("--out", "used"),
        ("--out: 'used' is not empty; name another directory, or replace it with --force",),
        run_at("used"),
    ),
    "output is a file": Case(
        analyze("--out", "used/table.csv"), ("--out: 'used/table.csv' is a file; name a directory",), run_at("used")
    ),
    "output below a file": Case(
        analyze("--out", "used/table.csv/x"), ("--out: 'used/table.csv' is a file",), run_at("used")
    ),
    "output here": Case(analyze("--out", "."), ("--out: is the working directory",)),
    "output of 300 letters": Case(analyze("--out", "x" * 300), ("--out: 'xxx", "(File name too long)")),
    "output of 255 letters": Case(analyze("--out", "x" * 255), (), code=0),
    "no permission to write": Case(
        analyze("--out", "theirs/run"),
        ("--out: 'theirs/run' cannot be written (Permission denied); name a place",),
        both(folder_of("theirs"), closed("theirs", 0o555)),
        around=no_privilege,
    ),
    "a full disk": Case(
        analyze("--out", "run"),
        ("--out: 'run' cannot be written (File too large); name a place where there is room",),
        around=small_disk,
    ),
    "a full disk with an earlier run": Case(
        analyze("--out", "used", "--force"),
        ("--out: 'used' cannot be written (File too large)", "nothing that stood there is lost"),
        run_at("used"),
        around=small_disk,
    ),
    "refused with --force": Case(
        ["analyze", "resnet5", "--out", "used", "--force"], ("'resnet5' is neither",), run_at("used")
    ),
    # flags and files of flags
    "unknown flag": Case(["analyze", "--perids", "2"], ("--perids",)),
    "unknown key": Case(
        ["analyze", "--config", "c.toml"], ("bogus",), file("c.toml", 'model = "resnet18_half"\nbogus = 3\n')
    ),
    "no TOML": Case(["analyze", "--config", "c.toml"], ("'c.toml' is no TOML file",), file("c.toml", "= 3")),
    "TOML of no Unicode": Case(
        ["analyze", "--config", "c.toml"], ("'c.toml' is no TOML file",), file("c.toml", b"\xff\xfe")
    ),
    "TOML of a wrong type": Case(["analyze", "--config", "c.toml"], ("limit",), file("c.toml", 'limit = "few"\n')),
    "TOML of a table for a number": Case(
        ["analyze", "--config", "c.toml"], ("limit",), file("c.toml", "[limit]\na = 3\n")
    ),
    "TOML without an end": Case(
        ["analyze", "--config", "c.toml"], ("'c.toml' is no TOML file",), file("c.toml", "a = " + "[" * 20_000)
    ),
    "no such TOML": Case(["analyze", "--config", "no.toml"], ("there is no file 'no.toml'",)),
    "unknown command": Case(["analyse"], ("analyse",)),
    "unknown list": Case(["ls", "metric"], ("metrics",)),
    "no run": Case(
        ["report", "empty"],
        ("'empty' holds no run of gradlens: table.csv, arrays.safetensors, manifest.json missing",),
        folder_of("empty"),
    ),
    # measure
    "measure: a truncated picture": Case(
        ["measure", "photos"],
        ("left out: 'b.jpg' does not read as a picture (image file is truncated",),
        both(cut("b.jpg", "JPEG"), picture("a.png")),
        0,
    ),
    "measure: only truncated pictures": Case(
        ["measure", "photos"], ("none of the 1 in 'photos' reads; images: 'b.jpg'",), cut("b.jpg", "JPEG")
    ),
    "measure: odd names": Case(
        ["measure", "photos"], (), picture("a #1.png", 'it\'s "so".png', "é日.png", "n" * 250 + ".png"), 0
    ),
    "measure: bytes that are no text": Case(["measure", "photos"], (), picture(b"\xff\xfe.png", "a.png"), 0),
    "measure: a period too large": Case(
        ["measure", "photos", "--periods", "2", "13"], ("--periods: no picture holds two of 13 px",), picture("a.png")
    ),
    "measure: no such device": Case(
        ["measure", "photos", "--device", "cuda:99"], ("--device: 'cuda:99' is not to be had here",), picture("a.png")
    ),
    "measure: no such reference": Case(
        ["measure", "photos", "--against", "nowhere"], ("there is no file or folder 'nowhere'",), picture("a.png")
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with networks to import; what a case closed is opened again, to be removed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "net.py").write_text(NETWORKS)
    yield tmp_path
    sys.modules.pop("net", None)
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def exit_code(words: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["gradlens", *words])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    return stop.value.code


def contents(folder: Path) -> dict[str, bytes | None]:
    """What is below `folder`, but for Python's own cache."""
    found = [p for p in folder.rglob("*") if "__pycache__" not in p.parts]
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in found}


PROGRESS = (
    "gradlens: measuring ",
    "gradlens: analysing ",
    "net:",
    "test_",
    "resnet",
    "drawing the report",
    "fetching ",
    "too little memory on ",
)


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = CASES[case]
    told.prepare(here)
    before = contents(here)
    with told.around():
        code = exit_code(told.words, monkeypatch)
    output = capsys.readouterr()
    said = " ".join(output.err.split())
    assert code == told.code, said
    assert "Traceback" not in said and "Warning" not in said
    for words in told.said:
        assert words in said
    if told.code == 2:
        last = [line for line in output.err.splitlines() if not line.startswith(PROGRESS)]
        assert len(last) == 1 and output.out == ""
        assert contents(here) == before
    else:
        (run,) = (p.parent for p in here.rglob("manifest.json"))
        manifest = Results.read(run).manifest
        assert (run / "report.pdf").read_bytes().startswith(b"%PDF") and not manifest["partial"]
        assert output.out
        if told.images is not None:
            assert tuple(manifest["images"]) == told.images


def test_what_does_not_read_is_in_the_manifest_and_changes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("a.png", "c.png", "e.png")(here)
    code = exit_code(analyze(*PHOTOS, "--batch-size", "2", "--out", "clean"), monkeypatch)
    both(cut("b.jpg", "JPEG"), file("photos/d.png"))(here)
    assert (code, exit_code(analyze(*PHOTOS, "--batch-size", "2", "--out", "mixed"), monkeypatch)) == (0, 0)
    assert (here / "mixed/table.csv").read_bytes() == (here / "clean/table.csv").read_bytes()
    skipped = Results.read(here / "mixed").manifest["skipped"]
    assert [s["name"] for s in skipped] == ["b.jpg", "d.png"]
    assert "truncated" in skipped[0]["reason"] and skipped[1]["reason"] == "of no known format"
    assert Results.read(here / "clean").manifest["skipped"] == []


def test_a_batch_that_is_halved_changes_nothing_else(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(*(f"{i}.png" for i in range(5)))(here)
    for room in ("2", "99"):
        words = analyze(*PHOTOS, "--model-args.room", room, "--batch-size", "2", "--out", f"by-{room}")
        assert exit_code(words, monkeypatch) == 0
    assert exit_code(analyze(*PHOTOS, "--model-args.room", "2", "--out", "halved"), monkeypatch) == 0
    assert (here / "halved/table.csv").read_bytes() == (here / "by-2/table.csv").read_bytes()
    pd.testing.assert_frame_equal(Results.read(here / "by-2").table, Results.read(here / "by-99").table)


def test_a_hundred_thousand_pictures_are_not_looked_at_one_by_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("000000.png")(here)
    for i in range(1, 100_000):
        os.link(f"photos/{i - 1:06}.png", f"photos/{i:06}.png") if i % 50_000 else file(f"photos/{i:06}.png")(here)
    began = time.monotonic()
    assert exit_code(analyze(*PHOTOS, "--limit", "8", "--out", "run"), monkeypatch) == 0
    assert Results.read(here / "run").manifest["images"] == [f"{i:06}.png" for i in range(8)]
    assert time.monotonic() - began < 30  # 3 s on an idle core, beside 1 s without the folder
