"""The job `gradlens predict MODEL`: which periods a network will show, how strongly and by which layer, without data.

model -> geometry -> report. `gradlens analyze` puts the same beside what it measures. Torch is imported after the first
line is out.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gradlens.console import NOT_IN_COMMAND, application, carry_out, command_line, plain, run, say
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder

if TYPE_CHECKING:
    from torch import nn

    from gradlens.models import Model

PURPOSE = "Which periods a network will show, how strongly and by which layer: from its architecture, without data."
Direction = Literal["backward", "forward"]
SUBJECTS: dict[Direction, str] = {"backward": "input-gradient", "forward": "sample"}


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to predict."""

    model: Annotated[
        str, Parameter(help="Bundled name (gradlens ls models), timm name, checkpoint, or package.module:factory.")
    ] = "resnet18_half"
    _: KW_ONLY
    direction: Annotated[
        Direction,
        Parameter(help="Of the input gradient of a classifier, or of the output of a generator."),
    ] = "backward"
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/predict-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    weights: Annotated[str, Parameter(help="'random', 'pretrained', or a safetensors or pickle file.")] = "random"
    seed: Annotated[int, Parameter(help="Of random weights.")] = 0
    model_args: Annotated[
        dict[str, int | float | bool | str], Parameter(help="For timm or the factory: --model-args.pad_type same.")
    ] = field(default_factory=dict)
    input_size: Annotated[
        tuple[int, ...] | None, Parameter(help="C H W of one image, or a generator's latents.", consume_multiple=True)
    ] = None
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


@dataclass(frozen=True)
class Prediction:
    """What the architecture of one network says.

    `rows` are the table's: `predicted_imbalance` and `predicted_ratio` of each period; `arrays` the map `predicted`
    `[*spatial]` and its phases `predicted/T`; `told` what the manifest keeps: the direction, the records of
    `geometry.layers`, and the layers that are silent, as their scale is zero throughout.
    """

    rows: list[dict[str, Any]]
    arrays: dict[str, Any]
    told: dict[str, Any]


def predicted(model: "Model", direction: Direction, periods: Sequence[int] | None = None) -> Prediction:
    """What the architecture of `model` says about its input gradient (backward) or its images (forward).

    Args:
        model: with its weights; they enter squared.
        direction: `"backward"` or `"forward"`.
        periods: in pixels; the divisors of those that its layers write unless given.

    Raises:
        ValueError: it does not run at its size; the message names the layer.
        NotImplementedError: an operation of it has no rule; the message names it and the layer.
    """
    from gradlens import geometry
    from gradlens.models import bare
    from gradlens.spectra import phase_energy, phase_imbalance, phase_ratio

    size = model.info.input_size
    network = bare(model)  # whose images are normal noise
    layers = geometry.layers(network, size, direction=direction)
    energy = geometry.energy_map(network, size, direction=direction)
    if periods is None:
        strides = {period for axis in geometry.periods(network, size, direction=direction) for period in axis}
        divisors = {d for period in strides for d in range(2, period + 1) if period % d == 0}
        periods = [d for d in sorted(divisors) if 2 * d <= min(energy.shape)]
    amplitude = energy.sqrt()[None, None]
    whole = {
        "model": model.info.name, "subject": SUBJECTS[direction], "layer": "", "image": "", "kind": "phase", "n": 1,
        "unit": "1",
    }  # fmt: skip
    rows, arrays = [], {"predicted": energy.float().numpy()}
    for period in periods:
        phases = phase_energy(amplitude, period)
        arrays[f"predicted/{period}"] = phases[0].float().numpy()
        value = phase_imbalance(amplitude, period, debias=False).item()
        rows.append(whole | {"period": period, "metric": "predicted_imbalance", "value": value})
        rows.append(whole | {"period": period, "metric": "predicted_ratio", "value": phase_ratio(phases).item()})
    told = {"direction": direction, "layers": layers.to_dict(orient="records"), "silent": _silent(network)}
    return Prediction(rows, arrays, told)


def _silent(network: "nn.Module") -> list[str]:
    """The layers whose scale is zero throughout, as of the last norm of a residual block before training."""
    scales = [(name, getattr(module, "weight", None)) for name, module in network.named_modules()]
    return [name for name, scale in scales if scale is not None and scale.ndim == 1 and not scale.any()]


def predict(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
    """
    _check_early(config)
    target = run_folder(config.out, "predict")
    with new_run(target, "predict", force=config.force) as folder:
        say(f"gradlens: predicting {config.model}; loading PyTorch")
        from gradlens.report import write_report

        predict_model(config).write(folder)
        write_report(folder)
    return target


def predict_model(config: Config) -> Results:
    """The results for the network of `config`, without a report."""
    import pandas as pd

    from gradlens import models

    load = models.load if config.direction == "backward" else models.generator
    model = load(
        config.model,
        weights=config.weights,
        seed=config.seed,
        model_args=config.model_args,
        input_size=config.input_size,
    )
    found = predicted(model, config.direction)
    manifest = circumstances() | {
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
        "predicted": asdict(model.info) | found.told,
        "seed": config.seed,
        "partial": False,
    }
    return Results(pd.DataFrame(found.rows).reindex(columns=list(COLUMNS)), found.arrays, manifest)


def _check_early(config: Config) -> None:
    """Refuse what can be refused before PyTorch is loaded."""
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed: must be from 0 to 2**63 - 1, got {config.seed}")
    if config.weights not in ("pretrained", "random") and not Path(config.weights).is_file():
        raise ValueError(f"weights: there is no file {config.weights!r}")


def command(config: Config) -> str:
    """The command line that predicts the same: flags that are not at their defaults, without where to write."""
    return command_line(["gradlens", "predict"], config, "model")


def short_table(folder: Path) -> str:
    """The run's answer and one line a period, for the terminal."""
    from gradlens.report.prediction import conclusion, of_run
    from gradlens.report.run import number

    told = of_run(Results.read(folder))
    lines = [conclusion(told), ""]
    if told.values:
        lines.append(f"{'period':>6}  {'imbalance':>9}  {'max / min':>9}  written by")
    for period, value in told.values.items():
        names = [layer["layer"] for layer in told.writers(period)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        ratio = number(told.ratios[period])
        lines.append(f"{period:>6}  {number(value.predicted, 2):>9}  {ratio:>9}  {', '.join(names[:3])}{more}".rstrip())
    return "\n".join(lines)


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell

    tell(folder, short_table, as_json=as_json)


def build_app(name: str = "gradlens predict") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: predict(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.predict"))
