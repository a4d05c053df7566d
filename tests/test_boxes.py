"""Overlap and mirror images of boxes, by counting pixels and by torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_area, box_iou

from frugalseg import boxes

KINDS = [lambda rows: np.array(rows, np.float64), lambda rows: torch.tensor(rows, dtype=torch.float32)]


def drawn(count: int, seed: int) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 40
    sides = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 30
    return torch.cat([corners, corners + sides], 1)


def painted(box: list[int]) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@pytest.mark.parametrize("kind", KINDS)
def test_iou_of_whole_boxes_counts_their_pixels(kind) -> None:
    rows = [[0, 0, 4, 4], [2, 1, 6, 3], [4, 0, 5, 4], [0, 0, 4, 4], [9, 9, 10, 11]]
    expected = [[len(painted(a) & painted(b)) / len(painted(a) | painted(b)) for b in rows] for a in rows[:3]]
    assert np.allclose(boxes.iou(kind(rows[:3]), kind(rows)), expected)


def test_iou_is_torchvisions_to_the_bit() -> None:
    one, other = drawn(50, 0), drawn(70, 2)
    assert torch.equal(boxes.iou(one, other), box_iou(one, other))
    assert torch.equal(boxes.areas(one), box_area(one))
    assert np.allclose(boxes.iou(one.double().numpy(), other.double().numpy()), box_iou(one, other), atol=1e-5)
    assert boxes.iou(one[:0], other).shape == (0, 70)
    assert boxes.iou(one, other[:0]).shape == (50, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_mirrored_twice_is_the_same_box(kind) -> None:
    rows = kind([[1.0, 2.0, 5.0, 9.0], [0.0, 0.0, 40.0, 30.0]])
    turned = boxes.mirror(rows, 40)
    assert turned.tolist() == [[35.0, 2.0, 39.0, 9.0], [0.0, 0.0, 40.0, 30.0]]
    assert boxes.mirror(turned, 40).tolist() == rows.tolist()
    assert boxes.mirror(rows[:0], 40).shape == (0, 4)
