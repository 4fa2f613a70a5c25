"""What jitter does to a lattice: the law of averages over offsets.

A lattice of period T that stays with the network while the picture moves by o pixels enters the average of gradients with
the phase factor exp(2 pi i k o / T), for its harmonic k. Over n consecutive offsets, each equally often, they add up to

    D(k) = |sin(pi n k / T) / (n sin(pi k / T))|.

Axes multiply. All harmonics that T has and no smaller divisor of it vanish if and only if T divides n.
"""

from cmath import exp
from collections.abc import Sequence
from math import pi, prod, sin, sqrt

from gradlens.dream.transforms import Jitter, cycle
from gradlens.spectra.grid import new_harmonics


def jitter_attenuation(n: int, period: int, *, harmonic: int | Sequence[int] = 1, steps: int | None = None) -> float:
    """The factor by which jitter over `n` consecutive offsets scales the amplitude of a lattice.

        D = prod over axes of |sin(pi n k / T) / (n sin(pi k / T))|,   after `steps` random ones sqrt(D^2 + (1 - D^2) / steps)

    The second is the root of the expected power: offsets drawn at random do not fall evenly, whatever n. Offsets in the
    order `"cycle"` of `jitter` reach the first after n^2 steps, and at a period that divides n sooner.

    Range: [0, 1]; 1 for no jitter (n = 0 or 1), 0 where `period` divides `n`.

    Args:
        n: offsets on each axis; 0 and 1 are a fixed position.
        period: T, in pixels.
        harmonic: k, in multiples of 1 / T; one number for a harmonic on an axis, or one for each axis.
        steps: random steps that are averaged; infinitely many, or one whole cycle, unless given.

    Raises:
        ValueError: `n` is below 0, or `period` or `steps` below 1.

    Source: ours; the kernel is Dirichlet's. Jitter itself: Mordvintsev et al. 2015.

    Example:
        >>> jitter_attenuation(8, 4), jitter_attenuation(1, 4)
        (0.0, 1.0)
        >>> round(jitter_attenuation(65, 2), 4) == round(1 / 65, 4)
        True
    """
    if n < 0:
        raise ValueError(f"n: must be at least 0 offsets, got {n}")
    if period < 1:
        raise ValueError(f"period: must be at least 1 px, got {period}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps: must be at least 1, got {steps}")
    harmonics = [harmonic] if isinstance(harmonic, int) else harmonic
    attenuation = prod(_dirichlet(max(n, 1), k, period) for k in harmonics)
    if steps is None:
        return attenuation
    return sqrt(attenuation**2 + (1 - attenuation**2) / steps)


def lattice_attenuation(jitter: Jitter, period: int, steps: int, *, axes: int = 2) -> float:
    """The factor by which `steps` steps of a `jitter` are expected to scale the amplitude of a whole lattice.

    The root mean square over the new harmonics of `period`: of random offsets by the law and its floor, of a cycle by the
    very offsets that it takes.

    Range: [0, 1].

    Args:
        jitter: from `gradlens.dream.jitter`, not `"auto"`.
        period: T, in pixels.
        steps: that are averaged.
        axes: of the picture.

    Source: ours.

    Example:
        >>> from gradlens.dream import jitter
        >>> lattice_attenuation(jitter(2, order="cycle"), 2, 4), round(lattice_attenuation(jitter(2), 2, 4), 2)
        (0.0, 0.5)
    """
    harmonics = new_harmonics((period,) * axes)
    if jitter.order == "random" or jitter.count <= 1:
        powers = [jitter_attenuation(jitter.count, period, harmonic=h, steps=steps) ** 2 for h in harmonics]
    else:
        offsets = [cycle(jitter.count, axes, step) for step in range(steps)]
        powers = [_power_of(offsets, harmonic, period) for harmonic in harmonics]
    return sqrt(sum(powers) / len(powers)) if powers else 1.0


def _power_of(offsets: Sequence[Sequence[int]], harmonic: Sequence[int], period: int) -> float:
    """|mean of exp(2 pi i k . o / T)|^2 over `offsets`; exactly 0 where the residues are even."""
    turns = [sum(k * o for k, o in zip(harmonic, offset, strict=True)) % period for offset in offsets]
    power = abs(sum(exp(2j * pi * turn / period) for turn in turns) / len(turns)) ** 2
    return power if power > 1e-24 else 0.0


def _dirichlet(n: int, k: int, period: int) -> float:
    """|D(k)| on one axis; exact where it is 0 or 1."""
    if k % period == 0 or n == 1:
        return 1.0
    return abs(sin(pi * (n * k % period) / period) / (n * sin(pi * k / period)))
