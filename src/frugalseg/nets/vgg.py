"""VGG-16 as DeepLab has it, and as it was published (Simonyan and Zisserman, ICLR 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from frugalseg.nets import resnet_ws
from frugalseg.nets.blocks import Block


def vgg16(pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(3, stride=2, padding=1)) -> list[Block]:
    """VGG-16 with DeepLab's 3×3 pools, or others.

    DeepLab's round down where Caffe's round up: the same on DeepLab's crops of 321 = 32·10 + 1 pixels, and on even sizes without
    Caffe's extra row, which lies half outside the image and would break the rule H / stride.
    """
    blocks, channels, index = [], 3, 0
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        block: Block = {}
        for _ in range(depth):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, convolution.bias))
            block |= {f"features.{index}": convolution, f"features.{index + 1}": nn.ReLU(inplace=True)}
            channels, index = width, index + 2
        block[f"features.{index}"] = pool()
        blocks.append(block)
        index += 1
    return blocks


def vgg16_plain() -> list[Block]:
    """VGG-16 as published and as its ImageNet weights know it: pools of 2×2, without the last, whose place RoI pooling takes."""
    blocks = vgg16(resnet_ws.Pool)
    blocks[-1].popitem()
    return blocks
