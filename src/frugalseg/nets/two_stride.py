"""A backbone with a coarse map and a fine one. Shape letters: B batch, D channels, H W image, h w map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.nets import splitting
from frugalseg.nets.backbone import Backbone, build


class TwoStrideBackbone(nn.Module):
    """A backbone whose leading layers run once and whose map is given at two strides.

    name, stride: the backbone, and the pixels per cell of its coarse map. fine_stride: of the fine map. kind: what that is –
    "dilated": the last layers once more, with weights of their own and dilation for the strides taken away (R2-IOS's two
    sub-networks on VGG-16: conv1 to conv4 shared, conv5 twice); "shared": the last shared map; "same": the coarse map itself.
    options: of `backbone.build`. channels, fine_channels: D of the maps. report: what the weights file filled, or None.

    A max pool that has lost its stride is left out: it only blurs what RoI pooling reads.
    Raises ValueError for strides between which the backbone cannot be split, and what `backbone.build` raises.
    """

    def __init__(self, name: str, stride: int, fine_stride: int, kind: str, **options: Any) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.fine_stride = stride if kind == "same" else fine_stride
        if kind != "same":
            splitting.expect_a_row(name, "type --mask-features same, which takes that map for masks too, or --backbone resnet50")
        self.trunk = build(name, stride, **options)
        if self.trunk.shift:  # by another amount in each map, and boxes would be pooled beside their objects
            raise ValueError(
                f"backbone: got {name}, whose pools move its maps by half a cell, which PDSL alone corrects; expected one whose "
                "maps stay in place; type --backbone vgg16 or resnet50"
            )
        self.report = self.trunk.report
        self.channels = self.fine_channels = self.trunk.channels
        self.coarse: nn.Module = nn.Identity()
        self.fine: nn.Module = nn.Identity()
        self._others: list[Backbone] = []  # in a list, so that its tensors are not registered twice
        if kind != "same":
            self._split(name, options)

    def _split(self, name: str, options: dict[str, Any]) -> None:
        """Leave the trunk the layers before the first that is coarser than the fine stride; the others become `coarse`."""
        layers, shapes = splitting.layers(self.trunk), splitting.shapes(self.trunk)
        split = next((place for place, (_, stride) in enumerate(shapes) if stride > self.fine_stride), len(layers))
        if not 0 < split < len(layers):
            raise ValueError(
                f"stride: got {self.stride} with mask_stride {self.fine_stride}, but {name} has no map of stride "
                f"{self.fine_stride} before one of stride {self.stride}; type --mask-stride {self.stride // 2}"
            )
        self.coarse, self.fine_channels = _tail(layers[split:]), shapes[split - 1][0]
        if self.kind == "dilated":
            self._add_fine(build(name, self.fine_stride, **options), split)
        self.trunk.body = nn.Sequential(*layers[:split])

    def _add_fine(self, other: Backbone, split: int) -> None:
        """Take the last layers of a backbone of the fine stride, and what of its blocks is frozen."""
        layers = splitting.layers(other)[split:]
        inside = {module for layer in layers for module in layer.modules()}
        other.blocks = [[module for module in block if module in inside] for block in other.blocks]
        other.body = nn.Identity()
        self.fine, self.fine_channels = _tail(layers), other.channels
        self._others.append(other)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (B, 3, H, W) RGB in 0..255. Returns the coarse map (B, D, h, w) and the fine one."""
        shared = self.trunk(images)
        coarse = self.coarse(shared)
        return coarse, coarse if self.kind == "same" else self.fine(shared)

    def train(self, mode: bool = True) -> TwoStrideBackbone:
        """Set the mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        for backbone in (self.trunk, *self._others):
            backbone.train(mode)  # knows the frozen modules, though some are in the tails now
        return self


def _tail(layers: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(layer for layer in layers if not (isinstance(layer, nn.MaxPool2d) and layer.stride in (1, (1, 1)))))


class LateralSum(nn.Module):
    """A fine map of the last shared one and the coarse one: the sum of both after 1×1 convolutions.

    ratio: cells of the fine map per cell of the coarse one, along a side.
    """

    def __init__(self, fine: int, coarse: int, channels: int, ratio: int) -> None:
        super().__init__()
        self.fine, self.coarse, self.ratio = nn.Conv2d(fine, channels, 1), nn.Conv2d(coarse, channels, 1), ratio

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: (B, D, h, w). coarse: a map of it at a larger stride. Returns (B, D, h, w)."""
        height, width = fine.shape[-2:]
        points = [(extent - 1) * self.ratio + 1 for extent in coarse.shape[-2:]]  # point i of the coarse map is point ratio · i
        up = F.interpolate(self.coarse(coarse), points, mode="bilinear", align_corners=True)
        up = F.pad(up, (0, max(0, width - points[1]), 0, max(0, height - points[0])), mode="replicate")
        summed: Tensor = self.fine(fine) + up[..., :height, :width]
        return summed.relu()
