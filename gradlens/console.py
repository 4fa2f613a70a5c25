"""How a command meets its user: flags and TOML from one dataclass, sentences instead of tracebacks, Ctrl-C, exit codes.

Exit 0 done, 1 findings, 2 cannot, 130 interrupted. Data goes to stdout, everything else to stderr. Nothing here imports
torch: help comes at once.
"""

import io
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from tomllib import loads
from typing import Any, Protocol, TypeVar

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Toml

import gradlens

NOT_IN_COMMAND = ("out", "force", "json", "config")  # where a run is written does not change what it measures
T = TypeVar("T")
SMALLER = "try another device, --dtype bfloat16 or a smaller --input-size"
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED")  # CUDA, MPS, CPU, cuBLAS


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after what was measured until then has been kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


class Advance(Protocol):
    """Tells the progress display how many steps are done."""

    def __call__(self, steps: int = 1) -> None: ...


def say(line: str) -> None:
    """Print one line for the reader, on stderr, at once; a reader who has left is no reason to stop."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def deliver(text: str) -> None:
    """Print what was asked for on stdout; a reader who has seen enough (`| head`) is content.

    Raises:
        OSError: it cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _abandon_stdout()
    except OSError as error:
        _abandon_stdout()
        raise OSError(f"stdout cannot be written ({error.strerror}); the run itself is whole") from error


def _abandon_stdout() -> None:
    """Let what is still in the buffer go nowhere, or Python complains of it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def application(name: str, purpose: str) -> App:
    """A cyclopts application with the house's settings."""
    return App(
        name=name,
        help=purpose,
        version=gradlens.__version__,
        default_parameter=Parameter(negative=()),
        config=config_file,
        help_format="plaintext",  # Markdown costs 0.1 s
        print_error=False,
        exit_on_error=False,  # a mistyped flag is refused like everything else
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )


def config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """For `App.config`: a TOML file named by `--config` holds what flags hold; flags win, an unknown key is an error."""
    named = next((a for a in arguments if a.name == "--config"), None)
    if named is None or not named.tokens:
        return
    path = Path(named.tokens[0].value)
    if not path.is_file():
        raise ValueError(f"--config: there is no file {str(path)!r}")
    try:
        loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config: {path.name!r} is no TOML file ({error})") from error
    Toml(path, must_exist=True, use_commands_as_keys=False)(app, commands, arguments)


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of flags as JSON holds it."""
    return {f.name: _as_json(getattr(config, f.name)) for f in fields(config)}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def command_line(words: Sequence[str], config: Any, positional: str) -> str:
    """The command that measures the same: `words`, the field `positional`, and the flags that are not at their defaults."""
    told, default = plain(config), plain(type(config)())
    said = list(words)
    first = told.pop(positional)
    if first != default[positional]:
        said += first if isinstance(first, list) else [first]
    for name, value in told.items():
        if name in NOT_IN_COMMAND or value == default[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            said.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, dict):
            for key, item in value.items():
                said += [f"{flag}.{key}", str(item)]
        else:
            said += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(said)


def device_named(name: str) -> Any:
    """The device that `--device` names.

    Raises:
        ValueError: it is not to be had here.
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        raise ValueError(
            f"--device: {name!r} is not to be had here ({first_line(error)}); without it the cpu is used"
        ) from error
    return device


def first_line(error: Exception, room: int = 120) -> str:
    """The first line of what an error says."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= room else f"{line[:room]}…"


def run(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run `app` as a process: print a refusal as one sentence, and exit with the command's code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that its encoding does not hold is no error
    try:
        code = app(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except (ValueError, TypeError, OSError, CycloptsError) as error:
        say(f"gradlens: {' '.join(str(error).split())}")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def carry_out(job: Callable[[], Path], tell: Callable[[Path], None]) -> int:
    """Do `job` and `tell` of its run, also of one that Ctrl-C cut short; the exit code."""
    try:
        folder = job()
    except Interrupted as stop:
        tell(stop.folder)
        say(f"interrupted: what was measured is kept in {str(stop.folder)!r}")
        return 130
    tell(folder)
    return 0


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed: the first asks to stop at the next good moment, the second ends at once.

    Outside the main thread, and where Ctrl-C means something else already, nothing changes.
    """
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(OSError):  # print may be what was interrupted
            os.write(2, b"stopping; what is measured is kept, Ctrl-C again ends at once\n")

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the machine, has too little memory."""
    return isinstance(error, MemoryError | RuntimeError) and (
        type(error).__name__ in ("OutOfMemoryError", "MemoryError") or bool(NO_MEMORY.search(str(error)))
    )


def in_batches_that_fit(measure: Callable[[int], T], batch_size: int, device: str) -> T:
    """What `measure` gives at `batch_size`, halved until the memory suffices.

    Raises:
        ValueError: one image is too much.
    """
    while True:
        try:
            return measure(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch_size == 1:
                raise ValueError(f"--device: {device!r} has too little memory for one image; {SMALLER}") from error
        batch_size //= 2  # outside of `except`, whose error holds on to tensors
        say(
            f"too little memory on {device} for {2 * batch_size} images at once; from here on --batch-size {batch_size}"
        )


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """A progress bar on stderr; when that is no terminal, a plain line at each tenth of the way."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    if screen.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task(what, total=total)

            def draw(steps: int = 1) -> None:
                bar.advance(task, steps)

            yield draw
        return
    done = 0

    def write(steps: int = 1) -> None:
        nonlocal done
        before, done = done, done + steps
        if total and (10 * before // total != 10 * done // total):
            say(f"{what}: {done} of {total}")

    yield write
