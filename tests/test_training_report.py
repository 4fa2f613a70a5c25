"""The PDF of a training run: what the table and the arrays hold, and nothing else, whatever the run lacks."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from torch import Tensor

from gradlens.compare import measure
from gradlens.images import sample
from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.report import write_report
from gradlens.report.run import number
from gradlens.report.trained import Trained
from gradlens.report.training import conclusion, short_table
from gradlens.results import COLUMNS, Results, circumstances
from gradlens.spectra import LatticeStatistics, lattice_statistics

LABEL = "deconv:5/stride2"
HOSTILE = "#panic(1) $x$ *b* @y <l> \\u{41} [z].png"
COLUMN = ("signed", "envelope")


def crops(count: int, side: int, channels: int = 3) -> Tensor:
    """Real pictures `[N C H W]` in [0, 1]: crops of the sample photographs, halved."""
    whole = [
        torch.from_numpy(np.array(sample(name))).permute(2, 0, 1) / 255 for name in ("chelsea", "coffee", "rocket")
    ]
    generator = torch.Generator().manual_seed(0)
    cut = []
    for number_ in range(count):
        picture = whole[number_ % 3]
        top, left = (int(torch.randint(n - 2 * side, (), generator=generator)) for n in picture.shape[1:])
        part = picture[:channels, top : top + 2 * side, left : left + 2 * side]
        cut.append(part.unflatten(1, (side, 2)).unflatten(3, (side, 2)).mean((2, 4)))
    return torch.stack(cut)


def training_run(
    *, side: int = 32, channels: int = 3, count: int = 12, entries: int = 12, real: Tensor | None = None
) -> Results:
    """What a run of `train` leaves, made of untrained networks and real pictures."""
    periods = (2, 4) if side < 64 else (2, 4, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StagedGenerator(side, latent=16, width=8, channels=channels, upsampler="deconv:5")
        discriminator = StagedDiscriminator(side, width=8, channels=channels).eval()
        images = generator(torch.randn(count, 16)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
    real = crops(count, side, channels) if real is None else real
    measured = {
        "sample": (images.detach() + 1) / 2, "input-gradient": gradient, "image": real,
    }  # fmt: skip
    statistics = {subject: lattice_statistics(x, periods) for subject, x in measured.items()}
    rows = [measure(s, model=LABEL, subject=subject) for subject, s in statistics.items()]
    table = pd.concat([*rows, quality_rows(count)], ignore_index=True)
    return Results(table, arrays(measured, statistics, periods, entries), manifest(side, channels, periods, entries))


def quality_rows(n: int) -> pd.DataFrame:
    """Rows of quality of the samples and of the control."""
    records = []
    for subject, values in {"sample": (31.25, 0.044, 7.5), "image": (2.125, 0.001, 7.25)}.items():
        for metric, value in zip(
            (f"FD[resnet18_half, {n}]", f"KID[resnet18_half, {n}]", "spectrum_distance"), values, strict=True
        ):
            unit = "dB" if "spectrum" in metric else "1"
            records.append({"model": LABEL, "subject": subject, "layer": "", "image": "", "kind": "", "metric": metric,
                            "value": value, "low": 0.9 * value, "high": 1.1 * value, "n": n, "unit": unit})  # fmt: skip
    return pd.DataFrame(records).reindex(columns=list(COLUMNS))


def arrays(
    measured: Mapping[str, Tensor], statistics: Mapping[str, LatticeStatistics], periods: tuple[int, ...], entries: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    steps = 50 * np.arange(1, entries + 1)
    fall = np.exp(-steps / 300)
    held = {
        "log/step": steps, "log/loss_discriminator": 1.3 - 0.4 * fall, "log/loss_generator": 0.8 + fall,
        "log/images_per_second": 900 - 300 * (steps == 50),
        "samples": measured["sample"].numpy(), "real": measured["image"].numpy(),
    }  # fmt: skip
    for period in periods:
        for kind in COLUMN:
            ends = {s: float(v.contrast[kind, period].mean()) for s, v in statistics.items()}
            held[f"real/{kind}/{period}"] = np.float32(ends["image"])
            for subject, name in {"gradient": "input-gradient", "sample": "sample"}.items():
                if (subject, kind) != ("sample", "envelope"):
                    held[f"log/{subject}/{kind}/{period}"] = ends[name] + 8 * fall + rng.normal(0, 0.3, entries)
    held |= {k: v.astype(np.float32) for k, v in held.items() if v.dtype == np.float64}
    noise = (
        rng.random((min(entries, 6), *measured["sample"].shape))
        * np.exp(-np.arange(min(entries, 6)))[:, None, None, None, None]
    )
    mixed = (1 - noise / 2) * measured["image"].numpy() + noise / 2 * rng.random(noise.shape)
    held["progress/step"] = steps[: len(noise)]
    held["progress/samples"] = (255 * mixed[:, :8]).astype(np.uint8)
    names = {"sample": "sample", "input-gradient": "gradient", "image": "image"}
    return held | {f"power/{names[s]}": v.power.numpy() for s, v in statistics.items()}


def manifest(side: int, channels: int, periods: tuple[int, ...], entries: int) -> dict[str, Any]:
    ups = [
        {"layer": f"up{n}", "kind": "ConvTranspose2d 5, stride 2", "certificate": "fail", "deviation": 0.31}
        for n in (1, 2, 3)
    ]
    downs = [
        {"layer": f"down{n}", "kind": "Conv2d 4, stride 2", "certificate": "pass", "deviation": 1e-9} for n in (1, 2, 3)
    ]
    training = {
        "config": {"data": "photos.zip", "upsampler": "deconv:5", "downsampler": "stride2", "resolution": side, "batch_size": 64,
                   "steps": 50 * entries, "loss": "hinge", "augment": ["shift", "flip"], "seed": 0},
        "label": LABEL,
        "data": {"source": "photos.zip", "found": 1004, "used": 1003, "skipped": {HOSTILE: "images: no picture"},
                 "sha256": "ab" * 32, "resolution": side, "channels": channels},
        "generator": {"builder": "gradlens.networks:StagedGenerator", "parameters": 54_321, "layers": ups,
                      "arguments": {"resolution": side, "latent": 16, "width": 8, "channels": channels, "upsampler": "deconv:5"}},
        "discriminator": {"builder": "gradlens.networks:StagedDiscriminator", "parameters": 43_210, "layers": downs,
                          "arguments": {"resolution": side, "width": 8, "channels": channels}},
        "steps": 50 * entries, "images": 3200 * entries, "images_per_second": 861.4, "device": "cpu", "processes": 1,
        "precision": "float32", "periods": list(periods), "fixed": {"resumed": []}, "interrupted": False,
    }  # fmt: skip
    command = "gradlens train --data photos.zip --upsampler deconv:5 --downsampler stride2"
    return {"training": training, "partial": False, "command": command, **circumstances()}
