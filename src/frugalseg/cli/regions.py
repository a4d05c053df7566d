"""`frugalseg regions`: superpixels, saliency or proposals of a whole data set, ahead of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, PROBLEM, say, show, warn
from frugalseg.config import UsageError

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.regions import Tool
    from frugalseg.regions.cache import Cache
    from frugalseg.regions.precompute import Filled


@dataclass(frozen=True)
class Options:
    """How to compute.

    Args:
        split: the list of images; empty takes all.
        classes: a text file of class folders, one a line: only images in them are taken; empty takes all.
        jobs: images at a time; 0 takes all cores.
        cache: folder of the cache; empty takes $FRUGALSEG_CACHE, else the user's cache folder.
        square: side in pixels to which the images are squashed before, as r2o does (its --side); 0 takes them as they are.
        arguments: of the tool, such as '{"segments": 200}'.
    """

    split: str = ""
    classes: str = ""
    jobs: int = 0
    cache: str = ""
    square: int = 0
    arguments: dict[str, Any] | None = None


def run(words: list[str], values: dict[str, Any]) -> int:
    """Fill the cache with a tool's results, and say how well proposals cover the annotated objects."""
    from frugalseg.data import read
    from frugalseg.regions import tool_named
    from frugalseg.regions.cache import Cache
    from frugalseg.regions.precompute import fill

    options = config.instance(Options, values)
    tool, arguments, cache = tool_named(words[0]), options.arguments or {}, Cache(options.cache or None)
    expect_arguments(words[0], tool, arguments)
    data = read(words[1], split=options.split or None, skip_limit=1.0, classes=options.classes or None)
    for problem in data.problems:
        if problem.effect:
            warn(str(problem))
    filled = fill(data, tool, cache, options.jobs or None, options.square, **arguments)
    say_filled(tool.__name__, filled, cache)
    show_recall(data, tool, cache, filled, arguments)
    return PROBLEM if filled.failed or filled.unkept else OK


def expect_arguments(name: str, tool: Tool, arguments: dict[str, Any]) -> None:
    """Raises UsageError for arguments that the tool does not have."""
    import inspect

    names = list(inspect.signature(tool).parameters)[1:]
    unknown = [f"{name} has no argument {key!r}{config.did_you_mean(key, names)}" for key in arguments if key not in names]
    if unknown:
        raise UsageError("\n".join(unknown))


def say_filled(name: str, filled: Filled, cache: Cache) -> None:
    """What was computed, what was there, and which images failed."""
    counts = f"{filled.made} made, {filled.found} there before, {filled.unkept} not kept, {len(filled.failed)} failed"
    failures = [f"  {image}: {reason}" for image, reason in filled.failed.items()]
    say("\n".join([f"{name}: {counts}", *failures, f"cache  {cache.folder}"]))


def show_recall(data: Data, tool: Tool, cache: Cache, filled: Filled, arguments: dict[str, Any]) -> None:
    """How well a tool's boxes cover the annotated objects; nothing for other tools, or where an image failed."""
    from frugalseg.regions import precompute, proposals

    if tool not in proposals.TOOLS.values() or filled.failed:
        return
    scores = precompute.recall(data, tool, cache, **arguments)
    if scores.images:
        show(scores.table())
    else:
        say("no image has objects with boxes or masks: there is no recall to measure")


COMMAND = Command(run, "fill the cache of superpixels, saliency, … on all cores", "TOOL DATA", (2, 2), (Options,), resumes=True)
