"""How good the samples of a training run are, and all its numbers."""

from math import isnan

from gradlens.report.document import Block, code, heading, paragraph, strong, table
from gradlens.report.run import KINDS, NBSP, Row, breakable, number, probability, share, span
from gradlens.report.trained import SUBJECTS, Trained


def pages(t: Trained) -> tuple[list[Block], dict[str, bytes]]:
    """Quality, and every measure of the lattice."""
    return [*_quality(t), *_numbers(t)], {}


def measured(value: float) -> str:
    """A measure of quality, with at most four digits that matter and four after the point."""
    size = abs(value)
    if size == 0:
        return "0"
    return number(value, 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4)


def _between(row: Row) -> str:
    return "–" if isnan(row.low) else f"{measured(row.low)} to {measured(row.high)}"


def _quality(t: Trained) -> list[Block]:
    title = heading("How good the samples are")
    if t.quality.empty:
        why = (
            "It was interrupted before its end, where that is measured."
            if t.partial
            else "This run did not measure it."
        )
        return [title, paragraph(why)]
    rows = []
    for record in t.quality.to_dict(orient="records"):
        ours, control = record["sample"], record["control"]
        cells = [breakable(record["metric"], 30), measured(ours.value), _between(ours), probability(ours.p)]
        cells += ["–", "–"] if control is None else [measured(control.value), _between(control)]
        n = f"{ours.n:,}" if control is None or control.n == ours.n else f"{ours.n:,} / {control.n:,}"
        rows.append([*cells, n, "" if record["unit"] == "1" else record["unit"]])
    columns = {"measure": "left", "samples": "right", "95 % interval": "left", "p": "right"}
    columns |= {"control": "right", "95 % interval ": "left", "n": "right", "unit": "left"}
    return [
        title,
        table(columns, rows, caption=[_explained(t)], stretch="measure"),
        paragraph(
            strong("What they do not say. "),
            "FD and KID compare features of the network that is named, so no value here compares with a published FID, or with "
            "one at another n: FD falls as n grows, which is why the control has the same n. Neither sees a faint lattice, and a "
            "generator with one may have the better FD. Smooth samples are near to everything: nearest_neighbour above 0.5 is no "
            "sign of copies by itself. Nor does a share without copies prove that nothing was memorised: features may miss a "
            "copy that was changed. No measure here tells alone how much of the data's variety is missing.",
        ),
    ]


def _explained(t: Trained) -> str:
    """What the measures of the table are."""
    meanings = {
        "FD": "FD and KID: distances of features, less is nearer.",
        "nearest_neighbour": "nearest_neighbour: how often a sample is nearer to the data than another real image is, about 0.5 "
        "where nothing is copied.",
        "copied_share": "copied_share: samples nearer than the nearest hundredth of other real images, about 0.01 where nothing "
        "is copied.",
        "training_share": "training_share: samples whose nearest real image was trained on, 0.5 where that makes no difference.",
        "spectrum_distance": "radial_distance, spectrum_distance: of mean spectra, ..._test is what chance alone reaches.",
    }
    told = [words for name, words in meanings.items() if t.quality["metric"].str.startswith(name).any()]
    return " ".join(
        [
            f"Samples of {t.label} against the real data and, as the control, other real images against the same data.",
            *told,
            "In brackets the network whose features are compared and how many images entered; n: of samples / control. A dash: "
            "too few images.",
        ]
    )


def _numbers(t: Trained) -> list[Block]:
    """Every measure of every period and subject in two tables."""
    if not t.subjects:
        return []
    return [
        heading("The numbers"),
        paragraph(
            "A signed measure sees a pattern that repeats with its sign, as uneven overlap writes it; an envelope or phase "
            "measure sees energy that is placed unevenly while its sign is random, as a strided layer leaves it in a gradient; "
            "of pictures it is that of their fine detail. All of them are in ",
            code("table.csv"),
            " beside this report.",
            sticky=True,
        ),
        _contrasts(t),
        _imbalances(t),
    ]


def _contrasts(t: Trained) -> Block:
    rows = []
    for subject in t.subjects:
        for period in t.run.periods(t.label, subject):
            for kind in KINDS:
                row = t.contrast(subject, period, kind)
                part, floor = (
                    t.row(subject, period, metric, kind) for metric in ("lattice_share", "lattice_share_floor")
                )
                contrast = "too small to tell" if isnan(row.value) else number(row.value) + f"{NBSP}*" * row.found
                cells = [contrast, span(row), probability(row.p), share(part.value), share(floor.value), f"{row.n:,}"]
                rows.append([SUBJECTS[subject], str(period), kind, *cells])
    return table(
        {
            "of": "left", "period, px": "right", "family": "left", "contrast, dB": "right", "95 % interval": "left",
            "p": "right", "share": "right", "its floor": "right", "n": "right",
        },
        rows,
        caption=[
            "Contrast: how far the new harmonics of the period stand above the spectrum around them; * found: p at most 0.01 "
            "and the interval above 0. p: joint over images, adjusted over periods. Share: of all energy, on the whole lattice; "
            "its floor is white noise's."
        ],
        stretch="of",
    )  # fmt: skip


def _imbalances(t: Trained) -> Block:
    rows = []
    for subject in t.subjects:
        for period in t.run.periods(t.label, subject):
            metrics = ("set_imbalance", "set_imbalance_test", "phase_ratio")
            imbalance, floor, ratio = (t.row(subject, period, metric, "phase") for metric in metrics)
            cells = [number(imbalance.value, 3), span(imbalance, 3), number(floor.value, 3), probability(imbalance.p)]
            rows.append([SUBJECTS[subject], str(period), *cells, number(ratio.value, 2), f"{imbalance.n:,}"])
    return table(
        {
            "of": "left", "period, px": "right", "imbalance": "right", "95 % interval": "left", "its floor": "right",
            "p": "right", "max / min": "right", "n": "right",
        },
        rows,
        caption=[
            "Imbalance: variation of the energy over the T x T pixel positions that the images have in common, chance taken "
            "out; its floor is the 95 % quantile where each image's map is moved at random. With few images p cannot be small."
        ],
        stretch="of",
    )  # fmt: skip
