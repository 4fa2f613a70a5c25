"""How it was measured: definitions, versions, weights and their hash, preprocessing, seed and the command."""

from gradlens.report.document import Block, code, heading, link, listing, paragraph, strong, table
from gradlens.report.run import Run, counted

DISTILL = "https://doi.org/10.23915/distill.00003"
METHODS = {
    "gradient": "Its gradient is taken with respect to the image in [0, 1].",
    "input-x-gradient": "Its gradient with respect to the image in [0, 1] is multiplied by the image (Shrikumar et al. 2017).",
    "integrated-gradients": "Its gradient is averaged over the straight path from black to the image in 50 steps and multiplied "
    "by the image (Sundararajan et al. 2017).",
    "smoothgrad": "Its gradient is averaged over 50 copies of the image with normal noise of 0.15 of the image's range "
    "(Smilkov et al. 2017).",
    "guided-backprop": "In its gradient with respect to the image each ReLU lets only positive values through (Springenberg et "
    "al. 2015).",
    "occlusion": "What it loses when a square of 16 px is black in the image is given to that square, moved by 8 px "
    "(Zeiler, Fergus 2014).",
}


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    manifest = run.results.manifest
    blocks: list[Block] = [
        heading("How it was measured"),
        paragraph(
            f"The score is the largest logit of each image, or a critic's output, in eval mode. {METHODS[run.method]} It is "
            "measured as it is: signed, not resized, not clipped."
        ),
        *definitions(),
        heading("Models", 2),
    ]
    for model in run.models:
        size = " x ".join(map(str, model["input_size"]))
        blocks.append(
            table(
                {"": "left", model["name"]: "left"},
                [
                    ["weights", model["weights"]],
                    ["SHA-256", model["sha256"]],
                    ["input", f"{size}, {model['interpolation']} resize, centre crop {model['crop_pct']:g}"],
                    ["normalisation", f"mean {_list(model['mean'])}, std {_list(model['std'])}"],
                    ["windows", _windows(model["windows"])],
                    ["stages", ", ".join(f"{s['layer']} ({max(s['size'])} px)" for s in model["stages"]) or "none"],
                ],
                caption=[f"{model['name']} is a {model['role']}."],
                stretch=model["name"],
            )
        )
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    commit = f", commit {manifest['commit'][:12]}" if manifest.get("commit") else ""
    blocks += [
        heading("Images", 2),
        paragraph(*_names(run.images), ragged=True),
        *(
            paragraph(
                f"{counted(m['skipped'], 'image')} left out: the {run.word} of {m['name']} holds NaN or infinity there."
            )
            for m in run.models
            if m.get("skipped")
        ),
        heading("Run", 2),
        listing(manifest["command"]),
        paragraph(
            f"{versions}, Python {manifest['python']} on {manifest['platform']}{commit}; device {manifest['device']}, "
            f"{manifest['dtype']}, seed {manifest['seed']}."
        ),
    ]
    return blocks, {}


def definitions() -> list[Block]:
    """What is measured, in a few sentences."""
    return [
        paragraph(
            strong("Contrast. "),
            "Welch periodograms (periodic Hann, half overlap, window mean removed, summed over colours and windows), from whose "
            "logarithm a power law is taken and, of an envelope, the shape that its own local mean gives it. The excess of a "
            "bin is what then stands above a quadratic fitted to the ring around it; the contrast is the mean excess of the "
            "harmonics that no smaller divisor of T has, minus the mean excess of like bins away from the lattice. Resampled "
            "means of those give p, widened to the spread that the contrast of white noise has, and by what rows of bins have "
            "in common. A set's p is Fisher's over images, adjusted over periods by Benjamini and Hochberg.",
        ),
        paragraph(
            strong("Envelope. "),
            "Energy summed over colours, divided by its mean over the surrounding square of at least 16 px. ",
            strong("Imbalance. "),
            "The unbiased coefficient of variation over images of the energy of the T x T pixel positions. ",
            strong("Intervals. "),
            "Percentiles of resampled means over images, stretched to a t distribution's tails (Hesterberg 2015); with few "
            "images they cover less than they say.",
        ),
        paragraph("The question and the mechanism are those of ", link("Odena, Dumoulin and Olah 2016", DISTILL), "."),
    ]


def _windows(windows: dict[str, list[int]]) -> str:
    """The side of the windows at each period."""
    said = [
        f"{w[0]} px at {period} px" if w else f"too small for {period} px"
        for period, w in sorted(windows.items(), key=lambda item: int(item[0]))
    ]
    return ", ".join(said)


def _list(values: list[float]) -> str:
    return " ".join(f"{v:g}" for v in values)


def _names(names: list[str], room: int = 40) -> list:
    """The images by name; beyond `room` only their number."""
    parts: list = [f"{counted(len(names), 'image')}: "]
    for number, name in enumerate(names[:room]):
        parts += [", " if number else "", code(name)]
    return [*parts, "." if len(names) <= room else f" and {len(names) - room} more, listed in manifest.json."]
