"""`python -m reports.gan_upsampling RUN`: the pages of a saved run of `analyses.gan_upsampling`, as PDF."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.claims import Claim, verdict
from analyses.gan_upsampling import (
    CLAIMS,
    CONTROL,
    DESIGNS,
    EPOCH,
    MARGIN,
    NONE,
    PERIODS,
    SHORT_NAMES,
    TRAINED,
    TWO,
    UNAFFECTED,
    UNTRAINED,
)
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, code, heading, pagebreak, paragraph, picture, plain, strong, table
from gradlens.report.run import KINDS, enumeration, number
from gradlens.results import Results
from reports.claims import Value, said, sentences, value
from reports.pages import draw_from_command_line, write_pages

TITLE = "Deconvolution in the last two layers, the last, none"
SUBJECTS = {UNTRAINED: UNTRAINED, EPOCH: EPOCH, TRAINED: "sample"}
COLOURS = dict(zip(SHORT_NAMES.values(), figures.SERIES, strict=False))
GAP = 2  # px of white between samples
MOST = 8  # sentences of a table


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.gan_upsampling`.
    """
    return write_pages(folder, "gan_upsampling", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, m = results.table, results.manifest
    drawn = {"figures/curves.svg": _curves(results), "figures/samples.svg": _samples(results)}
    blocks: list[Block] = [
        answer(*_verdict(t)),
        paragraph(*setting_words(m)),
        _contrasts(t),
        picture(
            "figures/curves.svg",
            alt="Contrast of samples over the steps of training, at 2 and 4 px, signed and envelope",
            caption=[
                "Contrast of samples at the same 64 latents, as training goes on: mean over seeds, and each seed as a thin line. "
                f"Dashed: real images. Dotted: the first epoch, after step {number(m['epoch'], 0)}."
            ],
        ),
        pagebreak(),
        heading("Every sentence"),
        paragraph(
            "An excess is a contrast above that of the real images or above 0 dB, whichever is more. An artifact is an excess "
            f"whose 95 % interval over seeds lies above 0; no artifact one whose interval lies below {number(MARGIN, 0)} dB. A "
            f"change within {number(UNAFFECTED, 0)} dB, a factor of two in power, is largely none. A sentence is held if "
            "all of its conditions are met, not held if the interval of one lies wholly on the other side, else not decided. The "
            "rules are in the code (", code("analyses.gan_upsampling.CLAIMS"), ") and older than the numbers, but for the curves "
            "of the first seed. Of three seeds such an interval covers the truth in four of five cases. What the article says of "
            "discriminators is in ",
            code("analyses.gan_discriminator"), ", of untrained generators of other kernels in ",
            code("analyses.untrained_generators"), ".",
        ),
        *(_sentences(t, CLAIMS[at : at + MOST]) for at in range(0, len(CLAIMS), MOST)),
        heading("Samples"),
        picture(
            "figures/samples.svg",
            alt="Eight samples of each generator, untrained and trained, at the same latents",
            caption=[
                "Eight samples of each generator of the first seed, untrained (left) and trained (right), at the same latents, "
                "and real images; every pixel as it is, enlarged a whole number of times."
            ],
        ),
        heading("A low FD is another axis"),
        *_rated(t, m),
        heading("Each seed by itself"),
        _seeds(t),
        paragraph("Made by ", code(m["command"]), "."),
    ]  # fmt: skip
    return blocks, drawn


def setting_words(m: Any) -> list[Any]:
    """How the generators were trained, and what is missing."""
    told = m["trained"]
    data = {32: "CIFAR-10", 64: "Tiny ImageNet"}[m["resolution"]]
    words = [
        f"{data} at {m['resolution']} px, width {told['width']}, {m['steps']:,} steps of {told['batch_size']} images, trained on "
        f"{told['device']}. "
    ]
    if m["shortened"]:
        words.append("A CPU ran a shortened setting: figures compare within it, not with papers. ")
    if m["missing"]:
        words.append(f"Not there yet: {'; '.join(m['missing'])}. ")
    return words


def _verdict(t: pd.DataFrame) -> list[Any]:
    """How many sentences are held, by their signed lattice and by its energy."""
    counts = {kind: [verdict(t, claim.name, kind) for claim in CLAIMS] for kind in KINDS}
    signed = counts["signed"]
    trained = [contrast(t, name, TRAINED, "signed", 2)[0] for name in (TWO, NONE)]
    untrained = [contrast(t, name, UNTRAINED, "signed", 2)[0] for name in (TWO, NONE)]
    return [
        strong(f"{signed.count('held')} of {len(signed)} sentences held, {signed.count('not held')} not held. "),
        plain(
            f"Deconvolution in the last two layers has {number(untrained[0])} dB at 2 px before training and "
            f"{number(trained[0])} after, resize-convolution {number(untrained[1])} and {number(trained[1])}. By the envelope, "
            f"which sees energy in uneven places, {counts['envelope'].count('held')} are held and "
            f"{counts['envelope'].count('not held')} not."
        ),
    ]


def contrast(t: pd.DataFrame, name: str, stage: str, kind: str, period: int, image: str = "") -> Value:
    """Contrast at a stage, its interval over seeds and their number; NaN where it was not measured."""
    chosen = (t["model"] == name) & (t["subject"] == SUBJECTS.get(stage, stage)) & (t["kind"] == kind)
    return value(t.loc[chosen & (t["metric"] == "lattice_contrast") & (t["period"] == period)], image)


def _there(t: pd.DataFrame) -> list[str]:
    """The designs that have a run."""
    return list(filter(set(t["model"]).__contains__, DESIGNS))


def _contrasts(t: pd.DataFrame) -> Block:
    """All designs, before, under way and after."""
    rows = []
    for name in _there(t):
        cells = [SHORT_NAMES[name], str(contrast(t, name, UNTRAINED, "signed", 2)[3])]
        cells += [said(contrast(t, name, stage, "signed", p)) for p in PERIODS for stage in (UNTRAINED, TRAINED)]
        rows.append([*cells, *(number(contrast(t, name, TRAINED, "envelope", p)[0]) for p in PERIODS)])
    first = _there(t)[0]
    real = [number(contrast(t, first, "image", kind, p)[0]) for kind in KINDS for p in PERIODS]
    rows.append(["real images", "", "", real[0], "", real[1], *real[2:]])
    columns = {"deconvolution in": "left", "n": "right"}
    columns |= {f"{p} px, {stage}": "right" for p in PERIODS for stage in ("before", "after")}
    columns |= {f"env. {p}": "right" for p in PERIODS}
    names = "; ".join(f"{SHORT_NAMES[name]}: {name}" for name in _there(t))
    return table(
        columns,
        rows,
        caption=[
            "Signed contrast in dB before and after training, mean over n seeds (95 % interval), and the envelope's after. "
            f"{names}."
        ],
        stretch="deconvolution in",
    )


def _sentences(t: pd.DataFrame, claims: Sequence[Claim]) -> Block:
    """Sentence, measurement, verdict."""
    return sentences(
        t, claims, KINDS,
        "Mean over seeds, 95 % interval, the band it must lie in; verdicts by signed contrast and the envelope's.",
        shown=KINDS[:1],
    )  # fmt: skip


def _rating(t: pd.DataFrame, name: str, metric: str, subject: str = "sample") -> Value:
    chosen = (t["model"] == name) & (t["subject"] == subject) & t["metric"].str.startswith(f"{metric}[")
    return value(t.loc[chosen])


def _rated(t: pd.DataFrame, m: Any) -> list[Block]:
    """FD and KID beside the lattice, and how they differ from the design without deconvolution."""
    rows = []
    for name in _there(t):
        pair = f"{name} - {NONE}"
        rows.append(
            [
                SHORT_NAMES[name], said(contrast(t, name, TRAINED, "signed", 2)), said(_rating(t, name, "FD")),
                said(_rating(t, name, "KID"), 2), said(_rating(t, pair, "FD")),
            ]
        )  # fmt: skip
    first = _there(t)[0]
    control = [number(_rating(t, first, metric, "image")[0], digits) for metric, digits in (("FD", 1), ("KID", 2))]
    rows.append(["real images", number(contrast(t, first, "image", "signed", 2)[0]), *control, ""])
    block = table(
        {"deconvolution in": "left", "2 px, dB": "right", "FD": "right", "KID": "right", "FD minus none": "right"},
        rows,
        caption=[
            f"Signed contrast, FD and KID ({m['trained']['rated']} samples, features of the bundled ResNet-18), means over seeds "
            "with 95 % intervals; the last column pairs seeds."
        ],
        stretch="deconvolution in",
    )  # fmt: skip
    return [paragraph(plain(_axes(t))), block]


def _axes(t: pd.DataFrame) -> str:
    """Whether the design with the least lattice is the one with the least FD, among those of one discriminator."""
    names = [n for n in _there(t) if n != CONTROL and not np.isnan(_rating(t, n, "FD")[0])]
    if len(names) < 2:
        return "The runs were not rated."
    least = min(names, key=lambda n: max(contrast(t, n, TRAINED, "signed", p)[0] for p in PERIODS))
    best = min(names, key=lambda n: _rating(t, n, "FD")[0])
    surely = [SHORT_NAMES[n] for n in names if (d := _rating(t, f"{n} - {NONE}", "FD"))[1] > 0 or d[2] < 0]
    same = "the same" if least == best else "not the same"
    tail = f"surely another FD than none: {enumeration(surely)}" if surely else "no FD surely differs from that of none"
    return f"The least lattice has {SHORT_NAMES[least]}, the least FD {SHORT_NAMES[best]}: {same}; {tail}."


def _seeds(t: pd.DataFrame) -> Block:
    """Contrasts of each seed before and after."""
    images = sorted({image for image in t["image"] if image})
    rows = []
    for name, image in product(_there(t), images):
        values = [
            contrast(t, name, stage, kind, p, image)[0]
            for kind in KINDS
            for p in PERIODS
            for stage in (UNTRAINED, TRAINED)
        ]
        if not all(np.isnan(v) for v in values):
            rows.append([SHORT_NAMES[name], image.removeprefix("seed "), *map(number, values)])
    columns = {"deconvolution in": "left", "seed": "right"}
    columns |= {
        f"{'' if kind == 'signed' else 'env. '}{p}, {stage}": "right"
        for kind in KINDS
        for p in PERIODS
        for stage in ("before", "after")
    }
    return table(
        columns, rows, caption=["Contrast in dB of each seed at 2 and 4 px before and after training, signed and envelope."],
        stretch="deconvolution in",
    )  # fmt: skip


@figures.styled
def _curves(results: Results) -> bytes:
    arrays = results.arrays
    names = [SHORT_NAMES[name] for name in _there(results.table)]
    figure, axes = figures.new_figure(6.7, 4.6, len(KINDS), len(PERIODS))
    first = _there(results.table)[0]
    for row, column in product(range(len(KINDS)), range(len(PERIODS))):
        ax, kind, period = axes[row, column], KINDS[row], PERIODS[column]
        for name in names:
            curve, steps = arrays[f"curve/{name}/{kind}/{period}"], arrays[f"step/{name}"]
            ax.plot(steps, curve.T, color=COLOURS[name], linewidth=0.4, alpha=0.5)
            ax.plot(steps, curve.mean(0), color=COLOURS[name], linewidth=1.3, label=name)
        ax.axhline(
            contrast(results.table, first, "image", kind, period)[0],
            color=figures.CONTROL,
            linestyle="--",
            linewidth=0.9,
        )
        ax.axvline(results.manifest["epoch"], color=figures.FAINT, linestyle=":", linewidth=0.9)
        ax.set_title(f"{kind}, {period} px")
        ax.set_ylabel("contrast, dB" if column == 0 else "")
        ax.set_xlabel("step" if row else "")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=len(words), loc="outside lower center")
    return figures.svg(figure)  # fmt: skip


@figures.styled
def _samples(results: Results) -> bytes:
    arrays = results.arrays
    names = [SHORT_NAMES[name] for name in _there(results.table)]
    figure, axes = figures.new_figure(6.7, 0.62 * (len(names) + 1) + 0.1, len(names) + 1, 2)
    for row, name in zip(axes, names, strict=False):
        pair = arrays[f"samples/{name}"].astype(np.float32) / 255
        for ax, images, stage in zip(row, pair, (UNTRAINED, TRAINED), strict=True):
            figures.draw_sheet(ax, images, len(images), gap=GAP, title=f"{name}, {stage}")
    figures.draw_sheet(axes[-1, 0], arrays["real"], len(arrays["real"]), gap=GAP, title="real images")
    axes[-1, 1].set_axis_off()
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("gan_upsampling", write_report)


if __name__ == "__main__":
    main()
