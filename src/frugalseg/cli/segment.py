"""`frugalseg segment`: masks of new classes from a few images with masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import ANY, Command
from frugalseg.cli.console import say, say_written
from frugalseg.recipes.biopt import TrainingFree


@dataclass(frozen=True)
class Options:
    """What to segment.

    Args:
        model: a run folder or weights file of biopt; empty takes a feature network with its library's weights alone.
        out: the folder for masks/ (indexed PNG), overlays/ (JPEG), tags.csv (the confidence of each class) and skipped.csv.
        split: the list of references in a folder that has lists; empty takes all.
        shots: references of each class, its first by name; 0 takes all.
        threshold: a class with less confidence counts as absent.
        advice: say which reference helps and which hurts.
        overlays: draw the masks over the images too.
        quiet: do not show the progress.
    """

    model: str = ""
    out: str = "segmented"
    split: str = ""
    shots: int = 0
    threshold: float = 0.5
    advice: bool = True
    overlays: bool = True
    quiet: bool = False


def run(words: list[str], values: dict[str, Any]) -> int:
    """Learn the classes of the references, say what each reference is worth, and write the masks of the other images."""
    from frugalseg.data import read
    from frugalseg.workflows import predict
    from frugalseg.workflows.few_shot import Few

    typed, settings = config.divided(values, Options)
    options = config.instance(Options, typed)
    references = read(words[0], split=options.split or None, skip_limit=1.0)
    # Whatever is not there is said before the network is made, or its weights are fetched.
    images = [read(place, layout="images", verify=False, skip_limit=1.0) for place in words[1:]]
    few = Few(options.model or None, options.threshold, **settings)
    predictor = few.fit(references, options.shots, quiet=options.quiet)
    say("\n".join(few.report(options.advice, quiet=options.quiet)))
    others, skipped = few.others(images)
    written = predict.write(predictor, others, options.out, skipped, overlays=options.overlays, quiet=options.quiet)
    return say_written(*written, options.out, "segmented")


COMMAND = Command(
    run,
    "a few images with masks, then any others: masks without training",
    "REFERENCES IMAGES...",
    (2, ANY),
    (Options, TrainingFree),
)
