"""Object masks that are no COCO: maps of ids of one class, and the .mat files of SBD. Hostile ones are counted, not believed."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io

from frugalseg import rle
from frugalseg.data import DataError, matlab, read
from frugalseg.data.formats import folder
from frugalseg.workflows.check import check

CELLS = np.array([[0, 1, 1, 300], [2, 2, 255, 300], [2, 2, 255, 0]], np.uint16)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    for home in ("images", "labels"):
        (tmp_path / "cells" / home).mkdir(parents=True)
    for number, name in enumerate("ab"):
        Image.new("L", (4, 3), number).save(tmp_path / "cells" / "images" / f"{name}.png")
        Image.fromarray(CELLS).save(tmp_path / "cells" / "labels" / f"{name}.png")
    return tmp_path / "cells"


def test_maps_of_16_bits_are_objects_of_one_class(cells: Path) -> None:
    data = read(cells)
    assert (data.layout, data.classes, data.offers, data.problems) == ("objects", ("object",), {"image", "instances"}, [])
    found, known = data[0].instances, data.compact(0)
    assert found.labels.tolist() == known.labels.tolist() == [1, 1, 1, 1]
    assert found.masks.tolist() == rle.decode(known.rles, (3, 4)).tolist() == [(n == CELLS).tolist() for n in (1, 2, 255, 300)]
    assert found.boxes.tolist() == known.boxes.tolist() == [[1, 0, 3, 1], [0, 1, 2, 3], [2, 1, 3, 3], [3, 0, 4, 2]]
    (cells / "classes.txt").write_text("nucleus\n")
    assert read(cells).classes == ("nucleus",)
    Image.fromarray(np.zeros_like(CELLS)).save(cells / "labels" / "b.png")
    assert check(cells).splits["train"].shown == {"nucleus": 1}


def test_images_that_no_list_names_are_checked(cells: Path) -> None:
    (cells / "splits.csv").write_text("image,split\nimages/a.png,val\n")
    assert check(cells).splits.keys() >= {"val"}


def test_the_folders_name_says_it_too(cells: Path) -> None:
    for path in (cells / "labels").glob("*.png"):
        Image.fromarray(CELLS.astype(np.uint8)).save(path)
    assert folder.sniff(cells) == "masks"
    (cells / "labels").rename(cells / "objects")
    assert folder.sniff(cells) == "objects"
    (cells / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"got 2 classes, but maps of object ids"):
        read(cells)


def test_maps_withhold_themselves(cells: Path) -> None:
    data = read(cells).only("image", "tags")
    assert data[0].instances is None
    assert data.compact(0) is None


def test_a_map_of_another_size_is_withheld(cells: Path) -> None:
    Image.fromarray(CELLS[:2]).save(cells / "labels" / "b.png")
    data = read(cells, skip_limit=1.0)
    assert [problem.code for problem in data.problems] == ["mask-size"]
    assert data[1].instances is None


def test_real_nuclei(shared_data: Path) -> None:
    if not (shared_data / "nuclei").is_dir():
        pytest.skip("no nuclei")
    data = read(shared_data / "nuclei", verify=False)
    assert (data.layout, len(data)) == ("objects", 140)
    for index in (0, 70):
        ids = np.asarray(Image.open(data.records[index].objects))
        assert len(data[index].instances) == len(data.compact(index)) == len(np.unique(ids)) - 1


# -- SBD --


def mat(path: Path, kind: str, ids: np.ndarray, **fields: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {kind: {"Segmentation": ids, "Boundaries": np.zeros((2, 1)), **fields}}, do_compression=True)


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    for name in "ab":
        (root / "img").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (ord(name), 0, 0)).save(root / "img" / f"{name}.jpg")
        classes = np.array([[0, 8, 8, 12], [0, 8, 8, 12], [0, 8, 12, 12]], np.uint8)
        mat(root / "cls" / f"{name}.mat", "GTcls", classes)
        mat(
            root / "inst" / f"{name}.mat",
            "GTinst",
            np.array([[0, 1, 2, 3]] * 2 + [[0, 1, 3, 3]], np.uint8),
            Categories=[8, 8, 12],
        )
    (root / "train.txt").write_text("b\n")
    return root


def test_sbd_is_read(sbd: Path) -> None:
    data = read(sbd)
    assert (data.layout, len(data), data.problems) == ("sbd", 2, [])
    assert data.offers == {"image", "semantic", "instances"}
    sample = read(sbd, "train")[0]
    assert sample.name == "b"
    assert sample.instances.labels.tolist() == data.compact(0).labels.tolist() == [8, 8, 12]
    assert sample.instances.masks.sum((1, 2)).tolist() == [3, 2, 4]
    assert sample.semantic[2].tolist() == [0, 8, 12, 12]
    with pytest.raises(DataError, match=r"got 'trian', expected a list in .*: train"):
        read(sbd, "trian")


def bomb(path: Path) -> None:
    """8 kB that unpack to 8 MB, as the value of a variable."""
    packed = zlib.compress(bytes(8_000_000))
    head = path.read_bytes()[:128]
    path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)


HOSTILE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no MATLAB at all " * 20),
    "hdf5": lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + b"\x89HDF"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "noise": lambda path: path.write_bytes(path.read_bytes()[:136] + bytes(range(256))),
    "other variable": lambda path: io.savemat(path, {"boxes": np.ones((3, 4))}),
    "no struct": lambda path: io.savemat(path, {"GTinst": np.ones((3, 4))}),
    "floats": lambda path: mat(path, "GTinst", np.ones((3, 4))),
    "three axes": lambda path: mat(path, "GTinst", np.ones((3, 4, 2), np.uint8)),
    "another size": lambda path: mat(path, "GTinst", np.ones((4, 3), np.uint8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_mat_file_that_is_not_what_it_claims_is_withheld(sbd: Path, kind: str) -> None:
    HOSTILE[kind](sbd / "inst" / "a.mat")
    data = read(sbd, skip_limit=1.0)
    assert [problem.code for problem in data.problems] == ["mask-size" if kind == "another size" else "mask-broken"]
    assert data[0].instances is None
    assert len(data[1].instances) == 3


def test_what_unpacks_to_too_much_is_refused(sbd: Path) -> None:
    path = sbd / "inst" / "a.mat"
    bomb(path)
    with pytest.raises(ValueError, match="unpacks to more"):
        matlab.variables(path, ("GTinst",), limit=1_000_000)


def test_random_damage_never_crashes(sbd: Path) -> None:
    path = sbd / "inst" / "a.mat"
    whole, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    for _ in range(200):
        spoilt = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            spoilt[place] = random.integers(256)
        path.write_bytes(spoilt)
        with suppress(ValueError):
            assert matlab.label_map(path, 1000).ndim == 2
