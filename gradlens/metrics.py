"""The measures of `gradlens.spectra` as torchmetrics classes: one value for all the images of a stream.

Each class has the name of its function in CamelCase and averages it over images, by sums and counts in float64. So a
result is the same, up to rounding, for any order, any batches and any number of processes, one without an image
included. Images that hold NaN or infinity, or are too small for the measure, are left out and counted in `left_out`.

Every class takes the keyword arguments of `torchmetrics.Metric` too, and refuses wrong ones when it is made. None is
there where a mean over images says nothing (`notch` and its like, `lattice_map`, the floors) or every image is needed at once
(`set_imbalance_test`); `lattice_tests` is a `MetricCollection`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from gradlens import spectra

Kind = Literal["signed", "envelope"]
Period = int | Sequence[int]

WITHOUT_FLOAT64 = frozenset({"mps"})


def from_numpy(images: np.ndarray, layout: Literal["NHWC", "NHW", "NCHW"]) -> Tensor:
    """A batch of images as `update` takes it: `[N C H W]`, uint8 scaled to [0, 1] in float32, floating point as it is.

    Args:
        images: uint8 or floating point, grey or RGB.
        layout: what the axes of `images` are; never guessed.

    Raises:
        TypeError: `images` is no array, or neither uint8 nor float16, float32 or float64.
        ValueError: `layout` is unknown, or `images` does not have its axes or has other than 1 or 3 channels.

    Example:
        >>> batch = from_numpy(np.full((8, 32, 24, 3), 255, np.uint8), "NHWC")
        >>> batch.shape, batch.max().item()
        (torch.Size([8, 3, 32, 24]), 1.0)
    """
    if not isinstance(images, np.ndarray):
        raise TypeError(f"images: must be a numpy.ndarray, got {type(images).__name__}")
    if images.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise TypeError(f"images: must be uint8 or floating point, got {images.dtype}; divide it by its full scale")
    if layout not in ("NHWC", "NHW", "NCHW"):
        raise ValueError(f"layout: must be one of NHWC, NHW, NCHW, got {layout!r}")
    if images.ndim != len(layout):
        raise ValueError(f"images: must have {len(layout)} axes for layout {layout}, got {list(images.shape)}")
    if layout == "NHW":
        images = images[:, None]
    elif layout == "NHWC":
        images = np.moveaxis(images, -1, 1)
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"images: must have 1 or 3 channels, got {images.shape[1]} for layout {layout}; "
            "name the layout they have, or drop what is no colour"
        )
    batch = torch.tensor(np.ascontiguousarray(images))
    return batch / 255 if batch.dtype == torch.uint8 else batch


class _OverImages(Metric):
    """A measure `[N *shape]` over all images: its sum, how many values that has, and how many images gave none.

    The names of the states hold the measure and its arguments: a `MetricCollection` takes metrics for one compute group
    by names and first values, and a first batch of constant images reads 0 in every measure.
    """

    full_state_update = False
    is_differentiable = True

    _measure: partial[Tensor]
    _name: str

    def _hold(self, measure: partial[Tensor], axes: int = 2) -> None:
        """Add the states of `measure`, which refuses wrong arguments and shows its shape on a batch of no images."""
        shape = measure(torch.zeros(0, 1, *[1] * axes, device="cpu")).shape[1:]
        self._measure = measure
        self._name = re.sub(r"\W+", "_", f"{measure.func.__name__} {measure.keywords}").strip("_")
        for state, extent in (("sum", shape), ("count", shape), ("left_out", ())):
            zeros = torch.zeros(extent, dtype=torch.float64, device=_with_float64(self.device))
            self.add_state(f"{self._name}_{state}", zeros, dist_reduce_fx="sum")

    @property
    def left_out(self) -> int:
        """How many images of this process were left out since the last reset; of all within `sync_context()`."""
        return int(self._state("left_out"))

    def update(self, images: Tensor) -> None:
        """Add images `[N C *spatial]`, floating point, any unit, of any number and size.

        Raises:
            TypeError, ValueError: `images` is no `[N C *spatial]`, or has other spatial axes than the metric.
        """
        self._add(images, self._measure)

    def compute(self) -> Tensor:
        """The result over all images of all processes, NaN without any: float64, or float32 on a device without it."""
        result = self._result(self._state("sum") / self._state("count"))
        return (result.float() if self.device.type in WITHOUT_FLOAT64 else result).to(self.device)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Figure and axes with one result, or with a sequence of them as a series; as torchmetrics does."""
        results = self.compute() if val is None else val
        series = [results] if isinstance(results, Tensor) else results
        flat = [result.flatten() if result.ndim else result for result in series]
        if flat[0].ndim and self.plot_legend_name is None:
            raise NotImplementedError(f"plot: {type(self).__name__} gives a spectrum; gradlens.figures draws it")
        return self._plot(flat[0] if isinstance(results, Tensor) else flat, ax)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._measure.keywords.items())

    def _result(self, mean: Tensor) -> Tensor:
        """The result from the mean over images."""
        return mean

    def _state(self, state: str) -> Tensor:
        return getattr(self, f"{self._name}_{state}")

    def _add(self, images: Tensor, measure: Callable[[Tensor], Tensor]) -> None:
        values = measure(_finite(images))
        if values.shape[1:] != self._state("sum").shape:
            raise ValueError(f"images: must have the spatial axes that {self!r} is made for, got {list(images.shape)}")
        valid = ~values.isnan()
        found = valid[:, None].flatten(1).any(1).sum()
        for state, more in (
            ("sum", torch.where(valid, values, 0.0).sum(0)),
            ("count", valid.sum(0)),
            ("left_out", len(images) - found),
        ):
            total = self._state(state)
            setattr(self, f"{self._name}_{state}", total + more.to(total.device))

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = ()) -> "_OverImages":
        """Move the states with the metric, as float64: torchmetrics lets `to(dtype)` and `set_dtype` cast them."""
        self._computed = self._forward_cache = None
        super()._apply(fn, (*exclude_state, *self._defaults))
        home = _with_float64(self.device)
        for name, default in self._defaults.items():
            assert isinstance(default, Tensor)
            self._defaults[name] = default.to(home)
            setattr(self, name, getattr(self, name).to(home))
        return self


class LatticeContrast(_OverImages):
    """Mean over images of `spectra.lattice_contrast`, in dB: how far a lattice stands above the spectrum around it.

    Range, Blind to: as the function; 0 is no lattice.

    Args:
        period: T in pixels, one for all axes or one for each.
        kind: `"signed"` or `"envelope"`.
        window: wanted side of the windows in pixels.

    Example:
        >>> metric = LatticeContrast(2)
        >>> metric.update(torch.zeros(4, 3, 32, 32))
        >>> metric.compute().item()
        0.0
    """

    higher_is_better = False

    def __init__(self, period: Period, *, kind: Kind = "signed", window: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(spectra.lattice_contrast, period=period, kind=kind, window=window), _axes(period))


class LatticeLines(_OverImages):
    """Mean over images of `spectra.lattice_lines`, `[T T]` in dB: each harmonic of a lattice by itself.

    Range, Blind to: as the function; NaN for DC and the harmonics that a smaller divisor of T has.

    Args:
        period: T in pixels of two spatial axes, or one for each of any number of axes.
        kind, window: as `LatticeContrast`.

    Example:
        >>> metric = LatticeLines(2)
        >>> metric.update(torch.zeros(4, 3, 32, 32))
        >>> metric.compute().tolist()
        [[nan, 0.0], [0.0, 0.0]]
    """

    higher_is_better = False
    plot_legend_name = "line"

    def __init__(self, period: Period, *, kind: Kind = "signed", window: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(spectra.lattice_lines, period=period, kind=kind, window=window), _axes(period))


class LatticeTest(_OverImages):
    """The joint p of `spectra.lattice_test` over images by Fisher's method: could chance alone make this lattice?

    -2 sum log p is chi-square with 2 n degrees of freedom for n images without a lattice. An image with p NaN (too small,
    or fewer than 30 bins of null) is in neither sum nor n.

    Range: [0, 1]; small where many images have a lattice, or few a strong one.
    Blind to: as the function. Over hundreds of images a lattice of no matter is significant, and the little by which p
        departs from uniform adds up: read it beside `LatticeContrast`, and beside the joint p of real images.

    Args:
        period: T in pixels, one for all axes or one for each.
        kind, window: as `LatticeContrast`.
        also: further periods whose lattices are kept out of the null.

    Source: Fisher 1925.

    Example:
        >>> metric = LatticeTest(2)
        >>> metric.update(torch.zeros(4, 3, 32, 32))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = True
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self, period: Period, *, kind: Kind = "signed", window: int = 32, also: Sequence[Period] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_log_p, period=period, kind=kind, window=window, also=tuple(also)), _axes(period))

    def _result(self, mean: Tensor) -> Tensor:
        count = self._state("count")
        return torch.special.gammaincc(count, -mean * count)


class LatticeShare(_OverImages):
    """Mean over images of `spectra.lattice_share`: energy on a lattice over all energy.

    Range: [0, 1]; white noise reads `spectra.lattice_share_floor`.
    Blind to: as the function.

    Args:
        period: T in pixels, one for all axes or one for each.
        kind: `"signed"` or `"envelope"`.
        new: count only the harmonics that no smaller divisor of T has.

    Example:
        >>> metric = LatticeShare(2)
        >>> metric.update(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, period: Period, *, kind: Kind = "signed", new: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(spectra.lattice_share, period=period, kind=kind, new=new), _axes(period))


class LatticeLoss(_OverImages):
    """Mean over images of what `spectra.lattice_loss` averages: log(1 + share / floor).

    Range: [0, log(1 + 1 / floor)]; white noise reads about log 2, no lattice 0.
    Blind to: as the function.

    Args:
        period: T in pixels, one for all axes or one for each.

    Example:
        >>> metric = LatticeLoss(2)
        >>> metric.update(torch.ones(4, 3, 8, 8))
        >>> metric.compute().item()
        0.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, period: Period, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_log_share, period=period), _axes(period))


class PhaseEnergy(_OverImages):
    """Mean over images of `spectra.phase_energy`, `[T T]`: the energy of each sampling phase, 1 is even.

    In a `MetricCollection`, `PhaseEnergy`, `PhaseRatio` and `SetImbalance` of one period are measured once.

    Range: [0, T^2], mean 1.
    Blind to: as the function.

    Args:
        period: T in pixels of two spatial axes, or one for each of any number of axes.

    Example:
        >>> metric = PhaseEnergy(2)
        >>> metric.update(torch.ones(4, 3, 32, 32))
        >>> metric.compute().tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    plot_legend_name = "phase"

    def __init__(self, period: Period, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_phase_moments, period=period), _axes(period))

    def _result(self, mean: Tensor) -> Tensor:
        return mean[0]


class PhaseRatio(_OverImages):
    """`spectra.phase_ratio` of all images: the largest over the smallest of their mean phase energies.

    Range: [1, inf].
    Blind to: as the function; it has no noise floor of its own: read it beside `SetImbalance`.

    Args: as `PhaseEnergy`.

    Source: Odena et al. 2016.

    Example:
        >>> metric = PhaseRatio(2)
        >>> metric.update(torch.ones(4, 3, 32, 32))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = False
    plot_lower_bound = 1.0

    def __init__(self, period: Period, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_phase_moments, period=period), _axes(period))

    def _result(self, mean: Tensor) -> Tensor:
        return spectra.phase_ratio(mean[:1])


class PhaseImbalance(_OverImages):
    """Root mean square over images of `spectra.phase_imbalance`: how uneven energy lies in the typical image.

    The mean is of v, the square with its sign, as that is unbiased where the root is not; the result is sign(v)
    sqrt(|v|). Images may each have another uneven phase: what they have in common is `SetImbalance`.

    Range: about [-1, sqrt(T^2 - 1)]; debiased, 0 on average without a lattice.
    Blind to: as the function.

    Args:
        period: T in pixels, one for all axes or one for each.
        debias: take out what chance alone adds.

    Example:
        >>> metric = PhaseImbalance(2)
        >>> metric.update(torch.eye(2).repeat(16, 16).view(1, 1, 32, 32))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = False

    def __init__(self, period: Period, *, debias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_signed_square, period=period, debias=debias), _axes(period))

    def _result(self, mean: Tensor) -> Tensor:
        return _signed_root(mean)


class SetImbalance(_OverImages):
    """`spectra.set_imbalance` of all images: the debiased imbalance of energy that they have in common.

    Range: about [-1, sqrt(T^2 - 1)]; 0 on average where images share no lattice; NaN for fewer than two images.
    Blind to: as the function. Its noise floor, `spectra.set_imbalance_test`, needs the energies of every image.

    Args: as `PhaseEnergy`.

    Example:
        >>> metric = SetImbalance(2)
        >>> metric.update(torch.eye(2).repeat(16, 16).expand(3, 1, 32, 32))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = False

    def __init__(self, period: Period, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_phase_moments, period=period), _axes(period))

    def _result(self, mean: Tensor) -> Tensor:
        count = self._state("count")[0]
        departure, square = mean[0] - 1, mean[1]
        others = torch.where(count < 2, float("nan"), count - 1)
        return _signed_root(((count * departure.square() - square) / others).mean())


class PowerSpectrum(_OverImages):
    """Mean over images of `spectra.power_spectrum`, summed over channels: `[size size]`, unshifted, linear.

    Range: [0, inf); white noise of variance s^2 and C channels has C s^2 in every bin.
    Blind to: as the function. `figures.draw_spectrum` draws it.

    Args:
        size: side of the windows in pixels; an image with a shorter side is left out.
        window: `"hann"` or `"none"`.
        axes: number of spatial axes.

    Example:
        >>> metric = PowerSpectrum(32)
        >>> metric.update(torch.rand(4, 3, 64, 48))
        >>> metric.compute().shape
        torch.Size([32, 32])
    """

    def __init__(
        self, size: int = 64, *, window: Literal["hann", "none"] = "hann", axes: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_power, size=size, window=window), _checked_axes(axes))


class RadialProfile(_OverImages):
    """Mean over images of the power of `spectra.radial_profile`, `[bins]`, summed over channels.

    Range: [0, inf); a ring that no image has a frequency in is NaN.
    Blind to: as the function. `figures.draw_profile` draws it over `frequency`.

    Args:
        bins: number of rings from 0 to 0.5 cycles per pixel; half the shortest side resolves an image.
        window: `"hann"` or `"none"`.

    Source: Durall et al. 2020.

    Example:
        >>> metric = RadialProfile(16)
        >>> metric.update(torch.rand(4, 3, 32, 32))
        >>> metric.compute().shape
        torch.Size([16])
    """

    def __init__(self, bins: int = 32, *, window: Literal["hann", "none"] = "hann", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_ring_power, bins=bins, window=window))

    @property
    def frequency(self) -> Tensor:
        """The centre of each ring in cycles per pixel, `[bins]`."""
        return spectra.radial_profile(torch.zeros(0, 1, 1, 1), bins=len(self._state("sum"))).frequency


class SpectrumDistance(_OverImages):
    """`spectra.spectrum_distance` between two sets of images, real ones and others, in dB.

    Exactly the function for images of `size`; larger ones are averaged over windows of that size.

    Range: [0, inf); 0 for equal spectra; NaN as long as a set has no image.
    Blind to: as the function.

    Args:
        size: side of the windows in pixels; an image with a shorter side is left out.
        axes: number of spatial axes.

    To keep the real images over epochs, add them once and begin each epoch with a `clone()`. In a `MetricCollection`
    all classes of this module without `real` take both sets as one: give this one a collection of its own.

    Example:
        >>> metric, images = SpectrumDistance(32), torch.rand(4, 3, 32, 32)
        >>> metric.update(images, real=True)
        >>> metric.update(0.5 * images, real=False)
        >>> round(metric.compute().item(), 6)
        0.0
    """

    higher_is_better = False
    is_differentiable = False
    plot_lower_bound = 0.0

    def __init__(self, size: int = 64, *, axes: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(partial(_power_of_set, size=size), _checked_axes(axes))
        if size < 2:
            raise ValueError(f"size: must be at least 2 pixels, got {size!r}; one has no frequency but 0")

    def update(self, images: Tensor, real: bool) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add images `[N C *spatial]` to the real ones or to the others.

        Raises:
            TypeError, ValueError: as of every metric here; `real` is no bool.
        """
        if not isinstance(real, bool):
            raise TypeError(f"real: must be True or False for the whole batch, got {real!r}")
        self._add(images, partial(self._measure, real=real))

    def _result(self, mean: Tensor) -> Tensor:
        level = 10 * torch.log10(mean + 1e-8 / mean.shape[1])
        return (level[0] - level[1]).square().mean().sqrt()


def _log_p(x: Tensor, period: Period, kind: Kind, window: int, also: Sequence[Period]) -> Tensor:
    return spectra.lattice_test(x, period, kind=kind, window=window, also=also).p_value.log()


def _log_share(x: Tensor, period: Period) -> Tensor:
    """log(1 + share / floor) of each image `[N]`."""
    return (
        spectra.lattice_share(x, period, new=True) / spectra.lattice_share_floor(x.shape[2:], period, new=True)
    ).log1p()


def _phase_moments(x: Tensor, period: Period) -> Tensor:
    """Phase energy and the square of its departure from 1: `[N 2 *T]`, all that the phase classes need."""
    energy = spectra.phase_energy(x, period)
    return torch.stack([energy, (energy - 1).square()], 1)


def _signed_square(x: Tensor, period: Period, debias: bool) -> Tensor:
    imbalance = spectra.phase_imbalance(x, period, debias=debias)
    return imbalance * imbalance.abs()


def _power(x: Tensor, size: int, window: Literal["hann", "none"] = "hann") -> Tensor:
    """Power summed over channels `[N *size]`, NaN where the image is smaller."""
    power = spectra.power_spectrum(x, size=size, window=window).sum(1)
    if min(x.shape[2:]) < size:
        return power.new_full((len(x), *[size] * (x.ndim - 2)), float("nan"))
    return power


def _ring_power(x: Tensor, bins: int, window: Literal["hann", "none"]) -> Tensor:
    return spectra.radial_profile(x, bins=bins, window=window).power


def _power_of_set(x: Tensor, size: int, real: bool = True) -> Tensor:
    """Power without DC, normalised to sum 1: `[N 2 bins]`, of which one set is NaN."""
    power = _power(x, size).flatten(1)[:, 1:]
    total = power.sum(1, keepdim=True)
    power = power / torch.where(total > 0, total, 1.0)
    nothing = torch.full_like(power, float("nan"))
    return torch.stack([power, nothing] if real else [nothing, power], 1)


def _signed_root(v: Tensor) -> Tensor:
    """sign(v) sqrt(|v|), with gradient 0 at 0."""
    zero = v == 0
    return torch.where(zero, 0.0, v.sign() * torch.where(zero, 1.0, v.abs()).sqrt())


def _finite(images: Tensor) -> Tensor:
    """The images without NaN and infinity."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: must be a torch.Tensor, got {type(images).__name__}; from_numpy takes arrays")
    if not images.is_floating_point():
        raise TypeError(f"images: must be floating point, got {images.dtype}; uint8 images become images / 255")
    if not 3 <= images.ndim <= 5 or 0 in images.shape[1:]:
        raise ValueError(
            f"images: must be [N C *spatial] with 1 to 3 spatial axes, none empty, got {list(images.shape)}; "
            "one image is images[None]"
        )
    finite = images.isfinite().flatten(1).all(1)
    return images if finite.all() else images[finite]


def _axes(period: Period) -> int:
    """How many spatial axes `period` is for, two where one number stands for all; those of a wrong one are 1 to 3."""
    return min(max(len(period), 1), 3) if isinstance(period, Sequence) else 2


def _checked_axes(axes: int) -> int:
    if axes not in (1, 2, 3):
        raise ValueError(f"axes: must be 1, 2 or 3 spatial axes, got {axes!r}")
    return axes


def _with_float64(device: torch.device) -> torch.device:
    """`device`, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device
