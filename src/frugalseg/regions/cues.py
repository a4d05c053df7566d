"""Cues: what finds the foreground in a box without learning. GrabCut, salient superpixels, or a folder of masks.

A cue is called with an image's name, the image and boxes, and gives a mask for each box, at a resolution of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as transforms

from frugalseg import files, rle
from frugalseg.data import images
from frugalseg.machine import cores
from frugalseg.regions import saliency, superpixels
from frugalseg.regions.cache import Cache
from frugalseg.regions.grabcut import LEAST, MOST, SMALLEST, _scaled, _whole, ellipse, grabcut, reduced

Cue = Callable[[str, Tensor, Tensor], Tensor]  # (name, image (3, H, W) uint8, boxes (N, 4)) -> masks (N, h, w) bool


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
        with ThreadPoolExecutor(cores()) as pool:
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
        path = files.inside(self.maps, name, ".png")
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
        path = files.inside(self.folder, name, ".png")
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
