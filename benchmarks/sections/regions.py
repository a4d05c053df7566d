"""How the masks that R2O learns from come to match objects along the training."""

from __future__ import annotations

from benchmarks.plan import Bench, Plan
from benchmarks.regions import curves, figure_file
from benchmarks.results import Records

TITLE = "Average best overlap of the masks with objects along the training, beside that of the prior (dashed), mean over seeds:"


def section(plan: Plan, bench: Bench, records: Records) -> list[str]:
    """The figure; nothing where no masks change."""
    return [TITLE, f"![{TITLE}](images/{figure_file(plan, bench).name})"] if curves(records) else []
