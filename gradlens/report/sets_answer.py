"""Page one of a run of `measure`: which periods, how sure, in how many images, and what the real ones have of it."""

from math import isnan

import numpy as np

from gradlens import figures
from gradlens.report.answer import _interval, _short, decibel_range
from gradlens.report.document import Block, Part, answer, bullets, code, paragraph, picture, plain, strong
from gradlens.report.run import NBSP, counted, enumeration, number, p_phrase, share, span
from gradlens.report.sets import Sets

JPEG = (".jpg", ".jpeg")
FAINT = 0.5  # dB; photographs without a lattice read up to 0.3 from 4 px on


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    path = "figures/answer.svg"
    blocks = [answer(*_verdict(sets)), bullets(*_reasons(sets)), _figure(sets, path)]
    manifest = sets.results.manifest
    if manifest.get("partial"):
        measured = sum(len(entry["images"]) for entry in sets.entries.values())
        text = f"This run was stopped: it holds {measured} of {counted(sum(manifest['asked']), 'image')}."
        blocks.insert(0, paragraph(strong("Partial. "), text))
    return blocks, {path: _picture(sets)}


def conclusion(sets: Sets) -> str:
    """The answer as one line of plain text, for the terminal."""
    return "".join(part["text"] for part in _verdict(sets)).replace(NBSP, " ")


def _verdict(sets: Sets) -> list[Part]:
    """The answer in a sentence or two."""
    told = sets.told(sets.sample)
    carry = "carries" if len(sets.images(sets.sample)) == 1 else "carry"
    finding = sets.headline()
    row = sets.contrast(sets.sample, finding.period, finding.kind)
    if isnan(row.value):
        return [strong("Not measurable. "), plain(f"{told}: too small for these periods, four of them must fit.")]
    if not finding.significant:
        measured = [p for p in sets.periods if not isnan(sets.contrast(sets.sample, p, "signed").value)]
        at = f"the period {measured[0]} px" if len(measured) == 1 else f"{_pixels(measured)}"
        shows = "shows" if carry == "carries" else "show"
        return [strong("No checkerboard found. "), plain(f"{told} {shows} no lattice at {at}.")]
    standing = sets.standing(finding.period, finding.kind)
    strength = sets.strength(standing)
    listed = strong(enumeration([f"{period} px ({number(value)} dB)" for period, value in strength.items()]))
    start = plain(f"{told} {carry} a checkerboard of period ")
    if standing == "shared":
        return [strong("None of their own. "), start, listed, plain(f", and {sets.reference} has the same.")]
    if standing == "unsure":
        end = f". {sets.reference} shows none there, but the difference may be chance ({_difference(sets)})."
        return [strong("Perhaps. "), start, listed, plain(end)]
    if sets.reference is None and max(strength.values()) < FAINT:
        return [strong("Perhaps. "), start, listed, plain(", as faint as photographs may show without one.")]
    what = "their lattice" if finding.kind == "signed" else "the lattice of their fine detail"
    return [
        strong("Yes. "),
        start,
        listed,
        plain(_beyond(sets, list(strength))),
        plain(f". It is strongest at {finding.period} px: there {what} stands "),
        strong(f"{number(row.value)} dB"),
        plain(f" above the spectrum around it ({p_phrase(row.p)})."),
    ]


def _beyond(sets: Sets, periods: list[int]) -> str:
    """What the real images have of the samples' own periods."""
    if sets.reference is None:
        return ""
    held = set(sets.found(sets.reference)).intersection(periods)
    return f", more of it than {sets.reference} has" if held else f" that {sets.reference} does not have"


def _difference(sets: Sets) -> str:
    """The difference in front, with its interval."""
    finding = sets.headline()
    row = sets.difference(finding.period, finding.kind)
    return f"{number(row.value)} dB" + (f", 95 % interval {span(row)} dB" if not isnan(row.low) else "")


def _reasons(sets: Sets) -> list[list[Part]]:
    """How sure, in how many images, what the real images have, how far apart the sets are, and what to beware of."""
    finding = sets.headline()
    period, kind = finding.period, finding.kind
    row = sets.contrast(sets.sample, period, kind)
    part = share(sets.row(sets.sample, period, "lattice_share", kind).value)
    beside = (
        f", in {sets.reference} {share(sets.row(sets.reference, period, 'lattice_share', kind).value)}"
        if sets.reference
        else ""
    )
    reasons: list[list[Part]] = []
    if not isnan(row.value):
        reasons.append(
            [
                strong("How sure. "),
                plain(
                    f"{counted(row.n, 'image')} at {period} px, {kind}: {_interval(row)}; p is joint over the images and "
                    f"adjusted for {counted(len(sets.periods), 'period')}. The lattice holds {part} of the energy{beside}."
                ),
            ]
        )
        reasons.append(_where(sets))
    if sets.reference is None:
        if finding.significant:
            reasons.append([strong("Whose it is. "), plain(_origin(sets))])
    else:
        reasons += _against(sets, sets.reference)
    for name in sets.names:
        skipped = list(sets.entries[name]["skipped"])
        if skipped:
            said = f"{counted(len(skipped), 'file')} of {name} did not read as pictures, the first is "
            reasons.append([strong("Left out. "), plain(said), code(skipped[0]), plain(".")])
    return reasons


def _where(sets: Sets) -> list[Part]:
    """In how many images the lattice in front is found one by one, and in which it is strongest."""
    finding = sets.headline()
    part = sets.alone(sets.sample, finding.period, finding.kind)
    if len(part) == 1:
        return [strong("Where. "), plain("It is strongest in the window that is framed below.")]
    strongest = part.iloc[0]
    return [
        strong("In how many. "),
        plain(
            f"{np.count_nonzero(part['found'])} of {counted(len(part), 'image')} carry it when taken alone (p at most 0.01, "
            "adjusted over the images). It is strongest in "
        ),
        code(str(strongest["image"])),
        plain(f", {number(float(strongest['value']))} dB."),
    ]


def _origin(sets: Sets) -> str:
    """What else writes a lattice, where there is nothing real to compare with."""
    names = sets.images(sets.sample)
    lossy = sum(name.lower().endswith(JPEG) for name in names)
    files = f" {lossy} of these {len(names)} files are JPEG." if lossy else ""
    return (
        "A picture does not tell who wrote its lattice: JPEG writes 8 px blocks and 16 px colour, resizing other periods."
        f"{files} Real pictures of the same kind, given by --against, tell."
    )


def _against(sets: Sets, reference: str) -> list[list[Part]]:
    """The same number in the real images, what those carry themselves, and the distance of the spectra."""
    finding = sets.headline()
    row = sets.contrast(reference, finding.period, finding.kind)
    pairing = "pair by pair, by file name" if sets.paired else "as of two independent sets"
    told = f"{reference} reads {number(row.value)} dB there ({counted(row.n, 'image')}); the difference is "
    reasons = [[strong("Against the real. "), plain(f"{told}{_difference(sets)}, {pairing}.")]] if row.n else []
    held = sets.found(reference)
    if held:
        said = f"{reference} carries a lattice of {_pixels(held)} itself: only what the samples have beyond it is their own."
        reasons.append([strong("Beware of the real. "), plain(said)])
    distance, floor = sets.distance()
    chance = (
        "; they are too few to say how far chance alone would put them."
        if isnan(floor.value)
        else f"; {_deal(sets)} stay within {number(floor.value)} dB in 95 % of deals ({p_phrase(distance.p)})."
    )
    reasons.append(
        [
            strong("How far. "),
            plain(f"The mean spectra are {number(distance.value)} dB apart, rms over frequencies{chance}"),
        ]
    )
    return reasons


def _deal(sets: Sets) -> str:
    return "pairs that change sides at random" if sets.paired else "the same images dealt at random"


def _pixels(periods: list[int]) -> str:
    return f"{enumeration([str(period) for period in periods])} px"


@figures.styled
def _picture(sets: Sets) -> bytes:
    """The strongest image of each set, its strongest window, the lattice map, and the mean spectrum."""
    finding = sets.headline()
    powers = [sets.array(name, "power") for name in sets.names]
    low, high = decibel_range(*powers)
    shown = {name: sets.shown(name)[:1] for name in sets.names}
    top = map_top(*(contrast for entries in shown.values() for _, _, contrast, _ in entries))
    one = len(sets.names) == 1
    figure, axes = figures.new_figure(5.6, 5.6, 2, 2) if one else figures.new_figure(6.7, 4.1, 2, 4)
    over = None
    for row, (name, power) in enumerate(zip(sets.names, powers, strict=True)):
        ax = axes.ravel() if one else axes[row]
        for image_name, image, contrast, box in shown[name]:
            draw_image(ax[0], image, box, title=_short(image_name, 22 if one else 16))
            draw_window(ax[1], image, box, title=f"its strongest {max(box[2:])} px")
            title = f"lattice map, {finding.period} px"
            over = figures.draw_lattice_map(ax[2], image, np.nan_to_num(contrast), top=top, title=title)
        marks = {finding.period: figures.SERIES[0]} if sets.contrast(name, finding.period, finding.kind).found else {}
        title = "mean spectrum" if one else _short(name, 18)
        figures.draw_spectrum(ax[3], power, low=low, high=high, marks=marks, title=title)
        ax[3].set_yticks([])
    if over is not None:
        figures.add_scale(figure, over, axes.ravel()[2:3] if one else axes[:, 2], "contrast, dB", aspect=20, pad=0.02)
    return figures.svg(figure)


def map_top(*maps: np.ndarray) -> float:
    """The top of the scale of lattice maps, in dB: their 98 % quantile, at least 6."""
    values = np.concatenate([m[np.isfinite(m)] for m in maps]) if maps else np.zeros(0)
    return max(6.0, float(np.quantile(values, 0.98))) if len(values) else 6.0


def draw_image(ax: figures.Axes, image: np.ndarray, box: np.ndarray, *, title: str = "") -> None:
    """A picture with its strongest window framed."""
    figures.draw_picture(ax, image, title=title)
    if tuple(box[2:]) != image.shape[1:]:
        figures.draw_frame(ax, box.tolist())


def draw_window(ax: figures.Axes, image: np.ndarray, box: np.ndarray, *, title: str = "") -> None:
    """The strongest window in whole pixels, stretched to its own range."""
    top, left, height, width = box.tolist()
    part = image[:, top : top + height, left : left + width]
    low, high = np.quantile(part, [0.01, 0.99])
    figures.draw_picture(ax, (part - low) / max(high - low, 1e-9), title=title)


def _figure(sets: Sets, path: str) -> Block:
    finding = sets.headline()
    ringed = [n for n in sets.names if sets.contrast(n, finding.period, finding.kind).found]
    rings = f"; the lattice of {finding.period} px is ringed where it is found" if ringed else ""
    whose = "images of one name" if sets.paired else "the strongest of each set"
    which = f" Above {sets.sample}, below {sets.reference}, {whose}." if sets.reference else ""
    return picture(
        path,
        alt=f"The image with the strongest lattice, its strongest window, its lattice map, and the mean spectrum{rings}",
        caption=[
            "The strongest image; its strongest window in whole pixels, stretched to its own range of levels; the "
            f"{finding.kind} contrast of {finding.period} px window by window; the mean power spectrum, "
            f"{sets.averaged(sets.sample)}, DC in the middle{rings}.{which}"
        ],
        width=0.74 if sets.reference is None else 0.9,
    )
