"""A feature network with a coarse map and a fine one. Shape letters: B batch, D channels, H W picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from frugalseg.nets.backbone import Backbone, build
from frugalseg.nets.blocks import row

PROBE = 128  # pixels of the picture that finds out at which layer the map falls below the fine stride


class TwoStrideBackbone(nn.Module):
    """A backbone whose leading layers run once and whose map is given at two strides.

    name, stride: the backbone, and the pixels per cell of its coarse map. fine_stride: of the fine map. kind: what that is –
    "dilated": the last layers once more, with weights of their own and dilation for the strides taken away (R2-IOS's two
    sub-networks on VGG-16: conv1 to conv4 shared, conv5 twice); "shared": the last shared map; "same": the coarse map itself.
    options: of `backbone.build`. channels, fine_channels: D of the maps. report: what the weights file filled, or None.

    A max pool that has lost its stride is left out: it only blurs what RoI pooling reads.
    """

    def __init__(self, name: str, stride: int, fine_stride: int, kind: str, **options: Any) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.fine_stride = stride if kind == "same" else fine_stride
        self.trunk = build(name, stride, **options)
        if self.trunk.shift:  # by another amount in each map, and boxes would be cut out beside their objects
            others = "type --backbone vgg16 or resnet50"
            raise ValueError(f"{name}: its pools move its maps by half a cell, which PDSL alone heeds; {others}")
        self.report = self.trunk.report
        self.channels = self.fine_channels = self.trunk.channels
        self.coarse: nn.Module = nn.Identity()
        self.fine: nn.Module = nn.Identity()
        self._others: list[Backbone] = []  # in a list, so that its tensors are not registered twice
        if kind == "same":
            return
        layers, shapes = _layers(self.trunk), _shapes(self.trunk)
        split = next((i for i, (_, side) in enumerate(shapes) if side < PROBE // fine_stride), len(layers))
        if not 0 < split < len(layers):
            raise ValueError(f"{name} has no map of stride {fine_stride} before one of stride {stride}; choose other strides")
        self.coarse, self.fine_channels = _tail(layers[split:]), shapes[split - 1][0]
        if kind == "dilated":
            self._add_fine(build(name, fine_stride, **options), split)
        self.trunk.body = nn.Sequential(*layers[:split])

    def _add_fine(self, other: Backbone, split: int) -> None:
        own = _layers(other)[split:]
        inside = {id(module) for layer in own for module in layer.modules()}
        other.blocks = [[module for module in block if id(module) in inside] for block in other.blocks]
        other.body = nn.Identity()
        self.fine, self.fine_channels = _tail(own), other.channels
        self._others.append(other)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (B, 3, H, W) RGB in 0..255. Returns the coarse map (B, D, …) and the fine one."""
        shared = self.trunk(images)
        coarse = self.coarse(shared)
        return coarse, coarse if self.kind == "same" else self.fine(shared)

    def train(self, mode: bool = True) -> TwoStrideBackbone:
        """Set the mode; what is frozen in the trunk and the tails stays in evaluation mode."""
        super().train(mode)
        for backbone in (self.trunk, *self._others):
            backbone.train(mode)  # puts the frozen modules back to evaluation, those of the tails too
        return self


def _layers(backbone: Backbone) -> list[nn.Module]:
    """The network as a row of layers; raises ValueError if it is none."""
    if not isinstance(backbone.body, nn.Sequential):
        raise ValueError('a timm backbone cannot be forked; its one map serves both: type mask_features="same"')
    return row(backbone.body)


def _tail(layers: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(layer for layer in layers if not (isinstance(layer, nn.MaxPool2d) and layer.stride in (1, (1, 1)))))


def _shapes(backbone: Backbone) -> list[tuple[int, int]]:
    """Channels and side of the map after each layer, for a square picture of PROBE pixels."""
    shapes, training = [], backbone.training
    backbone.eval()
    with torch.no_grad():
        features = torch.zeros(1, 3, PROBE, PROBE)
        for layer in _layers(backbone):
            features = layer(features)
            shapes.append((features.shape[1], features.shape[2]))
    backbone.train(training)
    return shapes
