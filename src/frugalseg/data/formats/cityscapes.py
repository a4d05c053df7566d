"""Cityscapes (Cordts et al., CVPR 2016): leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png.

Its label ids 0..33 become the 19 classes that are trained and scored, here 1..19 in the benchmark's order; others are ignored.
Every pixel is of a class or ignored, none is background. The test split's masks hold no labels: all is ignored.
"""

from __future__ import annotations

from pathlib import Path

from frugalseg.data import files
from frugalseg.data.dataset import Record
from frugalseg.data.problems import DataError, Problems

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PICTURE, MASK = "_leftImg8bit", "_gtFine_labelIds"


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of a split (None: of all). An image is called SPLIT/CITY/CITY_000000_000019."""
    splits = _splits(root)
    if split is not None and split not in splits:
        raise DataError(f"split: got {split!r}, expected a folder in {root / 'leftImg8bit'}: {', '.join(splits)}.")
    pictures = _named(root / "leftImg8bit", PICTURE, root, options, problems)
    masks = _named(root / "gtFine", MASK, root, options, Problems())
    records = []
    for name in _members(pictures, split):
        if name not in masks:
            problems.add("mask-missing", files.shown(pictures[name], root))
        records.append(Record(name, pictures[name], semantic=masks.get(name)))
    return CLASSES, records


def split_lists(root: Path, options: files.Options, problems: Problems) -> dict[str, list[str]]:
    """The images of each split."""
    pictures = _named(root / "leftImg8bit", PICTURE, root, options, problems)
    return {split: _members(pictures, split) for split in _splits(root)}


def _splits(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "leftImg8bit").iterdir() if path.is_dir())


def _members(pictures: dict[str, Path], split: str | None) -> list[str]:
    return [name for name in pictures if split is None or name.startswith(f"{split}/")]


def _named(folder: Path, ending: str, root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    """The files whose names end so. gtFine holds three other kinds for each image, which are no news."""
    found = files.pictures(folder, root, problems, options.follow_links)
    return {name.removesuffix(ending): path for name, path in found.items() if name.endswith(ending)}
