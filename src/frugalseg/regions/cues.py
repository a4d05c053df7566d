"""Cues: foreground in boxes without learning, by GrabCut, by salient superpixels, or from a folder of masks.

A cue takes an image's name, the image and boxes, and returns a mask for each box, at a resolution of its own choice.
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
from torchvision.transforms.v2 import functional as transforms

from frugalseg import files, rle
from frugalseg.boxes import iou
from frugalseg.data import images
from frugalseg.data.transforms import shrink
from frugalseg.machine import cores
from frugalseg.recipes import groups
from frugalseg.regions import saliency, superpixels
from frugalseg.regions.cache import Cache
from frugalseg.regions.grabcut import MIN_PIXELS, Box, PixelBox, ellipse, grabcut, pixel_box, plausible

Cue = Callable[[str, Tensor, Tensor], Tensor]  # (name, image (3, H, W) uint8, boxes (N, 4)) -> masks (N, h, w) bool


def make_cue(name: str, side: int = 400, iterations: int = 5, cut: int = 0) -> Cue:
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


def cue_from_config(config: groups.Cue) -> Cue:
    """The cue of a recipe's settings. Raises ValueError for one that is not there."""
    return make_cue(config.cue, config.cue_side, config.cue_iterations, config.cue_cut)


def codes(cue: Cue, name: str, image: Tensor, boxes: Tensor) -> list[rle.RLE]:
    """A cue's masks in boxes (N, 4) of an image (3, H, W), as run lengths at the image's own size."""
    size = int(image.shape[1]), int(image.shape[2])
    # One at a time: a hundred masks of a large image would take gigabytes.
    full = (F.interpolate(mask[None, None].float(), size, mode="bilinear")[0, 0] >= 0.5 for mask in cue(name, image, boxes))
    return [rle.encode(mask.numpy()) for mask in full]


def _scaled(boxes: Tensor, image: Tensor, height: int, width: int) -> list[Box]:
    """Boxes (N, 4) of the image (3, H, W) in pixels of the image resized to (height, width)."""
    factors = torch.tensor([width / int(image.shape[2]), height / int(image.shape[1])]).repeat(2)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes.cpu().float() * factors).tolist()]


@dataclass(frozen=True)
class GrabCut:
    """GrabCut on the image with its longer side at most `side`.

    Half the side is 4 to 7 times as fast; its masks overlap the full ones by about 0.7. cut: as for `grabcut`. keep: whether
    results are cached on disk by image, box and settings: not for boxes that nobody will ask for again.
    """

    side: int = 400
    iterations: int = 5
    cut: int = 0
    cache: Cache = field(default_factory=Cache)
    keep: bool = True

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        small = shrink(image, self.side)
        height, width = int(small.shape[1]), int(small.shape[2])
        settings = {"iterations": self.iterations, "cut": self.cut}
        tool = partial(self.cache.of(small), grabcut) if self.keep else partial(grabcut, small)
        # GrabCut releases the interpreter lock. A pool that outlives the call would be dead in a forked process.
        with ThreadPoolExecutor(cores()) as pool:
            masks = [*pool.map(lambda box: tool(box=box, **settings), _scaled(boxes, image, height, width))]
        return torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)


@dataclass(frozen=True)
class Superpixels:
    """The superpixels that lie at least half in the box and are more salient than Otsu's threshold of the box.

    maps: a folder of grey maps NAME.png, such as CAMs or another's saliency; None computes boundary connectivity.
    """

    side: int = 400
    segments: int = 200
    maps: Path | None = None
    cache: Cache = field(default_factory=Cache)

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        small = shrink(image, self.side)
        ids = self.cache(superpixels.slic, small, segments=self.segments).numpy()
        values = _means(self._saliency(name, small), ids)
        masks = [_salient(values, ids, pixel_box(box, *ids.shape)) for box in _scaled(boxes, image, *ids.shape)]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *ids.shape, dtype=torch.bool)

    def _saliency(self, name: str, small: Tensor) -> np.ndarray:
        if self.maps is None:
            return self.cache(saliency.boundary_connectivity, small).numpy()
        values = images.load_mask(files.inside(self.maps, name, ".png")).float()
        resized: Tensor = transforms.resize(values[None], list(small.shape[1:]), antialias=True)
        return resized[0].numpy()


def _means(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(H, W) the mean of values in each pixel's superpixel."""
    means = np.bincount(ids.ravel(), values.ravel()) / np.bincount(ids.ravel()).clip(min=1)
    return np.asarray(means[ids])


def _salient(values: np.ndarray, ids: np.ndarray, box: PixelBox) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros(ids.shape, bool)
    saliency, superpixel, inside = (array[top:bottom, left:right] for array in (values, ids, mask))
    if inside.size < MIN_PIXELS:
        inside[:] = True
        return mask
    shares = np.bincount(superpixel.ravel(), minlength=int(ids.max()) + 1) / np.bincount(ids.ravel())
    threshold: float = threshold_otsu(saliency)  # type: ignore[no-untyped-call]
    foreground = (shares[superpixel] >= 0.5) & (saliency > threshold)
    inside[:] = foreground if plausible(foreground) else ellipse(*inside.shape)
    return mask


@dataclass(frozen=True)
class Folder:
    """Masks that exist already: NAME.png with object ids, 0 for none. A box takes the object whose own box overlaps it most.

    Where no object reaches the box, the ellipse in it is used.
    """

    folder: Path

    def __call__(self, name: str, image: Tensor, boxes: Tensor) -> Tensor:
        ids = self._ids(name, (int(image.shape[1]), int(image.shape[2])))
        _, codes = rle.from_ids(ids)
        extents, masks = torch.from_numpy(rle.boxes(codes)), rle.decode(codes, ids.shape)
        nearest = [_nearest(masks, extents, box) for box in _scaled(boxes, image, *ids.shape)]
        return torch.from_numpy(np.stack(nearest)) if nearest else torch.zeros(0, *ids.shape, dtype=torch.bool)

    def _ids(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = files.inside(self.folder, name, ".png")
        if not path.is_file():
            raise ValueError(f"{path}: no such file; a folder of masks as the cue needs one for each image, with object ids")
        ids = images.load_mask(path).numpy()
        if abs(ids.shape[0] * size[1] - ids.shape[1] * size[0]) > max(size):
            raise ValueError(f"{path}: got {ids.shape[1]} x {ids.shape[0]} pixels, expected the shape of {size[1]} x {size[0]}")
        return ids


def _nearest(masks: np.ndarray, extents: Tensor, box: Box) -> np.ndarray:
    """The mask (H, W), inside the box, of the object whose extent overlaps it most."""
    left, top, right, bottom = pixel_box(box, *masks.shape[1:])
    mask = np.zeros(masks.shape[1:], bool)
    overlaps = iou(torch.tensor([box]), extents)[0]
    if len(overlaps) and overlaps.max() > 0:
        mask[top:bottom, left:right] = masks[int(overlaps.argmax()), top:bottom, left:right]
    if not mask.any():
        mask[top:bottom, left:right] = ellipse(bottom - top, right - left)
    return mask
