"""Distances of two sets in feature space: Frechet's of their Gaussians, and the kernel's of their distributions.

    FD  = |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))                        Heusel et al. 2017
    KID = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  x != x', y != y'  Binkowski et al. 2018

Both are written here and not taken from torchmetrics, whose classes want images, so that nothing can be cached and no
sample changes its set; they answer in float32, FD from the eigenvalues of a product that is not symmetric, and KID draws
its subsets, which overlap, from the global generator. The tests hold both against them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.compare import interval

Z95 = 1.959964
NEGLIGIBLE = 1e-9  # of the largest variance: directions without any


class Distance(NamedTuple):
    """A distance with its standard error and 95 % interval."""

    value: float
    error: float
    low: float
    high: float


def frechet_distance(ours: Tensor, theirs: Tensor) -> Distance:
    """The squared Frechet distance of the Gaussians with the means and covariances (divisor n - 1) of two sets.

    Its expectation falls as n grows, towards that of infinite sets: compare equal n only, and the control beside. The
    interval is for that expectation at this n: it covers what other n samples and other m images of the same two kinds would
    give. The samples are the unit. The standard error is the infinitesimal jackknife's: with T the optimal map from S1 to S2,
    sample x moves the distance by 2 (m1 - m2)'d + d'(1 - T)d, d = x - m1, less its mean; likewise the other set. For two draws
    of one distribution, where the first order vanishes, it is up to half too wide.

    Range: [0, inf).
    Blind to: all but mean and covariance.

    Args:
        ours: `[N F]`.
        theirs: `[M F]`.

    Raises:
        ValueError: a set is no finite `[N F]`, the widths differ, or a set has no more vectors than F: its covariance would
            have no inverse, and the distance be mostly that.

    Source: Dowson and Landau 1982; Heusel et al. 2017. The error: Efron 1982; Malago et al. 2018 for the gradient.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + torch.tensor([3.0, 0, 4])).value, 4)
        25.0
    """
    x, y = _sets(ours, theirs)
    if min(len(x), len(y)) <= x.shape[1]:
        raise ValueError(
            f"ours, theirs: need more than F={x.shape[1]} vectors each, got {len(x)} and {len(y)}; give more images, or take "
            "kernel_distance"
        )
    shift = x.mean(0) - y.mean(0)
    (dx, root_x, inverse_x), (dy, root_y, inverse_y) = map(_moments, (x, y))
    u, s, v = torch.linalg.svd(root_x @ root_y)  # Tr (S1 S2)^(1/2) = the sum of s, exact also where S1 = S2 is singular
    value = shift.square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * s.sum()
    variance = torch.zeros((), dtype=x.dtype)
    for d, inverse, side, sign in ((dx, inverse_x, u, 1), (dy, inverse_y, v.mT, -1)):
        half = inverse @ side * s.sqrt()  # half half' = T
        moved = 2 * sign * d @ shift + d.square().sum(1) - (d @ half).square().sum(1)
        variance += moved.var() / len(d)
    error = float(variance.sqrt())
    value = max(float(value), 0.0)
    return Distance(value, error, max(value - Z95 * error, 0.0), value + Z95 * error)


def kernel_distance(ours: Tensor, theirs: Tensor, *, subsets: int = 10, seed: int = 0) -> Distance:
    """The squared maximum mean discrepancy of two sets with the kernel (x'y / F + 1)^3, unbiased: the mean over subsets.

    The subsets are disjoint, unlike the original's, so that their spread tells the standard error of their mean; the interval
    covers what other samples and other images would give.

    Range: about 0 for one distribution, also below it; unbounded above. Its expectation does not depend on n.
    Blind to: nothing that moments up to the third of the features show.

    Args:
        ours: `[N F]`.
        theirs: `[M F]`.
        subsets: how many; each has the smaller of N and M over `subsets` vectors of both sets.
        seed: of the subsets.

    Raises:
        ValueError: a set is no finite `[N F]`, the widths differ, or a subset would have fewer than 2 vectors.

    Source: Binkowski et al. 2018, eq. 4; blocks as in Zaremba et al. 2013.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> kernel_distance(x, x + 1).value > 1 > kernel_distance(x[:50], x[50:]).value
        True
    """
    x, y = _sets(ours, theirs)
    size = min(len(x), len(y)) // subsets if subsets >= 1 else 0
    if size < 2:
        raise ValueError(
            f"subsets: must be at least 1 and leave 2 vectors to each, got {subsets} for {len(x)} and {len(y)} vectors"
        )
    generator = torch.Generator().manual_seed(seed)
    parts = [z[torch.randperm(len(z), generator=generator)[: size * subsets]].view(subsets, size, -1) for z in (x, y)]
    values = _discrepancy(*parts)
    error = float(values.std() / subsets**0.5) if subsets > 1 else float("nan")
    return Distance(float(values.mean()), error, *interval(values.numpy()))


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased squared discrepancy of `[S n F]` and `[S n F]`, subset by subset: `[S]`."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[-1] + 1) ** 3

    n = x.shape[1]
    within = sum(k.sum((1, 2)) - k.diagonal(dim1=1, dim2=2).sum(1) for k in (kernel(x, x), kernel(y, y)))
    return within / (n * (n - 1)) - 2 * kernel(x, y).mean((1, 2))


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Departures from the mean, the root of the covariance, and that root's inverse where there is any variance."""
    d = x - x.mean(0)
    variance, axes = torch.linalg.eigh(d.mT @ d / (len(d) - 1))
    root = variance.clamp(min=0).sqrt()
    held = variance > NEGLIGIBLE * variance[-1].clamp(min=torch.finfo(x.dtype).tiny)
    inverse = torch.where(held, 1 / torch.where(held, root, 1.0), 0.0)
    return d, axes * root @ axes.mT, axes * inverse @ axes.mT


def _sets(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in float64 on the CPU."""
    for name, x in (("ours", ours), ("theirs", theirs)):
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"{name}: must be [N F] and hold a vector, got {list(x.shape)}")
        if not x.isfinite().all():
            raise ValueError(f"{name}: must be finite, holds NaN or infinity")
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"theirs: must have the F={ours.shape[1]} of ours, got {theirs.shape[1]}")
    return ours.detach().cpu().double(), theirs.detach().cpu().double()
