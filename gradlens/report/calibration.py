"""How far to trust p: how often the test rejects where there is no lattice, and finds one where there is.

The numbers are those of `analyses.calibration`, kept beside this file as `calibration.csv`; they are the test's, not the
run's.
"""

import csv
from collections.abc import Sequence
from importlib import resources

from gradlens.report.document import Block, code, heading, paragraph, table
from gradlens.report.run import number

Record = dict[str, str]


def section(run: object) -> tuple[list[Block], dict[str, bytes]]:
    text = resources.files("gradlens").joinpath("report/calibration.csv").read_text(encoding="utf-8")
    records = list(csv.DictReader(text.splitlines()))
    tests = [r for r in records if r["kind"] in ("signed", "envelope")]
    blocks: list[Block] = [
        heading("How far to trust p"),
        paragraph(
            "A test at the level 0.01 should call one image in a hundred a lattice where there is none. This was counted on "
            "noise of 28, 32 and 128 px, grey and in colour, and on photographs resized by 0.47; then with a sign lattice of one "
            "and of two grey levels planted in the photographs, which it should find. Made by ",
            code("python -m analyses.calibration PHOTOGRAPHS"),
            ".",
        ),
        table(
            {"images": "left", "family": "left", "periods, px": "left", "n": "right", "p at most 0.01": "right",
             "p at most 0.1": "right"},
            [_tested(r) for r in tests if "half" not in r["what"]],
            caption=[
                "Share of images with p at most 0.01 and 0.1: least to largest over periods, sizes and colours, each of n "
                "images. On pink noise and on pictures the test is careful at 2 px, where their spectra have their minimum."
            ],
        ),
        *_intervals([r for r in records if r["kind"] == "interval"]),
    ]  # fmt: skip
    return blocks, {}


def _tested(record: Record) -> list[str]:
    shares = [_span(record[f"low_{name}"], record[f"high_{name}"]) for name in ("01", "1")]
    return [record["what"], record["kind"], record["periods"].replace(" ", ", "), record["n"], *shares]


def _span(low: str, high: str) -> str:
    ends = [number(float(v), 3) for v in (low, high)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _intervals(records: Sequence[Record]) -> list[Block]:
    """How often 95 % intervals cover, by number of images."""
    kinds = list(dict.fromkeys(r["what"] for r in records))
    counts = list(dict.fromkeys(r["n"] for r in records))
    shares = {(r["what"], r["n"]): number(float(r["low_01"]), 2) for r in records}
    rows = [[n, *(shares[kind, n] for kind in kinds)] for n in counts]
    return [
        table(
            {"images": "right", **{kind.removeprefix("intervals, "): "right" for kind in kinds}},
            rows,
            caption=[
                "How often a 95 % bootstrap interval over so many images holds the true mean, for values of two "
                "distributions: with few images it covers less than it says. Over periods the false discovery rate is "
                "controlled (Benjamini and Hochberg 1995): of what is called found at 0.01, one in a hundred may be chance, "
                "however many periods are asked for."
            ],
        )
    ]
