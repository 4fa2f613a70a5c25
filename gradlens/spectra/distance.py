"""How far apart the mean spectra of two sets of images are, and how far apart chance alone would put them.

    P = mean over images of power / sum of power, without DC
    d = rms over frequencies of 10 log10(P_x + 1e-8 / bins) - 10 log10(P_y + 1e-8 / bins)   [dB]

A set enters as one normalised spectrum an image, so that images can change sides without being measured again.
Source: the log spectral distance of speech coding; its randomisation test is Fisher's, 1935.
"""

from math import comb

import torch
from torch import Tensor

from gradlens.spectra.power import power_spectrum
from gradlens.spectra.signal import as_signal, at_home, signed_root, unit_scale

DRAWS = 1000
LEAST_SPLITS = 20  # fewer different splits have no 95 % quantile
FLOOR = 1e-8  # of the power of all bins
TOGETHER = 100  # deals at once
SLACK = 1e-5  # of the distance: float32 rounds


def normalised_power(x: Tensor, *, size: int | None = None) -> Tensor:
    """The share that each frequency has of an image's power, DC left out: what `spectrum_distance_test` compares.

    Range: [0, 1], sum 1 for each image; all 0 for a constant image.
    Blind to: where the power is, overall contrast, brightness and colour.

    Args:
        x: `[N C *spatial]`, floating point, any unit; power is summed over channels.
        size: side of the Welch windows as in `power_spectrum`: images of different sizes become comparable.

    Returns:
        `[N *frequency]`, unshifted, 0 at DC.

    Raises:
        TypeError, ValueError: as `power_spectrum`.

    Source: ours; power by Welch 1967.

    Example:
        >>> normalised_power(torch.rand(2, 3, 48, 64), size=32).sum((1, 2)).round(decimals=9).tolist()
        [1.0, 1.0]
    """
    power = at_home(power_spectrum(unit_scale(as_signal(x)), size=size).sum(1), x)
    keep = torch.ones(power.shape[1:], dtype=power.dtype, device=power.device)
    keep.view(-1)[0] = 0
    power = power * keep
    total = power.flatten(1).sum(1).view(-1, *[1] * (power.ndim - 1))
    return power / torch.where(total > 0, total, 1.0)


def mean_level(power: Tensor) -> Tensor:
    """The mean over images of `normalised_power` `[N *frequency]` in dB: `[*frequency]`."""
    return _level(power.flatten(1).mean(0)).view(power.shape[1:])


def spectrum_distance_test(
    ours: Tensor, theirs: Tensor, *, paired: bool = False, seed: int = 0
) -> tuple[float, float, float]:
    """The spectrum distance of two sets, its noise floor, and the probability that sets of one kind reach it.

    All images are dealt at random into two sets of N and M (pairs: each pair changes sides or not), which destroys what
    tells the sets apart. The floor is the 95 % quantile over 1,000 seeded deals; p = (1 + #{dealt >= distance}) / 1001.

    Range: distance and floor [0, inf) dB; p in [1/1001, 1].
    Blind to: as `spectrum_distance`. Few images have few different deals: where those are below 20, floor and p are NaN.

    Args:
        ours: `[N *frequency]`, from `normalised_power`.
        theirs: `[M *frequency]`.
        paired: image i of both belongs together; N = M.
        seed: of the deals.

    Returns:
        (distance, floor, p_value).

    Raises:
        ValueError: a set is empty, their frequencies differ, or `paired` sets differ in number.

    Source: ours; a randomisation test (Fisher 1935).

    Example:
        >>> power = normalised_power(torch.rand(8, 1, 16, 16))
        >>> spectrum_distance_test(power, power)[0]
        0.0
    """
    n, m = len(ours), len(theirs)
    if not n or not m or ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(
            f"theirs: must have the frequencies of ours, and neither be empty, got {list(ours.shape)}, {list(theirs.shape)}"
        )
    if paired and n != m:
        raise ValueError(f"paired: needs as many images on both sides, got {n} and {m}")
    ours, theirs = ours.flatten(1), theirs.flatten(1)
    distance = _distance(ours.mean(0), theirs.mean(0)).item()
    splits = 2 ** (n - 1) if paired else comb(n + m, n) // (2 if n == m else 1)
    if splits < LEAST_SPLITS:
        return distance, float("nan"), float("nan")
    generator = torch.Generator().manual_seed(seed)
    everyone, total = torch.cat([ours, theirs]), ours.sum(0) + theirs.sum(0)
    dealt = []
    for _ in range(DRAWS // TOGETHER):
        sides = torch.stack([_deal(n, m, paired, generator) for _ in range(TOGETHER)]).to(everyone)
        first = sides @ everyone  # [deals bins]
        dealt.append(_distance(first / n, (total - first) / m))
    reached = torch.cat(dealt)
    slack = SLACK * max(distance, 1e-3)  # a deal that changes nothing must count as reaching the distance
    p_value = (1 + int((reached >= distance - slack).sum())) / (1 + DRAWS)
    return distance, reached.double().quantile(0.95).item(), p_value


def _deal(n: int, m: int, paired: bool, generator: torch.Generator) -> Tensor:
    """Which of the n + m images are on the first side, `[n + m]`."""
    if paired:
        stays = torch.rand(n, generator=generator) < 0.5
        return torch.cat([stays, ~stays])
    first = torch.zeros(n + m, dtype=torch.bool)
    first[torch.randperm(n + m, generator=generator)[:n]] = True
    return first


def _level(power: Tensor) -> Tensor:
    """Power of all bins, DC among them, `[... *frequency]` in dB; below 0 is rounding."""
    return 10 * torch.log10(power.clamp(min=0) + FLOOR / (power.shape[-1] - 1))


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """rms over all frequencies but DC, where both are at 0: `[...]`."""
    difference = _level(ours) - _level(theirs)
    return signed_root(difference.square().sum(-1) / (difference.shape[-1] - 1))
