"""How a training run went: curves over its steps, the same latents as it trained, and the spectra at its end."""

from typing import Any

import numpy as np

from gradlens import figures
from gradlens.report.answer import decibel_range
from gradlens.report.document import Block, heading, picture
from gradlens.report.run import KINDS, counted, enumeration
from gradlens.report.trained import Trained

MOST = 3  # panels side by side
INCH = 96  # px of native size
WIDTH, HEIGHT = 5.7, 5.2  # inches for the latents as they trained
DRAWN = 64  # px of a small sample as it is drawn
COLOURS = {"sample": figures.SERIES[3], "gradient": figures.GRADIENT}
WORDS = {"sample": "samples", "gradient": "discriminator's input gradient"}
POWERS = {"sample": "samples", "gradient": "discriminator's gradient", "image": "real images"}
LOSSES = {
    "loss_discriminator": ("loss of the discriminator", figures.SERIES[4]),
    "loss_generator": ("loss of the generator", figures.SERIES[1]),
}


def pages(t: Trained) -> tuple[list[Block], dict[str, bytes]]:
    """Curves, latents and spectra, those that the run has."""
    blocks: list[Block] = []
    drawn: dict[str, bytes] = {}
    if len(t.steps):
        drawn["figures/curves.svg"] = _curves(t)
        blocks.append(_curved(t))
    if powers := {name: t.results.arrays[f"power/{name}"] for name in POWERS if f"power/{name}" in t.results.arrays}:
        drawn["figures/spectra.svg"] = _spectra(t, powers)
        blocks.append(_spectral(t, list(powers)))
    if len(t.results.arrays.get("progress/step", ())):
        drawn["figures/progress.svg"], rows = _progress(t)
        blocks.append(_same_latents(t, rows))
    if not blocks:
        return [], {}
    return [heading("As it trained"), *blocks], drawn


def _curved(t: Trained) -> Block:
    resumed = f" Dotted: resumed after step {enumeration([f'{s:,}' for s in t.resumed])}." if t.resumed else ""
    return picture(
        "figures/curves.svg",
        alt="Losses, images a second and contrasts of the lattice over the steps of training",
        caption=[
            f"The log, {counted(len(t.steps), 'line')}. Contrasts are means over samples at the same latents, without interval; "
            "the dashed line is the real images'. Compare curves of one period: contrasts of two periods have no common scale."
            f"{resumed} The arrays log/* hold the values."
        ],
    )


@figures.styled
def _curves(t: Trained) -> bytes:
    """Losses and speed, then a row of panels for each family that was logged, a panel a period."""
    kinds = [kind for kind in KINDS if any(t.logged(subject, p, kind) for subject in WORDS for p in t.periods)]
    columns = min(max(len(t.periods), 2), MOST)
    lines = -(-len(t.periods) // columns)
    figure, axes = figures.new_figure(6.7, 1.65 * (1 + lines * len(kinds)) + 0.5, 1 + lines * len(kinds), columns)
    for ax in axes.ravel():
        ax.set_axis_off()
    losses = {label: (t.log(name), colour) for name, (label, colour) in LOSSES.items()}
    axes[0, 0].set_axis_on()
    figures.draw_curve(axes[0, 0], t.steps, losses, unit="loss", title="losses", resumed=t.resumed)
    axes[0, 1].set_axis_on()
    speed = {"": (t.log("images_per_second"), figures.INK)}
    figures.draw_curve(axes[0, 1], t.steps, speed, unit="images / s", title="speed", resumed=t.resumed)
    axes[0, 1].set_ylim(0, 1.05 * axes[0, 1].get_ylim()[1])
    told = _legend(axes[0, 0])
    for row, kind in enumerate(kinds):
        for ax, period in zip(axes[1 + lines * row : 1 + lines * (row + 1)].ravel(), t.periods, strict=False):
            told |= _legend(_draw_lattice(t, ax, period, kind))
    figure.legend(list(told.values()), list(told), ncols=3, loc="outside lower center")
    return figures.svg(figure)


def _legend(ax: figures.Axes) -> dict[str, Any]:
    """What stands for each label."""
    handles, words = ax.get_legend_handles_labels()
    return dict(zip(words, handles, strict=True))


def _draw_lattice(t: Trained, ax: figures.Axes, period: int, kind: str) -> figures.Axes:
    """The logged contrasts of one period and family, the real images' dashed."""
    ax.set_axis_on()
    series = {
        word: (t.log(f"{subject}/{kind}/{period}"), COLOURS[subject])
        for subject, word in WORDS.items()
        if t.logged(subject, period, kind)
    }
    level, title = ("real images", t.real(period, kind)), f"{period} px, {kind}"
    ax.axhline(0, color=figures.FAINT, linewidth=0.6)
    return figures.draw_curve(ax, t.steps, series, unit="contrast, dB", title=title, level=level, resumed=t.resumed)


def _same_latents(t: Trained, rows: int) -> Block:
    every = len(t.results.arrays["progress/step"])
    part = "" if rows == every else f", {rows} of {every} moments"
    return picture(
        "figures/progress.svg",
        alt="Samples at the same latents at some steps of training",
        caption=[f"The averaged generator at the same latents as it trained{part}; whole pixels."],
    )


@figures.styled
def _progress(t: Trained) -> tuple[bytes, int]:
    """A row a moment, closer together early on where more changes; and how many there are."""
    steps, samples = t.results.arrays["progress/step"], t.results.arrays["progress/samples"] / 255
    side = samples.shape[-1]
    zoom = max(1, DRAWN // side)
    columns = max(1, min(samples.shape[1], int(WIDTH * INCH) // (zoom * (side + 2))))
    room = max(2, int(HEIGHT * INCH) // (zoom * (side + 2)))
    moments = np.arange(len(steps))
    if len(steps) > room:
        moments = np.unique(np.geomspace(1, len(steps), room).round().astype(int)) - 1
    shown = samples[moments, :columns]
    rows = len(moments)
    height, width = (zoom * length / INCH for length in figures.sheet_size(rows, columns, samples.shape[-2:]))
    figure, axes = figures.new_figure(6.6, height + 0.02)
    ax = figures.draw_sheet(axes[0, 0], shown.reshape(-1, *shown.shape[2:]), columns)
    figures.place(figure, ax, (0.85, 0.01), (width, height))
    ax.set_yticks([(side + 2) * (row + 0.5) - 1 for row in range(rows)], [f"step {steps[m]:,}" for m in moments])
    ax.tick_params(length=0)
    return figures.svg(figure), rows


def _spectral(t: Trained, names: list[str]) -> Block:
    return picture(
        "figures/spectra.svg",
        alt=f"Mean power over the frequency plane of {enumeration([POWERS[name] for name in names])}",
        caption=[
            "Mean power at the end, each divided by its own mean, DC in the middle, one scale; the new harmonics of "
            f"{enumeration([f'{p} px' for p in t.periods])} are ringed. A lattice is a bright dot in a ring."
        ],
    )


@figures.styled
def _spectra(t: Trained, powers: dict[str, np.ndarray]) -> bytes:
    powers = {name: power / max(float(power.mean()), 1e-30) for name, power in powers.items()}
    low, high = decibel_range(*powers.values())
    marks = dict(zip(t.periods, figures.SERIES, strict=False))
    figure, axes = figures.new_figure(6.7, 2.6, 1, 3)
    drawn: Any = None
    for ax, (name, power) in zip(axes[0], powers.items(), strict=False):
        drawn = figures.draw_spectrum(ax, power, low=low, high=high, marks=marks, title=POWERS[name])
    for ax in axes[0, len(powers) :]:
        ax.set_axis_off()
    figures.add_scale(figure, drawn, axes[0], "power, dB of the mean", shrink=0.6, pad=0.05)
    return figures.svg(figure)
