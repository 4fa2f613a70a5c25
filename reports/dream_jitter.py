"""`python -m reports.dream_jitter RUN`: the pages of a saved run of `analyses.dream_jitter`, as RUN/report.pdf."""

from pathlib import Path

import numpy as np
import pandas as pd

from analyses.dream_jitter import DRAWN_CHANNEL
from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, Part, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import Row, as_row, number, span
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "What jitter, and what else, does to dreams"
FIXED, JITTERED, CYCLED = "fixed position", "n = 32", "n = 32, cycle"
KINDS = ("signed", "envelope")


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.dream_jitter`.
    """
    return write_pages(folder, "dream_jitter", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, count = results.table, len(results.manifest["images"])
    drawn = {
        "figures/jitter.svg": _jitter(results),
        "figures/ladder.svg": _row_of(results, "ladder", "feature"),
        "figures/relaxed.svg": _row_of(results, "relaxed", "relaxed-dream"),
    }
    made = f"Made by {results.manifest['command']}."
    under = "Under each picture its own signed contrast at 2 px."
    blocks = [
        answer(*_verdict(t)),
        picture(
            "figures/jitter.svg",
            alt="The cat, and four networks' dreams of it at a fixed position and with jitter",
            caption=[f"The same photograph, steps and octaves; 32 offsets, drawn at random or in turn. {under} {made}"],
        ),
        heading("Every number of offsets"),
        _table(
            t, "dream", "offsets", f"Signed and envelope contrast of the dreams in dB, mean over n = {count} photographs.",
            first=("image", "photograph"),
        ),
        heading("The ladder of regularisation"),
        paragraph(
            "A channel of layer3 of the bundled ResNet-18 from grey noise, by Adam, each rung on its own: penalties on total "
            "variation and distance from grey; jitter over 16 offsets; with it scale and rotation; Fourier coefficients in "
            "decorrelated colours; and all that Lucid does.",
            sticky=True,
        ),
        picture("figures/ladder.svg", alt="One channel, from naive pixels to everything", caption=[f"{under} {made}"]),
        _table(t, "feature", "rung", "The same, mean over six channels.", first=None),
        heading("Other backward passes"),
        paragraph(
            "Dreams of layer2 of the bundled ResNet-18 at a fixed position, whose max-pool or stem runs backwards as another; "
            "the forward pass is the same.",
            sticky=True,
        ),
        picture("figures/relaxed.svg", alt="Dreams of the cat with other backward passes", caption=[f"{under} {made}"]),
        _table(t, "relaxed-dream", "backward pass", f"The same, mean over n = {count} photographs.", first=None),
    ]  # fmt: skip
    return blocks, drawn


def contrast(t: pd.DataFrame, model: str, subject: str, layer: str, period: int, kind: str, image: str = "") -> Row:
    """The contrast of one kind of dream, mean over pictures, or of the one that is drawn (`image` "drawn")."""
    part = t.loc[(t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["image"] == image)]
    part = part.loc[(part["period"] == period) & (part["kind"] == kind)]
    return as_row(part.assign(p=np.nan).iloc[0].to_dict())


def _models(t: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(t.loc[t["subject"] == "dream", "model"]))


def _verdict(t: pd.DataFrame) -> list[Part]:
    """What jitter did in each network at 2 px."""
    rows = {
        model: [contrast(t, model, "dream", layer, 2, "signed") for layer in (FIXED, JITTERED)] for model in _models(t)
    }
    less = [model for model, (fixed, moved) in rows.items() if moved.value < fixed.value]
    said = "; ".join(f"{m} {number(a.value)} to {number(b.value)} dB" for m, (a, b) in rows.items())
    naive, everything = (contrast(t, "resnet18_half", "feature", layer, 2, "signed") for layer in _ends(t))
    return [
        strong(f"Jitter takes lattice from the dreams of {len(less)} of {len(rows)} networks. "),
        plain(
            f"Signed contrast at 2 px, from a fixed position to 32 offsets: {said}. In feature visualisation the ladder leads "
            f"from {number(naive.value)} dB with naive pixels to {number(everything.value)} dB with everything."
        ),
    ]


def _ends(t: pd.DataFrame) -> tuple[str, str]:
    rungs = list(dict.fromkeys(t.loc[t["subject"] == "feature", "layer"]))
    return rungs[0], rungs[-1]


@figures.styled
def _jitter(results: Results) -> bytes:
    models = _models(results.table)
    columns = ("photograph", FIXED, JITTERED, CYCLED)
    height, width = results.arrays["jitter/0/photograph"].shape[1:]
    cell = 6.6 / len(columns)
    figure, axes = figures.new_figure(6.7, len(models) * (cell * height / width + 0.2) + 0.3, len(models), len(columns))
    for row, model in enumerate(models):
        for column, words in enumerate(columns):
            subject = "image" if words == "photograph" else "dream"
            value = contrast(results.table, model, subject, words, 2, "signed", "drawn").value
            ax = axes[row, column]
            figures.draw_picture(ax, results.arrays[f"jitter/{row}/{words}"], title=words if row == 0 else "")
            ax.set_xlabel(f"{number(value)} dB", labelpad=2)
        axes[row, 0].set_ylabel(model)
    return figures.svg(figure)


@figures.styled
def _row_of(results: Results, name: str, subject: str) -> bytes:
    """Pictures beside each other, four in a row, each with its words above and its contrast below."""
    t = results.table
    shown = list(dict.fromkeys(t.loc[t["subject"] == subject, "layer"]))
    columns = 3 if len(shown) <= 6 else 4
    rows = -(-len(shown) // columns)
    pictures = {words: results.arrays[f"{name}/{words}"] for words in shown}
    first = next(iter(pictures.values()))
    height, width = first.shape[-2:]
    cell = min(6.6 / columns, 2.0)
    figure, axes = figures.new_figure(
        min(6.7, cell * columns + 0.1), rows * (cell * height / width + 0.42), rows, columns
    )
    for ax in axes.ravel()[len(shown) :]:
        ax.set_axis_off()
    for ax, (words, pixels) in zip(axes.ravel(), pictures.items(), strict=False):
        figures.draw_picture(ax, pixels[DRAWN_CHANNEL] if pixels.ndim == 4 else pixels, title=words)
        value = contrast(t, "resnet18_half", subject, words, 2, "signed", "drawn").value
        ax.set_xlabel(f"{number(value)} dB", labelpad=2)
    return figures.svg(figure)


def _table(t: pd.DataFrame, subject: str, second: str, caption: str, *, first: tuple[str, str] | None) -> Block:
    rows = []
    for model in dict.fromkeys(t.loc[t["subject"] == subject, "model"]):
        layers = [(subject, layer) for layer in dict.fromkeys(t.loc[t["subject"] == subject, "layer"])]
        for of, layer in ([first] if first else []) + layers:
            found = [contrast(t, model, of, layer, period, kind) for period in (2, 4, 8) for kind in KINDS]
            rows.append([model, layer, *(number(r.value) for r in found), span(found[0])])
    names = [f"{kind[:4]}. {period}" for period in (2, 4, 8) for kind in KINDS]
    return table(
        {"network": "left", second: "left"} | dict.fromkeys([*names, "interval"], "right"),
        rows,
        caption=[f"{caption} Interval: 95 % bootstrap, of the first column."],
        stretch=second,
    )


def main() -> None:
    """The command line."""
    draw_from_command_line("dream_jitter", write_report)


if __name__ == "__main__":
    main()
