"""A transposed convolution written in two other ways: the same numbers from a shuffle, and from zeros between the pixels."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.redesign.kernels import as_subpixel
from gradlens.upsampling import shuffle

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)


class SubPixelForm(nn.Module):
    """A transposed convolution as a convolution, a shuffle and a crop: `[N C *spatial]` to the same size, the same numbers.

    Args:
        of: the transposed convolution.
    """

    def __init__(self, of: Any) -> None:
        super().__init__()
        form = as_subpixel(of.weight, of.stride, of.padding, groups=of.groups)
        self.scale, self.groups, self.before = of.stride[0], of.groups, form.before
        self.more = [m - 2 * p + e for m, p, e in zip(of.kernel_size, of.padding, of.output_padding, strict=True)]
        self.weight = nn.Parameter(form.weight.detach().clone())
        phases = self.scale ** len(of.stride)
        self.bias = None if of.bias is None else nn.Parameter(of.bias.detach().repeat_interleave(phases))

    def forward(self, x: Tensor) -> Tensor:
        convolve = CONVOLVE[x.ndim - 3]
        pad = [j - 1 for j in self.weight.shape[2:]]
        y = shuffle(convolve(x, self.weight, self.bias, padding=pad, groups=self.groups), self.scale)
        for axis, (before, more) in enumerate(zip(self.before, self.more, strict=True), start=2):
            size = (x.shape[axis] - 1) * self.scale + more
            short = before + size - y.shape[axis]
            if short > 0:  # rows that no tap reaches hold the bias
                raise ValueError(f"x: the sub-pixel form lacks {short} rows of the transposed convolution")
            y = y.narrow(axis, before, size)
        return y


class ZeroInsertion(nn.Module):
    """A transposed convolution as zeros between the pixels and a convolution of stride 1: the same numbers.

    Args:
        of: the transposed convolution.
    """

    def __init__(self, of: Any) -> None:
        super().__init__()
        axes = tuple(range(2, of.weight.ndim))
        split = of.weight.detach().flip(axes).unflatten(0, (of.groups, -1)).transpose(1, 2)
        self.weight = nn.Parameter(split.flatten(0, 1).clone())
        self.bias = None if of.bias is None else nn.Parameter(of.bias.detach().clone())
        self.stride, self.groups, self.dilation = of.stride, of.groups, of.dilation
        reach = [d * (m - 1) for d, m in zip(of.dilation, of.kernel_size, strict=True)]
        self.around = [(r - p, r - p + e) for r, p, e in zip(reach, of.padding, of.output_padding, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        apart = x.new_zeros(*x.shape[:2], *size)
        apart[(..., *(slice(None, None, s) for s in self.stride))] = x
        wide = F.pad(apart, [side for pair in reversed(self.around) for side in pair])
        convolve = CONVOLVE[x.ndim - 3]
        return convolve(wide, self.weight, self.bias, dilation=self.dilation, groups=self.groups)
