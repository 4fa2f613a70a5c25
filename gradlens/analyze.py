"""The main job: `python -m gradlens.analyze [MODEL]`, from photographs to a PDF that says how much is checkerboard.

image -> model -> probe -> gradient -> spectrum -> comparison -> report. Torch is imported after the first line is out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from itertools import chain, takewhile
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gradlens.console import (
    NOT_IN_COMMAND,
    SMALLER,
    Interrupted,
    application,
    carry_out,
    command_line,
    device_named,
    first_line,
    in_batches_that_fit,
    out_of_memory,
    plain,
    progress,
    run,
    say,
    stoppable,
)
from gradlens.results import Results, circumstances, new_run, run_folder

if TYPE_CHECKING:
    import pandas as pd

    from gradlens.dreams import Dreamt
    from gradlens.gradients import GradientStatistics
    from gradlens.models import Model
    from gradlens.predict import Prediction

PURPOSE = "How much of a network's input gradient is checkerboard: a table, figures and a PDF."
Method = Literal["gradient", "input-x-gradient", "integrated-gradients", "smoothgrad", "guided-backprop", "occlusion"]
BLAMED = 4  # photographs on which layers are switched off and on
Part = Literal["dream", "blame"]


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to analyse and how."""

    model: Annotated[
        str, Parameter(help="Bundled name (gradlens ls models), timm name, checkpoint, or package.module:factory.")
    ] = "resnet18_half"
    _: KW_ONLY
    images: Annotated[
        Path | None, Parameter(help="A picture or a folder of them; the sample photographs unless given.")
    ] = None
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/analyze-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    weights: Annotated[str, Parameter(help="'pretrained', 'random', or a safetensors or pickle file.")] = "pretrained"
    seed: Annotated[int, Parameter(help="Of random weights.")] = 0
    model_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For timm or the factory: --model-args.pad_type same.")
    ] = field(default_factory=dict)
    input_size: Annotated[tuple[int, int, int] | None, Parameter(help="C H W of one image; needed for a factory.")] = (
        None
    )
    mean: Annotated[
        tuple[float, ...] | None, Parameter(help="Per channel, instead of the network's.", consume_multiple=True)
    ] = None
    std: Annotated[
        tuple[float, ...] | None, Parameter(help="Per channel, instead of the network's.", consume_multiple=True)
    ] = None
    drop_first: Annotated[int, Parameter(help="Leave out so many leading logits, such as a background class.")] = 0
    against: Annotated[
        str | None, Parameter(help="Second model in the same report: a name, or a weights file for the same network.")
    ] = None
    method: Annotated[Method, Parameter(help="What to measure: the gradient, or an attribution by this method.")] = (
        "gradient"
    )
    periods: Annotated[
        tuple[int, ...] | None,
        Parameter(help="In pixels; those of the network's strides unless given.", consume_multiple=True),
    ] = None
    window: Annotated[int, Parameter(help="Side of the Welch windows in pixels; at least four periods are used.")] = 32
    without: Annotated[
        tuple[Part, ...], Parameter(help="Leave these pages out; they take the longest.", consume_multiple=True)
    ] = ()
    batch_size: Annotated[int, Parameter(help="Images at once.")] = 16
    limit: Annotated[int | None, Parameter(help="Use only so many images.")] = None
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")] = "cpu"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"], Parameter(help="The network runs in it.")
    ] = "float32"
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


def analyze(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
        Interrupted: after Ctrl-C; what was measured is kept, beside an earlier run.
    """
    _check_early(config)
    target = run_folder(config.out, "analyze")
    with new_run(target, "analyze", force=config.force) as folder:
        say(f"gradlens: analysing {config.model}; loading PyTorch")
        from gradlens.report import complete

        target, partial = complete(measure_models(config), folder, target)
    if partial:
        raise Interrupted(target)
    return target


def measure_models(config: Config) -> Results:
    """The results of the models of `config`, without a report."""
    import pandas as pd
    import torch

    from gradlens import gradients
    from gradlens.images import photographs

    found = photographs(config.images, limit=config.limit)
    device = device_named(config.device)
    tables, arrays, entries = [], {}, []
    names: tuple[str, ...] = ()
    unreadable: dict[str, str] = {}
    models = _models(config)
    subject = "input-gradient" if config.method == "gradient" else "attribution"
    with stoppable() as stopped:
        for index, model in enumerate(models):
            info = model.info
            stages = _stages(model, device, config.dtype)
            periods = config.periods or gradients.network_periods(stages, info.input_size[1:])
            _check_periods(periods, info.input_size[1:])
            stages = stages if config.method == "gradient" else []
            statistics = _collect(model, found, stages, periods, config, unreadable, stopped)
            if statistics is None or (index and len(statistics.names) < len(names)):
                break  # what is half measured cannot be held against what is whole
            names = statistics.names
            foreseen = _foreseen(model, periods) if config.method == "gradient" else None
            tables.append(_tables(statistics, info.name, subject))
            arrays |= {f"{index}/{k}": v for k, v in _arrays(statistics, periods, config.window).items()}
            if foreseen is not None:
                tables.append(pd.DataFrame(foreseen.rows))
                arrays |= {f"{index}/{k}": v for k, v in foreseen.arrays.items()}
            windows = {str(period): list(statistics.gradient.window[period]) for period in periods}
            dreamt = _dreamt(model, found, periods, config) if _wanted("dream", config) and not stopped() else None
            if dreamt is not None:
                tables.append(dreamt.rows)
                arrays |= {f"{index}/{k}": v for k, v in dreamt.arrays.items()}
            blamed = _blamed(model, found, periods, config) if _wanted("blame", config) and not stopped() else None
            if blamed is not None:
                tables.append(blamed[0])
            entries.append(
                asdict(info)
                | {"stages": [asdict(stage) for stage in stages], "windows": windows}
                | {"examples": statistics.example_names}
                | {"skipped": statistics.skipped, "first_skipped": statistics.first_skipped}
                | ({} if foreseen is None else {"prediction": foreseen.told})
                | ({} if dreamt is None else {"dream": dreamt.told})
                | ({} if blamed is None else {"blame": blamed[1]})
            )
    if not tables:
        raise KeyboardInterrupt
    if unreadable:
        say(_left_out(unreadable, len(found)))
    manifest = circumstances() | {
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
        "method": config.method,
        "models": entries,
        "images": list(names),
        "skipped": [{"name": name, "reason": reason} for name, reason in unreadable.items()],
        "partial": len(entries) < len(models) or len(names) + len(unreadable) < len(found),
        "asked": {"models": len(models), "images": len(found)},
        "device": str(device),
        "dtype": config.dtype,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
    }
    return Results(pd.concat(tables, ignore_index=True), arrays, manifest)


def _models(config: Config) -> "list[Model]":
    """The model and, where asked for, the one it is held against; two of one name are told apart by their weights."""
    from gradlens import models

    options: dict[str, Any] = {
        "seed": config.seed, "input_size": config.input_size, "mean": config.mean, "std": config.std,
        "drop_first": config.drop_first, "model_args": config.model_args,
    }  # fmt: skip
    for name, weights in ((config.model, config.weights), (config.against, "pretrained")):
        if name is not None and (source := models.fetched_from(name, weights)):
            say(f"fetching the weights of {name} from {source}")
    first = models.load(config.model, weights=config.weights, **options)
    if config.against is None:
        return [first]
    second = models.load_against(config.against, config.model, **options)
    if first.info.name == second.info.name:
        for model in (first, second):
            words = model.info.weights.removeprefix("file ").split(",")[0]
            models.renamed(model, f"{model.info.name} ({words})")
        if first.info.name == second.info.name:
            for model, mark in ((first, "a"), (second, "b")):
                models.renamed(model, f"{model.info.name} {mark}")
    return [first, second]


def _foreseen(model: "Model", periods: Sequence[int]) -> "Prediction":
    """What the architecture of `model` says of these periods; why it says nothing, where that is so."""
    from gradlens.predict import Prediction, predicted

    try:
        return predicted(model, "backward", periods)
    except (ValueError, NotImplementedError) as error:
        say(f"no prediction for {model.info.name!r}: {first_line(error)}")
        return Prediction([], {}, {"failed": first_line(error)})


def _wanted(part: Part, config: Config) -> bool:
    """Whether `part` belongs to this run: of gradients only, and unless it is left out."""
    return config.method == "gradient" and part not in config.without


def _blamed(
    model: "Model", found: Sequence, periods: Sequence[int], config: Config
) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """What each strided layer contributes in the first photographs that read, and how many; why nothing, where that is so."""
    import pandas as pd

    from gradlens.causes import blame, remedy
    from gradlens.compare import LEAST_IMAGES
    from gradlens.images import batches, fit

    info = model.info
    stream = batches(
        found,
        lambda image: fit(image, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct),
        BLAMED,
        leave_out=lambda name, reason: None,
    )
    names, images = next(stream)
    place = next(model.parameters())
    try:
        say(f"blaming the strided layers of {info.name}")
        table = in_batches_that_fit(
            lambda count: blame(model, images.to(place), periods=periods, window=config.window, batch_size=count),
            len(images),
            config.device,
        )
        rows = table.loc[table["image"] == ""]
        cure = remedy(rows)
        if cure is None:
            return rows, {"images": names, "others": False}
        others, more = next(stream, (names, images))
        if len(others) < LEAST_IMAGES:
            others, more = names, images
        tried = _tried(model, more.to(place), cure.players, periods, config.window)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        say(f"no blame for {info.name!r}: {first_line(error)}")
        return pd.DataFrame(), {"failed": first_line(error)}
    return pd.concat([rows, tried], ignore_index=True), {"images": names, "others": others != names}


def _tried(model: "Model", images: Any, players: Sequence[str], periods: Sequence[int], window: int) -> "pd.DataFrame":
    """The rows of the input gradient as it is and with `players` held backwards (subject `remedy`)."""
    import pandas as pd

    from gradlens.compare import measure
    from gradlens.gradients import input_gradient
    from gradlens.rules import Rules
    from gradlens.spectra import lattice_statistics

    before = input_gradient(model, images)
    with Rules(model, dict.fromkeys(players, "held")):
        after = input_gradient(model, images)
    parts = {"as it is": before, "remedied": after}
    tables = [
        measure(lattice_statistics(x, periods, window=window), model=model.info.name, subject="remedy", layer=words)
        for words, x in parts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _dreamt(model: "Model", found: Sequence, periods: Sequence[int], config: Config) -> "Dreamt":
    """The pair of dreams of the first photograph that reads; why there is none, where that is so."""
    import pandas as pd

    from gradlens.dreams import Dreamt, pair
    from gradlens.images import UnreadableError

    for photograph in found:
        try:
            image = photograph.open()
        except UnreadableError:
            continue
        try:
            return pair(model, image, name=photograph.name, periods=periods, seed=config.seed)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            say(f"no dream of {model.info.name!r}: {first_line(error)}")
            return Dreamt(pd.DataFrame(), {}, {"failed": first_line(error)})
    raise AssertionError("unreachable: one photograph was measured")


def _stages(model: "Model", device: Any, dtype: str) -> list:
    """The stages of `model`, once it is on `device` and has taken an image of its size.

    Raises:
        ValueError: it does not take that size, or the device has too little memory.
    """
    import torch

    from gradlens import probes

    try:
        model.to(device, getattr(torch, dtype))
        return probes.stages(model, model.info.input_size)
    except Exception as error:  # a network raises what it likes on a size that it was not made for
        if out_of_memory(error):
            raise ValueError(
                f"--device: {str(device)!r} has too little memory for {model.info.name!r} and one image; {SMALLER}"
            ) from error
        size = " x ".join(map(str, model.info.input_size))
        reason = first_line(error)
        raise ValueError(f"--input-size: {model.info.name!r} does not take {size} in {dtype} ({reason})") from error


def _collect(
    model: "Model",
    found: Sequence,
    stages: Sequence,
    periods: Sequence[int],
    config: Config,
    unreadable: dict[str, str],
    stopped: Callable[[], bool],
) -> "GradientStatistics | None":
    """Stream the photographs through the model until it is `stopped`; None if that comes before the first of them.

    Names of pictures that do not read, and why, are added to `unreadable`.
    """
    from gradlens.gradients import collect
    from gradlens.images import batches, fit_levels

    info = model.info
    small = 0

    def prepare(image: Any) -> Any:
        nonlocal small
        small += min(image.size) < min(info.input_size[1:])
        return fit_levels(image, info.input_size, interpolation=info.interpolation, crop_pct=info.crop_pct)

    def measure(batch_size: int) -> "GradientStatistics | None":
        nonlocal small
        small = 0
        stream = batches(found, prepare, batch_size, leave_out=unreadable.__setitem__)
        first = next(stream)
        if stopped():
            return None
        with progress(info.name, len(found)) as advance:
            return collect(
                model,
                chain([first], takewhile(lambda _: not stopped(), stream)),
                method="saliency" if config.method == "gradient" else config.method,
                periods=periods,
                stages=stages,
                window=config.window,
                advance=advance,
            )

    what = "gradient" if config.method == "gradient" else "attribution"
    try:
        statistics = in_batches_that_fit(measure, config.batch_size, config.device)
    except RuntimeError as error:
        where = f"{config.dtype} on {config.device}"
        raise ValueError(f"model: {info.name!r} gives no {what} in {where} ({first_line(error)})") from error
    if statistics is not None and statistics.skipped:
        say(
            f"left out {statistics.skipped} of {len(statistics.names)} images, {statistics.first_skipped!r} first: the "
            f"{what} holds NaN or infinity there"
        )
    if small:
        size = " x ".join(map(str, info.input_size[1:]))
        say(
            f"{small} of {len(found)} images are smaller than {size} px and were enlarged: their spectra are a resizer's"
        )
    return statistics


def _left_out(unreadable: dict[str, str], count: int) -> str:
    """What is said of pictures that do not read: how many of `count`, the first three by name, and why."""
    named = ", ".join(f"{name!r} ({reason})" for name, reason in list(unreadable.items())[:3])
    more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    was = "was" if len(unreadable) == 1 else "were"
    return f"{len(unreadable)} of {count} images could not be read and {was} left out: {named}{more}"


def _tables(statistics: "GradientStatistics", name: str, subject: str) -> "pd.DataFrame":
    """The rows of the gradient or attribution, the photographs and the stages."""
    import pandas as pd

    from gradlens.compare import measure

    control = statistics.control
    assert control is not None
    return pd.concat(
        [
            measure(statistics.gradient, model=name, subject=subject, names=statistics.names),
            measure(control, model=name, subject="image", names=statistics.names),
            *(
                measure(part, model=name, subject="layer-gradient", layer=stage.layer)
                for stage, part in statistics.layers.items()
            ),
        ],
        ignore_index=True,
    )


def _arrays(statistics: "GradientStatistics", periods: Sequence[int], window: int) -> dict[str, Any]:
    """What the figures draw, beside the table."""
    from gradlens.spectra import lattice_map
    from gradlens.spectra.statistics import KINDS

    gradient, control = statistics.gradient, statistics.control
    assert control is not None
    arrays = {
        "images": statistics.example_images.float(),
        "gradients": statistics.example_gradients,
        "power": gradient.power,
        "control_power": control.power,
        "frequency": gradient.frequency,
        "profile": gradient.profile,
        "control_profile": control.profile,
        "relative_energy": gradient.relative_energy,
    }
    for period in periods:
        arrays[f"energy/{period}"] = gradient.mean_energy[period]
        arrays[f"control_energy/{period}"] = control.mean_energy[period]
        for kind in KINDS:
            contrast = lattice_map(statistics.example_gradients, period, kind=kind, window=window)
            arrays[f"lattice_map/{kind}/{period}"] = contrast.float()
    return {name: value.numpy() for name, value in arrays.items()}


def _check_early(config: Config) -> None:
    """Refuse what can be refused before PyTorch is loaded."""
    for name, value in (("limit", config.limit), ("batch_size", config.batch_size), ("window", config.window)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed: must be from 0 to 2**63 - 1, got {config.seed}")
    if config.images is not None and not config.images.exists():
        raise ValueError(f"images: there is no file or folder {str(config.images)!r}")
    if config.weights not in ("pretrained", "random") and not Path(config.weights).is_file():
        raise ValueError(f"weights: there is no file {config.weights!r}")


def _check_periods(periods: Sequence[int], size: Sequence[int]) -> None:
    if not periods:
        raise ValueError(f"--input-size: {' x '.join(map(str, size))} px hold no period; give 4 x 4 px or more")
    twice = [p for p in periods if periods.count(p) > 1]
    if twice:
        raise ValueError(f"--periods: {twice[0]} px stands twice")
    wrong = [p for p in periods if p < 2 or 2 * p > min(size)]
    if wrong:
        raise ValueError(
            f"--periods: {wrong[0]} px cannot be measured in {' x '.join(map(str, size))} px; from 2 to {min(size) // 2}"
        )


def command(config: Config) -> str:
    """The command line that measures the same: flags that are not at their defaults, without where to write."""
    return command_line(["python", "-m", "gradlens.analyze"], config, "model")


def short_table(folder: Path) -> str:
    """The run's answer and one line a period, for the terminal."""
    from gradlens.report.answer import conclusion
    from gradlens.report.run import KINDS, SIGNIFICANCE, Run, counted, number

    told = Run(Results.read(folder))
    lines = [_partial(told.results.manifest)] if told.results.manifest.get("partial") else []
    for model in told.names:
        lines += [conclusion(told, model), ""]
        lines += [f"{'period':>6}  {'signed':>12}  {'envelope':>12}  {'max / min':>9}  {'photographs':>12}"]
        for period in told.periods(model):
            rows = [told.contrast(model, told.subject, period, kind) for kind in KINDS]
            cells = ["too small" if isnan(r.value) else f"{number(r.value)} dB {'*' if r.found else ' '}" for r in rows]
            ratio = told.row(model, told.subject, period, "phase_ratio", "phase").value
            control = told.contrast(model, "image", period, "signed").value
            last = "too small" if isnan(control) else f"{number(control)} dB"
            lines += [f"{period:>6}  {cells[0]:>12}  {cells[1]:>12}  {number(ratio):>9}  {last:>12}"]
        sample = counted(len(told.images), "image")
        lines += [
            f"* p at most {SIGNIFICANCE}, joint over {sample} and adjusted over the periods; {told.above} above 0",
            "",
        ]
    return "\n".join(lines)


def _partial(manifest: Mapping[str, Any]) -> str:
    """The first line about a run that Ctrl-C ended."""
    asked, models = manifest["asked"], len(manifest["models"])
    which = f", {models} of {asked['models']} models" if asked["models"] > 1 else ""
    return f"Partial: interrupted after {len(manifest['images'])} of {asked['images']} images{which}.\n"


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell

    tell(folder, short_table, as_json=as_json)


def build_app(name: str = "gradlens analyze") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: analyze(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.analyze"))
