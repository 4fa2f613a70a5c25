"""`analyses.gan_discriminator`: which runs it asks for, what they were before training, its rules, its pages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses import gans
from analyses.claims import claim_rows, verdict
from analyses.gan_discriminator import (
    CLAIMS,
    FIRSTS,
    GRADIENT,
    MADE,
    NEUTRAL,
    PLAIN,
    REAL,
    SAMPLE,
    STRIDE,
    TRAINED,
    UNTRAINED,
    VARIATIONS,
    Config,
    configs,
    differences,
    gathered,
    means,
    named,
    of_seeds,
    untrained,
)
from gradlens.compare import measure
from gradlens.redesign.gan.dataset import of_tensor
from gradlens.redesign.gan.instruments import generated, gradients_at, settle
from gradlens.redesign.gan.outcome import MEASURED
from gradlens.redesign.grid import cells, run_grid
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.spectra import fine_detail, lattice_statistics
from gradlens.spectra.statistics import of_pictures
from reports.gan_discriminator import designs, write_report
from tests.gans import begun, images, tiny

pytestmark = pytest.mark.slow  # their cells and runs take tens of seconds

KINDS = ("signed", "envelope")


def row(model: str, subject: str, seed: int, value: float, kind: str = "signed", stage: str = TRAINED) -> dict:
    layer = "" if subject == REAL else stage
    return {
        "model": model, "subject": subject, "layer": layer, "image": f"seed {seed}", "period": 2, "kind": kind,
        "metric": "lattice_contrast", "value": value, "n": 1, "unit": "dB",
    }  # fmt: skip


def made(neutral: tuple[float, float], real: float = -1.0) -> pd.DataFrame:
    """Single rows of three seeds; samples of the neutral generator as told for stride 2 and stride 1, gradients 20 dB apart."""
    rows = []
    for seed, off in enumerate((-0.1, 0.0, 0.1)):
        for generator in MADE:
            for first, sample, gradient in zip(FIRSTS, neutral, (15.0, -5.0), strict=True):
                name = named(generator, first)
                own = sample if generator == NEUTRAL else -4.0
                for kind in KINDS:
                    rows += [
                        row(name, SAMPLE, seed, own + off, kind), row(name, GRADIENT, seed, gradient + off, kind),
                        row(name, REAL, seed, real, kind),
                    ]  # fmt: skip
                rows.append(row(name, GRADIENT, seed, 4.0 + off, "phase") | {"metric": "phase_ratio", "unit": "1"})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("neutral", "held"),
    [
        ((9.0, 0.0), {"neutral": "held", "stride 2": "held", "stride 1": "held"}),
        ((2.0, 0.0), {"neutral": "held", "stride 2": "not held", "stride 1": "held"}),
        ((0.0, 0.0), {"neutral": "not decided", "stride 2": "not held", "stride 1": "held"}),
        ((-3.0, 0.0), {"neutral": "not held", "stride 2": "not held", "stride 1": "held"}),
        ((9.0, 9.0), {"neutral": "not decided", "stride 2": "held", "stride 1": "not held"}),
    ],
)
def test_the_sentences_are_judged_by_their_rules(neutral: tuple[float, float], held: dict[str, str]) -> None:
    single = made(neutral)
    single["value"] += np.where(single["model"] == named(NEUTRAL, PLAIN), 0.01 * single["image"].str[-1].astype(int), 0)
    table = claim_rows(CLAIMS, single, KINDS)
    assert {name: verdict(table, name, "signed") for name in held} == held
    assert verdict(table, "strided layers", "signed") == verdict(table, "many times", "signed") == "held"
    assert verdict(table, "some cases, resize", "signed") != "held"


def test_an_excess_counts_from_the_real_images_where_they_have_a_lattice_themselves() -> None:
    table = claim_rows(CLAIMS, made((9.0, 0.0), real=6.0), KINDS)
    assert verdict(table, "stride 2", "signed") == "not held"


def test_two_seeds_decide_nothing() -> None:
    single = made((9.0, 0.0))
    table = claim_rows(CLAIMS, single.loc[single["image"] != "seed 2"], KINDS)
    assert {verdict(table, claim.name, kind) for claim in CLAIMS for kind in KINDS} == {"not decided"}


def test_differences_are_of_the_same_seed() -> None:
    single = made((9.0, 1.0)).sample(frac=1, random_state=0)
    both = pd.concat([single, single.assign(value=0.0, layer=UNTRAINED).loc[single["subject"] != REAL]])
    found = pd.concat(differences(both))
    pair = of_seeds(found, f"{NEUTRAL}: {STRIDE} - {PLAIN}", SAMPLE, "signed", 2)
    assert pair == pytest.approx({0: 8.0, 1: 8.0, 2: 8.0})
    learnt = of_seeds(found, named(NEUTRAL, STRIDE), GRADIENT, "signed", 2, stage=f"{TRAINED} - {UNTRAINED}")
    assert learnt == pytest.approx({0: 14.9, 1: 15.0, 2: 15.1})
    assert means(found)["value"].notna().all()


def test_the_cells_are_those_that_all_analyses_of_gans_share() -> None:
    asked = configs(Config(seeds=(0, 1)))
    assert len(asked) == 8 and asked["neutral, stride 1", 1].label == "neutral/stride1:5+stride2:5"
    assert asked["resize, stride 2", 0].label == "resize/stride2:5" and asked["resize, stride 2", 0].rated
    searched = configs(Config(seeds=(0,), search=True))
    assert len(searched) == 2 * (2 + len(VARIATIONS))
    assert searched["neutral, D 3x3, stride 1", 0].first == "stride1:3"
    assert searched["neutral, depth 0, kernel 1, stride 2", 0].generator_args == {"depth": 0, "kernel_size": 1}
    assert all(one.generator == "neutral" for (name, _), one in searched.items() if name.count(",") > 1)


def test_an_unknown_variation_and_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--variations: must be some of .*, got 'depth 9'"):
        Config(variations=("depth 9",))
    with pytest.raises(ValueError, match="--resolution: must be one of 32, 64, got 48"):
        Config(resolution=48)


def test_what_is_measured_before_training_is_the_run_before_its_first_step() -> None:
    config = tiny(resolution=32, seed=3)
    run = begun(config)
    settle(run.pair.averaged, run.settling)
    latents = run._normal("measured", 0, MEASURED)
    samples = generated(run.pair.averaged, latents)
    statistics = of_pictures(lattice_statistics(samples, (2, 4)), lattice_statistics(fine_detail(samples), (2, 4)))
    wanted = measure(statistics, model="", subject=SAMPLE)
    state = torch.get_rng_state()
    found = untrained(config)
    assert torch.equal(torch.get_rng_state(), state)
    own = found.loc[found["subject"] == SAMPLE].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, wanted.reset_index(drop=True), rtol=1e-3)  # float32 of another layout
    gradients = lattice_statistics(gradients_at(run.pair.discriminator, samples), (2, 4))
    own = found.loc[found["subject"] == GRADIENT].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, measure(gradients, model="", subject=GRADIENT).reset_index(drop=True), rtol=1e-3)


def test_the_command_names_no_folder() -> None:
    told = Config(Path("/a/b"), cells=Path("/c/d"), search=True, variations=("depth 0", "D 3x3"))
    assert (
        gans.command("gan_discriminator", told)
        == "python -m analyses.gan_discriminator ASSETS --search --variations 'depth 0' 'D 3x3'"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Config]:
    """Two steps of three of the four designs, of one seed."""
    folder = tmp_path_factory.mktemp("cells")
    config = Config(seeds=(0,), steps=2, width=2, cells=folder)
    small = {
        key: replace(one, batch_size=4, latent=4, log_every=1, rated=0, accelerator="cpu")
        for key, one in configs(config).items()
    }
    pixels = images(12, 32)
    run_grid(list(small.values())[:3], pixels, folder)
    found = dict(zip(small, cells(small.values(), folder, of_tensor(pixels).sha256), strict=True))
    return gathered(found, config), config


def test_it_goes_on_with_what_is_there_and_says_what_is_missing(trained: tuple[Results, Config]) -> None:
    results, _ = trained
    assert designs(results.table) == ["resize, stride 2", "resize, stride 1", "neutral, stride 2"]
    assert results.manifest["missing"] == ["neutral, stride 1, seed 0"] and results.manifest["shortened"]
    assert results.arrays["samples/neutral, stride 2"].shape == (2, 8, 3, 32, 32)


def test_the_page_says_what_the_table_holds(trained: tuple[Results, Config], tmp_path: Path) -> None:
    results, _ = trained
    results.write(tmp_path)
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert "0 of 7 sentences held" in text and "Not there: neutral, stride 1, seed 0" in text
    assert "shortened for a CPU" in text and "python -m analyses.gan_discriminator ASSETS" in text
    value = of_seeds(results.table, "neutral, stride 2", SAMPLE, "signed", 2)[0]
    assert number(value) in text


def test_no_run_at_all_is_a_sentence(tmp_path: Path) -> None:
    config = Config(cells=tmp_path)
    found = cells(configs(config).values(), tmp_path, "0")
    with pytest.raises(ValueError, match="--cells: no run of this setting is finished in"):
        gathered(dict(zip(configs(config), found, strict=True)), config)
