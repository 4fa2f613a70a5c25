"""What the pages of all analyses share: from a saved run to RUN/report.pdf, and the command that draws them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.report import Drawn, kicker
from gradlens.report.document import compile_pdf
from gradlens.results import Results, write_whole


def write_pages(folder: Path, analysis: str, title: str, draw: Callable[[Results], Drawn]) -> Path:
    """Draw the figures and the PDF of a run of `analysis` in `folder` from its saved results alone; the path of the PDF.

    Args:
        folder: of the run.
        analysis: its module, without `analyses.`.
        title: of the document.
        draw: makes of the results its blocks, and its figures by their path in the run.

    Raises:
        ValueError: `folder` holds no run of this analysis.
    """
    results = Results.read(folder)
    command = f"python -m analyses.{analysis}"
    if not str(results.manifest.get("command", "")).startswith(command):
        raise ValueError(f"{str(folder)!r} holds no run of analyses.{analysis}")
    blocks, figures = draw(results)
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in figures.items():
        write_whole(folder / path, content)
    write_whole(folder / "report.pdf", compile_pdf(title, kicker(results.manifest, [command]), blocks, figures))
    return folder / "report.pdf"


def draw_from_command_line(analysis: str, write_report: Callable[[Path], Path]) -> None:
    """The command line `python -m reports.ANALYSIS RUN`."""
    app = application(f"python -m reports.{analysis}", f"Draw the pages of a run of analyses.{analysis}.")

    @app.default
    def launch(folder: Annotated[Path, Parameter(help="The run's directory.")], /) -> int:
        say(f"report: {write_report(folder)}")
        return 0

    run_command(app)
