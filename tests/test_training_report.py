"""The PDF of a training run: what the table and the arrays hold, and nothing else, whatever the run lacks."""

import copy
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from safetensors.torch import save_file
from torch import Tensor

from gradlens import figures
from gradlens.commands.report import build_app
from gradlens.compare import measure
from gradlens.images import sample
from gradlens.networks import StagedDiscriminator, StagedGenerator
from gradlens.report import write_report
from gradlens.report.run import number
from gradlens.report.trained import Trained
from gradlens.report.training import conclusion, short_table
from gradlens.report.training_course import _draw_lattice
from gradlens.report.training_made import _recipe, _wrapped
from gradlens.results import COLUMNS, Results, circumstances
from gradlens.spectra import LatticeStatistics, lattice_statistics

LABEL = "deconv:5/stride2"
HOSTILE = "#panic(1) $x$ *b* @y <l> \\u{41} [z].png"
KINDS = ("signed", "envelope")
NETWORKS = ("generator", "discriminator")


@pytest.fixture(scope="module")
def results() -> Results:
    return training_run()


@pytest.fixture(scope="module")
def saved(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(results, tmp_path_factory.mktemp("run"))


def drawn(results: Results, folder: Path) -> Path:
    results.write(folder)
    write_report(folder)
    return folder


def text_of(folder: Path) -> str:
    """The words of a PDF, whatever breaks its lines."""
    pages = PdfReader(folder / "report.pdf").pages
    return " ".join(" ".join(page.extract_text() for page in pages).replace("\u200b", "").split()).replace(
        "\u00a0", " "
    )


def close_up(text: str) -> str:
    """`text` without spaces and hyphens, which stand where a line ends."""
    return re.sub(r"[\s\u00ad-]", "", text)


def found(value: float, low: float, high: float, p: float = 0.0001) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "p": p}


def changed(results: Results, subject: str, period: int, kind: str, **cells: float) -> Results:
    """The run with another contrast at one place."""
    t = results.table.copy()
    at = (t["subject"] == subject) & (t["period"] == period) & (t["kind"] == kind) & (t["metric"] == "lattice_contrast")
    assert len(t.loc[at]) == 1
    for name, value in cells.items():
        t.loc[at, name] = value
    return replace(results, table=t)


def bare_of(results: Results) -> Results:
    """The run with no lattice anywhere: every contrast 0.1 dB, p 0.5."""
    t = results.table.copy()
    contrasts = t["metric"] == "lattice_contrast"
    t.loc[contrasts, ["value", "low", "high", "p"]] = [0.1, -0.2, 0.4, 0.5]
    return replace(results, table=t)


def told(results: Results, **fields: Any) -> Results:
    """The run with other words in its manifest."""
    manifest = copy.deepcopy(dict(results.manifest))
    manifest["training"] |= fields
    return replace(results, manifest=manifest | {"partial": bool(fields.get("interrupted"))})


def without(results: Results, *names: str) -> Results:
    """The run without the arrays whose names begin so."""
    kept = {name: array for name, array in results.arrays.items() if not name.startswith(names)}
    return replace(results, arrays=kept)


def test_the_answer_when_nothing_is_found(results: Results) -> None:
    assert conclusion(bare_of(results)) == (
        "After 600 steps (38,400 images) the samples of deconv:5/stride2 carry no lattice of 2 px (0.1 dB; real images 0.1 dB) "
        "or 4 px (0.1 dB; real images 0.1 dB). The discriminator's input gradient carries no lattice of 2 px (0.1 dB) or 4 px "
        "(0.1 dB)."
    )


def test_the_answer_names_what_is_found_and_what_is_not(results: Results) -> None:
    run = changed(bare_of(results), "sample", 2, "signed", **found(8.04, 7.1, 9))
    run = changed(run, "input-gradient", 4, "envelope", **found(3.2, 2.1, 4.4))
    assert conclusion(run) == (
        "After 600 steps (38,400 images) the samples of deconv:5/stride2 carry a lattice of 2 px (8.0 dB; real images 0.1 dB), "
        "and none of 4 px (0.1 dB; real images 0.1 dB). The discriminator's input gradient carries a lattice of 4 px (3.2 dB, "
        "envelope), and none of 2 px (0.1 dB)."
    )


@pytest.mark.parametrize(("share", "said"), [(1e-5, True), (0.5, False)])
def test_a_lattice_in_an_empty_part_of_the_spectrum_is_called_so(results: Results, share: float, said: bool) -> None:
    run = changed(results, "input-gradient", 2, "signed", **found(5.0, 4.5, 5.5))
    rows = (run.table["subject"] == "input-gradient") & (run.table["period"] == 2) & (run.table["kind"] == "signed")
    run.table.loc[rows & (run.table["metric"] == "lattice_share"), "value"] = share
    assert ("it stands out of a gap in the spectrum" in conclusion(run)) == said


@pytest.mark.parametrize(
    ("cells", "carries"),
    [(found(8, 7, 9), True), (found(8, 7, 9, p=0.011), False), (found(8, -0.1, 9), False), (found(-3, -4, -2), False)],
)
def test_found_is_what_the_house_calls_found(results: Results, cells: dict[str, float], carries: bool) -> None:
    run = changed(bare_of(results), "sample", 2, "signed", **cells)
    assert ("carry a lattice of 2 px" in conclusion(run)) == carries
    assert (f" {number(cells['value'])}* " in short_table(run)) == carries


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (found(3, 2, 4), found(3, 2, 4), "The real images carry that of 2 px too."),
        (found(9, 8, 10), found(3, 2, 4), ""),
        (found(3, 0.2, 6), found(1, -0.5, 2.5, p=0.5), "At 2 px the difference from the real images may be chance."),
        (
            found(0.4, 0.3, 0.5),
            found(0.1, 0, 0.2, p=0.5),
            "At 2 px it is as faint as photographs may show without one.",
        ),
    ],
)
def test_whose_a_lattice_is(results: Results, ours: dict[str, float], theirs: dict[str, float], said: str) -> None:
    run = changed(changed(bare_of(results), "sample", 2, "signed", **ours), "image", 2, "signed", **theirs)
    words = ("real images carry", "may be chance", "as faint")
    assert said in conclusion(run)
    assert [w in conclusion(run) for w in words] == [w in said for w in words]


def test_holds_the_numbers_of_the_table(results: Results, saved: Path) -> None:
    text = text_of(saved)
    assert close_up(conclusion(results)) in close_up(text)
    t = results.table
    for record in t.loc[t["metric"].isin(["lattice_contrast", "set_imbalance"])].to_dict(orient="records"):
        digits = 1 if record["metric"] == "lattice_contrast" else 3
        assert f"{number(record['low'], digits)} to {number(record['high'], digits)}" in text
        assert number(record["value"], digits) in text
    for value in ("31.25", "28.12 to 34.38", "0.0440", "−0.0010", "7.500", "2.125", "0.4100"):
        assert value in text
    for layer in (
        *results.manifest["training"]["generator"]["layers"],
        *results.manifest["training"]["discriminator"]["layers"],
    ):
        assert f"{layer['layer']} {layer['kind']} {layer['certificate']}" in text


def test_says_how_it_was_made_and_goes_on(results: Results, saved: Path) -> None:
    text = text_of(saved)
    assert results.manifest["command"] in text
    assert "1,004 pictures found, 1 left out, 1,003 images used" in text
    assert "gradlens train --out DIR --resume" in text
    assert HOSTILE.replace(" ", "") in text.replace(" ", "")
    assert "The certificate holds for 0 of 3 layers that enlarge and 3 of 3 layers that shrink." in text


@pytest.mark.parametrize("upsampler", ["deconv:5", "subpixel"])
def test_the_recipe_makes_the_pictures_of_the_network(
    upsampler: str, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"resolution": 32, "latent": 16, "width": 8, "upsampler": upsampler}
    generator = StagedGenerator(**arguments).eval()
    save_file(generator.state_dict(), tmp_path / "generator.safetensors")
    config = dict(results.manifest["training"]["config"], upsampler=[upsampler])
    run = told(results, config=config, generator=dict(results.manifest["training"]["generator"], arguments=arguments))
    monkeypatch.chdir(tmp_path)
    latents = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "randn", lambda *size: latents if size == latents.shape else None)
    given: dict[str, Any] = {}
    with torch.no_grad():
        exec("\n".join(_recipe(Trained(run))), given)
        torch.testing.assert_close(given["images"], (generator(latents) + 1) / 2)


def test_a_long_command_is_one_command() -> None:
    words = ["gradlens", "train", "a b/it's.zip", *(f"--flag-{n}={'x' * n}" for n in range(30))]
    lines = _wrapped(shlex.join(words)).splitlines()
    assert len(lines) > 5
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split("".join(line.removesuffix("\\") for line in lines)) == words
    assert max(map(len, lines)) <= 90


def test_is_drawn_again_from_its_results_alone_by_the_command(saved: Path) -> None:
    before = (saved / "report.pdf").read_bytes()
    assert build_app()([str(saved)]) == 0
    assert (saved / "report.pdf").read_bytes() == before
    assert {path.name for path in (saved / "figures").iterdir()} == {
        "samples.svg",
        "curves.svg",
        "progress.svg",
        "spectra.svg",
    }


def test_the_short_table_is_short(results: Results) -> None:
    lines = short_table(results).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines[1:])) <= 100
    assert lines[0] == conclusion(results)
    assert any(line.startswith("FD[resnet18_half, 12]: 31.25, real data 2.125") for line in lines)


def test_the_short_table_is_short_however_much_was_measured(results: Results) -> None:
    more = [quality_rows(n) for n in range(20, 25)]
    run = replace(told(results, periods=[2, 4, 8]), table=pd.concat([results.table, *more], ignore_index=True))
    assert len(short_table(run).splitlines()) == 12


def test_a_panel_shows_samples_gradient_and_real_images(results: Results) -> None:
    _, axes = figures.new_figure(2, 2)
    axes[0, 0].set_axis_off()
    ax = _draw_lattice(Trained(results), axes[0, 0], 2, "signed")
    lines = {line.get_label(): line.get_ydata() for line in ax.lines if not str(line.get_label()).startswith("_")}
    assert ax.axison
    assert list(lines) == ["samples", "discriminator's input gradient", "real images"]
    np.testing.assert_array_equal(lines["samples"], results.arrays["log/sample/signed/2"].astype(float))
    np.testing.assert_array_equal(
        lines["discriminator's input gradient"], results.arrays["log/gradient/signed/2"].astype(float)
    )
    np.testing.assert_array_equal(lines["real images"], float(results.arrays["real/signed/2"]))


def unmeasured(results: Results) -> Results:
    """Interrupted before anything was measured."""
    return replace(
        told(results, interrupted=True, steps=12, images=768, images_per_second=0.0),
        table=results.table.iloc[:0],
        arrays={},
    )


def one_entry(results: Results) -> Results:
    arrays = {k: v[:1] if k.startswith(("log/", "progress/")) else v for k, v in results.arrays.items()}
    return replace(results, arrays=arrays)


def nan_values(results: Results) -> Results:
    arrays = {
        k: np.full_like(v, np.nan) if k.startswith(("log/loss", "log/sample", "real/")) else v
        for k, v in results.arrays.items()
    }
    run = changed(
        replace(results, arrays=arrays), "sample", 4, "signed", value=np.nan, low=np.nan, high=np.nan, p=np.nan
    )
    return changed(run, "sample", 4, "envelope", value=np.nan, low=np.nan, high=np.nan, p=np.nan)


def no_gradient(results: Results) -> Results:
    run = without(results, "log/gradient", "power/gradient")
    return replace(run, table=run.table.loc[run.table["subject"] != "input-gradient"])


def no_quality(results: Results) -> Results:
    return replace(results, table=results.table.loc[results.table["period"].notna()])


def own_factory(results: Results) -> Results:
    networks = {
        name: {"builder": "mine.networks:make", "arguments": {}, "parameters": 7, "layers": []} for name in NETWORKS
    }
    return told(results, **networks)


def hostile(results: Results) -> Results:
    name = "x" * 300
    data = dict(results.manifest["training"]["data"], source=f"/{name}/{HOSTILE}")
    data["skipped"] = {f"{HOSTILE}-{number_}-{name}": f"images: {HOSTILE} {name}" for number_ in range(40)} | {
        "写真": "ภาพ",
        "": "",
    }
    return told(results, data=data, config={"data": name, "nothing": None, "list": [], "map": {"a": 1.0}})


FAULTS: dict[str, tuple[Callable[[Results], Results], list[str]]] = {
    "before the first measurement": (
        unmeasured,
        ["Interrupted after 12 of 600 steps (768 images), before the samples of deconv:5/stride2 were measured.", "– images/s"],
    ),
    "interrupted": (lambda r: told(r, interrupted=True, steps=300), ["Interrupted after 300 of 600 steps (38,400 images)"]),
    "a single entry": (one_entry, ["The log, 1 line."]),
    "NaN": (nan_values, [", and could not be measured at 4 px.", "too small to tell"]),
    "no gradient": (no_gradient, ["the samples of deconv:5/stride2 carry"]),
    "no quality": (no_quality, ["This run did not measure it."]),
    "own factory": (own_factory, ["mine.networks:make", "No layer of it that enlarges has a certificate in this run."]),
    "hostile": (hostile, ["42 files did not read as pictures", "And 30 more, listed in manifest.json."]),
    "resumed": (lambda r: told(r, resumed=[200, 400]), ["It was resumed after step 200, 400."]),
    "no pictures": (lambda r: without(r, "samples", "real", "progress", "power"), ["As it trained"]),
    "nothing logged": (lambda r: without(r, "log"), ["Mean power at the end"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_draws_whatever_a_run_lacks(results: Results, tmp_path: Path, fault: str) -> None:
    spoil, expected = FAULTS[fault]
    run = spoil(results)
    text = text_of(drawn(run, tmp_path))
    for words in expected:
        assert words in text
    assert close_up(conclusion(run)) in close_up(text)
    assert len(short_table(run).splitlines()) <= 12
    assert " nan" not in text


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (256, 3)])
def test_other_sizes_and_grey(side: int, channels: int, tmp_path: Path) -> None:
    run = training_run(side=side, channels=channels, count=3, entries=2)
    text = text_of(drawn(run, tmp_path))
    assert f"{side} x {side} px, {channels} channel" in text
    assert close_up(conclusion(run)) in close_up(text)


def test_a_sheet_holds_the_pixels_of_each_image() -> None:
    images = np.random.default_rng(0).random((3, 3, 5, 4)).astype(np.float32)
    _, axes = figures.new_figure(1, 1)
    (shown,) = figures.draw_sheet(axes[0, 0], images, 2).images
    pixels = np.asarray(shown.get_array())
    factor = len(pixels) // 12
    assert pixels.shape == (12 * factor, 10 * factor, 3) == (*(factor * n for n in figures.sheet_size(2, 2, (5, 4))), 3)
    whole = np.moveaxis(pixels[::factor, ::factor], -1, 0)
    np.testing.assert_array_equal(pixels, pixels[::factor, ::factor].repeat(factor, 0).repeat(factor, 1))
    np.testing.assert_array_equal(whole[:, :5, 6:], images[1])
    np.testing.assert_array_equal(whole[:, 7:, :4], images[2])
    assert (whole[:, 5:7] == 1).all()


def test_a_picture_is_placed_to_the_inch() -> None:
    figure, axes = figures.new_figure(4, 2)
    box = figures.place(figure, axes[0, 0], (1, 0.5), (2, 1)).get_window_extent()
    figure.draw_without_rendering()
    np.testing.assert_allclose(np.array(box.bounds) / figure.dpi, [1, 0.5, 2, 1], atol=1e-9)  # rounding


def test_a_curve_leaves_out_what_is_not_finite_and_a_level_that_is_not_known() -> None:
    _, axes = figures.new_figure(2, 2)
    values = np.array([1, np.nan, 3, np.inf])
    ax = figures.draw_curve(
        axes[0, 0], np.arange(4), {"a": (values, "red")}, unit="dB", title="t", level=("real", np.nan), resumed=[2]
    )
    dotted, line = ax.lines
    assert dotted.get_linestyle() == ":"
    np.testing.assert_array_equal(line.get_xydata(), [[0, 1], [2, 3]])
    assert ax.get_ylabel() == "dB"


def crops(count: int, side: int, channels: int = 3) -> Tensor:
    """Real pictures `[N C H W]` in [0, 1]: crops of the sample photographs, halved where there is room."""
    scale = 2 if side <= 128 else 1
    whole = [
        torch.from_numpy(np.array(sample(name))).permute(2, 0, 1) / 255 for name in ("chelsea", "coffee", "rocket")
    ]
    generator = torch.Generator().manual_seed(0)
    cut = []
    for number_ in range(count):
        picture = whole[number_ % 3]
        top, left = (int(torch.randint(n - scale * side, (), generator=generator)) for n in picture.shape[1:])
        part = picture[:channels, top : top + scale * side, left : left + scale * side]
        cut.append(part.unflatten(1, (side, scale)).unflatten(3, (side, scale)).mean((2, 4)))
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
    """Rows of quality of the samples and of the control, those of `gradlens.redesign.quality`."""
    names = (f"FD[resnet18_half, {n}]", f"KID[resnet18_half, {n}]", f"nearest_neighbour[resnet18_half, {n}]",
             f"copied_share[resnet18_half, {n}]", "spectrum_distance", "spectrum_distance_test")  # fmt: skip
    records = []
    for subject, values in {
        "sample": (31.25, 0.044, 0.41, 0.012, 7.5, 1.25),
        "image": (2.125, -0.001, 0.5, 0.01, 1.5, 1.0),
    }.items():
        for metric, value in zip(names, values, strict=True):
            unit = "dB" if "spectrum" in metric else "1"
            record = {
                "model": LABEL,
                "subject": subject,
                "layer": "",
                "image": "",
                "kind": "",
                "metric": metric,
                "value": value,
            }
            records.append(record | {"low": 0.9 * value, "high": 1.1 * value, "p": 0.42, "n": n, "unit": unit})
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
        for kind in KINDS:
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
        "config": {
            "data": ["photos.zip"], "upsampler": ["deconv:5"], "downsampler": ["stride2"], "resolution": side, "width": 8,
            "batch_size": 64, "steps": 50 * entries, "loss": "hinge", "latent": 16, "augment": ["shift", "flip"], "seed": 0,
        },
        "label": LABEL,
        "data": {"source": "photos.zip", "found": 1004, "used": 1003, "skipped": {HOSTILE: "images: no picture"},
                 "sha256": "ab" * 32, "resolution": side, "channels": channels},
        "generator": {"builder": "gradlens.networks:StagedGenerator", "parameters": 54_321, "layers": ups,
                      "arguments": {"resolution": side, "latent": 16, "width": 8, "channels": channels, "upsampler": "deconv:5"}},
        "discriminator": {"builder": "gradlens.networks:StagedDiscriminator", "parameters": 43_210, "layers": downs,
                          "arguments": {"resolution": side, "width": 8, "channels": channels}},
        "steps": 50 * entries, "images": 3200 * entries, "images_per_second": 861.4, "device": "cpu", "processes": 1,
        "precision": "float32", "periods": list(periods), "resumed": [], "interrupted": False,
    }  # fmt: skip
    command = "gradlens train --data photos.zip --upsampler deconv:5 --downsampler stride2"
    return {"training": training, "partial": False, "command": command, **circumstances()}
