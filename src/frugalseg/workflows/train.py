"""From settings to a trained model: what to learn from, which folder, which method. Free of torch until `train` is called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.methods import Method, find, kinds, label_words
from frugalseg.recipes.runtime import Runtime
from frugalseg.workflows.run_folder import has_progress, run_folder, run_info, update_run_info

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.engine.run import Run
    from frugalseg.inference.predictor import Predictor

DRY_PICTURES = 8  # pictures of a --dry-run


def train(method: str, data: str | Path | Data, **settings: Any) -> Predictor:
    """Train a method on data and return the model; the same call again goes on where it was stopped, or only loads the result.

    method: a name in `METHODS`. data: a folder, or what `frugalseg.read` returns. settings: fields of `Selection`, of the
    method's recipe and of `Runtime`. Labels that the method does not need are withheld from it.
    Raises UsageError (a setting), DataError (the data), Diverged (a loss is not finite).
    """
    chosen = find(method)
    return fit(chosen, data, config.resolve(kinds(chosen), settings))


def fit(method: Method, data: str | Path | Data, settings: Mapping[str, Any], folder: Path | None = None) -> Predictor:
    """`train` with settings that are already resolved; `folder` is that of a run to go on with."""
    from frugalseg.data import read
    from frugalseg.data.subset import drawn, of_classes
    from frugalseg.engine.run import Run
    from frugalseg.inference.predictor import Predictor
    from frugalseg.nets.network import Network

    settings = without_download(settings) if settings["dry_run"] else settings
    recipe, runtime = config.build(method.config, settings), config.build(Runtime, settings)
    if isinstance(data, (str, Path)):
        data = read(data, settings["split"] or None, skip_limit=settings["skip_limit"], classes=settings["classes"] or None)
    elif settings["classes"]:
        data = of_classes(data, settings["classes"])
    if not 0 < settings["share"] <= 1:
        raise UsageError(f"--share: got {settings['share']}, expected a number above 0, at most 1")
    if settings["share"] < 1:
        data = drawn(data, settings["share"], settings["seed"])
    limit = DRY_PICTURES if settings["dry_run"] else settings["limit"]
    chosen = data.select(range(min(limit, len(data)))) if limit else data
    offers, teacher = data.offers, None
    if settings["masks_from"]:
        from frugalseg.workflows import pseudo_labels

        teacher, data = pseudo_labels.teacher(settings["masks_from"], data.classes), chosen
        offers = chosen.only("image", "tags").offers | {"instances"}
    if not recipe.needs <= offers:
        has = label_words(data.offers)
        raise UsageError(
            f"{method.name} needs {label_words(recipe.needs)}, but {data.root} has {has}; `frugalseg check` says more"
        )
    if not settings["dry_run"]:
        expect_a_batch(recipe, len(chosen), runtime.devices * runtime.nodes)
    described = {"method": method.name, "data": str(data.root), **settings}
    folder = folder or run_folder(method, data, described)
    run = Run(folder, runtime, dry=settings["dry_run"], method=method.name)
    tell_what_is_missing(chosen, recipe.needs)
    tell_what_is_random(recipe, settings["dry_run"])
    if run.main:
        if not has_progress(folder):
            for left in (folder / "state").glob("*.json"):  # a start that failed, perhaps with other settings
                left.unlink()
        config.save(folder / "config.yaml", described)
        update_run_info(folder, **run_info(chosen, recipe, settings["masks_from"]))
    chosen = pseudo_labels.relabelled(chosen, teacher, run) if teacher else chosen
    network = method.code.train(recipe, chosen.only(*recipe.needs), run, **starting_objects(recipe, run))
    if isinstance(network, Network):
        run.save_model(network)
    classes = network.classes if method.task == "foreground" else data.classes
    return Predictor(method, network, classes, folder, run.main)


def starting_objects(recipe: Any, run: Run) -> dict[str, Any]:
    """The argument `starts` of a method that begins with the objects another run finds (`start_from`), or none."""
    from frugalseg.workflows import pseudo_labels

    source = getattr(recipe, "start_from", None)
    if not source:
        return {}

    def starts(data: Data) -> Data:
        teacher = pseudo_labels.teacher(source, data.classes, "start_from")
        return pseudo_labels.relabelled(data, teacher, run, "start_from", "starts")

    return {"starts": starts}


def expect_a_batch(recipe: Any, pictures: int, processes: int) -> None:
    """Raises UsageError for fewer pictures than a step shows, where none may be shown twice."""
    if not getattr(recipe, "repeats", True) and pictures < recipe.batch:
        most = pictures - pictures % processes
        advice = f"type --batch {most} or less" if most else "add pictures, or take fewer --devices"
        raise UsageError(f"--batch: got {recipe.batch}, but there are only {pictures} pictures to learn from; {advice}")


def tell_what_is_missing(data: Data, needs: frozenset[str]) -> None:
    """Warn of what the training has to do without: files left out, and classes that not one picture is tagged with."""
    for problem in data.problems:
        if problem.effect:
            warnings.warn(str(problem).removeprefix("warning "), stacklevel=3)
    if "tags" in needs:
        seen = (data.tags == 1).any(0).tolist()
        unseen = [name for name, there in zip(data.classes, seen, strict=True) if not there]
        if unseen:
            few = ", ".join(unseen[:5]) + (", …" if len(unseen) > 5 else "")
            reason = "it cannot learn them, though it will name them as classes"
            warnings.warn(
                f"no picture of the training is tagged with {len(unseen)} of {len(seen)} classes ({few}): {reason}", stacklevel=3
            )


def tell_what_is_random(recipe: Any, dry: bool) -> None:
    """Warn of layers that stay at random numbers for good."""
    if getattr(recipe, "frozen", 0) and not getattr(recipe, "weights", "") and not dry:
        warnings.warn(
            f"the first {recipe.frozen} blocks of {recipe.backbone} are frozen at random numbers; give --weights imagenet, a "
            "file or a run, or --frozen 0",
            stacklevel=3,
        )


def without_download(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for a rehearsal: weights that are not here give way to random numbers, and a warning says so."""
    weights = settings.get("weights")
    if weights and not Path(weights).exists():
        warnings.warn(f"--dry-run: weights={weights} is no file here; rehearsing with random weights instead", stacklevel=2)
        weights = None
    return {**settings, "weights": weights} if "weights" in settings else dict(settings)
