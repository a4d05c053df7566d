"""How the masks that R2O learns from come to meet objects along the training (fig. 3): `python -m benchmarks.regions` draws it.

Made from the JSON files of the cells alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.plan import ROOT, Bench, Plan

if TYPE_CHECKING:
    from benchmarks.tables import Records

IMAGES = ROOT / "docs" / "images"


class Course(NamedTuple):
    """Average best overlap of a pretraining's masks at its probes, and of the regions before merging: (probes, seeds)."""

    steps: list[int]
    abo: np.ndarray
    prior: np.ndarray


def courses(found: Records) -> dict[str, Course]:
    """Of each variant whose masks change along the training, over the seeds that were run."""
    logs: dict[str, list[Any]] = {}
    for record in found.values():
        if record.get("regions") and record["config"].get("refine", "features") != "none":
            logs.setdefault(record["cell"]["variant"], []).append(record["regions"])
    return {name: course(seeds) for name, seeds in logs.items()}


def course(seeds: Iterable[Any]) -> Course:
    seeds = list(seeds)
    abo, prior = (np.array([[line[name] for line in log] for log in seeds]).T for name in ("abo", "abo_prior"))
    return Course([line["step"] for line in seeds[0]], abo, prior)


def picture(plan: Plan, bench: Bench) -> Path:
    return IMAGES / f"{plan.method}_{bench.data}_regions.png"


def section(plan: Plan, bench: Bench, found: Records) -> list[str]:
    """The block of the page, in Markdown; none where no masks change."""
    if not courses(found):
        return []
    about = (
        "Average best overlap of the masks with objects along the training, beside that of the prior (dashed), mean over seeds:"
    )
    return [about, f"![{about}](images/{picture(plan, bench).name})"]


def draw(known: Mapping[str, Course], title: str, path: Path) -> None:
    """A line for each pretraining; where there are several seeds, from the lowest to the highest is shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, own in known.items():
        (line,) = axes.plot(own.steps, 100 * own.abo.mean(1), label=name)
        axes.fill_between(own.steps, 100 * own.abo.min(1), 100 * own.abo.max(1), color=line.get_color(), alpha=0.15)
        axes.plot(own.steps, 100 * own.prior.mean(1), color=line.get_color(), linestyle="--", linewidth=0.8)
    axes.set(title=title, xlabel="step", ylabel="average best overlap, %")
    axes.legend(fontsize="small", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> int:
    from benchmarks import results, tables
    from benchmarks.claims.r2o import PLAN

    records: Mapping[str, Mapping[str, Any]] = results.read(tables.RESULTS)
    for bench in PLAN.benches:
        known = courses(tables.of_bench(PLAN, bench, records))
        if known:
            draw(known, bench.data, picture(PLAN, bench))
            print(f"{picture(PLAN, bench).relative_to(ROOT)} is drawn")
        else:
            print(f"{PLAN.method} on {bench.data}: no pretraining has been run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
