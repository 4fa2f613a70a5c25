"""The gradient that a module hands to its input (a vector-Jacobian product): evenly to all phases, or not.

Two statements. Signed: the DC of the polyphase filters of the gradient, that is what a constant gradient of the output
becomes. Energy: the squared taps of each phase, that is what a gradient of independent signs becomes. Of a linear module both
are exact, from the gradients of single output positions. A module whose gradient depends on its data (max-pooling, ReLU) is
asked at random inputs, never at a constant, where a max-pool's ties would send everything to one phase; then both are means
over draws, and a deviation counts where it is larger than all that balanced random signs of the draws make.
"""

from collections.abc import Sequence
from itertools import product
from math import nan, prod

import torch
from torch import Tensor, nn

from gradlens.geometry.certificate.forward import TINY, VECTORS, response_scale
from gradlens.geometry.certificate.phases import fold, periods_of, unevenness
from gradlens.geometry.certificate.specimen import ROOM, answered, device_of
from gradlens.geometry.certificate.verdicts import Row, judged

DRAWS = 32
FLIPS = 1000
CHANNELS = 64  # output channels whose gradients are taken one by one, at most
FAINT = 1e-3  # of the largest gradient of one output position: beyond it the rest of its receptive field is left out
EQUAL = 1e-10  # of the largest gradient: what float64 leaves


def gradients(
    specimen: nn.Module, size: Sequence[int], levels: Sequence[float], strides: Sequence[int], moves: Sequence[int],
    generator: torch.Generator, tolerance: float,
) -> list[Row]:  # fmt: skip
    """Rows of the statements "signed" and "energy" for every period that divides the accumulated strides of the input.

    Args:
        specimen: in float64.
        size: `[C *spatial]`.
        levels: K; random inputs are uniform in [-K, K]. A linear module has rows without a level.
        strides: accumulated, of the input.
        moves: shifts of the output that belong to them.
        generator: of inputs and vectors.
        tolerance: the largest deviation that passes.
    """
    if is_linear(specimen, size, generator):
        return _exact(specimen, size, strides, moves, generator, tolerance)
    margin = _reach(specimen, size, max(levels), generator)
    rows = []
    for level in levels:
        rows += _sampled(specimen, size, level, strides, margin, generator, tolerance)
    return rows


def is_linear(specimen: nn.Module, size: Sequence[int], generator: torch.Generator) -> bool:
    """Whether the gradient is the same at two inputs."""
    x = _noise(specimen, size, 2, 1.0, generator)
    x, y = _followed(specimen, x)
    gradient = torch.randn(y.shape[1:], generator=generator, dtype=torch.float64).to(y.device).expand_as(y)
    a, b = _pulled(y, x, gradient)
    return bool((a - b).abs().amax() <= EQUAL * a.abs().amax())


def _exact(
    specimen: nn.Module, size: Sequence[int], strides: Sequence[int], moves: Sequence[int],
    generator: torch.Generator, tolerance: float,
) -> list[Row]:  # fmt: skip
    """Both statements of a linear module, from gradients of the output positions of one period in the centre."""
    x, y = _followed(specimen, _noise(specimen, size, 1, 1.0, generator))
    channels = y.shape[1]
    vectors = torch.rand(VECTORS, channels, generator=generator, dtype=torch.float64) * 2 - 1
    alone = torch.eye(channels, dtype=torch.float64)[torch.randperm(channels, generator=generator)[:CHANNELS]]
    signed, energy, clipped = y.new_zeros(()), y.new_zeros(()), False
    for offset in product(*(range(m) for m in moves)):
        place = [min(side // 2 + o, side - 1) for side, o in zip(y.shape[2:], offset, strict=True)]
        for weights in (vectors, alone):
            taps = torch.cat([_pulled(y, x, _at(y, place, w)) for w in weights.to(y.device)])
            clipped = clipped or _touches_border(taps)
            if weights is vectors:
                signed = signed + fold(_whole(taps, strides), strides)
            else:
                energy = energy + fold(_whole(taps.square(), strides), strides).sum(dim=(0, 1))
    units = {"signed": response_scale(signed, signed.abs().amax().item()), "energy": energy.mean()}
    rows = []
    for statement, phases in (("signed", signed), ("energy", energy)):
        for period in periods_of(strides) or [1]:
            value = (unevenness(phases, strides, period) / units[statement].clamp(min=TINY)).amax().item()
            value = nan if clipped else value
            verdict = judged(value, 0.0, tolerance) if energy.any() else "vacuous"
            rows.append(Row(statement, "measurement", "", period, nan, value, 0.0, verdict))
    return rows


def _sampled(
    specimen: nn.Module, size: Sequence[int], level: float, strides: Sequence[int], margin: Sequence[int],
    generator: torch.Generator, tolerance: float,
) -> list[Row]:  # fmt: skip
    """Both statements of a module whose gradient depends on its data, at random inputs of one level."""
    whole = [(side - 2 * (m + t)) // t for side, m, t in zip(size[1:], margin, strides, strict=True)]
    periods = periods_of(strides) or [1]
    if min(whole) < 2:
        unknown = [(statement, period) for statement in ("signed", "energy") for period in periods]
        return [Row(name, "measurement", "", t, level, nan, nan, "not decidable") for name, t in unknown]
    box = [slice(m + t, m + t + n * t) for n, m, t in zip(whole, margin, strides, strict=True)]
    signed, energy, rms = _draws(specimen, size, level, strides, box, generator)
    mean = signed.mean(dim=[0, *range(3, signed.ndim)]).abs()  # [vectors channels]
    rows = []
    for statement, draws, unit in (("signed", signed, torch.maximum(mean, rms)), ("energy", energy, energy.mean())):
        unit = unit.clamp(min=TINY)
        chance = _balanced_means(draws, generator)
        for period in periods:
            value = (unevenness(draws.mean(0), strides, period) / unit).amax().item()
            floor = max((unevenness(null, strides, period) / unit).amax().item() for null in chance)
            verdict = judged(value, floor, tolerance) if energy.any() else "vacuous"
            rows.append(Row(statement, "measurement", "", period, level, value, floor, verdict))
    return rows


def _draws(
    specimen: nn.Module, size: Sequence[int], level: float, strides: Sequence[int], box: Sequence[slice],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean gradient of each phase `[draws vectors C *strides]`, its energy `[draws *strides]`, its rms by channel `[C]`."""
    signed, energy, power = [], [], []
    cells = prod((b.stop - b.start) // t for b, t in zip(box, strides, strict=True))
    vectors = None
    for count in _parts(DRAWS, size):
        x, y = _followed(specimen, _noise(specimen, size, count, level, generator))
        if vectors is None:
            vectors = (torch.rand(VECTORS, y.shape[1], generator=generator, dtype=torch.float64) * 2 - 1).to(y.device)
        constants = vectors.view(*vectors.shape, *[1] * len(strides))
        taken = torch.stack([_pulled(y, x, v.expand_as(y))[(..., *box)] for v in constants], dim=1)
        signs = (torch.randint(2, y.shape, generator=generator) * 2.0 - 1).to(y)
        signed.append(fold(taken, strides) / cells)
        power.append(taken.square().mean(dim=[1, *range(3, taken.ndim)]))
        energy.append(fold(_pulled(y, x, signs)[(..., *box)].square(), strides).sum(1) / cells)
    return torch.cat(signed), torch.cat(energy), torch.cat(power).mean(0).sqrt()


def _balanced_means(draws: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Means over draws under random signs of which half are negative: what is common to all draws cancels, chance stays."""
    signs = torch.ones(FLIPS, len(draws), dtype=torch.float64)
    order = torch.rand(FLIPS, len(draws), generator=generator).argsort(1)
    signs.scatter_(1, order[:, : len(draws) // 2], -1.0)
    pieces = (signs / len(draws)).to(draws.device).split(max(1, 16 * ROOM // draws[0].numel()))
    return [torch.tensordot(piece, draws, dims=1) for piece in pieces]


def _reach(specimen: nn.Module, size: Sequence[int], level: float, generator: torch.Generator) -> list[int]:
    """Sides in pixels of the input that one central output position depends on, but for its faintest part."""
    x, y = _followed(specimen, _noise(specimen, size, 1, level, generator))
    weights = torch.randn(y.shape[1], generator=generator, dtype=torch.float64).to(y.device)
    taps = _pulled(y, x, _at(y, [side // 2 for side in y.shape[2:]], weights)).abs().amax(dim=(0, 1))
    seen = (taps > FAINT * taps.amax()).nonzero()
    return [0] * taps.ndim if not len(seen) else (seen.amax(0) - seen.amin(0) + 1).tolist()


def _followed(specimen: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input and the output, joined by autograd's graph."""
    x = x.requires_grad_()
    with torch.enable_grad():
        y = answered(specimen, x)
    if not y.requires_grad:
        raise ValueError(
            f"module: {type(specimen).__name__} cuts the gradient between output and input (no_grad, detach or numpy "
            'inside); certify it with direction="forward"'
        )
    return x, y


def _pulled(y: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of `x` for a gradient of `y`; the graph stays."""
    return torch.autograd.grad(y, x, gradient, retain_graph=True)[0]


def _at(y: Tensor, place: Sequence[int], weights: Tensor) -> Tensor:
    """A gradient of the output that is `weights` `[C]` at one position and 0 elsewhere."""
    gradient = torch.zeros_like(y)
    gradient[(..., *place)] = weights
    return gradient


def _noise(specimen: nn.Module, size: Sequence[int], count: int, level: float, generator: torch.Generator) -> Tensor:
    """Inputs uniform in [-level, level]."""
    x = torch.rand(count, *size, generator=generator, dtype=torch.float64)
    return ((2 * x - 1) * level).to(device_of(specimen))


def _parts(count: int, size: Sequence[int]) -> list[int]:
    """`count` images in batches of a bounded size."""
    one = max(1, ROOM // prod(size))
    return [min(one, count - k) for k in range(0, count, one)]


def _touches_border(taps: Tensor) -> bool:
    """Whether a gradient may be cut off by the image's border."""
    inner = taps[(..., *[slice(1, -1)] * (taps.ndim - 2))]
    return bool(taps.count_nonzero() > inner.count_nonzero())


def _whole(x: Tensor, strides: Sequence[int]) -> Tensor:
    """`x` with zeros behind it, to sides that are multiples of `strides`."""
    short = [-side % t for side, t in zip(x.shape[2:], strides, strict=True)]
    return nn.functional.pad(x, [n for s in reversed(short) for n in (0, s)])
