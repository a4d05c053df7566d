"""Settings of PDSL (Shen et al., ICCV 2021). Defaults are the paper's; where it is silent, its released code's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "PDSL: parallel detection and segmentation from tags (Shen et al., ICCV 2021)"
TASK = "instances"
NEEDS = frozenset({"image", "tags"})
BASELINE = "cam"


@dataclass(frozen=True)
class Config:
    """PDSL: object masks from image tags.

    Args:
        backbone: feature network (sec. 4.3: resnet18_ws, resnet50_ws, resnet101_ws); also vgg16_plain (released code),
            vgg16 (DeepLab's, overlapping pools), resnet18/50/101, mobilenet_v2, tiny, timm/<name>.
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all.
        levels: blocks whose maps are joined, counted from 1; empty takes the last map, as the paper does.
        standardize: take mean and deviation, over up to 100 training pictures, off every channel of the map; the paper does not.
        frozen: number of leading backbone blocks that stay as they are (released code: all five).
        freeze_norm: keep all batch-norm statistics of the backbone as they are (released code).
        stride: pixels of the image per cell of the map (released code: 8).
        channels: of a 1x1 convolution that narrows the map before pooling; 0 has none, as the paper.
        width: of the two fully connected layers on a proposal's features (released code: 4,096).
        dropout: after each of them (sec. 4.3: 0.5).
        pooling: what cuts a proposal's features out for the detector, "max" is RoIPool (sec. 3.1), "align" RoIAlign.
        sampling: points a side whose mean is one cell, with RoIAlign.
        mask_channels: of the mask heads' four convolutions (sec. 3.3: 256).
        n_refine: heads that refine the detections, n^r (sec. 4.3: 4).
        n_mask: mask heads that know classes, n^m (sec. 4.3: 4).
        n_seed: proposals of a tag for which the cue is asked, n^seed (sec. 4.3: 10).
        start_from: a finished run, such as one of cam, whose objects teach the first refinement head in WSDDN's place; null:
            WSDDN, the paper's. On frozen features and few photos WSDDN finds parts, and the heads after it what it found.
        foreground: overlap with a pseudo object from which a proposal is one too (released code: 0.5).
        ignore_iou: overlap below which a proposal counts nothing in refinement (released code: 0; OICR has 0.1).
        correlation: make masks and detections agree (sec. 3.4).
        tau: how sharply a mask's activation follows its highest pixels (sec. 3.4: 5).
        soft_targets: mask heads learn the one before as it is (eq. 5), not cut at 0.5 (released code).
        agnostic_on: proposals that teach the class-agnostic mask head: "all" (eq. 5), or the "foreground" alone (released code).
        cue: what tells foreground in a box: "grabcut" (sec. 3.3), "superpixels" that are salient, by a folder of grey maps with
            "superpixels:FOLDER", "gradient" of the detector (the cascade of sec. 4.4), or a folder of masks made before.
        cue_side: longer side of the picture for the cue (released code: 400).
        cue_iterations: of GrabCut (released code: 5).
        cue_cut: GrabCut sees a box with some of what lies around it, shrunk until the box's longer side has so many pixels; 0:
            the whole picture (released code). Masks are learned at 28 x 28: 64 finds as much in a fifteenth of the time.
        proposals: "selective_search" (sec. 3.1), "grid", "random", or a file or folder of boxes (sec. 4.3: MCG's).
        count: proposals of a picture, at most (sec. 4.3: 2,000).
        scales: shorter sides of a training picture, one of which is drawn (sec. 4.3: 480 to 1,216 by 32).
        longest: its longer side, at most (released code: 2,000).
        flip: mirror half of the training pictures.
        crop: least share of a picture's sides that is kept (sec. 4.3: 0.9); the tags stay.
        jitter: largest factor of exposure and saturation (sec. 4.3: 1.5); 1 leaves the colours.
        cache_features: compute a frozen backbone once for each picture, scale and mirror image, and learn from files; needs
            crop 1 and jitter 1.
        batch: pictures per step, all processes together (sec. 4.3: 4).
        steps: of the training (sec. 4.3: 100,000).
        lr: learning rate of the pretrained layers (sec. 4.3: 0.01).
        head_lr: learning rate of the new layers (sec. 4.3: 0.01).
        fan_in: a new layer of more inputs than this learns at head_lr · fan_in / inputs; 0 leaves all at head_lr. For AdamW:
            it moves all weights alike, so that a rate that suits narrow layers throws wide ones about.
        warmup: steps over which the rates rise to their value (released code: none).
        drops: shares of the steps after which the rates fall tenfold (sec. 4.3: 70,000 of 100,000).
        optimizer: "sgd" is the paper's; "adamw" learns in few steps.
        momentum: of SGD (sec. 4.3: 0.9).
        weight_decay: of weights; biases have none, and twice the rate with SGD (released code: 5e-4).
        test_scales: shorter sides at test, whose scores and boxes are averaged (sec. 4.3: 480 to 1,152 by 96).
        test_flip: average over mirror images too (sec. 4.3).
        nms: overlap from which the less confident of two boxes of a class is dropped (sec. 4.3: 0.5).
        detections: objects of a picture, at most (released code: 100).
        min_score: least confidence of an object (released code: 1e-5).
        threshold: of the mask's probability (released code: 0.5).
        masks: of the objects that are found: "heads" are the method's (sec. 4.3); "grabcut" asks GrabCut in each box, which finds
            more in the photos that were learned from (0.01 s a box with cue_cut: 64).
    """

    backbone: str = "resnet18_ws"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    levels: tuple[int, ...] = ()
    standardize: bool = False
    frozen: int = 5
    freeze_norm: bool = True
    stride: int = 8
    channels: int = 0
    width: int = 4096
    dropout: float = 0.5
    pooling: Literal["max", "align"] = "max"
    sampling: int = 2
    mask_channels: int = 256
    n_refine: int = 4
    n_mask: int = 4
    n_seed: int = 10
    start_from: str | None = None
    foreground: float = 0.5
    ignore_iou: float = 0.0
    correlation: bool = True
    tau: float = 5.0
    soft_targets: bool = False
    agnostic_on: Literal["all", "foreground"] = "all"
    cue: str = "grabcut"
    cue_side: int = 400
    cue_iterations: int = 5
    cue_cut: int = 0
    proposals: str = "selective_search"
    count: int = 2000
    scales: tuple[int, ...] = tuple(range(480, 1217, 32))
    longest: int = 2000
    flip: bool = True
    crop: float = 0.9
    jitter: float = 1.5
    cache_features: bool = False
    batch: int = 4
    steps: int = 100_000
    lr: float = 0.01
    head_lr: float = 0.01
    fan_in: int = 0
    warmup: int = 0
    drops: tuple[float, ...] = (0.7,)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    test_scales: tuple[int, ...] = (480, 576, 672, 768, 864, 960, 1056, 1152)
    test_flip: bool = True
    nms: float = 0.5
    detections: int = 100
    min_score: float = 1e-5
    threshold: float = 0.5
    masks: Literal["heads", "grabcut"] = "heads"

    needs = frozenset({"image", "tags"})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the tags: knowledge that came in through weights, proposals or masks."""
        return checks.knowledge(self.weights, self.proposals, self.cue)

    def __post_init__(self) -> None:
        limits = {
            "level": 0,
            "frozen": 0,
            "channels": 0,
            "width": 1,
            "sampling": 1,
            "mask_channels": 1,
            "n_refine": 0,
            "n_mask": 0,
        }
        limits |= {
            "n_seed": 1,
            "cue_side": 16,
            "cue_iterations": 1,
            "cue_cut": 0,
            "count": 1,
            "longest": 16,
            "batch": 1,
            "steps": 1,
            "warmup": 0,
        }
        limits |= {"detections": 1, "jitter": 1, "fan_in": 0}
        shares = ("dropout", "foreground", "ignore_iou", "crop", "nms", "min_score")
        faults = checks.faults(self, limits, shares, ("lr", "head_lr", "threshold", "tau", "crop", "foreground"))
        for name in ("scales", "test_scales"):
            sides = getattr(self, name)
            if not sides or min(sides) < 16 or max(sides) > self.longest:
                faults.append(f"{name}={sides}: expected sides from 16 to longest={self.longest}")
        faults += checks.blocks(self.levels)
        if self.ignore_iou > self.foreground:
            faults.append(f"ignore_iou={self.ignore_iou}: expected at most foreground={self.foreground}")
        if self.cache_features and (self.crop < 1 or self.jitter > 1):
            faults.append(f"cache_features: got crop={self.crop}, jitter={self.jitter}; type --crop 1 --jitter 1 with it")
        checks.refuse("PDSL", faults)
