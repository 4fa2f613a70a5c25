"""Pictures for training: decoded once, kept as uint8, on the device where they fit, dealt in an order that the seed decides.

What is smaller than the resolution is left out: enlarging it would paint a lattice of its own into the data.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gradlens.console import progress, say
from gradlens.images import Photograph, UnreadableError
from gradlens.pictures import all_photographs
from gradlens.redesign.gan.device import sent

AHEAD = 64  # pictures that are decoded before they are wanted
ON_HOST = 0.5  # of the free memory that images may take; the rest goes to a file
ON_DEVICE = 0.4  # of a device's free memory
SAID = 5  # names that are printed of what is left out


@dataclass(frozen=True)
class Data:
    """Training images, and where they come from.

    `images` `[N C R R]` uint8 on the host; `skipped` holds the reason for each picture that was left out; `sha256` is of the
    images' bytes and shape.
    """

    images: Tensor
    source: str
    found: int
    skipped: dict[str, str]
    sha256: str

    @property
    def told(self) -> dict[str, object]:
        """What a manifest keeps of it."""
        count, channels, side, _ = self.images.shape
        return {
            "source": self.source, "found": self.found, "used": count, "skipped": self.skipped, "sha256": self.sha256,
            "resolution": side, "channels": channels,
        }  # fmt: skip


def read(
    sources: Sequence[Path],
    resolution: int,
    *,
    channels: int = 3,
    patches: int = 0,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """The pictures of `sources` at `resolution`, decoded by all cores, in the order of their names.

    Args:
        sources: folders, zip files, files; the sample photographs where empty.
        resolution: R, in pixels.
        channels: 1 or 3.
        patches: 0: the middle of each picture, its shorter side brought to R; n: so many squares of random place and side, from R
            to half the shorter side, brought to R.
        limit: at most so many pictures.
        seed: of the places.

    Raises:
        ValueError: there is no picture that will do, or only one.
        OSError: a folder may not be read.
    """
    found = all_photographs(sources, limit=limit)
    each = patches or 1
    store = _room(len(found) * each, channels, resolution)
    skipped: dict[str, str] = {}
    used = 0
    with progress("decoding", len(found)) as advance:
        for photograph, made in _decoded(found, resolution, channels, patches, seed):
            advance()
            if isinstance(made, str):
                skipped[photograph.name] = made
                if len(skipped) <= SAID:
                    say(f"left out {photograph.name!r}: {made}")
                continue
            store[used : used + each] = made
            used += each
    if len(skipped) > SAID:
        say(f"left out {len(skipped)} of {len(found)} pictures; all are named in manifest.json")
    _check_enough(used, found, skipped, resolution)
    images = torch.from_numpy(store[:used])
    source = ", ".join(path.name or str(path) for path in sources) or "the sample photographs"
    return Data(images, source, len(found), skipped, _hash(images))


def of_tensor(images: Tensor) -> Data:
    """Images that are decoded already, `[N C R R]` uint8."""
    return Data(images, "a tensor", len(images), {}, _hash(images))


def _check_enough(used: int, found: Sequence[Photograph], skipped: dict[str, str], resolution: int) -> None:
    if used == 0:
        name, reason = next(iter(skipped.items()))
        raise ValueError(
            f"--data: none of {len(found)} pictures will do at {resolution} px; the first, {name!r}: {reason}; give larger "
            "ones, or a smaller --resolution"
        )
    if used == 1:
        raise ValueError("--data: one picture is no data set; give more, or cut it up with --patches 1000")


def _decoded(
    found: Sequence[Photograph], resolution: int, channels: int, patches: int, seed: int
) -> Iterator[tuple[Photograph, np.ndarray | str]]:
    """Each photograph with its images `[n C R R]` uint8, or the reason why it has none; in order, some decoded ahead."""

    def decode(number: int) -> np.ndarray | str:
        try:
            image = found[number].open()
        except UnreadableError as error:
            return error.reason
        if min(image.size) < resolution * (2 if patches else 1):
            width, height = image.size
            return f"{width} x {height} px, below {resolution * (2 if patches else 1)}"
        image = image.convert("L" if channels == 1 else "RGB")
        random = np.random.default_rng((seed, number))
        boxes = [_patch(image.size, resolution, random) for _ in range(patches)] or [_middle(image.size)]
        return np.stack([_pixels(image, box, resolution) for box in boxes])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting: list[Future[np.ndarray | str]] = []
        for number in range(min(AHEAD, len(found))):
            waiting.append(pool.submit(decode, number))
        for number, photograph in enumerate(found):
            made = waiting.pop(0).result()
            if number + AHEAD < len(found):
                waiting.append(pool.submit(decode, number + AHEAD))
            yield photograph, made


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest square in the middle: left, top, right, bottom."""
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _patch(size: tuple[int, int], resolution: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A square of random place and side, sides evenly on a logarithmic scale."""
    low, high = math.log(resolution), math.log(min(size) // 2)
    side = round(math.exp(random.uniform(low, high)))
    left, top = (int(random.integers(0, extent - side + 1)) for extent in size)
    return left, top, left + side, top + side


def _pixels(image: Image.Image, box: tuple[int, int, int, int], resolution: int) -> np.ndarray:
    """`[C R R]` uint8 of the square `box`: its own pixels where it has that size, else reduced by an antialiased filter."""
    side = box[2] - box[0]
    size = (resolution, resolution)
    part = image.crop(box) if side == resolution else image.resize(size, Image.Resampling.LANCZOS, box=box)
    levels = np.asarray(part)
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def _room(count: int, channels: int, resolution: int) -> np.ndarray:
    """`[count C R R]` uint8: in memory, or in a file without a name where that would take more than half of what is free."""
    shape = (count, channels, resolution, resolution)
    if math.prod(shape) <= ON_HOST * _free():
        return np.empty(shape, np.uint8)
    say(f"{math.prod(shape) / 2**30:.0f} GiB of images go to a temporary file in {tempfile.gettempdir()}")
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)  # the map keeps the file


def _free() -> float:
    """Bytes of memory that are free; a guess where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4e9


def _hash(images: Tensor) -> str:
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    for part in images.split(1024):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Dealer:
    """Deals batches: batch k is the same whatever was dealt before it, and each epoch has every image once.

    On a device that has room the images lie there; else each batch is gathered on the host while the one before it is trained.

    Args:
        images: `[N C R R]` uint8 on the host.
        batch_size: of all processes.
        device: where batches are wanted.
        seed: of the order.
        rank, processes: this process gets every `processes`-th image of a batch, from `rank` on.
    """

    def __init__(
        self, images: Tensor, batch_size: int, device: torch.device, *, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.batch_size, self.device, self.seed = batch_size, device, seed
        self.rank, self.processes = rank, processes
        self.resident = device.type == "cpu" or images.numel() < ON_DEVICE * _free_on(device)
        self.images = images.to(device) if self.resident else images
        self.pool = None if self.resident else ThreadPoolExecutor(1)
        self.ahead: tuple[int, Future[Tensor]] | None = None
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)

    def numbers(self, batch: int) -> Tensor:
        """Which images batch number `batch` holds, of this process: `[batch_size / processes]`."""
        first, count = batch * self.batch_size, len(self.images)
        parts = []
        while len(parts) == 0 or sum(map(len, parts)) < self.batch_size:
            at = first + sum(map(len, parts))
            parts.append(self._epoch(at // count)[at % count :][: self.batch_size])
        return torch.cat(parts)[: self.batch_size][self.rank :: self.processes]

    def deal(self, batch: int) -> Tensor:
        """Batch number `batch`, `[batch_size / processes C R R]` uint8 on the device."""
        if self.pool is None:
            return self.images[sent(self.numbers(batch), self.device)]
        if self.ahead is None or self.ahead[0] != batch:
            self.ahead = (batch, self.pool.submit(self._gather, self.numbers(batch)))
        made = self.ahead[1].result().to(self.device, non_blocking=True)
        self.ahead = (batch + 1, self.pool.submit(self._gather, self.numbers(batch + 1)))
        return made

    def _gather(self, numbers: Tensor) -> Tensor:
        return self.images[numbers].pin_memory()

    def _epoch(self, epoch: int) -> Tensor:
        """The order of all images in an epoch."""
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self.epoch, self.order = epoch, torch.randperm(len(self.images), generator=generator)
        return self.order


def seed_of(seed: int, purpose: str, number: int) -> int:
    """A seed of its own for each number of each purpose."""
    text = f"{seed} {purpose} {number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7])


def _free_on(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return _free()
