"""Score a few-shot model on classes it has not learned: lists of episodes that anybody can draw again, counts that add up.

Every reference and every query is looked at once, however many episodes it stands in, so a thousand episodes more cost only their
inner loops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from frugalseg import draw
from frugalseg.data import Data, episodes
from frugalseg.data.episodes import Episode, EpisodeList, class_mask
from frugalseg.data.problems import DataError
from frugalseg.inference.predictor import Predictor
from frugalseg.methods.biopt import Bank, BiOpt, by_query, full_size, size_of
from frugalseg.metrics.fewshot import OBJECT, FewShotResult, FewShotScores, PresenceScores, iou
from frugalseg.progress import track
from frugalseg.tasks.gallery import pick_examples
from frugalseg.tasks.results import record

TOGETHER = 16  # episodes of one query at a time: more of them make the work no shorter, but take memory


def evaluate(
    predictor: Predictor, data: Data, shots: int = 0, count: int = 1000, seeds: int | Sequence[int] = 1, quiet: bool = False
) -> FewShotResult:
    """Mean-IoU and binary-IoU of `count` episodes for each list of tasks, and whether it knows when a class is absent.

    data: pictures with masks; the classes asked for are those the model held back and those unknown to it. shots:
    references of an episode, 0 for as many as in training. seeds: of the lists, or their number.

    Raises DataError when there is no such class or too few pictures.
    """
    model: Any = predictor.network
    config = model.config
    masked = data.select(with_masks(data, config.masks)).only("image", config.masks)
    labels = novel_labels(model, data)
    given = range(seeds) if isinstance(seeds, int) else seeds
    pixels = episodes.class_pixels(masked, config.masks)
    lists = [episodes.draw(masked, pixels, labels, shots or config.shots, count, seed, config.least) for seed in given]
    tasks = [(place, task) for place, drawn in enumerate(lists) for task in drawn.episodes]
    scores = [_empty(predictor, data, drawn) for drawn in lists]
    bank, presence = encode_supports(model, masked, [task for _, task in tasks], quiet), PresenceScores()
    asked = by_query(task for _, task in tasks)
    for query, questions in track(asked.items(), "queries", quiet=quiet):
        for number, present, mask, sure, truth in answers(model, masked, query, questions, [task for _, task in tasks], bank):
            presence.update(sure, present)
            if present:
                place, task = tasks[number]
                scores[place].update(f"{number - place * count:05d}", task.label, mask, truth)
    if predictor.folder:
        for score in scores:
            record(predictor.folder, score, presence=presence.to_json())
        illustrate(predictor.folder, model, masked, lists[0], scores[0], bank)
    left_out = [f"left out: {name}, {number} pictures" for name, number in lists[0].left_out.items()]
    return FewShotResult({drawn.seed: score for drawn, score in zip(lists, scores, strict=True)}, presence, left_out)


def novel_labels(model: BiOpt, data: Data) -> list[int]:
    """Ids, in `data`, of the classes that the model was not trained on. Raises DataError when there is none."""
    labels = [i for i, name in enumerate(data.classes, 1) if name in model.novel or name not in model.classes]
    if not labels:
        raise DataError(
            f"{data.root}: the model has learned from all its classes, so none is new. Hold some back in training "
            "(--fold 0, or --novel NAME), or score on data of other classes."
        )
    return labels


def with_masks(data: Data, masks: str) -> list[int]:
    """Indices of the pictures that can be scored. Raises DataError when there is none."""
    places = [i for i, record in enumerate(data.records) if masks in record.fields]
    if not places:
        raise DataError(f"{data.root}, list {data.split!r}: no picture has a mask to score with; give another --split")
    return places


def _empty(predictor: Predictor, data: Data, drawn: EpisodeList) -> FewShotScores:
    model: Any = predictor.network
    about = f"{data.split}/{drawn.shots}-shot/seed{drawn.seed}/{drawn.digest}/novel-in-train={model.config.novel_in_train}"
    return FewShotScores(data.classes, data.root.resolve().name, about)


@torch.no_grad()
def encode_supports(model: BiOpt, data: Data, tasks: Sequence[Episode], quiet: bool = False) -> Bank:
    """The prototypes of every reference of the episodes."""
    wanted: dict[int, set[int]] = {}
    for task in tasks:
        for reference in task.references:
            wanted.setdefault(reference, set()).add(task.label)
    parts: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    for index in track(sorted(wanted), "references", quiet=quiet):
        sample, labels = data[index], sorted(wanted[index])
        masks = [class_mask(sample, label, model.config.masks) for label in labels]
        prototypes, pixels = (part.cpu() for part in model.examples(model.features(model.picture(sample.image)), masks))
        parts |= {(index, label): (prototypes[place], pixels[place]) for place, label in enumerate(labels)}
    return Bank(parts)


@torch.no_grad()
def answers(
    model: BiOpt, data: Data, query: int, questions: Sequence[tuple[int, bool]], tasks: Sequence[Episode], bank: Bank
) -> Any:
    """For each (number of the episode, whether the class is there): those two, mask (H, W) bool, confidence, truth (H, W)."""
    sample = data[query]
    views, size = model.views(sample.image), size_of(sample.image)
    for part in (questions[start : start + TOGETHER] for start in range(0, len(questions), TOGETHER)):
        examples = bank.examples([tasks[number] for number, _ in part]).to(views[0].device)
        probabilities, sure = model.find(views, examples)
        small = full_size(probabilities[:, 1:], size) > 0.5
        masks = F.interpolate(small.float(), size, mode="nearest")[:, 0].bool().cpu()
        for (number, present), mask, confidence in zip(part, masks, sure[:, 0].tolist(), strict=True):
            yield number, present, mask, confidence, class_mask(sample, tasks[number].label, model.config.masks)


def illustrate(folder: Path, model: BiOpt, data: Data, drawn: EpisodeList, scores: FewShotScores, bank: Bank) -> None:
    """Draw reference, query, truth and what was found of the best, median and worst episodes, for the report."""
    values = np.nan_to_num(iou(scores.stacked()[:, OBJECT]))
    ranked = [scores.names[place] for place in np.argsort(-values, kind="stable")]
    place, entries = folder / "predictions" / scores.split.replace("/", "_") / "shown", []
    for number, (name, why) in enumerate(pick_examples(ranked).items()):
        task = drawn.episodes[int(name)]
        ((_, _, mask, _, truth),) = answers(model, data, task.query, [(0, True)], [task], bank)
        reference, classes = data[task.references[0]], (scores.classes[task.label - 1],)
        shown = draw.enlarge(draw.paint(reference.image, class_mask(reference, task.label, model.config.masks), classes), 384)
        pictures = {"reference": shown} | draw.row(data.image(task.query), truth, mask.to(torch.uint8), classes)
        draw.save(place / f"{number}.png", draw.sheet([pictures]))
        value = float(values[scores.names.index(name)])
        entries.append(
            {"name": f"{classes[0]} in {data.names[task.query]}", "why": why, "iou": value, "picture": f"{number}.png"}
        )
    (place / "shown.json").write_text(json.dumps({"protocol": scores.protocol, "pictures": entries}), encoding="utf-8")
