"""Settings of FCN (Long et al., CVPR 2015). Defaults are those by which pretrained backbones are judged on PASCAL VOC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "FCN: fully convolutional network, the plain semantic method (Long et al., CVPR 2015)"
TASK = "semantic"
NEEDS = frozenset({"image", "semantic"})
BASELINE = ""


@dataclass(frozen=True)
class Config(groups.Averaging, groups.Refinement, groups.Levels, groups.Head, groups.Crops, groups.TwoRates, groups.Backbone):
    """FCN: semantic segmentation from class masks.

    Args:
        output_stride: pixels of the image per cell of the feature map.
        head: "fcn" has two 3 x 3 layers with batch norm (MoCo, He et al., CVPR 2020, app. A.2); "largefov" DeepLab's fc6 and fc7
            (Chen et al., ICLR 2015); "linear" none: scores straight from the backbone's features.
        resize: longer side of an image before cropping and at test, in pixels; 0 keeps its size.
        label_stride: pixels between two points of the loss; scores are upsampled to it.
        epochs: passes over the data.
        lr_schedule: "step" multiplies by 0.1 after each of drops; "poly" falls to zero with power 0.9.
        drops: shares of the steps after which the rate drops.
    """

    output_stride: int = 16
    head: Literal["fcn", "largefov", "linear"] = "fcn"
    channels: int = 256
    dilation: int = 6
    crop: int = 513
    scales: tuple[float, float] = (0.5, 2.0)
    label_stride: int = 1
    crf: bool = False
    batch: int = 16
    epochs: float = 45
    lr: float = 0.01
    lr_schedule: Literal["step", "poly"] = "step"
    drops: tuple[float, ...] = (0.7, 0.9)
    weight_decay: float = 1e-4

    needs = NEEDS
    minimum: ClassVar[groups.Limits] = {"label_stride": 1}
    positive: ClassVar[tuple[str, ...]] = ("epochs",)

    def faults(self) -> list[str]:
        """Also drops outside the training, and points of the loss between cells."""
        found = super().faults()
        found += [f"drops={share}: expected a number from 0 to 1" for share in self.drops if not 0 <= share <= 1]
        if self.label_stride > 0 and self.output_stride % self.label_stride:
            found.append(f"label_stride={self.label_stride}: expected a divisor of output_stride={self.output_stride}")
        return found
