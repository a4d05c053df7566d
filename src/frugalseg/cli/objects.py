"""`frugalseg objects`: the object of each image, without any label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import ANY, Command
from frugalseg.cli.console import OK, say_written, show
from frugalseg.config import UsageError
from frugalseg.recipes import r2o


@dataclass(frozen=True)
class Options:
    """How to look for objects.

    Args:
        model: a run folder or weights file of r2o; empty takes `backbone` with `weights`.
        out: the folder for masks/ (indexed PNG), overlays/ (JPEG) and skipped.csv.
        overlays: draw the masks over the images too.
        score: IMAGES is a data set with masks: score how well its objects are found, with and without an oracle.
        split: its list to score; empty takes all.
        quiet: do not show the progress.
    """

    model: str = ""
    out: str = "objects"
    overlays: bool = True
    score: bool = False
    split: str = ""
    quiet: bool = False


NETWORK = ("backbone", "weights", "normalize", "output_stride", "levels", "parts", "parts_level", "parts_side")
Search = config.some_of(r2o.Config, *NETWORK)  # R2O's settings of the network and of the search


def run(words: list[str], values: dict[str, Any]) -> int:
    """Write the masks of the objects that are found, or score them."""
    from frugalseg.workflows import find_objects, predict
    from frugalseg.workflows.evaluate import evaluate

    typed, settings = config.divided(values, Options)
    options = config.instance(Options, typed)
    expect_agreement(options, typed)
    finder = find_objects.finder(options.model or None, **settings)
    if options.score:
        for place in words:
            show(evaluate(finder, place, options.split, quiet=options.quiet).table())
        return OK
    written = predict.write(finder, words, options.out, overlays=options.overlays, quiet=options.quiet)
    return say_written(*written, options.out, "searched for objects")


def expect_agreement(options: Options, typed: dict[str, Any]) -> None:
    """Raises UsageError for options that contradict each other."""
    writing = [name for name in ("out", "overlays") if name in typed]
    if options.score and writing:
        raise UsageError(f"--{' and --'.join(writing)}: --score writes no images; leave one of the two out")
    if "split" in typed and not options.score:
        raise UsageError("--split: it chooses what is scored; add --score, or leave it out")


COMMAND = Command(run, "find the object of each image without any label", "IMAGES...", (1, ANY), (Options, Search))
