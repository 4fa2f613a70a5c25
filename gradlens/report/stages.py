"""On the way down: each period's contrast at every resolution between the score and the image."""

import numpy as np

from gradlens import figures
from gradlens.report.document import Block, heading, paragraph, picture
from gradlens.report.run import KINDS, Run, named


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    if run.method != "gradient":
        return [], {}
    blocks: list[Block] = [
        heading("On the way down"),
        paragraph(
            "The gradient starts at the score and passes the stages of the network from coarse to fine. Stages are found "
            "where the resolution changes. A period is given in pixels of the image; at a stage of stride s it is T / s "
            "pixels of that stage. The first filled point of a line is where the period first appears.",
            sticky=True,
        ),
    ]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.names):
        path = f"figures/stages-{index}.svg"
        drawn[path] = _figure(run, model)
        names = ", ".join(s["layer"] or "image" for s in run.stages(model))
        blocks.append(
            picture(
                path,
                alt=f"Signed and envelope contrast of each period at the stages of {model}: {names}",
                caption=[
                    f"{model}. Mean contrast over n = {run.sample}{run.intervals}; filled where p is at most "
                    f"0.01 and the {run.above} above 0. A stage smaller than four periods is not measurable."
                ],
            )
        )
    return blocks, drawn


@figures.styled
def _figure(run: Run, model: str) -> bytes:
    stages = run.stages(model)
    labels = [f"{_tail(named(s['layer']).removeprefix('the '))}\n{max(s['size'])} px" for s in stages]
    figure, axes = figures.new_figure(6.7, 2.9, 1, 2)
    for ax, kind in zip(axes[0], KINDS, strict=True):
        lines = {}
        for period in run.periods(model):
            points = []
            for number, stage in enumerate(stages):
                row = run.at_stage(model, stage, period, kind)
                if row is not None:
                    points.append((number, row.value, row.low, row.high, row.found))
            if points and any(np.isfinite(p[1]) for p in points):
                lines[period] = points
        figures.draw_stages(ax, labels, lines, f"{kind} contrast")
    axes[0, 1].set_ylabel("")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, title="period in the image", title_fontsize=7.5, ncols=8, loc="outside lower center")
    return figures.svg(figure)


def _tail(layer: str, room: int = 14) -> str:
    return layer if len(layer) <= room else f"…{layer[-room + 1 :]}"
