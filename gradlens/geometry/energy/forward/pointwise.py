"""Moments of operations that act on each entry by itself."""

from collections.abc import Callable
from math import exp, pi
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gradlens.geometry.energy.forward.moments import Moment, Moments, Origin, Stretch

aten = torch.ops.aten
STEP = 0.8  # between nodes over a normal variable, in deviations: the trapezoid rule is exact to 1e-5 for polynomials
NODES = [(STEP * i, STEP * exp(-((STEP * i) ** 2) / 2) / (2 * pi) ** 0.5) for i in range(-6, 7)]


def entrywise(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Functions of one normal variable by quadrature or in closed form; of two, by `JOINT`."""
    carriers = moments.carriers((args, kwargs))
    origins = {id(t): moments.origin(t) for t in carriers}
    origin = origins[id(carriers[0])]
    if any(other.place != origin.place for other in origins.values()):
        return _joint(moments, func, args, kwargs)

    def value(x: Tensor) -> Tensor:
        inner, named = tree_map(lambda t: origins[id(t)].value(x) if id(t) in origins else t, (args, kwargs))
        return func(*inner, **named)

    closed = CLOSED.get(func.overloadpacket)
    first = moments.read(carriers[0])
    if closed is None or first.deviation is None or len(carriers) > 1 or carriers[0] is not args[0]:
        mean, deviation = expected(value, origin.moment)
    else:
        mean, deviation = closed(first, func, args, kwargs)
    stretch = held(moments, carriers[0], mean, deviation)
    return moments.write(mean, deviation, origin=Origin(origin.place, origin.moment, value), stretch=stretch)


def expected(value: Callable[[Tensor], Tensor], moment: Moment) -> Moment:
    """The moment of a function of a normal variable; where a node leaves its domain, its value at the mean counts."""
    centre = value(moment.mean)
    if moment.deviation is None or not centre.is_floating_point():
        return Moment(centre, None)
    at_ends = [value(moment.mean + node * moment.deviation) - centre for node, _ in (NODES[0], NODES[-1])]
    _, scale = unit(torch.stack([off.abs().amax() for off in at_ends]))
    leaves = not scale.isfinite()
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    for node, weight in NODES:
        off = value(torch.add(moment.mean, moment.deviation, alpha=node)) - centre
        off = torch.where(off.isfinite(), off, 0.0) if leaves else off / scale
        first.add_(off, alpha=weight)
        second.addcmul_(off, off, value=weight)
    scale = torch.ones_like(scale) if leaves else scale
    return Moment(centre + scale * first, scale * (second - first.square()).clamp(min=0).sqrt())


def unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` divided by its largest magnitude, and that: its squares neither overflow nor vanish."""
    scale = x.abs().amax() if x.numel() else x.new_ones(())
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return x / scale, scale


def held(moments: Moments, x: Tensor, mean: Tensor, deviation: Tensor | None) -> Stretch | None:
    """The nearest resize that made `x`, where an operation on each of its entries leaves copies as copies."""
    stretch = moments.stretch(x)
    if stretch is None or stretch.hold is None or deviation is None or mean.shape != x.shape:
        return None
    base = deviation[(..., *[slice(None, None, s) for s in stretch.hold])]
    copies = base
    for axis, s in enumerate(stretch.hold):
        copies = copies.repeat_interleave(s, 2 + axis)
    return Stretch(base, stretch.maps, stretch.hold) if copies.equal(deviation) else None


# One variable, in closed form


def _two_slopes(moment: Moment, slope: Tensor | float) -> Moment:
    """A normal variable whose negative part is multiplied by `slope`: one slope throughout, and a change in the tail."""
    mean, deviation = moment.mean, moment.spread
    above, slope, one = mean > 0, torch.as_tensor(slope).to(mean), mean.new_ones(())
    near, change = torch.where(above, one, slope), torch.where(above, slope - 1, 1 - slope)
    tail = -(mean.abs() / torch.where(deviation > 0, deviation, 1.0)).clamp(max=30)
    share, density = _normal(tail)
    first, second = tail * share + density, (tail.square() + 1) * share + tail * density  # of the tail, in deviations
    variance = near**2 + change**2 * (second - first.square()) + 2 * near * change * share
    mean = near * mean - torch.where(above, one, -one) * change * deviation * first
    return Moment(mean, deviation * variance.clamp(min=0).sqrt())


def _normal(a: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution and density of a standard normal variable."""
    return torch.special.ndtr(a), torch.exp(-a.square() / 2) / (2 * pi) ** 0.5


def _relu(moment: Moment, func: Any, args: Any, kwargs: Any) -> Moment:
    return _two_slopes(moment, 0.0)


def _leaky_relu(moment: Moment, func: Any, args: Any, kwargs: Any) -> Moment:
    return _two_slopes(moment, args[1] if len(args) > 1 else 0.01)


def _shifted(moment: Moment, func: Any, args: Any, kwargs: Any) -> Moment:
    """A variable with a constant added, or copied."""
    mean = func(*args, **kwargs)
    return Moment(mean, moment.spread.expand_as(mean))


def _scaled(moment: Moment, func: Any, args: Any, kwargs: Any) -> Moment:
    """A variable multiplied or divided by a constant."""
    return Moment(func(*args, **kwargs), func(moment.spread, *args[1:], **kwargs).abs())


CLOSED: dict[Any, Callable[[Moment, Any, Any, Any], Moment]] = {
    aten.relu: _relu,
    aten.leaky_relu: _leaky_relu,
    aten._prelu_kernel: _leaky_relu,
    aten.clone: _shifted,
    aten.add: _shifted,
    aten.sub: _shifted,
    aten.mul: _scaled,
    aten.div: _scaled,
    aten.neg: _scaled,
}


# Two variables that are independent of each other


def _joint(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    packet = func.overloadpacket
    if packet in WRITTEN_OUT:
        with moments:
            return WRITTEN_OUT[packet](*args, **kwargs)
    if packet is aten.where and not moments.carriers(args[0]):
        return moments.write(func(*args), func(args[0], *(moments.read(t).spread for t in args[1:])))
    if packet not in JOINT:
        raise moments.unruled(f"{func} of two variables")
    return moments.write(*JOINT[packet](*(moments.read(t) for t in args[:2]), **kwargs))


def added(first: Moment, second: Moment, *, alpha: float = 1) -> Moment:
    """first + alpha second."""
    return Moment(first.mean + alpha * second.mean, torch.hypot(first.spread, abs(alpha) * second.spread))


def _subtracted(first: Moment, second: Moment, *, alpha: float = 1) -> Moment:
    return added(first, second, alpha=-alpha)


def _multiplied(first: Moment, second: Moment) -> Moment:
    (a, da), (b, db) = (first.mean, first.spread), (second.mean, second.spread)
    return Moment(a * b, torch.hypot(torch.hypot(da * b, a * db), da * db))


def _divided(first: Moment, second: Moment) -> Moment:
    """To second order in the divisor's relative deviation."""
    relative = second.spread / second.mean
    return _multiplied(first, Moment((1 + relative.square()) / second.mean, (relative / second.mean).abs()))


def larger(first: Moment, second: Moment) -> Moment:
    """The larger of two normal variables (Clark 1961), with no doubt which where they lie 12 deviations apart."""
    width, gap = torch.hypot(first.spread, second.spread), first.mean - second.mean
    certain = gap.abs() >= 12 * width
    unit = torch.where(certain, 1.0, width)
    a = torch.where(certain, 0.0, gap / unit) / 2  # from the middle, as b = -a
    da, db = first.spread / unit, second.spread / unit
    above, density = _normal(2 * a)
    off = a * (2 * above - 1) + density
    variance = ((a - off).square() + da.square()) * above + ((a + off).square() + db.square()) * (1 - above)
    spread = unit * (variance - 2 * off * density).clamp(min=0).sqrt()
    return Moment(
        torch.where(certain, torch.maximum(first.mean, second.mean), second.mean + gap / 2 + unit * off),
        torch.where(certain, torch.where(gap > 0, first.spread, second.spread), spread),
    )


def _smaller(first: Moment, second: Moment) -> Moment:
    mean, deviation = larger(Moment(-first.mean, first.deviation), Moment(-second.mean, second.deviation))
    return Moment(-mean, deviation)


JOINT: dict[Any, Callable[..., Moment]] = {
    aten.add: added,
    aten.sub: _subtracted,
    aten.mul: _multiplied,
    aten.div: _divided,
    aten.maximum: larger,
    aten.minimum: _smaller,
}
WRITTEN_OUT: dict[Any, Callable[..., Tensor]] = {
    aten.addcmul: lambda x, a, b, value=1: x + value * a * b,
    aten.addcdiv: lambda x, a, b, value=1: x + value * a / b,
    aten.lerp: lambda a, b, weight: (1 - weight) * a + weight * b,
    aten.rsub: lambda a, b, alpha=1: b - alpha * a,
}


def gated(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`glu`: one half times the sigmoid of the other."""
    with moments:
        value, gate = args[0].chunk(2, args[1] if len(args) > 1 else -1)
        return value * gate.sigmoid()


def dropped(moments: Moments, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """`native_dropout`: kept with probability 1 - p and divided by it, also in eval mode where the network asks so."""
    x, p, training = args
    mask = torch.ones_like(x, dtype=torch.bool)
    if training is False:
        return moments.write(x.clone(), moments.read(x).spread), mask
    spread = torch.hypot(x * (p / (1 - p)) ** 0.5, moments.read(x).spread / (1 - p) ** 0.5)
    return moments.write(x.clone(), spread), mask


def standard_normal(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Noise that the network draws itself."""
    drawn = func(*args, **kwargs)
    return moments.write(torch.zeros_like(drawn), torch.ones_like(drawn))


def uniform(moments: Moments, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Noise in [0, 1] that the network draws itself."""
    drawn = func(*args, **kwargs)
    return moments.write(torch.full_like(drawn, 0.5), torch.full_like(drawn, 12**-0.5))
