"""How a command meets its user: flags and TOML from one dataclass, sentences instead of tracebacks, exit codes.

Exit 0 done, 1 findings, 2 cannot, 130 interrupted. Data goes to stdout, everything else to stderr. Nothing here imports
torch: help comes at once.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tomllib import loads
from typing import Any, Protocol

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Toml

import gradlens

NOT_IN_COMMAND = ("out", "force", "json", "config")  # where a run is written does not change what it measures


class Advance(Protocol):
    """Tells the progress display how many steps are done."""

    def __call__(self, steps: int = 1) -> None: ...


def say(line: str) -> None:
    """Print one line for the reader, on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def application(name: str, purpose: str) -> App:
    """A cyclopts application with the house's settings."""
    return App(
        name=name,
        help=purpose,
        version=gradlens.__version__,
        default_parameter=Parameter(negative=()),
        config=config_file,
        help_format="plaintext",  # Markdown costs 0.1 s
        error_formatter=_sentence,
        result_action="return_value",
    )


def _sentence(error: CycloptsError) -> Any:
    """A mistyped flag is refused like everything else: in one line."""
    from rich.text import Text

    return Text(f"gradlens: {' '.join(str(error).split())}", no_wrap=True, overflow="ignore")


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
    except ValueError as error:
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
        if isinstance(value, dict):
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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"--device: {name!r} is not to be had here ({first_line(error)})") from error
    return device


def first_line(error: Exception, room: int = 120) -> str:
    """The first line of what an error says."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if len(line) <= room else f"{line[:room]}…"


def run(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run `app` as a process: print a refusal as one sentence, and exit with the command's code."""
    try:
        code = app(arguments)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except (ValueError, TypeError, OSError) as error:
        say(f"gradlens: {' '.join(str(error).split())}")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


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
