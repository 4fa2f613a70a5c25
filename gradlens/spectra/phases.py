"""How unevenly energy lies on the T x T sampling phases of a period, whatever its sign.

Energy is taken relative to its neighbourhood (whole periods, at least 16 px a side), so that a picture's own bright and
dark regions do not count. A strided layer that gives one pixel in T^2 the whole gradient reads sqrt(T^2 - 1).
Source: ours; the question is Odena et al.'s 2016, "many times the gradient of their neighbors".
"""

from math import prod

import torch
from torch import Tensor

from gradlens.spectra.envelope import Views, neighbourhood
from gradlens.spectra.signal import Period, as_signal, at_home, holds_two, periods_of, signed_root

DRAWS = 1000


def phase_energy(x: Tensor, period: Period) -> Tensor:
    """Mean energy of each sampling phase relative to its neighbourhood; 1 is even.

    Range: [0, T^2], mean 1; all 1 where the image holds no energy.
    Blind to: checkerboards of sign alone; pair with `lattice_contrast`.

    Args:
        x: `[N C *spatial]`, floating point, any unit; energy is summed over channels. A rest of the image that makes
            no whole neighbourhood is left out at the end.
        period: T in pixels, one for all axes or one for each.

    Returns:
        `[N T T]` for two spatial axes: entry (p, q) is the phase of pixel (p, q); NaN where the image holds fewer
        than two periods along an axis. Differentiable.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `period` is out of range.

    Source: ours.

    Example:
        >>> x = torch.zeros(1, 1, 32, 32)
        >>> x[..., ::2, ::2] = 1
        >>> phase_energy(x, 2).tolist()
        [[[4.0, 0.0], [0.0, 0.0]]]
    """
    return at_home(mean_energy(*_departures(x, period)).view(len(x), *periods_of(period, x.ndim - 2)), x)


def phase_imbalance(x: Tensor, period: Period, *, debias: bool = True) -> Tensor:
    """Unevenness of energy over the T x T sampling phases: the coefficient of variation of the phase energies.

    Plain: std(e) / mean(e) of `phase_energy`, with divisor T^2. Debiased: sign(v) sqrt(|v|) of the unbiased
    v = mean over phases of ((sum d)^2 - sum d^2) / (B (B - 1)), with d the relative energy minus 1 of B blocks.

    Range: [0, sqrt(T^2 - 1)], the maximum is one phase holding everything; debiased it may fall below 0, and is 0
        on average without a lattice, where the plain value has the floor `phase_imbalance_floor`.
    Blind to: checkerboards of sign alone; pair with `lattice_contrast`.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        period: T in pixels, one for all axes or one for each.
        debias: take out what chance alone adds. For a set of images use `set_imbalance`.

    Returns:
        `[N]`, 0 for an image without energy; NaN where the image holds fewer than two periods along an axis or,
        debiased, fewer than two neighbourhoods with energy. Differentiable away from 0.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`; `period` is out of range.

    Source: ours; the U-statistic is Hoeffding's 1948.

    Example:
        >>> x = torch.zeros(1, 1, 32, 32)
        >>> x[..., ::2, ::2] = 1
        >>> round(phase_imbalance(x, 2).item(), 3)
        1.732
    """
    if not debias:
        energy = phase_energy(x, period).flatten(1)
        return signed_root((energy - 1).square().mean(1))
    return at_home(signed_root(unbiased_square(*_departures(x, period))), x)


def set_imbalance(energy: Tensor) -> Tensor:
    """The debiased imbalance of a set of images, from their phase energies: what they have in common.

    The same expression as `phase_imbalance(debias=True)` with the images in place of an image's blocks.

    Range: about [-1, sqrt(T^2 - 1)]; 0 on average where the images share no lattice.
    Blind to: as `phase_energy`; also to lattices that have another phase in every image.

    Args:
        energy: `[N *T]`, from `phase_energy`.

    Returns:
        A scalar; NaN for fewer than two images.

    Raises:
        ValueError: `energy` has fewer than two axes.

    Source: ours; Hoeffding 1948.

    Example:
        >>> even = torch.ones(3, 2, 2)
        >>> set_imbalance(even).item()
        0.0
    """
    if energy.ndim < 2:
        raise ValueError(f"energy: must be [N *T], got {list(energy.shape)}")
    departure = energy.flatten(1) - 1
    return signed_root(_unbiased_square(departure, energy.new_tensor(len(energy))))


def set_imbalance_test(energy: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """The noise floor of `set_imbalance` and the probability that images without a common lattice reach its value.

    Each image's phase map is rolled by a random whole offset: that keeps its own unevenness and destroys what the
    images share. The floor is the 95 % quantile over 1,000 seeded rolls; p = (1 + #{rolled >= value}) / 1001.

    Range: floor as `set_imbalance`; p in [1/1001, 1]. NaN for fewer than two images.
    Blind to: as `set_imbalance`. With few images there are few different rolls: p cannot be small for two.

    Args:
        energy: `[N *T]`, from `phase_energy`.
        seed: of the rolls.

    Returns:
        (floor, p_value).

    Source: ours; a randomisation test (Fisher 1935).

    Example:
        >>> set_imbalance_test(torch.ones(4, 2, 2))[1]
        1.0
    """
    if len(energy) < 2 or energy.isnan().any():
        return float("nan"), float("nan")
    count, periods = len(energy), tuple(energy.shape[1:])
    departure = energy.double().cpu() - 1
    generator = torch.Generator().manual_seed(seed)
    coordinates = torch.cartesian_prod(*[torch.arange(p) for p in periods]).view(-1, len(periods))
    own = departure.square().sum()
    squares = []
    for _ in range(DRAWS):
        offset = torch.stack([torch.randint(p, (count,), generator=generator) for p in periods], 1)
        moved = (coordinates + offset[:, None]) % torch.tensor(periods)  # [N phases D]
        flat = moved[..., 0]
        for axis, p in enumerate(periods[1:], start=1):
            flat = flat * p + moved[..., axis]
        squares.append(departure.flatten(1).gather(1, flat).sum(0).square().sum() - own)
    rolled = torch.stack(squares) / (prod(periods) * count * (count - 1))
    value = _unbiased_square(departure.flatten(1), torch.tensor(count))
    floor = signed_root(rolled.quantile(0.95)).item()
    slack = 1e-12 * departure.square().mean()  # a roll that changes nothing must count as reaching the value
    return floor, (1 + int((rolled >= value - slack).sum())) / (1 + DRAWS)


def phase_imbalance_floor(shape: tuple[int, ...], period: Period) -> float:
    """The plain imbalance that white noise of `shape` `[C *spatial]` has: T sqrt(2 / (C H W)) for two axes.

    Range: [0, inf); heavier-tailed noise has more.  Source: the variance of a mean of squares of normal values.

    Example:
        >>> round(phase_imbalance_floor((3, 224, 224), 32), 3)
        0.117
    """
    return (2 * prod(periods_of(period, len(shape) - 1)) / prod(shape)) ** 0.5


def phase_ratio(energy: Tensor) -> Tensor:
    """Largest over smallest phase energy of the mean over images: how many times its neighbour a pixel gets.

    Range: [1, inf]; inf where a phase gets nothing (a hole), 1 where all are even.
    Blind to: as `phase_energy`; it has no noise floor of its own: read it beside `set_imbalance_test`.

    Args:
        energy: `[N *T]`, from `phase_energy`.

    Returns:
        A scalar.

    Source: Odena et al. 2016, the "uneven overlap" factor (2 in one dimension, 4 in two, for kernel 3, stride 2).

    Example:
        >>> phase_ratio(torch.tensor([[[1.6, 0.8], [0.8, 0.8]]])).item()
        2.0
    """
    mean = energy.flatten(1).mean(0)
    return mean.max() / mean.min()


def _departures(x: Tensor, period: Period) -> tuple[Tensor, Tensor]:
    """`departures` of a signal that is still to be checked."""
    signal = as_signal(x)
    return departures(Views(signal).energy, periods_of(period, signal.ndim - 2))


def departures(energy: Tensor, periods: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Energy of each phase relative to its neighbourhood, minus 1: `[N B phases]`, and how many blocks have energy `[N]`.

    0 in a block without energy; one block of NaN where the image, whose energy is `[N 1 *spatial]`, is too small.
    """
    extents = energy.shape[2:]
    if not holds_two(extents, periods):
        nothing = energy.new_full((len(energy), 1, prod(periods)), float("nan"))
        return nothing, energy.new_ones(len(energy))
    blocks = energy.squeeze(1)
    for axis, (extent, p) in enumerate(zip(extents, periods, strict=True)):
        count = max(1, extent // neighbourhood(p))
        repeats = extent // p // count
        place = 1 + 2 * axis  # the axes before this one are a block and a phase each
        blocks = blocks.narrow(place, 0, count * repeats * p).unflatten(place, (count, repeats, p))
        blocks = blocks.mean(place + 1) if repeats > 1 else blocks.squeeze(place + 1)
    dimensions = len(periods)
    order = [0, *range(1, 2 * dimensions, 2), *range(2, 2 * dimensions + 1, 2)]
    phases = blocks.permute(order).flatten(1, dimensions).flatten(2)  # [N B phases]
    mean = phases.mean(-1, keepdim=True)
    held = (mean > 0).to(energy)
    return (phases / torch.where(mean > 0, mean, 1.0)).sub_(held), held.sum((1, 2))


def mean_energy(departure: Tensor, held: Tensor) -> Tensor:
    """The mean relative energy of the blocks that have energy `[N phases]`; 1 where none has."""
    return 1 + departure.sum(1) / held.clamp(min=1)[:, None]


def unbiased_square(departure: Tensor, held: Tensor) -> Tensor:
    """The unbiased squared imbalance `[N]` of relative energies; 0 without energy, NaN for too small an image."""
    return torch.where(held == 0, 0.0, _unbiased_square(departure, held))


def _unbiased_square(departure: Tensor, count: Tensor) -> Tensor:
    """Mean over phases of the unbiased square of the mean of `departure` `[... B phases]`; NaN if count is below 2."""
    own = torch.linalg.vector_norm(departure.flatten(-2), dim=-1).square()
    pairs = (departure.sum(-2).square().sum(-1) - own) / departure.shape[-1]
    few = count < 2
    value = pairs / torch.where(few, 1, count * (count - 1))
    return torch.where(few, float("nan"), value)
