"""Saved results to a PDF: each section is one file that draws its figures and writes its words from the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradlens.report import answer, control, maps, method, phases, spectrum, stages, table
from gradlens.report.document import Block, compile_pdf, contents, pagebreak
from gradlens.report.run import Run, breakable
from gradlens.results import Results, write_whole

Section = Callable[[Run], tuple[list[Block], dict[str, bytes]]]

SECTIONS: dict[str, Section] = {
    "answer": answer.section,
    "maps": maps.section,
    "spectrum": spectrum.section,
    "phases": phases.section,
    "stages": stages.section,
    "control": control.section,
    "table": table.section,
    "method": method.section,
}


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyze`.
    """
    results = Results.read(folder)
    if "models" not in results.manifest:
        raise ValueError(f"{str(folder)!r} holds no run of analyze")
    run = Run(results)
    blocks: list[Block] = []
    figures: dict[str, bytes] = {}
    for name, section in SECTIONS.items():
        more, drawn = section(run)
        blocks += more
        figures |= drawn
        if name == "answer":
            blocks += [contents(), pagebreak()] if len(run.names) == 1 else [pagebreak()]
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in figures.items():
        write_whole(folder / path, content)
    pdf = compile_pdf(f"How much of this {run.word} is checkerboard?", kicker(results.manifest), blocks, figures)
    write_whole(folder / "report.pdf", pdf)
    return folder / "report.pdf"


def kicker(manifest: Any) -> str:
    """The line above the title: which program, which models."""
    names = " and ".join(breakable(model["name"]) for model in manifest["models"])
    return f"gradlens {manifest['versions'].get('gradlens', '')} · {names}"
