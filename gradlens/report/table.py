"""The numbers: every measure of every period, for the gradients and for the photographs."""

import numpy as np

from gradlens.report.answer import explained
from gradlens.report.document import Block, code, heading, pagebreak, paragraph, table
from gradlens.report.run import KINDS, Run, number, probability, share, span


def section(run: Run) -> tuple[list[Block], dict[str, bytes]]:
    blocks: list[Block] = [
        pagebreak(),
        heading("The numbers"),
        explained(),
        paragraph("All of them, and each image's own, are in ", code("table.csv"), " beside this report."),
    ]
    for model in run.names:
        for subject, title in {run.subject: run.measured, "image": "photographs"}.items():
            blocks += [
                heading(f"{model}, {title}" if len(run.names) > 1 else f"{title[0].upper()}{title[1:]}", 2),
                contrasts(run, model, subject),
                phases(run, model, subject),
            ]
        if any(stage["layer"] for stage in run.stages(model)):
            blocks += [heading(f"{model}, stage by stage", 2), _stages(run, model)]
    return blocks, {}


def contrasts(run: Run, model: str, subject: str) -> Block:
    """Contrast and share of one subject, a row for each period and family."""
    rows = []
    for period in run.periods(model, subject):
        for kind in KINDS:
            contrast = run.contrast(model, subject, period, kind)
            part = run.row(model, subject, period, "lattice_share", kind)
            floor = run.row(model, subject, period, "lattice_share_floor", kind)
            nothing = np.isnan(contrast.value)
            rows.append(
                [
                    str(period),
                    kind,
                    "not measurable at this size" if nothing else number(contrast.value),
                    "" if nothing else span(contrast),
                    "" if nothing else probability(contrast.p),
                    share(part.value),
                    share(floor.value),
                    str(contrast.n),
                ]
            )
    return table(
        {
            "period, px": "right", "family": "left", "contrast, dB": "right", "95 % interval": "left", "p": "right",
            "share": "right", "its floor": "right", "n": "right",
        },
        rows,
        caption=[
            "Contrast: how far the new harmonics of the period stand above the spectrum around them. p: joint over images, "
            "adjusted over periods. Share: of all energy, on the whole lattice; its floor is white noise's."
        ],
    )  # fmt: skip


def phases(run: Run, model: str, subject: str) -> Block:
    """Imbalance over the pixel positions of one subject, a row for each period."""
    rows = []
    for period in run.periods(model, subject):
        imbalance, test, ratio = (
            run.row(model, subject, period, metric, "phase")
            for metric in ("set_imbalance", "set_imbalance_test", "phase_ratio")
        )
        rows.append(
            [
                str(period),
                number(imbalance.value, 3),
                span(imbalance, 3),
                number(test.value, 3),
                probability(imbalance.p),
                number(ratio.value, 2),
                str(ratio.n),
            ]
        )
    return table(
        {
            "period, px": "right", "imbalance": "right", "95 % interval": "left", "its floor": "right", "p": "right",
            "max / min": "right", "n": "right",
        },
        rows,
        caption=[
            "Imbalance: variation of the energy over the T x T pixel positions that the images have in common, chance taken "
            "out; its floor is the 95 % quantile where each image's map is moved at random. With few images p cannot be small."
        ],
    )  # fmt: skip


def _stages(run: Run, model: str) -> Block:
    rows = []
    for stage in run.stages(model):
        if not stage["layer"]:
            continue
        layer = stage["layer"]
        for period in sorted({int(p) for p in run.set_rows(model, "layer-gradient", layer)["period"]}):
            signed, envelope = (run.contrast(model, "layer-gradient", period, kind, layer) for kind in KINDS)
            if np.isnan(signed.value):
                continue
            imbalance, ratio = (
                run.row(model, "layer-gradient", period, metric, "phase", layer)
                for metric in ("set_imbalance", "phase_ratio")
            )
            rows.append(
                [
                    layer,
                    " x ".join(map(str, stage["size"])),
                    str(period),
                    str(period * stage["stride"][0]),
                    number(signed.value),
                    probability(signed.p),
                    number(envelope.value),
                    probability(envelope.p),
                    number(imbalance.value, 2),
                    number(ratio.value),
                ]
            )
    return table(
        {
            "stage": "left", "size": "left", "period": "right", "in the image": "right", "signed, dB": "right", "p": "right",
            "envelope, dB": "right", "p ": "right", "imbalance": "right", "max / min": "right",
        },
        rows,
        caption=[
            "From coarse to fine. The period is in pixels of the stage and, beside it, of the image; periods that a stage is "
            "too small for are left out."
        ],
        stretch="stage",
    )  # fmt: skip
