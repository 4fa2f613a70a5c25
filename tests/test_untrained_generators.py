"""`analyses.untrained_generators` in small: its generators, what it calls a period's own, its verdicts and its pages."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pypdf import PdfReader

from analyses import untrained_generators
from analyses.untrained_generators import (
    ARTICLE,
    FRESH,
    INITIAL,
    KINDS,
    LATENT,
    PERIODS,
    WIDTHS,
    Config,
    generator,
    imbalance,
    measured,
    own,
    predicted,
    verdicts,
)
from gradlens.compare import interval
from gradlens.report.run import number
from gradlens.results import Results
from gradlens.spectra import lattice_statistics, phase_energy, phase_imbalance
from reports.untrained_generators import write_report


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrained_generators, "WIDTHS", {32: WIDTHS[32]})
        patch.setattr(untrained_generators, "INITIAL", {"PyTorch": None})
        return untrained_generators.run(Config(seeds=3, latents=8))


@pytest.mark.parametrize(("name", "initial", "side"), list(product(KINDS, INITIAL, WIDTHS)))
def test_every_generator_has_its_layers_and_its_size(name: str, initial: str, side: int) -> None:
    network = generator(KINDS[name], initial, side, 0)
    with torch.no_grad():
        images = network(torch.randn(2, LATENT, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (2, 3, side, side)
    assert images.std() > 0.01
    stages = [type(network.get_submodule(f"up{n}")).__name__ for n in range(1, len(WIDTHS[side]))]
    plain = len(stages) - KINDS[name].count
    assert set(stages[:plain]) <= {"ResizeConv"}
    if KINDS[name].count:
        assert "ResizeConv" not in stages[plain:]
    weights = [p for n, p in network.named_parameters() if n.startswith(("up", "fc"))]
    assert not any(n.endswith("bias") and n.startswith(("up", "fc")) for n, _ in network.named_parameters())
    if initial == "DCGAN" and "4x4 ICNR" not in name:  # whose taps are sums of one draw
        assert all(float(w.detach().std()) == pytest.approx(0.02, rel=0.1) for w in weights)  # 576 taps: 3 %


def test_weights_are_those_of_the_seed_and_nothing_else_changes() -> None:
    kind, state = KINDS["sub-pixel ICNR, last two"], torch.get_rng_state()
    one, same, other = (list(generator(kind, "DCGAN", 32, seed).parameters()) for seed in (1, 1, 2))
    fresh = list(generator(kind, "DCGAN", 32, 1, fresh=True).parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, same, fresh, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("initial", INITIAL)
@pytest.mark.parametrize("name", [n for n in KINDS if "ICNR" in n or "all" in n])
def test_a_layer_that_starts_as_a_resize_keeps_a_constant(name: str, initial: str) -> None:
    last = generator(KINDS[name], initial, 32, 0).get_submodule("up3")
    with torch.no_grad():
        inside = last(torch.ones(1, 64, 8, 8))[..., 4:-4, 4:-4]
    assert float((inside - inside[..., :1, :1]).abs().max()) < 1e-5 * float(inside.abs().max())  # float32 rounding


def test_own_takes_out_what_repeats_with_half_the_period() -> None:
    generator_ = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 32, 32, generator=generator_, dtype=torch.float64)
    whole, half = phase_energy(x, 4), phase_energy(x, 2)
    slow = whole.clone()
    for n, p, q in product(range(3), range(4), range(4)):
        slow[n, p, q] += 1 - half[n, p % 2, q % 2]
    torch.testing.assert_close(own(whole), slow)
    torch.testing.assert_close(own(half), half)
    for n in range(3):
        one = imbalance(whole[n : n + 1])
        assert one == pytest.approx(float(phase_imbalance(x[n : n + 1], 4, debias=False)))
        assert one**2 == pytest.approx(imbalance(own(whole)[n : n + 1]) ** 2 + imbalance(half[n : n + 1]) ** 2)


def test_a_lattice_of_two_is_none_of_four() -> None:
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x[..., ::2, ::2] += 2
    values = measured(x)
    assert values["signed, p", 2] <= 0.01 < values["signed, p", 4]
    assert values["own_imbalance", 2] > 0.3 > 0.1 > values["own_imbalance", 4]
    assert values["set_imbalance", 4] > 0.3


def test_the_p_of_a_draw_is_twice_the_median_of_its_samples() -> None:
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    x[:, :, ::2] += torch.tensor([2.0, 0.3, 0.2, 0.0]).view(4, 1, 1, 1)
    each = sorted(lattice_statistics(x, PERIODS).p_value["signed", 2].tolist())
    assert each[0] < each[1] < each[2] < 0.5
    assert measured(x)["signed, p", 2] == 2 * each[1]


def test_the_map_of_a_batch_is_what_the_batch_shows() -> None:
    """Within 0.03: 64 latents, and channels that the map takes for independent."""
    for name in ("deconvolution 3x3, last two", "deconvolution 4x4, last", "resize-convolution, all"):
        network = generator(KINDS[name], "PyTorch", 32, 0)
        with torch.no_grad():
            images = network(torch.randn(64, LATENT, generator=torch.Generator().manual_seed(5)))
        shown, said = measured(images), predicted(network)
        for period in PERIODS:
            assert said["predicted_imbalance", period] == pytest.approx(shown["set_imbalance", period], abs=0.03)


def test_statistics_that_no_batch_has_touched_are_another_network() -> None:
    kind = KINDS["deconvolution 5x5, last"]
    own_batch, fresh = (predicted(generator(kind, "PyTorch", 32, 0, fresh=f)) for f in (False, True))
    assert fresh["predicted_imbalance", 2] > 1.5 * own_batch["predicted_imbalance", 2]


def test_the_article_holds_and_is_foreseen(results: Results) -> None:
    found = verdicts(results.table)
    assert len(found) == len(KINDS) + 3
    assert set(found.loc[found["held"].notna(), "held"]) == {True}
    assert set(found.loc[found["foreseen"].notna(), "foreseen"]) == {True}
    article = found.loc[found["layer"] == ARTICLE].set_index("model")["found"]
    assert list(article) == [(2, 4), (2,), ()]
    icnr = found.loc[found["model"].str.contains("ICNR"), "found"]
    assert list(icnr) == [(), ()]


def test_a_row_is_the_mean_over_seeds_and_its_interval(results: Results) -> None:
    t = results.table
    assert not t.duplicated(["model", "layer", "period", "kind", "metric"]).any()
    rows = t.loc[(t["metric"] == "own_imbalance")]
    assert set(rows["n"]) == {3}
    for row in rows.to_dict("records"):
        values = results.arrays[f"own_imbalance/{row['model']}/{row['layer']}"][PERIODS.index(row["period"])]
        assert row["value"] == pytest.approx(values.mean())
        assert (row["low"], row["high"]) == pytest.approx(interval(values))
    assert set(t.loc[t["metric"] == FRESH, "model"]) == set(KINDS)
    ranks = t.loc[t["metric"] == "rank_correlation"]
    assert len(ranks) == len(PERIODS) and (ranks["value"] > 0.5).all()


def test_a_verdict_needs_p_and_interval(results: Results) -> None:
    t = results.table.copy()
    at = (t["model"] == "deconvolution 4x4, last") & (t["kind"] == "signed") & (t["period"] == 2)
    for column, value in (("p", 0.02), ("low", -0.1), ("value", -1.0)):
        changed = t.copy()
        changed.loc[at, column] = value
        row = verdicts(changed).set_index("model").loc["deconvolution 4x4, last"]
        assert row["found"] == () and row["held"] is False and row["foreseen"] is False


def test_two_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds: must be at least 3, got 2"):
        Config(seeds=2)


def test_pages_say_the_table(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path)
    words = " ".join(" ".join(page.extract_text() for page in PdfReader(write_report(tmp_path)).pages).split())
    assert results.manifest["command"] in words
    t = results.table
    for row in t.loc[t["metric"].isin(["own_imbalance", "predicted_own_imbalance"])].to_dict("records"):
        assert number(row["value"], 3) in words
    for row in t.loc[t["metric"] == "lattice_contrast"].to_dict("records"):
        assert number(row["value"]) in words
    Results(pd.DataFrame(t), {"a": np.zeros(1)}, {"command": "python -m analyses.other"}).write(tmp_path)
    with pytest.raises(ValueError, match=r"no run of analyses\.untrained_generators"):
        write_report(tmp_path)
