"""A data set as a list of records: what is known about each image, and in which file. Nothing is loaded before it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from frugalseg import rle
from frugalseg.data import images
from frugalseg.data.problems import PICTURE, Problem
from frugalseg.types import IGNORE, Instances, Sample, size_of

FIELDS = ("image", "tags", "semantic", "boxes", "instances")  # the labels a reader knows; boxes are instances without masks


class Box(NamedTuple):
    """One annotated object: corners in pixels (x1, y1 inclusive, x2, y2 exclusive), class id 1..C.

    difficult: VOC's mark of what need not be found. crowd: COCO's of many objects in one box.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    difficult: bool = False
    crowd: bool = False


class Outline(NamedTuple):
    """One annotated object with its mask: corners as of a Box, class id 1..C, (H, W) and run lengths as in `frugalseg.rle`, the
    area that the annotation tells, and whether it is a crowd of objects that nobody told apart."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    size: tuple[int, int]
    counts: bytes
    area: float
    crowd: bool = False

    @property
    def rle(self) -> rle.RLE:
        """Its mask in COCO's form, {size, counts}."""
        return {"size": list(self.size), "counts": self.counts}


class CocoIds(NamedTuple):
    """How COCO's file calls an image and each class, for results that are to be scored against that file."""

    image: int | str
    categories: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about one image; None = unknown.

    name: unique in the data set. tags: one of {0, 1, nan} per class. semantic: mask of class ids. objects: mask of object ids,
    whose classes are read from `object_classes` at the same pixels (None: all are of class 1). boxes: the annotated objects.
    outlines: the same with masks. ids: those of the file it comes from.
    """

    name: str
    image: Path
    tags: tuple[float, ...] | None = None
    semantic: Path | None = None
    objects: Path | None = None
    object_classes: Path | None = None
    boxes: tuple[Box, ...] | None = None
    outlines: tuple[Outline, ...] | None = None
    ids: CocoIds | None = None

    @property
    def fields(self) -> frozenset[str]:
        """What is known, in names of FIELDS."""
        labels = {
            "image": True,
            "tags": any(tag == tag for tag in self.tags or ()),
            "semantic": self.semantic is not None,
            "boxes": self.boxes is not None,
            "instances": self.objects is not None or self.outlines is not None,
        }
        return frozenset(name for name, there in labels.items() if there)


class Data(Dataset[Sample]):
    """A readable split of a data set: `len(data)`, `data[i] -> Sample` with everything that is known about the image.

    classes: names of the ids 1..C. records: one per image. problems: what the reader left out or stumbled over.
    """

    def __init__(
        self,
        root: Path,
        layout: str,
        split: str | None,
        classes: tuple[str, ...],
        records: list[Record],
        problems: Iterable[Problem] = (),
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        self.root, self.layout, self.split = root, layout, split or "all"
        self.classes, self.records, self.problems = classes, records, list(problems)
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        tags = None if record.tags is None else torch.tensor(record.tags, dtype=torch.float32)
        image = self.image(index)
        height, width = image.shape[-2:]
        semantic = None if record.semantic is None else self._mask(record, record.semantic, (height, width))
        return Sample(record.name, image, tags, semantic, self._instances(index, (height, width)))

    def image(self, index: int) -> Tensor:
        """The image alone, (3, H, W) uint8 RGB; raises images.BadImage if it cannot be read."""
        return images.load(self.records[index].image, self.max_pixels)

    def compact(self, index: int) -> Instances | None:
        """The objects of an image with their masks as run lengths, crowds among them; None where no masks are known.

        The image is not decoded and no mask is dense, so a large set can be scored with little memory. Raises images.BadImage.
        """
        record = self.records[index]
        if record.outlines is not None:
            return _compact(record.outlines)
        if record.objects is None:
            return None
        ids = images.load_mask(record.objects, record.image, None, self.max_pixels)
        return objects(ids, None if record.object_classes is None else self._mask(record, record.object_classes, size_of(ids)))

    def boxed(self, index: int) -> Instances | None:
        """The objects of an image by their boxes: as annotated, else the extents of their masks; None where neither is known."""
        record = self.records[index]
        if record.boxes is None or record.outlines is not None:
            return self.compact(index)
        marks = torch.tensor([(box.crowd, box.difficult) for box in record.boxes], dtype=torch.bool).reshape(-1, 2)
        return Instances(*_boxes(record.boxes), crowd=marks[:, 0], difficult=marks[:, 1])

    def void(self, index: int) -> rle.RLE | None:
        """The pixels of an image that its class mask leaves out (255), where its objects come with one; else None."""
        record = self.records[index]
        if record.objects is None or record.object_classes is None:
            return None
        mask = images.load_mask(record.object_classes, record.image, None, self.max_pixels)
        return rle.encode(mask.numpy() == IGNORE)

    @property
    def names(self) -> list[str]:
        """The images' names, in order."""
        return [record.name for record in self.records]

    @property
    def tags(self) -> Tensor:
        """(N, C) float32 of 0, 1, nan = unknown."""
        unknown = (float("nan"),) * len(self.classes)
        rows = [unknown if record.tags is None else record.tags for record in self.records]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(self), len(self.classes))

    @property
    def offers(self) -> frozenset[str]:
        """The names of FIELDS that at least one record knows. A method that needs no other can train on this data."""
        return frozenset().union(*(record.fields for record in self.records))

    def select(self, indices: Iterable[int]) -> Data:
        """The records at `indices`, in that order."""
        return self._with([self.records[int(index)] for index in indices])

    def having(self, *fields: str) -> Data:
        """The images of which all these labels (names of FIELDS) are known. Raises ValueError if there is none."""
        labelled = self.select(index for index, record in enumerate(self.records) if record.fields >= set(fields))
        if not len(labelled):
            labels = " and ".join(sorted(set(fields) - {"image"}))
            raise ValueError(f"{self.root}, list {self.split!r}: no image has {labels}; `frugalseg check` says what there is")
        return labelled

    def only(self, *fields: str) -> Data:
        """The same images with every label withheld except `fields`, e.g. `data.only("image", "tags")`.

        The guard of honest supervision: the returned records do not even hold the paths of the other labels, so nothing that is
        given this data set can open them.
        """
        unknown = sorted(set(fields) - set(FIELDS))
        if unknown:
            raise ValueError(f"only(): got {', '.join(unknown)}; expected some of {', '.join(FIELDS)}")
        return self._with([_strip(record, frozenset(fields)) for record in self.records])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the classes and of each record's name, file size and tags: tells one data set from another."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for record in self.records:
            digest.update(repr((record.name, record.image.stat().st_size, record.tags)).encode())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        dropped = sum(problem.count for problem in self.problems if problem.effect == PICTURE)
        offers = " ".join(field for field in FIELDS if field in self.offers)
        pictures = f"{len(self)} images" + (f", {dropped} left out" if dropped else "")
        classes = ", ".join(self.classes[:3]) + (", …" if len(self.classes) > 3 else "")
        return f"Data({self.root.name}/{self.split}: {pictures}, {len(self.classes)} classes ({classes}), offers {offers})"

    def _with(self, records: list[Record]) -> Data:
        return Data(self.root, self.layout, self.split, self.classes, records, self.problems, self.max_pixels)

    def _mask(self, record: Record, path: Path, size: tuple[int, int]) -> Tensor:
        mask = images.load_mask(path, record.image, size, self.max_pixels)
        wrong = ((mask > len(self.classes)) | (mask < 0)) & (mask != IGNORE)
        if wrong.any():
            reason = f"holds id {int(mask[wrong].max())}, the class list ends at {len(self.classes)}"
            raise images.BadImage(path, reason, "mask-unknown-id")
        return mask

    def _instances(self, index: int, size: tuple[int, int]) -> Instances | None:
        """The objects of an image of `size`, without crowds. Raises BadImage for masks of another size."""
        objects = self.compact(index)
        if objects is None:
            record = self.records[index]
            return None if record.boxes is None else Instances(*_boxes(record.boxes))
        if objects.size not in (None, size):
            (height, width), record = objects.size or size, self.records[index]
            reason = f"its objects were drawn on {width} x {height} pixels, it has {size[1]} x {size[0]}"
            raise images.BadImage(record.objects or record.image, reason, "annotation-size")
        return objects if objects.crowd is None else objects[~objects.crowd]


def objects(ids: Tensor, classes: Tensor | None) -> Instances:
    """Objects from a map of object ids (H, W; 0 is no object) and the class mask (H, W) under it, or None for one class.

    Boxes are the masks' extents, exclusive at the right and bottom.
    """
    labels = object_classes(ids, classes)
    codes = dict(zip(*rle.from_ids(ids.numpy()), strict=True))
    masks = [codes[number] for number in labels]
    return Instances(torch.from_numpy(rle.boxes(masks)), torch.tensor([*labels.values()], dtype=torch.int64), masks=masks)


def object_classes(ids: Tensor, classes: Tensor | None) -> dict[int, int]:
    """The class of each object in a map of ids (H, W): the commonest class id (H, W) of its pixels, 1 where there are no classes.

    An object on background and ignore alone is none. Beside class masks, 255 marks the border between objects, as in VOC.
    """
    if classes is None:
        return {number: 1 for number in images.ids(ids) if number}
    labels = {}
    for number in images.ids(ids):
        labelled = classes[ids == number]
        labelled = labelled[(labelled != 0) & (labelled != IGNORE)]
        if number not in (0, IGNORE) and len(labelled):
            labels[number] = int(labelled.mode().values)
    return labels


def _compact(outlines: tuple[Outline, ...]) -> Instances:
    areas = torch.tensor([item.area for item in outlines], dtype=torch.float64)
    crowd = torch.tensor([item.crowd for item in outlines], dtype=torch.bool)
    return Instances(*_boxes(outlines), masks=[item.rle for item in outlines], areas=areas, crowd=crowd)


def _boxes(items: Sequence[Box | Outline]) -> tuple[Tensor, Tensor]:
    """Corners (N, 4) and labels (N,)."""
    corners = torch.tensor([item[:4] for item in items], dtype=torch.float32).reshape(-1, 4)
    return corners, torch.tensor([item.label for item in items], dtype=torch.int64)


def _strip(record: Record, fields: frozenset[str]) -> Record:
    tags = record.tags if "tags" in fields else None
    semantic = record.semantic if "semantic" in fields else None
    kept = replace(record, tags=tags, semantic=semantic, boxes=record.boxes if "boxes" in fields else None)
    return kept if "instances" in fields else replace(kept, objects=None, object_classes=None, outlines=None)
