"""From overlaps to average precision: who finds what under the three rules in use, and the area under the curve in three ways.

The rules differ below an overlap of one half, for boxes, and on exact ties; so do the published tools (see `match`).
Overlaps are float64 quotients and thresholds decimal literals: both are the nearest double to a fraction, and different fractions
of this size are far apart, so comparing them is as exact as comparing integers. float32 or sums such as 0.1 + 0.2 are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Rule = Literal["voc", "sds", "coco"]
Interpolation = Literal["area", "11pt", "coco101"]
Overlaps = Sequence[tuple[int, float]]  # (object, overlap) of the objects that a detection touches, ascending in object

ELEVEN = np.arange(
    0.0, 1.1, 0.1
)  # as the ports of VOC07's code: the fourth is 0.30000000000000004, and a recall of 3/10 misses it
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


def match(
    detections: Sequence[Overlaps], ignored: Sequence[bool], crowd: Sequence[bool], rule: Rule, threshold: float
) -> list[int]:
    """The object that each detection of one class in one image finds, or -1; detections come best score first.

    ignored: objects whose finding is neither right nor wrong. crowd: those that any number of detections may find.

    voc: the object of the largest overlap t or more, found or not; if another detection has found it, none (VOCevaldet.m;
    Everingham et al., IJCV 2010). sds: the largest above t among those not yet found (generalized_det_eval.m; Hariharan et al.,
    ECCV 2014). coco: likewise with t or more, ignored ones only if no other is left, and of equal ones the last (cocoeval.py).
    """
    taken: set[int] = set()
    found = []
    for overlaps in detections:
        choice = FIND[rule](
            [(g, value) for g, value in overlaps if rule == "voc" or g not in taken or crowd[g]], ignored, threshold
        )
        if choice in taken and not crowd[choice] and not ignored[choice]:
            choice = -1
        if choice >= 0:
            taken.add(choice)
        found.append(choice)
    return found


def _voc(free: Overlaps, ignored: Sequence[bool], threshold: float) -> int:
    return max((pair for pair in free if pair[1] >= threshold), key=lambda pair: pair[1], default=(-1, 0.0))[0]


def _sds(free: Overlaps, ignored: Sequence[bool], threshold: float) -> int:
    return max((pair for pair in free if pair[1] > threshold), key=lambda pair: pair[1], default=(-1, 0.0))[0]


def _coco(free: Overlaps, ignored: Sequence[bool], threshold: float) -> int:
    limit = min(threshold, 1 - 1e-10)
    near = [(not ignored[g], value, g) for g, value in free if value >= limit]
    return max(near)[2] if near else -1


FIND: dict[str, Callable[[Overlaps, Sequence[bool], float], int]] = {"voc": _voc, "sds": _sds, "coco": _coco}


def average_precision(right: np.ndarray, listed: np.ndarray, objects: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """(S,) average precision of one class under S weightings of the images; NaN without an object.

    Args:
        right, listed: (K, S) how many right detections, and how many right or wrong ones, the ranking has up to each of the K
            right ones, itself included.
        objects: (S,) how many there are to be found.
        interpolation: area: Σ (R_i − R_{i−1}) · max_{R ≥ R_i} P, VOC since 2010. 11pt: mean over R = 0, 0.1, … 1, VOC 2007.
            coco101: mean over R = 0, 0.01, … 1.

    Precision is largest at right detections, so those between them need not be looked at.
    """
    # COCO's code adds the smallest step to the denominator, which makes a first precision of 1 a little smaller.
    precision = right / (listed + np.spacing(1) if interpolation == "coco101" else np.maximum(listed, 1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if interpolation == "area":
        steps, total = right, np.maximum(objects, 1)
    else:
        # A point takes the precision of the first right detection whose recall reaches it; beyond the last recall it is 0.
        points = ELEVEN if interpolation == "11pt" else COCO_RECALLS
        steps, total = _reached(right, objects, points), len(points)
    area = (steps[:1] * envelope[:1]).sum(0) + np.einsum("ks,ks->s", np.diff(steps, axis=0), envelope[1:])
    return np.where(objects > 0, area / total, np.nan)


def _reached(right: np.ndarray, objects: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(K, S) how many of the recalls `points` are reached by right (K, S) of objects (S,), looked up in a table."""
    totals, place = np.unique(objects, return_inverse=True)
    most = int(right.max(initial=0)) + 1
    table = np.searchsorted(points, np.arange(most) / np.maximum(totals, 1)[:, None], side="right")
    values: np.ndarray = table.ravel()[(right + place * most).astype(np.int64)]
    return values
