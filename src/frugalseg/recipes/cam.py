"""Settings of CAM (Zhou et al., CVPR 2016) as object masks. Defaults are the paper's; others say whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "CAM: class activation maps as object masks (Zhou et al., CVPR 2016), the baselines beside PDSL"
TASK = "instances"
NEEDS = frozenset({"image", "tags"})
BASELINE = ""


@dataclass(frozen=True)
class Config:
    """CAM: object masks from class activation maps, the baselines beside PDSL.

    Args:
        backbone: feature network (sec. 3: VGG-16 without its last layers); also resnet18/50/101, mobilenet_v2, tiny, timm/<name>.
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all.
        levels: blocks whose maps are joined, counted from 1; empty takes the last map, as the paper does.
        standardize: take mean and deviation off every channel before the linear layer; the paper does not.
        frozen: number of leading backbone blocks that stay as they are.
        freeze_norm: keep all batch-norm statistics of the backbone as they are.
        output_stride: pixels of the image per cell of the map (sec. 3: 14 x 14 cells of 224 pixels, 16).
        label_loss: "bce" is multi-label cross-entropy, the paper's softmax being for one class; "squared" is AE-PSL's.
        resize: longer side of a picture before cropping and at test, in pixels; 0 keeps its size.
        crop: side of the random training crop (VGG-16: 224).
        scales: range of the random zoom of a training crop; the paper has none.
        cam_scales: picture scales whose maps are averaged at test.
        cam_flip: average with the mirrored picture's map at test.
        fraction: share of a map's maximum above which the object is (sec. 3.2: 0.2).
        smallest: share of the picture below which a connected part is no object, unless it is its class's largest (ruling, after
            IRN: 0.01).
        objects: "parts" are the connected parts of that; "proposal" takes for each of them the proposal that overlaps its box
            most, with the foreground that the cue finds in it.
        proposals: "selective_search", "grid", "random", or a file or folder of boxes.
        count: proposals of a picture, at most (PDSL: 2,000).
        cue: what tells foreground in a proposal: "grabcut", "superpixels" that are salient, or a folder of masks made before.
        cue_side: longer side of the picture for the cue (PDSL's code: 400).
        cue_iterations: of GrabCut (PDSL's code: 5).
        cue_cut: longer side of a box in the cut-out that GrabCut sees; 0: it sees the whole picture (PDSL's code).
        min_score: least confidence of an object (ruling).
        detections: objects of a picture, at most (PDSL's code: 100).
        batch: pictures per step, all processes together (AE-PSL: 30).
        epochs: passes over the data (AE-PSL: 15).
        lr: learning rate of the backbone (AE-PSL: 1e-3), which falls to zero with power 0.9.
        head_lr: learning rate of the linear layer (AE-PSL: 1e-2).
        optimizer: "sgd", or "adamw", which learns in few steps.
        momentum: of SGD (0.9).
        weight_decay: of either (5e-4).
    """

    backbone: str = "vgg16"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    levels: tuple[int, ...] = ()
    standardize: bool = False
    frozen: int = 0
    freeze_norm: bool = False
    output_stride: int = 16
    label_loss: Literal["bce", "squared"] = "bce"
    resize: int = 0
    crop: int = 224
    scales: tuple[float, float] = (1.0, 1.0)
    cam_scales: tuple[float, ...] = (1.0,)
    cam_flip: bool = False
    fraction: float = 0.2
    smallest: float = 0.01
    objects: Literal["parts", "proposal"] = "parts"
    proposals: str = "selective_search"
    count: int = 2000
    cue: str = "grabcut"
    cue_side: int = 400
    cue_iterations: int = 5
    cue_cut: int = 0
    min_score: float = 0.05
    detections: int = 100
    batch: int = 30
    epochs: float = 15
    lr: float = 1e-3
    head_lr: float = 1e-2
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    needs = frozenset({"image", "tags"})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the tags: knowledge that came in through weights, proposals or masks."""
        return checks.knowledge(self.weights, *((self.proposals, self.cue) if self.objects == "proposal" else ()))

    def __post_init__(self) -> None:
        limits = {
            "level": 0,
            "frozen": 0,
            "crop": 16,
            "count": 1,
            "cue_side": 16,
            "cue_iterations": 1,
            "cue_cut": 0,
            "detections": 1,
            "batch": 1,
        }
        positive = ("epochs", "lr", "head_lr")
        faults = checks.faults(self, limits, ("fraction", "smallest", "min_score"), positive)
        faults += checks.blocks(self.levels)
        if not self.cam_scales or min(*self.scales, *self.cam_scales) <= 0:
            faults.append("scales, cam_scales: expected numbers above 0, at least one")
        checks.refuse("CAM", faults)
