"""What the README says is what happens: its Python runs as written, its commands run as a reader would type them."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from gradlens.images import SAMPLES, sample
from tests.hub import serving

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """The shell commands of the README, without comments and without the installation, which `.ci/run` does."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line.split("&&")[-1].strip() for line in lines if line]


def test_python_runs_as_written() -> None:
    failed, tried = doctest.testfile(str(README), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 15
    assert failed == 0


def test_first_screen_holds_both_commands() -> None:
    first = README.read_text(encoding="utf-8").splitlines()[:20]
    assert "pip install -e . && python -m gradlens.analyze" in first
    assert 'pip install -e ".[dev]" && pytest' in first


def test_files_it_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    named = [n for n in re.findall(r"\]\(([^)]+)\)", text) if "://" not in n]
    named += re.findall(r"`((?:gradlens|analyses|tests|reports)/[\w./]*)`", text)
    assert len(named) > 10
    assert [name for name in named if not (README.parent / name).exists()] == []


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    """In order, in one folder. The weights of resnet50.a1_in1k come from a hub: a fake one serves others in their place."""
    network = timm.create_model("resnet50")
    for folder in ("photos", "samples", "real"):
        (tmp_path / folder).mkdir()
        for name in SAMPLES[:2]:
            sample(name).save(tmp_path / folder / f"{name}.png")
    wanted = [line for line in commands() if line != "pytest"]
    assert len(wanted) == 15
    with serving("timm/resnet50.a1_in1k", save(network.state_dict())) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hub"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        for line in wanted:
            done = subprocess.run(
                shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            if line == "python -m gradlens.analyze":
                shown = next(block for block in blocks("text") if block.startswith("Yes."))
                assert done.stdout.strip() == shown.strip()
