"""`gradlens measure`: what it measures is what the functions say, what it says is what it measured, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pypdf import PdfReader

from gradlens import commands, spectra
from gradlens.compare import adjusted, fisher
from gradlens.measure import DETAIL, SHOWN_SIDE, Config, command, measure_pictures, short_table
from gradlens.pictures import _set_names, pairs_of, picture_sets
from gradlens.report import SETS_SECTIONS, write_report
from gradlens.report.run import number, probability
from gradlens.report.sets import Sets
from gradlens.report.sets_answer import conclusion
from gradlens.results import COLUMNS, Results
from tests.test_report import calibration_numbers

HOSTILE = "#panic(1) $x$ *b* @y <l> [z].png"


def picture(*size: int, seed: int, board: float = 0.0) -> np.ndarray:
    """Soft noise around grey in 8 bits, `[H W]` or `[H W 3]`, with a checkerboard of some levels."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(128, 20, size)
    noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    one = np.zeros(size)
    one[::2, ::2] = board
    return (noise + one).clip(0, 255).round().astype(np.uint8)


def save(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for name, levels in pictures.items():
        Image.fromarray(levels).save(folder / name)
    return folder


def tensor(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.atleast_3d(levels).copy()).permute(2, 0, 1)[None].float() / 255


def image_rows(results: Results, metric: str, kind: str, period: int) -> pd.DataFrame:
    t = results.table
    t = t[(t["metric"] == metric) & (t["kind"] == kind) & (t["period"] == period) & (t["image"] != "")]
    return t.set_index("image")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six samples with a checkerboard of their own and five real images without, colours and sizes mixed."""
    root = tmp_path_factory.mktemp("two")
    sizes = [(40, 40, 3), (40, 40, 3), (33, 50), (64, 48, 3), (40, 40, 3), (40, 40)]
    samples = {f"s{i}.png": picture(*size, seed=i, board=16) for i, size in enumerate(sizes[:-1])}
    samples[HOSTILE] = picture(*sizes[-1], seed=9, board=16)
    real = {f"r{i}.png": picture(40, 44, 3, seed=20 + i) for i in range(5)}
    save(root / "samples", samples)
    (root / "samples" / "broken.png").write_bytes(b"no picture")
    return root / "samples", save(root / "real", real)


@pytest.fixture(scope="module")
def saved(two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    measure_pictures(Config((two[0],), against=two[1])).write(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def results(saved: Path) -> Results:
    return Results.read(saved)


@pytest.fixture(scope="module")
def text(saved: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(saved / "report.pdf").pages)


# What is measured


def test_every_image_is_measured_as_it_is(two: tuple[Path, Path], results: Results) -> None:
    for path in sorted(two[0].glob("s*.png")):
        x = tensor(np.asarray(Image.open(path)))
        detail = spectra.fine_detail(x)
        for kind, seen in (("signed", x), ("envelope", detail)):
            test = spectra.lattice_tests(seen, (2, 4, 8), kind=kind)[4]  # type: ignore[arg-type]
            row = image_rows(results, "lattice_contrast", kind, 4).loc[path.name]
            assert row["value"] == pytest.approx(test.contrast.item(), abs=1e-4)  # the table has six digits
            assert row["p"] == pytest.approx(test.p_value.item(), abs=0.002)  # a grey picture has three channels here
        share = spectra.lattice_share(detail, 2, kind="envelope").item()
        assert image_rows(results, "lattice_share", "envelope", 2).loc[path.name, "value"] == pytest.approx(
            share, rel=1e-5
        )
        imbalance = spectra.phase_imbalance(detail, 2).item()
        assert image_rows(results, "phase_imbalance", "phase", 2).loc[path.name, "value"] == pytest.approx(
            imbalance, rel=1e-5
        )


def test_rows_say_what_they_are_of(results: Results) -> None:
    t = results.table
    assert tuple(t.columns) == COLUMNS
    assert set(t["subject"]) == {"sample", "image"} and set(t["model"]) == {"samples", "real", "samples - real"}
    of_pairs = t["metric"].str.startswith("spectrum_distance")
    assert (t.loc[~of_pairs, "layer"] == t.loc[~of_pairs, "kind"].map(lambda k: "" if k == "signed" else DETAIL)).all()
    single = t[(t["image"] != "") & (t["model"] == "samples")]
    assert set(single["image"]) == {HOSTILE, *(f"s{i}.png" for i in range(5))}
    assert not single.duplicated(["image", "period", "kind", "metric"]).any()


def test_grey_among_colours_reads_as_grey(two: tuple[Path, Path], results: Results) -> None:
    alone = measure_pictures(Config((two[0] / "s2.png",), periods=(2, 4, 8)))
    for kind in ("signed", "envelope"):
        for period in (2, 4, 8):
            mixed = image_rows(results, "lattice_contrast", kind, period).loc["s2.png"]
            grey = image_rows(alone, "lattice_contrast", kind, period).loc["s2.png"]
            assert mixed["value"] == pytest.approx(grey["value"], abs=1e-4, nan_ok=True)
            assert mixed["p"] == pytest.approx(grey["p"], rel=0.02, nan_ok=True)  # the null's spread knows of channels
    assert alone.manifest["channels"] == 1 and results.manifest["channels"] == 3


def test_periods_are_those_that_a_sample_holds(results: Results) -> None:
    assert sorted(set(results.table["period"].dropna())) == [2, 4, 8]  # 4 x 16 px is above the largest shorter side, 48
    eight = image_rows(results, "lattice_contrast", "signed", 8)
    assert eight.loc["s3.png", "value"] == eight.loc["s3.png", "value"]
    windows = results.manifest["sets"][0]["windows"]
    assert windows == {"2": [32], "4": [32], "8": [32]}


def test_what_does_not_read_is_left_out_and_named(results: Results, text: str) -> None:
    sample, real = results.manifest["sets"]
    assert list(sample["skipped"]) == ["broken.png"] and "does not read" in sample["skipped"]["broken.png"]
    assert real["skipped"] == {} and len(sample["images"]) == 6
    assert "1 file of samples did not read as pictures, the first is broken.png" in re.sub(r"\s+", " ", text)


def test_differences_are_those_of_the_image_rows(results: Results) -> None:
    t = results.table
    (row,) = t[(t["model"] == "samples - real") & (t["metric"] == "lattice_contrast") & (t["kind"] == "signed")
               & (t["period"] == 2)].to_dict("records")  # fmt: skip
    values = image_rows(results, "lattice_contrast", "signed", 2)
    ours, theirs = (values.loc[values["model"] == name, "value"] for name in ("samples", "real"))
    assert row["value"] == pytest.approx(ours.mean() - theirs.mean(), abs=1e-4)
    assert (row["n"], row["subject"]) == (11, "sample") and 5 < row["low"] < row["value"] < row["high"]


def test_distance_is_that_of_the_spectra(two: tuple[Path, Path], results: Results) -> None:
    side = results.manifest["compared_side"]
    assert side == 33  # of the smallest image
    powers = [
        torch.cat([spectra.normalised_power(tensor(np.asarray(Image.open(p))), size=side) for p in sorted(f.glob("*.png"))
                   if p.name != "broken.png"]) for f in two
    ]  # fmt: skip
    distance, floor, p_value = spectra.spectrum_distance_test(*powers)
    told = Sets(results).distance()
    assert told[0].value == pytest.approx(distance, rel=1e-4) and told[1].value == pytest.approx(floor, rel=1e-2)
    assert told[0].p == pytest.approx(p_value, abs=2e-3) and told[0].n == 11


def test_pairs_by_file_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    clean = {f"r{i}.png": picture(40, 44, 3, seed=20 + i) for i in range(5)}
    shifted = save(tmp_path / "restored", {name: levels // 2 + 60 for name, levels in reversed(clean.items())})
    (shifted / "r3.png").write_bytes(b"no picture")
    found = measure_pictures(Config((shifted,), against=two[1]))
    assert found.manifest["paired"]
    assert found.manifest["sets"][0]["shown"] == found.manifest["sets"][1]["shown"]
    difference = Sets(found).difference(2, "signed")
    values = image_rows(found, "lattice_contrast", "signed", 2)
    ours, theirs = (values.loc[values["model"] == name, "value"] for name in ("restored", "real"))
    assert difference.n == 4 and difference.value == pytest.approx((ours - theirs).dropna().mean())


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (["a.png", "b.png"], ["b.png", "a.png"], {"a.png": "a.png", "b.png": "b.png"}),
        (["x/a.png", "b.png"], ["x/a.jpg", "b.tif"], {"x/a.jpg": "x/a.png", "b.tif": "b.png"}),
        (["a.png", "a.jpg"], ["a.png", "a.jpg"], {"a.png": "a.png", "a.jpg": "a.jpg"}),
        (["a.png", "b.png"], ["a.png"], None),
        (["a.png", "a.jpg"], ["a.png", "a.tif"], None),
        (["x/a.png"], ["y/a.png"], None),
    ],
)
def test_whatpairs_of(ours: list[str], theirs: list[str], pairs: dict[str, str] | None) -> None:
    assert pairs_of(ours, theirs) == pairs


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([["a/fake"]], ["fake"]),
        ([["a/fake"], ["a/real"]], ["fake", "real"]),
        ([["fake/png"], ["real/png"]], ["fake/png", "real/png"]),
        ([["a/x.png", "a/y.png"]], ["a"]),
        ([["."], ["a"]], ["here", "a"]),
    ],
)
def test_sets_are_told_apart(
    sources: list[list[str]], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert _set_names([[Path(path) for path in paths] for paths in sources]) == names


def test_a_set_against_itself_differs_by_nothing(two: tuple[Path, Path]) -> None:
    found = measure_pictures(Config((two[1],), against=two[1], limit=3))
    first, second = (entry["name"] for entry in found.manifest["sets"])
    assert (first, second) == ("real a", "real b")
    told = Sets(found)
    assert told.difference(2, "signed").value == 0 and told.distance()[0].value == 0


def test_two_zip_files_are_one_set_of_all_their_pictures(two: tuple[Path, Path], tmp_path: Path) -> None:
    zips = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for path in zips:
        with ZipFile(path, "w") as archive:
            for file in sorted(two[1].glob("*.png"))[:3]:
                archive.write(file, file.name)
    names = picture_sets(zips, None)[0].names
    assert len(names) == 6 and names[0].startswith(zips[0].as_posix() + "/")


def test_several_paths_are_one_set_without_repeats(two: tuple[Path, Path]) -> None:
    found = measure_pictures(Config((two[1] / "r1.png", two[1], two[0] / "s0.png"), periods=(2,)))
    (entry,) = found.manifest["sets"]
    assert [Path(name).name for name in entry["images"]] == ["r1.png", "r0.png", "r2.png", "r3.png", "r4.png", "s0.png"]
    assert len(set(entry["images"])) == 6 and entry["name"] == two[0].parent.name


def test_the_strongest_window_is_where_the_lattice_is(tmp_path: Path) -> None:
    levels = picture(700, 600, seed=1)
    levels[608:640:2, 96:128:2] += 40
    folder = save(tmp_path / "large", {"a.png": levels})
    found = measure_pictures(Config((folder,), periods=(2,)))
    image, contrast, box = (found.arrays[f"0/shown/0/{name}"] for name in ("image", "map", "box"))
    assert image.shape == (1, SHOWN_SIDE, SHOWN_SIDE) and image.dtype == np.uint8
    top, left, height, width = box.tolist()
    part = image[0, top : top + height, left : left + width]
    places = [(y, x) for y in range(580, 640) for x in range(70, 130) if (levels[y : y + 32, x : x + 32] == part).all()]
    assert places and abs(places[0][0] - 608) <= 16 and abs(places[0][1] - 96) <= 16
    assert np.unravel_index(contrast.argmax(), contrast.shape)[0] * 16 == pytest.approx(top, abs=16)


# What is said


def told(sample: dict[tuple[int, str], tuple], real: dict[tuple[int, str], tuple] | None, differences: dict) -> Sets:
    """A run of planted set rows: (value, low, p) by period and family, and of differences (value, low)."""
    rows = []

    def add(model: str, subject: str, planted: dict[tuple[int, str], tuple]) -> None:
        for (period, kind), (value, low, p) in planted.items():
            fixed = {
                "model": model,
                "subject": subject,
                "layer": "",
                "image": "",
                "period": period,
                "kind": kind,
                "n": 9,
            }
            rows.append(
                fixed
                | {"metric": "lattice_contrast", "value": value, "low": low, "high": value + 1, "p": p, "unit": "dB"}
            )

    add("fake", "sample", sample)
    if real is not None:
        add("real", "image", real)
        add("fake - real", "sample", {key: (*values, float("nan")) for key, values in differences.items()})
    entries = [{"name": n, "subject": s, "images": list("abcdefghi"), "sizes": [[32, 32]] * 9, "skipped": {}}
               for n, s in (("fake", "sample"), ("real", "image"))]  # fmt: skip
    manifest = {"sets": entries if real is not None else entries[:1], "paired": False}
    return Sets(Results(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {}, manifest))


YES, NO = (5.0, 4.0, 1e-4), (0.1, -0.3, 0.5)


def of(first: tuple, second: tuple) -> dict[tuple[int, str], tuple]:
    """T=2 signed, T=8 envelope; the other family of each holds nothing."""
    return {(2, "signed"): first, (2, "envelope"): NO, (8, "signed"): NO, (8, "envelope"): second}


def apart(first: tuple, second: tuple) -> dict[tuple[int, str], tuple]:
    return {(2, "signed"): first, (2, "envelope"): (0.0, -1.0), (8, "signed"): (0.0, -1.0), (8, "envelope"): second}


CARRY = "The 9 images of fake carry a checkerboard of period"


@pytest.mark.parametrize(
    ("sets", "standing", "answer"),
    [
        (told(of(YES, NO), None, {}), ("own", "none"), f"Yes. {CARRY} 2 px (5.0 dB). It is strongest"),
        (told(of(NO, NO), None, {}), ("none", "none"), "No checkerboard found. The 9 images of fake show no lattice at 2 and 8"),
        (told(of((0.2, 0.1, 1e-4), NO), None, {}), ("own", "none"), f"Perhaps. {CARRY} 2 px (0.2 dB), as faint"),
        (told(of(YES, YES), of(NO, (4.9, 4.0, 1e-4)), apart((4.9, 4.0), (0.1, -0.5))), ("own", "shared"),
         f"Yes. {CARRY} 2 px (5.0 dB) that real does not have. It"),
        (told(of(YES, NO), of((2.0, 1.0, 1e-4), NO), apart((3.0, 2.0), (0.0, -1.0))), ("own", "none"),
         f"Yes. {CARRY} 2 px (5.0 dB), more of it than real has. It"),
        (told(of(NO, YES), of(NO, YES), apart((0.0, -1.0), (0.0, -1.0))), ("none", "shared"),
         f"None of their own. {CARRY} 8 px (5.0 dB), and real has the same."),
        (told(of(YES, NO), of((1.0, -1.0, 0.3), NO), apart((4.0, -0.1), (0.0, -1.0))), ("unsure", "none"),
         f"Perhaps. {CARRY} 2 px (5.0 dB). real shows none there, but the difference may be chance (4.0 dB, 95 % interval"),
        (told(of((float("nan"),) * 3, (float("nan"),) * 3), None, {}), ("none", "none"), "No checkerboard found."),
    ],
)  # fmt: skip
def test_whose_a_lattice_is(sets: Sets, standing: tuple[str, str], answer: str) -> None:
    assert (sets.standing(2, "signed"), sets.standing(8, "envelope")) == standing
    assert conclusion(sets).startswith(answer)


def test_too_few_for_an_interval_count_by_what_the_real_show() -> None:
    unknown = (5.0, float("nan"), 1e-4)
    sets = told(of(unknown, unknown), of(NO, unknown), apart((4.0, float("nan")), (0.0, float("nan"))))
    assert (sets.standing(2, "signed"), sets.standing(8, "envelope")) == ("own", "shared")


def test_images_are_counted_one_by_one(results: Results) -> None:
    sets = Sets(results)
    values = image_rows(results, "lattice_contrast", "signed", 2)
    values = values[values["model"] == "samples"]
    found = (adjusted(values["p"].to_numpy(float)) <= 0.01) & (values["value"] > 0)
    assert sets.alone_phrase("samples", 2, "signed") == f"{found.sum()} / 6" and found.sum() > 2
    assert sets.alone("samples", 2, "signed")["image"].iloc[0] == values["value"].idxmax()
    assert sets.alone_phrase("real", 2, "signed") == "0 / 5"
    row = sets.contrast("samples", 2, "signed")
    assert row.p <= 2 * fisher(values["p"].to_numpy(float)) * 3


def test_report_answers_and_holds_every_section(saved: Path, text: str) -> None:
    reader = PdfReader(saved / "report.pdf")
    titles = [entry.title for entry in reader.outline if not isinstance(entry, list)]
    assert titles == [
        "Where it is",
        "Against the real",
        "Image by image",
        "The spectrum",
        "The numbers",
        "How far to trust p",
        "How it was measured",
    ]
    assert len(SETS_SECTIONS) == 8 and reader.metadata is not None
    assert reader.metadata.title == "How much of these images is checkerboard?"
    flat = re.sub(r"\s+", " ", text)
    assert (
        "Yes. The 6 images of samples carry a checkerboard of period 2 px" in flat and "that real does not have" in flat
    )
    assert HOSTILE.replace(" ", "") in re.sub(r"\s", "", text)
    assert {p.name for p in (saved / "figures").iterdir()} == {
        "answer.svg", "maps-0.svg", "maps-1.svg", "compared.svg", "images.svg", "spectrum.svg",
    }  # fmt: skip


def test_every_decimal_of_the_report_is_measured(saved: Path, results: Results, text: str) -> None:
    sets = Sets(results)
    values = [results.table[["value", "low", "high", "p"]].to_numpy(float).ravel()]
    values += [
        sets.alone(n, p, k)["p"].to_numpy(float)
        for n in sets.names
        for p in sets.periods
        for k in ("signed", "envelope")
    ]
    every = np.concatenate(values)
    every = every[np.isfinite(every)]
    printed = {number(v, digits) for v in every for digits in (1, 2, 3)} | {number(100 * v, 2) for v in every}
    printed |= {probability(v).removeprefix("< ") for v in every}
    allowed = {n.lstrip("\u2212") for n in printed} | set(
        re.findall(r"\d+\.\d+", (saved / "manifest.json").read_text())
    )
    decimals = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", re.sub(r"[0-9a-f]{12,}", "", text)))
    assert len(decimals) > 50 and decimals - allowed - calibration_numbers() - {"0.01"} == set()


def test_drawing_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    for name in ("table.csv", "arrays.safetensors", "manifest.json"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    write_report(tmp_path)
    for file in [p for p in saved.rglob("*") if p.is_file()]:
        assert file.read_bytes() == (tmp_path / file.relative_to(saved)).read_bytes(), file.name


@pytest.mark.parametrize(
    ("sizes", "periods", "answer"),
    [
        ([(40, 40, 3)], None, "No checkerboard found. The image 0.png shows no lattice at 2, 4 and 8 px."),
        ([(28, 28), (28, 28)], (8,), "Not measurable. The 2 images of set"),
        ([(9, 200, 3), (8, 8)], None, "No checkerboard found. The 2 images of set show no lattice at the period 2 px."),
    ],
    ids=["one", "too small", "tiny and oblong"],
)
def test_small_sets_make_a_report(
    sizes: list[tuple[int, ...]], periods: tuple[int, ...] | None, answer: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / "set", {f"{i}.png": picture(*size, seed=i) for i, size in enumerate(sizes)})
    source = folder / "0.png" if len(sizes) == 1 else folder
    measure_pictures(Config((source,), periods=periods)).write(tmp_path)
    assert write_report(tmp_path).read_bytes().startswith(b"%PDF")
    assert short_table(tmp_path).startswith(answer)


# The command line


def launch(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["gradlens", "measure", *arguments])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    return int(stop.value.code or 0)


def test_short_table_on_stdout_the_rest_on_stderr(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch([str(two[0]), "--against", str(two[1]), "--limit", "4"], monkeypatch) == 0
    output = capsys.readouterr()
    assert output.out == short_table(Path("runs/measure-1")) + "\n"
    assert output.err.splitlines()[0] == f"gradlens: measuring {two[0]}; loading PyTorch"
    assert output.err.splitlines()[-1] == f"report: {Path('runs/measure-1/report.pdf')}"
    assert "left out: 'broken.png' does not read as a picture" in output.err
    assert "samples minus real" in output.out and "dB apart" in output.out


def test_json_and_toml(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(f'images = ["{two[1]}"]\nperiods = [2, 3]\nlimit = 2\n')
    assert launch(["--config", "c.toml", "--out", "run", "--json"], monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"out", "table", "manifest"} and found["out"] == "run"
    assert {row["period"] for row in found["table"]} == {2, 3}
    assert found["manifest"]["command"] == f"gradlens measure {two[1]} --periods 2 3 --limit 2"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "images: name a picture or a folder of them"),
        (["nowhere"], "images: there is no file or folder 'nowhere'"),
        (["real", "--against", "nowhere"], "against: there is no file or folder 'nowhere'"),
        (["empty"], "'empty' holds no picture"),
        (["bad"], "images: none of the 1 in 'bad' reads; images: 'broken.png' does not read"),
        (["real", "--periods", "1"], "--periods: must be at least 2 px, got 1"),
        (["real", "--periods", "2", "21"], "--periods: no picture holds two of 21 px; the largest allows 2 to 20"),
        (["dots"], "images: no picture of 'dots' has 8 px a side"),
        (["real", "--limit", "0"], "limit: must be at least 1, got 0"),
        (["real", "--window", "0"], "window: must be at least 1, got 0"),
        (["real", "--device", "cuda:99"], "'cuda:99' is not to be had here"),
        (["real", "--out", "real"], "'real' is not empty"),
    ],
)
def test_refuses_in_a_sentence(
    arguments: list[str],
    sentence: str,
    two: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "real").symlink_to(two[1])
    (tmp_path / "empty").mkdir()
    save(tmp_path / "dots", {"a.png": picture(7, 90, seed=0)})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    assert launch(arguments, monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == "" and sentence in " ".join(output.err.split()) and "Traceback" not in output.err
    assert {p.name for p in tmp_path.iterdir()} == {"real", "empty", "dots", "bad"}


def test_the_command_of_a_manifest_measures_the_same() -> None:
    config = Config((Path("my fakes"), Path("b.png")), against=Path("r"), out=Path("o"), periods=(2, 3), json=True)
    assert command(config) == "gradlens measure 'my fakes' b.png --against r --periods 2 3"


@pytest.mark.assets
def test_jpeg_is_found_in_jpeg_and_style_in_style(assets: Path, tmp_path: Path) -> None:
    """Photographs as JPEG of quality 92 carry blocks that others lack; transposed convolution writes 2 and 4 px."""
    photos = assets / "data" / "photos"
    found = Sets(measure_pictures(Config((photos / "jpeg",), against=photos / "lossless", limit=8, periods=(4, 8))))
    assert found.standing(4, "envelope") == "own" and found.found("lossless") == []
    distill = assets / "images" / "distill"
    style = Config((distill / "style_artifacts.png",), against=distill / "style_clean.png")
    assert set(Sets(measure_pictures(style)).strength("own")) == {2, 4}
