"""The wheel, built and installed elsewhere, does the main job from any directory, with its template and weights inside."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def python(arguments: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_runs_from_any_directory(tmp_path: Path) -> None:
    site = tmp_path / "site"
    python(["-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "-w", str(tmp_path)], tmp_path)
    (wheel,) = tmp_path.glob("gradlens-*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {"gradlens/py.typed", "gradlens/report/template.typ"} <= set(inside)
    assert sum(name.endswith(".safetensors") for name in inside) == 4
    assert not [name for name in inside if name.startswith(("tests", "analyses", "reports"))]
    python(["-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)], tmp_path)
    (tmp_path / "elsewhere").mkdir()
    where = python(["-c", "import gradlens; print(gradlens.__file__)"], tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    told = python(
        ["-m", "gradlens.analyze", "dcgan_svhn", "--limit", "2"], tmp_path / "elsewhere", PYTHONPATH=str(site)
    )
    assert "dcgan_svhn" in told
    assert (tmp_path / "elsewhere" / "runs" / "analyze-1" / "report.pdf").read_bytes().startswith(b"%PDF")
