"""The built-in image set on disk, in VOC layout with COCO annotations beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from frugalseg.data import png
from frugalseg.data.formats import coco_writer
from frugalseg.files import write_json
from frugalseg.progress import track
from frugalseg.types import IGNORE, Instances, Sample

from .classes import CLASSES
from .drawing import draw, ring

VERSION = 1  # of the drawing: raised when the same arguments draw other pixels


def write(
    folder: str | Path,
    train: int = 500,
    val: int = 100,
    test: int = 100,
    seed: int = 0,
    size: int = 128,
    void: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a data set of images with all their labels, in VOC layout with COCO annotations beside it; returns the folder.

    It holds JPEGImages, Annotations, SegmentationClass, SegmentationObject, ImageSets/{Main,Segmentation}/<split>.txt with a
    trainval.txt, classes.txt, and annotations/instances_<split>.json, whose file names begin at the folder. What was drawn stands
    in shapes.json: the same call again does nothing, or finishes what was interrupted.

    Args:
        train, val, test: numbers of images.
        void: mark a line of one pixel round things as 255 in both kinds of VOC mask.
        quiet: say nothing of the progress.

    Raises:
        FileExistsError: the folder holds anything but this very set; nothing was touched.
        ValueError: no image was asked for, or `draw` cannot draw the size or the seed.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"got train={train}, val={val}, test={test} images; expected numbers from 0, and at least one image")
    recipe = {"made_by": "frugalseg shapes", "version": VERSION, "seed": seed, "size": size, "void": void, **counts}
    root = Path(folder)
    if not _finished(root, recipe):
        write_json(root / "shapes.json", recipe | {"finished": False})
        _write_all(root, counts, seed, size, void, quiet)
        write_json(root / "shapes.json", recipe | {"finished": True})
    return root


def _finished(root: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds this very set already; False if it holds a part of it, or nothing at all."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "shapes.json").read_text())
        finished = found.pop("finished")
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        raise FileExistsError(f"{root} holds something that frugalseg did not draw; name a new or an empty folder") from None
    if found != recipe:
        faults = [key for key in recipe if found.get(key) != recipe[key]]
        differs = ", ".join(f"{key}={found.get(key)} (asked for: {recipe[key]})" for key in faults)
        raise FileExistsError(f"{root} holds another image set: {differs}; name another folder, or delete this one first")
    return bool(finished)


def _write_all(root: Path, counts: dict[str, int], seed: int, size: int, void: bool, quiet: bool) -> None:
    names: dict[str, list[str]] = {split: [] for split in counts}
    objects: dict[str, list[Instances]] = {split: [] for split in counts}
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    for split, index in track(jobs, "drawing", quiet=quiet):
        sample = draw(index, seed, size, split)
        assert sample.instances is not None
        names[split].append(sample.name)
        objects[split].append(sample.instances)
        _write_voc(root, sample, sample.instances, void)
    _write_lists(root, names)
    for split in counts:
        write_json(root / "annotations" / f"instances_{split}.json", _coco(names[split], objects[split], size))


# VOC


def _write_voc(root: Path, sample: Sample, objects: Instances, void: bool) -> None:
    assert sample.semantic is not None
    assert objects.masks is not None
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(exist_ok=True)
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    image.save(root / "JPEGImages" / f"{sample.name}.jpg", quality=95, subsampling=0)  # subsampled, the badges' colours run
    _voc_annotation(sample, objects).write(root / "Annotations" / f"{sample.name}.xml")
    owner = (objects.masks * torch.arange(1, len(objects) + 1)[:, None, None]).sum(0)
    for folder, mask in (("SegmentationClass", sample.semantic), ("SegmentationObject", owner)):
        png.write(root / folder / f"{sample.name}.png", np.where(ring(owner) & void, IGNORE, mask))


def _voc_annotation(sample: Sample, objects: Instances) -> ElementTree.ElementTree:
    """VOC's XML: the first pixel is 1, and xmax, ymax lie inside. An object that touches the border counts as truncated."""
    root = ElementTree.Element("annotation")
    height, width = sample.image.shape[1:]
    _add(root, folder="shapes", filename=f"{sample.name}.jpg", segmented=1)
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    for (left, top, right, bottom), label in zip(objects.boxes.int().tolist(), objects.labels.tolist(), strict=True):
        truncated = int(min(left, top) == 0 or right == width or bottom == height)
        entry = ElementTree.SubElement(root, "object")
        _add(entry, name=CLASSES[label - 1], pose="Unspecified", truncated=truncated, difficult=0)
        _add(ElementTree.SubElement(entry, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **children: object) -> None:
    for name, value in children.items():
        ElementTree.SubElement(parent, name).text = str(value)


def _write_lists(root: Path, names: dict[str, list[str]]) -> None:
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for folder in (root / "ImageSets" / "Main", root / "ImageSets" / "Segmentation"):
        folder.mkdir(parents=True, exist_ok=True)
        for split, lines in (names | {"trainval": names["train"] + names["val"]}).items():
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in lines))


# COCO


def _coco(names: list[str], objects: list[Instances], size: int) -> dict[str, Any]:
    """COCO's data set of the images of a split and their objects."""
    numbers = [*range(1, len(CLASSES) + 1)]
    annotations: list[dict[str, Any]] = []
    for image, found in enumerate(objects, start=1):
        annotations += coco_writer.annotated(found, image, numbers, len(annotations) + 1)
    files = [f"JPEGImages/{name}.jpg" for name in names]
    return {
        "info": {"description": "the built-in image set of frugalseg"},
        "categories": [{"id": number, "name": name} for number, name in zip(numbers, CLASSES, strict=True)],
        "images": [{"id": i, "file_name": file, "width": size, "height": size} for i, file in enumerate(files, start=1)],
        "annotations": annotations,
    }
