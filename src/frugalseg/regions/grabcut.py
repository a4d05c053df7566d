"""Foreground in a box, without learning: GrabCut. And the cues a weakly supervised method can ask instead of it.

A cue is called with a picture's name, the picture and boxes, and gives a mask for each box, at a resolution of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as transforms

from frugalseg import rle
from frugalseg.data import images
from frugalseg.export import png
from frugalseg.regions import saliency, superpixels
from frugalseg.regions.cache import Cache, cacheable

Cue = Callable[[str, Tensor, Tensor], Tensor]  # (name, image (3, H, W) uint8, boxes (N, 4)) -> masks (N, h, w) bool

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


@dataclass(frozen=True)
class GrabCut:
    """GrabCut on the picture with its longer side at `side`, kept on disk by picture, box and settings.

    cut: as for `grabcut`. Half the side is 4 to 7 times as fast, with an overlap of about 0.7 to the full result. keep: on
    disk; no for boxes that nobody will ask for again.
    """

    side: int = 400
    iterations: int = 5
    cut: int = 0
    cache: Cache = field(default_factory=Cache)
    keep: bool = True

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        small = reduced(image, self.side)
        places = _scaled(boxes, (int(image.shape[1]), int(image.shape[2])), small)
        settings = {"iterations": self.iterations, "cut": self.cut}
        cut = partial(self.cache.of(small), grabcut) if self.keep else partial(grabcut, small)
        # GrabCut lets other threads work meanwhile. A pool that outlives the call would be dead in a forked process.
        with ThreadPoolExecutor(_cores()) as pool:
            masks = [*pool.map(lambda box: cut(box=box, **settings), places)]
        return torch.stack(masks) if masks else torch.zeros(0, *small.shape[1:], dtype=torch.bool)


@dataclass(frozen=True)
class Superpixels:
    """Superpixels that lie in the box for the most part and are salient there: above Otsu's threshold of the box.

    maps: a folder of grey maps NAME.png, such as CAMs or another's saliency; None computes boundary connectivity.
    """

    side: int = 400
    segments: int = 200
    maps: Path | None = None
    cache: Cache = field(default_factory=Cache)

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        small = reduced(image, self.side)
        ids = self.cache(superpixels.slic, small, segments=self.segments).numpy()
        values = _means(self._map(name, image, small), ids)
        size = int(image.shape[1]), int(image.shape[2])
        masks = [_salient(values, ids, _whole(box, *ids.shape)) for box in _scaled(boxes, size, small)]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *ids.shape, dtype=torch.bool)

    def _map(self, name: str, image: Tensor, small: Tensor) -> np.ndarray:
        if self.maps is None:
            return self.cache(saliency.boundary_connectivity, small).numpy()
        path = png.inside(self.maps, name, ".png")
        values = images.load_mask(path).float()
        return transforms.resize(values[None], list(small.shape[1:]), antialias=True)[0].numpy()


def _means(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Each pixel's superpixel mean, (H, W)."""
    sums = np.bincount(ids.ravel(), values.ravel()) / np.bincount(ids.ravel()).clip(min=1)
    return sums[ids]


def _salient(values: np.ndarray, ids: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros(ids.shape, bool)
    own, inside = values[top:bottom, left:right], mask[top:bottom, left:right]
    if inside.size < SMALLEST:
        inside[:] = True
        return mask
    within = np.bincount(ids[top:bottom, left:right].ravel(), minlength=int(ids.max()) + 1) / np.bincount(ids.ravel())
    found = (within[ids[top:bottom, left:right]] >= 0.5) & (own > threshold_otsu(own))
    inside[:] = found if LEAST <= found.mean() <= MOST else ellipse(*inside.shape)
    return mask


@dataclass(frozen=True)
class Folder:
    """Masks made before: NAME.png with the ids of objects (0 is none); a box takes the object whose own box overlaps it most.

    Where no object reaches the box, the ellipse in it stands in.
    """

    folder: Path

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        path = png.inside(self.folder, name, ".png")
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; a folder of masks as the cue needs one for each picture, with ids of objects"
            )
        ids = images.load_mask(path).numpy()
        _, codes = rle.from_ids(ids)
        size = int(image.shape[1]), int(image.shape[2])
        if abs(ids.shape[0] * size[1] - ids.shape[1] * size[0]) > max(size):
            raise ValueError(f"{path}: got {ids.shape[1]} x {ids.shape[0]} pixels, expected the shape of {size[1]} x {size[0]}")
        owns, masks = torch.from_numpy(rle.boxes(codes)), rle.decode(codes, ids.shape)
        small = torch.empty(3, *ids.shape, device="meta")
        found = [_nearest(masks, owns, box) for box in _scaled(boxes, size, small)]
        return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, *ids.shape, dtype=torch.bool)


def _nearest(masks: np.ndarray, owns: Tensor, box: tuple[float, float, float, float]) -> np.ndarray:
    left, top, right, bottom = _whole(box, *masks.shape[1:])
    mask = np.zeros(masks.shape[1:], bool)
    overlaps = box_iou(torch.tensor([box]), owns)[0]
    if len(overlaps) and overlaps.max() > 0:
        mask[top:bottom, left:right] = masks[int(overlaps.argmax()), top:bottom, left:right]
    if not mask.any():
        mask[top:bottom, left:right] = ellipse(bottom - top, right - left)
    return mask


def codes(cue: Cue, name: str, image: Tensor, boxes: Tensor) -> list[rle.RLE]:
    """What a cue finds in boxes (N, 4) of a picture (3, H, W), as run lengths of the picture's own pixels."""
    size = int(image.shape[1]), int(image.shape[2])
    # One at a time: a hundred masks of a large picture would be gigabytes.
    full = (F.interpolate(mask[None, None].float(), size, mode="bilinear")[0, 0] >= 0.5 for mask in cue(name, image, boxes))
    return [rle.encode(mask.numpy()) for mask in full]


def cue(name: str, side: int = 400, iterations: int = 5, cut: int = 0) -> Cue:
    """The cue of that name: "grabcut", "superpixels", "superpixels:FOLDER" of grey maps, or a folder of masks.

    Raises ValueError for anything else.
    """
    if name == "grabcut":
        return GrabCut(side, iterations, cut)
    if name == "superpixels":
        return Superpixels(side)
    kind, _, maps = name.partition(":")
    if kind == "superpixels" and Path(maps).is_dir():
        return Superpixels(side, maps=Path(maps))
    if not Path(name).is_dir():
        expected = "grabcut, superpixels, superpixels:FOLDER of grey maps NAME.png, gradient, or a folder of masks NAME.png"
        raise ValueError(f"cue: got {name!r}; expected {expected}")
    return Folder(Path(name))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
