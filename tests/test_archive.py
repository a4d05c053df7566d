"""Images in zip and tar files are those of the folder they were packed from, whatever else lies beside them."""

from __future__ import annotations

import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

from frugalseg.data import DataError, images, read
from frugalseg.data.formats import archive
from frugalseg.data.images import BadImage
from frugalseg.methods import r2o
from frugalseg.workflows.check import check


def pack(folder: Path, pictures: list[Path], name: str) -> Path:
    """Two class folders, a text and a hidden file."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [(path, f"{'cat' if index % 2 else 'dog'}/{path.name}") for index, path in enumerate(pictures)]
    note = folder.parent / "note.txt"
    note.write_text("no image")
    members += [(note, "note.txt"), (pictures[0], ".hidden/a.png"), (pictures[0], "../outside.png")]
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
            for path, member in members:
                file.write(path, member)
    else:
        with tarfile.open(folder / name, "w") as file:
            for path, member in members:
                file.add(path, member)
    return folder / name


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return [record.image for record in toys.write(tmp_path / "pictures").records]


@pytest.mark.parametrize("name", ["all.zip", "all.tar"])
def test_pictures_of_an_archive_are_those_of_the_folder(name: str, pictures: list[Path], tmp_path: Path) -> None:
    data = read(pack(tmp_path / "packed", pictures, name), split="train")
    assert len(data) == len(pictures)
    assert data.offers == {"image"}
    originals = {path.stem: read(path)[0].image for path in pictures}
    for index, full in enumerate(data.names):
        folder, stem = full.split("/")
        assert folder in ("cat", "dog")
        assert torch.equal(data[index].image, originals[stem])
        assert torch.equal(data.only("image").select([index]).image(0), originals[stem])


def test_a_folder_of_shards_is_one_data_set_and_damaged_ones_are_named(pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    pack(folder, pictures[:3], "train-0.tar")
    pack(folder, pictures[3:], "train-1.zip")
    pack(folder, pictures[:1], "val-0.tar")
    (folder / "train-2.zip").write_bytes(b"no archive")
    data = read(folder, split="train")
    assert len(data) == 6
    assert all(name.startswith("train-") for name in data.names)
    assert "train-2.zip" in str(data.problems[0])
    assert len(read(folder)) == 7
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match="no image found in 1 archives"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("split", ["trian", "val"])
def test_a_split_that_no_archive_is_called_by_is_refused(split: str, pictures: list[Path], tmp_path: Path) -> None:
    folder, plain = tmp_path / "shards", tmp_path / "plain"
    pack(folder, pictures[:1], "train-0.tar")
    pack(folder, pictures[1:2], "test_00001.zip")
    with pytest.raises(DataError, match=f"split: got '{split}', but no archive in .* name: .*"):
        read(folder, split=split)
    with pytest.raises(DataError, match="name: train"):
        read(folder, split="trian")
    one = pack(plain, pictures[:1], "part-0.tar")
    pack(plain, pictures[1:3], "part-1.tar")
    assert len(read(plain, split="train")) == 3, "names that tell no split are to learn from"
    assert len(read(one, split="train")) == 1
    for place in (plain, one):
        with pytest.raises(DataError, match=f"split: got '{split}'"):
            read(place, split=split)


def test_any_number_of_archives_needs_no_more_than_one_open_file(pictures: list[Path], tmp_path: Path) -> None:
    for number in range(60):
        pack(tmp_path / "shards", pictures[:1], f"{number}.{'zip' if number % 2 else 'tar'}")
    data, limits = read(tmp_path / "shards"), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, limits[1]))
    try:
        assert all(data.image(index).shape[0] == 3 for index in range(60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_archives_are_recognised_by_one_look_at_their_folder(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        pack(tmp_path / "shards", pictures[:1], f"{number}.tar")
    looks, look = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: looks.append(self) or look(self))
    assert archive.is_archive(tmp_path / "shards")
    assert len(looks) == 1
    (tmp_path / "shards" / "a.txt").write_text("other")
    assert not archive.is_archive(tmp_path / "shards")
    assert not archive.is_archive(tmp_path / "nothing.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_what_zipfile_reads_without_its_list(
    method: int, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.zip"
    place.write_bytes(b"a program that unpacks itself may stand before")
    with zipfile.ZipFile(place, "a", method) as file:
        for path in pictures:
            with file.open(zipfile.ZipInfo(path.name), "w", force_zip64=True) as member:
                member.write(path.read_bytes())
            file.write(path, f"again/{path.name}")
    data = read(place)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the list was read again"))
    found = {record.image: archive.content(data.places[record.image]) for record in data.records}
    assert len(found) == 2 * len(pictures)
    assert all(content == (pictures[0].parent / path.name).read_bytes() for path, content in found.items())


def test_a_zip_with_other_packing_is_told_as_damaged(pictures: list[Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.write(pictures[0], "a.png")
    with pytest.raises(BadImage, match="packed in another way"):
        read(tmp_path / "a.zip").image(0)


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("cut", [False, True])
def test_whatever_is_damaged_is_told_as_such(name: str, cut: bool, pictures: list[Path], tmp_path: Path) -> None:
    whole = pack(tmp_path, pictures, name).read_bytes()
    random, whole_pictures, broken = np.random.default_rng(0), 0, 0
    for trial in range(150):
        content = np.frombuffer(whole, np.uint8).copy()
        if cut:
            content = content[: random.integers(len(content))]
        else:
            places = random.integers(len(content), size=random.integers(1, 40))
            content[places] ^= 1 << random.integers(8, size=len(places), dtype=np.uint8)
        place = tmp_path / f"{trial}-{name}"
        place.write_bytes(content.tobytes())
        try:
            data = read(place)
        except DataError:
            continue
        for index in range(len(data)):
            try:
                assert data.image(index).shape[0] == 3
                whole_pictures += 1
            except BadImage:
                broken += 1
    assert (broken and whole_pictures) or (cut and name == "a.zip"), "a zip that is cut has lost its list"


def test_a_tar_whose_sizes_lead_back_comes_to_an_end(pictures: list[Path], tmp_path: Path) -> None:
    place = pack(tmp_path, pictures, "a.tar")
    with tarfile.open(place) as file:
        member = file.getmembers()[1]
    content, head = bytearray(place.read_bytes()), member.offset_data - 512
    back = member.offset - member.offset_data  # to where this member begins
    content[head + 124 : head + 136] = (2**96 + back).to_bytes(12, "big")  # a size below 0, in the way of large ones
    total = 256 + sum(content[head : head + 148]) + sum(content[head + 156 : head + 512])
    content[head + 148 : head + 156] = b"%06o\0 " % total
    place.write_bytes(content)
    data = read(place)
    assert "archive-broken: 1 " in str(data.problems[0])
    assert isinstance(data.image(0), torch.Tensor)


def test_a_shard_that_is_cut_short_gives_its_next_good_picture(pictures: list[Path], tmp_path: Path) -> None:
    whole = pack(tmp_path / "shards", pictures, "a.tar")
    data = read(whole)
    start = max(place.start for place in data.places.values())
    whole.write_bytes(whole.read_bytes()[: start + 100])
    broken = next(i for i, record in enumerate(data.records) if data.places[record.image].start == start)
    with pytest.raises(BadImage, match="cut short"):
        data.image(broken)
    views = r2o.Views(data, r2o.Config(prior="whole", refine="none", side=32))
    with pytest.warns(UserWarning, match="left out, the next one takes its place"):
        assert views[broken]["views"].shape == (2, 3, 32, 32)


def test_check_decodes_every_picture_of_every_archive_once(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    pack(folder, pictures, "train-0.zip")
    pack(folder, pictures[:2], "val-0.tar")
    report = check(folder)
    assert {split: own.pictures for split, own in report.splits.items()} == {"train": 6, "val": 2}
    assert [(item.code, item.count) for item in report.problems] == [("duplicate-across-splits", 2)]
    assert {item.method for item in report.methods if item.pictures} == {"r2o"}
    monkeypatch.setattr(images, "verify", lambda *_: pytest.fail("an image was decoded again"))
    assert str(check(folder)) == str(report)


def test_check_names_pictures_that_an_archive_holds_damaged(pictures: list[Path], tmp_path: Path) -> None:
    whole = pack(tmp_path / "shards", pictures, "a.tar")
    places = sorted((place.start, place.member) for place in read(whole).places.values())
    damaged = bytearray(whole.read_bytes()[: places[-1][0] + 100])
    damaged[places[0][0] : places[0][0] + 8] = bytes(8)
    whole.write_bytes(damaged)
    report = check(whole, skip_limit=1.0)
    found = {item.code: item.items for item in report.problems}
    assert report.ok
    assert found["archive-broken"] == ["a.tar (unexpected end of data)"]
    assert {item.split()[0] for item in found["image-broken"]} == {places[0][1], places[-1][1]}
    assert not check(whole).ok
