"""The mean spectrum of the samples, beside that of the real images where there are any, and the radial profiles."""

from gradlens import figures
from gradlens.report.answer import _short, decibel_range
from gradlens.report.document import Block, heading, paragraph, picture
from gradlens.report.run import enumeration
from gradlens.report.sets import Sets


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    path = "figures/spectrum.svg"
    found = _ringed(sets)
    rings = f"Ringed: the new harmonics of {enumeration([str(p) for p in found])} px. " if found else ""
    means = "; ".join(f"{name}, {sets.averaged(name)}" for name in sets.names)
    blocks: list[Block] = [
        heading("The spectrum"),
        picture(
            path,
            alt=f"Mean power spectrum of {' and of '.join(sets.names)}, and their radial profiles",
            caption=[
                f"Mean power spectrum, each image divided by its mean power, summed over colours, DC in the middle, one scale: "
                f"{means}. {rings}The radial profile averages a lattice away; it is here because the literature shows it."
            ],
            width=1.0 if sets.reference else 0.75,
        ),
        paragraph(
            "A checkerboard of T pixels lives at the frequencies (k / T, l / T) and nowhere else: bright dots on a grid. The "
            "contrast compares each dot with the spectrum around it."
        ),
    ]
    return blocks, {path: _figure(sets, found)}


def _ringed(sets: Sets) -> list[int]:
    """The periods that any set carries, the least four."""
    return sorted({period for name in sets.names for period in sets.found(name)})[:4]


@figures.styled
def _figure(sets: Sets, found: list[int]) -> bytes:
    powers = [sets.array(name, "power") for name in sets.names]
    low, high = decibel_range(*powers)
    count = len(powers)
    figure, axes = figures.new_figure(2.25 * (count + 1), 2.55, 1, count + 1, width_ratios=[1] * count + [1.05])
    ax = axes[0]
    drawn = None
    for number, (name, power) in enumerate(zip(sets.names, powers, strict=True)):
        marks = {period: figures.SERIES[found.index(period)] for period in sets.found(name) if period in found}
        title = _short(name, 24)
        drawn = figures.draw_spectrum(ax[number], power, low=low, high=high, marks=marks, title=title)
        if number:
            ax[number].set_yticks([])
        colour = (figures.GRADIENT, figures.CONTROL)[number]
        profile = {_short(name, 18): (sets.array(name, "profile"), colour)}
        figures.draw_profile(ax[count], sets.array(name, "frequency"), profile)
    ax[0].set_ylabel("cycles / px")
    assert drawn is not None  # a run has at least one set
    figures.add_scale(figure, drawn, ax[:count], "power, dB", shrink=0.6, pad=0.06)
    ax[count].set_title("radial profile")
    return figures.svg(figure)
