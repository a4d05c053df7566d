"""Score a model that makes object masks: average precision of masks, boxes and borders, panoptic quality, CorLoc, in one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from frugalseg import draw, files
from frugalseg.data import Data, png
from frugalseg.data.formats import coco_writer
from frugalseg.data.problems import DataError
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.instances import WHOLE, InstanceScores, Kind, whole
from frugalseg.metrics.panoptic import PanopticScores
from frugalseg.progress import track
from frugalseg.tasks.gallery import pick_examples
from frugalseg.tasks.results import expect_classes, list_name, record
from frugalseg.types import Prediction

KINDS: tuple[Kind, ...] = ("mask", "box", "boundary")


def evaluate(
    predictor: Predictor, data: Data, tags: Literal["predicted", "ground-truth"] = "predicted", quiet: bool = False
) -> InstanceScores | CorLoc:
    """Scores of the masks, CorLoc beside them; the run folder keeps those of boxes, borders and panoptic quality too.

    A model that learned from tags is scored by CorLoc on pictures that have boxes alone as well, and by nothing else where no
    picture has masks. The run's predictions/<list> holds results.json and truth.json, which any tool for COCO scores, objects/
    (indexed PNG) and pictures of the best, median and worst. Raises DataError for data that cannot score it or has other classes.
    """
    weak = "tags" in predictor.method.needs
    masked = [index for index, known in enumerate(data.records) if "instances" in known.fields]
    boxed = [index for index, known in enumerate(data.records) if weak and known.fields & {"instances", "boxes"} == {"boxes"}]
    if not masked and not boxed:
        raise DataError(f"{data.root}, list {data.split!r}: no picture has object masks to score with; give another --split")
    expect_classes(predictor, data)
    told: Literal["given", "predicted"] = "given" if tags == "ground-truth" else "predicted"
    about = data.root.resolve().name, list_name(predictor, data, tags)
    corloc = CorLoc(predictor.classes, *about)
    if boxed:
        locate(predictor, data.select(boxed), corloc, told, quiet)
    scores = measure(predictor, data.select(masked), corloc, told, quiet) if masked else None
    if predictor.folder:
        record(predictor.folder, corloc, proposals=predictor.proposals)
    return scores or corloc


def locate(predictor: Predictor, data: Data, corloc: CorLoc, tags: Literal["given", "predicted"], quiet: bool) -> None:
    """CorLoc of pictures that have boxes alone."""
    for index, (sample, prediction) in track(enumerate(predictor.stream(data, tags=tags)), "locate", len(data), quiet=quiet):
        corloc.update(sample.name, prediction.instances, data.boxed(index), prediction.size)


def measure(predictor: Predictor, data: Data, corloc: CorLoc, tags: Literal["given", "predicted"], quiet: bool) -> InstanceScores:
    """All scores of pictures with object masks, which are kept in the run folder, and their share in CorLoc."""
    about = corloc.data, corloc.split
    scores = {kind: InstanceScores(predictor.classes, *about, kind=kind) for kind in KINDS}
    trivial = {kind: InstanceScores(predictor.classes, *about, kind=kind) for kind in KINDS}
    scores["mask"].beside, panoptic = corloc, PanopticScores(predictor.classes, *about)
    kept: list[Prediction] = []
    for index, (sample, prediction) in track(enumerate(predictor.stream(data, tags=tags)), "evaluate", len(data), quiet=quiet):
        truth, boxes = data.compact(index), data.boxed(index)
        assert truth is not None
        assert boxes is not None
        everything = whole(prediction.size, len(predictor.classes))
        for kind, score in scores.items():
            score.update(sample.name, prediction.instances, boxes if kind == "box" else truth)
            trivial[kind].update(sample.name, everything, boxes if kind == "box" else truth)
        corloc.update(sample.name, prediction.instances, truth, prediction.size)
        panoptic.update(sample.name, prediction.instances, truth, data.void(index))
        kept.append(prediction)
    for kind, score in scores.items():
        score.baselines = {WHOLE: trivial[kind].values}
    if predictor.folder:
        keep(predictor.folder / "predictions" / about[1].replace("/", "_"), data, kept, scores["mask"])
        for result in (*scores.values(), panoptic):
            record(predictor.folder, result, proposals=predictor.proposals)
    return scores["mask"]


def keep(folder: Path, data: Data, predictions: list[Prediction], scores: InstanceScores) -> None:
    """Write predictions and truth as COCO's JSON, object maps, and pictures of some."""
    found, truth = coco_writer.Collector(data.classes, [data]), coco_writer.Collector(data.classes, [data])
    for index, prediction in enumerate(predictions):
        file = data.records[index].image.relative_to(data.root).as_posix()
        found.add(prediction.name, file, prediction.size, prediction.instances)
        truth.add(prediction.name, file, prediction.size, data.compact(index))
        png.write(
            files.inside(folder / "objects", prediction.name, ".png"), draw.object_map(prediction.instances, prediction.size)
        )
    files.write(folder / "results.json", json.dumps(found.results))
    files.write(folder / "truth.json", json.dumps(truth.dataset()))
    illustrate(folder, data, predictions, scores)


def illustrate(folder: Path, data: Data, predictions: list[Prediction], scores: InstanceScores) -> None:
    """Draw image, truth and prediction of the telling pictures into `folder`/shown, with shown.json that says what they are."""
    values = dict(zip(scores.names, scores.score(np.eye(scores.images, dtype=np.int64)).tolist(), strict=True))
    ranked = sorted((name for name in values if values[name] == values[name]), key=lambda name: -values[name])
    places = {prediction.name: index for index, prediction in enumerate(predictions)}
    entries: list[dict[str, Any]] = []
    for number, (name, why) in enumerate(pick_examples(ranked).items()):
        index = places[name]
        image, truth = data.image(index), data.compact(index)
        shown = {"image": draw.enlarge(image.permute(1, 2, 0).numpy(), draw.SIDE)}
        shown["truth"] = draw.objects(image, truth, data.classes, side=draw.SIDE)
        shown["prediction"] = draw.objects(image, predictions[index].instances, data.classes, side=draw.SIDE)
        draw.save(folder / "shown" / f"{number}.png", draw.sheet([shown]))
        known = {"name": name, "why": why, "iou": values[name], "picture": f"{number}.png", "measure": scores.measure.name}
        entries.append(known)
    text = json.dumps({"protocol": scores.protocol, "pictures": entries})
    files.write(folder / "shown" / "shown.json", text)
