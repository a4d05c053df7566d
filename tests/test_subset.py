"""A list of class folders chooses images and classes, whatever the layout and whatever is trained with them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugalseg.cli import main
from frugalseg.data import DataError, read
from frugalseg.data.subset import drawn
from frugalseg.inference.predictor import load
from frugalseg.workflows.check import check

FOLDERS = ("n01", "n02", "black cat")


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders in two splits, as ImageNet has them."""
    for seed, (split, folder, name) in enumerate((s, f, n) for s in ("train", "val") for f in FOLDERS for n in "ab"):
        picture(tmp_path / "data" / split / folder / f"{split}_{name}.png", seed)
    return tmp_path / "data"


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Names of folders, one with words behind it, one with a space in it."""
    (tmp_path / "list.txt").write_text("n02 tench, Tinca tinca\n\nblack cat\n")
    return tmp_path / "list.txt"


def test_images_classes_and_tags_are_those_of_the_list(root: Path, listed: Path) -> None:
    data = read(root, split="train", classes=listed)
    assert data.names == [f"train/{folder}/train_{name}" for folder in ("black cat", "n02") for name in "ab"]
    assert data.classes == ("black cat", "n02")
    assert data.tags.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert len(read(root, split="train")) == 6


def test_archives_are_chosen_from_likewise(root: Path, listed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in sorted((root / "train").rglob("*.png")):
            file.write(path, path.relative_to(root / "train"))
    data = read(tmp_path / "all.zip", classes=listed)
    assert data.names == [f"{folder}/train_{name}" for folder in ("black cat", "n02") for name in "ab"]
    assert data.image(0).shape == (3, 40, 40)


def test_masks_number_all_classes_so_these_stay(tmp_path: Path, listed: Path) -> None:
    for number, folder in enumerate(FOLDERS, 1):
        picture(tmp_path / "masked" / "images" / folder / "a.png", number)
        (tmp_path / "masked" / "masks" / folder).mkdir(parents=True)
        Image.new("L", (40, 40), number).save(tmp_path / "masked" / "masks" / folder / "a.png")
    (tmp_path / "masked" / "classes.txt").write_text("\n".join(FOLDERS))
    data = read(tmp_path / "masked", classes=listed)
    assert (len(data), data.classes) == (2, FOLDERS)
    assert {int(sample.semantic.max()) for sample in (data[0], data[1])} == {2, 3}


def test_folders_without_images_are_named(root: Path, listed: Path) -> None:
    listed.write_text("n02\nn03\n")
    with pytest.warns(UserWarning, match="1 of its 2 folders hold no image of .*: n03"):
        assert len(read(root, classes=listed)) == 4
    listed.write_text("n03\n")
    with pytest.raises(DataError, match=r"none of the 12 images .* in one of its 1 folders"):
        read(root, classes=listed)


def test_a_share_is_drawn_by_seed_and_name_and_lies_in_a_larger_one(root: Path) -> None:
    data = read(root)
    shares = {share: drawn(data, share, seed=3).names for share in (0.01, 0.1, 0.5, 0.75)}
    assert [len(names) for names in shares.values()] == [1, 1, 6, 9]
    assert set(shares[0.1]) < set(shares[0.5]) < set(shares[0.75])
    assert shares[0.5] == [name for name in data.names if name in shares[0.5]], "in their order"
    assert set(drawn(data.select(range(11, -1, -1)), 0.5, seed=3).names) == set(shares[0.5]), "however they were read"
    assert len({tuple(drawn(data, 0.5, seed).names) for seed in range(5)}) == 5


def test_check_counts_them_alone(root: Path, listed: Path) -> None:
    report = check(root, classes=listed)
    assert (report.ok, report.classes) == (True, ("black cat", "n02"))
    assert {split: own.pictures for split, own in report.splits.items()} == {"train": 4, "val": 4}


def test_any_method_learns_them_alone(root: Path, listed: Path, tmp_path: Path) -> None:
    own = {"backbone": "tiny", "output-stride": 16, "channels": 0, "crop": 33, "rounds": 1, "segment": "cam", "workers": 0}
    options = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    words = ["train", "aepsl", str(root), "--classes", str(listed), "--dry-run", "--quiet", *options]
    assert main([*words, "--name", "run", "--out", str(tmp_path / "runs")]) == 0
    assert load(tmp_path / "runs" / "aepsl" / "run").classes == ("black cat", "n02")
    for share, status in (("0.25", 0), ("0", 2)):
        assert main([*words, "--out", str(tmp_path / "shares"), "--share", share]) == status
    (about,) = tmp_path.glob("shares/aepsl/*/about.json")
    assert json.loads(about.read_text())["images"] == 1
