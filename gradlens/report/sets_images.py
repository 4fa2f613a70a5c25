"""Image by image: how the contrast is spread over the images, which carry a lattice by themselves, which most."""

from math import ceil

from gradlens import figures
from gradlens.compare import SIGNIFICANCE
from gradlens.report.answer import _short
from gradlens.report.document import Block, heading, paragraph, picture, table
from gradlens.report.run import KINDS, breakable, number, probability
from gradlens.report.sets import Sets
from gradlens.spectra.significance import DRAWS

LISTED = 10


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    measured = [len(sets.alone(name, period, "signed")) for name in sets.names for period in sets.periods]
    if max(measured) < 2:  # a set's own rows say it all
        return [], {}
    path = "figures/images.svg"
    blocks: list[Block] = [
        heading("Image by image"),
        paragraph(
            "Each image is tested by itself as well, and its p adjusted over the images of its set by Benjamini and Hochberg.",
            _resolution(sets),
            sticky=True,
        ),
        picture(
            path,
            alt="The contrast of each image at each period, signed and envelope",
            caption=[
                f"A dot is an image, filled where its own p, adjusted, is at most {SIGNIFICANCE} and its contrast above 0. Of "
                f"more than {figures.MOST_DOTS} images as many are drawn, evenly by rank."
            ],
        ),
        _counts(sets),
        _strongest(sets),
    ]
    return blocks, {path: _figure(sets)}


def _resolution(sets: Sets) -> str:
    """How many images must carry a lattice to be told from chance one by one: p cannot be below 1 / 4001."""
    said = []
    for name in sets.names:
        n = len(sets.images(name))
        least = ceil(n / (DRAWS + 1) / SIGNIFICANCE)
        if least > 1:
            said.append(f"fewer than {least} of the {n} of {name}")
    return (
        f" With p at least 1 / {DRAWS + 1}, {' and '.join(said)} cannot be told from chance one by one." if said else ""
    )


def _counts(sets: Sets) -> Block:
    rows = [
        [str(period), kind, *(sets.alone_phrase(name, period, kind) for name in sets.names)]
        for period in sets.periods
        for kind in KINDS
    ]
    heads = {f"{breakable(name)}{' ' * index}": "right" for index, name in enumerate(sets.names)}
    return table(
        {"period, px": "right", "family": "left"} | heads,
        rows,
        caption=["How many images carry a lattice by themselves, of those large enough to be measured."],
    )


def _strongest(sets: Sets) -> Block:
    finding = sets.headline()
    name = sets.sample
    parts = {kind: sets.alone(name, finding.period, kind) for kind in KINDS}
    values = {kind: dict(zip(part["image"], part["value"], strict=True)) for kind, part in parts.items()}
    sizes = dict(zip(sets.images(name), sets.entries[name]["sizes"], strict=True))
    rows = [
        [
            _short(str(record["image"]), 56),
            " x ".join(map(str, sizes[record["image"]])),
            *(number(float(values[kind].get(record["image"], float("nan")))) for kind in KINDS),
            probability(float(record["p"])),
        ]
        for record in parts[finding.kind].head(LISTED).to_dict(orient="records")
    ]
    return table(
        {"image": "left", "size, px": "left", "signed, dB": "right", "envelope, dB": "right", "p, adjusted": "right"},
        rows,
        caption=[
            f"{name}: the strongest at {finding.period} px by the {finding.kind} contrast, whose p this is. All are in table.csv."
        ],
        stretch="image",
    )


@figures.styled
def _figure(sets: Sets) -> bytes:
    figure, axes = figures.new_figure(6.7, 2.8, 1, 2)
    for ax, kind in zip(axes[0], KINDS, strict=True):
        series = {}
        for name in sets.names:
            parts = [sets.alone(name, period, kind) for period in sets.periods]
            series[_short(name, 30)] = [(p["value"].to_numpy(float), p["found"].to_numpy(bool)) for p in parts]
        figures.draw_spread(ax, sets.periods, series, f"{kind} contrast of each image")
    axes[0, 1].set_ylabel("")
    if len(sets.names) > 1:
        handles, words = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, words, ncols=2, loc="outside lower center")
    return figures.svg(figure)
