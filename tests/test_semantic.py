"""mIoU and tag mAP against slow loops, scikit-learn and cases done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score
from torchvision import tv_tensors

from frugalseg.metrics import SemanticScores, TagScores

CLASSES = ("cat", "dog", "cow", "sheep")
PREDICTION, TRUTH = np.array([[0, 1, 1], [1, 1, 0]]), np.array([[0, 0, 1], [1, 255, 255]])


def random_masks(images: int = 12, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks of unequal sizes, partly right, with void; "sheep" occurs in predictions only and every image lacks some class."""
    rng = np.random.default_rng(seed)
    masks = {}
    for index in range(images):
        truth = rng.choice(rng.permutation(4)[:3], size=rng.integers(3, 9, size=2)).astype(np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.1] = 255
        masks[f"image{index:02}"] = (prediction, truth)
    return masks


def scored(masks: dict[str, tuple[np.ndarray, np.ndarray]]) -> SemanticScores:
    scores = SemanticScores(CLASSES, "toy", "val")
    for name, (prediction, truth) in masks.items():
        scores.update(name, prediction, truth)
    return scores


def loop_miou(masks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, dict[int, float]]:
    """Pixel by pixel, class by class."""
    pixels = [pair for prediction, truth in masks for pair in zip(prediction.flat, truth.flat, strict=True)]
    pairs = [(int(p), int(t)) for p, t in pixels if t != 255]
    ious = {}
    for index in range(len(CLASSES) + 1):
        union = sum(1 for p, t in pairs if index in (p, t))
        if union:
            ious[index] = sum(1 for p, t in pairs if p == t == index) / union
    return sum(ious.values()) / len(ious), ious


def test_hand_case():
    scores = SemanticScores(["dog"])
    scores.update("a", PREDICTION, TRUTH)
    assert scores.per_class == {"background": 1 / 2, "dog": 2 / 3}
    assert scores.miou == pytest.approx(7 / 12)
    assert scores.accuracy == 3 / 4


def test_counts_are_pooled_over_the_set_and_not_averaged_over_images():
    scores = SemanticScores(["dog"])
    scores.update("small", np.array([[1]]), np.array([[1]]))  # dog alone: 1
    scores.update("large", np.zeros((1, 9), int), np.ones((1, 9), int))  # dog 0, background 0
    assert scores.per_class == {"background": 0, "dog": 1 / 10}
    assert scores.miou == 1 / 20


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_pixels(seed):
    masks = random_masks(4, seed)
    scores = scored(masks)
    miou, ious = loop_miou(list(masks.values()))
    assert scores.miou == pytest.approx(miou, abs=1e-12)
    for index, iou in enumerate(scores.per_class.values()):
        assert iou == pytest.approx(ious[index], abs=1e-12) if index in ious else np.isnan(iou)


def test_equals_scikit_learn():
    masks = random_masks(30)
    scores = scored(masks)
    prediction, truth = (np.concatenate([pair[i].ravel() for pair in masks.values()]) for i in range(2))
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    expected = jaccard_score(truth, prediction, labels=range(5), average=None)
    np.testing.assert_allclose(list(scores.per_class.values()), expected, atol=1e-12)
    confusion = confusion_matrix(truth, prediction, labels=range(5))
    np.testing.assert_array_equal(scores.stacked().sum(0), [confusion.diagonal(), confusion.sum(0), confusion.sum(1)])


def test_class_that_nobody_shows_is_left_out_of_the_mean_and_one_only_predicted_counts_as_zero():
    scores = SemanticScores(CLASSES)
    scores.update("a", np.array([[0, 1, 3]]), np.array([[0, 1, 1]]))
    assert scores.per_class == pytest.approx({"background": 1, "cat": 0.5, "dog": np.nan, "cow": 0, "sheep": np.nan}, nan_ok=True)
    assert scores.miou == 0.5


def test_void_hides_every_prediction_and_a_wholly_void_set_has_no_score():
    scores = SemanticScores(["dog"])
    scores.update("a", np.array([[0, 1]]), np.array([[255, 255]]))
    assert np.isnan(scores.miou)
    assert np.isnan(scores.accuracy)
    assert scores.to_json()["miou"] is None
    json.dumps(scores.to_json(), allow_nan=False)
    scores.update("b", np.array([[1, 0]]), np.array([[1, 255]]))
    assert scores.per_class["dog"] == 1


def test_tensors_arrays_and_all_integer_types_give_equal_counts():
    masks = random_masks(1)["image00"]
    expected = scored({"a": masks}).rows["a"]
    for kind in (torch.uint8, torch.int32, torch.int64):
        prediction, truth = (torch.from_numpy(mask).to(kind) for mask in masks)
        np.testing.assert_array_equal(scored({"a": (prediction, tv_tensors.Mask(truth))}).rows["a"], expected)
    one = SemanticScores(["dog"])
    one.update("bool", torch.tensor([[True, False]]), np.array([[True, True]]))
    assert one.per_class == {"background": 0, "dog": 0.5}


def test_shards_in_any_order_equal_one_pass():
    masks = random_masks()
    whole, names = scored(masks), list(masks)
    shards = [scored({name: masks[name] for name in reversed(names[start::3])}) for start in range(3)]
    merged = shards[2].merge(shards[0]).merge(shards[1])
    assert merged.to_json() == whole.to_json()


def test_padded_image_counts_once_and_a_clash_is_an_error():
    masks = random_masks(3)
    whole = scored(masks)
    miou = whole.miou
    whole.merge(scored({"image00": masks["image00"]}))
    assert (whole.miou, whole.images) == (miou, 3)
    prediction, truth = masks["image00"]
    with pytest.raises(ValueError, match=r"image00.*twice.*unique"):
        whole.update("image00", np.zeros_like(prediction), truth)
    assert whole.miou == miou
    with pytest.raises(ValueError, match="cannot merge"):
        whole.merge(SemanticScores(["dog"]))


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"size \(2, 3\).*\(3, 2\)"),
        (np.full((1, 2), 2), np.zeros((1, 2), int), r"prediction holds the ids \[2\], expected 0..1"),
        (np.full((1, 2), 255), np.zeros((1, 2), int), r"prediction holds the ids \[255\]"),
        (np.full((1, 2), -1), np.zeros((1, 2), int), r"prediction holds the ids \[-1\]"),
        (np.zeros((1, 2), int), np.array([[7, 254]]), r"ground truth holds the ids \[7, 254\].*class list"),
        (np.zeros((1, 2)), np.zeros((1, 2), int), r"prediction is float64\(1, 2\).*integers"),
        (np.zeros((3, 1, 2), int), np.zeros((1, 2), int), r"expected \(H, W\)"),
    ],
)
def test_masks_that_make_no_sense_are_named(prediction, truth, message):
    scores = SemanticScores(["dog"])
    with pytest.raises(ValueError, match=message):
        scores.update("a", prediction, truth)
    assert scores.images == 0


@pytest.mark.parametrize("classes", ["dog", [], ["dog", "dog"], ["background", "dog"], [str(i) for i in range(255)]])
def test_class_lists_that_make_no_sense_are_refused(classes):
    with pytest.raises(ValueError, match="classes: got"):
        SemanticScores(classes)


def test_254_classes_fit_beside_void():
    scores = SemanticScores([str(i) for i in range(254)])
    scores.update("a", np.full((2, 2), 254, np.uint8), np.array([[254, 254], [254, 255]], np.uint8))
    assert (scores.miou, scores.per_class["253"]) == (1, 1)


def test_no_images_is_an_error_and_not_a_score():
    with pytest.raises(ValueError, match="no image was scored"):
        _ = SemanticScores(["dog"]).miou


def test_baselines_equal_scoring_constant_masks():
    masks = random_masks()
    truth = np.concatenate([t.ravel() for _, t in masks.values()])
    most = 1 + int(np.bincount(truth[truth != 255], minlength=5)[1:].argmax())
    expected = {
        f"all {name}": scored({key: (np.full_like(t, index), t) for key, (_, t) in masks.items()}).miou
        for index, name in ((0, "background"), (most, CLASSES[most - 1]))
    }
    assert scored(masks).baselines == expected


def test_json_round_trip_keeps_counts_and_protocol():
    scores = scored(random_masks())
    record = json.loads(json.dumps(scores.to_json()))
    assert record["protocol"] == "miou|voc-void255|present-classes|toy|val|n=12"
    back = SemanticScores.from_json(record)
    assert back.to_json() == scores.to_json()
    assert all(back.rows[name].dtype == np.int64 for name in back.names)


def test_json_that_was_edited_or_is_another_is_refused():
    record = scored(random_masks(3)).to_json()
    with pytest.raises(ValueError, match="no JSON of semantic scores"):
        SemanticScores.from_json({"classes": ["dog"]})
    with pytest.raises(ValueError, match="contradicts itself"):
        SemanticScores.from_json({**record, "counts": {k: v for k, v in record["counts"].items() if k != "image00"}})
    record["counts"]["image01"][0][1] += 1000
    with pytest.raises(ValueError, match=r"contradicts itself.*image01"):
        SemanticScores.from_json(record)


def test_prints_the_protocol_the_classes_the_mean_and_the_baselines():
    scores = SemanticScores(["dog"], "toy", "val")
    scores.update("a", PREDICTION, TRUTH)
    scores.update("b", np.array([[0, 1]]), np.array([[1, 1]]))
    text = str(scores)
    for words in (scores.protocol, "dog", "60.00", "46.67", "[25.00, 58.33]", "baseline: all background", "16.67"):
        assert words in text


def test_real_masks_score_one_against_themselves_and_all_background_is_the_known_baseline(shared_data):
    folder = shared_data / "voc20" / "VOC2012"
    names = (folder / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    masks = {name: np.array(Image.open(folder / "SegmentationClass" / f"{name}.png")) for name in names}
    scores = SemanticScores([f"class{i}" for i in range(1, 21)], "voc20", "val")
    for name, mask in masks.items():
        scores.update(name, np.where(mask == 255, 0, mask), mask)
    assert scores.images == 84
    assert scores.miou == 1
    assert scores.baselines["all background"] == pytest.approx(0.034, abs=0.0025)


def test_map_equals_scikit_learn_with_ties_and_unknown_tags():
    rng = np.random.default_rng(3)
    predictions = rng.integers(0, 6, (60, 4)) / 5  # many equal scores
    tags = (rng.random((60, 4)) < 0.3).astype(float)
    tags[rng.random((60, 4)) < 0.1] = np.nan
    tags[:, 3] = 0  # a class no image shows
    scores = TagScores(CLASSES, "toy", "val")
    for index, (prediction, tag) in enumerate(zip(predictions, tags, strict=True)):
        scores.update(f"{index}", torch.from_numpy(prediction), torch.from_numpy(tag))
    known = ~np.isnan(tags)
    expected = [average_precision_score(tags[known[:, c], c], predictions[known[:, c], c]) for c in range(3)]
    np.testing.assert_allclose(list(scores.per_class.values())[:3], expected, atol=1e-12)
    assert np.isnan(scores.per_class["sheep"])
    assert scores.map == pytest.approx(np.mean(expected))
    assert TagScores.from_json(json.loads(json.dumps(scores.to_json()))).to_json() == scores.to_json()
    assert "cow" in str(scores)


def test_map_by_hand():
    scores = TagScores(["dog"])
    for name, score, tag in (("a", 0.9, 1), ("b", 0.8, 0), ("c", 0.7, 1)):
        scores.update(name, [score], [tag])
    assert scores.map == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert scores.baselines == {"random order": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("prediction", "tags", "message"),
    [
        ([0.1, 0.2], [1], "prediction has shape"),
        ([0.1], [1, 0], "tags has shape"),
        ([np.nan], [1], "NaN"),
        ([0.1], [2], "expected 0, 1 or NaN"),
    ],
)
def test_tags_that_make_no_sense_are_named(prediction, tags, message):
    with pytest.raises(ValueError, match=message):
        TagScores(["dog"]).update("a", prediction, tags)
