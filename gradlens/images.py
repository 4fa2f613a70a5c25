"""Photographs in, `[C H W]` tensors in [0, 1] out: the four sample photographs, folders, single files.

A picture is turned upright, transparency is laid on white, and it is brought to the size a network was trained for by
that network's own recipe (resize, then centre crop). Resizing acts on spectra: the photographs are measured as the
network sees them, as the control of every gradient.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from torch import Tensor

SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image: CC0 or public domain, inside its wheel
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
STRIP = 16  # times its width: what is longer is cut before it is resized


class UnreadableError(ValueError):
    """A file that does not read as a picture, and the `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"images: {name!r} does not read as a picture ({reason})")
        self.reason = reason


@dataclass(frozen=True)
class Photograph:
    """A picture by name, opened when asked for."""

    name: str
    open: Callable[[], Image.Image]


def photographs(source: Path | None = None, *, limit: int | None = None) -> list[Photograph]:
    """The pictures of `source`: a file, a folder or zip file (searched to its depths, by name), or the samples where None.

    A folder is read no further than `limit` needs; a link to another folder is not followed.

    Raises:
        ValueError: there is no such file or folder, it holds no picture, or `limit` is below 1.
        OSError: a folder may not be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1 image, got {limit}")
    if source is None:
        return [Photograph(name, lambda name=name: sample(name)) for name in SAMPLES][:limit]
    if source.is_dir():
        files = islice(_files(source), limit and min(limit, sys.maxsize))
        found = [Photograph(_name(p.relative_to(source)), lambda p=p: open_image(p)) for p in files]
        if not found:
            raise ValueError(f"images: {str(source)!r} holds no picture ({', '.join(sorted(SUFFIXES))})")
        return found
    if not source.exists():
        raise ValueError(f"images: there is no file or folder {str(source)!r}")
    if source.suffix.lower() == ".zip":
        return _zipped(source)[:limit]
    return [Photograph(_name(Path(source.name)), lambda: open_image(source))]


def _zipped(path: Path) -> list[Photograph]:
    """The pictures in a zip file, by name; it stays open as long as one of them is held."""
    try:
        archive = ZipFile(path)
    except (BadZipFile, OSError) as error:
        raise ValueError(f"images: {str(path)!r} is no whole zip file ({error})") from error
    named = [n for n in archive.namelist() if os.path.splitext(n)[1].lower() in SUFFIXES]
    names = sorted(named, key=lambda n: n.split("/"))  # as a folder is walked
    if not names:
        raise ValueError(f"images: {str(path)!r} holds no picture ({', '.join(sorted(SUFFIXES))})")

    def opened(name: str) -> Image.Image:
        try:
            content = archive.read(name)
        except Exception as error:  # damaged, encrypted, of an unknown compression
            raise UnreadableError(_name(Path(name)), _reason(error)) from error
        return _opened(io.BytesIO(content), name)

    return [Photograph(_name(Path(name)), lambda name=name: opened(name)) for name in names]


def _name(path: Path) -> str:
    """`path` in words; bytes that are no Unicode, which a table cannot hold, are spelled out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _files(folder: Path) -> Iterator[Path]:
    """What is named like a picture in `folder` and the folders in it, by name; one `stat` at most for an entry."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)
    except OSError as error:
        raise OSError(f"images: the folder {str(folder)!r} cannot be read ({error.strerror})") from error
    for name, is_folder in found:
        if is_folder:
            yield from _files(folder / name)
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            yield folder / name


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
    """The picture in a file, upright, 8-bit RGB or grey; transparency is laid on white, an animation is its first frame.

    16 bits, and floating point from 0 to 1, are scaled to 8 bits.

    Raises:
        UnreadableError: there is no such file, it does not read as a picture, or its levels are out of range.
    """
    if not os.path.isfile(path):  # opening a pipe would wait for a writer
        raise UnreadableError(_name(Path(path.name)), "no file, or a link to none")
    return _opened(path, path.name)


def _opened(file: Path | io.BytesIO, name: str) -> Image.Image:
    """The picture in a file or its bytes, as `open_image` says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture (twice that is an error) or odd metadata
            with Image.open(file) as image:
                image.load()
                return _plain(image)
    except Exception as error:  # a broken header leads Pillow to struct.error, zlib.error, IndexError, MemoryError, ...
        raise UnreadableError(_name(Path(name)), _reason(error)) from error


def _reason(error: Exception) -> str:
    """What went wrong, in a few words without a path."""
    if isinstance(error, UnidentifiedImageError):
        return "of no known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller"
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(told.split()) or type(error).__name__


def _plain(image: Image.Image) -> Image.Image:
    """A loaded `image` upright, in 8-bit RGB or grey, on white."""
    unmarked = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
    image = ImageOps.exif_transpose(image)
    if unmarked:  # Pillow takes Adobe's inverted inks for granted
        image = ImageChops.invert(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = np.asarray(image, dtype=np.float64)
        top = 1 if image.mode == "F" else 65535
        if not 0 <= levels.min() <= levels.max() <= top:
            raise ValueError(f"levels beyond 0 to {top}; convert it to 8 or 16 bits")
        image = Image.fromarray(np.rint(levels * (255 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "L" else image.convert("RGB")


def fit(image: Image.Image, input_size: Sequence[int], *, interpolation: str, crop_pct: float) -> Tensor:
    """`image` as a network of `input_size` `[C H W]` sees it: timm's evaluation transform, without normalisation.

    Of a strip longer than 16 times its width only the middle is resized, which holds all that the crop keeps.

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
    pixels = transform(_middle(image).convert("L" if channels == 1 else "RGB"))  # uint8, [C H W]
    if pixels.shape[0] != channels:
        raise ValueError(f"input_size: pictures have 1 or 3 channels, the network wants {channels}")
    return pixels


def _middle(image: Image.Image) -> Image.Image:
    """The middle of a strip longer than `STRIP` times its width: enlarged whole, 1 x 60,000 px would be gigabytes."""
    width, height = image.size
    longest = STRIP * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def batches(
    found: Sequence[Photograph],
    prepare: Callable[[Image.Image], Tensor],
    batch_size: int,
    *,
    leave_out: Callable[[str, str], None] | None = None,
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images `[N C H W]` of `found`, `batch_size` at a time.

    Args:
        found: from `photographs`.
        prepare: makes every image `[C H W]` of one size.
        batch_size: at least 1.
        leave_out: called with the name of a picture that does not read and the reason; the batches are then those of
            the others. Without it the error is raised.

    Raises:
        UnreadableError: a picture does not read.
        ValueError: `batch_size` is below 1, or of pictures that may be left out not one reads.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    prepared = ((name, prepare(image)) for name, image in _read(found, leave_out))
    while part := list(islice(prepared, min(batch_size, len(found)))):
        yield [name for name, _ in part], torch.stack([image for _, image in part])


def _read(
    found: Sequence[Photograph], leave_out: Callable[[str, str], None] | None
) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of `found`, one after the other; those that do not read go to `leave_out`."""
    left_out = []
    for photograph in found:
        try:
            image = photograph.open()
        except UnreadableError as error:
            if leave_out is None:
                raise
            leave_out(photograph.name, error.reason)
            left_out.append((photograph.name, error))
        else:
            yield photograph.name, image
    if left_out and len(left_out) == len(found):
        name, error = left_out[0]
        raise (
            error
            if len(found) == 1
            else ValueError(
                f"images: none of the {len(found)} pictures could be read; the first, {name!r}: {error.reason}"
            )
        )
