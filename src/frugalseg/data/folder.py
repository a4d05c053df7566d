"""Plain folders: pictures with masks, with a table of tags, in a folder per class, or with nothing at all.

    images/ masks/ [classes.txt] [tags.csv]      layout "masks" (or labels/ for masks/)
    [images/] tags.csv                           layout "tags"
    dog/ cat/ … [background/]                    layout "classes"
    anything with pictures in it, or one file    layout "images"

Splits are subfolders (train/ val/ test/, at the root or below images/ and masks/) or a table splits.csv; without either, every
picture is in "train". A picture is called by its path without the folder `images`, e.g. "train/0001".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from frugalseg.data import facts, files, tags, verify
from frugalseg.data.dataset import Record
from frugalseg.data.images import SUFFIXES
from frugalseg.data.problems import DataError, Problems

SPLITS = ("train", "val", "valid", "validation", "test")
MASK_FOLDERS = ("masks", "labels")
TAG_TABLE, SPLIT_TABLE = "tags.csv", "splits.csv"
LARGEST_ID = 254  # of a class; 255 is "ignore"


def sniff(root: Path) -> str:
    """The layout of a folder (or file) by the names in it."""
    if root.is_file():
        return "images"
    if not root.is_dir():
        near = difflib.get_close_matches(root.name, _names(root.parent)) if root.parent.is_dir() else []
        raise DataError(f"{root}: there is no such file or folder." + (f" Did you mean {root.parent / near[0]}?" if near else ""))
    if (root / "JPEGImages").is_dir():
        return "voc"
    below = sorted([*root.glob("*/JPEGImages"), *root.glob("*/*/JPEGImages")])
    if below:
        raise DataError(f"{root}: the VOC data set lies deeper; type {below[0].parent}")
    shelves = _shelves(root)
    if any((shelf / name).is_dir() for shelf in shelves for name in MASK_FOLDERS):
        return "masks"
    if any((shelf / TAG_TABLE).is_file() for shelf in shelves):
        return "tags"
    return "classes" if any(_is_sorted_by_class(shelf) for shelf in shelves) else "images"


def read(
    root: Path, split: str | None, layout: str, problems: Problems, follow_links: bool
) -> tuple[tuple[str, ...], list[Record]]:
    """Classes (of the whole data set, so that ids agree between splits) and the records of one split, None for all."""
    if root.is_file():
        return (), [_single(root)]
    pictures = _pictures(root, problems, follow_links)
    masks = _masks(root, problems, follow_links)
    tagged = _tagged(root, layout, pictures, problems)
    classes = files.class_names(root) or _guessed_classes(root, layout, masks, tagged, problems)
    own = _members(root, pictures, problems)
    for name in sorted(set(masks) - set(pictures)):
        problems.add("mask-orphan", name)
    records = []
    for name in _chosen(split, own, root):
        if masks and name not in masks:
            problems.add("mask-missing", name)
        if tagged and name not in tagged:
            problems.add("tag-missing", name)
        known = tags.vector(name, tagged[name], classes, problems) if name in tagged else None
        records.append(Record(name, pictures[name], known, masks.get(name)))
    return classes, records


def splits(root: Path) -> list[str]:
    """The names of the splits of a folder; "train" alone if it is not split."""
    return [] if root.is_file() else sorted(set(members(root, Problems()).values()) - {""})


def members(root: Path, problems: Problems, follow_links: bool = False) -> dict[str, str]:
    """The split of each picture of a folder; "" for one that splits.csv does not name."""
    pictures = _pictures(root, problems, follow_links)
    return _members(root, pictures, problems)


def _members(root: Path, pictures: Mapping[str, Path], problems: Problems) -> dict[str, str]:
    if (root / SPLIT_TABLE).is_file():
        named = tags.read_splits(root / SPLIT_TABLE, _aliases(root, pictures), problems)
        return {name: named.get(name, "") for name in pictures}
    heads = {name: name.partition("/")[0] for name in pictures}
    return {name: head if head in SPLITS and head != name else "train" for name, head in heads.items()}


def _chosen(split: str | None, own: Mapping[str, str], root: Path) -> list[str]:
    there = sorted(set(own.values()) - {""})
    if split is not None and split not in there:
        raise DataError(
            f"split: got {split!r}, {root} has {', '.join(there) or 'no pictures'}. Name one of them, or none for all pictures."
        )
    return [name for name in own if split in (None, own[name])]


def _shelves(root: Path) -> list[Path]:
    """The folder and its split folders: the places where images/, masks/ and tags.csv may lie."""
    return [root, *(root / name for name in SPLITS if (root / name).is_dir())]


def _prefix(shelf: Path, root: Path) -> str:
    return "" if shelf == root else f"{shelf.name}/"


def _pictures(root: Path, problems: Problems, follow_links: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for shelf in _shelves(root):
        home = shelf / "images" if (shelf / "images").is_dir() else shelf
        if home == root or shelf != root or home.name == "images":
            inner = files.pictures(
                home, root, problems, follow_links, apart=_apart(shelf, root) if home == shelf else frozenset()
            )
            found.update({_prefix(shelf, root) + name: path for name, path in inner.items()})
    return found


def _apart(shelf: Path, root: Path) -> frozenset[str]:
    """Subfolders whose pictures are not this shelf's: masks, and the splits, which are shelves themselves."""
    return frozenset(MASK_FOLDERS) | (frozenset(SPLITS) if shelf == root else frozenset())


def _masks(root: Path, problems: Problems, follow_links: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for shelf in _shelves(root):
        home = next((shelf / name for name in MASK_FOLDERS if (shelf / name).is_dir()), None)
        if home is not None:
            inner = files.pictures(home, root, problems, follow_links)
            found.update({_prefix(shelf, root) + name: path for name, path in inner.items()})
    return found


def _tagged(root: Path, layout: str, pictures: Mapping[str, Path], problems: Problems) -> dict[str, list[str]]:
    """The tags that tables or class folders give; pictures that are not in it have unknown tags."""
    found: dict[str, list[str]] = {}
    for shelf in _shelves(root):
        if (shelf / TAG_TABLE).is_file():
            found.update(tags.read_tags(shelf / TAG_TABLE, _aliases(shelf, pictures, _prefix(shelf, root)), problems))
    if layout == "classes":
        folders = {name: name.split("/")[1 if name.partition("/")[0] in SPLITS else 0 : -1] for name in pictures}
        found |= {name: [path[0]] for name, path in folders.items() if path}
        found |= {name: [] for name, path in folders.items() if path and path[0].lower() in files.NO_CLASSES}
    return found


def _aliases(shelf: Path, pictures: Mapping[str, Path], prefix: str = "") -> dict[str, str]:
    """What a table in `shelf` may call a picture: its name there, or its path from the table."""
    names = {name.removeprefix(prefix): name for name in pictures if name.startswith(prefix)}
    paths = {
        path.relative_to(shelf).with_suffix("").as_posix(): name for name, path in pictures.items() if path.is_relative_to(shelf)
    }
    return paths | names


def _guessed_classes(
    root: Path, layout: str, masks: Mapping[str, Path], tagged: Mapping[str, list[str]], problems: Problems
) -> tuple[str, ...]:
    """The class list of a folder without classes.txt: the tags found, or `class 1`… for the ids found in masks."""
    if masks and tagged:
        raise DataError(
            f"{root}: masks number the classes and tags name them; nobody says which is which. "
            f"Write {root / files.CLASS_FILE} with one name per line: line i names id i."
        )
    if not masks:
        return tags.vocabulary(tagged.values())
    problems.add("class-guessed", "class 1, class 2, …")
    known = facts.of(root, "mask", sorted(masks.values()), verify.mask_facts)
    ids = {number for found in known.values() for number in found.get("ids", ()) if number <= LARGEST_ID}
    return tuple(f"class {number}" for number in range(1, max(ids | {1}) + 1))


def _single(path: Path) -> Record:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: got a file ending in {path.suffix or 'nothing'}, expected a folder or one of {', '.join(sorted(SUFFIXES))}"
        )
    return Record(path.stem, path)


def _is_sorted_by_class(shelf: Path) -> bool:
    """Two subfolders or more that hold pictures, none of them the folder of all pictures, and no picture beside them."""
    folders = [path for path in shelf.iterdir() if path.is_dir() and path.name not in SPLITS and not path.name.startswith(".")]
    if any(path.name == "images" for path in folders) or _holds_pictures(shelf):
        return False
    return sum(map(_holds_pictures, folders)) >= 2


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
