"""Prototypes against slow, obvious means, and what happens without a pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.nets.prototypes import class_weights, pooling_weights, support_prototypes
from frugalseg.types import IGNORE


@pytest.mark.parametrize(("size", "extent"), [((5, 7), (33, 49)), ((4, 4), (25, 25)), ((1, 3), (9, 17)), ((6, 5), (6, 5))])
def test_pooling_by_weights_equals_pooling_of_upsampled_features(size: tuple[int, int], extent: tuple[int, int]) -> None:
    maps = torch.randn(2, 8, *size, dtype=torch.float64)
    masks = torch.rand(2, *extent) < 0.3
    large = F.interpolate(maps, extent, mode="bilinear", align_corners=True)
    expected = torch.stack([large[b][:, masks[b]].mean(1) for b in range(2)])
    weights = pooling_weights(masks, size).double()
    assert weights.sum(1) == pytest.approx(masks.flatten(1).sum(1).double())
    pooled = weights[:, None] @ maps.flatten(2).mT / weights.sum(1)[:, None, None]
    torch.testing.assert_close(pooled[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_an_object_of_one_pixel_still_has_a_prototype() -> None:
    masks = torch.zeros(1, 65, 65, dtype=torch.int64)
    masks[0, 30, 30] = 1
    weights = class_weights(masks, (3, 3))  # no point of the 3 × 3 map lies on it
    assert weights[0, 1].sum() == pytest.approx(1.0)
    assert weights[0].sum() == pytest.approx(65 * 65)


def test_void_pixels_are_neither_object_nor_background() -> None:
    masks = torch.tensor([[[0, 1, IGNORE]]])
    torch.testing.assert_close(class_weights(masks, (1, 3)), torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]))


def test_support_prototypes_are_means_over_shots_and_the_background_also_over_ways() -> None:
    maps, weights = torch.randn(1, 2, 3, 6, 4), torch.rand(1, 2, 3, 2, 6)
    found, shown = support_prototypes(maps, weights)
    assert shown.tolist() == [[True] * 3]

    def mean(way: int, shot: int, part: int) -> Tensor:
        weight = weights[0, way, shot, part]
        return (weight[:, None] * maps[0, way, shot]).sum(0) / weight.sum()

    background = torch.stack([mean(way, shot, 0) for way in range(2) for shot in range(3)]).mean(0)
    ways = [torch.stack([mean(way, shot, 1) for shot in range(3)]).mean(0) for way in range(2)]
    torch.testing.assert_close(found[0], torch.stack([background, *ways]), rtol=1e-4, atol=1e-4)


def test_order_of_the_references_changes_nothing() -> None:
    maps, weights = torch.randn(2, 1, 5, 6, 4), torch.rand(2, 1, 5, 2, 6)
    order = torch.randperm(5)
    for one, other in zip(
        support_prototypes(maps, weights), support_prototypes(maps[:, :, order], weights[:, :, order]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_shot_without_the_class_leaves_the_mean_to_the_others() -> None:
    maps, weights = torch.randn(1, 1, 2, 6, 4), torch.rand(1, 1, 2, 2, 6)
    weights[0, 0, 1, 1] = 0
    found, shown = support_prototypes(maps, weights)
    alone, _ = support_prototypes(maps[:, :, :1], weights[:, :, :1])
    assert shown.all()
    torch.testing.assert_close(found[:, 1], alone[:, 1])
