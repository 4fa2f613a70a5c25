"""What a run leaves behind: a tidy table, arrays and a manifest, in one directory that appears whole or not at all.

A run holds `table.csv`, `arrays.safetensors`, `manifest.json`; a report adds `figures/` and `report.pdf`.
"""

import csv
import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, EDQUOT, EFBIG, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = (
    "model", "subject", "layer", "image", "period", "kind", "metric", "value", "low", "high", "p", "n", "unit",
)  # fmt: skip
PACKAGES = ("gradlens", "torch", "timm", "captum", "numpy", "scipy", "pandas", "matplotlib", "pillow", "typst")
FULL = frozenset({ENOSPC, EDQUOT, EFBIG})
FORBIDDEN = frozenset({EACCES, EPERM, EROFS, ENOTDIR, ENAMETOOLONG})
UNFINISHED, ASIDE = "gradlens-new", "gradlens-old"  # what a hidden folder holds


@dataclass(frozen=True)
class Results:
    """`table` (one measurement a row), `arrays` by name, and the `manifest` that says how they came about."""

    table: "pd.DataFrame"
    arrays: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the three files into `folder`, which exists."""
        import numpy as np
        from safetensors.numpy import save

        texts = self.table.select_dtypes(exclude="number").astype(str)
        returns = any(texts[name].str.contains("\r", regex=False).any() for name in texts)
        self.table.to_csv(
            folder / "table.csv",
            index=False,
            float_format="%.6g",
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,  # a bare \r would end a line
            errors="backslashreplace",
        )
        arrays = save({k: np.asarray(v, order="C") for k, v in self.arrays.items()})
        (folder / "arrays.safetensors").write_bytes(arrays)
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False, sort_keys=True)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """The results in `folder`.

        Raises:
            ValueError: `folder` holds no run, or one of its files does not read.
        """
        import pandas as pd
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        missing = [n for n in ("table.csv", "arrays.safetensors", "manifest.json") if not (folder / n).is_file()]
        if missing:
            raise ValueError(f"{str(folder)!r} holds no run of gradlens: {', '.join(missing)} missing")
        text: Any = dict.fromkeys((c for c in COLUMNS if c not in _NUMBERS), str)
        try:
            table = pd.read_csv(folder / "table.csv", dtype=text, keep_default_na=False, na_values=_NUMBERS)
            arrays = load_file(folder / "arrays.safetensors")
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if not isinstance(table.index, pd.RangeIndex):
                raise ValueError("a row of table.csv has more fields than columns")
            words = [c for c in _NUMBERS if len(table) and c in table and not pd.api.types.is_numeric_dtype(table[c])]
            if words:
                raise ValueError(f"table.csv holds words where numbers belong: {', '.join(words)}")
            if not isinstance(manifest, dict):
                raise ValueError("manifest.json is no object")
        except (ValueError, SafetensorError) as error:
            raise ValueError(f"{str(folder)!r} holds a damaged run: {error}") from error
        return cls(table, arrays, manifest)


_NUMBERS = {name: [""] for name in ("period", "value", "low", "high", "p", "n")}


@contextmanager
def new_run(out: Path | None, command: str, *, force: bool) -> Iterator[Path]:
    """A hidden folder to write a run into; it takes the place of `out` only when the block ends well.

    Killed at any moment, what stood at `out` is whole there, or put back by the next run with the same target where the
    system cannot swap two folders in one step. That run also removes hidden folders whose process is dead.

    Args:
        out: where the run shall stand; `runs/COMMAND-N` with the first free N where None.
        command: names that folder.
        force: an earlier run at `out` is replaced, once the new one is complete.

    Yields:
        The folder to write into. `run_folder` tells where it will stand, unless the block moves it (`put_beside`).

    Raises:
        ValueError: `out` is a file, or a folder that holds anything while `force` is off.
        OSError: `out` may not be written, or there is no room.
    """
    target = run_folder(out, command)
    with _naming(target, FULL | FORBIDDEN):
        place = target.resolve() if target.is_symlink() else target
        missing = [folder for folder in place.parents if not folder.exists()]
        _sweep(place)
        check_free(target, force=force)
    try:
        with _naming(target, FULL | FORBIDDEN):
            place.parent.mkdir(parents=True, exist_ok=True)
            work, lock = _hidden(place, UNFINISHED)
        try:
            with _naming(target, FULL):
                yield work
            if work.exists():
                _put_in_place(work, place, force=force)
        finally:
            _remove(work, lock)
    finally:
        for folder in missing:  # made for this run; gone with it if it failed
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _naming(target: Path, numbers: frozenset[int]) -> Iterator[None]:
    """Turn a refusal of the file system, one of `numbers`, into a sentence about `--out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        raise OSError(
            f"--out: {str(target)!r} cannot be written ({error.strerror}); name a place where there is room and you may "
            "write; nothing that stood there is lost"
        ) from error


def run_folder(out: Path | None, command: str) -> Path:
    """Where a run shall stand: `out`, or the first free `runs/COMMAND-N`; one that is being written is not free."""
    if out is not None:
        return out
    number = 1
    while (target := Path("runs", f"{command}-{number}")).exists() or any(map(_held, _hidden_folders(target))):
        number += 1
    return target


def check_free(target: Path, *, force: bool) -> None:
    """Refuse a target that holds something.

    Raises:
        ValueError: `target` is a file or the working directory, or it is not empty while `force` is off.
    """
    for folder in (target, *target.parents):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out: {str(folder)!r} is a file; name a directory")
    if target.is_dir() and target.samefile(Path.cwd()):
        raise ValueError("--out: is the working directory; name a directory in it")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ValueError(f"--out: {str(target)!r} is not empty; name another directory, or replace it with --force")


def put_beside(work: Path, target: Path, ending: str) -> Path:
    """Move a finished `work` to the first free name beside `target`, `target-ENDING` or `target-ENDING-N`; that name."""
    name, number = f"{_shortened(target.name)}-{ending}", 1
    beside = work.with_name(name)
    while beside.exists():
        number += 1
        beside = work.with_name(f"{name}-{number}")
    return work.rename(beside)


def _put_in_place(work: Path, place: Path, *, force: bool) -> None:
    """Rename `work` to `place`; what stood there goes only afterwards, and not at all without `force`."""
    try:
        work.rename(place)  # also onto an empty directory
        return
    except OSError:
        if not place.is_dir():
            raise
    if not force:
        beside = put_beside(work, place, "new")
        raise ValueError(f"--out: {str(place)!r} was taken while this run was made; it stands at {str(beside)!r}")
    if not _exchange(work, place):
        _exchange_in_steps(work, place)


def _exchange(work: Path, place: Path) -> bool:
    """Swap two folders in one step, so that no moment is without a run at `place`; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if not hasattr(libc, "renameat2"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return libc.renameat2(here, os.fsencode(work), here, os.fsencode(place), exchange) == 0


def _exchange_in_steps(work: Path, place: Path) -> None:
    """Set what is at `place` aside and rename `work` to it; killed between the two, `_sweep` puts the old run back."""
    aside, lock = _hidden(place, ASIDE)
    try:
        place.rename(aside / place.name)
        try:
            work.rename(place)
        except BaseException:
            (aside / place.name).rename(place)
            raise
    finally:
        _remove(aside, lock)


def _hidden(place: Path, mark: str) -> tuple[Path, int | None]:
    """A new hidden folder beside `place`, and the lock on it that dies with this process."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(place, mark), dir=place.parent))
        lock = _lock(folder)
        if folder.exists():  # not swept before it was locked
            folder.chmod(0o777 & ~_umask())
            return folder, lock


def _hidden_folders(place: Path) -> list[Path]:
    """The hidden folders beside `place`, of living and dead processes."""
    prefixes = [_prefix(place, mark) for mark in (UNFINISHED, ASIDE)]
    try:
        names = [e.name for e in os.scandir(place.parent) if e.name.startswith(tuple(prefixes))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [place.parent / n for n in names if any(n.startswith(p) and len(n) == len(p) + 8 for p in prefixes)]


def _sweep(place: Path) -> None:
    """Remove what killed processes left beside `place`, and put back a run that one had just set aside."""
    for folder in _hidden_folders(place):
        lock = _lock(folder)
        if lock is not None:
            old = folder / place.name
            if folder.name.startswith(_prefix(place, ASIDE)) and old.exists() and not place.exists():
                old.rename(place)
            _remove(folder, lock)


def _held(folder: Path) -> bool:
    """Whether a living process holds `folder`."""
    lock = _lock(folder)
    if lock is not None:
        os.close(lock)
    return lock is None


def _lock(folder: Path) -> int | None:
    """An open lock on `folder`; None if another process holds it or the system knows no such lock."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _prefix(place: Path, mark: str) -> str:
    """How the names of hidden folders for `place` begin; mkdtemp adds eight characters."""
    return f".{_shortened(place.name)}-{mark}-"


def _shortened(name: str) -> str:
    """`name` with room for an ending in the 255 bytes that file systems allow."""
    return name if len(os.fsencode(name)) <= 220 else os.fsencode(name)[:220].decode(errors="ignore")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where what can be made again is kept from run to run: `gradlens` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradlens"


def circumstances() -> dict[str, Any]:
    """What a manifest says of the machine's software: versions, Python, platform and, in a checkout, the commit."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout that gradlens runs from, None for an installed one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
