"""Mask R-CNN (He et al., ICCV 2017), torchvision's, on our backbones: the baseline that R2-IOS is measured against.

The network, its losses and its sampling are torchvision's; ours are the backbone under it, the data, the loop and the pasting of
masks, which the two methods share. Shape letters: B batch, N objects, K classes, H W image.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from frugalseg.data import Data, detection
from frugalseg.engine.run import Run
from frugalseg.nets import optim, schedule
from frugalseg.nets.network import Network, Tensors, given_tags, shallow_copy
from frugalseg.nets.paste import paste
from frugalseg.nets.pyramid import Pyramid
from frugalseg.recipes.maskrcnn import Config
from frugalseg.types import Prediction, Sample, size_of

ANCHOR = 8  # side of an anchor in cells of its map (FPN: 32 pixels at stride 4)
LOSSES = {  # torchvision's names -> the names in our log
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "rpn_box",
}


class PyramidFeatures(nn.Module):
    """The backbone with a feature pyramid on its maps, as torchvision's detectors take it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        options: dict[str, Any] = {"weights": config.weights, "normalize": config.normalize, "level": config.level}
        self.pyramid = Pyramid(config.backbone, config.stride, frozen=config.frozen, freeze_norm=config.freeze_norm, **options)
        self.fpn = FeaturePyramidNetwork(self.pyramid.channels, config.channels)
        self.out_channels = config.channels
        self.names = [str(stride) for stride in self.pyramid.strides]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The pyramid's maps of images (B, 3, H, W) in 0..255, by their strides."""
        maps = self.pyramid(images.to(memory_format=torch.channels_last))
        features: OrderedDict[str, Tensor] = self.fpn(OrderedDict(zip(self.names, maps, strict=True)))
        return features


def torchvisions(config: Config, classes: int) -> torchvision_detection.MaskRCNN:
    """torchvision's network on a pyramid of our backbone."""
    features = PyramidFeatures(config)
    anchors = tuple((ANCHOR * stride,) for stride in features.pyramid.strides)
    return torchvision_detection.MaskRCNN(
        features,
        min_size=config.scale,
        max_size=config.longest,
        image_mean=[0.0] * 3,  # our backbones bring images of 0..255 into the range of their weights themselves
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * len(anchors)),
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_roi_pool=MultiScaleRoIAlign(features.names, 7, 2),
        box_head=TwoMLPHead(config.channels * 49, config.width),
        box_predictor=FastRCNNPredictor(config.width, classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(features.names, 14, 2),
        mask_head=MaskRCNNHeads(config.channels, (config.mask_channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(config.mask_channels, config.mask_channels, classes + 1),
        box_batch_size_per_image=config.rois,
        box_positive_fraction=config.rois_foreground,
        box_nms_thresh=config.nms,
        box_score_thresh=config.min_score,
        box_detections_per_img=config.detections,
    )


class MaskRCNN(Network):
    """torchvision's Mask R-CNN, with our batches as its input."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self.net = torchvisions(config, len(self.classes))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `collate`."""
        losses = self.net(batch["images"], batch["targets"])
        return {LOSSES[name]: value for name, value in losses.items()}

    def preprocess(self, sample: Sample, tags: str = "predicted") -> Tensors:
        """image: (3, H, W) float; torchvision's network resizes it."""
        return {"image": thickened(sample.image.as_subclass(Tensor).to(self.device).float(), self.config.longest)}

    def infer(self, batch: Tensors) -> Tensors:
        """Lists of each image's boxes (N, 4) in its pixels, labels (N,), scores (N,), and masks (N, 28, 28) probabilities."""
        images, _ = self.net.transform(list(batch["image"]))
        features = self.net.backbone(images.tensors)
        proposals, _ = self.net.rpn(images, features)
        # torchvision's own forward pass would go on to paste all masks into dense images.
        detections, _ = self.net.roi_heads(features, proposals, images.image_sizes)
        ratio = detection.ratio(size_of(batch["image"]), images.image_sizes[0]).to(self.device)
        return {
            "boxes": [objects["boxes"] / ratio for objects in detections],
            "labels": [objects["labels"] for objects in detections],
            "scores": [objects["scores"] for objects in detections],
            "masks": [objects["masks"][:, 0] for objects in detections],
        }

    def postprocess(self, outputs: Tensors, sample: Sample, tags: str = "predicted") -> Prediction:
        """The objects of an image, best first. tags: "given" keeps its tagged classes only."""
        boxes, labels, scores, masks = (outputs[name] for name in ("boxes", "labels", "scores", "masks"))
        if tags == "given":
            allowed = given_tags(sample).bool().to(self.device)[labels - 1]
            boxes, labels, scores, masks = boxes[allowed], labels[allowed], scores[allowed], masks[allowed]
        codes = paste(masks, boxes, size_of(sample.image), self.config.threshold)
        return detection.instance_prediction(sample, self.classes, boxes, labels, scores, codes)

    def with_settings(self, **changes: Any) -> Self:
        """A new network with other settings for prediction; torchvision's keeps some of them in its parts."""
        other = super().with_settings(**changes)
        other.net = shallow_copy(self.net)
        for part in ("transform", "rpn", "roi_heads"):
            setattr(other.net, part, shallow_copy(getattr(self.net, part)))
        transform, rpn, heads = other.net.transform, other.net.rpn, other.net.roi_heads
        transform.min_size, transform.max_size = (other.config.scale,), other.config.longest
        rpn._post_nms_top_n = {"training": other.config.proposals, "testing": other.config.proposals}
        heads.score_thresh, heads.nms_thresh = other.config.min_score, other.config.nms
        heads.detections_per_img = other.config.detections
        return other


# -- training --------------------------------------------------------------------------------------------------------


def build(config: Config, classes: Sequence[str]) -> MaskRCNN:
    """A network with its first weights."""
    return MaskRCNN(config, classes)


def train(config: Config, data: Data, run: Run) -> MaskRCNN:
    """Learn from the object masks of `data`."""
    data = data.having("instances")
    run.expect("data", data.fingerprint)
    run.seed("maskrcnn")
    network = build(config, data.classes).to(memory_format=torch.channels_last)
    # The pretrained layers learn at lr, the new ones at head_lr.
    wrapped, optimizer = run.setup(network, optim.two_rates(config, network, network.net.backbone.pyramid))
    items, collated = detection.DetectionDataset(data, flip=config.flip), partial(collate, longest=config.longest)
    steps = run.steps("detector", items, config.steps, config.batch, model=wrapped, optimizer=optimizer, collate=collated)
    for step, batch in steps:
        run.update(wrapped(batch), optimizer, schedule.warmup_step_decay(step, config.steps, config.drops, config.warmup))
    return network


def thickened(image: Tensor, longest: int) -> Tensor:
    """The image (3, H, W), with rows or columns of 0 added if it is so thin that torchvision would shrink a side to nothing."""
    least = math.ceil(max(image.shape[1:]) / longest)
    return F.pad(image, (0, max(0, least - image.shape[2]), 0, max(0, least - image.shape[1])))


def collate(items: Sequence[dict[str, Any]], longest: int) -> dict[str, Any]:
    """A batch for torchvision: images of their own sizes, and targets of boxes, labels and dense masks (N, H, W)."""
    images = [thickened(item["image"].float(), longest) for item in items]
    targets = [
        {
            "boxes": item["boxes"],
            "labels": item["labels"],
            "masks": detection.full_masks(item["crops"], item["extents"], size_of(image)),
        }
        for item, image in zip(items, images, strict=True)
    ]
    return {"images": images, "targets": targets}
