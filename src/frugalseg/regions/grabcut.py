"""Foreground in a box, without learning: GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from frugalseg.regions.cache import cacheable

SMALLEST = 9  # pixels of a box below which there are no two colours to tell apart: the whole box is foreground
LEAST, MOST = 0.05, 0.95  # share of the box below and above which a result says nothing
CONTEXT = 0.3  # of the box's longer side, kept around it in a cut-out: where the background's colours come from


@cacheable("opencv-python-headless")
def grabcut(image: Tensor, box: tuple[float, float, float, float], iterations: int = 5, seed: int = 0, cut: int = 0) -> Tensor:
    """The foreground in a box by GrabCut (Rother et al., SIGGRAPH 2004), (H, W) bool, nothing of it outside of the box.

    image: (3, H, W) uint8 RGB. box: xyxy in its pixels. Boxes below 9 pixels are filled. Where GrabCut fails, or takes less than
    5 % or more than 95 % of the box, the ellipse in the box stands in: an empty mask would teach that there is nothing. GrabCut
    draws random numbers; `seed` fixes them. A box outside of the image gives an empty mask. cut: GrabCut sees the box and a
    little around it alone, with the box's longer side shrunk to so many pixels; 0: the whole image, 0.3 s at 400 pixels.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    left, top, right, bottom = _whole(box, height, width)
    mask = np.zeros((height, width), bool)
    inside = mask[top:bottom, left:right]
    if inside.size < SMALLEST:
        inside[:] = True
        return torch.from_numpy(mask)
    pixels, whole = image.permute(1, 2, 0).flip(2).contiguous().numpy(), (left, top, right, bottom)
    found = _cut_out(pixels, whole, iterations, seed, cut) if cut else _cut(pixels, whole, iterations, seed)
    inside[:] = found if LEAST <= found.mean() <= MOST else ellipse(*inside.shape)
    return torch.from_numpy(mask)


def _whole(box: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """The box in whole pixels inside the image; empty if it lies outside."""
    x1, y1, x2, y2 = box
    left, top = int(np.clip(np.floor(x1), 0, width)), int(np.clip(np.floor(y1), 0, height))
    return left, top, int(np.clip(np.ceil(x2), left, width)), int(np.clip(np.ceil(y2), top, height))


def _cut(pixels: np.ndarray, box: tuple[int, int, int, int], iterations: int, seed: int) -> np.ndarray:
    """What GrabCut finds inside the box, (bottom − top, right − left) bool; nothing where it fails."""
    left, top, right, bottom = box
    inner = box
    if (right - left) * (bottom - top) == pixels.shape[0] * pixels.shape[1]:
        # A box that covers the image leaves no background to learn from, and OpenCV raises.
        margin = [max(1, min(3, side // 8)) for side in (right - left, bottom - top)]
        inner = left + margin[0], top + margin[1], right - margin[0], bottom - margin[1]
    labels = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    rectangle = inner[0], inner[1], inner[2] - inner[0], inner[3] - inner[1]
    cv2.setNumThreads(1)  # boxes are spread over the cores already, and OpenCV's own threads do not survive a fork
    cv2.setRNGSeed(seed)  # of this thread
    try:
        cv2.grabCut(pixels, labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return np.zeros((bottom - top, right - left), bool)
    return (labels[top:bottom, left:right] & 1) == 1  # 1 is sure, 3 likely foreground


def _cut_out(pixels: np.ndarray, box: tuple[int, int, int, int], iterations: int, seed: int, side: int) -> np.ndarray:
    """What `_cut` finds in the box from what lies around it alone, with the box's longer side at most `side`."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    margin = max(2, round(CONTEXT * max(width, height)))
    x, y = max(0, left - margin), max(0, top - margin)
    part = pixels[y : bottom + margin, x : right + margin]
    factor = min(1.0, side / max(width, height))
    size = [max(1, round(extent * factor)) for extent in part.shape[1::-1]]
    places = ((left - x) * factor, (top - y) * factor, (right - x) * factor, (bottom - y) * factor)
    part = part if factor == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    found = _cut(np.ascontiguousarray(part), _whole(places, size[1], size[0]), iterations, seed)
    if not found.size:  # a box so flat, and at the picture's edge, that rounding leaves no pixel of it
        return np.zeros((height, width), bool)
    return cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) == 1


def ellipse(height: int, width: int) -> np.ndarray:
    """The ellipse inscribed in a box, (height, width) bool."""
    y, x = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in (height, width))
    return y[:, None] ** 2 + x[None] ** 2 <= 1


def reduced(image: Tensor, side: int) -> Tensor:
    """The image with its longer side at most `side`; a smaller one as it is."""
    height, width = image.shape[-2:]
    factor = min(1.0, side / max(height, width))
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    image = image.as_subclass(Tensor)
    return image if factor == 1.0 else transforms.resize(image, size, antialias=True)


def _scaled(boxes: Tensor, size: tuple[int, int], small: Tensor) -> list[tuple[float, float, float, float]]:
    """Boxes (N, 4) of a picture of `size` in pixels of its reduced version."""
    factors = torch.tensor([small.shape[2] / size[1], small.shape[1] / size[0]]).repeat(2)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes.cpu().float() * factors).tolist()]


# -- cues ------------------------------------------------------------------------------------------------------------
