"""Best overlaps and panoptic quality against hand cases and slow counting."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from frugalseg import rle
from frugalseg.metrics.panoptic import PanopticScores
from frugalseg.metrics.regions import RegionScores, best_overlap
from tests.test_instances import compact, strip


def test_best_overlaps_of_boxes_equal_torchvisions() -> None:
    corners = torch.rand(60, 2) * 50
    boxes = torch.cat([corners, corners + torch.rand(60, 2) * 30 + 1], 1)
    assert best_overlap(boxes[:50], boxes[50:]) == pytest.approx(box_iou(boxes[:50], boxes[50:]).amax(0).numpy(), abs=1e-5)
    assert best_overlap(torch.zeros(0, 4), boxes[50:]).tolist() == [0] * 10


def abo() -> RegionScores:
    """Two objects of class a (overlaps 1, .5) in the first image, one of b (0) in the second, none in the third."""
    scores = RegionScores(["a", "b"])
    scores.update("1", torch.tensor([[0.0, 0, 4, 4], [10, 10, 12, 14]]), torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14]]), [1, 1])
    scores.update("2", torch.zeros(0, 4), torch.tensor([[0.0, 0, 4, 4]]), [2])
    scores.update("3", torch.tensor([[0.0, 0, 4, 4]]), torch.zeros(0, 4), [])
    return scores


def test_three_averages() -> None:
    assert abo().values == {"images": 0.375, "objects": 0.5, "classes": 0.375}
    assert abo().recall == {0.5: 2 / 3, 0.7: 1 / 3}
    assert abo().per_class == {"a": 0.75, "b": 0.0}
    assert RegionScores.from_json(json.loads(json.dumps(abo().to_json(50)))).values == abo().values
    assert "proposals per image" in str(abo())


@pytest.mark.parametrize("average", ["images", "objects", "classes"])
def test_weights_are_as_good_as_images_given_many_times(average: str) -> None:
    scores, repeated = RegionScores(["a", "b"], average=average), RegionScores(["a", "b"], average=average)  # type: ignore[arg-type]
    scores.rows = abo().rows
    for name, row in scores.rows.items():
        for copy in range(int(name)):
            repeated.rows[name + str(copy)] = row
    assert scores.score(np.array([[1, 2, 3]]))[0] == pytest.approx(repeated.value)


def test_masks_are_regions_too() -> None:
    proposals = [rle.encode(mask) for mask in strip((0, 10), (5, 15))]
    assert best_overlap(proposals, [rle.encode(strip((0, 8))[0])]).tolist() == [0.8]
    with pytest.raises(ValueError, match="got labels"):
        RegionScores(["a"]).update("x", proposals, proposals, [1, 2])


# -- panoptic quality --


def test_panoptic_quality_by_hand() -> None:
    """Overlap 8/10, one object missed, one detection of nothing: .8 / (1 + .5 + .5)."""
    scores = PanopticScores(["a"])
    scores.update("x", compact(strip((0, 8), (17, 20)), [1, 1], [0.9, 0.8]), compact(strip((0, 10), (11, 16)), [1, 1]))
    assert scores.value == pytest.approx(0.4)
    assert PanopticScores.from_json(json.loads(json.dumps(scores.to_json(50)))).value == pytest.approx(0.4)
    assert "recognition" in str(scores)


def test_a_pixel_belongs_to_the_surest_object_alone() -> None:
    scores = PanopticScores(["a"])
    truth = compact(strip((0, 10), (10, 16)), [1, 1])
    scores.update("x", compact(strip((8, 16), (0, 10), (0, 20)), [1, 1, 1], [0.7, 0.9, 0.6]), truth)
    # (0, 10) whole; of (8, 16) remains (10, 16); of (0, 20) remains (16, 20), which is wrong
    assert scores.rows["x"][:, 0].tolist() == [2, 2, 1, 0]


def test_what_nobody_judged_is_neither_right_nor_wrong() -> None:
    void = rle.encode(strip((10, 20))[0])
    scores = PanopticScores(["a"])
    scores.update("grown", compact(strip((0, 14)), [1], [0.9]), compact(strip((0, 10)), [1]), void)
    assert scores.rows["grown"][:, 0].tolist() == [1, 1, 0, 0]
    scores.update("lost", compact(strip((9, 14)), [1], [0.9]), compact(strip((0, 5)), [1]), void)
    assert scores.rows["lost"][:, 0].tolist() == [0, 0, 0, 1]
    scores.update("crowd", compact(strip((9, 14)), [1], [0.9]), compact(strip((8, 20)), [1], crowd=[True]))
    assert scores.rows["crowd"][:, 0].tolist() == [0, 0, 0, 0]
    scores.update("unsure", compact(strip((9, 14)), [1], [0.4]), compact(strip((9, 14)), [1]))
    assert scores.rows["unsure"][:, 0].tolist() == [0, 0, 0, 1]


def test_complement() -> None:
    random = np.random.default_rng(0)
    for mask in random.random((20, 5, 6)) < random.random((20, 1, 1)):
        assert rle.complement(rle.encode(mask)) == rle.encode(~mask)
    assert rle.complement(rle.encode(np.ones((2, 3), bool))) == rle.encode(np.zeros((2, 3), bool))
