"""Average precision of objects: hand cases, slow oracles, and pycocotools, number by number."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO as OracleCOCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import binary_erosion

from frugalseg import rle
from frugalseg.metrics import paired
from frugalseg.metrics.average_precision import average_precision, match
from frugalseg.metrics.instances import COCO, PDSL, TABLES, VOC07, VOC12, InstanceScores, Measure, apr, coco
from frugalseg.types import Instances

SIZE = (24, 30)


def compact(masks: Any, labels: Any, scores: Any = None, crowd: Any = None) -> Instances:
    codes = [rle.encode(np.asarray(mask, bool)) for mask in masks]
    numbers = torch.tensor(np.asarray(labels, np.int64))
    given = None if scores is None else torch.tensor(np.asarray(scores, np.float32))
    flags = None if crowd is None else torch.tensor(np.asarray(crowd, bool))
    return Instances(torch.from_numpy(rle.boxes(codes)), numbers, given, codes, crowd=flags)


def strip(*spans: tuple[int, int]) -> np.ndarray:
    """Masks on a strip of 1 x 20 pixels."""
    return np.array([[[start <= x < end for x in range(20)]] for start, end in spans], bool).reshape(-1, 1, 20)


def one_class(prediction: Instances | None, truth: Instances) -> InstanceScores:
    scores = InstanceScores(["thing"])
    scores.update("a", prediction, truth)
    return scores


# -- hand cases --


@pytest.mark.parametrize(("interpolation", "expected"), [("area", 0.83333), ("11pt", 0.84848), ("coco101", 0.83498)])
def test_ranking_right_wrong_right_of_two(interpolation: Any, expected: float) -> None:
    found = average_precision(np.array([[1], [2]]), np.array([[1], [3]]), np.array([2]), interpolation)
    assert found[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("rule", "area", "eleven"), [("voc", 0.5, 0.5455), ("sds", 1, 1), ("coco", 1, 1)])
def test_two_overlapping_detections_below_one_half(rule: Any, area: float, eleven: float) -> None:
    scores = one_class(compact(strip((0, 10), (3, 16)), [1, 1], [0.9, 0.8]), compact(strip((0, 10), (10, 20)), [1, 1]))
    assert scores.measured(apr(0.25, rule))[0] == pytest.approx(area)
    assert scores.measured(apr(0.25, rule, "11pt"))[0] == pytest.approx(eleven, abs=1e-4)


@pytest.mark.parametrize(("rule", "expected"), [("voc", 1), ("coco", 1), ("sds", 0)])
@pytest.mark.parametrize(("end", "threshold"), [(10, 0.5), (14, 0.7), (12, 0.6), (2, 0.1)])
def test_an_exact_tie_is_right_but_for_sds(rule: Any, expected: float, end: int, threshold: float) -> None:
    scores = one_class(compact(strip((0, end)), [1], [0.9]), compact(strip((0, 20)), [1]))
    assert scores.measured(apr(threshold, rule))[0] == expected


def test_small_cases_of_published_tests() -> None:
    """chainercv's: three detections of one object; precision 0, 1/2, 1/3 in the order of score."""
    truth = compact([[[1, 0], [1, 0]]], [1])
    prediction = compact([[[1, 0], [1, 0]], [[1, 0], [1, 0]], [[0, 1], [0, 1]]], [1] * 3, [0.8, 0.9, 1.0])
    scores = one_class(prediction, truth)
    assert scores.measured(apr(0.5))[0] == pytest.approx(0.5)
    assert scores.recall(apr(0.5))[0] == 1


def test_void_pixels_are_no_object() -> None:
    """A detection over the object and its void border of the same size overlaps by one half."""
    scores = one_class(compact(strip((0, 20)), [1], [0.9]), compact(strip((0, 10)), [1]))
    assert scores.measured(apr(0.5))[0] == 1
    assert scores.measured(apr(0.6))[0] == 0


def test_finding_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = compact(strip((0, 5), (6, 20)), [1, 1], crowd=[False, True])
    prediction = compact(strip((6, 9), (10, 14), (0, 5)), [1, 1, 1], [0.9, 0.8, 0.7])
    for rule in ("voc", "sds", "coco"):
        scores = one_class(prediction, truth)
        assert scores.measured(apr(0.5, rule))[0] == 1  # type: ignore[arg-type]
        assert scores.recall(apr(0.5, rule)).tolist() == [1]  # type: ignore[arg-type]


def test_a_class_without_objects_has_no_score_and_its_detections_count_nowhere() -> None:
    scores = InstanceScores(["a", "b"])
    scores.update("x", compact(strip((0, 9), (0, 9)), [1, 2], [0.9, 0.8]), compact(strip((0, 9)), [1]))
    assert np.array_equal(scores.measured(apr(0.5)), [1, np.nan], equal_nan=True)
    assert scores.value == 1


def test_detections_in_images_without_objects_are_wrong() -> None:
    """The code of SDS forgets them; here they count under every rule."""
    for rule in ("voc", "sds", "coco"):
        scores = one_class(compact(strip((0, 9)), [1], [0.5]), compact(strip((0, 9)), [1]))
        scores.update("empty", compact(strip((0, 9)), [1], [0.9]), compact(strip(), []))
        assert scores.measured(apr(0.5, rule))[0] == 0.5  # type: ignore[arg-type]


def test_nothing_found_is_zero_and_nothing_to_find_is_no_score() -> None:
    assert one_class(None, compact(strip((0, 9)), [1])).value == 0
    assert np.isnan(one_class(compact(strip((0, 9)), [1], [0.5]), compact(strip(), [])).value)


# -- oracles --


def random_set(seed: int, images: int = 12, classes: int = 3) -> list[tuple[str, Instances, Instances]]:
    """Objects of all sizes with crowds; detections near them, elsewhere, twice, with equal scores."""
    random = np.random.default_rng(seed)

    def masks(count: int) -> np.ndarray:
        found = np.zeros((count, *SIZE), bool)
        for mask in found:
            y, x, h, w = random.integers(0, 12, 4)
            mask[y : y + h + 1, x : x + w + 6] = random.random((h + 1, min(w + 6, 30 - x))) < 0.9
        return found

    result = []
    for index in range(images):
        true = masks(random.integers(0, 6))
        labels = random.integers(1, classes + 1, len(true))
        near = np.concatenate([np.roll(true, random.integers(-2, 3), 2), true & (random.random(true.shape) < 0.8), masks(5)])
        found = np.concatenate([labels, labels, random.integers(1, classes + 1, 5)])
        scores = random.integers(0, 8, len(found)) / 8
        crowd = random.random(len(true)) < 0.2
        result.append((f"{index:03}", compact(near, found, scores), compact(true, labels, crowd=crowd)))
    return result


def coco_files(items: list[Any], classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as COCO's two files."""
    truth: dict[str, Any] = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
    }
    results = []
    for number, (_, prediction, known) in enumerate(items, start=1):
        truth["images"].append({"id": number, "height": SIZE[0], "width": SIZE[1]})
        for objects, target in ((known, truth["annotations"]), (prediction, results)):
            for index, (code, label) in enumerate(zip(objects.rles, objects.labels.tolist(), strict=True)):
                x1, y1, x2, y2 = objects.boxes[index].tolist()
                entry = {"image_id": number, "category_id": label, "segmentation": {**code, "counts": code["counts"].decode()}}
                if objects is known:
                    entry |= {"id": len(target) + 1, "area": int(rle.areas([code])[0]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
                    entry |= {"iscrowd": int(objects.crowd[index])}
                else:
                    entry |= {"score": objects.scores[index].item()}
                target.append(entry)
    return truth, results


def evaluated(loader: Any, judge: Any, truth: Any, results: Any, kind: str, thresholds: Any = None) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        known = loader()
        known.dataset = truth
        known.createIndex()
        if kind == "bbox":
            results = [{k: v for k, v in entry.items() if k != "segmentation"} | {"bbox": box(entry)} for entry in results]
        judged = judge(known, known.loadRes(json.loads(json.dumps(results))), kind)
        if thresholds is not None:
            judged.params.iouThrs = np.array(thresholds)
        judged.evaluate()
        judged.accumulate()
        if thresholds is None:
            judged.summarize()
    return judged


def box(entry: dict[str, Any]) -> list[float]:
    x1, y1, x2, y2 = rle.boxes([entry["segmentation"]])[0].tolist()
    return [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["mask", "box"])
def test_all_statistics_equal_pycocotools(seed: int, kind: Any) -> None:
    items = random_set(seed)
    scores = InstanceScores(["a", "b", "c"], kind=kind)
    for name, prediction, truth in items:
        truth.areas = torch.from_numpy(rle.areas(truth.rles).astype(float))
        scores.update(name, prediction, truth)
    truth, results = coco_files(items, 3)
    name = {"mask": "segm", "box": "bbox"}[kind]
    oracle = evaluated(OracleCOCO, COCOeval, truth, results, name)
    ours = [scores.of(measure).value for measure in COCO.values()]
    assert np.nan_to_num(ours, nan=-1) == pytest.approx(oracle.stats[:6], abs=1e-12)
    recalls = [np.nanmean(scores.recall(coco("AR", most=most))) for most in (1, 10, 100)]
    assert recalls == pytest.approx(oracle.stats[6:9], abs=1e-12)
    faster = evaluated(FasterCOCO, COCOeval_faster, truth, results, name)
    assert faster.stats[:6] == pytest.approx(oracle.stats[:6], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_precision_by_class_and_threshold_equals_pycocotools(seed: int) -> None:
    items = random_set(seed + 50, images=30)
    scores = InstanceScores(["a", "b", "c"])
    for item in items:
        scores.update(*item)
    judged = evaluated(OracleCOCO, COCOeval, *coco_files(items, 3), "segm", [0.25, 0.5, 0.7, 0.75])
    for place, measure in enumerate(PDSL.values()):
        expected = [judged.eval["precision"][place, :, c, 0, 2].mean() for c in range(3)]
        assert scores.measured(measure).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limits", [(0, 60), (60, 120), (120, 1e9)])
def test_areas_equal_pycocotools_at_sizes_that_occur(limits: tuple[float, float]) -> None:
    items = random_set(99, images=30)
    scores = InstanceScores(["a", "b", "c"])
    for item in items:
        scores.update(*item)
    truth, results = coco_files(items, 3)
    with contextlib.redirect_stdout(io.StringIO()):
        known = OracleCOCO()
        known.dataset = truth
        known.createIndex()
        judged = COCOeval(known, known.loadRes(results), "segm")
        judged.params.areaRng, judged.params.areaRngLbl = [list(limits)], ["all"]
        judged.evaluate()
        judged.accumulate()
    expected = judged.eval["precision"][:, :, :, 0, 2]
    assert scores.of(coco("AP", areas=limits)).value == pytest.approx(expected[expected > -1].mean(), abs=1e-12)


def slow_ap(items: list[Any], label: int, threshold: float, rule: str, eleven: bool) -> float:
    """VOC's and SDS's code read aloud, on dense masks, without crowds."""
    every = []
    objects: dict[str, list[np.ndarray]] = {}
    for name, prediction, truth in items:
        masks, true = rle.decode(prediction.rles, SIZE), rle.decode(truth.rles, SIZE)
        every += [(prediction.scores[i], name, masks[i]) for i in range(len(masks)) if prediction.labels[i] == label]
        objects[name] = [true[i] for i in range(len(true)) if truth.labels[i] == label]
    every = sorted(every, key=lambda entry: -entry[0])
    used: dict[str, set[int]] = {name: set() for name in objects}
    hits = []
    for _, name, mask in every:
        ious = [(mask & other).sum() / (mask | other).sum() for other in objects[name]]
        if rule == "sds":
            ious = [-1 if index in used[name] else value for index, value in enumerate(ious)]
        best = int(np.argmax(ious)) if ious else -1
        good = best >= 0 and (ious[best] >= threshold if rule == "voc" else ious[best] > threshold) and best not in used[name]
        used[name] |= {best} if good else set()
        hits.append(good)
    total = sum(map(len, objects.values()))
    recall = np.cumsum(hits) / total
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    if eleven:
        return float(np.mean([max(precision[recall >= t], default=0) for t in np.arange(0, 1.1, 0.1)]))
    return float(sum((recall[i] - (recall[i - 1] if i else 0)) * precision[i:].max() for i in range(len(hits))))


@pytest.mark.parametrize("rule", ["voc", "sds"])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_voc_and_sds_equal_their_code_read_aloud(rule: Any, threshold: float) -> None:
    items = random_set(7, images=10)
    scores = InstanceScores(["a", "b", "c"])
    for name, prediction, truth in items:
        truth.crowd = None
        scores.update(name, prediction, truth)
    for eleven, interpolation in ((False, "area"), (True, "11pt")):
        expected = [slow_ap(items, label, threshold, rule, eleven) for label in (1, 2, 3)]
        assert scores.measured(apr(threshold, rule, interpolation)).tolist() == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_voc_boxes_count_pixels_from_corner_to_corner() -> None:
    """VOC's inclusive 1..10 and 1..20 are ours 0..10 and 0..20: overlap 1/2 with the + 1 of VOC's code, 9/19 without."""
    truth = Instances(torch.tensor([[0.0, 0, 20, 1]]), torch.tensor([1]))
    prediction = Instances(torch.tensor([[0.0, 0, 10, 1]]), torch.tensor([1]), torch.tensor([0.9]))
    scores = InstanceScores(["a"], kind="box")
    scores.update("x", prediction, truth)
    assert [scores.of(measure).value for measure in (VOC12, VOC07)] == [1, 1]
    assert scores.of(Measure("strict", (0.5,), "sds")).value == 0


@pytest.mark.parametrize(("mark", "expected"), [("difficult", 0.5), ("crowd", 1.0)])
def test_a_difficult_object_overlaps_as_others_do(mark: str, expected: float) -> None:
    """A quarter of a difficult object is no finding of it, so wrong (VOCdevkit); a part of a crowd is one of the crowd (COCO)."""
    truth = Instances(torch.tensor([[0.0, 0, 20, 1], [30.0, 0, 40, 1]]), torch.tensor([1, 1]))
    setattr(truth, mark, torch.tensor([True, False]))
    boxes, scores = torch.tensor([[0.0, 0, 5, 1], [30.0, 0, 40, 1]]), torch.tensor([0.9, 0.8])
    found = InstanceScores(["a"], kind="box")
    found.update("x", Instances(boxes, torch.tensor([1, 1]), scores), truth)
    assert found.of(VOC12).value == expected
    assert found.rankings(VOC12)[0].objects.sum() == 1


@pytest.mark.parametrize(("size", "width"), [((60, 80), 2), ((45, 60), 2), ((105, 140), 4), ((165, 220), 6), ((9, 12), 1)])
def test_boundaries_overlap_in_a_band_of_two_percent(size: tuple[int, int], width: int) -> None:
    """Of the diagonal, rounded as Python does, at least a pixel: diagonals are 100, 75, 175, 275 and 15 pixels."""
    random, (height, wide) = np.random.default_rng(0), np.array(size) * 5 // 12
    masks = np.zeros((6, *size), bool)
    for mask in masks:
        y, x = random.integers(0, height + 5, 2)
        mask[y : y + height, x : x + wide] = True
    bands = [mask & ~binary_erosion(np.pad(mask, 1), np.ones((3, 3)), width)[1:-1, 1:-1] for mask in masks]
    scores = InstanceScores(["a"], kind="boundary")
    scores.update("x", compact(masks[:3], [1] * 3, [0.9, 0.8, 0.7]), compact(masks[3:], [1] * 3))
    row, dense = scores.rows["x"], np.zeros((3, 3))
    dense[tuple(row.pairs.T)] = row.overlaps
    for i in range(3):
        for j in range(3):
            pairs = ((masks[i], masks[3 + j]), (bands[i], bands[3 + j]))
            assert dense[i, j] == pytest.approx(min((a & b).sum() / (a | b).sum() for a, b in pairs))


# -- sets of images --


def test_weights_are_as_good_as_images_given_many_times() -> None:
    items, random = random_set(3), np.random.default_rng(1)
    scores, repeated = InstanceScores(["a", "b", "c"]), InstanceScores(["a", "b", "c"])
    weights = random.integers(0, 4, (1, len(items)))
    for (name, prediction, truth), count in zip(items, weights[0], strict=True):
        prediction.scores = torch.tensor(random.random(len(prediction)))  # no two are equal: in a tie, order is chance
        scores.update(name, prediction, truth)
        for copy in range(count):
            repeated.update(f"{name}-{copy}", prediction, truth)
    for measure in (*TABLES["mask"], apr(0.5, "sds", "11pt")):
        assert scores.of(measure).score(weights)[0] == pytest.approx(repeated.of(measure).value, abs=1e-12, nan_ok=True)


def test_shards_add_up_whatever_the_order() -> None:
    items = random_set(4)
    whole, first, second = (InstanceScores(["a", "b", "c"]) for _ in range(3))
    for index, item in enumerate(items):
        whole.update(*item)
        (first, second)[index % 2].update(*item)
    second.update(*items[0])  # padded by a distributed sampler
    merged = second.merge(first)
    assert merged.values == pytest.approx(whole.values, nan_ok=True)
    with pytest.raises(ValueError, match="scored twice"):
        merged.update(items[0][0], items[1][1], items[1][2])


def test_json_gives_the_scores_back() -> None:
    scores = InstanceScores(["a", "b", "c"], "shapes", "val")
    for item in random_set(5):
        scores.update(*item)
    record = json.loads(json.dumps(scores.to_json(samples=50)))
    back = InstanceScores.from_json(record)
    assert back.values == pytest.approx(scores.values, nan_ok=True)
    assert back.protocol == record["protocol"] == "AP^r@0.5|mask|voc|area|shapes|val|n=12"
    assert record["values"]["AP^r@0.5"] == record["AP^r@0.5"] == scores.value
    assert record["protocols"].keys() == record["values"].keys()
    assert record["protocols"]["APs"] == "APs|mask|coco|coco101|area0-1024|max100|shapes|val|n=12"
    with pytest.raises(ValueError, match="no JSON of instance scores"):
        InstanceScores.from_json({"classes": ["a"]})


def test_paired_comparison() -> None:
    items = random_set(6, images=30)
    good, bad = InstanceScores(["a", "b", "c"]), InstanceScores(["a", "b", "c"])
    for name, prediction, truth in items:
        perfect = Instances(truth.boxes, truth.labels, torch.ones(len(truth)), truth.rles)
        good.update(name, perfect, truth)
        bad.update(name, prediction, truth)
    assert paired(good, bad, samples=100).decided == "better"
    assert paired(good.of(COCO["AP"]), good.of(COCO["AP"]), samples=100).decided == "undecided"
    other = InstanceScores(["a", "b", "c"])
    for name, prediction, _ in items:
        other.update(name, prediction, items[0][2])
    with pytest.raises(ValueError, match="different ground truth"):
        paired(good, other)


def test_the_table_has_what_the_field_prints() -> None:
    scores = InstanceScores(["cat", "dog", "cow"])
    for item in random_set(8):
        scores.update(*item)
    text = str(scores)
    assert all(word in text for word in ("AP^r@0.5", "AP^r_vol", "AP75", "cat", "mean", "95 % low", "12 images", "AP^r@0.6"))


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        (compact(strip((0, 9)), [1]), "expected a finite number for each"),
        (compact(strip((0, 9)), [1], [float("nan")]), "expected a finite number for each"),
        (compact(strip((0, 9)), [5], [0.5]), "ids 5 to 5, expected 1 to 1"),
        (compact(np.ones((1, 3, 3)), [1], [0.5]), "sizes"),
        (Instances(torch.zeros(1, 4), torch.tensor([1]), torch.ones(1)), "0 masks for 1 objects"),
    ],
)
def test_faults_are_named(prediction: Instances, reason: str) -> None:
    with pytest.raises(ValueError, match=f"image 'a'.*{reason}"):
        one_class(prediction, compact(strip((0, 9)), [1]))


def test_thousands_of_detections_are_matched_in_no_time() -> None:
    detections = [[(index, 0.9), (index + 1, 0.6)] for index in range(20_000)]
    assert match(detections, [False] * 20_001, [False] * 20_001, "coco", 0.5) == list(range(20_000))
