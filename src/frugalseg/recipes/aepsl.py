"""Settings of AE-PSL (Wei et al., CVPR 2017). Defaults are the paper's; what it leaves open is a ruling of ours, marked so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "AE-PSL: adversarial erasing and prohibitive learning (Wei et al., CVPR 2017)"
TASK = "semantic"
NEEDS = frozenset({"image", "tags"})
BASELINE = ""


@dataclass(frozen=True)
class Config(
    groups.Averaging,
    groups.Refinement,
    groups.ActivationMaps,
    groups.Head,
    groups.Crops,
    groups.TwoRates,
    groups.Backbone,
):
    """AE-PSL: semantic segmentation from image tags.

    Args:
        output_stride: pixels of the image per cell of the feature map (DeepLab-LargeFOV: 8).
        levels: blocks whose maps are joined to say where things are, in CAM and segmentation branch, counted from 1; the label
            branch beside the segmentation branch keeps the last map. Empty takes the last map for all, as the paper does.
        rounds: adversarial-erasing rounds (3; sec. 4.3.1).
        stop: "fixed" runs all rounds; "auto" stops when the converged loss passes stop_ratio times that of round 1.
        stop_ratio: see stop (ruling, after the loss levels of fig. 5).
        erase: "fraction_of_max" erases map > erase_fraction x maximum; "top_percent" the highest erase_fraction of the pixels.
        erase_fraction: "top 20 %" of sec. 4.1.
        reuse: "weights" starts every later network from the backbone weights, "previous" from the network before it (not stated).
        saliency: "boundary_connectivity" (built in, no learning) or a folder of maps (PNG, 0..255).
        background: saliency below it is background (0.12).
        indoor_background: the same for images with an indoor tag (0.06).
        indoor: tags that make an image indoor.
        mined: a run folder whose classifiers and mined regions are taken instead of mining again.
        psl: learn online from the network's own prohibited masks too (sec. 3.2).
        prohibit_by: what weights the score maps in training: "predicted" v, ground-truth "tags", or "none".
        relative: divide v by the image's largest, in training and at test, so that its surest class meets background as an
            equal however unsure the classifier is; the paper does not.
        background_weight: weight of the background's score map beside v (1; sec. 3.2); more leaves less to the classes.
        warmup: share of the steps on S alone before the online mask starts (ruling).
        plus: rounds of re-training on the CRF-refined predictions of the training set (PSL++: 1).
        label_stride: pixels between two points of the segmentation loss; scores are upsampled to it (DeepLab: output_stride).
        segment: "network" trains the segmentation network; "cam" stops at the first classifier, whose maps are the prediction.
        threshold: confidences below it are set to 0 at test (p = 0.1).
        classifier_epochs: passes over the data in each erasing round (15).
        epochs: passes over the data for each segmentation network (15).
        lr_schedule: "step" multiplies by 0.1 after drop_epochs; "poly" falls to zero with power 0.9.
        drop_epochs: passes after which the rate drops (6).
        drops: shares of the steps after which the rate drops, in the place of drop_epochs.
        head: deprecated; "fcn" has two 3 x 3 layers with batch norm in the place of LargeFOV: see the method fcn.
        masks: deprecated; "given" learns from the data's own masks in the place of mined ones: see the method fcn.
        label_branch: deprecated; false, with masks=given, leaves the segmentation branch alone: see the method fcn.
    """

    backbone: str = "vgg16"
    output_stride: int = 8
    rounds: int = 3
    stop: Literal["fixed", "auto"] = "fixed"
    stop_ratio: float = 2.0
    label_loss: Literal["squared", "bce"] = "squared"
    erase: Literal["fraction_of_max", "top_percent"] = "fraction_of_max"
    erase_fraction: float = 0.2
    reuse: Literal["weights", "previous"] = "weights"
    saliency: str = "boundary_connectivity"
    background: float = 0.12
    indoor_background: float = 0.06
    indoor: tuple[str, ...] = ("chair", "diningtable", "sofa", "tvmonitor")
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
    batch: int = 30
    classifier_epochs: float = 15
    epochs: float = 15
    lr_schedule: Literal["step", "poly"] = "step"
    drop_epochs: float = 6
    drops: tuple[float, ...] = ()
    head: Literal["largefov", "fcn"] = "largefov"
    masks: Literal["mined", "given"] = "mined"
    label_branch: bool = True

    minimum: ClassVar[groups.Limits] = {"rounds": 1, "plus": 0, "label_stride": 1}
    shares: ClassVar[tuple[str, ...]] = ("erase_fraction", "background", "indoor_background", "threshold", "warmup")
    positive: ClassVar[tuple[str, ...]] = ("classifier_epochs", "epochs", "stop_ratio", "background_weight")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The labels that reach a loss."""
        used = {"tags": self.label_branch, "semantic": self.masks == "given"}
        return frozenset({"image"} | {name for name, there in used.items() if there})

    @property
    def learns_online(self) -> bool:
        """Whether the online mask teaches; beside real masks it has nothing to add."""
        return self.psl and self.masks == "mined"

    @property
    def deprecated(self) -> tuple[str, ...]:
        """The settings, as they are typed, that belong to the method fcn now."""
        typed = {
            "--masks given": self.masks == "given",
            "--no-label-branch": not self.label_branch,
            "--head fcn": self.head == "fcn",
        }
        return tuple(words for words, there in typed.items() if there)

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """What came in through weights or saliency."""
        notes = super().external_supervision
        if self.masks == "mined" and self.saliency != "boundary_connectivity":
            return *notes, f"saliency maps {self.saliency} (learned from masks, perhaps)"
        return notes

    def faults(self) -> list[str]:
        """Also drops outside the training, points of the loss between cells, and nothing to learn classes from."""
        found = super().faults()
        found += [f"drops={share}: expected a number from 0 to 1" for share in self.drops if not 0 <= share <= 1]
        if self.label_stride > 0 and self.output_stride % self.label_stride:
            found.append(f"label_stride={self.label_stride}: expected a divisor of output_stride={self.output_stride}")
        if not self.label_branch and self.masks == "mined":
            found.append("label_branch=False: nothing tells where the classes are; expected masks=given")
        return found
