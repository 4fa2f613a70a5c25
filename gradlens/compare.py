"""From statistics to a tidy table, one measurement a row, and from two tables to their difference.

A row with an image name is that image's; a row without is the set's: the mean over images with a bootstrap interval, and
for tests the joint p (Fisher's method over images, or the randomisation test of the set) adjusted over the periods of
that table by Benjamini and Hochberg, so that 5 % of what is called found may be chance at 0.05, however many periods.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from gradlens.results import COLUMNS
from gradlens.spectra import (
    LatticeStatistics,
    phase_ratio,
    set_imbalance,
    set_imbalance_test,
    spectrum_distance_test,
)

RESAMPLES = 4000
LARGE = 2000  # values whose bootstrap means are normal for every purpose here
LEVEL = 0.95
SIGNIFICANCE = 0.01
LEAST_IMAGES = 3  # two have an interval that is right half of the time


def measure(
    statistics: LatticeStatistics,
    *,
    model: str,
    subject: str,
    layer: str = "",
    names: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows of one subject: for each period contrast, share beside its floor, imbalance beside its floor, phase ratio.

    Args:
        statistics: of N images.
        model, subject, layer: go into their columns. `period` is in pixels of the subject's own grid.
        names: of the N images, for a row each; without them only the set has rows.

    Returns:
        Columns `gradlens.results.COLUMNS`; a value that the size does not allow is NaN.
    """
    rows = [_set_rows(statistics, period) for period in statistics.periods]
    table = pd.DataFrame([row for part in rows for row in part])
    for _, group in table[table["p"].notna()].groupby(["kind", "metric"]):
        table.loc[group.index, "p"] = stats.false_discovery_control(group["p"])
    if names and len(names) != statistics.count:
        raise ValueError(f"names: {len(names)} for {statistics.count} images")
    if names:
        table = pd.concat([table, pd.DataFrame(_image_rows(statistics, names))], ignore_index=True)
    table = table.assign(model=model, subject=subject, layer=layer)
    return table.reindex(columns=list(COLUMNS))


def contrast(table: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """How `table` differs from `baseline`, image by image: the mean difference with its bootstrap interval.

    Rows are paired by subject, layer, image, period, kind and metric; models are named `A - B`.

    Returns:
        The set rows of the differences; `p` is NaN. Empty where nothing pairs.
    """
    keys = ["subject", "layer", "image", "period", "kind", "metric", "unit"]
    both = table[table["image"] != ""].merge(baseline[baseline["image"] != ""], on=keys, suffixes=("", "_baseline"))
    both["difference"] = both["value"] - both["value_baseline"]
    rows = []
    group_keys = ["model", "model_baseline", *(k for k in keys if k != "image")]
    for _, group in both.groupby(group_keys, sort=False):
        first = group.to_dict("records")[0]
        difference = group["difference"].dropna().to_numpy(float)
        mean = float(difference.mean()) if len(difference) else float("nan")
        low, high = interval(difference)
        rows.append(
            _row(first["period"], first["kind"], first["metric"], mean, first["unit"],
                 n=len(difference), low=low, high=high)
            | {"model": f"{first['model']} - {first['model_baseline']}"}
            | {"subject": first["subject"], "layer": first["layer"]}
        )  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def contrast_of_sets(table: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """How `table` differs from `baseline` where their images are not the same: the difference of the means over images,
    with the bootstrap interval of two independent samples.

    Rows are grouped by subject, layer, period, kind and metric; models are named `A - B`.

    Returns:
        The set rows of the differences; `n` counts the images of both, `p` is NaN. Empty where no group is in both.
    """
    keys = ["subject", "layer", "period", "kind", "metric", "unit"]
    ours, theirs = (
        t[t["image"] != ""].groupby(["model", *keys], sort=False)["value"].agg(list).reset_index()
        for t in (table, baseline)
    )
    rows = []
    for pair in ours.merge(theirs, on=keys, suffixes=("", "_baseline")).to_dict("records"):
        first, second = (np.array(pair[name], float) for name in ("value", "value_baseline"))
        first, second = first[~np.isnan(first)], second[~np.isnan(second)]
        n = len(first) + len(second)
        mean = float(first.mean() - second.mean()) if len(first) and len(second) else float("nan")
        low, high = difference_interval(first, second)
        rows.append(
            _row(pair["period"], pair["kind"], pair["metric"], mean, pair["unit"], n=n, low=low, high=high)
            | {"model": f"{pair['model']} - {pair['model_baseline']}"}
            | {"subject": pair["subject"], "layer": pair["layer"]}
        )
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def difference_interval(ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """A 95 % bootstrap interval for mean(ours) - mean(theirs) of two independent samples `[N]` and `[M]`.

    Both are resampled; each sample's departures are stretched by sqrt(n / (n - 1)), and the percentiles are taken where a
    t distribution with Welch's degrees of freedom has its 2.5 % tails. NaN where either has fewer than three values.

    It covers normal values in 0.91 to 0.97 of cases for 3 to 30 of them, of equal spread or not, exponential ones in 0.89
    to 0.96 (the simulation is in the tests).

    Source: Hesterberg 2015, section 4.4, for two samples; Welch 1947 for the degrees of freedom.
    """
    ours, theirs = (values[~np.isnan(values)] for values in (ours, theirs))
    n, m = len(ours), len(theirs)
    if min(n, m) < LEAST_IMAGES:
        return float("nan"), float("nan")
    difference = float(ours.mean() - theirs.mean())
    errors = np.array([ours.var(ddof=1) / n, theirs.var(ddof=1) / m])
    if not errors.sum():
        return difference, difference
    freedom = errors.sum() ** 2 / (errors**2 / [n - 1, m - 1]).sum()
    departures = (
        sign * np.sqrt(k / (k - 1)) * _resampled_means(values - values.mean(), seed + number)
        for number, (values, k, sign) in enumerate(((ours, n, 1), (theirs, m, -1)))
    )
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, freedom))
    low, high = np.quantile(sum(departures), [tail, 1 - tail])
    return difference + float(low), difference + float(high)


def spectrum_distance_rows(
    ours: Tensor, theirs: Tensor, *, model: str, subject: str, paired: bool = False
) -> pd.DataFrame:
    """Two rows: how far apart the mean spectra of two sets are, with its p, and what chance alone reaches.

    Args:
        ours, theirs: `[N *frequency]` and `[M *frequency]`, from `gradlens.spectra.normalised_power`.
        model, subject: go into their columns.
        paired: image i of both belongs together.

    Returns:
        Columns `gradlens.results.COLUMNS`, without a period; `n` counts the images of both, or the pairs.
    """
    distance, floor, p_value = spectrum_distance_test(ours, theirs, paired=paired)
    n = len(ours) if paired else len(ours) + len(theirs)
    nowhere: Any = float("nan")
    rows = [
        _row(nowhere, "signed", "spectrum_distance", distance, "dB", n=n, p=p_value),
        _row(nowhere, "signed", "spectrum_distance_test", floor, "dB", n=n),
    ]
    return pd.DataFrame(rows).assign(model=model, subject=subject, layer="").reindex(columns=list(COLUMNS))


def adjusted(p_values: np.ndarray) -> np.ndarray:
    """`p_values` adjusted for their number by Benjamini and Hochberg; those that are NaN do not count and stay NaN.

    Example:
        >>> adjusted(np.array([0.01, np.nan, 0.5])).tolist()
        [0.02, nan, 0.5]
    """
    result = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        result[known] = stats.false_discovery_control(p_values[known])
    return result


def interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """A 95 % bootstrap interval for the mean of `values` `[N]`: percentiles, widened for small N.

    The departures of the resampled means are stretched by sqrt(n / (n - 1)), and the percentiles are taken where a t
    distribution with n - 1 degrees of freedom has its 2.5 % tails. Of very few values it covers less than it says: of
    normal ones in 0.82 of cases for n = 3, 0.91 for 4, 0.95 from 8 on (`analyses.calibration`). NaN for fewer than three.

    Source: Hesterberg 2015, "What teachers should know about the bootstrap", section 4.4.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n < LEAST_IMAGES:
        return float("nan"), float("nan")
    mean = float(values.mean())
    departures = np.sqrt(n / (n - 1)) * _resampled_means(values - mean, seed)
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, n - 1))
    low, high = np.quantile(departures, [tail, 1 - tail])
    return mean + float(low), mean + float(high)


def fisher(p_values: np.ndarray) -> float:
    """The joint p of independent tests by Fisher's method; those without a p do not count, NaN if there is none.

    Example:
        >>> round(fisher(np.array([0.05, 0.05])), 4)
        0.0175
    """
    p_values = p_values[~np.isnan(p_values)]
    if not len(p_values):
        return float("nan")
    return float(stats.chi2.sf(-2 * np.log(p_values).sum(), 2 * len(p_values)))


def _set_rows(statistics: LatticeStatistics, period: int) -> list[dict]:
    """The rows of the whole set at one period; p not yet adjusted."""
    rows = []
    for kind in ("signed", "envelope"):
        values, p_values = (field[kind, period].numpy() for field in (statistics.contrast, statistics.p_value))
        low, high = interval(values)
        joint = fisher(p_values)
        mean, n = _mean(values)
        rows.append(_row(period, kind, "lattice_contrast", mean, "dB", n=n, low=low, high=high, p=joint))
        share = statistics.share[kind, period].numpy()
        low, high = interval(share)
        mean, n = _mean(share)
        rows.append(_row(period, kind, "lattice_share", mean, "1", n=n, low=low, high=high))
        rows.append(_row(period, kind, "lattice_share_floor", statistics.share_floor[period], "1", n=n))
    energy = statistics.energy[period]
    low, high = _imbalance_interval(energy.flatten(1).numpy() - 1)
    floor, p_value = set_imbalance_test(energy)
    imbalance, n = float(set_imbalance(energy)), _mean(statistics.imbalance[period].numpy())[1]
    rows.append(_row(period, "phase", "set_imbalance", imbalance, "1", n=n, low=low, high=high, p=p_value))
    rows.append(_row(period, "phase", "set_imbalance_test", floor, "1", n=n))
    rows.append(
        _row(period, "phase", "phase_ratio", float(phase_ratio(statistics.mean_energy[period][None])), "1", n=n)
    )
    return rows


def _mean(values: np.ndarray) -> tuple[float, int]:
    """The mean of those values that were measured, and their number; without any NaN, and all there are."""
    measured = values[~np.isnan(values)]
    return (float(measured.mean()), len(measured)) if len(measured) else (float("nan"), len(values))


def _image_rows(statistics: LatticeStatistics, names: Sequence[str]) -> list[dict]:
    """The rows of each image."""
    rows = []
    for period in statistics.periods:
        for kind in ("signed", "envelope"):
            for number, name in enumerate(names):
                value, p = (float(f[kind, period][number]) for f in (statistics.contrast, statistics.p_value))
                rows.append(_row(period, kind, "lattice_contrast", value, "dB", n=1, p=p) | {"image": name})
                share = float(statistics.share[kind, period][number])
                rows.append(_row(period, kind, "lattice_share", share, "1", n=1) | {"image": name})
        for number, name in enumerate(names):
            value = float(statistics.imbalance[period][number])
            rows.append(_row(period, "phase", "phase_imbalance", value, "1", n=1) | {"image": name})
    return rows


def _row(
    period: int,
    kind: str,
    metric: str,
    value: float,
    unit: str,
    *,
    n: int,
    low: float = float("nan"),
    high: float = float("nan"),
    p: float = float("nan"),
) -> dict:
    return {
        "image": "", "period": period, "kind": kind, "metric": metric, "value": value, "low": low, "high": high, "p": p,
        "n": n, "unit": unit,
    }  # fmt: skip


def _imbalance_interval(departure: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval for `set_imbalance` of `departure` `[N phases]`; pairs of one image with itself do not count."""
    n = len(departure)
    if n < LEAST_IMAGES or np.isnan(departure).any():
        return float("nan"), float("nan")
    counts = _resample_counts(n, 0)
    own = (counts**2) @ (departure**2).sum(1)
    pairs = n**2 - (counts**2).sum(1)
    counts, own, pairs = counts[pairs > 0], own[pairs > 0], pairs[pairs > 0]
    squared = (np.square(counts @ departure).sum(1) - own) / (pairs * departure.shape[1])
    return _percentiles(np.sign(squared) * np.sqrt(np.abs(squared)), n)


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """The mean of each bootstrap sample of `values` `[N]`; of very many they are normal, and drawn as such."""
    n = len(values)
    if n > LARGE:
        return np.random.default_rng(seed).normal(values.mean(), values.std() / np.sqrt(n), RESAMPLES)
    return _resample_counts(n, seed) @ values / n


def _resample_counts(n: int, seed: int) -> np.ndarray:
    """How often each of n images is in each bootstrap sample: `[resamples n]`."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _percentiles(resampled: np.ndarray, n: int) -> tuple[float, float]:
    """The expanded percentile interval of `resampled` means of n values."""
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
