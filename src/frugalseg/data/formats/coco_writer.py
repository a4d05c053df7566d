"""Objects in COCO's JSON: results as its evaluation reads them, and whole data sets, which train and score like annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frugalseg import rle
from frugalseg.types import Instances

if TYPE_CHECKING:
    from frugalseg.data import Data


def detected(objects: Instances | None, image: int | str, categories: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image, masks as run lengths; categories: the ids of the classes.

    There is no `bbox` beside the mask: pycocotools would then take the box's area for the object's size.
    """
    if objects is None or objects.scores is None:
        return []
    columns = zip(objects.labels.tolist(), objects.rles, objects.scores.tolist(), strict=True)
    return [
        {"image_id": image, "category_id": categories[label - 1], "segmentation": rle.as_text(code), "score": score}
        for label, code, score in columns
    ]


def annotated(objects: Instances | None, image: int | str, categories: Sequence[int], first: int) -> list[dict[str, Any]]:
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
        identity = {"id": first + place, "image_id": image, "category_id": categories[label - 1], "iscrowd": int(crowd[place])}
        drawn = {"area": areas[place], "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle.as_text(code)}
        entries.append(identity | drawn | score)
    return entries


def numbering(classes: Sequence[str], sets: Sequence[Data]) -> tuple[dict[str, int | str], list[int]]:
    """The id of each image, by its name, and of each class.

    They are those of COCO's file where all images come from such a one; else, or if two images have the same, they count from 1.
    """
    pairs = [(record, data.classes) for data in sets for record in data.records]
    categories = {(names, record.ids and record.ids.categories) for record, names in pairs}
    images = {record.name: record.ids.image for record, _ in pairs if record.ids}
    if len(categories) == 1 and len(set(images.values())) == len(pairs):
        names, numbers = next(iter(categories))
        number_of = dict(zip(names, numbers or (), strict=True))
        if number_of.keys() >= set(classes):
            return images, [number_of[name] for name in classes]
    return {record.name: place for place, (record, _) in enumerate(pairs, start=1)}, [*range(1, len(classes) + 1)]


class Collector:
    """Gathers images and their objects into the two kinds of file; masks stay run lengths, so memory grows by kilobytes.

    sets: the data sets that the images are of; no two images have the same name.
    """

    def __init__(self, classes: Sequence[str], sets: Sequence[Data]) -> None:
        self.numbers, self.labels = numbering(classes, sets)
        self.categories = [{"id": label, "name": name} for label, name in zip(self.labels, classes, strict=True)]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        file: str,
        size: tuple[int, int],
        objects: Instances | None,
        sure: Instances | None = None,
    ) -> None:
        """One image of (H, W) by its name and that of its file. sure: the objects that the data set holds; None: all of them."""
        number = self.numbers[name]
        self.images.append({"id": number, "file_name": file, "height": size[0], "width": size[1]})
        self.annotations += annotated(objects if sure is None else sure, number, self.labels, len(self.annotations) + 1)
        self.results += detected(objects, number, self.labels)

    def dataset(self) -> dict[str, Any]:
        """All that was collected, as COCO's data set."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}
