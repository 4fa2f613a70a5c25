"""Processes that are killed or interrupted: what stood is whole, what was measured is kept, nothing is left lying about."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradlens import console
from gradlens.results import Results, new_run

ROOT = Path(__file__).parents[1]
KILLS = 10

WRITER = """
import itertools, sys
from pathlib import Path
from gradlens import results

target, force, steps = Path(sys.argv[1]), sys.argv[2] == "force", sys.argv[3]
if steps == "in steps":
    results._exchange = lambda work, place: False
print("ready", flush=True)
for number in itertools.count():
    place = target if force else target.with_name(f"run{number}")
    with results.new_run(place, "analyze", force=force) as work:
        for name in "abc":
            (work / name).write_text(f"{number} " * 1000)
"""
NETWORK = """
import time
from torch import nn

class Slow(nn.Module):
    def __init__(self, seconds=0.3):
        super().__init__()
        self.seconds, self.first, self.last = seconds, nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2)

    def forward(self, x):
        time.sleep(self.seconds)
        return self.last(self.first(x).square().mean((2, 3)))
"""


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    """A child of Python with the checkout on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def earlier(run: Path) -> None:
    run.mkdir()
    for name in "abc":
        (run / name).write_text("earlier")


def whole(run: Path) -> bool:
    """Whether the three files of a run of `WRITER` are of one writing."""
    return {p.name for p in run.iterdir()} == set("abc") and len({p.read_text() for p in run.iterdir()}) == 1


@pytest.mark.parametrize("steps", ["in one step", "in steps"])
@pytest.mark.parametrize("force", ["force", "new"])
def test_a_process_killed_at_any_moment_leaves_whole_runs(force: str, steps: str, tmp_path: Path) -> None:
    earlier(tmp_path / "run")
    moments = random.Random(f"{force} {steps}")
    for _ in range(KILLS):
        child = start("-c", WRITER, str(tmp_path / "run"), force, steps, folder=tmp_path)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.001, 0.1))
        child.kill()
        _, said = child.communicate()
        assert child.returncode == -signal.SIGKILL, said
        if steps == "in steps":  # the next start puts back what had been set aside
            with pytest.raises(ValueError, match="is not empty"), new_run(tmp_path / "run", "analyze", force=False):
                pass
        assert whole(tmp_path / "run")
        for run in tmp_path.glob("run[0-9]*"):
            assert whole(run)
            shutil.rmtree(run)
    with new_run(tmp_path / "run", "analyze", force=True):
        pass
    assert force == "new" or not hidden(tmp_path)


def test_a_run_killed_between_two_renames_is_put_back(tmp_path: Path) -> None:
    script = WRITER.replace(
        "print(", "import os, signal\nwork_on = Path.rename\n"
        "def rename(self, to):\n"
        "    if to == target and target.parent.joinpath('armed').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return work_on(self, to)\n"
        "Path.rename = rename\n"
        "print(", 1,
    )  # fmt: skip
    earlier(tmp_path / "run")
    # the first rename fails onto a full folder, the second comes after the old run was set aside
    script = script.replace("if to == target and", "if to == target and not target.exists() and")
    (tmp_path / "armed").write_text("")
    child = start("-c", script, str(tmp_path / "run"), "force", "in steps", folder=tmp_path)
    child.communicate()
    assert child.returncode == -signal.SIGKILL and not (tmp_path / "run").exists() and len(hidden(tmp_path)) == 2
    with pytest.raises(ValueError, match="is not empty"), new_run(tmp_path / "run", "analyze", force=False):
        pass
    assert whole(tmp_path / "run") and (tmp_path / "run" / "a").read_text() == "earlier" and not hidden(tmp_path)


# Ctrl-C


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_ctrl_c_asks_and_the_second_ends() -> None:
    with console.stoppable() as stopped:
        assert not stopped()
        press()
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_as_before_afterwards() -> None:
    for _ in range(2):
        with console.stoppable() as stopped:
            assert not stopped()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with console.stoppable() as stopped:
            press()
            assert not stopped() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# The whole job, as a process

MEASURE = [
    "-m",
    "gradlens.analyze",
    "net:Slow",
    "--input-size",
    "3",
    "16",
    "16",
    "--periods",
    "2",
    "--images",
    "photos",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with eight photographs and a slow network."""
    from gradlens.images import sample

    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        sample("coffee").resize((30 + number, 24)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def until(child: subprocess.Popen[str], begins: str) -> list[str]:
    """The lines that `child` says on stderr, to the one that begins so."""
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line.rstrip("\n"))
        if line.startswith(begins):
            return said
    raise AssertionError(said)


def interrupted(place: Path, *words: str, after: str, twice: bool = False) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of an analysis that gets Ctrl-C `after` a line."""
    child = start(*MEASURE, "--batch-size", "1", *words, folder=place)
    said = until(child, after)
    child.send_signal(signal.SIGINT)
    if twice:
        said += until(child, "stopping;")
        child.send_signal(signal.SIGINT)
    out, rest = child.communicate(timeout=120)
    assert "Traceback" not in rest
    return child.returncode, out, "\n".join([*said, rest])


def earlier_run(place: Path) -> Callable[[], bool]:
    """An earlier run at `run`, and whether it is still what it was."""
    (place / "run").mkdir()
    (place / "run" / "table.csv").write_text("earlier")
    return lambda: [(p.name, p.read_text()) for p in (place / "run").iterdir()] == [("table.csv", "earlier")]


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_ctrl_c_keeps_what_is_measured(force: bool, place: Path) -> None:
    still = earlier_run(place) if force else lambda: True
    words = ["--out", "run", *(["--force"] if force else [])]
    code, out, said = interrupted(place, *words, after="net:Slow: 2 of 8")
    kept = place / ("run-partial" if force else "run")
    manifest = Results.read(kept).manifest
    measured = len(manifest["images"])
    assert code == 130 and still() and not hidden(place)
    assert manifest["partial"] and 2 <= measured < 8
    assert out.startswith(f"Partial: interrupted after {measured} of 8 images.\n")
    assert said.rstrip().endswith(f"interrupted: what was measured is kept in {kept.name!r}")
    assert (kept / "report.pdf").read_bytes().startswith(b"%PDF")
    assert set(Results.read(kept).table["image"]) == {"", *(f"{n}.png" for n in range(measured))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "twice"), [("gradlens: analysing", False), ("net:Slow: 1 of 8", True)], ids=["at the start", "twice"]
)
def test_ctrl_c_with_nothing_to_keep_leaves_nothing(after: str, twice: bool, place: Path) -> None:
    still = earlier_run(place)
    code, out, said = interrupted(place, "--out", "run", "--force", after=after, twice=twice)
    assert (code, out) == (130, "") and said.rstrip().endswith("interrupted")
    assert still() and not hidden(place) and not list(place.glob("run-*"))


@pytest.mark.slow
def test_ctrl_c_at_the_second_model_keeps_the_first(place: Path) -> None:
    words = ["--out", "run", "--against", "net:Slow", "--seed", "1"]
    child = start(*MEASURE, "--batch-size", "1", *words, folder=place)
    until(child, "net:Slow (as the factory made them) a: 8 of 8")
    until(child, "net:Slow (as the factory made them) b: 1 of 8")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=120)
    manifest = Results.read(place / "run").manifest
    assert child.returncode == 130 and len(manifest["models"]) == 1 and len(manifest["images"]) == 8
    assert out.startswith("Partial: interrupted after 8 of 8 images, 1 of 2 models.\n")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["photos", "real"])
def test_ctrl_c_keeps_what_measure_measured(stage: str, place: Path) -> None:
    from gradlens.images import sample

    for folder in ("photos", "real"):
        (place / folder).mkdir(exist_ok=True)
        for number in range(30):  # of as many sizes: each is a batch
            sample("coffee").resize((400 + number, 300)).save(place / folder / f"{number:02}.png")
    still = earlier_run(place)
    command = ["-m", "gradlens.measure", "photos", "--against", "real", "--out", "run", "--force", "--limit", "30"]
    child = start(*command, folder=place)
    said = until(child, f"{stage}: 3 of 30")
    child.send_signal(signal.SIGINT)
    out, rest = child.communicate(timeout=120)
    assert child.returncode == 130 and "Traceback" not in rest, (said, rest)
    assert still() and not hidden(place)
    manifest = Results.read(place / "run-partial").manifest
    counts = [len(entry["images"]) for entry in manifest["sets"]]
    assert manifest["partial"] and (3 <= counts[0] < 30 if stage == "photos" else counts[0] == 30 > counts[1] >= 3)
    assert out.startswith(f"Partial: interrupted after {sum(counts)} of 60 images.\n")


@pytest.mark.slow
def test_ctrl_c_while_the_report_is_drawn_keeps_the_measurements(place: Path) -> None:
    code, out, said = interrupted(place, "--out", "run", after="drawing the report")
    assert code == 130 and "gradlens report" in said and out
    assert not Results.read(place / "run").manifest["partial"] and not (place / "run" / "report.pdf").exists()


@pytest.mark.slow
def test_an_analysis_killed_at_ten_moments_leaves_whole_runs(place: Path) -> None:
    words = [*MEASURE, "--model-args.seconds", "0.01", "--out"]
    began = time.monotonic()
    assert start(*words, "run", folder=place).wait() == 0
    length = time.monotonic() - began
    wanted = {p.name: p.read_bytes() for p in (place / "run").iterdir() if p.is_file()}
    moments = random.Random(0)
    for kill in range(KILLS):
        where = ["run", "--force"] if kill % 2 else [f"run{kill}"]
        child = start(*words, *where, folder=place)
        time.sleep(length * (moments.uniform(0, 1) if kill % 4 < 2 else moments.uniform(0.8, 1.02)))
        child.kill()
        child.wait()
        for run in place.glob("run*"):
            assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == wanted
        assert (place / "run").exists()
    for name in ("run", *(f"run{kill}" for kill in range(0, KILLS, 2))):
        with new_run(place / name, "analyze", force=True):
            pass
    assert not hidden(place)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["/dev/full", "head", "nowhere"])
def test_a_reader_who_leaves_or_a_full_stdout_is_no_traceback(to: str, place: Path) -> None:
    words = [sys.executable, *MEASURE, "--model-args.seconds", "0", "--json", "--out", "run"]
    ends = {"/dev/full": "> /dev/full", "head": "| head -c 1", "nowhere": ">&-"}
    command = f'"$@" {ends[to]}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command, "bash", *words], cwd=place, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == (2 if to == "/dev/full" else 0), done.stderr
    last = done.stderr.splitlines()[-1]
    full = "gradlens: stdout cannot be written (No space left on device); the run itself is whole"
    assert last == (full if to == "/dev/full" else "drawing the report")
    assert Results.read(place / "run").manifest["images"] == [f"{n}.png" for n in range(8)]
