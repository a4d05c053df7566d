"""Prediction at several scales and of the mirrored image, averaged: what goes in, what comes out, and how it is joined.

Shape letters: C maps, H W image, h w feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from frugalseg.nets.network import Tensors
from frugalseg.types import longer_side, size_of

Maps = Callable[[Tensor], tuple[Tensor, Tensor]]  # images (B, 3, H, W) -> maps (B, C, h, w) and confidences (B, K)


class MultiScale(NamedTuple):
    """The views of an image that are averaged.

    scales: of the image. flip: whether the mirrored image counts too. resize: its longer side at scale 1, in pixels; 0 keeps its
    own. stride: pixels of a view per cell of its map.
    """

    scales: tuple[float, ...]
    flip: bool
    resize: int
    stride: int

    def views(self, image: Tensor, device: torch.device) -> Tensors:
        """The image (3, H, W) uint8 at every scale."""
        image = image.as_subclass(Tensor).to(device)
        sizes = self._extents(longer_side(size_of(image), self.resize))
        return {f"view{number}": transforms.resize(image, list(size), antialias=True) for number, size in enumerate(sizes)}

    def infer(self, network: Maps, views: Tensors) -> Tensors:
        """The network's maps and confidences for batches of views (B, 3, H', W'), those of the mirrored views turned back."""
        outputs: Tensors = {}
        for number in range(len(self.scales)):
            view = pad_to_grid(views[f"view{number}"].float(), self.stride)
            outputs[f"maps{number}"], outputs[f"confidences{number}"] = network(view)
            if self.flip:
                maps, outputs[f"mirrored_confidences{number}"] = network(view.flip(-1))
                outputs[f"mirrored_maps{number}"] = maps.flip(-1)
        return outputs

    def average(self, outputs: Tensors, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (C, *size) and confidences (K,) of one image from its part of the outputs; size: the image's at scale 1."""
        size = longer_side(size_of(image), self.resize)
        total, confidences = torch.zeros(()), torch.zeros(())
        for number, extent in enumerate(self._extents(size)):
            for view in ("", "mirrored_")[: 1 + self.flip]:
                maps, v = outputs[f"{view}maps{number}"], outputs[f"{view}confidences{number}"]
                maps = self._resampled(maps, extent, size)
                total, confidences = total.to(maps) + maps, confidences.to(v) + v
        count = len(self.scales) * (1 + self.flip)
        return total / count, confidences / count

    def predict(self, network: Maps, image: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """`average` of the network's outputs for one image."""
        views = {name: view[None] for name, view in self.views(image, device).items()}
        outputs = self.infer(network, views)
        return self.average({name: values[0] for name, values in outputs.items()}, image)

    def _extents(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of the views."""
        return [(max(1, round(size[0] * scale)), max(1, round(size[1] * scale))) for scale in self.scales]

    def _resampled(self, maps: Tensor, extent: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """The maps (C, h, w) of a view of that extent at another size."""
        rows = resampling(self.stride, maps.shape[-2], extent[0], size[0])
        columns = resampling(self.stride, maps.shape[-1], extent[1], size[1])
        return rows.to(maps) @ maps @ columns.to(maps).T


def pad_to_grid(images: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column until the sides are stride * k + 1, so that the map's last point lies past the edge."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -(width - 1) % stride, 0, -(height - 1) % stride), mode="replicate")


def resampling(stride: int, cells: int, pixels: int, target: int) -> Tensor:
    """The matrix (target, cells) that takes one side of a map to its image's pixels, and these to an image of another size.

    Convolutions with padding k // 2 put point i of the map on pixel i * stride, so corners align there. Both steps are linear, so
    two such matrices take the map to its target at once, and no map of all pixels is made.
    """
    steps = F.interpolate(torch.eye(cells)[None], (cells - 1) * stride + 1, mode="linear", align_corners=True)
    return F.interpolate(steps[..., :pixels], target, mode="linear", align_corners=False)[0].T
