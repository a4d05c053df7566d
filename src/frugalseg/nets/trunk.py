"""The part that networks of class maps share: backbone, joined blocks, head, and prediction at several scales.

Shape letters: B batch, C maps, D channels, H W image, h w feature map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frugalseg.nets import backbone
from frugalseg.nets.multi_scale import MultiScale
from frugalseg.nets.network import Network, Tensors
from frugalseg.types import Sample

Head = Callable[[int], tuple[nn.Module, int]]  # channels of a map -> layers on it, and the channels that come out


def joined_channels(net: backbone.Backbone, levels: Sequence[int]) -> int:
    """Channels of the joined maps of these blocks, or of the last map. Raises ValueError for maps of different strides."""
    if not levels:
        return net.channels
    shapes = net.shapes(levels)
    if any(stride != net.stride for _, stride in shapes):
        got = ", ".join(f"block {level} at {stride}" for level, (_, stride) in zip(levels, shapes, strict=True))
        raise ValueError(f"levels: got {got} pixels per cell; expected blocks at output_stride={net.stride}")
    return sum(channels for channels, _ in shapes)


def standardized(channels: int, wanted: bool) -> nn.Module:
    """Each channel minus its mean, over its standard deviation, or nothing: a large mean hides what is to be learned."""
    return nn.BatchNorm2d(channels, affine=False) if wanted else nn.Identity()


def no_head(channels: int) -> tuple[nn.Module, int]:
    """No layers on the map."""
    return nn.Identity(), channels


class Trunk(Network):
    """Backbone and head: images in, one map of features out. Subclasses add what makes class maps of it.

    config: settings of `recipes.groups.Backbone` and `Levels`, with `output_stride`. head: makes the layers on the map.
    """

    def __init__(self, config: Any, classes: Sequence[str], head: Head = no_head) -> None:
        super().__init__(config, classes)
        options = {name: getattr(config, name) for name in ("weights", "normalize", "level", "frozen", "freeze_norm")}
        self.backbone = backbone.build(config.backbone, config.output_stride, **options)
        self.head, self.channels = head(joined_channels(self.backbone, config.levels))
        self.norm = standardized(self.channels, config.standardize)

    def features(self, images: Tensor) -> Tensor:
        """(B, D, h, w) of images (B, 3, H, W) in 0..255."""
        images = images.to(memory_format=torch.channels_last)
        maps = self.backbone.maps(images, self.config.levels) if self.config.levels else [self.backbone(images)]
        return self.joined(maps)

    def joined(self, maps: list[Tensor]) -> Tensor:
        """The same of the maps of the blocks `levels`."""
        features: Tensor = self.norm(self.head(torch.cat(maps, 1) if len(maps) > 1 else maps[0]))
        return features

    @abstractmethod
    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) and the confidence of each class in the image, of images (B, 3, H, W) in 0..255."""

    @property
    @abstractmethod
    def multi_scale(self) -> MultiScale:
        """The views whose maps are averaged at test."""

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """The views of the image."""
        return self.multi_scale.views(sample.image, self.device)

    def infer(self, batch: Tensors) -> Tensors:
        """Maps and confidences of every view."""
        return self.multi_scale.infer(self.maps, batch)
