"""Semantic masks as indexed PNGs with VOC's palette: the pixel value is the class id, and any viewer shows colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def palette() -> np.ndarray:
    """VOC's 256 colours, (256, 3) uint8: the bits of the id, three at a time, are the high bits of red, green and blue."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours


def write(path: str | Path, semantic: Tensor | np.ndarray) -> None:
    """Write a mask, (H, W) of ids, creating folders on the way; ids above 255, as of many objects, make it grey with 16 bits.

    Ids above 65535, which PNG cannot hold, make it a TIFF of 32 bits with the ending .tif instead. Raises ValueError for other
    shapes and ids.
    """
    ids, path = np.asarray(semantic), Path(path)
    first, last = ids.min(initial=0), ids.max(initial=0)
    if ids.ndim != 2 or first < 0 or last >= 1 << 31:
        raise ValueError(f"mask for {path}: got {ids.shape} of {first}..{last}, expected (H, W) of 0..{(1 << 31) - 1}")
    image = Image.fromarray(ids.astype(np.uint8 if last < 1 << 8 else np.uint16 if last < 1 << 16 else np.int32))
    if last < 1 << 8:
        image.putpalette(palette().tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    if last < 1 << 16:
        image.save(path, format="PNG")
    else:
        image.save(path.with_suffix(".tif"), compression="tiff_adobe_deflate")
