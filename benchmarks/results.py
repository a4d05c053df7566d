"""The JSON file of a finished cell: what was run, where, how long it took, and the scores with their counts for every image."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import foreground, paths, ranked
from benchmarks.packing import pack, unpack
from benchmarks.plan import Bench, Plan
from benchmarks.ranked import Ranked
from frugalseg.files import write
from frugalseg.machine import cores
from frugalseg.metrics import SemanticScores
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.metrics.instances import InstanceScores
from frugalseg.metrics.semantic import INTERSECTION, PREDICTED, TRUTH

LIBRARIES = ("frugalseg", "torch", "torchvision", "lightning-fabric", "timm", "numpy", "scikit-image", "pillow")
Record = Mapping[str, Any]  # what a file holds
Records = Mapping[str, Record]  # by the name of the cell


def row_record(scores: SemanticScores | InstanceScores | ForegroundScores) -> dict[str, Any]:
    """What one row adds to the file: the scores, and per image what they are made of (see `ranked` and `foreground`)."""
    if isinstance(scores, InstanceScores):
        return ranked.row_record(scores)
    if isinstance(scores, ForegroundScores):
        return foreground.row_record(scores)
    record = scores.to_json()
    for shared in ("counts", "classes", "data"):  # stand once in the file, as `truth_record` says
        del record[shared]
    return record | {"counts": pack(scores.stacked()[:, [INTERSECTION, PREDICTED]])}


def truth_record(scores: SemanticScores | InstanceScores | ForegroundScores) -> dict[str, Any]:
    """What is the same for all rows: names of the images and, for each, the true pixels of every class, or its objects."""
    if isinstance(scores, InstanceScores):
        return ranked.truth_record(scores)
    if isinstance(scores, ForegroundScores):
        return foreground.truth_record(scores)
    return {
        "data": scores.data,
        "classes": list(scores.classes),
        "names": scores.names,
        "truth": pack(scores.stacked()[:, TRUTH]),
    }


def scores_of(record: Record, row: str) -> SemanticScores | Ranked | ForegroundScores:
    """The scores of one row of a file, ready to be compared image by image. KeyError if it has no such row."""
    shared, rows = record["pictures"], {entry["name"]: entry for entry in record["rows"]}
    if "ranking" in rows[row]:
        return ranked.scores_of(shared, rows[row])
    if "overlaps" in rows[row]:
        return foreground.scores_of(shared, rows[row])
    images, classes = len(shared["names"]), len(shared["classes"]) + 1
    scores = SemanticScores(shared["classes"], shared["data"], rows[row]["split"])
    true = unpack(shared["truth"], images, 1, classes)
    counts = np.concatenate([unpack(rows[row]["counts"], images, 2, classes), true], axis=1)
    scores.rows = dict(zip(shared["names"], counts, strict=True))
    return scores


# -- files -----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every cell's file below the folder, by the cell's name."""
    files = sorted(folder.rglob("*.json"))
    return {path.relative_to(folder).with_suffix("").as_posix(): json.loads(path.read_text("utf-8")) for path in files}


def of_bench(plan: Plan, bench: Bench, records: Records) -> Records:
    """The records of one method on one data set."""
    return {cell.name: records[cell.name] for cell in plan.cells() if cell.bench is bench and cell.name in records}


def of_row(plan: Plan, row: str, records: Records) -> list[Record]:
    """The records of the variant that a row scores."""
    variants = {row.name: variant.name for variant in plan.variants for row in variant.rows}
    return [record for record in records.values() if record["cell"]["variant"] == variants[row]]


def save(path: Path, record: Record) -> None:
    """Write a file whole or not at all, a line for every field and row."""
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in record.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write(path, text)


def _lines(value: Any) -> str:
    if isinstance(value, Sequence) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


# -- provenance ------------------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Date, commit of the code, machine and versions, without the name of the host or of a folder."""
    import torch

    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "configs", "benchmarks/*.py")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": _cpu(), "cores": cores(), "gpu": gpu, "system": platform.system()}
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "date": date.today().isoformat(),
        "commit": commit + ("+changes" if changed and commit != "unknown" else ""),
        "machine": machine,
        "versions": versions,
    }


def _git(*words: str) -> str:
    result = subprocess.run(["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
