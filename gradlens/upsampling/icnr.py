"""ICNR: weights of sub-pixel and transposed convolutions that start as a nearest-neighbour resize, then a convolution.

A sub-pixel convolution does so if the filters of all phases are one, a transposed convolution of m taps and stride s if its
kernel is another one held over s pixels: W = V * (1, ..., 1). Where s divides m, V is a kernel of m / s taps with s - 1 zeros
between, and W repeats each s times; otherwise it is one of m - s + 1 taps, a convolution after the resize.

Source: Aitken et al. 2017 (sub-pixel). For transposed convolution: ours, asked for in pytorch/pytorch#5429.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradlens.filters import whole
from gradlens.upsampling.folding import fold


@torch.no_grad()
def icnr_(weight: Tensor, scale: int, initialiser: Callable[[Tensor], object] = nn.init.kaiming_normal_) -> Tensor:
    """`weight` of a sub-pixel convolution with one filter for all phases of a channel, in place.

    Args:
        weight: `[C' s^D C *kernel]`, D = 1 to 3 axes.
        scale: s.
        initialiser: fills `[C' C *kernel]` in place; any of `torch.nn.init`.

    Returns:
        `weight`.

    Raises:
        TypeError, ValueError: `scale` is below 1; the first size of `weight` is no multiple of s^D.

    Source: Aitken et al. 2017.

    Example:
        >>> w = icnr_(torch.empty(4, 3, 3, 3), 2)
        >>> torch.equal(w[0], w[3])
        True
    """
    phases = whole(scale, "scale", least=1) ** (weight.ndim - 2)
    if weight.shape[0] % phases:
        raise ValueError(f"weight: the first size must be a multiple of {phases} phases, got {list(weight.shape)}")
    one = weight.new_empty(weight.shape[0] // phases, *weight.shape[1:])
    initialiser(one)
    return weight.copy_(one.repeat_interleave(phases, 0))


@torch.no_grad()
def icnr_transposed_(
    weight: Tensor, scale: int, initialiser: Callable[[Tensor], object] = nn.init.kaiming_normal_
) -> Tensor:
    """`weight` of a transposed convolution that is a nearest-neighbour resize, then a convolution, in place.

    Args:
        weight: `[C C' *kernel]`, D = 1 to 3 axes, none shorter than s.
        scale: s, the stride.
        initialiser: fills the convolution's `[C' C *taps]` in place: kernel / s taps at low resolution along the axes where s
            divides the kernel, kernel - s + 1 at high resolution along others.

    Returns:
        `weight`.

    Raises:
        TypeError, ValueError: `scale` is below 1; a kernel is smaller than it, which leaves holes that no weights close.

    Source: ours, after Aitken et al. 2017.

    Example:
        >>> w = icnr_transposed_(torch.empty(3, 1, 4, 4), 2)
        >>> torch.equal(w[..., ::2, ::2], w[..., 1::2, 1::2])
        True
    """
    s = whole(scale, "scale", least=1)
    kernel = weight.shape[2:]
    if min(kernel) < s:
        raise ValueError(f"weight: kernels must not be smaller than scale={s}, got {list(kernel)}")
    one = weight.new_empty(weight.shape[1], weight.shape[0], *(m // s if m % s == 0 else m - s + 1 for m in kernel))
    initialiser(one)
    for axis, m in enumerate(kernel, start=2):
        if m % s == 0:
            apart = one.new_zeros(*one.shape[:axis], m - s + 1, *one.shape[axis + 1 :])
            apart.narrow(axis, 0, m - s + 1).index_copy_(axis, torch.arange(0, m - s + 1, s, device=one.device), one)
            one = apart
    return weight.copy_(fold(one, s))
