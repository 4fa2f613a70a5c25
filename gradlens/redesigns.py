"""The job `gradlens redesign [MODEL]`: what could stand where a network shrinks and enlarges, what it costs, what it changes.

model -> redesign -> spectrum -> comparison -> report. Every design is carried out on a copy, with the weights kept as far as they
can be, and measured on real input. Torch is imported after the first line is out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gradlens.console import (
    NOT_IN_COMMAND,
    Interrupted,
    application,
    carry_out,
    command_line,
    device_named,
    first_line,
    plain,
    progress,
    run,
    say,
)
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder, write_whole
from gradlens.retraining import Retraining, check_early

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from gradlens.models import Model
    from gradlens.redesign import SwapReport

PURPOSE = "Other layers where a network shrinks or enlarges: certificates, costs, drift, pictures before and after."
BEFORE = "before"  # the network as it is, among the designs
DEARER = 1.1  # times the multiplications that a recommended design may need
SHOWN = 8  # pictures that are kept
FLEETING = ("subpixel_icnr",)  # fresh layers that pass until they are trained
PERIODS = (2, 3, 4)
Role = Literal["auto", "generator", "classifier", "discriminator"]


@Parameter(name="*")
@dataclass(frozen=True)
class Config(Retraining):
    """What to redesign, and what to measure it on."""

    _: KW_ONLY
    role: Annotated[
        Role, Parameter(help="What the network is; of a pair and of a factory the generator, if it can be one.")
    ] = "auto"
    to: Annotated[
        tuple[str, ...] | None,
        Parameter(help="Designs to try, as gradlens.redesign.swap has them; all unless given.", consume_multiple=True),
    ] = None
    layers: Annotated[
        tuple[str, ...] | None,
        Parameter(
            help="Layers to change, or kinds such as deconv or strided; all unless given.", consume_multiple=True
        ),
    ] = None
    images: Annotated[
        Path | None,
        Parameter(help="Photographs, a file or folder, for networks that take pictures; the samples unless given."),
    ] = None
    count: Annotated[int, Parameter(help="Latents, or at most so many photographs.")] = 64
    periods: Annotated[tuple[int, ...], Parameter(help="To measure, in pixels.", consume_multiple=True)] = PERIODS
    levels: Annotated[float, Parameter(help="What a white pixel is to a generator that takes pictures: 1 or 255.")] = (
        1.0
    )
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/redesign-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    weights: Annotated[str, Parameter(help="'pretrained', 'random', or a safetensors or pickle file.")] = "pretrained"
    seed: Annotated[int, Parameter(help="Of the latents, and of random weights.")] = 0
    model_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For timm or the factory: --model-args.pad_type same.")
    ] = field(default_factory=dict)
    input_size: Annotated[
        tuple[int, ...] | None, Parameter(help="C H W of one image, or a generator's latents.", consume_multiple=True)
    ] = None
    mean: Annotated[
        tuple[float, ...] | None, Parameter(help="Per channel, instead of the network's.", consume_multiple=True)
    ] = None
    std: Annotated[
        tuple[float, ...] | None, Parameter(help="Per channel, instead of the network's.", consume_multiple=True)
    ] = None
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")] = "cpu"
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


@dataclass(frozen=True)
class Redesigned:
    """Every design of one network, measured.

    `rows` are the table's, the design in the column `model`, "before" the network as it is: lattices of its pictures (subject
    `sample`) or input gradients; `drift`, `psnr`, `parameters`, `multiplications` and `certificate_deviation` (subject
    `redesign`) of each layer and, with layer "", of the network. `arrays` hold pictures and their mean power; `told` is what the
    manifest keeps; `best` the network that is recommended, or None.
    """

    rows: "pd.DataFrame"
    arrays: dict[str, Any]
    told: dict[str, Any]
    best: "SwapReport | None"


def redesigned(model: "Model", example: "Tensor", config: Config) -> Redesigned:
    """Every design of `model`, measured on `example`, and which is recommended.

    Args:
        model: with its weights, on the device of `example`.
        example: what it takes, `[N ...]`.
        config: its `to`, `layers` and `periods` are read.

    Raises:
        ValueError: nothing in the network can be rebuilt, or a design or layer is not known.
    """
    import pandas as pd

    from gradlens.redesign import CannotSwapError, swap

    names = config.to or _possible(model, example)
    reports: dict[str, SwapReport] = {}
    refused: dict[str, str] = {}
    with progress("designs", len(names)) as advance:
        for name in names:
            try:
                reports[name] = swap(model, name, layers=config.layers, example=example)
            except CannotSwapError as error:
                refused[name] = str(error)
            advance()
    if not reports:
        raise CannotSwapError("; ".join(dict.fromkeys(refused.values())))
    subject = "sample" if model.info.role == "generator" else "input-gradient"
    looked = {BEFORE: _look(model, example)} | {name: _look(r.model, example) for name, r in reports.items()}
    tables, arrays = [], {}
    for name, x in looked.items():
        table, power = _lattices(x, name, subject, config.periods)
        tables.append(table)
        if _kept(name, reports):
            arrays |= {f"{subject}/{name}": x[:SHOWN].float().cpu().numpy(), f"power/{name}": power}
    tables += [pd.DataFrame(_costs(name, report)) for name, report in reports.items()]
    rows = pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS))
    chosen, why = recommended(reports, _clean(rows, subject))
    told = {
        "designs": list(reports), "refused": refused, "recommended": chosen, "why": why, "subject": subject,
        "periods": list(config.periods), "count": len(example),
        "layers": [
            {"design": name} | {k: v for k, v in record.items() if v == v}  # NaN is no JSON
            for name, report in reports.items()
            for record in report.table.to_dict("records")
        ],
    }  # fmt: skip
    return Redesigned(rows, arrays, told, reports.get(chosen))


def _possible(model: "Model", example: "Tensor") -> list[str]:
    """The designs that there are for the places of a network: those that enlarge, or else those that shrink."""
    from gradlens.redesign import designs_for, find

    return designs_for(find(model, example))


def _kept(name: str, reports: Mapping[str, "SwapReport"]) -> bool:
    """Whether the weights were kept, so that a picture is worth a look."""
    return name == BEFORE or "fresh" not in set(reports[name].table["kept"])


def _look(model: Any, example: "Tensor") -> "Tensor":
    """What is measured of a network: the pictures that it makes, or its input gradients."""
    import torch

    from gradlens.gradients import input_gradient

    if model.info.role == "generator":
        with torch.no_grad():
            return torch.cat([model(part) for part in example.split(16)])
    return torch.cat([input_gradient(model, part) for part in example.split(16)])


def _lattices(x: "Tensor", name: str, subject: str, periods: Sequence[int]) -> "tuple[pd.DataFrame, Any]":
    """The rows of a set of pictures or gradients, and their mean power `[F F]`."""
    from gradlens.compare import measure
    from gradlens.spectra import lattice_statistics

    statistics = lattice_statistics(x, periods)
    table = measure(statistics, model=name, subject=subject)
    return table.loc[table["image"] == ""], statistics.power.float().cpu().numpy()


def _costs(name: str, report: "SwapReport") -> list[dict[str, Any]]:
    """Rows of one design: a layer's, before and after it, and the network's."""
    common = {"model": name, "subject": "redesign", "image": "", "n": 1, "unit": "1"}
    rows: list[dict[str, Any]] = [
        common | {"layer": "", "metric": "drift", "value": report.drift},
        common | {"layer": "", "metric": "psnr", "value": report.psnr, "unit": "dB"},
    ]
    for record in report.table.to_dict("records"):
        for metric in ("certificate_deviation", "parameters", "multiplications"):
            source = metric.removeprefix("certificate_")
            for kind in ("before", "after"):
                value = record[f"{source}_{kind}"]
                rows.append(common | {"layer": record["layer"], "kind": kind, "metric": metric, "value": value})
        rows.append(common | {"layer": record["layer"], "metric": "drift", "value": record["drift"]})
    return rows


def _clean(rows: "pd.DataFrame", subject: str) -> set[str]:
    """The designs in which no lattice is found at any period, signed or envelope."""
    from gradlens.compare import SIGNIFICANCE

    t = rows.loc[(rows["subject"] == subject) & (rows["metric"] == "lattice_contrast")]
    found = t.loc[(t["p"] <= SIGNIFICANCE) & (t["value"] > 0) & ~(t["low"] <= 0)]
    return set(t["model"]) - set(found["model"])


def recommended(reports: Mapping[str, "SwapReport"], clean: Collection[str] = ()) -> tuple[str, str]:
    """The design to take and why, in words; "" and why not where none will do.

    Among the designs that pass every certificate and need at most 1.1 times the multiplications: those that keep weights, of
    these those that leave no lattice, of these the one with the least drift. Where a step leaves nothing, it is left out. Fresh
    layers that pass before training alone are no recommendation.

    Args:
        reports: by design.
        clean: the designs that leave no lattice in what was measured.
    """
    able = [name for name in reports if _passes(reports[name]) and name not in FLEETING]
    if not able:
        return "", "no design passes the certificate of every layer"
    cost = f"at no more than {DEARER} times the multiplications"
    cheap = [name for name in able if dearer(reports[name]) <= DEARER]
    if not cheap:
        name = min(able, key=lambda name: dearer(reports[name]))
        return (
            name,
            f"the cheapest that passes every certificate, at {dearer(reports[name]):.2f} times the multiplications",
        )
    kept = [name for name in cheap if _kept(name, reports)]
    if not kept:
        return min(
            cheap, key=lambda name: dearer(reports[name])
        ), f"the cheapest that passes {cost}; none keeps the weights"
    without = [name for name in kept if name in clean]
    name = min(without or kept, key=lambda name: reports[name].drift)
    found = (
        f"{len(without)} leave{'s' * (len(without) == 1)} no lattice, and of these it"
        if without
        else "all leave some lattice; it"
    )
    return name, f"of {len(kept)} that pass every certificate {cost} and keep weights, {found} changes least"


def _passes(report: "SwapReport") -> bool:
    return set(report.table["certificate_after"]) == {"pass"}


def dearer(report: "SwapReport") -> float:
    """The largest ratio of the multiplications of a layer after to before; 1 where there were none."""
    t = report.table
    before, after = (t[f"multiplications_{when}"].to_numpy(float) for when in ("before", "after"))
    return float(max([a / b for a, b in zip(after, before, strict=True) if b > 0], default=1.0))


def redesign_model(config: Config) -> tuple[Results, "SwapReport | None"]:
    """The results of `config` without a report, and the recommended network."""
    import torch

    device = device_named(config.device)
    model, example, names = _loaded(config)
    model = model.to(device)
    try:
        found = redesigned(model, example.to(device), config)
    except RuntimeError as error:
        raise ValueError(f"model: {config.model!r} does not run ({first_line(error)})") from error
    manifest = circumstances() | {
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
        "redesigned": asdict(model.info) | found.told,
        "images": names,
        "seed": config.seed,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "partial": False,
    }
    return Results(found.rows, found.arrays, manifest), found.best


def _loaded(config: Config) -> "tuple[Model, Tensor, list[str]]":
    """The network on the CPU, what it takes, and the names of photographs."""
    from gradlens import models

    role = _role(config)
    if source := models.fetched_from(config.model, config.weights):
        say(f"fetching the weights of {config.model} from {source}")
    options: dict[str, Any] = {
        "weights": config.weights, "seed": config.seed, "model_args": config.model_args, "input_size": config.input_size,
        "mean": config.mean, "std": config.std,
    }  # fmt: skip
    build = {"generator": models.generator, "classifier": models.classifier, "discriminator": models.discriminator}
    model = build[role](config.model, **options)
    return model, *_example(model, config)


def _role(config: Config) -> Literal["generator", "classifier", "discriminator"]:
    """What the network is."""
    from gradlens.checkpoints import card
    from gradlens.models import BUNDLED

    if config.role != "auto":
        return config.role
    if config.train:
        return "generator"
    if config.model in BUNDLED:
        return "generator" if "generator" in BUNDLED[config.model] else next(iter(BUNDLED[config.model]))
    told = card(Path(config.model)) if Path(config.model).is_file() else None
    if told is not None:
        return told["role"]
    latent = config.input_size is not None and (len(config.input_size) == 1 or set(config.input_size[1:]) == {1})
    return "generator" if latent else "classifier"


def _example(model: "Model", config: Config) -> "tuple[Tensor, list[str]]":
    """Latents, or photographs at the network's size; and the names of these."""
    import torch

    from gradlens.images import batches, fit, photographs

    size = model.info.input_size
    if len(size) == 1 or set(size[1:]) == {1}:
        return torch.randn(config.count, *size, generator=torch.Generator().manual_seed(config.seed)), []
    found = photographs(config.images, limit=config.count)
    look = {"interpolation": model.info.interpolation, "crop_pct": model.info.crop_pct}
    read = list(batches(found, lambda image: fit(image, size, **look), len(found)))
    levels = config.levels if model.info.role == "generator" else 1.0
    return levels * torch.cat([x for _, x in read]), [photograph.name for photograph in found]


def redesign(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
    """
    _check_early(config)
    target = run_folder(config.out, "redesign")
    if config.train:
        return _retrained(config, target)
    with new_run(target, "redesign", force=config.force) as folder:
        say(f"gradlens: redesigning {config.model}; loading PyTorch")
        from gradlens.report import write_report

        results, best = redesign_model(config)
        results.write(folder)
        write_pictures(results, folder)
        if best is not None:
            write_weights(best, folder / "redesigned.safetensors")
        say("drawing the report")
        write_report(folder)
    return target


def _retrained(config: Config, target: Path) -> Path:
    """Try designs by training; where that stands.

    Raises:
        Interrupted: Ctrl-C came before the end; what was done is kept.
    """
    with new_run(target, "redesign", force=config.force) as folder:
        say(f"gradlens: redesigning {config.model} by training; loading PyTorch")
        from gradlens import models, retraining
        from gradlens.report import complete

        device_named(config.device)
        model, example, _ = _loaded(config)
        built_by = models.built_by(config.model, _role(config), weights=config.weights, model_args=config.model_args)
        results = retraining.retrain(
            retraining.Task(
                model, example, config.model, built_by, config, config.to, config.layers, config.periods, config.seed,
                config.device, command(config),
            ),
            folder,
        )  # fmt: skip
        retraining.write_pictures(results, folder)
        target, partial = complete(results, folder, target)
    if partial:
        raise Interrupted(target)
    return target


def write_pictures(results: Results, folder: Path) -> None:
    """Write what a generator made, before and after each design, side by side at native size as `before-and-DESIGN.png`."""
    import numpy as np

    from gradlens.figures import png

    told = results.manifest["redesigned"]
    before = results.arrays[f"{told['subject']}/{BEFORE}"]
    if told["subject"] != "sample" or before.shape[1] not in (1, 3):
        return
    for name in told["designs"]:
        after = results.arrays.get(f"sample/{name}")
        if after is not None:
            rows = [np.concatenate(list(x), axis=2) for x in (before, after)]
            write_whole(folder / f"before-and-{name}.png", png(np.concatenate(rows, axis=1)))


def write_weights(best: "SwapReport", path: Path) -> None:
    """Write the state dict of the network inside, to load into what `swap` gives for the same call."""
    from safetensors.torch import save_file

    from gradlens.models import bare

    save_file({k: v.detach().cpu().contiguous() for k, v in bare(best.model).state_dict().items()}, path)


def _check_early(config: Config) -> None:
    """Refuse what can be refused before PyTorch is loaded."""
    check_early(config)
    if config.count < 1:
        raise ValueError(f"--count: must be at least 1, got {config.count}")
    if not config.periods or min(config.periods) < 2:
        raise ValueError(f"--periods: must be at least 2 px, got {list(config.periods)}")
    if not config.levels > 0:
        raise ValueError(f"--levels: must be above 0, got {config.levels}")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed: must be from 0 to 2**63 - 1, got {config.seed}")
    if config.images is not None and not config.images.exists():
        raise ValueError(f"--images: there is no {str(config.images)!r}")
    if config.weights not in ("pretrained", "random") and not Path(config.weights).is_file():
        raise ValueError(f"weights: there is no file {config.weights!r}")


def command(config: Config) -> str:
    """The command line that redesigns the same: flags that are not at their defaults, without where to write."""
    return command_line(["gradlens", "redesign"], config, "model")


def short_table(folder: Path) -> str:
    """The recommendation and one line a design, for the terminal."""
    from gradlens.report import retraining
    from gradlens.report.redesign import conclusion, of_run
    from gradlens.report.run import number

    results = Results.read(folder)
    if "retrained" in results.manifest:
        return retraining.short_table(results)
    told = of_run(results)
    lines = [conclusion(told), "", f"{'design':<16}  {'weights':<9}  {'passes':>6}  {'cost':>5}  {'drift':>6}  " + "  ".join(
        f"T={p}, dB".rjust(8) for p in told.periods
    )]  # fmt: skip
    for name in (BEFORE, *told.designs):
        cells = [told.contrast(name, period, "signed") for period in told.periods]
        values = "  ".join(f"{number(c.value) + ('*' if c.found else ' '):>8}" for c in cells)
        if name == BEFORE:
            lines.append(f"{name:<16}  {'':<9}  {'':>6}  {'':>5}  {'':>6}  {values}")
            continue
        kept = "/".join(dict.fromkeys(told.kept(name)))
        lines.append(
            f"{name:<16}  {kept:<9}  {told.passed(name):>6}  {number(told.dearer(name), 2):>5}  "
            f"{number(told.drift(name), 3):>6}  {values}"
        )
    lines.append("signed contrast of the lattice, * where it is found; cost: multiplications, times those of before")
    return "\n".join(lines)


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell

    tell(folder, short_table, as_json=as_json)


def build_app(name: str = "gradlens redesign") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: redesign(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.redesigns"))
