"""Tables: what each row holds, how p is joined and adjusted, and how well the intervals cover."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from gradlens import spectra
from gradlens.compare import (
    LARGE,
    _imbalance_interval,
    adjusted,
    contrast,
    contrast_of_sets,
    difference_interval,
    fisher,
    interval,
    measure,
    spectrum_distance_rows,
)
from gradlens.results import COLUMNS
from gradlens.spectra import LatticeStatistics, lattice_statistics
from tests import reference

PERIODS = (2, 4, 16)
NAMES = ("a", "b", "c", "d")
SET_METRICS = {
    ("signed", "lattice_contrast", "dB"),
    ("signed", "lattice_share", "1"),
    ("signed", "lattice_share_floor", "1"),
    ("envelope", "lattice_contrast", "dB"),
    ("envelope", "lattice_share", "1"),
    ("envelope", "lattice_share_floor", "1"),
    ("phase", "set_imbalance", "1"),
    ("phase", "set_imbalance_test", "1"),
    ("phase", "phase_ratio", "1"),
}
IMAGE_METRICS = {
    ("signed", "lattice_contrast", "dB"),
    ("signed", "lattice_share", "1"),
    ("envelope", "lattice_contrast", "dB"),
    ("envelope", "lattice_share", "1"),
    ("phase", "phase_imbalance", "1"),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def statistics() -> LatticeStatistics:
    """Four noise images with a faint checkerboard: T=2 and 4 can be measured at 36 px, T=16 only by its share."""
    x = noise(4, 2, 36, 36)
    x[..., ::2, ::2] *= 1.3
    x[..., ::2, 1::2] += 0.3
    return lattice_statistics(x, PERIODS)


@pytest.fixture(scope="module")
def table(statistics: LatticeStatistics) -> pd.DataFrame:
    return measure(statistics, model="net", subject="input-gradient", layer="here", names=NAMES)


def row(table: pd.DataFrame, period: int, kind: str, metric: str, image: str = "") -> pd.Series:
    found = table[(table.period == period) & (table.kind == kind) & (table.metric == metric) & (table.image == image)]
    assert len(found) == 1
    return found.iloc[0]


# Rows


def test_rows_are_one_measurement_each(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["image", "period", "kind", "metric"]).any()
    for period in PERIODS:
        for image in ("", *NAMES):
            part = table[(table.period == period) & (table.image == image)]
            assert set(zip(part.kind, part.metric, part.unit, strict=True)) == (IMAGE_METRICS if image else SET_METRICS)
    assert (table.model == "net").all() and (table.subject == "input-gradient").all() and (table.layer == "here").all()
    assert (table[table.image == ""].n == 4).all() and (table[table.image != ""].n == 1).all()


def test_without_names_only_the_set_has_rows(statistics: LatticeStatistics, table: pd.DataFrame) -> None:
    alone = measure(statistics, model="net", subject="input-gradient", layer="here")
    pd.testing.assert_frame_equal(alone, table[table.image == ""])


def test_image_rows_are_raw(statistics: LatticeStatistics, table: pd.DataFrame) -> None:
    for number, name in enumerate(NAMES):
        for period in PERIODS:
            for kind in ("signed", "envelope"):
                found = row(table, period, kind, "lattice_contrast", name)
                np.testing.assert_equal(found.value, statistics.contrast[kind, period][number].item())
                np.testing.assert_equal(found.p, statistics.p_value[kind, period][number].item())
                share = row(table, period, kind, "lattice_share", name)
                assert share.value == statistics.share[kind, period][number].item() and math.isnan(share.p)
            imbalance = row(table, period, "phase", "phase_imbalance", name)
            np.testing.assert_equal(imbalance.value, statistics.imbalance[period][number].item())
    assert table[table.image != ""][["low", "high"]].isna().all().all()


def test_set_rows_are_means_and_measures_of_the_set(statistics: LatticeStatistics, table: pd.DataFrame) -> None:
    for period in (2, 4):
        for kind in ("signed", "envelope"):
            values = statistics.contrast[kind, period].numpy()
            found = row(table, period, kind, "lattice_contrast")
            assert found.value == pytest.approx(values.mean()) and (found.low, found.high) == interval(values)
            share = row(table, period, kind, "lattice_share")
            assert share.value == pytest.approx(statistics.share[kind, period].mean().item())
        energy = statistics.energy[period]
        found = row(table, period, "phase", "set_imbalance")
        assert found.value == spectra.set_imbalance(energy).item()
        assert (found.low, found.high) == _imbalance_interval(energy.flatten(1).numpy() - 1)
        assert row(table, period, "phase", "set_imbalance_test").value == spectra.set_imbalance_test(energy)[0]
        assert row(table, period, "phase", "phase_ratio").value == spectra.phase_ratio(energy).item()


def test_floors_are_those_of_the_size(table: pd.DataFrame) -> None:
    for period in PERIODS:
        for kind in ("signed", "envelope"):
            floor = row(table, period, kind, "lattice_share_floor").value
            assert floor == spectra.lattice_share_floor((36, 36), period)
    assert row(table, 2, "signed", "lattice_share_floor").value == pytest.approx(3 / (36 * 36 - 1))


def test_set_p_is_fishers_adjusted_over_the_measurable_periods(
    statistics: LatticeStatistics, table: pd.DataFrame
) -> None:
    for kind in ("signed", "envelope"):
        joint = [stats.combine_pvalues(statistics.p_value[kind, period].numpy()).pvalue for period in (2, 4)]
        expected = stats.false_discovery_control(joint)
        np.testing.assert_allclose(expected, reference.benjamini_hochberg(joint))
        found = [row(table, period, kind, "lattice_contrast").p for period in (2, 4)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    own = [spectra.set_imbalance_test(statistics.energy[period])[1] for period in PERIODS]
    found = [row(table, period, "phase", "set_imbalance").p for period in PERIODS]
    np.testing.assert_allclose(found, reference.benjamini_hochberg(own), rtol=1e-12)


def test_only_tests_have_p(table: pd.DataFrame) -> None:
    with_p = table[table.p.notna()]
    assert set(with_p.metric) == {"lattice_contrast", "set_imbalance"}


def test_what_cannot_be_measured_is_nan(table: pd.DataFrame) -> None:
    for kind in ("signed", "envelope"):
        found = row(table, 16, kind, "lattice_contrast")
        assert np.isnan([found.value, found.low, found.high, found.p]).all()
        assert row(table, 16, kind, "lattice_share").value > 0


def test_one_image_has_values_without_intervals() -> None:
    found = measure(lattice_statistics(noise(1, 1, 36, 36), (2,)), model="", subject="", names=["a"])
    contrast_row, imbalance = (
        row(found, 2, *key) for key in (("signed", "lattice_contrast"), ("phase", "set_imbalance"))
    )
    assert (
        np.isfinite([contrast_row.value, contrast_row.p]).all()
        and np.isnan([contrast_row.low, contrast_row.high]).all()
    )
    assert np.isnan([imbalance.value, imbalance.low, imbalance.high, imbalance.p]).all()


def test_ratio_of_a_hole_is_infinite() -> None:
    x = noise(3, 1, 32, 32)
    x[..., 1::2, 1::2] = 0
    found = measure(lattice_statistics(x, (2,)), model="", subject="")
    assert row(found, 2, "phase", "phase_ratio").value == math.inf


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d", "e")])
def test_names_must_be_as_many_as_images(statistics: LatticeStatistics, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        measure(statistics, model="", subject="", names=names)


# Joint p


@pytest.mark.parametrize("p_values", [[0.3], [0.05, 0.05], [1e-4, 0.9, 0.5], [1.0, 1.0], [1 / 4001] * 60])
def test_fisher_is_scipys(p_values: list[float]) -> None:
    assert fisher(np.array(p_values)) == pytest.approx(stats.combine_pvalues(p_values).pvalue, rel=1e-9)


def test_fisher_leaves_out_what_has_no_p() -> None:
    assert fisher(np.array([0.1, math.nan, 0.2])) == fisher(np.array([0.1, 0.2]))
    assert math.isnan(fisher(np.array([math.nan])))


# Intervals


@pytest.mark.parametrize("n", [3, 4, 10, 30])
def test_interval_is_that_of_plain_loops(n: int) -> None:
    values = noise(n, seed=n).numpy()
    np.testing.assert_allclose(interval(values), reference.mean_interval(values), rtol=1e-9, atol=1e-12)


def test_interval_is_deterministic_and_leaves_numpys_state() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    values = noise(7).numpy()
    assert interval(values) == interval(values.copy())
    assert interval(values, seed=1) != interval(values)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.nan, math.nan]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert np.isnan(interval(np.array(values))).all()


def test_interval_of_equal_values_is_their_value() -> None:
    assert interval(np.full(5, 3.0)) == (3.0, 3.0)


def test_interval_moves_and_stretches_with_its_values() -> None:
    values = noise(9).numpy()
    np.testing.assert_allclose(interval(5 + 2 * values), 5 + 2 * np.array(interval(values)), rtol=1e-9)


@pytest.mark.parametrize("n", [10, 15, 30])
def test_interval_is_about_as_wide_as_a_t_interval(n: int) -> None:
    """From ten values on; few values cannot reach a t interval, whose ends lie beyond their range."""
    widths = []
    for seed in range(20):
        values = noise(n, seed=seed).numpy()
        low, high = interval(values)
        widths.append((high - low) / (2 * stats.t.ppf(0.975, n - 1) * stats.sem(values)))
    assert 0.93 < np.mean(widths) < 1.05


@pytest.mark.parametrize(
    ("n", "draw", "truth", "least"),
    [
        (3, "normal", 0.0, 0.76),  # measured 0.82 and 0.91
        (4, "normal", 0.0, 0.86),
        (10, "normal", 0.0, 0.91),
        (30, "normal", 0.0, 0.92),
        (4, "lognormal", math.exp(0.5), 0.70),  # measured 0.787, 0.856 and 0.885 in 1,000 sets: a t interval has
        (10, "lognormal", math.exp(0.5), 0.80),  # as little of so skewed a distribution
        (30, "lognormal", math.exp(0.5), 0.84),
        (10, "exponential", 1.0, 0.86),  # measured 0.903 and 0.926
        (30, "exponential", 1.0, 0.88),
    ],
)
def test_interval_covers_the_mean(n: int, draw: str, truth: float, least: float) -> None:
    """In 400 sets; the standard error of 0.95 is then 0.011, so the bounds leave three of them."""
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(400):
        low, high = interval(getattr(generator, draw)(size=n))
        covered += low <= truth <= high
    assert covered / 400 > least


def energies(n: int, strength: float, spread: float, generator: np.random.Generator) -> np.ndarray:
    """`[N 4]` departures from even: the same pattern in each image, and the image's own."""
    departure = strength * np.array([1, -1 / 3, -1 / 3, -1 / 3]) + spread * generator.standard_normal((n, 4))
    return departure - departure.mean(1, keepdims=True)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_imbalance_interval_is_that_of_distinct_pairs(n: int) -> None:
    departure = energies(n, 0.2, 0.2, np.random.default_rng(n))
    expected = reference.imbalance_interval(1 + departure.reshape(n, 2, 2))
    np.testing.assert_allclose(_imbalance_interval(departure), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("n", "least"), [(10, 0.88), (30, 0.88)])
def test_imbalance_interval_covers_a_planted_lattice(n: int, least: float) -> None:
    """Measured 0.92 to 0.95 in 400 sets; the bound leaves three standard errors of 150."""
    generator = np.random.default_rng(n)
    truth = 0.3 * math.sqrt(1 / 3)
    covered = 0
    for _ in range(150):
        low, high = _imbalance_interval(energies(n, 0.3, 0.1, generator))
        covered += low <= truth <= high
    assert covered / 150 > least


def test_imbalance_interval_holds_the_truth_of_planted_images() -> None:
    """White noise whose phase (0, 0) has 1.5 times the amplitude: energy 2.25 against 1, exactly."""
    x = noise(12, 3, 64, 64)
    x[..., ::2, ::2] *= 1.5
    phases = np.array([2.25, 1, 1, 1])
    truth = phases.std() / phases.mean()
    found = row(measure(lattice_statistics(x, (2,)), model="", subject=""), 2, "phase", "set_imbalance")
    assert found.low < truth < found.high < 1.1 * truth


def test_imbalance_interval_of_two_images_is_not_a_point() -> None:
    """Two images make one pair: nothing says how far another pair would lie."""
    low, high = _imbalance_interval(energies(2, 0.2, 0.2, np.random.default_rng(0)))
    assert math.isnan(low) or high > low


@pytest.mark.parametrize("departure", [np.zeros((1, 4)), np.full((3, 4), np.nan)], ids=["one image", "NaN"])
def test_imbalance_has_no_interval_without_pairs(departure: np.ndarray) -> None:
    assert np.isnan(_imbalance_interval(departure)).all()


# Differences


def image_table(model: str, values: dict[str, float], **columns: object) -> pd.DataFrame:
    """Rows of `lattice_contrast` signed at T=2, one an image, and a set row that must not count."""
    rows = [{"image": name, "value": value, "n": 1} for name, value in values.items()]
    rows.append({"image": "", "value": 1e9, "n": len(values)})
    fixed = {
        "model": model, "subject": "image", "layer": "", "period": 2, "kind": "signed", "metric": "lattice_contrast",
        "unit": "dB", "low": math.nan, "high": math.nan, "p": math.nan,
    }  # fmt: skip
    return pd.DataFrame(rows).assign(**(fixed | columns)).reindex(columns=list(COLUMNS))


def test_contrast_is_the_mean_paired_difference() -> None:
    ours = image_table("A", {"cat": 3.0, "dog": 5.0, "owl": 1.0})
    theirs = image_table("B", {"owl": 2.0, "cat": 1.0, "dog": 1.5})
    (found,) = contrast(ours, theirs).to_dict("records")
    differences = np.array([2.0, 3.5, -1.0])
    assert found["value"] == pytest.approx(1.5)
    assert (found["low"], found["high"]) == pytest.approx(interval(differences))
    assert (found["model"], found["n"], found["unit"], found["image"]) == ("A - B", 3, "dB", "")
    assert math.isnan(found["p"])


def test_only_common_images_pair() -> None:
    ours = image_table("A", {"cat": 3.0, "dog": 5.0, "owl": 100.0})
    theirs = image_table("B", {"cat": 1.0, "dog": 1.0, "bee": -100.0})
    (found,) = contrast(ours, theirs).to_dict("records")
    assert (found["value"], found["n"]) == (3.0, 2)


@pytest.mark.parametrize(
    "change", [{"period": 4}, {"kind": "envelope"}, {"metric": "lattice_share"}, {"subject": "dream"}, {"layer": "x"}]
)
def test_what_differs_in_a_key_does_not_pair(change: dict[str, object]) -> None:
    found = contrast(image_table("A", {"cat": 1.0}), image_table("B", {"cat": 2.0}, **change))
    assert found.empty and tuple(found.columns) == COLUMNS


def test_nothing_pairs_without_a_common_image() -> None:
    found = contrast(image_table("A", {"cat": 1.0}), image_table("B", {"dog": 2.0}))
    assert found.empty and tuple(found.columns) == COLUMNS


def test_several_baselines_stay_apart() -> None:
    theirs = pd.concat([image_table("B", {"cat": 1.0, "dog": 1.0}), image_table("C", {"cat": 2.0, "dog": 2.0})])
    found = contrast(image_table("A", {"cat": 3.0, "dog": 3.0}), theirs)
    assert dict(zip(found.model, found.value, strict=True)) == {"A - B": 2.0, "A - C": 1.0}


def test_image_without_a_value_does_not_count() -> None:
    """As a phase imbalance has none where an image's energy is in one neighbourhood only."""
    ours = image_table("A", {"cat": 3.0, "dog": math.nan, "owl": 5.0, "bee": 4.0})
    theirs = image_table("B", {"cat": 1.0, "dog": 1.0, "owl": 1.0, "bee": 1.0})
    (found,) = contrast(ours, theirs).to_dict("records")
    assert (found["value"], found["n"]) == (3.0, 3)
    assert found["low"] <= found["value"] <= found["high"]


def test_contrast_of_measured_tables(statistics: LatticeStatistics) -> None:
    plain = lattice_statistics(noise(4, 2, 36, 36), PERIODS)
    ours, theirs = (
        measure(s, model=model, subject="image", names=NAMES) for s, model in ((statistics, "A"), (plain, "B"))
    )
    found = contrast(ours, theirs)
    for kind in ("signed", "envelope"):
        difference = (statistics.contrast[kind, 2] - plain.contrast[kind, 2]).numpy()
        assert row(found.fillna({"image": ""}), 2, kind, "lattice_contrast").value == pytest.approx(difference.mean())
    assert len(found) == len(IMAGE_METRICS) * len(PERIODS)


def test_a_table_differs_from_itself_by_nothing(table: pd.DataFrame) -> None:
    found = contrast(table, table)
    measurable = found[found.value.notna()]
    assert (measurable[["value", "low", "high"]] == 0).all().all() and len(measurable)


def test_energy_of_a_replaced_field_is_what_is_reported(statistics: LatticeStatistics) -> None:
    planted = torch.ones(4, 2, 2, dtype=torch.float64)
    planted[:, 0, 0], planted[:, 1, 1] = 1.5, 0.5
    found = measure(
        replace(statistics, periods=(2,), energy={2: planted}, mean_energy={2: planted[0]}), model="", subject=""
    )
    assert row(found, 2, "phase", "set_imbalance").value == pytest.approx(math.sqrt(0.125))
    assert row(found, 2, "phase", "phase_ratio").value == pytest.approx(3.0)


# Independent sets


def two_samples(
    n: int, m: int, spread: float, draw: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0 with one spread, and others around 0 with spread 1."""
    centre = {"normal": 0.0, "exponential": 1.0}[draw]
    return spread * (getattr(generator, draw)(size=n) - centre), getattr(generator, draw)(size=m) - centre


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 10), (12, 5)])
def test_difference_interval_is_that_of_plain_loops(n: int, m: int) -> None:
    """The same law with other draws: 20,000 of them leave 1 % of the width, 4,000 twice that, and the tails are far out."""
    ours, theirs = two_samples(n, m, 2.0, "normal", np.random.default_rng(n))
    found, expected = difference_interval(ours, theirs), reference.difference_interval(ours, theirs)
    np.testing.assert_allclose(found, expected, atol=0.06 * (expected[1] - expected[0]))


@pytest.mark.parametrize(
    ("n", "m", "spread", "draw", "least"),
    [
        (3, 3, 1.0, "normal", 0.89),  # measured 0.936 in 500 pairs of sets
        (3, 30, 1.0, "normal", 0.87),  # 0.922
        (4, 4, 3.0, "normal", 0.90),  # 0.948
        (10, 10, 1.0, "normal", 0.92),  # 0.970
        (10, 30, 3.0, "normal", 0.91),  # 0.946
        (30, 30, 1.0, "normal", 0.92),  # 0.958
        (4, 30, 1.0, "exponential", 0.84),  # 0.890
        (10, 30, 3.0, "exponential", 0.86),  # 0.910
    ],
)
def test_difference_interval_covers_no_difference(n: int, m: int, spread: float, draw: str, least: float) -> None:
    """In 300 pairs of sets; the standard error is then 0.013 to 0.018, so the bounds leave three of them."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(300):
        low, high = difference_interval(*two_samples(n, m, spread, draw, generator))
        covered += low <= 0 <= high
    assert least < covered / 300 < 0.995


def test_difference_interval_turns_round_with_its_sets() -> None:
    """Not exactly: each side draws its own resamples."""
    ours, theirs = two_samples(20, 15, 2.0, "normal", np.random.default_rng(0))
    (low, high), (other_low, other_high) = difference_interval(ours, theirs), difference_interval(theirs, ours)
    np.testing.assert_allclose([low, high], [-other_high, -other_low], atol=0.05 * (high - low))
    shifted = difference_interval(3 * ours + 5, 3 * theirs)
    np.testing.assert_allclose(shifted, [3 * low + 5, 3 * high + 5], rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 9), (9, 2), (0, 9), (1, 1)])
def test_fewer_than_three_on_a_side_have_no_interval(n: int, m: int) -> None:
    assert np.isnan(difference_interval(np.arange(n, dtype=float), np.arange(m, dtype=float))).all()


def test_difference_of_equal_values_is_a_point_and_nan_does_not_count() -> None:
    assert difference_interval(np.full(4, 5.0), np.full(3, 2.0)) == (3.0, 3.0)
    ours, theirs = two_samples(6, 7, 1.0, "normal", np.random.default_rng(1))
    assert difference_interval(np.append(ours, math.nan), theirs) == difference_interval(ours, theirs)


def test_contrast_of_sets_is_the_difference_of_means() -> None:
    ours = image_table("A", {"cat": 3.0, "dog": 5.0, "owl": math.nan, "bee": 4.0})
    theirs = image_table("B", {"x": 1.0, "y": 2.0, "z": 1.5})
    (found,) = contrast_of_sets(ours, theirs).to_dict("records")
    assert found["value"] == pytest.approx(4.0 - 1.5)
    assert (found["low"], found["high"]) == difference_interval(np.array([3.0, 5.0, 4.0]), np.array([1.0, 2.0, 1.5]))
    assert (found["model"], found["n"], found["unit"], found["image"]) == ("A - B", 6, "dB", "")
    assert found["subject"] == "image" and math.isnan(found["p"])


@pytest.mark.parametrize(
    "change", [{"period": 4}, {"kind": "envelope"}, {"metric": "lattice_share"}, {"subject": "dream"}, {"layer": "x"}]
)
def test_sets_that_differ_in_a_key_are_not_compared(change: dict[str, object]) -> None:
    found = contrast_of_sets(image_table("A", {"cat": 1.0}), image_table("B", {"cat": 2.0}, **change))
    assert found.empty and tuple(found.columns) == COLUMNS


def test_a_set_that_could_not_be_measured_has_no_difference() -> None:
    (found,) = contrast_of_sets(image_table("A", {"cat": math.nan}), image_table("B", {"cat": 2.0})).to_dict("records")
    assert math.isnan(found["value"]) and math.isnan(found["low"])


def test_adjusted_is_benjaminis_and_hochbergs() -> None:
    p_values = np.array([0.01, 0.04, math.nan, 0.03, 0.5])
    known = adjusted(p_values)[[0, 1, 3, 4]]
    np.testing.assert_allclose(known, reference.benjamini_hochberg([0.01, 0.04, 0.03, 0.5]))
    assert np.isnan(adjusted(p_values)[2]) and np.isnan(adjusted(np.array([math.nan]))).all()


def test_rows_of_a_spectrum_distance() -> None:
    ours, theirs = (spectra.normalised_power(noise(n, 1, 16, 16, seed=n)) for n in (6, 7))
    found = spectrum_distance_rows(ours, theirs, model="A - B", subject="sample")
    distance, floor, p_value = spectra.spectrum_distance_test(ours, theirs)
    assert tuple(found.columns) == COLUMNS and found["period"].isna().all() and (found["n"] == 13).all()
    assert list(found["metric"]) == ["spectrum_distance", "spectrum_distance_test"]
    assert list(found["value"]) == [distance, floor] and found["p"].iloc[0] == p_value
    paired = spectrum_distance_rows(ours, theirs[:6], model="A - B", subject="sample", paired=True)
    assert (paired["n"] == 6).all()


def test_interval_of_very_many_is_that_of_resampling_them() -> None:
    values = np.random.default_rng(0).lognormal(size=LARGE + 1)
    resampled = np.random.default_rng(1).choice(values, (2000, len(values))).mean(1)
    low, high = interval(values)
    spread = resampled.std()
    for end, expected in ((low, np.quantile(resampled, 0.025)), (high, np.quantile(resampled, 0.975))):
        assert end == pytest.approx(expected, abs=0.15 * spread)  # quantiles of 4,000 and 2,000 draws stray by 0.07
