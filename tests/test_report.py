"""The PDF: it opens, says what the table says and nothing else, and is the same bytes each time."""

import csv
import io
import re
from base64 import b64decode
from inspect import signature
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pypdf import PdfReader

import gradlens.report
from analyses import calibration
from gradlens import analyze, gradients
from gradlens.analyze import Config, measure_models, short_table
from gradlens.compare import contrast
from gradlens.images import sample
from gradlens.report import SECTIONS, method, write_report
from gradlens.report.document import code, compile_pdf, paragraph
from gradlens.report.run import MEASURED, Row, Run, number, p_phrase, probability
from gradlens.results import Results

HOSTILE = "#panic(1) $x$ *b* @y <l> \\u{41} [z].png"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the bundled pair on two pictures, one with a name that typst must not read as code."""
    photos = tmp_path_factory.mktemp("photos")
    sample("chelsea").save(photos / HOSTILE)
    sample("coffee").save(photos / "coffee.png")
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradlens.dreams.SIDE", 128)  # a quarter of the pixels
        measure_models(Config(images=photos, against="resnetblur18_half")).write(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(saved: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(saved / "report.pdf").pages)


def test_holds_every_section_and_the_outline(saved: Path, text: str) -> None:
    reader = PdfReader(saved / "report.pdf")
    titles = [entry.title for entry in reader.outline if not isinstance(entry, list)]
    assert titles == [
        "resnet18_half", "resnetblur18_half", "Where it is", "The spectrum", "Who gets the gradient", "On the way down",
        "What the architecture predicted", "Which layer is guilty", "What it does to a dream",
        "The control", "The numbers", "How far to trust p", "How it was measured",
    ]  # fmt: skip
    assert len(SECTIONS) == 12
    assert reader.metadata is not None
    assert reader.metadata.title == "How much of this gradient is checkerboard?"
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]
    assert "python -m gradlens.analyze" in text


def test_figures_stand_beside_it(saved: Path) -> None:
    names = {p.name for p in (saved / "figures").iterdir()}
    kinds = ("answer", "maps", "spectrum", "phases", "stages", "prediction", "predicted-phases")
    kinds += ("blame", "dream", "dream-contrast")
    assert names == {"control.svg"} | {f"{kind}-{model}.svg" for kind in kinds for model in (0, 1)}


def test_a_hostile_name_prints_literally(text: str) -> None:
    assert HOSTILE.replace(" ", "") in re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", ["写真 фото", "\U0001f642 写真", "ภาพ", "n" * 250, ""])
def test_no_name_breaks_it(name: str, tmp_path: Path) -> None:
    blocks = [{"kind": "heading", "text": "h", "level": 1}, paragraph(code(name), ".")]
    (tmp_path / "x.pdf").write_bytes(compile_pdf("title", "kicker", blocks, {}))
    assert len(PdfReader(tmp_path / "x.pdf").pages) == 1


@pytest.mark.parametrize(
    ("value", "low", "p", "found"),
    [(1.0, 0.5, 0.001, True), (1.0, float("nan"), 0.001, True), (0.02, -0.4, 1e-6, False), (1.0, 0.5, 0.02, False),
     (-1.0, -2.0, 0.001, False), (float("nan"), float("nan"), float("nan"), False)],
)  # fmt: skip
def test_a_lattice_is_found_where_p_and_interval_agree(value: float, low: float, p: float, found: bool) -> None:
    assert Row(period=2, kind="signed", value=value, low=low, high=3.0, p=p, n=9).found == found


def allowed_numbers(folder: Path) -> set[str]:
    """Every number of the table and of the manifest as a report may print it."""
    results = Results.read(folder)
    run = Run(results)
    first, second = (results.table[results.table["model"] == name] for name in run.names)
    values = pd.concat([results.table, contrast(first, second)])[["value", "low", "high", "p"]].to_numpy(float).ravel()
    values = values[np.isfinite(values)]
    printed = {number(v, digits) for v in values for digits in (0, 1, 2, 3)}
    printed |= {number(100 * v, 2) for v in values} | {probability(v).removeprefix("< ") for v in values}
    return {n.lstrip("\u2212") for n in printed} | set(re.findall(r"\d+\.\d+", (folder / "manifest.json").read_text()))


def test_every_decimal_is_in_the_table(saved: Path, text: str) -> None:
    prose = re.sub(r"[0-9a-f]{12,}", "", text)
    fixed = {"0.01"}  # the level of significance
    decimals = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", prose))
    assert len(decimals) > 100
    assert decimals - allowed_numbers(saved) - calibration_numbers() - fixed == set()


def calibration_numbers() -> set[str]:
    """What the page on p prints, which is of the test and not of the run; 0.1 and 0.47 are the levels and the resizing."""
    text = (Path(gradlens.report.__file__).parent / "calibration.csv").read_text()
    values = [float(v) for row in csv.reader(text.splitlines()) for v in row if re.fullmatch(r"[\d.]+", v)]
    return {number(v, digits) for v in values for digits in (2, 3)} | {"0.1", "0.47"}


def test_page_on_p_is_the_table_of_the_analysis() -> None:
    root = Path(__file__).parents[1]
    ours = pd.read_csv(Path(gradlens.report.__file__).parent / "calibration.csv", keep_default_na=False)
    numbers = {name: [""] for name in ("period", "value", "p", "n")}
    table = pd.read_csv(root / "reports" / "calibration.csv", keep_default_na=False, na_values=numbers)
    made = io.StringIO(calibration.summary(table).to_csv(index=False, float_format="%.4g"))
    pd.testing.assert_frame_equal(ours, pd.read_csv(made, keep_default_na=False))


def test_drawing_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    for name in ("table.csv", "arrays.safetensors", "manifest.json"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    write_report(tmp_path)
    for file in [p for p in saved.rglob("*") if p.is_file()]:
        assert file.read_bytes() == (tmp_path / file.relative_to(saved)).read_bytes(), file.name


def test_svg_keeps_whole_pixels(saved: Path) -> None:
    """No picture in an SVG is resampled: each pixel of the 128 px gradient is a square of 4 x 4 equal ones."""
    content = (saved / "figures" / "maps-0.svg").read_text()
    pictures = [
        Image.open(io.BytesIO(b64decode(data))) for data in re.findall(r"data:image/png;base64,([^\"]+)", content)
    ]
    large = [np.asarray(p.convert("RGB")) for p in pictures if p.size == (512, 512)]
    assert len(large) == 8  # for two photographs: the picture, its gradient, its centre, the grey picture under the map
    for pixels in large:
        first = pixels[::4, ::4]
        assert (pixels == first.repeat(4, 0).repeat(4, 1)).all()
        assert len(np.unique(first.reshape(-1, 3), axis=0)) > 50


def test_the_terminal_says_what_the_report_says(saved: Path, text: str) -> None:
    words = short_table(saved)
    run = Run(Results.read(saved))
    row = run.contrast("resnet18_half", "input-gradient", 2, "signed")
    assert f"{number(row.value)} dB" in words
    flat = re.sub(r"\s+", " ", text)
    assert words.splitlines()[0].split(" px (")[0].removeprefix("Yes. ") in flat


@pytest.mark.parametrize(
    ("value", "printed"), [(-0.04, "0.0"), (-1.26, "\u22121.3"), (float("nan"), "–"), (float("inf"), "∞"), (2.0, "2.0")]
)
def test_numbers_as_printed(value: float, printed: str) -> None:
    assert number(value) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [(0.00001, "p\u00a0<\u00a00.0001"), (0.0123, "p\u00a0=\u00a00.0123"), (0.5, "p\u00a0=\u00a00.50")],
)
def test_probabilities_as_printed(value: float, printed: str) -> None:
    assert p_phrase(value) == printed


def test_an_attribution_is_called_by_its_name(tmp_path: Path) -> None:
    measure_models(Config(method="guided-backprop", limit=2)).write(tmp_path)
    write_report(tmp_path)
    results = Results.read(tmp_path)
    assert set(results.table["subject"]) == {"attribution", "image"}
    assert results.manifest["method"] == results.manifest["config"]["method"] == "guided-backprop"
    assert "--method guided-backprop" in results.manifest["command"]
    reader = PdfReader(tmp_path / "report.pdf")
    flat = re.sub(r"\s+", " ", " ".join(page.extract_text() for page in reader.pages))
    assert "The guided backprop map of resnet18_half" in flat
    assert "input gradient" not in flat.lower() and "On the way down" not in flat and "Since which layer" not in flat
    assert reader.metadata is not None
    assert reader.metadata.title == "How much of this attribution is checkerboard?"
    assert "The guided backprop map of resnet18_half" in short_table(tmp_path)


def test_every_method_is_described_with_its_settings() -> None:
    """The words give the defaults of `attribute`, which the command uses."""
    offered = get_args(analyze.Method)
    assert set(offered) == {"gradient", *gradients.METHODS} - {"saliency"}
    assert set(method.METHODS) == set(MEASURED) == set(offered)
    default = {name: str(p.default) for name, p in signature(gradients.attribute).parameters.items()}
    for name, settings in {"integrated-gradients": ["steps"], "smoothgrad": ["samples", "noise"],
                           "occlusion": ["window", "stride"]}.items():  # fmt: skip
        for setting in settings:
            assert f" {default[setting]} " in method.METHODS[name], (name, setting)


def test_an_image_whose_gradient_is_not_finite_is_counted_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that the network answers with NaN: its name, the number of images and the drawn ones."""
    config = Config(model="tests.spoilt:network", input_size=(3, 64, 64), without=("dream", "blame"))
    measure_models(config).write(tmp_path)
    assert (
        "left out 1 of 4 images, 'astronaut' first: the gradient holds NaN or infinity there" in capsys.readouterr().err
    )
    write_report(tmp_path)
    run = Run(Results.read(tmp_path))
    (entry,) = run.models
    assert (entry["skipped"], entry["first_skipped"], run.sample) == (1, "astronaut", "3 images")
    assert run.shown(entry["name"]) == ["chelsea", "coffee", "rocket"]
    assert {row.n for row in run.rows(entry["name"], "input-gradient", "lattice_contrast", "signed")} == {3}
    flat = re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(tmp_path / "report.pdf").pages))
    assert f"1 image left out: the gradient of {entry['name']} holds NaN or infinity there." in flat


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    Results(pd.DataFrame({"value": [1.0]}), {"a": np.zeros(2)}, {"x": 1}).write(tmp_path)
    with pytest.raises(ValueError, match="holds no run of analyze"):
        write_report(tmp_path)
