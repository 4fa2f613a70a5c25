"""Runs: what is written comes back, and a directory appears whole or not at all."""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gradlens import results
from gradlens.results import COLUMNS, Results, check_free, circumstances, new_run, put_beside, run_folder, write_whole

FILES = ("table.csv", "arrays.safetensors", "manifest.json")
NUMBERS = ("period", "value", "low", "high", "p", "n")


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """A table of all columns; what a row leaves out is 0 or empty."""
    blank = {column: 0.0 if column in NUMBERS else "" for column in COLUMNS}
    return pd.DataFrame([blank | row for row in rows], columns=list(COLUMNS))


def written(results: Results, folder: Path) -> Path:
    folder.mkdir()
    results.write(folder)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that no default has, for the length of a test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What is written comes back

TEXTS = [
    '"a",b\n#.png', "", "nan", "NA", "None", "null", "inf", "1", "007", "1e5", "True", "#first", " lead", "trail ", "\t",
    "a\\b", "it's", 'q"', "a,b", "a;b", "\n", "a\r\nb", "a\rb", "é 漢 😀", "e\u0301", "\u2028", "\ufeffmark", "../up", "-1",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("column", ["model", "image", "unit"])
def test_a_text_stays_the_same_text(column: str, text: str, tmp_path: Path) -> None:
    wanted = table({column: text, "value": 1.5}, {column: "plain", "value": 2.5})
    got = Results.read(written(Results(wanted), tmp_path / "run")).table
    assert got[column].tolist() == [text, "plain"]
    assert got["value"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("text", ["007", "1", "1e5", "inf", "True"])
def test_a_column_of_texts_like_numbers_stays_text(text: str, tmp_path: Path) -> None:
    got = Results.read(written(Results(table({"layer": text}, {"layer": text})), tmp_path / "run")).table
    assert got["layer"].tolist() == [text, text]


def test_a_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # a file of a Latin-1 system
    folder = written(Results(table({}), manifest={"config": {"images": name}}), tmp_path / "run")
    assert Results.read(folder).manifest["config"]["images"] == "caf\udce9.png"


@pytest.mark.parametrize("column", NUMBERS)
def test_numbers_come_back_to_six_digits(column: str, tmp_path: Path) -> None:
    wanted = [0.0, 1.0, -2.5, 0.1234567, 1e-300, 1.7e300, float("nan"), float("inf"), -float("inf")]
    got = Results.read(written(Results(table(*({column: v} for v in wanted))), tmp_path / "run")).table[column]
    np.testing.assert_allclose(got.to_numpy(), wanted, rtol=5.1e-6)


def test_a_column_without_any_number_comes_back_empty(tmp_path: Path) -> None:
    got = Results.read(written(Results(table({"p": float("nan")}, {"p": float("nan")})), tmp_path / "run")).table
    assert got["p"].isna().all() and got["p"].dtype == np.float64


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    wanted = table({}, {}).assign(n=[3, 12345678], period=[2, 4])
    got = Results.read(written(Results(wanted), tmp_path / "run")).table
    assert got["n"].tolist() == [3, 12345678] and got["period"].dtype.kind == "i"


def test_the_columns_keep_their_order(tmp_path: Path) -> None:
    assert list(Results.read(written(Results(table({})), tmp_path / "a")).table.columns) == list(COLUMNS)
    turned = table({})[list(reversed(COLUMNS))]
    assert list(Results.read(written(Results(turned), tmp_path / "b")).table.columns) == list(reversed(COLUMNS))


def test_the_rows_keep_their_order(tmp_path: Path) -> None:
    wanted = table(*({"layer": f"layer{i}", "value": i} for i in (3, 1, 2))).set_index(pd.Index([9, 7, 8]))
    got = Results.read(written(Results(wanted), tmp_path / "run")).table
    assert got["layer"].tolist() == ["layer3", "layer1", "layer2"]
    assert "Unnamed: 0" not in got.columns


def test_a_table_without_rows_comes_back(tmp_path: Path) -> None:
    got = Results.read(written(Results(table()), tmp_path / "run")).table
    assert len(got) == 0 and list(got.columns) == list(COLUMNS)


ARRAYS: dict[str, NDArray[Any]] = {
    "float64": np.array([1.0, np.nan, np.inf, -np.inf, 1e-300]),
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "float16": np.ones((2, 2), np.float16),
    "int64": np.array([-1, 2**40]),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "column order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every second": np.arange(12.0).reshape(3, 4)[:, ::2],
    "backwards": np.arange(5.0)[::-1],
    "one number": np.array(2.5),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back(name: str, tmp_path: Path) -> None:
    got = Results.read(written(Results(table({}), {f"0/{name}": ARRAYS[name]}), tmp_path / "run")).arrays
    assert list(got) == [f"0/{name}"]
    assert got[f"0/{name}"].shape == ARRAYS[name].shape
    np.testing.assert_array_equal(got[f"0/{name}"], ARRAYS[name], strict=True)


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    manifest = {"b": [1, 2.5, None, True], "a": {"é": "漢", '"': "\n"}, "p": float("inf"), "seed": 2**60}
    folder = written(Results(table({}), manifest=manifest), tmp_path / "run")
    assert Results.read(folder).manifest == manifest
    assert "漢" in (folder / "manifest.json").read_text(encoding="utf-8")


def test_results_read_and_written_again_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [
        {"image": text, "value": value}
        for text, value in zip(TEXTS[:5], [0.1234567, np.nan, np.inf, 3, 1e-9], strict=True)
    ]
    first = written(Results(table(*rows), ARRAYS, {"b": 1, "a": float("nan")}), tmp_path / "first")
    assert bytes_of(written(Results.read(first), tmp_path / "second")) == bytes_of(first)


def test_the_order_of_names_does_not_reach_the_bytes(tmp_path: Path) -> None:
    manifest = {"a": 1, "b": 2}
    first = written(Results(table({}), ARRAYS, manifest), tmp_path / "first")
    turned = {k: ARRAYS[k] for k in reversed(ARRAYS)}, {k: manifest[k] for k in reversed(manifest)}
    assert bytes_of(written(Results(table({}), *turned), tmp_path / "second")) == bytes_of(first)


# Damaged runs


@pytest.mark.parametrize("name", FILES)
def test_a_run_with_a_file_missing_is_no_run(name: str, tmp_path: Path) -> None:
    folder = written(Results(table({})), tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(ValueError) as refusal:
        Results.read(folder)
    assert str(refusal.value) == f"'{folder}' holds no run of gradlens: {name} missing"


def test_a_folder_that_is_not_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no run of gradlens: table.csv, arrays.safetensors, manifest.json miss"
    ):
        Results.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", b""),
        ("table.csv", b"\xff\xfe\x00"),
        ("table.csv", b'model,value\n"m,1'),
        ("table.csv", b"model,value\nm,much\n"),
        ("table.csv", b"model,value\nm,1,2,3\n"),
        ("arrays.safetensors", b""),
        ("arrays.safetensors", b"no arrays in here"),
        ("manifest.json", b""),
        ("manifest.json", b'{"a": '),
        ("manifest.json", b"\xff"),
        ("manifest.json", b"[1]"),
    ],
)
def test_a_damaged_file_is_a_damaged_run(name: str, content: bytes, tmp_path: Path) -> None:
    folder = written(Results(table({}), ARRAYS), tmp_path / "run")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        Results.read(folder)
    assert str(refusal.value).startswith(f"'{folder}' holds a damaged run: ")


def test_truncated_arrays_are_a_damaged_run(tmp_path: Path) -> None:
    folder = written(Results(table({}), ARRAYS), tmp_path / "run")
    content = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="holds a damaged run"):
        Results.read(folder)


# A new run


def make(out: Path, *, force: bool = False, then: Callable[[], None] = lambda: None) -> None:
    """A run that holds the file `new`; `then` happens when it is written, before it is put in place."""
    with new_run(out, "analyze", force=force) as work:
        (work / "new").write_text("new")
        then()


def throw(error: BaseException) -> Callable[[], None]:
    def now() -> None:
        raise error

    return now


def test_a_run_appears_whole(tmp_path: Path) -> None:
    with new_run(tmp_path / "deep" / "run", "analyze", force=False) as work:
        (work / "a").write_text("a")
        assert not (tmp_path / "deep" / "run").exists()
        assert work.name.startswith(".run-")
    assert below(tmp_path) == {"deep", "deep/run", "deep/run/a"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error):
        make(tmp_path / "run", then=throw(error()))
    assert below(tmp_path) == set()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with new_run(tmp_path / "run", "analyze", force=False) as work:
        (work / "a").write_text("a")
    assert below(tmp_path) == {"run", "run/a"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_replaced_by_a_run(force: bool, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError) as refusal, new_run(tmp_path / "run", "analyze", force=force):
        pass
    assert str(refusal.value) == f"--out: '{tmp_path / 'run'}' is a file; name a directory"
    assert (tmp_path / "run").read_text() == "mine" and below(tmp_path) == {"run"}


def test_a_folder_that_holds_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".hidden").write_text("mine")
    with pytest.raises(ValueError) as refusal, new_run(tmp_path / "run", "analyze", force=False):
        pass
    assert str(refusal.value).startswith(f"--out: '{tmp_path / 'run'}' is not empty; ") and "--force" in str(
        refusal.value
    )
    assert below(tmp_path) == {"run", "run/.hidden"}


def test_force_replaces_the_old_run_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")
    with new_run(tmp_path / "run", "analyze", force=True) as work:
        (work / "new").write_text("new")
        assert below(tmp_path / "run") == {"old"}
    assert below(tmp_path) == {"run", "run/new"}


def test_force_keeps_the_old_run_when_the_new_one_fails(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")
    with pytest.raises(RuntimeError):
        make(tmp_path / "run", force=True, then=throw(RuntimeError()))
    assert below(tmp_path) == {"run", "run/old"}


@pytest.fixture(params=["in one step", "in steps"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How two folders change places; a system that cannot do it in one step is feigned."""
    if request.param == "in steps":
        monkeypatch.setattr(results, "_exchange", lambda work, place: False)
    return request.param


def old_and_new(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "old").write_text("old")
    make(folder / "run", force=True)


def test_force_leaves_the_new_run_alone(swap: str, tmp_path: Path) -> None:
    old_and_new(tmp_path)
    assert below(tmp_path) == {"run", "run/new"}


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_linux_swaps_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Path, place: Path) -> None:
        raise AssertionError("a moment without a run")

    monkeypatch.setattr(results, "_exchange_in_steps", refuse)
    old_and_new(tmp_path)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["refused", "interrupted"])
def test_the_old_run_comes_back_when_the_new_one_cannot_be_put_in_place(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if (self / "new").exists() and not target.exists():  # the old run has been set aside
            raise error
        return rename(self, target)

    monkeypatch.setattr(results, "_exchange", lambda work, place: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(type(error)):
        old_and_new(tmp_path)
    assert below(tmp_path) == {"run", "run/old"}


# What killed runs left


def dead(folder: Path, mark: str, *holds: str) -> Path:
    """A hidden folder for `folder / "run"` whose process is gone."""
    hidden = folder / f".run-{mark}-abcdefgh"
    for name in holds:
        (hidden / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).write_text(name)
    return hidden


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    dead(tmp_path, "gradlens-new", "table.csv")
    make(tmp_path / "run")
    assert below(tmp_path) == {"run", "run/new"}


def test_a_run_set_aside_by_a_killed_one_is_put_back(tmp_path: Path) -> None:
    dead(tmp_path, "gradlens-old", "run/old")
    with pytest.raises(ValueError, match="is not empty"):
        make(tmp_path / "run")
    assert below(tmp_path) == {"run", "run/old"}


def test_a_run_set_aside_does_not_replace_the_one_that_took_its_place(tmp_path: Path) -> None:
    dead(tmp_path, "gradlens-old", "run/old")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "newer").write_text("newer")
    make(tmp_path / "run", force=True, then=lambda: None)
    assert below(tmp_path) == {"run", "run/new"}


def test_a_folder_of_ones_own_is_not_swept(tmp_path: Path) -> None:
    mine = (".run-settings", ".run-gradlens-new-x", ".walk-gradlens-new-abcdefgh")
    for name in mine:
        (tmp_path / name).mkdir()
    make(tmp_path / "run")
    assert {p.name for p in tmp_path.iterdir()} == {"run", *mine}


def test_the_folder_of_a_living_run_is_not_swept(tmp_path: Path) -> None:
    def race() -> None:
        make(tmp_path / "run", force=True)

    make(tmp_path / "run", force=True, then=race)
    assert below(tmp_path) == {"run", "run/new"}


def test_the_number_of_a_killed_run_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / ".analyze-1-gradlens-new-abcdefgh").mkdir(parents=True)
    with new_run(None, "analyze", force=False) as work:
        (work / "a").write_text("")
        assert run_folder(None, "analyze") == Path("runs/analyze-2")
    assert below(tmp_path) == {"runs", "runs/analyze-1", "runs/analyze-1/a"}


# Odd targets


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "disk" / "run" / "old").write_text("old")
    (tmp_path / "link").symlink_to("disk/run")
    make(tmp_path / "link", force=True)
    assert below(tmp_path / "disk") == {"run", "run/new"} and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["x" * 255, "漢" * 85], ids=["letters", "three bytes each"])
def test_a_name_may_be_as_long_as_the_system_allows(name: str, swap: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    make(tmp_path / name, force=True)
    assert below(tmp_path) == {name, f"{name}/new"}
    with new_run(tmp_path / name, "analyze", force=True) as work:
        (work / "part").write_text("")
        beside = put_beside(work, tmp_path / name, "partial")
    assert below(tmp_path) == {name, f"{name}/new", beside.name, f"{beside.name}/part"}


def test_what_is_put_beside_takes_the_first_free_name(tmp_path: Path) -> None:
    for name in ("run-partial", "run-partial-2", "run-partial-3"):
        with new_run(tmp_path / "run", "analyze", force=True) as work:
            assert put_beside(work, tmp_path / "run", "partial") == tmp_path / name
    assert below(tmp_path) == {"run-partial", "run-partial-2", "run-partial-3"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_in_a_sentence(number: int, tmp_path: Path) -> None:
    with pytest.raises(OSError) as refusal:
        make(tmp_path / "run", then=throw(OSError(number, os.strerror(number))))
    assert str(refusal.value) == (
        f"--out: '{tmp_path / 'run'}' cannot be written ({os.strerror(number)}); name a place where there is room and "
        "you may write; nothing that stood there is lost"
    )
    assert below(tmp_path) == set()


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--out: '.*/file' is a file; name a directory$"):
        make(tmp_path / "file" / "deep" / "run")


def test_the_errors_of_the_block_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="of weights"):
        make(tmp_path / "run", then=throw(PermissionError(errno.EACCES, "of weights")))


def test_two_runs_at_once_both_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with new_run(None, "analyze", force=False) as first:
        (first / "first").write_text("")
        with new_run(None, "analyze", force=False) as second:
            (second / "second").write_text("")
    assert {path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()} == {"first", "second"}


def test_what_came_to_stand_at_the_target_meanwhile_is_not_lost(tmp_path: Path) -> None:
    def intrude() -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("mine")

    with pytest.raises((ValueError, OSError)):
        make(tmp_path / "run", then=intrude)
    assert (tmp_path / "run" / "mine").read_text() == "mine"


@pytest.mark.parametrize("out", [".", ""])
def test_a_run_into_the_working_directory_leaves_no_litter(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    try:
        with new_run(Path(out), "analyze", force=False) as work:
            (work / "a").write_text("a")
    except (ValueError, OSError):
        assert below(tmp_path) == {"here"}
    else:
        assert below(tmp_path) == {"here", "here/a"}


def test_modes_follow_the_umask(umask: int, tmp_path: Path) -> None:
    with new_run(tmp_path / "run", "analyze", force=False) as work:
        Results(table({}), ARRAYS).write(work)
        write_whole(work / "whole", b"")
    assert mode(tmp_path / "run") == 0o777 & ~umask
    assert {mode(path) for path in (tmp_path / "run").iterdir()} == {0o666 & ~umask}


# Where it stands


def test_a_run_without_a_name_takes_the_first_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder(None, "analyze") == Path("runs/analyze-1")
    for taken in ("analyze-1", "analyze-2", "analyze-4", "compare-3"):
        (tmp_path / "runs" / taken).mkdir(parents=True)
    assert run_folder(None, "analyze") == Path("runs/analyze-3")
    with new_run(None, "analyze", force=False) as work:
        (work / "a").write_text("a")
    assert below(tmp_path / "runs" / "analyze-3") == {"a"}
    assert run_folder(None, "analyze") == Path("runs/analyze-5")


def test_a_named_run_stands_where_it_was_told(tmp_path: Path) -> None:
    assert run_folder(tmp_path / "x", "analyze") == tmp_path / "x"


def test_a_free_target_is_free(tmp_path: Path) -> None:
    check_free(tmp_path / "nowhere", force=False)
    check_free(tmp_path, force=False)
    (tmp_path / "a").write_text("")
    check_free(tmp_path, force=True)


# A whole file


def test_a_file_is_written_whole(umask: int, tmp_path: Path) -> None:
    for content in (b"first", b"", b"second\x00"):
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert mode(tmp_path / "a") == 0o666 & ~umask and below(tmp_path) == {"a"}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old" and below(tmp_path) == {"a"}


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "a", b"content")
    assert below(tmp_path) == {"a"}


def test_the_umask_is_left_as_it_was(umask: int, tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"")
    assert os.umask(umask) == umask


def test_the_circumstances_are_plain_json() -> None:
    told = circumstances()
    assert {"gradlens", "torch", "timm", "numpy"} <= set(told["versions"])
    assert told["commit"] is None or len(told["commit"]) == 40
    assert all(isinstance(version, str) for version in told["versions"].values())
