"""From settings to a trained model: what to learn from, which folder, which method. Free of torch until `train` is called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalseg import config
from frugalseg.methods import Method, find, kinds
from frugalseg.recipes.runtime import Runtime
from frugalseg.recipes.selection import Selection
from frugalseg.workflows import run_folder, training_images

if TYPE_CHECKING:
    from frugalseg.data import Data
    from frugalseg.engine.run import Run
    from frugalseg.inference.predictor import Predictor


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
    from frugalseg.engine.run import Run
    from frugalseg.inference.predictor import Predictor

    settings = without_download(settings) if settings["dry_run"] else dict(settings)
    recipe, runtime, selection = (config.build(kind, settings) for kind in (method.config, Runtime, Selection))
    listed = training_images.listed_images(data, selection, runtime.seed)
    images = training_images.first_images(listed, selection)
    teacher = load_teacher(selection.masks_from, images)
    described = images if teacher else listed  # what identifies the run
    offers = images.only("image", "tags").offers | {"instances", "semantic"} if teacher else listed.offers
    training_images.expect_labels(method, recipe.needs, described, offers)
    if not selection.dry_run:
        training_images.expect_a_batch(recipe, len(images), runtime.devices * runtime.nodes)
    settings = {"method": method.name, "data": str(described.root), **settings}
    run = Run(folder or run_folder.run_folder(method, described, settings), runtime, dry=selection.dry_run, method=method.name)
    training_images.warn_of_missing_labels(images, recipe.needs)
    warn_of_random_layers(recipe, selection.dry_run)
    if run.main:
        run_folder.begin(run.folder, settings, run_folder.run_info(images, recipe, selection.masks_from))
    network = learn(method, recipe, labels_of(teacher, images, run, recipe.needs), run)
    classes = network.classes if method.task == "foreground" else described.classes
    return Predictor(method, network, classes, run.folder, run.main)


def learn(method: Method, recipe: Any, data: Data, run: Run) -> Any:
    """Train on the labels that are needed, all others withheld, and save the network."""
    from frugalseg.nets.network import Network

    network = method.code.train(recipe, data.only(*recipe.needs), run, **starting_objects(recipe, run))
    if isinstance(network, Network):
        run.save_model(network)
    return network


# -- masks of other runs ---------------------------------------------------------------------------------------------


def load_teacher(run: str, data: Data) -> Predictor | None:
    """The model of the run whose masks are to be the labels, or None. Raises UsageError for one of other classes."""
    from frugalseg.workflows import pseudo_labels

    return pseudo_labels.load_teacher(run, data.classes) if run else None


def labels_of(teacher: Predictor | None, data: Data, run: Run, needs: frozenset[str]) -> Data:
    """The images with the teacher's masks, of the kind that is needed, in the place of their own, if there is a teacher."""
    from frugalseg.workflows import pseudo_labels

    label = "semantic" if "semantic" in needs else "instances"
    return pseudo_labels.pseudo_labelled(data, teacher, run, label=label) if teacher else data


def starting_objects(recipe: Any, run: Run) -> dict[str, Any]:
    """The argument `starts` of a method that begins with the objects another run finds (`start_from`), or none."""
    from frugalseg.workflows import pseudo_labels

    source = getattr(recipe, "start_from", None)
    if not source:
        return {}

    def starts(data: Data) -> Data:
        teacher = pseudo_labels.load_teacher(source, data.classes, "start_from")
        return pseudo_labels.pseudo_labelled(data, teacher, run, "start_from", "starts")

    return {"starts": starts}


# -- weights ---------------------------------------------------------------------------------------------------------


def warn_of_random_layers(recipe: Any, dry: bool) -> None:
    """Warn of layers that keep random numbers for good."""
    if getattr(recipe, "frozen", 0) and not getattr(recipe, "weights", "") and not dry:
        layers = f"the first {recipe.frozen} blocks of {recipe.backbone} are frozen at random numbers"
        warnings.warn(f"{layers}; give --weights imagenet, a file or a run, or --frozen 0", stacklevel=3)


def without_download(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a rehearsal: weights that are not here are replaced by random numbers, and a warning says so."""
    weights = settings.get("weights")
    if weights and not Path(weights).exists():
        warnings.warn(f"--dry-run: weights={weights} is no file here; rehearsing with random weights instead", stacklevel=2)
        weights = None
    return {**settings, "weights": weights} if "weights" in settings else dict(settings)
