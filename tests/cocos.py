"""A small COCO data set to test with: two pictures a split, categories with a gap, objects of every kind of mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (16, 20)  # height, width
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def ring() -> dict[str, Any]:
    """Uncompressed run lengths of a ring: rows and columns 2..6 without the pixel in the middle."""
    height = SIZE[0]
    counts = [2 * height + 2, 5, height - 5, 5, height - 5, 2, 1, 2, height - 5, 5, height - 5, 5]
    return {"size": [*SIZE], "counts": [*counts, SIZE[0] * SIZE[1] - sum(counts)]}


def objects() -> list[dict[str, Any]]:
    """Of image 7: a polygon of two parts, a ring as run lengths, a crowd. Of image 8: a square."""
    return [
        {"id": 1, "image_id": 7, "category_id": 90, "segmentation": [square(1, 8, 4), square(10, 8, 4)], "bbox": [1, 8, 13, 4],
         "area": 32.0, "iscrowd": 0},
        {"id": 5, "image_id": 7, "category_id": 3, "segmentation": ring(), "bbox": [2, 2, 5, 5], "area": 24, "iscrowd": 0},
        {"id": 6, "image_id": 7, "category_id": 3, "segmentation": {"size": [*SIZE], "counts": "0P:"}, "area": 320, "iscrowd": 1,
         "bbox": [0, 0, 20, 16]},
        {"id": 9, "image_id": 8, "category_id": 90, "segmentation": [square(3, 3, 10)], "bbox": [3, 3, 10, 10], "area": 100,
         "iscrowd": 0},
    ]  # fmt: skip


def contents(split: str = "train") -> dict[str, Any]:
    images = [{"id": number, "file_name": f"{split}_{number}.png", "height": SIZE[0], "width": SIZE[1]} for number in (7, 8)]
    return {"images": images, "annotations": objects(), "categories": CATEGORIES}


def write(root: Path) -> Path:
    """annotations/instances_{train,val}.json, images/{train,val}/*.png."""
    for number, split in enumerate(("train", "val")):
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "images" / split).mkdir(parents=True)
        for image in contents(split)["images"]:
            Image.new("RGB", SIZE[::-1], (image["id"], number, 0)).save(root / "images" / split / image["file_name"])
        put(root, contents(split), split)
    return root


def put(root: Path, value: Any, split: str = "train") -> None:
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(value))


def spoil(root: Path, **changes: Any) -> None:
    """Change entries of the training split's first annotation."""
    value = contents()
    value["annotations"][0] |= changes
    put(root, value)
