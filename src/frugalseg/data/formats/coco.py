"""COCO's layout: a JSON file of images, categories and annotations for each split; masks as polygons or run lengths.

    annotations/instances_train.json  images/…      split "train"; the names of other files in annotations/ likewise
    train/_annotations.coco.json  train/…           split "train", as label tools export it
    instances.json                                  split "instances"; also on its own, with the images somewhere beside it

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014. The parts of a polygon are united, as COCO's own code does;
a hole needs run lengths. Masks become run lengths when they are read and stay so until a sample is asked for.

Nothing of the file reaches C code before it was looked at: a polygon with a coordinate of 1e8 would take all memory, and a
run-length code of 46 characters can stand for 900 MB.
"""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from frugalseg import rle
from frugalseg.data import files, images
from frugalseg.data.dataset import Box, CocoIds, Outline, Record
from frugalseg.data.problems import OBJECT, DataError, Problems

HOME = "annotations"
EXPORT = "_annotations.coco"  # as label tools call the file in each split's folder
HOMES_OF_PICTURES = ("images/", "JPEGImages/")  # left out of an image's name
LARGEST_PERIMETER = 200  # times (height + width): the time and memory that drawing a polygon takes grow with it …
LONGEST_OUTLINE = 2_000_000  # … and pixels, whatever size the file claims


class Unusable(ValueError):
    """An object that cannot be read. code: its entry in the table of problems."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Contents:
    """A file whose parts have the right kinds. Entries of images and annotations are dictionaries of anything."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]


def home(path: Path) -> Path:
    """The folder of the data set that a path (a folder, or one of its JSON files) means."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == HOME else path.parent


def lists(path: Path) -> dict[str, Path]:
    """The annotation file of each split. Among several kinds in annotations/ only instances_*.json count."""
    if path.is_file():
        return {_split_of(path): path}
    files_there = sorted([*path.glob(f"{HOME}/*.json"), *path.glob("*.json"), *path.glob(f"*/{EXPORT}.json")])
    ours = [
        file for file in files_there if file.stem.startswith("instances") or file.stem == EXPORT or "coco" in file.stem.lower()
    ]
    return {_split_of(file): file for file in ours or [file for file in files_there if file.parent.name == HOME]}


def _split_of(file: Path) -> str:
    return file.parent.name if file.stem == EXPORT else file.stem.removeprefix("instances_")


def read(path: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of one split, None for all. Ids of classes are 1, 2, … in the order of the file's category ids."""
    files_by_split, root = lists(path), home(path)
    contents = {name: load(files_by_split[name]) for name in _chosen(split, files_by_split, path)}
    categories = _categories(contents)
    classes = tuple(categories[number] for number in sorted(categories))
    if len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise DataError(f"{path}: got several categories called {', '.join(twice)}; expected different names. Rename them.")
    labels = {number: label for label, number in enumerate(sorted(categories), start=1)}
    pictures = files.pictures(root, root, problems, options.follow_links)
    records: dict[str, Record] = {}
    for name, content in contents.items():
        for record in _records(content, labels, _Finder(pictures, name), problems):
            records.setdefault(record.name, record)
    return classes, list(records.values())


def members(path: Path, options: files.Options) -> dict[str, list[str]]:
    """The names of the images in each split that are there."""
    quiet, root = Problems(), home(path)
    pictures = files.pictures(root, root, quiet, options.follow_links)
    names = {}
    for split, file in lists(path).items():
        finder = _Finder(pictures, split)
        keys = (finder.key(entry.get("file_name"), quiet) for entry in load(file).images)
        names[split] = list(dict.fromkeys(_name(key) for key in keys if key))
    return names


def load(file: Path) -> Contents:
    """The file, its outermost parts checked. Raises DataError."""
    try:
        value = json.loads(files.read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: got no readable JSON ({error}); export the annotations again") from error
    parts: list[Any] = [value.get(name) if isinstance(value, dict) else 0 for name in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) and all(isinstance(entry, dict) for entry in part) for part in parts):
        raise DataError(f"{file}: got no COCO annotations; expected lists of entries called images, annotations and categories")
    pictures, annotations, categories = parts
    named = {}
    for entry in categories:
        number, name = entry.get("id"), entry.get("name")
        if type(number) is not int or not isinstance(name, str) or not name.strip() or not name.isprintable() or number in named:
            raise DataError(f"{file}: got the category {entry!s:.80}; expected a whole id of its own and a name. Correct it.")
        named[number] = name.strip()
    classes = {number: name for number, name in named.items() if name.lower() not in files.NO_CLASSES}
    return Contents(pictures, annotations, classes)


def _chosen(split: str | None, splits: Mapping[str, Path], path: Path) -> list[str]:
    """The splits meant: all, the one of that name, or the only one that begins so, as `val` means val2017."""
    if not splits:
        raise DataError(f"{path}: got no annotation file; expected {HOME}/instances_train.json or the like")
    if split is None:
        return list(splits)
    near = [name for name in splits if name == split] or [name for name in splits if name.startswith(split)]
    if len(near) != 1:
        likely = difflib.get_close_matches(split, splits, n=10, cutoff=0.4) or list(splits)
        raise DataError(f"split: got {split!r}, expected one that {path} has: {', '.join(likely)}.")
    return near


def _categories(contents: Mapping[str, Contents]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for name, content in contents.items():
        for number, category in content.categories.items():
            if categories.setdefault(number, category) != category:
                raise DataError(f"category {number}: got {category!r} in {name}, {categories[number]!r} before; use one list")
    return categories


class _Finder:
    """Images by what a file calls them: the path from the folder or its end, in doubt in a folder called like the split."""

    def __init__(self, pictures: Mapping[str, Path], split: str) -> None:
        self.pictures, self.split = pictures, split
        self.by_end: dict[str, list[str]] = defaultdict(list)
        for key in pictures:
            self.by_end[PurePosixPath(key).name].append(key)

    def key(self, name: Any, problems: Problems) -> str | None:
        """The key of the image, or None and the problem is counted."""
        if not isinstance(name, str) or not files.is_plain(name):
            problems.add("name-outside", str(name)[:80])
            return None
        path = PurePosixPath(name)
        stem = path.with_suffix("") if path.suffix.lower() in images.SUFFIXES else path
        ends = [key for key in self.by_end.get(stem.name, ()) if f"/{key}".endswith(f"/{stem}")]
        ends = [key for key in ends if self.pictures[key].name == path.name] or ends  # a mask beside it is called .png
        near = [key for key in ends if self.split in PurePosixPath(key).parts]
        if str(stem) in ends or len(ends) == 1 or len(near) == 1:
            return str(stem) if str(stem) in ends else (near or ends)[0]
        problems.add("image-missing", name)
        return None


def _name(key: str) -> str:
    return next((key.removeprefix(home) for home in HOMES_OF_PICTURES if key.startswith(home)), key)


def _records(content: Contents, labels: Mapping[int, int], finder: _Finder, problems: Problems) -> Iterator[Record]:
    owned, seen, categories = _by_image(content, problems), set[str](), tuple(labels)
    drawn = any(entry.get("segmentation") for entry in content.annotations)
    for entry in content.images:
        annotations = owned.pop(_id(entry.get("id")), None)
        key = finder.key(entry.get("file_name"), problems)
        if annotations is None or key in seen:
            problems.add("image-duplicate-id", f"{entry.get('file_name')!r:.80}")
        elif key is not None:
            seen.add(key)
            record = _record(_name(key), finder.pictures[key], entry, annotations, labels, drawn, problems)
            yield replace(record, ids=CocoIds(entry["id"], categories))


def _by_image(content: Contents, problems: Problems) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each image by its id. Their own ids are not used: objects are numbered by their order."""
    owned: dict[str, list[dict[str, Any]]] = {_id(entry.get("id")): [] for entry in content.images}
    owned.pop("", None)
    seen: set[str] = set()
    problems.seen[OBJECT] += len(content.annotations)
    for place, entry in enumerate(content.annotations):
        number, owner = _id(entry.get("id")), _id(entry.get("image_id"))
        if number in seen:
            problems.add("object-duplicate-id", number or f"annotation {place} has none")
        seen.add(number)
        if owner in owned:
            owned[owner].append(entry)
        else:
            problems.add("object-unknown-image", f"{owner or 'none'}, annotation {place}")
    return owned


def _id(value: Any) -> str:
    """What an entry gives as an id, as text; empty for what can be none."""
    return f"{value!r:.80}" if type(value) in (int, str) else ""


def _record(
    name: str,
    picture: Path,
    entry: Mapping[str, Any],
    annotations: list[dict[str, Any]],
    labels: Mapping[int, int],
    drawn: bool,
    problems: Problems,
) -> Record:
    """What a file says of one image. drawn: whether the file has masks at all; else its boxes are what there is."""
    try:
        size = _size(entry, picture)
    except images.BadImage:  # `verify` says what is wrong with it
        return Record(name, picture)
    objects: dict[Any, None] = {}
    tags = [0.0] * len(labels)
    for place, annotation in enumerate(annotations):
        where = f"object {place} of {entry['file_name']}"
        label = labels.get(annotation["category_id"]) if type(annotation.get("category_id")) is int else None
        if label is None:
            problems.add("object-unknown-class", f"{annotation.get('category_id')!r:.40}, {where}")
            continue
        tags[label - 1] = 1.0
        try:
            item: Any = outline(annotation, label, size, where, problems) if drawn else box(annotation, label, size)
        except Unusable as error:
            problems.add(error.code, f"{where} ({error})")
            continue
        if item in objects:
            problems.add("object-twice", where)
        objects[item] = None
    boxes = tuple(Box(*item[:4], item.label, False, item.crowd) for item in objects) if drawn else tuple(objects)  # type: ignore[call-arg]
    return Record(name, picture, tuple(tags), boxes=boxes, outlines=tuple(objects) if drawn else None)


def _size(entry: Mapping[str, Any], picture: Path) -> tuple[int, int]:
    """(H, W) as the file says, else as the image does. Raises BadImage."""
    height, width = entry.get("height"), entry.get("width")
    if type(height) is int and type(width) is int and 0 < height * width <= images.MAX_PIXELS and height > 0:
        return height, width
    header = images.header(picture)
    return header.height, header.width


def outline(entry: Mapping[str, Any], label: int, size: tuple[int, int], where: str, problems: Problems) -> Outline:
    """One annotation with its mask; the mask's extent replaces a box that is none or misses the mask. Raises Unusable."""
    code = mask(entry.get("segmentation"), size)
    pixels = int(rle.areas([code])[0])
    if not pixels:
        raise Unusable("object-empty", "its mask has no pixel in the image")
    extent = tuple(rle.boxes([code])[0].tolist())
    try:
        corners = box(entry, label, size)[:4]
        if _overlap(corners, extent) < 0.5:
            raise Unusable("box-replaced", "its box misses its mask")
    except Unusable as error:
        if entry.get("bbox"):
            problems.add("box-replaced", f"{where} ({error})")
        corners = extent
    area = entry.get("area")
    usable = isinstance(area, (int, float)) and 0 < area <= 2 * size[0] * size[1]
    return Outline(*corners, label, size, code["counts"], float(area if usable else pixels), _crowd(entry))  # type: ignore[arg-type]


def mask(segmentation: Any, size: tuple[int, int]) -> rle.RLE:
    """The code of a mask of `size` from polygons or run lengths. Raises Unusable with a reason."""
    if isinstance(segmentation, dict):
        try:
            return rle.checked(segmentation, size)
        except ValueError as error:
            raise Unusable("rle-broken", str(error)) from error
    if not isinstance(segmentation, list) or not segmentation:
        raise Unusable("object-without-mask", "neither polygons nor run lengths")
    parts = [points for points in (_points(part, size) for part in segmentation) if len(points) >= 3]
    if not parts:
        raise Unusable("polygon-broken", "no part has three points")
    return rle.from_polygons(parts, size)


def _points(part: Any, size: tuple[int, int]) -> np.ndarray:
    """(n, 2) corners x, y of a polygon that can be drawn within reasonable time. Raises Unusable."""
    numbers: list[Any] = part if isinstance(part, list) else [None]
    if len(numbers) % 2 or any(type(number) not in (int, float) for number in numbers):
        raise Unusable("polygon-broken", "its points are not pairs of numbers")
    longest = max(size)
    if not all(-longest <= number <= 2 * longest for number in numbers):  # False for NaN too
        raise Unusable("polygon-broken", "a point is NaN or lies far outside of the image")
    points = np.array(numbers, float).reshape(-1, 2)
    around = np.abs(points - np.roll(points, 1, axis=0)).max(1, initial=0).sum()
    if around > min(LARGEST_PERIMETER * sum(size), LONGEST_OUTLINE):
        raise Unusable("polygon-broken", f"its outline is {around:.0f} pixels long")
    return points


def box(entry: Mapping[str, Any], label: int, size: tuple[int, int]) -> Box:
    """The box of an annotation. Raises Unusable for what is no box that touches the image."""
    corners = entry.get("bbox")
    if not isinstance(corners, list) or len(corners) != 4 or any(type(number) not in (int, float) for number in corners):
        raise Unusable("box-broken", "its box is not four numbers")
    height, width = size
    if not all(abs(number) <= 10 * max(size) for number in corners):
        raise Unusable("box-broken", "its box holds NaN or numbers far beyond the image")
    x, y, w, h = map(float, corners)
    if min(w, h) <= 0 or min(x + w, y + h) <= 0 or x >= width or y >= height:
        raise Unusable("box-broken", "its box is empty or outside of the image")
    return Box(x, y, x + w, y + h, label, crowd=_crowd(entry))


def _crowd(entry: Mapping[str, Any]) -> bool:
    return entry.get("iscrowd") in (1, True)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return shared / (areas - shared)
