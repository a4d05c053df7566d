"""A backbone of two strides, and a pyramid, against the whole networks they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from frugalseg.nets.backbone import build
from frugalseg.nets.pyramid import Pyramid
from frugalseg.nets.two_stride import TwoStrideBackbone


def names(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]


def test_vgg16_splits_after_conv4_without_its_last_two_pools() -> None:
    backbone = TwoStrideBackbone("vgg16", 16, 8, "dilated")
    assert names(backbone.trunk).count("Conv2d") == 10, "conv1_1 to conv4_3"
    assert names(backbone.coarse) == ["MaxPool2d", "Conv2d", "Conv2d", "Conv2d"], "pool4 and conv5"
    assert names(backbone.fine) == ["Conv2d", "Conv2d", "Conv2d"], "conv5 alone"
    assert [layer.dilation for layer in backbone.fine if isinstance(layer, nn.Conv2d)] == [(2, 2)] * 3
    coarse, fine = backbone.eval()(torch.rand(1, 3, 64, 80) * 255)
    assert coarse.shape == (1, 512, 4, 5)
    assert fine.shape == (1, 512, 8, 10)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_both_maps_are_those_of_whole_networks_with_the_same_weights(name: str) -> None:
    images = torch.rand(1, 3, 64, 72) * 255
    torch.manual_seed(3)
    backbone = TwoStrideBackbone(name, 16, 8, "dilated").eval()
    torch.manual_seed(3)
    coarse, fine = build(name, 16).eval(), build(name, 8).eval()
    found_coarse, found_fine = backbone(images)
    torch.testing.assert_close(found_coarse, coarse(images))
    # The fine network's leading layers are the shared ones: give them the trunk's weights.
    count = len(list(backbone.trunk.body.parameters()))
    for own, first in zip(list(fine.body.parameters())[:count], backbone.trunk.body.parameters(), strict=True):
        own.data.copy_(first)
    torch.testing.assert_close(found_fine, fine(images))


def test_weights_fill_both_tails(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(build("tiny", 16).body.state_dict(), path)
    backbone = TwoStrideBackbone("tiny", 16, 8, "dilated", weights=path)
    for own, other in zip(backbone.coarse.parameters(), backbone.fine.parameters(), strict=True):
        assert torch.equal(own, other)
    assert backbone.report is not None


def test_kinds_of_fine_map() -> None:
    images = torch.rand(1, 3, 64, 64) * 255
    coarse, fine = TwoStrideBackbone("tiny", 16, 8, "same").eval()(images)
    assert fine is coarse
    backbone = TwoStrideBackbone("tiny", 16, 8, "shared").eval()
    coarse, fine = backbone(images)
    assert fine.shape == (1, backbone.fine_channels, 8, 8)
    assert coarse.shape == (1, backbone.channels, 4, 4)
    assert torch.equal(backbone.trunk(images), fine)


def test_frozen_layers_stay_frozen_in_both_tails() -> None:
    backbone = TwoStrideBackbone("tiny", 16, 8, "dilated", frozen=5, freeze_norm=True).train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    free = TwoStrideBackbone("tiny", 16, 8, "dilated").train()
    assert all(module.training for module in free.modules() if isinstance(module, nn.BatchNorm2d))


def test_no_tensor_is_kept_twice() -> None:
    backbone = TwoStrideBackbone("tiny", 16, 8, "dilated")
    pointers = [value.data_ptr() for value in backbone.state_dict().values() if value.numel()]
    assert len(set(pointers)) == len(pointers)


def test_strides_without_a_split_and_networks_that_move_their_maps_are_refused() -> None:
    for name in ("vgg16_plain", "resnet18_ws"):
        with pytest.raises(ValueError, match=f"got {name}, whose pools move its maps"):
            TwoStrideBackbone(name, 16, 8, "same")
    with pytest.raises(ValueError, match="stride 8 before"):
        TwoStrideBackbone("tiny", 8, 8, "dilated")


def test_networks_of_one_map_are_refused_with_advice_that_their_method_can_take() -> None:
    with pytest.raises(ValueError, match=r"got timm/convnext_atto, .*type --mask-features same.* or --backbone resnet50"):
        TwoStrideBackbone("timm/convnext_atto", 16, 8, "shared")
    with pytest.raises(ValueError, match=r"got timm/vit_tiny_patch16_224, .*type --backbone resnet50") as raised:
        Pyramid("timm/vit_tiny_patch16_224", 16)
    assert "mask" not in str(raised.value), "Mask R-CNN has no option for it"


@pytest.mark.parametrize(("name", "strides"), [("tiny", [4, 8, 16]), ("resnet18", [4, 8, 16]), ("vgg16", [4, 8, 16])])
def test_a_pyramid_gives_the_last_map_of_each_stride(name: str, strides: list[int]) -> None:
    images = torch.rand(1, 3, 64, 64) * 255
    torch.manual_seed(3)
    pyramid = Pyramid(name, 16).eval()
    torch.manual_seed(3)
    whole = build(name, 16).eval()
    maps = pyramid(images)
    assert pyramid.strides == strides
    assert [features.shape[1:] for features in maps] == [
        (channels, 64 // stride, 64 // stride) for channels, stride in zip(pyramid.channels, strides, strict=True)
    ]
    torch.testing.assert_close(maps[-1], whole(images))
