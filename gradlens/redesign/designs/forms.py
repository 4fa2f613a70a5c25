"""A transposed convolution written in two other ways: the same numbers from a shuffle, and from zeros between the pixels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.convolution import CONVOLUTIONS, sequence
from gradlens.filters import CONVOLVE
from gradlens.redesign.rewrites import Rewritten, subpixel_form, zero_insertion
from gradlens.upsampling.shuffling import Shuffle


class Crop(nn.Module):
    """A map without `before` and `behind` pixels of each axis, or with its border repeated: `[N C *spatial]`.

    Args:
        before: pixels that are left out in front, of each axis; below 0 the border is repeated there.
        behind: the same at the far end.
    """

    def __init__(self, before: Sequence[int], behind: Sequence[int]) -> None:
        super().__init__()
        self.before, self.behind = tuple(before), tuple(behind)

    def forward(self, x: Tensor) -> Tensor:
        for axis, (b, e) in enumerate(zip(self.before, self.behind, strict=True), start=2):
            x = x.narrow(axis, max(b, 0), x.shape[axis] - max(b, 0) - max(e, 0))
        more = [max(-n, 0) for pair in reversed(list(zip(self.before, self.behind, strict=True))) for n in pair]
        return F.pad(x, more, mode="replicate") if any(more) else x

    def extra_repr(self) -> str:
        return f"before={self.before}, behind={self.behind}"


class Pad(nn.Module):
    """Zeros around a map, `[N C *spatial]`; below 0 pixels are cut off.

    Args:
        around: zeros before and behind, of each axis.
    """

    def __init__(self, around: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.around = tuple(around)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, [side for pair in reversed(self.around) for side in pair])

    def extra_repr(self) -> str:
        return f"around={self.around}"


def as_shuffled(layer: Any) -> nn.Sequential:
    """A transposed convolution as a convolution, `torch.nn.PixelShuffle` and what else its borders need, exact.

    Args:
        layer: any `torch.nn.ConvTranspose` of one stride for all axes and no dilation.
    """
    s, axes = layer.stride[0], len(layer.stride)
    form = subpixel_form(
        layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), stride=layer.stride,
        padding=layer.padding, output_padding=layer.output_padding, groups=layer.groups,
    )  # fmt: skip
    even = all(before == behind >= 0 for before, behind in form.around)
    layers: dict[str, nn.Module] = {} if even else {"pad": Pad(form.around)}
    conv = CONVOLUTIONS[axes](
        layer.in_channels, len(form.weight), tuple(form.weight.shape[2:]), groups=layer.groups,
        padding=tuple(before for before, _ in form.around) if even else 0, bias=layer.bias is not None,
    ).to(layer.weight)  # fmt: skip
    conv.load_state_dict(_state(form))
    layers |= {"conv": conv, "shuffle": nn.PixelShuffle(s) if axes == 2 else Shuffle(s)}
    if any(side for pair in form.crop for side in pair):
        layers["crop"] = Crop(*zip(*form.crop, strict=True))
    return sequence(layers)


def _state(form: Rewritten) -> dict[str, Tensor]:
    return {"weight": form.weight} | ({} if form.bias is None else {"bias": form.bias})


class ZeroInsertion(nn.Module):
    """A transposed convolution as zeros between the pixels and a convolution of stride 1: the same numbers.

    Args:
        of: the transposed convolution.
    """

    def __init__(self, of: Any) -> None:
        super().__init__()
        form = zero_insertion(
            of.weight.detach(), None if of.bias is None else of.bias.detach(), stride=of.stride, padding=of.padding,
            output_padding=of.output_padding, dilation=of.dilation, groups=of.groups,
        )  # fmt: skip
        self.weight = nn.Parameter(form.weight.clone())
        self.bias = None if form.bias is None else nn.Parameter(form.bias.clone())
        self.stride, self.groups, self.dilation, self.around = of.stride, of.groups, of.dilation, form.around

    def forward(self, x: Tensor) -> Tensor:
        size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)]
        apart = x.new_zeros(*x.shape[:2], *size)
        apart[(..., *(slice(None, None, s) for s in self.stride))] = x
        wide = F.pad(apart, [side for pair in reversed(self.around) for side in pair])
        return CONVOLVE[x.ndim - 2](wide, self.weight, self.bias, dilation=self.dilation, groups=self.groups)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, around={self.around}"
