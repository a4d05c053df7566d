"""Whether killed runs end with the weights of a straight one."""

from __future__ import annotations

from benchmarks.markdown import table
from benchmarks.results import Record


def section(sweep: Record) -> list[str]:
    """The file of `benchmarks.resume`."""
    lines = [["processes", "runs", "kills", "equal to the straight run"]]
    for processes in sorted({row["processes"] for row in sweep["killed"]}):
        rows = [row for row in sweep["killed"] if row["processes"] == processes]
        kills, equal = sum(len(row["stops"]) for row in rows), sum(row["equal"] for row in rows)
        lines.append([str(processes), str(len(rows)), str(kills), f"{equal} of {len(rows)}"])
    what = f"{sweep['what'][0].upper()}{sweep['what'][1:]}: all weights, mined regions and masks."
    where = f"{sweep['machine']}; torch {sweep['versions']['torch']}."
    return ["## Killed and started again", f"{what} {where}", table(lines)]
