"""The ascent: steps along the gradient of an objective, from small pictures to large ones."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, lcm
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.console import first_line, out_of_memory
from gradlens.dream.objectives import IMAGE, OUTPUT, Objective, mean_of, named
from gradlens.dream.parameterisations import Parameterisation, pixels
from gradlens.dream.tiles import smallest_window, tiled
from gradlens.dream.transforms import Jitter, Moment, Transform
from gradlens.gradients import output_tensor
from gradlens.modules import undisturbed
from gradlens.probes import Probe, activations

Normalisation = Literal["mean-abs", "std", "rms", "max", "none"]
Optimiser = Literal["ascent", "adam", "nadam"]
PATIENCE = 16  # steps between two looks at a GPU's verdict whether all is finite

NORMALISERS: Mapping[Normalisation, Callable[[Tensor], Tensor]] = {
    "mean-abs": lambda g: g / _over_image(g.abs(), "mean"),
    "std": lambda g: g / _over_image(g, "std"),
    "rms": lambda g: g / _over_image(g.square(), "mean").sqrt(),
    "max": lambda g: g / _over_image(g.abs(), "amax"),
    "none": lambda g: g,
}


@dataclass(frozen=True)
class Dream:
    """What an ascent made.

    `images` `[N C *spatial]` in [0, 1]; `scores` `[steps N]`, of every step before it was taken, all octaves in a row, of
    the picture as the network was shown it; `snapshots` the pictures after the steps that were asked for, at the size they
    had then; `octaves` the sizes gone through; `stopped` why it ended early, "" if it did not.
    """

    images: Tensor
    scores: Tensor
    octaves: tuple[tuple[int, ...], ...]
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    stopped: str = ""


def dream(
    model: nn.Module,
    image: Tensor | Sequence[int],
    objective: Objective | str | Sequence[Objective | str],
    *,
    transforms: Sequence[Transform] = (),
    parameterisation: Parameterisation | None = None,
    steps: int = 20,
    rate: float = 0.005,
    normalisation: Normalisation = "mean-abs",
    optimiser: Optimiser = "ascent",
    octaves: int = 1,
    octave_scale: float = 1.4,
    tile: int | None = None,
    snapshots: Sequence[int] = (),
    seed: int = 0,
    advance: Callable[[int], None] = lambda steps: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Dream:
    """The picture that `objective` grows out of `image`, step by step along its gradient.

        picture <- picture + rate * normalised gradient of objective(model(transforms(picture)))

    The forward pass ends at the objective's last layer. The model runs in eval mode; its modes, parameters, `.grad`, hooks
    and the random state are left as they were. A step whose gradient is not finite is not taken: the dream ends there with
    a warning and holds what was made until then.

    Args:
        model: any module that takes `image`; its parameters are not changed.
        image: `[N C *spatial]` of two or three axes, or `[C H W]`, in [0, 1], on the model's device, float32 or float64
            whatever the model's dtype; or the size `[C *spatial]` of a picture that starts as grey with a little noise.
        objective: as in `gradlens.dream.objectives`, or the text that `named` reads. Several at once make a batch, a
            picture each.
        transforms: between the picture and the network, in this order; `RECIPES` has published ones.
        parameterisation: `pixels()` unless given, or `fourier()`.
        steps: in each octave.
        rate: of the optimiser. With `"ascent"`, pixels and `"mean-abs"` a typical pixel moves by so much at each step.
        normalisation: what the gradient of each image is divided by: `"mean-abs"` (DeepDream), `"std"` (TensorFlow's
            tutorial), `"rms"`, `"max"`, or `"none"` (for Adam).
        optimiser: `"ascent"` adds the gradient; `"adam"` and `"nadam"` as in torch.
        octaves: sizes gone through, the last that of `image`; what a smaller one made is enlarged and added.
        octave_scale: ratio of one size to the one before.
        tile: for pictures larger than memory, side in px of the tiles that a gradient is taken of; each is seen with half
            its side around it. The objective is then summed over tiles, in proportion to their area.
        snapshots: steps, counted from 1 over all octaves, after which the picture is kept.
        seed: of noise, transforms and seams; the same seed gives the same dream.
        advance: called with 1 after each step.
        stopped: asked before each step whether to end here.

    Returns:
        A `Dream`, on the device of the model.

    Raises:
        ValueError: a setting is out of range, there is no such layer or channel, or the network does not take an octave,
            all found before the first step; or no gradient reaches the picture.

    Source: Mordvintsev, Olah, Tyka 2015 (DeepDream); Olah, Mordvintsev, Schubert 2017.

    Example:
        >>> from gradlens.dream import jitter
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
        >>> made = dream(model, (3, 32, 32), "1:2", steps=3, transforms=[jitter(8)])
        >>> made.images.shape, made.scores.shape
        (torch.Size([1, 3, 32, 32]), torch.Size([3, 1]))
    """
    path = _Path(steps, rate, optimiser, snapshots, advance, stopped)
    _check(path, normalisation, octaves, octave_scale)
    several = [objective] if isinstance(objective, Objective | str) else list(objective)
    objectives = [named(o) if isinstance(o, str) else o for o in several]
    if not objectives:
        raise ValueError("objective: there must be at least one")
    with torch.inference_mode(False), undisturbed(model):
        start, noise = _start(model, image, len(objectives))
        sizes = _sizes(start.shape[2:], octaves, octave_scale)
        climb = _Climb(
            model, objectives, transforms, parameterisation or pixels(), normalisation, tile,
            torch.Generator().manual_seed(seed), _place(model).dtype,
        )  # fmt: skip
        climb.fit(start, sizes)
        return _through_octaves(climb, start, noise, sizes, path)


@dataclass
class _Climb:
    """One network, what is asked of it and how: gradients of parameters, once the jitter is fitted to the network."""

    model: nn.Module
    objectives: Sequence[Objective]
    transforms: Sequence[Transform]
    parameterisation: Parameterisation
    normalisation: Normalisation
    tile: int | None
    generator: torch.Generator
    dtype: torch.dtype
    period: int = 1
    positions: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # values of a layer at the largest size, at 1 px

    def fit(self, start: Tensor, sizes: Sequence[tuple[int, ...]]) -> None:
        """Learn the network's periods where they are needed, and try every octave.

        Raises:
            ValueError: the network does not take one, or the objective is out of range.
        """
        auto = [t for t in self.transforms if isinstance(t, Jitter) and t.n == "auto"]
        if auto or self.tile is not None:
            from gradlens.geometry import periods

            found = [p for axis in periods(self.model, list(start.shape[1:])) for p in axis]
            self.period = lcm(*found)
            self.transforms = [t.fitted(found) if isinstance(t, Jitter) else t for t in self.transforms]
        whole = [objective.name for objective in self.objectives if not objective.local]
        if self.tile is not None and whole:
            raise ValueError(f"tile: {whole[0]!r} is of the whole picture, not of its parts; leave tile out")
        if self.tile is not None and self.tile < 2 * self.period:
            raise ValueError(
                f"tile: must be at least {2 * self.period} px, two periods of the network, got {self.tile}"
            )
        for done, size in enumerate(reversed(sizes)):  # a wrong objective is told from a small size at the largest
            try:
                self._try(start, size)
            except Exception as error:  # each network refuses a size in its own way
                if out_of_memory(error) or (isinstance(error, ValueError) and not done):
                    raise
                shown = " x ".join(map(str, (start.shape[1], *size)))
                tiles = "" if self.tile is None else f" in tiles of {self.tile} px"
                fit = f"; {done} of {len(sizes)} octaves fit this picture" if done else ""
                raise ValueError(
                    f"{'octaves' if done else 'image'}: the network does not take {shown}{tiles} "
                    f"({first_line(error)}){fit}"
                ) from error

    def _try(self, start: Tensor, size: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        blank = torch.full((1, start.shape[1], *size), 0.5, dtype=start.dtype, device=start.device)
        with torch.no_grad():
            for transform in self.transforms:
                blank = transform(blank, Moment(0, generator))
            if self.tile is not None:
                windows = [smallest_window(side, self.tile, self.period) for side in blank.shape[2:]]
                blank = blank[(..., *(slice(0, side) for side in windows))]
            for objective in self.objectives:
                seen = self._seen(blank, objective.layers)
                value = objective.value(seen)
                if value.shape != (1,):
                    raise ValueError(f"objective: must give one value an image, got {list(value.shape)} for one")
                self._check_positions(blank, objective, seen)

    def _check_positions(self, shown: Tensor, objective: Objective, seen: Mapping[str, Any]) -> None:
        """Raise a ValueError where a map that has several positions at the largest size has one alone at this."""
        for layer in objective.layers:
            if layer in (IMAGE, OUTPUT):
                continue
            many = seen[layer].numel()
            if layer not in self.positions:  # the largest comes first
                self.positions[layer] = many, self._at_one_pixel(shown, layer)
            largest, one = self.positions[layer]
            if many == one < largest:
                raise ValueError(f"one position of {layer!r} is left")

    def _at_one_pixel(self, shown: Tensor, layer: str) -> int:
        """The values of a layer for a picture of one pixel; 0 if the network takes none."""
        pixel = shown[(..., *(slice(0, 1) for _ in shown.shape[2:]))]
        try:
            return self._seen(pixel, [layer])[layer].numel()
        except Exception:  # each network refuses a size in its own way
            return 0

    def gradient(self, values: Tensor, size: tuple[int, ...], step: int) -> tuple[Tensor, Tensor]:
        """The objective `[N]` at the parameters `values` of a picture of `size`, and its normalised gradient."""
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            shown = self.parameterisation.decode(leaf, size)
            for transform in self.transforms:
                shown = transform(shown, Moment(step, self.generator))
        score, gradient = self._graded_whole(shown.detach())
        if shown is not leaf:
            (gradient,) = torch.autograd.grad(shown, leaf, gradient.to(shown.dtype))
        return score, NORMALISERS[self.normalisation](gradient)

    def _graded_whole(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.tile is None:
            return self._graded(images, 1.0)
        return tiled(images, self._graded, self.tile, period=self.period, generator=self.generator)

    def _graded(self, images: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Value `[N]` and gradient of the objective times `share` at `images`."""
        layers = tuple(dict.fromkeys(name for objective in self.objectives for name in objective.layers))
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            value = mean_of(self.objectives, self._seen(leaf, layers), share)
            if not value.requires_grad:
                raise ValueError(f"objective: no gradient of {self.objectives[0].name!r} reaches the picture")
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(f"objective: {self.objectives[0].name!r} does not depend on the picture")
        return value.detach(), gradient

    def _seen(self, images: Tensor, layers: Sequence[str]) -> dict[str, Any]:
        """What `layers` return for `images`, beside the picture itself."""
        inner = [name for name in layers if name not in (IMAGE, OUTPUT)]
        seen: dict[str, Any] = {IMAGE: images}
        shown = images.to(self.dtype, copy=True)  # a copy, for a network that begins in place
        if OUTPUT in layers:
            with Probe(self.model, sorted({name.split("#")[0] for name in inner})) as probe:
                seen[OUTPUT] = output_tensor(self.model(shown))
            probe.check_reached(inner)
            seen |= probe.activations
        elif inner:
            seen |= activations(self.model, shown, inner)
        return seen


@dataclass
class _Ascent:
    """The parameters of one octave on their way up; from the first step that is not finite on, they stay."""

    values: Tensor
    rate: float
    optimiser: Optimiser
    bounded: bool

    def __post_init__(self) -> None:
        kinds = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}
        kind = kinds.get(self.optimiser)
        self.inner = None if kind is None else kind([self.values], lr=self.rate, maximize=True)
        self.alive = torch.ones((), dtype=torch.bool, device=self.values.device)
        self.taken = torch.zeros((), dtype=torch.long, device=self.values.device)

    def take(self, gradient: Tensor, score: Tensor) -> None:
        """One step along `gradient`, without waiting for the device."""
        self.alive = self.alive & gradient.isfinite().all() & score.isfinite().all()
        self.taken += self.alive
        before = self.values.clone()
        if self.inner is None:
            self.values.add_(gradient, alpha=self.rate)
        else:
            self.values.grad = gradient
            self.inner.step()
        if not self.bounded:
            self.values.clamp_(0, 1)
        self.values.copy_(torch.where(self.alive, self.values, before))


def _through_octaves(
    climb: _Climb, start: Tensor, noise: bool, sizes: Sequence[tuple[int, ...]], path: "_Path"
) -> Dream:
    """From the smallest picture to the largest; each begins with `start` and what the one before has added."""
    parameterisation, total = climb.parameterisation, path.steps * len(sizes)
    detail: Tensor | None = None
    kept: dict[int, Tensor] = {}
    scores: list[Tensor] = []
    why, picture = "", start
    for size in sizes:
        base = _resized(start, size).clamp(0, 1)  # bicubic overshoots
        values = parameterisation.encode(
            base if detail is None else (base + _resized(detail, size)).clamp(0, 1)
        ).clone()
        if noise and detail is None:
            values += parameterisation.spread * torch.randn(values.shape, generator=climb.generator).to(values)
        ascent = _Ascent(values, path.rate, path.optimiser, parameterisation.bounded)
        done = len(scores)
        for step in range(path.steps):
            if path.stopped():
                why = f"asked to stop after {len(scores)} of {total} steps"
                break
            score, gradient = climb.gradient(ascent.values, size, step)
            ascent.take(gradient, score)
            scores.append(score)
            if len(scores) in path.snapshots:
                kept[len(scores)] = parameterisation.decode(ascent.values, size).detach().clone()
            path.advance(1)
            look = step % PATIENCE == PATIENCE - 1 or values.device.type == "cpu"
            if look and not ascent.alive:
                break
        picture = parameterisation.decode(ascent.values, size).detach()
        detail = picture - base
        if not ascent.alive:
            scores = scores[: done + int(ascent.taken) + 1]
            kept = {step: taken for step, taken in kept.items() if step < len(scores)}
            why = f"step {len(scores)} of {total} met NaN or infinity; the picture is that before it"
            warnings.warn(f"dream: {why}", stacklevel=3)
        if why:
            break
    if picture.shape != start.shape and detail is not None:
        picture = (start + _resized(detail, start.shape[2:])).clamp(0, 1)
    told = torch.stack(scores) if scores else start.new_zeros(0, len(start))
    return Dream(picture, told, tuple(sizes), kept, why)


@dataclass(frozen=True)
class _Path:
    """How the steps of an ascent are taken, and who hears of them."""

    steps: int
    rate: float
    optimiser: Optimiser
    snapshots: Sequence[int]
    advance: Callable[[int], None]
    stopped: Callable[[], bool]


def _start(model: nn.Module, image: Tensor | Sequence[int], count: int) -> tuple[Tensor, bool]:
    """The picture to begin with, once for each objective, `[N C *spatial]`; and whether it is grey and needs noise."""
    place = _place(model)
    noise = not isinstance(image, Tensor)
    if isinstance(image, Tensor):
        if image.dtype not in (torch.float32, torch.float64) or image.ndim < 3 or not image.numel():
            raise ValueError(
                f"image: must be float32 or float64 [N C *spatial] in [0, 1], got {image.dtype} {list(image.shape)}"
            )
        found = image.detach() if image.ndim > 3 else image.detach()[None]
        if not (found.min() >= 0 and found.max() <= 1):
            raise ValueError(f"image: must be in [0, 1], got {found.min().item():.3g} to {found.max().item():.3g}")
    elif len(image) < 2 or min(image) < 1:
        raise ValueError(f"image: the size must be [C *spatial], got {list(image)}")
    else:
        found = torch.full((1, *image), 0.5, device=place.device)
    if count > 1 and len(found) not in (1, count):
        raise ValueError(f"image: {len(found)} pictures for {count} objectives; give one, or one for each")
    return (found.expand(count, *found.shape[1:]) if count > 1 else found).clone(), noise


def _place(model: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device that `model` works in."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def _sizes(extent: Sequence[int], octaves: int, factor: float) -> list[tuple[int, ...]]:
    """The sizes of all octaves, ascending; the last is `extent`."""
    return [tuple(max(1, round(side / factor**k)) for side in extent) for k in range(octaves - 1, -1, -1)]


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """`images` at another size; bicubic in two dimensions, smoothed where it shrinks."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    if images.ndim == 4:
        return F.interpolate(images, tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(images, tuple(size), mode="linear" if images.ndim == 3 else "trilinear", align_corners=False)


def _over_image(values: Tensor, how: Literal["mean", "std", "amax"]) -> Tensor:
    """One number an image, to divide by: of each image's `values`, 1 where that is 0."""
    flat = values.flatten(1)
    found = {"mean": flat.mean, "std": flat.std, "amax": flat.amax}[how](1)
    return torch.where(found == 0, 1.0, found).view(-1, *[1] * (values.ndim - 1))


def _check(path: _Path, normalisation: str, octaves: int, octave_scale: float) -> None:
    counts = {"steps": path.steps, "octaves": octaves}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if not 0 < path.rate < inf:
        raise ValueError(f"rate: must be above 0 and finite, got {path.rate}")
    wrong = [step for step in path.snapshots if not 1 <= step <= path.steps * octaves]
    if wrong:
        raise ValueError(f"snapshots: steps go from 1 to {path.steps * octaves} over all octaves, got {wrong[0]}")
    if octaves > 1 and not octave_scale > 1:
        raise ValueError(f"octave_scale: must be above 1, got {octave_scale}")
    for name, value, kind in (
        ("normalisation", normalisation, Normalisation),
        ("optimiser", path.optimiser, Optimiser),
    ):
        if value not in get_args(kind):
            raise ValueError(f"{name}: must be one of {', '.join(get_args(kind))}, got {value!r}")
