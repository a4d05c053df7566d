"""Train and score one cell, and write its JSON file."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import claims, datasets, foreground, paths, ranked, results
from benchmarks.plan import Cell, Row
from frugalseg import config
from frugalseg.data import read
from frugalseg.engine.log import peak_memory, read_log
from frugalseg.inference.predictor import load
from frugalseg.methods import METHODS, kinds
from frugalseg.workflows.evaluate import evaluate
from frugalseg.workflows.run_folder import NON_IDENTITY_SETTINGS, read_run_info
from frugalseg.workflows.train import fit


def measure(cell: Cell, quiet: bool = False) -> None:
    """Train the cell's run, or finish it, score its rows, and write its file."""
    record = None if cell.file.exists() else from_other_plan(cell)
    results.save(cell.file, record or train_and_score(cell, quiet))


def train_and_score(cell: Cell, quiet: bool) -> dict[str, Any]:
    """The cell's record."""
    settings = cell.settings() | {"quiet": quiet}
    train = read(datasets.DATA[cell.source](), split=settings["split"])
    val = read(datasets.DATA[cell.bench.data](), split=cell.bench.val)
    fit(METHODS[cell.method], train, settings)
    rows, images, scoring = score(cell, val, quiet)
    seconds, memory = training_cost(cell)
    return {
        "cell": cell.key,
        **provenance(cell, settings, f"{cell.source}|{settings['split']}", rows[0]["protocol"]),
        "seconds": {"total": round(sum(seconds.values()) + scoring, 1), "scoring": round(scoring, 1), **seconds},
        "peak_memory_mb": memory,
        **{name: compute(cell.run, train) for name, compute in cell.variant.extras.items()},
        "baselines": baselines(cell, rows, val),
        "rows": [{key: value for key, value in row.items() if key != "baselines"} for row in rows],
        "pictures": images | crowding(cell, val),
    }


def training_cost(cell: Cell) -> tuple[dict[str, float], int]:
    """The seconds of each stage of the training, and the peak memory in MB."""
    done = [line for line in read_log(cell.run) if line.get("event") == "done"]
    seconds: dict[str, float] = defaultdict(float)
    for line in done:
        seconds[line["stage"]] = round(seconds[line["stage"]] + line["seconds"], 1)
    return dict(seconds), max([peak_memory(), *(line.get("peak_memory", 0) for line in done)])


def score(cell: Cell, val: Any, quiet: bool) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """The cell's rows, what they share, and the seconds it took."""
    begin, rows, shared = time.perf_counter(), [], {}
    for row in cell.variant.rows:
        predictor = predictor_of(cell, row)
        started = time.perf_counter()
        options = {"tags": "ground-truth"} if row.tags == "given" else {}  # not every task has it
        scores: Any = evaluate(predictor, val, quiet=quiet, **options)
        scores.data = cell.bench.data  # the folder's name may be anything, such as VOC2012
        head = {"name": row.name, "weights": row.weights, "tags": row.tags, "options": dict(row.options)}
        rows.append(head | {"seconds": round(time.perf_counter() - started, 1)} | results.row_record(scores))
        shared = results.truth_record(scores)
    return rows, shared, time.perf_counter() - begin


def predictor_of(cell: Cell, row: Row) -> Any:
    """The trained model, with the options of the row."""
    predictor: Any = load(cell.run / "weights" / f"{row.weights}.safetensors")
    if row.options:
        predictor.network.config = replace(predictor.network.config, **row.options)
    return predictor


def baselines(cell: Cell, rows: Sequence[Mapping[str, Any]], val: Any) -> Any:
    """What the trivial baselines reach on the images scored."""
    return foreground.baseline(val) if METHODS[cell.method].task == "foreground" else rows[0].get("baselines")


def crowding(cell: Cell, val: Any) -> dict[str, Any]:
    """How much the objects of each image scored overlap, where objects are scored."""
    return {"crowding": ranked.crowding(val)} if METHODS[cell.method].task == "instances" else {}


# -- what a file says of its settings --------------------------------------------------------------------------------


def from_other_plan(cell: Cell) -> dict[str, Any] | None:
    """The record of another plan's cell with the same training and scores, under this cell's names; None if there is none."""
    for other in (other for plan in claims.PLANS for other in plan.cells()):
        alike = identity(other) == identity(cell) and other.name != cell.name and other.file.exists()
        if alike and not outdated(cell, other):
            record = json.loads(other.file.read_text("utf-8"))
            rows = [{**entry, "name": row.name} for entry, row in zip(record["rows"], cell.variant.rows, strict=True)]
            return {**record, "cell": cell.key, "rows": rows}
    return None


def identity(cell: Cell) -> tuple[Any, ...]:
    """What two cells must share, besides the settings of their training, to have the same scores."""
    rows = [(row.weights, row.tags, dict(row.options)) for row in cell.variant.rows]
    return cell.method, cell.source, cell.bench.data, rows, list(cell.variant.extras)


def outdated(cell: Cell, other: Cell | None = None) -> bool:
    """Whether the cell's file, or the other's, has other settings than the cell; a setting that did not exist had its default."""
    settings = json.loads(json.dumps(portable(cell.settings())))
    defaults = {name: option.default for name, option in config.options(*kinds(METHODS[cell.method])).items()}
    unset = {name: json.loads(json.dumps(defaults.get(name))) for name in settings}
    return unset | json.loads((other or cell).file.read_text("utf-8"))["config"] != settings


def provenance(cell: Cell, settings: Mapping[str, Any], learned: str, scored: str) -> dict[str, Any]:
    """How a record's numbers came about: settings, labels, images learned from and scored, machine and code."""
    run = read_run_info(cell.run)
    return {
        "config": portable(settings),
        "protocol": {"learned": f"{learned}|n={run['images']}", "scored": scored},
        "labels": run["labels"],
        "extra_supervision": without_folders(run["extra_supervision"]),
        **results.provenance(),
    }


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what comes out, with no folder of this machine in them."""
    return {key: without_folders(value) for key, value in settings.items() if key not in NON_IDENTITY_SETTINGS}


def without_folders(value: Any) -> Any:
    """A value, or every value of a list, with general names for the folders of this machine."""
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    if isinstance(value, str):
        return value.replace(str(paths.photos()), "$FRUGALSEG_DATA").replace(str(paths.RUNS), "runs/bench")
    return value
