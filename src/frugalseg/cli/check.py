"""`frugalseg check`: is the data ready?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, PROBLEM, show


@dataclass(frozen=True)
class Options:
    """What to check.

    Args:
        layout: voc, coco, sbd, cityscapes, cub, imagenet-s, objects, masks, tags, classes or images; empty recognises it.
        classes: a text file of class folders, one a line: only images in them are checked; empty takes all.
        skip_limit: share of images that may be left out as broken before training is refused.
    """

    layout: str = ""
    classes: str = ""
    skip_limit: float = 0.05


def run(words: list[str], values: dict[str, Any]) -> int:
    """Print the report on a data set; a problem if training may not start."""
    from frugalseg.workflows.check import check

    options = config.instance(Options, values)
    report = check(Path(words[0]), options.layout or None, options.skip_limit, classes=options.classes or None)
    show(report)
    return OK if report.ok else PROBLEM


COMMAND = Command(run, "what labels there are, what can be trained with them, what is wrong", "DATA", (1, 1), (Options,))
