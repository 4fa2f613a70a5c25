"""What a training run made: the networks, the data, the command, how to go on."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from math import isnan, nan
from typing import Any

from gradlens.redesign.gan.card import plain_recipe
from gradlens.redesign.gan.config import TrainConfig
from gradlens.report.document import Block, Part, bullets, code, heading, listing, paragraph, table
from gradlens.report.run import breakable, counted, number
from gradlens.report.trained import Trained

MOST_SKIPPED = 12
ROOM = 90  # characters of a name or a reason
LINE = 84  # of a line of code


def pages(t: Trained) -> tuple[list[Block], dict[str, bytes]]:
    """Networks, data, settings, and how to go on."""
    return [heading("What was trained"), *_networks(t), *_data(t), *_run(t), *_on(t)], {}


def shortened(text: str, room: int = ROOM) -> str:
    """A text with its middle left out where it is long, never nothing."""
    text = text or "(empty)"
    return text if len(text) <= room else f"{text[: room // 2]}…{text[-room // 2 + 1 :]}"


def _networks(t: Trained) -> list[Block]:
    blocks: list[Block] = []
    for network, verb, way in (
        ("generator", "enlarges", "forward: whether a constant comes out constant"),
        (
            "discriminator",
            "shrinks",
            "backward: whether the mean of the gradient that it hands back is even over its phases",
        ),
    ):
        told = t.told[network]
        size = told.get("parameters")
        said = f"{counted(size, 'parameter') if size is not None and size < 1000 else f'{size or 0:,} parameters'}"
        blocks.append(heading(f"The {network}", 2))
        blocks.append(paragraph(code(str(told["builder"])), f", {said}.", ragged=True))
        rows = [
            [
                breakable(layer["layer"]),
                breakable(str(layer["kind"])),
                layer["certificate"],
                _small(layer.get("deviation")),
            ]
            for layer in t.layers(network)
        ]
        if not rows:
            blocks.append(paragraph(f"No layer of it that {verb} has a certificate in this run."))
            continue
        blocks.append(
            table(
                {"layer": "left", "kind": "left", "certificate": "left", "deviation": "right"},
                rows,
                caption=[f"Every layer that {verb}. The certificate is {way}."],
                stretch="kind",
            )
        )
    return blocks


def _data(t: Trained) -> list[Block]:
    data = t.told["data"]
    skipped = data.get("skipped") or {}
    parts: list[Part | str] = [
        code(shortened(str(data["source"]))),
        f": {data['found']:,} pictures found, {len(skipped):,} left out, {data['used']:,} images used; {t.size}, "
        f"{counted(data['channels'], 'channel')}. ",
        *(["SHA-256 ", code(str(data["sha256"])), "."] if data.get("sha256") else []),
    ]
    blocks: list[Block] = [heading("The data", 2), paragraph(*parts, ragged=True)]
    if skipped:
        first = list(skipped.items())[:MOST_SKIPPED]
        blocks.append(bullets(*([code(shortened(name)), f": {shortened(str(why))}"] for name, why in first)))
    if len(skipped) > MOST_SKIPPED:
        more = len(skipped) - MOST_SKIPPED
        blocks.append(paragraph(f"And {more:,} more, listed in manifest.json."))
    return blocks


def _run(t: Trained) -> list[Block]:
    told, manifest = t.told, t.results.manifest
    flags = [
        [breakable(name, 20), breakable(shortened(_flag(value), 60), 20)] for name, value in told["config"].items()
    ]
    half = -(-len(flags) // 2)
    pairs = [[*left, *right] for left, right in zip(flags[:half], [*flags[half:], ["", ""]], strict=False)]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    commit = f", commit {manifest['commit'][:12]}" if manifest.get("commit") else ""
    resumed = f" It was resumed after step {', '.join(f'{s:,}' for s in t.resumed)}." if t.resumed else ""
    return [
        heading("The run", 2),
        listing(_wrapped(manifest["command"])),
        paragraph(
            f"{told['steps']:,} steps, {told['images']:,} images, {_speed(told)} images/s on {told['device']}, "
            f"{_processes(told['processes'])}, {told['precision']}.{resumed} {versions}, "
            f"Python {manifest.get('python', '')} on {manifest.get('platform', '')}{commit}."
        ),
        table(
            {"flag": "left", "value": "left", "flag ": "left", "value ": "left"},
            pairs,
            caption=["All settings of the run."],
        ),
    ]


def _on(t: Trained) -> list[Block]:
    return [
        heading("How to go on", 2),
        paragraph("More training, and samples; DIR is this run's folder:", sticky=True),
        listing("gradlens train --out DIR --resume\ngradlens sample DIR -n 64"),
        paragraph(
            "The generator alone, in the folder ",
            code(f"DIR/checkpoints/step-{t.told['steps']:08}"),
            ":",
            sticky=True,
        ),
        listing("\n".join(_recipe(t))),
    ]


def _recipe(t: Trained) -> list[str]:
    """The generator with torch and safetensors alone where its layers are torch's own, else with what builds it."""
    known = {field.name for field in fields(TrainConfig)}
    told: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in t.told["config"].items() if k in known
    }
    config, generator = TrainConfig(**told), t.told["generator"]
    if generator.get("recipe"):
        return ["import torch", "from gradlens import models", *generator["recipe"]]
    if lines := plain_recipe(config):
        return lines
    module, _, name = str(generator["builder"]).partition(":")
    arguments = ", ".join(f"{key}={value!r}" for key, value in (generator.get("arguments") or {}).items())
    return [
        "import torch",
        "from safetensors.torch import load_file",
        f"from {module} import {name}",
        "",
        f"generator = {name}({arguments}).eval()",
        'generator.load_state_dict(load_file("generator.safetensors"))',
        f"images = (generator(torch.randn(16, {config.latent})) + 1) / 2",
    ]


def _wrapped(command: str) -> str:
    """A command on lines that a shell reads as one."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) > LINE:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _flag(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_flag(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_flag, value)) or "–"
    return "–" if value is None or value == "" else str(value)


def _speed(told: Mapping[str, Any]) -> str:
    speed = float(told["images_per_second"] or nan)
    return "–" if isnan(speed) else f"{speed:,.0f}"


def _processes(n: int) -> str:
    return "one process" if n == 1 else f"{n} processes"


def _small(value: float | None) -> str:
    """A deviation: digits that matter, or that it is rounding."""
    if value is None or isnan(value):
        return "–"
    return "< 10⁻⁵" if value < 1e-5 else number(value, 3)
