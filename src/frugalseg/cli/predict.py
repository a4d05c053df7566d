"""`frugalseg predict`: what does a trained model see in other images?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import ANY, Command
from frugalseg.cli.console import say_written
from frugalseg.recipes import checks
from frugalseg.recipes.output import Output


@dataclass(frozen=True)
class Options:
    """How to predict.

    Args:
        out: the folder for masks/ or objects/ (indexed PNG), overlays/ (JPEG), COCO's JSON of objects, tags.csv, skipped.csv.
        split: the list of images, where IMAGES are data sets; empty takes all.
        proposals: other boxes than in training, for models that take some: selective_search, grid, random, a file or folder.
        batch: images of like size at a time; 0 takes as many as fit into a GPU's memory, and one on a CPU.
    """

    out: str = "predictions"
    split: str = ""
    proposals: str = ""
    batch: int = 0

    def __post_init__(self) -> None:
        checks.refuse("predict", checks.faults(self, {"batch": 0}))


def run(words: list[str], values: dict[str, Any]) -> int:
    """Write the predictions of a run for images and folders."""
    from frugalseg.data import read
    from frugalseg.inference.predictor import load
    from frugalseg.workflows import predict

    command_values, output_values = config.divided(values, Options)
    options, output = config.instance(Options, command_values), config.instance(Output, output_values)
    predictor = load(words[0], proposals=options.proposals, batch=options.batch)
    images: list[Any] = words[1:]
    if output.tags == "given" or options.split:
        # Labels are not what is asked for, and every image that is left out is in skipped.csv, so any share may be.
        split = options.split or None
        images = [read(place, split=split, skip_limit=1.0, max_pixels=output.max_pixels) for place in images]
    count, skipped = predict.write(predictor, images, options.out, **asdict(output))
    return say_written(count, skipped, options.out, "predicted")


COMMAND = Command(run, "masks, overlays and tags for images and folders", "RUN IMAGES...", (2, ANY), (Options, Output))
