"""The mean spectrum of the gradients beside that of the photographs, and the radial profile of the literature."""

from gradlens import figures
from gradlens.report.answer import decibel_range
from gradlens.report.document import Block, heading, paragraph, picture
from gradlens.report.run import Run, enumeration


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [heading("The spectrum")]
    drawn: dict[str, bytes] = {}
    for index, model in enumerate(run.names):
        found = run.found(model, run.subject)[:4]
        path = f"figures/spectrum-{index}.svg"
        drawn[path] = _figure(run, model, found)
        ringed = f"Ringed: the new harmonics of {enumeration([str(p) for p in found])} px. " if found else ""
        blocks.append(
            picture(
                path,
                alt=f"Mean power spectrum of the {run.word}s of {model} and of the photographs, and their radial profiles",
                caption=[
                    f"{model}. Mean over n = {run.sample} of the power spectrum, each image divided by its mean "
                    f"power, summed over colours, DC in the middle, one scale. {ringed}The radial profile averages a lattice "
                    "away; it is here because the literature shows it."
                ],
            )
        )
    blocks.append(
        paragraph(
            "A checkerboard of T pixels lives at the frequencies (k / T, l / T) and nowhere else: bright dots on a grid. The "
            "contrast compares each dot with the spectrum around it."
        )
    )
    return blocks, drawn


@figures.styled
def _figure(run: Run, model: str, found: list[int]) -> bytes:
    gradient, control = run.array(model, "power"), run.array(model, "control_power")
    low, high = decibel_range(gradient, control)
    figure, axes = figures.new_figure(6.7, 2.55, 1, 3, width_ratios=[1, 1, 1.05])
    marks = {period: figures.SERIES[number] for number, period in enumerate(found)}
    ax = axes[0]
    figures.draw_spectrum(ax[0], gradient, low=low, high=high, marks=marks, title=run.measured)
    ax[0].set_ylabel("cycles / px")
    drawn = figures.draw_spectrum(ax[1], control, low=low, high=high, marks={}, title="photographs")
    ax[1].set_yticks([])
    figures.add_scale(figure, drawn, ax[:2], "power, dB", shrink=0.6, pad=0.06)
    frequency = run.array(model, "frequency")
    profiles = {
        run.measured: (run.array(model, "profile"), figures.GRADIENT),
        "photographs": (run.array(model, "control_profile"), figures.CONTROL),
    }
    figures.draw_profile(ax[2], frequency, profiles)
    ax[2].set_title("radial profile")
    return figures.svg(figure)
