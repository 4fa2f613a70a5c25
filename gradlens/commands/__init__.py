"""`gradlens COMMAND`: one file a command, none of them with logic."""

from collections.abc import Callable

from cyclopts import App

from gradlens.commands import analyze, dream, lint, ls, measure, predict, redesign, report, sample, train
from gradlens.console import application, run

COMMANDS: dict[str, Callable[[], App]] = {
    "analyze": analyze.build_app,
    "dream": dream.build_app,
    "lint": lint.build_app,
    "ls": ls.build_app,
    "measure": measure.build_app,
    "predict": predict.build_app,
    "redesign": redesign.build_app,
    "report": report.build_app,
    "sample": sample.build_app,
    "train": train.build_app,
}


def main() -> None:
    """Run the command that the process was called with."""
    app = application("gradlens", "Shows where checkerboards come from in neural networks, and proves it with numbers.")
    for name, build in COMMANDS.items():
        app.command(build(), name=name)
    run(app)
