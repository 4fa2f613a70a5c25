"""The measures of `gradlens.spectra` once more, from their definitions: numpy, float64, one image, plain loops.

An image is `[C *spatial]`, a set of images `[N C *spatial]`. Nothing here is fast and nothing is shared with the
package; the tests compare the two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Bin = tuple[int, ...]
DECIBEL = 10 / math.log(10)


def every(extent: Sequence[int]) -> Iterator[Bin]:
    """All index tuples of an array of shape `extent`."""
    return itertools.product(*(range(side) for side in extent))


# Windows and power


def window_lengths(size: Sequence[int], periods: Bin, window: int) -> Bin | None:
    """Side of the windows along each axis; None if fewer than four periods fit on a tested one."""
    lengths = []
    for side, period in zip(size, periods, strict=True):
        if period == 1:
            lengths.append(min(window, side))
            continue
        wanted = window // period * period
        if wanted < 4 * period:
            wanted = 4 * period
        length = min(wanted, side // period * period)
        if length < 4 * period:
            return None
        lengths.append(length)
    return tuple(lengths)


def window_starts(size: int, length: int) -> list[int]:
    """First pixels of windows that overlap by about half and reach both borders."""
    room = size - length
    if room == 0:
        return [0]
    steps = math.ceil(room / max(length // 2, 1))
    return [round(room * i / steps) for i in range(steps + 1)]


def hann(length: int) -> Array:
    """Periodic Hann; a length of 1 or 2 has no taper."""
    if length <= 2:
        return np.ones(length)
    return np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / length) for n in range(length)])


def taper(lengths: Bin, window: str = "hann") -> Array:
    """The product of one taper an axis."""
    product = np.ones(lengths)
    if window == "hann":
        for at in every(lengths):
            product[at] = math.prod(hann(side)[n] for side, n in zip(lengths, at, strict=True))
    return product


def windows(image: Array, lengths: Bin) -> Iterator[tuple[Bin, Array]]:
    """First pixel and content `[C *lengths]` of every window."""
    starts = [window_starts(size, length) for size, length in zip(image.shape[1:], lengths, strict=True)]
    for start in itertools.product(*starts):
        yield start, image[(slice(None), *(slice(s, s + n) for s, n in zip(start, lengths, strict=True)))]


def transform(content: Array, window: Array) -> NDArray[np.complex128]:
    """Fourier transform of each tapered channel without its mean."""
    return np.array([np.fft.fftn(window * (channel - channel.mean())) for channel in content])


def power_spectrum(image: Array, *, window: str = "hann", size: int | None = None) -> Array:
    """Mean over windows of |F|^2 / sum of squared taper, each channel: `[C *frequency]`."""
    lengths = tuple(side if size is None else min(side, size) for side in image.shape[1:])
    weight = taper(lengths, window)
    every_window = [abs(transform(content, weight)) ** 2 for _, content in windows(image, lengths)]
    return sum(every_window) / len(every_window) / (weight**2).sum()


@dataclass(frozen=True)
class Spectrum:
    """Power and squared, demodulated transform of one image on every bin, over channels and windows."""

    power: Array
    square: NDArray[np.complex128]


def spectrum(image: Array, lengths: Bin, only: int | None = None) -> Spectrum:
    """P = mean |F|^2 and Q = mean F^2 exp(-4 pi i k p / L), p the window's first pixel; of one window if `only`."""
    weight = taper(lengths)
    chosen = list(windows(image, lengths))
    chosen = chosen if only is None else [chosen[only]]
    power, square = np.zeros(lengths), np.zeros(lengths, complex)
    for start, content in chosen:
        f = transform(content, weight)
        turn = np.zeros(lengths)
        for k in every(lengths):
            turn[k] = sum(a * p / n for a, p, n in zip(k, start, lengths, strict=True))
        power += (abs(f) ** 2).sum(0) / len(chosen)
        square += (f**2).sum(0) * np.exp(-4j * math.pi * turn) / len(chosen)
    return Spectrum(power, square)


# Envelope


def neighbourhood(period: int) -> int:
    """Smallest multiple of the period that is at least 16."""
    side = period
    while side < 16:
        side += period
    return side


def taps(side: int) -> dict[int, float]:
    """Offset and weight of a centred mean over `side` pixels; an even side has half weight at both ends."""
    if side % 2:
        return dict.fromkeys(range(-(side // 2), side // 2 + 1), 1 / side)
    return {offset: (0.5 if abs(offset) == side // 2 else 1) / side for offset in range(-(side // 2), side // 2 + 1)}


def reflect(n: int, size: int) -> int:
    """Index inside an image that continues as its mirror, without repeating the border pixel."""
    while not 0 <= n < size:
        if size == 1:
            return 0
        n = -n if n < 0 else 2 * (size - 1) - n
    return n


def envelope(image: Array, periods: Bin) -> Array:
    """Energy over the mean energy of the surrounding square, `[1 *spatial]`; 0/0 is 0."""
    energy = (image**2).sum(0)
    local = energy
    for axis, period in enumerate(periods):
        size = energy.shape[axis]
        mean = np.zeros_like(local)
        for n in range(size):
            for offset, weight in taps(neighbourhood(period)).items():
                here = (slice(None),) * axis
                mean[(*here, n)] += weight * local[(*here, reflect(n + offset, size))]
        local = mean
    ratio = np.zeros_like(energy)
    for at in every(energy.shape):
        ratio[at] = energy[at] / local[at] if local[at] > 0 else 0.0
    return ratio[None]


def seen(image: Array, kind: str, periods: Bin) -> Array:
    """The signal, or its envelope as one channel."""
    return image if kind == "signed" else envelope(image, periods)


# Lattice, rings, null bins


def new_harmonics(periods: Bin) -> list[Bin]:
    """(k, l, ...) with gcd(k, l, ..., g) = 1, g the gcd of the periods above 1; never DC."""
    g = math.gcd(*(period for period in periods if period > 1))
    return [k for k in every(periods) if any(k) and math.gcd(*k, g) == 1]


def one_of_each_pair(bins: list[Bin], lengths: Bin) -> list[Bin]:
    """Without the bins whose conjugate comes earlier."""
    kept: list[Bin] = []
    for k in bins:
        if tuple((-a) % n for a, n in zip(k, lengths, strict=True)) not in kept:
            kept.append(k)
    return kept


def to_lattice(k: Bin, lengths: Bin, periods: Sequence[int]) -> float:
    """Chebyshev distance, in bins around the circle, from the nearest of the bins j L / T."""
    distances = []
    for a, length, period in zip(k, lengths, periods, strict=True):
        spacing = length / period
        distances.append(min(a % spacing, spacing - a % spacing))
    return max(distances)


def folded(k: Bin, lengths: Bin) -> Bin:
    """Distance of each coordinate from 0 around the circle."""
    return tuple(min(a % n, -a % n) for a, n in zip(k, lengths, strict=True))


def ring(k: Bin, lengths: Bin, periods: Bin, axes: Bin) -> list[Bin]:
    """Offsets from bin k to the bins its background is fitted on, within the subspace of `axes`.

    Where a window is shorter than the ring is wide, a bin counts once for each way round the circle.
    """
    reach = 6 if len(axes) == 1 else 4
    steps = [range(-reach, reach + 1) if axis in axes else range(1) for axis in range(len(k))]
    offsets = []
    for offset in itertools.product(*steps):
        there = tuple((a + o) % n for a, o, n in zip(k, offset, lengths, strict=True))
        away = max(abs(o) for o in offset)
        clear = to_lattice(there, lengths, periods) >= 2
        off_axes = len(axes) == 1 or all(folded(there, lengths)[axis] >= 2 for axis in axes)
        if away >= 2 and clear and off_axes:
            offsets.append(offset)
    return offsets


def background_weights(offsets: list[Bin], axes: Bin) -> Array:
    """Weights of the least-squares quadratic's value at offset 0; with too few points a plane's, then the mean's."""
    constant = [[1.0] for _ in offsets]
    plane = [row + [float(o[a]) for a in axes] for row, o in zip(constant, offsets, strict=True)]
    pairs = list(itertools.combinations_with_replacement(axes, 2))
    quadratic = [row + [float(o[a] * o[b]) for a, b in pairs] for row, o in zip(plane, offsets, strict=True)]
    for rows in (quadratic, plane, constant):
        if len(rows) >= len(rows[0]):
            return np.linalg.pinv(np.array(rows), rcond=1e-10)[0]
    raise AssertionError("an empty ring")


def null_bins(lengths: Bin, periods: Bin, axes: Bin, also: tuple[Bin, ...]) -> list[Bin]:
    """One of each pair of the bins that a harmonic on `axes` is matched with."""
    spacing = [length / period for length, period in zip(lengths, periods, strict=True) if period > 1]
    lattices = [periods, (2,) * len(lengths)]
    for other in also:
        if all(length / period >= 4 for length, period in zip(lengths, other, strict=True)):
            lattices.append(other)
    bins = [
        k
        for k in every(lengths)
        if all(folded(k, lengths)[axis] >= 2 for axis in axes)
        and all(to_lattice(k, lengths, lattice) >= 2 for lattice in lattices)
        and math.hypot(*folded(k, lengths)) >= min(spacing) / 2
    ]
    return one_of_each_pair(bins, lengths)


@dataclass(frozen=True)
class Fit:
    """A bin with the bins and weights of its background."""

    at: Bin
    ring: tuple[Bin, ...]
    weights: tuple[float, ...]

    def background(self, log_power: Array) -> float:
        return sum(w * float(log_power[k]) for w, k in zip(self.weights, self.ring, strict=True))


def fit(k: Bin, lengths: Bin, periods: Bin, axes: Bin) -> Fit | None:
    """The background of bin k, None where it has no ring."""
    offsets = ring(k, lengths, periods, axes)
    if not offsets:
        return None
    bins = [tuple((a + o) % n for a, o, n in zip(k, offset, lengths, strict=True)) for offset in offsets]
    return Fit(k, tuple(bins), tuple(background_weights(offsets, axes)))


@cache
def null_fits(lengths: Bin, periods: Bin, axes: Bin, also: tuple[Bin, ...]) -> tuple[Fit, ...]:
    """The null bins that have a background."""
    fits = (fit(k, lengths, periods, axes) for k in null_bins(lengths, periods, axes, also))
    return tuple(found for found in fits if found is not None)


# What is known of a spectrum without a lattice


@cache
def shape_and_law(k: Bin, lengths: Bin, box: Bin | None) -> tuple[float, float]:
    """log of |1 - D|^2 and, by half the ratio of the two, the power law, each as a Hann window shows it at bin k."""
    shares = [{0: 1.0} if n <= 2 else {-1: 1 / 6, 0: 4 / 6, 1: 1 / 6} for n in lengths]
    flat = steep = 0.0
    for step in itertools.product(*shares):
        part = math.prod(share[o] for share, o in zip(shares, step, strict=True))
        frequency = [(a + o) % n / n for a, o, n in zip(k, step, lengths, strict=True)]
        square = max(sum(math.sin(math.pi * f) ** 2 for f in frequency), (math.pi / max(lengths)) ** 2)
        gain = 1.0
        if box is not None:
            mean = 1.0
            for f, side in zip(frequency, box, strict=True):
                mean *= sum(weight * math.cos(2 * math.pi * f * place) for place, weight in taps(side).items())
            gain = (1 - mean) ** 2
        flat += part * gain
        steep += part * gain / square
    flat, steep = (math.log(max(level, 1e-9)) for level in (flat, steep))
    return flat, (flat - steep) / 2


def trend(log_power: Array, fits: set[Bin], lengths: Bin, box: Bin | None) -> Array:
    """Shape and power law that fit the log power at the bins `fits`, each weighted by 1 / |f|^D."""
    known = {k: shape_and_law(k, lengths, box) for k in every(lengths)}
    law = np.array([known[k][1] for k in fits])
    level = np.array([log_power[k] - known[k][0] for k in fits])
    steepness = 0.0
    if np.ptp(law) > 0:
        steepness = np.polyfit(law, level, 1, w=np.exp(-len(lengths) * law / 2))[0]
    return np.array([shape + steepness * power for shape, power in known.values()]).reshape(lengths)


# Contrast


@dataclass(frozen=True)
class Line:
    """One harmonic: its excess over the background, the null excesses it is judged by, and what it shares them with."""

    harmonic: Bin
    excess: float
    pool: Array
    group: tuple[Bin, bool]
    at: Bin
    null: tuple[Bin, ...]

    @property
    def contrast(self) -> float:
        return DECIBEL * (self.excess - float(self.pool.mean()))


def axes_of(harmonic: Bin) -> Bin:
    return tuple(axis for axis, k in enumerate(harmonic) if k)


def lines_of(
    seen_as: Spectrum, lengths: Bin, periods: Bin, also: tuple[Bin, ...] = (), box: Bin | None = None
) -> list[Line]:
    """Every new harmonic, one of each conjugate pair."""
    half = seen_as.power[..., : lengths[-1] // 2 + 1]
    floor = 1e-12 * half.mean() if half.any() else 1.0
    power = seen_as.power + floor
    harmonics = one_of_each_pair(new_harmonics(periods), periods)
    pools = {axes: null_fits(lengths, periods, axes, also) for axes in map(axes_of, harmonics)}
    fits = {k for axes in pools for k in null_bins(lengths, periods, axes, also)}
    known = trend(np.log(power), fits, lengths, box) if half.any() else np.zeros(lengths)
    log_power = np.log(power) - known
    lines = []
    for harmonic in harmonics:
        axes = axes_of(harmonic)
        real = all(2 * k in (0, period) for k, period in zip(harmonic, periods, strict=True))
        at = tuple(k * n // period for k, n, period in zip(harmonic, lengths, periods, strict=True))
        found = fit(at, lengths, periods, axes)
        assert found is not None, (harmonic, lengths)
        pool = []
        for null in pools[axes]:
            level = null.background(log_power) + known[null.at]
            if real:
                part = seen_as.square[null.at].real
                pool += [math.log(power[null.at] + part) - level, math.log(power[null.at] - part) - level]
            else:
                pool.append(math.log(power[null.at]) - level)
        excess = float(log_power[at]) - found.background(log_power)
        lines.append(Line(harmonic, excess, np.array(pool), (axes, real), at, tuple(null.at for null in pools[axes])))
    return lines


def box_of(kind: str, periods: Bin) -> Bin | None:
    """The square that an envelope is relative to."""
    return tuple(map(neighbourhood, periods)) if kind == "envelope" else None


def lattice_contrast(
    image: Array, periods: Bin, *, kind: str = "signed", window: int = 32, also: tuple[Bin, ...] = ()
) -> float:
    """Mean over the new harmonics of excess minus mean null excess, in dB."""
    lengths = window_lengths(image.shape[1:], periods, window)
    if lengths is None:
        return math.nan
    lines = lines_of(spectrum(seen(image, kind, periods), lengths), lengths, periods, also, box_of(kind, periods))
    return sum(line.contrast for line in lines) / len(lines)


def lattice_lines(image: Array, periods: Bin, *, kind: str = "signed", window: int = 32) -> Array:
    """`[T T]`, dB: each new harmonic and its conjugate."""
    table = np.full(periods, np.nan)
    lengths = window_lengths(image.shape[1:], periods, window)
    if lengths is not None:
        seen_as = spectrum(seen(image, kind, periods), lengths)
        for line in lines_of(seen_as, lengths, periods, box=box_of(kind, periods)):
            table[line.harmonic] = line.contrast
            table[tuple(-k % period for k, period in zip(line.harmonic, periods, strict=True))] = line.contrast
    return table


def lattice_map(image: Array, periods: Bin, *, kind: str = "signed", window: int = 32) -> Array:
    """`[h w]`, dB: the contrast of each window by itself."""
    lengths = window_lengths(image.shape[1:], periods, window)
    if lengths is None:
        return np.full((1,) * len(periods), np.nan)
    signal = seen(image, kind, periods)
    steps = [len(window_starts(size, length)) for size, length in zip(image.shape[1:], lengths, strict=True)]
    table = np.zeros(steps)
    for number, at in enumerate(every(steps)):
        lines = lines_of(spectrum(signal, lengths, only=number), lengths, periods, box=box_of(kind, periods))
        table[at] = sum(line.contrast for line in lines) / len(lines)
    return table


def surplus(lines: list[Line], lengths: Bin) -> float:
    """Variance of the summed excess that rows of harmonics owe to what null bins of one row have in common."""
    total = 0.0
    for group in {line.group for line in lines}:
        members = [line for line in lines if line.group == group]
        axes, real = group
        if len(axes) < 2 or real:  # a real harmonic is alone in its row
            continue
        deviation = members[0].pool - members[0].pool.mean()
        for axis in axes:
            places = [
                np.array([folded(k, lengths)[axis] for k in bins])
                for bins in (members[0].null, [m.at for m in members])
            ]
            same, pairs = (p[:, None] == p for p in places)
            np.fill_diagonal(same, False)
            np.fill_diagonal(pairs, False)
            if same.any():
                total += float(np.outer(deviation, deviation)[same].mean()) * int(pairs.sum())
    return max(total, 0.0)


def lattice_p_value(
    image: Array,
    periods: Bin,
    *,
    kind: str = "signed",
    window: int = 32,
    also: tuple[Bin, ...] = (),
    stretch: float,
    draws: int = 20_000,
) -> float:
    """Share of means of resampled null deviations, widened by `stretch` and `surplus`, that reach the contrast."""
    lengths = window_lengths(image.shape[1:], periods, window)
    if lengths is None:
        return math.nan
    lines = lines_of(spectrum(seen(image, kind, periods), lengths), lengths, periods, also, box_of(kind, periods))
    statistic = sum(line.excess - line.pool.mean() for line in lines) / len(lines)
    generator = np.random.default_rng(0)
    drawn = np.zeros(draws)
    for line in lines:
        drawn += generator.choice(line.pool - line.pool.mean(), draws) / len(lines)
    widening = math.sqrt(stretch**2 + surplus(lines, lengths) / sum(line.pool.var() for line in lines))
    return (1 + int((widening * drawn >= statistic).sum())) / (draws + 1)


# Share


def lattice_bins(size: Sequence[int], periods: Bin, *, new: bool) -> list[Bin]:
    """The lattice without DC on the grid of a transform of `size`, multiples of the periods."""
    harmonics = new_harmonics(periods) if new else [k for k in every(periods) if any(k)]
    return [tuple(a * n // t for a, n, t in zip(k, size, periods, strict=True)) for k in harmonics]


def whole_periods(image: Array, periods: Bin) -> Array:
    """The image cut at the end to whole periods."""
    return image[(slice(None), *(slice(n // t * t) for n, t in zip(image.shape[1:], periods, strict=True)))]


def lattice_share(image: Array, periods: Bin, *, kind: str = "signed", new: bool = False) -> float:
    """Energy on the lattice over all energy, without DC, by the Fourier transform of the whole image."""
    if any(n < 2 * t for n, t in zip(image.shape[1:], periods, strict=True) if t > 1):
        return math.nan
    signal = whole_periods(seen(image, kind, periods), periods)
    power = (abs(np.array([np.fft.fftn(channel - channel.mean()) for channel in signal])) ** 2).sum(0)
    power[(0,) * len(periods)] = 0
    if not power.any():
        return 0.0
    return sum(float(power[k]) for k in lattice_bins(signal.shape[1:], periods, new=new)) / float(power.sum())


def notch(image: Array, periods: Sequence[Bin]) -> Array:
    """The image with every bin of the lattices but DC set to zero; its sides are multiples of the periods."""
    f = np.array([np.fft.fftn(channel) for channel in image])
    for lattice in periods:
        for k in lattice_bins(image.shape[1:], lattice, new=False):
            f[(slice(None), *k)] = 0
    return np.array([np.fft.ifftn(channel).real for channel in f])


def lattice_loss(images: Array, periods: Bin) -> float:
    """Mean over images of log(1 + share / floor), new harmonics."""
    total = 0.0
    for image in images:
        size = whole_periods(image, periods).shape[1:]
        floor = len(new_harmonics(periods)) / (math.prod(size) - 1)
        total += math.log(1 + lattice_share(image, periods, new=True) / floor)
    return total / len(images)


# Phases


def relative_energies(image: Array, periods: Bin) -> list[Array]:
    """`[*T]` of each neighbourhood with energy: mean energy of each phase over that of the neighbourhood."""
    energy = (image**2).sum(0)
    counts = [max(1, n // neighbourhood(t)) for n, t in zip(energy.shape, periods, strict=True)]
    repeats = [n // t // c for n, t, c in zip(energy.shape, periods, counts, strict=True)]
    found = []
    for block in every(counts):
        phases = np.zeros(periods)
        for repeat in every(repeats):
            for phase in every(periods):
                pixel = tuple(
                    (b * r + i) * t + p for b, r, i, t, p in zip(block, repeats, repeat, periods, phase, strict=True)
                )
                phases[phase] += energy[pixel]
        if phases.sum() > 0:
            found.append(phases / phases.mean())
    return found


def holds_two_periods(image: Array, periods: Bin) -> bool:
    """Two whole periods on every tested axis."""
    return all(n >= 2 * t for n, t in zip(image.shape[1:], periods, strict=True) if t > 1)


def phase_energy(image: Array, periods: Bin) -> Array:
    """Mean over the neighbourhoods of their relative energies; 1 without any energy."""
    if not holds_two_periods(image, periods):
        return np.full(periods, np.nan)
    blocks = relative_energies(image, periods)
    return sum(blocks) / len(blocks) if blocks else np.ones(periods)


def debiased(relative: list[Array]) -> float:
    """sign(v) sqrt(|v|) with v the mean over phases of ((sum d)^2 - sum d^2) / (B (B - 1))."""
    count = len(relative)
    if count < 2:
        return math.nan
    values = []
    for phase in every(relative[0].shape):
        d = [float(energy[phase]) - 1 for energy in relative]
        values.append((sum(d) ** 2 - sum(e**2 for e in d)) / (count * (count - 1)))
    v = sum(values) / len(values)
    return math.copysign(math.sqrt(abs(v)), v)


def phase_imbalance(image: Array, periods: Bin, *, debias: bool = True) -> float:
    """Coefficient of variation over phases, plain or debiased; 0 for an image without energy."""
    if not holds_two_periods(image, periods):
        return math.nan
    if not image.any():
        return 0.0
    if debias:
        return debiased(relative_energies(image, periods))
    energy = phase_energy(image, periods)
    return float(energy.std() / energy.mean())


def set_imbalance(energies: Array) -> float:
    """The debiased imbalance with images in place of neighbourhoods, `[N *T]`."""
    return debiased(list(energies))


# Comparisons


def radial_profile(image: Array, *, bins: int | None = None, window: str = "hann") -> tuple[Array, Array]:
    """Centre frequency of each ring up to 0.5 cycles per pixel and mean power in it, summed over channels."""
    power = power_spectrum(image, window=window).sum(0)
    count = min(power.shape) // 2 if bins is None else bins
    rings: list[list[float]] = [[] for _ in range(count)]
    for k in every(power.shape):
        radius = math.hypot(*(a / n for a, n in zip(folded(k, power.shape), power.shape, strict=True)))
        if radius <= 0.5:
            rings[min(int(radius * 2 * count), count - 1)].append(float(power[k]))
    centres = np.array([(i + 0.5) / (2 * count) for i in range(count)])
    return centres, np.array([sum(ring) / len(ring) if ring else np.nan for ring in rings])


def mean_spectrum(images: Array) -> Array:
    """Mean over images of the Hann-windowed power of all bins but DC, each image's normalised to sum 1."""
    total = 0.0
    for image in images:
        power = power_spectrum(image).sum(0).flatten()[1:]
        total = total + power / power.sum()
    return total / len(images)


def spectrum_distance(x: Array, y: Array) -> float:
    """Rms over frequencies of the difference of 10 log10(power + 1e-8 / bins)."""
    p, q = mean_spectrum(x), mean_spectrum(y)
    decibels = [[10 * math.log10(power + 1e-8 / len(side)) for power in side] for side in (p, q)]
    difference = [a - b for a, b in zip(*decibels, strict=True)]
    return math.sqrt(sum(d**2 for d in difference) / len(difference))


# Gradients and compare


def finite_differences(score: Callable[[Array], float], image: Array, step: float = 1e-5) -> Array:
    """Central differences of `score`, pixel by pixel."""
    gradient = np.zeros_like(image)
    for at in every(image.shape):
        ahead, behind = image.copy(), image.copy()
        ahead[at] += step
        behind[at] -= step
        gradient[at] = (score(ahead) - score(behind)) / (2 * step)
    return gradient


def expanded_tail(n: int) -> float:
    """Hesterberg 2015, section 4.4: the tail of the percentile interval widened to a t interval's width, 95 %."""
    return float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)))


def bootstrap_samples(n: int, resamples: int) -> list[list[int]]:
    """Images drawn with replacement, one list a resample, in the draws of a seeded generator."""
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    return [[image for image in range(n) for _ in range(row[image])] for row in counts]


def mean_interval(values: Array, resamples: int = 4000) -> tuple[float, float]:
    """Resampled means, their distances from the mean stretched, between the percentiles of a t distribution's tails."""
    n = len(values)
    mean = sum(values) / n
    means = [sum(float(values[i]) for i in sample) / n for sample in bootstrap_samples(n, resamples)]
    stretched = [mean + math.sqrt(n / (n - 1)) * (other - mean) for other in means]
    tail = float(stats.norm.cdf(-stats.t.ppf(0.975, n - 1)))
    return float(np.quantile(stretched, tail)), float(np.quantile(stretched, 1 - tail))


def difference_interval(ours: Array, theirs: Array, resamples: int = 20_000) -> tuple[float, float]:
    """The bootstrap interval of the difference of two means: each side resampled by itself, with other draws than ours."""
    generator = np.random.default_rng(12345)
    sides = []
    for values in (ours, theirs):
        n = len(values)
        means = np.array([values[generator.integers(n, size=n)].mean() for _ in range(resamples)])
        sides.append(values.mean() + math.sqrt(n / (n - 1)) * (means - values.mean()))
    a, b = (sum((v - v.mean()) ** 2) / (len(v) - 1) / len(v) for v in (ours, theirs))
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    tail = stats.norm.cdf(stats.t.ppf(0.025, freedom))
    low, high = np.quantile(sides[0] - sides[1], [tail, 1 - tail])
    return float(low), float(high)


def imbalance_interval(energies: Array, resamples: int = 4000) -> tuple[float, float]:
    """The same of `set_imbalance`, `[N *T]`: in each resample the mean over pairs of two distinct images."""
    n = len(energies)
    departure = energies.reshape(n, -1) - 1
    resampled = []
    for sample in bootstrap_samples(n, resamples):
        total, pairs = 0.0, 0
        for i, j in itertools.product(range(n), repeat=2):
            if sample[i] != sample[j]:
                total += float((departure[sample[i]] * departure[sample[j]]).mean())
                pairs += 1
        if pairs:
            resampled.append(math.copysign(math.sqrt(abs(total / pairs)), total))
    tail = expanded_tail(n)
    return float(np.quantile(resampled, tail)), float(np.quantile(resampled, 1 - tail))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p: the smallest over all q not below p of q m / rank(q), at most 1."""
    m = len(p_values)
    adjusted = []
    for p in p_values:
        above = [q * m / sum(r <= q for r in p_values) for q in p_values if q >= p]
        adjusted.append(min(1.0, *above))
    return adjusted
