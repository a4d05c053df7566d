"""Faster R-CNN's learned proposals (Ren et al., NeurIPS 2015), torchvision's, on a single map."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

ANCHORS = (0.05, 0.1, 0.2, 0.4, 0.8)  # sides, as shares of an image's shorter side


def build(channels: int, shorter: int, count: int) -> RegionProposalNetwork:
    """A network that proposes at most `count` boxes from a map of `channels`. shorter: side of the images in pixels."""
    anchors = AnchorGenerator((tuple(round(share * shorter) for share in ANCHORS),), ((0.5, 1.0, 2.0),))
    head = RPNHead(channels, anchors.num_anchors_per_location()[0])
    most = {"training": count, "testing": count}
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, most, most, 0.7)


def propose(network: RegionProposalNetwork, images: Tensor, sizes: Tensor, features: Tensor) -> list[Tensor]:
    """The boxes (P, 4) of each image. images: (B, 3, H, W) padded. sizes: (B, 2) of (H, W) without the padding."""
    boxes: list[Tensor] = network(_image_list(images, sizes), {"0": features.float()})[0]
    return boxes


def learn(
    network: RegionProposalNetwork, images: Tensor, sizes: Tensor, features: Tensor, boxes: list[Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The boxes (P, 4) of each image, and the losses of objectness and offsets. boxes: (N, 4) of each image's objects."""
    targets = [{"boxes": truth} for truth in boxes]
    proposals, losses = network(_image_list(images, sizes), {"0": features.float()}, targets)
    return proposals, {"objectness": losses["loss_objectness"], "rpn_box": losses["loss_rpn_box_reg"]}


def _image_list(images: Tensor, sizes: Tensor) -> ImageList:
    return ImageList(images, [(int(height), int(width)) for height, width in sizes.tolist()])
