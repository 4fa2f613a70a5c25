"""The figures of Odena, Dumoulin and Olah 2016 carry what their captions say, at the level 0.01."""

from pathlib import Path

import pytest

from analyses.published_figures import GROUPS, Config, run, verdicts

pytestmark = pytest.mark.assets


def test_each_group_gets_the_verdict_of_its_caption(assets: Path) -> None:
    table = verdicts(run(Config(assets / "images" / "distill")))
    assert len(table) == 2 * len(GROUPS)
    assert table["agrees"].all(), table.to_string()


def test_a_folder_without_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no fix_two_\*\.png"):
        run(Config(tmp_path))
