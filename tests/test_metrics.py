"""The torchmetrics classes: equal to the functions of `gradlens.spectra`, however the images come."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, distributed, multiprocessing, nn
from torchmetrics import Metric, MetricCollection

from gradlens import metrics, spectra
from gradlens.spectra import signal
from tests.spectra.measures import noise, planted


def is_real(images: Tensor) -> Tensor:
    """Which images the tests call real: it must depend on nothing but the image, as the others are shuffled and split."""
    return images.float()[:, 0, 0, 0] > 0


def feed(metric: Metric, images: Tensor) -> None:
    """Update any metric of this module with a batch."""
    if isinstance(metric, metrics.SpectrumDistance):
        metric.update(images[is_real(images)], real=True)
        metric.update(images[~is_real(images)], real=False)
    else:
        metric.update(images)


def fisher(p_value: Tensor) -> Tensor:
    return torch.tensor(stats.combine_pvalues(p_value, method="fisher")[1], dtype=torch.float64)


def root_mean_square(imbalance: Tensor) -> Tensor:
    mean = (imbalance.sign() * imbalance.square()).mean()
    return mean.sign() * mean.abs().sqrt()


@dataclass(frozen=True)
class Case:
    """A metric, and what it must be for a set of images of one size, from the functions alone."""

    make: Callable[[], Metric]
    of: Callable[[Tensor], Tensor]


CASES: dict[str, Case] = {
    "contrast": Case(
        lambda: metrics.LatticeContrast(2),
        lambda x: spectra.lattice_contrast(x, 2).mean(),
    ),
    "contrast of the envelope": Case(
        lambda: metrics.LatticeContrast((4, 2), kind="envelope", window=16),
        lambda x: spectra.lattice_contrast(x, (4, 2), kind="envelope", window=16).mean(),
    ),
    "lines": Case(
        lambda: metrics.LatticeLines(4),
        lambda x: spectra.lattice_lines(x, 4).mean(0),
    ),
    "test": Case(
        lambda: metrics.LatticeTest(2, also=[4]),
        lambda x: fisher(spectra.lattice_test(x, 2, also=[4]).p_value),
    ),
    "test of the envelope": Case(
        lambda: metrics.LatticeTest(4, kind="envelope"),
        lambda x: fisher(spectra.lattice_test(x, 4, kind="envelope").p_value),
    ),
    "share": Case(
        lambda: metrics.LatticeShare(2),
        lambda x: spectra.lattice_share(x, 2).mean(),
    ),
    "new share of the envelope": Case(
        lambda: metrics.LatticeShare(4, kind="envelope", new=True),
        lambda x: spectra.lattice_share(x, 4, kind="envelope", new=True).mean(),
    ),
    "loss": Case(
        lambda: metrics.LatticeLoss(4),
        lambda x: spectra.lattice_loss(x, 4),
    ),
    "phase energy": Case(
        lambda: metrics.PhaseEnergy((2, 4)),
        lambda x: spectra.phase_energy(x, (2, 4)).mean(0),
    ),
    "phase ratio": Case(
        lambda: metrics.PhaseRatio(2),
        lambda x: spectra.phase_ratio(spectra.phase_energy(x, 2)),
    ),
    "phase imbalance": Case(
        lambda: metrics.PhaseImbalance(2),
        lambda x: root_mean_square(spectra.phase_imbalance(x, 2)),
    ),
    "plain phase imbalance": Case(
        lambda: metrics.PhaseImbalance(4, debias=False),
        lambda x: root_mean_square(spectra.phase_imbalance(x, 4, debias=False)),
    ),
    "set imbalance": Case(
        lambda: metrics.SetImbalance(2),
        lambda x: spectra.set_imbalance(spectra.phase_energy(x, 2)),
    ),
    "spectrum": Case(
        lambda: metrics.PowerSpectrum(16),
        lambda x: spectra.power_spectrum(x, size=16).sum(1).mean(0),
    ),
    "plain spectrum": Case(
        lambda: metrics.PowerSpectrum(40, window="none"),
        lambda x: spectra.power_spectrum(x, window="none").sum(1).mean(0),
    ),
    "profile": Case(
        lambda: metrics.RadialProfile(10, window="none"),
        lambda x: spectra.radial_profile(x, bins=10, window="none").power.mean(0),
    ),
    "distance": Case(
        lambda: metrics.SpectrumDistance(40),
        lambda x: spectra.spectrum_distance(x[is_real(x)], x[~is_real(x)]),
    ),
}
WITHOUT_CLASS = {
    "fine_detail",
    "normalised_power",
    "spectrum_distance_test",
    "lattice_contrasts",  # several of one class
    "lattice_map",  # a mean over images says nothing
    "notch",
    "lowpass",
    "even_phases",
    "lattice_share_floor",  # of a size, not of images
    "phase_imbalance_floor",
    "set_imbalance_test",  # needs every image at once
    "lattice_tests",  # a MetricCollection
    "lattice_statistics",
}
SPECTRA = (metrics.PowerSpectrum, metrics.RadialProfile)


def cases_of(which: Callable[[Metric], object]) -> pytest.MarkDecorator:
    """The cases whose metric is as wanted."""
    names = [name for name, case in CASES.items() if which(case.make())]
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


cases = cases_of(lambda metric: True)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Nine images, each with more of a lattice than the one before."""
    return torch.cat(
        [planted("energy", 0.1 * i, planted("sign", 0.05 * i, noise(1, 3, 40, 40, seed=i), 4), 2) for i in range(9)]
    ).float()


def value_of(case: Case, *batches: Tensor) -> Tensor:
    """What the metric gives for a stream of batches."""
    metric = case.make()
    for batch in batches:
        feed(metric, batch)
    return metric.compute()


def states(metric: Metric) -> dict[str, Tensor]:
    return {name: getattr(metric, name) for name in metric._defaults}


def assert_same(value: Tensor, expected: Tensor) -> None:
    """Equal up to the order of sums in float64; the tail of Fisher's method takes the most from it."""
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_every_measure_has_its_class_and_every_class_its_laws() -> None:
    functions = {name for name in spectra.__all__ if name.islower()} - WITHOUT_CLASS
    classes = {c for c in vars(metrics).values() if isinstance(c, type) and issubclass(c, Metric)}
    public = {c.__name__ for c in classes if c is not Metric and not c.__name__.startswith("_")}
    assert public == {"".join(map(str.capitalize, name.split("_"))) for name in functions}
    assert public == {type(case.make()).__name__ for case in CASES.values()}


# A stream


@cases
def test_is_the_function(case: Case, images: Tensor) -> None:
    assert_same(value_of(case, images), case.of(images).double())


@cases
def test_batches_and_their_order_do_not_count(case: Case, images: Tensor) -> None:
    shuffled = images[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    assert_same(value_of(case, *shuffled.split([1, 0, 5, 3])), value_of(case, images))


def test_images_of_any_size_are_one_stream(images: Tensor) -> None:
    larger = noise(3, 1, 56, 48)
    for make, function in (
        (metrics.LatticeContrast, spectra.lattice_contrast),
        (metrics.LatticeShare, spectra.lattice_share),
        (metrics.PhaseEnergy, spectra.phase_energy),
    ):
        expected = torch.cat([function(images, 2), function(larger, 2)]).mean(0)
        metric = make(2)
        metric.update(images)
        metric.update(larger)
        assert_same(metric.compute(), expected)


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_of_one_and_three_axes(axes: int) -> None:
    x = noise(3, 2, *[16] * axes)
    for metric, expected in (
        (metrics.LatticeContrast(2), spectra.lattice_contrast(x, 2).mean()),
        (metrics.PhaseEnergy((2,) * axes), spectra.phase_energy(x, 2).mean(0)),
        (metrics.PowerSpectrum(8, axes=axes), spectra.power_spectrum(x, size=8).sum(1).mean(0)),
        (metrics.RadialProfile(4), spectra.radial_profile(x, bins=4).power.mean(0)),
    ):
        metric.update(x)
        assert_same(metric.compute(), expected)


@cases
def test_what_is_not_finite_is_left_out_and_counted(case: Case, images: Tensor) -> None:
    metric = case.make()
    for index, bad in ((1, float("nan")), (4, float("inf")), (7, float("-inf"))):
        spoilt = images[index : index + 1].clone()
        spoilt[0, 1, 5, 7] = bad
        feed(metric, torch.cat([spoilt, images[index + 1 : index + 3]]))
    assert metric.left_out == 3
    assert_same(metric.compute(), value_of(case, images[[2, 3, 5, 6, 8]]))


@cases_of(lambda metric: not isinstance(metric, metrics.RadialProfile))  # it has rings for any image
def test_what_is_too_small_is_left_out_and_counted(case: Case, images: Tensor) -> None:
    metric = case.make()
    feed(metric, noise(4, 3, 3, 3))
    assert metric.left_out == 4
    assert metric.compute().isnan().all()
    feed(metric, images)
    assert metric.left_out == 4
    assert_same(metric.compute(), value_of(case, images))


def test_a_p_that_is_nan_does_not_count() -> None:
    """One spatial axis has too few null bins in 32 samples: there is a contrast and no p."""
    metric = metrics.LatticeTest(2)
    x = noise(3, 1, 64)
    assert spectra.lattice_test(x, 2).p_value.isnan().all() and spectra.lattice_contrast(x, 2).isfinite().all()
    metric.update(x)
    assert metric.left_out == 3 and metric.compute().isnan()


def test_rings_that_small_images_lack_are_averaged_over_the_others() -> None:
    small, large = noise(2, 1, 8, 8), noise(1, 1, 40, 40)
    metric = metrics.RadialProfile(10)
    metric.update(small)
    some = metric.compute().isnan()
    assert some.any() and not some.all()
    metric.update(large)
    profiles = torch.cat([spectra.radial_profile(x, bins=10).power for x in (small, large)])
    assert_same(metric.compute(), profiles.nanmean(0))
    assert metric.left_out == 0


@pytest.mark.filterwarnings("ignore:cpu has no float64")
@pytest.mark.parametrize("missing", [(), ("cpu",)], ids=["float64", "float32"])
def test_a_set_of_one_has_no_imbalance_in_common(
    missing: tuple[str, ...], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "WITHOUT_FLOAT64", frozenset(missing))
    metric = metrics.SetImbalance((2, 1))
    for image in images:  # in float32 a sum of one square is not the square, and a rest over 0 would be infinite
        metric.reset()
        metric.update(image[None])
        assert metric.compute().isnan()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@cases
def test_states_follow_the_metric_to_a_gpu(case: Case, images: Tensor) -> None:
    here, there = case.make(), case.make().cuda()
    for metric in (here, there):
        feed(metric, images.cuda())
    assert {state.device.type for state in states(here).values()} == {"cpu"}
    assert {state.device.type for state in states(there).values()} == {"cuda"}
    # transforms of another library, and the steep tail of Fisher's method
    torch.testing.assert_close(here.compute(), case.of(images).double(), rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(there.compute().cpu(), here.compute(), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_a_distance_needs_both_sets(images: Tensor) -> None:
    metric = metrics.SpectrumDistance(40)
    metric.update(images, real=True)
    assert metric.compute().isnan()


# As torchmetrics has it


@cases
def test_reset_forgets(case: Case, images: Tensor) -> None:
    metric = case.make()
    feed(metric, torch.cat([images[:4], images[:1] * float("nan")]))
    metric.reset()
    assert metric.left_out == 0
    assert all(not state.any() for state in states(metric).values())
    feed(metric, images[4:])
    assert_same(metric.compute(), value_of(case, images[4:]))


@cases
def test_forward_gives_the_batch_and_keeps_the_stream(case: Case, images: Tensor) -> None:
    metric = case.make()
    if isinstance(metric, metrics.SpectrumDistance):
        assert metric(images[is_real(images)], real=True).isnan()
        assert metric(images[~is_real(images)], real=False).isnan()
    else:
        feed(metric, images[:4])
        assert_same(metric(images[4:]), case.of(images[4:]).double())
    assert_same(metric.compute(), case.of(images).double())


@cases_of(lambda metric: not isinstance(metric, metrics.LatticeTest | metrics.SpectrumDistance))
def test_forward_has_the_gradient_of_the_function(case: Case, images: Tensor) -> None:
    metric = case.make()
    assert metric.is_differentiable
    x = images.double().requires_grad_()
    gradients = []
    for value in (metric(x), case.of(x)):
        gradients.append(torch.autograd.grad(value[~value.isnan()].square().sum(), x)[0])
    assert gradients[1].any()
    # lattice_loss adds 1e-12 to an energy of order 1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-10)
    assert not any(state.requires_grad for state in states(metric).values())
    metric.update(x)
    assert not metric.compute().requires_grad


@cases
def test_without_an_update_there_is_a_warning_and_nan(case: Case) -> None:
    metric = case.make()
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert metric.compute().isnan().all()


@cases
def test_copies_go_on_by_themselves(case: Case, images: Tensor) -> None:
    metric = case.make()
    feed(metric, images[:4])
    copies = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    for other in copies:
        feed(other, images[4:])
        assert_same(other.compute(), value_of(case, images))
    assert_same(metric.compute(), value_of(case, images[:4]))


@cases
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_state_dict_holds_states_only_if_asked(case: Case, images: Tensor) -> None:
    metric = case.make()
    feed(metric, images)
    assert metric.state_dict() == {}
    metric.persistent(True)
    other = case.make()
    other.load_state_dict(metric.state_dict())
    assert_same(other.compute(), metric.compute())


@cases
def test_states_merge(case: Case, images: Tensor) -> None:
    ours, theirs = case.make(), case.make()
    feed(ours, images[:4])
    feed(theirs, images[4:])
    ours.merge_state(theirs)
    assert_same(ours.compute(), value_of(case, images))


def test_states_of_other_arguments_do_not_merge() -> None:
    with pytest.raises(ValueError, match="lattice_contrast_period_2_kind_signed_window_32_sum"):
        metrics.LatticeContrast(2).merge_state(metrics.LatticeContrast(4))


@cases
def test_it_plots(case: Case, images: Tensor) -> None:
    metric = case.make()
    feed(metric, images)
    value = metric.compute()
    if isinstance(metric, SPECTRA):
        with pytest.raises(NotImplementedError, match="figures draws it"):
            metric.plot()
        return
    for bound, outside in ((metric.plot_lower_bound, torch.lt), (metric.plot_upper_bound, torch.gt)):
        assert bound is None or not outside(value, bound).any()
    for drawn in (None, value, [value, value, value]):
        axes = Figure().subplots()
        metric.plot(drawn, ax=axes)
        assert len(axes.lines) == max(1, value.numel())
        assert axes.get_xlabel() == ("Step" if isinstance(drawn, list) else "")


def test_it_shows_its_arguments() -> None:
    assert repr(metrics.LatticeShare(2, new=True)) == "LatticeShare(period=2, kind='signed', new=True)"


# Collections


def collection() -> MetricCollection:
    """All that take one set of images."""
    made = {name.replace(" ", "_"): case.make() for name, case in CASES.items()}
    return MetricCollection({k: m for k, m in made.items() if not isinstance(m, metrics.SpectrumDistance)})


@pytest.mark.parametrize("first", ["noise", "constant", "too small", "nan"])
def test_a_collection_is_each_by_itself(first: str, images: Tensor) -> None:
    """A first batch on which all read the same must not put them in one compute group."""
    begin = {
        "noise": images[:2],
        "constant": torch.full((2, 3, 40, 40), 0.5),
        "too small": torch.zeros(2, 3, 1, 1),
        "nan": torch.full((2, 3, 40, 40), float("nan")),
    }[first]
    together = collection()
    together.update(begin)
    together.update(images[2:])
    values = together.compute()
    for name, value in values.items():
        assert_same(value, value_of(CASES[name.replace("_", " ")], begin, images[2:]))
    together.reset()
    together.update(images)
    for name, value in together.compute().items():
        assert_same(value, value_of(CASES[name.replace("_", " ")], images))


def test_a_collection_measures_phases_once(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    phase_energy = spectra.phase_energy
    together = MetricCollection(
        metrics.PhaseEnergy(2), metrics.PhaseRatio(2), metrics.SetImbalance(2), metrics.PhaseImbalance(2)
    )
    together.update(images[:4])
    assert sorted(map(sorted, together.compute_groups.values())) == [
        ["PhaseEnergy", "PhaseRatio", "SetImbalance"],
        ["PhaseImbalance"],
    ]
    monkeypatch.setattr(spectra, "phase_energy", lambda x, period: calls.append(period) or phase_energy(x, period))
    together.update(images[4:])
    assert calls == [2]
    values = together.compute()
    energy = phase_energy(images, 2)
    assert_same(values["PhaseEnergy"], energy.mean(0))
    assert_same(values["PhaseRatio"], spectra.phase_ratio(energy))
    assert_same(values["SetImbalance"], spectra.set_imbalance(energy))


# Precision


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_measured_in_float64(case: Case, dtype: torch.dtype, images: Tensor) -> None:
    x = images.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(case, x)
    assert_same(value, case.of(x).double())


CASTS: dict[str, Callable[[Metric], object]] = {
    "half": lambda metric: metric.half(),
    "bfloat16": lambda metric: metric.bfloat16(),
    "to": lambda metric: metric.to(torch.float16),
    "to device and dtype": lambda metric: metric.to("cpu", torch.bfloat16),
    "set_dtype": lambda metric: metric.set_dtype(torch.float32),
    "a module around it": lambda metric: nn.Sequential(metric).to(torch.float16).half(),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_no_cast_reaches_the_sums(cast: Callable[[Metric], object], images: Tensor) -> None:
    for case in CASES.values():
        metric = case.make()
        feed(metric, images[:4])
        metric.compute()  # which torchmetrics keeps, and casts
        cast(metric)
        assert {state.dtype for state in states(metric).values()} == {torch.float64}
        assert_same(metric.compute(), value_of(case, images[:4]))
        feed(metric, images[4:])
        assert_same(metric.compute(), value_of(case, images))
        metric.reset()
        assert {state.dtype for state in states(metric).values()} == {torch.float64}


def to_device_without_float64(x: Tensor) -> Tensor:
    if x.dtype == torch.float64:
        raise TypeError("this device has no float64")
    return x.to("meta")


@cases
def test_states_stay_on_the_cpu_where_a_device_has_no_float64(
    case: Case, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "WITHOUT_FLOAT64", frozenset({"meta"}))
    metric = case.make()
    feed(metric, images[:4])
    metric.compute()
    metric._apply(to_device_without_float64)
    assert metric.device.type == "meta"
    feed(metric, images[4:])
    assert {(state.device.type, state.dtype) for state in states(metric).values()} == {("cpu", torch.float64)}
    value = metric.compute()
    assert (value.device.type, value.dtype) == ("meta", torch.float32)
    metric._apply(lambda x: torch.empty_like(x, device="cpu"))
    assert_same(metric.compute(), value_of(case, images))
    with torch.device("meta"):
        assert {state.device.type for state in states(case.make()).values()} == {"cpu"}


@cases
@pytest.mark.filterwarnings("ignore:cpu has no float64")
def test_values_in_float32_are_summed_in_float64(case: Case, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = case.of(images).float()
    monkeypatch.setattr(metrics, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    monkeypatch.setattr(signal, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    metric = case.make()
    feed(metric, images)
    assert {state.dtype for state in states(metric).values()} == {torch.float64}
    # each value is rounded to float32 once, and p of Fisher's method multiplies that by the sum of logs
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)


# Processes


def process(rank: int, folder: Path, images: Tensor) -> None:
    """One of two processes: every metric on this rank's part of each split, saved under its rank."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    values, local = {}, {}
    for first in (2, 9):
        part = images[:first] if rank == 0 else images[first:]
        for name, case in CASES.items():
            metric = case.make()
            if len(part):
                feed(metric, part)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one process has none to compute from
                values[name, first] = metric.compute()
            with metric.sync_context():
                assert metric.left_out == 0
            local[name, first] = states(metric)
    torch.save((values, local), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_as_one(images: Tensor, tmp_path: Path) -> None:
    """Two images in one and seven in the other; all in one and none in the other."""
    multiprocessing.spawn(process, (tmp_path, images), nprocs=2)
    for rank in (0, 1):
        values, local = torch.load(tmp_path / f"{rank}.pt")
        for (name, first), value in values.items():
            assert_same(value, value_of(CASES[name], images))
            alone = CASES[name].make()
            feed(alone, images[:first] if rank == 0 else images[first:])
            assert all(torch.equal(local[name, first][key], state) for key, state in states(alone).items())


# What is refused


@cases
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.zeros((1, 3, 32, 32)), TypeError, "images: .* got ndarray; from_numpy"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "images: .* got torch.uint8; .* / 255"),
        (torch.zeros(32, 32), ValueError, r"images: .* got \[32, 32\]; .* images\[None\]"),
        (torch.zeros(1, 1, 2, 2, 2, 2), ValueError, r"images: .* got \[1, 1, 2, 2, 2, 2\]"),
        (torch.zeros(1, 0, 32, 32), ValueError, r"images: .* got \[1, 0, 32, 32\]"),
    ],
    ids=["numpy", "uint8", "2-D", "6-D", "no channel"],
)
def test_what_is_no_batch_of_images_is_refused(
    case: Case, x: Tensor, error: type[Exception], words: str, images: Tensor
) -> None:
    metric = case.make()
    feed(metric, images)
    before = {name: state.clone() for name, state in states(metric).items()}
    with pytest.raises(error, match=words):
        metric.update(x, *[True] * isinstance(metric, metrics.SpectrumDistance))
    assert all(torch.equal(before[name], state) for name, state in states(metric).items())


def test_other_axes_are_refused() -> None:
    for metric in (metrics.LatticeLines(2), metrics.PhaseEnergy(2), metrics.PhaseRatio(2), metrics.PowerSpectrum(8)):
        with pytest.raises(ValueError, match=rf"{type(metric).__name__}\(.* got \[2, 3, 64\]"):
            metric.update(noise(2, 3, 64))
    with pytest.raises(ValueError, match=r"period: .* 2 spatial axes, got \(2,\)"):
        metrics.PhaseEnergy((2,)).update(noise(2, 3, 8, 8))


PERIODIC = (
    metrics.LatticeContrast,
    metrics.LatticeLines,
    metrics.LatticeLoss,
    metrics.LatticeShare,
    metrics.LatticeTest,
    metrics.PhaseEnergy,
    metrics.PhaseImbalance,
    metrics.PhaseRatio,
    metrics.SetImbalance,
)


@pytest.mark.parametrize("period", [0, 1, -2, (1, 1), (), (2, 2, 2, 2), 2.5, "two", None, True], ids=repr)
@pytest.mark.parametrize("make", PERIODIC)
def test_a_period_is_refused_when_the_metric_is_made(make: Callable[[object], Metric], period: object) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        make(period)
    assert "period" in str(raised.value) and repr(period) in str(raised.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: metrics.LatticeContrast(2, kind="energy"), "kind: .* 'energy'"),  # type: ignore[arg-type]
        (lambda: metrics.LatticeContrast(2, window=0), "window: .* 0"),
        (lambda: metrics.LatticeLines(2, kind="energy"), "kind: .* 'energy'"),  # type: ignore[arg-type]
        (lambda: metrics.LatticeTest(2, also=(1,)), "period: .* 1"),
        (lambda: metrics.LatticeShare(2, kind="phase"), "kind: .* 'phase'"),  # type: ignore[arg-type]
        (lambda: metrics.PowerSpectrum(0), "size: .* 0"),
        (lambda: metrics.PowerSpectrum(8, window="hamming"), "window: .* 'hamming'"),  # type: ignore[arg-type]
        (lambda: metrics.PowerSpectrum(8, axes=4), "axes: .* 4"),
        (lambda: metrics.RadialProfile(0), "bins: .* 0"),
        (lambda: metrics.SpectrumDistance(8, axes=0), "axes: .* 0"),
        (lambda: metrics.SpectrumDistance(1), "size: .* 1"),
        (lambda: metrics.SetImbalance(2, debias=True), "debias"),
    ],
)
def test_other_arguments_are_refused_when_the_metric_is_made(make: Callable[[], Metric], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_real_is_said_of_a_whole_batch(images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"real: .* tensor\(\["):
        metrics.SpectrumDistance(40).update(images, real=is_real(images))  # type: ignore[arg-type]


# Arrays


def test_arrays_become_batches() -> None:
    levels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    batch = metrics.from_numpy(levels, "NHWC")
    assert batch.shape == (2, 3, 4, 6) and batch.dtype == torch.float32
    assert batch[1, 2, 3, 5].item() == np.float32(143 / 255)
    assert torch.equal(metrics.from_numpy(levels[..., 0], "NHW"), batch[:, :1])
    assert torch.equal(metrics.from_numpy(levels.transpose(0, 3, 1, 2), "NCHW"), batch)
    assert torch.equal(metrics.from_numpy(levels[:, ::-1], "NHWC"), batch.flip(2))
    for dtype in (np.float16, np.float32, np.float64):
        floats = np.linspace(-3, 3, 48).astype(dtype).reshape(1, 3, 4, 4)
        assert np.array_equal(metrics.from_numpy(floats, "NCHW").numpy(), floats)
    shown = np.zeros((1, 4, 4), np.uint8)
    shown.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.from_numpy(shown, "NHW").add_(1)
    assert not shown.any()


@pytest.mark.parametrize(
    ("array", "layout", "error", "words"),
    [
        (torch.zeros(1, 3, 8, 8), "NCHW", TypeError, "images: .* got Tensor"),
        (np.zeros((1, 8, 8, 3), np.int64), "NHWC", TypeError, "images: .* got int64; divide"),
        (np.zeros((1, 8, 8, 3), np.uint16), "NHWC", TypeError, "images: .* got uint16; divide"),
        (np.zeros((1, 8, 8, 3)), "CHW", ValueError, "layout: .* NHWC, NHW, NCHW, got 'CHW'"),
        (np.zeros((8, 8, 3)), "NHWC", ValueError, r"images: .* 4 axes for layout NHWC, got \[8, 8, 3\]"),
        (np.zeros((1, 3, 8, 8)), "NHWC", ValueError, "images: .* got 8 for layout NHWC; name the layout"),
        (np.zeros((1, 8, 8, 3)), "NCHW", ValueError, "images: .* got 8 for layout NCHW; name the layout"),
        (np.zeros((1, 8, 8, 4), np.uint8), "NHWC", ValueError, "got 4 .* drop what is no colour"),
    ],
)
def test_an_array_is_not_guessed_at(array: object, layout: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        metrics.from_numpy(array, layout)  # type: ignore[arg-type]
