"""Moments of operations that measure many entries at once: norms, variances, lengths, softmax and largest entries."""

from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.geometry.energy.forward.linear import along_channels, root
from gradlens.geometry.energy.forward.moments import Moment, Moments
from gradlens.geometry.energy.forward.pointwise import held, larger

aten = torch.ops.aten


# Norms


def _standardised(moment: Moment, dims: list[int], eps: float) -> tuple[Moment, Tensor, Tensor]:
    """Entries minus their own mean over `dims`, divided by their expected deviation; that mean and 1 / deviation.

    Of S independent entries the mean takes its own variance away: E[s^2] = mean(v) (1 - 1/S) + var(m).
    """
    mean, variance = moment.mean, moment.spread.square()
    count = prod(mean.shape[d] for d in dims)
    centre, average = mean.mean(dims, keepdim=True), variance.mean(dims, keepdim=True)
    power = average * (1 - 1 / count) + (mean - centre).square().mean(dims, keepdim=True)
    scale = (power + eps).rsqrt()
    own = root(variance * (1 - 2 / count) + average / count)
    return Moment((mean - centre) * scale, own * scale), centre, scale


def _weighted(moment: Moment, weight: Tensor | None, bias: Tensor | None) -> Moment:
    mean, deviation = moment.mean, moment.spread
    if weight is not None:
        mean, deviation = mean * weight, deviation * weight.abs()
    return Moment(mean if bias is None else mean + bias, deviation)


def layer_norm(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`native_layer_norm`."""
    x, shape, weight, bias, eps = args
    moment, centre, scale = _standardised(moments.read(x), list(range(x.ndim - len(shape), x.ndim)), eps)
    return moments.write(*_weighted(moment, weight, bias)), centre, scale


def group_norm(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`native_group_norm`."""
    x, weight, bias, count, _, _, groups, eps = args
    grouped = Moment(*(t.reshape(count, groups, -1) for t in (x, moments.read(x).spread)))
    moment, centre, scale = _standardised(grouped, [2], eps)
    moment = Moment(moment.mean.reshape(x.shape), moment.spread.reshape(x.shape))
    weight, bias = (None if t is None else along_channels(t, x.ndim) for t in (weight, bias))
    mean, deviation = _weighted(moment, weight, bias)
    return moments.write(mean, deviation, stretch=held(moments, x, mean, deviation)), centre[..., 0], scale[..., 0]


def batch_norm(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """By running statistics, or where there are none by the batch's own."""
    x, weight, bias = args[:3]
    eps, name = args[-1], func.overloadpacket.__name__
    own = func._overloadname == "no_stats" or (name not in ALWAYS_RUNNING and args[5])
    weight, bias = (None if t is None else along_channels(t, x.ndim) for t in (weight, bias))
    if own:
        moment, centre, scale = _standardised(moments.read(x), [0, *range(2, x.ndim)], eps)
    else:
        centre, scale = along_channels(args[3], x.ndim), along_channels((args[4] + eps).rsqrt(), x.ndim)
        moment = Moment((x - centre) * scale, moments.read(x).spread * scale)
    mean, deviation = _weighted(moment, weight, bias)
    result = moments.write(mean, deviation, stretch=held(moments, x, mean, deviation))
    spare = [x.new_empty(0)] * (len(func._schema.returns) - 3)
    return result, centre.flatten(), scale.flatten(), *spare


ALWAYS_RUNNING = {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}


def rms_norm(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """`_fused_rms_norm`."""
    x, shape, weight, eps = args
    dims = list(range(x.ndim - len(shape), x.ndim))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    power = (x.square() + moments.read(x).spread.square()).mean(dims, keepdim=True)
    scale = (power + eps).rsqrt()
    return moments.write(*_weighted(Moment(x * scale, moments.read(x).spread * scale), weight, None)), scale


def variance(moments: Moments, func: Any, args: Any, kwargs: Any) -> Any:
    """`var`, `std` and `var_mean` of independent normal entries."""
    x, dims = args[0], args[1] if len(args) > 1 and args[1] else list(range(args[0].ndim))
    correction, keep = kwargs.get("correction"), kwargs.get("keepdim", False)
    count = prod(x.shape[d] for d in dims)
    factor = count / max(count - (1 if correction is None else correction), 1)
    off, v = (x - x.mean(dims, keepdim=True)).square(), moments.read(x).spread.square()
    mean = factor * (v.mean(dims, keepdim=keep) * (1 - 1 / count) + off.mean(dims, keepdim=keep))
    deviation = factor * root((2 * v.square() + 4 * v * off).sum(dims, keepdim=keep)) / count
    result = moments.write(mean, deviation)
    with moments:
        if func.overloadpacket is aten.std:
            return result.sqrt()
        return (result, x.mean(dims, keepdim=keep)) if func.overloadpacket is aten.var_mean else result


def length(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`linalg_vector_norm` of order 2, the root of a sum of squares."""
    x: Tensor = args[0]
    order, dims, keep = (*args[1:], *(2, None, False)[len(args) - 1 :])
    if order != 2:
        raise moments.unruled(f"{func} of order {order}")
    with moments:
        return x.square().sum(list(range(x.ndim)) if dims is None else dims, keepdim=bool(keep)).sqrt()


def softmax(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Log-normal weights divided by the sum of their means; a share m varies by m (1 - m) at most."""
    x, dim = args[:2]
    spread = moments.read(x).spread
    share = torch.nan_to_num(torch.softmax(x + spread.square() / 2, dim))
    wide = share.square() * torch.expm1(spread.square().clamp(max=60))
    return moments.write(share, root(torch.minimum(wide, share * (1 - share))))


# Largest entries, two by two


def max_pool(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """`max_pool2d_with_indices` and its like; which entry is the largest stays unknown."""
    x = args[0]
    values, indices = func(*args, **kwargs)
    dimensions = int(func.overloadpacket.__name__.removeprefix("max_pool")[0])
    full = [*args[1:], *([], 0, 1, False)[len(args) - 2 :]]
    lists = [[given] if isinstance(given, int) else list(given) for given in (full[0], full[1] or full[0], *full[2:4])]
    kernel, stride, padding, dilation = (given * (dimensions // len(given)) for given in lists)
    spread = moments.read(x).spread
    least = (x - 9 * spread).amin()  # never the largest
    around = []
    for k, s, p, d, before, after in zip(
        kernel, stride, padding, dilation, x.shape[-dimensions:], values.shape[-dimensions:], strict=True
    ):
        around = [p, max((after - 1) * s + (k - 1) * d + 1 - before - p, 0), *around]
    padded = Moment(F.pad(x - least, around) + least, F.pad(spread, around))
    found = None
    for taps in product(*[range(k) for k in kernel]):
        steps = zip(taps, stride, dilation, values.shape[-dimensions:], strict=True)
        window = (..., *[slice(t * d, t * d + (n - 1) * s + 1, s) for t, s, d, n in steps])
        entry = Moment(padded.mean[window], padded.spread[window])
        found = entry if found is None else larger(found, entry)
    assert found is not None
    return moments.write(found.mean.contiguous(), found.spread), moments.write(indices, None)


def largest(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`amax`."""
    x, shape = args[0], func(*args, **kwargs).shape
    dims = args[1] if len(args) > 1 and args[1] else list(range(x.ndim))
    dims = [d % x.ndim for d in dims]
    order = [*(d for d in range(x.ndim) if d not in dims), *dims]
    found = Moment(*(t.permute(order).flatten(x.ndim - len(dims)) for t in (x, moments.read(x).spread)))
    while (count := found.mean.shape[-1]) > 1:
        half = count // 2
        parts = [[t[..., i * half : (i + 1) * half] for t in (found.mean, found.spread)] for i in range(2)]
        pair = larger(*(Moment(*part) for part in parts))
        rest = (found.mean[..., 2 * half :], found.spread[..., 2 * half :])
        found = Moment(*(torch.cat([a, b], -1) for a, b in zip((pair.mean, pair.spread), rest, strict=True)))
    return moments.write(found.mean.reshape(shape), found.spread.reshape(shape))
