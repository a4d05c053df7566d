"""Mask R-CNN: the input of torchvision's network, batches, and settings of a trained one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from frugalseg.methods import maskrcnn
from frugalseg.recipes.maskrcnn import Config
from frugalseg.types import Sample

TINY = Config(
    backbone="tiny", frozen=0, stride=16, channels=8, width=8, mask_channels=4, proposals=20, rois=8, scale=32, longest=64
)


@pytest.mark.parametrize("size", [(4, 900), (900, 1), (3, 3)])
def test_a_strip_that_shrinks_to_nothing_is_learned_from_and_predicted(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, (height, width) = maskrcnn.build(TINY, ["strip"]), size
    box = torch.tensor([[0.0, 0.0, min(width, 60), min(height, 60)]])
    item = {
        "image": torch.full((3, *size), 99, dtype=torch.uint8),
        "boxes": box,
        "labels": torch.ones(1, dtype=torch.int64),
        "crops": [torch.ones(min(height, 60) + 2, min(width, 60) + 2, dtype=torch.bool)],
        "extents": box.long(),
    }
    losses = network(maskrcnn.collate([item], TINY.longest))
    assert all(value.isfinite() for value in losses.values())
    (prediction,) = network.predict([Sample("strip", item["image"])])
    assert prediction.size == size
    assert all(tuple(code["size"]) == size for code in prediction.instances.rles)


def test_images_that_are_thick_enough_stay_as_they_are() -> None:
    image = torch.rand(3, 40, 60)
    assert maskrcnn.thickened(image, 64) is image or torch.equal(maskrcnn.thickened(image, 64), image)
    assert maskrcnn.thickened(torch.rand(3, 2, 640), 64).shape == (3, 10, 640)


def network_of(**changes: Any) -> maskrcnn.MaskRCNN:
    torch.manual_seed(5)
    return maskrcnn.build(replace(TINY, **{"min_score": 0.0, **changes}), ["apple", "berry", "cherry"]).eval()


def images_of(*sizes: tuple[int, int]) -> list[Sample]:
    random = torch.Generator().manual_seed(7)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]
    return [Sample(str(number), image, torch.tensor([1.0, 1.0, 0.0])) for number, image in enumerate(images)]


@pytest.mark.parametrize("tags", ["predicted", "given"])
@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(tags: str) -> None:
    network, samples = network_of(), images_of((50, 60), (50, 60), (50, 60))
    items = [network.preprocess(sample, tags) for sample in samples]
    assert len({network.batch_key(item) for item in items}) == 1
    for one, other in zip(network.predict(samples, tags), network.predict_batch(items, samples, tags), strict=True):
        first, second = one.instances, other.instances
        assert len(first) > 0
        assert torch.equal(first.labels, second.labels)
        torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(first.boxes, second.boxes, atol=1e-2, rtol=1e-4)
        for index in range(len(first)):
            assert (first.mask(index) ^ second.mask(index)).sum() <= 1, "a pixel at the threshold"


@pytest.mark.parametrize("changes", [{"min_score": 0.27}, {"nms": 0.1}, {"detections": 3}, {"proposals": 4}, {"scale": 48}])
def test_settings_of_a_trained_network_are_those_of_one_built_with_them(changes: dict[str, Any]) -> None:
    network, (sample,) = network_of(scale=32), images_of((50, 60))
    before = network.predict([sample])[0].instances
    expected = network_of(**changes).predict([sample])[0].instances
    other = network.with_settings(**changes).predict([sample])[0].instances
    assert (other.rles, other.scores.tolist()) == (expected.rles, expected.scores.tolist())
    assert other.rles != before.rles
    assert network.predict([sample])[0].instances.rles == before.rles, "the network itself stays as it is"


def test_a_backbone_of_one_map_is_refused_with_advice_it_can_take() -> None:
    with pytest.raises(ValueError, match=r"got timm/vit_tiny_patch16_224, .*type --backbone resnet50") as raised:
        maskrcnn.build(replace(TINY, backbone="timm/vit_tiny_patch16_224"), ["apple"])
    assert "mask" not in str(raised.value), "there is no such option"
