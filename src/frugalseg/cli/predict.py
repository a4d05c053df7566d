"""`frugalseg predict`: what does a trained model see in other images?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from frugalseg import config
from frugalseg.cli.command import ANY, Command
from frugalseg.cli.console import say_written
from frugalseg.files import MAX_PIXELS
from frugalseg.recipes import checks


@dataclass(frozen=True)
class Options:
    """What to write.

    Args:
        out: the folder for masks/ or objects/ (indexed PNG), overlays/ (JPEG), COCO's JSON of objects, tags.csv, skipped.csv.
        overlays: draw the masks over the images too.
        min_score: objects below it are neither drawn nor in instances.json; results.json has all.
        tags: "given" tells the model which classes are in each image; IMAGES are data sets with tags then.
        split: the list of images of such data sets; empty takes all.
        tile: side of the squares, in pixels, in which larger images are searched for objects; 0 takes them whole.
        overlap: pixels that neighbouring squares share; 0 takes a quarter of the side.
        max_pixels: images of more pixels, height times width, are skipped.
        proposals: other boxes than in training, for models that take some: selective_search, grid, random, a file or folder.
        batch: images of like size at a time; 0 takes as many as fit into a GPU's memory, and one on a CPU.
        quiet: do not show the progress.
    """

    out: str = "predictions"
    overlays: bool = True
    min_score: float = 0.5
    tags: Literal["predicted", "given"] = "predicted"
    split: str = ""
    tile: int = 0
    overlap: int = 0
    max_pixels: int = MAX_PIXELS
    proposals: str = ""
    batch: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        checks.refuse("predict", checks.faults(self, {"tile": 0, "overlap": 0, "batch": 0}, ["min_score"]))


def run(words: list[str], given: dict[str, Any]) -> int:
    """Write the predictions of a run for images and folders."""
    from frugalseg.data import read
    from frugalseg.inference.predictor import load
    from frugalseg.workflows import predict

    options = asdict(config.instance(Options, given))
    split = options.pop("split")
    predictor = load(words[0], proposals=options.pop("proposals"), batch=options.pop("batch"))
    images: list[Any] = words[1:]
    if options["tags"] == "given" or split:
        # Labels are not what is asked for, and every image that is left out is in skipped.csv: no share is too much.
        images = [read(place, split=split or None, skip_limit=1.0, max_pixels=options["max_pixels"]) for place in images]
    written = predict.write(predictor, images, **options)
    return say_written(*written, str(Path(options["out"])), "predicted")


COMMAND = Command(run, "masks, overlays and tags for images and folders", "RUN IMAGES...", (2, ANY), (Options,))
