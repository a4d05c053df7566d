"""Settings of R2O (Gokul et al., 2022). Defaults are the paper's; "ruling" marks what it leaves open and we chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from frugalseg.recipes import groups

SUMMARY = "R2O: a backbone from images alone, and objects without labels (Gokul et al., 2022)"
TASK = "foreground"
NEEDS = frozenset({"image"})
BASELINE = ""


@dataclass(frozen=True)
class Config(groups.Weights):
    """R2O: a backbone from images alone, and objects without labels.

    BYOL is the same code with one mask, the whole image: prior "whole" and refine "none".

    Args:
        backbone: feature network (sec. 4: ResNet-50); also resnet18/101, vgg16, mobilenet_v2, tiny, timm/<transformer>.
        output_stride: pixels of the image per cell of the last map (C5: 32).
        levels: the blocks whose maps are clustered and learned from (C4 and C5); 14 and 18 in mobilenet_v2; a transformer has
            one map, from which transposed convolutions make both (app. A.5).
        side: of the views and of the whole image that is clustered, in pixels (224).
        crop: range of the share of the image's area that a view shows (BYOL: 0.08 to 1).
        jitter: probability of the colour jitter of brightness 0.4, contrast 0.4, saturation 0.2, hue 0.1 (0.8).
        grey: probability of losing the colours (0.2).
        blur: probability of a blur in each of the two views (1 and 0.1).
        solarize: probability of inverting the bright pixels in each of the two views (0 and 0.2).
        prior: regions that are refined: "slic" superpixels (sec. 3.1), a "grid" of squares (app. A.7), the "cells" of the map (no
            prior), or the "whole" image.
        segments: superpixels of an image, or squares of the grid, about (100: 10 x 10; app. A.7 also has 4: 2 x 2).
        refine: merge regions by K-means on the target network's "features" (sec. 3.1), on "colours" and places image by image,
            or "none".
        clusters: K at the start and at the end (128 and 4); 4 and 128 is the opposite curriculum of table 4.
        curriculum: "cosine" (app. A.1), "linear", "piecewise" (halving or doubling in stretches of equal length; a ruling) or
            "fixed", which stays at the first K.
        hold: share of the training before K begins to change (40 of 300 epochs).
        chunk: images that K-means clusters together (the paper: those of one GPU, 32).
        iterations: of K-means, at most (ruling).
        refine_norm: statistics of the target network's batch norms when clustering: their "running" means (ruling: the masks of
            an image do not depend on the images beside it, and clustering leaves no trace), or of the "batch" (the authors'
            code).
        mask_side: side of the masks before they are aligned with the views (14).
        least_area: share of a view below which a mask does not count (the authors' code: 1e-3).
        masks: masks of an image that are learned from, at most, drawn at random (app. A.4, for NT-Xent, after DetCon: 16); 0:
            all.
        objective: "byol" (eq. 4 and 5) or "ntxent" (app. A.4).
        temperature: of NT-Xent (ruling: SimCLR's 0.1).
        hidden: units of the hidden layer of projector and predictor (BYOL: 4,096).
        width: channels of the projections (BYOL: 256).
        tau: share of the target network that stays in a step, at the start; it rises to 1 (0.99).
        batch: images per step, all processes together (4,096).
        epochs: passes over the images (300).
        lr: learning rate for a batch of 256 (0.3); the rate that is used is lr x batch / 256.
        warmup: share of the steps in which the learning rate rises (0.01).
        momentum: of LARS (BYOL: 0.9).
        weight_decay: of LARS (1e-6).
        trust: trust coefficient of LARS (0.001).
        collapse: share of 1/sqrt(width) below which the standard deviation of the projections means collapse; 0 never stops.
        patience: steps in a row below it that stop the training.
        cache: folder of computed superpixels; empty takes $FRUGALSEG_CACHE, else the user's cache folder.
        probe: images with object masks, on which the regions are scored during the training (fig. 3); nothing is learned from
            them.
        probe_split: their list; empty takes all.
        probe_images: how many of them, at most.
        probe_every: steps between two scores.
        parts: clusters of one image in which its object is searched (sec. 4.3: 5).
        parts_level: the map that is clustered then: "fine" (C4) or "coarse" (C5); the paper does not say.
        parts_side: longer side of the image then, in pixels (ruling).
    """

    output_stride: int = 32
    levels: tuple[int, int] = (4, 5)
    side: int = 224
    crop: tuple[float, float] = (0.08, 1.0)
    jitter: float = 0.8
    grey: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    solarize: tuple[float, float] = (0.0, 0.2)
    prior: Literal["slic", "grid", "cells", "whole"] = "slic"
    segments: int = 100
    refine: Literal["features", "colours", "none"] = "features"
    clusters: tuple[int, int] = (128, 4)
    curriculum: Literal["cosine", "linear", "piecewise", "fixed"] = "cosine"
    hold: float = 40 / 300
    chunk: int = 32
    iterations: int = 50
    refine_norm: Literal["running", "batch"] = "running"
    mask_side: int = 14
    least_area: float = 1e-3
    masks: int = 0
    objective: Literal["byol", "ntxent"] = "byol"
    temperature: float = 0.1
    hidden: int = 4096
    width: int = 256
    tau: float = 0.99
    batch: int = 4096
    epochs: float = 300
    lr: float = 0.3
    warmup: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 1e-3
    collapse: float = 0.1
    patience: int = 20
    cache: str = ""
    probe: str = ""
    probe_split: str = ""
    probe_images: int = 100
    probe_every: int = 1000
    parts: int = 5
    parts_level: Literal["fine", "coarse"] = "fine"
    parts_side: int = 448

    needs = frozenset({"image"})
    repeats = False  # a step must not show an image twice: its two copies would count as different images
    minimum: ClassVar[groups.Limits] = {
        "side": 32, "segments": 1, "chunk": 1, "iterations": 1, "mask_side": 1, "masks": 0, "hidden": 1, "width": 2, "batch": 1,
        "patience": 1, "probe_images": 1, "probe_every": 1, "parts": 2, "parts_side": 32,
    }  # fmt: skip
    shares: ClassVar[tuple[str, ...]] = ("jitter", "grey", "hold", "least_area", "tau", "warmup", "collapse")
    positive: ClassVar[tuple[str, ...]] = ("epochs", "lr", "trust", "temperature")

    def faults(self) -> list[str]:
        """Also pairs of shares outside 0 to 1, numbers below 1, too many regions, and a single region that cannot be refined."""
        faults = super().faults()
        pairs = [(name, share) for name in ("crop", "blur", "solarize") for share in getattr(self, name)]
        faults += [f"{name}={share}: expected a number from 0 to 1" for name, share in pairs if not 0 <= share <= 1]
        if min(self.clusters) < 1 or min(self.levels) < 1:
            faults.append(f"clusters={self.clusters}, levels={self.levels}: expected numbers from 1")
        most = {"segments": self.side**2, "mask_side": self.side}
        over = ((name, getattr(self, name), high) for name, high in most.items() if getattr(self, name) > high)
        faults += [f"{name}={value}: expected at most {high}, side={self.side}" for name, value, high in over]
        if self.crop[0] > self.crop[1] or self.crop[0] == 0:
            faults.append(f"crop={self.crop}: expected the smaller share first, above 0")
        if self.prior == "whole" and self.refine != "none":
            faults.append(f"refine={self.refine}: one region cannot be refined; expected none with prior=whole")
        return faults
