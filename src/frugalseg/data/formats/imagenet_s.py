"""ImageNet-S (Gao et al., TPAMI 2022): SPLIT/WNID/*.JPEG and, for some splits, SPLIT-segmentation/WNID/*.png.

Its masks store class ids up to 919 as colours. More classes than a class mask may have, and all that is asked of them here is how
well regions fit: the region of a class is an object of the one class "object". The folders train and test have no masks.
"""

from __future__ import annotations

from pathlib import Path

from frugalseg.data import files
from frugalseg.data.dataset import Record
from frugalseg.data.problems import DataError, Problems

CLASSES = ("object",)
MASKS = "-segmentation"
MASKED = ("train-semi", "validation")


def is_here(root: Path) -> bool:
    """Whether one of the folders with masks lies beside that of their images."""
    return any((root / split).is_dir() and (root / f"{split}{MASKS}").is_dir() for split in MASKED)


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of a split (None: of all). An image is called SPLIT/WNID/NAME."""
    splits = _splits(root)
    if split is not None and split not in splits:
        raise DataError(f"split: got {split!r}, expected a folder in {root}: {', '.join(splits)}.")
    records = []
    for own in splits if split is None else [split]:
        pictures, masks = (_named(root / folder, own, root, options, problems) for folder in (own, own + MASKS))
        for name, path in pictures.items():
            if masks and name not in masks:
                problems.add("mask-missing", files.shown(path, root))
            records.append(Record(name, path, objects=masks.get(name)))
        for name in sorted(set(masks) - set(pictures)):
            problems.add("mask-orphan", files.shown(masks[name], root))
    return CLASSES, records


def split_lists(root: Path, options: files.Options, problems: Problems) -> dict[str, list[str]]:
    """The images of each split."""
    return {split: list(_named(root / split, split, root, options, problems)) for split in _splits(root)}


def _splits(root: Path) -> list[str]:
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [name for name in folders if not name.endswith(MASKS)]


def _named(folder: Path, split: str, root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    found = files.pictures(folder, root, problems, options.follow_links)
    return {f"{split}/{name}": path for name, path in found.items()}
