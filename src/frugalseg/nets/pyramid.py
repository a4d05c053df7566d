"""A backbone's maps at every stride, for a feature pyramid. Shape letters: B batch, D channels, H W image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from frugalseg.nets.backbone import build
from frugalseg.nets.two_stride import PROBE, _layers, _shapes


class Pyramid(nn.Module):
    """A backbone that gives its last map at each stride from `first` on, for a feature pyramid.

    name, stride: the backbone, and the stride of its last map. options: of `backbone.build`. strides, channels: of the maps.
    """

    def __init__(self, name: str, stride: int, first: int = 4, **options: Any) -> None:
        super().__init__()
        self.trunk = build(name, stride, **options)
        layers, shapes = _layers(self.trunk), _shapes(self.trunk)
        ends = [i + 1 for i, (_, side) in enumerate(shapes) if i + 1 == len(shapes) or shapes[i + 1][1] < side]
        ends = [end for end in ends if PROBE // shapes[end - 1][1] >= first]
        self.strides = [PROBE // shapes[end - 1][1] for end in ends]
        self.channels = [shapes[end - 1][0] for end in ends]
        starts = [0, *ends[:-1]]
        self.stages = nn.ModuleList(nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True))
        self.trunk.body = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) RGB in 0..255. Returns a map (B, D, …) for each of the strides."""
        features, maps = self.trunk(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps

    def train(self, mode: bool = True) -> Pyramid:
        """Set the mode; what is frozen in the trunk stays in evaluation mode."""
        super().train(mode)
        self.trunk.train(mode)  # puts the frozen modules back to evaluation
        return self
