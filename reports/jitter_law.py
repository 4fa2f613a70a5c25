"""`python -m reports.jitter_law RUN`: the pages of a saved run of `analyses.jitter_law`, as RUN/report.pdf."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, Part, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import enumeration, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "The law of jitter, checked"
FIRST = "resnet18_half"
MEASURED, LAW, CONTENT = "measured_attenuation", "predicted_attenuation", "content_attenuation"


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.jitter_law`.
    """
    return write_pages(folder, "jitter_law", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t = results.table
    drawn = {
        "figures/modes.svg": _grid(t, [(FIRST, "averaged-gradient", mode, "n") for mode in ("roll", "crop", "zeros")]),
        "figures/networks.svg": _grid(t, [(m, "averaged-gradient", "roll", "n") for m in _others(t)]),
        "figures/steps.svg": _grid(t, [(FIRST, "averaged-gradient", order, "N") for order in ("random", "cycle")]),
        "figures/dreams.svg": _grid(t, [(FIRST, "dream", order, "n") for order in ("random", "cycle")]),
    }
    made = f"Made by {results.manifest['command']}."
    blocks = [
        answer(*_verdict(t)),
        paragraph(
            "The picture moves by an offset, the gradient is moved back, and n consecutive offsets are averaged, along one axis "
            "at a time; n = 0 is n = 1. Measured is the amplitude of what stands at the harmonics above their neighbours, with "
            "jitter over without. ",
            strong("Where the law cannot hold. "),
            "At 8 px and its divisors the photographs have a pattern of their own (they were JPEG once), which moves with them; "
            "jitter averages out what stays with the network, and no more. ",
            *_absent(t),
        ),
        _picture("modes", f"{FIRST}, n offsets by rolling, cropping and moving over zeros", made),
        heading("Other networks"),
        _picture("networks", "Rolled, n offsets", made),
        heading("A number of steps"),
        paragraph(
            "Steps of 8 x 8 offsets. Drawn at random they leave 1 / N of the power whatever n; in the order of the cycle the law "
            "is reached after T x T steps.",
            sticky=True,
        ),
        _picture("steps", f"{FIRST}, N steps of 8 x 8 offsets", made),
        heading("Dreams"),
        paragraph(
            "Twenty steps of a dream of layer2 in one octave. A step sees what the steps before it have made, of which the law "
            "knows nothing; what is measured is what the dream added to the photograph.",
            sticky=True,
        ),
        _picture("dreams", f"{FIRST}, dreams of 20 steps", made),
        _table(t),
    ]
    return blocks, drawn


def _others(t: pd.DataFrame) -> list[str]:
    return [model for model in dict.fromkeys(t["model"]) if model != FIRST]


def _picture(name: str, words: str, made: str) -> Block:
    return picture(
        f"figures/{name}.svg",
        alt=f"{words}: foretold and measured amplitude",
        caption=[f"{words}: amplitude that is left, with 95 % bootstrap intervals over the photographs. {made}"],
    )


def series(t: pd.DataFrame, model: str, subject: str, first: str, letter: str, period: int) -> pd.DataFrame:
    """One row a count: law, measured with its interval, content; of layers such as `roll, n = 8`."""
    own = t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["period"] == period)]
    own = own.loc[own["layer"].str.startswith(f"{first}, {letter} = ")]
    count = own["layer"].map(lambda words: int(re.sub(r".*= ", "", words)))
    own = own.assign(count=count)
    law, measured, content = (
        own.loc[own["metric"] == metric].set_index("count") for metric in (LAW, MEASURED, CONTENT)
    )
    return pd.DataFrame(
        {"law": law["value"], "measured": measured["value"], "low": measured["low"], "high": measured["high"]}
        | {"content": content["value"]}
    ).sort_index()


@figures.styled
def _grid(t: pd.DataFrame, rows: list[tuple[str, str, str, str]]) -> bytes:
    """A row for each (network, subject, mode or order, letter), a column for 2, 4 and 8 px."""
    periods = (2, 4, 8)
    figure, axes = figures.new_figure(6.7, 1.55 * len(rows) + 0.45, len(rows), len(periods), sharey=True)
    for number_, (model, subject, first, letter) in enumerate(rows):
        for ax, period in zip(axes[number_], periods, strict=True):
            found = series(t, model, subject, first, letter, period)
            measured = list(zip(found["measured"], found["low"], found["high"], strict=True))
            name = (
                {"averaged-gradient": first, "dream": f"{first} order"}[subject]
                if len({r[0] for r in rows}) == 1
                else model
            )
            figures.draw_attenuation(
                ax, list(found.index), list(found["law"]), measured, list(found["content"]), f"{name}, {period} px"
            )
        axes[number_, 0].set_ylabel("amplitude left")
    for ax in axes[-1]:
        ax.set_xlabel("offsets" if rows[0][3] == "n" else "steps")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=3, loc="outside lower center")
    return figures.svg(figure)


def _verdict(t: pd.DataFrame) -> list[Part]:
    """How near the measured comes to the law at 2 px, for few offsets and for many, and what the order of the cycle gains."""
    tries = [(FIRST, mode) for mode in ("roll", "crop", "zeros")] + [(model, "roll") for model in _others(t)]
    known = {key: series(t, key[0], "averaged-gradient", key[1], "n", 2).iloc[1:] for key in tries}
    misses = [
        (found["measured"] - found["law"]).abs() for found in known.values() if np.isfinite(found["measured"]).any()
    ]
    few, many = ([float(miss.loc[rows].max()) for miss in misses] for rows in (slice(2, 5), slice(8, None)))
    random, cycled = (series(t, FIRST, "dream", order, "n", 2) for order in ("random", "cycle"))
    return [
        strong("At 2 px the lattice goes as the law says, but for a rest. "),
        plain(
            f"In {len(misses)} cases of network and mode the amplitude misses the law by at most {_range(few)} for 2 to 5 "
            f"offsets and {_range(many)} for 8 and more. A dream of 20 steps over 8 offsets "
            f"has {number(random.loc[8, 'measured'], 2)} of its lattice of 2 px left where random steps allow "
            f"{number(random.loc[8, 'law'], 2)}, and {number(cycled.loc[8, 'measured'], 2)} when the same number of steps "
            "goes through the offsets in turn."
        ),
    ]


def _range(values: list[float]) -> str:
    low, high = number(min(values), 2), number(max(values), 2)
    return low if low == high else f"{low} to {high}"


def _absent(t: pd.DataFrame) -> list[Part]:
    """The cases without a lattice to begin with."""
    own = t.loc[(t["metric"] == MEASURED) & (t["layer"] == "roll, n = 1") & t["value"].isna()]
    said = [
        f"{model} at {enumeration([str(int(p)) for p in part['period']])} px"
        for model, part in own.groupby("model", sort=False)
    ]
    if not said:
        return []
    return [
        strong("Nothing to measure "),
        plain(f"where no lattice stands above its neighbours at a fixed position: {enumeration(said)}."),
    ]


def _table(t: pd.DataFrame) -> Block:
    """Law and measured at every n and period, rolled, of every network."""
    rows = []
    for model in dict.fromkeys(t["model"]):
        for period in sorted({int(p) for p in t["period"]}):
            found = series(t, model, "averaged-gradient", "roll", "n", period)
            if not np.isfinite(found["measured"]).any():
                continue
            cells = [
                f"{number(law, 2)} {_cell(value)}" for law, value in zip(found["law"], found["measured"], strict=True)
            ]
            rows.append([model, str(period), *cells])
    counts = list(series(t, FIRST, "averaged-gradient", "roll", "n", 2).index)
    return table(
        {"network": "left", "px": "right"} | {f"n = {n}": "right" for n in counts},
        rows,
        caption=["Averaged gradients, rolled: the law, then what was measured, in amplitude."],
        stretch="network",
    )


def _cell(value: float) -> str:
    return "–" if np.isnan(value) else number(value, 2)


def main() -> None:
    """The command line."""
    draw_from_command_line("jitter_law", write_report)


if __name__ == "__main__":
    main()
