"""The command line as a user types it, wrong input included."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlens import commands, spectra
from gradlens.analyze import Config, command
from gradlens.console import run
from gradlens.images import sample

ANALYZE = ["python", "-m", "gradlens.analyze"]


def process(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as its user does, in `folder`."""
    words = [sys.executable, *arguments[1:]] if arguments[0] == "python" else arguments
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_interrupted_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("models", "dcgan_svhn         bundled discriminator and generator"),
        ("images", "chelsea    451 x 300 px, scikit-image, public domain or CC0"),
        ("metrics", f"{'lattice_contrast':<24}{inspect.getdoc(spectra.lattice_contrast).splitlines()[0]}"),
    ],
)  # fmt: skip
def test_ls(what: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gradlens", "ls", what])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert stop.value.code == 0
    assert line in capsys.readouterr().out.splitlines()


def test_the_command_of_a_manifest_holds_what_matters() -> None:
    config = Config(
        "resnet18",
        images=Path("my photos"),
        out=Path("o"),
        model_args={"num_classes": 7},
        periods=(2, 3),
        json=True,
        limit=5,
    )
    expected = (
        "python -m gradlens.analyze resnet18 --images 'my photos' --model-args.num_classes 7 --periods 2 3 --limit 5"
    )
    assert command(config) == expected
    assert command(Config(config=Path("c.toml"))) == "python -m gradlens.analyze"


@pytest.mark.slow
def test_no_arguments_from_any_directory(tmp_path: Path) -> None:
    done = process(ANALYZE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "gradlens: analysing resnet18_half; loading PyTorch"
    assert done.stderr.splitlines()[-1] == f"report: {Path('runs/analyze-1/report.pdf')}"
    assert done.stdout.startswith("Yes. The input gradient of resnet18_half carries a checkerboard of period 2")
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert [name for name in written if "figures" not in name] == [
        f"runs/analyze-1/{name}" for name in ("arrays.safetensors", "manifest.json", "report.pdf", "table.csv")
    ]
    again = process(ANALYZE, tmp_path)
    assert again.returncode == 0
    first, second = (tmp_path / f"runs/analyze-{n}" for n in (1, 2))
    for name in ("report.pdf", "table.csv", "manifest.json", "arrays.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.slow
def test_json_is_one_object_and_the_toml_file_holds_flags(tmp_path: Path) -> None:
    sample("coffee").resize((200, 150)).save(tmp_path / 'a "b" #1 été.png')
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(classes=3):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 11, 3), nn.ReLU(), nn.Conv2d(8, 8, 5, 2), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    (tmp_path / "c.toml").write_text('model = "net:make"\ninput-size = [3, 96, 96]\n[model-args]\nclasses = 5\n')
    words = ["gradlens", "analyze", "--config", "c.toml", "--images", ".", "--out", "run", "--json", "--seed", "3"]
    done = process(["python", "-c", "from gradlens.commands import main; main()", *words[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"out", "table", "manifest"}
    assert {row["period"] for row in told["table"] if row["subject"] == "input-gradient"} == {2, 3, 6}
    assert told["manifest"]["images"] == ['a "b" #1 été.png']
    assert told["manifest"]["models"][0]["weights"] == "as the factory made them, seed 3"
    assert (tmp_path / told["out"] / "report.pdf").read_bytes().startswith(b"%PDF")
