"""A row's gain over another by how much the objects of an image overlap."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import table
from benchmarks.overlap import EDGES, comparison, figure_file, groups, growth
from benchmarks.plan import Bench, Plan
from benchmarks.results import Records
from benchmarks.statistics import VERDICTS, OverSeeds, without_verdict


def section(plan: Plan, bench: Bench, records: Records, rows: Mapping[str, OverSeeds]) -> list[str]:
    """The table by groups and the figure; nothing without both rows."""
    compared = comparison(plan, records, rows)
    gains = groups(compared) if compared else []
    if not compared or not gains:
        return []
    lines = [["largest overlap of two objects", "images", "gain in AP^r@0.5"]]
    lines += [[str(group), str(group.images), without_verdict(group.gain)] for group in gains]
    better, worse = plan.overlap_rows
    title = f"{better} over {worse}, by how much the objects of an image overlap"
    claim = f"It gains more where they overlap by more than {EDGES[1]:g} than elsewhere, as the paper says"
    grown = growth(compared)
    verdict = [f"{claim}: {without_verdict(grown)}, {VERDICTS[grown.decided]}."] if grown else []
    return [f"{title}:", table(lines), *verdict, f"![{title}](images/{figure_file(plan, bench).name})"]
