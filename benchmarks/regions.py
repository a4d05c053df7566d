"""How the masks that R2O learns from come to match objects along the training (fig. 3): `python -m benchmarks.regions` draws it.

Made from the JSON files of the cells alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import paths, results
from benchmarks.claims.r2o import PLAN
from benchmarks.plan import Bench, Plan
from benchmarks.results import Records


class Curve(NamedTuple):
    """Average best overlap of a pretraining's masks at its probes, and of the regions before merging: (probes, seeds)."""

    steps: list[int]
    abo: np.ndarray
    prior: np.ndarray


def curves(records: Records) -> dict[str, Curve]:
    """Of each variant whose masks change along the training, over the seeds that were run."""
    logs: dict[str, list[Any]] = {}
    for record in records.values():
        if record.get("regions") and record["config"].get("refine", "features") != "none":
            logs.setdefault(record["cell"]["variant"], []).append(record["regions"])
    return {name: _curve(seeds) for name, seeds in logs.items()}


def _curve(logs: list[Any]) -> Curve:
    abo, prior = (np.array([[line[name] for line in log] for log in logs]).T for name in ("abo", "abo_prior"))
    return Curve([line["step"] for line in logs[0]], abo, prior)


def figure_file(plan: Plan, bench: Bench) -> Path:
    return paths.DOCS / "images" / f"{plan.method}_{bench.data}_regions.png"


def draw(shown: Mapping[str, Curve], title: str, path: Path) -> None:
    """A line for each pretraining; where there are several seeds, the range from the lowest to the highest is shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in shown.items():
        (line,) = axes.plot(curve.steps, 100 * curve.abo.mean(1), label=name)
        axes.fill_between(curve.steps, 100 * curve.abo.min(1), 100 * curve.abo.max(1), color=line.get_color(), alpha=0.15)
        axes.plot(curve.steps, 100 * curve.prior.mean(1), color=line.get_color(), linestyle="--", linewidth=0.8)
    axes.set(title=title, xlabel="step", ylabel="average best overlap, %")
    axes.legend(fontsize="small", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> int:
    everything = results.read(paths.RESULTS)
    for bench in PLAN.benches:
        shown = curves(results.of_bench(PLAN, bench, everything))
        if shown:
            draw(shown, bench.data, figure_file(PLAN, bench))
            print(f"{figure_file(PLAN, bench).relative_to(paths.ROOT)} is drawn")
        else:
            print(f"{PLAN.method} on {bench.data}: no pretraining has been run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
