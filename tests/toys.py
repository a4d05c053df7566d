"""A data set of six small pictures with every kind of label, for tests that train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from frugalseg.data import Data, Record
from frugalseg.data.dataset import Box

CLASSES = ("apple", "berry", "cherry")
COLOURS = ((200, 40, 40), (40, 60, 210), (150, 20, 130))
TAGS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0, 0, 0))  # one tag, two, all, none
SIZES = ((40, 33), (33, 48), (41, 41), (36, 50), (50, 37), (32, 32))


def write(folder: Path, tags: tuple[tuple[float, ...], ...] = TAGS, classes: tuple[str, ...] = CLASSES) -> Data:
    """Noise with a coloured block for each tag; masks, objects and boxes are true."""
    random = np.random.default_rng(0)
    records = []
    for index, (row, (height, width)) in enumerate(zip(tags, SIZES, strict=True)):
        pixels = random.integers(60, 200, (height, width, 3), dtype=np.uint8)
        mask, boxes = np.zeros((height, width), np.uint8), []
        for label in [place + 1 for place, tag in enumerate(row) if tag == 1]:
            left = 2 + 10 * (label - 1)
            pixels[6:26, left : left + 9], mask[6:26, left : left + 9] = COLOURS[label - 1], label
            boxes.append(Box(left, 6.0, left + 9, 26.0, label))
        image, truth = folder / f"picture{index}.png", folder / f"mask{index}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
        Image.fromarray(mask).save(truth)
        values = tuple(float(tag) for tag in row)
        records.append(Record(f"picture{index}", image, values, truth, truth, truth, tuple(boxes)))
    return Data(folder, "masks", "train", classes, records)


def shuffled(data: Data) -> Data:
    """Every picture with the masks, objects and boxes of another; only image and tags stay true."""
    others = [data.records[-1], *data.records[:-1]]
    fields = ("semantic", "objects", "object_classes", "boxes")
    mixed = [
        replace(record, **{field: getattr(other, field) for field in fields})
        for record, other in zip(data.records, others, strict=True)
    ]
    return with_records(data, mixed)


def with_records(data: Data, records: list[Record]) -> Data:
    """The same data set with other records."""
    return Data(data.root, data.layout, data.split, data.classes, records)
