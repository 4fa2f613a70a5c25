"""What is done to the picture before the network sees it, a list of callables; its gradient flows back through them.

A transform takes images `[N C *spatial]` and the `Moment` of the ascent. Jitter moves the picture and leaves the network's
lattice where it is; what repeats averages out by the law of `jitter_attenuation`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, lcm, pi, sin
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

JitterMode = Literal["roll", "crop", "reflect", "zeros"]
Order = Literal["random", "cycle"]
PadMode = Literal["constant", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Moment:
    """Where the ascent is: its step, counted from 0 in each octave, and the generator that it draws from."""

    step: int
    generator: torch.Generator


Transform = Callable[[Tensor, Moment], Tensor]


@dataclass(frozen=True)
class Jitter:
    """A transform that moves the picture by one of `n` consecutive offsets on each axis; made by `jitter`.

    `n` is `"auto"` until it is known which network looks.
    """

    n: int | Literal["auto"]
    mode: JitterMode = "roll"
    order: Order = "random"

    def __call__(self, images: Tensor, moment: Moment) -> Tensor:
        n = self.count
        if n <= 1:
            return images
        axes = images.ndim - 2
        if self.order == "cycle":
            steps = cycle(n, axes, moment.step)
        else:
            steps = torch.randint(n, (axes,), generator=moment.generator).tolist()
        return moved(images, [step - n // 2 for step in steps], n, self.mode)

    @property
    def count(self) -> int:
        """The number of offsets.

        Raises:
            ValueError: it is `"auto"` still.
        """
        if self.n == "auto":
            raise ValueError("jitter: 'auto' is the network's own number of offsets; only dream() knows the network")
        return self.n

    def fitted(self, periods: Sequence[int]) -> "Jitter":
        """The same with as many offsets as remove all `periods`, if it is `"auto"`: their least common multiple."""
        return replace(self, n=lcm(*periods)) if self.n == "auto" else self


def jitter(n: int | Literal["auto"], *, mode: JitterMode = "roll", order: Order = "random") -> Jitter:
    """A transform that moves the picture by one of `n` consecutive offsets on each axis, from -(n // 2) on.

    The average over all offsets removes every lattice whose period divides n, exactly: with `"roll"` where the period
    divides the sides of the picture too, with the others away from the border.

    Args:
        n: offsets on each axis; 0 and 1 are a fixed position, `"auto"` the least common multiple of the network's periods.
        mode: what stands where the picture has moved away. `"roll"`: what left on the other side; `"crop"`: nothing, the
            picture loses n - 1 px on each axis; `"reflect"`: its reflection; `"zeros"`: black.
        order: `"random"` draws every offset; `"cycle"` takes them in an order that sees every pair of offsets once in
            n^2 steps (of two axes) and every pair of residues of T once in the first T^2, for T = 2 of an even n and so on.

    Raises:
        ValueError: `n` is below 0; there is no such mode or order.

    Source: Mordvintsev et al. 2015 for the roll, Olah et al. 2017 for the crop; the order is ours.
    """
    if n != "auto" and n < 0:
        raise ValueError(f"n: must be at least 0 offsets, or 'auto', got {n}")
    for name, value, kind in (("mode", mode, JitterMode), ("order", order, Order)):
        if value not in get_args(kind):
            raise ValueError(f"{name}: must be one of {', '.join(get_args(kind))}, got {value!r}")
    return Jitter(n, mode, order)


def cycle(n: int, axes: int, step: int) -> list[int]:
    """The offset on each axis at `step` of a cycle of n^axes: digits of `step` in the prime factors of n, dealt in turn.

    The digit of the smallest factor comes first and counts single pixels, so residues of small periods are through early.

    Example:
        >>> [cycle(4, 2, step) for step in range(4)]
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    offsets, weight = [0] * axes, 1
    for factor in _prime_factors(n):
        for axis in range(axes):
            step, digit = divmod(step, factor)
            offsets[axis] += digit * weight
        weight *= factor
    return offsets


def _prime_factors(n: int) -> list[int]:
    found, divisor = [], 2
    while n > 1:
        while n % divisor == 0:
            found.append(divisor)
            n //= divisor
        divisor += 1
    return found


def moved(images: Tensor, offsets: Sequence[int], n: int, mode: JitterMode) -> Tensor:
    """`images` `[N C *spatial]` moved by `offsets` along each axis, each from -(n // 2) to n - 1 - n // 2, as `jitter` does."""
    axes = tuple(range(2, images.ndim))
    extent = images.shape[2:]
    if mode == "roll":
        return images.roll(tuple(offsets), axes)
    if mode == "crop":
        if min(extent) < n:
            raise ValueError(f"jitter: {n} offsets by cropping need sides of at least {n} px, got {_by(extent)}")
        for axis, offset, side in zip(axes, offsets, extent, strict=True):
            images = images.narrow(axis, n - 1 - n // 2 - offset, side - n + 1)
        return images
    if mode == "reflect" and min(extent) <= n // 2:
        raise ValueError(f"jitter: {n} reflected offsets need sides above {n // 2} px, got {_by(extent)}")
    widths = [width for o in reversed(offsets) for width in (max(o, 0), max(-o, 0))]
    padded = F.pad(images, widths, mode="reflect" if mode == "reflect" else "constant")
    for axis, offset, side in zip(axes, offsets, extent, strict=True):
        padded = padded.narrow(axis, max(-offset, 0), side)
    return padded


def pad(width: int, *, mode: PadMode = "constant", value: float = 0.5) -> Transform:
    """A transform that surrounds the picture by `width` px: of `value`, or of what `mode` makes of the picture."""
    if width < 0:
        raise ValueError(f"width: must be at least 0 px, got {width}")

    def padded(images: Tensor, moment: Moment) -> Tensor:
        widths = [width] * 2 * (images.ndim - 2)
        return F.pad(images, widths, value=value) if mode == "constant" else F.pad(images, widths, mode=mode)

    return padded


def scale(factors: Sequence[float]) -> Transform:
    """A transform that enlarges the picture by one of `factors`, drawn at random, bilinearly."""
    if not factors or min(factors) <= 0:
        raise ValueError(f"factors: must be positive numbers, got {list(factors)}")

    def scaled(images: Tensor, moment: Moment) -> Tensor:
        factor = _drawn(factors, moment)
        size = [max(1, round(side * factor)) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    return scaled


def rotate(degrees: Sequence[float]) -> Transform:
    """A transform that turns the picture about its middle by one of `degrees`, drawn at random; corners repeat the border."""
    if not degrees:
        raise ValueError("degrees: must hold at least one angle")

    def rotated(images: Tensor, moment: Moment) -> Tensor:
        angle = _drawn(degrees, moment) * pi / 180
        if angle == 0:
            return images
        height, width = images.shape[2:]
        turn = [[cos(angle), -sin(angle) * height / width, 0.0], [sin(angle) * width / height, cos(angle), 0.0]]
        matrix = torch.tensor(turn).to(images, non_blocking=True).expand(len(images), 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return rotated


def fitted_to(size: Sequence[int]) -> Transform:
    """A transform that crops the picture around its middle, or pads it with grey, to `size` `[*spatial]`: for networks that
    take no other."""

    def fitted(images: Tensor, moment: Moment) -> Tensor:
        for axis, side in enumerate(size, start=2):
            spare = images.shape[axis] - side
            if spare > 0:
                images = images.narrow(axis, spare // 2, side)
        missing = [side - have for side, have in zip(size, images.shape[2:], strict=True)]
        widths = [w for spare in reversed(missing) for w in (spare // 2, spare - spare // 2)]
        return F.pad(images, widths, value=0.5) if any(widths) else images

    return fitted


def _drawn(choices: Sequence[float], moment: Moment) -> float:
    return choices[int(torch.randint(len(choices), (), generator=moment.generator))]


def _by(extent: Sequence[int]) -> str:
    return " x ".join(map(str, extent))


RECIPES: dict[str, tuple[Transform, ...]] = {
    "none": (),
    "deepdream": (jitter(65),),  # Mordvintsev et al. 2015: a roll by -32 to 32
    "lucid": (  # Olah et al. 2017
        pad(12),
        jitter(9, mode="crop"),
        scale([1 + (i - 5) / 50 for i in range(11)]),
        rotate([*range(-10, 11), 0, 0, 0, 0, 0]),
        jitter(5, mode="crop"),
    ),
    "lucent": (  # torch-lucent: translations in place of the crops
        pad(12),
        jitter(8, mode="zeros"),
        scale([1 + (i - 5) / 50 for i in range(11)]),
        rotate([*range(-10, 11), 0, 0, 0, 0, 0]),
        jitter(4, mode="zeros"),
    ),
}
