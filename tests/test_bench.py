"""The benchmark harness: what is declared, what is run and in which order, what a file keeps, and what the page makes of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import numpy as np
import pytest
from bench_cells import finished, settings_of

from benchmarks import cells, claims, datasets, few_shot, fewshot, measure, page, paths, results, statistics, tables
from benchmarks.claims import PLANS, aepsl
from benchmarks.plan import Bench, Cell, Claim, Plan, Row, Variant
from frugalseg.data import read, shapes
from frugalseg.engine.log import read_log
from frugalseg.metrics import SemanticScores, paired

CLASSES = ("cat", "dog")


def random_scores(seed: int, right: float, images: int = 12) -> SemanticScores:
    """Scores of predictions that are right in this share of the pixels; the truth is the same for every seed."""
    truths, generator = np.random.default_rng(99), np.random.default_rng(seed)
    scores = SemanticScores(CLASSES, "toys", "val")
    for index in range(images):
        truth = truths.integers(0, 3, (10, 10))
        keep = generator.random((10, 10)) < right
        scores.update(f"{index}", np.where(keep, truth, generator.integers(0, 3, (10, 10))), truth)
    return scores


def record(rows: dict[str, SemanticScores], variant: str = "plain", seed: int = 0) -> dict[str, Any]:
    """A cell's file with these rows."""
    cell = {"method": "threshold", "variant": variant, "seed": seed}
    return finished(cell, "tags", {"all background": 0.1}, rows)


# -- what is declared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.method)
def test_every_declared_cell_has_settings_its_recipe_knows(plan: Plan) -> None:
    for cell, settings in settings_of(plan.method):
        assert settings["seed"] == cell.seed
        for key, before in cell.inputs.items():
            lenders = {str(other.run) for other in cell.dependencies if other.variant.name == before}
            assert lenders == {settings[key]}


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.method)
def test_cells_stand_after_those_they_need(plan: Plan) -> None:
    names = [cell.name for cell in plan.cells()]
    assert len(set(names)) == len(names)
    for cell in plan.cells():
        assert all(names.index(before.name) < names.index(cell.name) for before in cell.dependencies)


def test_faults_of_a_plan_are_named_together() -> None:
    variant = Variant("a", (Row("x"), Row("x")), inputs={"mined": "b"})
    bench = Bench("toys", "", "", "", "", "", (0,), inputs={"weights": "c"})
    faults = (
        "'x'",
        "'z', which is no row",
        "a takes its input from 'b', which is no variant",
        "all of toys takes its input from 'c'",
    )
    expected = r"[\s\S]*".join(map(re.escape, faults))
    with pytest.raises(ValueError, match=expected):
        Plan("threshold", (bench,), (variant,), (Claim("better", "x", "z"),))


def test_the_real_mask_run_makes_as_many_steps() -> None:
    epochs = {cell.variant.name: settings["epochs"] for cell, settings in settings_of("aepsl") if cell.bench.data == "voc20"}
    assert epochs["psl"] * 616 == pytest.approx(epochs["masks"] * 163)


# -- the file of a cell ----------------------------------------------------------------------------------------------


def test_scores_survive_the_file(tmp_path: Path) -> None:
    a, b = random_scores(1, 0.8), random_scores(2, 0.5)
    results.save(tmp_path / "threshold" / "toys" / "plain-seed0.json", record({"a": a, "b": b}))
    (kept,) = results.read(tmp_path).values()
    assert results.scores_of(kept, "a").to_json() == a.to_json()
    assert paired(results.scores_of(kept, "a"), results.scores_of(kept, "b")) == paired(a, b)


def test_files_of_the_largest_cell_stay_small() -> None:
    """240 images, 12 classes, five rows, of masks that are nothing but noise."""
    generator = np.random.default_rng(0)
    scores = SemanticScores([f"class {index}" for index in range(12)])
    for index in range(240):
        few = generator.choice(13, 5)
        scores.update(f"val_{index:05d}", generator.choice(few, (128, 128)), generator.choice(few[:3], (128, 128)))
    assert len(json.dumps(record({f"row {index}": scores for index in range(5)}))) < 100_000


# -- running ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan of the fake method on bright squares; cells are run in this process."""
    fakes.install(monkeypatch)
    fakes.write_bright(tmp_path / "photos" / "bright", wrong=2)
    (tmp_path / "threshold_bright.yaml").write_text("level: 100\nworkers: 0\n")
    plan = Plan(
        "threshold",
        (Bench("bright", "Squares.", str(tmp_path / "threshold_bright.yaml"), "train", "train", "val", seeds=(0, 1)),),
        (
            Variant("later", (Row("told", tags="given"),)),
            Variant("first", (Row("first"),), {"level": 90}),
            Variant("wrong", (Row("never"),), {"rounds": 0}),
        ),
        (Claim("Being told helps", "told", "first", data=("bright",)),),
    )
    monkeypatch.setattr(claims, "PLANS", (plan,))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(datasets, "DATA", {"bright": lambda: tmp_path / "photos" / "bright", "voc20": datasets.voc20})
    monkeypatch.setenv("FRUGALSEG_DATA", str(tmp_path / "photos"))
    monkeypatch.setattr(cells, "start", here)
    return plan


def here(cell: Cell, jobs: int) -> Any:
    """Stands for a process: runs the cell at once and has ended."""
    status = cells.main(["--cell", cell.name, "--quiet"])
    return Process(poll=lambda: status, returncode=status)


class Process(SimpleNamespace):
    """What `run` uses of a process."""

    __hash__ = object.__hash__

    def terminate(self) -> None:
        pass


def test_a_cell_leaves_one_file_with_all_that_is_needed(toys: Plan, tmp_path: Path) -> None:
    assert cells.main(["--only", "first-seed1"]) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert path == tmp_path / "results" / "threshold" / "bright" / "first-seed1.json"
    found = json.loads(path.read_text())
    assert found["config"]["level"] == 90
    assert found["protocol"] == {"learned": "bright|train|n=4", "scored": "miou|voc-void255|present-classes|bright|val|n=4"}
    assert (found["seconds"]["threshold"], found["peak_memory_mb"] >= 1234) == (65.0, True)
    assert found["seconds"]["total"] >= 65
    assert {"date", "commit", "machine", "versions"} <= found.keys()
    assert str(tmp_path) not in path.read_text()
    (row,) = found["rows"]
    squares = [16 * (8 + index) for index in range(4)]  # all are found; the first two are not in the truth
    assert row["per_class"]["square"] == pytest.approx(sum(squares[2:]) / sum(squares))


def test_finished_cells_are_skipped_and_outdated_ones_said(
    toys: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--only", "*/first-seed?"]
    assert cells.main(words) == 0
    before = {path: path.read_text() for path in (tmp_path / "results").rglob("*.json")}
    assert len(before) == 2
    monkeypatch.setattr(cells, "start", lambda *_: pytest.fail("a finished cell was started again"))
    assert cells.main(words) == 0
    assert {path: path.read_text() for path in before} == before
    for path, text in before.items():  # written before there was such a setting
        record = json.loads(text)
        del record["config"]["limit"]
        results.save(path, record)
    assert not any(map(measure.outdated, cells.select("*/first-seed?", "")))
    (tmp_path / "threshold_bright.yaml").write_text("level: 100\nrounds: 7\nworkers: 0\n")
    capsys.readouterr()
    assert cells.main(["--list", *words]) == 0
    assert capsys.readouterr().out.count("finished, by other settings than now") == 2


def test_a_run_that_is_gone_is_made_again_when_another_cell_takes_from_it(
    toys: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells.main(["--only", "first-seed0"]) == 0
    file, run = (tmp_path / place / "threshold/bright/first-seed0" for place in ("results", "runs"))
    before = json.loads(file.with_suffix(".json").read_text())
    shutil.rmtree(run)
    assert cells.main(["--only", "first-seed0"]) == 0
    assert not run.exists()  # nobody needs it
    assert "finished; its run is gone" in capsys.readouterr().out
    late = replace(toys.variants[0], name="late", rows=(Row("late"),), settings={"level": 80}, inputs={"name": "first"})
    monkeypatch.setattr(claims, "PLANS", (replace(toys, variants=(*toys.variants[:2], late)),))
    assert cells.main(["--only", "late-seed0"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": finished")]
    assert lines == [f"threshold/bright/{name}-seed0: finished" for name in ("first", "late")]
    assert cells.has_weights(next(cell for cell in cells.select("first-seed0", "")))
    assert json.loads(file.with_suffix(".json").read_text())["rows"][0]["miou"] == before["rows"][0]["miou"]


def test_what_another_plan_has_trained_and_scored_is_not_done_again(
    toys: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells.main(["--only", "first-seed0"]) == 0
    alike = Variant("alike", (Row("by another name"),), {"level": 90})
    other = replace(alike, name="other", rows=(Row("other"),), settings={"level": 91})
    plan = Plan("aepsl", toys.benches, (replace(alike, method="threshold"), replace(other, method="threshold")), ())
    monkeypatch.setattr(claims, "PLANS", (toys, plan))
    assert cells.main(["--only", "aepsl/*-seed0"]) == 0
    found = results.read(tmp_path / "results")
    names = ("threshold/bright/first-seed0", "aepsl/bright/alike-seed0", "aepsl/bright/other-seed0")
    first, twin, third = (found[name] for name in names)
    assert twin["rows"] == [{**first["rows"][0], "name": "by another name"}]
    assert twin["cell"] == {"method": "aepsl", "data": "bright", "variant": "alike", "seed": 0}
    assert {key: value for key, value in first.items() if key not in ("rows", "cell")} == {
        key: value for key, value in twin.items() if key not in ("rows", "cell")
    }
    assert third["config"]["level"] == 91
    assert not (tmp_path / "runs/threshold/bright/alike-seed0").exists()


def test_a_cell_that_fails_holds_up_only_those_after_it(toys: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    late = replace(toys.variants[0], name="late", rows=(Row("late"),), inputs={"mode": "wrong"})
    monkeypatch.setattr(claims, "PLANS", (replace(toys, variants=(*toys.variants, late)),))
    assert cells.main([]) == 1
    out = capsys.readouterr().out
    assert out.count(": finished") == 4
    assert "rounds=0: expected at least 1" in out
    (last,) = (line for line in out.splitlines() if "not finished" in line)
    assert sorted(last.partition(": ")[2].split(", ")) == [
        f"threshold/bright/{name}-seed{seed}" for name in ("late", "wrong") for seed in (0, 1)
    ]


def test_a_choice_brings_what_it_comes_after() -> None:
    names = [cell.name for cell in cells.select("shapes/ae2-seed1", "")]
    assert names == ["aepsl/shapes/mine-seed1", "aepsl/shapes/ae2-seed1"]
    assert {cell.bench.data for cell in cells.select("", "voc20")} == {"voc20"}
    assert cells.main(["--only", "ae9"]) == 2


def test_processes_run_side_by_side_in_order(toys: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two jobs there are never three processes, and none starts before the file of the one it needs."""
    late = replace(toys.variants[0], name="late", rows=(Row("late"),), inputs={"mode": "first"})
    plan = replace(toys, variants=(late, *toys.variants[:2]))
    alive: list[str] = []
    peak = []

    def begin(cell: Cell, jobs: int) -> Any:
        assert all(before.file.exists() for before in cell.dependencies)
        alive.append(cell.name)
        peak.append(len(alive))
        return Process(poll=lambda: end(cell), returncode=0)

    def end(cell: Cell) -> int:
        alive.remove(cell.name)
        results.save(cell.file, {})
        return 0

    monkeypatch.setattr(cells, "start", begin)
    monkeypatch.setattr(cells.time, "sleep", lambda _: None)
    assert cells.run(list(plan.cells()), jobs=2) == []
    assert len(peak) == 6
    assert max(peak) == 2


def test_absent_photos_are_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRUGALSEG_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    assert cells.main(["--data", "voc20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(cell.bench.data == "voc20" for plan in PLANS if not plan.folds for cell in plan.cells())
    assert all(": not run: " in line and "the photos of voc20 are not in" in line for line in lines)


def test_aepsl_cells_run_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mining, a network on what was mined, and the one on real masks, on six images for a few steps."""
    tiny = {"crop": 33, "channels": 8, "batch": 2, "classifier_epochs": 0.4, "epochs": 0.4, "workers": 0, "crf_iterations": 1}
    bench = replace(aepsl.BENCHES[1], data="toys", seeds=(0,), settings=tiny | {"cam_flip": False})
    wanted = [variant for variant in aepsl.VARIANTS if variant.name in ("mine", "psl", "masks")]
    monkeypatch.setattr(claims, "PLANS", (Plan("aepsl", (bench,), tuple(wanted), ()),))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    root = shapes.write(tmp_path / "toys", train=4, val=2, test=0, size=48, quiet=True)
    monkeypatch.setattr(datasets, "DATA", {"toys": lambda: root})
    monkeypatch.setattr(cells, "start", here)
    with monkeypatch.context() as patch:
        patch.setattr(measure, "score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cells.main([])
    assert not list(tmp_path.glob("results/**/*.json"))
    assert cells.main([]) == 0
    done = [line["stage"] for line in read_log(tmp_path / "runs/aepsl/toys/mine-seed0") if line.get("event") == "done"]
    assert done == [f"{stage}{t}" for t in range(4) for stage in ("classifier", "regions")]  # once each, in both sittings
    found = results.read(tmp_path / "results")
    rows = {entry["name"]: entry for file in found.values() for entry in file["rows"]}
    assert list(rows) == [row.name for name in ("masks", "mine", "psl") for row in variant_of(name).rows]
    assert rows["CAM"]["options"] == {"crf": False}
    assert rows["CAM + ground-truth tags"]["split"] == "Segmentation/val+ground-truth-tags"
    assert [found[f"aepsl/toys/{name}-seed0"]["labels"] for name in ("mine", "masks")] == [["tags"], ["semantic", "tags"]]
    quality = found["aepsl/toys/mine-seed0"]["pseudo_labels"]
    assert [entry["rounds"] for entry in quality] == [1, 2, 3, 4]
    assert found["aepsl/toys/psl-seed0"]["config"]["mined"] == "runs/bench/aepsl/toys/mine-seed0"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def variant_of(name: str) -> Variant:
    return next(variant for variant in aepsl.VARIANTS if variant.name == name)


def test_pseudo_labels_equal_a_count_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of two classes: S says 1 on the left half, background on a quarter, nothing on the rest."""
    root = fakes.write_bright(tmp_path)
    data = read(root, split="train").select([0])
    truth = data[0].semantic
    assert truth is not None
    mask = np.full(tuple(truth.shape), 255, np.uint8)
    mask[:, :20], mask[:, 20:30] = 1, 0
    monkeypatch.setattr(aepsl, "assembled", lambda *_: iter([("one", mask.copy(), truth.numpy().copy())]))
    monkeypatch.setattr("frugalseg.inference.predictor.load", lambda _: SimpleNamespace(network=SimpleNamespace(config=None)))
    monkeypatch.setattr("frugalseg.engine.array_store.ArrayStore.__contains__", lambda self, _: self.folder.name == "regions0")
    (entry,) = aepsl.pseudo_labels(tmp_path, data)
    square = int((truth[:, :20] == 1).sum())
    assert (entry["rounds"], entry["images"], entry["coverage"]) == (1, 1, 0.75)
    assert entry["miou"] == pytest.approx((square / (20 * 32) + (10 * 32) / (30 * 32 - square)) / 2)


# -- the page --------------------------------------------------------------------------------------------------------


def test_one_seed_is_the_paired_comparison_itself() -> None:
    a, b = random_scores(1, 0.8), random_scores(2, 0.5)
    assert statistics.compare(statistics.OverSeeds({0: a}), statistics.OverSeeds({0: b})) == paired(a, b)


def test_scores_of_other_episodes_are_compared_unpaired() -> None:
    scores = statistics.OverSeeds({0: random_scores(1, 0.8)})
    found, alone = statistics.compare(scores, scores, unpaired=True), scores.interval
    assert found is not None
    assert found.mean == 0
    assert found.high - found.low == pytest.approx(2**0.5 * (alone.high - alone.low), rel=0.1), "the variances add up"


def test_seeds_are_averaged_under_the_same_draws() -> None:
    a = {seed: random_scores(seed, 0.8) for seed in (0, 1, 2)}
    b = {seed: random_scores(10 + seed, 0.6) for seed in (1, 2, 3)}
    found = statistics.compare(statistics.OverSeeds(a), statistics.OverSeeds(b))
    assert found is not None
    assert found.mean == pytest.approx(np.mean([a[seed].miou - b[seed].miou for seed in (1, 2)]))
    differences = []
    for drawn in np.random.default_rng(0).integers(12, size=(2000, 12)):
        weights = np.bincount(drawn, minlength=12)
        differences.append(np.mean([float((a[s].score(weights[None]) - b[s].score(weights[None]))[0]) for s in (1, 2)]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert statistics.compare(statistics.OverSeeds(a), statistics.OverSeeds({7: b[1]})) is None


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim("", "good", "bad"), "reproduced"),
        (Claim("", "bad", "good"), "not reproduced"),
        (Claim("", "good", "same"), "undecided"),
        (Claim("", "good", "absent"), "not run"),
        (Claim("", "good", 0.3), "met"),
        (Claim("", "good", 0.99), "missed"),
        (Claim("", "absent", 0.3), "not run"),
    ],
)
def test_verdicts(claim: Claim, verdict: str) -> None:
    good, bad, same = random_scores(1, 0.9), random_scores(2, 0.3), random_scores(1, 0.9)
    rows = {name: statistics.OverSeeds({0: scores}) for name, scores in {"good": good, "bad": bad, "same": same}.items()}
    assert statistics.judge(claim, rows)[1] == verdict


def test_the_page_prints_what_the_files_hold(toys: Plan) -> None:
    first, told = [random_scores(seed, 0.5) for seed in (0, 1)], random_scores(3, 0.9)
    records = {f"threshold/bright/first-seed{seed}": record({"first": first[seed]}, "first", seed) for seed in (0, 1)}
    records["threshold/bright/later-seed0"] = record({"told": told}, "later")
    text = page.render((toys,), records, {})
    mean, spread = np.mean([scores.miou for scores in first]), np.std([scores.miou for scores in first], ddof=1)
    assert f"| first | {100 * mean:.2f} ± {100 * spread:.2f} | [" in text
    assert f"| told | {100 * told.miou:.2f} | {told.interval()} | 1 | 1.5 | 700 |" in text
    assert "| baseline: all background | 10.00 |" in text
    difference = paired(told, first[0])
    assert f"| {100 * difference.mean:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}] | reproduced |" in text
    assert "Not run: wrong, later (seed 1)." in text


def test_the_page_tells_how_killed_runs_ended() -> None:
    killed = [{"processes": n, "seed": 0, "equal": n == 1, "stops": [{}] * 8} for n in (1, 1, 2)]
    sweep = {"what": "runs killed", "machine": "a machine", "versions": {"torch": "2.0"}, "killed": killed}
    text = page.render((), {"resume": sweep}, {})
    assert "| 1 | 2 | 16 | 2 of 2 |" in text
    assert "| 2 | 1 | 8 | 0 of 1 |" in text


def test_numbers_on_the_pages_of_methods_are_those_of_the_results() -> None:
    """Scores with two decimals are copied by hand into docs/METHOD.md; a run made again must not leave the old ones there."""
    text = page.PAGE.read_text(encoding="utf-8")
    for path in sorted(page.PAGE.parent.glob("*.md")):
        copied = re.findall(r"(?<![\d.])\d+\.\d\d(?: ± \d+\.\d\d)?(?![\d.])", path.read_text(encoding="utf-8"))
        assert [number for number in copied if number not in text] == [], path.name


def test_the_page_in_docs_is_the_one_the_files_make() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.build(), "docs/results.md is not what `make results` makes of the files"


def test_committed_files_are_small_and_name_no_folder() -> None:
    for path in paths.RESULTS.rglob("*.json"):
        assert path.stat().st_size < 130_000, f"{path.name} is too large to keep"
        assert str(Path.home()) not in path.read_text("utf-8")


def test_old_names_of_commands_run_the_new_ones() -> None:
    assert tables.main is page.main
    assert fewshot.main is few_shot.main
