"""mean-IoU and binary-IoU against hand cases and a loop over pixels; presence against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from frugalseg.metrics.bootstrap import paired
from frugalseg.metrics.fewshot import FewShotResult, FewShotScores, PresenceScores

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
    result = FewShotResult({0: hand(), 1: other}, PresenceScores(), ["left out: cow, 1 pictures"])
    assert result.value == pytest.approx((0.525 + 0.5) / 2)
    assert result.deviation == pytest.approx(np.std([0.525, 0.5], ddof=1))
    assert result.table().row_count > 6
