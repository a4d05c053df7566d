"""A row's gain over another by how much the objects of a picture cover each other: `python -m benchmarks.overlap` draws it.

Pictures are put into groups by the largest overlap (IoU) of two of their objects' boxes; each group is scored by itself, and the
difference has a paired interval over the group's pictures. Made from the JSON files of the cells alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.plan import ROOT, Bench, Plan
from frugalseg.metrics import Difference, paired
from frugalseg.metrics.bootstrap import interval

if TYPE_CHECKING:
    from benchmarks.tables import OverSeeds, Records

EDGES = (0.0, 0.05, 0.2, 0.4, 1.0)  # of the groups; the upper one belongs to the group below it
LEAST = 5  # pictures of a group: fewer say nothing
IMAGES = ROOT / "docs" / "images"


class Group(NamedTuple):
    """Pictures whose objects overlap by more than `low` (the first group: 0 too) and at most `high`."""

    low: float
    high: float
    pictures: int
    gain: Difference

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def gains(better: OverSeeds, worse: OverSeeds, crowding: Mapping[str, float]) -> list[Group]:
    """What `better` gains over `worse` in each group that has pictures enough. crowding: of each picture, by its name."""
    seeds = sorted(better.seeds.keys() & worse.seeds.keys())
    values = np.array([crowding[name] for name in better.names])
    groups = []
    for low, high in pairwise(EDGES):
        chosen = ((values > low) | (low == 0)) & (values <= high)
        if seeds and chosen.sum() >= LEAST:
            gain = paired(better.of(seeds).only(chosen), worse.of(seeds).only(chosen))
            groups.append(Group(low, high, int(chosen.sum()), gain))
    return groups


def growth(better: OverSeeds, worse: OverSeeds, crowding: Mapping[str, float]) -> Difference | None:
    """How much more `better` gains where objects overlap than where they do not; None without pictures enough of both."""
    seeds = sorted(better.seeds.keys() & worse.seeds.keys())
    apart = np.array([crowding[name] for name in better.names]) <= EDGES[1]
    if not seeds or min(apart.sum(), (~apart).sum()) < LEAST:
        return None
    parts = [[row.of(seeds).only(chosen) for row in (better, worse)] for chosen in (~apart, apart)]
    drawn = [one.resampled(seed=place) - other.resampled(seed=place) for place, (one, other) in enumerate(parts)]
    spread = interval(drawn[0] - drawn[1])  # of independent draws: no picture is in both
    crowded, alone = (one.value - other.value for one, other in parts)
    return Difference(crowded - alone, spread.low, spread.high)


def known(plan: Plan, found: Records, rows: Mapping[str, OverSeeds]) -> tuple[OverSeeds, OverSeeds, Mapping[str, float]] | None:
    """The plan's two rows and how crowded each picture is; None if one was not run."""
    if not plan.crowded or not set(plan.crowded) <= rows.keys():
        return None
    better, worse = (rows[name] for name in plan.crowded)
    files = (file["pictures"] for file in found.values())  # what others begin with may be scored by classes alone
    return better, worse, next(pictures["crowding"] for pictures in files if "crowding" in pictures)


def measured(plan: Plan, found: Records, rows: Mapping[str, OverSeeds]) -> list[Group]:
    """The groups of the plan's two rows; none if one was not run."""
    about = known(plan, found, rows)
    return gains(*about) if about else []


def section(plan: Plan, bench: Bench, found: Records, rows: Mapping[str, OverSeeds]) -> list[str]:
    """The blocks of the page, in Markdown; none without both rows."""
    from benchmarks.tables import VERDICTS, markdown

    about = known(plan, found, rows)
    if about is None:
        return []
    groups = gains(*about)
    if not groups:
        return []
    better, worse = plan.crowded
    table = [["largest overlap of two objects", "pictures", "gain in AP^r@0.5"]]
    table += [[str(group), str(group.pictures), str(group.gain).rpartition(" ")[0]] for group in groups]
    title = f"{better} over {worse}, by how much the objects of a picture overlap"
    grown = growth(*about)
    claim = f"It gains more where they overlap by more than {EDGES[1]:g} than elsewhere, as the paper has it"
    said = [f"{claim}: {str(grown).rpartition(' ')[0]}, {VERDICTS[grown.decided]}."] if grown else []
    return [f"{title}:", markdown(table), *said, f"![{title}](images/{picture(plan, bench).name})"]


def picture(plan: Plan, bench: Bench) -> Path:
    return IMAGES / f"{plan.method}_{bench.data}_overlap.png"


def draw(groups: list[Group], title: str, path: Path) -> None:
    """The gains with their intervals, in points of AP."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    means = np.array([100 * group.gain.mean for group in groups])
    low, high = (np.array([100 * getattr(group.gain, side) for group in groups]) for side in ("low", "high"))
    axes.errorbar(range(len(groups)), means, [means - low, high - means], fmt="o", capsize=4)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [f"{group}\n{group.pictures} pictures" for group in groups])
    axes.set(title=title, xlabel="largest overlap of two objects (IoU of their boxes)", ylabel="gain in AP$^r$@0.5, points")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> int:
    from benchmarks import results, tables

    records: Mapping[str, Mapping[str, Any]] = results.read(tables.RESULTS)
    for plan in (plan for plan in tables.PLANS if plan.crowded):
        for bench in plan.benches:
            found = tables.of_bench(plan, bench, records)
            groups = measured(plan, found, tables.row_scores(plan, found)) if found else []
            if groups:
                path = picture(plan, bench)
                draw(groups, f"{bench.data}: {plan.crowded[0]} over {plan.crowded[1]}", path)
                print(f"{path.relative_to(ROOT)} is drawn")
            else:
                print(f"{plan.method} on {bench.data}: {' and '.join(plan.crowded)} have not both been run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
