"""Regions of interest against torchvision, against loops over pixels, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from frugalseg.data.detection import crop_mask
from frugalseg.nets import roi


def random_boxes(count: int, height: float, width: float) -> Tensor:
    start = torch.rand(count, 2) * torch.tensor([width, height])
    return torch.cat([start, start + torch.rand(count, 2) * torch.tensor([width, height]) / 2 + 0.5], 1)


def random_rois(count: int, images: int, height: float, width: float) -> Tensor:
    return torch.cat([torch.randint(images, (count, 1)).float(), random_boxes(count, height, width)], 1)


# -- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 5, 7])
@pytest.mark.parametrize("align", [roi.align, roi.align_by_axes])
def test_align_equals_torchvision_and_so_does_its_gradient(align: Any, size: int, sampling: int) -> None:
    """Boxes that leave the map included."""
    features = torch.randn(2, 6, 9, 13, requires_grad=True)
    regions = random_rois(30, 2, 9, 13) - torch.tensor([0, 1.5, 1.5, 0, 0])
    own, peer = align(features, regions, size, sampling), roi_align(features, regions, size, 1.0, sampling, aligned=True)
    torch.testing.assert_close(own, peer)
    weights = torch.randn_like(peer)
    torch.testing.assert_close(*(torch.autograd.grad((out * weights).sum(), features)[0] for out in (own, peer)))
    assert align(features, regions[:0], size, sampling).shape == (0, 6, size, size)


@pytest.mark.parametrize("stride", [1, 8, 16])
def test_pooled_features_lie_where_their_box_does(stride: int) -> None:
    """A map that holds its own pixel positions gives the centres of the box's cells."""
    points = torch.arange(12.0) * stride + 0.5  # point i lies in the middle of pixel i · stride
    features = torch.stack([points.expand(12, 12), points[:, None].expand(12, 12)])[None]
    box = torch.tensor([2.0, 3.0, 7.0, 8.0]) * stride
    found = roi.pool(features, torch.cat([torch.zeros(1), box])[None], 5, stride)[0]
    steps = (torch.arange(5) + 0.5) * stride
    torch.testing.assert_close(found[0], (box[0] + steps).expand(5, 5))
    torch.testing.assert_close(found[1], (box[1] + steps)[:, None].expand(5, 5))


def test_max_pooling_is_fast_rcnns() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    found = roi.pool(features, torch.tensor([[0.0, 0.0, 0.0, 24.0, 24.0]]), 2, 8, kind="max")
    assert found.flatten().tolist() == [5, 7, 13, 15], "both ends of a rounded box lie inside it"


@pytest.mark.parametrize("kind", ["align", "max"])
def test_no_box_gives_no_features_and_a_zero_gradient(kind: str) -> None:
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    found = roi.pool(features, torch.zeros(0, 5), 7, 8, kind=kind)
    assert found.shape == (0, 3, 7, 7)
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert torch.equal(gradient, torch.zeros_like(features))


def test_rois_say_which_image_their_box_is_in() -> None:
    boxes = [random_boxes(2, 9, 9), torch.zeros(0, 4), random_boxes(1, 9, 9)]
    regions = roi.rois(boxes)
    assert regions[:, 0].tolist() == [0, 0, 2]
    assert torch.equal(regions[:, 1:], torch.cat(boxes))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_chunks_give_what_the_whole_gives(count: int) -> None:
    features, regions = torch.randn(2, 4, 9, 9), random_rois(count, 2, 9, 9)

    def work(part: Tensor) -> tuple[Tensor, Tensor]:
        return roi.pool(features, part, 5, 1), part[:, 1:]

    for found, whole in zip(roi.in_chunks(work, regions, 4), work(regions), strict=True):
        assert torch.equal(found, whole)


# -- masks -----------------------------------------------------------------------------------------------------------


def target_by_hand(mask: Tensor, box: list[float], size: int) -> Tensor:
    """Mean of 2 × 2 bilinear samples a cell of the whole mask, zero outside, cut at 0.5."""
    left, top, right, bottom = box
    target = torch.zeros(size, size, dtype=torch.int64)

    def at(y: float, x: float) -> float:
        row, column, total = math.floor(y - 0.5), math.floor(x - 0.5), 0.0
        for i, j in ((row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)):
            if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]:
                total += float(mask[i, j]) * (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j))
        return total

    for i in range(size):
        for j in range(size):
            ys = [top + (i + k) * (bottom - top) / size for k in (0.25, 0.75)]
            xs = [left + (j + k) * (right - left) / size for k in (0.25, 0.75)]
            target[i, j] = sum(at(y, x) for y in ys for x in xs) / 4 >= 0.5
    return target


def test_mask_targets_equal_sampling_the_whole_mask() -> None:
    masks = torch.zeros(2, 20, 24, dtype=torch.bool)
    masks[0, 3:11, 5:18] = True
    masks[0, 5:7, 9:12] = False
    masks[1, 15:20, 0:6] = torch.rand(5, 6) > 0.4
    masks[1, 15, 0] = masks[1, 19, 5] = True
    truth = torch.tensor([[5.0, 3.0, 18.0, 11.0], [0.0, 15.0, 6.0, 20.0]])
    boxes = torch.tensor([[5.0, 3.0, 18.0, 11.0], [2.3, 0.7, 14.1, 19.2], [0.0, 12.5, 9.9, 20.0], [18.0, 0.0, 24.0, 5.0]])
    index = [0, 0, 1, 1]
    crops = [crop_mask(mask, box) for mask, box in zip(masks, truth, strict=True)]
    found = roi.mask_targets([crops[i] for i in index], truth[index], boxes, 10)
    for target, i, box in zip(found, index, boxes.tolist(), strict=True):
        assert torch.equal(target, target_by_hand(masks[i], box, 10))
    assert not found[3].any()
    assert found[0].any()


def test_a_mask_of_one_pixel_fills_its_box() -> None:
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 4, 7] = True
    truth = torch.tensor([[7.0, 4.0, 8.0, 5.0]])
    own = crop_mask(masks[0], truth[0])
    assert own.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    middle = roi.mask_targets([own], truth, truth, 8)[0][2:6, 2:6]
    assert middle.all()


def test_a_cut_mask_takes_the_memory_of_its_box() -> None:
    own = crop_mask(torch.zeros(400, 400, dtype=torch.bool), torch.tensor([10.0, 10.0, 20.0, 20.0]))
    assert own.untyped_storage().nbytes() == 12 * 12


# -- boxes -----------------------------------------------------------------------------------------------------------


def test_decoding_undoes_encoding() -> None:
    boxes, targets = random_boxes(50, 90, 120), random_boxes(50, 90, 120)
    targets = roi.clip(targets, torch.tensor([[90, 120]]).expand(50, 2))
    sizes = torch.tensor([[90, 120]]).expand(50, 2)
    torch.testing.assert_close(roi.decode(boxes, roi.encode(boxes, targets), sizes), targets, atol=1e-3, rtol=0)


def test_offsets_by_hand() -> None:
    box, target = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 20.0]])
    offsets = roi.encode(box, target, std=(1, 1, 1, 1))
    torch.testing.assert_close(offsets, torch.tensor([[1.0, 0.0, math.log(2), 0.0]]))
    torch.testing.assert_close(roi.encode(box, target), offsets / torch.tensor([0.1, 0.1, 0.2, 0.2]))


def test_no_offset_makes_a_box_leave_the_image_vanish_or_explode() -> None:
    sizes = torch.tensor([[30, 40]]).expand(200, 2)
    boxes = roi.decode(random_boxes(200, 30, 40), torch.randn(200, 4) * 100, sizes)
    assert boxes.isfinite().all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([40.0, 30.0])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    grown = roi.decode(torch.tensor([[50.0, 50.0, 51.0, 51.0]]), torch.full((1, 4), 1e9), torch.tensor([[10**6, 10**6]]))
    assert (grown[:, 2:] - grown[:, :2] <= 63).all(), "at most 1000 / 16 times larger"


def test_a_box_is_matched_with_the_object_it_overlaps_most() -> None:
    boxes, truth = random_boxes(40, 30, 30), random_boxes(7, 30, 30)
    index, overlap = roi.match(boxes, truth)
    table = box_iou(boxes, truth)
    for i in range(40):
        assert table[i, index[i]] == max(table[i]) == overlap[i]


def test_without_objects_everything_is_background() -> None:
    index, overlap = roi.match(random_boxes(3, 9, 9), torch.zeros(0, 4))
    assert overlap.tolist() == [0, 0, 0]
    foreground, background = roi.sample(overlap, 64, 0.25)
    assert len(foreground) == 0
    assert sorted(background.tolist()) == [0, 1, 2]
    assert index.tolist() == [0, 0, 0]


def test_sampling_takes_a_quarter_of_objects_and_fills_up_with_background() -> None:
    overlaps = torch.rand(500)
    foreground, background = roi.sample(overlaps, 64, 0.25)
    assert len(foreground) == 16
    assert len(background) == 48
    assert (overlaps[foreground] >= 0.5).all()
    assert (overlaps[background] < 0.5).all()
    assert len(set(foreground.tolist() + background.tolist())) == 64
    few, rest = roi.sample(torch.tensor([0.5, 0.9] + [0.1] * 100), 64, 0.25)
    assert sorted(few.tolist()) == [0, 1], "exactly 0.5 is an object"
    assert len(rest) == 62
    _, above = roi.sample(overlaps, 64, 0.25, lowest=0.1)
    assert (overlaps[above] >= 0.1).all()


def test_the_same_seed_draws_the_same_sample() -> None:
    overlaps = torch.rand(500)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.cat(roi.sample(overlaps, 64, 0.25)).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_nms_keeps_the_best_of_a_class_and_leaves_other_classes_alone() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [1.0, 0.0, 11.0, 10.0], [30.0, 0.0, 40.0, 10.0]])
    scores, labels = torch.tensor([0.5, 0.9, 0.4, 0.3]), torch.tensor([1, 1, 2, 1])
    assert roi.nms(boxes, scores, labels, 0.3, 100).tolist() == [1, 2, 3]
    assert roi.nms(boxes, scores, labels, 0.3, 2).tolist() == [1, 2]
