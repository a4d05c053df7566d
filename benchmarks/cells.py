"""Run what `claims` declares: every cell once, each in a process of its own, each ending in one JSON file.

A cell whose file exists is skipped, a killed one goes on where its run stopped, one whose data is absent is listed with the
reason. What another plan's cell has trained and scored already is taken from its file. `python -m benchmarks.cells --help` says
how to choose.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.claims import PLANS
from benchmarks.plan import ROOT, Cell
from frugalseg import config
from frugalseg.methods import METHODS, kinds
from frugalseg.workflows.run_folder import NON_IDENTITY_SETTINGS

RESULTS, RUNS = ROOT / "benchmarks" / "results", ROOT / "runs" / "bench"
NUCLEI_SPLIT = ROOT / "configs" / "nuclei_splits.csv"  # 100 pictures to learn from, 40 to score on
TRAIN_PICTURES, VAL_PICTURES, SIDE = 400, 160, 128  # of the built-in set


class Absent(Exception):
    """Data that is not on this machine."""


# -- data ------------------------------------------------------------------------------------------------------------


def photos() -> Path:
    """The folder of real photos: $FRUGALSEG_DATA, else `shared/data` beside the project."""
    return Path(os.environ.get("FRUGALSEG_DATA") or ROOT.parent / "shared" / "data").absolute()


def voc20() -> Path:
    folder = photos() / "voc20" / "VOC2012"
    if not folder.is_dir():
        raise Absent(f"the photos of voc20 are not in {photos()}; FRUGALSEG_DATA names the folder that holds them")
    return folder


def nuclei() -> Path:
    """A folder with the pictures, their object maps, and the split that the recipe names."""
    source, folder = photos() / "nuclei", RUNS / "data" / "nuclei"
    if not source.is_dir():
        raise Absent(f"the nuclei are not in {photos()}; FRUGALSEG_DATA names the folder that holds them")
    for name in ("images", "labels"):
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    shutil.copyfile(NUCLEI_SPLIT, folder / "splits.csv")
    return folder


def shapes() -> Path:
    from frugalseg.data.shapes import write

    return write(RUNS / "data" / "shapes", TRAIN_PICTURES, VAL_PICTURES, test=0, seed=0, size=SIDE)


def tiny_imagenet() -> Path:
    file = photos() / "tiny_imagenet_202x40.zip"
    if not file.is_file():
        raise Absent(f"{file.name} is not in {photos()}; FRUGALSEG_DATA names the folder that holds it")
    return file


DATA: dict[str, Callable[[], Path]] = {"voc20": voc20, "nuclei": nuclei, "shapes": shapes, "tiny_imagenet": tiny_imagenet}
DRAWN = {"shapes"}  # made here when it is first needed, so never absent


# -- one cell --------------------------------------------------------------------------------------------------------


def measure(cell: Cell, quiet: bool = False) -> None:
    """Train the cell's run, or finish it, score its rows, and write its file."""
    from benchmarks import results
    from frugalseg.data import read
    from frugalseg.engine.log import peak_memory, read_log
    from frugalseg.workflows.train import fit

    same = None if cell.file(RESULTS).exists() else twin(cell)
    if same:
        results.save(cell.file(RESULTS), same)
        return
    settings = cell.settings(RUNS, photos()) | {"quiet": quiet}
    train, val = read(DATA[cell.source](), split=settings["split"]), read(DATA[cell.bench.data](), split=cell.bench.val)
    fit(METHODS[cell.method], train, settings)
    folder = cell.run(RUNS)
    rows, pictures, scoring = score(cell, folder, val, quiet)
    baselines, further = beside(cell, rows, val)
    extras = {name: compute(folder, train) for name, compute in cell.variant.extras.items()}
    done = [line for line in read_log(folder) if line.get("event") == "done"]
    seconds: dict[str, float] = {}
    for line in done:
        seconds[line["stage"]] = round(seconds.get(line["stage"], 0) + line["seconds"], 1)
    record = {
        "cell": head(cell),
        **origin(folder, settings, f"{cell.source}|{settings['split']}", rows[0]["protocol"]),
        "seconds": {"total": round(sum(seconds.values()) + scoring, 1), "scoring": round(scoring, 1), **seconds},
        "peak_memory_mb": max([peak_memory(), *(line.get("peak_memory", 0) for line in done)]),
        **extras,
        "baselines": baselines,
        "rows": [{key: value for key, value in row.items() if key != "baselines"} for row in rows],
        "pictures": pictures | further,
    }
    results.save(cell.file(RESULTS), record)


def head(cell: Cell) -> dict[str, Any]:
    """What a file says of whose it is."""
    return {"method": cell.plan.method, "data": cell.bench.data, "variant": cell.variant.name, "seed": cell.seed}


def twin(cell: Cell) -> dict[str, Any] | None:
    """What another cell's file says of the same training and scores under other names, as this cell's; None if there is none."""
    for other in (other for plan in PLANS for other in plan.cells()):
        alike = identity(other) == identity(cell) and other.name != cell.name and other.file(RESULTS).exists()
        if alike and not outdated(cell, other):
            record = json.loads(other.file(RESULTS).read_text("utf-8"))
            rows = [{**row, "name": own.name} for row, own in zip(record["rows"], cell.variant.rows, strict=True)]
            return {**record, "cell": head(cell), "rows": rows}
    return None


def identity(cell: Cell) -> tuple[Any, ...]:
    """What two cells must share, besides the settings of their training, to have the same scores."""
    rows = [(row.weights, row.tags, dict(row.options)) for row in cell.variant.rows]
    return cell.method, cell.source, cell.bench.data, rows, list(cell.variant.extras)


def origin(folder: Path, settings: Mapping[str, Any], learned: str, scored: str) -> dict[str, Any]:
    """How a record's numbers came about: settings, labels, pictures learned from and scored, machine and code."""
    from benchmarks import results
    from frugalseg.workflows.run_folder import read_run_info

    about = read_run_info(folder)
    return {
        "config": portable(settings),
        "protocol": {"learned": f"{learned}|n={about['images']}", "scored": scored},
        "labels": about["labels"],
        "extra_supervision": placeless(about["extra_supervision"]),
        **results.origin(ROOT),
    }


def beside(cell: Cell, rows: list[dict[str, Any]], val: Any) -> tuple[Any, dict[str, Any]]:
    """What takes no learning on the pictures scored, and what else must be known of them."""
    from benchmarks import foreground, ranked

    task = METHODS[cell.method].task
    further = {"crowding": ranked.crowding(val)} if task == "instances" else {}
    return foreground.baseline(val) if task == "foreground" else rows[0].get("baselines"), further


def score(cell: Cell, folder: Path, val: Any, quiet: bool) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """The cell's rows, what they share, and the seconds it took."""
    from benchmarks import results
    from frugalseg.inference.predictor import load
    from frugalseg.workflows.evaluate import evaluate

    begin, rows, shared = time.perf_counter(), [], {}
    for row in cell.variant.rows:
        predictor = load(folder / "weights" / f"{row.weights}.safetensors")
        if row.options:
            network: Any = predictor.network
            network.config = replace(network.config, **row.options)
        started = time.perf_counter()
        told = {"tags": "ground-truth"} if row.tags == "given" else {}
        scores: Any = evaluate(predictor, val, quiet=quiet, **told)
        scores.data = cell.bench.data  # the folder's name may be anything, such as VOC2012
        about = {"name": row.name, "weights": row.weights, "tags": row.tags, "options": dict(row.options)}
        rows.append(about | {"seconds": round(time.perf_counter() - started, 1)} | results.scored(scores))
        shared = results.truth(scores)
    return rows, shared, time.perf_counter() - begin


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what comes out, with no folder of this machine in them."""
    kept = {key: value for key, value in settings.items() if key not in NON_IDENTITY_SETTINGS}
    return {key: placeless(value) for key, value in kept.items()}


def placeless(value: Any) -> Any:
    """A value, or every value of a list, in which the folders of this machine have gone back to their general names."""
    if isinstance(value, (list, tuple)):
        return [placeless(item) for item in value]
    if isinstance(value, str):
        return value.replace(str(photos()), "$FRUGALSEG_DATA").replace(str(RUNS), "runs/bench")
    return value


# -- all cells -------------------------------------------------------------------------------------------------------


def chosen(pattern: str, data: str) -> list[Cell]:
    """The cells in whose name the pattern (with * and ?) is found, with those they come after, in an order that can be run."""
    known = [cell for plan in PLANS for cell in plan.cells()]
    wanted = {cell.name for cell in known if fnmatch.fnmatch(cell.name, f"*{pattern}*") and data in ("", cell.bench.data)}
    needed = {before.name for cell in known if cell.name in wanted for before in cell.before}
    return [cell for cell in known if cell.name in wanted | needed]


def absent(cells: Sequence[Cell]) -> dict[str, str]:
    """Data sets of these cells that cannot be had, with the reason."""
    reasons = {}
    for name in {name for cell in cells for name in used(cell)} - DRAWN:
        try:
            DATA[name]()
        except Absent as error:
            reasons[name] = str(error)
    return reasons


def used(cell: Cell) -> set[str]:
    """The data sets that it learns from and is scored on."""
    return {cell.source, cell.bench.data}


def state(cell: Cell, missing: dict[str, str]) -> str:
    """Where a cell stands, in words."""
    if cell.file(RESULTS).exists():
        text = "finished, by other settings than now: delete its file to run it again" if outdated(cell) else "finished"
        return text + ("" if kept(cell) else "; its run is gone, and is made again when another cell needs it")
    if used(cell) & missing.keys():
        return f"not run: {'; '.join(missing[name] for name in sorted(used(cell) & missing.keys()))}"
    return "started" if cell.run(RUNS).exists() else "to run"


def kept(cell: Cell) -> bool:
    """Whether the run of a finished cell is still there to be borrowed from."""
    return (cell.run(RUNS) / "weights" / "last.safetensors").exists()


def owed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells to run: those without a file, and finished ones that they take something from but whose run is gone."""
    todo: list[Cell] = []
    lent: set[str] = set()
    for cell in reversed(cells):  # what a cell comes after stands before it
        if not cell.file(RESULTS).exists() or (cell.name in lent and not kept(cell)):
            todo.insert(0, cell)
            lent |= {before.name for before in cell.before}
    return todo


def outdated(cell: Cell, other: Cell | None = None) -> bool:
    """Whether the cell's file, or the other's, has other settings than the cell; what did not exist then had its default."""
    now = json.loads(json.dumps(portable(cell.settings(RUNS, photos()))))
    unsaid = {name: option.default for name, option in config.options(*kinds(METHODS[cell.method])).items()}
    before = {name: json.loads(json.dumps(unsaid.get(name))) for name in now}
    return before | json.loads((other or cell).file(RESULTS).read_text("utf-8"))["config"] != now


def run(cells: Sequence[Cell], jobs: int) -> list[str]:
    """Run the cells that are owed, `jobs` at a time, none before those it comes after; gives the names of those that failed."""
    waiting = owed(cells)
    held = {cell.name for cell in waiting}  # those that are not finished
    running: dict[subprocess.Popen[bytes], Cell] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            for cell in [cell for cell in waiting if not held & {before.name for before in cell.before}]:
                if len(running) < jobs:
                    waiting.remove(cell)
                    running[start(cell, jobs)] = cell
            if not running:  # what is left comes after a cell that failed
                return failed + [cell.name for cell in waiting]
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                cell = running.pop(process)
                if process.returncode:
                    failed.append(cell.name)
                else:
                    held.remove(cell.name)
                say(f"{cell.name}: " + (f"ended with status {process.returncode}" if process.returncode else "finished"))
    finally:
        for process in running:  # they keep their state and end
            process.terminate()
    return failed


def start(cell: Cell, jobs: int) -> subprocess.Popen[bytes]:
    """A process of its own for each cell: its peak memory is the cell's alone, and its crash ends no other."""
    say(f"{cell.name}: training")
    environment = os.environ | {"FRUGALSEG_DATA": str(photos())}
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))
    words = [sys.executable, "-m", "benchmarks.cells", "--cell", cell.name, *(["--quiet"] if jobs > 1 else [])]
    return subprocess.Popen(words, cwd=ROOT, env=environment)


def say(text: str) -> None:
    print(text, flush=True)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="cells in whose name this is found; * and ? stand for any characters"
    )
    parser.add_argument("--data", default="", choices=["", *DATA], help="cells of one data set")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side, for instance on one GPU")
    parser.add_argument("--list", action="store_true", help="say where every cell stands, and run none")
    parser.add_argument("--cell", default="", metavar="NAME", help="run this one cell in this process")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.cell:
        (cell,) = (cell for cell in chosen(options.cell, "") if cell.name == options.cell)
        try:
            measure(cell, options.quiet)
        except config.UsageError as error:
            say(f"{cell.name}: {error}\nTo start it anew, delete {cell.run(RUNS)}.")
            return 1
        return 0
    cells = chosen(options.only, options.data)
    if not cells:
        say(f"--only: no cell matches {options.only!r}; --list names them all")
        return 2
    missing = absent(cells)
    for cell in cells:
        if options.list or used(cell) & missing.keys() or cell.file(RESULTS).exists():
            say(f"{cell.name}: {state(cell, missing)}")
    if options.list:
        return 0
    cells = [cell for cell in cells if not used(cell) & missing.keys()]
    for name in {name for cell in cells for name in used(cell)}:
        DATA[name]()  # drawn once, before many processes want it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `run` hands it on
    failed = run(cells, options.jobs)
    if failed:
        say(f"{len(failed)} cells are not finished: {', '.join(failed)}\nThe same command goes on with them.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
