"""Page one: how much, which period, since which layer, how sure, in words and one picture."""

from math import isnan

import numpy as np

from gradlens import figures
from gradlens.report.document import Block, Part, answer, bullets, heading, paragraph, picture, plain, strong
from gradlens.report.run import (
    KINDS,
    NBSP,
    Row,
    Run,
    breakable,
    counted,
    enumeration,
    named,
    number,
    p_phrase,
    share,
    span,
)


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = []
    drawn: dict[str, bytes] = {}
    several = len(run.names) > 1
    if run.results.manifest.get("partial"):
        blocks.append(paragraph(*_unfinished(run)))
    if several:
        blocks.append(paragraph(*_comparison(run)))
    for index, model in enumerate(run.names):
        if several:
            blocks.append(heading(breakable(model)))
        path = f"figures/answer-{index}.svg"
        drawn[path] = _picture(run, model)
        blocks += [answer(*_verdict(run, model)), bullets(*_reasons(run, model)), _figure(run, model, path)]
    return blocks, drawn


def _unfinished(run: Run) -> list[Part]:
    """What a run that was stopped lacks."""
    asked = run.results.manifest["asked"]
    lacking = "" if asked["models"] == len(run.names) else f" and {len(run.names)} of {asked['models']} models"
    return [
        strong("Partial. "),
        plain(f"This run was stopped: it holds {len(run.images)} of {counted(asked['images'], 'image')}{lacking}."),
    ]


def _comparison(run: Run) -> list[Part]:
    """Which of two models has more of the lattice that is strongest in the first."""
    first, second = run.names[:2]
    finding = run.headline(first)
    rows = [r for r in run.differences() if (r.period, r.kind) == (finding.period, finding.kind) and not isnan(r.value)]
    if not rows:
        return [plain("The two have no measurable period in common.")]
    (row,) = rows
    told = (
        f"differs by {number(row.value)} dB" if isnan(row.low) else f"differs by {number(row.value)} dB ({span(row)})"
    )
    return [
        strong(f"{first} against {second}. "),
        plain(
            f"Image by image the {row.kind} contrast at {row.period} px {told}: the first minus the second, n = {row.n}."
        ),
    ]


def _verdict(run: Run, model: str) -> list[Part]:
    """The answer in one sentence."""
    finding = run.headline(model)
    rows = run.rows(model, run.subject, "lattice_contrast")
    measured = sorted({row.period for row in rows if not isnan(row.value)})
    if not measured:
        return [
            strong("Not measurable. "),
            plain(f"The input of {model} is too small for these periods: it must hold four of them."),
        ]
    if not finding.significant:
        at = f"the period {measured[0]} px" if len(measured) == 1 else f"{enumeration([str(p) for p in measured])} px"
        return [strong("No checkerboard found. "), plain(f"The {run.measured} of {model} shows no lattice at {at}.")]
    strength = {row.period: 0.0 for row in rows if row.found}
    for row in rows:
        if row.found:
            strength[row.period] = max(strength[row.period], row.value)
    row = run.contrast(model, run.subject, finding.period, finding.kind)
    what = "its lattice" if finding.kind == "signed" else "the lattice of its energy"
    return [
        strong("Yes. "),
        plain(f"The {run.measured} of {model} carries a checkerboard of period "),
        strong(enumeration([f"{period} px ({number(value)} dB)" for period, value in sorted(strength.items())])),
        plain(f". It is strongest at {finding.period} px: there {what} stands "),
        strong(f"{number(row.value)} dB"),
        plain(f" above the spectrum around it ({p_phrase(row.p)})."),
    ]


def _reasons(run: Run, model: str) -> list[list[Part]]:
    """How much, how uneven, since which layer, and what the photographs themselves hold."""
    finding = run.headline(model)
    period, kind = finding.period, finding.kind
    row = run.contrast(model, run.subject, period, kind)
    part = run.row(model, run.subject, period, "lattice_share", kind)
    floor = run.row(model, run.subject, period, "lattice_share_floor", kind)
    reasons = [
        [
            strong("How sure. "),
            plain(
                f"{counted(row.n, 'photograph')}; {_interval(row)}; p is joint over the images and adjusted for "
                f"{counted(len(run.periods(model)), 'period')}. The lattice holds {share(part.value)} of the energy, "
                f"white noise would put {share(floor.value)} there."
            ),
        ],
        [strong("How uneven. "), plain(_unevenness(run, model))],
    ]
    if run.method == "gradient":
        reasons.append([strong("Since which layer. "), plain(_births(run, model))])
    if run.method == "occlusion":
        reasons.append(
            [
                strong("Beware of the method. "),
                plain(
                    "An occlusion moved by 8 px makes a map that is constant in cells of 8 px: a lattice of 8, 4 and 2 px "
                    "that the network did not write."
                ),
            ]
        )
    held = run.found(model, "image")
    if held or model == run.names[0]:  # once is enough for what two models see of the same pictures
        head = "Beware of the photographs. " if held else "Not the photographs. "
        reasons.append([strong(head), plain(_control(run, model))])
    return reasons


def _unevenness(run: Run, model: str) -> str:
    measured = [
        p for p in run.periods(model) if np.isfinite(run.row(model, run.subject, p, "phase_ratio", "phase").value)
    ]
    if not measured:
        return "The images are too small for the energy of the sampling phases to be compared."
    ratio = run.row(model, run.subject, measured[0], "phase_ratio", "phase")
    first = (
        f"At period {measured[0]} px the most favoured of {measured[0] ** 2} pixel positions gets {number(ratio.value)} times "
        "the energy of the least. "
    )
    if ratio.n < 2:
        return f"{first}What several images have in common needs more than one image."
    said = []
    for period in dict.fromkeys((measured[0], measured[-1])):
        value, floor = (
            run.row(model, run.subject, period, metric, "phase") for metric in ("set_imbalance", "set_imbalance_test")
        )
        said.append(f"{number(value.value, 2)} at {period} px (chance: {number(floor.value, 2)})")
    return f"{first}Imbalance over all positions, 0 being even: {enumeration(said)}."


def _births(run: Run, model: str) -> str:
    groups: dict[tuple[str, str], list[int]] = {}
    for period in run.periods(model):
        born = run.birth(model, period)
        if born is not None:
            groups.setdefault(born, []).append(period)
    if not groups:
        return "On the way from the score down to the image no stage carries a lattice at these periods."
    said = [
        f"{enumeration([str(p) for p in periods])} px "
        f"{f'between {named(above)} and' if above else 'before'} {named(stage)}"
        for (stage, above), periods in groups.items()
    ]
    lost = sorted({p for periods in groups.values() for p in periods} - set(run.found(model, run.subject)))
    end = f" What reaches the image of {enumeration([str(p) for p in lost])} px is no longer seen." if lost else ""
    return (
        "On the way down from the score each period is written by the layers between two stages: "
        f"{'; '.join(said)}.{end}"
    )


def _control(run: Run, model: str) -> str:
    parts = []
    for kind in KINDS:
        found = run.found(model, "image", kind)
        rows = [run.contrast(model, "image", p, kind) for p in (found or run.periods(model))]
        rows = [row for row in rows if not np.isnan(row.value)]
        if not rows:
            continue
        top = max(rows, key=lambda row: row.value)
        name = "sign" if kind == "signed" else "energy"
        held = f"a lattice of {name} at {enumeration([str(p) for p in found])} px" if found else f"no lattice of {name}"
        parts.append(f"{held} (at most {number(top.value)} dB, at {top.period} px, {p_phrase(top.p)})")
    if not parts:
        return "They are too small for these periods."
    return f"Measured the same way, at the size the network sees, they show {' and '.join(parts)}."


def _interval(row: Row) -> str:
    return "too few for an interval" if isnan(row.low) else f"95 % interval {span(row)} dB"


@figures.styled
def _picture(run: Run, model: str) -> bytes:
    """One photograph, its gradient or attribution, a corner of it in whole pixels, and the mean spectrum."""
    image, gradient = (run.array(model, name)[0] for name in ("images", "gradients"))
    flat = gradient.sum(0)
    flat = flat / max(float(np.sqrt(np.mean(flat**2))), 1e-30)
    power = run.array(model, "power")
    if len(run.names) == 1:
        figure, axes = figures.new_figure(5.6, 5.5, 2, 2)
    else:
        figure, axes = figures.new_figure(6.7, 2.05, 1, 4, width_ratios=[1, 1, 1, 1.12])
    ax = axes.ravel()
    figures.draw_picture(ax[0], image, title=_short(run.shown(model)[0]))
    figures.draw_gradient(ax[1], flat, scale=4, title=run.measured)
    side = crop_side(flat)
    top, left = ((extent - side) // 2 for extent in flat.shape)
    figures.draw_gradient(ax[2], flat[top : top + side, left : left + side], scale=4, title=f"its central {side} px")
    low, high = decibel_range(power)
    finding = run.headline(model)
    marks = {finding.period: figures.SERIES[0]} if finding.significant else {}
    figures.draw_spectrum(ax[3], power, low=low, high=high, marks=marks, title="mean spectrum")
    ax[3].set_yticks([])
    return figures.svg(figure)


def _figure(run: Run, model: str, path: str) -> Block:
    finding = run.headline(model)
    ringed = f"; the lattice of {finding.period} px is ringed" if finding.significant else ""
    caption = (
        f"The {run.measured}, summed over colours, in units of its own rms from \u22124 (blue) to 4 (red); every "
        f"pixel is drawn as a whole square. Last: mean power spectrum over n = {run.sample}, DC in the middle{ringed}."
    )
    if model != run.names[0]:
        caption = f"The same for {model}{ringed}."
    return picture(
        path,
        alt=f"A photograph, the {run.measured} of {model}, its centre enlarged, and the mean spectrum{ringed}",
        caption=[caption],
        width=0.64 if len(run.names) == 1 else 0.56,
    )


def crop_side(gradient: np.ndarray) -> int:
    """Side of the enlarged centre: 32 px, half of a small image."""
    return min(32, min(gradient.shape) // 2)


def decibel_range(*powers: np.ndarray) -> tuple[float, float]:
    """A range in dB that shows all of `powers` but their outliers."""
    levels = 10 * np.log10(np.concatenate([p.ravel() for p in powers]) + 1e-12)
    return float(np.quantile(levels, 0.01)), float(np.quantile(levels, 0.999))


def _short(name: str, room: int = 22) -> str:
    return name if len(name) <= room else f"{name[: room - 1]}…"


def conclusion(run: Run, model: str) -> str:
    """The answer as one line of plain text, for the terminal."""
    return "".join(part["text"] for part in _verdict(run, model)).replace(NBSP, " ")


def explained() -> Block:
    """What the two families see."""
    return paragraph(
        strong("Two families. "),
        "A signed measure sees a pattern that repeats with its sign; an envelope or phase measure sees energy that is "
        "placed unevenly while its sign is random, which is what a strided layer does to a gradient. Neither sees what "
        "the other does, so both are given.",
    )
