"""Score class masks: mean IoU, with what painting everything in one class would score beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from frugalseg import draw, files
from frugalseg.data import Data, png
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.per_image import present_mean
from frugalseg.metrics.semantic import SemanticScores, class_iou
from frugalseg.tasks import results
from frugalseg.tasks.gallery import Example, pick_examples, save_examples
from frugalseg.tasks.options import Masks


def evaluate(predictor: Predictor, data: Data, options: Masks, quiet: bool = False) -> SemanticScores:
    """Mean IoU on the images with class masks. A run folder keeps scores, predicted masks and examples.

    Raises DataError for data without class masks, and for data of other classes than the model's.
    """
    if "semantic" not in data.offers:
        raise results.nothing_to_score(data)
    results.expect_classes(predictor, data)
    masked = data.select(index for index, record in enumerate(data.records) if record.semantic is not None)
    truth, name = masked.only("semantic"), results.list_name(predictor, data, options.tags)
    scores = SemanticScores(predictor.classes, data=data.root.resolve().name, split=name)
    folder = results.predictions_folder(predictor.folder, name) if predictor.folder else None
    for index, sample, prediction in results.predictions(predictor, masked, "evaluate", options.stream_tags, quiet):
        scores.update(sample.name, prediction.semantic, truth[index].semantic)
        if folder and prediction.semantic is not None:
            png.write(files.inside(folder, sample.name, ".png"), prediction.semantic)
    if predictor.folder and folder:
        results.add_to_metrics(predictor.folder, scores)
        save_examples(folder, scores.protocol, examples(folder, truth, scores))
    return scores


def image_scores(scores: SemanticScores) -> dict[str, float]:
    """Mean IoU of each image alone, over the classes it shows, best first, without those whose truth is unknown everywhere."""
    return results.best_first(scores.names, present_mean(class_iou(scores.stacked())))


def examples(folder: Path, data: Data, scores: SemanticScores) -> Iterator[Example]:
    """Image, truth and prediction of the best, median and worst images, from the masks that lie in the folder."""
    values = image_scores(scores)
    places = {name: index for index, name in enumerate(data.names)}
    for name, group in pick_examples(list(values)).items():
        sample = data[places[name]]
        predicted = np.asarray(Image.open(files.inside(folder, name, ".png")))
        yield Example(name, group, draw.row(sample.image, sample.semantic, predicted, data.classes), values[name])
