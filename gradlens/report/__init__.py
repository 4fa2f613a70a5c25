"""Saved results to a PDF: each section is one file that draws its figures and writes its words from the table."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradlens.console import deliver, say
from gradlens.report import (
    answer,
    blame,
    calibration,
    control,
    dreams,
    maps,
    method,
    phases,
    prediction,
    redesign,
    retraining,
    sets_answer,
    sets_compared,
    sets_images,
    sets_maps,
    sets_method,
    sets_spectrum,
    sets_table,
    spectrum,
    stages,
    table,
    training,
)
from gradlens.report.document import Block, compile_pdf, contents, pagebreak
from gradlens.report.run import Run, breakable
from gradlens.report.sets import Sets
from gradlens.results import Results, put_beside, write_whole

SETS_TITLE = "How much of these images is checkerboard?"
PREDICTED_TITLE = "What will be checkerboard?"
DREAMT_TITLE = "What jitter does to a dream"
REDESIGNED_TITLE = "What could stand there instead?"
RETRAINED_TITLE = "Which design, once it is trained?"
TRAINED_TITLE = "Did it learn a checkerboard?"

Drawn = tuple[list[Block], dict[str, bytes]]
Section = Callable[[Run], Drawn]
SetsSection = Callable[[Sets], Drawn]

SECTIONS: dict[str, Section] = {
    "answer": answer.section,
    "maps": maps.section,
    "spectrum": spectrum.section,
    "phases": phases.section,
    "stages": stages.section,
    "prediction": prediction.section,
    "blame": blame.section,
    "dreams": dreams.section,
    "control": control.section,
    "table": table.section,
    "calibration": calibration.section,
    "method": method.section,
}

SETS_SECTIONS: dict[str, SetsSection] = {
    "answer": sets_answer.section,
    "maps": sets_maps.section,
    "compared": sets_compared.section,
    "images": sets_images.section,
    "spectrum": sets_spectrum.section,
    "table": sets_table.section,
    "calibration": calibration.section,
    "method": sets_method.section,
}


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyze`, `dream`, `measure`, `predict`, `redesign` or `train`.
    """
    results = Results.read(folder)
    if "models" in results.manifest:
        run = Run(results)
        parts = {name: section(run) for name, section in SECTIONS.items()}
        title = f"How much of this {run.word} is checkerboard?"
        of, listed = run.names, len(run.names) == 1
    elif "sets" in results.manifest:
        sets = Sets(results)
        parts = {name: section(sets) for name, section in SETS_SECTIONS.items()}
        title, of, listed = SETS_TITLE, sets.names, True
    elif "predicted" in results.manifest:
        parts = {"prediction": prediction.alone(results)}
        title, of, listed = PREDICTED_TITLE, [results.manifest["predicted"]["name"]], False
    elif "dreamt" in results.manifest:
        parts = {"dreams": dreams.alone(results)}
        title, of, listed = DREAMT_TITLE, [results.manifest["dreamt"]["name"]], False
    elif "redesigned" in results.manifest:
        parts = {"redesign": redesign.alone(results)}
        title, of, listed = REDESIGNED_TITLE, [results.manifest["redesigned"]["name"]], False
    elif "retrained" in results.manifest:
        parts = {"retraining": retraining.alone(results)}
        title, of, listed = RETRAINED_TITLE, [results.manifest["retrained"]["name"]], False
    elif "training" in results.manifest:
        parts = {"training": training.alone(results)}
        title, of, listed = TRAINED_TITLE, [str(results.manifest["training"]["label"])], False
    else:
        raise ValueError(f"{str(folder)!r} holds no run of analyze, dream, measure, predict, redesign or train")
    return _write(folder, title, kicker(results.manifest, of), parts, listed=listed)


def complete(results: Results, folder: Path, target: Path) -> tuple[Path, bool]:
    """Write `results` and their report into `folder`, which `results.new_run` puts at `target`.

    Returns:
        Where the run will stand, and whether Ctrl-C left it partial. A partial run does not take the place of an earlier
        one: it is put beside it.
    """
    results.write(folder)
    partial = bool(results.manifest["partial"])
    try:
        say("drawing the report")
        write_report(folder)
    except KeyboardInterrupt:
        if partial:
            raise
        partial = True
        say("measured to the end, but without a report: gradlens report draws it")
    if partial and target.is_dir() and any(target.iterdir()):
        target = put_beside(folder, target, "partial")
    return target, partial


def tell(folder: Path, short_table: Callable[[Path], str], *, as_json: bool) -> None:
    """Print what the run in `folder` found: its short table or, as JSON, all of it; the path of the PDF on stderr."""
    if as_json:
        results = Results.read(folder)
        table = json.loads(results.table.to_json(orient="records", double_precision=10) or "[]")
        told = {"out": str(folder), "table": table, "manifest": results.manifest}
        deliver(json.dumps(told, ensure_ascii=False))
        return
    deliver(short_table(folder))
    if (folder / "report.pdf").exists():
        say(f"report: {folder / 'report.pdf'}")


def _write(folder: Path, title: str, above: str, parts: Mapping[str, Drawn], *, listed: bool) -> Path:
    """Put the sections together; the contents are listed on page one where there is room for them."""
    blocks: list[Block] = []
    figures: dict[str, bytes] = {}
    for name, (more, drawn) in parts.items():
        blocks += more
        figures |= drawn
        if name == "answer":
            blocks += [contents(), pagebreak()] if listed else [pagebreak()]
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in figures.items():
        write_whole(folder / path, content)
    write_whole(folder / "report.pdf", compile_pdf(title, above, blocks, figures))
    return folder / "report.pdf"


def kicker(manifest: Any, names: list[str]) -> str:
    """The line above the title: which program, which models or sets."""
    return f"gradlens {manifest['versions'].get('gradlens', '')} · {' and '.join(map(breakable, names))}"
