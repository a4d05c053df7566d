"""A few-shot method: the scores of episodes on classes that were not learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.episodes import scores_over_folds
from benchmarks.few_shot import CURVE_EPISODES
from benchmarks.markdown import table
from benchmarks.plan import Bench, Plan
from benchmarks.results import Record, Records, of_bench
from benchmarks.sections import claims
from benchmarks.sections.protocol import protocol
from benchmarks.statistics import OverSeeds
from frugalseg.metrics.per_image import percent

CLAIMS_HEAD = """\
A claim is *reproduced* when the interval of the difference lies above 0, *not reproduced* when it lies below, else *undecided*: a
paired one over the same episodes, but for "five references beat one", whose episodes differ. The paper's numbers are means over
PASCAL-5i's folds with ResNet-50 unless stated otherwise. It trains on episodes of five references to be scored with five; here
one training, on episodes of one reference, is scored with both."""


def section(plan: Plan, bench: Bench, everything: Records) -> list[str]:
    """One data set: what was run, the rows, the inner loop step by step, the claims."""
    records = list(of_bench(plan, bench, everything).values())
    cells = sum(cell.bench is bench for cell in plan.cells())
    rows = {name: OverSeeds(seeds) for name, seeds in scores_over_folds(records, plan.folds).items()}
    title = [f"### {plan.method} on {bench.data}", bench.about]
    missing = f"{cells - len(records)} of {cells} runs are missing: `python -m benchmarks.few_shot`."
    if not rows:
        return [*title, f"Nothing has been run in all folds yet. {missing}"]
    tables = [row_table(rows, records), curve_table(plan, records)]
    discussion = [*claims.section(plan, bench, rows, CLAIMS_HEAD), bench.notes]
    return [*title, protocol(bench, records), *tables, *discussion, missing if len(records) < cells else ""]


def row_table(rows: Mapping[str, OverSeeds], records: Sequence[Record]) -> str:
    """The scores of every row; whether a class is there is asked of as many images with it as without."""
    lines = [
        ["row", "mean-IoU %", "95 % interval over episodes", "binary-IoU %", "class there? precision %", "recall %", "seeds"]
    ]
    for name, scores in rows.items():
        entries = [row for record in records for row in record["rows"] if row["name"] == name]
        presence = [percent(mean(entry["presence"][what] for entry in entries)) for what in ("precision", "recall")]
        binary = percent(mean(each.binary for each in scores.seeds.values()))
        lines.append([name, str(scores), str(scores.interval), binary, *presence, str(len(scores.seeds))])
    return table(lines)


def curve_table(plan: Plan, records: Sequence[Record]) -> str:
    """What the inner loop does, step by step, to its own loss and to the prototypes."""
    curves = [record["curve"] for record in records if record["cell"]["variant"] == plan.method]
    if not curves:
        return ""
    lines = [["inner step", *map(str, range(len(curves[0]["loss"])))]]
    for name, what in (("loss", "inner loss, mean over positions"), ("moved", "‖ΔP‖/‖P‖ so far")):
        lines.append([what, *(f"{mean(step):.4f}" for step in zip(*(curve[name] for curve in curves), strict=True))])
    return f"The inner loop of BiOpt, mean over {CURVE_EPISODES} episodes of each of {len(curves)} runs:\n\n" + table(lines)


def mean(values: Iterable[float | None]) -> float:
    """The mean of those that are not null; NaN if all are."""
    numbers = [value for value in values if value is not None]
    # Summed one after the other, as Python's `sum` did before 3.12: the page's last digits are the same on every version.
    return float(np.cumsum(numbers)[-1]) / len(numbers) if numbers else float("nan")
