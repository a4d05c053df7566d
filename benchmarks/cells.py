"""Run what `claims` declares: every cell once, each in a separate process, each ending in one JSON file.

A cell whose file exists is skipped, a killed one goes on where its run stopped, one whose data is missing is listed with the
reason. What another plan's cell has trained and scored already is taken from its file. `python -m benchmarks.cells --help` says
how to choose.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks import claims, datasets, paths
from benchmarks.datasets import MissingData
from benchmarks.measure import measure, outdated
from benchmarks.plan import Cell
from frugalseg import config
from frugalseg.machine import cores


def select(pattern: str, data: str) -> list[Cell]:
    """The cells whose name contains the pattern (with * and ?), with those they depend on, in an order that can be run."""
    cells = [cell for plan in claims.PLANS if not plan.folds for cell in plan.cells()]  # `few_shot` runs those in folds
    wanted = {cell.name for cell in cells if fnmatch.fnmatch(cell.name, f"*{pattern}*") and data in ("", cell.bench.data)}
    needed = {before.name for cell in cells if cell.name in wanted for before in cell.dependencies}
    return [cell for cell in cells if cell.name in wanted | needed]


def used(cell: Cell) -> set[str]:
    """The data sets that it learns from and is scored on."""
    return {cell.source, cell.bench.data}


def missing_data(cells: Sequence[Cell]) -> dict[str, str]:
    """Data sets of these cells that are not on this machine, with the reason."""
    reasons = {}
    for name in {name for cell in cells for name in used(cell)} - datasets.DRAWN.keys():
        try:
            datasets.DATA[name]()
        except MissingData as error:
            reasons[name] = str(error)
    return reasons


def state(cell: Cell, missing: Mapping[str, str]) -> str:
    """Where a cell stands, in words."""
    if cell.file.exists():
        text = "finished, by other settings than now: delete its file to run it again" if outdated(cell) else "finished"
        return text + ("" if has_weights(cell) else "; its run is gone, and is made again when another cell needs it")
    if used(cell) & missing.keys():
        return f"not run: {'; '.join(missing[name] for name in sorted(used(cell) & missing.keys()))}"
    return "started" if cell.run.exists() else "to run"


def has_weights(cell: Cell) -> bool:
    """Whether the run of a finished cell is still there for others to start from."""
    return (cell.run / "weights" / "last.safetensors").exists()


def pending(cells: Sequence[Cell]) -> list[Cell]:
    """The cells to run: those without a file, and finished ones that they depend on but whose run is gone."""
    todo: list[Cell] = []
    needed: set[str] = set()
    for cell in reversed(cells):  # a cell stands after those it depends on
        if not cell.file.exists() or (cell.name in needed and not has_weights(cell)):
            todo.insert(0, cell)
            needed |= {before.name for before in cell.dependencies}
    return todo


def run(cells: Sequence[Cell], jobs: int) -> list[str]:
    """Run what is pending, `jobs` at a time, none before those it depends on; gives the names of the cells that failed."""
    waiting = pending(cells)
    unfinished = {cell.name for cell in waiting}
    running: dict[subprocess.Popen[bytes], Cell] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            for cell in [cell for cell in waiting if not unfinished & {before.name for before in cell.dependencies}]:
                if len(running) < jobs:
                    waiting.remove(cell)
                    running[start(cell, jobs)] = cell
            if not running:  # the others depend on a cell that failed
                return failed + [cell.name for cell in waiting]
            time.sleep(0.2)
            failed += collect(running, unfinished)
    finally:
        for process in running:  # they save their state and end
            process.terminate()
    return failed


def collect(running: dict[subprocess.Popen[bytes], Cell], unfinished: set[str]) -> list[str]:
    """Take the processes that have ended off both lists; gives the names of the cells that failed."""
    failed = []
    for process in [process for process in running if process.poll() is not None]:
        cell = running.pop(process)
        if process.returncode:
            failed.append(cell.name)
        else:
            unfinished.remove(cell.name)
        say(f"{cell.name}: " + (f"ended with status {process.returncode}" if process.returncode else "finished"))
    return failed


def start(cell: Cell, jobs: int) -> subprocess.Popen[bytes]:
    """A process for the cell: its peak memory is the cell's alone, and its crash ends no other."""
    say(f"{cell.name}: training")
    environment = os.environ | {"FRUGALSEG_DATA": str(paths.photos())}
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    words = [sys.executable, "-m", "benchmarks.cells", "--cell", cell.name, *(["--quiet"] if jobs > 1 else [])]
    return subprocess.Popen(words, cwd=paths.ROOT, env=environment)


def say(text: str) -> None:
    print(text, flush=True)


# -- the command -----------------------------------------------------------------------------------------------------


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="cells whose name contains this; * and ? stand for any characters"
    )
    parser.add_argument("--data", default="", choices=["", *datasets.DATA], help="cells of one data set")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side, for instance on one GPU")
    parser.add_argument("--list", action="store_true", help="say where every cell stands, and run none")
    parser.add_argument("--cell", default="", metavar="NAME", help="run this one cell in this process")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.cell:
        return run_here(options.cell, options.quiet)
    cells = select(options.only, options.data)
    if not cells:
        say(f"--only: no cell matches {options.only!r}; --list names them all")
        return 2
    missing = missing_data(cells)
    for cell in cells:
        if options.list or used(cell) & missing.keys() or cell.file.exists():
            say(f"{cell.name}: {state(cell, missing)}")
    return 0 if options.list else run_all([cell for cell in cells if not used(cell) & missing.keys()], options.jobs)


def run_here(name: str, quiet: bool) -> int:
    """Run one cell in this process; gives the exit status."""
    (cell,) = (cell for cell in select(name, "") if cell.name == name)
    try:
        measure(cell, quiet)
    except config.UsageError as error:
        say(f"{cell.name}: {error}\nTo start it anew, delete {cell.run}.")
        return 1
    return 0


def run_all(cells: Sequence[Cell], jobs: int) -> int:
    """Run the cells in processes; gives the exit status."""
    for name in {name for cell in cells for name in used(cell)}:
        datasets.DATA[name]()  # drawn once, before many processes want it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `run` hands it on
    failed = run(cells, jobs)
    if failed:
        say(f"{len(failed)} cells are not finished: {', '.join(failed)}\nThe same command goes on with them.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
