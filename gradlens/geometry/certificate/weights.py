"""Rows that need no run: holes by overlap, equations 8 and 9 forward, the polyphase filters of a gradient backward."""

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor, nn

from gradlens.geometry.certificate.forward import response_scale
from gradlens.geometry.certificate.phases import periods_of, unevenness
from gradlens.geometry.certificate.polyphase import Link, backward_links, chain, channels_after, gains
from gradlens.geometry.certificate.specimen import device_of
from gradlens.geometry.certificate.verdicts import Direction, Row, judged
from gradlens.geometry.overlap import coverage


def weight_rows(specimen: nn.Module, size: Sequence[int], direction: Direction, tolerance: float) -> list[Row]:
    """The rows of a chain of known linear layers, none of any other module.

    Args:
        specimen: in float64.
        size: `[C *spatial]`.
        direction: of the statements.
        tolerance: the largest deviation that passes.
    """
    channels, axes = size[0], len(size) - 1
    links = chain(specimen, channels, axes)
    if not links:
        return []
    like = torch.zeros((), dtype=torch.float64, device=device_of(specimen))
    if direction == "forward":
        gain, offset = gains(links, channels, axes, like)
        filters = _filters("filters", "8", gain, tolerance)
        return _holes(links[-1], tolerance) + filters + _biases(gain, offset, tolerance)
    links, channels = backward_links(links), channels_after(links, channels)
    gain, _ = gains(links, channels, axes, like)
    rows = _holes(links[-1], tolerance) + _filters("signed", "", gain, tolerance)
    return rows + (_energy(links[0], tolerance) if len(links) == 1 else [])


def _holes(last: Link, tolerance: float) -> list[Row]:
    """Phases that no tap reaches: a fault that no weight can mend, where nothing smooths behind."""
    if last.kind != "up" or not last.kernel:
        return []
    taps = coverage(last.kernel, last.stride, dilation=last.dilation).double()
    if taps.min() > 0:
        return []
    deviations = {t: (unevenness(taps, last.stride, t) / taps.mean()).item() for t in periods_of(last.stride)}
    return [
        Row("holes", "overlap", "", t, nan, value, 0.0, judged(value, 0.0, tolerance))
        for t, value in deviations.items()
    ]


def _filters(statement: str, equation: str, gain: Tensor, tolerance: float) -> list[Row]:
    """All polyphase filters have one DC, for each pair of channels: `gain` is `[from to *period]`."""
    strides = gain.shape[2:]
    scale = response_scale(gain, gain.abs().amax().item())
    rows = []
    for period in periods_of(strides) or [1]:
        uneven = unevenness(gain, strides, period)
        deviation = torch.where(uneven > 0, uneven / scale, 0.0).amax().item()
        verdict = "vacuous" if not gain.any() else judged(deviation, 0.0, tolerance)
        rows.append(Row(statement, "weights", equation, period, nan, deviation, 0.0, verdict))
    return rows


def _biases(gain: Tensor, offset: Tensor, tolerance: float) -> list[Row]:
    """All phases have one bias: relative to it, or to the rms of a response at level 1 where that is larger."""
    strides = offset.shape[1:]
    if not offset.any():
        return []
    axes = list(range(1, offset.ndim))
    rms = (gain.square().sum(0).mean(dim=axes) / 3 + offset.square().mean(dim=axes)).sqrt()  # uniform constants: 1 / 3
    scale = torch.maximum(offset.mean(dim=axes).abs(), rms)
    rows = []
    for period in periods_of(strides) or [1]:
        uneven = unevenness(offset, strides, period)
        deviation = torch.where(uneven > 0, uneven / scale, 0.0).amax().item()
        rows.append(Row("biases", "weights", "9", period, nan, deviation, 0.0, judged(deviation, 0.0, tolerance)))
    return rows


def _energy(link: Link, tolerance: float) -> list[Row]:
    """The squared taps of each phase have one sum, over all channels."""
    if link.weight is None:
        return []
    squared = Link(link.kind, link.stride, link.dilation, link.weight.square(), None, link.groups)
    before = link.weight.shape[0] if link.kind == "up" else link.weight.shape[1] * link.groups
    gain, _ = gains([squared], before, len(link.stride), link.weight)
    energy = gain.sum(dim=(0, 1))
    rows = []
    for period in periods_of(energy.shape) or [1]:
        deviation = (unevenness(energy, energy.shape, period) / energy.mean()).nan_to_num(0.0).item()
        verdict = "vacuous" if not energy.any() else judged(deviation, 0.0, tolerance)
        rows.append(Row("energy", "weights", "", period, nan, deviation, 0.0, verdict))
    return rows
