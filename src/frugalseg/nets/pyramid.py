"""A backbone's maps at every stride, for a feature pyramid. Shape letters: B batch, D channels, H W image, h w map."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from frugalseg.nets import splitting
from frugalseg.nets.backbone import build


class Pyramid(nn.Module):
    """A backbone that gives the last map of each stride from `first` on, for a feature pyramid.

    name, stride: the backbone, and the stride of its last map. options: of `backbone.build`. strides, channels: of the maps.
    Raises ValueError for a backbone that gives its last map only, and what `backbone.build` raises.
    """

    def __init__(self, name: str, stride: int, first: int = 4, **options: Any) -> None:
        super().__init__()
        splitting.expect_a_row(name, "type --backbone resnet50, vgg16 or mobilenet_v2")
        self.trunk = build(name, stride, **options)
        layers, shapes = splitting.layers(self.trunk), splitting.shapes(self.trunk)
        ends = {stride: end for end, (_, stride) in enumerate(shapes, start=1) if stride >= first}  # the last of each stride
        self.strides, self.channels = list(ends), [shapes[end - 1][0] for end in ends.values()]
        self.stages = nn.ModuleList(nn.Sequential(*layers[start:end]) for start, end in pairwise([0, *ends.values()]))
        self.trunk.body = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) RGB in 0..255. Returns a map (B, D, h, w) for each of the strides."""
        features, maps = self.trunk(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps

    def train(self, mode: bool = True) -> Pyramid:
        """Set the mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        self.trunk.train(mode)  # knows the frozen modules, though they are in the stages now
        return self
