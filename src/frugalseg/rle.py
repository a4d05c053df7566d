"""Masks as COCO's run lengths: a thousand objects on a 12-Mpx photo stay in kilobytes. Free of torch.

A mask is read column by column; counts are the lengths of its runs of 0 and 1 in turn, beginning with 0. A code here is a
dictionary {"size": [H, W], "counts": bytes} with the counts in COCO's text form, as pycocotools and faster-coco-eval take it.
Whatever comes from a file goes through `checked`: the C code behind the codes believes what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as codec
from scipy.ndimage import find_objects

RLE = dict[str, Any]
LONGEST_NUMBER = 7  # characters of five bits: run lengths up to 2**34


def encode(mask: np.ndarray, top: int = 0, left: int = 0, size: tuple[int, int] | None = None) -> RLE:
    """The code of a mask (h, w) bool that lies at `top`, `left` in an image of `size` (H, W), by default its own.

    Only the mask's own pixels are looked at, so an object costs its box and not the image.
    """
    height, width = size or mask.shape
    return from_bounds(bounds(mask, top, left, height), (height, width))


def bounds(mask: np.ndarray, top: int, left: int, height: int) -> np.ndarray:
    """(2n,) int64 where the runs of a mask (h, w) begin and end, as column-major pixel numbers of an image `height` high."""
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), bool)
    columns[:, 1:-1] = mask.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    return (column + left) * height + row + top


def from_bounds(limits: np.ndarray, size: tuple[int, int]) -> RLE:
    """The code of runs that begin and end at ascending `limits`; a run that begins where another ends continues it."""
    height, width = size
    inner = limits[1:-1].reshape(-1, 2)
    apart = np.repeat(inner[:, 0] != inner[:, 1], 2)
    edges = np.concatenate([[0], limits[:1], limits[1:-1][apart], limits[-1:], [height * width]])
    counts = edges[1:] - edges[:-1]
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    code: RLE = codec.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return code


def from_counts(counts: np.ndarray, size: tuple[int, int]) -> RLE:
    """The code of run lengths, zeros among them allowed. ValueError unless they are natural numbers that fill the size."""
    height, width = size
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not len(counts) or counts.min() < 0 or counts.max() > height * width:
        raise ValueError("its run lengths are not natural numbers up to the number of pixels")
    limits = np.cumsum(counts.astype(np.int64))
    if limits[-1] != height * width:
        raise ValueError(f"its runs cover {limits[-1]} pixels, the image has {height * width}")
    starts, ends = limits[:-1:2], limits[1::2]
    there = ends > starts
    return from_bounds(np.stack([starts[there], ends[there]], 1).ravel(), size)


def from_ids(ids: np.ndarray) -> tuple[list[int], list[RLE]]:
    """The numbers above 0 in a map of object ids (H, W), ascending, and the code of each one's mask."""
    found = find_objects(np.asarray(ids))
    boxes = {number: box for number, box in enumerate(found, start=1) if box is not None}
    size = (ids.shape[0], ids.shape[1])
    return [*boxes], [encode(ids[y, x] == number, y.start, x.start, size) for number, (y, x) in boxes.items()]


def checked(code: Any, size: tuple[int, int]) -> RLE:
    """The code of a mask of `size` from an entry of a file, in text or as numbers. ValueError says what is wrong with it."""
    if not isinstance(code, dict) or "counts" not in code:
        raise ValueError("it has no run lengths")
    if code.get("size") != list(size):
        raise ValueError(f"it is for an image of {code.get('size')}, its own has {list(size)} (height, width)")
    counts = code["counts"]
    if isinstance(counts, (str, bytes)):
        return from_counts(parse(counts), size)
    if not isinstance(counts, list) or len(counts) > 2 * size[0] * size[1] + 2:
        raise ValueError("its run lengths are neither a text nor a list that fits the image")
    if any(type(count) is not int or not 0 <= count <= size[0] * size[1] for count in counts):
        raise ValueError("its run lengths are not natural numbers up to the number of pixels")
    return from_counts(np.array(counts, np.int64), size)


def parse(text: str | bytes) -> np.ndarray:
    """(n,) int64 run lengths from COCO's text form. ValueError for a text that is none.

    A number is written in characters of five bits from `0` on, lowest bits first; a sixth bit says that more follow, the highest
    of the five in the last one is the sign. From the fourth on, a number is the difference to the one two places before.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("its text is no run-length code")
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_NUMBER:
        raise ValueError("its text holds numbers too large for any image")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << (5 * places), starts)
    counts = np.where(digits[ends] & 16, values - (1 << (5 * lengths)), values)
    for first in (1, 2):
        counts[first::2] = np.cumsum(counts[first::2])
    return counts


def runs(code: RLE) -> np.ndarray:
    """(n, 2) int64 where the runs of a mask begin and end, as column-major pixel numbers."""
    limits = np.cumsum(parse(code["counts"]))
    return limits[: len(limits) // 2 * 2].reshape(-1, 2)


def decode(codes: Sequence[RLE], size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool masks of codes of one size, which is needed for N = 0."""
    if not codes:
        return np.zeros((0, *size), bool)
    return np.ascontiguousarray(codec.decode(list(codes)).transpose(2, 0, 1)).astype(bool)


def from_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> RLE:
    """The code of the union of polygons, each (n, 2) corners x, y, drawn as COCO's own code draws them."""
    return union(codec.frPyObjects([points.ravel().tolist() for points in polygons], *size))


def union(codes: Sequence[RLE]) -> RLE:
    """The pixels of any of the masks, which have one size."""
    code: RLE = codec.merge(list(codes))
    return code


def intersection(one: RLE, other: RLE) -> RLE:
    """The pixels of both masks."""
    code: RLE = codec.merge([one, other], intersect=1)
    return code


def difference(one: RLE, other: RLE) -> RLE:
    """The pixels of one mask that another does not have."""
    return intersection(one, complement(other))


def border(code: RLE, width: int) -> RLE:
    """The pixels of a mask that are at most `width` pixels from its edge."""
    diagonal = float(np.hypot(*code["size"]))
    rim: RLE = codec.rleToBoundary(code, width / diagonal)
    return rim


def as_text(code: RLE) -> RLE:
    """A code that JSON can hold."""
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def complement(code: RLE) -> RLE:
    """The pixels that a mask does not have."""
    counts = parse(code["counts"])
    flipped = counts[1:] if counts[0] == 0 else np.concatenate([[0], counts])
    return from_counts(flipped, tuple(code["size"]))


def paint(codes: Sequence[RLE], size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 map of the masks' numbers 1, 2, …, 0 where there is none; of masks that overlap, the first is on top."""
    columns = np.zeros(size[0] * size[1], np.int32)
    for number in range(len(codes), 0, -1):
        for start, end in runs(codes[number - 1]).tolist():
            columns[start:end] = number
    return columns.reshape(size[1], size[0]).T


def areas(codes: Sequence[RLE]) -> np.ndarray:
    """(N,) int64 pixels of each mask."""
    return np.array([parse(code["counts"])[1::2].sum() for code in codes], np.int64)  # the library starts threads for a few codes


def boxes(codes: Sequence[RLE]) -> np.ndarray:
    """(N, 4) float32 extents x1, y1, x2, y2 of the masks, exclusive at the right and bottom; zeros for an empty one."""
    found = np.asarray(codec.toBbox(list(codes)), np.float32).reshape(-1, 4) if codes else np.zeros((0, 4), np.float32)
    found[:, 2:] += found[:, :2]
    return found


def overlaps(these: Sequence[RLE], those: Sequence[RLE], crowd: Sequence[bool] | None = None) -> np.ndarray:
    """(N, M) float64 intersection over union of masks of one size; over the area of the first where the second is a crowd."""
    if not these or not those:
        return np.zeros((len(these), len(those)))
    flags = [0] * len(those) if crowd is None else [int(flag) for flag in crowd]
    return np.asarray(codec.iou(list(these), list(those), flags)).reshape(len(these), len(those))
