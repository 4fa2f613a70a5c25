"""What a training run made: how good its samples are, all its numbers, the networks, the data, the command, how to go on."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from math import isnan, nan
from typing import Any

from gradlens.redesign.gan.card import plain_recipe
from gradlens.redesign.gan.config import TrainConfig
from gradlens.report.document import Block, Part, bullets, code, heading, listing, paragraph, strong, table
from gradlens.report.run import KINDS, NBSP, Row, breakable, counted, number, probability, share, span
from gradlens.report.trained import SUBJECTS, Trained

MOST_SKIPPED = 12
ROOM = 90  # characters of a name or a reason
LINE = 84  # of a line of code


def pages(t: Trained) -> tuple[list[Block], dict[str, bytes]]:
    """Quality, the numbers, and what was trained."""
    return [
        *_quality(t),
        *_numbers(t),
        heading("What was trained"),
        *_networks(t),
        *_data(t),
        *_run(t),
        *_on(t),
    ], {}


def shortened(text: str, room: int = ROOM) -> str:
    """A text with its middle left out where it is long, never nothing."""
    text = text or "(empty)"
    return text if len(text) <= room else f"{text[: room // 2]}…{text[-room // 2 + 1 :]}"


def measured(value: float) -> str:
    """A measure of quality, with at most four digits that matter and four after the point."""
    size = abs(value)
    if size == 0:
        return "0"
    return number(value, 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4)


def _between(row: Row) -> str:
    return "–" if isnan(row.low) else f"{measured(row.low)} to {measured(row.high)}"


def _quality(t: Trained) -> list[Block]:
    title = heading("How good the samples are")
    if t.quality.empty:
        why = (
            "It was interrupted before its end, where that is measured."
            if t.partial
            else "This run did not measure it."
        )
        return [title, paragraph(why)]
    rows = []
    for record in t.quality.to_dict(orient="records"):
        ours, control = record["sample"], record["control"]
        cells = [breakable(record["metric"], 30), measured(ours.value), _between(ours), probability(ours.p)]
        cells += ["–", "–"] if control is None else [measured(control.value), _between(control)]
        n = f"{ours.n:,}" if control is None or control.n == ours.n else f"{ours.n:,} / {control.n:,}"
        rows.append([*cells, n, "" if record["unit"] == "1" else record["unit"]])
    columns = {"measure": "left", "samples": "right", "95 % interval": "left", "p": "right"}
    columns |= {"control": "right", "95 % interval ": "left", "n": "right", "unit": "left"}
    return [
        title,
        table(columns, rows, caption=[_explained(t)], stretch="measure"),
        paragraph(
            strong("What they do not say. "),
            "FD and KID compare features of the network that is named, so no value here compares with a published FID, or with "
            "one at another n: FD falls as n grows, which is why the control has the same n. Neither sees a faint lattice, and a "
            "generator with one may have the better FD. Smooth samples are near to everything: nearest_neighbour above 0.5 is no "
            "sign of copies by itself. Nor does a share without copies prove that nothing was memorised: features may miss a "
            "copy that was changed. No measure here tells alone how much of the data's variety is missing.",
        ),
    ]


def _explained(t: Trained) -> str:
    """What the measures of the table are."""
    meanings = {
        "FD": "FD and KID: distances of features, less is nearer.",
        "nearest_neighbour": "nearest_neighbour: how often a sample is nearer to the data than another real image is, about 0.5 "
        "where nothing is copied.",
        "copied_share": "copied_share: samples nearer than the nearest hundredth of other real images, about 0.01 where nothing "
        "is copied.",
        "training_share": "training_share: samples whose nearest real image was trained on, 0.5 where that makes no difference.",
        "spectrum_distance": "radial_distance, spectrum_distance: of mean spectra, ..._test is what chance alone reaches.",
    }
    told = [words for name, words in meanings.items() if t.quality["metric"].str.startswith(name).any()]
    return " ".join(
        [
            f"Samples of {t.label} against the real data and, as the control, other real images against the same data.",
            *told,
            "In brackets the network whose features are compared and how many images entered; n: of samples / control. A dash: "
            "too few images.",
        ]
    )


def _numbers(t: Trained) -> list[Block]:
    """Every measure of every period and subject in two tables."""
    if not t.subjects:
        return []
    return [
        heading("The numbers"),
        paragraph(
            "A signed measure sees a pattern that repeats with its sign, as uneven overlap writes it; an envelope or phase "
            "measure sees energy that is placed unevenly while its sign is random, as a strided layer leaves it in a gradient; "
            "of pictures it is that of their fine detail. All of them are in ",
            code("table.csv"),
            " beside this report.",
            sticky=True,
        ),
        _contrasts(t),
        _imbalances(t),
    ]


def _contrasts(t: Trained) -> Block:
    rows = []
    for subject in t.subjects:
        for period in t.run.periods(t.label, subject):
            for kind in KINDS:
                row = t.contrast(subject, period, kind)
                part, floor = (
                    t.row(subject, period, metric, kind) for metric in ("lattice_share", "lattice_share_floor")
                )
                contrast = "too small to tell" if isnan(row.value) else number(row.value) + f"{NBSP}*" * row.found
                cells = [contrast, span(row), probability(row.p), share(part.value), share(floor.value), f"{row.n:,}"]
                rows.append([SUBJECTS[subject], str(period), kind, *cells])
    return table(
        {
            "of": "left", "period, px": "right", "family": "left", "contrast, dB": "right", "95 % interval": "left",
            "p": "right", "share": "right", "its floor": "right", "n": "right",
        },
        rows,
        caption=[
            "Contrast: how far the new harmonics of the period stand above the spectrum around them; * found: p at most 0.01 "
            "and the interval above 0. p: joint over images, adjusted over periods. Share: of all energy, on the whole lattice; "
            "its floor is white noise's."
        ],
        stretch="of",
    )  # fmt: skip


def _imbalances(t: Trained) -> Block:
    rows = []
    for subject in t.subjects:
        for period in t.run.periods(t.label, subject):
            metrics = ("set_imbalance", "set_imbalance_test", "phase_ratio")
            imbalance, floor, ratio = (t.row(subject, period, metric, "phase") for metric in metrics)
            cells = [number(imbalance.value, 3), span(imbalance, 3), number(floor.value, 3), probability(imbalance.p)]
            rows.append([SUBJECTS[subject], str(period), *cells, number(ratio.value, 2), f"{imbalance.n:,}"])
    return table(
        {
            "of": "left", "period, px": "right", "imbalance": "right", "95 % interval": "left", "its floor": "right",
            "p": "right", "max / min": "right", "n": "right",
        },
        rows,
        caption=[
            "Imbalance: variation of the energy over the T x T pixel positions that the images have in common, chance taken "
            "out; its floor is the 95 % quantile where each image's map is moved at random. With few images p cannot be small."
        ],
        stretch="of",
    )  # fmt: skip


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
