"""Selective search (Uijlings et al., IJCV 2013): boxes of the regions that arise when superpixels merge, most alike first.

Shape letters: N initial regions, M = 2N − 1 all regions that ever exist, H W image.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from skimage.color import rgb2hsv, rgb2lab
from skimage.segmentation import felzenszwalb
from torch import Tensor

from frugalseg.data import detection
from frugalseg.regions.cache import cacheable

COLOUR_BINS, TEXTURE_BINS, ORIENTATIONS = 25, 10, 8  # of each channel's histograms (sec. 3.2)
LARGEST = 1_000_000  # pixels, twice what the authors' settings are made for; each takes 380 bytes
MODES = {  # colour spaces, granularities k, measures of likeness; "fast" is the paper's (sec. 5.4)
    "single": (("hsv",), (100,), ("CTSF",)),
    "fast": (("hsv", "lab"), (50, 100), ("CTSF", "TSF")),
    "quality": (("hsv", "lab", "rgb"), (50, 100, 150), ("CTSF", "TSF", "F", "S")),
}


@cacheable("scikit-image", "numpy", "torchvision", revision=2, cut="count")
def selective_search(image: Tensor, count: int = 2000, mode: str = "fast", seed: int = 0) -> Tensor:
    """Object proposals, boxes (P, 4) float32 xyxy in pixels, right and bottom exclusive, at most `count`, likeliest first.

    image: (3, H, W) uint8 RGB; one of more than LARGEST pixels is searched shrunk to them. mode: "single", "fast" or "quality" of
    MODES: more colour spaces, granularities and measures find more objects in more time. seed: of the order within one level of
    the hierarchies, which is random in the paper too.
    Raises ValueError for another image, mode or count.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ValueError(f"image: got {tuple(image.shape)} {image.dtype}, expected (3, H, W) uint8 RGB")
    if mode not in MODES or count < 1:
        raise ValueError(f"selective_search: got mode={mode!r}, count={count}; expected one of {', '.join(MODES)}, and 1 or more")
    spaces, granularities, measures = MODES[mode]
    shrunk = fitted(image)
    pixels, chance = shrunk.permute(1, 2, 0).numpy(force=True), np.random.default_rng(seed)
    boxes, priorities = [], []
    for space in spaces:
        coloured = SPACES[space](pixels)
        textures = texture(coloured)
        for k in granularities:
            regions = Regions(coloured, textures, felzenszwalb(coloured, scale=k, sigma=0.8, min_size=k))
            for measure in measures:
                own = regions.grown(measure)
                boxes.append(own)
                # The last merged, which is the whole image, has rank 1 (sec. 4.3).
                priorities.append(chance.random(len(own)) * np.arange(len(own), 0, -1))
    found = torch.from_numpy(ranked(np.concatenate(boxes), np.concatenate(priorities), count))
    return found * detection.ratio(*((own.shape[1], own.shape[2]) for own in (shrunk, image)))


def fitted(image: Tensor) -> Tensor:
    """The image (3, H, W), shrunk if it has more than LARGEST pixels."""
    factor = math.sqrt(LARGEST / (image.shape[1] * image.shape[2]))
    height, width = (max(1, int(side * factor)) for side in image.shape[1:])
    return detection.resized(image, (height, width)) if factor < 1 else image


def ranked(boxes: np.ndarray, priorities: np.ndarray, count: int) -> np.ndarray:
    """The `count` different boxes of the lowest priorities, in their order, (P, 4) float32."""
    boxes = boxes[np.argsort(priorities, kind="stable")]
    first = np.sort(np.unique(boxes, axis=0, return_index=True)[1])
    return boxes[first[:count]].astype(np.float32)


def _lab(pixels: np.ndarray) -> np.ndarray:
    return (rgb2lab(pixels) + np.array([0, 128, 128])) / np.array([100, 255, 255])


SPACES = {"hsv": rgb2hsv, "lab": _lab, "rgb": lambda pixels: pixels / 255.0}  # all from 0 to 1


def texture(coloured: np.ndarray) -> np.ndarray:
    """How much each channel rises towards each of the orientations, (H, W, 3 · ORIENTATIONS) uint8 of 0..TEXTURE_BINS − 1."""
    down, right = np.zeros_like(coloured), np.zeros_like(coloured)
    down[1:-1], right[:, 1:-1] = coloured[2:] - coloured[:-2], coloured[:, 2:] - coloured[:, :-2]
    angles = np.arange(ORIENTATIONS) * 2 * np.pi / ORIENTATIONS
    rises = [np.maximum(right * np.cos(angle) + down * np.sin(angle), 0) for angle in angles]
    strongest = max(1e-6, max(float(rise.max()) for rise in rises))
    return np.concatenate([(rise * (TEXTURE_BINS / strongest)).clip(0, TEXTURE_BINS - 1).astype(np.uint8) for rise in rises], 2)


class Regions:
    """A segmentation with what the measures compare: sizes, boxes, histograms of colour and texture, and who touches whom."""

    def __init__(self, coloured: np.ndarray, textures: np.ndarray, ids: np.ndarray) -> None:
        self.count, self.pixels = int(ids.max()) + 1, ids.size
        self.sizes = np.bincount(ids.ravel(), minlength=self.count).astype(float)
        self.boxes = boxes_of(ids, self.count)
        colours = (coloured * COLOUR_BINS).clip(0, COLOUR_BINS - 1).astype(np.uint8)
        self.colours = histograms(ids, colours, COLOUR_BINS, self.sizes)
        self.textures = histograms(ids, textures, TEXTURE_BINS, self.sizes)
        self.pairs = touching(ids, self.count)

    def grown(self, measure: str) -> np.ndarray:
        """Boxes (M, 4) of all regions when the two neighbours that are most alike merge, again and again (algorithm 1)."""
        total = 2 * self.count - 1
        sizes, boxes = widened(self.sizes, total), widened(self.boxes, total)
        features = [own for letter, own in (("C", self.colours), ("T", self.textures)) if letter in measure]
        features = [widened(own, total) for own in features]

        def alike(a: np.ndarray | int, b: np.ndarray) -> np.ndarray:
            score = sum((np.minimum(own[a], own[b]).sum(-1) for own in features), np.zeros(len(b)))
            both = sizes[a] + sizes[b]
            if "S" in measure:
                score -= both / self.pixels
            if "F" in measure:
                sides = np.maximum(boxes[a, 2:], boxes[b, 2:]) - np.minimum(boxes[a, :2], boxes[b, :2])
                score -= (sides.prod(-1) - both) / self.pixels
            return score

        for first, second, new in self._merges(alike):
            sizes[new] = sizes[first] + sizes[second]
            boxes[new, :2] = np.minimum(boxes[first, :2], boxes[second, :2])
            boxes[new, 2:] = np.maximum(boxes[first, 2:], boxes[second, 2:])
            for own in features:
                own[new] = (own[first] * sizes[first] + own[second] * sizes[second]) / sizes[new]
        return boxes

    def _merges(self, alike: Callable[..., np.ndarray]) -> Iterator[tuple[int, int, int]]:
        """The next two regions to merge and the number of the new one; its features must be there when the generator goes on."""
        neighbours: list[set[int]] = [set() for _ in range(2 * self.count - 1)]
        for a, b in self.pairs.tolist():
            neighbours[a].add(b)
            neighbours[b].add(a)
        scores = alike(self.pairs[:, 0], self.pairs[:, 1])
        heap = list(zip((-scores).tolist(), *self.pairs.T.tolist(), strict=True))
        heapq.heapify(heap)
        for new in range(self.count, 2 * self.count - 1):
            _, first, second = heapq.heappop(heap)
            while second not in neighbours[first]:  # one of them has merged with another since
                _, first, second = heapq.heappop(heap)
            yield first, second, new
            around = (neighbours[first] | neighbours[second]) - {first, second}
            for other in around:
                neighbours[other] -= {first, second}
                neighbours[other].add(new)
            neighbours[first], neighbours[second], neighbours[new] = set(), set(), around
            others = sorted(around)
            for other, score in zip(others, alike(new, np.array(others, int)).tolist(), strict=True):
                heapq.heappush(heap, (-score, other, new))


def widened(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows, and room for more, `count` in all."""
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def boxes_of(ids: np.ndarray, count: int) -> np.ndarray:
    """Bounding boxes (N, 4) of the regions of a map of ids (H, W)."""
    boxes = np.zeros((count, 4), np.int64)
    for axis, (low, high) in ((1, (0, 2)), (0, (1, 3))):
        extent = ids.shape[axis]
        flat = np.unique(ids.astype(np.int64) * extent + (np.arange(extent) if axis else np.arange(extent)[:, None]))
        owners, places = flat // extent, flat % extent
        starts = np.searchsorted(owners, np.arange(count))
        boxes[:, low], boxes[:, high] = places[starts], places[np.append(starts[1:], len(places)) - 1] + 1
    return boxes


def histograms(ids: np.ndarray, values: np.ndarray, bins: int, sizes: np.ndarray) -> np.ndarray:
    """Of each region, over all channels (H, W, A) of values below `bins`: (N, A · bins), sums of 1."""
    count, channels = len(sizes), values.shape[2]
    first, columns = ids.ravel().astype(np.int64) * bins, []
    for channel in range(channels):
        columns.append(np.bincount(first + values[..., channel].ravel(), minlength=count * bins).reshape(count, bins))
    return (np.concatenate(columns, 1) / (sizes[:, None] * channels)).astype(np.float32)


def touching(ids: np.ndarray, count: int) -> np.ndarray:
    """Pairs (E, 2) of regions that share a side of a pixel, the lower number first, each once."""
    across = np.stack([ids[:, :-1].ravel(), ids[:, 1:].ravel()])
    along = np.stack([ids[:-1].ravel(), ids[1:].ravel()])
    pairs = np.concatenate([across, along], 1).astype(np.int64)
    pairs = np.sort(pairs[:, pairs[0] != pairs[1]], axis=0)
    codes = np.unique(pairs[0] * count + pairs[1])
    return np.stack([codes // count, codes % count], 1)
