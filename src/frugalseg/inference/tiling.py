"""Large images in overlapping tiles: each tile is predicted on its own, and objects that lie in several become one again.

Two objects of one class from two tiles are the same if their masks agree where both tiles look, the better the more their scores
differ; each has at most one partner in another tile, and the surest pairs are found first. Then their masks are united and the
higher score counts. So an object larger than the overlap, even one that crosses many tiles, is put together from its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.progress import track
from frugalseg.types import Instances, Prediction, Sample

AGREE = 0.5  # overlap, in the strip that two tiles share, from which two objects of like scores are one
# What that overlap and the ratio of the scores must add up to. So a mask five times less sure never joins, however well it fits:
# among many improbable masks one fits by chance, and would carry a sure object far beyond its border.
ALIKE = 1.2


class Tile(NamedTuple):
    """Rows top..bottom and columns left..right of an image, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


def tiles(size: tuple[int, int], side: int, overlap: int) -> list[Tile]:
    """Squares of `side` pixels (smaller where the image is) that cover (H, W) and overlap by at least `overlap` pixels.

    They are spread evenly, so none is a narrow rest. Raises UsageError unless 0 <= overlap < side.
    """
    if not 0 <= overlap < side:
        raise UsageError(f"tiles: got side {side} and overlap {overlap}, expected an overlap from 0 to below the side")
    rows, columns = (_starts(extent, side, overlap) for extent in size)
    height, width = (min(side, extent) for extent in size)
    return [Tile(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(extent: int, side: int, overlap: int) -> list[int]:
    if extent <= side:
        return [0]
    count = -(-(extent - overlap) // (side - overlap))
    return [round(step * (extent - side) / (count - 1)) for step in range(count)]


def predict(
    network: Callable[[Iterable[Sample]], Iterable[Prediction]], sample: Sample, side: int, overlap: int, quiet: bool = True
) -> Prediction:
    """The objects of an image (3, H, W) of any size. Memory: a few tiles and run lengths.

    network: predicts tiles, which are all of one size, in their order. quiet: say nothing of how many tiles are done.
    Raises UsageError for a network that makes no objects.
    """
    size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
    cut = tiles(size, side, overlap)
    parts: list[Instances] = []
    tags: list[Tensor] = []
    classes: tuple[str, ...] = ()
    pixels = sample.image.as_subclass(Tensor)
    pieces = (Sample(sample.name, pixels[:, tile.top : tile.bottom, tile.left : tile.right], sample.tags) for tile in cut)
    for tile, prediction in zip(track(cut, sample.name, unit="squares", quiet=quiet), network(pieces), strict=True):
        if prediction.instances is None:
            raise UsageError("tiles: this model makes no objects, so parts cannot be joined; predict without --tile")
        parts.append(moved(prediction.instances, tile, size))
        classes, tags = prediction.classes, tags if prediction.tags is None else [*tags, prediction.tags]
    best = torch.stack(tags).amax(0) if tags else None
    return Prediction(sample.name, size, classes, best, instances=merged(parts, cut, size))


def moved(objects: Instances, tile: Tile, size: tuple[int, int]) -> Instances:
    """Objects of a tile at their place in an image of `size`."""
    codes = [_seen(code, tile, Tile(0, 0, *size)) for code in objects.rles]
    corner = torch.tensor([tile.left, tile.top, tile.left, tile.top], dtype=torch.float32)
    return Instances(objects.boxes + corner, objects.labels, objects.scores, codes)


def merged(parts: Sequence[Instances], cut: Sequence[Tile], size: tuple[int, int]) -> Instances:
    """The objects of all tiles (already at their place in an image of `size`), best first, parts of one object joined."""
    codes = [code for part in parts for code in part.rles]
    if not codes:
        return Instances.none()
    boxes, labels = torch.cat([part.boxes for part in parts]), torch.cat([part.labels for part in parts])
    scores = torch.cat([part.scores for part in parts if part.scores is not None])
    pairs = [*_partners(Instances(boxes, labels, scores, codes), np.cumsum([0, *map(len, parts)]), cut, size)]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    _, groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(codes),) * 2), directed=False)
    members = np.split(groups.argsort(kind="stable"), np.bincount(groups).cumsum()[:-1])
    best = [int(own[scores[own].argmax()]) for own in members]
    hulls = [torch.cat([boxes[own, :2].amin(0), boxes[own, 2:].amax(0)]) for own in members]
    order = scores[best].argsort(descending=True, stable=True).tolist()
    joined = [_united([codes[i] for i in members[place]]) for place in order]
    return Instances(torch.stack(hulls)[order], labels[best][order], scores[best][order], joined)


def _partners(objects: Instances, firsts: np.ndarray, cut: Sequence[Tile], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The pairs of objects that are parts of one. firsts: (T + 1,) the place of each tile's first object."""
    labels, scores = objects.labels.numpy(), np.asarray(objects.scores)
    extents, corners, whole = rle.boxes(objects.rles)[:, [1, 0, 3, 2]], np.array(cut), Tile(0, 0, *size)
    for one, tile in enumerate(cut):
        for other in _meeting(corners[:one], tile):
            shared = Tile(*map(max, tile[:2], cut[other][:2]), *map(min, tile[2:], cut[other][2:]))
            ours, theirs = (firsts[k] + _meeting(extents[firsts[k] : firsts[k + 1]], shared) for k in (one, other))
            here, there = ([_seen(objects.rles[place], whole, shared) for place in places] for places in (ours, theirs))
            overlaps = rle.overlaps(here, there) * (labels[ours, None] == labels[theirs])
            yield from ((ours[i], theirs[j]) for i, j in _matched(overlaps, scores[ours], scores[theirs]))


def _meeting(corners: np.ndarray, tile: Tile) -> np.ndarray:
    """The places of the rectangles, (N, 4) of top, left, bottom, right, that share pixels with a tile."""
    return np.flatnonzero(((corners[:, :2] < tile[2:]) & (corners[:, 2:] > tile[:2])).all(1))


def _matched(overlaps: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs of N and M objects with these scores, one to one, that agree in the strip by overlaps (N, M).

    A pair is as sure as the less sure of the two; the overlap alone would often prefer a mask of little worth.
    """
    low, high = np.minimum.outer(ours, theirs), np.maximum.outer(ours, theirs)
    rows, columns = np.nonzero((overlaps >= AGREE) & (overlaps * high >= ALIKE * high - low))
    order = np.lexsort((-overlaps[rows, columns], -low[rows, columns]))
    taken: tuple[set[int], set[int]] = set(), set()
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            yield i, j


def _seen(code: rle.RLE, frame: Tile, window: Tile) -> rle.RLE:
    """What a window shows of a mask that is the code of a frame, as the code of the window; of its runs alone, never dense."""
    height, size = frame.bottom - frame.top, (window.bottom - window.top, window.right - window.left)
    runs = rle.runs(code)
    columns = runs[:, 0] // height
    counts = (runs[:, 1] - 1) // height + 1 - columns
    column = np.arange(counts.sum()) + np.repeat(columns + counts - counts.cumsum(), counts)  # of runs cut at their ends
    rows = (runs.repeat(counts, 0) - column[:, None] * height).clip(0, height) + frame.top - window.top
    rows, column = rows.clip(0, size[0]), column + frame.left - window.left
    there = (rows[:, 0] < rows[:, 1]) & (column >= 0) & (column < size[1])
    return rle.from_bounds((rows + column[:, None] * size[0])[there].ravel(), size)


def _united(codes: Sequence[rle.RLE]) -> rle.RLE:
    """The union of masks, of their runs alone: the library decodes whole images for it, a second for 900 megapixels."""
    if len(codes) == 1:
        return codes[0]
    runs = np.concatenate([rle.runs(code) for code in codes])
    starts, ends = runs[runs[:, 0].argsort()].T
    reach = np.maximum.accumulate(ends)
    gaps = np.flatnonzero(starts[1:] > reach[:-1])
    limits = np.stack([starts[np.r_[0, gaps + 1]], reach[np.r_[gaps, -1]]], 1)
    return rle.from_bounds(limits.ravel(), tuple(codes[0]["size"]))
