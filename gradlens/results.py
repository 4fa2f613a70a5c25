"""What a run leaves behind: a tidy table, arrays and a manifest, in one directory that appears whole or not at all.

A run holds `table.csv`, `arrays.safetensors`, `manifest.json`; a report adds `figures/` and `report.pdf`.
"""

import csv
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = (
    "model", "subject", "layer", "image", "period", "kind", "metric", "value", "low", "high", "p", "n", "unit",
)  # fmt: skip
PACKAGES = ("gradlens", "torch", "timm", "captum", "numpy", "scipy", "pandas", "matplotlib", "pillow", "typst")


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

    Args:
        out: where the run shall stand; `runs/COMMAND-N` with the first free N where None.
        command: names that folder.
        force: an earlier run at `out` is replaced, once the new one is complete.

    Yields:
        The folder to write into. `run_folder` tells where it will stand.

    Raises:
        ValueError: `out` is a file, or a folder that holds anything while `force` is off.
    """
    target = run_folder(out, command)
    check_free(target, force=force)
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        _put_in_place(work, target, force=force)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in missing:  # made for this run; gone with it if it failed
            with suppress(OSError):
                folder.rmdir()


def run_folder(out: Path | None, command: str) -> Path:
    """Where a run shall stand: `out`, or the first free `runs/COMMAND-N`; one that is being written is not free."""
    if out is not None:
        return out
    runs, number = Path("runs"), 1
    while (runs / f"{command}-{number}").exists() or any(runs.glob(f".{command}-{number}-*")):
        number += 1
    return runs / f"{command}-{number}"


def check_free(target: Path, *, force: bool) -> None:
    """Refuse a target that holds something.

    Raises:
        ValueError: `target` is a file or the working directory, or it is not empty while `force` is off.
    """
    if target.exists() and not target.is_dir():
        raise ValueError(f"--out: {str(target)!r} is a file; name a directory")
    if target.is_dir() and target.samefile(Path.cwd()):
        raise ValueError("--out: is the working directory; name a directory in it")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ValueError(f"--out: {str(target)!r} is not empty; name another directory, or replace it with --force")


def _put_in_place(work: Path, target: Path, *, force: bool) -> None:
    """Rename `work` to `target`; what stood there goes only afterwards, and not at all without `force`."""
    try:
        work.rename(target)  # also onto an empty directory
        return
    except OSError:
        if not target.is_dir():
            raise
    if not force:
        number = 1
        while (beside := target.with_name(f"{target.name}-{number}")).exists():
            number += 1
        work.rename(beside)
        raise ValueError(f"--out: {str(target)!r} was taken while this run was made; it stands at {str(beside)!r}")
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(aside / "run")
    try:
        work.rename(target)
    except OSError:
        (aside / "run").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
