"""How good samples are: exact facts, the papers' formulas in loops, and what copies and flaws do to them."""

import itertools
import math
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens import images, models, spectra
from gradlens.models import bare
from gradlens.redesign import quality
from gradlens.redesign.quality.table import _by_content
from gradlens.results import COLUMNS
from tests import reference

Array = NDArray[np.float64]


def vectors(n: int, f: int, seed: int = 0) -> Tensor:
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly(mean: Tensor, deviation: Tensor, n: int = 50, seed: int = 0) -> Tensor:
    """Vectors whose mean and diagonal covariance are these, to rounding."""
    x = vectors(n, len(mean), seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.mT @ x / (n - 1))).mT * deviation + mean


class Edges(nn.Module):
    """A user's own classifier: sixteen fixed random filters, blind to brightness, rectified. It counts how often it runs."""

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        super().__init__()
        weight = torch.randn(width, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight - weight.mean((1, 2, 3), keepdim=True))
        self.dropout = nn.Dropout(0.5)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.dropout(F.conv2d(x, self.weight).relu())


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """800 crops of 32 px of the sample photographs, halved in size, in a random order."""
    crops = []
    for photograph in images.photographs():
        picture = photograph.open()
        small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        tiles = pixels.unfold(1, 32, 16).unfold(2, 32, 16)  # [C h w 32 32]
        crops.append(tiles.permute(1, 2, 0, 3, 4).flatten(0, 1))
    everything = torch.cat(crops)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything[order[:800]].contiguous()


# Frechet's distance


def frechet(x: Array, y: Array) -> float:
    """Heusel et al. 2017, with scipy's matrix root."""
    s, t = (np.cov(z, rowvar=False) for z in (x, y))
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)


def test_frechet_distance_of_known_gaussians() -> None:
    m1, m2 = torch.tensor([1.0, 2, 3]).double(), torch.tensor([1.0, 0, 6]).double()
    s1, s2 = torch.tensor([1.0, 2, 0.5]).double(), torch.tensor([3.0, 2, 1]).double()
    found = quality.frechet_distance(exactly(m1, s1, seed=1), exactly(m2, s2, seed=2))
    assert found.value == pytest.approx(4 + 9 + 4 + 0 + 0.25, rel=1e-10)


@pytest.mark.parametrize("dead", [0, 3])
def test_frechet_distance_of_a_set_from_itself_is_zero(dead: int) -> None:
    """Also where features are dead and the covariance has no inverse."""
    x = F.pad(vectors(40, 6), (0, dead))
    found = quality.frechet_distance(x, x.flip(0))
    assert found.value == pytest.approx(0, abs=1e-12)  # of variances of 1
    assert found.error < 1e-6 and found.low == 0


def test_frechet_distance_is_the_papers() -> None:
    x, y = vectors(60, 5) @ vectors(5, 5, 1), vectors(30, 5, 2) + 0.3
    expected = frechet(x.numpy(), y.numpy())
    for a, b in ((x, y), (y, x), (x @ torch.linalg.qr(vectors(5, 5, 3)).Q, y @ torch.linalg.qr(vectors(5, 5, 3)).Q)):
        assert quality.frechet_distance(a, b).value == pytest.approx(expected, rel=1e-9)
    assert quality.frechet_distance(x.float(), y.float()).value == pytest.approx(expected, rel=1e-5)


def test_error_of_the_frechet_distance_is_the_infinitesimal_jackknifes() -> None:
    """Each vector's weight moved by hand, of skewed sets; the divisors n and n - 1 differ by 1 / n."""
    x, y = (vectors(200, 3).square() @ vectors(3, 3, 1)).numpy(), vectors(150, 3, 2).exp().numpy() + 0.5

    def weighted(weights: list[Array]) -> float:
        means = [w @ z for w, z in zip(weights, (x, y), strict=True)]
        s, t = ((z - m).T @ ((z - m) * w[:, None]) for w, z, m in zip(weights, (x, y), means, strict=True))
        shift = means[0] - means[1]
        return float(shift @ shift + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)

    even = [np.full(len(z), 1 / len(z)) for z in (x, y)]
    variance, step = 0.0, 1e-5
    for side, z in enumerate((x, y)):
        for i in range(len(z)):
            moved = [w.copy() for w in even]
            moved[side] *= 1 - step
            moved[side][i] += step
            variance += ((weighted(moved) - weighted(even)) / step / len(z)) ** 2
    found = quality.frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert found.error == pytest.approx(math.sqrt(variance), rel=0.02)
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * found.error, rel=1e-6)


def test_interval_of_the_frechet_distance_covers_its_expectation() -> None:
    """In 300 pairs of sets of different distributions: 0.95, with a standard error of 0.013."""
    mixing = vectors(4, 4, 9)
    found = [quality.frechet_distance(vectors(60, 4, 2 * i) @ mixing, vectors(60, 4, 2 * i + 1)) for i in range(300)]
    expectation = np.mean([d.value for d in found])
    assert 0.91 < np.mean([d.low < expectation < d.high for d in found]) < 0.99


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (vectors(5, 5), vectors(9, 5), "need more than F=5 vectors each, got 5 and 9"),
        (vectors(9, 5), vectors(9, 4), "theirs: must have the F=5 of ours, got 4"),
        (torch.full((9, 5), math.nan), vectors(9, 5), "ours: must be finite"),
        (vectors(9, 5), vectors(0, 5), r"theirs: must be \[N F\] and hold a vector, got \[0, 5\]"),
    ],
)
def test_sets_without_a_frechet_distance(ours: Tensor, theirs: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        quality.frechet_distance(ours, theirs)


# The kernel's distance


def discrepancy(x: Array, y: Array) -> float:
    """Binkowski et al. 2018, eq. 4, pair by pair."""

    def kernel(a: Array, b: Array) -> float:
        return (sum(float(p * q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n = len(x)
    pairs = list(itertools.permutations(range(n), 2))
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs) / (n * (n - 1))
    return within - 2 * sum(kernel(a, b) for a in x for b in y) / n**2


def test_kernel_distance_is_the_papers() -> None:
    x, y = vectors(9, 4), vectors(9, 4, 1) + 0.5
    found = quality.kernel_distance(x, y, subsets=1)
    assert found.value == pytest.approx(discrepancy(x.numpy(), y.numpy()), rel=1e-10)
    assert math.isnan(found.error) and math.isnan(found.low)


def test_kernel_distance_is_the_mean_over_disjoint_subsets() -> None:
    x, y = vectors(23, 4), vectors(27, 4, 1) + 0.5
    generator = torch.Generator().manual_seed(3)
    first, second = (z[torch.randperm(len(z), generator=generator)].numpy() for z in (x, y))
    values = [discrepancy(first[5 * i : 5 * i + 5], second[5 * i : 5 * i + 5]) for i in range(4)]
    found = quality.kernel_distance(x, y, subsets=4, seed=3)
    assert found.value == pytest.approx(np.mean(values), rel=1e-10)
    assert found.error == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(reference.mean_interval(np.array(values)))


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    """Unbiased, and its error is that of its values: 200 pairs of sets."""
    found = [quality.kernel_distance(vectors(60, 4, 2 * i), vectors(60, 4, 2 * i + 1)) for i in range(200)]
    values = np.array([d.value for d in found])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 3 * spread / math.sqrt(200)
    assert np.sqrt(np.mean([d.error**2 for d in found])) == pytest.approx(spread, rel=0.2)  # of 200 values: 0.05
    assert np.mean([d.low < 0 < d.high for d in found]) > 0.9


def test_too_few_for_subsets() -> None:
    with pytest.raises(ValueError, match="leave 2 vectors to each, got 10 for 19 and 40 vectors"):
        quality.kernel_distance(vectors(19, 3), vectors(40, 3))


def test_both_are_those_of_torchmetrics() -> None:
    """Its classes take features for images where the network is none; they answer in float32."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Nothing(nn.Module):
        num_features = 6

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = vectors(80, 6).float(), (1.2 * vectors(80, 6, 1) + 0.3).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid, kid = FrechetInceptionDistance(Nothing()), KernelInceptionDistance(Nothing(), subsets=1, subset_size=80)
    for metric in (fid, kid):
        metric.update(x, real=False)
        metric.update(y, real=True)
    assert quality.frechet_distance(x, y).value == pytest.approx(float(fid.compute()), rel=1e-4)
    with torch.random.fork_rng():
        assert quality.kernel_distance(x, y, subsets=1).value == pytest.approx(float(kid.compute()[0]), rel=1e-4)


# Neighbours


def test_nearest_is_that_of_loops() -> None:
    x, y = vectors(7, 3), vectors(9, 3, 1)
    x[2] = y[5]
    number, distance, ratio = quality.nearest(x, y)
    for i in range(7):
        every = [math.dist(x[i].tolist(), other.tolist()) for other in y]
        first, second = sorted(every)[:2]
        assert int(number[i]) == every.index(first)
        assert float(distance[i]) == pytest.approx(first, abs=1e-12)
        assert float(ratio[i]) == pytest.approx(first / second, abs=1e-12)
    assert distance[2] == 0 and number[2] == 5


def test_nearest_of_equals_is_the_first() -> None:
    y = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    found = quality.nearest(torch.tensor([[0.0, 1], [0, 3], [0.5, 0.5]]), y)
    assert found.number.tolist() == [1, 1, 0]
    assert found.ratio.tolist() == [0, 1, 1]
    assert quality.nearest(y, y[:1]).ratio.tolist() == [1] * 4


def test_nearest_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(7, 3), vectors(9, 3, 1)
    whole = quality.nearest(x, y)
    monkeypatch.setattr("gradlens.redesign.quality.neighbours.AT_ONCE", 20)
    for a, b in zip(whole, quality.nearest(x, y), strict=True):
        assert torch.equal(a, b)


def test_nearest_neighbour_is_mann_and_whitneys_u() -> None:
    x, y = vectors(8, 1).flatten().abs(), vectors(11, 1, 1).flatten().abs() + 0.2
    x[0] = y[0]  # a tie
    found = quality.nearest_neighbour(x, y)
    wins = np.array([[1.0 if a < b else 0.5 if a == b else 0.0 for b in y] for a in x])
    assert found.value == pytest.approx(wins.mean())
    error = math.sqrt(wins.mean(1).var(ddof=1) / 8 + wins.mean(0).var(ddof=1) / 11)  # DeLong et al. 1988
    assert found.low == pytest.approx(max(found.value - 1.959964 * error, 0), rel=1e-5)
    assert found.high == pytest.approx(min(found.value + 1.959964 * error, 1), rel=1e-5)
    exact = stats.mannwhitneyu(x[1:], y, alternative="less", method="exact").pvalue
    assert quality.nearest_neighbour(x[1:], y).p_value == pytest.approx(exact, abs=0.01)  # the normal law of 7 and 11


def test_nearest_neighbour_of_equal_distances_tells_nothing() -> None:
    assert quality.nearest_neighbour(torch.ones(5), torch.ones(4)) == quality.Share(0.5, 0.5, 0.5, 1.0)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_p_of_copied_share_is_that_of_all_arrangements(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 samples and 6 held-out images, all 210 ranks alike; the second held-out image is the limit."""
    monkeypatch.setattr("gradlens.redesign.quality.neighbours.CLOSEST", 1 / 3)
    arrangements = list(itertools.combinations(range(10), 4))
    reached = 0
    for ranks in arrangements:
        limit = sorted(set(range(10)) - set(ranks))[1]
        reached += sum(r < limit for r in ranks) >= count
    samples = torch.tensor([1.5 if i < count else 9.0 for i in range(4)])
    found = quality.copied_share(samples, torch.arange(1.0, 7))
    assert found.value == count / 4
    assert found.p_value == pytest.approx(reached / len(arrangements))
    assert found.low <= found.value <= found.high


def test_p_of_training_share_is_that_of_all_deals() -> None:
    """2 of 6 images trained on, 15 deals; 4,000 draws leave a standard error of at most 0.008."""
    real, samples = vectors(6, 2), vectors(5, 2, 1)
    hits = quality.nearest(samples, real).number.tolist()
    for training in ([0, 1], [2, 5], [3, 4]):
        others = [i for i in range(6) if i not in training]
        count = sum(h in training for h in hits)
        deals = [sum(h in deal for h in hits) >= count for deal in itertools.combinations(range(6), 2)]
        found = quality.training_share(samples, real[training], real[others])
        assert found.value == count / 5
        assert found.p_value == pytest.approx(np.mean(deals), abs=0.03)


def test_smooth_samples_are_near_to_everything_but_no_copies() -> None:
    """What shrinks towards the mean is nearer than real images are, no more so to one of them than to the next."""
    training, held_out, fresh = (vectors(300, 8, i) for i in range(3))
    smooth = fresh / 3
    ours, theirs = (quality.nearest(x, training) for x in (smooth, held_out))
    assert quality.nearest_neighbour(ours.distance, theirs.distance).p_value < 1e-6
    assert quality.copied_share(ours.ratio, theirs.ratio).p_value > 0.05
    assert quality.training_share(smooth, training, held_out).p_value > 0.05
    copies = quality.nearest(training + 0.3 * vectors(300, 8, 5), training)
    assert quality.nearest_neighbour(copies.ratio, theirs.ratio).p_value < 1e-6
    assert quality.copied_share(copies.ratio, theirs.ratio).p_value < 1e-6
    assert quality.training_share(training + 0.3 * vectors(300, 8, 5), training, held_out).p_value < 0.001


# Features


@pytest.mark.parametrize("side", [128, 20])
def test_features_of_a_bundled_network_by_hand(photographs: Tensor, side: int) -> None:
    """Images of 32 px, enlarged and shrunk."""
    model = models.classifier(input_size=(3, side, side))
    batch = photographs[:3]
    found = quality.features(model, batch)
    resized = F.interpolate(batch, size=(side, side), mode="bilinear", antialias=True)
    network = bare(model)
    maps = network.forward_features((resized - model.mean) / model.std)  # type: ignore[operator]
    assert found.shape == (3, 256) and found.dtype == torch.float32
    torch.testing.assert_close(found, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)  # layouts differ, so does rounding


def test_width_is_what_comes_out() -> None:
    """This network says it has 576 features, and hands 1024 to its last layer."""
    model = models.classifier("mobilenetv3_small_100", weights="random", input_size=(3, 32, 32))
    assert quality.features(model, torch.rand(2, 3, 32, 32)).shape == (2, 1024)
    assert getattr(bare(model), "num_features", None) != 1024


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_does_not_matter(photographs: Tensor, batch_size: int) -> None:
    model = models.classifier()
    found = quality.features(model, photographs[:7], batch_size=batch_size)
    expected = quality.features(model, photographs[:7])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # another order of sums in float32


def test_grey_and_eight_bits(photographs: Tensor) -> None:
    grey = photographs[:4].mean(1, keepdim=True)
    model = Edges()
    assert torch.equal(quality.features(model, grey), quality.features(model, grey.expand(-1, 3, -1, -1)))
    levels = (photographs[:4] * 255).round().to(torch.uint8)
    assert torch.equal(quality.features(model, levels), quality.features(model, levels.float() / 255))


def test_output_of_ones_own_classifier(photographs: Tensor) -> None:
    """Maps are averaged over positions, vectors are taken as they are, in eval mode."""
    model = Edges()
    expected = F.conv2d(photographs[:4], model.weight).relu().mean((2, 3)).detach()
    torch.testing.assert_close(quality.features(model, photographs[:4]), expected)
    flat = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.testing.assert_close(quality.features(flat, photographs[:4]), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_model_and_random_numbers_are_left_as_found(photographs: Tensor, fails: bool) -> None:
    class Careless(Edges):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            if fails:
                raise RuntimeError("careless")
            return super().forward(x)

    careless, flat = Careless(), nn.Flatten()
    model = nn.Sequential(careless, flat).train()
    flat.eval()
    state = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="careless"):
            quality.features(model, photographs[:2])
    else:
        quality.features(model, photographs[:2])
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and careless.training and careless.dropout.training and not flat.training
    assert careless.weight.requires_grad and careless.weight.grad is None and torch.is_grad_enabled()


def test_features_that_are_none(photographs: Tensor) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean()

    with pytest.raises(ValueError, match=r"Wrong must return \[N F\] for \[N C H W\], got \[\]"):
        quality.features(Wrong(), photographs[:2])
    model = Edges()
    model.weight.data.fill_(math.inf)
    with pytest.raises(ValueError, match="Edges gives NaN or infinity for image 0"):
        quality.features(model, photographs[:2])
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        quality.features(Edges(), photographs[:2], batch_size=0)


# Cache


def test_a_hit_gives_the_same_bytes_and_does_not_run_the_model(photographs: Tensor, tmp_path: Path) -> None:
    model = Edges()
    first = quality.features(model, photographs, cache=tmp_path / "new")
    (file,) = (tmp_path / "new").iterdir()
    content, runs = file.read_bytes(), model.runs
    second = quality.features(model, photographs, cache=tmp_path / "new", batch_size=7)
    assert torch.equal(first, second) and model.runs == runs
    assert torch.equal(first, quality.features(model, photographs))
    assert [f.read_bytes() for f in (tmp_path / "new").iterdir()] == [content]
    assert len(content) < first.numel() * 4 + 2000


def test_other_images_weights_and_sizes_are_other_files(photographs: Tensor, tmp_path: Path) -> None:
    changed = photographs[:8].clone()
    changed[7, 2, 31, 31] += 1e-6
    sized = [models.classifier(weights="random", input_size=(3, n, n)) for n in (32, 40)]
    for model, batch in (
        (Edges(), photographs[:8]), (Edges(), photographs[:7]), (Edges(), photographs[:8].flip(0)), (Edges(), changed),
        (Edges(1), photographs[:8]), (sized[0], photographs[:8]), (sized[1], photographs[:8]),
        (models.classifier(weights="random", input_size=(3, 32, 32), mean=(0.5,)), photographs[:8]),
    ):  # fmt: skip
        found = quality.features(model, batch, cache=tmp_path)
        assert torch.equal(found, quality.features(model, batch))
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "renamed"])
def test_damaged_cache_is_made_again_and_said(photographs: Tensor, tmp_path: Path, damage: str) -> None:
    expected = quality.features(Edges(), photographs[:9], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "renamed":
        quality.features(Edges(1), photographs[:9], cache=tmp_path)
        (other,) = (f for f in tmp_path.iterdir() if f != file)
        other.replace(file)
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes({"truncated": content[:-9], "flipped": flipped, "empty": b"", "foreign": b"x" * 99}[damage])
    with pytest.warns(UserWarning, match=f"cache: '{file.name}' is damaged and made again"):
        found = quality.features(Edges(), photographs[:9], cache=tmp_path)
    assert torch.equal(found, expected)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_said(photographs: Tensor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="cannot be written"):
        found = quality.features(Edges(), photographs[:9], cache=tmp_path / "file" / "cache")
    assert torch.equal(found, quality.features(Edges(), photographs[:9]))


# Radial spectrum


def test_radial_distance_by_hand(photographs: Tensor) -> None:
    x, y = photographs[:3], photographs[3:8]

    def level(batch: Tensor) -> Array:
        every = [reference.radial_profile(image.double().numpy())[1] for image in batch]
        return 10 * np.log10(np.mean(every, axis=0) + 1e-8 / 16)

    expected = math.sqrt(np.mean((level(x) - level(y)) ** 2))
    assert quality.radial_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_radial_distance_counts_contrast(photographs: Tensor) -> None:
    assert quality.radial_distance(photographs[:9], photographs[:9].flip(0)) == pytest.approx(0, abs=1e-4)
    halved = photographs[:9] / 2
    assert quality.radial_distance(photographs[:9], halved) == pytest.approx(20 * math.log10(2), rel=1e-4)


# The whole rating


def value_of(table: pd.DataFrame, metric: str, subject: str = "sample") -> float:
    (value,) = table[(table["subject"] == subject) & (table["metric"].str.split("[").str[0] == metric)]["value"]
    return float(value)


def p_of(table: pd.DataFrame, metric: str, subject: str = "sample") -> float:
    (value,) = table[(table["subject"] == subject) & (table["metric"].str.split("[").str[0] == metric)]["p"]
    return float(value)


def checkerboard(batch: Tensor, amplitude: float) -> Tensor:
    i, j = torch.meshgrid(torch.arange(batch.shape[2]), torch.arange(batch.shape[3]), indexing="ij")
    return (batch * 0.8 + 0.1) + amplitude * (1 - 2.0 * ((i + j) % 2))


def blurred(batch: Tensor, strength: float) -> Tensor:
    return (1 - strength) * batch + strength * F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), 3, 1)


def noisy(batch: Tensor, amplitude: float) -> Tensor:
    noise = torch.rand(batch.shape, generator=torch.Generator().manual_seed(5)) - 0.5
    return (batch * 0.6 + 0.2) + amplitude * noise


@pytest.fixture(scope="module")
def bundled() -> models.Model:
    """The bundled backbone at half its size: four times as fast."""
    return models.classifier(input_size=(3, 64, 64))


@pytest.mark.parametrize(
    ("spoil", "amounts"),
    [(blurred, (0.0, 0.3, 0.6, 1.0)), (noisy, (0.0, 0.1, 0.2, 0.3)), (checkerboard, (0.0, 0.02, 0.05, 0.1))],
)
def test_the_more_is_spoilt_the_farther(
    photographs: Tensor, bundled: models.Model, spoil: Callable[[Tensor, float], Tensor], amounts: tuple[float, ...]
) -> None:
    """100 images against 200 others, squeezed alike; FD of the first 32 features, which 100 images have a covariance of."""
    real = spoil(photographs[100:300], 0.0)
    seen = quality.features(bundled, real)
    found: dict[str, list[float]] = {"FD": [], "KID": [], "spectrum": []}
    for amount in amounts:
        ours = spoil(photographs[:100], amount)
        own = quality.features(bundled, ours)
        found["FD"].append(quality.frechet_distance(own[:, :32], seen[:, :32]).value)
        found["KID"].append(quality.kernel_distance(own, seen, subsets=4).value)
        found["spectrum"].append(float(spectra.spectrum_distance(ours, real)))
    for metric, values in found.items():
        assert values == sorted(values), (metric, values)
        assert values[3] > 1.2 * values[1], (metric, values)
    assert quality.radial_distance(spoil(photographs[:100], amounts[3]), real) > quality.radial_distance(
        spoil(photographs[:100], 0.0), real
    )


def test_table_holds_what_its_parts_say(photographs: Tensor) -> None:
    """Without held-out images the control is a random half of the real ones, and n is half of them."""
    ours, real, model = photographs[:150], photographs[150:371], Edges()
    order, ranked = _by_content(real, 0), _by_content(ours, 0)
    table = quality.rate(ours, real, backbone=model, label="resize/stride1")
    assert tuple(table.columns) == COLUMNS
    assert set(table["model"]) == {"resize/stride1"} and set(table["kind"]) == {""}
    assert np.isnan(table["period"]).all()
    own, reference_half, control = (
        quality.features(model, x) for x in (ours[ranked], real[order[:110]], real[order[110:220]])
    )
    for subject, rated in (("sample", own[:110]), ("image", control)):
        rows = table[table["subject"] == subject].set_index("metric")
        assert list(rows.index) == [
            "FD[Edges, 110]", "KID[Edges, 110]", "nearest_neighbour[Edges, 110]", "copied_share[Edges, 110]",
            "radial_distance", "radial_distance_test", "spectrum_distance", "spectrum_distance_test",
        ]  # fmt: skip
        expected = quality.frechet_distance(rated, reference_half)
        assert tuple(rows.loc["FD[Edges, 110]", ["value", "low", "high"]]) == (expected[0], *expected[2:])
        expected = quality.kernel_distance(rated, reference_half)
        assert tuple(rows.loc["KID[Edges, 110]", ["value", "low", "high"]]) == (expected[0], *expected[2:])
    ratios = [quality.nearest(x, reference_half).ratio for x in (own, control)]
    rows = table[table["subject"] == "sample"].set_index("metric")
    found = rows.loc["nearest_neighbour[Edges, 110]"]
    assert (found["value"], found["p"], found["n"]) == (*(quality.nearest_neighbour(*ratios)[i] for i in (0, 3)), 150)
    powers = [spectra.normalised_power(x) for x in (ours[ranked[:110]], real[order[:110]])]
    distance, floor, p_value = spectra.spectrum_distance_test(*powers)
    assert (rows.loc["spectrum_distance", "value"], rows.loc["spectrum_distance", "p"]) == (distance, p_value)
    assert rows.loc["spectrum_distance_test", "value"] == floor
    radial = quality.radial_distance(ours[ranked[:110]], real[order[:110]])
    assert rows.loc["radial_distance", "value"] == radial


def test_order_batches_and_random_numbers_do_not_matter(photographs: Tensor, tmp_path: Path) -> None:
    ours, real, held_out = photographs[:100], photographs[100:300], photographs[300:400]
    state = torch.get_rng_state()
    first = quality.rate(ours, real, backbone=Edges(), held_out=held_out, cache=tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    second = quality.rate(
        ours.flip(0), real.roll(7, 0), backbone=Edges(), held_out=held_out.flip(0), cache=tmp_path, batch_size=9
    )
    assert len(list(tmp_path.iterdir())) == 2
    pd.testing.assert_frame_equal(first, second, rtol=1e-6)
    pd.testing.assert_frame_equal(
        first, quality.rate(ours, real, backbone=Edges(), held_out=held_out), check_exact=True
    )
    assert value_of(quality.rate(ours, real, backbone=Edges(), seed=1), "FD") != value_of(first, "FD")


def test_memorised_samples_are_caught_and_named(photographs: Tensor) -> None:
    real, held_out, model = photographs[:200], photographs[200:400], Edges()
    copies = real[torch.arange(199, -1, -2)]
    found = quality.rating(copies, real, backbone=model, held_out=held_out)
    for metric in ("nearest_neighbour", "copied_share", "training_share"):
        assert value_of(found.table, metric) == 1
        assert p_of(found.table, metric) < 0.001
        if metric != "training_share":
            assert p_of(found.table, metric, "image") > 0.01
    assert torch.equal(found.real, 199 - 2 * found.sample)
    assert (found.distance == 0).all() and sorted(found.sample.tolist()) == list(range(100))
    fresh = quality.rating(photographs[400:500], real, backbone=model, held_out=held_out)
    assert p_of(fresh.table, "nearest_neighbour") > 0.01 and p_of(fresh.table, "training_share") > 0.01
    assert (fresh.ratio.diff() >= 0).all() and (fresh.distance > 0).all()


def test_a_few_copies_among_poor_samples_are_caught(photographs: Tensor) -> None:
    """Far from all real images, the others hide them from a comparison of medians."""
    real, held_out = photographs[:200], photographs[200:400]
    samples = torch.cat([real[:10], 1 - photographs[400:490]])
    found = quality.rating(samples, real, backbone=Edges(), held_out=held_out)
    assert p_of(found.table, "nearest_neighbour") > 0.5
    assert p_of(found.table, "copied_share") < 1e-3
    assert value_of(found.table, "copied_share") >= 0.1
    assert sorted(found.sample[:10].tolist()) == list(range(10))


def test_few_images_have_no_distance_but_a_table(photographs: Tensor) -> None:
    """16 features need more than 16 images; ten subsets of two, 20."""
    found = {n: quality.rate(photographs[:n], photographs[100:200], backbone=Edges()) for n in (1, 16, 17, 20)}
    for n, table in found.items():
        for subject in ("sample", "image"):
            assert math.isnan(value_of(table, "FD", subject)) == (n < 17)
            assert math.isnan(value_of(table, "KID", subject)) == (n < 20)
        assert not math.isnan(value_of(table, "spectrum_distance"))
        assert f"FD[Edges, {n}]" in set(table["metric"])
    for m in (2, 3, 4):  # a ratio needs two training images, and the control of the control another two
        least = quality.rate(photographs[:5], photographs[5 : 5 + m], backbone=Edges())
        for subject in ("sample", "image"):
            assert math.isnan(value_of(least, "copied_share", subject)) == (m < 4)


def test_samples_that_are_all_one(photographs: Tensor) -> None:
    """A collapsed generator, a constant one, and a grey one are rated, and badly."""
    real = photographs[:200]
    fair = quality.rate(photographs[200:300], real, backbone=Edges())
    for samples in (photographs[300:301].expand(100, -1, -1, -1), torch.full((100, 3, 32, 32), 0.5)):
        table = quality.rate(samples, real, backbone=Edges())
        assert np.isfinite(table["value"]).all()
        for metric in ("FD", "KID", "spectrum_distance", "radial_distance"):
            assert value_of(table, metric) > value_of(fair, metric)


def spoilt(batch: Tensor, value: float) -> Tensor:
    batch = batch.clone()
    batch[3, 0, 1, 2] = value
    return batch


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"samples": torch.zeros(0, 3, 32, 32)},
            r"samples: must be \[N C H W\] and hold at least one image, got \[0, 3",
        ),
        ({"samples": torch.rand(4, 2, 32, 32)}, "samples: must have 1 or 3 channels, got 2"),
        ({"real": torch.rand(4, 4, 32, 32)}, "real: must have 1 or 3 channels, got 4"),
        (
            {"samples": torch.rand(4, 1, 32, 32)},
            r"real: must have the C H W of samples, \[1, 32, 32\], got \[3, 32, 32\]",
        ),
        ({"held_out": torch.rand(4, 3, 16, 32)}, "held_out: must have the C H W of samples"),
        ({"samples": spoilt(torch.rand(4, 3, 32, 32), math.nan)}, "samples: image 3 holds NaN or infinity"),
        ({"real": spoilt(torch.rand(4, 3, 32, 32), -math.inf)}, "real: image 3 holds NaN or infinity"),
        ({"samples": 2 * torch.rand(4, 3, 32, 32) - 1}, r"samples: must be in \[0, 1\], got -.* take x / 2 \+ 0.5"),
        ({"real": torch.rand(1, 3, 32, 32)}, "real: must be at least 2 images"),
        ({"backbone": "no_such"}, "model: 'no_such' is neither bundled"),
    ],
)
def test_faults_are_a_sentence(change: dict, told: str) -> None:
    sets = {"samples": torch.rand(4, 3, 32, 32), "real": torch.rand(6, 3, 32, 32), "backbone": Edges()}
    with pytest.raises(ValueError, match=told) as error:
        quality.rate(**(sets | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [np.zeros((4, 3, 8, 8)), torch.zeros(4, 3, 8, 8, dtype=torch.int64)])
def test_what_is_no_picture(wrong: object) -> None:
    with pytest.raises(TypeError, match="samples: must be"):
        quality.rate(wrong, torch.rand(4, 3, 8, 8))  # type: ignore[arg-type]


def test_spectra_of_large_images_are_of_fewer(photographs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlens.redesign.quality.table.SPECTRUM_PIXELS", 30 * 32 * 32)
    table = quality.rate(photographs[:50], photographs[50:150], backbone=Edges()).set_index(["subject", "metric"])
    fewer, real = (x[_by_content(x, 0)[:30]] for x in (photographs[:50], photographs[50:150]))
    assert table.loc[("sample", "radial_distance"), "value"] == quality.radial_distance(fewer, real)
    assert table.loc[("image", "spectrum_distance"), "n"] == 30
    assert table.loc[("sample", "FD[Edges, 50]"), "n"] == 50


@pytest.fixture(scope="module")
def cifar(assets: Path) -> Tensor:
    """1,200 images of CIFAR-10, the classes in turn, in levels of 8 bits."""
    with ZipFile(assets / "data/cifar10/train.zip") as file:
        names = sorted((n for n in file.namelist() if n.endswith(".jpg")), key=lambda n: n.split("/")[::-1])[:1200]
        pictures = [np.array(Image.open(BytesIO(file.read(n))).convert("RGB")) for n in names]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@pytest.mark.assets
@pytest.mark.slow
def test_real_images_are_rated_as_such_and_spoilt_ones_as_worse(cifar: Tensor, tmp_path: Path) -> None:
    ours, real, held_out = cifar[:300], cifar[300:900], cifar[900:]
    exact = ours.float() / 255
    tables = {
        name: quality.rate(samples, real, held_out=held_out, cache=tmp_path)
        for name, samples in {
            "real": ours, "blurred": blurred(exact, 1.0), "grid": checkerboard(exact, 0.05), "copies": real[:300],
        }.items()
    }  # fmt: skip
    first = tables["real"].set_index(["subject", "metric"])
    assert ("sample", "FD[resnet18_half, 300]") in first.index
    for metric in ("FD", "KID"):
        row, control = (first.loc[(subject, f"{metric}[resnet18_half, 300]")] for subject in ("sample", "image"))
        assert row["low"] < control["value"] < row["high"]
        for name in ("blurred", "grid"):
            found = tables[name].set_index(["subject", "metric"]).loc[("sample", f"{metric}[resnet18_half, 300]")]
            assert found["low"] > max(row["high"], control["high"])
    for metric in ("copied_share", "training_share"):
        for name in ("real", "blurred", "grid"):
            assert p_of(tables[name], metric) > 0.001
        assert p_of(tables["copies"], metric) < 0.001
    assert value_of(tables["copies"], "FD") < value_of(tables["copies"], "FD", "image")


def test_the_bundled_backbone_is_named(photographs: Tensor) -> None:
    table = quality.rate(photographs[:24], photographs[24:72], label="a")
    assert "KID[resnet18_half, 24]" in set(table["metric"])
    assert math.isnan(value_of(table, "FD")) and math.isfinite(value_of(table, "KID"))
