"""Score a trained model on data that was kept aside; its task says how, and what is kept for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frugalseg import config
from frugalseg.data import Data, DataError, read
from frugalseg.inference.predictor import Predictor
from frugalseg.tasks import TASKS, choose_options, gallery
from frugalseg.tasks.results import Result


def evaluate(
    predictor: Predictor,
    data: str | Path | Data,
    split: str = "val",
    *,
    quiet: bool = False,
    skip_limit: float = 0.05,
    **options: Any,
) -> Result:
    """The scores of a model: mean IoU of class masks, average precision of object masks, overlap of foreground masks, or mean-IoU
    on the new classes of a few-shot model. Its run folder, if it has one, keeps metrics, predictions and examples.

    data: a folder, of which the list `split` is read within `skip_limit`, or what `frugalseg.read` returned. options: those of
    the model's task in `frugalseg.tasks.options`: `tags="ground-truth"` tells a model of masks which classes are in each image,
    an upper bound that has its own protocol id; `shots`, `episodes` and `seeds` are of few-shot models.

    Raises UsageError for an option of another task, DataError for data that cannot score the model.
    """
    chosen = choose_options(predictor.method, options)
    kept_aside = data if isinstance(data, Data) else read_kept_aside(data, split, skip_limit)
    result: Result = TASKS[predictor.method.task].code.evaluate(predictor, kept_aside, chosen, quiet)
    return result


def read_kept_aside(folder: str | Path, split: str, skip_limit: float) -> Data:
    """The images to score on. Raises DataError, with what scoring needs."""
    try:
        return read(folder, split=split or None, skip_limit=skip_limit)
    except DataError as error:
        needs = "Scoring needs images with masks that were kept aside: name their list with --split."
        raise DataError(f"{error}\n{needs}") from None


def preview(predictor: Predictor, data: str | Path, quiet: bool = False) -> None:
    """Draw what a run that was not scored makes of some images of its training list, for its report.

    Models that make nothing of an image alone, such as few-shot ones, are left out.
    """
    if predictor.folder is None or not TASKS[predictor.method.task].previews:
        return
    split = config.read(predictor.folder / "config.yaml")["split"]
    images = read(data, split=split or None, verify=False, skip_limit=1.0)
    gallery.save_previews(predictor.folder / "predictions" / gallery.PREVIEW, predictor, images, quiet)
