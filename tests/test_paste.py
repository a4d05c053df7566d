"""Pasted masks equal a slow paste of the whole image, pixel by pixel; memory does not grow with the number of objects."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from frugalseg import rle
from frugalseg.nets import paste as module
from frugalseg.nets.paste import paste


def slowly(mask: torch.Tensor, box: list[float], size: tuple[int, int]) -> torch.Tensor:
    """grid_sample at every pixel centre of the image."""
    x1, y1, x2, y2 = box
    x = (torch.arange(size[1]).double() + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(size[0]).double() + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    return F.grid_sample(mask.double()[None, None], grid[None], align_corners=False)[0, 0]


@pytest.mark.parametrize("strip", [7, 2**22])
def test_paste_equals_sampling_every_pixel_of_the_image(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIP", strip)
    size, masks = (23, 31), torch.rand(40, 5, 7)
    boxes = torch.rand(40, 4) * torch.tensor([30.0, 22, 30, 22]) - 4
    boxes[:, 2:] = boxes[:, :2] + torch.rand(40, 2) * 30 + 0.3
    for mask, box, code in zip(masks, boxes, paste(masks, boxes, size, 0.4), strict=True):
        values = slowly(mask, box.tolist(), size)
        clear = (values - 0.4).abs() > 1e-5  # float32 against float64
        assert torch.equal(torch.from_numpy(rle.decode([code], size)[0])[clear], (values >= 0.4)[clear])


def test_a_full_mask_fills_its_box_and_no_pixel_more() -> None:
    (code,) = paste(torch.ones(1, 4, 4), torch.tensor([[2.0, 3, 9, 8]]), (12, 10))
    expected = np.zeros((12, 10), bool)
    expected[3:8, 2:9] = True
    assert np.array_equal(rle.decode([code], (12, 10))[0], expected)


def test_boxes_outside_or_without_extent_give_empty_masks() -> None:
    boxes = torch.tensor([[50.0, 50, 60, 60], [3, 3, 3, 8], [8, 8, 3, 3], [-1e9, -1e9, -1e8, -1e8]])
    assert rle.areas(paste(torch.ones(4, 3, 3), boxes, (20, 20))).tolist() == [0] * 4
    assert paste(torch.ones(0, 3, 3), torch.zeros(0, 4), (20, 20)) == []


def test_a_giant_box_covers_the_image() -> None:
    assert rle.areas(paste(torch.ones(1, 3, 3), torch.tensor([[-1e7, -1e7, 1e7, 1e7]]), (20, 30))).tolist() == [600]


def test_faults_are_named() -> None:
    with pytest.raises(ValueError, match="finite"):
        paste(torch.ones(1, 3, 3), torch.tensor([[0, 0, float("nan"), 1]]), (5, 5))
    with pytest.raises(ValueError, match="threshold"):
        paste(torch.ones(1, 3, 3), torch.zeros(1, 4), (5, 5), 0.0)
    with pytest.raises(ValueError, match=r"\(R, h, w\)"):
        paste(torch.ones(3, 3), torch.zeros(1, 4), (5, 5))


def test_thousands_of_objects_on_a_large_photo_stay_small() -> None:
    corners = torch.rand(2000, 2) * torch.tensor([3900.0, 2900.0])
    boxes = torch.cat([corners, corners + 40], 1)
    masks = torch.rand(1, 14, 14).expand(2000, -1, -1)
    tracemalloc.start()
    codes = paste(masks, boxes, (3000, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(codes) == 2000
    assert peak < 30e6
