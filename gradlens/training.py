"""The job `gradlens train`: a GAN whose instruments see the lattice, from pictures to checkpoints and a PDF.

pictures -> networks -> training -> spectrum -> comparison -> report. A run is trained in its own folder, so that whatever happens
its checkpoints stand there: Ctrl-C saves, and `--resume` goes on. Torch is imported after the first line is out.
"""

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from gradlens.console import Interrupted, application, carry_out, command_line, run, say
from gradlens.redesign.gan.config import TrainConfig, check, stored
from gradlens.results import FORBIDDEN, FULL, Results, check_free, run_folder, write_whole

if TYPE_CHECKING:
    from gradlens.redesign.gan.run import Progress

PURPOSE = "Train a GAN from pictures, watch the lattice in its samples and gradients, end with checkpoints and a PDF."
DEMO: dict[str, Any] = {
    "resolution": 32, "patches": 1000, "width": 16, "steps": 500, "log_every": 25, "save_every": 250, "draw_every": 100,
    "rated": 400, "average": 0.99,
}  # fmt: skip
ZOOMED = 768  # px that an enlarged grid has at least
COLUMNS = 8  # of a grid


@Parameter(name="*")
@dataclass(frozen=True)
class Config(TrainConfig):
    """What to train, and where to."""

    _: KW_ONLY
    demo: Annotated[
        bool,
        Parameter(help="A small run on squares of the sample photographs, where you give nothing else: three minutes."),
    ] = False
    resume: Annotated[
        bool, Parameter(help="Go on from the newest checkpoint in --out; flags are then those of that run.")
    ] = False
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/train-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


def train_model(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        Interrupted: Ctrl-C came before the last step; a checkpoint and the report of what there is are kept.
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
    """
    config = _settled(config)
    target = run_folder(config.out, "train")
    before = None if config.resume else _cleared(target, force=config.force)
    what = "resuming" if config.resume else f"training {config.label} in"
    say(f"gradlens: {what} {str(target)!r}; loading PyTorch")
    with _writing(target):
        try:
            results = _trained(config, target)
        except BaseException:
            if not config.resume:
                _put_back(target, before)
            raise
        write_run(results, target)
    if results.manifest["partial"]:
        from gradlens.checkpoints import kept

        say(f"gradlens: {kept(target)}")
        raise Interrupted(target)
    if before is not None:
        shutil.rmtree(before)
    return target


def _settled(config: Config) -> Config:
    """The configuration with what `--demo` fills in.

    Raises:
        ValueError: a flag is out of its range, or there is nothing to learn from.
    """
    if config.resume:
        if config.out is None:
            raise ValueError("--resume: name the folder of the run with --out")
        if config.demo or config.force:
            raise ValueError("--resume: goes on with a run as it is; leave out --demo and --force")
        return config
    if config.demo:
        plain = Config()
        given = {k: v for k, v in DEMO.items() if getattr(config, k) == getattr(plain, k)}
        if config.data:
            given.pop("patches", None)
        config = replace(config, **given)
    elif not config.data:
        raise ValueError("--data: name a folder or zip file of pictures; --demo trains on the sample photographs")
    for flag, paths in (("--data", config.data), ("--held-out", config.held_out)):
        for path in paths:
            if not path.exists():
                raise ValueError(f"{flag}: there is no {str(path)!r}")
    check(config)
    return config


def _trained(config: Config, target: Path) -> Results:
    from gradlens.redesign import train

    flags = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    return train(TrainConfig(**flags), Teller(target), folder=target, resume=config.resume)


def _cleared(target: Path, *, force: bool) -> Path | None:
    """Make an empty folder at `target`; where an earlier run stands from now on, None if there was none.

    Raises:
        ValueError: there is something, and `force` is off.
        OSError: it may not be written.
    """
    check_free(target, force=force)
    with _writing(target):
        before = _set_aside(target)
        target.mkdir(parents=True, exist_ok=True)
    return before


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a sentence about `--out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | FORBIDDEN:
            raise
        from gradlens.checkpoints import kept

        raise OSError(f"--out: {str(target)!r} cannot be written ({error.strerror}); {kept(target)}") from error


def _set_aside(target: Path) -> Path | None:
    """Give an earlier run another name until this one is complete; that name, None if there was none."""
    if not target.is_dir() or not any(target.iterdir()):
        return None
    number = 1
    while (aside := target.with_name(f"{target.name}-before{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    target.rename(aside)
    say(f"the earlier run stands at {str(aside)!r} until this one is complete")
    return aside


def _put_back(target: Path, before: Path | None) -> None:
    """After a failure: a folder without a checkpoint goes, and what stood there before comes back."""
    from gradlens.checkpoints import checkpoints

    if checkpoints(target):
        return
    shutil.rmtree(target, ignore_errors=True)
    if before is not None:
        before.rename(target)


def write_run(results: Results, folder: Path) -> None:
    """Write table, arrays, manifest, log and report beside the checkpoints; each file appears whole."""
    import tempfile

    from gradlens.report import write_report

    told = dict(results.manifest) | {"command": command(stored(results.manifest["training"]["config"]))}
    with tempfile.TemporaryDirectory(prefix=".results-", dir=folder) as work:
        Results(results.table, results.arrays, told).write(Path(work))
        for path in Path(work).iterdir():
            path.replace(folder / path.name)
    _write_log(results, folder / "log.csv")
    say("drawing the report")
    write_report(folder)


def _write_log(results: Results, path: Path) -> None:
    """The log, one measurement a row."""
    import io

    columns = {k.removeprefix("log/"): v for k, v in results.arrays.items() if k.startswith("log/")}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([row[0], *(f"{value:.6g}" for value in row[1:])] if len(row) else [])
    write_whole(path, text.getvalue().encode())


class Teller:
    """Tells of a run as it goes: a line on stderr, TensorBoard where it is installed, grids of samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board: Any = None

    def __call__(self, progress: "Progress") -> None:
        say(line(progress))
        if self.board is None:
            self.board = _board(self.folder / "tensorboard", progress.step)
        if self.board:
            for name, value in progress.values.items():
                if value != value:  # NaN
                    continue
                self.board.add_scalar(name, value, progress.step)
            if progress.draw:
                self.board.add_image("samples", grid(progress.samples.numpy()), progress.step)
            self.board.flush()
        if progress.draw:
            write_grids(progress.samples.numpy(), self.folder / "samples", f"step-{progress.step:08}")


def _board(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; False where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed (pip install 'gradlens[train]'): the log goes to log.csv alone")
        return False
    return SummaryWriter(str(folder), purge_step=step)


def line(progress: "Progress") -> str:
    """One measurement in one line."""
    values = progress.values
    period = min(int(name.rsplit("/", 1)[1]) for name in values if name.startswith("sample/signed/"))
    seen = ", ".join(
        f"{word} {values[f'{key}/signed/{period}']:.1f}"
        for key, word in (("sample", "samples"), ("gradient", "gradient"))
    )
    if progress.step == 0:
        return f"untrained: lattice of {period} px: {seen} dB"
    return (
        f"step {progress.step} of {progress.steps}: {values['images_per_second']:,.0f} images/s, "
        f"losses {values['loss_discriminator']:.2f} and {values['loss_generator']:.2f}; lattice of {period} px: {seen} dB"
    )


def grid(samples: Any, columns: int = COLUMNS) -> Any:
    """`[N C R R]` as one picture `[C H W]`, eight in a row, nothing between them."""
    import numpy as np

    count, channels, side, _ = samples.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * columns, channels, side, side), samples.dtype)
    sheet[:count] = samples
    return (
        sheet.reshape(rows, columns, channels, side, side).transpose(2, 0, 3, 1, 4).reshape(channels, rows * side, -1)
    )


def write_grids(samples: Any, folder: Path, name: str) -> None:
    """Write samples `[N C R R]` in [0, 1] as a grid at native size, and enlarged by a whole number: NAME.png, NAME-xZ.png."""
    from gradlens.figures import png

    sheet = grid(samples)
    zoom = max(2, -(-ZOOMED // sheet.shape[2]))
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"{name}.png", png(sheet))
    write_whole(folder / f"{name}-x{zoom}.png", png(sheet.repeat(zoom, 1).repeat(zoom, 2)))


def command(config: TrainConfig) -> str:
    """The command line that trains the same: flags that are not at their defaults, without where to write."""
    told = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    words = ["gradlens", "train"]
    if not config.data:  # the sample photographs, by what --demo fills in
        words.append("--demo")
        told = {k: v for k, v in told.items() if DEMO.get(k) != v}
    return command_line(words, Config(**told), "data")


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell
    from gradlens.report.training import short_table

    tell(folder, lambda place: short_table(Results.read(place)), as_json=as_json)


def build_app(name: str = "gradlens train") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: train_model(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.training"))
