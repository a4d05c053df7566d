"""CorLoc by hand: the best box of a class against its objects, and what does not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalseg.metrics.corloc import CorLoc, best_overlaps, overlap
from frugalseg.types import Instances


def found(*rows: tuple[float, ...]) -> Instances:
    values = torch.tensor(rows).reshape(-1, 6)
    return Instances(values[:, :4], values[:, 4].long(), values[:, 5])


def test_overlap_of_boxes_by_hand() -> None:
    others = np.array([[0.0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4]])
    assert overlap(np.array([0.0, 0, 4, 4]), others).tolist() == [1.0, pytest.approx(1 / 3), 0.0]


def test_the_most_confident_box_counts_and_meets_any_object_of_its_class() -> None:
    truth = Instances(
        torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14], [0, 0, 9, 9]]), torch.tensor([1, 1, 3]), crowd=torch.tensor([0, 0, 1]) > 0
    )
    good = found((10, 10, 14, 13, 1, 0.9), (0, 0, 4, 4, 1, 0.5), (0, 0, 4, 4, 2, 0.99))
    row, whole = best_overlaps(good, truth, 3, (16, 20))
    assert whole[0] == pytest.approx(16 / 320)
    assert row[0] == pytest.approx(0.75)
    assert np.isnan(row[1:]).all()  # class 2 is not shown, class 3 is a crowd
    assert best_overlaps(found(), truth, 3, (16, 20))[0, 0] == 0.0
    far = found((50, 50, 60, 60, 1, 0.9), (0, 0, 4, 4, 1, 0.5))
    assert best_overlaps(far, truth, 3, (16, 20))[0, 0] == 0.0


def test_the_score_is_the_mean_over_classes_of_shares_of_pictures_and_survives_json() -> None:
    scores = CorLoc(("a", "b", "c"), "data", "val")
    one, two = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9]])
    scores.update("x", found((0, 0, 4, 4, 1, 0.5)), Instances(one, torch.tensor([1])), (5, 5))
    scores.update("y", found((5, 0, 9, 4, 1, 0.5), (5, 5, 9, 9, 2, 0.1)), Instances(two, torch.tensor([1, 2])), (9, 9))
    assert scores.value == pytest.approx((0.5 + 1.0) / 2)
    assert scores.per_class["a"] == 0.5
    assert np.isnan(scores.per_class["c"])
    assert scores.baselines == {"the whole picture as the box of every class": 0.25}  # 16 of 25 pixels, 16 of 81, 16 of 81
    again = CorLoc.from_json(scores.to_json(samples=10))
    assert (again.value, again.baselines) == (scores.value, scores.baselines)
    assert again.protocol == scores.protocol == "corloc|boxes|iou>0.5|data|val|n=2"
    assert "75.00" in str(scores)
    with pytest.raises(ValueError, match="no JSON of CorLoc"):
        CorLoc.from_json({})


def test_an_overlap_of_exactly_one_half_is_no_hit() -> None:
    truth = Instances(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([1]))
    for height, hit in ((2, 0.0), (3, 1.0)):
        scores = CorLoc(("a",))
        scores.update("x", found((0, 0, 4, height, 1, 0.5)), truth, (8, 8))
        assert scores.value == hit
