"""`python -m reports.certificates RUN`: the pages of a saved run of `analyses.certificates`, as RUN/report.pdf and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from cyclopts import Parameter

from gradlens import figures
from gradlens.console import application, say
from gradlens.console import run as run_command
from gradlens.report import kicker
from gradlens.report.document import (
    Block,
    answer,
    bullets,
    code,
    compile_pdf,
    heading,
    pagebreak,
    paragraph,
    picture,
    strong,
    table,
)
from gradlens.results import Results, write_whole

TITLE = "Which layers can write a checkerboard"
TOLERANCE = 1e-6
VERDICT_COLOURS = {
    "pass": "#5a8f3c", "fail": figures.GRADIENT, "level-dependent": "#d98324", "vacuous": figures.FAINT,
    "not decidable": figures.FAINT,
}  # fmt: skip
SHOWN = {  # cases drawn on the first page, and their titles there
    "deconvolution 3x3": "deconvolution 3x3",
    "deconvolution 4x4": "deconvolution 4x4",
    "deconvolution 4x4, equalised": "4x4, equalised",
    "deconvolution 3x3, hold": "3x3, held",
    "sub-pixel": "sub-pixel",
    "sub-pixel, ICNR": "sub-pixel, ICNR",
    "sub-pixel, ICNR, biases differ": "ICNR, biases differ",
    "sub-pixel, hold": "sub-pixel, held",
    "nearest resize, convolution": "nearest resize",
    "PixelDCL": "PixelDCL",
    "PixelDCL, hold": "PixelDCL, held",
    "even until a ReLU opens": "until a ReLU opens",
}
Drawn = tuple[list[Block], dict[str, bytes]]


@dataclass(frozen=True)
class Certificates:
    """The results of one run, with the questions that the pages ask of them."""

    results: Results

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        return {told["name"]: told for told in self.results.manifest["cases"]}

    @cached_property
    def table(self) -> pd.DataFrame:
        t = self.results.table
        return t.assign(
            level=pd.to_numeric(t["level"], errors="coerce"), floor=pd.to_numeric(t["floor"], errors="coerce")
        )

    def group(self, name: str) -> list[str]:
        """The cases of a group, in order."""
        return [case for case, told in self.cases.items() if told["group"] == name]

    def deviation(self, case: str, column: str = "value", **where: Any) -> float:
        """The largest deviation of a case's rows with these values, NaN where there is none."""
        t = self.table
        t = t.loc[t["model"] == case]
        for name, value in where.items():
            t = t.loc[t[name] == value]
        return float(t[column].max()) if len(t) else nan

    def levels(self) -> list[float]:
        return sorted(self.table.loc[self.table["kind"] == "response", "level"].dropna().unique())


def percent(value: float) -> str:
    """A deviation for people: "0" where it passes as rounding, a dash where nothing was measured."""
    if isnan(value):
        return "\u2013"
    if value <= TOLERANCE:
        return "0"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def first_page(run: Certificates) -> Drawn:
    """The answer, what a certificate is, and the responses of twelve layers to one constant."""
    forward = [c for g in ("layers that enlarge", "networks that enlarge") for c in run.group(g)]
    cures = [c for c in forward if run.cases[c]["expects"] == "pass"]
    passed = [c for c in cures if run.cases[c]["verdict"] == "pass"]
    broken = [c for c in cures if c not in passed]
    networks = run.group("networks that enlarge")
    failed = [c for c in networks if run.cases[c]["verdict"] == "fail"]
    path = "figures/responses.svg"
    blocks: list[Block] = [
        answer(
            f"Of {len(cures)} layers that are said to be free of checkerboards {len(passed)} are, by weights and by "
            f"measurement.{_sentence(broken)} Of {len(networks)} trained networks that enlarge {len(failed)} can write a "
            "checkerboard."
        ),
        paragraph(
            strong("Forward. "),
            "A module that has no checkerboard of its own makes a constant of a constant: far from the border, all phases of its "
            "output have one value. From the weights: all polyphase filters have one DC (eq. 8) and one bias (eq. 9 of Sugawara, "
            "Shiota, Kiya 2018). By measurement: one value (eq. 7) for random constants, a different one in each channel, at "
            "several levels K (eq. 10), because through a ReLU one level proves nothing for another.",
        ),
        paragraph(
            strong("Backward. "),
            "The gradient of the input for the gradient of the output. Signed: a constant gradient stays constant. Energy: "
            "a gradient of independent signs gives every phase the same energy, which only equal squared taps do.",
        ),
        paragraph(
            strong("Deviation. "),
            "The largest departure of a phase from the mean of all, over that mean or the rms of the response, whichever is "
            "larger. It passes at 0.0001 %, ten times what taps in float32 leave.",
        ),
        picture(
            path,
            alt="Responses of twelve layers to one constant, 16 pixels a side, from even to strongly patterned",
            caption=[
                f"What twelve layers with random weights (seed {run.results.manifest['seed']}) make of one constant: the centre, "
                f"{len(next(iter(run.results.arrays.values())))} px a side, of the most uneven channel; one colour scale, "
                "in units of the rms of the response. Below each the verdict and the largest deviation over all constants."
            ],
        ),
    ]  # fmt: skip
    return blocks, {path: _responses(run)}


def _sentence(broken: Sequence[str]) -> str:
    if not broken:
        return ""
    names = " and ".join(f"\u201c{name}\u201d" for name in broken)
    return f" {names} {'is' if len(broken) == 1 else 'are'} not."


@figures.styled
def _responses(run: Certificates) -> bytes:
    figure, axes = figures.new_figure(6.7, 5.9, 3, 4)
    drawn = None
    for ax, (name, title) in zip(axes.flat, SHOWN.items(), strict=True):
        told = run.cases[name]
        drawn = figures.draw_gradient(ax, run.results.arrays[f"response/{name}"], scale=2.0, title=title)
        words = told["verdict"] + ("" if told["verdict"] == "pass" else f", {percent(told['deviation'])}")
        ax.set_xlabel(words, color=VERDICT_COLOURS[told["verdict"]], fontsize=7.5, loc="left", labelpad=3)
    assert drawn is not None
    figures.add_scale(figure, drawn, axes, "response minus its mean, in rms of the response")
    return figures.svg(figure)


def enlarging(run: Certificates) -> Drawn:
    """Every layer that enlarges: equations 8, 9 and 7 by level."""
    levels = run.levels()
    rows = []
    for name in run.group("layers that enlarge"):
        told = run.cases[name]
        measured = [percent(run.deviation(name, kind="response", level=level)) for level in levels]
        rows.append([
            name, percent(run.deviation(name, kind="filters")), percent(run.deviation(name, kind="biases")), *measured,
            told["verdict"], _says(told),
        ])  # fmt: skip
    columns = {"layer": "left", "eq. 8": "right", "eq. 9": "right"}
    columns |= {f"K = {level:g}": "right" for level in levels} | {"verdict": "left", "what the source says": "left"}
    blocks: list[Block] = [
        pagebreak(),
        heading("Layers that enlarge"),
        paragraph(
            "Deviations by weights (eq. 8, 9: layers that are a chain of known linear ones) and of measured responses at three "
            "levels, and the verdict. Yes: it is what the source says; no: it is not.",
        ),
        table(columns, rows, caption=[
            "0: at most 0.0001 %; a dash: no such statement. Sources: 001 Odena et al. 2016, 002 Sugawara et al. 2018, 004 Gao "
            "et al. 2017. A 1x1 deconvolution of stride 2 has holes and fails by overlap alone; held, it is a nearest resize."
        ], stretch="what the source says"),
        paragraph(
            strong("Pixel deconvolution fails eq. 7. "),
            "Its maps depend on one another, F2 = F1 * k2, but dependence is not equality: the DC of the second phase is that of "
            "k2 times that of the first, and nothing makes k2 hand on what it gets. It passes only for kernels that do, such as "
            "means of the maps before, which training may or may not find. A hold behind it makes it pass with any weights.",
        ),
        paragraph(
            strong("A cut-off sinc is not even. "),
            "Centred on a pixel, one phase is a single tap of 1 and the other sums to nearly 1: a checkerboard of "
            f"{percent(run.cases['windowed sinc']['deviation'])}, gone when each phase is normalised.",
        ),
    ]  # fmt: skip
    return blocks, {}


def _says(told: dict[str, Any]) -> str:
    mark = {True: "yes: ", False: "no: ", None: ""}[told["agrees"]]
    return f"{told['source']}, {mark}{told['says']}" if told["says"] else told["source"]


def networks(run: Certificates) -> Drawn:
    """The published networks: deviation by period, and what they make of a constant."""
    names = run.group("networks that enlarge")
    if not names:
        return [], {}
    periods = sorted({int(p) for p in run.table.loc[run.table["model"].isin(names), "period"] if p > 1})
    rows = []
    for name in names:
        told = run.cases[name]
        found = [percent(run.deviation(name, period=period)) for period in periods]
        rows.append([name, " x ".join(map(str, told["input_size"])), *found, told["verdict"]])
    path = "figures/networks.svg"
    columns = {"network": "left", "input": "right"} | {f"{p} px": "right" for p in periods} | {"verdict": "left"}
    blocks: list[Block] = [
        pagebreak(),
        heading("Networks that enlarge, as trained"),
        paragraph(
            "Each network is a black box: its accumulated stride is found by shifting a patch, its steady state by looking for "
            "what repeats. Of the generator of SVHN the convolutions behind its dense layer.",
        ),
        table(columns, rows, caption=[
            "The largest deviation at each period, of the harmonics that no smaller period has, over levels 0.5, 1 and 2."
        ]),
        picture(path, alt="Responses of the trained networks to one constant", caption=[
            "What each makes of one constant: response minus its mean in rms of the response, each on the scale that stands "
            "above it. A constant is no photograph, and what training evens out for its data it need not even out for "
            "constants: this says what a network can write, not what it does write."
        ]),
    ]  # fmt: skip
    return blocks, {path: _networks(run, names)}


@figures.styled
def _networks(run: Certificates, names: Sequence[str]) -> bytes:
    figure, axes = figures.new_figure(6.7, 1.5 if len(names) > 1 else 2.2, 1, max(len(names), 2))
    for ax, name in zip(axes[0], names, strict=False):
        response = run.results.arrays[f"response/{name}"]
        most = max(float(np.abs(response).max()), 1e-9)
        title = f"{name.replace(', ', ',' + chr(10))}\n± {percent(most)}"
        figures.draw_gradient(ax, response, scale=most, title=title)
        ax.title.set_fontsize(6.5)
    for ax in axes[0][len(names) :]:
        ax.set_axis_off()
    return figures.svg(figure)


def shrinking(run: Certificates) -> Drawn:
    """Layers and networks that shrink: both statements about the gradient."""
    rows = []
    for name in (*run.group("layers that shrink"), *run.group("networks that shrink")):
        told = run.cases[name]
        cells = [
            text
            for kind in ("signed", "energy")
            for text in (percent(run.deviation(name, kind=kind, method="weights")), _measured(run, name, kind))
        ]
        verdict = told["verdicts"]["signed"], told["verdicts"]["energy"]
        rows.append([name, *cells, ", ".join(map(str, told["periods"])), " / ".join(verdict), _says(told)])
    blocks: list[Block] = [
        pagebreak(),
        heading("Layers and networks that shrink: the gradient"),
        paragraph(
            "A strided convolution hands its gradient back as a transposed convolution does its output. Linear layers are read "
            "and measured exactly. Max-pools and ReLUs are asked at random inputs, never at a constant, whose ties would send "
            "everything to one pixel in four; there a deviation counts above what balanced random signs of 32 draws make.",
        ),
        *_blur(run),
        table(
            {"layer": "left", "signed: w": "right", "m": "right", "energy: w": "right", "m ": "right", "px": "left",
             "verdicts": "left", "what the source says": "left"},
            rows,
            caption=[
                "w: by weights, m: measured; px: the periods at which a statement fails; verdicts on signed and energy. "
                "0 (\u00b1): even to within what chance makes. What the sources say is of the signed pattern: a blur or a hold "
                "before a stride cures that, and leaves an uneven energy, smaller than before."
            ],
            stretch="what the source says",
        ),
    ]  # fmt: skip
    return blocks, {}


def _blur(run: Certificates) -> list[Block]:
    """The bundled pair: what blurring behind the pool does to its period."""
    names = ("resnet18_half, stem and pool", "resnetblur18_half, stem and pool")
    if not set(names) <= set(run.cases):
        return []
    at = {name: [percent(run.deviation(name, kind="signed", period=p)) for p in (2, 4)] for name in names}
    return [
        paragraph(
            strong("The bundled pair. "),
            f"At 2 and 4 px the signed deviation of the stem of resnet18_half is {at[names[0]][0]} and {at[names[0]][1]}, of its "
            f"anti-aliased twin {at[names[1]][0]} and {at[names[1]][1]}: the blur behind the max-pool removes period 4, and the "
            "un-blurred 7x7 stem of stride 2 keeps period 2.",
        )
    ]


def _measured(run: Certificates, name: str, kind: str) -> str:
    """The largest measured deviation; where chance explains it, what chance makes."""
    floor = run.deviation(name, "floor", kind=kind, method="measurement")
    if run.cases[name]["verdicts"][kind] == "pass" and floor > TOLERANCE:
        return f"0 (\u00b1{percent(floor)})"
    return percent(run.deviation(name, kind=kind, method="measurement"))


def method(run: Certificates) -> Drawn:
    """All deviations at a glance, the definitions that the tables lean on, and the command."""
    path = "figures/deviations.svg"
    manifest = run.results.manifest
    blocks: list[Block] = [
        pagebreak(),
        heading("All deviations"),
        picture(path, alt="The largest deviation of every case on a logarithmic axis, coloured by verdict", caption=[
            "The largest deviation of every case over statements, periods and levels. What passes by rounding lies at the left "
            "edge or on it; the line is the tolerance. The max-pool of 2x2 is asked at random inputs: it passes because chance "
            "alone makes as much."
        ]),
        heading("How it is done"),
        bullets(
            ["A copy in float64 and eval mode is examined; the module is left as it was found."],
            ["Accumulated stride: the smallest shift s of a patch of noise on a constant that moves the whole response by t. "
             "Forward the periods are the divisors of t, backward those of s."],
            ["Steady state: the largest central box where every value returns one stride further on, at least four strides wide; "
             "one stride at each side is left out."],
            ["Constants: 8 vectors uniform in [\u22121, 1] a channel, and their negatives, at each level K."],
            ["Verdicts: vacuous where no response depends on the constant; never a pass. Not decidable where no steady state or "
             "no stride is found."],
            ["Made by ", code(manifest["command"]), f", seed {manifest['seed']}; the table is table.csv of the run."],
        ),
    ]  # fmt: skip
    return blocks, {path: _deviations(run)}


@figures.styled
def _deviations(run: Certificates) -> bytes:
    names = list(run.cases)
    figure, axes = figures.new_figure(6.7, 0.145 * len(names) + 0.7)
    ax = axes[0, 0]
    least = 1e-16
    ax.axvline(TOLERANCE, color=figures.FAINT, linewidth=0.8)
    for place, name in enumerate(names):
        told = run.cases[name]
        value = max(run.deviation(name), least)
        colour = VERDICT_COLOURS[told["verdict"]]
        ax.plot([least, value], [place, place], color=colour, linewidth=0.6, alpha=0.5)
        ax.plot(value, place, "o", color=colour, markersize=3.5, clip_on=False)
    for verdict in dict.fromkeys(told["verdict"] for told in run.cases.values()):
        ax.plot([], [], "o", color=VERDICT_COLOURS[verdict], markersize=3.5, label=verdict)
    ax.set_xscale("log")
    ax.set_xlim(least, 10)
    ticks = [1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1.0]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(len(names) - 0.5, -0.7)
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("largest deviation")
    figure.legend(*ax.get_legend_handles_labels(), ncols=5, loc="outside upper right")
    return figures.svg(figure)


def write(folder: Path) -> Path:
    """Write the PDF and the figures of the run in `folder`.

    Raises:
        ValueError: `folder` holds no run of `analyses.certificates`.
    """
    results = Results.read(folder)
    if "cases" not in results.manifest:
        raise ValueError(f"{str(folder)!r} holds no run of analyses.certificates")
    run = Certificates(results)
    parts = [section(run) for section in (first_page, enlarging, networks, shrinking, method)]
    drawings = {path: content for _, drawn in parts for path, content in drawn.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for path, content in drawings.items():
        write_whole(folder / path, content)
    above = kicker(results.manifest, ["certificates"])
    blocks = [block for part, _ in parts for block in part]
    write_whole(folder / "report.pdf", compile_pdf(TITLE, above, blocks, drawings))
    return folder / "report.pdf"


def main() -> None:
    """The command line."""
    app = application("python -m reports.certificates", "The pages of a saved run of analyses.certificates.")

    @app.default
    def launch(run: Annotated[Path, Parameter(help="Folder of the run.")]) -> int:
        say(f"report: {write(run)}")
        return 0

    run_command(app)


if __name__ == "__main__":
    main()
