"""Groups of settings that several methods share, each documented once. A recipe's `Config` is made of them:

    @dataclass(frozen=True)
    class Config(groups.Optimizer, groups.Backbone):
        lr: float = 0.01            # another default
        steps: int = 1000           # a setting of its own

        needs = frozenset({"image", "tags"})

Its docstring says what the method is and explains its own settings, and those that mean something else than in the group.
Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import checks

Limits = Mapping[str, float]
# Sources of proposals and cues that bring in no outside supervision; "rpn" is trained with the method.
UNSUPERVISED_PROPOSALS = ("", "selective_search", "grid", "random", "rpn")
UNSUPERVISED_CUES = ("", "grabcut", "superpixels", "gradient")


@dataclass(frozen=True)
class Settings:
    """Settings of a method. Each group names the limits of its own settings; a recipe has those of all its groups."""

    needs: ClassVar[frozenset[str]]  # the `Sample` fields it learns from; a property where settings decide
    repeats: ClassVar[bool] = True  # whether a step may show an image twice
    minimum: ClassVar[Limits] = {}  # the smallest value of numbers
    shares: ClassVar[tuple[str, ...]] = ()  # numbers from 0 to 1
    positive: ClassVar[tuple[str, ...]] = ()  # numbers above 0

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """What a report must say beside the labels: knowledge that came in through weights, proposals or masks of others."""
        return ()

    def faults(self) -> list[str]:
        """What is wrong with the settings, one line each; a recipe adds what its own settings need of each other."""
        minimum = {name: low for kind in reversed(type(self).__mro__) for name, low in vars(kind).get("minimum", {}).items()}
        return checks.faults(self, minimum, *(_collected(type(self), name) for name in ("shares", "positive")))

    def __post_init__(self) -> None:
        checks.refuse(type(self).__module__.rpartition(".")[2], self.faults())


def _collected(kind: type, name: str) -> Iterable[str]:
    """The names in a tuple of every class that a recipe is made of, each once."""
    return dict.fromkeys(item for base in kind.__mro__ for item in vars(base).get(name, ()))


@dataclass(frozen=True)
class Weights(Settings):
    """Backbone.

    Args:
        backbone: feature network: vgg16, vgg16_plain, resnet18/50/101 (with _ws for weak supervision), mobilenet_v2, tiny, or
            timm/<name>.
        weights: a run folder or local file of backbone weights, or "imagenet" to download the library's; none starts from
            random numbers.
        normalize: how those weights want the image: "imagenet" (torchvision's), "half" (-1 to 1: TensorFlow's), "caffe" (BGR).
    """

    backbone: str = "resnet50"
    weights: str | None = None
    normalize: Literal["imagenet", "half", "caffe"] = "imagenet"

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """The backbone's weights, and what other groups add."""
        return *([f"backbone weights {self.weights}"] if self.weights else []), *super().external_supervision


@dataclass(frozen=True)
class Backbone(Weights):
    """Backbone.

    Args:
        level: number of leading backbone blocks to use; 0 uses all.
        frozen: number of leading backbone blocks that stay as they are.
        freeze_norm: keep all batch-norm statistics of the backbone as they are.
    """

    level: int = 0
    frozen: int = 0
    freeze_norm: bool = False

    minimum: ClassVar[Limits] = {"level": 0, "frozen": 0}


@dataclass(frozen=True)
class Optimizer(Settings):
    """Optimiser.

    Args:
        batch: images per step, all processes together.
        lr: learning rate of the pretrained layers.
        optimizer: "sgd" is the papers'; "adamw" learns in few steps.
        momentum: of SGD.
        weight_decay: of either.
    """

    batch: int = 8
    lr: float = 1e-3
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    minimum: ClassVar[Limits] = {"batch": 1}
    positive: ClassVar[tuple[str, ...]] = ("lr",)


@dataclass(frozen=True)
class TwoRates(Optimizer):
    """Optimiser.

    Args:
        head_lr: learning rate of the new layers.
    """

    head_lr: float = 1e-2

    positive: ClassVar[tuple[str, ...]] = ("head_lr",)


@dataclass(frozen=True)
class WideLayers(Settings):
    """Optimiser.

    Args:
        fan_in: a new layer of more inputs than this learns at head_lr · fan_in / inputs; 0 leaves all at head_lr. For AdamW: it
            moves all weights alike, so a rate that suits narrow layers is too high for wide ones.
    """

    fan_in: int = 0

    minimum: ClassVar[Limits] = {"fan_in": 0}


@dataclass(frozen=True)
class StepDecay(Settings):
    """Optimiser.

    Args:
        steps: of the training.
        warmup: steps over which the rates rise to their value.
        drops: shares of the steps after which the rates fall tenfold.
    """

    steps: int = 100_000
    warmup: int = 0
    drops: tuple[float, ...] = ()

    minimum: ClassVar[Limits] = {"steps": 1, "warmup": 0}


@dataclass(frozen=True)
class Scale(Settings):
    """Size of the images.

    Args:
        scale: shorter side of an image, in pixels.
        longest: its longer side, at most.
        flip: mirror half of the training images.
    """

    scale: int = 600
    longest: int = 1000
    flip: bool = True

    minimum: ClassVar[Limits] = {"scale": 16, "longest": 16}

    def faults(self) -> list[str]:
        """Also a longer side below the shorter one."""
        return super().faults() + (
            [f"longest={self.longest}: expected at least scale={self.scale}"] if self.longest < self.scale else []
        )


@dataclass(frozen=True)
class Proposals(Settings):
    """Object proposals.

    Args:
        proposals: "selective_search", "grid", "random", or a file or folder of boxes.
        count: proposals of an image, at most.
    """

    proposals: str = "selective_search"
    count: int = 2000

    minimum: ClassVar[Limits] = {"count": 1}

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """Proposals that others made, and what other groups add."""
        others = self.proposals not in UNSUPERVISED_PROPOSALS
        return *super().external_supervision, *([f"proposals {self.proposals} (learned from masks, perhaps)"] if others else [])


@dataclass(frozen=True)
class PooledFeatures(Settings):
    """Features of a proposal.

    Args:
        channels: of a 1x1 convolution that narrows the map before pooling; 0 has none.
        width: of the two fully connected layers on the pooled features.
        dropout: after each of them.
        pooling: "max" is the RoI pooling of Fast R-CNN; "align" is RoIAlign, which samples between the points of the map.
        sampling: points a side whose mean is one pooled cell, with "align".
    """

    channels: int = 0
    width: int = 4096
    dropout: float = 0.5
    pooling: Literal["max", "align"] = "align"
    sampling: int = 2

    minimum: ClassVar[Limits] = {"channels": 0, "width": 1, "sampling": 1}
    shares: ClassVar[tuple[str, ...]] = ("dropout",)


@dataclass(frozen=True)
class RegionSampling(Settings):
    """Regions of a training step.

    Args:
        rois: proposals of an image to learn from.
        rois_foreground: share of objects among them, at most.
    """

    rois: int = 64
    rois_foreground: float = 0.25

    minimum: ClassVar[Limits] = {"rois": 1}
    shares: ClassVar[tuple[str, ...]] = ("rois_foreground",)


@dataclass(frozen=True)
class Cue(Settings):
    """Cue: what finds the foreground in a box.

    Args:
        cue: "grabcut", "superpixels", "superpixels:FOLDER" of grey maps, or a folder of masks of object ids.
        cue_side: longer side of the image that the cue sees, in pixels.
        cue_iterations: of GrabCut.
        cue_cut: let GrabCut see the box and a little around it alone, with its longer side shrunk to so many pixels; 0: all.
    """

    cue: str = "grabcut"
    cue_side: int = 400
    cue_iterations: int = 5
    cue_cut: int = 0

    minimum: ClassVar[Limits] = {"cue_side": 16, "cue_iterations": 1, "cue_cut": 0}

    @property
    def external_supervision(self) -> tuple[str, ...]:
        """Masks that others made, and what other groups add."""
        others = self.cue not in UNSUPERVISED_CUES
        return *super().external_supervision, *([f"masks {self.cue} as the cue (learned from masks, perhaps)"] if others else [])


@dataclass(frozen=True)
class Detections(Settings):
    """Objects that are put out.

    Args:
        detections: objects of an image, at most.
        min_score: least confidence of an object.
    """

    detections: int = 100
    min_score: float = 0.05

    minimum: ClassVar[Limits] = {"detections": 1}
    shares: ClassVar[tuple[str, ...]] = ("min_score",)


@dataclass(frozen=True)
class Overlapping(Detections):
    """Objects that are put out.

    Args:
        nms: overlap from which the less confident of two boxes of a class is dropped.
        threshold: of the mask's probability.
    """

    nms: float = 0.5
    threshold: float = 0.5

    shares: ClassVar[tuple[str, ...]] = ("nms", "threshold")
    positive: ClassVar[tuple[str, ...]] = ("threshold",)


@dataclass(frozen=True)
class Levels(Settings):
    """Feature maps.

    Args:
        levels: blocks whose maps are joined to say where things are, counted from 1; empty takes the last map.
        standardize: subtract each channel's mean and divide by its standard deviation before the linear layer.
    """

    levels: tuple[int, ...] = ()
    standardize: bool = False

    def faults(self) -> list[str]:
        """Also blocks that are no numbers from 1."""
        wrong = any(level < 1 for level in self.levels)
        return super().faults() + ([f"levels={self.levels}: expected numbers of blocks, counted from 1"] if wrong else [])


@dataclass(frozen=True)
class ActivationMaps(Levels):
    """Class activation maps.

    Args:
        label_loss: "squared" is softmax against tags that sum to 1 (HCP's form); "bce" is multi-label cross-entropy.
        cam_scales: image scales whose maps are averaged.
        cam_flip: average with the mirrored image's map.
    """

    label_loss: Literal["squared", "bce"] = "bce"
    cam_scales: tuple[float, ...] = (1.0,)
    cam_flip: bool = False

    def faults(self) -> list[str]:
        """Also scales that are not above 0."""
        return super().faults() + scale_faults("cam_scales", self.cam_scales)


@dataclass(frozen=True)
class Head(Settings):
    """Layers on the feature map.

    Args:
        channels: channels of these layers; 0 leaves them out, for few images on ready-made features.
        dilation: dilation of their 3 × 3 convolutions.
        dropout: dropout after each layer of DeepLab's LargeFOV.
    """

    channels: int = 1024
    dilation: int = 12
    dropout: float = 0.5

    minimum: ClassVar[Limits] = {"channels": 0, "dilation": 1}
    shares: ClassVar[tuple[str, ...]] = ("dropout",)


@dataclass(frozen=True)
class Averaging(Settings):
    """Averaging at test.

    Args:
        test_scales: image scales whose scores are averaged at test.
        test_flip: average with the mirrored image's scores at test.
    """

    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False

    def faults(self) -> list[str]:
        """Also scales that are not above 0."""
        return super().faults() + scale_faults("test_scales", self.test_scales)


@dataclass(frozen=True)
class Refinement(Settings):
    """Refinement by a DenseCRF.

    Args:
        crf: refine predictions by a DenseCRF at test.
        crf_side: longer side at which it runs, in pixels; larger images are refined at it, which bounds memory and time.
        crf_iterations: mean-field iterations.
        crf_gaussian: weight and width in pixels of the smoothness kernel (DeepLab v1).
        crf_bilateral: weight, width in pixels and width in grey levels of the appearance kernel (DeepLab v1).
    """

    crf: bool = True
    crf_side: int = 512
    crf_iterations: int = 10
    crf_gaussian: tuple[float, float] = (3.0, 3.0)
    crf_bilateral: tuple[float, float, float] = (4.0, 121.0, 5.0)

    minimum: ClassVar[Limits] = {"crf_side": 16, "crf_iterations": 1}


@dataclass(frozen=True)
class Crops(Settings):
    """Training crops.

    Args:
        resize: longer side of an image before cropping, in pixels; 0 keeps its size.
        crop: side of the random training crop, in pixels.
        scales: range of the random zoom of a training crop.
    """

    resize: int = 0
    crop: int = 321
    scales: tuple[float, float] = (1.0, 1.0)

    minimum: ClassVar[Limits] = {"resize": 0, "crop": 16}

    def faults(self) -> list[str]:
        """Also a zoom that is not above 0."""
        return super().faults() + scale_faults("scales", self.scales)


def scale_faults(name: str, scales: tuple[float, ...]) -> list[str]:
    """What is wrong with a setting that lists image scales."""
    return [] if scales and min(scales) > 0 else [f"{name}={scales}: expected at least one scale, each above 0"]
