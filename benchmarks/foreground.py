"""What a file keeps of a row of foregrounds found without labels – four overlaps for each picture – and their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from frugalseg.data import Data
from frugalseg.metrics.foreground import PROTOCOLS, ForegroundScores
from frugalseg.metrics.per_image import percent
from frugalseg.tasks.foreground import annotated
from frugalseg.types import IGNORE

HEADS = (
    "overlap %",
    "95 % interval",
    "mean with background %",
    "overlap, oracle %",
    "mean, oracle %",
    "ABO %",
    "ABO of the prior %",
)
NOTE = """\
Overlap (IoU) of the one part of each picture that is said to be the object with all that is annotated, mean over pictures; the
oracle picks the part by the truth. ABO: of the masks that are learned from, with the objects of pictures that are scored, at the
first and the last probe."""


def scored(scores: ForegroundScores) -> dict[str, Any]:
    """What one row adds to the file."""
    rows = [[round(float(value), 5) for value in scores.rows[name]] for name in scores.names]
    values = {kind: round(value, 5) for kind, value in scores.values.items()}
    return {"protocol": scores.protocol, "split": scores.split, "images": scores.images, "values": values, "overlaps": rows}


def truth(scores: ForegroundScores) -> dict[str, Any]:
    """What is the same for all rows: the pictures."""
    return {"data": scores.data, "classes": list(scores.classes), "names": scores.names}


def scores_of(shared: Mapping[str, Any], row: Mapping[str, Any]) -> ForegroundScores:
    """Back from what `truth` and `scored` gave."""
    scores = ForegroundScores(shared["data"], row["split"])
    scores.rows = dict(zip(shared["names"], np.array(row["overlaps"], float), strict=True))
    return scores


def baseline(data: Data) -> dict[str, Any]:
    """What takes no learning: all of every picture as the object."""
    scores, known = ForegroundScores(), data.only("semantic", "instances")
    for index in range(len(known)):
        sample = known[index]
        mask = annotated(sample)
        if mask is not None and (mask == 1).any():
            scores.update(sample.name, torch.zeros(mask.shape, dtype=torch.int64), 0, mask == 1, mask == IGNORE)
    return {"all of every picture": scores.values}


def cells(seeds: Mapping[int, ForegroundScores], interval: Any, regions: list[list[dict[str, float]]]) -> list[str]:
    """A row of the table, in the order of HEADS. regions: for each seed what was logged of its regions, or nothing."""
    first, *others = (percent(float(np.mean([scores.values[kind] for scores in seeds.values()]))) for kind in PROTOCOLS)
    probed = [own for own in regions if own]
    if not probed:
        return [first, str(interval), *others, "", ""]
    before, after, prior = (
        percent(float(np.mean([own[at][name] for own in probed]))) for at, name in ((0, "abo"), (-1, "abo"), (-1, "abo_prior"))
    )
    return [first, str(interval), *others, f"{before} → {after}", prior]
