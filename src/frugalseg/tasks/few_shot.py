"""Score a few-shot model on classes it has not learned: lists of episodes that anybody can draw again, counts that add up.

Every reference and every query is encoded once, however many episodes it is in, so a thousand episodes more cost only their
inner loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from frugalseg import draw
from frugalseg.data import Data, DataError, episodes
from frugalseg.data.episodes import Episode, EpisodeList, by_query, class_mask
from frugalseg.inference.predictor import Predictor
from frugalseg.methods.biopt import BiOpt, encode_supports, object_masks
from frugalseg.metrics.fewshot import OBJECT, FewShotResult, FewShotScores, PresenceScores, iou
from frugalseg.nets.prototypes import PrototypeBank
from frugalseg.progress import track
from frugalseg.tasks import results
from frugalseg.tasks.gallery import Example, pick_examples, save_examples
from frugalseg.tasks.options import FewShot
from frugalseg.types import size_of

TOGETHER = 16  # episodes of one query at a time: more of them make the work no shorter, but take memory


class Answer(NamedTuple):
    """What a model says to one episode. number: of the episode. present: whether the query shows the class.

    mask: (H, W) bool. confidence: that the class is there. truth: (H, W) of 0, 1, 255.
    """

    number: int
    present: bool
    mask: Tensor
    confidence: float
    truth: Tensor


@dataclass(frozen=True)
class Questions:
    """Episodes of several lists and what is needed to answer them: the images with masks, and the encoded references."""

    model: BiOpt
    data: Data
    episodes: Sequence[Episode]
    bank: PrototypeBank

    def answers(self, query: int, asked: Sequence[tuple[int, bool]]) -> Iterator[Answer]:
        """Answers on one image to these (number of the episode, whether the class is there)."""
        return answers(self.model, self.data, query, asked, self.episodes, self.bank)


def evaluate(predictor: Predictor, data: Data, options: FewShot, quiet: bool = False) -> FewShotResult:
    """Mean-IoU and binary-IoU of lists of episodes, and whether the model knows when a class is absent; see `score_lists`."""
    return score_lists(predictor, data, options.shots, options.episodes, range(options.seeds), quiet)


def score_lists(
    predictor: Predictor, data: Data, shots: int, count: int, seeds: Iterable[int], quiet: bool = False
) -> FewShotResult:
    """The scores of one list of `count` episodes for each seed.

    data: images with masks; the classes asked for are those the model held back and those unknown to it. shots: references of an
    episode, 0 for as many as in training. A run folder keeps the scores, and examples of the first list.

    Raises DataError when there is no such class or too few images.
    """
    model = cast(BiOpt, predictor.network)
    config = model.config
    masked = data.select(with_masks(data, config.masks)).only("image", config.masks)
    labels, pixels = novel_labels(model, data), episodes.class_pixels(masked, config.masks)
    lists = [episodes.draw(masked, pixels, labels, shots or config.shots, count, seed, config.least) for seed in seeds]
    asked = [episode for drawn in lists for episode in drawn.episodes]
    questions = Questions(model, masked, asked, encode_supports(model, masked, asked, quiet))
    scores, presence = [empty_scores(model, data, drawn) for drawn in lists], PresenceScores()
    for query, numbers in track(by_query(asked).items(), "queries", quiet=quiet):
        for answer in questions.answers(query, numbers):
            presence.update(answer.confidence, answer.present)
            if answer.present:
                place, number = divmod(answer.number, count)
                scores[place].update(f"{number:05d}", asked[answer.number].label, answer.mask, answer.truth)
    if predictor.folder:
        keep(predictor.folder, questions, scores, presence)
    left_out = [f"left out: {name}, {number} images" for name, number in lists[0].left_out.items()]
    return FewShotResult({drawn.seed: score for drawn, score in zip(lists, scores, strict=True)}, presence, left_out)


def keep(folder: Path, questions: Questions, scores: Sequence[FewShotScores], presence: PresenceScores) -> None:
    """Record the scores of each list in a run folder, and draw examples of the first."""
    for score in scores:
        results.add_to_metrics(folder, score, presence=presence.to_json())
    place = results.predictions_folder(folder, scores[0].split)
    save_examples(place, scores[0].protocol, examples(questions, scores[0]))


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
    """Indices of the images that can be scored. Raises DataError when there is none."""
    places = [i for i, record in enumerate(data.records) if masks in record.fields]
    if not places:
        raise results.nothing_to_score(data)
    return places


def empty_scores(model: BiOpt, data: Data, drawn: EpisodeList) -> FewShotScores:
    """Scores of a list of episodes before the first; the protocol id tells how the list was drawn."""
    about = f"{data.split}/{drawn.shots}-shot/seed{drawn.seed}/{drawn.digest}/novel-in-train={model.config.novel_in_train}"
    return FewShotScores(data.classes, data.root.resolve().name, about)


@torch.no_grad()
def answers(
    model: BiOpt, data: Data, query: int, asked: Sequence[tuple[int, bool]], tasks: Sequence[Episode], bank: PrototypeBank
) -> Iterator[Answer]:
    """The model's answers on one image. asked: (number of the episode, whether the class is there)."""
    sample = data[query]
    views, size = model.views(sample.image), size_of(sample.image)
    for part in (asked[start : start + TOGETHER] for start in range(0, len(asked), TOGETHER)):
        supports = bank.supports(tasks[number].support for number, _ in part).to(views[0].device)
        probabilities, confidences = model.segment(views, supports)
        masks = object_masks(probabilities, size)
        for (number, present), mask, confidence in zip(part, masks, confidences[:, 0].tolist(), strict=True):
            yield Answer(number, present, mask, confidence, class_mask(sample, tasks[number].label, model.config.masks))


def examples(questions: Questions, scores: FewShotScores) -> Iterator[Example]:
    """Reference, query, truth and prediction of the best, median and worst episodes of the first list."""
    values = results.best_first(scores.names, np.nan_to_num(iou(scores.stacked()[:, OBJECT])))
    data, masks = questions.data, questions.model.config.masks
    for name, group in pick_examples(list(values)).items():
        task = questions.episodes[int(name)]
        (answer,) = questions.answers(task.query, [(int(name), True)])
        reference, classes = data[task.references[0]], (scores.classes[task.label - 1],)
        shown = draw.enlarge(draw.paint(reference.image, class_mask(reference, task.label, masks), classes), draw.SIDE)
        panels = {"reference": shown} | draw.row(data.image(task.query), answer.truth, answer.mask.to(torch.uint8), classes)
        yield Example(f"{classes[0]} in {data.names[task.query]}", group, panels, values[name], "IoU")
