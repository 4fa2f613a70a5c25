"""`python -m reports.spectral_losses RUN`: the pages of a run of `analyses.spectral_losses`, as RUN/report.pdf."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import NBSP, counted, number
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Does a spectral regulariser pull?"
PERIODS = (2, 4)
NONE, PUBLISHED, REAL = "none", "azimuthal, as published", "real"
CONTRAST = "lattice_contrast"


def write_report(folder: Path) -> Path:
    """Draw the figures and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.spectral_losses`.
    """
    return write_pages(folder, "spectral_losses", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t, made = results.table, f"Made by {results.manifest['command']}."
    seeds = t.loc[t["subject"] == "sample", "image"].nunique()
    drawn = {
        "figures/contrasts.svg": _lattices(t, "sample"),
        "figures/gradients.svg": _gradients(t),
        "figures/pixels.svg": _lattices(t, "pixels"),
    }
    of_runs = f"mean of {counted(seeds, 'run')}, the band from the least to the largest. {made}"
    blocks = [
        answer(strong(f"{what_the_detached_does(t)} "), plain(what_the_others_do(t))),
        _picture("contrasts", "Signed contrast of samples as the generators train", of_runs),
        _table(t, made),
        heading("The gradient"),
        paragraph(
            "The cosine is that of the whole gradient of the generator's weights and of its adversarial part, at one step and "
            "the same samples. Where it is 1 the regulariser has no direction of its own.",
            sticky=True,
        ),
        _picture("gradients", "Cosine with the adversarial gradient, and the discriminator's loss", of_runs),
        heading("Each alone"),
        paragraph(
            "Samples of the untrained generator, whose pixels follow the regulariser and nothing else. What is detached leaves "
            "them where they are.",
            sticky=True,
        ),
        _picture("pixels", "Signed contrast of free pixels", made),
    ]
    if results.arrays:
        drawn["figures/samples.svg"] = _samples(results)
        blocks.append(
            _picture("samples", "Samples after the last step", f"the first run of each loss, at native size. {made}")
        )
    return blocks, drawn


def _picture(name: str, words: str, more: str) -> Block:
    return picture(f"figures/{name}.svg", alt=words, caption=[f"{words}: {more}"])


def variants(t: pd.DataFrame) -> list[str]:
    """The regularisers, in their order."""
    return list(dict.fromkeys(t.loc[t["subject"] == "sample", "model"]))


def final(t: pd.DataFrame, model: str, metric: str, period: int | None = None, kind: str = "") -> np.ndarray:
    """What each run of `model` ended with, or the real images have: `[runs]`."""
    own = t.loc[(t["model"] == model) & (t["layer"] == "") & t["metric"].str.startswith(metric)]
    if period is not None:
        own = own.loc[(own["period"] == period) & (own["kind"] == kind)]
    return own["value"].to_numpy(float)


def course(t: pd.DataFrame, subject: str, model: str, metric: str, period: int | None = None) -> pd.DataFrame:
    """One row a step, one column a run."""
    own = t.loc[(t["subject"] == subject) & (t["model"] == model) & (t["metric"] == metric) & (t["layer"] != "")]
    own = own if period is None else own.loc[own["period"] == period]
    own = own.assign(step=own["layer"].str.removeprefix("step ").astype(int))
    return own.pivot_table(index="step", columns="image", values="value")


def what_the_detached_does(t: pd.DataFrame) -> str:
    """The published one: its cosine, its lattice beside that of none."""
    least = float(course(t, "training", PUBLISHED, "cosine").to_numpy().min())
    ratio = float(np.nanmean(course(t, "training", PUBLISHED, "gradient_ratio").to_numpy()))
    off = "exactly 1" if 1 - least < 1e-6 else number(least, 4)  # the gradients are in float32
    values = [f"{_end(t, model, 2)} and {_end(t, model, 4)}{NBSP}dB" for model in (PUBLISHED, NONE)]
    return (
        f"As published it does not: its gradient is the adversarial one times {number(ratio, 2)}, of cosine {off}, and its "
        f"samples end with lattices of {values[0]} at 2 and 4{NBSP}px, where those of none have {values[1]}."
    )


def what_the_others_do(t: pd.DataFrame) -> str:
    """Each attached one: its mean cosine, and where its lattices end."""
    said = []
    for model in variants(t):
        if model in (NONE, PUBLISHED):
            continue
        cosine = float(course(t, "training", model, "cosine").to_numpy().mean())
        said.append(f"{model} {number(cosine, 2)}, {_end(t, model, 2)} and {_end(t, model, 4)}{NBSP}dB")
    real = " and ".join(number(final(t, REAL, CONTRAST, T, "signed").mean()) for T in PERIODS)
    return f"Attached, mean cosine and lattices: {'; '.join(said)}. Real images have {real}{NBSP}dB."


def _end(t: pd.DataFrame, model: str, period: int) -> str:
    return span_of(final(t, model, CONTRAST, period, "signed"))


@figures.styled
def _lattices(t: pd.DataFrame, subject: str) -> bytes:
    """A panel for each period."""
    panels = [
        (f"{period} px", "contrast, dB", partial(course, t, subject, metric=CONTRAST, period=period), period)
        for period in PERIODS
    ]
    return _grid(t, panels)


@figures.styled
def _gradients(t: pd.DataFrame) -> bytes:
    words = {"cosine": "cosine with the adversarial gradient", "loss_discriminator": "loss of the discriminator"}
    return _grid(t, [(title, "", partial(course, t, "training", metric=m), None) for m, title in words.items()])


Panel = tuple[str, str, Callable[[str], pd.DataFrame], int | None]


def _grid(t: pd.DataFrame, panels: Sequence[Panel]) -> bytes:
    """Panels side by side: title, unit, the course of a variant, and the period at which real images are told beside."""
    figure, axes = figures.new_figure(6.7, 2.7, 1, len(panels))
    for ax, (title, unit, of, period) in zip(axes[0], panels, strict=True):
        level = None if period is None else ("real images", float(final(t, REAL, CONTRAST, period, "signed").mean()))
        known = {model: of(model) for model in variants(t)}
        colours = dict(zip(known, figures.SERIES, strict=False)) | {NONE: figures.INK}
        steps = next(iter(known.values())).index.to_numpy()
        for model, runs in known.items():
            ax.fill_between(steps, runs.min(axis=1), runs.max(axis=1), color=colours[model], alpha=0.15, linewidth=0)
        series = {model: (runs.mean(axis=1).to_numpy(), colours[model]) for model, runs in known.items()}
        figures.draw_curve(ax, steps, series, unit=unit, title=title, level=level)
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=4, loc="outside lower center")
    return figures.svg(figure)


def _table(t: pd.DataFrame, made: str) -> Block:
    """Where every loss ends, with the real images as the control."""
    columns = ("2 px, dB", "4 px, dB", "envelope, 2 px", "FD", "spectrum, dB", "cosine")
    rows = []
    for model in [*variants(t), REAL]:
        values = [final(t, model, CONTRAST, period, "signed") for period in PERIODS]
        values += [
            final(t, model, CONTRAST, 2, "envelope"),
            final(t, model, "FD["),
            final(t, model, "spectrum_distance"),
        ]
        cells = [span_of(found) for found in values]
        cosine = "" if model == REAL else number(float(course(t, "training", model, "cosine").to_numpy().mean()), 2)
        rows.append([model, *cells, cosine])
    name = next(metric for metric in t["metric"] if metric.startswith("FD["))
    return table(
        {"loss": "left"} | dict.fromkeys(columns, "right"), rows, stretch="loss",
        caption=[
            f"After the last step, mean of the runs and half of what lies between the largest and the least. FD is {name}; "
            f"spectrum the distance of mean spectra to the real images; real: other real images. {made}"
        ],
    )  # fmt: skip


def span_of(values: np.ndarray) -> str:
    """`7.6 ± 1.2`; one value alone as it is."""
    return number(values.mean()) if len(values) < 2 else f"{number(values.mean())} ± {number(np.ptp(values) / 2)}"


@figures.styled
def _samples(results: Results) -> bytes:
    """A row of samples for each loss."""
    names = [*variants(results.table), REAL]
    figure, axes = figures.new_figure(5.4, 0.72 * len(names), len(names), 1)
    for (ax,), name in zip(axes, names, strict=True):
        found = results.arrays["real" if name == REAL else f"samples/{name}"]
        figures.draw_sheet(ax, found, len(found), title=name)
    return figures.svg(figure)


def main() -> None:
    """The command line."""
    draw_from_command_line("spectral_losses", write_report)


if __name__ == "__main__":
    main()
