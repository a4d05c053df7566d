"""Which images of a data set a training learns from, and which it is scored on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """Which images.

    Args:
        split: the list of images to learn from; empty takes them all.
        val: the list to score on when training is over, if it exists and has masks; empty scores nothing.
        classes: a text file of class folders, one a line, to learn from their images only (ImageNet-100); empty takes all.
        share: learn from this share of the images, at least one; `seed` draws it, and a smaller share is part of a larger.
        limit: learn from the first N images only; 0 takes all.
        skip_limit: share of images that may be left out as broken before that is an error.
        masks_from: a finished run whose predicted masks are the labels, in the place of the images' own.
        dry_run: two small steps for each stage on eight images, downloading nothing, to see that everything works.
    """

    split: str = "train"
    val: str = "val"
    classes: str = ""
    share: float = 1.0
    limit: int = 0
    skip_limit: float = 0.05
    masks_from: str = ""
    dry_run: bool = False
