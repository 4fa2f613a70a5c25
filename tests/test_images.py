"""Photographs: which are found, how a file becomes RGB, what a network sees, and what does not read."""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gradlens import images

Levels = NDArray[np.uint8]

SIDE = 16  # of a flat patch: JPEG keeps it, up to rounding
CORNERS = np.array([[[200, 30, 40], [20, 180, 60]], [[30, 60, 220], [240, 230, 90]], [[0, 0, 0], [255, 255, 255]]])
PATCHES = CORNERS.astype(np.uint8).repeat(SIDE, 0).repeat(SIDE, 1)  # [48 32 3]
JPEG = {"quality": 100, "subsampling": 0}
JPEG_AWAY = 3  # levels: rounding of the DCT and of two changes of colour space


def random_levels(*shape: int) -> Levels:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def opened(path: Path) -> Levels:
    return np.asarray(images.open_image(path))


def names(found: list[images.Photograph]) -> list[str]:
    return [photograph.name for photograph in found]


# What is found


@pytest.mark.parametrize(
    ("name", "size"),
    [("astronaut", (512, 512)), ("chelsea", (451, 300)), ("coffee", (600, 400)), ("rocket", (640, 427))],
)
def test_a_sample_is_rgb_at_its_own_size(name: str, size: tuple[int, int]) -> None:
    image = images.sample(name)
    assert (image.mode, image.size) == ("RGB", size)


def test_the_samples_stand_in_for_no_source() -> None:
    found = images.photographs()
    assert names(found) == list(images.SAMPLES) == ["astronaut", "chelsea", "coffee", "rocket"]
    assert all(a.open() == images.sample(a.name) for a in found[:2])


def test_another_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="sample: must be one of astronaut, chelsea, coffee, rocket, got 'camera'"):
        images.sample("camera")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of different shades in three folders, and files that are none."""
    for shade, name in enumerate(["b.png", "a/z.JPG", "a/deep/c.webp", "a.png", "ü 1.bmp"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 50 * shade).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_a_folder_is_searched_to_its_depths_and_sorted(folder: Path) -> None:
    assert names(images.photographs(folder)) == ["a/deep/c.webp", "a/z.JPG", "a.png", "b.png", "ü 1.bmp"]


def test_every_photograph_of_a_folder_opens_its_own_file(folder: Path) -> None:
    shades = [int(np.asarray(p.open().convert("L"))[0, 0]) for p in images.photographs(folder)]
    assert np.abs(np.array(shades) - [100, 50, 150, 0, 200]).max() <= JPEG_AWAY


@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_a_limit_takes_the_first(folder: Path, limit: int) -> None:
    assert names(images.photographs(folder, limit=limit)) == names(images.photographs(folder))[:limit]


def test_a_single_file_is_one_photograph(folder: Path) -> None:
    found = images.photographs(folder / "a" / "z.JPG")
    assert names(found) == ["z.JPG"]
    assert found[0].open().size == (4, 4)


@pytest.mark.parametrize(
    ("source", "limit", "said"),
    [
        ("nowhere", None, "images: there is no file or folder '{}'"),
        ("empty", None, "images: '{}' holds no picture (.bmp, .gif, .jpeg,"),
        ("empty", 0, "limit: must be at least 1 image, got 0"),
        ("empty", -1, "limit: must be at least 1 image, got -1"),
    ],
)
def test_a_source_without_pictures_is_refused(source: str, limit: int | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError) as refusal:
        images.photographs(tmp_path / source, limit=limit)
    assert str(refusal.value).startswith(said.format(tmp_path / source))


# What a file becomes


def test_a_grey_file_stays_grey(tmp_path: Path) -> None:
    levels = random_levels(9, 7)
    Image.fromarray(levels).save(tmp_path / "x.png")
    assert images.open_image(tmp_path / "x.png").mode == "L"
    assert np.array_equal(opened(tmp_path / "x.png"), levels)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_a_lossless_file_is_kept_exactly(suffix: str, tmp_path: Path) -> None:
    levels = random_levels(9, 7, 3)
    Image.fromarray(levels).save(tmp_path / f"x.{suffix}")
    assert np.array_equal(opened(tmp_path / f"x.{suffix}"), levels)


def test_a_bilevel_file_is_black_and_white(tmp_path: Path) -> None:
    dots = random_levels(9, 7) > 127
    Image.fromarray(dots).save(tmp_path / "x.png")
    assert np.array_equal(opened(tmp_path / "x.png"), np.where(dots, 255, 0)[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("bands", [2, 4], ids=["LA", "RGBA"])
def test_transparency_is_laid_on_white(bands: int, tmp_path: Path) -> None:
    levels = random_levels(12, 10, bands)
    levels[0, :5, -1], levels[1, :5, -1] = 0, 255
    Image.fromarray(levels).save(tmp_path / "x.png")
    alpha = levels[:, :, -1:] / 255
    expected = np.broadcast_to(levels[:, :, :-1] * alpha + 255 * (1 - alpha), (12, 10, 3))
    got = opened(tmp_path / "x.png")
    assert np.abs(got - expected).max() <= 1  # Pillow blends in integers
    assert (got[0, :5] == 255).all()
    assert np.array_equal(got[1, :5], np.broadcast_to(levels[1, :5, :-1], (5, 3)))


def test_a_transparent_entry_of_a_palette_is_white(tmp_path: Path) -> None:
    palette, index = random_levels(4, 3), random_levels(8, 8) % 4
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "x.png", transparency=2)
    expected = palette[index]
    expected[index == 2] = 255
    assert np.array_equal(opened(tmp_path / "x.png"), expected)


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    Image.fromarray(PATCHES).save(tmp_path / "x.png", transparency=(20, 180, 60))
    expected = PATCHES.copy()
    expected[:SIDE, SIDE:] = 255
    assert np.array_equal(opened(tmp_path / "x.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_to_8(suffix: str, tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / f"x.{suffix}")
    assert np.array_equal(opened(tmp_path / f"x.{suffix}"), np.rint(levels / 257).astype(np.uint8))


def test_floats_in_the_unit_range_are_scaled_or_refused(tmp_path: Path) -> None:
    levels = np.linspace(0, 1, 63, dtype=np.float32).reshape(9, 7)
    Image.fromarray(levels).save(tmp_path / "x.tif")
    with suppress(ValueError):
        assert np.array_equal(opened(tmp_path / "x.tif"), np.rint(levels * 255))


def test_a_cmyk_jpeg_is_in_its_colours(tmp_path: Path) -> None:
    inks = np.array([[[0, 200, 180, 20], [200, 0, 160, 60]], [[250, 10, 5, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(inks.repeat(SIDE, 0).repeat(SIDE, 1), "CMYK").save(tmp_path / "x.jpg", **JPEG)
    wide = inks.repeat(SIDE, 0).repeat(SIDE, 1).astype(float)
    expected = (255 - wide[:, :, :3]) * (255 - wide[:, :, 3:]) / 255
    assert np.abs(opened(tmp_path / "x.jpg") - expected).max() <= JPEG_AWAY


def test_a_cmyk_jpeg_without_adobes_marker_is_not_inverted(tmp_path: Path) -> None:
    inks = np.full((SIDE, SIDE, 4), (0, 200, 180, 20), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "adobe.jpg", **JPEG)
    marked = (tmp_path / "adobe.jpg").read_bytes()
    at = marked.index(b"\xff\xee")
    (tmp_path / "plain.jpg").write_bytes(
        marked[:at] + marked[at + 2 + int.from_bytes(marked[at + 2 : at + 4], "big") :]
    )
    inverted = 255 - inks.astype(float)  # Adobe stores what is left of the paper, the standard what is printed
    expected = (255 - inverted[:, :, :3]) * (255 - inverted[:, :, 3:]) / 255
    assert np.abs(opened(tmp_path / "plain.jpg") - expected).max() <= JPEG_AWAY


def png_of_16_bits(path: Path, levels: NDArray[np.uint16]) -> None:
    """A PNG of 16 bits a channel, 2 to 4 of them, which Pillow reads but does not write."""
    height, width, bands = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    told = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))


@pytest.mark.parametrize("bands", [2, 3, 4], ids=["LA", "RGB", "RGBA"])
def test_16_bits_a_channel_are_their_8_bit_copy(bands: int, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (9, 7, bands), dtype=np.uint16)
    png_of_16_bits(tmp_path / "deep.png", levels)
    Image.fromarray(np.rint(levels / 257).astype(np.uint8)).save(tmp_path / "copy.png")
    away = np.abs(opened(tmp_path / "deep.png").astype(int) - opened(tmp_path / "copy.png"))
    assert away.max() <= (1 if bands == 3 else 3)  # Pillow keeps the upper byte; then colour and alpha are each one off


UPRIGHT: dict[int, Callable[[Levels], Levels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PATCHES).save(tmp_path / "x.jpg", exif=exif, **JPEG)
    got, expected = opened(tmp_path / "x.jpg"), UPRIGHT[orientation](PATCHES)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= JPEG_AWAY


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.fromarray(PATCHES), Image.fromarray(255 - PATCHES)
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second, first], duration=20)
    with Image.open(tmp_path / "x.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 3
    assert np.array_equal(opened(tmp_path / "x.gif"), PATCHES)


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_of_several_pictures_in_a_file_the_first_is_taken(
    suffix: str, options: dict[str, bool], tmp_path: Path
) -> None:
    first, second = Image.fromarray(PATCHES), Image.fromarray(255 - PATCHES)
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / f"x.{suffix}") as several:
        assert getattr(several, "n_frames", 1) == 2
    assert np.array_equal(opened(tmp_path / f"x.{suffix}"), PATCHES)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_other_files_are_turned_upright_too(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(PATCHES).save(tmp_path / f"x.{suffix}", exif=exif, **options)
    assert np.array_equal(opened(tmp_path / f"x.{suffix}"), UPRIGHT[orientation](PATCHES))


# What does not read


def test_a_large_picture_is_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "x.png")
    assert images.open_image(tmp_path / "x.png").size == (10_000, 10_000)
    assert not recwarn.list


def test_what_is_left_out_is_named_and_the_rest_is_batched_as_without_it(folder: Path) -> None:
    left_out: dict[str, str] = {}

    def prepare(image: Image.Image) -> torch.Tensor:
        return images.fit(image, (3, 4, 4), interpolation="bilinear", crop_pct=1.0)

    def batched(size: int) -> list[tuple[list[str], torch.Tensor]]:
        return list(images.batches(images.photographs(folder), prepare, size, leave_out=left_out.__setitem__))

    clean = batched(2)
    assert not left_out
    (folder / "a" / "broken.png").write_bytes(b"")
    (folder / "c.png").symlink_to("nowhere")
    mixed = batched(2)
    assert left_out == {"a/broken.png": "of no known format", "c.png": "no file, or a link to none"}
    assert [part for part, _ in mixed] == [part for part, _ in clean]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(mixed, clean, strict=True))


def test_without_leave_to_leave_out_the_first_stops(folder: Path) -> None:
    (folder / "a" / "broken.png").write_bytes(b"")
    with pytest.raises(images.UnreadableError, match=r"^images: 'broken.png' does not read"):
        list(images.batches(images.photographs(folder), lambda _: torch.zeros(3, 2, 2), 9))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
def test_a_truncated_file_is_refused_by_name(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(random_levels(32, 32, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"^images: 'cut.{suffix}' does not read as a picture \("):
        images.open_image(path)


NO_PICTURES = {
    "nothing": b"",
    "text": b"this is no picture\n",
    "a page": b"<!DOCTYPE html>",
    "a PPM without a width": b"P6\nwide 4\n255\n",
    "a PNG without a header": b"\x89PNG\r\n\x1a\n\x00\x00\x00\x04IHDR\x00\x00\x00\x04\x00\x00\x00\x00",
    "a BMP with an endless palette": b"BM" + bytes(12) + (40).to_bytes(4, "little") + bytes([4, 0, 0, 0] * 2)
    + b"\x01\x00\x08\x00" + bytes(16) + b"\xff\xff\xff\x7f" + bytes(20),
}  # fmt: skip


@pytest.mark.parametrize("content", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"^images: 'x.png' does not read as a picture \("):
        images.open_image(tmp_path / "x.png")


# What a network sees


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop_pct"), [((3, 64, 64), 0.875), ((3, 64, 64), 1.0), ((3, 48, 80), 0.9)])
def test_fit_is_timms_evaluation_transform(size: tuple[int, int, int], crop_pct: float, interpolation: str) -> None:
    from timm.data.transforms_factory import create_transform

    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    theirs = create_transform(size, interpolation=interpolation, crop_pct=crop_pct, mean=mean, std=std)
    image = images.sample("chelsea")
    expected = theirs(image) * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    got = images.fit(image, size, interpolation=interpolation, crop_pct=crop_pct)
    assert got.shape == size and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # their normalisation, undone in float32


def test_an_image_of_the_right_size_passes_unchanged() -> None:
    levels = random_levels(24, 24, 3)
    got = images.fit(Image.fromarray(levels), (3, 24, 24), interpolation="bicubic", crop_pct=1.0)
    assert torch.equal(got, torch.from_numpy(levels).permute(2, 0, 1) / 255)
    assert got.min() >= 0 and got.max() <= 1


def test_the_centre_is_cropped() -> None:
    levels = random_levels(24, 40, 3)
    got = images.fit(Image.fromarray(levels), (3, 24, 24), interpolation="bilinear", crop_pct=1.0)
    assert torch.equal(got, torch.from_numpy(levels[:, 8:32]).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)], ids=str)
def test_a_strip_is_not_enlarged_whole(size: tuple[int, int]) -> None:
    levels = np.zeros((size[1], size[0], 3), np.uint8)
    levels[levels.shape[0] // 2 :, levels.shape[1] // 2 :] = 255
    got = images.fit(Image.fromarray(levels), (3, 224, 224), interpolation="nearest", crop_pct=1.0)
    assert got.mean() == 0.5  # the middle, which is where black turns white


def test_a_long_picture_is_timms_still() -> None:
    from timm.data.transforms_factory import create_transform

    image = Image.fromarray(random_levels(10, 160, 3))
    transform = create_transform((3, 24, 24), interpolation="bicubic", crop_pct=0.875, normalize=False)
    got = images.fit(image, (3, 24, 24), interpolation="bicubic", crop_pct=0.875)
    assert torch.equal(got, transform(image).float() / 255)


@pytest.mark.parametrize("length", [162, 2000])
def test_the_cut_of_a_strip_is_out_of_sight(length: int) -> None:
    from timm.data.transforms_factory import create_transform

    image = Image.fromarray(random_levels(10, length, 3))
    transform = create_transform((3, 20, 20), interpolation="bicubic", crop_pct=1.0, normalize=False)
    got = images.fit(image, (3, 20, 20), interpolation="bicubic", crop_pct=1.0)
    assert torch.equal(got, transform(image).float() / 255)


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3)], ids=["grey", "colour"])
def test_a_network_of_one_channel_sees_grey(shape: tuple[int, ...]) -> None:
    image = Image.fromarray(random_levels(*shape))
    got = images.fit(image, (1, 24, 24), interpolation="bilinear", crop_pct=1.0)
    assert got.shape == (1, 24, 24)
    assert torch.equal(got[0], torch.from_numpy(np.array(image.convert("L"))) / 255)


def test_a_network_of_three_channels_sees_grey_three_times() -> None:
    levels = random_levels(24, 24)
    got = images.fit(Image.fromarray(levels), (3, 24, 24), interpolation="bilinear", crop_pct=1.0)
    assert torch.equal(got, (torch.from_numpy(levels) / 255).expand(3, 24, 24))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_of_other_channels_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"input_size: pictures have 1 or 3 channels, the network wants {channels}"):
        images.fit(images.sample("coffee"), (channels, 24, 24), interpolation="bilinear", crop_pct=1.0)


@pytest.mark.parametrize(("size", "parts"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_hold_every_image_once_in_order(size: int, parts: list[int], folder: Path) -> None:
    found = images.photographs(folder)

    def prepare(image: Image.Image) -> torch.Tensor:
        return images.fit(image, (3, 4, 4), interpolation="bilinear", crop_pct=1.0)

    got = list(images.batches(found, prepare, size))
    assert [len(part) for part, _ in got] == parts
    assert [name for part, _ in got for name in part] == names(found)
    assert torch.equal(torch.cat([x for _, x in got]), torch.stack([prepare(p.open()) for p in found]))


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_batch_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size: must be at least 1, got {size}"):
        next(images.batches(images.photographs(), lambda _: torch.zeros(3, 2, 2), size))
