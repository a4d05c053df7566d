"""Mask R-CNN (He et al., ICCV 2017), torchvision's, on our backbones: the baseline that R2-IOS is measured against.

The network, its losses and its sampling are torchvision's; ours are the backbone under it, the data, the loop and the pasting of
masks, so that the two methods differ in nothing but what they are. Shape letters: B batch, N objects, K classes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from frugalseg.data import detection
from frugalseg.engine.run import Run
from frugalseg.nets import optim, schedule
from frugalseg.nets.paste import paste
from frugalseg.nets.pyramid import Pyramid
from frugalseg.recipes.checks import restored
from frugalseg.recipes.maskrcnn import Config
from frugalseg.types import Prediction, Sample

ANCHOR = 8  # side of an anchor in cells of its map (FPN: 32 pixels at stride 4)
LOSSES = {  # torchvision's names in our log's words
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
        maps = self.pyramid(images.to(memory_format=torch.channels_last))
        return self.fpn(OrderedDict(zip(self.names, maps, strict=True)))


class Detector(nn.Module):
    """torchvision's Mask R-CNN, fed with our batches."""

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)
        features = PyramidFeatures(config)
        anchors = tuple((ANCHOR * stride,) for stride in features.pyramid.strides)
        self.net = MaskRCNN(
            features,
            min_size=config.scale,
            max_size=config.longest,
            image_mean=[0.0] * 3,  # our backbones bring pictures of 0..255 into the range of their weights themselves
            image_std=[1.0] * 3,
            rpn_anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * len(anchors)),
            rpn_post_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_test=config.proposals,
            box_roi_pool=MultiScaleRoIAlign(features.names, 7, 2),
            box_head=TwoMLPHead(config.channels * 49, config.width),
            box_predictor=FastRCNNPredictor(config.width, len(self.classes) + 1),
            mask_roi_pool=MultiScaleRoIAlign(features.names, 14, 2),
            mask_head=MaskRCNNHeads(config.channels, (config.mask_channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(config.mask_channels, config.mask_channels, len(self.classes) + 1),
            box_batch_size_per_image=config.rois,
            box_positive_fraction=config.rois_foreground,
            box_nms_thresh=config.nms,
            box_score_thresh=config.min_score,
            box_detections_per_img=config.detections,
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch of `stack`."""
        losses = self.net(batch["images"], batch["targets"])
        return {LOSSES[name]: value for name, value in losses.items()}

    @torch.no_grad()
    def predict(self, samples: Iterable[Sample], tags: str = "predicted") -> list[Prediction]:
        """Objects of each picture. tags: "given" keeps its tagged classes only."""
        self.eval()
        return [self._predict(sample, tags) for sample in samples]

    def _predict(self, sample: Sample, tags: str) -> Prediction:
        size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
        device = next(self.parameters()).device
        image = thick(sample.image.as_subclass(Tensor).to(device).float(), self.config.longest)
        own = (int(image.shape[-2]), int(image.shape[-1]))
        images, _ = self.net.transform([image])
        features = self.net.backbone(images.tensors)
        proposals, _ = self.net.rpn(images, features)
        # torchvision would paste all masks into dense pictures at once; ours go straight into run lengths.
        (found,), _ = self.net.roi_heads(features, proposals, images.image_sizes)
        if tags == "given":
            found = {name: values[detection.allowed(sample)[found["labels"] - 1]] for name, values in found.items()}
        boxes = found["boxes"] / detection.ratio(own, images.image_sizes[0]).to(device)
        codes = paste(found["masks"][:, 0], boxes, size, self.config.threshold)
        return detection.predicted(sample, self.classes, boxes, found["labels"], found["scores"], codes)


# -- training --------------------------------------------------------------------------------------------------------


def train(config: Config, data: Any, run: Run) -> Detector:
    """Learn from the object masks of `data`. Writes weights/last."""
    data = detection.learnable(data)
    run.expect("data", data.fingerprint)
    run.seed("maskrcnn")
    model = Detector(config, data.classes).to(memory_format=torch.channels_last)
    wrapped, optimizer = run.setup(model, optimizer_of(config, model))
    views, collate = detection.Objects(data, flip=config.flip), partial(stack, longest=config.longest)
    steps = run.steps("detector", views, config.steps, config.batch, model=wrapped, optimizer=optimizer, collate=collate)
    for step, batch in steps:
        run.update(wrapped(batch), optimizer, rate(config, step))
    run.save_model(model, {"method": "maskrcnn", "config": asdict(config), "classes": list(model.classes)})
    return model


def thick(image: Tensor, longest: int) -> Tensor:
    """The picture (3, H, W), if it is so thin that torchvision would shrink a side to nothing with rows or columns of 0 added."""
    least = math.ceil(max(image.shape[1:]) / longest)
    return F.pad(image, (0, max(0, least - image.shape[2]), 0, max(0, least - image.shape[1])))


def stack(items: Sequence[dict[str, Any]], longest: int) -> dict[str, Any]:
    """A batch for torchvision: pictures as they are, boxes, labels and dense masks (N, H, W)."""
    images = [thick(item["image"].float(), longest) for item in items]
    targets = [
        {
            "boxes": item["boxes"],
            "labels": item["labels"],
            "masks": detection.dense(item["cuts"], item["corners"], (image.shape[1], image.shape[2])),
        }
        for item, image in zip(items, images, strict=True)
    ]
    return {"images": images, "targets": targets}


def rate(config: Config, step: int) -> float:
    """Learning rate as a share of its first value."""
    drops = [math.ceil(share * config.steps) for share in config.drops]
    return schedule.step_decay(step, 1.0, drops) * schedule.warmup(step + 1, config.warmup)


def optimizer_of(config: Config, model: Detector) -> torch.optim.Optimizer:
    """The optimiser, with the pretrained layers at lr and the new ones at head_lr."""
    return optim.two_rates(config, model, model.net.backbone.pyramid)


def load(state: dict[str, Tensor], metadata: dict[str, Any]) -> Detector:
    """The model of a weights file that `train` wrote."""
    model = Detector(restored(Config, metadata["config"]), metadata["classes"])
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval()
