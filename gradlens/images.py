"""Photographs in, `[C H W]` tensors in [0, 1] out: the four sample photographs, folders, single files.

A picture is turned upright, transparency is laid on white, and it is brought to the size a network was trained for by
that network's own recipe (resize, then centre crop). Resizing acts on spectra: the photographs are measured as the
network sees them, as the control of every gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image: CC0 or public domain, inside its wheel
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class Photograph:
    """A picture by name, opened when asked for."""

    name: str
    open: Callable[[], Image.Image]


def photographs(source: Path | None = None, *, limit: int | None = None) -> list[Photograph]:
    """The pictures of `source`: a file, a folder (searched to its depths, by name), or the samples where None.

    Raises:
        ValueError: there is no such file or folder, it holds no picture, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1 image, got {limit}")
    if source is None:
        found = [Photograph(name, lambda name=name: sample(name)) for name in SAMPLES]
    elif source.is_file():
        found = [Photograph(source.name, lambda: open_image(source))]
    elif source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        found = [Photograph(p.relative_to(source).as_posix(), lambda p=p: open_image(p)) for p in files]
        if not found:
            raise ValueError(f"images: {str(source)!r} holds no picture ({', '.join(sorted(SUFFIXES))})")
    else:
        raise ValueError(f"images: there is no file or folder {str(source)!r}")
    return found[:limit]


def sample(name: str) -> Image.Image:
    """One of the sample photographs, RGB.

    Raises:
        ValueError: `name` is none of them.
    """
    if name not in SAMPLES:
        raise ValueError(f"sample: must be one of {', '.join(SAMPLES)}, got {name!r}")
    from skimage import data

    return Image.fromarray(getattr(data, name)()).convert("RGB")


def open_image(path: Path) -> Image.Image:
    """The picture in a file, upright, 8-bit RGB or grey; transparency is laid on white.

    16 bits, and floating point from 0 to 1, are scaled to 8 bits.

    Raises:
        ValueError: the file does not read as a picture, or its levels are out of range.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"images: {path.name!r} does not read as a picture ({error})") from error
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = np.asarray(image, dtype=np.float64)
        top = 1 if image.mode == "F" else 65535
        if not 0 <= levels.min() <= levels.max() <= top:
            raise ValueError(f"images: {path.name!r} holds levels beyond 0 to {top}; convert it to 8 or 16 bits")
        image = Image.fromarray(np.rint(levels * (255 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "L" else image.convert("RGB")


def fit(image: Image.Image, input_size: Sequence[int], *, interpolation: str, crop_pct: float) -> Tensor:
    """`image` as a network of `input_size` `[C H W]` sees it: timm's evaluation transform, without normalisation.

    Returns:
        `[C H W]` float32 in [0, 1].
    """
    return fit_levels(image, input_size, interpolation=interpolation, crop_pct=crop_pct).float() / 255


def fit_levels(image: Image.Image, input_size: Sequence[int], *, interpolation: str, crop_pct: float) -> Tensor:
    """As `fit`, in the levels of 8 bits: `[C H W]` uint8, a quarter of the bytes on the way to a GPU."""
    from timm.data.transforms_factory import create_transform

    channels = input_size[0]
    size = (channels, input_size[1], input_size[2])
    transform: Any = create_transform(
        size, is_training=False, interpolation=interpolation, crop_pct=crop_pct, normalize=False
    )
    pixels = transform(image.convert("L" if channels == 1 else "RGB"))  # uint8, [C H W]
    if pixels.shape[0] != channels:
        raise ValueError(f"input_size: pictures have 1 or 3 channels, the network wants {channels}")
    return pixels


def batches(
    found: Sequence[Photograph], prepare: Callable[[Image.Image], Tensor], batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images `[N C H W]` of `found`, `batch_size` at a time.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    for start in range(0, len(found), batch_size):
        part = found[start : start + batch_size]
        yield [p.name for p in part], torch.stack([prepare(p.open()) for p in part])
