"""Training images: which pixels they are, what is left out and why, and the order in which they are dealt."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gradlens.redesign.gan import dataset
from gradlens.redesign.gan.dataset import Data, Dealer, of_tensor, read, seed_of

CPU = torch.device("cpu")


def drawn(width: int, height: int, seed: int, channels: int = 3) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(levels if channels == 3 else levels[:, :, 0])


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)


def folder_of(path: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(path / name)
    return path


def zip_of(folder: Path, path: Path) -> Path:
    with ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def same(one: Data, other: Data) -> bool:
    return torch.equal(one.images, other.images) and one.sha256 == other.sha256 and one.skipped == other.skipped


# Which pixels


def test_a_picture_of_the_right_size_is_its_own_pixels_in_the_order_of_names(tmp_path: Path) -> None:
    images = {f"{number:02}.png": drawn(8, 8, number) for number in range(12)}
    data = read([folder_of(tmp_path / "data", images)], 8)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.images, torch.stack([pixels(image) for image in images.values()]))
    assert data.told == {
        "source": "data", "found": 12, "used": 12, "skipped": {}, "sha256": data.sha256, "resolution": 8, "channels": 3,
    }  # fmt: skip


def test_the_middle_of_an_oblong_picture_is_kept_whole(tmp_path: Path) -> None:
    wide, high = drawn(13, 8, 0), drawn(8, 11, 1)
    data = read([folder_of(tmp_path, {"a.png": wide, "b.png": high})], 8)
    assert torch.equal(data.images[0], pixels(wide)[:, :, 2:10])
    assert torch.equal(data.images[1], pixels(high)[:, 1:9])


def test_a_larger_picture_is_reduced_by_an_antialiased_filter(tmp_path: Path) -> None:
    lattice = np.indices((32, 32)).sum(0) % 2 * 255  # of two pixels: sampled it would stay, or become flat black
    even = Image.fromarray(lattice.astype(np.uint8)).convert("RGB")
    wide = drawn(36, 32, 1)
    data = read([folder_of(tmp_path, {"a.png": even, "b.png": wide})], 8)
    assert (data.images[0].float() - 127.5).abs().max() < 8
    expected = wide.crop((2, 0, 34, 32)).resize((8, 8), Image.Resampling.LANCZOS)
    inside = slice(3, -3)  # three lobes of the filter: at the border of the square it reads the picture beyond
    assert torch.equal(data.images[1][:, :, inside], pixels(expected)[:, :, inside])


def test_grey_and_colour_are_brought_to_what_is_asked_for(tmp_path: Path) -> None:
    images = {"colour.png": drawn(8, 8, 0), "grey.png": drawn(8, 8, 1, channels=1)}
    folder = folder_of(tmp_path, images)
    grey = read([folder], 8, channels=1)
    assert grey.images.shape == (2, 1, 8, 8)
    assert torch.equal(grey.images[0], pixels(images["colour.png"].convert("L")))
    assert torch.equal(grey.images[1], pixels(images["grey.png"]))
    colour = read([folder], 8)
    assert torch.equal(colour.images[1], pixels(images["grey.png"]).expand(3, 8, 8))


def test_patches_of_the_least_side_are_squares_of_the_picture(tmp_path: Path) -> None:
    image = drawn(20, 16, 0)
    data = read([folder_of(tmp_path, {"a.png": image})], 8, patches=12)
    squares = pixels(image).unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    places = [int((squares == patch).flatten(1).all(1).nonzero()) for patch in data.images]
    assert len(set(places)) > 6  # of 117 places
    assert data.found == 1 and data.told["used"] == 12


def test_patches_have_sides_up_to_half_the_picture(tmp_path: Path) -> None:
    """A ramp that rises by a level a pixel tells the place and the side of each square."""
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8), (128, 128))
    data = read([folder_of(tmp_path, {"a.png": Image.fromarray(ramp.copy())})], 8, channels=1, patches=200)
    rows = data.images[:, 0, 0].float()
    sides = (rows[:, 5] - rows[:, 2]) / 3 * 8
    assert 7 < sides.min() < 9 and 56 < sides.max() < 67
    assert (rows.min(1).values < 16).any() and (rows.max(1).values > 112).any()
    assert 20 < sides.median() < 26  # evenly on a logarithmic scale: the root of 8 * 64


def test_patches_depend_on_the_seed_and_on_the_picture_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {f"{n}.png": drawn(40, 40, n) for n in range(3)})
    assert same(read([folder], 8, patches=5, seed=1), read([folder], 8, patches=5, seed=1))
    one, other = read([folder], 8, patches=5, seed=1), read([folder], 8, patches=5, seed=2)
    assert one.sha256 != other.sha256
    assert torch.equal(read([folder], 8, patches=5, seed=1, limit=2).images, one.images[:10])


def test_the_sample_photographs_serve_where_nothing_is_given() -> None:
    data = read([], 8)
    assert (data.source, data.found, len(data.images)) == ("the sample photographs", 4, 4)


# Folders and zip files


def test_a_zip_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    names = [f"{n:03}.png" for n in range(70)]  # more than are decoded ahead
    names += ["a/b.png", "a/c/d.png", "a-b.png", "a.png", "a b.png", "B.png", "é.png", "b/z.png", "b.c/y.png"]
    folder = folder_of(tmp_path / "data", {name: drawn(8, 8, n) for n, name in enumerate(names)})
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    one, other = read([folder], 8), read([zip_of(folder, tmp_path / "data.zip")], 8)
    assert len(one.images) == len(names)
    assert same(one, other)


def test_several_sources_follow_one_another(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "one" / "data", {f"{n}.png": drawn(8, 8, n) for n in range(3)})
    second = folder_of(tmp_path / "two" / "data", {f"{n}.png": drawn(8, 8, n + 3) for n in range(3)})
    drawn(8, 8, 6).save(tmp_path / "single.png")
    sources = [first, zip_of(second, tmp_path / "two.zip"), tmp_path / "single.png"]
    data = read(sources, 8)
    assert torch.equal(data.images, torch.stack([pixels(drawn(8, 8, n)) for n in range(7)]))
    assert torch.equal(read(sources, 8, limit=4).images, data.images[:4])


def test_what_two_sources_leave_out_is_counted_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder_of(tmp_path / name / "data", {"good.png": drawn(8, 8, 0), "small.png": drawn(4, 4, 0)})
    second = zip_of(tmp_path / "two" / "data", tmp_path / "two" / "data.zip")
    (tmp_path / "broken.png").write_bytes(b"")
    data = read([tmp_path / "one" / "data", second, tmp_path / "broken.png"], 8)
    assert len(data.images) == 2 and data.found == 5
    assert list(data.skipped) == [
        (tmp_path / "one" / "data" / "small.png").as_posix(), f"{second.as_posix()}/small.png",
        (tmp_path / "broken.png").as_posix(),
    ]  # fmt: skip


# What is left out


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {f"{n}.png": drawn(8, 8, n) for n in range(3)} | {"low.png": drawn(20, 7, 3), "slim.png": drawn(7, 20, 4)}
    folder = folder_of(tmp_path, images)
    (folder / "1a.png").write_bytes(b"no picture")
    whole = (folder / "2.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    data = read([folder], 8)
    assert torch.equal(data.images, torch.stack([pixels(images[f"{n}.png"]) for n in range(3)]))
    assert (data.found, list(data.skipped)) == (7, ["1a.png", "half.png", "low.png", "slim.png"])
    assert data.skipped["low.png"] == "20 x 7 px, below 8"
    assert data.skipped["slim.png"] == "7 x 20 px, below 8"
    said = capsys.readouterr().err
    assert all(f"left out {name!r}: {why}" in said for name, why in data.skipped.items())


def test_patches_need_twice_the_side(tmp_path: Path) -> None:
    data = read([folder_of(tmp_path, {"a.png": drawn(16, 16, 0), "b.png": drawn(15, 40, 1)})], 8, patches=2)
    assert len(data.images) == 2
    assert data.skipped == {"b.png": "15 x 40 px, below 16"}


def test_of_many_that_are_left_out_five_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {f"{n:02}.png": drawn(4, 4, n) for n in range(9)} | {"x.png": drawn(8, 8, 9), "y.png": drawn(8, 8, 10)}
    data = read([folder_of(tmp_path, images)], 8)
    assert len(data.skipped) == 9
    said = capsys.readouterr().err
    assert said.count("left out '") == 5
    assert "left out 9 of 11 pictures; all are named in manifest.json" in said


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        ({"a.png": drawn(4, 4, 0), "b.png": drawn(4, 4, 1)}, {}, "--data: none of 2 .* at 8 px; the first, 'a.png': 4 x 4 px"),
        ({"a.png": drawn(8, 8, 0)}, {}, "--data: one picture is no data set; give more, or cut it up with --patches"),
        ({"a.png": drawn(8, 8, 0), "b.png": drawn(8, 8, 0)}, {"limit": 1}, "--data: one picture is no data set"),
        ({"a.png": drawn(16, 16, 0)}, {"patches": 1}, "--data: one picture is no data set"),
        ({}, {}, "holds no picture"),
    ],
    ids=["too small", "one", "limited to one", "one patch", "none"],
)  # fmt: skip
def test_too_little_is_refused(
    images: dict[str, Image.Image], options: dict[str, int], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        read([folder_of(tmp_path, images)], 8, **options)


# The hash, and where images lie


def test_the_hash_is_of_every_pixel_and_of_the_shape() -> None:
    images = torch.randint(0, 256, (1030, 3, 2, 2), dtype=torch.uint8)
    told = of_tensor(images).sha256
    assert told == of_tensor(images.clone()).sha256
    assert told == of_tensor(images.to(memory_format=torch.channels_last)).sha256
    for place in ((0, 0, 0, 0), (1029, 2, 1, 1), (1024, 1, 0, 1)):
        other = images.clone()
        other[place] ^= 1
        assert of_tensor(other).sha256 != told
    assert of_tensor(images.reshape(1030, 1, 3, 4)).sha256 != told
    assert of_tensor(images.flip(0)).sha256 != told


def test_pictures_and_a_tensor_of_their_pixels_have_one_hash(tmp_path: Path) -> None:
    images = [drawn(8, 8, n) for n in range(3)]
    data = read([folder_of(tmp_path, {f"{n}.png": image for n, image in enumerate(images)})], 8)
    assert data.sha256 == of_tensor(torch.stack([pixels(image) for image in images])).sha256


def test_what_exceeds_the_memory_goes_to_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "data", {f"{n}.png": drawn(8, 8, n) for n in range(5)})
    expected = read([folder], 8)
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    monkeypatch.setattr(dataset, "_free", lambda: 2 * 5 * 3 * 8 * 8 - 1.0)
    found = read([folder], 8)
    assert same(found, expected)
    assert f"go to a temporary file in {room}" in capsys.readouterr().err
    assert list(room.iterdir()) == []
    store = dataset._room(2, 3, 8)
    assert isinstance(store, np.memmap) is False  # that is small enough
    monkeypatch.setattr(dataset, "_free", lambda: 0.0)
    assert isinstance(dataset._room(2, 3, 8), np.memmap)


# Dealing


def numbered(count: int) -> Tensor:
    """Images that tell their number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2).contiguous()


def dealt(dealer: Dealer, batches: int) -> list[list[int]]:
    return [dealer.deal(batch)[:, 0, 0, 0].tolist() for batch in range(batches)]


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (10, 4), (7, 7), (5, 16), (2, 5)])
def test_every_epoch_has_each_image_once(count: int, batch: int) -> None:
    order = [number for part in dealt(Dealer(numbered(count), batch, CPU, seed=3), 3 * count) for number in part]
    assert len(order) == 3 * count * batch
    epochs = [order[first : first + count] for first in range(0, len(order), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_does_not_depend_on_what_was_dealt_before_it() -> None:
    expected = dealt(Dealer(numbered(10), 4, CPU, seed=3), 9)
    dealer = Dealer(numbered(10), 4, CPU, seed=3)
    for batch in (8, 0, 3, 3, 7, 1):
        assert dealer.deal(batch)[:, 0, 0, 0].tolist() == expected[batch]


def test_the_seed_decides_the_order() -> None:
    orders = [dealt(Dealer(numbered(30), 30, CPU, seed=seed), 1)[0] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize(("count", "batch"), [(20, 6), (4, 12)])
def test_processes_together_have_the_batch_of_one(count: int, batch: int, processes: int) -> None:
    alone = Dealer(numbered(count), batch, CPU, seed=1)
    parts = [Dealer(numbered(count), batch, CPU, seed=1, rank=r, processes=processes) for r in range(processes)]
    for number in range(10):
        whole = alone.deal(number)
        for rank, part in enumerate(parts):
            assert torch.equal(part.deal(number), whole[rank::processes])


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dealer]:
    """A dealer for a device that has no room, where the host plays the device."""

    def made(images: Tensor, batch_size: int, **options: int) -> Dealer:
        device = SimpleNamespace(type="cuda")
        dealer = Dealer(images, batch_size, device, seed=3, **options)  # type: ignore[arg-type]
        dealer.device = CPU
        return dealer

    monkeypatch.setattr(dataset, "_free_on", lambda device: 0.0)
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x)
    return made


def test_streamed_batches_are_those_of_a_device_that_has_room(far: Callable[..., Dealer]) -> None:
    images = torch.randint(0, 256, (11, 3, 4, 4), dtype=torch.uint8)
    near, streamed = Dealer(images, 4, CPU, seed=3), far(images, 4)
    assert near.resident and not streamed.resident
    for batch in (0, 1, 2, 3, 3, 0, 9, 10, 4):  # in turn, once more, and out of turn
        assert torch.equal(streamed.deal(batch), near.deal(batch))
    one, other = Dealer(images, 4, CPU, seed=3, rank=1, processes=2), far(images, 4, rank=1, processes=2)
    assert all(torch.equal(one.deal(batch), other.deal(batch)) for batch in range(6))


def test_a_streamed_batch_is_gathered_while_the_one_before_it_is_trained(far: Callable[..., Dealer]) -> None:
    dealer = far(numbered(8), 4)
    dealer.deal(5)
    assert dealer.ahead is not None and dealer.ahead[0] == 6
    waiting = dealer.ahead[1]
    assert torch.equal(dealer.deal(6), waiting.result())


def test_seeds_are_as_many_as_purposes_and_numbers() -> None:
    seeds = {seed_of(s, purpose, n) for s in range(3) for purpose in ("epoch", "step") for n in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)  # what torch takes
    assert seed_of(0, "step", 1) == seed_of(0, "step", 1)
