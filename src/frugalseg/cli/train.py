"""`frugalseg train`: from labels to a trained model, its scores and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.cli.arguments import split
from frugalseg.cli.command import Command
from frugalseg.cli.console import OK, say, show, typed_command
from frugalseg.config import UsageError
from frugalseg.methods import METHODS, Method, find, kinds, suggest
from frugalseg.recipes.runtime import Runtime
from frugalseg.recipes.selection import Selection

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.inference.predictor import Predictor


@dataclass(frozen=True)
class Start:
    """Where the settings come from.

    Args:
        config: a YAML file of settings; the command line overrides it.
        resume: a run folder to go on with, by the settings in it.
    """

    config: str = ""
    resume: str = ""


@dataclass(frozen=True)
class Request:
    """What was asked for. method: a name, or "". data: a folder. layers: settings, the last one wins. folder: the run to go on
    with, or None."""

    method: str
    data: str
    layers: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None


def run(words: list[str], values: dict[str, Any]) -> int:
    """Train a method, the named one or that which the labels suggest, and finish with scores and a report."""
    from frugalseg.workflows.train import fit

    request = requested(words, values)
    method, data = chosen_method(request)
    settings = config.resolve(kinds(method), *request.layers)
    predictor = fit(method, data, settings, request.folder)
    return finish(predictor, request.data, settings["val"], settings["quiet"], settings["skip_limit"])


def requested(words: Sequence[str], values: dict[str, Any]) -> Request:
    """Method, data and settings, from a run's config.yaml, a file and the command line. Raises UsageError without data."""
    typed, settings = config.divided(values, Start)
    start = config.instance(Start, typed)
    folder = Path(start.resume) if start.resume else None
    files = [config.read(path) for path in (folder and folder / "config.yaml", start.config) if path]
    method, data = "", ""
    for layer in files:
        method, data = layer.pop("method", method), layer.pop("data", data)
    free = list(words)
    method = free.pop(0) if free and free[0] in METHODS else method
    data = free[0] if free else data
    if not data:
        raise UsageError("train: got no data, expected frugalseg train [METHOD] DATA")
    return Request(method, data, [*files, settings], folder)


def chosen_method(request: Request) -> tuple[Method, str | Data]:
    """The named method and the folder; without a name, the one that the labels suggest, and the data read for that."""
    if request.method:
        return find(request.method), request.data
    from frugalseg.data import read

    selection = config.instance(Selection, *(config.divided(layer, Selection)[0] for layer in request.layers))
    data = read(request.data, selection.split or None, skip_limit=selection.skip_limit, classes=selection.classes or None)
    method = suggest(data)
    labels = ", ".join(sorted(data.offers - {"image"})) or "no labels"
    say(f"{request.data} has {labels}: training {method.name}, {method.summary}")
    return method, data


def finish(predictor: Predictor, data: str | Path, split: str, quiet: bool, skip_limit: float = 0.05) -> int:
    """After a training: score it if the data can, else draw some of its images; write the report, and say where everything is."""
    from frugalseg.workflows import report
    from frugalseg.workflows.evaluate import preview
    from frugalseg.workflows.run_folder import update_run_info

    if not predictor.main or predictor.folder is None:
        return OK
    update_run_info(predictor.folder, commands=[typed_command()])
    if not split or not scored(predictor, data, split, quiet, skip_limit):
        preview(predictor, data, quiet)
    say(f"run     {predictor.folder}\nreport  {report.write(predictor.folder)}")
    return OK


def scored(predictor: Predictor, data: str | Path, split: str, quiet: bool, skip_limit: float) -> bool:
    """Score a finished training; say so where the data cannot score it."""
    from frugalseg.data import DataError
    from frugalseg.workflows.evaluate import evaluate

    try:
        show(evaluate(predictor, data, split, quiet=quiet, skip_limit=skip_limit).table())
    except DataError as error:
        say(f"The training is done, but nothing was scored: {error}\n`frugalseg evaluate {predictor.folder} DATA` does that.")
        return False
    return True


@dataclass(frozen=True)
class Train(Command):
    """A command whose options are the settings of the method that is named first."""

    def options_for(self, words: Sequence[str]) -> tuple[type, ...]:
        """The settings of the method named first, or else of all methods; `config.resolve` is strict later."""
        recipes: list[type] = [method.config for method in METHODS.values()]
        free, _ = split(config.options(Start, Selection, *recipes, Runtime), words)
        named = [METHODS[word] for word in free[:1] if word in METHODS]
        if len(free) == 2 and not named:
            find(free[0])  # raises, and names the nearest
        return (Start, *kinds(named[0])) if named else (Start, Selection, *recipes, Runtime)

    def help_for(self, words: Sequence[str]) -> tuple[str, str]:
        """That of a method, if one is named."""
        method = next((METHODS[word] for word in words if word in METHODS), None)
        return (f"{method.name} DATA", method.summary) if method else (self.words, self.summary)


COMMAND = Train(run, "learn from DATA; without METHOD, by what its labels allow", "[METHOD] DATA", (0, 2), resumes=True)
