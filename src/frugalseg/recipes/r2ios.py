"""Settings of R2-IOS (Liang et al., CVPR 2016). Defaults are the paper's; what it leaves open is a ruling of ours, said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "R2-IOS: reversible recursive refinement of object masks (Liang et al., CVPR 2016)"
TASK = "instances"
NEEDS = frozenset({"image", "instances"})
BASELINE = "maskrcnn"


@dataclass(frozen=True)
class Config:
    """R2-IOS: object masks from full masks.

    Args:
        backbone: feature network (sec. 3: VGG-16); also resnet18/50/101, mobilenet_v2, tiny, timm/<name>.
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all.
        frozen: number of leading backbone blocks that stay as they are (Fast R-CNN's code, which the paper builds on: 2).
        freeze_norm: keep all batch-norm statistics of the backbone as they are.
        stride: pixels of the image per cell of the refinement sub-network's map (VGG-16 up to conv5: 16).
        mask_stride: the same for the segmentation sub-network (two pools removed: 8).
        mask_features: "dilated" gives the segmentation sub-network the last blocks once more, dilated (sec. 3.1); "lateral" adds
            the refinement map, up-sampled, to the last shared map, which costs next to nothing; "same" is the refinement map.
        channels: of a 1x1 convolution that narrows each map before pooling; 0 has none, as the paper.
        mask_channels: channels between the two 1x1 convolutions of the segmentation branch (ruling: 128).
        mask_size: side of the mask of a region (40).
        mask_pool: what is cut out of the map, "features" before the 1x1 convolutions (sec. 3.1) or their "scores", which is the
            same up to interpolation across a ReLU and 64 times cheaper.
        mask_head: "autoencoder" (sec. 3.1), or its ablations "fc" (two layers of 3,200) and "conv" (none).
        code: units between encoder and decoder (512).
        seg_aware: classify and refine by the mask too (sec. 3.2).
        width: of the refinement branch's two fully connected layers (VGG-16: 4,096).
        dropout: after each of them (VGG-16: 0.5).
        pooling: "align" samples between the points of the map (RoIAlign); "max" is the paper's RoI pooling.
        sampling: points a side whose mean is one pooled cell, with "align".
        mask_init: deviation of the first weights of the last two mask convolutions and the autoencoder (0.001). With 0 the
            autoencoder begins as a low-pass filter, which a short training needs.
        iterations: of the recursion, T (4).
        recursion: "trained", or the ablation "test_only" that learns from the first iteration alone.
        gate: keep each proposal's most confident iteration, in the second phase of training and at test (sec. 3.2); without it,
            the second phase goes on as the first and the last iteration counts.
        mask_box: the box a mask is pasted into: "input", which it was predicted on, or "repool", predicted anew on the output.
        proposals: "selective_search" (sec. 3), "grid", "random", "rpn" (learned along), or a file or folder of boxes.
        count: proposals of a picture, at most (about 2,000).
        add_truth: learn from the true boxes as proposals too (Fast R-CNN's code).
        rois: proposals of a picture in a training step (64).
        rois_foreground: share of objects among them, at most (0.25).
        foreground: overlap with a true box from which a proposal is an object (0.5).
        background: least overlap of a proposal that is background (0; Fast R-CNN's code has 0.1).
        scale: shorter side of a picture, in pixels (Fast R-CNN: 600).
        longest: its longer side, at most (Fast R-CNN: 1,000).
        flip: mirror half of the training pictures.
        batch: pictures per step, all processes together (Fast R-CNN's code: 2).
        steps: of the first phase, without gate (120,000).
        gate_steps: of the second (100,000).
        lr: learning rate of the pretrained layers (1e-4).
        head_lr: learning rate of the new layers (ruling: ten times as much).
        fan_in: a new layer of more inputs than this learns at head_lr · fan_in / inputs; 0 leaves all at head_lr. For AdamW:
            it moves all weights alike, so that a rate that suits narrow layers throws wide ones about.
        warmup: steps over which the rates rise to their value, at the start of the first phase (ruling: none).
        drops: shares of each phase after which the rates fall tenfold (none stated).
        optimizer: "sgd" is the paper's; "adamw" learns in few steps.
        momentum: of SGD (Fast R-CNN: 0.9).
        weight_decay: of either (Fast R-CNN: 5e-4).
        undecided: proposals that look like background at every iteration: "drop" them (sec. 3.4), or "keep" them with the best
            class and the mask of the first, at their low confidence, which AP counts.
        early_exit: compute a proposal no further once it is background: its box stays, so nothing would change.
        nms: overlap from which the less confident of two boxes of a class is dropped (Fast R-CNN: 0.3).
        detections: objects of a picture, at most (Fast R-CNN: 100).
        min_score: least confidence of an object.
        threshold: of the mask's probability.
    """

    backbone: str = "vgg16"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    frozen: int = 2
    freeze_norm: bool = False
    stride: int = 16
    mask_stride: int = 8
    mask_features: Literal["dilated", "lateral", "same"] = "dilated"
    channels: int = 0
    mask_channels: int = 128
    mask_size: int = 40
    mask_pool: Literal["features", "scores"] = "features"
    mask_head: Literal["autoencoder", "fc", "conv"] = "autoencoder"
    code: int = 512
    seg_aware: bool = True
    width: int = 4096
    dropout: float = 0.5
    pooling: Literal["align", "max"] = "align"
    sampling: int = 2
    mask_init: float = 0.001
    iterations: int = 4
    recursion: Literal["trained", "test_only"] = "trained"
    gate: bool = True
    mask_box: Literal["input", "repool"] = "input"
    proposals: str = "selective_search"
    count: int = 2000
    add_truth: bool = True
    rois: int = 64
    rois_foreground: float = 0.25
    foreground: float = 0.5
    background: float = 0.0
    scale: int = 600
    longest: int = 1000
    flip: bool = True
    batch: int = 2
    steps: int = 120_000
    gate_steps: int = 100_000
    lr: float = 1e-4
    head_lr: float = 1e-3
    fan_in: int = 0
    warmup: int = 0
    drops: tuple[float, ...] = ()
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    undecided: Literal["drop", "keep"] = "drop"
    early_exit: bool = True
    nms: float = 0.3
    detections: int = 100
    min_score: float = 0.0
    threshold: float = 0.5

    needs = frozenset({"image", "instances"})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the labels: knowledge that came in through weights or proposals."""
        notes = [f"backbone weights {self.weights}"] if self.weights else []
        if self.proposals not in ("selective_search", "grid", "random", "rpn"):
            notes.append(f"proposals {self.proposals} (learned from masks, perhaps)")
        return tuple(notes)

    def __post_init__(self) -> None:
        limits = {
            "level": 0,
            "frozen": 0,
            "channels": 0,
            "mask_channels": 1,
            "mask_size": 2,
            "code": 1,
            "width": 1,
            "sampling": 1,
        }
        limits |= {"iterations": 1, "count": 1, "rois": 1, "scale": 16, "longest": 16, "batch": 1, "steps": 1, "gate_steps": 0}
        limits |= {"fan_in": 0, "warmup": 0, "detections": 1}
        shares = ("dropout", "rois_foreground", "foreground", "background", "nms", "min_score", "threshold")
        faults = checks.faults(self, limits, shares, ("lr", "head_lr", "threshold"))
        if self.longest < self.scale:
            faults.append(f"longest={self.longest}: expected at least scale={self.scale}")
        if not self.background < self.foreground:
            faults.append(f"background={self.background}: expected less than foreground={self.foreground}")
        checks.refuse("R2-IOS", faults)
