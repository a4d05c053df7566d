"""What is predicted of each image, and what is written of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frugalseg.files import MAX_PIXELS
from frugalseg.recipes import checks


@dataclass(frozen=True)
class Output:
    """What to write.

    Args:
        overlays: draw the masks over the images too.
        min_score: objects below it are neither drawn nor in instances.json; results.json has all.
        tags: "given" tells the model which classes are in each image; IMAGES are data sets with tags then.
        tile: side of the squares, in pixels, in which larger images are searched for objects; 0 takes them whole.
        overlap: pixels that neighbouring squares share; 0 takes a quarter of the side.
        max_pixels: images of more pixels, height times width, are skipped.
        quiet: do not show the progress.
    """

    overlays: bool = True
    min_score: float = 0.5
    tags: Literal["predicted", "given"] = "predicted"
    tile: int = 0
    overlap: int = 0
    max_pixels: int = MAX_PIXELS
    quiet: bool = False

    def __post_init__(self) -> None:
        checks.refuse("predict", checks.faults(self, {"tile": 0, "overlap": 0}, ["min_score"]))
