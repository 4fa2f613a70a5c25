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

from gradlens.redesign.moments import Moments, output_error, raised, ratio, suited
from gradlens.redesign.phases import by_phase, from_phases, phase_sums, strides, widened
from gradlens.upsampling.held import held_matrix


class Fit(NamedTuple):
    """A projected kernel.

    Attributes:
        weight: what the new layer learns: V' itself, or W of a held one.
        kernel: V', on the taps of V and `grow` more before and behind.
        error: |V - V'| / |V|, over the taps, or over the outputs where moments were given; 0 / 0 is 0.
    """

    weight: Tensor
    kernel: Tensor
    error: float


def evened(weight: Tensor, stride: int | Sequence[int], moments: Moments | None = None) -> Fit:
    """The nearest kernel whose phases have one sum.

    Without moments: from each of the n_p taps of phase p (S_p - t) / n_p is taken, t = (sum of S_p / n_p) / (sum of 1 / n_p),
    which is where the gradient of sum over p of (S_p - t)^2 / n_p vanishes. With them: Delta_p = R^-1 B' G_p (t - S_p), B the
    sums over taps, G_p = (B R^-1 B')^-1 on the taps that phase p has, t = (sum of G_p)^-1 sum of G_p S_p.

    Args:
        weight: `[C C'/groups *kernel]`.
        stride: of all axes or of each, none above the kernel.
        moments: of the layer's input (`patch_moments`). The error over the input that they are of is never above that of the
            fit without them, whatever the ridge, which only draws towards that fit.

    Raises:
        ValueError: a kernel is smaller than its stride, so that some phases have no taps; the moments are of other patches.

    Source: ours, of eq. 8 of Sugawara, Shiota, Kiya 2018.

    Example:
        >>> evened(torch.tensor([[[1.0, 1, 3]]]), 2).kernel.tolist()
        [[[0.0, 2.0, 2.0]]]
    """
    stride = strides(stride, weight.ndim - 2)
    _without_holes(weight, stride)
    v = weight.detach().double()
    counts = by_phase(torch.ones_like(v[:1, :1]), stride).bool()  # [1 1 *s *J]
    phases, d = by_phase(v, stride), len(stride)
    if moments is None:
        n = counts.sum(tuple(range(-d, 0))).double()  # [1 1 *s]
        sums = phase_sums(v, stride)
        every = tuple(range(2, 2 + d))
        target = (sums / n).sum(every, keepdim=True) / (1 / n).sum(every, keepdim=True)
        change = ((target - sums) / n)[(..., *(None,) * d)] * counts
        kernel = from_phases(_rounded(phases + change, counts, weight.dtype), weight.shape[2:])
        return Fit(kernel.to(weight), kernel.to(weight), _distance(v, kernel))
    groups = len(suited(moments, phases))
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
            taps = torch.tensor([i for i in range(j) if mask[i]], device=moments.matrix.device)
            r = raised(moments, group)[:, taps][:, :, :, taps].reshape(c * len(taps), -1)
            b = torch.eye(c, dtype=r.dtype, device=r.device).repeat_interleave(len(taps), 1)  # [C C n]
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
    weight: Tensor, stride: int | Sequence[int], *, order: int = 0, grow: int = 0, moments: Moments | None = None
) -> Fit:
    """The nearest kernel that is another one held over the stride: V' = s^D (W * H_d), as `gradlens.upsampling.held` has it.

    Least squares over the fixed matrix of the hold, one for all channels; by normal equations of C/g K unknowns where the
    moments of the input weigh it.

    Args:
        weight: `[C C'/groups *kernel]`.
        stride: of all axes, or of each.
        order: d.
        grow: taps more than V before and behind, so that W has kernel - (s - 1) (d + 1) + 2 grow.
        moments: of the layer's input, for patches of the grown kernel (`patch_moments(..., grow=grow)`).

    Raises:
        ValueError: W would have no taps; the moments are of other patches.

    Source: ours; held kernels are approach C of Sugawara, Shiota, Kiya 2018.

    Example:
        >>> fit = held_fit(torch.tensor([[[3.0, 2, 2]]]), 2)
        >>> [[round(tap, 5) for tap in taps.flatten().tolist()] for taps in (fit.weight, fit.kernel)]
        [[2.0, 1.0], [2.0, 3.0, 1.0]]
    """
    stride = strides(stride, weight.ndim - 2)
    wide = widened(weight.detach().double(), [(grow, grow)] * len(stride))
    sizes = [m - (s - 1) * (order + 1) for m, s in zip(wide.shape[2:], stride, strict=True)]
    if min(sizes) < 1:
        raise ValueError(
            f"grow: {list(weight.shape[2:])} taps hold nothing over a stride of {list(stride)} at order {order}, got {grow}; "
            f"must be at least {grow + -(-(1 - min(sizes)) // 2)}"
        )
    matrix = held_matrix(sizes, stride, order).to(wide.device)  # [K M]
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
    for g, part in enumerate(phases.chunk(len(suited(moments, phases)))):
        c, r = len(part), raised(moments, g)
        normal, right = r.new_zeros(c, k, c, k), r.new_zeros(c, k, part.shape[1])
        for p in range(rows.shape[1]):
            normal += torch.einsum("kj,ajbi,li->akbl", rows[:, p], r, rows[:, p])
            right += torch.einsum("kj,ajbi,boi->ako", rows[:, p], r, part[:, :, p])
        factor = torch.linalg.cholesky(normal.reshape(c * k, -1))
        solved = torch.cholesky_solve(right.reshape(c * k, -1), factor)
        found.append(solved.view(c, k, -1).transpose(1, 2))
    return torch.cat(found)


def alike(weight: Tensor, scale: int) -> Tensor:
    """The nearest sub-pixel kernel whose phases have one sum, `[C' s^D C/g *J]`: each differs from the mean by its taps alone."""
    d = weight.ndim - 2
    split = weight.detach().double().unflatten(0, (-1, scale**d))
    sums = split.flatten(3).sum(-1)  # [C' P C/g]
    change = (sums.mean(1, keepdim=True) - sums) / prod(weight.shape[2:])
    return (split + change[(..., *(None,) * d)]).flatten(0, 1).to(weight)


def _distance(old: Tensor, new: Tensor) -> float:
    return ratio((old - new).norm(), old.norm())


def _without_holes(weight: Tensor, stride: Sequence[int]) -> None:
    if any(m < s for m, s in zip(weight.shape[2:], stride, strict=True)):
        raise ValueError(
            f"weight: {list(weight.shape[2:])} taps at a stride of {list(stride)} leave pixels without any; no weights fill them"
        )
