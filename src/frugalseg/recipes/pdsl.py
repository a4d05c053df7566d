"""Settings of PDSL (Shen et al., ICCV 2021). Defaults are the paper's; where it is silent, its released code's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "PDSL: parallel detection and segmentation from tags (Shen et al., ICCV 2021)"
TASK = "instances"
NEEDS = frozenset({"image", "tags"})
BASELINE = "cam"


@dataclass(frozen=True)
class Config(
    groups.Cue,
    groups.Proposals,
    groups.PooledFeatures,
    groups.Levels,
    groups.Overlapping,
    groups.StepDecay,
    groups.WideLayers,
    groups.TwoRates,
    groups.Backbone,
):
    """PDSL: object masks from image tags.

    Args:
        backbone: feature network (sec. 4.3: resnet18_ws, resnet50_ws, resnet101_ws); also vgg16_plain (released code), vgg16
            (DeepLab's, overlapping pools), resnet18/50/101, mobilenet_v2, tiny, timm/<name>.
        standardize: subtract each channel's mean and divide by its standard deviation, over up to 100 training images; not in the
            paper.
        stride: pixels of the image per cell of the map (released code: 8).
        mask_channels: of the mask heads' four convolutions (sec. 3.3: 256).
        n_refine: heads that refine the detections, n^r (sec. 4.3: 4).
        n_mask: mask heads that know classes, n^m (sec. 4.3: 4).
        n_seed: proposals of a tag for which the cue is asked, n^seed (sec. 4.3: 10).
        start_from: a finished run, such as one of cam, whose objects teach the first refinement head in place of WSDDN; null:
            WSDDN, the paper's. On frozen features and few photos WSDDN finds parts of objects, which the heads after it learn.
        foreground: overlap with a pseudo object from which a proposal has its class (released code: 0.5).
        ignore_iou: overlap below which a proposal is ignored in refinement (released code: 0; OICR has 0.1).
        correlation: make masks and detections agree (sec. 3.4).
        tau: how closely a mask's activation follows its highest pixels (sec. 3.4: 5).
        soft_targets: mask heads learn the probabilities of the one before (eq. 5), not its mask at 0.5 (released code).
        agnostic_on: proposals that teach the class-agnostic mask head: "all" (eq. 5), or the "foreground" alone (released code).
        cue: what finds the foreground in a box: "grabcut" (sec. 3.3), "superpixels" that are salient, by a folder of grey maps
            with "superpixels:FOLDER", "gradient" of the detector (the cascade of sec. 4.4), or a folder of masks.
        proposals: "selective_search" (sec. 3.1), "grid", "random", or a file or folder of boxes (sec. 4.3: MCG's).
        scales: shorter sides of a training image, one of which is drawn (sec. 4.3: 480 to 1,216 by 32).
        longest: its longer side, at most (released code: 2,000).
        flip: mirror half of the training images.
        crop: least share of an image's sides that is kept (sec. 4.3: 0.9); the tags stay.
        jitter: largest factor of exposure and saturation (sec. 4.3: 1.5); 1 keeps the colours.
        cache_features: compute a frozen backbone once for each image, scale and mirror image, and learn from files; needs
            crop 1 and jitter 1.
        weight_decay: of weights; biases have none, and twice the rate with SGD (released code: 5e-4).
        test_scales: shorter sides at test, whose scores and boxes are averaged (sec. 4.3: 480 to 1,152 by 96).
        test_flip: average over mirror images too (sec. 4.3).
        masks: of the objects that are found: "heads" are the method's (sec. 4.3); "grabcut" asks GrabCut in each box, which finds
            more in the photos that were learned from (0.01 s a box with cue_cut 64).
    """

    backbone: str = "resnet18_ws"
    frozen: int = 5  # released code: all blocks
    freeze_norm: bool = True  # released code
    stride: int = 8
    pooling: Literal["max", "align"] = "max"  # sec. 3.1
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
    scales: tuple[int, ...] = tuple(range(480, 1217, 32))
    longest: int = 2000
    flip: bool = True
    crop: float = 0.9
    jitter: float = 1.5
    cache_features: bool = False
    batch: int = 4  # sec. 4.3
    lr: float = 0.01  # sec. 4.3
    drops: tuple[float, ...] = (0.7,)  # sec. 4.3: 70,000 of 100,000
    test_scales: tuple[int, ...] = (480, 576, 672, 768, 864, 960, 1056, 1152)
    test_flip: bool = True
    min_score: float = 1e-5  # released code
    masks: Literal["heads", "grabcut"] = "heads"

    needs = frozenset({"image", "tags"})
    minimum: ClassVar[groups.Limits] = {
        "mask_channels": 1, "n_refine": 0, "n_mask": 0, "n_seed": 1, "longest": 16, "jitter": 1
    }  # fmt: skip
    shares: ClassVar[tuple[str, ...]] = ("foreground", "ignore_iou", "crop")
    positive: ClassVar[tuple[str, ...]] = ("tau", "crop", "foreground")

    def faults(self) -> list[str]:
        """Also scales beyond the longest side, and settings that exclude each other."""
        faults = super().faults()
        for name in ("scales", "test_scales"):
            sides = getattr(self, name)
            if not sides or min(sides) < 16 or max(sides) > self.longest:
                faults.append(f"{name}={sides}: expected sides from 16 to longest={self.longest}")
        if self.ignore_iou > self.foreground:
            faults.append(f"ignore_iou={self.ignore_iou}: expected at most foreground={self.foreground}")
        if self.cache_features and (self.crop < 1 or self.jitter > 1):
            faults.append(f"cache_features: got crop={self.crop}, jitter={self.jitter}; type --crop 1 --jitter 1 with it")
        return faults
