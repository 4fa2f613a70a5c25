"""The pages of `gradlens train`: what its samples carry, as it trained, how good they are, what was trained.

This file holds the answer; the pages behind it are `training_course`, `training_quality` and `training_made`.
"""

from math import isnan

import numpy as np

from gradlens import figures
from gradlens.compare import SIGNIFICANCE
from gradlens.report import training_course, training_made, training_quality
from gradlens.report.document import Block, Part, answer, bullets, code, pagebreak, picture, plain, strong
from gradlens.report.run import KINDS, NBSP, Row, counted, number, p_phrase, span
from gradlens.report.trained import SUBJECTS, Trained
from gradlens.results import Results

GAP = 0.1  # of the share that white noise has
FAINT = 0.5  # dB; photographs without a lattice read up to 0.3 from 4 px on
INCH = 96  # px of native size
HALF = 3.2  # inches for the samples, and for the real images beside them
DETAIL = 64  # px of a picture that are enlarged
SHORT = {"sample": "samples", "input-gradient": "gradient", "image": "real"}


def alone(results: Results) -> tuple[list[Block], dict[str, bytes]]:
    """All pages, and their figures."""
    t = Trained(results)
    blocks: list[Block] = [answer(*_verdict(t)), bullets(*_reasons(t))]
    drawn: dict[str, bytes] = {}
    if {"samples", "real"} & set(results.arrays):
        drawn["figures/samples.svg"] = _samples(t)
        blocks += [_shown(t), pagebreak()]
    for more, others in (training_course.pages(t), training_quality.pages(t), training_made.pages(t)):
        blocks += more
        drawn |= others
    return blocks, drawn


def conclusion(results: Results) -> str:
    """The answer as one line of plain text."""
    return "".join(part["text"] for part in _verdict(Trained(results))).replace(NBSP, " ")


def short_table(results: Results) -> str:
    """What a run of `train` found, for the terminal: the answer, contrasts by period, measures of quality."""
    t = Trained(results)
    lines = [conclusion(results)]
    if t.subjects:
        lines += ["", f"{'period':>6}" + "".join(f"{SHORT[s]:>10}{'env.':>8}" for s in t.subjects)]
    for period in t.periods if t.subjects else []:
        rows = [t.contrast(subject, period, kind) for subject in t.subjects for kind in KINDS]
        cells = [number(row.value) + ("*" if row.found else " ") for row in rows]
        lines.append(f"{period:>6}" + "".join(f"{cell:>{8 if at % 2 else 10}}" for at, cell in enumerate(cells)))
    for record in t.quality.loc[~t.quality["metric"].str.endswith("_test")].head(5).to_dict(orient="records"):
        control = (
            "" if record["control"] is None else f", real data {training_quality.measured(record['control'].value)}"
        )
        lines.append(f"{record['metric']}: {training_quality.measured(record['sample'].value)}{control}")
    if t.subjects:
        lines.append("contrasts in dB, signed and of the envelope; * found: p at most 0.01 and the interval above 0")
    return "\n".join(lines)


def _verdict(t: Trained) -> list[Part]:
    """The answer: what the samples carry, what the discriminator's input gradient carries."""
    steps, images = t.told["steps"], t.told["images"]
    asked = t.told["config"].get("steps")
    of = f" of {asked:,}" if t.partial and isinstance(asked, int) and asked > steps else ""
    start = f"{'Interrupted after' if t.partial else 'After'} {steps:,}{of} step{'' if steps == 1 else 's'} ({images:,} images)"
    if "sample" not in t.subjects:
        return [strong(f"{start}, before the samples of {t.label} were measured.")]
    parts = [plain(f"{start} the samples of {t.label} "), *_carried(t, "sample", "carry"), plain(".")]
    parts += [plain(f" {said}") for said in _whose(t)]
    if "input-gradient" in t.subjects:
        parts += [
            plain(" The discriminator's input gradient "), *_carried(t, "input-gradient", "carries"), plain("."),
        ]  # fmt: skip
        parts += [plain(f" {said}") for said in _in_a_gap(t)]
    return parts


def _carried(t: Trained, subject: str, verb: str) -> list[Part]:
    """The lattices of a subject that are found, those that are not, and those that its size does not tell."""
    rows = [t.clearest(subject, period) for period in t.periods]
    found = [_period(t, subject, row) for row in rows if row.found]
    absent = [_period(t, subject, row) for row in rows if not row.found and not isnan(row.value)]
    unknown = [f"{row.period} px" for row in rows if isnan(row.value)]
    parts = [strong(f"{verb} a lattice of {_joined(found, 'and')}")] if found else []
    if absent:
        parts.append(
            plain(f", and none of {_joined(absent, 'or')}")
            if found
            else strong(f"{verb} no lattice of {_joined(absent, 'or')}")
        )
    if unknown:
        parts.append(plain(f"{', and ' if parts else ''}could not be measured at {_joined(unknown, 'and')}"))
    return parts


def _period(t: Trained, subject: str, row: Row) -> str:
    """`2 px (7.6 dB; real images −3.9 dB)`."""
    family = "" if row.kind == "signed" else ", envelope"
    real = t.contrast("image", row.period, row.kind).value
    beside = f"; real images {number(real)}{NBSP}dB" if subject == "sample" and not isnan(real) else ""
    return f"{row.period}{NBSP}px ({number(row.value)}{NBSP}dB{family}{beside})"


def _in_a_gap(t: Trained) -> list[str]:
    """Lattices of the gradient that stand out only because the spectrum around them is nearly empty, as behind a hold."""
    said = []
    for period in t.periods:
        share, floor = (
            t.row("input-gradient", period, f"lattice_share{end}", "signed").value for end in ("", "_floor")
        )
        if t.clearest("input-gradient", period).found and share < GAP * floor:
            said.append(
                f"At {period}{NBSP}px that is {100 * share:.2g}{NBSP}% of its energy, where white noise has "
                f"{100 * floor:.2g}{NBSP}%: it stands out of a gap in the spectrum."
            )
    return said


def _joined(words: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _whose(t: Trained) -> list[str]:
    """Of what the samples carry: what the real images have too, what may be chance, what is faint."""
    rows = [t.clearest("sample", period) for period in t.periods]
    of = {
        standing: [f"{row.period}{NBSP}px" for row in rows if t.standing(row) == standing]
        for standing in ("shared", "unsure")
    }
    faint = [f"{row.period}{NBSP}px" for row in rows if t.standing(row) == "own" and row.value < FAINT]
    said = []
    if of["shared"]:
        said.append(f"The real images carry that of {_joined(of['shared'], 'and')} too.")
    if of["unsure"]:
        said.append(f"At {_joined(of['unsure'], 'and')} the difference from the real images may be chance.")
    if faint:
        said.append(f"At {_joined(faint, 'and')} it is as faint as photographs may show without one.")
    return said


def _reasons(t: Trained) -> list[list[Part]]:
    """How sure, how it came about, what the layers say, how good the samples are, what was left out."""
    reasons = [_sure(t, subject) for subject in ("sample", "input-gradient") if subject in t.subjects]
    if course := _course(t):
        reasons.append([strong("As it trained. "), plain(course)])
    if layers := _layers(t):
        reasons.append([strong("The layers. "), plain(f"The certificate holds for {_joined(layers, 'and')}.")])
    reasons += _good(t)
    if skipped := t.told["data"].get("skipped"):
        named = training_made.shortened(next(iter(skipped)))
        said = f"{counted(len(skipped), 'file')} did not read as pictures, the first is "
        reasons.append([strong("Left out. "), plain(said), code(named), plain(".")])
    return reasons


def _good(t: Trained) -> list[list[Part]]:
    """The first distance that could be measured, and whether there are signs of copies."""
    reasons = []
    rows = {record["metric"]: record for record in t.quality.to_dict(orient="records")}
    if known := [m for m, record in rows.items() if m.startswith(("FD", "KID")) and not isnan(record["sample"].value)]:
        ours, control = rows[known[0]]["sample"], rows[known[0]]["control"]
        beside = "" if control is None else f"; other real images have {training_quality.measured(control.value)}"
        said = f"{known[0]} to the real data is {training_quality.measured(ours.value)}{beside}."
        reasons.append([strong("How good. "), plain(said)])
    for metric, record in rows.items():
        row = record["sample"]
        if metric.startswith("copied_share") and not isnan(row.value):
            copies = "There are signs of copies" if row.p <= SIGNIFICANCE else "No sign of copies"
            said = f"{copies}: {metric} is {training_quality.measured(row.value)}, {p_phrase(row.p)}; about 0.01 is chance."
            reasons.append([strong("Memorised? "), plain(said)])
    return reasons


def _layers(t: Trained) -> list[str]:
    """How many layers of each network pass."""
    return [
        f"{sum(layer['certificate'] == 'pass' for layer in layers)} of {counted(len(layers), 'layer')} that {verb}"
        for verb, layers in (("enlarge", t.layers("generator")), ("shrink", t.layers("discriminator")))
        if layers
    ]


def _sure(t: Trained, subject: str) -> list[Part]:
    """The interval and p of a subject's highest contrast."""
    row = max(
        (t.clearest(subject, p) for p in t.periods), key=lambda row: (row.found, np.nan_to_num(row.value, nan=-np.inf))
    )
    if isnan(row.value):
        said = f"{SUBJECTS[subject]} too small: four periods must fit."
        return [strong("Not measurable. "), plain(said[0].upper() + said[1:])]
    interval = "too few for an interval" if isnan(row.low) else f"95 % interval {span(row)} dB"
    word = "sample" if subject == "sample" else "gradient"
    title = "How sure. " if subject == "sample" else "The discriminator. "
    adjusted = (
        f" p is joint over them and adjusted for {counted(len(t.periods), 'period')}." if subject == "sample" else ""
    )
    said = f"{counted(row.n, word)} at {row.period} px, {row.kind}: {interval}, {p_phrase(row.p)}.{adjusted}"
    return [strong(title), plain(said)]


def _course(t: Trained) -> str:
    """From where to where the logged contrasts went, at the shortest period."""
    told = []
    for subject, word in (("sample", "of the samples"), ("gradient", "of the gradient")):
        values = t.log(f"{subject}/signed/{t.periods[0]}")
        known = np.flatnonzero(np.isfinite(values))
        if len(known) > 1:
            ends = [f"{number(float(values[k]))} dB at step {t.steps[k]:,}" for k in known[[0, -1]]]
            told.append(f"that {word} from {ends[0]} to {ends[1]}")
    return f"The signed contrast at {t.periods[0]} px went: {_joined(told, 'and')}." if told else ""


def _shown(t: Trained) -> Block:
    side = int(t.told["data"]["resolution"])
    part = f"the middle {DETAIL} px of " if side > DETAIL else ""
    first = "Samples at fixed latents" if "samples" in t.results.arrays else "No samples yet"
    return picture(
        "figures/samples.svg",
        alt="Samples of the averaged generator and real images at native size, and some of them enlarged",
        caption=[
            f"{first} and real images of {t.size}, not picked: at native size and, below, {part}the first of them with whole "
            "pixels enlarged."
        ],
    )  # fmt: skip


@figures.styled
def _samples(t: Trained) -> bytes:
    """Two sheets at native size over two at a whole zoom."""
    sets = {"samples": t.results.arrays.get("samples"), "real images": t.results.arrays.get("real")}
    images = next(array for array in sets.values() if array is not None)
    side = images.shape[-1]
    columns = max(1, int(HALF * INCH) // (side + 2))
    rows = max(1, min(int(2.0 * INCH) // (side + 2), -(-len(images) // columns)))
    detail = min(side, DETAIL)
    zoom = max(1, int(1.5 * INCH) // detail)
    native = figures.sheet_size(rows, columns, images.shape[2:])
    large = [zoom * length for length in figures.sheet_size(2, 2, (detail, detail))]
    first = 0.25 + native[0] / INCH
    figure, axes = figures.new_figure(6.6, first + 0.3 + large[0] / INCH, 2, 2)
    for column, (word, shown) in enumerate(sets.items()):
        for row, (size, top) in enumerate(((native, 0.25), (large, first + 0.25))):
            ax = axes[row, column]
            if shown is None:
                ax.set_axis_off()
                continue
            if row == 0:
                figures.draw_sheet(ax, shown[: rows * columns], columns, title=word)
            else:
                start = (side - detail) // 2
                parts = shown[:4, :, start : start + detail, start : start + detail]
                figures.draw_sheet(ax, parts, 2, title=f"{zoom} x")
            figures.place(figure, ax, (column * (HALF + 0.2), top), (size[1] / INCH, size[0] / INCH))
    return figures.svg(figure)
