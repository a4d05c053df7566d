"""The benchmark harness for pretrained backbones: pretrainings on other images, what learns from them, and the page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_cells import settings_of

import frugalseg
from benchmarks import cells, datasets, foreground, measure, page, paths, regions, results
from benchmarks.claims import r2o
from benchmarks.plan import Plan
from benchmarks.speed import r2o as speed
from frugalseg.data import read, shapes
from frugalseg.metrics import paired
from frugalseg.metrics.foreground import ForegroundScores

KEPT = ("r2o", "byol", "r2o-tenth", "r2o-tenth-objects", "byol-tenth", "random-tenth")
LEARNED: dict[str, Any] = {"epochs": 1, "side": 32, "segments": 9, "clusters": (4, 2), "hidden": 8, "width": 4, "parts_side": 48}
FCN: dict[str, Any] = {"epochs": 1, "crop": 33, "channels": 8}
OBJECTS: dict[str, Any] = {"steps": 1, "warmup": 0, "channels": 16, "width": 16, "mask_channels": 8, "scale": 48, "longest": 48}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Some cells of R2O's plan on drawn images, of which those without labels lie in an archive."""
    root = shapes.write(tmp_path / "runs" / "data" / "toys", train=6, val=2, test=0, size=48, quiet=True)
    packed = Path(shutil.make_archive(str(tmp_path / "images"), "zip", root / "JPEGImages"))
    monkeypatch.setattr(datasets, "DATA", {"toys": lambda: root, "images": lambda: packed})
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))
    probe = {"probe": "$RUNS/data/toys", "probe_split": "Segmentation/val", "probe_every": 1}
    small = {"r2o": LEARNED | probe, "byol": LEARNED | probe, "r2o-tenth-objects": OBJECTS}
    overrides = {name: small.get(name, FCN) for name in KEPT}
    bench = replace(
        r2o.BENCHES[0],
        data="toys",
        source="images",
        train="train",
        seeds=(0,),
        settings={"workers": 0, "batch": 2},
        overrides=overrides,
    )
    variants = tuple(replace(variant, data=()) for variant in r2o.VARIANTS if variant.name in KEPT)
    rows = {row.name for variant in variants for row in variant.rows}
    claims = tuple(replace(claim, data=("toys",)) for claim in r2o.CLAIMS if {claim.better, claim.worse} <= rows)
    return Plan("r2o", (bench,), variants, claims)


def test_pretraining_transfers_and_the_page(plan: Plan, tmp_path: Path) -> None:
    for cell in plan.cells():
        measure.measure(cell, quiet=True)
    found = {record["cell"]["variant"]: record for record in results.read(tmp_path / "results").values()}
    assert found["r2o"]["protocol"] == {
        "learned": "images|train|n=8",
        "scored": "iou|foreground|toys|Segmentation/val|n=2",
    }
    assert found["r2o"]["labels"] == []
    assert [line["step"] for line in found["r2o"]["regions"]] == [1, 2, 3, 4]
    for name, labels in (("r2o-tenth", ["semantic"]), ("random-tenth", ["semantic"]), ("r2o-tenth-objects", ["instances"])):
        assert found[name]["labels"] == labels
        assert found[name]["protocol"]["learned"] == "toys|Segmentation/train|n=1"
    begun = "runs/bench/r2o/toys/r2o-seed0"
    assert found["r2o-tenth"]["extra_supervision"] == [f"backbone weights {begun}", f"{begun} learned from no labels"]
    text = page.render((plan,), {f"r2o/toys/{name}-seed0": record for name, record in found.items()}, {})
    for row in ("r2o, tenth of the masks", "r2o, Mask R-CNN, tenth of the masks", "byol", "baseline: all of every image"):
        assert f"\n| {row} | " in text
    assert [line for line in text.splitlines() if line.startswith("| row |")] != []
    assert text.count("| row |") == 3, "a table for foregrounds, one for class masks, one for objects"
    assert "](images/r2o_toys_regions.png)" in text
    shown = regions.curves(found)
    assert list(shown) == ["r2o"], "BYOL's masks stay what they are"
    assert shown["r2o"].steps == [1, 2, 3, 4]
    assert shown["r2o"].abo[:, 0].tolist() == [line["abo"] for line in found["r2o"]["regions"]]
    regions.draw(shown, "toys", tmp_path / "regions.png")
    assert (tmp_path / "regions.png").stat().st_size > 10_000
    assert len(plan.claims) == 3
    assert "not run" not in text.lower()


def test_a_cell_waits_for_both_of_its_data_sets(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise datasets.MissingData("the images are elsewhere")

    monkeypatch.setattr(datasets, "DATA", datasets.DATA | {"images": gone})
    every = {cell.variant.name: cell for cell in plan.cells()}
    missing = cells.missing_data(list(every.values()))
    assert missing == {"images": "the images are elsewhere"}
    assert cells.state(every["r2o"], missing) == "not run: the images are elsewhere"
    assert cells.used(every["random-tenth"]) == {"toys"}


def test_every_start_is_judged_by_the_same_masks_in_as_many_steps() -> None:
    for bench in r2o.BENCHES:
        cells_of = [(cell, settings) for cell, settings in settings_of("r2o") if cell.bench is bench]
        masks = {cell.variant.name: settings for cell, settings in cells_of if cell.method == "aepsl"}
        assert masks.keys() == {f"{start}-{name}" for start in (*r2o.PRETRAININGS, "random") for name in r2o.SHARES}
        assert {(settings["share"], settings["seed"]) for settings in masks.values()} == {
            (share, bench.seeds[-1]) for share in r2o.SHARES.values()
        }
        assert len({round(settings["epochs"] * settings["share"], 6) for settings in masks.values()}) == 1
        shares = [settings["share"] for cell, settings in cells_of if cell.method == "maskrcnn"]
        assert shares == ([0.1] * len(r2o.OBJECTS) if bench.data == "shapes" else [])


# Table 5 of the paper: refinement, SLIC, schedule -> mIoU; and K of the rows of table A5 with the schedule "fixed".
COMPONENTS = {
    "cells": (False, False, False, 61.2),
    "refinement-only": (True, False, False, 61.5),
    "schedule-only": (False, False, True, 61.4),
    "no-prior": (True, False, True, 61.5),
    "no-refinement": (False, True, True, 61.7),
    "fixed-high": (True, True, False, 61.4),
    "linear": (True, True, True, 62.3),
}


def test_the_component_ablation_is_the_papers_table_and_linear_throughout() -> None:
    for bench in r2o.BENCHES:
        variants = {cell.variant.name: settings for cell, settings in settings_of("r2o") if cell.bench is bench}
        for name, (refinement, prior, schedule, _) in COMPONENTS.items():
            settings = variants[name]
            assert (settings["refine"] == "features", settings["prior"] == "slic") == (refinement, prior), name
            assert settings["curriculum"] == ("linear" if schedule else "fixed"), name
        for name in ("reverse", "grid", "coarse-grid"):
            assert variants[name]["curriculum"] == "linear"
        first, last = variants["r2o"]["clusters"]
        fixed = {name: variants[f"fixed-{name}"]["clusters"][0] for name in ("high", "middle", "low")}
        assert fixed == {"high": first, "middle": first // 2, "low": last}
        assert variants["reverse"]["clusters"] == (last, first)
        assert variants["grid"]["segments"] == variants["linear"]["segments"]
        assert variants["coarse-grid"]["segments"] == 4


def test_claims_print_the_numbers_of_the_rows_they_compare() -> None:
    numbers = {name: row[-1] for name, row in COMPONENTS.items()}
    numbers |= {
        "r2o": 61.8,
        "piecewise": 62.1,
        "fixed-middle": 61.4,
        "fixed-low": 60.7,
        "reverse": 61.0,
        "grid": 61.5,
        "coarse-grid": 60.1,
    }
    others = {"76.7 > 75.0", "67.5 > 63.0"}  # of all of ImageNet, and of 300 epochs
    asked = [claim for claim in r2o.CLAIMS if claim.better.endswith(", tenth of the masks") and claim.paper not in others]
    compared = set()
    for claim in (claim for claim in asked if claim.paper and not claim.measure):
        better, worse = claim.better.partition(",")[0], claim.worse.partition(",")[0]
        assert claim.paper == f"{numbers[better]:.1f} > {numbers[worse]:.1f}", claim.text
        compared |= {better, worse}
    assert compared == set(numbers)


def test_a_step_is_timed_beside_plain_byol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "find_spec", lambda _: None)  # the peer is no dependency of the tests
    options, trained, train = speed.arguments(["--quick", "--device", "cpu"]), [], frugalseg.train
    monkeypatch.setattr(
        frugalseg, "train", lambda *given, **named: trained.append(named["accelerator"]) or train(*given, **named)
    )
    rows = speed.turns(options)
    assert set(trained) == {"cpu"}
    assert all(row["how"].startswith("cpu, ") for row in rows if row["unit"] in ("s", "per second"))
    values = {row["what"]: row["value"] for row in rows}
    assert values["R2O's step beside plain BYOL's"] == pytest.approx(values["a step, R2O"] / values["a step, plain BYOL"])
    assert 0 < values["K-means' share, R2O"] < 100
    assert 0 < values["superpixels' share, none cached"] < 100
    assert values["images, R2O"] == pytest.approx(4 / values["a step, R2O"])


def test_foregrounds_survive_the_file() -> None:
    kept = []
    for seed in (0, 1):
        generator, scores = np.random.default_rng(seed), ForegroundScores("toys", "val")
        scores.rows = {f"{index}": generator.random(4).round(5) for index in range(9)}
        text = json.dumps({"pictures": results.truth_record(scores), "rows": [{"name": "row", **results.row_record(scores)}]})
        back = results.scores_of(json.loads(text), "row")
        assert isinstance(back, ForegroundScores)
        assert back.to_json() == scores.to_json()
        kept.append((scores, back))
    (one, again), (other, other_again) = kept
    assert paired(one, other) == paired(again, other_again)


def test_the_baseline_takes_all_of_every_image(tmp_path: Path) -> None:
    data = read(shapes.write(tmp_path, train=1, val=2, test=0, size=32, quiet=True), split="Segmentation/val")
    shares = [float((data[index].semantic > 0).float().mean()) for index in range(2)]
    values = foreground.baseline(data)["all of every picture"]
    assert values["foreground"] == pytest.approx(np.mean([share for share in shares if share]))
    assert values["mean"] == pytest.approx(values["foreground"] / 2)
