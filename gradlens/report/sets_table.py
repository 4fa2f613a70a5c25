"""The numbers: every measure of every period, for the samples and for the real images."""

from gradlens.report.document import Block, code, heading, paragraph, strong
from gradlens.report.run import breakable
from gradlens.report.sets import Sets
from gradlens.report.table import contrasts, phases


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [
        heading("The numbers"),
        paragraph(
            strong("Two families. "),
            "A signed measure sees a pattern that is added to a picture, as uneven overlap does; an envelope or phase measure "
            "sees fine detail whose strength is placed unevenly while its sign is random, as the blocks of JPEG are. All the "
            "numbers, and each image's own, are in ",
            code("table.csv"),
            " beside this report.",
        ),
    ]
    for name in sets.names:
        if len(sets.names) > 1:
            blocks.append(heading(breakable(name), 2))
        subject = sets.subject(name)
        blocks += [contrasts(sets.run, name, subject), phases(sets.run, name, subject)]
    return blocks, {}
