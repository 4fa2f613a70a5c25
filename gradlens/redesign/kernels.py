"""Kernels of trained layers, moved to the nearest that write no lattice of a constant, or written as another layer.

A transposed convolution of stride s gives phase p of its output from the taps V_p[j] = V[s j + p], and a constant stays one if
all phases have one sum (eq. 8). Two sets of such kernels: all of them ("even"), and those that are another kernel held over the
stride, V = s^D (W * H_d) ("held"), which are resize-convolutions and keep the lattice out of more than constants. A trained
kernel is projected onto one by least squares: of the taps, or of what the layer gives on its real input, whose neighbouring
pixels are alike, E|V x - V' x|^2 = sum over p of (V_p - V'_p) R (V_p - V'_p)' with the second moments R of the input's patches.

Weights are as torch keeps them, `[C C'/groups *kernel]` of a transposed convolution; 1 to 3 axes, no dilation.

Source: eq. 3 and 8 of Sugawara, Shiota, Kiya 2018; the projections are ours.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.upsampling.held import held_matrix

RIDGE = 1e-6  # of the mean diagonal of R, at least


class Fit(NamedTuple):
    """A projected kernel.

    Attributes:
        weight: what the new layer learns: V' itself, or W of a held one.
        kernel: V', on the taps of V and `grow` more before and behind.
        error: |V - V'| / |V|, over the taps, or over the outputs where moments were given.
    """

    weight: Tensor
    kernel: Tensor
    error: float


class Moments(NamedTuple):
    """Second moments of the patches of an input: `[groups C/g J C/g J]`, J taps of one phase; how many patches they are of.

    As the layer's own they are estimates: solving with them, their diagonal is raised by its mean times C/g J / patches, so that
    few patches leave the plain least squares of the taps.
    """

    matrix: Tensor
    patches: int


def phase_sums(weight: Tensor, stride: Sequence[int]) -> Tensor:
    """Sums of the taps of each phase, `[C C'/g *stride]`: equal where a constant stays constant (eq. 8)."""
    return by_phase(weight, stride).sum(tuple(range(-len(stride), 0)))


def by_phase(weight: Tensor, stride: Sequence[int]) -> Tensor:
    """The taps V_p[j] = V[s j + p] of each phase, zeros where a phase has fewer: `[C C'/g *stride *J]`."""
    d = len(stride)
    whole = [-(-m // s) * s for m, s in zip(weight.shape[2:], stride, strict=True)]
    padded = _widened(weight, [(0, n - m) for n, m in zip(whole, weight.shape[2:], strict=True)])
    split = padded.reshape(*weight.shape[:2], *(n for m, s in zip(whole, stride, strict=True) for n in (m // s, s)))
    return split.permute(0, 1, *(3 + 2 * a for a in range(d)), *(2 + 2 * a for a in range(d)))


def from_phases(phases: Tensor, kernel: Sequence[int]) -> Tensor:
    """The inverse of `by_phase`: `[C C'/g *kernel]`."""
    d = len(kernel)
    order = [n for a in range(d) for n in (2 + d + a, 2 + a)]
    turned = phases.permute(0, 1, *order)
    sides = [phases.shape[2 + d + a] * phases.shape[2 + a] for a in range(d)]
    return turned.reshape(*phases.shape[:2], *sides)[(..., *(slice(0, m) for m in kernel))]


def evened(weight: Tensor, stride: Sequence[int], moments: Moments | None = None) -> Fit:
    """The nearest kernel whose phases have one sum.

    Without moments: from each of the n_p taps of phase p (S_p - t) / n_p is taken, t = (sum of S_p / n_p) / (sum of 1 / n_p),
    which is where the gradient of sum over p of (S_p - t)^2 / n_p vanishes. With them: Delta_p = R^-1 B' G_p (t - S_p), B the
    sums over taps, G_p = (B R^-1 B')^-1 on the taps that phase p has, t = (sum of G_p)^-1 sum of G_p S_p.

    Args:
        weight: `[C C'/groups *kernel]`.
        stride: of each axis, none above the kernel.
        moments: of the layer's input (`patch_moments`).

    Raises:
        ValueError: a kernel is smaller than its stride: some phases have no taps.
    """
    _without_holes(weight, stride)
    v = weight.detach().double()
    counts = by_phase(torch.ones_like(v[:1, :1]), stride).bool()  # [1 1 *s *J]
    phases, d = by_phase(v, stride), len(stride)
    if moments is None:
        n = counts.sum(tuple(range(-d, 0))).double()  # [1 1 *s]
        sums = phases.sum(tuple(range(-d, 0)))
        every = tuple(range(2, 2 + d))
        target = (sums / n).sum(every, keepdim=True) / (1 / n).sum(every, keepdim=True)
        change = ((target - sums) / n)[(..., *(None,) * d)] * counts
        kernel = from_phases(_rounded(phases + change, counts, weight.dtype), weight.shape[2:])
        return Fit(kernel.to(weight), kernel.to(weight), _distance(v, kernel))
    groups = len(moments.matrix)
    flat = phases.unflatten(0, (groups, -1)).flatten(3, 2 + d).flatten(4)  # [g C/g C'/g P J]
    new = torch.stack(
        [_evened_group(flat[g], counts.flatten(2, 1 + d).flatten(3)[0, 0], moments, g) for g in range(groups)]
    )
    kernel = from_phases(_rounded(new.flatten(0, 1).reshape(phases.shape), counts, weight.dtype), weight.shape[2:])
    return Fit(kernel.to(weight), kernel.to(weight), output_error(v, kernel, stride, moments))


def _rounded(phases: Tensor, counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Taps as they are in `dtype`, with what rounding does to the sum of a phase put on its smallest tap, where it is finest."""
    d = counts.ndim // 2 - 1
    flat, there = phases.flatten(-d), counts.expand_as(phases).flatten(-d)
    rounded = flat.to(dtype).double()
    smallest = rounded.abs().masked_fill(~there, float("inf")).argmin(-1, keepdim=True)
    missing = (flat.sum(-1, keepdim=True) - rounded.sum(-1, keepdim=True)).to(rounded)
    return rounded.scatter_add(-1, smallest, missing).view_as(phases)


def _evened_group(flat: Tensor, counts: Tensor, moments: Moments, group: int) -> Tensor:
    """The evened taps of one group: `flat` `[C C' P J]`, `counts` `[P J]`, which taps there are."""
    c, out, _, j = flat.shape
    known: dict[tuple[bool, ...], tuple[Tensor, Tensor]] = {}
    for mask in counts.tolist():
        if tuple(mask) not in known:
            taps = torch.tensor([i for i in range(j) if mask[i]])
            r = _raised(moments, group)[:, taps][:, :, :, taps].reshape(c * len(taps), -1)
            b = torch.eye(c, dtype=r.dtype).repeat_interleave(len(taps), 1)  # [C C n]
            lifted = torch.cholesky_solve(b.T, torch.linalg.cholesky(r))  # R^-1 B'
            known[tuple(mask)] = lifted, torch.linalg.inv(b @ lifted)
    gains = [known[tuple(mask)][1] for mask in counts.tolist()]
    sums = flat.sum(-1)  # [C C' P]
    target = torch.linalg.solve(sum(gains), sum(g @ sums[..., p] for p, g in enumerate(gains)))  # type: ignore[arg-type]
    new = flat.clone()
    for p, mask in enumerate(counts.tolist()):
        lifted, gain = known[tuple(mask)]
        change = (lifted @ gain @ (target - sums[..., p])).view(c, -1, out)  # [C n C']
        new[:, :, p, counts[p]] += change.transpose(1, 2)
    return new


def held_fit(
    weight: Tensor, stride: Sequence[int], *, order: int = 0, grow: int = 0, moments: Moments | None = None
) -> Fit:
    """The nearest kernel that is another one held over the stride: V' = s^D (W * H_d), as `gradlens.upsampling.held` has it.

    Normal equations of the fixed matrix of the hold, weighted by the moments of the input if they are given.

    Args:
        weight: `[C C'/groups *kernel]`.
        stride: of each axis.
        order: d.
        grow: taps more than V before and behind, so that W has kernel - (s - 1) (d + 1) + 2 grow.
        moments: of the layer's input, for patches of the grown kernel (`patch_moments(..., grow=grow)`).

    Raises:
        ValueError: W would have no taps.
    """
    wide = _widened(weight.detach().double(), [(grow, grow)] * len(stride))
    sizes = [m - (s - 1) * (order + 1) for m, s in zip(wide.shape[2:], stride, strict=True)]
    if min(sizes) < 1:
        raise ValueError(
            f"kernel: {list(weight.shape[2:])} taps hold nothing over a stride of {list(stride)}; grow it by more than {grow}"
        )
    matrix = held_matrix(sizes, stride, order)  # [K M]
    if moments is None:
        w = torch.linalg.lstsq(matrix.T, wide.flatten(2).flatten(0, 1).T).solution.T.reshape(*wide.shape[:2], *sizes)
    else:
        w = _held_weighted(wide, matrix, stride, moments).unflatten(-1, sizes)
    kernel = (w.flatten(2) @ matrix).unflatten(-1, wide.shape[2:])
    error = _distance(wide, kernel) if moments is None else output_error(wide, kernel, stride, moments)
    return Fit(w.to(weight), kernel.to(weight), error)


def _held_weighted(wide: Tensor, matrix: Tensor, stride: Sequence[int], moments: Moments) -> Tensor:
    """W `[C C'/g K]` of least output error."""
    d, k = len(stride), len(matrix)
    rows = by_phase(matrix.view(1, k, *wide.shape[2:]), stride)[0].flatten(1, d).flatten(2)  # [K P J]
    phases = by_phase(wide, stride).flatten(2, 1 + d).flatten(3)  # [C C' P J]
    found = []
    for g, part in enumerate(phases.chunk(len(moments.matrix))):
        c, r = len(part), _raised(moments, g)
        normal, right = r.new_zeros(c, k, c, k), r.new_zeros(c, k, part.shape[1])
        for p in range(rows.shape[1]):
            normal += torch.einsum("kj,ajbi,li->akbl", rows[:, p], r, rows[:, p])
            right += torch.einsum("kj,ajbi,boi->ako", rows[:, p], r, part[:, :, p])
        factor = torch.linalg.cholesky(normal.reshape(c * k, -1))
        solved = torch.cholesky_solve(right.reshape(c * k, -1), factor)
        found.append(solved.view(c, k, -1).transpose(1, 2))
    return torch.cat(found)


def patch_moments(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], *, groups: int = 1, grow: int = 0
) -> Moments:
    """Means of products of the input's pixels in the patches that one phase reads, zeros beyond the border, in float64.

    Args:
        x: what the layer is given, `[N C *spatial]`.
        kernel, stride: of the layer, of each axis.
        groups: of the layer.
        grow: as in `held_fit`.
    """
    taps = tuple(-(-(m + 2 * grow) // s) for m, s in zip(kernel, stride, strict=True))
    c, j, d = x.shape[1] // groups, prod(taps), len(taps)
    total, count = x.new_zeros(groups, c * j, c * j, dtype=torch.float64), 0
    for image in x.detach():
        padded = F.pad(image, [side for j in reversed(taps) for side in (j - 1, j - 1)])
        for axis, side in enumerate(taps, start=1):
            padded = padded.unfold(axis, side, 1).flip(-1)  # tap j reads j pixels back
        patches = padded.flatten(1 + d).flatten(1, d).unflatten(0, (groups, c)).double()  # [g c places J]
        flat = patches.transpose(2, 3).flatten(1, 2)  # [g c J places]
        total += flat @ flat.transpose(1, 2)
        count += flat.shape[-1]
    return Moments((total / count).reshape(groups, c, j, c, j), count)


def output_error(old: Tensor, new: Tensor, stride: Sequence[int], moments: Moments) -> float:
    """Root of E|V x - V' x|^2 / E|V x|^2 over all phases and channels."""
    d = len(stride)

    def energy(v: Tensor) -> Tensor:
        phases = by_phase(v, stride).flatten(2, 1 + d).flatten(3)
        parts = zip(phases.chunk(len(moments.matrix)), moments.matrix, strict=True)
        return sum(torch.einsum("aopj,ajbi,bopi->", part, r, part) for part, r in parts)  # type: ignore[return-value]

    return float((energy(old - new) / energy(old)).clamp(min=0).sqrt())


class SubPixel(NamedTuple):
    """A transposed convolution as a convolution and a shuffle.

    Attributes:
        weight: `[C' s^D C/g *J]`, of stride 1, to be padded by J - 1 zeros on both sides.
        before: pixels of the shuffled map that are cut off in front.
    """

    weight: Tensor
    before: tuple[int, ...]


def as_subpixel(weight: Tensor, stride: Sequence[int], padding: Sequence[int], *, groups: int = 1) -> SubPixel:
    """The sub-pixel form of a transposed convolution, exact: phase p of the shuffle is the convolution with V_p.

    The convolution, padded by J - 1 zeros, gives n + J - 1 pixels, the shuffle s times as many: the whole map, of which the
    transposed convolution keeps what lies from `padding` on.
    """
    d = len(stride)
    phases = by_phase(weight, stride).flip(tuple(range(-d, 0)))  # [C C'/g *s *J]
    by_group = phases.unflatten(0, (groups, -1))
    turned = by_group.permute(0, 2, *range(3, 3 + d), 1, *range(3 + d, 3 + 2 * d))  # [g C'/g *s C/g *J]
    return SubPixel(turned.flatten(0, 1 + d), tuple(padding))


def from_subpixel(weight: Tensor, scale: int, *, groups: int = 1) -> Tensor:
    """The transposed convolution's kernel `[C C'/g *(s J)]` of a sub-pixel convolution's `[C' s^D C/g *J]`, exact.

    Its whole map begins s (J - 1 - p) pixels before that of a convolution padded by p.
    """
    d = weight.ndim - 2
    split = weight.flip(tuple(range(2, 2 + d))).unflatten(0, (groups, -1, *[scale] * d))  # [g C'/g *s C/g *J]
    phases = split.permute(0, 2 + d, 1, *range(2, 2 + d), *range(3 + d, 3 + 2 * d)).flatten(0, 1)
    return from_phases(phases, [scale * j for j in weight.shape[2:]])


def alike(weight: Tensor, scale: int) -> Tensor:
    """The nearest sub-pixel kernel whose phases have one sum, `[C' s^D C/g *J]`: each differs from the mean by its taps alone."""
    d = weight.ndim - 2
    split = weight.detach().double().unflatten(0, (-1, scale**d))
    sums = split.flatten(3).sum(-1)  # [C' P C/g]
    change = (sums.mean(1, keepdim=True) - sums) / prod(weight.shape[2:])
    return (split + change[(..., *(None,) * d)]).flatten(0, 1).to(weight)


def _raised(moments: Moments, group: int) -> Tensor:
    """The moments of a group `[C/g J C/g J]`, invertible and as sure as their number of patches allows."""
    r = moments.matrix[group]
    c, j = r.shape[:2]
    flat = r.reshape(c * j, -1)
    share = max(RIDGE, c * j / moments.patches)
    return (flat + share * flat.diagonal().mean() * torch.eye(c * j, dtype=r.dtype, device=r.device)).view_as(r)


def _distance(old: Tensor, new: Tensor) -> float:
    return float((old - new).norm() / old.norm())


def _widened(weight: Tensor, more: Sequence[tuple[int, int]]) -> Tensor:
    return F.pad(weight, [side for pair in reversed(more) for side in pair])


def _without_holes(weight: Tensor, stride: Sequence[int]) -> None:
    if any(m < s for m, s in zip(weight.shape[2:], stride, strict=True)):
        raise ValueError(
            f"kernel: {list(weight.shape[2:])} taps at a stride of {list(stride)} leave pixels without any; no weights fill them"
        )
