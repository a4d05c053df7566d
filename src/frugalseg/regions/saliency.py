"""Saliency: how much each pixel belongs to what a viewer would call the object, without any learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn.functional import interpolate

from frugalseg.regions import superpixels
from frugalseg.regions.cache import cacheable
from frugalseg.types import Sample

COLOUR, BORDER, SPACE = 10.0, 1.0, 0.25  # standard deviations, in Lab units, boundary connectivity, shares of the longer side


@cacheable("scikit-image", "scipy")
def boundary_connectivity(image: Tensor, segments: int = 200) -> Tensor:
    """Saliency by background-weighted contrast (Zhu et al., CVPR 2014), (H, W) float32 in [0, 1].

    A region with a long border on the image's edge for its size is background. A region's saliency is its contrast to likely
    background near it, min-max normalised over the image; an image of one colour is salient nowhere.

    image: (3, H, W) uint8 RGB. segments: number of superpixels. Takes 0.15 s for a 500×375 photo.
    """
    ids = superpixels.slic(image, segments).numpy()
    colours, positions = _region_means(image.permute(1, 2, 0).numpy(force=True), ids)
    contrast = cdist(colours, colours)
    near = np.exp(-(cdist(positions, positions) ** 2) / (2 * SPACE**2))  # w_spa of eq. 6
    weighted = (contrast * near * _background(ids, contrast)).sum(axis=1)  # eq. 6
    spread = np.ptp(weighted)
    saliency = (weighted - weighted.min()) / spread if spread > 1e-6 else np.zeros_like(weighted)
    return torch.from_numpy(saliency.astype(np.float32)[ids])


def _region_means(pixels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean Lab colour (R, 3) and mean position (R, 2), in units of the longer side, of each region."""
    rows, columns = np.indices(ids.shape) / max(ids.shape)
    channels = [*np.moveaxis(rgb2lab(pixels), -1, 0), rows, columns]
    sums = np.stack([np.bincount(ids.ravel(), channel.ravel()) for channel in channels], axis=1)
    means = sums / np.bincount(ids.ravel())[:, None]
    return means[:, :3], means[:, 3:]


def _background(ids: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Probability w_bg that each region is background (eq. 7), (R,), from its boundary connectivity (eq. 5)."""
    border = np.unique(np.concatenate((ids[0], ids[-1], ids[:, 0], ids[:, -1])))
    spanned = np.exp(-(_geodesic(ids, border, contrast) ** 2) / (2 * COLOUR**2))  # how far i belongs to p's homogeneous area
    connectivity = spanned[:, border].sum(axis=1) / np.sqrt(spanned.sum(axis=1))
    probability: np.ndarray = 1 - np.exp(-(connectivity**2) / (2 * BORDER**2))
    return probability


def _geodesic(ids: np.ndarray, border: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """(R, R) least sum of colour steps from one region to another over neighbours; all regions at the border are neighbours.

    These links join background that an object cuts in two (sec. 3.2).
    """
    pairs = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:]), np.meshgrid(border, border)]
    a, b = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    a, b = np.unique(np.stack((a, b))[:, a != b], axis=1)
    steps = contrast[a, b] + 1e-9  # a sparse matrix takes a step of exactly 0 for no edge
    distances: np.ndarray = dijkstra(coo_array((steps, (a, b)), shape=contrast.shape).tocsr(), directed=False)
    return distances


def from_folder(folder: Path | str, sample: Sample) -> Tensor:
    """The map `folder/NAME.png` of a sample, grey values 0..255 (or 0..65535) to (H, W) float32 in [0, 1].

    A map of another size with the image's aspect ratio, as networks write them, is resized.
    Raises ValueError if it is missing, outside the folder, not a grey image, or of another aspect ratio.
    """
    path = Path(folder) / f"{sample.name}.png"
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"saliency: the image name {sample.name!r} leads out of the folder {folder}; rename the image")
    if not path.is_file():
        raise ValueError(f"saliency: there is no map {path}; write one for each image, or use the built-in boundary_connectivity")
    return _resized(_grey(path), (sample.image.shape[-2], sample.image.shape[-1]), path)


def _grey(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"saliency: {path} cannot be read ({error}); write it again") from error
    if mode not in ("L", "I;16"):
        raise ValueError(f"saliency: {path} is of mode {mode}, expected 8- or 16-bit grey values; convert it")
    return torch.from_numpy(values.astype(np.float32) / (255 if mode == "L" else 65535))


def _resized(saliency: Tensor, size: tuple[int, int], path: Path) -> Tensor:
    height, width = saliency.shape
    if (height, width) == size:
        return saliency
    # Rounding changes each side of the smaller map by up to half a pixel.
    if abs(height * size[1] - width * size[0]) > (size[0] + size[1]) / 2 + 1:
        raise ValueError(f"saliency: {path} is {height}×{width}, expected the image's {size[0]}×{size[1]} or its aspect ratio")
    return interpolate(saliency[None, None], size, mode="bilinear", align_corners=False)[0, 0]
