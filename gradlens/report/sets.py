"""A saved run of `measure` as its report sees it: the samples, the real images beside them, and what is the samples' own."""

from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import Any, Literal

import numpy as np
import pandas as pd

from gradlens.compare import LEAST_IMAGES, SIGNIFICANCE, adjusted
from gradlens.report.run import KINDS, Finding, Row, Run, as_row, counted
from gradlens.results import Results

Standing = Literal["own", "unsure", "shared", "none"]


@dataclass(frozen=True)
class Sets:
    """The results of one `measure`, with questions that the sections ask of them."""

    results: Results

    @cached_property
    def run(self) -> Run:
        """The rows of whole sets, whether they are of the pictures or of their fine detail."""
        table = self.results.table
        return Run(Results(table.loc[table["image"] == ""].assign(layer=""), {}, self.results.manifest))

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of each set, by name, the samples first."""
        return {entry["name"]: entry for entry in self.results.manifest["sets"]}

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    @property
    def sample(self) -> str:
        return self.names[0]

    @property
    def reference(self) -> str | None:
        return self.names[1] if len(self.names) > 1 else None

    @property
    def paired(self) -> bool:
        return bool(self.results.manifest["paired"])

    @property
    def above(self) -> str:
        """What must lie above 0 for a lattice to be found: the interval or, of too few images for one, the contrast."""
        few = [name for name in self.names if len(self.images(name)) < LEAST_IMAGES]
        return "interval" if not few else "contrast" if len(few) == len(self.names) else "interval, if there is one,"

    @property
    def intervals(self) -> str:
        """What a caption says of intervals, if there are enough images for any."""
        return " with 95 % bootstrap intervals" if self.above != "contrast" else ""

    @cached_property
    def periods(self) -> list[int]:
        return self.run.periods(self.sample, self.subject(self.sample))

    def subject(self, name: str) -> str:
        return str(self.entries[name]["subject"])

    def images(self, name: str) -> list[str]:
        return list(self.entries[name]["images"])

    def told(self, name: str) -> str:
        """A set in a sentence: how many images of which name."""
        n = len(self.images(name))
        return f"The image {name}" if n == 1 and self.images(name) == [name] else f"The {counted(n, 'image')} of {name}"

    def array(self, name: str, key: str) -> np.ndarray:
        return self.results.arrays[f"{self.names.index(name)}/{key}"]

    def contrast(self, name: str, period: int, kind: str) -> Row:
        return self.row(name, period, "lattice_contrast", kind)

    def row(self, name: str, period: int, metric: str, kind: str) -> Row:
        """One measure of a whole set."""
        return self.run.row(name, self.subject(name), period, metric, kind)

    def found(self, name: str, kind: str | None = None) -> list[int]:
        """The periods at which a set carries a lattice."""
        return self.run.found(name, self.subject(name), kind)

    def difference(self, period: int, kind: str) -> Row:
        """How the samples' contrast differs from the real images'."""
        return self.run.row(self._both, self.subject(self.sample), period, "lattice_contrast", kind)

    def distance(self) -> tuple[Row, Row]:
        """How far the mean spectra are apart, and how far chance alone would put them."""
        return self._spectral("spectrum_distance"), self._spectral("spectrum_distance_test")

    def _spectral(self, metric: str) -> Row:
        table = self.run.results.table
        table = table.loc[(table["model"] == self._both) & (table["metric"] == metric)]
        return as_row(table.assign(period=0).to_dict(orient="records")[0])

    @property
    def _both(self) -> str:
        return f"{self.sample} - {self.reference}"

    def standing(self, period: int, kind: str) -> Standing:
        """Whose a lattice of the samples is: their own, perhaps, one the real images have too, or there is none."""
        if not self.contrast(self.sample, period, kind).found:
            return "none"
        if self.reference is None:
            return "own"
        difference, held = self.difference(period, kind), self.contrast(self.reference, period, kind).found
        if difference.low > 0 or (isnan(difference.low) and not held):
            return "own"
        return "shared" if held else "unsure"

    def strength(self, standing: Standing) -> dict[int, float]:
        """The higher contrast of the two families at each period where the samples have a lattice of that standing."""
        strength: dict[int, float] = {}
        for period in self.periods:
            found = [k for k in KINDS if self.standing(period, k) == standing]
            if found:
                strength[period] = max(self.contrast(self.sample, period, kind).value for kind in found)
        return strength

    def headline(self) -> Finding:
        """The strongest lattice of the samples: of their own if there is one, else perhaps theirs, else a shared one."""
        rows = [self.contrast(self.sample, period, kind) for period in self.periods for kind in KINDS]
        rows = [row for row in rows if not isnan(row.value)]
        if not rows:
            return Finding(self.periods[0], "signed", significant=False)
        for standing in ("own", "unsure", "shared", "none"):
            held = [row for row in rows if self.standing(row.period, row.kind) == standing]
            if held:
                best = max(held, key=lambda row: row.value)
                return Finding(best.period, best.kind, significant=standing != "none")
        raise AssertionError("every row has a standing")

    def alone(self, name: str, period: int, kind: str) -> pd.DataFrame:
        """Each image that could be measured, the strongest first: `image`, `value` in dB, `p` adjusted over the images,
        and whether it is `found`: p at most 0.01 and the contrast above 0."""
        return self._alone[name, period, kind]

    @cached_property
    def _alone(self) -> dict[tuple[str, int, str], pd.DataFrame]:
        table = self.results.table
        table = table.loc[(table["image"] != "") & (table["metric"] == "lattice_contrast") & table["value"].notna()]
        empty = pd.DataFrame({"image": [], "value": [], "p": [], "found": np.zeros(0, bool)})
        parts = {(n, p, k): empty for n in self.names for p in self.periods for k in KINDS}
        for (name, period, kind), group in table.groupby(["model", "period", "kind"]):
            part = group[["image", "value"]].assign(p=adjusted(group["p"].to_numpy(float)))
            part = part.assign(found=(part["p"] <= SIGNIFICANCE) & (part["value"] > 0))
            key = (str(name), int(period), str(kind))  # type: ignore[call-overload]
            parts[key] = part.sort_values("value", ascending=False, kind="stable", ignore_index=True)
        return parts

    def alone_phrase(self, name: str, period: int, kind: str) -> str:
        """How many images carry the lattice by themselves, of how many that were measured; a dash for a single image."""
        part = self.alone(name, period, kind)
        return f"{np.count_nonzero(part['found'])} / {len(part)}" if len(part) and len(self.images(name)) > 1 else "–"

    def strongest(self, name: str, finding: Finding) -> list[str]:
        """The images of a set, the one with the highest contrast of `finding` first, those without any last."""
        measured = list(self.alone(name, finding.period, finding.kind)["image"])
        known = set(measured)
        return [*measured, *(image for image in self.images(name) if image not in known)]

    def shown(self, name: str) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """What the figures show of a set: name, image `[C h w]` in [0, 1], lattice map, and box of its strongest window."""
        shown = []
        for number, image in enumerate(self.entries[name]["shown"]):
            pixels, contrast, box = (self.array(name, f"shown/{number}/{key}") for key in ("image", "map", "box"))
            shown.append((image, pixels / 255, contrast, box))
        return shown

    def averaged(self, name: str) -> str:
        """Over how many images a mean spectrum goes: those of the first image's size."""
        sizes = self.entries[name]["sizes"]
        n = sum(size == sizes[0] for size in sizes)
        return f"n = {counted(n, 'image')}" + (f" of {' x '.join(map(str, sizes[0]))} px" if n < len(sizes) else "")
