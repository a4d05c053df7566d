"""The claims of a paper that a data set can test, with what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import table
from benchmarks.plan import Bench, Claim, Plan
from benchmarks.statistics import OverSeeds, judge

HEAD = """\
A claim is *reproduced* when the paired interval of the difference (the same draws for both sides and for all seeds) lies above 0,
*not reproduced* when it lies below, else *undecided*. A target is met or missed by the mean. The paper's numbers are of its
data and networks: what is tested here is their direction, not their size."""


def section(plan: Plan, bench: Bench, rows: Mapping[str, OverSeeds], head: str = HEAD) -> list[str]:
    """The table of claims, under its explanation; nothing where the data set tests none."""
    lines = [["claim", "rows", "paper", "here", "verdict"]]
    for claim in (claim for claim in plan.claims if bench.data in claim.data):
        measure = f", by {claim.measure}" if claim.measure else ""
        lines.append([claim.text + measure, compared(claim), claim.paper, *judge(claim, rows)])
    return [head, table(lines)] if len(lines) > 1 else []


def compared(claim: Claim) -> str:
    """The comparison in rows."""
    worse = f"{100 * claim.worse:.0f} %" if isinstance(claim.worse, float) else claim.worse
    worse = f"{100 * claim.fraction:.0f} % of {worse}" if claim.fraction != 1 else worse
    if claim.smaller_gain:
        return f"{claim.better} − {worse} > {claim.smaller_gain[0]} − {claim.smaller_gain[1]}"
    return f"{claim.better} > {worse}"
