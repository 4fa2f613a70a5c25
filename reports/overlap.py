"""`python -m reports.overlap RUN`: the pages of a saved run of `analyses.overlap`, as RUN/report.pdf and RUN/figures."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter

from analyses.overlap import DRAWN, IN_USE, KERNELS, LAYERS, MATRICES, STRIDES, TAIL_PERIODS, TAILS, claims
from gradlens import figures
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.report import kicker
from gradlens.report.document import (
    Block,
    answer,
    bullets,
    code,
    compile_pdf,
    heading,
    pagebreak,
    paragraph,
    picture,
    strong,
    table,
)
from gradlens.report.run import number
from gradlens.results import Results, write_whole

TITLE = "What the numbers of a layer say about its checkerboard"
SHADES = {"deconvolution, kernel 2": "-", "deconvolution, kernel 4": "--", "deconvolution, kernel 6": ":"}
Drawn = tuple[list[Block], dict[str, bytes]]


@dataclass(frozen=True)
class Counts:
    """The results of one run, with the questions that the pages ask of them."""

    results: Results

    @cached_property
    def table(self) -> pd.DataFrame:
        return self.results.table

    def value(self, model: str, metric: str, *, layer: str | None = None, period: int | None = None) -> float:
        """The one value of a model and metric."""
        t = self.table
        t = t.loc[(t["model"] == model) & (t["metric"] == metric)]
        t = t if layer is None else t.loc[t["layer"] == layer]
        t = t if period is None else t.loc[t["period"] == period]
        return float(t["value"].iloc[0])

    def kind(self, model: str, layer: str) -> str:
        t = self.table
        return str(t.loc[(t["model"] == model) & (t["layer"] == layer), "kind"].iloc[0])

    def paths(self, name: str) -> list[np.ndarray]:
        """The rows of a drawing, from input to output."""
        return [self.results.arrays[f"paths/{name}/{n}"] for n in range(len(DRAWN[name][1]) + 1)]
