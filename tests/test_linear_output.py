"""Feature networks without their last ReLU."""

from __future__ import annotations

import torch
from torchvision.models.resnet import BasicBlock, Bottleneck

from frugalseg.nets import tiny
from frugalseg.nets.linear_output import remove_last_relu


def test_without_the_last_relu_a_block_is_otherwise_the_same() -> None:
    for build in (lambda: Bottleneck(64, 16), lambda: BasicBlock(16, 16), lambda: tiny.Residual(16, 16, 1)):
        block = build().eval()
        maps = torch.randn(2, next(block.parameters()).shape[1], 6, 6)
        expected, names = block(maps), [*block.state_dict()]
        body = torch.nn.Sequential(block)
        remove_last_relu(body)
        torch.testing.assert_close(body(maps).relu(), expected)
        assert (body(maps) < 0).any()
        assert [*body[0].state_dict()] == names
