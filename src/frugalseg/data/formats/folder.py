"""Plain folders: images with masks, with a table of tags, in a folder per class, or with nothing at all.

    images/ masks/ [classes.txt] [tags.csv]      layout "masks" (or labels/ for masks/)
    images/ objects/ [classes.txt]               layout "objects": maps of object ids, one class (labels/, masks/ of 16 bits too)
    [images/] tags.csv                           layout "tags"
    dog/ cat/ … [background/]                    layout "classes"
    anything with images in it, or one file    layout "images"

Splits are subfolders (train/ val/ test/, at the root or below images/ and masks/) or a table splits.csv; without either, every
image is in "train". An image is called by its path without the folder `images`, e.g. "train/0001".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from frugalseg.data import files, images, verify
from frugalseg.data.dataset import Record
from frugalseg.data.formats import coco, cub, imagenet_s, tags
from frugalseg.data.images import SUFFIXES
from frugalseg.data.problems import DataError, Problems

SPLITS = ("train", "val", "valid", "validation", "test")
OBJECT_FOLDERS = ("objects", "instances")
MASK_FOLDERS = ("masks", "labels", *OBJECT_FOLDERS)
TAG_TABLE, SPLIT_TABLE = "tags.csv", "splits.csv"
LARGEST_ID = 254  # of a class; 255 is "ignore"
LOOKED_AT = 8  # masks whose headers tell whether they number objects
MANY = 20  # classes; more than this, numbered 1, 2, … without a gap in every mask, are objects


def expect(root: Path) -> None:
    """Raises DataError, with the nearest name, where there is neither a file nor a folder."""
    if not root.exists():
        near = difflib.get_close_matches(root.name, _names(root.parent)) if root.parent.is_dir() else []
        raise DataError(f"{root}: there is no such file or folder." + (f" Did you mean {root.parent / near[0]}?" if near else ""))


def sniff(root: Path) -> str:
    """The layout of a folder (or file) by the names in it."""
    if root.is_file():
        return "coco" if root.suffix.lower() == ".json" else "images"
    if (root / "JPEGImages").is_dir():
        return "voc"
    below = sorted([*root.glob("*/JPEGImages"), *root.glob("*/*/JPEGImages")])
    if below:
        raise DataError(f"{root}: the VOC data set lies deeper; type {below[0].parent}")
    if (root / "leftImg8bit").is_dir():
        return "cityscapes"
    if cub.home(root):
        return "cub"
    if imagenet_s.is_here(root):
        return "imagenet-s"
    if (root / "img").is_dir() and (root / "inst").is_dir():
        return "sbd"
    if coco.lists(root):
        return "coco"
    shelves = _shelves(root).values()
    if _numbers_objects(root, [shelf / name for shelf in shelves for name in MASK_FOLDERS]):
        return "objects"
    if any((shelf / name).is_dir() for shelf in shelves for name in MASK_FOLDERS):
        return "masks"
    if any((shelf / TAG_TABLE).is_file() for shelf in shelves):
        return "tags"
    return "classes" if any(_is_sorted_by_class(shelf) for shelf in shelves) else "images"


def read(
    root: Path, split: str | None, layout: str, options: files.Options, problems: Problems
) -> tuple[tuple[str, ...], list[Record]]:
    """Classes (of the whole data set, so that ids agree between splits) and the records of one split, None for all."""
    if root.is_file():
        return (), [_single(root)]
    pictures, masks = _pictures(root, options, problems), _masks(root, options, problems)
    split_of = members(root, pictures, problems)
    tagged = _tagged(root, layout, pictures, problems)
    objects = layout == "objects"
    classes = _one_class(root) if objects else files.class_names(root) or _guessed_classes(root, masks, tagged, options, problems)
    for name in sorted(set(masks) - set(pictures)):
        problems.add("mask-orphan", files.shown(masks[name], root))
    records = []
    for name in _chosen(split, split_of, root):
        if masks and name not in masks:
            problems.add("mask-missing", files.shown(pictures[name], root))
        if tagged and name not in tagged:
            problems.add("tag-missing", files.shown(pictures[name], root))
        vector, strange = tags.vector(tagged[name], classes) if name in tagged else (None, [])
        for tag in strange:
            problems.add("tag-unknown-class", f"{tag} in {files.shown(pictures[name], root)}")
        mask = masks.get(name)
        records.append(Record(name, pictures[name], vector, *((None, mask) if objects else (mask, None))))
    return classes, records


def index(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    """Every image of the folder by name."""
    return {root.stem: root} if root.is_file() else _pictures(root, options, problems)


def members(root: Path, pictures: Mapping[str, Path], problems: Problems) -> dict[str, str]:
    """The split of each image of a folder; "" for one that splits.csv does not name."""
    if (root / SPLIT_TABLE).is_file():
        named = tags.read_splits(root / SPLIT_TABLE, _aliases(root, pictures), problems)
        return {name: named.get(name, "") for name in pictures}
    heads = {name: name.partition("/")[0] for name in pictures}
    parted = _split_folders(root) or _split_folders(root / "images")
    return {name: head if head in parted else "train" for name, head in heads.items()}


def _chosen(split: str | None, split_of: Mapping[str, str], root: Path) -> list[str]:
    there = sorted(set(split_of.values()) - {""})
    if split is not None and split not in there:
        raise DataError(f"split: got {split!r}, expected one that {root} has: {', '.join(there) or 'there are no pictures'}.")
    return [name for name in split_of if split in (None, split_of[name])]


def _split_folders(folder: Path) -> list[str]:
    """train, val, … in a folder, unless folders of images with other names lie beside them: then `train` runs on rails."""
    if not folder.is_dir():
        return []
    inner = [path for path in folder.iterdir() if path.is_dir() and path.name not in ("images", *MASK_FOLDERS)]
    others = [path for path in inner if path.name not in SPLITS and _holds_pictures(path)]
    return [] if others else sorted(path.name for path in inner if path.name in SPLITS)


def _shelves(root: Path) -> dict[str, Path]:
    """The places where images/, masks/ and tags.csv may lie, by what they put before an image's name."""
    return {"": root} | {f"{name}/": root / name for name in _split_folders(root)}


def _pictures(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    images_by_name: dict[str, Path] = {}
    shelves = _shelves(root)
    for prefix, shelf in shelves.items():
        home, apart = shelf / "images", frozenset[str]()
        if not home.is_dir():  # then they lie in the shelf itself, beside masks and, at the root, beside the other shelves
            home, apart = shelf, frozenset(MASK_FOLDERS) | {name.rstrip("/") for name in shelves if not prefix}
        inner = files.pictures(home, root, problems, options.follow_links, apart)
        images_by_name.update({prefix + name: path for name, path in inner.items()})
    return images_by_name


def _masks(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    masks_by_name: dict[str, Path] = {}
    for prefix, shelf in _shelves(root).items():
        home = next((shelf / name for name in MASK_FOLDERS if (shelf / name).is_dir()), None)
        inner = files.pictures(home, root, problems, options.follow_links) if home else {}
        masks_by_name.update({prefix + name: path for name, path in inner.items()})
    return masks_by_name


def _tagged(root: Path, layout: str, pictures: Mapping[str, Path], problems: Problems) -> dict[str, list[str]]:
    """The tags that tables or class folders give; images that are not in it have unknown tags."""
    tags_by_name: dict[str, list[str]] = {}
    for prefix, shelf in _shelves(root).items():
        if (shelf / TAG_TABLE).is_file():
            tags_by_name |= tags.read_tags(shelf / TAG_TABLE, _aliases(shelf, pictures, prefix), problems)
        if layout == "classes":
            inner_names = {name: name.removeprefix(prefix) for name in pictures if name.startswith(prefix)}
            tags_by_name |= {name: [inner.split("/")[0]] for name, inner in inner_names.items() if "/" in inner}
    return tags_by_name


def _aliases(shelf: Path, pictures: Mapping[str, Path], prefix: str = "") -> dict[str, str]:
    """What a table in `shelf` may call an image: its name there, or its path from the table."""
    names = {name.removeprefix(prefix): name for name in pictures if name.startswith(prefix)}
    paths = {
        path.relative_to(shelf).with_suffix("").as_posix(): name for name, path in pictures.items() if path.is_relative_to(shelf)
    }
    return paths | names


def _guessed_classes(
    root: Path, masks: Mapping[str, Path], tagged: Mapping[str, list[str]], options: files.Options, problems: Problems
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
    facts = verify.mask_facts(root, sorted(masks.values()), options)
    mask_ids = [[number for number in mask.get("ids", ()) if number] for mask in facts.values()]
    top = max((number for ids in mask_ids for number in ids if number <= LARGEST_ID), default=1)
    if top > MANY and all(ids == list(range(1, len(ids) + 1)) for ids in mask_ids):
        problems.add("mask-object-ids", f"up to {max(map(len, mask_ids))} in one mask")
    return tuple(f"class {number}" for number in range(1, top + 1))


def _numbers_objects(root: Path, folders: Sequence[Path]) -> bool:
    """Whether masks are maps of object ids: by their folder's name, or by 16 bits, which no class list fills."""
    there = [folder for folder in folders if folder.is_dir()]
    if any(folder.name in OBJECT_FOLDERS for folder in there):
        return True
    samples = [
        path for folder in there for path in islice(sorted(folder.rglob("*")), LOOKED_AT) if path.suffix.lower() in SUFFIXES
    ]
    return bool(samples) and len(files.class_names(root) or ("object",)) == 1 and all(map(_is_wide, samples))


def _is_wide(path: Path) -> bool:
    try:
        mode = images.header(path).mode
    except images.BadImage:
        return False
    return mode == "I" or mode.startswith("I;16")


def _one_class(root: Path) -> tuple[str, ...]:
    classes = files.class_names(root) or ("object",)
    if len(classes) > 1:
        raise DataError(
            f"{root / files.CLASS_FILE}: got {len(classes)} classes, but maps of object ids do not say which object is which; "
            "expected one name. For classes, write VOC's layout (SegmentationObject beside SegmentationClass) or COCO's."
        )
    return classes


def _single(path: Path) -> Record:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: got a file ending in {path.suffix or 'nothing'}, expected a folder, an archive that ends in .zip or .tar "
            f"(of .tar.gz, what gunzip makes), or one of {', '.join(sorted(SUFFIXES))}"
        )
    return Record(path.stem, path)


def _is_sorted_by_class(shelf: Path) -> bool:
    """Two subfolders or more that hold images, none of them the folder of all images, and no image beside them."""
    folders = [path for path in shelf.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if (shelf / "images").is_dir() or _split_folders(shelf) or _holds_pictures(shelf):
        return False
    return sum(map(_holds_pictures, folders)) >= 2


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
