"""The job `gradlens measure PICTURES`: from any pictures to a PDF that says how much of them is checkerboard.

pictures -> spectrum -> comparison with real ones -> report, without any model. A picture is measured at its own size,
as it is: never resized, never cropped. Torch is imported after the first line is out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from gradlens.console import (
    NOT_IN_COMMAND,
    Interrupted,
    application,
    carry_out,
    command_line,
    device_named,
    plain,
    progress,
    run,
    say,
    stoppable,
)
from gradlens.results import Results, circumstances, new_run, run_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from gradlens.images import Photograph
    from gradlens.pictures import Pictures
    from gradlens.report.sets import Sets
    from gradlens.spectra import LatticeStatistics

PURPOSE = "How much of any pictures is checkerboard, beside real ones where given: a table, figures and a PDF."
PERIODS = (2, 4, 8, 16, 32)
WINDOWS = 4  # periods that an image must hold for a contrast
DETAIL = "detail"  # the layer of what is measured on a picture's fine detail
COMPARED_SIDE = 64  # of the windows in which two sets' spectra are compared
SHOWN = 4  # images of a set in the report
SHOWN_SIDE = 512  # of the part of an image that is shown


@Parameter(name="*")
@dataclass(frozen=True)
class Config:
    """What to measure and how."""

    images: Annotated[
        tuple[Path, ...],
        Parameter(help="Pictures, or folders that are searched for them.", consume_multiple=True, show_default=False),
    ] = ()
    _: KW_ONLY
    against: Annotated[
        Path | None, Parameter(help="Real pictures to compare with; paired by file name where all names match.")
    ] = None
    out: Annotated[Path | None, Parameter(help="Folder of this run; runs/measure-N unless given.")] = None
    force: Annotated[bool, Parameter(help="Replace what is in --out, once the new run is complete.")] = False
    periods: Annotated[
        tuple[int, ...] | None,
        Parameter(help="In pixels; 2 4 8 16 32 unless given, as far as a picture holds them.", consume_multiple=True),
    ] = None
    window: Annotated[int, Parameter(help="Side of the Welch windows in pixels; at least four periods are used.")] = 32
    limit: Annotated[int | None, Parameter(help="Use only so many pictures of each set.")] = None
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps.")] = "cpu"
    config: Annotated[Path | None, Parameter(help="TOML file that holds what flags hold; flags win.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON object instead of the table.")] = False


def measure(config: Config) -> Path:
    """Do the whole job; returns the folder of the run.

    Raises:
        ValueError, OSError: something asked for cannot be had; the message names it and the remedy.
        Interrupted: after Ctrl-C; what was measured is kept, beside an earlier run.
    """
    _check_early(config)
    target = run_folder(config.out, "measure")
    with new_run(target, "measure", force=config.force) as folder:
        said = str(config.images[0]) if len(config.images) == 1 else f"{len(config.images)} paths"
        say(f"gradlens: measuring {said}; loading PyTorch")
        from gradlens.report import complete

        target, partial = complete(measure_pictures(config), folder, target)
    if partial:
        raise Interrupted(target)
    return target


def measure_pictures(config: Config) -> Results:
    """The results for the pictures of `config`, without a report."""
    import pandas as pd
    import torch

    from gradlens import compare
    from gradlens.pictures import pairs_of, picture_sets
    from gradlens.spectra.distance import mean_level

    device = device_named(config.device)
    sets = picture_sets(config.images, config.against, limit=config.limit)
    periods = _periods(config.periods, sets[0])
    shapes = [shape for pictures in sets for shape in pictures.shapes]
    channels = max(shape[0] for shape in shapes)
    side = min(COMPARED_SIDE, *(extent for shape in shapes for extent in shape[1:])) if len(sets) == 2 else None
    tables, arrays, entries, powers = [], {}, [], []
    asked = [len(pictures.found) for pictures in sets]
    streams = []
    with stoppable() as stopped:
        for number, pictures in enumerate(sets):
            measured = _stream(pictures, periods, channels, side, config.window, device, stopped)
            if measured is None:
                break
            streams.append(measured)
            sets[number] = pictures.first(measured[0].count)
    if not streams:
        raise KeyboardInterrupt
    sets = sets[: len(streams)]
    for index, pictures in enumerate(sets):
        statistics, power = streams[index]
        table = compare.measure(statistics, model=pictures.name, subject=pictures.subject, names=pictures.names)
        tables.append(table.assign(layer=table["kind"].map(lambda kind: "" if kind == "signed" else DETAIL)))
        arrays |= {f"{index}/{name}": getattr(statistics, name).numpy() for name in ("power", "frequency", "profile")}
        entries.append(_entry(pictures, periods, config.window))
        powers.append(power)
    pairs = pairs_of(*([*pictures.names, *pictures.skipped] for pictures in sets)) if len(sets) == 2 else None
    if len(sets) == 2:
        tables += _differences(sets, tables, powers, pairs)
        arrays |= {f"{index}/level": mean_level(power) for index, power in enumerate(powers)}
    manifest = circumstances() | {
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in NOT_IN_COMMAND},
        "sets": entries,
        "paired": pairs is not None,
        "channels": channels,
        "compared_side": side,
        "partial": [len(pictures.found) for pictures in sets] != asked,
        "asked": asked,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    results = Results(pd.concat(tables, ignore_index=True), arrays, manifest)
    return _with_shown(results, sets, pairs, config.window)


def _periods(wanted: Sequence[int] | None, samples: "Pictures") -> list[int]:
    """The periods to measure.

    Raises:
        ValueError: no sample holds two of a wanted period, or four of the least.
    """
    most = max(min(shape[1:]) for shape in samples.shapes)
    if wanted:
        wrong = [period for period in wanted if 2 * period > most]
        if wrong:
            raise ValueError(f"--periods: no picture holds two of {wrong[0]} px; the largest allows 2 to {most // 2}")
        return list(dict.fromkeys(wanted))
    held = [period for period in PERIODS if WINDOWS * period <= most]
    if not held:
        least = WINDOWS * PERIODS[0]
        raise ValueError(
            f"images: no picture of {samples.name!r} has {least} px a side, the least for a lattice of 2 px"
        )
    return held


def _stream(
    pictures: "Pictures",
    periods: Sequence[int],
    channels: int,
    side: int | None,
    window: int,
    device: Any,
    stopped: Callable[[], bool],
) -> "tuple[LatticeStatistics, Tensor | None] | None":
    """The statistics of a set, signed of the pictures and envelope and phases of their fine detail, and, where it shall be
    compared, each picture's spectrum on windows of `side` px. None if it is `stopped` before the first batch.
    """
    import torch

    from gradlens.pictures import batches_of
    from gradlens.spectra import LatticeStream, fine_detail, normalised_power
    from gradlens.spectra.statistics import of_pictures

    stream, detail, powers = LatticeStream(periods, window=window), LatticeStream(periods, window=window), []
    measured = False
    with progress(pictures.name, len(pictures.found)) as advance:
        for x in () if stopped() else batches_of(pictures, channels):
            x = x.to(device)
            stream.update(x)
            detail.update(fine_detail(x))
            if side is not None:
                powers.append(normalised_power(x, size=side).float().cpu())
            advance(len(x))
            measured = True
            if stopped():
                break
    if not measured:
        return None
    return of_pictures(stream.compute(), detail.compute()), torch.cat(powers) if powers else None


def _differences(
    sets: "Sequence[Pictures]",
    tables: "Sequence[pd.DataFrame]",
    powers: "Sequence[Tensor]",
    pairs: Mapping[str, str] | None,
) -> "list[pd.DataFrame]":
    """The rows that say how the samples differ from the real pictures."""
    from gradlens import compare

    ours, theirs = tables[0], tables[1].assign(subject=sets[0].subject)
    model = f"{sets[0].name} - {sets[1].name}"
    if pairs is None:
        distance = compare.spectrum_distance_rows(*powers, model=model, subject=sets[0].subject)
        return [compare.contrast_of_sets(ours, theirs), distance]
    renamed = theirs.assign(image=[pairs.get(name, "") for name in theirs["image"]])
    place = {pairs[name]: number for number, name in enumerate(sets[1].names)}
    both = [(number, place[name]) for number, name in enumerate(sets[0].names) if name in place]
    first, second = ([pair[side] for pair in both] for side in (0, 1))
    distance = compare.spectrum_distance_rows(
        powers[0][first], powers[1][second], model=model, subject=sets[0].subject, paired=True
    )
    return [compare.contrast(ours, renamed), distance]


def _entry(pictures: "Pictures", periods: Sequence[int], window: int) -> dict[str, Any]:
    """What the manifest says of a set."""
    from gradlens.spectra.grid import window_lengths

    sizes = [list(shape[1:]) for shape in pictures.shapes]
    distinct = {tuple(size) for size in sizes}
    lengths = {period: [window_lengths(size, (period, period), window) for size in distinct] for period in periods}
    return {
        "name": pictures.name,
        "subject": pictures.subject,
        "images": pictures.names,
        "sizes": sizes,
        "channels": sorted({shape[0] for shape in pictures.shapes}),
        "windows": {str(p): sorted({side for pair in found if pair for side in pair}) for p, found in lengths.items()},
        "skipped": pictures.skipped,
    }


def _with_shown(results: Results, sets: "Sequence[Pictures]", pairs: Mapping[str, str] | None, window: int) -> Results:
    """`results` with what the figures show: the strongest pictures of each set, of pairs the same ones."""
    from gradlens.report.sets import Sets

    told = Sets(results)
    finding = told.headline()
    arrays, entries = dict(results.arrays), []
    names: list[str] = []
    for index, pictures in enumerate(sets):
        if pairs is not None and index:
            theirs = {mine: name for name, mine in pairs.items()}
            names = [theirs[name] for name in names if theirs[name] in pictures.names]
        else:
            names = told.strongest(pictures.name, finding)[:SHOWN]
        by_name = {photograph.name: photograph for photograph in pictures.found}
        for number, name in enumerate(names):
            shown = _shown(by_name[name], finding.period, finding.kind, window)
            arrays |= {f"{index}/shown/{number}/{key}": value for key, value in shown.items()}
        entries.append({**results.manifest["sets"][index], "shown": names})
    return Results(results.table, arrays, {**results.manifest, "sets": entries})


def _shown(photograph: "Photograph", period: int, kind: Any, window: int) -> "dict[str, np.ndarray]":
    """At most 512 px a side around the strongest window of a picture: `image` `[C h w]` in 8 bits, the lattice `map` over
    it, and the strongest window's `box` (top, left, height, width) in it."""
    import numpy as np
    import torch

    from gradlens.pictures import levels_of
    from gradlens.spectra import fine_detail, lattice_map
    from gradlens.spectra.grid import window_lengths

    pixels = levels_of(photograph, len(photograph.open().getbands()))
    size = tuple(pixels.shape[1:])
    lengths = window_lengths(size, (period, period), window)
    seen = fine_detail(pixels[None]) if kind == "envelope" else pixels[None]
    contrast = lattice_map(seen, period, kind=kind, window=window)[0]  # [h w], NaN [1 1] where too small
    lengths = lengths or size
    place = np.unravel_index(int(contrast.nan_to_num().argmax()), contrast.shape)
    steps = [max(extent - 1, 1) for extent in contrast.shape]
    corner = [round((size[i] - lengths[i]) * int(place[i]) / steps[i]) for i in (0, 1)]
    sides = [min(size[i], max(SHOWN_SIDE, lengths[i])) for i in (0, 1)]
    first = [min(max(corner[i] + lengths[i] // 2 - sides[i] // 2, 0), size[i] - sides[i]) for i in (0, 1)]
    inside = (..., slice(first[0], first[0] + sides[0]), slice(first[1], first[1] + sides[1]))
    if tuple(sides) != size:
        contrast = lattice_map(seen[inside], period, kind=kind, window=window)[0]
    return {
        "image": (255 * pixels[inside]).round().to(torch.uint8).numpy(),
        "map": contrast.float().numpy(),
        "box": np.array([corner[0] - first[0], corner[1] - first[1], *lengths]),
    }


def _check_early(config: Config) -> None:
    """Refuse what can be refused before PyTorch is loaded."""
    if not config.images:
        raise ValueError("images: name a picture or a folder of them: gradlens measure PICTURES")
    for name, value in (("limit", config.limit), ("window", config.window)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    for period in config.periods or ():
        if period < 2:
            raise ValueError(f"--periods: must be at least 2 px, got {period}")
    for name, path in (*(("images", p) for p in config.images), ("against", config.against)):
        if path is not None and not path.exists():
            raise ValueError(f"{name}: there is no file or folder {str(path)!r}")


def command(config: Config) -> str:
    """The command line that measures the same: flags that are not at their defaults, without where to write."""
    return command_line(["gradlens", "measure"], config, "images")


def short_table(folder: Path) -> str:
    """The run's answer and one line a period for each set, for the terminal."""
    from gradlens.report.run import KINDS, SIGNIFICANCE, counted, number
    from gradlens.report.sets import Sets
    from gradlens.report.sets_answer import conclusion

    told = Sets(Results.read(folder))
    lines = [conclusion(told)]
    manifest = told.results.manifest
    if manifest.get("partial"):
        measured = sum(len(told.images(name)) for name in told.names)
        lines.insert(0, f"Partial: interrupted after {measured} of {sum(manifest['asked'])} images.\n")
    for name in told.names:
        lines += ["", f"{name}: {counted(len(told.images(name)), 'image')}"]
        lines += [f"{'period':>6}  {'signed':>12}  {'alone':>11}  {'envelope':>12}  {'alone':>11}"]
        for period in told.periods:
            cells = []
            for kind in KINDS:
                row = told.contrast(name, period, kind)
                measured = f"{number(row.value)} dB {'*' if row.found else ' '}"
                cells += ["too small" if isnan(row.value) else measured, told.alone_phrase(name, period, kind)]
            lines += [f"{period:>6}  {cells[0]:>12}  {cells[1]:>11}  {cells[2]:>12}  {cells[3]:>11}"]
    lines += [
        "",
        f"* p at most {SIGNIFICANCE}, joint over the images and adjusted over the periods; {told.above} above 0",
        f"alone: images that carry it by themselves, p at most {SIGNIFICANCE} adjusted over the images",
    ]
    return "\n".join([*lines, *_short_differences(told)])


def _short_differences(told: "Sets") -> list[str]:
    """The differences between two sets and their distance, a line each."""
    from gradlens.report.run import KINDS, number, p_phrase, span

    if told.reference is None:
        return []
    lines = ["", f"{told.sample} minus {told.reference}", f"{'period':>6}  {'signed':>24}  {'envelope':>24}"]
    for period in told.periods:
        rows = [told.difference(period, kind) for kind in KINDS]
        cells = ["too small" if isnan(r.value) else f"{number(r.value)} dB ({span(r)})" for r in rows]
        lines += [f"{period:>6}  {cells[0]:>24}  {cells[1]:>24}"]
    distance, floor = told.distance()
    chance = "" if isnan(floor.value) else f", chance {number(floor.value)} dB, {p_phrase(distance.p)}"
    return [*lines, f"their mean spectra are {number(distance.value)} dB apart{chance}"]


def finish(folder: Path, *, as_json: bool) -> None:
    """Print what a run found: data on stdout, the path of the PDF on stderr."""
    from gradlens.report import tell

    tell(folder, short_table, as_json=as_json)


def build_app(name: str = "gradlens measure") -> App:
    """The command line of this job."""
    app = application(name, PURPOSE)

    @app.default
    def launch(config: Config = Config()) -> int:
        return carry_out(lambda: measure(config), lambda folder: finish(folder, as_json=config.json))

    return app


if __name__ == "__main__":
    run(build_app("python -m gradlens.measure"))
