"""Pixel deconvolution: the phases of the enlarged map are made one after the other, each from those before it.

A transposed convolution writes its s^D phases by independent convolutions of the input (eq. 1). Here a phase is a convolution
of the phases that are there already, so that adjacent pixels depend on each other (eq. 2 and 3, figures 3 and 4). The diagonal
phases (0, 0), (1, 1), .. come first, the rest follow row by row. The paper calls the checkerboard solved by this; nothing in it
makes the sums of the phases' filters equal, and every forward certificate fails at scales above 1.

Source: Gao, Yuan, Wang, Ji 2017, "Pixel deconvolutional networks".
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.convolution import CONVOLUTIONS, convolution, sequence
from gradlens.filters import CONVOLVE, axes, whole


def phases(scale: int, dimensions: int = 2) -> list[tuple[int, ...]]:
    """The s^D phases in the order in which they are made: the diagonal ones, then the rest row by row.

    Args:
        scale: s.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gao et al. 2017, figures 3 and 4 ((1, 1) is second); for s > 2 ours.

    Example:
        >>> phases(2)
        [(0, 0), (1, 1), (0, 1), (1, 0)]
    """
    steps = range(whole(scale, "scale", least=1))
    rest = (p for p in product(steps, repeat=axes(dimensions)) if len(set(p)) > 1)
    return [(step,) * dimensions for step in steps] + list(rest)


def interleave(maps: Sequence[Tensor], scale: int) -> Tensor:
    """The maps as phases of one: s^D tensors `[N C *spatial]` to `[N C *(s spatial)]`, in the layout of the first.

    y[s i + p] = maps[k][i], p the k-th phase in the order of `phases`.

    Args:
        maps: of one shape.
        scale: s.

    Raises:
        TypeError, ValueError: `scale` is below 1, or not s^D maps are given.

    Source: Gao et al. 2017, the periodical shuffling of eq. 1 to 3.

    Example:
        >>> interleave([torch.full((1, 1, 1, 2), float(k)) for k in range(4)], 2).tolist()
        [[[[0.0, 2.0, 0.0, 2.0], [3.0, 1.0, 3.0, 1.0]]]]
    """
    dimensions = axes(maps[0].ndim - 2)
    order = phases(scale, dimensions)
    if len(maps) != len(order):
        raise ValueError(f"maps: must be scale^{dimensions}={len(order)}, got {len(maps)}")
    last = maps[0].shape[1] > 1 and maps[0].stride(1) == 1  # channels-last
    first = 1 if last else 2
    woven = [
        m.movedim(1, -1) if last else m for _, m in sorted(zip(order, maps, strict=True), key=lambda pair: pair[0])
    ]
    for axis in reversed(range(first, first + dimensions)):
        groups = [woven[k : k + scale] for k in range(0, len(woven), scale)]
        woven = [torch.stack(group, axis + 1).flatten(axis, axis + 1) for group in groups]
    return woven[0].movedim(-1, 1) if last else woven[0]


class PixelDCL(nn.Module):
    """A phase from all phases before it, the first from the input: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    F_1 = F_in * k_1 and F_n = [F_1, .., F_(n-1)] * k_n, n to s^D, interleaved in the order of `phases`; `k[n - 1]` is k_n.
    F * k at i is b + sum over j of k[j] F[i + j - (m - 1) // 2], zeros beyond the border.

    The forward certificate fails for drawn weights: F_n is another function of a constant than F_1. Backward it passes, as of
    every layer that enlarges: a shift by a pixel before it is one by s pixels after it.

    Cost: m^D (C + C' S (S - 1) / 2) / S multiplications an output, S = s^D, and S times that by C' parameters, with
    S C' biases: at scale 2 and C = C' 7 m^2 C^2 parameters, 63 C^2 for m = 3 against 16 C^2 of a 4x4 transposed convolution.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m of every k; 3 unless given, because maps in sequence each look half a pixel ahead if m is even.
        bias: whether to add one to each map.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gao et al. 2017, eq. 3.

    Example:
        >>> PixelDCL(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)
        c, n = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
        widths = [c] + [n * k for k in range(1, scale ** axes(dimensions))]
        self.k = _convolutions(widths, n, kernel_size, bias=bias, dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        return interleave(_in_sequence(x, self.k), self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class IPixelDCL(nn.Module):
    """A phase from the input and all phases before it: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    F_n = [F_in, F_1, .., F_(n-1)] * k_n, n from 1 to s^D, otherwise as `PixelDCL`. Certificates as there.

    Cost: m^D (C + C' (S - 1) / 2) multiplications an output, S = s^D, and S C' times that in parameters, with S C' biases:
    at scale 2 and C = C' 10 m^2 C^2 parameters.

    Args, Raises: as `PixelDCL`.

    Source: Gao et al. 2017, eq. 2.

    Example:
        >>> IPixelDCL(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)
        c, n = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
        widths = [c + n * k for k in range(scale ** axes(dimensions))]
        self.k = _convolutions(widths, n, kernel_size, bias=bias, dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        return interleave(_in_sequence(x, self.k, seen=(x,)), self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class MaskedPixelDCL(nn.Module):
    """The diagonal phases in sequence, all others by one masked convolution: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    F_1 = F_in * k_1, F_n = [F_1, .., F_(n-1)] * k_n for the s diagonal phases (n - 1, .., n - 1). Zeros between them make
    them the enlarged map K, and y = K + (where K has no phase) b + sum over d of W[d] K[i + d], |d_a| < s. An offset d
    joins two diagonal phases, and is masked, if all its coordinates agree modulo s: at scale 2 in two dimensions the centre
    and corners of a 3x3 kernel, and its cross is left. In one dimension every phase is diagonal, and this is `PixelDCL`.

    No multiplication is spent on a zero. The taps of one residue r = d mod s are a small convolution of each diagonal map at low
    resolution (1x2 and 2x1 at scale 2); what it makes of the c-th is part of phase (c - r) mod s. These taps are what is stored,
    `masked[k]` for the k-th residue in the order of `phases`, and `kernel()` is W. Certificates as of `PixelDCL`.

    Cost: (A + s T C') / s^D multiplications an output, A = m^D (C + C' s (s - 1) / 2) and T = (2 s - 1)^D - 1 - (s - 1) 2^D taps that
    are not masked, and (A + T C') C' parameters, with (s + 1) C' biases (s C' in one dimension). At scale 2, m = 2 and C = C':
    4 C, as a 4x4 transposed convolution, and 12 C^2 parameters instead of 16.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: m of every k; 2 unless given, as figure 4 shows: an odd pixel then sees the four even ones around it.
        bias: whether to add one to each diagonal map, and one to all other phases.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gao et al. 2017, figure 4 (s = 2); for other scales and the computation at low resolution ours.

    Example:
        >>> layer = MaskedPixelDCL(8, 3)
        >>> layer(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
        >>> (layer.kernel()[0, 0] != 0).int().tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 2,
        bias: bool = True,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)
        c, n = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
        self.rest = phases(scale, dimensions)[scale:]  # as residues they are all that do not join two diagonals
        self.k = _convolutions([c] + [n * k for k in range(1, scale)], n, kernel_size, bias=bias, dimensions=dimensions)
        shapes = [[2 if r else 1 for r in residue] for residue in self.rest]
        self.masked = nn.ParameterList(torch.empty(n, n, *shape) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(n)) if bias and shapes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the masked taps and their bias as `torch.nn.Conv2d` does, for as many as a pixel meets on average."""
        for conv in self.k.modules():
            if isinstance(conv, tuple(CONVOLUTIONS.values())):
                conv.reset_parameters()
        taps = sum(weight[0].numel() for weight in self.masked)
        bound = (self.scale * taps / len(self.rest)) ** -0.5 if self.rest else 0.0
        for parameter in (*self.masked, *([] if self.bias is None else [self.bias])):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        maps = _in_sequence(x, self.k)
        return interleave(maps + self._others(maps), self.scale)

    def _others(self, maps: list[Tensor]) -> list[Tensor]:
        """The phases that are not diagonal, in their order."""
        sums: dict[tuple[int, ...], Tensor] = {}
        for residue, weight in zip(self.rest, self.masked, strict=True):
            bias = None if residue[0] else self.bias  # of the residues that make a phase exactly one begins with 0
            for c, diagonal in enumerate(maps):
                around = [
                    side for r in reversed(residue) for side in ((0, 0) if r == 0 else (0, 1) if r > c else (1, 0))
                ]
                part = CONVOLVE[len(residue)](F.pad(diagonal, around), weight, bias)
                phase = tuple((c - r) % self.scale for r in residue)
                sums[phase] = sums[phase] + part if phase in sums else part
        return [sums[phase] for phase in self.rest]

    def kernel(self) -> Tensor:
        """W of the masked convolution at the enlarged map's resolution: `[C' C' *(2 s - 1)]`, a part of the graph."""
        weight = self.k[0].get_submodule("conv").get_parameter("weight")
        w = weight.new_zeros(*[weight.shape[0]] * 2, *[2 * self.scale - 1] * (weight.ndim - 2))
        for residue, weight in zip(self.rest, self.masked, strict=True):
            w[(..., *(slice(r - 1 if r else self.scale - 1, None, self.scale) for r in residue))] = weight
        return w

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class PixelConv(nn.Module):
    """A convolution whose s^D phases depend on each other: `[N C *spatial]` to `[N C' *spatial]`.

    F_n = F_in(. + p_n) *_s k + [F_1, .., F_(n-1)] * d_n, p_n the n-th of `phases`: the input, shifted to the phase, meets one
    kernel k with stride s, and the maps before it k_n of their own, d_n = `d[n - 2]`; the maps are interleaved. Without the d_n
    it is the convolution with k, of stride 1 (`k`), and so it is computed: one convolution, whose phases are then taken.

    What the d_n add is uneven: above scale 1 the certificate fails for drawn weights forward, where the convolution passes, and
    backward, as early phases are asked by all later ones.

    Cost: m^D (C + C' (S - 1) / 2) multiplications an output, S = s^D, and m^D (C + C' S (S - 1) / 2) C' parameters with C'
    biases: at scale 2 and C = C' 2.5 and 7 times those of the convolution.

    Args:
        in_channels, out_channels: C and C'.
        scale: s, the period of the phases in pixels.
        kernel_size: m of k and of every d; 3 unless given, as most convolutions.
        bias: whether to add one.
        dimensions: D, 1 to 3.

    Raises:
        TypeError, ValueError: an argument is out of its range; in `forward`, a side of `x` is no multiple of `scale`.

    Source: Gao et al. 2017, section 2.4, with the dependencies of eq. 3.

    Example:
        >>> PixelConv(8, 3)(torch.rand(1, 8, 4, 6)).shape
        torch.Size([1, 3, 4, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.scale = whole(scale, "scale", least=1)
        c, n = whole(in_channels, "in_channels", least=1), whole(out_channels, "out_channels", least=1)
        (self.k,) = _convolutions([c], n, kernel_size, bias=bias, dimensions=dimensions)
        widths = [n * k for k in range(1, scale**dimensions)]
        self.d = _convolutions(widths, n, kernel_size, bias=False, dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        if any(side % self.scale for side in x.shape[2:]):
            raise ValueError(f"x: sides must be multiples of scale={self.scale}, got {list(x.shape[2:])}")
        independent = self.k(x)
        maps: list[Tensor] = []
        for phase in phases(self.scale, x.ndim - 2):
            f = independent[(..., *(slice(p, None, self.scale) for p in phase))]
            maps.append(f + self.d[len(maps) - 1](torch.cat(maps, 1)) if maps else f)
        return interleave(maps, self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _convolutions(
    widths: Sequence[int], out_channels: int, kernel_size: int, *, bias: bool, dimensions: int
) -> nn.ModuleList:
    """A convolution from each of `widths` channels that keeps the size."""
    return nn.ModuleList(
        sequence(convolution(width, out_channels, kernel_size, bias=bias, dimensions=dimensions)) for width in widths
    )


def _in_sequence(x: Tensor, convolutions: nn.ModuleList, seen: Sequence[Tensor] = ()) -> list[Tensor]:
    """A map of each convolution, the first of `x`, each other of those in `seen` and all maps before it."""
    maps = [convolutions[0](x)]
    for conv in list(convolutions)[1:]:
        known = [*seen, *maps]
        maps.append(conv(torch.cat(known, 1) if len(known) > 1 else known[0]))
    return maps
