"""Foregrounds and regions of backbones that have seen no label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from benchmarks import markdown
from benchmarks.results import Record, Records
from benchmarks.sections.protocol import origin
from benchmarks.statistics import mean_interval
from benchmarks.unsupervised import FOLDER, REGIONS
from frugalseg.metrics import Difference
from frugalseg.metrics.per_image import percent

FOREGROUNDS = (
    "IoU of the part of each photo that is predicted to be the object with all annotated objects, and the mean of that with the "
    "background's; the oracle picks the part by the ground truth. Mean over photos."
)
Starts = Mapping[str, Sequence[Record]]  # by name, a record for each seed


def section(records: Records) -> list[str]:
    """All blocks; nothing where no backbone was measured."""
    starts: dict[str, list[Record]] = {}
    for name, record in sorted(records.items()):
        if name.startswith(f"{FOLDER}/"):
            starts.setdefault(record["start"]["name"], []).append(record)
    if not starts:
        return []
    first = next(iter(starts.values()))[0]
    blocks = ["### Objects and regions before any label", protocol(starts)]
    for kind, text in (("foreground", FOREGROUNDS), ("regions", REGIONS)):
        blocks += [f"{text} `{first[kind]['protocol']}`", table(starts, kind), *differences(starts, kind)]
    return blocks


def protocol(starts: Starts) -> str:
    """What the numbers must be read with."""
    every = [record for records in starts.values() for record in records]
    measured = ", ".join(f"{name} {value}" for name, value in every[0]["settings"].items())
    return markdown.bullets([("measured", [measured]), *origin(every)])


def table(starts: Starts, kind: str) -> str:
    """A row for each start, the mean over its seeds with the interval over images."""
    kinds = columns(starts, kind)
    lines = [["start", "learned from", *(f"{name} %" for name in kinds), "seeds"]]
    for name, records in starts.items():
        values = np.array([record[kind]["rows"] for record in records])  # (seeds, N, kinds)
        spreads = [mean_interval(values[:, :, column].T) for column in range(len(kinds))]
        shown = [f"{percent(each['mean'])} [{percent(each['low'])}, {percent(each['high'])}]" for each in spreads]
        lines.append([name, records[0]["start"]["knowledge"], *shown, str(len(records))])
    return markdown.table(lines)


def differences(starts: Starts, kind: str) -> list[str]:
    """What two starts of the same network differ by, under the same draws of the images; nothing where no two are alike."""
    lines = [["difference", *(f"{name} %" for name in columns(starts, kind))]]
    means = {name: np.mean([record[kind]["rows"] for record in records], 0) for name, records in starts.items()}
    for (name, records), (other, others) in combinations(starts.items(), 2):
        if all(records[0]["start"][part] == others[0]["start"][part] for part in ("backbone", "output_stride", "levels")):
            gained = (means[name] - means[other]).round(9) + 0.0  # without it what is equal may differ by -0
            spreads = [mean_interval(column[:, None]) for column in gained.T]
            shown = [str(Difference(spread["mean"], spread["low"], spread["high"])) for spread in spreads]
            lines.append([f"{name} − {other}", *shown])
    return [markdown.table(lines)] if len(lines) > 1 else []


def columns(starts: Starts, kind: str) -> list[str]:
    return list(next(iter(starts.values()))[0][kind]["values"])
