"""A data set as a list of records: what is known about each picture, and in which file. Nothing is loaded before it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import masks_to_boxes

from frugalseg.data import images
from frugalseg.data.problems import PICTURE, Problem
from frugalseg.types import IGNORE, Instances, Sample

FIELDS = ("image", "tags", "semantic", "instances")  # the fields of a Sample that a reader can fill


class Box(NamedTuple):
    """One annotated object: corners in pixels (x1, y1 inclusive, x2, y2 exclusive), class id 1..C."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    difficult: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about one picture; None = unknown.

    name: unique in the data set. tags: one of {0, 1, nan} per class. semantic: mask of class ids. objects: mask of object ids,
    whose classes are read from `object_classes` at the same pixels (None: all are of class 1). boxes: the annotated objects.
    """

    name: str
    image: Path
    tags: tuple[float, ...] | None = None
    semantic: Path | None = None
    objects: Path | None = None
    object_classes: Path | None = None
    boxes: tuple[Box, ...] | None = None


class Data(Dataset[Sample]):
    """A readable split of a data set: `len(data)`, `data[i] -> Sample` with everything that is known about the picture.

    classes: names of the ids 1..C. records: one per picture. problems: what the reader left out or stumbled over.
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
        return Sample(record.name, image, tags, semantic, self._instances(record, (height, width)))

    def image(self, index: int) -> Tensor:
        """The picture alone, (3, H, W) uint8 RGB; raises images.BadImage if it cannot be read."""
        return images.load(self.records[index].image, self.max_pixels)

    @property
    def names(self) -> list[str]:
        return [record.name for record in self.records]

    @property
    def tags(self) -> Tensor:
        """(N, C) float32 of 0, 1, nan = unknown."""
        unknown = (float("nan"),) * len(self.classes)
        rows = [unknown if record.tags is None else record.tags for record in self.records]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(self), len(self.classes))

    @property
    def offers(self) -> frozenset[str]:
        """The fields of Sample that at least one record can fill. A method that needs no other field can train on this data."""
        tagged = any(record.tags is not None and any(tag == tag for tag in record.tags) for record in self.records)
        masked = any(record.semantic is not None for record in self.records)
        objects = any(record.objects is not None or record.boxes is not None for record in self.records)
        known = {"image": bool(self.records), "tags": tagged, "semantic": masked, "instances": objects}
        return frozenset(name for name, there in known.items() if there)

    def select(self, indices: Iterable[int]) -> Data:
        """The records at `indices`, in that order."""
        return self._with([self.records[int(index)] for index in indices])

    def only(self, *fields: str) -> Data:
        """The same pictures with every label withheld except `fields`, e.g. `data.only("image", "tags")`.

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
        pictures = f"{len(self)} pictures" + (f", {dropped} left out" if dropped else "")
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

    def _instances(self, record: Record, size: tuple[int, int]) -> Instances | None:
        if record.objects is not None:
            ids = images.load_mask(record.objects, record.image, size, self.max_pixels)
            return objects(ids, None if record.object_classes is None else self._mask(record, record.object_classes, size))
        if record.boxes is not None:
            corners = torch.tensor([box[:4] for box in record.boxes], dtype=torch.float32).reshape(-1, 4)
            return Instances(corners, torch.tensor([box.label for box in record.boxes], dtype=torch.int64))
        return None


def objects(ids: Tensor, classes: Tensor | None) -> Instances:
    """Object masks from a map of object ids (H, W; 0 and 255 are no object) and the class mask (H, W) under it.

    An object's class is the commonest class id of its pixels; one that lies on background and ignore alone is no object.
    Boxes are the masks' extents, exclusive at the right and bottom.
    """
    numbers = [number for number in images.ids(ids) if number not in (0, IGNORE)]
    masks, labels = [], []
    for number in numbers:
        mask = ids == number
        found = torch.ones(1, dtype=torch.int64) if classes is None else classes[mask]
        found = found[(found != 0) & (found != IGNORE)]
        if len(found):
            masks.append(mask)
            labels.append(int(found.mode().values))
    stacked = torch.stack(masks) if masks else torch.zeros((0, *ids.shape), dtype=torch.bool)
    boxes = masks_to_boxes(stacked) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return Instances(boxes.float(), torch.tensor(labels, dtype=torch.int64), masks=stacked)


def _strip(record: Record, fields: frozenset[str]) -> Record:
    tags = record.tags if "tags" in fields else None
    semantic = record.semantic if "semantic" in fields else None
    if "instances" in fields:
        return replace(record, tags=tags, semantic=semantic)
    return replace(record, tags=tags, semantic=semantic, objects=None, object_classes=None, boxes=None)
