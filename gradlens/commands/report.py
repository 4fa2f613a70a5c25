"""`gradlens report DIR`: draw a run again from its saved results, without the model."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gradlens.console import application, say


def build_app() -> App:
    app = application("report", "Draw the figures and the PDF of a run again from its saved results.")

    @app.default
    def report(folder: Annotated[Path, Parameter(help="The run's directory.")], /) -> int:
        from gradlens.report import write_report

        say(f"report: {write_report(folder)}")
        return 0

    return app
