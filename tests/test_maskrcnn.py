"""Mask R-CNN: what torchvision's network is fed with."""

from __future__ import annotations

import pytest
import torch

from frugalseg.methods import maskrcnn
from frugalseg.recipes.maskrcnn import Config
from frugalseg.types import Sample


@pytest.mark.parametrize("size", [(4, 900), (900, 1), (3, 3)])
def test_a_strip_that_shrinks_to_nothing_is_learned_from_and_predicted(size: tuple[int, int]) -> None:
    config = Config(
        backbone="tiny", frozen=0, stride=16, channels=8, width=8, mask_channels=4, proposals=20, rois=8, scale=32, longest=64
    )
    torch.manual_seed(0)
    network, (height, width) = maskrcnn.Detector(config, ["strip"]), size
    box = torch.tensor([[0.0, 0.0, min(width, 60), min(height, 60)]])
    item = {
        "image": torch.full((3, *size), 99, dtype=torch.uint8),
        "boxes": box,
        "labels": torch.ones(1, dtype=torch.int64),
        "cuts": [torch.ones(min(height, 60) + 2, min(width, 60) + 2, dtype=torch.bool)],
        "corners": box.long(),
    }
    losses = network(maskrcnn.stack([item], config.longest))
    assert all(value.isfinite() for value in losses.values())
    (prediction,) = network.predict([Sample("strip", item["image"])])
    assert prediction.size == size
    assert all(tuple(code["size"]) == size for code in prediction.instances.rles)


def test_pictures_that_are_thick_enough_stay_as_they_are() -> None:
    image = torch.rand(3, 40, 60)
    assert maskrcnn.thick(image, 64) is image or torch.equal(maskrcnn.thick(image, 64), image)
    assert maskrcnn.thick(torch.rand(3, 2, 640), 64).shape == (3, 10, 640)
