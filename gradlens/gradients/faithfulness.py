"""Does an attribution name the pixels that the score hangs on: deletion and insertion.

Pixels change from one picture to another in the order of their importance, and the score is followed on the way:

    AUC = integral over the part of the pixels that has changed, from 0 to 1, by the trapezoidal rule

A faithful map makes the score fall fast when its first pixels are deleted and rise fast when they are inserted.
Source: Petsiuk, Das, Saenko 2018 (RISE), section 4.2.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gradlens.gradients.scores import Score, logits
from gradlens.modules import undisturbed
from gradlens.spectra.signal import at_home, in_float64

Rank = Literal["absolute", "signed"]
Baseline = Literal["mean", "blur"] | float | Tensor

BLURRED = 32  # the blur's standard deviation is this part of the longest side


def deletion(
    model: nn.Module,
    images: Tensor,
    attribution: Tensor,
    *,
    rank: Rank = "absolute",
    score: Score | None = None,
    steps: int = 50,
    baseline: Baseline = "mean",
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Area under the score of each image as its pixels take the value of `baseline`, the most important first.

    With n_k = round(k P / `steps`) of P pixels changed at step k = 0 ... `steps`, all channels of a pixel at once, and s_k
    the score there: sum over k of (n_(k+1) - n_k) (s_k + s_(k+1)) / (2 P).

    Range: [0, 1] for a probability; lower is more faithful. Of a random order, for a score that is linear in the pixels,
        the mean of the scores of the image and its baseline.
    Blind to: the values of the map, of which the order alone counts. Pixels deleted one by one make a texture that no
        network was trained on: a map with a grid deletes on that grid, and a score may fall for that alone.

    The model runs in eval mode; its modes, parameters, `.grad`, hooks and the random state are left as they were.

    Args:
        model: any module that takes `images`; it may return whatever `score` reads.
        images: `[N C *spatial]`, floating point, as the model takes them; on the model's device.
        attribution: `[N C *spatial]`, or with one channel for all.
        rank: a pixel's importance is the sum over channels of the `"absolute"` values, for what is a gradient, or of the
            `"signed"` ones, for what adds up to the score. Equal pixels change in a random order.
        score: from what the model returns to one value a row. The probability of the class that wins on the image itself
            unless given, throughout; a score that is given is used as it is.
        steps: pixels change in so many equal parts.
        baseline: what pixels become: the `"mean"` of the image's own channel, the image under a Gaussian `"blur"` of
            standard deviation 1/32 of its longest side, a number, or a tensor that broadcasts to `images`.
        batch_size: rows that the network sees at once.
        seed: of the order of equal pixels, the same for every image.

    Returns:
        `[N]`, float64 (float32 where the device has none), in the unit of the score.

    Raises:
        ValueError: the attribution does not fit the images or is not finite, a setting is out of range, or the output has
            no class to win.

    Source: Petsiuk et al. 2018, who delete to the data set's mean, 224 pixels a step.

    Example:
        >>> model, image = nn.Flatten(), torch.tensor([[[[4.0, 2.0], [0.0, 0.0]]]])
        >>> deletion(model, image, image, score=lambda y: y.sum(1), steps=4, baseline=0.0).item()
        1.25
    """
    return _area(model, images, attribution, rank, score, steps, baseline, batch_size, seed, inserted=False)


def insertion(
    model: nn.Module,
    images: Tensor,
    attribution: Tensor,
    *,
    rank: Rank = "absolute",
    score: Score | None = None,
    steps: int = 50,
    baseline: Baseline = "blur",
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Area under the score as the pixels of each image appear on its `baseline`, the most important first.

    The equation is that of `deletion`, on the way from the baseline to the image.

    Range: [0, 1] for a probability; higher is more faithful.
    Blind to: as `deletion`. A map of few large patches inserts pieces of picture, whatever it knows: compare with a
        smooth random map.

    Args, Returns, Raises: as `deletion`.

    Source: Petsiuk et al. 2018, who insert into a blurred image.

    Example:
        >>> model, image = nn.Flatten(), torch.tensor([[[[4.0, 2.0], [0.0, 0.0]]]])
        >>> insertion(model, image, image, score=lambda y: y.sum(1), steps=4, baseline=0.0).item()
        4.75
    """
    return _area(model, images, attribution, rank, score, steps, baseline, batch_size, seed, inserted=True)


def _area(
    model: nn.Module,
    images: Tensor,
    attribution: Tensor,
    rank: Rank,
    score: Score | None,
    steps: int,
    baseline: Baseline,
    batch_size: int,
    seed: int,
    *,
    inserted: bool,
) -> Tensor:
    """The area under the score on the way from the images to their baseline, or, `inserted`, from there to them."""
    order = _order(images, attribution, rank, seed)
    ends = (images, _baseline(images, baseline))
    start, end = reversed(ends) if inserted else ends
    pixels = order.shape[1]
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if not 1 <= steps <= pixels:
        raise ValueError(f"steps: must be from 1 to the image's {pixels} pixels, got {steps}")
    counts = torch.tensor([(2 * k * pixels + steps) // (2 * steps) for k in range(steps + 1)], device=images.device)
    rows = torch.cartesian_prod(*(torch.arange(n, device=images.device) for n in (len(images), steps + 1)))
    with torch.no_grad(), undisturbed(model):
        winners = order[:, 0] if score else torch.cat([_winner(model(p.clone())) for p in images.split(batch_size)])
        found = []
        for number, step in (part.unbind(1) for part in rows.split(batch_size)):
            changed = (order[number] < counts[step, None]).view(-1, 1, *images.shape[2:])
            output = model(torch.where(changed, end[number], start[number]))
            value = score(output) if score else _probability(output, winners[number])
            if value.shape != number.shape:
                raise ValueError(f"score: must give one value for each of {len(number)} rows, got {list(value.shape)}")
            found.append(value.cpu().double())
    values = torch.cat(found).view(len(images), steps + 1)
    widths = counts.diff().cpu().double() / pixels
    return at_home(((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(1), images)


def _order(images: Tensor, attribution: Tensor, rank: Rank, seed: int) -> Tensor:
    """The place of each pixel in the order of importance, 0 is first: `[N P]`; equal pixels in a random order."""
    if rank not in get_args(Rank):
        raise ValueError(f"rank: must be one of {', '.join(get_args(Rank))}, got {rank!r}")
    if not images.is_floating_point() or images.ndim < 3 or not images.numel():
        raise ValueError(f"images: must be [N C *spatial], floating point, got {list(images.shape)} {images.dtype}")
    wanted = {(images.shape[0], channels, *images.shape[2:]) for channels in (1, images.shape[1])}
    if tuple(attribution.shape) not in wanted:
        raise ValueError(
            f"attribution: must have the shape of images, {list(images.shape)}, or one channel, got {list(attribution.shape)}"
        )
    if not attribution.isfinite().all():
        raise ValueError("attribution: holds NaN or infinity; leave those images out")
    importance = in_float64(attribution.detach())
    importance = (importance.abs() if rank == "absolute" else importance).sum(1).flatten(1)
    shuffled = torch.randperm(importance.shape[1], generator=torch.Generator().manual_seed(seed)).to(importance.device)
    falling = importance[:, shuffled].argsort(dim=1, descending=True, stable=True)
    return shuffled[falling].argsort(1).to(images.device)


def _baseline(images: Tensor, baseline: Baseline) -> Tensor:
    """What pixels are replaced by, in the shape of `images`."""
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(f"baseline: must be one of {', '.join(BASELINES)}, a number or a tensor, got {baseline!r}")
        return BASELINES[baseline](images.detach()).expand_as(images)
    given = torch.as_tensor(baseline, dtype=images.dtype, device=images.device).detach()
    try:
        return given.expand_as(images)
    except RuntimeError as error:
        raise ValueError(
            f"baseline: must broadcast to images, {list(images.shape)}, got {list(given.shape)}"
        ) from error


def _mean(images: Tensor) -> Tensor:
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def _blurred(images: Tensor) -> Tensor:
    """Each pixel as the Gaussian mean of those around it, of those that there are at a border."""
    deviation = max(images.shape[2:]) / BLURRED
    for axis, extent in enumerate(images.shape[2:], start=2):
        place = torch.arange(extent, dtype=images.dtype, device=images.device)
        weight = (-0.5 * ((place[:, None] - place) / deviation).square()).softmax(1)
        images = (images.movedim(axis, -1) @ weight.T).movedim(-1, axis)
    return images


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "blur": _blurred}


def _winner(output: Any) -> Tensor:
    """Which class wins in each row `[N]`."""
    found = logits(output)
    if found.shape[1] < 2:
        raise ValueError("score: the model gives one value, not the logits of classes; give a score for it")
    return found.argmax(1)


def _probability(output: Any, winners: Tensor) -> Tensor:
    """The probability of a given class in each row `[N]`."""
    found = logits(output)
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    return found.softmax(1).gather(1, winners[:, None])[:, 0]
