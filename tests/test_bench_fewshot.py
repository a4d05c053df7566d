"""The few-shot benchmark end to end, on a handful of images: features of the other classes, a run per fold, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import datasets, few_shot, paths, results
from benchmarks.claims import biopt
from benchmarks.episodes import scores_over_folds
from benchmarks.plan import FoldCell
from benchmarks.sections import few_shot as section
from frugalseg.data import shapes
from frugalseg.nets.weights import read_weights


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FoldCell]:
    """The cells of all folds of one variant, on images and settings that take seconds."""
    root, settings = shapes.write(tmp_path / "data", 60, 60, test=0, seed=3, size=64), FoldCell.settings
    monkeypatch.setitem(datasets.DATA, "shapes1600", lambda: root)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(few_shot, "EPISODES", 6)
    monkeypatch.setattr(few_shot, "CURVE_EPISODES", 1)
    quick = {"side": 33, "least": 1, "known": 2, "pairs": 4, "workers": 0}
    monkeypatch.setattr(FoldCell, "settings", lambda cell: settings(cell) | quick)
    start = replace(biopt.START, settings={"masks": "given", "epochs": 0.5, "crop": 33, "batch": 8, "workers": 0})
    bench = replace(next(bench for bench in biopt.BENCHES if bench.data == "shapes1600"), start=start)
    plan = replace(biopt.PLAN, benches=(bench,))
    cells = [cell for cell in plan.cells() if cell.variant.name == "untrained" and cell.seed == 0]
    return [cell for cell in cells if isinstance(cell, FoldCell)]


@pytest.mark.filterwarnings("ignore:no image of the training")  # of the classes that are held back
@pytest.mark.filterwarnings("ignore:no image of the training")
def test_every_fold_is_measured_and_the_page_holds_their_mean(small: list[FoldCell]) -> None:
    plan, bench = small[0].plan, small[0].bench
    assert "Nothing has been run in all folds yet. 84 of 84 runs are missing" in section.section(plan, bench, {})[-1]
    for cell in small:
        few_shot.measure(cell, quiet=True)
    records = [json.loads(cell.file.read_text()) for cell in small]
    for cell, record in zip(small, records, strict=True):
        assert cell.start
        _, start = read_weights(cell.start / "weights" / "last.safetensors")
        assert start["method"] == "aepsl"
        run = f"runs/bench/aepsl/shapes1600/ground-fold{cell.fold}"
        assert record["extra_supervision"] == [f"backbone weights {run}", f"{run} learned from semantic, tags"]
        assert [row["images"] for row in record["rows"]] == [6] * 4
        asked = [set(row["per_class"]) for row in record["rows"]]
        assert all(names <= set(record["rows"][0]["classes"][3 * cell.fold : 3 * cell.fold + 3]) for names in asked)
    *_, table, curves, _, claims, _, missing = section.section(plan, bench, results.read(paths.RESULTS))
    assert table.count("\n") == 5, "a head and four rows"
    values = [iou for record in records for iou in record["rows"][0]["per_class"].values()]
    pooled = scores_over_folds(records, plan.folds)["prototypes, untrained, 1-shot"][0]
    assert pooled.images == 24
    assert pooled.value == pytest.approx(sum(values) / len(values))
    assert curves == "", "no run of the method itself"
    assert claims.count("not run") == len(plan.claims)
    assert missing.startswith("80 of 84 runs are missing")


def test_a_finished_cell_is_listed_and_not_started(
    small: list[FoldCell], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(few_shot, "cells", lambda: iter(small))
    started: list[str] = []
    monkeypatch.setattr(few_shot, "start", lambda cell, quiet: started.append(cell.name) or 0)
    results.save(small[0].file, {})
    assert few_shot.main(["--list"]) == 0
    assert started == []
    assert few_shot.main([]) == 0
    assert started == [cell.name for cell in small[1:]]
    assert capsys.readouterr().out.count(": finished") == 2


def test_counts_survive_the_file_and_folds_are_merged(tmp_path: Path) -> None:
    records = json.loads((paths.RESULTS / "biopt/voc20/baseline-fold0-seed0.json").read_text())
    scores = scores_over_folds([records], 1)
    for row in records["rows"]:
        assert scores[row["name"]][0].per_class == pytest.approx(row["per_class"])
    assert scores_over_folds([records], 4) == {}, "a fold alone is no mean over the classes"
