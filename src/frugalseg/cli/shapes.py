"""`frugalseg shapes`: the built-in images, as a data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, say


@dataclass(frozen=True)
class Options:
    """What to draw.

    Args:
        train: images of the list train.
        val: images of the list val.
        test: images of the list test.
        seed: another seed draws other images.
        size: side of the images in pixels.
    """

    train: int = 500
    val: int = 100
    test: int = 100
    seed: int = 0
    size: int = 128


def run(words: list[str], values: dict[str, Any]) -> int:
    """Write the images with all their labels."""
    from frugalseg.data.shapes import write

    say(f"the built-in images are in {write(words[0], **asdict(config.instance(Options, values)))}")
    return OK


COMMAND = Command(run, "write the built-in images with their labels in VOC and COCO layout", "OUT", (1, 1), (Options,))
