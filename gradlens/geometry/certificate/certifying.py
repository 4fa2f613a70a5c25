"""`certify`: the statements that apply to a module, measured and read, and what to say about them."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite, nan, prod
from typing import get_args

import torch
from torch import nn

from gradlens.geometry.certificate.backward import gradients
from gradlens.geometry.certificate.forward import responses
from gradlens.geometry.certificate.shifts import accumulated_strides
from gradlens.geometry.certificate.specimen import check_size, in_float64
from gradlens.geometry.certificate.verdicts import Certificate, Direction, Row, certificate, overall
from gradlens.geometry.certificate.weights import weight_rows
from gradlens.geometry.certificate.words import words
from gradlens.modules import undisturbed

LARGEST = 2**14  # values of an input that is tried because the given one was too small


def certify(
    module: nn.Module,
    input_size: Sequence[int],
    *,
    direction: Direction = "forward",
    levels: Sequence[float] = (0.5, 1.0, 2.0),
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Certificate:
    """Whether the steady state of a module, or the gradient that it passes back, is free of periods: a `Certificate`.

    Forward, its output for constants must be constant far from the border. Read from the weights where the module is a
    layer or an `nn.Sequential` of known linear layers: all polyphase filters have one DC, R_1 = ... = R_U (eq. 8), and one
    bias (eq. 9). Measured of any module: f_1(K v) = ... = f_U(K v) (eq. 7) for 8 random vectors v in [-1, 1]^C and their
    negatives at each level K (eq. 10: through a ReLU, one K proves nothing for another). Backward, the vector-Jacobian
    product makes two statements: "signed", the DC of the gradient's polyphase filters, and "energy", their squared taps. A
    kernel smaller than its stride leaves holes and fails by overlap alone.

    The deviation at a period is max over phases |r - mean| / max(|mean|, rms of r over the vectors), of the harmonics that
    no smaller period has. Periods tested are the divisors of the accumulated stride, which is found by shifting a patch.

    Range: deviation >= 0; a tap that differs by 1 % is about 0.01.
    Blind to: what a module makes of edges (an even kernel may still ring), and, where the gradient depends on the data,
        deviations below the column `floor`.

    Args:
        module: takes `[N C *spatial]` and returns one such tensor, with 1, 2 or 3 spatial axes. It is examined as a copy in
            float64 and eval mode; left as it was found.
        input_size: `[C *spatial]` of one image, without the batch. It needs to hold the receptive field twice.
        direction: "forward" for what it writes, "backward" for the gradient it hands to its input.
        levels: the K of equation 10; backward, random inputs are uniform in [-K, K].
        tolerance: the largest deviation that passes; taps of float32 that should have one sum have it to 1e-7.
        seed: of vectors and random inputs.

    Returns:
        A `Certificate`; its table has a row for each statement, method, period and level.

    Raises:
        ValueError: the module does not run at this size (a size that would do is named), returns no tensor with the spatial
            axes of its input, or an argument is out of its range.

    Source: Sugawara, Shiota, Kiya 2018, eq. 7 to 10; the gradient's statements are ours, after Kinoshita, Kiya 2020.

    Example:
        >>> layer = nn.ConvTranspose2d(1, 1, 3, stride=2)
        >>> found = certify(layer, (1, 16, 16))
        >>> found.verdict, found.periods, found.passed
        ('fail', (2,), False)
        >>> certify(nn.Upsample(scale_factor=2), (1, 16, 16)).verdict
        'pass'
    """
    size = check_size(input_size)
    _check(module, direction, levels, tolerance)
    with undisturbed(module):
        specimen = in_float64(module)
        ask = partial(_rows, specimen, direction=direction, tolerance=tolerance, seed=seed)
        rows = ask(size, levels)
        larger = _decidable(ask, size, levels) if overall(rows) == "not decidable" else None
    name = type(module).__name__
    return certificate(direction, rows, words(name, direction, rows, size, larger))


def _check(module: nn.Module, direction: str, levels: Sequence[float], tolerance: float) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: must be an nn.Module, got {type(module).__name__}")
    if direction not in get_args(Direction):
        raise ValueError(f'direction: must be "forward" or "backward", got {direction!r}')
    if not levels or not all(0 < level < inf for level in levels):
        raise ValueError(f"levels: must be numbers above 0, at least one, got {levels!r}")
    if not (isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance: must be above 0, got {tolerance!r}")


def _rows(
    specimen: nn.Module,
    size: tuple[int, ...],
    levels: Sequence[float],
    *,
    direction: Direction,
    tolerance: float,
    seed: int,
) -> list[Row]:
    """What the weights say, then what is measured."""
    generator = torch.Generator().manual_seed(seed)
    read = weight_rows(specimen, size, direction, tolerance)
    found = accumulated_strides(specimen, size, generator)
    shifts = [pair for pair in found if pair is not None]
    if len(shifts) < len(found):
        statements = ("response",) if direction == "forward" else ("signed", "energy")
        return read + [Row(s, "measurement", "", 0, nan, nan, nan, "not decidable") for s in statements]
    inputs, outputs = zip(*shifts, strict=True)
    if direction == "forward":
        return read + responses(specimen, size, levels, outputs, generator, tolerance)
    return read + gradients(specimen, size, levels, inputs, outputs, generator, tolerance)


def _decidable(
    ask: Callable[[tuple[int, ...], Sequence[float]], list[Row]], size: tuple[int, ...], levels: Sequence[float]
) -> tuple[int, ...] | None:
    """An input size, two to eight times as large, at which a verdict is found."""
    for factor in (2, 4, 8):
        larger = (size[0], *(factor * side for side in size[1:]))
        if prod(larger) > LARGEST:
            return None
        try:
            rows = ask(larger, levels[:1])
        except ValueError:  # it does not run there
            continue
        if overall(rows) != "not decidable":
            return larger
    return None
