"""CUB-200-2011, in a miniature of its true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugalseg.data import DataError, read
from frugalseg.tasks.foreground import annotated
from frugalseg.workflows.check import check

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
LEVELS = [0, 51, 102, 153, 204, 255]  # none to all of five annotators
OFFICIAL, REDO = "101010", "002100"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Both archives unpacked into one folder, six images; the last mask has an opacity beside its grey levels."""
    home = tmp_path / "CUB_200_2011"
    names = [f"{CLASSES[number // 3]}/{CLASSES[number // 3][4:]}_{number:04}_{796000 + number}" for number in (0, 2, 1, 3, 4, 5)]
    for number, name in enumerate(names):
        for place in (home / "images" / name, tmp_path / "segmentations" / name):
            place.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).save(home / "images" / f"{name}.jpg")
        grey = Image.fromarray(np.tile(np.array(LEVELS, np.uint8), (4, 1)))
        (grey.convert("LA") if number == 5 else grey).save(tmp_path / "segmentations" / f"{name}.png")
    write(home / "images.txt", [f"{name}.jpg" for name in names])
    write(home / "image_class_labels.txt", [name[2] for name in names])
    write(home / "classes.txt", CLASSES)
    write(home / "train_test_split.txt", OFFICIAL)
    write(home / "bounding_boxes.txt", ["1.0 1.0 3.0 2.0"] * 6)
    (home / "attributes").mkdir()
    (home / "README").write_text("Birds.")
    return tmp_path


def write(path: Path, texts: object) -> None:
    """A table of the data set: each line a number from 1 and a text."""
    path.write_text("".join(f"{number} {text}\n" for number, text in enumerate(texts, 1)))  # type: ignore[arg-type, var-annotated]


def test_a_bird_is_where_most_annotators_saw_it(root: Path) -> None:
    data = read(root)
    assert (data.layout, data.classes, len(data), data.problems) == ("cub", CLASSES, 6, [])
    for sample in (data[index] for index in range(6)):
        species = CLASSES.index(sample.name.split("/")[0]) + 1
        assert sample.semantic.tolist() == [[0, 0, 0, species, species, species]] * 4
        assert sample.tags.tolist() == [float(species == 1), float(species == 2)]
        assert annotated(sample).sum() == 12


def test_splits_are_those_of_the_file_that_is_there_in_the_order_of_images_txt(root: Path) -> None:
    home = root / "CUB_200_2011"
    lines = [line.split()[1].removesuffix(".jpg") for line in (home / "images.txt").read_text().splitlines()]
    assert read(root, split="train").names == [lines[index] for index in (0, 2, 4)]
    assert read(root, split="test").names == [lines[index] for index in (1, 3, 5)]
    write(home / "train_val_test_split.txt", REDO)
    assert {split: read(root, split=split).names for split in ("train", "val", "test")} == {
        "train": [lines[index] for index in (0, 1, 4, 5)],
        "val": [lines[3]],
        "test": [lines[2]],
    }
    with pytest.raises(DataError, match=r"expected one of train, test, val; train_val_test_split\.txt or"):
        read(root, split="validation")


def test_the_folder_itself_is_read_with_the_masks_in_it_or_without(root: Path) -> None:
    home = root / "CUB_200_2011"
    assert "semantic" not in read(home).offers
    (root / "segmentations").rename(home / "segmentations")
    assert read(home)[0].semantic.max() == 1


def test_check_knows_its_splits_and_problems(root: Path) -> None:
    report = check(root)
    assert (report.layout, report.ok, report.problems) == ("cub", True, [])
    assert {name: counts.pictures for name, counts in report.splits.items()} == {"train": 3, "test": 3}
    first, second = sorted((root / "segmentations" / CLASSES[0]).iterdir())[:2]
    first.write_bytes(b"")
    second.unlink()
    (next((root / "CUB_200_2011" / "images" / CLASSES[1]).iterdir())).unlink()
    found = {problem.code: problem.items for problem in check(root).problems}
    assert found["mask-broken"] == [f"{first.relative_to(root)} (the file is empty)"]
    assert found["mask-missing"] == [f"CUB_200_2011/images/{CLASSES[0]}/{second.stem}.jpg"]
    assert len(found["image-missing"]) == 1


def test_a_table_that_is_missing_or_broken_is_named(root: Path) -> None:
    (root / "CUB_200_2011" / "classes.txt").write_text("Albatross\n")
    (problem,) = check(root).problems
    assert (problem.code, "classes.txt: got a line that begins with 'Albatross'" in problem.items[0]) == ("unreadable", True)
    (root / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(DataError, match="unpack the whole of"):
        read(root)
