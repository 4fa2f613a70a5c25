"""Where the lattice is: image, gradient, its centre in whole pixels, and the contrast window by window."""

import numpy as np

from gradlens import figures
from gradlens.report.answer import _short, crop_side
from gradlens.report.document import Block, code, heading, picture
from gradlens.report.run import Run


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [heading("Where it is")]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.names):
        path = f"figures/maps-{index}.svg"
        drawn[path] = _figure(run, model)
        finding = run.headline(model)
        shown = len(run.array(model, "images"))
        blocks.append(
            picture(
                path,
                alt=f"For {shown} images: the photograph, the {run.measured} of {model}, its centre, and the lattice map",
                caption=[
                    f"{model}. The first {shown} of n = {run.sample}. {run.word.capitalize()}s are summed over colours, each in "
                    "units of its own rms, all on one scale. Right: contrast of the "
                    f"{finding.period} px lattice ({finding.kind}) in each window, half-overlapping; one window alone "
                    "strays by several dB. Made by ",
                    code(run.results.manifest["command"]),
                    ".",
                ],
            )
        )
    return blocks, drawn


@figures.styled
def _figure(run: Run, model: str) -> bytes:
    finding = run.headline(model)
    images, gradients = run.array(model, "images"), run.array(model, "gradients").sum(1)
    maps = run.array(model, f"lattice_map/{finding.kind}/{finding.period}")
    scale = 4.0
    top = max(6.0, float(np.nanquantile(maps, 0.98)) if np.isfinite(maps).any() else 6.0)
    rows = len(images)
    figure, axes = figures.new_figure(6.7, 1.62 * rows + 0.55, rows, 4)
    shown = over = None
    for row, (image, gradient, contrast) in enumerate(zip(images, gradients, maps, strict=True)):
        unit = gradient / max(float(np.sqrt(np.mean(gradient**2))), 1e-30)
        side = crop_side(unit)
        y, x = ((extent - side) // 2 for extent in unit.shape)
        first = row == 0
        figures.draw_picture(axes[row, 0], image, title=_short(run.shown(model)[row]))
        shown = figures.draw_gradient(axes[row, 1], unit, scale=scale, title=run.measured if first else "")
        centre = unit[y : y + side, x : x + side]
        figures.draw_gradient(axes[row, 2], centre, scale=scale, title=f"its central {side} px" if first else "")
        title = f"lattice map, {finding.period} px" if first else ""
        over = figures.draw_lattice_map(axes[row, 3], image, np.nan_to_num(contrast), top=top, title=title)
    assert shown is not None  # a run has at least one image
    assert over is not None
    figures.add_scale(figure, shown, axes[:, 1:3], f"{run.word}, in units of its rms", pad=0.01)
    figures.add_scale(figure, over, axes[:, 3], "contrast, dB", aspect=20, pad=0.01)
    return figures.svg(figure)
