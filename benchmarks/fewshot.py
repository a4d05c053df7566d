"""Run what `claims.biopt` declares: a run for each data set × variant × fold × seed, each ending in one JSON file of its own.

    python -m benchmarks.fewshot --list
    python -m benchmarks.fewshot --only shapes/biopt

A cell whose file exists is skipped, a killed one goes on where its run stopped, one without its data is named with the reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cells import DATA, RUNS, SIDE, VAL_PICTURES, Absent, origin, photos
from benchmarks.claims.biopt import FOLDS, GROUND, GROUNDED, PLAN
from benchmarks.plan import ROOT, Bench, Cell, Variant
from frugalseg.methods import METHODS
from frugalseg.tasks import few_shot

RESULTS = ROOT / "benchmarks" / "results"
EPISODES = 1000
CLAIMS = """\
A claim is *reproduced* when the interval of the difference lies above 0, *not reproduced* when it lies below, else *undecided*: a
paired one over the same episodes, but for "five references beat one", whose episodes differ. The paper's numbers are means over
PASCAL-5i's folds with ResNet-50 where nothing else is said. It trains for five references on episodes of five; here one training,
on episodes of one reference, is scored with both."""
CURVES = 50  # episodes whose inner loss is followed


def coco80() -> Path:
    path = photos() / "voc20" / "instances_coco80.json"
    if not path.is_file():
        raise Absent(f"instances_coco80.json is not in {photos()}; FRUGALSEG_DATA names the folder that holds voc20")
    return path


def many_shapes() -> Path:
    from frugalseg.data.shapes import write

    return write(RUNS / "data" / "shapes1600", 1600, VAL_PICTURES, test=0, seed=0, size=SIDE)


PLACES: dict[str, Callable[[], Path]] = {**DATA, "shapes1600": many_shapes, "coco80-a": coco80, "coco80-b": coco80}


@dataclass(frozen=True)
class Trial:
    """One training with its scores."""

    bench: Bench
    variant: Variant
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"biopt/{self.bench.data}/{self.variant.name}-fold{self.fold}-seed{self.seed}"

    @property
    def file(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def settings(self) -> dict[str, Any]:
        """The resolved settings: those of the variant's cell, and the fold."""
        settings = Cell(PLAN, self.bench, self.variant, self.seed).settings(RUNS, photos())
        if self.bench.data in GROUNDED:
            settings["weights"] = str(self.ground)
        return settings | {"fold": self.fold, "val": "", "name": self.name.partition("/")[2]}

    @property
    def ground(self) -> Path:
        """The run whose backbone all runs of this fold begin with, where no ready-made weights are given."""
        return RUNS / "aepsl" / self.bench.data / f"ground-fold{self.fold}"


def trials() -> Iterator[Trial]:
    for bench in PLAN.benches:
        for seed in bench.seeds:
            for variant in PLAN.variants:
                for fold in range(FOLDS if not variant.data or bench.data in variant.data else 0):
                    yield Trial(bench, variant, fold, seed)


# -- one run ---------------------------------------------------------------------------------------------------------


def lay_ground(trial: Trial, train: Any, quiet: bool) -> None:
    """Train what the runs of this fold begin with; it sees none of the classes that are held back."""
    from frugalseg.data import episodes
    from frugalseg.workflows.train import fit

    settings, own = trial.settings(), Cell(PLAN, trial.bench, GROUND, 0).settings(RUNS, photos())
    hidden = episodes.folds(len(train.classes), FOLDS, settings["folding"])[trial.fold]
    base = episodes.base(train, hidden, settings["shots"], settings["least"], settings["masks"], "drop")
    place = {"name": f"{trial.bench.data}/{trial.ground.name}", "val": "", "quiet": quiet}
    fit(METHODS["aepsl"], base.data, own | place)


def measure(trial: Trial, quiet: bool = False) -> None:
    """Train the run, or finish it, score its rows, and write its file."""
    from benchmarks import results
    from frugalseg.data import read
    from frugalseg.engine.log import peak_memory
    from frugalseg.workflows.train import fit

    place, settings = PLACES[trial.bench.data](), trial.settings() | {"quiet": quiet}
    train, val = read(place, split=trial.bench.train or None), read(place, split=trial.bench.val or None)
    if trial.bench.data in GROUNDED and not (trial.ground / "weights" / "last.safetensors").exists():
        lay_ground(trial, train, quiet)
    begin = time.perf_counter()
    predictor: Any = fit(METHODS["biopt"], train, settings)
    trained, rows, network = time.perf_counter() - begin, [], predictor.network
    folder, whole, predictor.folder = predictor.folder, network.config, None  # nothing is to be drawn
    network.features = once(network.features)
    for row in trial.variant.rows:
        options, started = dict(row.options), time.perf_counter()
        shots = options.pop("shots")
        network.config = replace(whole, **options)
        found = few_shot.score_lists(predictor, val, shots, EPISODES, [trial.seed], quiet)
        (scores,) = found.seeds.values()
        scores.data = trial.bench.data
        record = scores.to_json() | {"counts": packed(scores), "presence": found.presence.to_json(), "left_out": found.notes}
        rows.append({"name": row.name, "options": options, "seconds": round(time.perf_counter() - started, 1)} | record)
    network.config = whole
    head = {"data": trial.bench.data, "variant": trial.variant.name, "fold": trial.fold, "seed": trial.seed}
    learned, scored = (f"{trial.bench.data}|{split or 'all'}" for split in (trial.bench.train, trial.bench.val))
    asked = f"{EPISODES} episodes|novel-in-train={whole.novel_in_train}, each fold and seed"
    record = {
        "cell": head,
        **origin(folder, settings, learned, f"{scores.metric}|{scored}|{asked}"),
        "seconds": {"training": round(trained, 1), "total": round(time.perf_counter() - begin, 1)},
        "peak_memory_mb": peak_memory(),
        "curve": inner_curve(network, val, trial.seed),
        "rows": rows,
    }
    results.save(trial.file, record)


def once(features: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, which looks at each picture once: rows of other shots, steps and scales ask for the same pictures."""
    known: dict[tuple[tuple[int, ...], bytes], Any] = {}

    def look(images: Any) -> Any:
        key = tuple(images.shape), hashlib.sha256(images.cpu().contiguous().numpy()).digest()
        if key not in known:
            known[key] = features(images)
        return known[key]

    return look


def packed(scores: Any) -> str:
    """What was counted in all episodes, in the order of their names, (N, 5): of the object its intersection, predicted and true
    pixels, the true pixels of the background, and the class. What the background's other counts are follows from these."""
    from benchmarks.packing import pack

    stacked = scores.stacked()
    return pack(stacked.reshape(len(stacked), -1)[:, [0, 1, 2, 5, 6]])


def unpacked(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The counts of every episode of a row, as `FewShotScores` keeps them, by the episode's name."""
    import numpy as np

    from benchmarks.packing import unpack

    both, predicted, truth, rest, label = unpack(record["counts"], record["images"], 5).T
    none = np.zeros_like(both)
    counts = [both, predicted, truth, rest - (predicted - both), truth + rest - predicted, rest, label, none, none]
    return {f"{prefix}{number:05d}": row for number, row in enumerate(np.stack(counts, 1).reshape(-1, 3, 3))}


def inner_curve(network: Any, data: Any, seed: int) -> dict[str, list[float]]:
    """Mean inner loss per position before each step and after the last, and ‖ΔP‖/‖P‖ so far, over some episodes."""
    import torch
    from torch.nn import functional as F

    from frugalseg.data import episodes
    from frugalseg.methods import biopt

    config = network.config
    data = data.select(few_shot.with_masks(data, config.masks)).only("image", config.masks)
    pixels, labels = episodes.class_pixels(data, config.masks), few_shot.novel_labels(network, data)
    tasks = episodes.draw(data, pixels, labels, config.shots, CURVES, seed, config.least).episodes
    bank, losses, moved = few_shot.encode_supports(network, data, tasks, quiet=True), [], []
    with torch.no_grad():
        for task in tasks:
            query, examples = network.features(network.picture(data.image(task.query))).flatten(1, 2), bank.examples([task])
            support = biopt.fill_empty(*examples.to(query.device)[:2], query)
            start, unit = network.solve(query, support).start, F.normalize(query, dim=-1)
            target = biopt.cosine(unit, start).argmax(1)
            steps = [biopt.inner_loop(unit, start, target, k, config.inner_lr, config.alpha) for k in range(11)]
            losses.append([float(biopt.inner_loss(unit, p, target, config.alpha)) / unit.shape[1] for p in steps])
            moved.append([float(biopt.movement(start, p)) for p in steps])
    return {"loss": torch.tensor(losses).mean(0).tolist(), "moved": torch.tensor(moved).mean(0).tolist()}


# -- the page --------------------------------------------------------------------------------------------------------


def section() -> list[str]:
    """The part of docs/results.md about BiOpt."""
    blocks = [f"## {METHODS[PLAN.method].summary}"]
    for bench in PLAN.benches:
        blocks += part(bench)
    return blocks


def part(bench: Bench) -> list[str]:
    """One data set: what was run, the rows, the inner loop step by step, the claims."""
    from benchmarks.tables import OverSeeds, judge, markdown, protocol

    known = [trial for trial in trials() if trial.bench is bench]
    records = [json.loads(trial.file.read_text("utf-8")) for trial in known if trial.file.exists()]
    found = {name: OverSeeds(seeds) for name, seeds in scores_of(records).items()}
    title = [f"### biopt on {bench.data}", bench.about]
    missing = f"{len(known) - len(records)} of {len(known)} runs are missing: `python -m benchmarks.fewshot`."
    if not found:
        return [*title, f"Nothing has been run in all folds yet. {missing}"]
    claims = [["claim", "rows", "paper", "here", "verdict"]]
    for claim in (claim for claim in PLAN.claims if bench.data in claim.data):
        claims.append([claim.text, f"{claim.better} > {claim.worse}", claim.paper, *judge(claim, found)])
    about = protocol(bench, records)
    tables = [row_table(found, records), curve_table(records), CLAIMS, markdown(claims), bench.tried]
    return [*title, about, *tables, "" if len(known) == len(records) else missing]


def scores_of(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Any]]:
    """For each row and seed the scores of all folds as one: every class is scored by the run that has not learned it."""
    from frugalseg.metrics.fewshot import FewShotScores

    found: dict[str, dict[int, dict[int, Mapping[str, Any]]]] = {}
    for record in records:
        seed, fold = record["cell"]["seed"], record["cell"]["fold"]
        for row in record["rows"]:
            found.setdefault(row["name"], {}).setdefault(seed, {})[fold] = row
    whole: dict[str, dict[int, Any]] = {}
    for name, seeds in found.items():
        for seed, folds in seeds.items():
            if len(folds) == FOLDS:  # a mean over some of the folds is no mean over the classes
                scores = whole.setdefault(name, {})[seed] = FewShotScores(folds[0]["classes"], folds[0]["data"], "")
                for fold, row in folds.items():
                    scores.rows |= unpacked(row, f"fold{fold}/")
    return whole


def row_table(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The scores of every row; whether a class is there is asked of as many pictures with it as without."""
    from benchmarks.tables import markdown
    from frugalseg.metrics.per_image import percent

    table = [
        ["row", "mean-IoU %", "95 % interval over episodes", "binary-IoU %", "class there? precision %", "recall %", "seeds"]
    ]
    for name, scores in found.items():
        rows = [row for record in records for row in record["rows"] if row["name"] == name]
        there = [percent(mean(row["presence"][what] for row in rows)) for what in ("precision", "recall")]
        binary = percent(mean(each.binary for each in scores.seeds.values()))
        table.append([name, str(scores), str(scores.interval), binary, *there, str(len(scores.seeds))])
    return markdown(table)


def curve_table(records: Sequence[Mapping[str, Any]]) -> str:
    """What the inner loop does, step by step, to its own loss and to the prototypes."""
    from benchmarks.tables import markdown

    curves = [record["curve"] for record in records if record["cell"]["variant"] == "biopt"]
    if not curves:
        return ""
    table = [["inner step", *map(str, range(len(curves[0]["loss"])))]]
    for name, what in (("loss", "inner loss, mean over positions"), ("moved", "‖ΔP‖/‖P‖ so far")):
        table.append([what, *(f"{mean(step):.4f}" for step in zip(*(curve[name] for curve in curves), strict=True))])
    return f"The inner loop of BiOpt, mean over {CURVES} episodes of each of {len(curves)} runs:\n\n" + markdown(table)


def mean(values: Iterable[float | None]) -> float:
    """The mean of those that are known; NaN if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


# -- all runs --------------------------------------------------------------------------------------------------------


def start(trial: Trial, quiet: bool) -> int:
    """A process of its own for each: its peak memory is its own, and its crash ends no other."""
    words = [sys.executable, "-m", "benchmarks.fewshot", "--cell", trial.name, *(["--quiet"] if quiet else [])]
    return subprocess.run(words, cwd=ROOT, env=os.environ | {"FRUGALSEG_DATA": str(photos())}, check=False).returncode


def state(trial: Trial) -> str:
    """Where a run stands, in words."""
    if trial.file.exists():
        return "finished"
    try:
        if trial.bench.data not in GROUNDED:  # those are drawn when they are needed, so never absent
            PLACES[trial.bench.data]()
    except Absent as error:
        return f"not run: {error}"
    return "to run"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fewshot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="runs in whose name this is found; * and ? stand for anything"
    )
    parser.add_argument("--list", action="store_true", help="say where every run stands, and start none")
    parser.add_argument("--cell", default="", metavar="NAME", help="do this one in this process")
    parser.add_argument("--quiet", action="store_true", help="say nothing of the progress")
    options = parser.parse_args(words)
    if options.cell:
        measure(next(trial for trial in trials() if trial.name == options.cell), options.quiet)
        return 0
    failed = 0
    for trial in (trial for trial in trials() if fnmatch.fnmatch(trial.name, f"*{options.only}*")):
        standing = state(trial)
        print(f"{trial.name}: {standing}", flush=True)
        if standing == "to run" and not options.list:
            failed += start(trial, options.quiet) != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
