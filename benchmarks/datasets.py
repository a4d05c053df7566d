"""The data sets of the benchmarks: real ones from the folder of photos, drawn ones written here when they are first needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import paths

NUCLEI_SPLIT = paths.ROOT / "configs" / "nuclei_splits.csv"  # 100 images to learn from, 40 to score on
VAL_IMAGES, SIDE = 160, 128  # of the drawn data sets; side in pixels


class MissingData(Exception):
    """Data that is not on this machine."""


def voc20() -> Path:
    return _existing(paths.photos() / "voc20" / "VOC2012", "the photos of voc20 are", "them")


def coco80() -> Path:
    return _existing(paths.photos() / "voc20" / "instances_coco80.json", "instances_coco80.json is", "voc20")


def bsds500() -> Path:
    return _existing(paths.photos() / "bsds500", "bsds500 is", "it")


def tiny_imagenet() -> Path:
    return _existing(paths.photos() / "tiny_imagenet_202x40.zip", "tiny_imagenet_202x40.zip is", "it")


def nuclei() -> Path:
    """A folder with the images, their object maps, and the split that the recipe names."""
    source, folder = _existing(paths.photos() / "nuclei", "the nuclei are", "them"), paths.RUNS / "data" / "nuclei"
    for name in ("images", "labels"):
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    shutil.copyfile(NUCLEI_SPLIT, folder / "splits.csv")
    return folder


def drawn(name: str, train: int) -> Path:
    """A set of drawn images, written where it is not there yet."""
    from frugalseg.data.shapes import write

    return write(paths.RUNS / "data" / name, train, VAL_IMAGES, test=0, seed=0, size=SIDE)


def _existing(path: Path, what: str, held: str) -> Path:
    if not path.exists():
        raise MissingData(f"{what} not in {paths.photos()}; FRUGALSEG_DATA names the folder that holds {held}")
    return path


DRAWN: dict[str, Callable[[], Path]] = {
    "shapes": partial(drawn, "shapes", 400),
    "shapes1600": partial(drawn, "shapes1600", 1600),
}
DATA: dict[str, Callable[[], Path]] = {
    "voc20": voc20,
    "nuclei": nuclei,
    "tiny_imagenet": tiny_imagenet,
    "coco80-a": coco80,
    "coco80-b": coco80,
    **DRAWN,
}
