"""Where the lattice is: the strongest images of each set, their strongest window, and the contrast window by window."""

import numpy as np

from gradlens import figures
from gradlens.report.answer import _short
from gradlens.report.document import Block, code, heading, picture
from gradlens.report.sets import Sets
from gradlens.report.sets_answer import draw_image, draw_window, map_top


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [heading("Where it is")]
    drawn: dict[str, bytes] = {}
    finding = sets.headline()
    for index, name in enumerate(sets.names):
        path = f"figures/maps-{index}.svg"
        drawn[path] = _figure(sets, name)
        count = len(sets.entries[name]["shown"])
        which = (
            "The pairs of those above"
            if index and sets.paired
            else f"The {count} strongest"
            if count > 1
            else "The one"
        )
        blocks.append(
            picture(
                path,
                alt=f"For {count} images of {name}: the picture, its strongest window enlarged, and the lattice map over it",
                caption=[
                    f"{name}. {which} of n = {len(sets.images(name))} by the {finding.kind} contrast of {finding.period} px. "
                    "Framed and enlarged: the strongest window, stretched to its own range of levels. Right: the contrast in "
                    "each window, half-overlapping; one window alone strays by several dB, and the strongest of many by more. "
                    "Of a large picture, 512 px around that window. Made by ",
                    code(sets.results.manifest["command"]),
                    ".",
                ],
                width=0.86,
            )
        )
    return blocks, drawn


@figures.styled
def _figure(sets: Sets, name: str) -> bytes:
    finding = sets.headline()
    shown = sets.shown(name)
    top = map_top(*(contrast for other in sets.names for _, _, contrast, _ in sets.shown(other)))
    figure, axes = figures.new_figure(5.8, 1.85 * len(shown) + 0.5, len(shown), 3)
    over = None
    for row, (image_name, image, contrast, box) in enumerate(shown):
        draw_image(axes[row, 0], image, box, title=_short(image_name, 26))
        draw_window(axes[row, 1], image, box, title=f"its strongest {max(box[2:])} px")
        title = f"lattice map, {finding.period} px" if row == 0 else ""
        over = figures.draw_lattice_map(axes[row, 2], image, np.nan_to_num(contrast), top=top, title=title)
    assert over is not None  # a set has at least one image
    figures.add_scale(figure, over, axes[:, 2], "contrast, dB", aspect=20, pad=0.01)
    return figures.svg(figure)
