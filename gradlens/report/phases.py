"""How the energy lies on the T x T sampling phases, gradient above, photographs below."""

import numpy as np

from gradlens import figures
from gradlens.report.document import Block, heading, picture
from gradlens.report.run import Run, number

MOST = 6  # columns that fit; the table has all


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [heading(f"Who gets the {run.word}")]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.names):
        periods = [p for p in run.periods(model) if np.isfinite(run.array(model, f"energy/{p}")).all()]
        periods = periods if len(periods) <= MOST else [*periods[: MOST // 2], *periods[-MOST // 2 :]]
        if not periods:
            continue
        path = f"figures/phases-{index}.svg"
        drawn[path] = _figure(run, model, periods)
        said = [
            f"T = {p}: {number(run.row(model, run.subject, p, 'set_imbalance', 'phase').value, 2)} "
            f"({number(run.row(model, 'image', p, 'set_imbalance', 'phase').value, 2)})"
            for p in periods
        ]
        common = (
            f" Imbalance of the {run.word}s (of the photographs): {'; '.join(said)}." if len(run.images) > 1 else ""
        )
        blocks.append(
            picture(
                path,
                alt=f"Phase energies of the {run.word}s of {model} and of the photographs for periods {periods}",
                caption=[
                    f"{model}. Mean energy of each of the T x T pixel positions relative to its neighbourhood (1 is even), "
                    f"n = {run.sample}; a column has one scale.{common}"
                ],
            )
        )
    return blocks, drawn


@figures.styled
def _figure(run: Run, model: str, periods: list[int]) -> bytes:
    count = len(periods)
    figure, axes = figures.new_figure(6.7, 0.65 + 2 * 6.7 / max(count, 4) * 0.86, 2, max(count, 4))
    for column in range(count, max(count, 4)):
        for ax in axes[:, column]:
            ax.set_axis_off()
    for row, of in enumerate((run.word, "photographs")):
        axes[row, 0].set_ylabel(of)
    for column, period in enumerate(periods):
        energies = [run.array(model, f"{prefix}energy/{period}") for prefix in ("", "control_")]
        top = float(max(e.max() for e in energies))
        figures.draw_phases(axes[0, column], energies[0], top=top, title=f"T = {period}")
        drawn = figures.draw_phases(axes[1, column], energies[1], top=top)
        figures.add_scale(figure, drawn, axes[:, column], "relative energy", aspect=18, pad=0.03)
    return figures.svg(figure)
