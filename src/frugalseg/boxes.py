"""Boxes as rows (x1, y1, x2, y2) in pixels, right and bottom exclusive: their overlap, and their mirror images.

The functions take numpy's arrays and torch's tensors alike, and importing them loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Boxes = TypeVar("Boxes", np.ndarray, "Tensor")


def areas(boxes: Boxes) -> Boxes:
    """(N,) areas of boxes (N, 4), in square pixels."""
    products: Boxes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return products


def iou(boxes: Boxes, others: Boxes) -> Boxes:
    """(N, M) intersection over union of boxes (N, 4) and others (M, 4); NaN for two boxes without area.

    Bit-equal to torchvision's `box_iou` for float tensors.
    """
    library: Any = np
    if not isinstance(boxes, np.ndarray):
        import torch as library
    starts = library.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (library.minimum(boxes[:, None, 2:], others[None, :, 2:]) - starts).clip(0)
    shared: Boxes = sides[..., 0] * sides[..., 1]
    shares: Boxes = shared / (areas(boxes)[:, None] + areas(others) - shared)
    return shares


def iou_with_crowds(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(N, M) as `iou`; over the area of the first where the second is a crowd, (M,) bool, as COCO's evaluation has it."""
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - starts).clip(0)
    shared, first = sides[..., 0] * sides[..., 1], areas(boxes)[:, None]
    shares: np.ndarray = shared / np.where(crowd, first, first + areas(others) - shared)
    return shares


def mirror(boxes: Boxes, width: float) -> Boxes:
    """Boxes (N, 4) of an image of that width, turned left to right with it."""
    turned = boxes[:, [2, 1, 0, 3]]
    turned[:, [0, 2]] = width - turned[:, [0, 2]]
    return turned
