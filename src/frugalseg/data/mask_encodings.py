"""Masks in which a benchmark wrote something else than ids, told by the place of the file as a Matlab map is by its ending."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frugalseg.types import IGNORE

CITYSCAPES_TRAINED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
IMAGENET_S_IGNORED = 1000


class Code(NamedTuple):
    """ids: the values (H, W) or (H, W, bands) of a file to ids (H, W) int64. bands: whether it may have several."""

    ids: Callable[[np.ndarray, Path], np.ndarray]
    bands: bool


def of(path: Path) -> Code | None:
    """How the file at this place is written, or None where its values are ids."""
    home = path.parent.parent.name
    if path.name.endswith("_gtFine_labelIds.png"):
        return Code(cityscapes, bands=False)
    if home == "segmentations" and re.match(r"\d{3}\.", path.parent.name):
        return Code(cub, bands=True)
    if home.endswith("-segmentation") and re.fullmatch(r"n\d{8}", path.parent.name):
        return Code(imagenet_s, bands=True)
    return None


def cityscapes(values: np.ndarray, path: Path) -> np.ndarray:
    """Label ids as the ids 1..19 of the trained classes; 255 for the others and for values that are no ids."""
    table = np.full(256, IGNORE, np.int64)
    table[CITYSCAPES_TRAINED] = np.arange(1, len(CITYSCAPES_TRAINED) + 1)
    ids: np.ndarray = table[np.clip(values, 0, 255)]
    return ids


def cub(values: np.ndarray, path: Path) -> np.ndarray:
    """Grey levels, the share of five annotators, as the bird's class where more than half agree; the folder names the class.

    Some files have an opacity beside the grey, which says nothing.
    """
    grey = values if values.ndim == 2 else values[..., 0]
    return (grey > 255 / 2) * np.int64(path.parent.name[:3])


def imagenet_s(values: np.ndarray, path: Path) -> np.ndarray:
    """Colours as the class ids R + 256 G. The ignored part (1000) becomes 0: it belongs to no object."""
    bands = values.astype(np.int64)
    numbers = bands if bands.ndim == 2 else bands[..., 0] + 256 * bands[..., 1]
    return np.where(numbers == IMAGENET_S_IGNORED, 0, numbers)
