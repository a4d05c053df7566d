"""The settings of every cell that the benchmarks declare, resolved once for all tests that look at them."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.claims import PLANS
from benchmarks.plan import Cell


@cache
def settings_of(method: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Every cell of a method's plan with its settings, for the last seed: seeds differ in nothing else."""
    (plan,) = (plan for plan in PLANS if plan.method == method)
    return [(cell, cell.settings()) for cell in plan.cells() if cell.seed == cell.bench.seeds[-1]]
