"""Settings of BiOpt (Liu et al., 2020). Defaults are the paper's; what it leaves open is a ruling of ours, said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.recipes import checks

SUMMARY = "BiOpt: masks of new classes from a few examples (Liu et al., 2020)"
TASK = "few_shot"
NEEDS = frozenset({"image", "semantic"})
BASELINE = ""


@dataclass(frozen=True)
class Config:
    """BiOpt: masks of new classes from a few examples, by prototypes that are optimised on the query picture.

    Args:
        backbone: feature network (sec. 5.1: vgg16, resnet50, resnet101); also resnet18, mobilenet_v2, tiny, timm/<name>.
        output_stride: pixels of the picture per cell of the feature map (sec. 5.1: dilations 2 and 4, that is 8).
        weights: a local file of backbone weights, or "imagenet" to download the library's; none starts from random numbers.
        normalize: how those weights want the picture: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
        level: number of leading backbone blocks to use; 0 uses all. Without much training, earlier features are better.
        frozen: number of leading backbone blocks that stay as they are.
        freeze_norm: keep all batch-norm statistics as they are; else an episode's result depends on those beside it (ruling).
        side: every picture is resized to a square of this side (sec. 5.1: 417).
        masks: "semantic" takes class masks, "instances" the union of a class's objects, which may overlap other classes.
        folds: into how many parts the classes are divided (sec. 5.1: 4).
        fold: the part that is new at test, from 0; -1 holds no class back.
        folding: "blocks" of neighbouring classes (PASCAL-5i, COCO-20i split A) or "interleaved" (COCO-20i split B).
        novel: names of the classes to hold back, in the place of folds, fold and folding.
        novel_in_train: what becomes of training pictures that show a new class: "drop" them, or let its pixels be "background" or
            "ignore" (not stated).
        least: pixels of a class in a picture below which it neither teaches nor is asked for; the pictures of PASCAL-5i have
            2,048.
        shots: references of an episode (1 or 5).
        steps: training episodes divided by batch (sec. 5.1: 10,000; the "epochs" there are steps); 0 trains nothing.
        batch: episodes per step, all processes together (8 for one shot, 2 for five).
        augment: mirror, enlarge by 1 to 1.5 and crop the references (sec. 5.1, after CANet); the query stays as it is.
        alpha: factor of the cosine before the softmax (sec. 4.2: 20).
        init: "module" mixes reference and query prototypes (eq. 5); "support" starts from those of the references (InOpt†).
        inner_steps: steps of the inner loop (10); 0 with init "support" is the paper's baseline.
        inner_lr: rate of the inner loop (0.1), on the sum over the positions of the map.
        first_order: take the inner gradient for a constant in the outer loop (the paper: no).
        align: weight of PANet's alignment loss, references segmented by the query's prototypes (the paper has none).
        optimizer: "sgd" is the paper's; "adamw" learns in few steps.
        lr: learning rate (7e-3).
        momentum: of "sgd" (0.9).
        weight_decay: of the optimiser (5e-4).
        drops: steps at which the rate falls to a tenth (COCO-20i: 10,000).
        test_scales: scales of the query whose probabilities are averaged (sec. 5.3, table 5 "w/").
        known: training pictures of each class whose mean prototype `predict` uses for the classes learned from.
        pairs: pairs of reference and picture, with and without the class, that say when a class is absent.
    """

    backbone: str = "resnet50"
    output_stride: int = 8
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"
    level: int = 0
    frozen: int = 0
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
    batch: int = 8
    augment: bool = True
    alpha: float = 20.0
    init: Literal["module", "support"] = "module"
    inner_steps: int = 10
    inner_lr: float = 0.1
    first_order: bool = False
    align: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 7e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    drops: tuple[int, ...] = ()
    test_scales: tuple[float, ...] = (0.7, 1.0, 1.3)
    known: int = 20
    pairs: int = 400

    @property
    def needs(self) -> frozenset[str]:
        """The labels that reach a loss."""
        return frozenset({"image", self.masks})

    @property
    def extra_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the labels: knowledge that came in through weights."""
        return (f"backbone weights {self.weights}",) if self.weights else ()

    def __post_init__(self) -> None:
        limits = {"shots": 1, "batch": 1, "steps": 0, "folds": 1, "fold": -1, "least": 1, "inner_steps": 0, "level": 0}
        limits |= {"frozen": 0, "side": 33, "known": 1, "pairs": 0}
        faults = checks.faults(self, limits, positive=("alpha", "lr", "inner_lr"))
        if self.fold >= self.folds:
            faults.append(
                f"fold={self.fold}: expected at most {self.folds - 1}, the last of {self.folds} folds; they count from 0"
            )
        if self.align < 0:
            faults.append(f"align={self.align}: expected 0 or more")
        if not self.test_scales or min(self.test_scales) <= 0:
            faults.append(f"test_scales={self.test_scales}: expected numbers above 0, at least one")
        checks.refuse("BiOpt", faults)


@dataclass(frozen=True)
class Free(Config):
    __doc__ = Config.__doc__

    # Chosen for photos on a processor: the sheet of measurements is in docs/biopt.md.
    backbone: str = "mobilenet_v2"
    output_stride: int = 16
    weights: str | None = "imagenet"
    level: int = 14
    test_scales: tuple[float, ...] = (1.0,)


# What may still be chosen for a trained model.
AT_TEST = frozenset({"alpha", "init", "inner_steps", "inner_lr", "test_scales", "masks"})
