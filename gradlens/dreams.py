"""The job `gradlens dream [MODEL]`: the same dream at several jitters, what lattice each has, and what the law foretells.

model -> dream -> spectrum -> comparison -> report. `gradlens analyze` shows the first pair of it. Torch is imported after
the first line is out.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from math import isfinite, log2, log10, nan, sqrt
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
    out_of_memory,
    plain,
    progress,
    run,
    say,
    stoppable,
)
from gradlens.results import COLUMNS, Results, circumstances, new_run, run_folder, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from gradlens.dream import Dream, Jitter
    from gradlens.models import Model

PURPOSE = "DeepDream at a fixed position and with jitter: pictures, spectra, and how much lattice is left."
STRIDE = 8  # of the stage that a dream climbs unless told: of a ResNet, layer2
SIDE = 256  # of the pair in `analyze`, in pixels along the longer side
PHOTOGRAPH = "photograph"  # the picture that dreams begin with, among them
WHOLE = 16  # its sides are multiples of this, so that a roll is exact at periods up to it
DETAIL = 32  # px of a picture that are enlarged
LARGE = 1 << 20  # pixels from which on a dream takes a while
Jitters = tuple[int | Literal["auto"], ...]


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to dream, and how."""

    model: Annotated[
        str, Parameter(help="Bundled name (gradlens ls models), timm name, checkpoint, or package.module:factory.")
    ] = "resnet18_half"
    _: KW_ONLY
    image: Annotated[Path | None, Parameter(help="The picture to begin with; a sample photograph unless given.")] = None
    objective: Annotated[
        str | None,
        Parameter(
            help="LAYER, LAYER:CHANNEL, LAYER:CHANNEL@ROW,COLUMN, logit:INDEX, or a sum as 'layer2 + 0.5*layer3:4'; the "
            "layer that ends the stage of stride 8 (layer2 of a ResNet) unless given."
        ),
    ] = None
    jitter: Annotated[
        Jitters,
        Parameter(
            help="Offsets to each axis; 0 and 1 are a fixed position, auto as many as remove every period of the network. "
            "One dream each: --jitter 0 --jitter 32.",
            consume_multiple=True,
        ),
    ] = (0, "auto")
    mode: Annotated[
        Literal["roll", "crop", "reflect", "zeros"], Parameter(help="What stands where the picture moved away.")
    ] = "roll"
    order: Annotated[
        Literal["random", "cycle"], Parameter(help="Draw offsets at random, or go through all of them.")
    ] = "random"
    recipe: Annotated[
        Literal["none", "deepdream", "lucid", "lucent"], Parameter(help="Published transforms before the jitter.")
    ] = "none"
    parameterisation: Annotated[
        Literal["pixels", "fourier"], Parameter(help="What is optimised; fourier with --optimiser adam --rate 0.05.")
    ] = "pixels"
    steps: Annotated[int, Parameter(help="In each octave.")] = 20
    rate: Annotated[float, Parameter(help="How far a typical pixel moves at each step; 1 is from black to white.")] = (
        0.005
    )
    normalisation: Annotated[
        Literal["mean-abs", "std", "rms", "max", "none"], Parameter(help="What the gradient is divided by.")
    ] = "mean-abs"
    optimiser: Annotated[Literal["ascent", "adam", "nadam"], Parameter(help="How steps are taken.")] = "ascent"
    octaves: Annotated[int, Parameter(help="Sizes that the picture grows through.")] = 4
    octave_scale: Annotated[float, Parameter(help="Ratio of a size to the one before.")] = 1.4
    size: Annotated[
        tuple[int, ...] | None,
        Parameter(
            help="Longer side in pixels, or height and width, to which the picture is cut; its own size unless given.",
            consume_multiple=True,
        ),
    ] = None
    tile: Annotated[
        int | None, Parameter(help="For pictures larger than memory: side of the tiles that gradients are taken of.")
    ] = None
    periods: Annotated[
        tuple[int, ...] | None,
        Parameter(help="To measure, in pixels; those of the network's strides unless given.", consume_multiple=True),
    ] = None
    window: Annotated[int, Parameter(help="Side of the Welch windows in pixels; at least four periods are used.")] = 32
    seed: Annotated[int, Parameter(help="Of the offsets, and of random weights.")] = 0
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/dream-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    weights: Annotated[str, Parameter(help="'pretrained', 'random', or a safetensors or pickle file.")] = "pretrained"
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
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")] = "cpu"
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


@dataclass(frozen=True)
class Dreamt:
    """The dreams of one picture, measured.

    `rows` are the table's, of subject `dream`: measures of the photograph itself and of each dream and, with one at a fixed
    position, what the law foretells of the others; `arrays` the pictures `[C H W]` and their mean power; `told` what the
    manifest keeps.
    """

    rows: "pd.DataFrame"
    arrays: dict[str, Any]
    told: dict[str, Any]


def dreamt(
    model: "Model",
    photograph: "Tensor",
    config: Config,
    *,
    name: str,
    periods: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> Dreamt:
    """The dreams of `photograph` at every jitter of `config`, measured, and held against the law of jitter.

    Args:
        model: with its weights, on the device of `photograph`.
        photograph: `[1 C H W]` in [0, 1].
        config: how to dream; its model and image are not read.
        name: of the photograph.
        periods: to measure, in pixels.
        stopped: whether to end early; what was made is kept.

    Raises:
        ValueError: a setting does not fit the network; see `gradlens.dream.dream`.
    """
    import pandas as pd

    from gradlens.dream import PARAMETERISATIONS, RECIPES, dream, jitter

    objective = config.objective or default_objective(model)
    network = network_periods(model, photograph.shape[1:])
    jitters: dict[int, Jitter] = {}
    for n in config.jitter:
        move = jitter(n, mode=config.mode, order=config.order).fitted(network)
        jitters.setdefault(max(move.count, 1), move)  # 0 and 1 are the same fixed position
    pictures: dict[str, Tensor] = {}
    ended: dict[str, str] = {}
    scores: dict[str, list[float | None]] = {}
    with progress(f"dreaming of {objective}", config.steps * config.octaves * len(jitters)) as advance:
        for move in jitters.values():
            stem = file_stem(move.count)
            made = _quietly(lambda move=move: dream(
                model, photograph, objective, transforms=[*RECIPES[config.recipe], move],
                parameterisation=PARAMETERISATIONS[config.parameterisation](), steps=config.steps, rate=config.rate,
                normalisation=config.normalisation, optimiser=config.optimiser, octaves=config.octaves,
                octave_scale=config.octave_scale, tile=config.tile, seed=config.seed, advance=advance, stopped=stopped,
            ))  # fmt: skip
            if not len(made.scores):
                break
            pictures[stem] = made.images
            scores[stem] = [score if isfinite(score) else None for score in made.scores[:, 0].tolist()]
            if made.stopped:
                ended[stem] = made.stopped
            if stopped():
                break
    tables, arrays = [], {}
    for stem, x in ({PHOTOGRAPH: photograph} | pictures).items():
        table, power = measured(x, periods, config.window, image=stem)
        tables.append(table.assign(model=model.info.name, layer=objective))
        arrays |= {f"dream/{stem}": x[0].float().cpu().numpy(), f"dream-power/{stem}": power}
    made_of = {stem: move for move in jitters.values() if (stem := file_stem(move.count)) in pictures}
    rows = pd.concat(tables, ignore_index=True)
    if config.recipe == "none":  # else no position is fixed
        rows = pd.concat([rows, foretold(rows, made_of, periods, config.steps)], ignore_index=True)
    first = next(iter(pictures.items()), ("", photograph))
    told = {
        "photograph": name, "objective": objective, "jitters": {s: j.count for s, j in made_of.items()},
        "dreams": list(made_of),
        "recipe": config.recipe, "parameterisation": config.parameterisation, "optimiser": config.optimiser,
        "mode": config.mode, "order": config.order, "steps": config.steps, "octaves": config.octaves,
        "periods": list(periods), "network_periods": list(network), "ended": ended, "scores": scores,
        "size": list(photograph.shape[2:]), "detail": _detail(rows, config.window, *first),
    }  # fmt: skip
    return Dreamt(rows.reindex(columns=list(COLUMNS)), arrays, told)


def _detail(rows: "pd.DataFrame", window: int, stem: str, x: "Tensor") -> list[int]:
    """Top, left, height and width of the part of the dream `x` `[1 C H W]` that is enlarged: where its strongest lattice is
    clearest."""
    from gradlens.spectra import lattice_map

    size = [min(DETAIL, side) for side in x.shape[2:]]
    signed = rows.loc[
        (rows["kind"] == "signed") & (rows["metric"] == "lattice_contrast") & (rows["image"] != PHOTOGRAPH)
    ]
    signed = signed.dropna(subset="value")
    if signed.empty:
        return [*((side - s) // 2 for side, s in zip(x.shape[2:], size, strict=True)), *size]
    period = int(signed.loc[signed["value"].idxmax(), "period"])
    contrast = lattice_map(x, period, window=window)[0]
    place = divmod(int(contrast.nan_to_num(-1e9).argmax()), contrast.shape[1])
    corner = [
        round(at / max(count - 1, 1) * (side - s))
        for at, count, side, s in zip(place, contrast.shape, x.shape[2:], size, strict=True)
    ]
    return [*corner, *size]


def file_stem(n: int) -> str:
    """The name of the dream with `n` offsets."""
    return f"dream-jitter{n}"


def default_objective(model: "Model") -> str:
    """The layer that ends the stage whose stride is nearest to 8.

    Raises:
        ValueError: the network never shrinks its input.
    """
    from gradlens.probes import stages

    found = stages(model, model.info.input_size)
    if not found:
        raise ValueError(f"--objective: {model.info.name!r} has no stages to choose a layer from; name one")
    return min(found, key=lambda stage: abs(log2(max(stage.stride)) - log2(STRIDE))).layer


def network_periods(model: "Model", size: Sequence[int]) -> list[int]:
    """The periods that the strides of `model` can write at this size, or at its own where it takes no other."""
    from gradlens.geometry import periods
    from gradlens.models import bare

    for tried in (size, model.info.input_size):
        try:
            return sorted({p for axis in periods(bare(model), tuple(tried)) for p in axis})
        except (ValueError, NotImplementedError) as error:
            refused = error
    raise refused


def measured(x: "Tensor", periods: Sequence[int], window: int, *, image: str) -> "tuple[pd.DataFrame, Any]":
    """The rows of one picture `[1 C H W]`: signed measures of it, measures of energy of its fine detail; and its power."""
    from gradlens.compare import measure
    from gradlens.spectra import fine_detail, lattice_statistics
    from gradlens.spectra.statistics import of_pictures

    whole, detail = (lattice_statistics(y, periods, window=window) for y in (x, fine_detail(x)))
    statistics = of_pictures(whole, detail)
    table = measure(statistics, model="", subject="dream", names=[image])
    return table.loc[table["image"] != ""], whole.power.float().cpu().numpy()


def foretold(
    rows: "pd.DataFrame", jitters: "Mapping[str, Jitter]", periods: Sequence[int], steps: int
) -> "pd.DataFrame":
    """What the law says of the dreams with jitter, from the one at a fixed position; empty if there is none.

    A contrast of c dB is a lattice of 10^(c / 10) - 1 times the spectrum around it; jitter scales by the square of the
    attenuation what the photograph did not have. Rows: `predicted_attenuation` (amplitude, of `steps` steps),
    `measured_attenuation` (0 where nothing stands above the photograph), `predicted_contrast`.
    """
    import pandas as pd

    from gradlens.dream import lattice_attenuation

    signed = rows.loc[(rows["kind"] == "signed") & (rows["metric"] == "lattice_contrast")]
    contrast = {(r["image"], int(r["period"])): float(r["value"]) for r in signed.to_dict("records")}
    fixed = next((stem for stem, jitter in jitters.items() if jitter.count <= 1), None)
    found = []
    for stem, jitter in jitters.items():
        if fixed is None or jitter.count <= 1:
            continue
        common = {k: signed.iloc[0][k] for k in ("model", "subject", "layer")} | {
            "image": stem,
            "kind": "signed",
            "n": 1,
        }
        for period in periods:
            own, before, after = (10 ** (contrast[s, period] / 10) - 1 for s in (PHOTOGRAPH, fixed, stem))
            law = lattice_attenuation(jitter, period, steps)
            left = sqrt(max(after - own, 0) / (before - own)) if before > own else nan
            expected = 10 * log10(1 + own + max(before - own, 0) * law**2)
            for metric, value, unit in (
                ("predicted_attenuation", law, "1"),
                ("measured_attenuation", left, "1"),
                ("predicted_contrast", expected, "dB"),
            ):
                found.append(common | {"period": period, "metric": metric, "value": value, "unit": unit})
    return pd.DataFrame(found).reindex(columns=list(COLUMNS))


def pair(model: "Model", image: Any, *, name: str, periods: Sequence[int], seed: int) -> Dreamt:
    """The dreams of `image` that `analyze` shows: a fixed position, and as many offsets as remove every period.

    Args:
        model: on its device.
        image: a picture, as `gradlens.images` opens it.
        name: of the picture.
        periods: to measure.
        seed: of the offsets.

    Raises:
        ValueError, NotImplementedError: this network has no dream; the message says why.
    """
    picture = fitted(image, model.info.input_size, (SIDE,), whole=WHOLE)
    place = next(model.parameters(), model.mean)
    own = fitted(image, model.info.input_size, model.info.input_size[1:])
    settings = Config(seed=seed)
    tries = ((picture, settings), (own, Config(seed=seed, octaves=1, steps=2 * settings.steps)))
    for number, (x, config) in enumerate(tries):
        try:
            return dreamt(model, x[None].to(place.device), config, name=name, periods=periods)
        except ValueError:
            if number:
                raise
    raise AssertionError("unreachable")


def fitted(image: Any, input_size: Sequence[int], size: Sequence[int] | None, *, whole: int = 1) -> "Tensor":
    """`image` as `[C H W]` in [0, 1] with the network's channels, reduced to `size` and cut to multiples of `whole`.

    `size` is the longer side, beyond which a picture is reduced, or height and width, to which it is resized and cut.

    Raises:
        ValueError: `size` is neither, or the network takes other than 1 or 3 channels.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    if input_size[0] not in (1, 3):
        raise ValueError(f"image: pictures have 1 or 3 channels, the network wants {input_size[0]}")
    image = image.convert("L" if input_size[0] == 1 else "RGB")
    if size is not None and len(size) == 2:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    elif size is not None and max(image.size) > size[0]:
        factor = size[0] / max(image.size)
        image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)
    width, height = (max(side // whole, 1) * whole for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0).contiguous()


def dream_model(config: Config) -> Results:
    """The results of `config`, without a report and without picture files."""
    import torch

    from gradlens import gradients, models
    from gradlens.images import UnreadableError, photographs, sample

    device = device_named(config.device)
    name, image = ("chelsea", sample("chelsea")) if config.image is None else (config.image.name, None)
    if image is None:
        try:
            image = photographs(config.image)[0].open()
        except UnreadableError as error:
            raise ValueError(f"--image: {name!r} does not read as a picture ({error.reason})") from error
    if source := models.fetched_from(config.model, config.weights):
        say(f"fetching the weights of {config.model} from {source}")
    model = models.load(
        config.model, weights=config.weights, seed=config.seed, input_size=config.input_size, mean=config.mean,
        std=config.std, model_args=config.model_args,
    ).to(device)  # fmt: skip
    photograph = fitted(image, model.info.input_size, config.size)[None].to(device)
    extent = photograph.shape[2:]
    if extent.numel() > LARGE and config.tile is None:
        say(
            f"{extent[1]} x {extent[0]} px take a while, and memory; --size 512 makes it smaller, --tile 512 saves memory"
        )
    strides = config.periods or gradients.network_periods(_stages(model), extent)
    periods = [p for p in strides if 4 * p <= min(extent)]
    if not periods:
        raise ValueError(
            f"--periods: {extent[1]} x {extent[0]} px hold four of none of {', '.join(map(str, strides))} px"
        )
    with stoppable() as stopped:
        try:
            found = dreamt(model, photograph, config, name=name, periods=periods, stopped=stopped)
        except RuntimeError as error:
            remedy = "--tile 256 saves memory" if out_of_memory(error) else "another --size may help"
            raise ValueError(f"model: {config.model!r} does not dream ({first_line(error)}); {remedy}") from error
        except ValueError as error:
            if not str(error).startswith("image: the network does not take"):
                raise
            own = " ".join(map(str, model.info.input_size[1:]))
            raise ValueError(f"{error}; its own size is --size {own} --octaves 1") from error
        partial = stopped()
    if not found.told["jitters"]:
        raise KeyboardInterrupt
    for stem, why in found.told["ended"].items():
        say(f"{stem}: {why}")
    manifest = circumstances() | {
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
        "dreamt": asdict(model.info) | found.told,
        "partial": partial,
        "seed": config.seed,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    return Results(found.rows, found.arrays, manifest)


def dream(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
        Interrupted: after Ctrl-C; what was dreamt is kept, beside an earlier run.
    """
    _check_early(config)
    target = run_folder(config.out, "dream")
    with new_run(target, "dream", force=config.force) as folder:
        say(f"gradlens: dreaming with {config.model}; loading PyTorch")
        from gradlens.report import complete

        results = dream_model(config)
        write_pictures(results, folder)
        target, partial = complete(results, folder, target)
    if partial:
        raise Interrupted(target)
    return target


def write_pictures(results: Results, folder: Path) -> None:
    """Write every dream at native size as `dream-jitterN.png`, and all of them in turn as the animated `comparison.png`."""
    from gradlens.figures import animation, png

    frames = {PHOTOGRAPH: results.arrays[f"dream/{PHOTOGRAPH}"]}
    told = results.manifest["dreamt"]
    for stem in told["dreams"]:
        count = told["jitters"][stem]
        pixels = results.arrays[f"dream/{stem}"]
        write_whole(folder / f"{stem}.png", png(pixels))
        frames["fixed position" if count <= 1 else f"jitter over {count} offsets"] = pixels
    write_whole(folder / "comparison.png", animation(frames))


def _stages(model: "Model") -> list:
    from gradlens.probes import stages

    try:
        return stages(model, model.info.input_size)
    except Exception as error:  # a network raises what it likes on a size that it was not made for
        size = " x ".join(map(str, model.info.input_size))
        raise ValueError(f"--input-size: {model.info.name!r} does not take {size} ({first_line(error)})") from error


def _quietly(make: "Callable[[], Dream]") -> "Dream":
    """The dream, without the warning that it ended early: the run says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dream: ")
        return make()


def _check_early(config: Config) -> None:
    """Refuse what can be refused before PyTorch is loaded."""
    for name in ("steps", "octaves", "window", "tile"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: must be at least 1, got {value}")
    if not config.jitter:
        raise ValueError("--jitter: name at least one number of offsets")
    wrong = [n for n in config.jitter if n != "auto" and n < 0]
    if wrong:
        raise ValueError(f"--jitter: must be at least 0 offsets, or auto, got {wrong[0]}")
    if config.size is not None and (len(config.size) not in (1, 2) or min(config.size) < 1):
        raise ValueError(f"--size: must be the longer side, or height and width, got {list(config.size)}")
    if config.periods is not None and min(config.periods, default=0) < 2:
        raise ValueError(f"--periods: must be at least 2 px, got {list(config.periods)}")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed: must be from 0 to 2**63 - 1, got {config.seed}")
    if config.image is not None and not config.image.is_file():
        raise ValueError(f"--image: there is no file {str(config.image)!r}")
    if config.weights not in ("pretrained", "random") and not Path(config.weights).is_file():
        raise ValueError(f"weights: there is no file {config.weights!r}")


def command(config: Config) -> str:
    """The command line that dreams the same: flags that are not at their defaults, without where to write."""
    return command_line(["gradlens", "dream"], config, "model")


def short_table(folder: Path) -> str:
    """The run's answer and one line a period, for the terminal."""
    from gradlens.report.dreams import conclusion, of_run
    from gradlens.report.run import number

    told = of_run(Results.read(folder))
    lines = ["Partial: interrupted.\n"] if told.partial else []
    lines += [conclusion(told), ""]
    names = {PHOTOGRAPH: PHOTOGRAPH} | {stem: stem.removeprefix("dream-") for stem in told.jitters}
    lines.append(f"{'period':>6}  " + "  ".join(f"{name:>12}" for name in names.values()))
    for period in told.periods:
        cells = [told.contrast(stem, period) for stem in names]
        lines.append(f"{period:>6}  " + "  ".join(f"{number(c.value) + ' dB' if c else '–':>12}" for c in cells))
    lines.append("signed contrast of the lattice")
    return "\n".join(lines)


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell

    tell(folder, short_table, as_json=as_json)


def build_app(name: str = "gradlens dream") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: dream(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.dreams"))
