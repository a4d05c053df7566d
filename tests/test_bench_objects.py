"""The benchmark harness for objects: what a file keeps of a ranking, the page's tables, and what the claims are judged by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import ranked, results
from benchmarks.ranked import MEASURES, Ranked
from frugalseg.metrics import paired
from frugalseg.metrics.instances import InstanceScores, Row
from frugalseg.types import CompactInstances

CLASSES = ("cat", "dog")


def random_scores(seed: int, right: float, images: int = 12, detections: int = 8, classes: int = 2) -> InstanceScores:
    """Scores whose detections touch an object of their class with this probability; the objects are the same for every seed."""
    truths, generator = np.random.default_rng(99), np.random.default_rng(seed)
    scores = InstanceScores([*CLASSES, *map(str, range(classes))][:classes], "toys", "val")
    for index in range(images):
        objects = truths.integers(1, classes + 1, 4)
        labels = generator.integers(1, classes + 1, detections)
        touched = (labels[:, None] == objects) & (generator.random((detections, 4)) < right)
        crowd = np.arange(4) == 3 if index == 0 else np.zeros(4, bool)
        pairs, areas = np.argwhere(touched), truths.integers(20, 90, 4).astype(float)
        found = labels, generator.integers(0, 50, detections) / 50, np.full(detections, 30.0)
        scores.rows[f"{index:03d}"] = Row(*found, objects, areas, crowd, pairs, generator.random(len(pairs)))
    return scores


def kept(scores: InstanceScores) -> Ranked:
    """Through JSON and back."""
    text = json.dumps({"pictures": results.truth(scores), "rows": [{"name": "row", **results.scored(scores)}]})
    found = results.scores_of(json.loads(text), "row")
    assert isinstance(found, Ranked)
    return found


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_and_its_draws_survive_the_file(name: str) -> None:
    scores, others = random_scores(1, 0.8), random_scores(2, 0.4)
    found = kept(scores).of(name)
    assert found.value == pytest.approx(scores.of(MEASURES[name]).value, abs=1e-12)
    assert results.scored(scores)["values"][name] == pytest.approx(found.value, abs=1e-12)
    np.testing.assert_allclose(found.resampled(50), scores.of(MEASURES[name]).resampled(50), atol=1e-12)
    ours, theirs = paired(found, kept(others).of(name)), paired(scores.of(MEASURES[name]), others.of(MEASURES[name]))
    assert (ours.mean, ours.low, ours.high) == pytest.approx((theirs.mean, theirs.low, theirs.high), abs=1e-12)


def test_a_row_without_any_detection_survives_too() -> None:
    scores = random_scores(1, 0.8, detections=0)
    assert kept(scores).value == 0


def test_some_of_the_pictures_are_scored_as_if_they_were_all() -> None:
    scores = random_scores(1, 0.8)
    chosen = np.arange(12) % 3 == 1
    part = InstanceScores(CLASSES)
    part.rows = {name: row for name, row in scores.rows.items() if int(name) % 3 == 1}
    assert kept(scores).only(chosen).value == pytest.approx(part.value, abs=1e-12)
    assert kept(scores).only(chosen).names == part.names


def test_scores_of_other_objects_are_not_compared() -> None:
    changed = random_scores(2, 0.8)
    row = changed.rows["003"]
    changed.rows["003"] = Row(**{**vars(row), "true_areas": row.true_areas + 1})
    with pytest.raises(ValueError, match="different ground truth in 1 images, such as 003"):
        paired(kept(random_scores(1, 0.8)), kept(changed))


def test_files_of_the_largest_cell_stay_small() -> None:
    """160 pictures, 100 detections in each, four rows, with overlaps that are nothing but noise."""
    rows = [{"name": f"row {seed}", **results.scored(random_scores(seed, 0.3, 160, 100, 12))} for seed in range(4)]
    assert len(json.dumps({"pictures": results.truth(random_scores(0, 0.3, 160, 100, 12)), "rows": rows})) < 130_000


# -- what stands beside the rows -------------------------------------------------------------------------------------


class Objects:
    """A data set of boxes alone."""

    def __init__(self, pictures: dict[str, CompactInstances | None]) -> None:
        self.names, self._objects = list(pictures), list(pictures.values())

    def __len__(self) -> int:
        return len(self.names)

    def compact(self, index: int) -> CompactInstances | None:
        return self._objects[index]


def boxes(*corners: tuple[int, int, int, int]) -> CompactInstances:
    return CompactInstances(torch.tensor(corners).reshape(-1, 4).float(), torch.ones(len(corners), dtype=torch.int64))


def test_crowding_is_the_largest_overlap_of_two_boxes() -> None:
    data: Any = Objects(
        {"b": boxes((0, 0, 10, 10), (5, 0, 15, 10), (9, 0, 19, 10)), "a": boxes((0, 0, 4, 4)), "c": boxes(), "d": None}
    )
    found = ranked.crowding(data)
    assert list(found) == ["a", "b", "c"]
    assert list(found.values()) == pytest.approx([0, 6 / 14, 0], abs=1e-4)


def test_committed_files_can_be_read() -> None:
    for path in (Path(results.__file__).parent / "results" / "r2ios").rglob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        for row in record["rows"]:
            for name, value in row["values"].items():
                scores: Any = results.scores_of(record, row["name"])
                assert scores.of(name).value == pytest.approx(value, abs=1e-9)
