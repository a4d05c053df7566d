"""Selective search (Uijlings et al., IJCV 2013): boxes of the regions that arise when superpixels merge, most similar first.

Shape letters: N initial regions, M = 2N − 1 all regions of a hierarchy, H W image.
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
MAX_PIXELS = 1_000_000  # twice the size that the authors' settings are made for; each pixel takes 380 bytes
MODES = {  # colour spaces, granularities k, similarity measures; "fast" is the paper's (sec. 5.4)
    "single": (("hsv",), (100,), ("CTSF",)),
    "fast": (("hsv", "lab"), (50, 100), ("CTSF", "TSF")),
    "quality": (("hsv", "lab", "rgb"), (50, 100, 150), ("CTSF", "TSF", "F", "S")),
}


@cacheable("scikit-image", "numpy", "torchvision", revision=2, top_k="count")
def selective_search(image: Tensor, count: int = 2000, mode: str = "fast", seed: int = 0) -> Tensor:
    """Object proposals, boxes (P, 4) float32 xyxy in pixels, right and bottom exclusive, at most `count`, likeliest first.

    image: (3, H, W) uint8 RGB; one of more than MAX_PIXELS is shrunk to them. mode: "single", "fast" or "quality" of MODES: more
    colour spaces, granularities and measures find more objects in more time. seed: of the order within one level of the
    hierarchies, which is random in the paper too.
    Raises ValueError for another image, mode or count.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ValueError(f"image: got {tuple(image.shape)} {image.dtype}, expected (3, H, W) uint8 RGB")
    if mode not in MODES or count < 1:
        raise ValueError(f"selective_search: got mode={mode!r}, count={count}; expected one of {', '.join(MODES)}, and 1 or more")
    small, chance = limited(image), np.random.default_rng(seed)
    hierarchies = list(_hierarchies(small.permute(1, 2, 0).numpy(force=True), *MODES[mode]))
    # The last merged region, which is the whole image, has rank 1 (sec. 4.3).
    priorities = [chance.random(len(boxes)) * np.arange(len(boxes), 0, -1) for boxes in hierarchies]
    boxes = torch.from_numpy(ranked(np.concatenate(hierarchies), np.concatenate(priorities), count))
    return boxes * detection.ratio(*((view.shape[1], view.shape[2]) for view in (small, image)))


def _hierarchies(
    pixels: np.ndarray, spaces: tuple[str, ...], granularities: tuple[int, ...], measures: tuple[str, ...]
) -> Iterator[np.ndarray]:
    """Boxes (M, 4) of each hierarchy of regions of an image (H, W, 3)."""
    for space in spaces:
        colours = SPACES[space](pixels)
        textures = texture(colours)
        for k in granularities:
            regions = Regions(colours, textures, felzenszwalb(colours, scale=k, sigma=0.8, min_size=k))
            for measure in measures:
                yield regions.merged(measure)


def limited(image: Tensor) -> Tensor:
    """The image (3, H, W), shrunk if it has more than MAX_PIXELS."""
    factor = math.sqrt(MAX_PIXELS / (image.shape[1] * image.shape[2]))
    height, width = (max(1, int(side * factor)) for side in image.shape[1:])
    return detection.resized(image, (height, width)) if factor < 1 else image


def ranked(boxes: np.ndarray, priorities: np.ndarray, count: int) -> np.ndarray:
    """The `count` different boxes of the lowest priorities, in their order, (P, 4) float32."""
    boxes = boxes[np.argsort(priorities, kind="stable")]
    first = np.sort(np.unique(boxes, axis=0, return_index=True)[1])
    return boxes[first[:count]].astype(np.float32)


def _lab(pixels: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (rgb2lab(pixels) + np.array([0, 128, 128])) / np.array([100, 255, 255])
    return scaled


SPACES = {"hsv": rgb2hsv, "lab": _lab, "rgb": lambda pixels: pixels / 255.0}  # all from 0 to 1


def texture(colours: np.ndarray) -> np.ndarray:
    """Slope of each channel in each of the orientations, (H, W, 3 · ORIENTATIONS) uint8 in 0..TEXTURE_BINS − 1."""
    down, right = np.zeros_like(colours), np.zeros_like(colours)
    down[1:-1], right[:, 1:-1] = colours[2:] - colours[:-2], colours[:, 2:] - colours[:, :-2]
    angles = np.arange(ORIENTATIONS) * 2 * np.pi / ORIENTATIONS
    slopes = [np.maximum(right * np.cos(angle) + down * np.sin(angle), 0) for angle in angles]
    steepest = max(1e-6, max(float(slope.max()) for slope in slopes))
    return np.concatenate([(slope * (TEXTURE_BINS / steepest)).clip(0, TEXTURE_BINS - 1).astype(np.uint8) for slope in slopes], 2)


class Regions:
    """A segmentation with all that the measures compare: sizes, boxes, histograms of colour and texture, and pairs of neighbours.

    colours: (H, W, 3) in 0..1. textures: (H, W, A) as `texture` returns them. ids: (H, W) of the regions, from 0.
    """

    def __init__(self, colours: np.ndarray, textures: np.ndarray, ids: np.ndarray) -> None:
        self.count, self.pixels = int(ids.max()) + 1, ids.size
        self.sizes = np.bincount(ids.ravel(), minlength=self.count).astype(float)
        self.boxes = boxes_of(ids, self.count)
        bins = (colours * COLOUR_BINS).clip(0, COLOUR_BINS - 1).astype(np.uint8)
        self.colours = histograms(ids, bins, COLOUR_BINS, self.sizes)
        self.textures = histograms(ids, textures, TEXTURE_BINS, self.sizes)
        self.neighbours = neighbours(ids, self.count)

    def merged(self, measure: str) -> np.ndarray:
        """Boxes (M, 4) of all regions when the two most similar neighbours merge, again and again (algorithm 1)."""
        hierarchy = Hierarchy(self, measure)
        for first, second, new in _merges(self.count, self.neighbours, hierarchy.similarity):
            hierarchy.merge(first, second, new)
        return hierarchy.boxes


class Hierarchy:
    """The regions while they merge, with the features of a measure: C colour, T texture, S size, F fill (sec. 3.2)."""

    def __init__(self, regions: Regions, measure: str) -> None:
        rows = 2 * regions.count - 1
        self.measure, self.pixels = measure, regions.pixels
        self.sizes, self.boxes = with_rows(regions.sizes, rows), with_rows(regions.boxes, rows)
        features = {"C": regions.colours, "T": regions.textures}
        self.features = [with_rows(values, rows) for letter, values in features.items() if letter in measure]

    def similarity(self, a: np.ndarray | int, b: np.ndarray) -> np.ndarray:
        """(E,) similarity of regions a, one or (E,), and b (E,), up to a constant (eqs. 1 to 4)."""
        score = sum((np.minimum(values[a], values[b]).sum(-1) for values in self.features), np.zeros(len(b)))
        both = self.sizes[a] + self.sizes[b]
        if "S" in self.measure:
            score -= both / self.pixels
        if "F" in self.measure:
            sides = np.maximum(self.boxes[a, 2:], self.boxes[b, 2:]) - np.minimum(self.boxes[a, :2], self.boxes[b, :2])
            score -= (sides.prod(-1) - both) / self.pixels
        return score

    def merge(self, first: int, second: int, new: int) -> None:
        """Give the region `new` what its two parts have together."""
        sizes, boxes = self.sizes, self.boxes
        sizes[new] = sizes[first] + sizes[second]
        boxes[new, :2] = np.minimum(boxes[first, :2], boxes[second, :2])
        boxes[new, 2:] = np.maximum(boxes[first, 2:], boxes[second, 2:])
        for values in self.features:
            values[new] = (values[first] * sizes[first] + values[second] * sizes[second]) / sizes[new]


def _merges(count: int, pairs: np.ndarray, similarity: Callable[..., np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """The next two regions to merge and the id of the new one, whose features must be there when the generator continues."""
    around: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for a, b in pairs.tolist():
        around[a].add(b)
        around[b].add(a)
    heap = list(zip((-similarity(pairs[:, 0], pairs[:, 1])).tolist(), *pairs.T.tolist(), strict=True))
    heapq.heapify(heap)
    for new in range(count, 2 * count - 1):
        _, first, second = heapq.heappop(heap)
        while second not in around[first]:  # one of them has merged with another meanwhile
            _, first, second = heapq.heappop(heap)
        yield first, second, new
        others = (around[first] | around[second]) - {first, second}
        for other in others:
            around[other] -= {first, second}
            around[other].add(new)
        around[first], around[second], around[new] = set(), set(), others
        ordered = sorted(others)
        for other, score in zip(ordered, similarity(new, np.array(ordered, int)).tolist(), strict=True):
            heapq.heappush(heap, (-score, other, new))


def with_rows(values: np.ndarray, count: int) -> np.ndarray:
    """The values with rows of 0 added, `count` rows in all."""
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)])


def boxes_of(ids: np.ndarray, count: int) -> np.ndarray:
    """Bounding boxes (N, 4) of the regions of an id map (H, W)."""
    boxes = np.zeros((count, 4), np.int64)
    for axis, (low, high) in ((1, (0, 2)), (0, (1, 3))):
        extent = ids.shape[axis]
        flat = np.unique(ids.astype(np.int64) * extent + (np.arange(extent) if axis else np.arange(extent)[:, None]))
        regions, places = flat // extent, flat % extent
        starts = np.searchsorted(regions, np.arange(count))
        boxes[:, low], boxes[:, high] = places[starts], places[np.append(starts[1:], len(places)) - 1] + 1
    return boxes


def histograms(ids: np.ndarray, values: np.ndarray, bins: int, sizes: np.ndarray) -> np.ndarray:
    """(N, A · bins) a histogram for each region, which sums to 1, over all channels of values (H, W, A) below `bins`."""
    count, channels = len(sizes), values.shape[2]
    first, columns = ids.ravel().astype(np.int64) * bins, []
    for channel in range(channels):
        columns.append(np.bincount(first + values[..., channel].ravel(), minlength=count * bins).reshape(count, bins))
    return np.asarray(np.concatenate(columns, 1) / (sizes[:, None] * channels), np.float32)


def neighbours(ids: np.ndarray, count: int) -> np.ndarray:
    """Pairs (E, 2) of regions that share a side of a pixel, the lower id first, each once."""
    across = np.stack([ids[:, :-1].ravel(), ids[:, 1:].ravel()])
    along = np.stack([ids[:-1].ravel(), ids[1:].ravel()])
    pairs = np.concatenate([across, along], 1).astype(np.int64)
    pairs = np.sort(pairs[:, pairs[0] != pairs[1]], axis=0)
    codes = np.unique(pairs[0] * count + pairs[1])
    return np.stack([codes // count, codes % count], 1)
