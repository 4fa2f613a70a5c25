"""A transposed convolution with a zero-order hold inside: approach C, of any stride, order, padding and groups.

The kernel is V = s^D (W * H_d), W what is learned, H_d = `gradlens.filters.hold(s, d)`, s^D so that a constant gives the sum of
W. All phases of V have one sum whatever W is (eq. 3), and with one bias for all phases (eq. 9) a constant stays constant (eq. 7,
10). Of order 0 it is a nearest-neighbour resize, then a convolution with W reversed, with the borders of the transposed
convolution that it stands for.

Source: Sugawara, Shiota, Kiya 2018, section 3.3 C; Kinoshita, Kiya 2020 (order d).
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from gradlens.filters import axes, hold, whole
from gradlens.upsampling.folding import in_float, lying_as, scatter


def held_matrix(kernel_size: Sequence[int], stride: Sequence[int], order: int = 0) -> Tensor:
    """The fixed matrix that takes the taps of W to those of s^D (W * H_d): `[K M]`, float64, products over axes.

    Args:
        kernel_size, stride: of each axis.
        order: d.
    """
    each = []
    for k, s in zip(kernel_size, stride, strict=True):
        taps = s * hold(s, order)
        rows = taps.new_zeros(k, k + len(taps) - 1)
        for tap in range(k):
            rows[tap, tap : tap + len(taps)] = taps
        each.append(rows)
    return reduce(torch.kron, each)


class HeldTransposed(nn.Module):
    """A transposed convolution of kernel s^D (W * H_d): `[N C *spatial]` to `[N C' *size]`, all phases of one sum.

    Of an axis, size = (n - 1) stride + k + (s (d + 1) - d) - 1 - before - behind. The forward certificate passes for every W.
    The kernel is folded in every forward pass, as part of the graph, and kept nowhere.

    Args:
        in_channels, out_channels: C and C'.
        kernel_size: k of W, of each axis.
        stride: s, of each axis.
        crop: pixels before and behind the map that is kept, of each axis; behind may be down to 1 - s: bias alone.
        bias: whether to add one.
        groups: of the convolution.
        order: d.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Sugawara, Shiota, Kiya 2018, approach C; Kinoshita, Kiya 2020.

    Example:
        >>> layer = HeldTransposed(8, 3, (3, 3), stride=(2, 2), crop=((1, 1), (1, 1)))
        >>> layer(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """

    matrix: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        crop: Sequence[tuple[int, int]],
        bias: bool = True,
        groups: int = 1,
        order: int = 0,
    ) -> None:
        super().__init__()
        axes(len(kernel_size))
        self.in_channels = whole(in_channels, "in_channels", least=1)
        self.out_channels = whole(out_channels, "out_channels", least=1)
        self.kernel_size = tuple(whole(k, "kernel_size", least=1) for k in kernel_size)
        self.stride = tuple(whole(s, "stride", least=1) for s in stride)
        self.crop = tuple((whole(b, "crop", least=0), int(e)) for b, e in crop)
        if any(e <= -s for (_, e), s in zip(self.crop, self.stride, strict=True)):
            raise ValueError(f"crop: behind must be above minus the stride {self.stride}, got {self.crop}")
        self.groups, self.order = whole(groups, "groups", least=1), whole(order, "order", least=0)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: must divide {in_channels} and {out_channels} channels, got {groups}")
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.register_buffer("matrix", torch.empty(0), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as the convolution after a resize would be."""
        fan = self.in_channels // self.groups * self.weight[0, 0].numel()
        bound = fan**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        self._set_matrix()

    def _set_matrix(self) -> None:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        self.matrix = held_matrix(self.kernel_size, self.stride, self.order).to(self.weight.device, wide)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HeldTransposed":
        super()._apply(fn, recurse)
        self._set_matrix()  # exact in any precision, and there after `to_empty`
        return self

    def kernel(self) -> Tensor:
        """The kernel that it scatters, `[C C'/groups *(kernel)]`: a part of the graph."""
        folded = in_float(self.weight, self.matrix)
        size = [k + self._reach(s) for k, s in zip(self.kernel_size, self.stride, strict=True)]
        return lying_as(self.weight, folded.unflatten(-1, size))

    def _reach(self, stride: int) -> int:
        return stride * (self.order + 1) - self.order - 1

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != len(self.kernel_size) + 2:
            raise ValueError(
                f"x: must be [N C *spatial] with {len(self.kernel_size)} spatial axes, got {list(x.shape)}"
            )
        kernel = self.kernel()
        size = [
            (n - 1) * s + m - before - behind
            for n, s, m, (before, behind) in zip(x.shape[2:], self.stride, kernel.shape[2:], self.crop, strict=True)
        ]
        before = [b for b, _ in self.crop]
        return scatter(x, kernel, self.bias, stride=self.stride, before=before, size=size, groups=self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"crop={self.crop}, order={self.order}"
        )
