"""A residual network of 0.5 M parameters, for training from scratch on two cores."""

from __future__ import annotations

from torch import Tensor, nn

from frugalseg.nets.blocks import Block


def tiny() -> list[Block]:
    """A stem and four residual stages with random weights: 128 channels at stride 16."""
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
    blocks: list[Block] = [{"stem": stem}]
    for stage, (width_in, width, stride) in enumerate(((32, 32, 2), (32, 64, 2), (64, 96, 2), (96, 128, 1)), start=1):
        blocks.append({f"stage{stage}": Residual(width_in, width, stride)})
    return blocks


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al., CVPR 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(features)))
        output: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.shortcut(features))
        return output
