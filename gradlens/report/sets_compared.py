"""The samples against the real images: the contrasts side by side, their differences, and where the spectra differ."""

import numpy as np

from gradlens import figures
from gradlens.report.answer import _short
from gradlens.report.document import Block, heading, paragraph, picture, table
from gradlens.report.run import KINDS, breakable, number, p_phrase, span
from gradlens.report.sets import Sets

STANDING = {"own": "the samples' own", "unsure": "perhaps their own", "shared": "both have it", "none": "–"}


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    if sets.reference is None:
        return [], {}
    path = "figures/compared.svg"
    blocks: list[Block] = [
        heading("Against the real"),
        picture(
            path,
            alt="Contrast of each period in both sets, and the difference of their mean spectra over the frequency plane",
            caption=[
                f"Mean contrast of both sets{sets.intervals}; filled where p is at most 0.01 and the {sets.above} above 0. "
                "Compare points of one period; contrasts of two periods have no common scale. Right: the mean spectrum of "
                f"{sets.sample} minus that of {sets.reference}, DC in the middle; red is power that the samples have more of."
            ],
        ),
        _differences(sets),
        paragraph(_distance(sets)),
    ]
    return blocks, {path: _figure(sets)}


def _differences(sets: Sets) -> Block:
    rows = []
    for period in sets.periods:
        for kind in KINDS:
            values = [number(sets.contrast(name, period, kind).value) for name in sets.names]
            row = sets.difference(period, kind)
            rows.append(
                [
                    str(period),
                    kind,
                    *values,
                    number(row.value),
                    span(row),
                    str(row.n),
                    STANDING[sets.standing(period, kind)],
                ]
            )
    pairing = (
        "image by image, paired by file name" if sets.paired else "of two independent sets; n counts the images of both"
    )
    ours, theirs = (breakable(name) for name in sets.names)
    heads = {"period, px": "right", "family": "left", ours: "right", f"{theirs} ": "right"}
    return table(
        heads | {"difference, dB": "right", "95 % interval": "left", "n": "right", "whose": "left"},
        rows,
        caption=[
            f"Contrast in dB, and its difference {pairing}. A lattice is the samples' own where the interval is above 0."
        ],
        stretch="whose",
    )


def _distance(sets: Sets) -> str:
    distance, floor = sets.distance()
    side = sets.results.manifest["compared_side"]
    said = (
        f"The distance of the mean spectra on windows of {side} px, each image's power normalised to 1 without DC, is "
        f"{number(distance.value, 2)} dB, the rms over frequencies of the difference in dB. "
    )
    if np.isnan(floor.value):
        return f"{said}Its noise floor cannot be told: there are fewer than twenty ways to deal so few images."
    deal = "each pair changed sides or not" if sets.paired else "all images dealt into two sets of the same numbers"
    return (
        f"{said}Its noise floor, the 95 % quantile of 1,000 random deals ({deal}), is {number(floor.value, 2)} dB; "
        f"{p_phrase(distance.p)}."
    )


@figures.styled
def _figure(sets: Sets) -> bytes:
    figure, axes = figures.new_figure(6.9, 2.7, 1, 3, width_ratios=[1, 1, 1])
    ax = axes[0]
    for place, kind in zip(ax, KINDS, strict=False):
        series = {
            _short(name, 30): [_point(sets, name, period, kind) for period in sets.periods] for name in sets.names
        }
        figures.draw_contrasts(place, sets.periods, series, f"{kind} contrast")
    ax[1].set_ylabel("")
    difference = sets.array(sets.sample, "level") - sets.array(str(sets.reference), "level")
    scale = max(1.0, float(np.quantile(np.abs(difference), 0.995)))
    marks = dict.fromkeys(list(sets.strength("own"))[:4], figures.SERIES[2])
    drawn = figures.draw_spectral_difference(ax[2], difference, scale=scale, marks=marks, title="difference of spectra")
    ax[2].set_yticks([])
    figures.add_scale(figure, drawn, ax[2:], "dB", aspect=20, pad=0.02)
    handles, words = ax[0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=2, loc="outside lower center")
    return figures.svg(figure)


def _point(sets: Sets, name: str, period: int, kind: str) -> tuple[float, float, float, bool]:
    row = sets.contrast(name, period, kind)
    return row.value, row.low, row.high, row.found
