"""Large pictures in overlapping tiles: each tile is predicted on its own, and objects that lie in several become one again.

Two objects of one class from two tiles are the same if their masks agree where both tiles look; then their masks are united and
the higher score counts. So an object larger than the overlap, even one that crosses many tiles, is put together from its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from faster_coco_eval.core import mask as codec
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from frugalseg import rle
from frugalseg.config import UsageError
from frugalseg.types import CompactInstances, Prediction, Sample

AGREE = 0.5  # overlap, in the strip that two tiles share, from which two objects are one


class Tile(NamedTuple):
    """Rows top..bottom and columns left..right of a picture, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


def tiles(size: tuple[int, int], side: int, overlap: int) -> list[Tile]:
    """Squares of `side` pixels (smaller where the picture is) that cover (H, W) and overlap by at least `overlap` pixels.

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


def predict(network: Callable[[Sample], Prediction], sample: Sample, side: int, overlap: int) -> Prediction:
    """The objects of a picture (3, H, W) of any size. network: predicts one tile. Memory: one tile and run lengths.

    Raises UsageError for a network that makes no objects.
    """
    size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
    cut = tiles(size, side, overlap)
    parts: list[CompactInstances] = []
    tags: list[Tensor] = []
    classes: tuple[str, ...] = ()
    for tile in cut:
        image = sample.image.as_subclass(Tensor)[:, tile.top : tile.bottom, tile.left : tile.right]
        prediction = network(Sample(sample.name, image))
        if prediction.instances is None:
            raise UsageError("tiles: this model makes no objects, so parts cannot be joined; predict without --tile")
        parts.append(moved(prediction.instances, tile, size))
        classes, tags = prediction.classes, tags if prediction.tags is None else [*tags, prediction.tags]
    best = torch.stack(tags).amax(0) if tags else None
    return Prediction(sample.name, size, classes, best, instances=merged(parts, cut, size))


def moved(objects: CompactInstances, tile: Tile, size: tuple[int, int]) -> CompactInstances:
    """Objects of a tile at their place in a picture of `size`."""
    local = (tile.bottom - tile.top, tile.right - tile.left)
    codes = [rle.encode(rle.decode([code], local)[0], tile.top, tile.left, size) for code in objects.rles]
    corner = torch.tensor([tile.left, tile.top, tile.left, tile.top], dtype=torch.float32)
    return CompactInstances(objects.boxes + corner, objects.labels, objects.scores, codes)


def merged(parts: Sequence[CompactInstances], cut: Sequence[Tile], size: tuple[int, int]) -> CompactInstances:
    """The objects of all tiles (already at their place in a picture of `size`), best first, parts of one object joined."""
    firsts = np.cumsum([0, *map(len, parts)])
    codes = [code for part in parts for code in part.rles]
    if not codes:
        return CompactInstances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    boxes, labels = torch.cat([part.boxes for part in parts]), torch.cat([part.labels for part in parts])
    scores = torch.cat([part.scores for part in parts if part.scores is not None])
    pairs = [
        (firsts[one] + i, firsts[other] + j)
        for one in range(len(cut))
        for other in range(one)
        for i, j in _same(parts[one], parts[other], _shared(cut[one], cut[other]), size)
    ]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    _, groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(codes),) * 2), directed=False)
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    best = [int(own[scores[own].argmax()]) for own in members]
    hulls = [torch.cat([boxes[own, :2].amin(0), boxes[own, 2:].amax(0)]) for own in members]
    order = scores[best].argsort(descending=True, stable=True).tolist()
    joined = [_united([codes[i] for i in members[place]]) for place in order]
    return CompactInstances(torch.stack(hulls)[order], labels[best][order], scores[best][order], joined)


def _united(codes: list[rle.RLE]) -> rle.RLE:
    return codes[0] if len(codes) == 1 else codec.merge(codes)  # type: ignore[return-value]


def _shared(one: Tile, other: Tile) -> Tile:
    """The part of the picture that both see; empty if its ends do not come after its beginnings."""
    return Tile(max(one.top, other.top), max(one.left, other.left), min(one.bottom, other.bottom), min(one.right, other.right))


def _same(one: CompactInstances, other: CompactInstances, shared: Tile, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The pairs of objects that are parts of one."""
    if shared.bottom <= shared.top or shared.right <= shared.left or not len(one) or not len(other):
        return
    window = rle.encode(np.ones((shared.bottom - shared.top, shared.right - shared.left), bool), shared.top, shared.left, size)
    seen = [[codec.merge([code, window], intersect=1) for code in part.rles] for part in (one, other)]
    agree = (rle.overlaps(*seen) >= AGREE) & (one.labels[:, None] == other.labels).numpy()  # type: ignore[arg-type, call-arg]
    yield from zip(*(places.tolist() for places in np.nonzero(agree)), strict=True)
