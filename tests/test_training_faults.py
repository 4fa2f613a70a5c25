"""What can go wrong with `gradlens train`, each with a process of its own: killed, interrupted, full, damaged, diverged.

Processes are forked from one that has loaded torch, which takes most of the time of a small run. What one run does after another
stands in one test, for the same reason.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gradlens.redesign.gan import checkpoint
from gradlens.results import Results

ROOT = Path(__file__).parents[1]
KILLS = 10
STEPS = 400
LONG = 100_000  # steps that no test waits for

NURSERY = """
import atexit, gc, json, os, signal, sys

import gradlens.redesign, gradlens.redesign.gan.loop, gradlens.report.training
import lightning_fabric, torch
from gradlens.console import run
from gradlens.training import build_app

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    pass
torch.set_num_threads(1)

def tell(value):
    print(json.dumps(value), flush=True)

gc.freeze()
tell("ready")
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        tell(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]))
        continue
    child = os.fork()
    if child:
        tell(child)
        continue
    os.setsid()
    signal.alarm(400)
    for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(order["folder"])
    sys.path.insert(0, order["folder"])
    exec(order["before"])
    try:
        run(build_app(), order["words"])
    except SystemExit as end:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(end.code)  # to take torch down costs a second
"""

NETWORKS = """
import torch
from torch import distributed
from gradlens.networks import StagedGenerator

class Ill(StagedGenerator):
    "From its `at`-th pass in training on it is ill."

    def __init__(self, at=1, how="weights"):
        super().__init__(8, latent=4, width=2)
        self.at, self.how, self.passes = at, how, 0
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, latents):
        if self.training and self.how == "memory" and len(latents) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        self.passes += self.training
        images = super().forward(latents)
        if not self.training or self.passes < self.at:
            return images
        if self.how == "weights":
            return images * (self.one * float("nan"))
        if self.how == "gradient":
            return images + 0 * (0 * self.one).sqrt()
        if self.how == "rank" and distributed.is_initialized() and distributed.get_rank() == 1:
            raise RuntimeError("the second is ill")
        return images
"""

TINY = [
    *("--resolution", "8", "--width", "2", "--latent", "4", "--rated", "0", "--periods", "2"),
    *("--accelerator", "cpu", "--seed", "5"),
]
FOUR = [*TINY, "--batch-size", "4", "--log-every", "50"]


@dataclass
class Child:
    """A process of `gradlens train`, in a session of its own."""

    number: int
    out: Path
    err: Path
    nursery: "Nursery"

    def send(self, number: signal.Signals) -> None:
        os.kill(self.number, number)

    def send_all(self, number: signal.Signals) -> None:
        os.killpg(self.number, number)

    def until(self, line: str) -> None:
        """Wait until it has said a line that begins so."""
        wait_for(lambda: any(said.startswith(line) for said in self.err.read_text().splitlines()), self.err)

    def end(self) -> int:
        """Wait for its end; the exit code, or minus the signal."""
        return self.nursery.asked({"wait": self.number})

    def others(self) -> list[int]:
        """The processes that it has started to train in."""
        return [n for n in _children(self.number) if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]

    def refusal(self) -> str:
        """What it says as it cannot go on: one sentence."""
        code = self.end()
        said = self.err.read_text()
        assert code == 2 and "Traceback" not in said, (code, said)
        assert self.out.read_text() == ""
        return said.splitlines()[-1].removeprefix("gradlens: ")


def _children(number: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def wait_for(happened: Callable[[], object], told: object = None, seconds: float = 300) -> None:
    last = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < last, told.read_text() if isinstance(told, Path) else told
        time.sleep(0.01)


class Nursery:
    """A process that has loaded torch, and forks runs."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None and json.loads(self.process.stdout.readline()) == "ready"
        self.born = 0

    def asked(self, order: dict[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def train(self, folder: Path, *words: str, before: str = "") -> Child:
        """A run in `folder`, before which a piece of Python is carried out."""
        self.born += 1
        out, err = (folder / f"{self.born}.{name}" for name in ("out", "err"))
        err.touch()
        order = {"words": words, "folder": str(folder), "before": before, "out": str(out), "err": str(err)}
        return Child(self.asked(order), out, err, self)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    for child in _children(nursery.process.pid):
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    assert nursery.process.stdin is not None
    nursery.process.stdin.close()
    nursery.process.wait()


def pictures(folder: Path, count: int, size: tuple[int, int] = (10, 9)) -> None:
    folder.mkdir()
    for number in range(count):
        levels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number:04}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with 40 pictures and the networks."""
    pictures(tmp_path / "pics", 40)
    (tmp_path / "net.py").write_text(NETWORKS)
    return tmp_path


def whole(run: Path) -> list[int]:
    """The steps of a run's checkpoints, each of which reads."""
    return [checkpoint.load(folder).step for folder in checkpoint.checkpoints(run)]


def trained(run: Path) -> dict[str, torch.Tensor]:
    """Networks, optimisers and random numbers of the newest checkpoint."""
    state = checkpoint.load(checkpoint.newest(run)).state
    kinds = ("generator/", "discriminator/", "averaged/", "optimiser/", "rng/", "step")
    return {name: value for name, value in state.items() if name.startswith(kinds)}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def hidden(run: Path) -> list[str]:
    return [p.name for p in run.rglob(".*")]


# Killed


@pytest.mark.slow
def test_a_run_killed_at_ten_moments_ends_as_one_that_was_not(nursery: Nursery, place: Path) -> None:
    words = ["pics", *FOUR, "--steps", str(STEPS), "--save-every", "2"]
    assert nursery.train(place, *words, "--out", "quiet").end() == 0
    moments, run, killed = random.Random(0), place / "run", []
    for kill in range(KILLS):
        child = nursery.train(place, *(["--resume"] if kill else words), "--out", "run")
        last = killed[-1] if killed else 0
        wait_for(lambda last=last: (steps := _names(run)) and steps[-1] > last, child.err)
        time.sleep(moments.uniform(0, 0.3))
        child.send(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
        steps = whole(run)
        assert 1 <= len(steps) <= 3 + 1 and all(step % 2 == 0 for step in steps)
        killed.append(steps[-1])
    assert killed == sorted(set(killed)) and killed[-1] < STEPS
    assert nursery.train(place, "--resume", "--out", "run").end() == 0
    assert equal(trained(run), trained(place / "quiet")) and not hidden(run)
    told = Results.read(run).manifest
    assert told["training"]["resumed"] == killed and not told["partial"]
    assert told["command"] == Results.read(place / "quiet").manifest["command"]


def _names(run: Path) -> list[int]:
    return [int(p.name.removeprefix("step-")) for p in checkpoint.checkpoints(run)]


KILLED_AT = """
import os, pathlib, shutil, signal
from gradlens.redesign.gan import checkpoint

left = {at}

def mortal(function):
    def call(*words, **more):
        global left
        left -= armed
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    return call

armed, save = 0, checkpoint.save

def guarded(run, step, **more):
    global armed
    armed = step == {step}
    return save(run, step, **more)

checkpoint.save = guarded
checkpoint._write, checkpoint._write_text, os.fsync = map(mortal, (checkpoint._write, checkpoint._write_text, os.fsync))
pathlib.Path.rename, shutil.rmtree = map(mortal, (pathlib.Path.rename, shutil.rmtree))
"""


@pytest.mark.slow
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(nursery: Nursery, place: Path) -> None:
    words, run = ["pics", *FOUR, "--steps", str(LONG), "--save-every", "2"], place / "run"
    kills = 0
    while 8 not in _names(run):
        kills += 1
        how = KILLED_AT.format(at=kills, step=8)
        child = nursery.train(place, *(words if kills == 1 else ["--resume"]), "--out", "run", before=how)
        assert child.end() == -signal.SIGKILL, child.err.read_text()
        assert whole(run) in ([2, 4, 6], [2, 4, 6, 8]) and len(hidden(run)) == (8 not in _names(run))
    # five files, each written and flushed, the folder flushed and renamed, its new name flushed
    assert kills >= 5 * 2 + 3
    assert nursery.train(place, "--resume", "--steps", "12", "--out", "run").end() == 0
    assert whole(run) == [8, 10, 12] and not hidden(run)


# Damaged


def damage(run: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = checkpoint.newest(run) / name
    path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def foreign(folder: Path) -> None:
    """What another program would leave under that name."""
    for path in folder.iterdir():
        path.unlink()
    save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (
        lambda run: damage(run, "training.safetensors", lambda content: content[:-9]),
        "{newest!r} is damaged: training.safetensors is not what was written; {remedy}",
    ),
    "flipped": (
        lambda run: damage(run, "generator.safetensors", flipped),
        "{newest!r} is damaged: generator.safetensors is not what was written; {remedy}",
    ),
    "missing": (
        lambda run: (checkpoint.newest(run) / "discriminator.safetensors").unlink(),
        "{newest!r} is damaged: discriminator.safetensors is missing; {remedy}",
    ),
    "record cut": (
        lambda run: damage(run, checkpoint.RECORD, lambda content: content[:-9]),
        "{newest!r} is damaged: checkpoint.json does not read (",
    ),
    "record changed": (
        lambda run: damage(run, checkpoint.RECORD, lambda content: content.replace(b'"seed": 5', b'"seed": 4')),
        "{newest!r} is damaged: checkpoint.json is not what was written; {remedy}",
    ),
    "another program": (
        lambda run: foreign(checkpoint.newest(run)),
        "{newest!r} is no checkpoint of gradlens train: checkpoint.json is missing; {remedy}",
    ),
    "another version": (
        lambda run: damage(run, checkpoint.RECORD, lambda content: b'{"format": "other 7"}'),
        "{newest!r} is no checkpoint of this gradlens: its format is not 'gradlens training 1'; {remedy}",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_a_damaged_checkpoint_is_a_sentence_that_names_the_one_before(nursery: Nursery, place: Path) -> None:
    assert nursery.train(place, "pics", *FOUR, "--steps", "2", "--save-every", "1", "--out", "run").end() == 0
    run = place / "run"
    newest = checkpoint.newest(run)
    kept = {path: path.read_bytes() for path in newest.iterdir()}
    for spoil, said in DAMAGE.values():
        spoil(run)
        refusal = nursery.train(place, "--resume", "--out", "run").refusal()
        told = said.format(
            newest=str(newest.relative_to(place)), remedy="remove that folder to go on from step-00000001"
        )
        assert refusal.startswith(told) and refusal.endswith("remove that folder to go on from step-00000001")
        for path in newest.iterdir():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
    assert whole(run) == [1, 2]


def test_what_is_no_run_is_not_resumed_and_stays_as_it_is(nursery: Nursery, place: Path) -> None:
    (place / "empty").mkdir()
    for out in ("pics", "empty", "nowhere"):
        refusal = nursery.train(place, "--resume", "--out", out).refusal()
        assert refusal == (
            f"--resume: {out!r} holds no checkpoint of gradlens train; name the folder of a run, or begin anew"
        )
    assert (
        len(list((place / "pics").iterdir())) == 40 and (place / "empty").is_dir() and not (place / "nowhere").exists()
    )


# Diverged

ANEW = "begin anew with a smaller --learning-rate or another --loss"


@pytest.mark.parametrize(
    ("how", "said"),
    [("weights", "the loss of step 5 is not finite"), ("gradient", "after step 6 the weights are not finite")],
)
def test_a_loss_that_is_no_number_stops_the_run(how: str, said: str, nursery: Nursery, place: Path) -> None:
    ill = [
        "--generator",
        "net:Ill",
        "--generator-args.how",
        how,
        "--generator-args.at",
        "5" if how == "weights" else "6",
    ]
    words = ["pics", *FOUR, *ill, "--steps", str(LONG), "--save-every", "2", "--out", "run"]
    assert nursery.train(place, *words).refusal() == f"{said}; step-00000004 is kept; {ANEW}"
    assert whole(place / "run") == [2, 4]
    state = trained(place / "run")
    assert all(value.isfinite().all() for value in state.values())


def test_a_run_that_diverges_before_its_first_checkpoint_leaves_nothing(nursery: Nursery, place: Path) -> None:
    words = ["pics", *FOUR, "--generator", "net:Ill", "--steps", str(LONG), "--out", "run"]
    refusal = nursery.train(place, *words).refusal()
    assert refusal == f"the loss of step 1 is not finite; no checkpoint had been written; {ANEW}"
    assert not (place / "run").exists()


# Full


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[bool], str]]:
    """Yields what fills the file system of `folder`, or makes room; returns Python that a child carries out before."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False
    )
    mounted = done.returncode == 0
    ballast = folder / "ballast"

    def fill(full: bool) -> str:
        if not mounted:
            return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**12 if full else -1}, -1))"
        ballast.unlink(missing_ok=True)
        if full:
            room = os.statvfs(folder)
            with ballast.open("wb") as file, suppress(OSError):
                file.write(bytes(room.f_bavail * room.f_frsize - 2**13))
        return ""

    try:
        yield fill
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_when_there_is_room(nursery: Nursery, place: Path) -> None:
    words = ["pics", *FOUR, "--steps", str(LONG), "--save-every", "2", "--out", "disk/run"]
    with small_disk(place / "disk") as fill:
        child = nursery.train(place, *words, before=fill(False))
        wait_for(lambda: _names(place / "disk" / "run")[-1:] >= [6], child.err)
        child.send(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
        stood = whole(place / "disk" / "run")
        refusal = nursery.train(place, "--resume", "--out", "disk/run", before=fill(True)).refusal()
        print(refusal)
        assert whole(place / "disk" / "run") == stood and not hidden(place / "disk" / "run")
        last = str(stood[-1] + 2)
        assert nursery.train(place, "--resume", "--steps", last, "--out", "disk/run", before=fill(False)).end() == 0
        assert whole(place / "disk" / "run")[-1] == int(last)


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_keeps_the_training(nursery: Nursery, place: Path) -> None:
    with small_disk(place / "disk") as fill:
        before = fill(False) + FULL_AT_THE_END
        if not os.path.ismount(place / "disk"):
            pytest.skip("fills a file system of its own, which only root may mount")
        words = ["pics", *FOUR, "--steps", "4", "--out", "disk/run"]
        refusal = nursery.train(place, *words, before=before).refusal()
        assert refusal == (
            "--out: 'disk/run' cannot be written (No space left on device); step-00000004 is kept, --resume goes on from it"
        )
        fill(False)
        assert nursery.train(place, "--resume", "--out", "disk/run").end() == 0
        assert Results.read(place / "disk" / "run").manifest["training"]["steps"] == 4
        assert (place / "disk" / "run" / "report.pdf").is_file() and not hidden(place / "disk" / "run")


FULL_AT_THE_END = """
from pathlib import Path
from gradlens.redesign.gan import loop

def filled(*words, inner=loop.outcome):
    with Path("disk/ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return inner(*words)

loop.outcome = filled
"""


# Pictures that will not do


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_what_does_not_read_among_thousands_is_named_and_counted(packed: bool, nursery: Nursery, place: Path) -> None:
    source = place / "many"
    pictures(source, 2000)
    Image.open(source / "0000.png").resize((64, 64)).save(source / "cut.jpg")
    (source / "cut.jpg").write_bytes((source / "cut.jpg").read_bytes()[:-400])
    (source / "words.png").write_text("not a picture")
    if packed:
        with ZipFile(place / "many.zip", "w") as archive:
            for path in source.iterdir():
                archive.write(path, f"deep/{path.name}")
        source = place / "many.zip"
    child = nursery.train(place, source.name, *FOUR, "--steps", "1", "--out", "run")
    assert child.end() == 0
    data = Results.read(place / "run").manifest["training"]["data"]
    home = "deep/" if packed else ""
    assert set(data["skipped"]) == {f"{home}cut.jpg", f"{home}words.png"}
    assert (data["found"], data["used"]) == (2002, 2000)
    for name, reason in data["skipped"].items():
        assert f"left out {name!r}: {reason}" in child.err.read_text().splitlines()


def zipped(folder: Path, share: float = 1) -> None:
    with ZipFile(folder / "pics.zip", "w") as archive:
        for path in sorted((folder / "pics").iterdir()):
            archive.write(path, path.name)
    content = (folder / "pics.zip").read_bytes()
    (folder / "pics.zip").write_bytes(content[: int(share * len(content))])


def some_small(folder: Path) -> None:
    pictures(folder / "small", 8, (7, 30))
    for path in sorted((folder / "small").iterdir())[:3]:
        path.rename(folder / "pics" / f"small-{path.name}")


DATA: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a cut zip": (lambda p: zipped(p, 0.7), "pics.zip", "images: 'pics.zip' is no whole zip file (File is not a zip file)"),
    "an empty folder": (lambda p: (p / "none").mkdir(), "none", "images: 'none' holds no picture (.bmp, .gif, "),
    "one picture": (
        lambda p: pictures(p / "one", 1),
        "one",
        "--data: one picture is no data set; give more, or cut it up with --patches 1000",
    ),
    "all too small": (
        lambda p: pictures(p / "small", 8, (7, 30)),
        "small",
        "--data: none of 8 pictures will do at 8 px; the first, '0000.png': 7 x 30 px, below 8; "
        "give larger ones, or a smaller --resolution",
    ),
    "nothing": (lambda p: None, "nowhere", "--data: there is no 'nowhere'"),
}  # fmt: skip


def test_pictures_that_will_not_do_are_a_sentence_with_the_remedy(nursery: Nursery, place: Path) -> None:
    for make, name, said in DATA.values():
        make(place)
        refusal = nursery.train(place, name, *FOUR, "--out", "run").refusal()
        assert refusal.startswith(said) and not (place / "run").exists()


# Too little memory


@pytest.mark.slow
def test_too_little_memory_says_the_batch_that_fits(nursery: Nursery, place: Path) -> None:
    words = ["pics", *TINY, "--generator", "net:Ill", "--generator-args.how", "memory", "--steps", "2", "--out", "run"]
    refusal = nursery.train(place, *words, "--batch-size", "40").refusal()
    assert refusal == "--batch-size: cpu has too little memory for 40 images; --batch-size 5 fits"
    assert not (place / "run").exists()
    assert nursery.train(place, *words, "--batch-size", "5").end() == 0


# Another configuration


@pytest.mark.slow
def test_a_run_is_resumed_as_it_began(nursery: Nursery, place: Path) -> None:
    words = ["pics", *FOUR, "--save-every", "2"]
    assert nursery.train(place, *words, "--steps", "8", "--out", "quiet").end() == 0
    assert nursery.train(place, *words, "--steps", "4", "--out", "run").end() == 0
    refusals = {
        ("--width", "4"): "--width: the run began with 2, got 4; leave it out to resume, or begin anew",
        ("--loss", "non-saturating"): "--loss: the run began with 'hinge', got 'non-saturating'; leave it out",
        ("--upsampler", "deconv"): "--upsampler: the run began with ['resize'], got ['deconv']; leave it out",
        ("--learning-rate", "0.1"): "--learning-rate: the run began with 0.0002, got 0.1; leave it out",
        ("--data", "other"): "--resume: the pictures in --data are not those that the run began with",
    }
    pictures(place / "other", 39)
    for more, said in refusals.items():
        assert nursery.train(place, "--resume", "--out", "run", *more).refusal().startswith(said)
    assert whole(place / "run") == [2, 4]
    (place / "pics").rename(place / "moved")
    assert nursery.train(place, "--resume", "--out", "run", "--steps", "8", "--data", "moved").end() == 0
    assert equal(trained(place / "run"), trained(place / "quiet"))


# Several processes


def gone(numbers: list[int]) -> bool:
    return not any(Path(f"/proc/{number}").exists() for number in numbers)


@pytest.mark.slow
def test_two_processes_end_together_and_go_on(nursery: Nursery, place: Path) -> None:
    run, steps = place / "run", "60"
    together = ["--resume", "--devices", "2", "--log-every", "1", "--steps"]
    assert nursery.train(place, "pics", *FOUR, "--save-every", "2", "--steps", steps, "--out", "alone").end() == 0
    assert nursery.train(place, "pics", *FOUR, "--save-every", "2", "--steps", "4", "--out", "run").end() == 0
    shutil.copytree(run, place / "quiet")
    assert nursery.train(place, *together, steps, "--out", "quiet").end() == 0

    def begun() -> tuple[Child, list[int]]:
        last = _names(run)[-1]
        child = nursery.train(place, *together, str(LONG), "--out", "run")
        wait_for(lambda: _names(run)[-1] > last + 2, child.err)
        return child, child.others()

    child, others = begun()
    os.kill(others[1], signal.SIGKILL)
    said = child.refusal()
    newest = f"step-{whole(run)[-1]:08}"
    assert (
        said == f"process 1 of 2 ended (SIGKILL), the others were stopped; {newest} is kept, --resume goes on from it"
    )
    assert gone(others)

    child, others = begun()
    child.send(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    wait_for(lambda: gone(others))
    assert whole(run)

    for send in (Child.send, Child.send_all):  # as `kill` does, and as a terminal does
        child, others = begun()
        send(child, signal.SIGINT)
        assert child.end() == 130 and gone(others)
        said = child.err.read_text()
        assert said.count("stopping;") == 1 and "Traceback" not in said
        assert said.splitlines()[-4:] == [
            "drawing the report",
            f"gradlens: step-{whole(run)[-1]:08} is kept, --resume goes on from it",
            "report: run/report.pdf",
            "interrupted: what was measured is kept in 'run'",
        ]
        assert Results.read(run).manifest["partial"]

    assert whole(run)[-1] < int(steps) and nursery.train(place, *together, steps, "--out", "run").end() == 0
    assert equal(trained(run), trained(place / "quiet"))
    alone = trained(place / "alone")
    for name, value in trained(run).items():  # sums of float32 in another order, over sixty steps
        assert torch.allclose(value.double(), alone[name].double(), rtol=0.02, atol=1e-3), name
    assert not hidden(run)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(nursery: Nursery, place: Path) -> None:
    ill = ["--generator", "net:Ill", "--generator-args.how", "rank", "--generator-args.at", "6"]
    words = ["pics", *FOUR, *ill, "--steps", str(LONG), "--save-every", "2", "--devices", "2", "--out", "run"]
    assert nursery.train(place, *words).refusal() == (
        "process 1 of 2 failed (RuntimeError: the second is ill), the others were stopped; "
        "step-00000004 is kept, --resume goes on from it"
    )
    assert whole(place / "run") == [2, 4]
    assert nursery.train(place, "--resume", "--devices", "1", "--steps", "8", "--out", "run").end() == 0


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_weights(nursery: Nursery, place: Path) -> None:
    words, run = ["pics", *FOUR, "--steps", "200", "--out"], place / "run"
    assert nursery.train(place, *words, "quiet").end() == 0
    child = nursery.train(place, *words, "run")
    child.until("step 50 of 200")
    child.send(signal.SIGINT)
    assert child.end() == 130
    newest = whole(run)[-1]
    assert 50 <= newest < 200 and Results.read(run).manifest["partial"]
    assert child.out.read_text().startswith(f"Interrupted after {newest} of 200 steps")
    assert (run / "report.pdf").read_bytes().startswith(b"%PDF")
    said = child.err.read_text().splitlines()
    assert "stopping; what is measured is kept, Ctrl-C again ends at once" in said
    assert f"gradlens: step-{newest:08} is kept, --resume goes on from it" in said
    assert said[-1] == "interrupted: what was measured is kept in 'run'"
    assert nursery.train(place, "--resume", "--out", "run").end() == 0
    assert equal(trained(run), trained(place / "quiet"))
    told = Results.read(run).manifest
    assert not told["partial"] and told["training"]["resumed"] == [newest]
    assert told["command"] == Results.read(place / "quiet").manifest["command"]


STUCK = """
import time
from gradlens.redesign.gan import loop

def stuck(self, callback, stopped):
    print("training", file=sys.stderr, flush=True)
    time.sleep(100)

loop.Run.go = stuck
"""


def test_a_second_ctrl_c_ends_at_once(nursery: Nursery, place: Path) -> None:
    child = nursery.train(place, "pics", *FOUR, "--out", "run", before=STUCK)
    child.until("training")
    child.send(signal.SIGINT)
    child.until("stopping;")
    child.send(signal.SIGINT)
    assert child.end() == 130 and child.err.read_text().splitlines()[-1] == "interrupted"
    assert not (place / "run").exists()


# In the place of an earlier run


@pytest.mark.slow
def test_an_earlier_run_goes_when_the_new_one_is_complete(nursery: Nursery, place: Path) -> None:
    run, aside = place / "run", place / "run-before"
    words = ["pics", *FOUR, "--save-every", "2", "--out", "run"]
    assert nursery.train(place, *words, "--steps", "2").end() == 0
    earlier = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def stands(folder: Path) -> bool:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == earlier

    said = nursery.train(place, *words).refusal()
    assert said == "--out: 'run' is not empty; name another directory, or replace it with --force" and stands(run)
    for wrong in (["--width", "0"], ["--devices", "99x"], ["--data", "nowhere"]):
        replaced = [word for word in words if word != "pics"] if "--data" in wrong else words
        without = [w for k, w in enumerate(replaced) if w not in wrong[:1] and replaced[k - 1] not in wrong[:1]]
        nursery.train(place, *without, "--force", *wrong).refusal()
        assert stands(run) and not aside.exists()
    ill = ["--generator", "net:Ill", "--force"]  # no checkpoint comes of it
    nursery.train(place, *words, *ill).refusal()
    assert stands(run) and not aside.exists()

    child = nursery.train(place, *words, "--force", "--steps", str(LONG))
    wait_for(lambda: aside.exists() and _names(run)[-1:] >= [4], child.err)
    child.send(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    assert stands(aside) and whole(run)
    assert nursery.train(place, *words, "--force", "--steps", "4").end() == 0
    assert whole(run) == [2, 4] and stands(aside) and {p.name for p in place.glob("run*")} == {"run", "run-before"}
