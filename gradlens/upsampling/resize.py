"""Resize-convolution, fused: what Odena, Dumoulin and Olah put in the place of a transposed convolution, at its price.

A resize by s, then a convolution of K taps, costs K^D multiplications an output and a map of s^D times the pixels between the
two. `gradlens.upsampling.folding` makes one transposed convolution of both: (K + s - 1)^D / s^D multiplications, 4 instead of 9
for s = 2, K = 3, and no map between. It is the same function, also at the border:

- zeros: outside of the enlarged map as outside of the small one, exact; linear taps differ within K // 2 pixels of the border;
- replicate: the small map is extended by its border, exact for both;
- reflect: within s - 1 pixels the nearest map repeats its border pixel, so up to K // 2 = s - 1 it is "replicate".

Where the borders differ, strips along them are computed in two steps. Exact means: equal but for the order of sums.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.filters import CONVOLVE, axes, whole
from gradlens.upsampling.deconv import TRANSPOSED
from gradlens.upsampling.folding import Mode, fold, fold_matrix, resize_taps, scatter

Border: TypeAlias = Literal["zeros", "reflect", "replicate"]

FASTER_FUSED = 0.65  # of the multiplications of two steps; measured on a CPU (`analyses/speed.py`)
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ResizeConv(nn.Module):
    """A resize by `scale`, then a convolution, as one transposed convolution: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y = b + W * R x, R the resize. Every phase of the folded kernel has the sum of W: the forward certificate passes for every W.
    (Backward passes for every layer that enlarges: a shift by a pixel before it is one by s pixels after it.)

    `weight` and `bias` are those of the convolution, in its shapes, under its names. The kernel is folded in every forward pass,
    as part of the graph, and kept nowhere: a fold takes a few microseconds, and one that is kept goes stale where weights are
    written through `.data`, as moving averages of GANs are.

    Cost: ((K + s - 1) / s)^D C multiplications an output (nearest), ((K + 2 s - s mod 2 - 1) / s)^D C (linear); C K^D s^-D for
    K = 1, which is convolved first.

    Args:
        in_channels, out_channels: C and C'.
        scale: s.
        kernel_size: K, odd or even, or one for each axis.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        mode: "nearest" or "linear" (bilinear, trilinear; `align_corners=False`).
        padding: what lies beyond the border of the enlarged map: "zeros", "reflect" or "replicate".
        groups: of the convolution.
        fused: whether to fuse; None where it was measured faster (`FASTER_FUSED`). Two steps give the same numbers.

    Raises:
        TypeError, ValueError: an argument is out of its range; in `forward`, `x` has another number of axes, or a reflected
            border is wider than the enlarged map.

    Source: Odena, Dumoulin, Olah 2016 (the layer); the fusion is ours, and approach C of Sugawara, Shiota, Kiya 2018.

    Example:
        >>> layer, x = ResizeConv(8, 3), torch.rand(1, 8, 5, 6)
        >>> resized = F.interpolate(x, scale_factor=2)
        >>> torch.allclose(layer(x), F.conv2d(resized, layer.weight, layer.bias, padding=1), atol=1e-6)
        True
    """

    matrix: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int | Sequence[int] = 3,
        bias: bool = True,
        dimensions: int = 2,
        mode: Mode = "nearest",
        padding: Border = "zeros",
        groups: int = 1,
        fused: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole(in_channels, "in_channels", least=1)
        self.out_channels = whole(out_channels, "out_channels", least=1)
        self.scale, self.groups = whole(scale, "scale", least=1), whole(groups, "groups", least=1)
        if self.in_channels % groups or self.out_channels % groups:
            raise ValueError(f"groups: must divide {in_channels} and {out_channels} channels, got {groups}")
        sizes = [kernel_size] * axes(dimensions) if isinstance(kernel_size, int) else list(kernel_size)
        if len(sizes) != dimensions:
            raise ValueError(f"kernel_size: must be one or {dimensions} integers, got {kernel_size!r}")
        self.kernel_size = tuple(whole(k, "kernel_size", least=1) for k in sizes)
        if padding not in get_args(Border):
            raise ValueError(f"padding: must be one of {', '.join(get_args(Border))}, got {padding!r}")
        self.mode: Mode = mode
        self.padding: Border = padding
        self.taps = len(resize_taps(scale, mode))
        self.fused = self._faster_fused() if fused is None else fused
        self.weight = nn.Parameter(torch.empty(self.out_channels, self.in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(self.out_channels)) if bias else None
        self.register_buffer("matrix", torch.empty(0), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)
        self._set_matrix()

    def _set_matrix(self) -> None:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        self.matrix = fold_matrix(self.kernel_size, self.scale, self.mode).to(self.weight.device, wide)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ResizeConv":
        super()._apply(fn, recurse)
        self._set_matrix()  # exact in any precision, and there after `to_empty`
        return self

    def _faster_fused(self) -> bool:
        """Nearest: always. Linear: where strips do not eat what is saved, and two thirds of the multiplications are left."""
        if self.mode == "nearest":
            return True
        left = prod((k + self.taps - 1) / (self.scale * k) for k in self.kernel_size)
        return self.padding == "replicate" and left <= FASTER_FUSED

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != len(self.kernel_size) + 2:
            raise ValueError(
                f"x: must be [N C *spatial] with {len(self.kernel_size)} spatial axes, got {list(x.shape)}"
            )
        if all(k == 1 for k in self.kernel_size):
            return self._resized(self._convolve(x))
        if not self.fused:
            return self._in_two_steps(x)
        y = self._in_one_step(x)
        return y if self._exact() else self._bordered(x, y)

    def as_transposed(self) -> nn.Module:
        """The layer as the `torch.nn.ConvTranspose` that it is, for export and inference: the fold is kept, nothing is shared.

        Raises:
            ValueError: no transposed convolution does the same at the border.
        """
        left, right = self._crops()
        if self.padding != "zeros" or not self._exact() or left != right:
            raise ValueError(
                "as_transposed: needs nearest taps, odd kernels and a border of zeros, "
                f"got mode={self.mode!r}, kernel_size={self.kernel_size}, padding={self.padding!r}"
            )
        size = tuple(k + self.taps - 1 for k in self.kernel_size)
        layer = TRANSPOSED[len(size)](
            self.in_channels, self.out_channels, size, stride=self.scale, padding=tuple(left), groups=self.groups,
            bias=self.bias is not None,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(self.kernel())
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer.to(self.weight)

    def kernel(self) -> Tensor:
        """The kernel of the transposed convolution that it is, as `gradlens.upsampling.fold`: a part of the graph."""
        return fold(self.weight, self.scale, self.mode, groups=self.groups, matrix=self.matrix)

    def _crops(self) -> tuple[list[int], list[int]]:
        """Pixels of the whole transposed convolution before and behind the enlarged map, by axis."""
        offset = self.scale // 2 if self.mode == "linear" else 0
        left = [k - 1 - (k - 1) // 2 + offset for k in self.kernel_size]
        return left, [k + self.taps - 1 - self.scale - before for k, before in zip(self.kernel_size, left, strict=True)]

    def _exact(self) -> bool:
        """Whether one step gives the border too."""
        reach = max(k // 2 for k in self.kernel_size)
        if self.padding == "replicate" or reach == 0:
            return True
        return self.mode == "nearest" and (self.padding == "zeros" or reach <= self.scale - 1)

    def _in_one_step(self, x: Tensor) -> Tensor:
        """The transposed convolution, cropped to the enlarged map; exact inside, and at the border where `_exact`."""
        left, right = self._crops()
        sides = x.shape[2:]
        if self.mode == "linear" or self.padding != "zeros":
            more = [-(-max(crops) // self.scale) for crops in zip(left, right, strict=True)]
            x = F.pad(x, [side for q in reversed(more) for side in (q, q)], mode="replicate")
            left = [c + self.scale * q for c, q in zip(left, more, strict=True)]
        size = [self.scale * side for side in sides]
        stride = [self.scale] * len(sides)
        return scatter(x, self.kernel(), self.bias, stride=stride, before=left, size=size, groups=self.groups)

    def _in_two_steps(self, x: Tensor) -> Tensor:
        """What it is by definition."""
        u = self._resized(x)
        around = [side for k in reversed(self.kernel_size) for side in ((k - 1) // 2, k // 2)]
        if any(around):
            u = F.pad(u, around, mode="constant" if self.padding == "zeros" else self.padding)
        return self._convolve(u)

    def _resized(self, x: Tensor) -> Tensor:
        mode = "nearest" if self.mode == "nearest" else LINEAR[x.ndim - 2]
        return F.interpolate(x, scale_factor=self.scale, mode=mode)

    def _convolve(self, x: Tensor) -> Tensor:
        return CONVOLVE[x.ndim - 2](x, self.weight, self.bias, groups=self.groups)

    def _bordered(self, x: Tensor, y: Tensor) -> Tensor:
        """`y` with what a convolution's reach of the border reads replaced by two steps, strip by strip."""
        for axis, k in enumerate(self.kernel_size, start=2):
            before, behind = (k - 1) // 2, k // 2
            if behind == 0:
                continue
            small = (
                -(-(before + behind + 1) // self.scale) + 2
            )  # pixels that the strip reads, and one that the cut changes
            if 2 * small >= x.shape[axis]:
                return self._in_two_steps(x)
            parts = [y.narrow(axis, before, y.shape[axis] - before - behind)]
            if before:
                parts.insert(0, self._in_two_steps(x.narrow(axis, 0, small)).narrow(axis, 0, before))
            last = self._in_two_steps(x.narrow(axis, x.shape[axis] - small, small))
            parts.append(last.narrow(axis, last.shape[axis] - behind, behind))
            y = torch.cat(parts, axis)
        return y

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, scale={self.scale}, kernel_size={self.kernel_size}, "
            f"mode={self.mode!r}, padding={self.padding!r}, fused={self.fused}"
        )


def bilinear(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int | Sequence[int] = 3,
    bias: bool = True,
    dimensions: int = 2,
    padding: Border = "zeros",
    fused: bool | None = None,
) -> ResizeConv:
    """`ResizeConv` after a linear resize (bilinear, trilinear): `[N C *spatial]` to `[N C' *(scale spatial)]`.

    Args, Raises: as `ResizeConv`.

    Source: Odena, Dumoulin, Olah 2016.

    Example:
        >>> bilinear(8, 3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    return ResizeConv(
        in_channels, out_channels, scale=scale, kernel_size=kernel_size, bias=bias, dimensions=dimensions,
        mode="linear", padding=padding, fused=fused,
    )  # fmt: skip
