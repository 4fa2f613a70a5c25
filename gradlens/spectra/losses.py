"""Losses that pull on a spectrum. Published spectral regularisers detach the image and rescale another loss's gradient;
these have a spectral gradient of their own, proved by `gradcheck` in the tests.
"""

from torch import Tensor

from gradlens.spectra.distance import mean_level, normalised_power
from gradlens.spectra.lattice import lattice_energy, lattice_share_floor
from gradlens.spectra.signal import Period, as_signal, at_home, holds_two, periods_of, signed_root, unit_scale


def lattice_loss(x: Tensor, period: Period) -> Tensor:
    """A differentiable scalar that grows with the lattice: mean over images of log(1 + share / floor).

    The share is `lattice_share(new=True)`, the floor what white noise has.

    Range: [0, log(1 + 1 / floor)]; white noise reads about log 2, no lattice 0.
    Blind to: as `lattice_share(kind="signed")`.

    Args:
        x: `[N C *spatial]`, floating point, any unit.
        period: T in pixels, one for all axes or one for each.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: `x` is no finite `[N C *spatial]`, holds fewer than two periods, or `period` is out of
            range.

    Source: ours.

    Example:
        >>> import torch
        >>> lattice_loss(torch.ones(1, 3, 8, 8), 2).item()
        0.0
    """
    signal = as_signal(x)
    periods = periods_of(period, signal.ndim - 2)
    size = tuple(signal.shape[2:])
    if not holds_two(size, periods):
        raise ValueError(f"x: each side must be at least two periods of {period}, got {' x '.join(map(str, size))}")
    on, total = lattice_energy(unit_scale(signal), periods, new=True)
    return at_home((on / (total + 1e-12) / lattice_share_floor(size, periods, new=True)).log1p().mean(), x)


def spectrum_distance(x: Tensor, y: Tensor) -> Tensor:
    """A differentiable scalar: how far apart the mean spectra of two sets of images are, in dB.

    With P the mean over images of the Hann-windowed power without DC, summed over channels and normalised to sum 1,
    the rms over frequencies of 10 log10(P_x + 1e-8 / bins) - 10 log10(P_y + 1e-8 / bins).

    Range: [0, inf); 0 for equal spectra.
    Blind to: phase, overall contrast, brightness and colour.

    Args:
        x: `[N C *spatial]`, floating point.
        y: `[M C *spatial]`, floating point, of the same channels and size.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: either is no finite `[N C *spatial]`, or their channels or sizes differ.

    Source: ours; the log spectral distance of speech coding.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3, 32, 32)
        >>> spectrum_distance(x, x).item()
        0.0
    """
    ours, theirs = as_signal(x, name="x"), as_signal(y, name="y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"y: must have the channels and size of x, {list(x.shape[1:])}, got {list(y.shape[1:])}")
    difference = (mean_level(normalised_power(ours)) - mean_level(normalised_power(theirs))).flatten()[1:]
    return at_home(signed_root(difference.square().mean()), x)
