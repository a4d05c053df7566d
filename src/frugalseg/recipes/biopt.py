"""Settings of BiOpt (Liu et al., 2020). Defaults are the paper's; "ruling" marks what it leaves open and we chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "BiOpt: masks of new classes from a few examples (Liu et al., 2020)"
TASK = "few_shot"
NEEDS = frozenset({"image", "semantic"})
BASELINE = ""


@dataclass(frozen=True)
class Config(groups.Optimizer, groups.Backbone):
    """BiOpt: masks of new classes from a few examples, by prototypes that are optimised on the query image.

    Args:
        backbone: feature network (sec. 5.1: vgg16, resnet50, resnet101); also resnet18, mobilenet_v2, tiny, timm/<name>.
        output_stride: pixels of the image per cell of the feature map (sec. 5.1: dilations 2 and 4, that is 8).
        level: number of leading backbone blocks to use; 0 uses all. Without much training, earlier features are better.
        freeze_norm: keep all batch-norm statistics as they are; else an episode's result depends on those beside it (ruling).
        side: every image is resized to a square of this side (sec. 5.1: 417).
        masks: "semantic" takes class masks, "instances" the union of a class's objects, which may overlap other classes.
        folds: into how many parts the classes are divided (sec. 5.1: 4).
        fold: the part that is new at test, from 0; -1 holds no class back.
        folding: "blocks" of neighbouring classes (PASCAL-5i, COCO-20i split A) or "interleaved" (COCO-20i split B).
        novel: names of the classes to hold back, instead of folds, fold and folding.
        novel_in_train: what to do with training images that show a new class: "drop" them, or let its pixels be "background" or
            "ignore" (not stated).
        least: pixels of a class in an image below which the image is neither learned from nor asked about; the images of
            PASCAL-5i have 2,048.
        shots: references of an episode (1 or 5).
        steps: training episodes divided by batch (sec. 5.1: 10,000; the "epochs" there are steps); 0 trains nothing.
        batch: episodes per step, all processes together (8 for one shot, 2 for five).
        augment: mirror, enlarge by 1 to 1.5 and crop the references (sec. 5.1, after CANet); the query stays as it is.
        alpha: factor of the cosine before the softmax (sec. 4.2: 20).
        init: "module" mixes reference and query prototypes (eq. 5); "support" starts from those of the references (InOpt†).
        inner_steps: steps of the inner loop (10); 0 with init "support" is the paper's baseline.
        inner_lr: learning rate of the inner loop (0.1), on the sum over the positions of the map.
        first_order: treat the inner gradient as a constant in the outer loop (the paper: no).
        align: weight of PANet's alignment loss, references segmented by the query's prototypes (the paper has none).
        lr: learning rate (7e-3).
        drops: steps at which the learning rate falls to a tenth (COCO-20i: 10,000).
        test_scales: scales of the query whose probabilities are averaged (sec. 5.3, table 5 "w/").
        known: training images of each class whose mean prototype `predict` uses for the classes learned from.
        pairs: pairs of reference and image, with and without the class, on which the confidence is calibrated.
    """

    output_stride: int = 8
    freeze_norm: bool = True
    side: int = 417
    masks: Literal["semantic", "instances"] = "semantic"
    folds: int = 4
    fold: int = -1
    folding: Literal["blocks", "interleaved"] = "blocks"
    novel: tuple[str, ...] = ()
    novel_in_train: Literal["drop", "background", "ignore"] = "drop"
    least: int = 1
    shots: int = 1
    steps: int = 10_000
    augment: bool = True
    alpha: float = 20.0
    init: Literal["module", "support"] = "module"
    inner_steps: int = 10
    inner_lr: float = 0.1
    first_order: bool = False
    align: float = 0.0
    lr: float = 7e-3
    drops: tuple[int, ...] = ()
    test_scales: tuple[float, ...] = (0.7, 1.0, 1.3)
    known: int = 20
    pairs: int = 400

    minimum: ClassVar[groups.Limits] = {
        "side": 33, "folds": 1, "fold": -1, "least": 1, "shots": 1, "steps": 0, "inner_steps": 0, "known": 1, "pairs": 0,
    }  # fmt: skip
    positive: ClassVar[tuple[str, ...]] = ("alpha", "inner_lr")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The labels that reach a loss."""
        return frozenset({"image", self.masks})

    def faults(self) -> list[str]:
        """Also a fold that is not there, a negative weight, and scales that are not above 0."""
        faults = super().faults()
        if self.fold >= self.folds:
            faults.append(
                f"fold={self.fold}: expected at most {self.folds - 1}, the last of {self.folds} folds; they count from 0"
            )
        if self.align < 0:
            faults.append(f"align={self.align}: expected 0 or more")
        if not self.test_scales or min(self.test_scales) <= 0:
            faults.append(f"test_scales={self.test_scales}: expected numbers above 0, at least one")
        return faults


@dataclass(frozen=True)
class TrainingFree(Config):
    """BiOpt with a ready-made feature network, without training."""

    # Chosen for photos on a CPU: the measurements are in docs/biopt.md.
    backbone: str = "mobilenet_v2"
    output_stride: int = 16
    weights: str | None = "imagenet"
    level: int = 14
    test_scales: tuple[float, ...] = (1.0,)


# Settings that may still be changed for a trained model.
TEST_SETTINGS = frozenset({"alpha", "init", "inner_steps", "inner_lr", "test_scales", "masks"})
