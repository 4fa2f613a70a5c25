"""How a run of `measure` was made: what was read, definitions, sizes and windows, versions and the command."""

from collections import Counter
from typing import Any

from gradlens.report.document import Block, code, heading, listing, paragraph, strong, table
from gradlens.report.method import _names, definitions
from gradlens.report.run import breakable, counted, enumeration
from gradlens.report.sets import Sets

COLOURS = {1: "grey", 3: "RGB"}


def section(sets: Sets) -> tuple[list[Block], dict[str, bytes]]:
    manifest = sets.results.manifest
    mixed = len({c for entry in sets.entries.values() for c in entry["channels"]}) > 1
    grey = " A grey picture among coloured ones has three equal channels, which changes no contrast." if mixed else ""
    blocks: list[Block] = [
        heading("How it was measured"),
        paragraph(
            "Pictures are read as levels from 0 to 1, turned upright, transparency laid on white, and measured at their own "
            f"size: not resized, not cropped.{grey}"
        ),
        *definitions(),
        paragraph(
            strong("Detail. "),
            "Signed measures and spectra are of the pictures as they are. Envelope, share of the envelope and phases are of "
            "their fine detail, a 3 x 3 binomial blur taken off twice: a picture's light and shade hold nearly all of its energy "
            "and would drown them. In table.csv those rows have the layer detail.",
        ),
    ]
    if sets.reference is not None:
        blocks.append(
            paragraph(
                strong("Differences. "),
                "Of pairs, the mean difference with that interval; of independent sets, both resampled, with Welch's degrees of "
                "freedom. ",
                strong("Distance. "),
                "Its floor and p are those of a randomisation test (Fisher 1935): 1,000 seeded deals.",
            )
        )
    blocks.append(heading("Pictures", 2))
    for name, entry in sets.entries.items():
        blocks += [_described(name, entry), paragraph(*_names(sets.images(name)), ragged=True)]
        if entry["skipped"]:
            blocks.append(paragraph("Left out: ", *_left_out(entry["skipped"]), ragged=True))
    versions = ", ".join(f"{package} {number}" for package, number in manifest["versions"].items())
    commit = f", commit {manifest['commit'][:12]}" if manifest.get("commit") else ""
    blocks += [
        heading("Run", 2),
        listing(manifest["command"]),
        paragraph(
            f"{versions}, Python {manifest['python']} on {manifest['platform']}{commit}; device {manifest['device']}."
        ),
    ]
    return blocks, {}


def _described(name: str, entry: dict[str, Any]) -> Block:
    sizes = Counter(" x ".join(map(str, size)) for size in entry["sizes"])
    said = [f"{size} px ({n})" for size, n in sizes.most_common(6)]
    more = f" and {len(sizes) - len(said)} more sizes" if len(sizes) > len(said) else ""
    role = "the samples" if entry["subject"] == "sample" else "the real images"
    return table(
        {"": "left", breakable(name): "left"},
        [
            ["images", str(len(entry["images"]))],
            ["height x width", f"{', '.join(said)}{more}"],
            ["colours", enumeration([COLOURS[c] for c in entry["channels"]])],
            ["windows", _windows(entry["windows"])],
            ["left out", counted(len(entry["skipped"]), "file")],
        ],
        caption=[f"{name}: {role}."],
        stretch=breakable(name),
    )


def _windows(windows: dict[str, list[int]]) -> str:
    """The side of the windows at each period, from the smallest picture to the largest."""
    said = []
    for period, sides in sorted(windows.items(), key=lambda item: int(item[0])):
        if not sides:
            said.append(f"too small for {period} px")
        else:
            said.append(f"{sides[0] if len(sides) == 1 else f'{sides[0]} to {sides[-1]}'} px at {period} px")
    return ", ".join(said)


def _left_out(skipped: dict[str, str], room: int = 10) -> list:
    parts: list = []
    for number, name in enumerate(list(skipped)[:room]):
        parts += [", " if number else "", code(name)]
    return [*parts, "." if len(skipped) <= room else f" and {len(skipped) - room} more, listed in manifest.json."]
