"""The job `gradlens lint MODEL`: what in a network's architecture makes checkerboards, for a terminal and for CI.

model -> trace -> findings, without images, without a run's folder, and with random weights nothing is fetched. A file of
accepted findings holds one a line, `rule layer  # why`; a layer may be a pattern such as `layer*.downsample.0`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gradlens.console import application, deliver, run, say

if TYPE_CHECKING:
    from gradlens.geometry import Finding
    from gradlens.models import Model

PURPOSE = "What in a network's architecture makes checkerboards: layer, reason, period, remedy. Exit 1 on findings."


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to lint, and from where on to fail."""

    model: Annotated[
        str, Parameter(help="Bundled name (gradlens ls models), timm name, checkpoint, or package.module:factory.")
    ] = "resnet18_half"
    _: KW_ONLY
    direction: Annotated[
        Literal["backward", "forward"] | None,
        Parameter(help="Only gradients (backward) or only outputs (forward); also asks for the generator of a pair."),
    ] = None
    input_size: Annotated[
        tuple[int, ...] | None,
        Parameter(help="C H W of one image, or one latent size; needed for a factory.", consume_multiple=True),
    ] = None
    fail_on: Annotated[
        Literal["error", "warning", "note", "never"], Parameter(help="Exit 1 for findings of this severity or above.")
    ] = "warning"
    accept: Annotated[
        Path | None, Parameter(help="File of accepted findings, one 'rule layer  # why' a line; * is any.")
    ] = None
    weights: Annotated[str, Parameter(help="'random', 'pretrained', or a safetensors or pickle file.")] = "random"
    seed: Annotated[int, Parameter(help="Of random weights.")] = 0
    model_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For timm or the factory: --model-args.aa_layer blurpc.")
    ] = field(default_factory=dict)
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of text.")] = False


@dataclass(frozen=True)
class Accepted:
    """A line of the file of accepted findings."""

    rule: str
    layer: str
    why: str
    line: int

    def holds(self, finding: "Finding") -> bool:
        return self.rule in ("*", finding.rule) and fnmatchcase(finding.layer, self.layer)


def lint(config: Config) -> int:
    """Print the findings of `config`; returns the exit code, 1 where one that is not accepted is severe enough.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
    """
    accepted = [] if config.accept is None else read_accepted(config.accept)
    say(f"gradlens: linting {config.model}; loading PyTorch")
    from gradlens import geometry
    from gradlens.geometry.lint import RULES, SEVERITIES
    from gradlens.models import bare

    for entry in accepted:
        if entry.rule not in ("*", *RULES):
            raise ValueError(f"accept: line {entry.line} names no rule: {entry.rule!r} is none of {', '.join(RULES)}")
    model = _model(config)
    size = model.info.input_size
    found = geometry.lint(bare(model), size, direction=config.direction)
    because = [next((entry for entry in accepted if entry.holds(finding)), None) for finding in found]
    unused = [entry for entry in accepted if not any(entry.holds(finding) for finding in found)]
    for entry in unused:
        say(f"accept: line {entry.line}, {entry.rule} {entry.layer}, meets no finding; take it out")
    title = f"{model.info.name}, {' x '.join(map(str, size))}"
    deliver(_as_json(model, found, because) if config.json else _text(title, found, because))
    if config.fail_on == "never":
        return 0
    failing = SEVERITIES[: SEVERITIES.index(config.fail_on) + 1]
    return int(any(f.severity in failing and why is None for f, why in zip(found, because, strict=True)))


def read_accepted(path: Path) -> list[Accepted]:
    """The accepted findings of a file.

    Raises:
        ValueError: there is no such file, or a line that is not `rule layer  # why`.
    """
    if not path.is_file():
        raise ValueError(f"accept: there is no file {str(path)!r}")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        said, _, why = f" {line}".partition(" #")  # a layer that runs again is `name#2`
        words = said.split()
        if len(words) not in (0, 2):
            raise ValueError(f"accept: line {number} of {path.name!r} must be 'rule layer # why', got {line!r}")
        if words:
            found.append(Accepted(words[0], words[1], why.strip(), number))
    return found


def _model(config: Config) -> "Model":
    """The network, in the role that it has or that is asked for."""
    from gradlens import models
    from gradlens.checkpoints import card

    options: dict[str, Any] = {
        "weights": config.weights, "seed": config.seed, "input_size": config.input_size, "model_args": config.model_args,
        "mean": (0.0,), "std": (1.0,),  # normalisation is no matter of architecture
    }  # fmt: skip
    path = Path(config.model)
    told = card(path) if path.is_file() else None
    roles = models.BUNDLED.get(config.model, {"generator": ""} if ":" in config.model else {})
    wanted = config.direction == "forward" or (config.input_size is not None and len(config.input_size) == 1)
    if (told and told["role"] == "generator") or (wanted and "generator" in roles):
        return models.generator(config.model, **options)
    return models.load(config.model, **options)


def _text(title: str, found: "Sequence[Finding]", because: Sequence[Accepted | None]) -> str:
    """A line that counts, and for each finding its layer, reason and remedy."""
    counts = Counter(f.severity for f, why in zip(found, because, strict=True) if why is None)
    said = [
        f"{n} {severity}{'' if n == 1 else 's'}" for severity in ("error", "warning", "note") if (n := counts[severity])
    ]
    taken = sum(why is not None for why in because)
    said += [f"{taken} accepted"] if taken else []
    lines = [f"{title}: {', '.join(said) or 'nothing found'}"]
    for finding, why in zip(found, because, strict=True):
        period = f", T={finding.period:g}" if finding.period is not None else ""
        if why is not None:
            lines += ["", f"accepted  {finding.layer}  {finding.rule}{period}{f': {why.why}' if why.why else ''}"]
            continue
        lines += ["", f"{finding.severity}  {finding.layer}  {finding.rule}{period}"]
        lines += [f"  {finding.reason}", f"  remedy: {finding.remedy}"]
    return "\n".join(lines)


def _as_json(model: "Model", found: "Sequence[Finding]", because: Sequence[Accepted | None]) -> str:
    findings = [
        asdict(finding) | {"accepted": why is not None, "why": why.why if why else ""}
        for finding, why in zip(found, because, strict=True)
    ]
    info = model.info
    whole = {"model": info.name, "input_size": info.input_size, "weights": info.weights, "findings": findings}
    return json.dumps(whole, indent=2)


def build_app(name: str = "gradlens lint") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return lint(config)

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.lint"))
