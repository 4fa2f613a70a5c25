"""Zero-order holds in and behind layers that enlarge, so that a constant comes out constant: approaches A, B and C.

A signal of period s becomes its mean over the phases behind a hold of s pixels, which adds up one of each. Taps of sum 1
(`gradlens.filters.hold`) keep that mean what it was. A: the hold is put there after training; B: it is there while training
too; C: it is inside the kernel of a transposed convolution, W * H_d.

B and C are one function of W away from the border, in one place too: a hold of even length (even s, even d) looks half a pixel
ahead, so that what it hands on lies half a pixel before what came in. Training makes up for that in B and C, nothing does in A.

Source: Sugawara, Shiota, Kiya 2018, section 3.3; Kinoshita, Kiya 2020 (order d).
"""

from math import prod
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.convolution import sequence
from gradlens.filters import Filter, Padding, axes, hold, whole
from gradlens.upsampling.deconv import transposed
from gradlens.upsampling.held import HeldTransposed
from gradlens.upsampling.subpixel import subpixel

Base: TypeAlias = Literal["deconv", "subpixel"]


def held_after(
    layer: nn.Module, scale: int, *, order: int = 0, padding: Padding = "replicate", training: bool = False
) -> nn.Sequential:
    """`layer`, named `up`, and a hold over `scale` pixels behind it, named `hold`: what `layer` gives, in its size.

    y = H_d * layer(x), H_d = `hold(scale, order)`, along each axis. Whatever `layer` is, if it makes of a constant something that
    repeats every s pixels, y is the mean of its phases: the forward certificate passes. Of a layer that meets zeros beyond
    its border a constant is none within its reach of the border, and no `padding` here mends that.

    Cost: D (s (d + 1) - d) multiplications an output, beside those of `layer`.

    Args:
        layer: any that enlarges by s; `[N C *spatial]` to `[N C' *size]`, D = 1 to 3 axes. It is not copied.
        scale: s, also the length of the hold.
        order: d.
        padding: beyond the border of what `layer` gives, as `gradlens.filters.filtered`.
        training: whether the hold is at work in training mode too (approach B) or in eval mode alone (approach A).

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Sugawara, Shiota, Kiya 2018, figure 6, approaches A and B.

    Example:
        >>> from gradlens.upsampling import transposed
        >>> held_after(transposed(8, 3), 2)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 10, 12])
    """
    make = Filter if training else TrainedHold
    return sequence({"up": layer, "hold": make(hold(scale, order), padding=padding)})


class TrainedHold(Filter):
    """`gradlens.filters.Filter` that lets everything pass in training mode: the hold of approach A.

    Args:
        taps, padding: as `Filter`.

    Source: Sugawara, Shiota, Kiya 2018, section 3.3 A.

    Example:
        >>> layer, x = TrainedHold(hold(2)), torch.tensor([[[0.0, 4, 0, 4]]])
        >>> layer.train()(x).tolist(), layer.eval()(x).tolist()
        ([[[0.0, 4.0, 0.0, 4.0]]], [[[2.0, 2.0, 2.0, 4.0]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else super().forward(x)


def hold_a(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 4,
    bias: bool = True,
    dimensions: int = 2,
    base: Base = "deconv",
    order: int = 0,
    padding: Padding = "replicate",
    tied_bias: bool = True,
) -> nn.Sequential:
    """Approach A, a layer that is held after training: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    In training mode y = up(x), in eval mode y = H_d * up(x). The forward certificate fails in training mode and passes in
    eval mode, for any weights; the backward certificate passes in both.

    `up` is `transposed` or `subpixel`, with their keys: `layer.up.load_state_dict(trained.state_dict())` takes the weights of a
    `torch.nn.ConvTranspose2d` as they are, and with `tied_bias=False` those of a sub-pixel convolution. Of even s and even d the
    map moves half a pixel towards its start.

    Cost: that of `up` and D (s (d + 1) - d) multiplications an output.

    Args:
        in_channels, out_channels: C and C'.
        scale: s, also the length of the hold.
        kernel_size: m, of `up`; odd at scale 1 for "deconv".
        bias: whether `up` adds one.
        dimensions: D, 1 to 3.
        base: what `up` is, "deconv" or "subpixel".
        order: d.
        padding: of the hold, as `held_after`.
        tied_bias: whether all phases of a sub-pixel convolution have one bias (eq. 9); a deconvolution has one anyway.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Sugawara, Shiota, Kiya 2018, section 3.3 A.

    Example:
        >>> layer = hold_a(8, 3, scale=4, kernel_size=9)
        >>> layer.eval()(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 20, 24])
        >>> [*layer.state_dict()]
        ['up.weight', 'up.bias']
    """
    up = _based(base, in_channels, out_channels, scale, kernel_size, bias, dimensions, tied_bias)
    return held_after(up, scale, order=order, padding=padding)


def hold_b(
    in_channels: int,
    out_channels: int,
    *,
    scale: int = 2,
    kernel_size: int = 4,
    bias: bool = True,
    dimensions: int = 2,
    base: Base = "deconv",
    order: int = 0,
    padding: Padding = "replicate",
    tied_bias: bool = True,
) -> nn.Sequential:
    """Approach B, a layer that is held from the start: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y = H_d * up(x) in both modes. A constant v becomes, away from the border, the mean over the s^D phases p of what `up` makes
    of it: (1 / s^D) sum over p of (R_p v + b_p), R_p the sums of the taps of phase p. Both certificates pass for any weights.

    Keys, Cost, Args, Raises: as `hold_a`.

    Source: Sugawara, Shiota, Kiya 2018, section 3.3 B.

    Example:
        >>> y = hold_b(8, 3, base="subpixel", kernel_size=3)(torch.ones(1, 8, 8, 8))[..., 4:-4, 4:-4]
        >>> torch.allclose(y, y[..., :1, :1], atol=1e-6)
        True
    """
    up = _based(base, in_channels, out_channels, scale, kernel_size, bias, dimensions, tied_bias)
    return held_after(up, scale, order=order, padding=padding, training=True)


class HeldInside(HeldTransposed):
    """Approach C, a transposed convolution of kernel W * H_d: `[N C *spatial]` to `[N C' *(scale spatial)]`.

    y[i] = b + sum over n of V[i + c - s n] x[n], V = W * H_d along each axis, H_d = `hold(scale, order)` of sum 1 and
    L = s (d + 1) - d taps, c = P + L // 2 with P of `transposed`: away from the border it is `hold_b` with the same W. A constant
    v becomes b + (sum of W) v / s^D, the mean over phases of what W alone makes of it; with `padding` other than "zeros" it
    does so up to the border. Both certificates pass for any W.

    `weight` and `bias` are those of `torch.nn.ConvTranspose2d`, in its shapes, under its names, drawn as it draws them. V is
    folded in float32 at least, in every forward pass as part of the graph, and kept nowhere: what `.data` writes is seen.

    Cost: ((m + L - 1) / s)^D C multiplications an output, and (m (m + L - 1))^D C C' once to fold.

    Args:
        in_channels, out_channels: C and C'.
        scale: s, also the length of the hold.
        kernel_size: m, of W; odd at scale 1.
        bias: whether to add one.
        dimensions: D, 1 to 3.
        order: d.
        padding: beyond the border of x: "zeros" (one transposed convolution and nothing else), "replicate", "reflect" or
            "circular".

    Raises:
        TypeError, ValueError: an argument is out of its range; in `forward`, `x` has another number of axes or is too small to be
            reflected or wrapped.

    Source: Sugawara, Shiota, Kiya 2018, section 3.3 C, eq. 3.

    Example:
        >>> layer = HeldInside(8, 3, scale=4, kernel_size=9)
        >>> layer.load_state_dict(nn.ConvTranspose2d(8, 3, 9, 4).state_dict())
        <All keys matched successfully>
        >>> layer(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 20, 24])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 4,
        bias: bool = True,
        dimensions: int = 2,
        order: int = 0,
        padding: Padding = "replicate",
    ) -> None:
        s, m, d = whole(scale, "scale", least=1), whole(kernel_size, "kernel_size", least=1), axes(dimensions)
        if s == 1 and m % 2 == 0:
            raise ValueError(f"kernel_size: must be odd at scale 1, got {m}")
        if padding not in get_args(Padding):
            raise ValueError(f"padding: must be one of {', '.join(get_args(Padding))}, got {padding!r}")
        length = len(hold(s, order))
        taps = m + length - 1
        before = -(-max(m - s, 0) // 2) + length // 2
        behind = taps - s - before
        around = (0, 0) if padding == "zeros" else _margin(before, behind, s)
        crop = before + s * around[0], behind + s * around[1]
        super().__init__(in_channels, out_channels, (m,) * d, stride=(s,) * d, crop=(crop,) * d, bias=bias, order=order)
        self.scale, self.padding, self.around = s, padding, around

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.ConvTranspose2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)
        self._set_matrix()

    def _set_matrix(self) -> None:
        super()._set_matrix()
        self.matrix = self.matrix / prod(self.stride)  # the hold's own sum of 1

    def forward(self, x: Tensor) -> Tensor:
        if any(self.around) and x.ndim == len(self.kernel_size) + 2:
            x = self._extended(x)
        return super().forward(x)

    def _extended(self, x: Tensor) -> Tensor:
        """`x` with the pixels around it that its enlarged map reads."""
        room = {"reflect": -1, "circular": 0}.get(self.padding)
        if room is not None and max(self.around) > min(x.shape[2:]) + room:
            raise ValueError(
                f'x: "{self.padding}" padding needs at least {max(self.around) - room} pixels a side, '
                f'got {list(x.shape[2:])}; pad by "replicate"'
            )
        if self.padding != "circular":
            return F.pad(x, self.around * (x.ndim - 2), mode=self.padding)
        before, behind = self.around
        for axis in range(2, x.ndim):  # `F.pad` would drop the memory format
            n = x.shape[axis]
            x = torch.cat([x.narrow(axis, n - before, before), x, x.narrow(axis, 0, behind)], axis)
        return x

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, scale={self.scale}, kernel_size={self.kernel_size}, "
            f"order={self.order}, padding={self.padding!r}"
        )


def _margin(before: int, behind: int, scale: int) -> tuple[int, int]:
    """Pixels before and behind x that its map reads, and before it so many more that less than s is cropped unevenly."""
    last = -(-before // scale)
    return last - (before - behind) // scale, last


class SharedBias(nn.Module):
    """One bias a channel, for all phases: `[N C *spatial]` to the same, eq. 9.

    Args:
        channels: C.
        bound: drawn uniformly in [-bound, bound].

    Source: Sugawara, Shiota, Kiya 2018, eq. 9.
    """

    def __init__(self, channels: int, bound: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _based(
    base: str,
    in_channels: int,
    out_channels: int,
    scale: int,
    kernel_size: int,
    bias: bool,
    dimensions: int,
    tied: bool,
) -> nn.Module:
    """The layer that a hold stands behind."""
    if base not in get_args(Base):
        raise ValueError(f'base: must be "deconv" or "subpixel", got {base!r}')
    own = bias and not (tied and base == "subpixel")
    make = transposed if base == "deconv" else subpixel
    up = make(in_channels, out_channels, scale=scale, kernel_size=kernel_size, bias=own, dimensions=dimensions)
    if bias and not own:
        up.add_module("shared", SharedBias(out_channels, (in_channels * kernel_size**dimensions) ** -0.5))
    return up
