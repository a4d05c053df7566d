"""The Semantic Boundaries Dataset: img/*.jpg, cls/*.mat (class masks), inst/*.mat (objects), lists train.txt, val.txt.

Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011. VOC's 20 classes on 11,355 of VOC's images; the masks
have no void band and cover whole regions (the spokes of a bicycle too). Its lists hold images of VOC's validation set: to score
on that, train on a list without them.
"""

from __future__ import annotations

from pathlib import Path

from frugalseg.data import files, images, matlab
from frugalseg.data.dataset import Record
from frugalseg.data.formats.voc import CLASSES
from frugalseg.data.problems import DataError, Problems

FOLDERS = ("img", "cls", "inst")


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of a list (None: of every image)."""
    pictures, classes, objects = (_index(root, folder, options, problems) for folder in FOLDERS)
    if split is not None and split not in lists(root):
        raise DataError(f"split: got {split!r}, expected a list in {root}: {', '.join(lists(root)) or 'there are none'}.")
    records = []
    for name in members(root, split, pictures, problems) if split else pictures:
        masks = classes.get(name), objects.get(name)
        if None in masks:
            problems.add("mask-missing", files.shown(pictures[name], root))
        own = masks[1] if masks[0] else None
        records.append(Record(name, pictures[name], semantic=masks[0], objects=own, object_classes=masks[0] if own else None))
    return CLASSES, records


def index(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    """Every image by name."""
    return _index(root, FOLDERS[0], options, problems)


def lists(root: Path) -> list[str]:
    """The names of the lists beside the folders."""
    return sorted(path.stem for path in root.glob("*.txt") if path.name != files.CLASS_FILE)


def members(root: Path, split: str, pictures: dict[str, Path], problems: Problems) -> list[str]:
    """The images of a list, in its order."""
    lines = filter(None, map(str.strip, files.read_text(root / f"{split}.txt").split("\n")))
    keys = (files.look_up(line, pictures, problems) for line in lines)
    return list(dict.fromkeys(key for key in keys if key is not None))


def _index(root: Path, folder: str, options: files.Options, problems: Problems) -> dict[str, Path]:
    suffixes = images.SUFFIXES if folder == FOLDERS[0] else frozenset({matlab.SUFFIX})
    return files.pictures(root / folder, root, problems, options.follow_links, suffixes=suffixes)
