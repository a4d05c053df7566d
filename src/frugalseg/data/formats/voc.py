"""The PASCAL VOC layout: JPEGImages, ImageSets, and any of Annotations, SegmentationClass, SegmentationObject.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010; file formats as in its development kit.
Tags come from Annotations (and from the second column of per-class lists), never from masks: a data set whose masks were
quietly turned into tags would no longer be weakly labelled.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from frugalseg.data import file_info, files
from frugalseg.data.dataset import Box, Record
from frugalseg.data.problems import LABEL, DataError, Problems

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LARGEST_ANNOTATION = 10_000_000  # bytes
DIFFICULT = {"present": 1.0, "unknown": math.nan, "absent": 0.0}
NAN = math.nan


def read(root: Path, split: str | None, options: files.Options, problems: Problems) -> tuple[tuple[str, ...], list[Record]]:
    """Classes and records of a list in ImageSets (None: of every image)."""
    pictures = index(root, options, problems)
    annotations = file_info.of(root, "annotation", sorted((root / "Annotations").glob("**/*.xml")), parse, {"objects"})
    semantic = files.pictures(root / "SegmentationClass", root, problems, options.follow_links)
    objects = files.pictures(root / "SegmentationObject", root, problems, options.follow_links)
    classes = files.class_names(root) or _found_classes(annotations, bool(semantic), problems)
    listed = dict.fromkeys(pictures) if split is None else members(root, split, pictures, problems)
    records = []
    for name, value in listed.items():
        annotation = annotations.get(root / "Annotations" / f"{name}.xml")
        boxes, tags = _labels(f"Annotations/{name}.xml", annotation, classes, problems, options.difficult)
        if annotation is None and annotations:
            problems.add("annotation-missing", files.shown(pictures[name], root))
        if annotation is None and split is not None and value is not None:
            tags = _listed_tag(split, value, classes)
        masks = _masks(name, semantic, objects)
        if masks[0] is None and split is not None and split.startswith("Segmentation/"):
            problems.add("mask-missing", files.shown(pictures[name], root))
        records.append(Record(name, pictures[name], tags, *masks, boxes))
    return classes, records


def index(root: Path, options: files.Options, problems: Problems) -> dict[str, Path]:
    """Every image of JPEGImages by name."""
    return files.pictures(root / "JPEGImages", root, problems, options.follow_links)


def splits(root: Path) -> list[str]:
    """The names of all lists, e.g. "Main/train": paths below ImageSets without ending."""
    folder = root / "ImageSets"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("**/*.txt"))


def members(root: Path, split: str, pictures: Mapping[str, Path], problems: Problems) -> dict[str, str | None]:
    """The images of a list in its order, each with the second column ("1", "0", "-1") of a per-class list, else None."""
    values: dict[str, str | None] = {}
    for line in filter(None, map(str.strip, files.read_text(_list_file(root, split)).split("\n"))):
        name, value = _entry(line, pictures)
        key = files.look_up(name, pictures, problems)
        if key in values:
            problems.add("list-duplicate", name)
        elif key is not None:
            values[key] = value
    return values


def parse(path: Path) -> file_info.Facts:
    """The objects of a file, each [name, xmin, ymin, xmax, ymax, difficult] (None for no box); or code and reason."""
    try:
        if path.stat().st_size > LARGEST_ANNOTATION:
            raise ValueError(f"larger than {LARGEST_ANNOTATION:,} bytes")
        tree = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype()))
        return {"objects": [_object(item) for item in tree.getroot().iterfind("object")]}
    except (OSError, ValueError, ElementTree.ParseError) as error:
        return {"code": "annotation-broken", "reason": str(error)}


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities are declared in a DOCTYPE, which no annotation needs; so a bomb of entities is refused before it is lit."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("holds a DOCTYPE")


def _object(item: ElementTree.Element) -> list[Any]:
    name = (item.findtext("name") or "").strip()
    if not name or not name.isprintable():
        raise ValueError("an object has no usable name")
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    numbers = [float(corner) for corner in corners if corner is not None]
    if len(numbers) not in (0, 4) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"the box of {name!r} is not four numbers")
    box: list[Any] = numbers or [None] * 4
    return [name, *box, (item.findtext("difficult") or "0").strip() == "1"]


def _found_classes(annotations: Mapping[Path, file_info.Facts], masked: bool, problems: Problems) -> tuple[str, ...]:
    """VOC's own list if it covers what was found, so that a part of VOC keeps VOC's ids; else the names found, sorted."""
    names = {item[0] for facts in annotations.values() for item in facts.get("objects", ())}
    if names <= set(CLASSES):
        return CLASSES
    if masked:
        problems.add("class-guessed", ", ".join(sorted(names)))
    return tuple(sorted(names))


def _masks(name: str, semantic: Mapping[str, Path], objects: Mapping[str, Path]) -> tuple[Path | None, Path | None, Path | None]:
    """The class mask, the object mask, and the class mask once more, which says what the objects are."""
    classes = semantic.get(name)
    return (classes, objects[name], classes) if classes and name in objects else (classes, None, None)


def _labels(
    file: str, annotation: file_info.Facts | None, classes: tuple[str, ...], problems: Problems, difficult: str
) -> tuple[tuple[Box, ...] | None, tuple[float, ...] | None]:
    """Boxes and tags that an annotation file tells; both None if there is none or it cannot be read.

    A file in which an object has no box says which classes there are, and nothing of boxes: they are None.
    """
    if annotation is None:
        return None, None
    problems.seen[LABEL] += 1
    if "code" in annotation:
        problems.add(annotation["code"], f"{file} ({annotation['reason']})")
        return None, None
    tags, boxes = [0.0] * len(classes), []
    for label_name, x1, y1, x2, y2, hard in annotation["objects"]:
        if label_name not in classes:
            problems.add("tag-unknown-class", f"{label_name} in {file}")
            continue
        label = classes.index(label_name) + 1
        tags[label - 1] = _claim(tags[label - 1], DIFFICULT[difficult] if hard else 1.0)
        if x1 is not None:  # VOC counts pixels from 1 and includes the last one
            boxes.append(Box(x1 - 1, y1 - 1, x2, y2, label, hard))
    boxed = all(item[1] is not None for item in annotation["objects"])
    return tuple(boxes) if boxed else None, tuple(tags)


def _claim(before: float, now: float) -> float:
    """Present beats unknown beats absent: one clear dog settles it, however many hidden ones there are."""
    return max(before, now, key=lambda value: 0.5 if math.isnan(value) else value)


def _listed_tag(split: str, value: str, classes: tuple[str, ...]) -> tuple[float, ...] | None:
    """The one tag that a list such as Main/dog_train gives an image; all others stay unknown."""
    name = split.rpartition("/")[2].rpartition("_")[0]
    tag = {"1": 1.0, "-1": 0.0}.get(value, NAN)
    return tuple(tag if other == name else NAN for other in classes) if name in classes else None


def _list_file(root: Path, split: str) -> Path:
    """A name with `/` is a path below ImageSets; a bare one is looked for in Main, then Segmentation, then ImageSets itself."""
    there = splits(root)
    wanted = [split] if "/" in split else [f"Main/{split}", f"Segmentation/{split}", split]
    for name in wanted:
        if name in there:
            return root / "ImageSets" / f"{name}.txt"
    near = difflib.get_close_matches(split, there, n=10, cutoff=0.4) or there[:10]
    raise DataError(f"split: got {split!r}, expected a list in {root / 'ImageSets'}: {', '.join(near) or 'there are none'}.")


def _entry(line: str, pictures: Mapping[str, Path]) -> tuple[str, str | None]:
    """Name and second column of a line. Names may hold spaces, so the whole line is tried first; other columns are not ours."""
    name, _, value = line.rpartition(" ")
    if line in pictures or not name:
        return line, None
    if value in ("1", "0", "-1") and (name.rstrip() in pictures or " " not in name.strip()):
        return name.rstrip(), value
    first = line.split()[0]
    return (first, None) if first in pictures else (line, None)
