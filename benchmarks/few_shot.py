"""Run the few-shot plans of `claims`: a run for each data set × variant × fold × seed, each ending in one JSON file.

    python -m benchmarks.few_shot --list
    python -m benchmarks.few_shot --only shapes/biopt

A cell whose file exists is skipped, a killed one goes on where its run stopped, one whose data is missing is listed with the
reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import claims, datasets, paths, results
from benchmarks.datasets import MissingData
from benchmarks.episodes import packed
from benchmarks.measure import provenance
from benchmarks.plan import Cell, FoldCell
from frugalseg.data import episodes, read
from frugalseg.engine.log import peak_memory
from frugalseg.methods import METHODS, biopt
from frugalseg.metrics.fewshot import FewShotScores
from frugalseg.nets.prototypes import cosine, fill_empty
from frugalseg.tasks import few_shot
from frugalseg.workflows.train import fit

EPISODES = 1000
CURVE_EPISODES = 50  # whose inner loss is followed


def cells() -> Iterator[FoldCell]:
    for plan in claims.PLANS:
        yield from (cell for cell in plan.cells() if isinstance(cell, FoldCell))


# -- one cell --------------------------------------------------------------------------------------------------------


def measure(cell: FoldCell, quiet: bool = False) -> None:
    """Train the run, or finish it, score its rows, and write its file."""
    folder, settings = datasets.DATA[cell.bench.data](), cell.settings() | {"quiet": quiet}
    train, val = (read(folder, split=split or None) for split in (cell.bench.train, cell.bench.val))
    if cell.start and not (cell.start / "weights" / "last.safetensors").exists():
        train_start(cell, train, quiet)
    begin = time.perf_counter()
    predictor = fit(METHODS[cell.method], train, settings)
    trained = time.perf_counter() - begin
    rows = score(cell, predictor, val, quiet)
    learned, scored = (f"{cell.bench.data}|{split or 'all'}" for split in (cell.bench.train, cell.bench.val))
    protocol = f"{EPISODES} episodes|novel-in-train={settings['novel_in_train']}, each fold and seed"
    record = {
        "cell": cell.key,
        **provenance(cell, settings, learned, f"{FewShotScores.metric}|{scored}|{protocol}"),
        "seconds": {"training": round(trained, 1), "total": round(time.perf_counter() - begin, 1)},
        "peak_memory_mb": peak_memory(),
        "curve": inner_curve(predictor.network, val, cell.seed),
        "rows": rows,
    }
    results.save(cell.file, record)


def train_start(cell: FoldCell, train: Any, quiet: bool) -> None:
    """Train what the runs of this fold start from, without the classes of the fold."""
    assert cell.start
    assert cell.bench.start
    settings, start = cell.settings(), Cell(cell.plan, cell.bench, cell.bench.start, 0)
    novel = episodes.folds(len(train.classes), cell.plan.folds, settings["folding"])[cell.fold]
    base = episodes.base_split(train, novel, settings["shots"], settings["least"], settings["masks"], "drop")
    place = {"name": f"{cell.bench.data}/{cell.start.name}", "val": "", "quiet": quiet}
    fit(METHODS[start.method], base.data, start.settings() | place)


def score(cell: FoldCell, predictor: Any, val: Any, quiet: bool) -> list[dict[str, Any]]:
    """The cell's rows."""
    network, rows = predictor.network, []
    predictor.folder = None  # without a folder no examples are drawn
    network.features = cached(network.features)
    for row in cell.variant.rows:
        options, started = dict(row.options), time.perf_counter()
        shots = options.pop("shots")
        model = replace(predictor, network=network.with_settings(**options))
        result = few_shot.score_lists(model, val, shots, EPISODES, [cell.seed], quiet)
        (scores,) = result.seeds.values()
        scores.data = cell.bench.data
        record = scores.to_json() | {"counts": packed(scores), "presence": result.presence.to_json(), "left_out": result.notes}
        rows.append({"name": row.name, "options": options, "seconds": round(time.perf_counter() - started, 1)} | record)
    return rows


def cached(features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function, which computes each image once: rows of other shots, steps and scales ask for the same images."""
    computed: dict[tuple[tuple[int, ...], bytes], Tensor] = {}

    def cached_features(images: Tensor) -> Tensor:
        key = tuple(images.shape), hashlib.sha256(images.cpu().contiguous().numpy()).digest()
        if key not in computed:
            computed[key] = features(images)
        return computed[key]

    return cached_features


def inner_curve(network: Any, data: Any, seed: int) -> dict[str, list[float]]:
    """Mean inner loss per position before each step and after the last, and ‖ΔP‖/‖P‖ so far, over some episodes."""
    config = network.config
    data = data.select(few_shot.with_masks(data, config.masks)).only("image", config.masks)
    pixels, labels = episodes.class_pixels(data, config.masks), few_shot.novel_labels(network, data)
    tasks = episodes.draw(data, pixels, labels, config.shots, CURVE_EPISODES, seed, config.least).episodes
    bank = biopt.encode_supports(network, data, tasks, quiet=True)
    with torch.no_grad():
        losses, moved = zip(*(_inner_steps(network, data, bank, task) for task in tasks), strict=True)
    return {"loss": torch.tensor(losses).mean(0).tolist(), "moved": torch.tensor(moved).mean(0).tolist()}


def _inner_steps(network: Any, data: Any, bank: Any, task: Any) -> tuple[list[float], list[float]]:
    """The inner loss per position and the movement of the prototypes after 0, 1, … 10 steps of one episode."""
    config = network.config
    query = network.features(network.square(data.image(task.query))).flatten(1, 2)
    supports = bank.supports([task.support]).to(query.device)
    support = fill_empty(supports.prototypes, supports.shown, query)
    start, unit = network.solve(query, support).start, F.normalize(query, dim=-1)
    target = cosine(unit, start).argmax(1)
    steps = [biopt.inner_loop(unit, start, target, k, config.inner_lr, config.alpha) for k in range(11)]
    losses = [float(biopt.inner_loss(unit, step, target, config.alpha)) / unit.shape[1] for step in steps]
    return losses, [float(biopt.movement(start, step)) for step in steps]


# -- all cells -------------------------------------------------------------------------------------------------------


def start(cell: FoldCell, quiet: bool) -> int:
    """Run the cell in a process: its peak memory is the cell's alone, and its crash ends no other. Gives the exit status."""
    words = [sys.executable, "-m", "benchmarks.few_shot", "--cell", cell.name, *(["--quiet"] if quiet else [])]
    environment = os.environ | {"FRUGALSEG_DATA": str(paths.photos())}
    return subprocess.run(words, cwd=paths.ROOT, env=environment, check=False).returncode


def state(cell: FoldCell) -> str:
    """Where a cell stands, in words."""
    if cell.file.exists():
        return "finished"
    try:
        if cell.bench.data not in datasets.DRAWN:
            datasets.DATA[cell.bench.data]()
    except MissingData as error:
        return f"not run: {error}"
    return "to run"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_shot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="runs whose name contains this; * and ? stand for anything")
    parser.add_argument("--list", action="store_true", help="say where every run stands, and start none")
    parser.add_argument("--cell", default="", metavar="NAME", help="do this one in this process")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(words)
    if options.cell:
        measure(next(cell for cell in cells() if cell.name == options.cell), options.quiet)
        return 0
    failed = 0
    for cell in (cell for cell in cells() if fnmatch.fnmatch(cell.name, f"*{options.only}*")):
        standing = state(cell)
        print(f"{cell.name}: {standing}", flush=True)
        if standing == "to run" and not options.list:
            failed += start(cell, options.quiet) != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
