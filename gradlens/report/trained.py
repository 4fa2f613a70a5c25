"""A saved run of `train` as its report sees it: what was measured at the end, what was logged on the way, what was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import Any, Literal

import numpy as np
import pandas as pd

from gradlens.report.run import KINDS, Row, Run, as_row
from gradlens.results import Results

SUBJECTS = {"sample": "samples", "input-gradient": "discriminator's input gradient", "image": "real images"}
Standing = Literal["own", "unsure", "shared", "none"]


@dataclass(frozen=True)
class Trained:
    """The results of one `train`, with questions that the pages ask of them."""

    results: Results

    @property
    def told(self) -> Mapping[str, Any]:
        return self.results.manifest["training"]

    @property
    def label(self) -> str:
        return str(self.told["label"])

    @property
    def periods(self) -> list[int]:
        return [int(period) for period in self.told["periods"]]

    @property
    def partial(self) -> bool:
        return bool(self.results.manifest.get("partial") or self.told.get("interrupted"))

    @property
    def size(self) -> str:
        """The size of an image, in words."""
        side = self.told["data"]["resolution"]
        return f"{side} x {side} px"

    @property
    def resumed(self) -> list[int]:
        """The steps at which the run was taken up again."""
        return [int(step) for step in self.told.get("resumed", [])]

    @cached_property
    def run(self) -> Run:
        """The rows that have a period."""
        table = self.results.table
        manifest = {**self.results.manifest, "models": [{"name": self.label}]}
        return Run(Results(table.loc[table["period"].notna() & (table["model"] == self.label)], {}, manifest))

    @property
    def subjects(self) -> list[str]:
        """What was measured, in the order of the pages."""
        return [subject for subject in SUBJECTS if self.run.periods(self.label, subject)]

    def contrast(self, subject: str, period: int, kind: str) -> Row:
        return self.row(subject, period, "lattice_contrast", kind)

    def row(self, subject: str, period: int, metric: str, kind: str) -> Row:
        """One measure of a whole set; all NaN where it was not measured."""
        rows = self.run.rows(self.label, subject, metric, kind)
        missing = Row(period, kind, nan, nan, nan, nan, 0)
        return next((row for row in rows if row.period == period), missing)

    def clearest(self, subject: str, period: int) -> Row:
        """The contrast that tells: the signed one, unless only the envelope's is found."""
        signed, envelope = (self.contrast(subject, period, kind) for kind in KINDS)
        return envelope if envelope.found and not signed.found else signed

    def standing(self, row: Row) -> Standing:
        """Whose a lattice of the samples is: their own, perhaps, one the real images have too, or there is none."""
        if not row.found:
            return "none"
        real = self.contrast("image", row.period, row.kind)
        if isnan(real.value) or row.low > real.high or (isnan(row.low + real.high) and not real.found):
            return "own"
        return "shared" if real.found else "unsure"

    @cached_property
    def quality(self) -> pd.DataFrame:
        """Each measure of quality that the samples have: `metric`, `unit`, and the rows of the samples and of the control."""
        t = self.results.table
        t = t.loc[t["period"].isna() & (t["model"] == self.label) & (t["image"] == "")]
        rows = {name: t.loc[t["subject"] == name].to_dict(orient="records") for name in ("sample", "image")}
        control = {record["metric"]: record for record in rows["image"]}
        return pd.DataFrame(
            [
                {
                    "metric": str(record["metric"]),
                    "unit": str(record["unit"]),
                    "sample": as_row({**record, "period": 0}),
                    "control": as_row({**control[record["metric"]], "period": 0})
                    if record["metric"] in control
                    else None,
                }
                for record in rows["sample"]
            ],
            columns=["metric", "unit", "sample", "control"],
        )

    def layers(self, network: str) -> list[dict[str, Any]]:
        """What the certificates say of the layers of the `generator` or the `discriminator`."""
        return list(self.told[network].get("layers") or [])

    def log(self, name: str) -> np.ndarray:
        """A column of the log `[K]`; NaN where the run has none."""
        return self.results.arrays.get(f"log/{name}", np.full(len(self.steps), nan)).astype(float)

    @cached_property
    def steps(self) -> np.ndarray:
        """The steps of the log `[K]`."""
        return self.results.arrays.get("log/step", np.zeros(0, np.int64))

    def logged(self, subject: str, period: int, kind: str) -> bool:
        """Whether the log holds a contrast of the `sample` or the `gradient`."""
        return bool(np.isfinite(self.log(f"{subject}/{kind}/{period}")).any())

    def real(self, period: int, kind: str) -> float:
        """The real images' mean contrast, as it was logged."""
        return float(self.results.arrays.get(f"real/{kind}/{period}", nan))
