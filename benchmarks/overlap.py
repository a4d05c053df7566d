"""A row's gain over another by how much the objects of an image overlap: `python -m benchmarks.overlap` draws it.

Images are put into groups by the largest overlap (IoU) of two of their objects' boxes; each group is scored by itself, and the
difference has a paired interval over the group's images. Made from the JSON files of the cells alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import paths, results
from benchmarks.claims import PLANS
from benchmarks.plan import Bench, Plan
from benchmarks.results import Records
from benchmarks.statistics import OverSeeds, row_scores, shared_seeds
from frugalseg.metrics import Difference, paired
from frugalseg.metrics.bootstrap import interval

EDGES = (0.0, 0.05, 0.2, 0.4, 1.0)  # of the groups; the upper one belongs to the group below it
MIN_IMAGES = 5  # in a group: fewer say nothing


class Group(NamedTuple):
    """Images whose objects overlap by more than `low` (the first group: 0 too) and at most `high`."""

    low: float
    high: float
    images: int
    gain: Difference

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class Comparison(NamedTuple):
    """Two rows, and the largest overlap of two objects in each image, by the image's name."""

    better: OverSeeds
    worse: OverSeeds
    crowding: Mapping[str, float]

    @property
    def overlaps(self) -> np.ndarray:
        """(N,) the largest overlap in each image."""
        return np.array([self.crowding[name] for name in self.better.names])

    def only(self, images: np.ndarray) -> tuple[OverSeeds, OverSeeds]:
        """Both rows on some of the images, over the seeds that both have."""
        seeds = shared_seeds(self.better, self.worse)
        return self.better.of(seeds).only(images), self.worse.of(seeds).only(images)


def comparison(plan: Plan, records: Records, rows: Mapping[str, OverSeeds]) -> Comparison | None:
    """The plan's two rows; None if they were not run with the same seed."""
    if not plan.overlap_rows or not set(plan.overlap_rows) <= rows.keys():
        return None
    better, worse = (rows[name] for name in plan.overlap_rows)
    images = (record["pictures"] for record in records.values())  # a network of class masks has no crowding
    crowding = next(image["crowding"] for image in images if "crowding" in image)
    return Comparison(better, worse, crowding) if shared_seeds(better, worse) else None


def groups(compared: Comparison) -> list[Group]:
    """The gain in each group that has enough images."""
    overlaps, gains = compared.overlaps, []
    for low, high in pairwise(EDGES):
        chosen = ((overlaps > low) | (low == 0)) & (overlaps <= high)
        if chosen.sum() >= MIN_IMAGES:
            gains.append(Group(low, high, int(chosen.sum()), paired(*compared.only(chosen))))
    return gains


def growth(compared: Comparison) -> Difference | None:
    """How much more is gained where objects overlap than where they do not; None without enough images of both."""
    apart = compared.overlaps <= EDGES[1]
    if min(apart.sum(), (~apart).sum()) < MIN_IMAGES:
        return None
    sides = [compared.only(chosen) for chosen in (~apart, apart)]
    drawn = [better.resampled(seed=place) - worse.resampled(seed=place) for place, (better, worse) in enumerate(sides)]
    spread = interval(drawn[0] - drawn[1])  # of independent draws: no image is in both
    crowded, alone = (better.value - worse.value for better, worse in sides)
    return Difference(crowded - alone, spread.low, spread.high)


def figure_file(plan: Plan, bench: Bench) -> Path:
    return paths.DOCS / "images" / f"{plan.method}_{bench.data}_overlap.png"


def draw(gains: list[Group], title: str, path: Path) -> None:
    """The gains with their intervals, in points of AP."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    means = np.array([100 * group.gain.mean for group in gains])
    low, high = (np.array([100 * getattr(group.gain, side) for group in gains]) for side in ("low", "high"))
    axes.errorbar(range(len(gains)), means, [means - low, high - means], fmt="o", capsize=4)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(gains)), [f"{group}\n{group.images} images" for group in gains])
    axes.set(title=title, xlabel="largest overlap of two objects (IoU of their boxes)", ylabel="gain in AP$^r$@0.5, points")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> int:
    everything = results.read(paths.RESULTS)
    for plan in (plan for plan in PLANS if plan.overlap_rows):
        for bench in plan.benches:
            records = results.of_bench(plan, bench, everything)
            compared = comparison(plan, records, row_scores(plan, records))
            if compared:
                path = figure_file(plan, bench)
                draw(groups(compared), f"{bench.data}: {plan.overlap_rows[0]} over {plan.overlap_rows[1]}", path)
                print(f"{path.relative_to(paths.ROOT)} is drawn")
            else:
                print(f"{plan.method} on {bench.data}: {' and '.join(plan.overlap_rows)} have not both been run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
