"""A resize and the convolution after it, as the one transposed convolution that they are.

A resize by s writes u[j] = sum over n of h[j - s n + o] x[n], with s taps of one (nearest) or 2 s - s mod 2 taps in steps of
1 / s (linear); the convolution y[i] = sum over k of W[k] u[i + k - p]. Together y[i] = sum over n of V[i + P - s n] x[n] with
V[m] = sum over k of W[k] h[m - (K - 1) + k] and P = K - 1 - p + o: along each axis V = A W, and A is fixed.

Source: ours; with nearest taps it is approach C of Sugawara, Shiota, Kiya 2018, H_0 inside the kernel.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.filters import CONVOLVE, whole
from gradlens.upsampling.shuffling import shuffle

Mode: TypeAlias = Literal["nearest", "linear"]

FEW_CHANNELS = 8  # of the output
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by axes of a weight
TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def resize_taps(scale: int, mode: Mode = "nearest") -> Tensor:
    """What a resize by `scale` makes of one pixel: `[s]` ones (nearest) or `[2 s - s mod 2]` (linear), float64, sum s.

    Args:
        scale: s.
        mode: "nearest" or "linear" (bilinear, trilinear), pixels at half-integers ("align_corners=False").

    Raises:
        TypeError, ValueError: `scale` is below 1; `mode` is neither.

    Source: `torch.nn.functional.interpolate`.

    Example:
        >>> resize_taps(2, "linear").tolist()
        [0.25, 0.75, 0.75, 0.25]
    """
    s = whole(scale, "scale", least=1)
    if mode not in get_args(Mode):
        raise ValueError(f'mode: must be "nearest" or "linear", got {mode!r}')
    if mode == "nearest":
        return torch.ones(s, dtype=torch.float64)
    d = torch.arange(2 * s - s % 2, dtype=torch.float64) - s // 2
    return 1 - ((d + 0.5) / s - 0.5).abs()


def fold_matrix(kernel_size: tuple[int, ...], scale: int, mode: Mode = "nearest") -> Tensor:
    """The fixed matrix that takes a convolution's taps to those of its fold: `[K, M]`, float64, K and M products over axes.

    It is the Kronecker product of one matrix A^T an axis, A[m, k] = h[m - (K - 1) + k], m from 0 to K + len(h) - 2.

    Args:
        kernel_size: K of each axis.
        scale, mode: as `resize_taps`.
    """
    h = resize_taps(scale, mode)
    each = []
    for k in kernel_size:
        a = h.new_zeros(k, k + len(h) - 1)
        for tap in range(k):
            a[tap, k - 1 - tap : k - 1 - tap + len(h)] = h
        each.append(a)
    return reduce(torch.kron, each)


def fold(
    weight: Tensor, scale: int, mode: Mode = "nearest", *, groups: int = 1, matrix: Tensor | None = None
) -> Tensor:
    """The kernel of the transposed convolution that resizes and convolves: `[C C'/g *(kernel + len(h) - 1)]`.

    Folded in float32 or float64 and cast back, under autocast too; differentiable, one matrix product. Of a weight that lies
    channels-last the kernel does too, and so do the maps that it gives.

    Args:
        weight: of the convolution, `[C' C/g *kernel]`, D = 1 to 3 axes.
        scale, mode: of the resize, as `resize_taps`.
        groups: g.
        matrix: `fold_matrix` of these, in the precision to fold in, if it is at hand.

    Source: ours; approach C of Sugawara, Shiota, Kiya 2018.

    Example:
        >>> fold(torch.tensor([[[1.0, 2, 4]]]), 2).tolist()
        [[[4.0, 6.0, 3.0, 1.0]]]
    """
    kernel = tuple(weight.shape[2:])
    length = len(resize_taps(scale, mode)) - 1
    if matrix is None:
        matrix = fold_matrix(kernel, scale, mode).to(weight.device)
    by_group = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # [C C'/g *kernel]
    return lying_as(weight, in_float(by_group, matrix).unflatten(-1, [k + length for k in kernel]))


def lying_as(weight: Tensor, kernel: Tensor) -> Tensor:
    """`kernel`, channels-last if `weight` lies so: the maps that a convolution gives follow its kernel."""
    last = CHANNELS_LAST.get(weight.ndim)
    if last is None or weight.is_contiguous() or not weight.is_contiguous(memory_format=last):
        return kernel
    return kernel.contiguous(memory_format=last)


def in_float(weight: Tensor, matrix: Tensor) -> Tensor:
    """Kernels times a fixed matrix, in float32 or float64 under autocast too: `[A B *kernel]` and `[K M]` to `[A B M]`."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        return torch.tensordot(weight.to(wide).flatten(2), matrix.to(wide), 1).to(weight.dtype)  # as one product


def scatter(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    before: Sequence[int],
    size: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """`size` pixels of a transposed convolution's whole map, from the pixel `before` on: `[N C' *size]`.

    The whole map of an axis has (n - 1) stride + kernel pixels; up to stride - 1 further ones are the bias. On a CPU up
    to 8 channels, of a kernel and a crop of whole strides, are written as a convolution to all phases and a shuffle: the same
    multiplications in three to nine tenths of the time.

    Args:
        x: `[N C *spatial]`.
        kernel: `[C C'/groups *kernel]`.
        bias: `[C']`, or None.
        stride, before, size: of each axis.
        groups: of the convolution.
    """
    few = x.device.type == "cpu" and groups == 1 and kernel.shape[1] <= FEW_CHANNELS and len(set(stride)) == 1
    if few and not any(n % stride[0] for n in (*before, *size, *kernel.shape[2:])):
        return _by_phases(x, kernel, bias, stride[0], before, size)
    whole_map = [(n - 1) * s + m for n, s, m in zip(x.shape[2:], stride, kernel.shape[2:], strict=True)]
    behind = [n - b - kept for n, b, kept in zip(whole_map, before, size, strict=True)]
    at_once = [0 <= b - e < s for b, e, s in zip(before, behind, stride, strict=True)]  # needs no view of a larger map
    padding = [b if once else max(min(b, e), 0) for once, b, e in zip(at_once, before, behind, strict=True)]
    more = [b - e if once else max(-e, 0) for once, b, e in zip(at_once, before, behind, strict=True)]
    y = TRANSPOSE[x.ndim - 2](x, kernel, bias, stride, padding, more, groups)
    for axis, (b, p, kept) in enumerate(zip(before, padding, size, strict=True), start=2):
        if y.shape[axis] != kept:
            y = y.narrow(axis, b - p, kept)
    return y


def _by_phases(
    x: Tensor, kernel: Tensor, bias: Tensor | None, s: int, before: Sequence[int], size: Sequence[int]
) -> Tensor:
    """The same as a convolution to s^D C' channels, one group a phase, and a shuffle."""
    d = x.ndim - 2
    taps = [m // s for m in kernel.shape[2:]]
    split = kernel.reshape(*kernel.shape[:2], *(n for j in taps for n in (j, s)))
    phases = split.permute(1, *(3 + 2 * a for a in range(d)), 0, *(2 + 2 * a for a in range(d)))  # [C' s.. C J..]
    weight = phases.flatten(0, d).flip(tuple(range(2, 2 + d)))
    sides = zip(taps, before, size, x.shape[2:], strict=True)
    around = [(j - 1 - b // s, (b + kept) // s - n) for j, b, kept, n in sides]
    padded = F.pad(x, [side for pair in reversed(around) for side in pair])
    return shuffle(CONVOLVE[d](padded, weight, None if bias is None else bias.repeat_interleave(s**d)), s)
