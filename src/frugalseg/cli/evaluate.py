"""`frugalseg evaluate`, also `val` and `test`: how good is a trained model?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frugalseg import config
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, say, show, typed_command
from frugalseg.recipes import checks
from frugalseg.tasks import TASKS


@dataclass(frozen=True)
class Options:
    """How to score.

    Args:
        split: the list of images; empty takes all that have masks.
        proposals: other boxes than in training, for models that take some: selective_search, grid, random, a file or folder.
        skip_limit: share of images, labels or objects that may be left out as broken before that is an error.
        batch: images of like size at a time; 0 takes as many as fit into a GPU's memory, and one on a CPU.
        quiet: do not show the progress.
    """

    split: str = "val"
    proposals: str = ""
    skip_limit: float = 0.05
    batch: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        checks.refuse("evaluate", checks.faults(self, {"batch": 0}))


def run(words: list[str], values: dict[str, Any]) -> int:
    """Score a run on data, print the table and write the report anew."""
    from frugalseg.inference.predictor import load
    from frugalseg.workflows import report
    from frugalseg.workflows.evaluate import evaluate
    from frugalseg.workflows.run_folder import update_run_info

    typed, scoring = config.divided(values, Options)
    options = asdict(config.instance(Options, typed))
    predictor = load(words[0], proposals=options.pop("proposals"), batch=options.pop("batch"))
    show(evaluate(predictor, words[1], **options, **scoring).table())
    if predictor.folder:
        update_run_info(predictor.folder, commands=[typed_command()])
        say(f"report  {report.write(predictor.folder)}")
    return OK


SCORING = tuple(dict.fromkeys(task.options for task in TASKS.values()))  # the options of every task
COMMAND = Command(
    run, "score a trained model on images with masks", "RUN DATA", (2, 2), (Options, *SCORING), aliases=("val", "test")
)
