"""The few-shot benchmark end to end, on a handful of pictures: features of the other classes, a run per fold, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cells, fewshot
from benchmarks.fewshot import Trial
from frugalseg.data import shapes
from frugalseg.nets.weights import read_weights


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The runs of all folds of one variant, on pictures and settings that take seconds."""
    root, settings = shapes.write(tmp_path / "data", 60, 60, test=0, seed=3, size=64), Trial.settings
    monkeypatch.setitem(fewshot.PLACES, "shapes1600", lambda: root)
    for name, value in {"RESULTS": tmp_path / "results", "RUNS": tmp_path / "runs", "EPISODES": 6, "CURVES": 1}.items():
        monkeypatch.setattr(fewshot, name, value)
    monkeypatch.setattr(cells, "RUNS", tmp_path / "runs")
    ground = {"masks": "given", "epochs": 0.5, "crop": 33, "batch": 8, "workers": 0}
    monkeypatch.setattr(fewshot, "GROUND", replace(fewshot.GROUND, settings=ground))
    quick = {"side": 33, "least": 1, "known": 2, "pairs": 4, "workers": 0}
    monkeypatch.setattr(Trial, "settings", lambda trial: settings(trial) | quick)
    bench = next(bench for bench in fewshot.PLAN.benches if bench.data == "shapes1600")
    return [trial for trial in fewshot.trials() if trial.bench is bench and trial.variant.name == "untrained" and not trial.seed]


@pytest.mark.filterwarnings("ignore:no picture of the training")  # of the classes that are held back
def test_every_fold_is_measured_and_the_page_holds_their_mean(small: list[Trial]) -> None:
    assert "Nothing has been run in all folds yet. 84 of 84 runs are missing" in fewshot.part(small[0].bench)[-1]
    for trial in small:
        fewshot.measure(trial, quiet=True)
    records = [json.loads(trial.file.read_text()) for trial in small]
    for trial, record in zip(small, records, strict=True):
        _, ground = read_weights(trial.ground / "weights" / "last.safetensors")
        assert ground["method"] == "aepsl"
        begun = f"runs/bench/aepsl/shapes1600/ground-fold{trial.fold}"
        assert record["extra_supervision"] == [f"backbone weights {begun}", f"{begun} learned from semantic, tags"]
        assert [row["images"] for row in record["rows"]] == [6] * 4
        asked = [set(row["per_class"]) for row in record["rows"]]
        assert all(names <= set(record["rows"][0]["classes"][3 * trial.fold : 3 * trial.fold + 3]) for names in asked)
    *_, table, curves, _, claims, _, missing = fewshot.part(small[0].bench)
    assert table.count("\n") == 5, "a head and four rows"
    found = [iou for record in records for iou in record["rows"][0]["per_class"].values()]
    pooled = fewshot.scores_of(records)["prototypes, untrained, 1-shot"][0]
    assert pooled.images == 24
    assert pooled.value == pytest.approx(sum(found) / len(found))
    assert curves == "", "no run of the method itself"
    assert claims.count("not run") == len(fewshot.PLAN.claims)
    assert missing.startswith("80 of 84 runs are missing")
