"""The control: the same measures of the photographs themselves, and the difference between two models."""

from gradlens import figures
from gradlens.report.document import Block, heading, paragraph, picture, table
from gradlens.report.run import KINDS, Run, number, span


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    path = "figures/control.svg"
    blocks: list[Block] = [
        heading("The control"),
        paragraph(
            f"A lattice in the photographs (JPEG blocks, resizing) would reach the {run.word}. They are measured as the network "
            "sees them, after resizing and cropping.",
            sticky=True,
        ),
        picture(
            path,
            alt=f"Contrast of each period in the {run.word}s and in the photographs, signed and envelope",
            caption=[
                f"Mean contrast over n = {run.sample}{run.intervals}; filled where p is at most 0.01 "
                f"and the {run.above} above 0. Compare points of one period; contrasts of two periods have no common scale."
            ],
        ),
    ]
    if len(run.names) > 1:
        blocks.append(_differences(run))
    return blocks, {path: _figure(run)}


@figures.styled
def _figure(run: Run) -> bytes:
    periods = sorted({p for model in run.names for p in run.periods(model)})
    figure, axes = figures.new_figure(6.7, 2.8, 1, 2)
    several = len(run.names) > 1
    for ax, kind in zip(axes[0], KINDS, strict=True):
        series = {}
        for model in run.names:
            for subject, word in ((run.subject, run.word), ("image", "photographs")):
                label = (
                    f"{word}, {model if len(model) < 32 else f'model {run.names.index(model) + 1}'}"
                    if several
                    else word
                )
                series[label] = [_point(run, model, subject, p, kind) for p in periods]
        figures.draw_contrasts(ax, periods, series, f"{kind} contrast")
    axes[0, 1].set_ylabel("")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=2, loc="outside lower center")
    return figures.svg(figure)


def _point(run: Run, model: str, subject: str, period: int, kind: str) -> tuple[float, float, float, bool]:
    if period not in run.periods(model):
        return float("nan"), float("nan"), float("nan"), False
    row = run.contrast(model, subject, period, kind)
    return row.value, row.low, row.high, row.found


def _differences(run: Run) -> Block:
    rows = [[str(r.period), r.kind, number(r.value), span(r), str(r.n)] for r in run.differences()]
    return table(
        {"period, px": "right", "family": "left", "difference, dB": "right", "95 % interval": "left", "n": "right"},
        rows,
        caption=[f"Contrast of the {run.measured}: {run.names[0]} minus {run.names[1]}, image by image."],
    )
