"""Whether samples are copies: how near they are to training images, beside how near other real images are.

Distance alone misleads: a smooth sample is near to everything, a poor one far from everything. So the distance to the nearest
training image is divided by that to the second nearest (Lowe 2004): a copy stands out from its surroundings, wherever it is.
Three shares are read together: `nearest_neighbour` of the whole set, `copied_share` of a few copies among many samples, and,
where there are real images that were not trained on, `training_share`, which no flaw of the samples moves.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

AT_ONCE = 2**24  # distances in memory, 128 MiB
DRAWS = 4000
CLOSEST = 0.01  # of the held-out images: nearer than these is a copy
LEVEL = 0.95


class Nearest(NamedTuple):
    """Of each vector the `number` `[N]` of its nearest, counted from 0, the Euclidean `distance` `[N]` to it, and the `ratio`
    `[N]` of that to the distance of the second nearest, in [0, 1]."""

    number: Tensor
    distance: Tensor
    ratio: Tensor


class Share(NamedTuple):
    """A share of the samples with its 95 % interval, and the one-sided p of no copying."""

    value: float
    low: float
    high: float
    p_value: float


def nearest(ours: Tensor, theirs: Tensor) -> Nearest:
    """The nearest of `theirs` `[M F]` to each of `ours` `[N F]`; the first of equals.

    Found by products in float64; a distance of 0 is exactly that. A ratio 0/0 is 0, and 1 where M is 1.

    Raises:
        ValueError: either is no `[N F]` with a vector, or the widths differ.

    Source: Lowe 2004, section 7.1, for the ratio.

    Example:
        >>> found = nearest(torch.tensor([[0.0, 0], [6, 8]]), torch.tensor([[3.0, 4], [6, 8]]))
        >>> [part.tolist() for part in found]
        [[0, 1], [5.0, 0.0], [0.5, 0.0]]
    """
    if ours.ndim != 2 or theirs.ndim != 2 or not ours.numel() or not theirs.numel() or ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"theirs: must be [M F] with the F of ours [N F], got {list(ours.shape)}, {list(theirs.shape)}"
        )
    ours, theirs = ours.double(), theirs.double()
    half = theirs.square().sum(1) / 2
    found = []
    for part in ours.split(max(AT_ONCE // len(theirs), 1)):
        far = half - part @ theirs.mT  # half the squared distance, less what is the same for all
        first = far.argmin(1, keepdim=True)
        found.append(torch.cat([first, far.scatter(1, first, float("inf")).argmin(1, keepdim=True)], 1))
    first, second = torch.cat(found).unbind(1)
    distance, other = ((ours - theirs[number]).norm(dim=1) for number in (first, second))
    ratio = torch.where(distance > 0, distance / torch.maximum(other, distance), 0.0)
    return Nearest(first, distance, ratio if len(theirs) > 1 else torch.ones_like(ratio))


def nearest_neighbour(samples: Tensor, held_out: Tensor) -> Share:
    """How often a sample is nearer to the training images, by its ratio, than a held-out real image is; equals count half.

    It is Mann and Whitney's U over N M. About 0.5: as near as real images are. The interval is of other samples and other
    held-out images.

    Range: [0, 1].
    Blind to: copies of what the training images hold twice, and copies among flawed samples, which stand out less than real
        images do. Smooth samples raise it a little, to 0.53 for CIFAR-10 blurred by 0.8 px (0.67 by plain distances).

    Args:
        samples: ratios `[N]` from `nearest`.
        held_out: ratios `[M]` of other real images to the same training images.

    Source: Meehan, Chaudhuri and Dasgupta 2020, with one cell and ratios; the interval: DeLong et al. 1988.

    Example:
        >>> nearest_neighbour(torch.arange(8.0), torch.arange(8.0) + 1).value
        0.6171875
    """
    x, y = (d.double().sort().values for d in (samples, held_out))
    of_samples, of_held_out = 1 - _rank(x, y), _rank(y, x)
    value = float(of_samples.mean())
    error = float((_spread(of_samples) + _spread(of_held_out)).sqrt())
    p_value = stats.mannwhitneyu(x.numpy(), y.numpy(), alternative="less", method="asymptotic").pvalue
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    return Share(value, max(value - reach, 0.0), min(value + reach, 1.0), float(p_value))


def copied_share(samples: Tensor, held_out: Tensor) -> Share:
    """The share of samples nearer to a training image, by the ratio, than the nearest hundredth of held-out real images.

    About 0.01 where nothing is copied. With k held-out images in that hundredth and c samples below the k-th,
    p = P(of the c + k - 1 nearest of both at most k - 1 are held out), which is exact. The interval is Clopper and Pearson's, of
    other samples and the same real images.

    Range: [0, 1].
    Blind to: copies of what the training images hold twice, or changed so much that real images are as near to each other.

    Args:
        samples, held_out: as `nearest_neighbour`.

    Source: ours.

    Example:
        >>> copied_share(torch.tensor([0.0, 0, 3, 4]), torch.arange(1.0, 101)).value
        0.5
    """
    n, m = len(samples), len(held_out)
    k = max(int(CLOSEST * m), 1)
    count = int((samples < held_out.sort().values[k - 1]).sum())
    p_value = float(stats.hypergeom.cdf(k - 1, n + m, m, count + k - 1)) if count else 1.0
    return Share(count / n, *_binomial(count, n), p_value)


def training_share(samples: Tensor, training: Tensor, held_out: Tensor, *, seed: int = 0) -> Share:
    """The share of samples whose nearest real image is one that was trained on, not one of the held-out.

    Whatever the samples are like, smooth or poor, it is M / (M + K) on average unless training told the two apart: p is that
    of 4,000 random deals of the real images into training and held-out. The interval is of other samples, the same real
    images: where many samples are near to one image, the p knows it and the interval does not.

    Range: [0, 1]; 0.5 for no copying where both are equally many.
    Blind to: copies, if the held-out images were trained on too.

    Args:
        samples: features `[N F]`.
        training: `[M F]`.
        held_out: `[K F]`, of images from the same source that were not trained on.
        seed: of the deals.

    Source: ours; a randomisation test (Fisher 1935).

    Example:
        >>> x = torch.eye(4)
        >>> training_share(x[:2], x[:2], x[2:]).value
        1.0
    """
    n, m, k = len(samples), len(training), len(held_out)
    hits = nearest(samples, torch.cat([training, held_out])).number.bincount(minlength=m + k)
    count = int(hits[:m].sum())
    times, images = hits.unique(return_counts=True)  # so many images are nearest to so many samples
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(images.numpy(), m, size=DRAWS) @ times.numpy()
    return Share(count / n, *_binomial(count, n), (1 + int((dealt >= count).sum())) / (1 + DRAWS))


def _rank(x: Tensor, among: Tensor) -> Tensor:
    """The share of sorted `among` below each of `x`; equals count half."""
    return (torch.searchsorted(among, x) + torch.searchsorted(among, x, right=True)) / (2 * len(among))


def _spread(values: Tensor) -> Tensor:
    """The squared standard error of the mean."""
    return values.double().var(correction=min(1, len(values) - 1)) / len(values)


def _binomial(count: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    found = stats.binomtest(count, n).proportion_ci(LEVEL)
    return float(found.low), float(found.high)
