"""mean-IoU and binary-IoU against hand cases and a loop over pixels; presence against scikit-learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from sklearn.metrics import precision_score, recall_score, roc_auc_score
from torch.nn import functional as F

import frugalseg
from frugalseg.data import Data, DataError, episodes
from frugalseg.inference.predictor import Predictor
from frugalseg.methods import biopt
from frugalseg.metrics.bootstrap import paired
from frugalseg.metrics.fewshot import FewShotResult, FewShotScores, PresenceScores
from frugalseg.nets.prototypes import class_weights, support_prototypes
from frugalseg.tasks import few_shot
from frugalseg.tasks.options import FewShot

CLASSES = ("cat", "dog", "cow")


def strip(intersection: int, union: int, pixels: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth of 16 pixels with that intersection and union: all of the truth is predicted, and more."""
    prediction, truth = np.zeros((1, pixels), int), np.zeros((1, pixels), int)
    prediction[0, :union], truth[0, :intersection] = 1, 1
    return prediction, truth


def hand() -> FewShotScores:
    scores = FewShotScores(CLASSES, "toy", "val")
    scores.update("0", 1, *strip(2, 4))
    scores.update("1", 1, *strip(1, 6))
    scores.update("2", 2, *strip(3, 4))
    return scores


def test_hand_case_of_mean_iou() -> None:
    scores = hand()
    assert scores.per_class == {"cat": pytest.approx(0.3), "dog": pytest.approx(0.75)}
    assert scores.value == pytest.approx(0.525)


def test_binary_iou_pools_objects_and_backgrounds() -> None:
    # objects: 6 of 14; backgrounds: 12 + 10 + 12 agree, of 48 - 6 pixels that either side calls background
    assert hand().binary == pytest.approx((6 / 14 + 34 / 42) / 2)


def test_mean_iou_is_not_the_mean_of_the_episodes() -> None:
    scores = FewShotScores(CLASSES)
    scores.update("0", 1, *strip(1, 1))
    scores.update("1", 1, *strip(0, 9))
    assert scores.value == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, sums = FewShotScores(CLASSES), {}
    for number in range(12):
        label, shape = int(random.integers(1, 3)), tuple(random.integers(3, 8, 2))
        prediction, truth = random.integers(0, 2, shape), random.choice([0, 1, 255], shape)
        scores.update(str(number), label, prediction, truth)
        for p, t in zip(prediction.flat, truth.flat, strict=True):
            if t != 255:
                for kind, value in ((label, 1), ("object", 1), ("background", 0)):
                    both, either = sums.get(kind, (0, 0))
                    sums[kind] = both + (p == t == value), either + (value in (p, t))
    ratios = {kind: both / either for kind, (both, either) in sums.items()}
    assert scores.value == pytest.approx(np.mean([ratios[label] for label in (1, 2) if label in ratios]))
    assert scores.binary == pytest.approx((ratios["object"] + ratios["background"]) / 2)


def test_painting_everything_is_the_share_of_the_object() -> None:
    scores = FewShotScores(CLASSES)
    for number, (label, there) in enumerate(((1, 4), (1, 2), (2, 8))):
        scores.update(str(number), label, np.ones((1, 16), int), strip(there, there)[1])
    assert scores.baselines["all object"] == pytest.approx(scores.value)


def test_json_comes_back_and_says_no_nan() -> None:
    record = json.loads(json.dumps(hand().to_json(), allow_nan=False))
    again = FewShotScores.from_json(record)
    assert (again.protocol, again.value, again.binary) == (hand().protocol, hand().value, hand().binary)
    assert record["mean-iou"] == pytest.approx(0.525)


def test_better_predictions_on_the_same_episodes_are_told_from_worse() -> None:
    random = np.random.default_rng(0)
    good, bad = FewShotScores(CLASSES), FewShotScores(CLASSES)
    for number in range(60):
        truth = random.integers(0, 2, (6, 6))
        for scores, right in ((good, 0.9), (bad, 0.6)):
            prediction = np.where(random.random((6, 6)) < right, truth, 1 - truth)
            scores.update(str(number), 1 + number % 3, prediction, truth)
    assert paired(good, bad).decided == "better"
    assert paired(bad, good).decided == "worse"


def test_what_does_not_fit_is_refused() -> None:
    scores = hand()
    with pytest.raises(ValueError, match=r"size \(1, 2\), the ground truth \(1, 3\)"):
        scores.update("x", 1, np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"class 4, expected 1\.\.3"):
        scores.update("x", 4, np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="twice"):
        scores.update("0", 1, *strip(1, 1))


def test_presence_equals_scikit_learn() -> None:
    random, scores = np.random.default_rng(0), PresenceScores()
    present = random.random(200) < 0.4
    confidence = np.round(np.clip(random.normal(0.4 + 0.2 * present, 0.2), 0, 1), 1)  # with ties
    for value, there in zip(confidence.tolist(), present.tolist(), strict=True):
        scores.update(value, there)
    assert scores.precision == pytest.approx(precision_score(present, confidence > 0.5))
    assert scores.recall == pytest.approx(recall_score(present, confidence > 0.5))
    assert scores.ranking == pytest.approx(roc_auc_score(present, confidence))


def test_result_of_several_seeds_is_their_mean_and_spread() -> None:
    other = FewShotScores(CLASSES, "toy", "val")
    other.update("0", 3, *strip(1, 2))
    result = FewShotResult({0: hand(), 1: other}, PresenceScores(), ["left out: cow, 1 images"])
    assert result.value == pytest.approx((0.525 + 0.5) / 2)
    assert result.deviation == pytest.approx(np.std([0.525, 0.5], ddof=1))
    assert result.table().row_count > 6


# -- a trained model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Six images of all three classes, six of the first two."""
    folder = tmp_path_factory.mktemp("images")
    parts = [toys.write(folder / str(part), ((1, 1, 1 - part),) * 6) for part in range(2)]
    records = [replace(record, name=f"{part}/{record.name}") for part, data in enumerate(parts) for record in data.records]
    return Data(folder, "masks", "train", toys.CLASSES, records)


@pytest.fixture(scope="module")
def model(images: Data, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    settings = {
        "backbone": "tiny",
        "side": 33,
        "steps": 2,
        "batch": 2,
        "test_scales": (1.0, 1.5),
        "novel": ["cherry"],
        "known": 2,
    }
    engine = {"workers": 0, "accelerator": "cpu", "quiet": True, "out": str(tmp_path_factory.mktemp("runs")), "name": "run"}
    return frugalseg.train("biopt", images, **settings, **engine, pairs=4, novel_in_train="ignore")


@pytest.mark.parametrize("shots", [1, 3])
def test_shared_work_gives_what_each_episode_alone_gives(model: Predictor, images: Data, shots: int) -> None:
    found = few_shot.score_lists(model, images, shots, 8, [4], quiet=True).seeds[4]
    drawn = episodes.draw(images, episodes.class_pixels(images), [3], shots, 8, 4)
    network = model.network
    for number, task in enumerate(drawn.episodes):
        maps = [network.features(network.square(images.image(index))) for index in task.references]
        masks = [episodes.class_mask(images[index], 3) for index in task.references]
        weights = [class_weights(mask, (5, 5)) for mask in masks]
        support, _ = support_prototypes(torch.stack([m.flatten(1, 2) for m in maps], 1)[None], torch.stack(weights)[None, None])
        total = torch.zeros(1, 2, 7, 7)
        for view in network.views(images.image(task.query)):
            final = network.solve(view.flatten(1, 2), support).final.softmax(1)
            total = total + biopt.upsample(final, (view.shape[1], view.shape[2]), (7, 7))
        truth = episodes.class_mask(images[task.query], 3)
        mask = F.interpolate(total, truth.shape, mode="bilinear", align_corners=True).argmax(1)[0]
        alone = FewShotScores(images.classes)
        alone.update("one", 3, mask, truth)
        np.testing.assert_allclose(found.rows[f"{number:05d}"], alone.rows["one"], atol=2)


def test_only_classes_that_were_held_back_or_are_unknown_are_asked_for(model: Predictor, images: Data) -> None:
    result = few_shot.evaluate(model, images, FewShot(episodes=5), quiet=True)
    assert result.seeds[0].per_class.keys() == {"cherry"}
    assert "novel-in-train=ignore" in result.seeds[0].protocol
    renamed = Data(images.root, "masks", "train", ("apple", "berry", "fig"), images.records)
    assert few_shot.evaluate(model, renamed, FewShot(episodes=5), quiet=True).seeds[0].per_class.keys() == {"fig"}
    known = Data(images.root, "masks", "train", ("berry", "apple", "berry2"), images.records).select(range(6))
    assert few_shot.novel_labels(model.network, known) == [3]
    model.network.novel, kept = (), model.network.novel
    with pytest.raises(DataError, match="learned from all its classes"):
        few_shot.evaluate(model, images, FewShot(episodes=5), quiet=True)
    model.network.novel = kept


def test_absent_classes_are_asked_for_too(model: Predictor, images: Data) -> None:
    result = few_shot.evaluate(model, images.select([0, 1, 2]), FewShot(episodes=4), quiet=True)
    assert result.presence.present == [True] * 4, "every image shows the class: none can be asked about"
    everything = few_shot.evaluate(model, images, FewShot(episodes=4, seeds=2), quiet=True)
    assert sorted(everything.presence.present) == [False] * 8 + [True] * 8
    assert list(everything.seeds) == [0, 1]


def test_what_is_printed_is_kept(model: Predictor, images: Data, tmp_path: Path) -> None:
    model.folder = tmp_path
    try:
        result = few_shot.evaluate(model, images, FewShot(episodes=4, seeds=2), quiet=True)
    finally:
        model.folder = None
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert [record["mean-iou"] for record in kept.values()] == [scores.value for scores in result.seeds.values()]
    assert all(record["presence"] == result.presence.to_json() for record in kept.values())
