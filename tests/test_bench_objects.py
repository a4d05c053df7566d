"""The benchmark harness for objects: what a file keeps of a ranking, the page's tables, and what the claims are judged by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_cells import finished

from benchmarks import datasets, measure, overlap, page, paths, ranked, results, statistics
from benchmarks.claims import _shared, pdsl
from benchmarks.plan import Bench, Claim, Plan, Variant
from benchmarks.plan import Row as Scored
from benchmarks.ranked import MEASURES, Ranked
from benchmarks.speed import budget
from benchmarks.speed import r2ios as speed
from frugalseg.data import shapes
from frugalseg.metrics import paired
from frugalseg.metrics.corloc import CorLoc
from frugalseg.metrics.instances import InstanceScores, Row
from frugalseg.types import Instances

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
    text = json.dumps({"pictures": results.truth_record(scores), "rows": [{"name": "row", **results.row_record(scores)}]})
    found = results.scores_of(json.loads(text), "row")
    assert isinstance(found, Ranked)
    return found


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_and_its_draws_survive_the_file(name: str) -> None:
    scores, others = random_scores(1, 0.8), random_scores(2, 0.4)
    found = kept(scores).of(name)
    assert found.value == pytest.approx(scores.of(MEASURES[name]).value, abs=1e-12)
    assert results.row_record(scores)["values"][name] == pytest.approx(found.value, abs=1e-12)
    np.testing.assert_allclose(found.resampled(50), scores.of(MEASURES[name]).resampled(50), atol=1e-12)
    ours, theirs = paired(found, kept(others).of(name)), paired(scores.of(MEASURES[name]), others.of(MEASURES[name]))
    assert (ours.mean, ours.low, ours.high) == pytest.approx((theirs.mean, theirs.low, theirs.high), abs=1e-12)


def test_a_row_without_any_detection_survives_too() -> None:
    scores = random_scores(1, 0.8, detections=0)
    assert kept(scores).value == 0


def test_corloc_survives_the_file() -> None:
    scores, generator = random_scores(1, 0.8), np.random.default_rng(5)
    scores.beside = corloc = CorLoc(CLASSES, "toys", "val")
    for name in scores.names:
        row = generator.random((2, 2))
        row[:, generator.random(2) < 0.3] = np.nan
        corloc.rows[name] = row
    found = kept(scores).of("CorLoc")
    assert isinstance(found, CorLoc)
    assert found.value == corloc.value == results.row_record(scores)["values"]["CorLoc"]
    assert found.baselines == corloc.baselines
    np.testing.assert_array_equal(found.resampled(50), corloc.resampled(50))
    with pytest.raises(KeyError):
        kept(random_scores(1, 0.8)).of("CorLoc")


def test_some_of_the_images_are_scored_as_if_they_were_all() -> None:
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
    """160 images, 100 detections in each, four rows, with overlaps that are nothing but noise."""
    rows = [{"name": f"row {seed}", **results.row_record(random_scores(seed, 0.3, 160, 100, 12))} for seed in range(4)]
    assert len(json.dumps({"pictures": results.truth_record(random_scores(0, 0.3, 160, 100, 12)), "rows": rows})) < 130_000


# -- what stands beside the rows -------------------------------------------------------------------------------------


class Objects:
    """A data set of boxes alone."""

    def __init__(self, images: dict[str, Instances | None]) -> None:
        self.names, self._objects = list(images), list(images.values())

    def __len__(self) -> int:
        return len(self.names)

    def compact(self, index: int) -> Instances | None:
        return self._objects[index]


def boxes(*corners: tuple[int, int, int, int]) -> Instances:
    return Instances(torch.tensor(corners).reshape(-1, 4).float(), torch.ones(len(corners), dtype=torch.int64))


def test_crowding_is_the_largest_overlap_of_two_boxes() -> None:
    data: Any = Objects(
        {"b": boxes((0, 0, 10, 10), (5, 0, 15, 10), (9, 0, 19, 10)), "a": boxes((0, 0, 4, 4)), "c": boxes(), "d": None}
    )
    found = ranked.crowding(data)
    assert list(found) == ["a", "b", "c"]
    assert list(found.values()) == pytest.approx([0, 6 / 14, 0], abs=1e-4)


# -- the page --------------------------------------------------------------------------------------------------------

PLAN = Plan(
    "r2ios",
    (Bench("toys", "Toys.", "a.yaml", "train", "train", "val", (0, 1), recipes={"maskrcnn": "b.yaml"}),),
    (Variant("good", (Scored("good"),)), Variant("bad", (Scored("bad"),)), Variant("late", (Scored("late"),))),
    (
        Claim("Good is better", "good", "bad", data=("toys",)),
        Claim("Likewise", "bad", "good", data=("toys",), measure="AP"),
        Claim("Late too", "late", "bad", data=("toys",)),
        Claim("A part is enough", "bad", "good", data=("toys",), fraction=0.01),
    ),
    overlap_rows=("good", "bad"),
)


def record(variant: str, scores: InstanceScores, seed: int) -> dict[str, Any]:
    """A cell's file of one row, called as its variant. The first half of the images is not crowded."""
    baselines = {"everything": dict.fromkeys(MEASURES, 0.1) | {"AP": None}}
    record = finished({"method": "r2ios", "variant": variant, "seed": seed}, "instances", baselines, {variant: scores})
    record["pictures"]["crowding"] = {name: 0.3 * (int(name) >= 6) for name in scores.names}
    return record


def gains(records: dict[str, Any], rows: dict[str, statistics.OverSeeds]) -> list[overlap.Group]:
    compared = overlap.comparison(PLAN, records, rows)
    assert compared is not None
    return overlap.groups(compared)


def test_the_page_of_objects() -> None:
    scores = {
        (name, seed): random_scores(seed + 7 * (name == "bad"), at)
        for name, at in (("good", 0.95), ("bad", 0.1))
        for seed in (0, 1)
    }
    records = {f"r2ios/toys/{name}-seed{seed}": record(name, own, seed) for (name, seed), own in scores.items()}
    text = page.render((PLAN,), records, {})
    values = {at: [100 * scores["good", seed].of(MEASURES[at]).value for seed in (0, 1)] for at in MEASURES}
    for own in (values[at] for at in PLAN.measures):
        assert f"| {np.mean(own):.2f} ± {np.std(own, ddof=1):.2f} |" in text
    assert "| baseline: everything | 10.00 |  | 10.00 | 10.00 |  | 10.00 | – |  |  |  |  |" in text
    assert "| Good is better | good > bad |" in text
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert lines["| Good is better"].endswith("| reproduced |")
    assert lines["| Likewise, by AP"].endswith("| not reproduced |")
    assert lines["| Late too"].endswith("| not run |")
    assert "| A part is enough | bad > 1 % of good |" in text
    assert lines["| A part is enough"].endswith("| reproduced |")
    assert "- recipe: `a.yaml`; `b.yaml`" in text
    assert "Not run: late." in text
    rows, ground = statistics.row_scores(PLAN, records), {"r2ios/toys/ground-seed0": {"pictures": {}}}  # scored by classes alone
    assert gains(ground | records, rows) == gains(records, rows)
    assert text.index("| 0 to 0.05 | 6 |") < text.index("| 0.2 to 0.4 | 6 |") < text.index("images/r2ios_toys_overlap.png")


def test_gain_of_a_group_is_the_paired_difference_of_its_images(tmp_path: Path) -> None:
    good, bad = kept(random_scores(1, 0.9)), kept(random_scores(2, 0.3))
    crowding = {name: 0.3 * (int(name) >= 6) for name in good.names}
    compared = overlap.Comparison(statistics.OverSeeds({0: good}), statistics.OverSeeds({0: bad}), crowding)
    first, second = overlap.groups(compared)
    half = np.arange(12) >= 6
    assert (first.gain, second.gain) == tuple(paired(good.only(own), bad.only(own)) for own in (~half, half))
    assert (first.high, second.low, second.images) == (0.05, 0.2, 6)
    grown = overlap.growth(compared)
    assert grown is not None
    assert grown.mean == pytest.approx(second.gain.mean - first.gain.mean)
    drawn = [
        good.only(own).resampled(seed=place) - bad.only(own).resampled(seed=place) for place, own in enumerate((half, ~half))
    ]
    assert (grown.low, grown.high) == tuple(np.quantile(drawn[0] - drawn[1], [0.025, 0.975]))
    assert overlap.growth(compared._replace(crowding=dict.fromkeys(good.names, 0.3))) is None
    overlap.draw([first, second], "gain", tmp_path / "gain.png")
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")


def test_one_gain_is_compared_with_another_under_the_same_draws() -> None:
    rows = {name: statistics.OverSeeds({seed: kept(random_scores(seed, at)) for seed in seeds}) for name, at, seeds in (
        ("a", 0.2, (0, 1)), ("b", 0.8, (0, 1, 2)), ("c", 0.9, (1, 0)),
    )}  # fmt: skip
    claim = Claim("Shrinking", "b", "a", smaller_gain=("c", "b"))
    drawn = {name: np.mean([row.seeds[seed].resampled() for seed in (0, 1)], axis=0) for name, row in rows.items()}
    expected = 2 * drawn["b"] - drawn["a"] - drawn["c"]
    found = statistics.compare_gains(*(rows[name] for name in "bacb"))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])), abs=1e-12)
    means = {name: np.mean([row.seeds[seed].value for seed in (0, 1)]) for name, row in rows.items()}
    assert found.mean == pytest.approx(2 * means["b"] - means["a"] - means["c"])
    assert statistics.judge(claim, rows) == (str(found).rpartition(" ")[0], statistics.VERDICTS[found.decided])
    assert statistics.judge(claim, {name: rows[name] for name in "ab"}) == ("", "not run")


# -- cells -----------------------------------------------------------------------------------------------------------

SMALL = {"count": 20, "scales": (48,), "test_scales": (48,), "longest": 64, "width": 8, "mask_channels": 4, "cue_side": 48}
LIGHT = {"scale": 48, "longest": 64, "width": 8, "mask_channels": 4, "rois": 8, "steps": 1}
OVERRIDES: dict[str, dict[str, Any]] = {
    "full": {**SMALL, "steps": 2, "threshold": 0.3},
    "cascade": {**SMALL, "steps": 2},
    "cam": {"crop": 48, "epochs": 0.5, "count": 20, "cue_side": 48, "min_score": 0.0},
    "retrain": {**LIGHT, "gate_steps": 1, "count": 20},
    "masks": {**LIGHT, "proposals": 20},
}


def test_pdsl_cells_run_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PDSL, the baselines, the network it teaches and the one of real masks: a few steps on four images, then the page."""
    bench = replace(pdsl.BENCHES[1], data="toys", seeds=(0,), settings={"workers": 0, "batch": 2}, overrides=OVERRIDES)
    variants = tuple(variant for variant in pdsl.VARIANTS if variant.name in OVERRIDES)
    rows = [row.name for variant in variants for row in variant.rows]
    claims = tuple(replace(claim, data=("toys",)) for claim in pdsl.CLAIMS if {claim.better, claim.worse} <= {*rows})
    plan = replace(pdsl.PLAN, benches=(bench,), variants=variants, claims=claims)
    root = shapes.write(tmp_path / "toys", train=4, val=2, test=0, size=48, quiet=True)
    for name, value in {"RESULTS": "results", "RUNS": "runs"}.items():
        monkeypatch.setattr(paths, name, tmp_path / value)
    monkeypatch.setattr(datasets, "DATA", {"toys": lambda: root})
    for cell in plan.cells():
        measure.measure(cell, quiet=True)
    found = results.read(tmp_path / "results")
    labels = {file["cell"]["variant"]: file["labels"] for file in found.values()}
    assert [labels.pop(name) for name in ("retrain", "masks")] == [["instances"]] * 2
    assert [*labels.values()] == [["tags"]] * 3
    begun, before, taught = found["pdsl/toys/retrain-seed0"]["extra_supervision"]
    assert begun == "backbone weights runs/bench/cam/toys/cam-seed0"
    assert before == "runs/bench/cam/toys/cam-seed0 learned from tags"
    assert "learned from tags (backbone weights runs/bench/cam/toys/cam-seed0; runs/bench/cam/toys/cam-seed0 learned" in taught
    text = page.render((plan,), found, {})
    assert all(f"\n| {name} | " in text for name in (*rows, "baseline: the whole image as one object of each class"))
    assert "| CorLoc % | 95 % interval | seeds |" in text
    assert len(claims) == 10
    assert "not run" not in text.lower()


# -- the same time, and what it costs --------------------------------------------------------------------------------


def test_mask_rcnn_gets_the_time_of_both_phases_and_the_proposals() -> None:
    seconds = {"recursion": 2.0, "gate": 3.0, "proposals": 0.5, "detector": 0.8}
    assert budget.equal_steps(seconds, {"steps": 100, "gate_steps": 40}, 20) == round((200 + 120 + 10) / 0.8)
    log = [{"stage": "gate", "step": step, "images_per_second": pace} for step, pace in ((2, 0.1), (4, 4.0), (6, 2.0), (8, 8.0))]
    assert budget.pace(log, "gate", batch=2) == 0.5


def test_budget_measures_the_cells_as_they_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shapes.write(tmp_path / "images", train=6, val=1, test=0, quiet=True)
    monkeypatch.setattr(datasets, "DATA", {"shapes": lambda: root})
    short = budget.short
    monkeypatch.setattr(budget, "short", lambda *words: short(*words) | {"scale": 64, "longest": 64, "workers": 0})
    steps, rows = budget.measure("shapes", 6, 1, tmp_path)
    found = {row["what"]: row["value"] for row in rows}
    assert found["shapes: the same time"] == steps > 0
    ratio = found["shapes: Mask R-CNN"] / found["shapes: R2-IOS, without the gate"]
    assert found["shapes: a step of R2-IOS"] == pytest.approx(ratio, rel=0.01)


def test_budget_keeps_what_was_measured_of_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measure", lambda data, *_: (len(data), [budget.entry(f"{data}: steps", 1.0, "", "")]))
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path))  # which is set anew, and put back by the end of the test
    file = tmp_path / "budget.json"
    for data in ("shapes", "nuclei", "shapes"):
        assert budget.main(["--data", data, "--out", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["steps"] == {"shapes": 6, "nuclei": 6}
    assert [row["what"] for row in found["measures"]] == ["nuclei: steps", "shapes: steps"]
    monkeypatch.setattr(_shared, "BUDGET", file)
    assert _shared.equal_time("nuclei") == {"steps": 6}
    assert _shared.equal_time("voc20") == {}


def test_outputs_differ_when_any_number_does() -> None:
    def found(score: float, label: int = 1) -> Any:
        objects = boxes((0, 0, 4, 4))
        objects.scores, objects.labels = torch.tensor([score]), torch.tensor([label])
        return type("Found", (), {"instances": objects})

    nothing = type("Found", (), {"instances": boxes()})
    assert speed.likeness([found(0.5)], [found(0.5)]) == speed.likeness([], []) == "identical outputs"
    assert speed.likeness([found(0.5)], [found(0.5 + 2**-20)]) == "outputs equal to 1e-06"
    for other in (found(0.25), found(0.5, label=2), nothing):
        assert speed.likeness([found(0.5)], [other]) == speed.DIFFERENT


def test_committed_files_can_be_read() -> None:
    for path in (Path(results.__file__).parent / "results" / "r2ios").rglob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        for row in record["rows"]:
            if record["cell"]["variant"] == "ground":  # what others begin with is scored by classes
                assert results.scores_of(record, row["name"]).value > 0
                continue
            for name, value in row["values"].items():
                scores: Any = results.scores_of(record, row["name"])
                assert scores.of(name).value == pytest.approx(value, abs=1e-9)
