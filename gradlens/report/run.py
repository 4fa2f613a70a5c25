"""A saved run as its report sees it: rows and arrays by model, the finding in front, numbers as they are printed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from gradlens.compare import LEAST_IMAGES, SIGNIFICANCE, contrast
from gradlens.results import Results

KINDS = ("signed", "envelope")
NBSP = "\u00a0"
MEASURED = {
    "gradient": "input gradient",
    "input-x-gradient": "input x gradient map",
    "integrated-gradients": "integrated gradients map",
    "smoothgrad": "SmoothGrad map",
    "guided-backprop": "guided backprop map",
    "occlusion": "occlusion map",
}


@dataclass(frozen=True)
class Finding:
    """The strongest lattice of a gradient or attribution: its period and the family that sees it."""

    period: int
    kind: str
    significant: bool


@dataclass(frozen=True)
class Row:
    """One measurement of a whole set: its value, interval, p and number of images."""

    period: int
    kind: str
    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def found(self) -> bool:
        """Whether a contrast is a lattice: p at most 0.01, above 0, and so is its interval if there is one."""
        return self.p <= SIGNIFICANCE and self.value > 0 and not self.low <= 0


@dataclass(frozen=True)
class Run:
    """The results of one `analyze`, with questions that the sections ask of them."""

    results: Results

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """What the manifest says of each model, in the order of the command."""
        return list(self.results.manifest["models"])

    @property
    def names(self) -> list[str]:
        return [model["name"] for model in self.models]

    @property
    def images(self) -> list[str]:
        return list(self.results.manifest["images"])

    @property
    def method(self) -> str:
        """What was measured of a model: `gradient`, or a method of attribution."""
        return self.results.manifest.get("method", "gradient")

    @property
    def measured(self) -> str:
        """The same in words, as in "the input gradient of resnet18"."""
        return MEASURED[self.method]

    @property
    def word(self) -> str:
        """The same in one word."""
        return "gradient" if self.method == "gradient" else "attribution"

    @property
    def subject(self) -> str:
        """Its name in the table."""
        return "input-gradient" if self.method == "gradient" else "attribution"

    @property
    def sample(self) -> str:
        """How many images were measured, in words: n of every mean over images."""
        return counted(len(self.images) - max(model.get("skipped", 0) for model in self.models), "image")

    @property
    def intervals(self) -> str:
        """What a caption says of intervals, if there are enough images for any."""
        return " with 95 % bootstrap intervals" if len(self.images) >= LEAST_IMAGES else ""

    @property
    def above(self) -> str:
        """What must lie above 0 for a lattice to be found: the interval or, of too few images for one, the contrast."""
        return "interval" if len(self.images) >= LEAST_IMAGES else "contrast"

    def periods(self, model: str, subject: str | None = None) -> list[int]:
        """The periods measured in a model's gradient or attribution, or in another subject, rising."""
        table = self.set_rows(model, subject or self.subject)
        return sorted({int(p) for p in table["period"]})

    def set_rows(self, model: str, subject: str, layer: str = "") -> pd.DataFrame:
        """The rows of a whole set of images."""
        t = self.results.table
        return t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["image"] == "")]

    def rows(self, model: str, subject: str, metric: str, kind: str | None = None, layer: str = "") -> list[Row]:
        """One metric at every period, of one family or of both."""
        t = self.set_rows(model, subject, layer)
        t = t.loc[(t["metric"] == metric) & ((t["kind"] == kind) | (kind is None))]
        return [as_row(record) for record in t.to_dict(orient="records")]

    def row(self, model: str, subject: str, period: int, metric: str, kind: str, layer: str = "") -> Row:
        """The one row of a whole set."""
        return next(row for row in self.rows(model, subject, metric, kind, layer) if row.period == period)

    def contrast(self, model: str, subject: str, period: int, kind: str, layer: str = "") -> Row:
        return self.row(model, subject, period, "lattice_contrast", kind, layer)

    def found(self, model: str, subject: str, kind: str | None = None) -> list[int]:
        """The periods with a lattice at the level of significance."""
        return sorted({row.period for row in self.rows(model, subject, "lattice_contrast", kind) if row.found})

    def differences(self) -> list[Row]:
        """How the contrast of the first model differs from the second's, at every period of both."""
        t = self.results.table
        t = t.loc[(t["subject"] == self.subject) & (t["metric"] == "lattice_contrast")]
        first, second = (t.loc[t["model"] == name] for name in self.names[:2])
        return [as_row(record) for record in contrast(first, second).to_dict(orient="records")]

    def headline(self, model: str) -> Finding:
        """The lattice with the highest contrast among the significant ones, else among all."""
        rows = [r for r in self.rows(model, self.subject, "lattice_contrast") if not np.isnan(r.value)]
        if not rows:
            return Finding(self.periods(model)[0], "signed", significant=False)
        significant = [row for row in rows if row.found]
        best = max(significant or rows, key=lambda row: row.value)
        return Finding(best.period, best.kind, significant=bool(significant))

    def stages(self, model: str) -> list[dict[str, Any]]:
        """The stages of a model that were measured, from coarse to fine, then the image itself (layer "")."""
        entry = self.entry(model)
        inner = [s for s in reversed(entry["stages"]) if len(self.set_rows(model, "layer-gradient", s["layer"]))]
        size = entry["input_size"][1:]
        return [*inner, {"layer": "", "size": size, "stride": [1] * len(size)}]

    def at_stage(self, model: str, stage: dict[str, Any], period: int, kind: str) -> Row | None:
        """The contrast at a stage of a period in input pixels; None where the stage cannot hold or measure it."""
        if not _holds(stage, period):
            return None
        subject = "layer-gradient" if stage["layer"] else self.subject
        rows = self.rows(model, subject, "lattice_contrast", kind, stage["layer"])
        own = [row for row in rows if row.period == period // stage["stride"][0] and not np.isnan(row.value)]
        return own[0] if own else None

    def birth(self, model: str, period: int) -> tuple[str, str] | None:
        """Between which layers a period is written: the first stage on the way down that carries it ("" the image), and
        the stage above that one; "" where that could carry it too but is too small to tell. None if no stage carries it.
        """
        every = [*reversed(self.entry(model)["stages"]), self.stages(model)[-1]]
        for above, stage in zip([None, *every], every, strict=False):
            rows = [self.at_stage(model, stage, period, kind) for kind in KINDS]
            if not any(row is not None and row.found for row in rows):
                continue
            told = above is not None and (
                not _holds(above, period) or self.at_stage(model, above, period, "signed") is not None
            )
            return stage["layer"], above["layer"] if above is not None and told else ""
        return None

    def entry(self, model: str) -> dict[str, Any]:
        """What the manifest says of one model."""
        return next(m for m in self.models if m["name"] == model)

    def shown(self, model: str) -> list[str]:
        """The names of the images that are drawn."""
        return self.entry(model).get("examples", self.images)

    def array(self, model: str, name: str) -> np.ndarray:
        return self.results.arrays[f"{self.names.index(model)}/{name}"]


def _holds(stage: Mapping[str, Any], period: int) -> bool:
    """Whether a stage can carry a period of the image: a multiple of its stride, at least twice it."""
    stride = stage["stride"][0]
    return period % stride == 0 and period > stride


def as_row(record: Mapping[Any, Any]) -> Row:
    """A record of the table as a `Row`."""
    values = {name: float(record[name]) for name in ("value", "low", "high", "p")}
    return Row(period=int(record["period"]), kind=str(record["kind"]), n=int(record["n"]), **values)


def number(value: float, digits: int = 1) -> str:
    """A value as it is printed, with a real minus sign; a dash where there is none."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "\u2212")


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{number(100 * value, 2)} %" if not np.isnan(value) else "–"


def probability(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def p_phrase(value: float) -> str:
    text = probability(value)
    return f"p {text}".replace(" ", NBSP) if text.startswith("<") else f"p = {text}".replace(" ", NBSP)


def span(row: Row, digits: int = 1) -> str:
    """The interval of a row."""
    if np.isnan(row.low):
        return "–"
    return f"{number(row.low, digits)} to {number(row.high, digits)}"


def named(layer: str) -> str:
    """A layer as it is written in a sentence; a bare number is called a layer."""
    return (layer and (layer if any(c.isalpha() for c in layer) else f"layer {layer}")) or "the image"


def breakable(name: str, room: int = 40) -> str:
    """A long name with places where a line may end."""
    return name if len(name) <= room else re.sub(r"([_.:/@-])", "\\1\u200b", name)


def counted(n: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def enumeration(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
