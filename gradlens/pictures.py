"""Sets of pictures at their own sizes: samples and the real ones they are held against, in batches and in pairs.

A picture is opened twice: once to learn its size and whether it reads, once to be measured.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from gradlens.console import say
from gradlens.images import Photograph, photographs

PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Pictures:
    """The readable pictures of one set, their shapes `[C H W]`, and what did not read, with the reason."""

    name: str
    subject: str
    found: list[Photograph]
    shapes: list[tuple[int, ...]]
    skipped: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [photograph.name for photograph in self.found]

    def first(self, count: int) -> "Pictures":
        """The first `count` of them, and what did not read."""
        return replace(self, found=self.found[:count], shapes=self.shapes[:count])


def picture_sets(images: Sequence[Path], against: Path | None, *, limit: int | None = None) -> list[Pictures]:
    """The samples `images` and, where given, the real pictures `against`, each opened once to learn its size.

    Raises:
        ValueError: none of a set reads.
    """
    sources = [images, *([(against,)] if against else [])]
    sets = []
    for name, subject, paths in zip(_set_names(sources), ("sample", "image"), sources, strict=False):
        found, shapes, skipped = [], [], {}
        for photograph in all_photographs(paths, limit=limit):
            try:
                image = photograph.open()
            except ValueError as error:
                skipped[photograph.name] = str(error)
                continue
            found.append(photograph)
            shapes.append((len(image.getbands()), image.height, image.width))
        if not found:
            raise ValueError(f"images: none of the {len(skipped)} in {name!r} reads; {next(iter(skipped.values()))}")
        for why in skipped.values():
            say(f"left out: {why.removeprefix('images: ')}")
        sets.append(Pictures(name, subject, found, shapes, skipped))
    return sets


def all_photographs(paths: Sequence[Path], *, limit: int | None = None) -> list[Photograph]:
    """The pictures of all `paths`, once each; of several paths each keeps its path as typed, or two could share a name.

    Raises:
        ValueError, OSError: as `photographs`.
    """
    if len(paths) < 2:
        return photographs(*paths, limit=limit)
    found: dict[str, Photograph] = {}
    for path in paths:
        alone = path.is_file() and path.suffix.lower() != ".zip"
        for photograph in photographs(path, limit=limit):
            name = path.as_posix() if alone else (path / photograph.name).as_posix()
            found.setdefault(name, Photograph(name, photograph.open))
    return list(found.values())[:limit]


def _set_names(sources: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each set: its folder's or file's own, with as many parents as tell two sets apart."""
    places = [Path(os.path.commonpath([path.resolve() for path in paths])) for paths in sources]
    parts = [place.parts[1:] or ("images",) for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{p[-1]} {mark}" for p, mark in zip(parts, "ab", strict=True)]


def batches_of(pictures: Pictures, channels: int) -> Iterator[Tensor]:
    """The pictures in order, `[N C H W]`; neighbours of one size together."""
    of_one_size = groupby(zip(pictures.shapes, pictures.found, strict=True), key=lambda pair: pair[0][1:])
    for size, group in of_one_size:
        found = [photograph for _, photograph in group]
        step = max(1, PIXELS_AT_ONCE // prod(size))
        for start in range(0, len(found), step):
            yield torch.stack([levels_of(photograph, channels) for photograph in found[start : start + step]])


def levels_of(photograph: Photograph, channels: int) -> Tensor:
    """A picture `[C H W]` in [0, 1]; a grey one among coloured ones has three equal channels: its contrast is the same."""
    levels = np.atleast_3d(np.asarray(photograph.open()))
    pixels = torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255
    return pixels.expand(channels, *pixels.shape[1:])


def pairs_of(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str] | None:
    """Our name for each of theirs where all names match, with or without what follows the last dot; else None."""
    for key in (str, lambda name: str(PurePosixPath(name).with_suffix(""))):
        mine, other = ({key(name): name for name in names} for names in (ours, theirs))
        if mine.keys() == other.keys() and len(mine) == len(ours) == len(theirs):
            return {name: mine[k] for k, name in other.items()}
    return None
