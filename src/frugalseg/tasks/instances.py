"""Score object masks: average precision of masks, boxes and borders, panoptic quality and CorLoc, in one pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from frugalseg import draw, files
from frugalseg.data import Data, png
from frugalseg.data.formats import coco_writer
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.instances import WHOLE, InstanceScores, Kind, whole
from frugalseg.metrics.panoptic import PanopticScores
from frugalseg.tasks import results
from frugalseg.tasks.gallery import Example, pick_examples, save_examples
from frugalseg.tasks.options import Masks
from frugalseg.types import Prediction

KINDS: tuple[Kind, ...] = ("mask", "box", "boundary")


class Scores:
    """All scores of images with object masks, and those of the trivial answer: the whole image as one object of each class.

    corloc: takes these images too, beside those that have boxes alone.
    """

    def __init__(self, corloc: CorLoc) -> None:
        about = corloc.classes, corloc.data, corloc.split
        self.precision = {kind: InstanceScores(*about, kind=kind) for kind in KINDS}
        self.trivial = {kind: InstanceScores(*about, kind=kind) for kind in KINDS}
        self.panoptic, self.corloc = PanopticScores(*about), corloc
        self.precision["mask"].beside = corloc

    def update(self, data: Data, index: int, prediction: Prediction) -> None:
        """Count one image of the data."""
        masks, boxes, name = data.compact(index), data.boxed(index), prediction.name
        assert masks is not None
        assert boxes is not None
        everything = whole(prediction.size, len(self.corloc.classes))
        for kind in KINDS:
            truth = boxes if kind == "box" else masks
            self.precision[kind].update(name, prediction.instances, truth)
            self.trivial[kind].update(name, everything, truth)
        self.corloc.update(name, prediction.instances, masks, prediction.size)
        self.panoptic.update(name, prediction.instances, masks, data.void(index))

    def finished(self) -> InstanceScores:
        """The scores of the masks, once every image was counted; each kind has its trivial answer beside it."""
        for kind, scores in self.precision.items():
            scores.baselines = {WHOLE: self.trivial[kind].values}
        return self.precision["mask"]


def evaluate(predictor: Predictor, data: Data, options: Masks, quiet: bool = False) -> InstanceScores | CorLoc:
    """Scores of the masks with CorLoc beside them; a run folder keeps those of boxes, borders and panoptic quality too.

    A model that learned from tags is scored by CorLoc on images that have boxes alone as well, and by nothing else where no
    image has masks. The run's predictions/<list> holds results.json and truth.json, which any tool for COCO scores, objects/
    (indexed PNG) and examples. Raises DataError for data without object masks, and for data of other classes than the model's.
    """
    weak = "tags" in predictor.method.needs
    masked = [index for index, record in enumerate(data.records) if "instances" in record.fields]
    boxed = [index for index, record in enumerate(data.records) if weak and record.fields & {"instances", "boxes"} == {"boxes"}]
    if not masked and not boxed:
        raise results.nothing_to_score(data, "object masks")
    results.expect_classes(predictor, data)
    name = results.list_name(predictor, data, options.tags)
    corloc = CorLoc(predictor.classes, data.root.resolve().name, name)
    if boxed:
        locate(predictor, data.select(boxed), corloc, options, quiet)
    scores = measure(predictor, data.select(masked), corloc, options, quiet) if masked else None
    if predictor.folder:
        results.add_to_metrics(predictor.folder, corloc, proposals=predictor.proposals)
    return scores or corloc


def locate(predictor: Predictor, data: Data, corloc: CorLoc, options: Masks, quiet: bool) -> None:
    """CorLoc of images that have boxes alone."""
    for index, sample, prediction in results.predictions(predictor, data, "locate", options.stream_tags, quiet):
        corloc.update(sample.name, prediction.instances, data.boxed(index), prediction.size)


def measure(predictor: Predictor, data: Data, corloc: CorLoc, options: Masks, quiet: bool) -> InstanceScores:
    """All scores of images with object masks, which a run folder keeps, and their share in CorLoc."""
    scores, kept = Scores(corloc), list[Prediction]()
    for index, _, prediction in results.predictions(predictor, data, "evaluate", options.stream_tags, quiet):
        scores.update(data, index, prediction)
        kept.append(prediction)
    masks = scores.finished()
    if predictor.folder:
        save(results.predictions_folder(predictor.folder, corloc.split), data, kept, masks)
        for result in (*scores.precision.values(), scores.panoptic):
            results.add_to_metrics(predictor.folder, result, proposals=predictor.proposals)
    return masks


def save(folder: Path, data: Data, predictions: list[Prediction], scores: InstanceScores) -> None:
    """Write predictions and truth as COCO's JSON, object maps, and examples."""
    predicted, truth = coco_writer.Collector(data.classes, [data]), coco_writer.Collector(data.classes, [data])
    for index, prediction in enumerate(predictions):
        file = data.records[index].image.relative_to(data.root).as_posix()
        predicted.add(prediction.name, file, prediction.size, prediction.instances)
        truth.add(prediction.name, file, prediction.size, data.compact(index))
        objects = draw.object_map(prediction.instances, prediction.size)
        png.write(files.inside(folder / "objects", prediction.name, ".png"), objects)
    files.write(folder / "results.json", json.dumps(predicted.results))
    files.write(folder / "truth.json", json.dumps(truth.dataset()))
    save_examples(folder, scores.protocol, examples(data, predictions, scores))


def image_scores(scores: InstanceScores) -> dict[str, float]:
    """Average precision of each image alone, best first, without those that show no object."""
    values = scores.score(np.eye(scores.images, dtype=np.int64))
    return results.best_first(scores.names, values)


def examples(data: Data, predictions: list[Prediction], scores: InstanceScores) -> Iterator[Example]:
    """Image, truth and prediction of the best, median and worst images."""
    values = image_scores(scores)
    places = {prediction.name: index for index, prediction in enumerate(predictions)}
    for name, group in pick_examples(list(values)).items():
        index = places[name]
        image = data.image(index)
        panels = {"image": draw.enlarge(image.permute(1, 2, 0).numpy(), draw.SIDE)}
        panels["truth"] = draw.objects(image, data.compact(index), data.classes, side=draw.SIDE)
        panels["prediction"] = draw.objects(image, predictions[index].instances, data.classes, side=draw.SIDE)
        yield Example(name, group, panels, values[name], scores.measure.name)
