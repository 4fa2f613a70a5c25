"""`gradlens lint`: text, JSON, exit codes, accepted findings and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradlens import commands
from gradlens.lint import PURPOSE, read_accepted

ROOT = Path(__file__).parents[1]


def run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of `gradlens lint`."""
    monkeypatch.setattr(sys, "argv", ["gradlens", "lint", *arguments])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, captured.out, captured.err


def test_the_bundled_classifier(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run([], capsys, monkeypatch)
    assert (code, err) == (1, "gradlens: linting resnet18_half; loading PyTorch\n")
    assert out.startswith(
        "resnet18_half, 3 x 128 x 128: 8 warnings\n\nwarning  conv1  partial-overlap, T=2\n  kernel 7 x 7"
    )
    assert "\n  remedy: take a kernel of 8 x 8" in out


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("note", 1), ("never", 0)])
def test_fail_on(level: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["--fail-on", level], capsys, monkeypatch)[0] == code


def test_a_pair_is_a_discriminator_and_forward_its_generator(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["dcgan_svhn"], capsys, monkeypatch)[1].startswith("dcgan_svhn, 3 x 32 x 32: 3 warnings\n")
    code, out, _ = run(["dcgan_svhn", "--direction", "forward", "--fail-on", "error"], capsys, monkeypatch)
    assert (code, out.splitlines()[0]) == (1, "dcgan_svhn, 100: 3 errors")


def test_json_and_a_factory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["gradlens.networks:DCGANGenerator", "--input-size", "100", "--json"]
    code, out, _ = run(arguments, capsys, monkeypatch)
    told = json.loads(out)
    assert (code, told["input_size"], told["model"]) == (1, [100], "gradlens.networks:DCGANGenerator")
    first = told["findings"][0]
    assert (first["layer"], first["severity"], first["period"], first["rule"]) == ("up1", "error", 8, "partial-overlap")
    assert (first["accepted"], first["why"]) == (False, "")


def test_accepted_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "accepted"
    file.write_text("# known\n\npartial-overlap *\nholes layer*.downsample.0  # filled by conv1\nsub-pixel up\n")
    code, out, err = run(["--accept", str(file)], capsys, monkeypatch)
    assert (code, out.splitlines()[0]) == (1, "resnet18_half, 3 x 128 x 128: 1 warning, 7 accepted")
    assert "accepted  layer2.0.downsample.0  holes, T=8: filled by conv1\n" in out
    assert err.splitlines()[1:] == ["accept: line 5, sub-pixel up, meets no finding; take it out"]
    file.write_text("* *\n")
    assert run(["--accept", str(file), "--fail-on", "note"], capsys, monkeypatch)[0] == 0


def test_a_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "accepted"
    file.write_text("max-pool pool#2 # once\n")
    (entry,) = read_accepted(file)
    assert (entry.rule, entry.layer, entry.why, entry.line) == ("max-pool", "pool#2", "once", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--accept", "absent"], "accept: there is no file 'absent'"),
        (["--accept", "bad"], "accept: line 1 of 'bad' must be 'rule layer # why', got 'holes'"),
        (["--accept", "unknown"], "accept: line 1 names no rule: 'hole' is none of holes, partial-overlap,"),
        (["no_such"], "model: 'no_such' is neither bundled"),
        (["resnet18", "--input-size", "4", "64", "64"], "does not run on 4 x 64 x 64: layer 'conv1' fails with"),
        (["vit_tiny_patch16_224", "--input-size", "3", "200", "200"], "3 x 224 x 224 would do"),
        (["--fail-on", "all"], 'Invalid value "all" for --fail-on'),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad").write_text("holes\n")
    (tmp_path / "unknown").write_text("hole *\n")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments, capsys, monkeypatch)
    assert (code, out) == (2, "")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err


def test_help_comes_without_torch() -> None:
    code = "import sys, gradlens.lint; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "Exit 1" in PURPOSE
