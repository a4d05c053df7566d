"""Pictures in zip and tar files are those of the folder they were packed from, whatever else lies beside them."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import toys

from frugalseg.data import DataError, archive, images, read
from frugalseg.data.check import check
from frugalseg.data.images import BadImage
from frugalseg.methods import r2o


def pack(folder: Path, pictures: list[Path], name: str) -> Path:
    """Two class folders, a text and a hidden file."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [(path, f"{'cat' if index % 2 else 'dog'}/{path.name}") for index, path in enumerate(pictures)]
    note = folder.parent / "note.txt"
    note.write_text("no picture")
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
    with pytest.raises(DataError, match="no picture found in 1 archives"):
        read(tmp_path / "empty")


def test_a_shard_that_is_cut_short_gives_its_next_good_picture(pictures: list[Path], tmp_path: Path) -> None:
    whole = pack(tmp_path / "shards", pictures, "a.tar")
    data = read(whole)
    start = max(place.start for place in data.places.values())
    archive._descriptor.cache_clear()
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
    monkeypatch.setattr(images, "verify", lambda *_: pytest.fail("a picture was decoded again"))
    assert str(check(folder)) == str(report)


def test_check_names_pictures_that_an_archive_holds_damaged(pictures: list[Path], tmp_path: Path) -> None:
    whole = pack(tmp_path / "shards", pictures, "a.tar")
    places = sorted((place.start, place.member) for place in read(whole).places.values())
    damaged = bytearray(whole.read_bytes()[: places[-1][0] + 100])
    damaged[places[0][0] : places[0][0] + 8] = bytes(8)
    archive._descriptor.cache_clear()
    whole.write_bytes(damaged)
    report = check(whole, skip_limit=1.0)
    found = {item.code: item.items for item in report.problems}
    assert report.ok
    assert found["archive-broken"] == ["a.tar (unexpected end of data)"]
    assert {item.split()[0] for item in found["image-broken"]} == {places[0][1], places[-1][1]}
    assert not check(whole).ok
