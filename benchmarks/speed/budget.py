"""The same time for both: seconds per step of R2-IOS and Mask R-CNN, and the steps that give Mask R-CNN as much time.

    python -m benchmarks.speed.budget [--data voc20 nuclei shapes] [--steps 20] [--turns 3]

Both train in turns in one sitting, so that whatever else the machine does hits both; each turn is a separate run, whose median
over the logged steps counts, so that neither start nor proposals do. Finding the proposals of the training images counts as
R2-IOS's time too. `claims/r2ios.py` takes the steps from budget.json, which stands beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.claims import r2ios
from benchmarks.plan import Cell
from benchmarks.speed.harness import entry, save, show
from frugalseg.engine.log import read_log

FILE = Path(__file__).with_suffix(".json")
PICTURES = 40  # of the training list; more would only be more proposals to wait for
STAGES = {"r2ios": ("recursion", "gate"), "maskrcnn": ("detector",)}


def pair(data: str) -> tuple[Cell, Cell]:
    """The cells of R2-IOS and of Mask R-CNN on this data."""
    cells = {cell.variant.name: cell for cell in r2ios.PLAN.cells() if cell.bench.data == data}
    return cells["full"], cells["maskrcnn"]


def short(settings: Mapping[str, Any], steps: int, folder: Path, turn: int) -> dict[str, Any]:
    """Settings of a run of so many steps a stage, logged at every second."""
    lengths = {name: min(steps, settings[name]) for name in ("steps", "gate_steps") if name in settings}
    place = {"out": str(folder), "name": f"turn{turn}", "quiet": True}
    return {**settings, **lengths, "warmup": 0, "log_every": 2, "limit": PICTURES, **place}


def pace(log: Sequence[Mapping[str, Any]], stage: str, batch: int) -> float:
    """Seconds per step of a stage: the median over its log lines but the first, which starts the reading processes."""
    lines = [line["images_per_second"] for line in log if line.get("stage") == stage and "step" in line][1:]
    return batch / statistics.median(lines)


def turn(cell: Cell, data: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per step of each stage of one short run, and per image of finding proposals."""
    from frugalseg.methods import METHODS
    from frugalseg.workflows.train import fit

    fit(METHODS[cell.method], data, dict(settings))
    log = read_log(Path(settings["out"]) / cell.method / settings["name"])
    seconds = {stage: pace(log, stage, settings["batch"]) for stage in STAGES[cell.method]}
    for line in log:
        if line.get("stage") == "proposals" and line.get("event") == "done":
            seconds["proposals"] = line["seconds"] / line["items"]
    return seconds


def typical(values: Sequence[float], name: str) -> float:
    """The median over turns; of proposals, which all turns but the first find in the cache, the largest."""
    return max(values) if name == "proposals" else statistics.median(values)


def equal_steps(seconds: Mapping[str, float], settings: Mapping[str, Any], images: int) -> int:
    """Mask R-CNN's steps in the time of R2-IOS's two phases and its proposals of the training images."""
    time = settings["steps"] * seconds["recursion"] + settings["gate_steps"] * seconds["gate"]
    return round((time + images * seconds.get("proposals", 0.0)) / seconds["detector"])


def measure(data: str, steps: int, turns: int, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """The steps for Mask R-CNN on one data set, and what they follow from."""
    from frugalseg.data import read

    both, root = pair(data), datasets.DATA[data]()
    train = read(root, split=both[0].bench.train)
    # What other cells would lend, a backbone's first weights, changes no pace.
    whole = [cell.settings() | dict.fromkeys(cell.inputs) for cell in both]
    rounds = []
    for number in range(turns):
        of_turn: dict[str, float] = {}
        for cell, settings in zip(both, whole, strict=True):
            of_turn |= turn(cell, train, short(settings, steps, folder / data, number))
        rounds.append(of_turn)
    seconds = {name: typical([of_turn[name] for of_turn in rounds], name) for name in rounds[0]}
    chosen = equal_steps(seconds, whole[0], len(train))
    how = f"{turns} turns of {steps} steps, batches of {whole[0]['batch']} and {whole[1]['batch']}"
    names = {"recursion": "R2-IOS, without the gate", "gate": "R2-IOS, with the gate", "detector": "Mask R-CNN"}
    batches = {"recursion": whole[0]["batch"], "gate": whole[0]["batch"], "detector": whole[1]["batch"]}
    rows = [entry(f"{data}: {names[stage]}", batches[stage] / seconds[stage], "training images/s", how) for stage in names]
    ratio = seconds["recursion"] / seconds["detector"]
    rows.append(entry(f"{data}: a step of R2-IOS", ratio, "steps of Mask R-CNN", how))
    time = f"{whole[0]['steps']} + {whole[0]['gate_steps']} steps and the proposals of {len(train)} images"
    return chosen, [*rows, entry(f"{data}: the same time", chosen, "steps of Mask R-CNN", f"R2-IOS: {time}")]


def main(words: Sequence[str] | None = None) -> int:
    names = [bench.data for bench in r2ios.BENCHES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=names, choices=names)
    parser.add_argument("--steps", type=int, default=20, help="of each stage in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file; what it holds of other data stays")
    options = parser.parse_args(words)
    before = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {"steps": {}, "measures": []}
    steps = dict(before["steps"])
    rows = [row for row in before["measures"] if row["what"].partition(":")[0] not in options.data]
    for data in options.data:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["FRUGALSEG_CACHE"] = str(Path(folder) / "cache")  # cached proposals would cost nothing
            steps[data], lines = measure(data, options.steps, options.turns, Path(folder))
        show(lines)
        rows += lines
    title = "Training beside Mask R-CNN, and the same time for both"
    save(options.out, title, rows, steps=steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
