"""The analysis of certificates: every case as its source says but for one paper, and pages that hold the table's numbers."""

from pathlib import Path

import pypdf
import pytest

from analyses import certificates
from analyses.certificates import ENLARGING, SHRINKING, Config, groups, summary
from gradlens.results import Results
from reports.certificates import SHOWN, percent, write


def test_cases_have_names_of_their_own() -> None:
    names = [name for _, cases in groups(Path("assets")).values() for name in cases]
    assert len(names) == len(set(names)) and set(SHOWN) <= set(names)


@pytest.fixture(scope="module")
def results() -> Results:
    """All layers, without the networks."""
    with pytest.MonkeyPatch.context() as patch:
        chosen = {"layers that enlarge": ("forward", ENLARGING), "layers that shrink": ("backward", SHRINKING)}
        patch.setattr(certificates, "groups", lambda assets: chosen)
        return certificates.run(Config())


def test_layers_are_as_their_sources_say_but_for_pixel_deconvolution(results: Results) -> None:
    table = summary(results)
    assert list(table.loc[table["as it says"] == "no", "case"]) == ["PixelDCL", "PixelDCL, masked"]
    assert list(table["as it says"]).count("yes") >= 25


def test_pages_hold_the_numbers_of_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    text = " ".join(page.extract_text() for page in pypdf.PdfReader(write(tmp_path)).pages)
    words = " ".join(text.split())
    assert results.manifest["command"] in words
    t = results.table
    for name in ("deconvolution 4x4", "windowed sinc", "PixelDCL"):
        largest = t.loc[(t["model"] == name) & (t["kind"] == "response") & (t["level"] == 1), "value"].max()
        assert f"{percent(largest)}" in words
    for told in results.manifest["cases"]:
        assert told["name"] in words


def test_another_folder_is_refused(tmp_path: Path, results: Results) -> None:
    Results(results.table, {}, {}).write(tmp_path)
    with pytest.raises(ValueError, match=r"no run of analyses\.certificates"):
        write(tmp_path)
