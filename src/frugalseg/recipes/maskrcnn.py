"""Settings of the baseline Mask R-CNN (He et al., ICCV 2017), torchvision's. Defaults are the paper's with a feature pyramid.

FPN is its source (Lin et al., CVPR 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frugalseg.recipes import groups

SUMMARY = "Mask R-CNN (He et al., ICCV 2017), torchvision's: the baseline beside R2-IOS"
TASK = "instances"
NEEDS = frozenset({"image", "instances"})
BASELINE = ""


@dataclass(frozen=True)
class Config(groups.Scale, groups.RegionSampling, groups.Overlapping, groups.StepDecay, groups.TwoRates, groups.Backbone):
    """Mask R-CNN: object masks from full masks, the baseline beside R2-IOS.

    Args:
        backbone: feature network (sec. 4: ResNet): resnet18/50/101, vgg16, mobilenet_v2 or tiny.
        stride: pixels of the image per cell of the last map.
        channels: of the feature pyramid.
        width: of the two fully connected layers of the box head.
        mask_channels: of the mask head's four convolutions.
        proposals: boxes that the region proposal network hands on, at most.
    """

    frozen: int = 2  # torchvision: the stem and the first stage
    freeze_norm: bool = True  # as torchvision
    stride: int = 32
    channels: int = 256
    width: int = 1024
    mask_channels: int = 256
    proposals: int = 1000
    rois: int = 512  # FPN
    scale: int = 800
    longest: int = 1333  # torchvision
    batch: int = 16
    steps: int = 160_000
    lr: float = 0.02
    head_lr: float = 0.02
    warmup: int = 1000  # torchvision
    drops: tuple[float, ...] = (0.75,)  # 120,000 of 160,000
    weight_decay: float = 1e-4

    needs = frozenset({"image", "instances"})
    minimum: ClassVar[groups.Limits] = {"channels": 1, "width": 1, "mask_channels": 1, "proposals": 1}
