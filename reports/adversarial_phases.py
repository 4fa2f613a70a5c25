"""`python -m reports.adversarial_phases RUN`: the page of a saved run of `analyses.adversarial_phases`, as RUN/report.pdf."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.adversarial_phases import ATTACKED, ATTACKS, CHOOSING, MASKS, PAIRS, PERIODS, called
from analyses.maxpool_gradients import AS_IS, STEM
from gradlens import figures
from gradlens.compare import SIGNIFICANCE
from gradlens.report import Drawn
from gradlens.report.document import Block, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import enumeration, number, probability
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Attacks on the pixels that a stride favours"
PLAIN, TWIN = "resnet18_half", "resnetblur18_half"
WEAKEST, RANDOM = (f"{ours} - {theirs}" for ours, theirs in PAIRS)


def write_report(folder: Path) -> Path:
    """Draw the figure and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.adversarial_phases`.
    """
    return write_pages(folder, "adversarial_phases", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t = results.table
    drawn = {"figures/attacks.svg": _figure(t)}
    blocks = [
        answer(*_verdict(t)),
        paragraph(
            "An attack goes along the sign of the gradient of the cross-entropy, at most eps at any pixel, and touches one of "
            "the T x T sampling phases alone, or as many random pixels of each image. The phases are chosen by the energy of "
            "that gradient on other images. Attacked are images that the network names correctly: ",
            f"{_counts(t)}. ",
            *_energies(t),
        ),
        paragraph(*_remedies(t)),
        picture(
            "figures/attacks.svg",
            alt="Share of images fooled by each attack, for the strongest, weakest and random pixels",
            caption=[
                "Images fooled by the true gradient, with Wilson 95 % intervals; F is FGSM, P is PGD of 10 steps, with eps in "
                f"levels of 255. n = {_counts(t)}. Made by {results.manifest['command']}."
            ],
        ),
        heading("Every attack"),
        _table(t),
    ]
    return blocks, drawn


def cell(t: pd.DataFrame, model: str, subject: str, layer: str, period: int, kind: str) -> dict[str, Any] | None:
    """The row of one rate or difference; None if it was not measured."""
    found = t.loc[
        (t["model"] == model) & (t["subject"] == subject) & (t["layer"] == layer) & (t["period"] == period)
        & (t["kind"] == kind)
    ]  # fmt: skip
    return {str(k): v for k, v in found.iloc[0].to_dict().items()} if len(found) else None


def verdicts(t: pd.DataFrame, kind: str, layer: str = AS_IS, **where: Any) -> tuple[list[dict], list[dict], list[dict]]:
    """The paired tests of one kind: those found in favour of the strongest phase, against it, and the others."""
    rows = t.loc[(t["metric"] == "success_difference") & (t["kind"] == kind) & (t["layer"] == layer)]
    for column, value in where.items():
        rows = rows.loc[rows[column] == value]
    every = rows.to_dict("records")
    sure = [row for row in every if row["p"] <= SIGNIFICANCE]
    ahead, behind = ([row for row in sure if sign * row["value"] > 0] for sign in (1, -1))
    return ahead, behind, [row for row in every if row not in sure]


def _networks(t: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(t["model"]))


def _verdict(t: pd.DataFrame) -> list[Any]:
    """How many of the paired tests find the strongest phase ahead, and by how much."""
    (ahead, behind, rest), (ahead_random, behind_random, rest_random) = (verdicts(t, k) for k in (WEAKEST, RANDOM))
    count, count_random = (len(a) + len(b) + len(c) for a, b, c in (verdicts(t, k) for k in (WEAKEST, RANDOM)))
    word = "Not found. " if not ahead else "Always. " if len(ahead) == count else "In some cases. "
    said = [
        f"The strongest phase fools more images than the weakest in {len(ahead)} of {count} paired tests (adjusted exact "
        f"McNemar p at most {SIGNIFICANCE}), fewer in {len(behind)}; in {len(rest)} the two cannot be told apart. "
    ]
    if ahead:
        said.append(f"Where it is found the difference is {_points(ahead)}: {_places(ahead)}. ")
    if behind:
        said.append(f"It is behind by {_points(behind)}: {_places(behind)}. ")
    signs = [np.sign(row["value"]) for row in (*ahead, *behind, *rest)]
    said.append(f"Whatever its p, the difference is above 0 in {signs.count(1)} and below 0 in {signs.count(-1)}. ")
    if rest:
        room = number(100 * max(row["high"] for row in rest), 0)
        said.append(f"Where nothing is found the intervals leave room for up to {room} points. ")
    said.append(
        f"Against random pixels it is ahead in {len(ahead_random)} of {count_random}, behind in {len(behind_random)}, "
        f"and not to be told apart in {len(rest_random)}."
    )
    return [strong(word), plain("".join(said))]


def _places(rows: Sequence[dict[str, Any]]) -> str:
    """The networks and periods of some tests, and how many of each."""
    keys = [(row["model"], int(row["period"])) for row in rows]
    return enumeration([f"{keys.count(key)} of {key[0]} at {key[1]} px" for key in dict.fromkeys(keys)])


def _points(rows: Sequence[dict[str, Any]]) -> str:
    low, high = (number(100 * f(abs(row["value"]) for row in rows), 0) for f in (min, max))
    return f"{low} points" if low == high else f"{low} to {high} points"


def _counts(t: pd.DataFrame) -> str:
    """The numbers of images attacked, a network at a time."""
    words = []
    for model in _networks(t):
        rates = t.loc[(t["model"] == model) & (t["metric"] == "success")]
        pgd = rates["subject"].str.startswith("PGD")
        iterated = f" (PGD {int(rates.loc[pgd, 'n'].max())})" if pgd.any() else ""
        words.append(f"{int(rates.loc[~pgd, 'n'].max())}{iterated} of {model}")
    return enumeration(words)


def _energies(t: pd.DataFrame) -> list[Any]:
    """What the chosen phases hold, on the images that chose them and on those attacked."""
    energy = t.loc[t["metric"] == "phase_energy"]
    words = []
    for model in _networks(t):
        for period in PERIODS:
            of = energy.loc[(energy["model"] == model) & (energy["period"] == period)]
            values = {(row["subject"], row["kind"]): row["value"] for row in of.to_dict("records")}
            here, there = ([number(values[s, mask], 2) for mask in MASKS[:2]] for s in (ATTACKED, CHOOSING))
            words.append(f"{model} at {period} px {here[0]} and {here[1]} ({there[0]} and {there[1]})")
    return [
        plain(
            "Energy of the strongest and the weakest phase over that of the neighbourhood, on the attacked images and, in "
            f"brackets, on those that chose: {enumeration(words)}."
        )
    ]


def _remedies(t: pd.DataFrame) -> list[Any]:
    """The mean difference before and after the stem is held, its cost, and what the anti-aliased twin shows."""
    words = []
    for model in _networks(t):
        before, after = (_mean(t, model, layer, WEAKEST) for layer in (AS_IS, STEM))
        won, held = (_mean(t, model, layer, MASKS[0]) for layer in (AS_IS, STEM))
        words.append(
            f"{model} {number(100 * before)} to {number(100 * after)} points (strongest phase: {number(100 * won)} to "
            f"{number(100 * held)} %)"
        )
    ahead, behind, rest = verdicts(t, WEAKEST, STEM)
    count = len(ahead) + len(behind) + len(rest)
    single = [f"{number(100 * _mean(t, m, AS_IS, WEAKEST))} points" for m in (PLAIN, TWIN)]
    return [
        strong("After the remedies. "),
        plain(
            "With the stem's backward pass held, the network itself being the same, the mean difference between strongest "
            f"and weakest over the FGSM attacks goes from {enumeration(words)}. The strongest phase is then ahead in "
            f"{len(ahead)} of {count} tests, behind in {len(behind)}. Between the network and its anti-aliased twin the mean "
            f"difference is {single[0]} and {single[1]}."
        ),
    ]


def _mean(t: pd.DataFrame, model: str, layer: str, kind: str) -> float:
    """The mean of a rate or difference over the FGSM attacks and periods of one network."""
    of = t.loc[(t["model"] == model) & (t["layer"] == layer) & (t["kind"] == kind)]
    return float(of.loc[of["subject"].str.startswith("FGSM"), "value"].mean())


@figures.styled
def _figure(t: pd.DataFrame) -> bytes:
    networks = _networks(t)
    figure, axes = figures.new_figure(6.7, 0.95 * len(networks) + 0.4, len(networks), len(PERIODS))
    words = {called(name, eps): f"{name[0]} {eps}" for name, (_, levels) in ATTACKS.items() for eps in levels}
    for row, model in zip(axes, networks, strict=True):
        for ax, period in zip(row, PERIODS, strict=True):
            series = {}
            for mask in MASKS:
                found = [cell(t, model, subject, AS_IS, period, mask) for subject in words]
                series[mask] = [(c["value"], c["low"], c["high"]) if c else (np.nan,) * 3 for c in found]
            figures.draw_attacks(ax, list(words.values()), series, f"{model}, T = {period} px")
        row[1].set_ylabel("")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=len(MASKS), loc="outside lower center")
    return figures.svg(figure)


def _table(t: pd.DataFrame) -> Block:
    rows = []
    tested = t.loc[t["metric"] == "success_difference"].drop_duplicates(["model", "period", "subject", "layer"])
    for key in tested.to_dict("records"):
        found = {
            k: cell(t, key["model"], key["subject"], key["layer"], key["period"], k) for k in (*MASKS, WEAKEST, RANDOM)
        }
        gap, other = found[WEAKEST], found[RANDOM]
        assert gap is not None
        assert other is not None
        rates = [f"{number(100 * c['value'], 0)}" if (c := found[mask]) else "–" for mask in MASKS]
        span = f"{number(100 * gap['low'], 0)} to {number(100 * gap['high'], 0)}"
        attack = key["subject"].replace(", eps = ", " ").removesuffix("/255")
        rows.append(
            [key["model"], str(int(key["period"])), attack, "held" if key["layer"] == STEM else "true", *rates, span,
             probability(gap["p"]), probability(other["p"]), str(int(gap["n"]))]
        )  # fmt: skip
    columns = {"network": "left", "T": "right", "attack": "left", "stem": "left"} | dict.fromkeys(
        ("str.", "weak.", "rand.", "str. − weak.", "p", "p rand.", "n"), "right"
    )
    return table(
        columns,
        rows,
        caption=[
            "Images fooled in percent, difference in points with its bootstrap 95 % interval, p of the exact McNemar test of "
            "the strongest phase against the weakest and against random pixels, adjusted over all of them by Benjamini and "
            "Hochberg."
        ],
        stretch="network",
    )


def main() -> None:
    """The command line."""
    draw_from_command_line("adversarial_phases", write_report)


if __name__ == "__main__":
    main()
