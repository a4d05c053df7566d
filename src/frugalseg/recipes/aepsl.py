"""Settings of AE-PSL (Wei et al., CVPR 2017). Defaults are the paper's; what it leaves open is a ruling of ours, said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "AE-PSL: adversarial erasing and prohibitive learning (Wei et al., CVPR 2017)"
TASK = "semantic"
NEEDS = frozenset({"image", "tags"})
BASELINE = ""


@dataclass(frozen=True)
class Config:
    """AE-PSL: semantic segmentation from image tags.

    Args:
        backbone: feature network (sec. 4.1: VGG-16); also resnet18/50/101, mobilenet_v2, tiny, timm/<name>.
        output_stride: pixels of the image per cell of the feature map (DeepLab-LargeFOV: 8).
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all.
        levels: blocks whose maps are joined to tell where things are, in CAM and segmentation branch, counted from 1; the label
            branch beside the segmentation branch keeps the last map. Empty takes the last map for all, as the paper does.
        standardize: take mean and deviation off every channel before the linear layers; the paper does not.
        frozen: number of leading backbone blocks that stay as they are.
        freeze_norm: keep all batch-norm statistics of the backbone as they are.
        head: "largefov" is DeepLab's (sec. 4.1); "fcn" two 3 x 3 layers with batch norm, as pretrained backbones are compared by.
        channels: channels of LargeFOV's fc6 and fc7 (1024); 0 leaves the head out, for few pictures on ready-made features.
        dilation: dilation of fc6 (12).
        dropout: after fc6 and fc7 (0.5).
        resize: longer side of a picture before cropping, in pixels; 0 keeps its size.
        crop: side of the random training crop (321).
        scales: range of the random zoom of a training crop; the paper has none.
        rounds: adversarial-erasing rounds (3; sec. 4.3.1).
        stop: "fixed" runs all rounds; "auto" stops when the converged loss passes stop_ratio times that of round 1.
        stop_ratio: see stop (ruling, after the loss levels of fig. 5).
        label_loss: "squared" is the HCP form (softmax against tags that sum to 1); "bce" is multi-label cross-entropy.
        erase: "fraction_of_max" erases map > erase_fraction x maximum; "top_percent" the highest erase_fraction of the pixels.
        erase_fraction: "top 20 %" of sec. 4.1.
        cam_scales: picture scales whose maps are averaged when mining.
        cam_flip: average with the mirrored picture's map when mining.
        reuse: "weights" starts every later network from the backbone weights, "previous" from the network before it (not stated).
        saliency: "boundary_connectivity" (built in, no learning) or a folder of maps (PNG, 0..255).
        background: saliency below it is background (0.12).
        indoor_background: the same for pictures with an indoor tag (0.06).
        indoor: tags that make a picture indoor.
        masks: "mined" learns from tags alone; "given" trains the same network on the data's own masks, as the upper bound.
        label_branch: tell the picture's classes beside the segmentation branch and weight its maps by them (fig. 3b). False, with
            masks="given", leaves a plain FCN that needs no tags.
        mined: a run folder whose classifiers and mined regions are taken instead of mining again.
        psl: learn online from the network's own prohibited masks too (sec. 3.2).
        prohibit_by: what weights the score maps in training: "predicted" v, ground-truth "tags", or "none".
        relative: divide v by the picture's largest, in training and at test, so that its surest class meets background as an
            equal however unsure the classifier is; the paper does not.
        background_weight: weight of the background's score map beside v (1; sec. 3.2); more leaves less to the classes.
        warmup: share of the steps on S alone before the online mask starts (ruling).
        plus: rounds of re-training on the CRF-refined predictions of the training set (PSL++: 1).
        label_stride: pixels between two points of the segmentation loss; scores are up-sampled to it (DeepLab: output_stride).
        segment: "network" trains the segmentation network; "cam" stops at the first classifier, whose maps are the prediction.
        threshold: confidences below it are set to 0 at test (p = 0.1).
        crf: refine predictions by DenseCRF at test.
        crf_side: longer side at which the DenseCRF runs, in pixels; larger photos are refined at it (bounds memory and time).
        crf_iterations: mean-field iterations (10).
        crf_gaussian: weight and width in pixels of the smoothness kernel (DeepLab v1).
        crf_bilateral: weight, width in pixels and width in grey levels of the appearance kernel (DeepLab v1).
        test_scales: picture scales whose scores are averaged at test.
        test_flip: average with the mirrored picture's scores at test.
        batch: pictures per step, all processes together (30).
        classifier_epochs: passes over the data in each erasing round (15).
        epochs: passes over the data for each segmentation network (15).
        lr: learning rate of the trunk (1e-3).
        head_lr: learning rate of the last layers (1e-2).
        lr_schedule: "step" multiplies by 0.1 after drop_epochs; "poly" falls to zero with power 0.9.
        drop_epochs: passes after which the rate drops (6).
        drops: shares of the steps after which the rate drops, in the place of drop_epochs.
        optimizer: "sgd" is the paper's; "adamw" learns in few steps on features whose mean dwarfs their differences.
        momentum: of SGD (0.9).
        weight_decay: of either (5e-4).
    """

    backbone: str = "vgg16"
    output_stride: int = 8
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    levels: tuple[int, ...] = ()
    standardize: bool = False
    frozen: int = 0
    freeze_norm: bool = False
    head: Literal["largefov", "fcn"] = "largefov"
    channels: int = 1024
    dilation: int = 12
    dropout: float = 0.5
    resize: int = 0
    crop: int = 321
    scales: tuple[float, float] = (1.0, 1.0)
    rounds: int = 3
    stop: Literal["fixed", "auto"] = "fixed"
    stop_ratio: float = 2.0
    label_loss: Literal["squared", "bce"] = "squared"
    erase: Literal["fraction_of_max", "top_percent"] = "fraction_of_max"
    erase_fraction: float = 0.2
    cam_scales: tuple[float, ...] = (1.0,)
    cam_flip: bool = False
    reuse: Literal["weights", "previous"] = "weights"
    saliency: str = "boundary_connectivity"
    background: float = 0.12
    indoor_background: float = 0.06
    indoor: tuple[str, ...] = ("chair", "diningtable", "sofa", "tvmonitor")
    masks: Literal["mined", "given"] = "mined"
    label_branch: bool = True
    mined: str | None = None
    psl: bool = True
    prohibit_by: Literal["predicted", "tags", "none"] = "predicted"
    relative: bool = False
    background_weight: float = 1.0
    warmup: float = 0.2
    plus: int = 1
    label_stride: int = 8
    segment: Literal["network", "cam"] = "network"
    threshold: float = 0.1
    crf: bool = True
    crf_side: int = 512
    crf_iterations: int = 10
    crf_gaussian: tuple[float, float] = (3.0, 3.0)
    crf_bilateral: tuple[float, float, float] = (4.0, 121.0, 5.0)
    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False
    batch: int = 30
    classifier_epochs: float = 15
    epochs: float = 15
    lr: float = 1e-3
    head_lr: float = 1e-2
    lr_schedule: Literal["step", "poly"] = "step"
    drop_epochs: float = 6
    drops: tuple[float, ...] = ()
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    @property
    def needs(self) -> frozenset[str]:
        """The labels that reach a loss."""
        used = {"tags": self.label_branch, "semantic": self.masks == "given"}
        return frozenset({"image"} | {name for name, there in used.items() if there})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the labels: knowledge that came in through weights or saliency."""
        notes = [f"backbone weights {self.weights}"] if self.weights else []
        if self.masks == "mined" and self.saliency != "boundary_connectivity":
            notes.append(f"saliency maps {self.saliency} (learned from masks, perhaps)")
        return tuple(notes)

    def __post_init__(self) -> None:
        limits = {"rounds": 1, "plus": 0, "batch": 1, "channels": 0, "crop": 16, "dilation": 1, "label_stride": 1, "level": 0}
        limits |= {"frozen": 0, "crf_iterations": 1, "crf_side": 16}
        shares = ("erase_fraction", "background", "indoor_background", "threshold", "dropout", "warmup")
        positive = ("classifier_epochs", "epochs", "lr", "head_lr", "stop_ratio", "background_weight")
        faults = checks.faults(self, limits, shares, positive)
        faults += checks.blocks(self.levels)
        if not self.cam_scales or not self.test_scales or min(*self.scales, *self.cam_scales, *self.test_scales) <= 0:
            faults.append("scales, cam_scales, test_scales: expected numbers above 0, at least one")
        if not self.label_branch and self.masks == "mined":
            faults.append("label_branch=False: nothing tells where the classes are; expected masks=given")
        faults += [f"drops={share}: expected a number from 0 to 1" for share in self.drops if not 0 <= share <= 1]
        if self.output_stride % self.label_stride:
            faults.append(f"label_stride={self.label_stride}: expected a divisor of output_stride={self.output_stride}")
        checks.refuse("AE-PSL", faults)
