"""Boxes that may hold an object: from the image alone, from a grid, at random, or from files.

All are (P, 4) float32 xyxy in pixels of the image, right and bottom exclusive, likeliest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from frugalseg.regions.boxfiles import BoxFileError, BoxFiles
from frugalseg.regions.cache import Cache, cacheable
from frugalseg.regions.selective_search import selective_search
from frugalseg.types import Sample

ASPECTS = (0.5, 1.0, 2.0)  # height over width of the boxes of a grid
OVERLAP = 0.5  # of neighbours in a grid, in box sides


# -- tools -----------------------------------------------------------------------------------------------------------


@cacheable("torch")
def grid(image: Tensor, count: int = 2000, smallest: float = 0.1) -> Tensor:
    """Evenly spread boxes of several sizes and three aspect ratios, at most `count`, from the largest to the smallest.

    image: (3, H, W). smallest: least side, as a share of the image's shorter side; the sides halve from the whole down to it.
    """
    height, width = image.shape[-2:]
    boxes, side = [torch.tensor([[0.0, 0.0, width, height]])], float(min(height, width))
    while side >= smallest * min(height, width) and sum(map(len, boxes)) < count:
        boxes += [_tiled(height, width, side * aspect**0.5, side / aspect**0.5) for aspect in ASPECTS]
        side /= 2
    return clean(torch.cat(boxes), (height, width)).boxes[:count]


def _tiled(height: int, width: int, tall: float, wide: float) -> Tensor:
    """Boxes of one size, evenly over the image, neighbours overlapping by half; none if the image is smaller."""
    if tall > height or wide > width:
        return torch.zeros(0, 4)
    rows, columns = (int((extent - side) / (side * OVERLAP)) + 1 for extent, side in ((height, tall), (width, wide)))
    tops, lefts = torch.linspace(0, height - tall, rows), torch.linspace(0, width - wide, columns)
    corners = torch.cartesian_prod(lefts, tops)
    return torch.cat([corners, corners + torch.tensor([wide, tall])], 1)


@cacheable("torch")
def random(image: Tensor, count: int = 2000, seed: int = 0) -> Tensor:
    """Boxes whose corners are drawn uniformly: the baseline that a proposal method must beat."""
    height, width = image.shape[-2:]
    places = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height])
    return clean(torch.cat([places.amin(1), places.amax(1)], 1), (height, width)).boxes


TOOLS: dict[str, Callable[..., Tensor]] = {"selective_search": selective_search, "grid": grid, "random": random}


# -- valid boxes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cleaned:
    """The valid boxes (P, 4) among those of an image, and how many had which fault.

    broken: not finite. outside: of the image. empty: below a pixel wide or high once cut to the image. double: equal to another.
    These are left out. beyond: reaching more than a pixel beyond the image; these are cut to it.
    """

    boxes: Tensor
    broken: int = 0
    outside: int = 0
    empty: int = 0
    double: int = 0
    beyond: int = 0

    def __str__(self) -> str:
        faults = {"not finite": self.broken, "outside": self.outside, "empty": self.empty, "double": self.double}
        texts = ", ".join(f"{count} {fault}" for fault, count in faults.items() if count)
        return f"{len(self.boxes)} boxes" + (f", left out: {texts}" if texts else "")


def clean(boxes: Tensor, size: tuple[int, int]) -> Cleaned:
    """Boxes (P, 4) cut to an image of that (H, W), in their order, each at least one pixel wide and high, each once."""
    boxes = boxes.as_subclass(Tensor).float().reshape(-1, 4)
    finite = boxes[boxes.isfinite().all(1)]
    width, height = float(size[1]), float(size[0])
    x1, y1, x2, y2 = finite.T
    inside = finite[(x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)]
    cut = inside.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    large = cut[(cut[:, 2] - cut[:, 0] >= 1) & (cut[:, 3] - cut[:, 1] >= 1)]
    kept = large[_first(large)]
    lost = len(boxes) - len(finite), len(finite) - len(inside), len(inside) - len(large), len(large) - len(kept)
    return Cleaned(kept, *lost, beyond=int(((inside - cut).abs() > 1).any(1).sum()))


def _first(boxes: Tensor) -> Tensor:
    """Indices of the first of each group of equal boxes, ascending."""
    _, groups = torch.unique(boxes, dim=0, return_inverse=True)
    first = torch.full((len(boxes),), len(boxes)).scatter_reduce_(0, groups, torch.arange(len(boxes)), "amin")
    return first[first < len(boxes)].sort().values


# -- of an image -----------------------------------------------------------------------------------------------------


def at_least_one(sample: Sample, source: str, count: int = 2000) -> Tensor:
    """As `of`, but the whole image where there is no proposal."""
    boxes, (height, width) = of(sample, source, count), sample.image.shape[-2:]
    return boxes if len(boxes) else torch.tensor([[0.0, 0.0, width, height]])


def of(sample: Sample, source: str, count: int = 2000) -> Tensor:
    """The valid proposals of an image, at most `count`: the sample's own if it has any, else those of the source.

    source: a name in TOOLS, whose results are cached, or a file or folder that `boxfiles.BoxFiles` reads.
    Raises ValueError for a source that is neither, and for an image that the files do not have.
    """
    return cleaned(sample, source, count).boxes[:count]


def cleaned(sample: Sample, source: str, count: int = 2000) -> Cleaned:
    """The valid proposals of an image, and how many were not; see `of`."""
    size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
    if sample.proposals is not None:
        return clean(sample.proposals, size)
    if source in TOOLS:
        return clean(_cache()(TOOLS[source], sample.image.as_subclass(Tensor), count=count), size)
    try:
        return clean(files_of(source)(sample.name), size)
    except BoxFileError as error:
        raise BoxFileError(f"{error}; to predict or evaluate with other boxes: --proposals {'|'.join(TOOLS)}|FILE") from None


@lru_cache(maxsize=1)
def _cache() -> Cache:
    return Cache()


@lru_cache(maxsize=4)
def files_of(source: str) -> BoxFiles:
    """The boxes in a file or folder. Raises ValueError where there is none."""
    if not Path(source).exists():
        raise ValueError(f"proposals: got {source!r}; expected one of {', '.join(TOOLS)}, rpn, or a file or folder of boxes")
    return BoxFiles(Path(source))
