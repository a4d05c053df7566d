"""Settings of CAM (Zhou et al., CVPR 2016) as object masks. Defaults are the paper's; others say whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import groups

SUMMARY = "CAM: class activation maps as object masks (Zhou et al., CVPR 2016), the baselines beside PDSL"
TASK = "instances"
NEEDS = frozenset({"image", "tags"})
BASELINE = ""


@dataclass(frozen=True)
class Config(
    groups.Detections, groups.Cue, groups.Proposals, groups.ActivationMaps, groups.Crops, groups.TwoRates, groups.Backbone
):
    """CAM: object masks from class activation maps, the baselines beside PDSL.

    Args:
        output_stride: pixels of the image per cell of the map (sec. 3: 14 x 14 cells of 224 pixels, 16).
        resize: longer side of an image before cropping and at test, in pixels; 0 keeps its size.
        fraction: share of a map's maximum above which the object is (sec. 3.2: 0.2).
        smallest: share of the image below which a connected part is no object, unless it is its class's largest (ruling, after
            IRN: 0.01).
        objects: "parts" are the connected parts of that; "proposal" takes for each of them the proposal that overlaps its box
            most, with the foreground that the cue finds in it.
        epochs: passes over the data (AE-PSL: 15).
        lr: learning rate of the backbone (AE-PSL: 1e-3), which falls to zero with power 0.9.
    """

    backbone: str = "vgg16"
    output_stride: int = 16
    crop: int = 224
    fraction: float = 0.2
    smallest: float = 0.01
    objects: Literal["parts", "proposal"] = "parts"
    batch: int = 30
    epochs: float = 15

    needs = NEEDS
    shares = ("fraction", "smallest")
    positive = ("epochs",)

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """What came in through weights and, where objects are proposals, through these and the cue."""
        if self.objects == "proposal":
            return super().external_supervision
        return super(groups.Proposals, self).external_supervision  # connected parts use neither proposals nor cue
