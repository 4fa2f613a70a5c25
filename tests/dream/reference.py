"""The dream's formulas once more, from their definitions: loops over offsets, bins and positions; nothing is shared."""

import cmath
import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def attenuation(n: int, period: int, harmonic: Sequence[int]) -> float:
    """|mean over all offsets of exp(2 pi i k . o / T)|, of `n` consecutive offsets on each axis."""
    total = 0j
    for offset in product(range(-(n // 2), n - n // 2), repeat=len(harmonic)):
        total += cmath.exp(2j * math.pi * sum(k * o for k, o in zip(harmonic, offset, strict=True)) / period)
    return abs(total) / n ** len(harmonic)


def attenuation_by(offsets: Sequence[Sequence[int]], period: int) -> float:
    """Root mean square over the new harmonics of `period` of what averaging over `offsets` leaves of each."""
    axes = len(offsets[0])
    powers = []
    for harmonic in product(range(period), repeat=axes):
        if math.gcd(*harmonic, period) == 1 and any(harmonic):
            turns = [sum(k * o for k, o in zip(harmonic, offset, strict=True)) / period for offset in offsets]
            powers.append(abs(sum(cmath.exp(2j * math.pi * turn) for turn in turns) / len(turns)) ** 2)
    return math.sqrt(sum(powers) / len(powers))


def along(activation: Array, vector: Array, power: float) -> list[float]:
    """Of `[N C *spatial]`: mean over positions of a . v * max(cos(a, v), 0.1)^power, one number an image."""
    found = []
    for image in activation:
        values = []
        for position in product(*map(range, image.shape[1:])):
            a = image[(slice(None), *position)]
            dot = float((a * vector).sum())
            cosine = dot / (math.sqrt(float((a * a).sum())) * math.sqrt(float((vector * vector).sum())))
            values.append(dot * max(cosine, 0.1) ** power)
        found.append(sum(values) / len(values))
    return found


def fourier_picture(values: Array, size: tuple[int, int], decay: float, colours: Array) -> Array:
    """The picture `[C H W]` of coefficients `[C H W//2+1 2]`, as a sum of waves, for sides that are odd.

    Each coefficient is divided by max(frequency, 1 / longest side)^decay, scaled so that the mean square over the half
    plane is 1; colours are mixed by `colours`, whose first column is scaled to length 1.
    """
    height, width = size
    bins = [(k, m) for k in range(height) for m in range(width // 2 + 1)]
    weights = {}
    for k, m in bins:
        frequency = math.hypot(min(k, height - k) / height, m / width)
        weights[k, m] = max(frequency, 1 / max(size)) ** -decay
    scale = math.sqrt(sum(w * w for w in weights.values()) / len(bins))
    rows, columns = np.mgrid[:height, :width]
    levels = np.zeros((len(values), height, width))
    for k, m in bins:
        wave = np.exp(2j * np.pi * (k * rows / height + m * columns / width)) / math.sqrt(height * width)
        twice = 1 if m == 0 else 2  # its conjugate on the other half plane
        for channel, coefficients in enumerate(values):
            coefficient = complex(*coefficients[k, m]) * weights[k, m] / scale
            levels[channel] += twice * (coefficient * wave).real
    matrix = colours / math.sqrt(float((colours[:, 0] ** 2).sum()))
    return 1 / (1 + np.exp(-np.einsum("dc,chw->dhw", matrix, levels)))


DIVISORS: dict[str, Callable[[list[float]], float]] = {
    "mean-abs": lambda g: sum(map(abs, g)) / len(g),
    "std": lambda g: math.sqrt(sum((v - sum(g) / len(g)) ** 2 for v in g) / (len(g) - 1)),
    "rms": lambda g: math.sqrt(sum(v * v for v in g) / len(g)),
    "max": lambda g: max(map(abs, g)),
    "none": lambda g: 1.0,
}


def step(images: Tensor, gradient: Tensor, rate: float, normalisation: str) -> Tensor:
    """One step of steepest ascent from `images`, each along its own `gradient`, clipped to [0, 1]."""
    moved = []
    for image, g in zip(images, gradient, strict=True):
        divisor = DIVISORS[normalisation](g.double().flatten().tolist())
        moved.append((image.double() + rate * g.double() / divisor).clamp(0, 1))
    return torch.stack(moved)
