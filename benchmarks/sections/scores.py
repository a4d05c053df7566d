"""One method on one data set: the scores of all rows beside the trivial baselines, and what hangs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.markdown import in_images, table
from benchmarks.plan import Bench, Cell, Plan
from benchmarks.ranked import Ranked
from benchmarks.results import Records, of_bench, of_row
from benchmarks.sections import claims, overlap, regions
from benchmarks.sections.protocol import protocol
from benchmarks.statistics import OverSeeds, row_scores
from frugalseg.metrics import SemanticScores
from frugalseg.metrics.foreground import PROTOCOLS, ForegroundScores
from frugalseg.metrics.per_image import percent

COSTS = ("seeds", "minutes", "MB")
COSTS_NOTE = (
    "Minutes and memory are of the whole training and scoring that the row comes from, without the runs that it starts from."
)
WITH_INTERVAL = ("AP^r@0.5", "AP^r@0.7", "AP", "AP25", "AP50", "AP75", "CorLoc")
FOREGROUND_HEADS = (
    "overlap %",
    "95 % interval",
    "mean with background %",
    "overlap, oracle %",
    "mean, oracle %",
    "ABO %",
    "ABO of the prior %",
)
FOREGROUND_NOTE = """\
Overlap: IoU of the part of each image that is predicted to be the object with all annotated objects, mean over images; the oracle
picks the part by the ground truth. ABO: average best overlap of the masks that are learned from with the objects of the images
scored, at the first and the last probe."""
Rows = Mapping[str, OverSeeds]


def section(plan: Plan, bench: Bench, everything: Records) -> list[str]:
    """All blocks of one data set."""
    records = of_bench(plan, bench, everything)
    missing = [cell for cell in plan.cells() if cell.bench is bench and cell.name not in records]
    title = [f"### {plan.method} on {bench.data}", bench.about]
    if not records:
        return [*title, f"Nothing has been run yet: `python -m benchmarks.cells --data {bench.data}`."]
    rows = row_scores(plan, records)
    tables = [*score_tables(plan, rows, records), pseudo_table(records)]
    discussion = [*claims.section(plan, bench, rows), bench.notes]
    figures = [*overlap.section(plan, bench, records, rows), *regions.section(plan, bench, records)]
    not_run = f"Not run: {', '.join(by_variant(missing))}." if missing else ""
    return [*title, protocol(bench, records.values()), *tables, *discussion, *figures, not_run]


def by_variant(cells: Sequence[Cell]) -> list[str]:
    """The names of the cells' variants, with the seeds where not all of them are among the cells."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        seeds.setdefault(cell.variant.name, []).append(cell.seed)
    every = list(cells[0].bench.seeds)
    return [name if some == every else f"{name} (seed {', '.join(map(str, some))})" for name, some in seeds.items()]


def score_tables(plan: Plan, rows: Rows, records: Records) -> list[str]:
    """A table for each kind of score among the rows."""
    tables = []
    for kind, make in ((ForegroundScores, foreground_table), (SemanticScores, semantic_table), (Ranked, object_table)):
        alike = {name: scores for name, scores in rows.items() if isinstance(next(iter(scores.seeds.values())), kind)}
        cells = {name: record for name, record in records.items() if alike.keys() & {row["name"] for row in record["rows"]}}
        if alike:
            tables.append(make(plan, alike, cells))
    return tables


def foreground_table(plan: Plan, rows: Rows, records: Records) -> str:
    """Every row of foregrounds, under the trivial baseline."""
    lines = [["row", *FOREGROUND_HEADS, *COSTS]]
    for name, values in baselines(records).items():
        shown = [baseline(name), percent(values["foreground"]), "", percent(values["mean"])]
        lines.append(shown + [""] * (len(lines[0]) - len(shown)))
    for name, scores in rows.items():
        first, *others = (percent(float(np.mean([each.values[kind] for each in scores.seeds.values()]))) for kind in PROTOCOLS)
        probes = [record["regions"] for record in of_row(plan, name, records) if record.get("regions")]
        lines.append([name, first, str(scores.interval), *others, *best_overlaps(probes), *costs(plan, name, scores, records)])
    return f"{table(lines)}\n\n{FOREGROUND_NOTE} {COSTS_NOTE}"


def best_overlaps(probes: Sequence[Sequence[Mapping[str, float]]]) -> list[str]:
    """Average best overlap of the learned masks and of the prior, mean over seeds. probes: what each seed logged."""
    if not probes:
        return ["", ""]
    before, after, prior = (
        percent(float(np.mean([log[place][name] for log in probes])))
        for place, name in ((0, "abo"), (-1, "abo"), (-1, "abo_prior"))
    )
    return [f"{before} → {after}", prior]


def semantic_table(plan: Plan, rows: Rows, records: Records) -> str:
    """Every row of class masks, under the trivial baselines."""
    lines = [["row", "mIoU %", "95 % interval", *COSTS]]
    for name, value in baselines(records).items():
        lines.append([baseline(name), percent(value), "", *[""] * len(COSTS)])
    for name, scores in rows.items():
        lines.append([name, str(scores), str(scores.interval), *costs(plan, name, scores, records)])
    return f"{table(lines)}\n\n{COSTS_NOTE}"


def object_table(plan: Plan, rows: Rows, records: Records) -> str:
    """Every row of objects by every measure, under the trivial baselines."""
    heads = [part for at in plan.measures for part in (f"{at} %", *(["95 % interval"] if at in WITH_INTERVAL else []))]
    lines = [["row", *heads, *COSTS]]
    for name, values in baselines(records).items():
        shown = [part for at in plan.measures for part in (null_percent(values[at]), *([""] if at in WITH_INTERVAL else []))]
        lines.append([baseline(name), *shown, *[""] * len(COSTS)])
    for name, scores in rows.items():
        shown = [part for at in plan.measures for part in measured(scores.by(at), at in WITH_INTERVAL)]
        lines.append([name, *shown, *costs(plan, name, scores, records)])
    return f"{table(lines)}\n\n{COSTS_NOTE}"


def measured(scores: OverSeeds, with_interval: bool) -> list[str]:
    return [str(scores), str(scores.interval)] if with_interval else [str(scores)]


def null_percent(value: float | None) -> str:
    """A value of a file, in which a score that does not exist is null."""
    return percent(np.nan if value is None else value)


def baselines(records: Records) -> Mapping[str, Any]:
    """The trivial baselines, which are the same for all records of one data set."""
    return next(iter(records.values()))["baselines"]


def baseline(name: str) -> str:
    """The name of a trivial baseline, in the first column."""
    return f"baseline: {in_images(name)}"


def costs(plan: Plan, row: str, scores: OverSeeds, records: Records) -> list[str]:
    """How many seeds, and what the row's training took."""
    cells = of_row(plan, row, records)
    minutes = f"{np.mean([record['seconds']['total'] for record in cells]) / 60:.1f}"
    return [str(len(scores.seeds)), minutes, str(max(record["peak_memory_mb"] for record in cells))]


def pseudo_table(records: Records) -> str:
    """The training masks that the rounds of a mining run assemble; no result, as no image kept aside is in them."""
    runs = [record["pseudo_labels"] for record in records.values() if "pseudo_labels" in record]
    if not runs:
        return ""
    lines = [["rounds", "mIoU % of the labelled pixels", "labelled pixels %", "training images"]]
    for entries in zip(*runs, strict=False):
        miou, coverage = (100 * float(np.mean([entry[key] for entry in entries])) for key in ("miou", "coverage"))
        lines.append([str(entries[0]["rounds"]), f"{miou:.2f}", f"{coverage:.1f}", str(entries[0]["images"])])
    return "Pseudo labels on the training images that have masks (no result of the method):\n\n" + table(lines)
