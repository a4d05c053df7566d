"""Objects in COCO's JSON: results as its evaluation reads them, and whole data sets, which train and score like annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frugalseg import rle
from frugalseg.types import CompactInstances


def detected(objects: CompactInstances | None, image: int) -> list[dict[str, Any]]:
    """Detections of one image, masks as run lengths; class id 1..C is the category.

    There is no `bbox` beside the mask: pycocotools would then take the box's area for the object's size.
    """
    if objects is None or objects.scores is None:
        return []
    columns = zip(objects.labels.tolist(), objects.rles, objects.scores.tolist(), strict=True)
    return [
        {"image_id": image, "category_id": label, "segmentation": as_text(code), "score": score} for label, code, score in columns
    ]


def annotated(objects: CompactInstances | None, image: int, first: int) -> list[dict[str, Any]]:
    """Objects of one image as annotations with ids from `first` on, with box, area and crowd, and a score if they have one."""
    if objects is None:
        return []
    crowd = [False] * len(objects) if objects.crowd is None else objects.crowd.tolist()
    areas = rle.areas(objects.rles).tolist() if objects.areas is None else objects.areas.tolist()
    entries = []
    for place, (label, code, corners) in enumerate(
        zip(objects.labels.tolist(), objects.rles, objects.boxes.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = corners
        score = {} if objects.scores is None else {"score": objects.scores[place].item()}
        known = {"id": first + place, "image_id": image, "category_id": label, "iscrowd": int(crowd[place]), "area": areas[place]}
        entries.append(known | {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": as_text(code)} | score)
    return entries


def as_text(code: rle.RLE) -> dict[str, Any]:
    """A code that JSON can hold."""
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


class Collector:
    """Gathers images and their objects into the two kinds of file; masks stay run lengths, so memory grows by kilobytes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def add(self, file: str, size: tuple[int, int], objects: CompactInstances | None) -> None:
        """One image of (H, W) by the name of its file."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file, "height": size[0], "width": size[1]})
        self.annotations += annotated(objects, number, len(self.annotations) + 1)
        self.results += detected(objects, number)

    def dataset(self) -> dict[str, Any]:
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}
