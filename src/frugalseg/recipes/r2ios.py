"""Settings of R2-IOS (Liang et al., CVPR 2016). Defaults are the paper's; what it leaves open is a ruling of ours, and says so.

Fast R-CNN is the code that the paper builds on (Girshick, ICCV 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "R2-IOS: reversible recursive refinement of object masks (Liang et al., CVPR 2016)"
TASK = "instances"
NEEDS = frozenset({"image", "instances"})
BASELINE = "maskrcnn"


@dataclass(frozen=True)
class Config(
    groups.Scale,
    groups.RegionSampling,
    groups.Proposals,
    groups.PooledFeatures,
    groups.Overlapping,
    groups.StepDecay,
    groups.WideLayers,
    groups.TwoRates,
    groups.Backbone,
):
    """R2-IOS: object masks from full masks.

    Args:
        stride: pixels of the image per cell of the refinement sub-network's map (VGG-16 up to conv5: 16).
        mask_stride: the same for the segmentation sub-network (two pools removed: 8).
        mask_features: "dilated" gives the segmentation sub-network the last blocks once more, dilated (sec. 3.1); "lateral" adds
            the refinement map, up-sampled, to the last shared map, which costs next to nothing; "same" is the refinement map.
        mask_channels: channels between the two 1x1 convolutions of the segmentation branch (ruling: 128).
        mask_size: side of the mask of a region (40).
        mask_pool: what is pooled from the map, "features" before the 1x1 convolutions (sec. 3.1) or their "scores", which is the
            same up to interpolation across a ReLU and 64 times cheaper.
        mask_head: "autoencoder" (sec. 3.1), or its ablations "fc" (two layers of 3,200) and "conv" (none).
        code: units between encoder and decoder (512).
        seg_aware: classify and refine by the mask too (sec. 3.2).
        mask_init: standard deviation of the first weights of the last two mask convolutions and the autoencoder (0.001). With 0
            the autoencoder begins as a low-pass filter, which a short training needs.
        iterations: of the recursion, T (4).
        recursion: "trained", or the ablation "test_only" that learns from the first iteration alone.
        gate: keep each proposal's most confident iteration, in the second phase of training and at test (sec. 3.2); without it,
            the second phase goes on as the first and the last iteration counts.
        mask_box: the box a mask is pasted into: "input", which it was predicted on, or "repool", predicted anew on the output.
        proposals: "selective_search" (sec. 3), "grid", "random", "rpn" (learned along), or a file or folder of boxes.
        add_truth: learn from the true boxes as proposals too (Fast R-CNN).
        foreground: overlap with a true box from which a proposal is an object (0.5).
        background: least overlap of a proposal that is background (0; Fast R-CNN: 0.1).
        steps: of the first phase, without gate (120,000).
        gate_steps: of the second phase (100,000).
        warmup: steps over which the rates rise to their value, at the start of the first phase (ruling: none).
        drops: shares of each phase after which the rates fall tenfold (none stated).
        undecided: proposals that look like background at every iteration: "drop" them (sec. 3.4), or "keep" them with the best
            class and the mask of the first, at their low confidence, which AP counts.
        early_exit: compute a proposal no further once it is background: its box stays, so nothing would change.
    """

    backbone: str = "vgg16"  # sec. 3
    frozen: int = 2  # Fast R-CNN
    stride: int = 16
    mask_stride: int = 8
    mask_features: Literal["dilated", "lateral", "same"] = "dilated"
    mask_channels: int = 128
    mask_size: int = 40
    mask_pool: Literal["features", "scores"] = "features"
    mask_head: Literal["autoencoder", "fc", "conv"] = "autoencoder"
    code: int = 512
    seg_aware: bool = True
    mask_init: float = 0.001
    iterations: int = 4
    recursion: Literal["trained", "test_only"] = "trained"
    gate: bool = True
    mask_box: Literal["input", "repool"] = "input"
    add_truth: bool = True
    foreground: float = 0.5
    background: float = 0.0
    batch: int = 2  # Fast R-CNN
    steps: int = 120_000
    gate_steps: int = 100_000
    lr: float = 1e-4  # sec. 4.1
    head_lr: float = 1e-3  # ruling: ten times as much
    undecided: Literal["drop", "keep"] = "drop"
    early_exit: bool = True
    nms: float = 0.3  # Fast R-CNN
    min_score: float = 0.0

    needs = frozenset({"image", "instances"})
    minimum: ClassVar[groups.Limits] = {"mask_channels": 1, "mask_size": 2, "code": 1, "iterations": 1, "gate_steps": 0}
    shares: ClassVar[tuple[str, ...]] = ("foreground", "background")

    def faults(self) -> list[str]:
        """Also a proposal that would be object and background at once."""
        overlapping = self.background >= self.foreground
        return super().faults() + (
            [f"background={self.background}: expected less than foreground={self.foreground}"] if overlapping else []
        )
