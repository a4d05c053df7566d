"""Cells of the benchmarks: the settings of those that are declared, and files of finished ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks import results
from benchmarks.claims import PLANS
from benchmarks.plan import Cell


@cache
def settings_of(method: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Every cell of a method's plan with its settings, for the last seed: seeds differ in nothing else."""
    (plan,) = (plan for plan in PLANS if plan.method == method)
    return [(cell, cell.settings()) for cell in plan.cells() if cell.seed == cell.bench.seeds[-1]]


def finished(cell: Mapping[str, Any], labels: str, baselines: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a cell's file. cell: its method, variant and seed. rows: scores by the name of the row."""
    first = next(iter(rows.values()))
    return {
        "cell": {"data": "toys", **cell},
        "protocol": {"learned": "toys|train|n=4", "scored": first.protocol},
        "labels": [labels],
        "extra_supervision": [],
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None},
        "versions": {"torch": "2.0"},
        "commit": "abc",
        "date": "2026-01-01",
        "seconds": {"total": 90},
        "peak_memory_mb": 700,
        "baselines": baselines,
        "rows": [{"name": name, **results.row_record(scores)} for name, scores in rows.items()],
        "pictures": results.truth_record(first),
    }
