"""What a file keeps of a row of foregrounds, which a network without labels has predicted: four overlaps for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from frugalseg.data import Data
from frugalseg.metrics.foreground import ForegroundScores
from frugalseg.tasks.foreground import annotated
from frugalseg.types import IGNORE


def row_record(scores: ForegroundScores) -> dict[str, Any]:
    """What one row adds to the file."""
    rows = [[round(float(value), 5) for value in scores.rows[name]] for name in scores.names]
    values = {kind: round(value, 5) for kind, value in scores.values.items()}
    return {"protocol": scores.protocol, "split": scores.split, "images": scores.images, "values": values, "overlaps": rows}


def truth_record(scores: ForegroundScores) -> dict[str, Any]:
    """What is the same for all rows: the images."""
    return {"data": scores.data, "classes": list(scores.classes), "names": scores.names}


def scores_of(shared: Mapping[str, Any], row: Mapping[str, Any]) -> ForegroundScores:
    """The inverse of `truth_record` and `row_record`."""
    scores = ForegroundScores(shared["data"], row["split"])
    scores.rows = dict(zip(shared["names"], np.array(row["overlaps"], float), strict=True))
    return scores


def baseline(data: Data) -> dict[str, Any]:
    """The trivial baseline: all of every image as the object."""
    scores, labels = ForegroundScores(), data.only("semantic", "instances")
    for index in range(len(labels)):
        sample = labels[index]
        mask = annotated(sample)
        if mask is not None and (mask == 1).any():
            scores.update(sample.name, torch.zeros(mask.shape, dtype=torch.int64), 0, mask == 1, mask == IGNORE)
    return {"all of every picture": scores.values}
