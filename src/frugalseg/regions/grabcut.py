"""Foreground in a box, without learning: GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from frugalseg.regions.cache import cacheable

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
PixelBox = tuple[int, int, int, int]  # the same in whole pixels

MIN_PIXELS = 9  # pixels of a box below which there are no two colours to tell apart: the whole box is foreground
MIN_SHARE, MAX_SHARE = 0.05, 0.95  # share of the box below and above which a result tells nothing
CONTEXT = 0.3  # of the box's longer side: margin around it in a cut-out, from which the background's colours are learned


@cacheable("opencv-python-headless")
def grabcut(image: Tensor, box: Box, iterations: int = 5, seed: int = 0, cut: int = 0) -> Tensor:
    """The foreground in a box by GrabCut (Rother et al., SIGGRAPH 2004), (H, W) bool, false outside of the box.

    Boxes below 9 pixels are filled. Where GrabCut fails, or takes less than 5 % or more than 95 % of the box, the result is the
    ellipse in the box: an empty mask would teach that there is nothing. A box outside of the image gives an empty mask.

    image: (3, H, W) uint8 RGB. box: xyxy in its pixels. seed: of GrabCut's random numbers. cut: GrabCut sees only the box with a
    margin, shrunk until the box's longer side has so many pixels; 0: the whole image, which takes 0.3 s at 400 pixels.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    left, top, right, bottom = outer = pixel_box(box, height, width)
    mask = np.zeros((height, width), bool)
    inside = mask[top:bottom, left:right]
    if inside.size < MIN_PIXELS:
        inside[:] = True
        return torch.from_numpy(mask)
    pixels = image.permute(1, 2, 0).flip(2).contiguous().numpy()
    foreground = _cut_out(pixels, outer, iterations, seed, cut) if cut else _cut(pixels, outer, iterations, seed)
    inside[:] = foreground if plausible(foreground) else ellipse(*inside.shape)
    return torch.from_numpy(mask)


def pixel_box(box: Box, height: int, width: int) -> PixelBox:
    """The box rounded outwards to whole pixels of the image; empty if it lies outside."""
    x1, y1, x2, y2 = box
    left, top = int(np.clip(np.floor(x1), 0, width)), int(np.clip(np.floor(y1), 0, height))
    return left, top, int(np.clip(np.ceil(x2), left, width)), int(np.clip(np.ceil(y2), top, height))


def plausible(foreground: np.ndarray) -> bool:
    """Whether the foreground of a box, bool, is neither almost nothing nor almost all of it."""
    return bool(MIN_SHARE <= foreground.mean() <= MAX_SHARE)


def ellipse(height: int, width: int) -> np.ndarray:
    """The ellipse inscribed in a box, (height, width) bool."""
    y, x = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in (height, width))
    inside: np.ndarray = y[:, None] ** 2 + x[None] ** 2 <= 1
    return inside


def _cut(pixels: np.ndarray, box: PixelBox, iterations: int, seed: int) -> np.ndarray:
    """The foreground inside the box, (bottom − top, right − left) bool; all false where GrabCut fails."""
    left, top, right, bottom = box
    inner = _with_background(box, pixels.shape[0] * pixels.shape[1])
    labels = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    rectangle = inner[0], inner[1], inner[2] - inner[0], inner[3] - inner[1]
    cv2.setNumThreads(1)  # boxes already run on all cores, and OpenCV's own threads do not survive a fork
    cv2.setRNGSeed(seed)  # per thread
    try:
        cv2.grabCut(pixels, labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return np.zeros((bottom - top, right - left), bool)
    foreground: np.ndarray = (labels[top:bottom, left:right] & 1) == 1  # 1 is certain, 3 probable foreground
    return foreground


def _with_background(box: PixelBox, area: int) -> PixelBox:
    """The box, a little smaller if it covers the image of that area: without any background OpenCV raises an error."""
    left, top, right, bottom = box
    if (right - left) * (bottom - top) < area:
        return box
    x, y = (max(1, min(3, side // 8)) for side in (right - left, bottom - top))
    return left + x, top + y, right - x, bottom - y


def _cut_out(pixels: np.ndarray, box: PixelBox, iterations: int, seed: int, side: int) -> np.ndarray:
    """As `_cut`, but GrabCut sees only the box with a margin, shrunk until the box's longer side is at most `side`."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    margin = max(2, round(CONTEXT * max(width, height)))
    x, y = max(0, left - margin), max(0, top - margin)
    part = pixels[y : bottom + margin, x : right + margin]
    factor = min(1.0, side / max(width, height))
    size = [max(1, round(extent * factor)) for extent in part.shape[1::-1]]
    inner = ((left - x) * factor, (top - y) * factor, (right - x) * factor, (bottom - y) * factor)
    part = part if factor == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    foreground = _cut(np.ascontiguousarray(part), pixel_box(inner, size[1], size[0]), iterations, seed)
    if not foreground.size:  # a flat box at the image's edge can be rounded to nothing
        return np.zeros((height, width), bool)
    return cv2.resize(foreground.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
