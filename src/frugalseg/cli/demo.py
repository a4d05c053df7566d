"""`frugalseg demo`: the whole way on drawn images, in a few minutes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import say
from frugalseg.cli.train import finish
from frugalseg.methods import METHODS, kinds


@dataclass(frozen=True)
class Options:
    """Options of the demo.

    Args:
        train: images to learn from.
        val: images to score on.
        size: side of the images in pixels.
        seed: another seed draws other images and trains from other random numbers.
        quiet: do not show the progress.
    """

    train: int = 400
    val: int = 100
    size: int = 128
    seed: int = 0
    quiet: bool = False


def run(words: list[str], values: dict[str, Any]) -> int:
    """Draw images, train AE-PSL on their tags, score it and write a report."""
    from frugalseg.data import shapes
    from frugalseg.workflows.train import fit

    options, home, method = config.instance(Options, values), Path(words[0] if words else "demo"), METHODS["aepsl"]
    say(f"1/3 Drawing the built-in images into {home / 'data'}")
    data = shapes.write(home / "data", test=0, **asdict(options))
    with resources.as_file(resources.files("frugalseg.recipes") / "demo.yaml") as recipe:
        chosen = {"out": str(home / "runs"), "seed": options.seed, "quiet": options.quiet}
        settings = config.resolve(kinds(method), config.read(recipe), chosen)
    say("2/3 Training AE-PSL on their tags; stopped at any time, the same command goes on from there")
    predictor = fit(method, data, settings)
    say("3/3 Scoring on images with masks")
    return finish(predictor, data, "val", options.quiet)


COMMAND = Command(
    run, "draw images, learn from their tags, score, report: a few minutes", "[FOLDER]", (0, 1), (Options,), resumes=True
)
