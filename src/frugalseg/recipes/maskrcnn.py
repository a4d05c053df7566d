"""Settings of the baseline Mask R-CNN (He et al., ICCV 2017), torchvision's. Defaults are the paper's with a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "Mask R-CNN (He et al., ICCV 2017), torchvision's: the baseline beside R2-IOS"
TASK = "instances"
NEEDS = frozenset({"image", "instances"})
BASELINE = ""


@dataclass(frozen=True)
class Config:
    """Mask R-CNN: object masks from full masks, the baseline beside R2-IOS.

    Args:
        backbone: feature network (sec. 4: ResNet); vgg16, resnet18/50/101, mobilenet_v2, tiny.
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all.
        frozen: number of leading backbone blocks that stay as they are (torchvision: the stem and the first stage).
        freeze_norm: keep all batch-norm statistics of the backbone as they are (as torchvision).
        stride: pixels of the image per cell of the last map (ResNet: 32).
        channels: of the feature pyramid (256).
        width: of the two fully connected layers of the box head (1,024).
        mask_channels: of the mask head's four convolutions (256).
        proposals: boxes that the region proposal network hands on, at most (1,000).
        rois: proposals of a picture in a training step (FPN: 512).
        rois_foreground: share of objects among them, at most (0.25).
        scale: shorter side of a picture, in pixels (800).
        longest: its longer side, at most (torchvision: 1,333).
        flip: mirror half of the training pictures.
        batch: pictures per step, all processes together (16).
        steps: of the training (160,000).
        lr: learning rate of the pretrained layers (0.02).
        head_lr: learning rate of the new layers (0.02).
        warmup: steps over which the rates rise to their value (torchvision: 1,000).
        drops: shares of the steps after which the rates fall tenfold (120,000 of 160,000).
        optimizer: "sgd" is the paper's; "adamw" learns in few steps.
        momentum: of SGD (0.9).
        weight_decay: of either (1e-4).
        nms: overlap from which the less confident of two boxes of a class is dropped (0.5).
        detections: objects of a picture, at most (100).
        min_score: least confidence of an object (torchvision: 0.05).
        threshold: of the mask's probability (0.5).
    """

    backbone: str = "resnet50"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    frozen: int = 2
    freeze_norm: bool = True
    stride: int = 32
    channels: int = 256
    width: int = 1024
    mask_channels: int = 256
    proposals: int = 1000
    rois: int = 512
    rois_foreground: float = 0.25
    scale: int = 800
    longest: int = 1333
    flip: bool = True
    batch: int = 16
    steps: int = 160_000
    lr: float = 0.02
    head_lr: float = 0.02
    warmup: int = 1000
    drops: tuple[float, ...] = (0.75,)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nms: float = 0.5
    detections: int = 100
    min_score: float = 0.05
    threshold: float = 0.5

    needs = frozenset({"image", "instances"})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the labels: knowledge that came in through weights."""
        return (f"backbone weights {self.weights}",) if self.weights else ()

    def __post_init__(self) -> None:
        limits = {"level": 0, "frozen": 0, "channels": 1, "width": 1, "mask_channels": 1, "proposals": 1, "rois": 1, "scale": 16}
        limits |= {"longest": 16, "batch": 1, "steps": 1, "warmup": 0, "detections": 1}
        shares = ("rois_foreground", "nms", "min_score")
        faults = checks.faults(self, limits, shares, ("lr", "head_lr", "threshold"))
        if self.longest < self.scale:
            faults.append(f"longest={self.longest}: expected at least scale={self.scale}")
        checks.refuse("Mask R-CNN", faults)
