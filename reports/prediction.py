"""`python -m reports.prediction RUN`: the pages of a saved run of `analyses.prediction`, as RUN/report.pdf.

The cells of its figures, a line a network, period and region, stand beside it as RUN/cells.csv.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter

from analyses.prediction import IMAGES, INSIDE, SEEDS, differences, summary
from gradlens import figures
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.report import kicker
from gradlens.report.document import Block, answer, compile_pdf, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import enumeration, number
from gradlens.results import Results, write_whole

TITLE = "What architectures say before training"
SCORES = {"random": "a random direction among the logits, another for each image", "top": "the largest logit"}
REGIONS = {"whole": "the whole map", "inside": f"{INSIDE} px inside the border"}
TITLES = {"random": "random directions", "top": "largest logit"}
MOST_OUTSIDE = 40


def write_report(folder: Path) -> Path:
    """Draw the figure and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.prediction`.
    """
    results = Results.read(folder)
    if results.manifest.get("command") != "python -m analyses.prediction":
        raise ValueError(f"{str(folder)!r} holds no run of analyses.prediction")
    found = differences(results.table)
    drawn = {"figures/agreement.svg": _agreement(found)}
    blocks = [
        *_answer(results.table, found),
        picture(
            "figures/agreement.svg",
            alt="Predicted over measured imbalance of every network and period, for two scores",
            caption=[
                f"Every network at every period of its strides up to a seventh of its input: mean over {len(SEEDS)} draws of "
                f"weights, {IMAGES} noise images each, on the whole map. The band is max(0.10, 15 %); what is below 0.01 is "
                "drawn there. Made by python -m analyses.prediction."
            ],
        ),
        _summary(results.table),
        *_outside(found),
        *_failed(results.table),
    ]
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in drawn.items():
        write_whole(folder / path, content)
    above = kicker(results.manifest, ["python -m analyses.prediction"])
    write_whole(folder / "report.pdf", compile_pdf(TITLE, above, blocks, drawn))
    write_whole(folder / "cells.csv", cells(found).encode())
    return folder / "report.pdf"


def cells(found: pd.DataFrame) -> str:
    """A line a network, period and region, as CSV: what is measured and predicted for either score, and the scatter."""
    index = ["model", "period", "region"]
    random, top = (found.loc[found["score"] == score].set_index(index) for score in SCORES)
    wide = random[["measured", "predicted", "scatter"]].join(top[["measured", "predicted"]].add_suffix("_top"))
    return wide.reset_index().astype({"period": int}).to_csv(index=False, float_format="%.3f", lineterminator="\n")


def _answer(t: pd.DataFrame, found: pd.DataFrame) -> list[Block]:
    """The answer, and what it is about."""
    rows = {(row["region"], row["score"]): row for row in summary(t).to_dict("records")}
    row, top = rows["whole", "random"], rows["whole", "top"]
    part = found.loc[(found["region"] == "whole") & (found["score"] == "random")]
    beyond = int((part["difference"].abs() > part["allowed"]).sum())
    return [
        answer(
            strong(f"{row['networks']} networks, none of them trained. "),
            plain(
                "One backward pass on one noise image, every coefficient squared, says how unevenly each will spread its "
                f"gradient: in the median within {number(row['median'], 3)} of what is measured, in 95 of 100 cases within "
                f"{number(row['95 %'], 3)}."
            ),
        ),
        paragraph(
            f"{row['cells']} pairs of network and period; {beyond} lie outside of max(0.10, 15 %) and are listed below, "
            f"{row['undefined']} are undefined. Three draws of the same network differ by {number(row['scatter over seeds'], 3)} "
            "in the median, which no rule can remove. ",
            strong("One direction or many. "),
            "Squares speak of a score in a random direction, another for each image. The largest logit of noise is often the "
            "same for all images: then one pattern of weights is painted into every image at every stride, and where gates are "
            "smooth it stays. The prediction for that score keeps the mean of the gradient with its sign beside its variance "
            f"(median {number(top['median'], 3)}, 95th percentile {number(top['95 %'], 3)}). Whether images share their "
            "largest logit is looked up on six of them.",
        ),
    ]


@figures.styled
def _agreement(found: pd.DataFrame) -> bytes:
    figure, axes = figures.new_figure(6.7, 3.9, 1, 2)
    whole = found.loc[found["region"] == "whole"]
    high = 1.3 * float(whole[["measured", "predicted"]].max().max())
    shown = [p for p in (2, 4, 8, 16, 32) if (whole["period"] == p).any()]
    for ax, score in zip(axes[0], SCORES, strict=True):
        part = whole.loc[whole["score"] == score]
        points = {f"{p} px": _of(part.loc[part["period"] == p]) for p in shown}
        points["others"] = _of(part.loc[~part["period"].isin(shown)])
        figures.draw_agreement(
            ax, points, low=0.01, high=high, title={"random": "random directions", "top": "largest logit"}[score]
        )
    axes[0, 1].set_ylabel("")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, title="period", title_fontsize=7.5, ncols=6, loc="outside lower center")
    return figures.svg(figure)


def _of(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return part["measured"].to_numpy(), part["predicted"].to_numpy()


def _summary(t: pd.DataFrame) -> Block:
    rows = [
        [
            SCORES[row["score"]],
            REGIONS[row["region"]],
            str(row["networks"]),
            str(row["cells"]),
            number(row["median"], 3),
            number(row["95 %"], 3),
            f"{number(100 * row['allowed'], 1)} %",
            number(row["scatter over seeds"], 3),
        ]
        for row in summary(t).to_dict("records")
    ]
    return table(
        {
            "score": "left", "on": "left", "networks": "right", "cells": "right", "median": "right", "95 %": "right",
            "in the band": "right", "seeds": "right",
        },
        rows,
        caption=[
            "Absolute difference of predicted and measured: median and 95th percentile over networks and periods; the share "
            "within max(0.10, 15 %); the median range of what is measured over the seeds."
        ],
        stretch="score",
    )  # fmt: skip


def _outside(found: pd.DataFrame) -> list[Block]:
    """The cells outside of the band, and whether the seeds differ by as much."""
    part = found.loc[(found["region"] == "whole") & (found["score"] == "random")]
    part = part.loc[part["difference"].abs() > part["allowed"]]
    if part.empty:
        return []
    rows = [
        [
            row["model"],
            str(int(row["period"])),
            *(number(row[name], 2) for name in ("measured", "predicted", "scatter")),
            "the seeds differ by more" if row["scatter"] > abs(row["difference"]) else "more than the seeds differ",
        ]
        for row in part.to_dict("records")[:MOST_OUTSIDE]
    ]
    more = f" The first {MOST_OUTSIDE} of {len(part)}." if len(part) > MOST_OUTSIDE else ""
    columns = {
        "network": "left", "period, px": "right", "measured": "right", "predicted": "right", "range over seeds": "right",
        "difference": "left",
    }  # fmt: skip
    return [
        heading("Outside of the band"),
        table(columns, rows, caption=[f"Random directions, the whole map.{more}"], stretch="network"),
    ]


def _failed(t: pd.DataFrame) -> list[Block]:
    """The networks that gave no figure, and why."""
    failed = t.loc[t["metric"] == "failed"].to_dict("records")
    if not failed:
        return []
    return [
        heading("No figure"),
        paragraph(enumeration([f"{row['model']} ({row['kind']})" for row in failed]), "."),
    ]


def main() -> None:
    """The command line."""
    app = application("python -m reports.prediction", "Draw the pages of a run of analyses.prediction.")

    @app.default
    def launch(folder: Annotated[Path, Parameter(help="The run's directory.")], /) -> int:
        say(f"report: {write_report(folder)}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
