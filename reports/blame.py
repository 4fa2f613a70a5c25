"""`python -m reports.blame RUN`: the pages of a saved run of `analyses.blame`, as RUN/report.pdf."""

from pathlib import Path
from typing import Any

import pandas as pd

from gradlens import figures
from gradlens.report import Drawn
from gradlens.report.document import Block, Part, answer, heading, paragraph, picture, plain, strong, table
from gradlens.report.run import Row, as_row, enumeration, number, span
from gradlens.results import Results
from reports.pages import draw_from_command_line, write_pages

TITLE = "Strided convolution or max-pooling"
KINDS = ("signed", "envelope")
ORDER = ("stem", "pool", "blur", "strided", "shortcut", "average")  # from the image on


def write_report(folder: Path) -> Path:
    """Draw the figure and the PDF of the run in `folder` from its saved results alone; the path of the PDF.

    Raises:
        ValueError: `folder` holds no run of `analyses.blame`.
    """
    return write_pages(folder, "blame", TITLE, _pages)


def _pages(results: Results) -> Drawn:
    """The pages, and their figures."""
    t = results.table
    count = max(int(n) for n in t.loc[t["subject"] == "kinds", "n"])
    drawn = {"figures/kinds.svg": _figure(t)}
    blocks = [
        answer(*_verdict(t)),
        paragraph(
            "Every strided layer and pool runs backwards as it is, or held: the mean over its stride, which leaves nothing of "
            "its harmonics. Shapley values say what each contributes over all orders of putting them back, summed over the "
            "layers of a kind. ",
            strong("What a contribution counts. "),
            "A held gradient has a hole where the harmonics were, so its contrast lies below 0, and the way from there to 0 "
            "counts too: as it is and all held, the table gives both ends.",
        ),
        picture(
            "figures/kinds.svg",
            alt="Contribution of each kind of layer to the contrast at 2, 4 and 8 px, for six networks",
            caption=[
                f"Shapley values in dB of contrast, mean over n = {count} pictures with 95 % bootstrap intervals. Stem: the "
                f"first strided convolution. Made by {results.manifest['command']}."
            ],
        ),
        heading("As it is, all held, and by kind"),
        _kinds(t),
        heading("The remedy"),
        paragraph(
            "The smallest set of layers whose hold removes at least 80 % of what the best set removes, chosen on these pictures; "
            "here on as many others.",
            sticky=True,
        ),
        _remedies(t),
    ]
    return blocks, drawn


def contribution(t: pd.DataFrame, model: str, kind_of_layer: str, period: int, kind: str) -> Row | None:
    """The summed Shapley value of a kind of layers; None where there is none, or it was not measured."""
    part = t.loc[(t["subject"] == "kinds") & (t["model"] == model) & (t["layer"] == kind_of_layer)]
    return _one(part.loc[(part["period"] == period) & (part["kind"] == kind)])


def _one(part: pd.DataFrame) -> Row | None:
    return as_row(part.iloc[0].to_dict()) if len(part) and part["value"].notna().iloc[0] else None


def _total(t: pd.DataFrame, model: str, metric: str, period: int, kind: str) -> Row | None:
    part = t.loc[(t["model"] == model) & (t["metric"] == metric) & (t["layer"] == "")]
    return _one(part.loc[(part["period"] == period) & (part["kind"] == kind)])


def _networks(t: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(t["model"]))


def _layers(t: pd.DataFrame, model: str) -> list[str]:
    own = set(t.loc[(t["subject"] == "kinds") & (t["model"] == model), "layer"])
    return [layer for layer in ORDER if layer in own]


def _periods(t: pd.DataFrame) -> list[int]:
    return sorted({int(p) for p in t.loc[t["subject"] == "kinds", "period"]})


def _verdict(t: pd.DataFrame) -> list[Part]:
    """Which kind contributes most at 2 and at 4 px."""
    most: dict[int, dict[str, list[str]]] = {}
    for period in (2, 4):
        for model in _networks(t):
            made = {layer: contribution(t, model, layer, period, "signed") for layer in _layers(t, model)}
            known = {layer: row.value for layer, row in made.items() if row}
            most.setdefault(period, {}).setdefault(max(known, key=known.__getitem__), []).append(model)
    pooled = [m for m in _networks(t) if "pool" in _layers(t, m)]
    values = {
        (layer, period): [r.value for m in pooled if (r := contribution(t, m, layer, period, "signed"))]
        for layer in ("stem", "pool")
        for period in (2, 4)
    }
    said = [
        f"at {period} px {enumeration([f'the {layer} in {len(models)}' for layer, models in by.items()])} "
        f"of {len(_networks(t))} networks"
        for period, by in most.items()
    ]
    deeper = [
        row.value
        for model in pooled
        for layer in ("strided", "shortcut")
        if (row := contribution(t, model, layer, 2, "signed"))
    ]
    pool_wins = set(pooled) == set(most[4].get("pool", [])) and len(most[2].get("stem", [])) == len(_networks(t))
    return [
        strong("The stem, and at its own period the pool. " if pool_wins else "It depends on the network. "),
        plain(
            f"The largest contribution to the signed contrast comes {' and '.join(said)}. Where there is a max-pool behind a "
            f"strided stem, the stem makes {_range(values['stem', 2])} dB of it at 2 px and {_range(values['stem', 4])} dB at "
            f"4 px, the pool {_range(values['pool', 2])} and {_range(values['pool', 4])} dB; deeper strides and shortcuts "
            f"{_range(deeper)} dB at 2 px."
        ),
    ]


def _range(values: list[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


@figures.styled
def _figure(t: pd.DataFrame) -> bytes:
    networks, periods = _networks(t), _periods(t)
    heights = [len(_layers(t, model)) + 1.2 for model in networks]
    figure, axes = figures.new_figure(
        6.7, 0.24 * sum(heights) + 0.7, len(networks), len(periods), height_ratios=heights, sharex=True
    )
    for row, model in enumerate(networks):
        layers = _layers(t, model)
        for column, period in enumerate(periods):
            series = {}
            for kind in KINDS:
                found = [contribution(t, model, layer, period, kind) for layer in layers]
                series[kind] = [(r.value, r.low, r.high) if r else (float("nan"),) * 3 for r in found]
            ax = axes[row, column]
            figures.draw_blame(ax, layers, series, f"{model}, {period} px" if column == 0 else f"{period} px")  # type: ignore[arg-type]
            if column:
                ax.set_yticklabels([])
    axes[-1, 0].set_xlabel("contribution, dB")
    handles, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, ncols=2, loc="outside lower center")
    return figures.svg(figure)


def _kinds(t: pd.DataFrame) -> Block:
    rows = []
    for model in _networks(t):
        for period in _periods(t):
            for kind in KINDS:
                ends = [_total(t, model, metric, period, kind) for metric in ("as_is", "all_replaced")]
                if ends[0] is None:
                    continue
                made = [
                    contribution(t, model, layer, period, kind) for layer in ("stem", "pool", "strided", "shortcut")
                ]
                cells = [number(row.value) if row else "–" for row in (*ends, *made)]
                rows.append([model, str(period), kind, *cells])
    names = ("as it is", "all held", "stem", "pool", "strided", "shortcut")
    columns = {"network": "left", "px": "right", "contrast": "left"} | dict.fromkeys(names, "right")
    return table(
        columns,
        rows,
        caption=["In dB, means over the pictures; a dash where there is no such layer."],
        stretch="network",
    )


def _remedies(t: pd.DataFrame) -> Block:
    part = t.loc[t["subject"] == "remedy"]
    rows: list[list[str]] = []
    for model in dict.fromkeys(part["model"]):
        own = part.loc[part["model"] == model]
        before_words, after_words = dict.fromkeys(own["layer"])
        for record in own.loc[own["layer"] == before_words].to_dict("records"):
            before = as_row(record)
            after: Any = _one(
                own.loc[(own["layer"] == after_words) & (own["period"] == before.period) & (own["kind"] == before.kind)]
            )
            if after and (before.found or after.found):
                rows.append(
                    [
                        model,
                        after_words,
                        str(before.period),
                        before.kind,
                        number(before.value),
                        number(after.value),
                        span(after),
                    ]
                )
    columns = {
        "network": "left",
        "held": "left",
        "px": "right",
        "contrast": "left",
        "before": "right",
        "after": "right",
    }
    caption = ["In dB, where a lattice was found before or after; with the 95 % interval of the latter."]
    return table(columns | {"interval": "right"}, rows, caption=caption, stretch="held")


def main() -> None:
    """The command line."""
    draw_from_command_line("blame", write_report)


if __name__ == "__main__":
    main()
