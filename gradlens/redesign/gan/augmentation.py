"""Differentiable augmentation: a discriminator of few data sees T(real) and T(fake), and its gradient flows back through T.

`draw` makes the random parameters of a batch and `augment` applies them, a function of its arguments alone with shapes that
depend on shapes alone: a step that holds it can be compiled, or captured in a CUDA graph that new parameters are copied into.

No augmentation writes a lattice or hides one: pixels move by whole steps, nothing is resized or interpolated. What each does to
the lattice in the gradient that a discriminator sends back is said in `augment`.

Source: Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, section 3.2 and appendix.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

POLICIES = ("colour", "flip", "translation", "cutout")
COLOURS = ("brightness", "saturation", "contrast")
FURTHEST = 8  # a translation moves by at most a side over this


def draw(
    count: int,
    policy: Collection[str],
    size: Sequence[int],
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Random parameters of `augment` for `count` images, each drawn by itself; shapes depend on `count` alone.

    Args:
        count: number of images.
        policy: names out of `POLICIES`, in any order; none leaves the images as they are.
        size: height and width of the images in pixels.
        generator: what is drawn from; one on the CPU gives the same numbers for every device.
        device: where the parameters go.

    Returns:
        Of "colour" `brightness` in [-0.5, 0.5], `saturation` in [0, 2] and `contrast` in [0.5, 1.5], `[count 1 1 1]`; of
        "flip" `flip` `[count]`, true for half of them; of "translation" `translation` `[count 2]`, whole pixels down and right,
        at most an eighth of the side either way; of "cutout" `cutout` `[count 2]`, the first row and column of a
        rectangle of half the sides, whose middle is any pixel.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> found = draw(2, ["cutout", "colour"], (32, 32), generator=torch.Generator().manual_seed(0))
        >>> {name: list(values.shape) for name, values in found.items() if name != "saturation"}
        {'brightness': [2, 1, 1, 1], 'contrast': [2, 1, 1, 1], 'cutout': [2, 2]}
    """
    for name in policy:
        if name not in POLICIES:
            raise ValueError(f"policy: must be names out of {', '.join(POLICIES)}, got {name!r}")

    def real(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)

    def whole(ranges: list[tuple[int, int]]) -> Tensor:
        each = [
            torch.randint(low, high, (count,), generator=generator, device=generator.device) for low, high in ranges
        ]
        return torch.stack(each, 1)

    drawn: dict[str, Tensor] = {}
    if "colour" in policy:
        drawn |= {"brightness": real(-0.5, 0.5), "saturation": real(0, 2), "contrast": real(0.5, 1.5)}
    if "flip" in policy:
        drawn["flip"] = whole([(0, 2)])[:, 0].bool()
    if "translation" in policy:
        drawn["translation"] = whole([(-(side // FURTHEST), side // FURTHEST + 1) for side in size])
    if "cutout" in policy:
        drawn["cutout"] = whole([(-(side // 2 // 2), side - side // 2 // 2) for side in size])
    return {name: values.to(device, non_blocking=True) for name, values in drawn.items()}


def augment(images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """`images` changed by `parameters`: colour, then flip, then translation, then cutout.

    With m the mean over channels of a pixel and M that of the image, colour is x + brightness, then m + saturation (x - m),
    then M + contrast (x - M). A flip mirrors left and right; what a translation uncovers and what is cut is 0, mid-grey.

    What happens to a lattice of period T in the gradient that returns:
    - colour: scaled as all else, colour differences by saturation and all but the mean by contrast;
    - translation: as strong in each image, but of another phase, so the mean over images loses it as by jitter: of
      n = 2 (side // 8) + 1 offsets an axis `dream.jitter_attenuation(n, T)` of its amplitude is left (1/9 at 32 px, 1/17 at 64 px
      for T = 2), and of the power that N draws leave 1 / N at least. The bundled discriminator, 256 images of CIFAR-10: the phase
      imbalance at T = 2 goes from 0.26 to 0.02, the lattice contrast of single gradients stays;
    - flip: phase q of a row goes to T - 1 - q, so of T = 2 the mean keeps what varies down the columns alone (even width);
    - cutout: windowed; it stays in what is left.

    The same holds for a lattice of the images themselves, which is seen as strong as it is, at another phase. Edges that a
    translation uncovers, or that are cut, have no period and yet read as up to 1 and 1.5 dB in photographs (T = 2).

    Args:
        images: `[N C H W]`, floating point, in [-1, 1].
        parameters: of `draw`, for N images of this size.

    Returns:
        `[N C H W]`, as `images` in dtype, device and memory format; colour may leave [-1, 1].

    Raises:
        ValueError: the parameters are of another number of images.

    Source: Zhao et al. 2020; the flip is the usual one, and a whole rectangle of the image's proportions is ours.
    """
    for name, values in parameters.items():
        if len(values) != len(images):
            raise ValueError(f"parameters: {name} is drawn for {len(values)} images, got {len(images)}; draw as many")
    if "brightness" in parameters:
        images = _coloured(images, *(parameters[name].to(images.dtype) for name in COLOURS))
    if "flip" in parameters or "translation" in parameters:
        images = _moved(images, parameters.get("flip"), parameters.get("translation"))
    if "cutout" in parameters:
        images = images * ~_cut(images, parameters["cutout"])
    return images


def _coloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (images - mean)


def _moved(images: Tensor, flip: Tensor | None, translation: Tensor | None) -> Tensor:
    """Flipped, then translated over zeros: a permutation of the pixels, which wraps around, and a mask."""
    (height, width), (rows, columns) = images.shape[2:], _coordinates(images)
    if translation is not None:
        rows, columns = rows - translation[:, :1], columns - translation[:, 1:]
    inside = _both((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    columns = columns % width
    if flip is not None:
        columns = torch.where(flip[:, None], width - 1 - columns, columns)
    source = rows[:, :, None] % height * width + columns[:, None, :]
    return _taken(images, source.expand(len(images), -1, -1).flatten(1)) * inside


def _cut(images: Tensor, first: Tensor) -> Tensor:
    """Where the rectangle of half the sides is that begins at `first` `[N 2]`: `[N 1 H W]`."""
    (height, width), (rows, columns) = images.shape[2:], _coordinates(images)
    rows, columns = rows - first[:, :1], columns - first[:, 1:]
    return _both((rows >= 0) & (rows < height // 2), (columns >= 0) & (columns < width // 2))


def _coordinates(images: Tensor) -> list[Tensor]:
    """Every row `[1 H]` and every column `[1 W]`."""
    return [torch.arange(side, device=images.device)[None] for side in images.shape[2:]]


def _both(rows: Tensor, columns: Tensor) -> Tensor:
    """`[N H]` and `[N W]` as one mask `[N 1 H W]`."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _taken(images: Tensor, source: Tensor) -> Tensor:
    """The pixels of `images` `[N C H W]` at `source` `[N H*W]`, row after row, in the memory format of `images`."""
    n, channels, height, width = images.shape
    if images.is_contiguous():
        return images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1)).view(images.shape)
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2)  # [N H*W C], of channels-last a view
    taken = pixels.gather(1, source[:, :, None].expand(-1, -1, channels))
    return taken.view(n, height, width, channels).permute(0, 3, 1, 2)
