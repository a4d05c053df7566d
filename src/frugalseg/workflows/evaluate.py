"""Score a trained model on pictures with masks, and keep what a report needs: numbers, masks, and some telling pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from frugalseg import config, draw, files
from frugalseg.data import Data, png, read
from frugalseg.data.problems import DataError
from frugalseg.files import write_json
from frugalseg.inference.predictor import Predictor
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.fewshot import FewShotResult
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.metrics.instances import InstanceScores
from frugalseg.metrics.semantic import SemanticScores, class_iou
from frugalseg.progress import track
from frugalseg.tasks.gallery import pick_examples
from frugalseg.tasks.results import expect_classes, list_name, record

PREVIEW, PREVIEWED = "of the training", 4  # name and number of the pictures that are drawn where nothing was scored


def evaluate(
    predictor: Predictor,
    data: str | Path | Data,
    split: str = "val",
    tags: Literal["predicted", "ground-truth"] = "predicted",
    quiet: bool = False,
    shots: int = 0,
    episodes: int = 1000,
    seeds: int = 1,
    skip_limit: float = 0.05,
) -> SemanticScores | FewShotResult | InstanceScores | CorLoc | ForegroundScores:
    """Mean IoU of the model's class masks on pictures with masks; the run folder keeps metrics, masks and overlays.

    A model of foreground masks is scored against everything annotated, see `frugalseg.foreground`. A model of object masks
    is scored by their average precision, see `frugalseg.objects`. A few-shot model is scored on classes it has not learned, by
    `frugalseg.fewshot`: `shots` (0: as in training) references for each of `episodes` tasks, for each of `seeds` lists of them.

    data: a folder, of which the list `split` is read within `skip_limit`, or what `frugalseg.read` returned. tags: "ground-truth"
    tells the model which classes are in the picture, an upper bound that has its own protocol id. Raises DataError for data that
    cannot score it.
    """
    if isinstance(data, (str, Path)):
        try:
            data = read(data, split=split or None, skip_limit=skip_limit)
        except DataError as error:
            raise DataError(
                f"{error}\nScoring needs pictures with masks that were kept aside: name their list with --split."
            ) from None
    if predictor.method.task == "few_shot":
        from frugalseg.tasks import few_shot

        return few_shot.evaluate(predictor, data, shots, episodes, seeds, quiet)
    if predictor.method.task == "foreground":
        from frugalseg.tasks import foreground

        return foreground.evaluate(predictor, data, quiet=quiet)
    if predictor.method.task == "instances":
        from frugalseg.tasks import instances

        return instances.evaluate(predictor, data, tags, quiet)
    if "semantic" not in data.offers:
        raise DataError(f"{data.root}, list {data.split!r}: no picture has a mask to score with; give another --split")
    expect_classes(predictor, data)
    told = tags == "ground-truth"
    asked = list_name(predictor, data, tags)
    scores = SemanticScores(predictor.classes, data=data.root.resolve().name, split=asked)
    masked = data.select([index for index, record in enumerate(data.records) if record.semantic is not None])
    truth = masked.only("semantic")
    folder = predictor.folder / "predictions" / asked.replace("/", "_") if predictor.folder else None
    predictions = predictor.stream(masked, tags="given" if told else "predicted")
    for index, (sample, prediction) in track(enumerate(predictions), "evaluate", len(masked), quiet=quiet):
        scores.update(sample.name, prediction.semantic, truth[index].semantic)
        if folder and prediction.semantic is not None:
            png.write(files.inside(folder, sample.name, ".png"), prediction.semantic)
    if predictor.folder and folder:
        record(predictor.folder, scores)
        illustrate(folder, truth, scores)
    return scores


def preview(predictor: Predictor, data: str | Path, quiet: bool = False) -> None:
    """Draw what a run that was not scored makes of some pictures of its training list, evenly spread, for its report.

    A few-shot model makes nothing of a picture alone, and is left out.
    """
    if predictor.folder is None or predictor.method.task == "few_shot":
        return
    split = config.read(predictor.folder / "config.yaml")["split"]
    known = read(data, split=split or None, verify=False, skip_limit=1.0)
    some = known.select(sorted({round(place) for place in np.linspace(0, len(known) - 1, PREVIEWED)}))
    folder, entries = predictor.folder / "predictions" / PREVIEW / "shown", []
    shown = track(predictor.stream(some, skipped=[]), "draw", len(some), quiet=quiet, brief=True)
    for number, (sample, prediction) in enumerate(shown):
        best = prediction.instances.scores if prediction.instances is not None else None
        least = min(0.5, float(best.max())) if best is not None and len(best) else 0.5  # at least the surest object
        image = draw.enlarge(sample.image.permute(1, 2, 0).numpy(), draw.SIDE)
        drawn = draw.enlarge(draw.overlay(sample.image, prediction, least=least), draw.SIDE)
        draw.save(folder / f"{number}.png", draw.sheet([{"image": image, "prediction": drawn}]))
        entries.append({"name": sample.name, "why": "not scored", "iou": None, "picture": f"{number}.png"})
    write_json(folder / "shown.json", {"protocol": "", "pictures": entries})


def ranked(scores: SemanticScores) -> dict[str, float]:
    """Mean IoU of each picture by itself over the classes it shows, best first."""
    values = np.nanmean(class_iou(scores.stacked()), axis=-1)
    return dict(sorted(zip(scores.names, values.tolist(), strict=True), key=lambda item: -item[1]))


def illustrate(folder: Path, data: Data, scores: SemanticScores) -> None:
    """Draw image, truth and prediction of the telling pictures into `folder`/shown, with shown.json that says what they are."""
    values = ranked(scores)
    places = {name: index for index, name in enumerate(data.names)}
    entries = []
    for number, (name, why) in enumerate(pick_examples(list(values)).items()):
        sample = data[places[name]]
        predicted = np.asarray(Image.open(files.inside(folder, name, ".png")))
        pictures = draw.row(sample.image, sample.semantic, predicted, data.classes)
        draw.save(folder / "shown" / f"{number}.png", draw.sheet([pictures]))
        entries.append({"name": name, "why": why, "iou": values[name], "picture": f"{number}.png"})
    (folder / "shown" / "shown.json").write_text(json.dumps({"protocol": scores.protocol, "pictures": entries}), encoding="utf-8")
