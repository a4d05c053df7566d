"""`frugalseg backbone`: a trained backbone for another library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, say


@dataclass(frozen=True)
class Options:
    """Where the backbone goes.

    Args:
        to: whose names it gets: torchvision, timm, detectron2 or mmsegmentation.
    """

    to: str = "torchvision"


def run(words: list[str], values: dict[str, Any]) -> int:
    """Write the backbone of a run into a file."""
    from frugalseg.export.backbone import export

    options = config.instance(Options, values)
    say(f"the backbone is in {export(words[0], words[1], options.to)}, as {options.to} names it")
    return OK


COMMAND = Command(run, "a trained backbone under another library's names", "RUN FILE", (2, 2), (Options,))
