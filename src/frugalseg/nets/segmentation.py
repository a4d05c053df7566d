"""The parts of a network that labels pixels: head, score layer, loss at label points, labels at the image's size.

Shape letters: B batch, C classes, D channels, H W image, h w feature map. Class 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalseg.nets import heads
from frugalseg.types import Prediction, Sample, size_of


def head(config: Any, channels: int) -> tuple[nn.Module, int]:
    """The layers between a backbone of that many channels and the scores, and the channels that come out.

    config: settings of `recipes.groups.Head`, with `head`: "largefov", "fcn" or "linear"; no channels leave the layers out.
    """
    if not config.channels or config.head == "linear":
        return nn.Identity(), channels
    if config.head == "fcn":
        return heads.FCN(channels, config.channels, config.dilation), config.channels
    average = config.backbone == "vgg16"  # pool5a belongs to DeepLab's VGG-16
    return heads.LargeFOV(channels, config.channels, config.dilation, config.dropout, average), config.channels


def score_layer(channels: int, classes: Sequence[str]) -> nn.Conv2d:
    """The 1×1 convolution from features to a score map for background and each class."""
    layer = nn.Conv2d(channels, len(classes) + 1, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.get_parameter("bias"), 0.0)
    return layer


def upsample(maps: Tensor, stride: int, target: int) -> Tensor:
    """Maps (B, C, h, w) with a point every `stride` pixels to a point every `target` pixels.

    Convolutions with padding k // 2 put point i of the map on pixel i * stride, so corners align: (h - 1) * stride / target + 1.
    """
    height, width = ((extent - 1) * stride // target + 1 for extent in maps.shape[-2:])
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)


def at_points(masks: Tensor, logits: Tensor, stride: int) -> Tensor:
    """The labels of masks (B, H, W) at the points of logits (B, C+1, h, w), one every `stride` pixels.

    Between the map's last point and the crop's edge there are labels, but no scores.
    """
    height, width = logits.shape[-2:]
    return masks[:, ::stride, ::stride][:, :height, :width]


def pixel_loss(logits: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy averaged over the valid points of an image, then over images, a scalar; an image without any gives 0.

    So an image of which little is labelled counts like the others. Shapes: logits (B, C+1, h, w), masks (B, h, w) of 0..C where
    valid (B, h, w) bool is true.
    """
    losses = F.cross_entropy(logits, masks.where(valid, 0), reduction="none") * valid
    return (losses.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)).mean()


def labelled(sample: Sample, scores: Tensor, ids: Tensor, confidences: Tensor, classes: tuple[str, ...]) -> Prediction:
    """The prediction of an image, at its own size, from scores (K, h, w) of the classes `ids` (K,), confidences (C,)."""
    size = size_of(sample.image)
    places = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
    semantic = ids.to(places.device)[places].to(torch.uint8).cpu()
    return Prediction(sample.name, size, classes, confidences.cpu(), semantic)
