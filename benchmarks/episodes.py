"""What a file keeps of a row of few-shot episodes: five counts for each, and the scores of all folds together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from benchmarks.packing import pack, unpack
from frugalseg.metrics.fewshot import FewShotScores


def packed(scores: FewShotScores) -> str:
    """The counts of all episodes, in the order of their names, (N, 5): intersection, predicted and true pixels of the object,
    true pixels of the background, and the class. The other counts of the background follow from these."""
    stacked = scores.stacked()
    return pack(stacked.reshape(len(stacked), -1)[:, [0, 1, 2, 5, 6]])


def unpacked(row: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """The counts of every episode of a row, as `FewShotScores` keeps them, by the episode's name."""
    both, predicted, truth, rest, label = unpack(row["counts"], row["images"], 5).T
    zero = np.zeros_like(both)
    counts = [both, predicted, truth, rest - (predicted - both), truth + rest - predicted, rest, label, zero, zero]
    return {f"{prefix}{number:05d}": episode for number, episode in enumerate(np.stack(counts, 1).reshape(-1, 3, 3))}


def scores_over_folds(records: Iterable[Mapping[str, Any]], folds: int) -> dict[str, dict[int, FewShotScores]]:
    """For each row and seed the scores of all folds as one: every class is scored by the run that has not learned it.

    A row and seed with fewer folds is left out: its mean would not be over the same classes.
    """
    rows: dict[str, dict[int, dict[int, Mapping[str, Any]]]] = {}
    for record in records:
        for row in record["rows"]:
            rows.setdefault(row["name"], {}).setdefault(record["cell"]["seed"], {})[record["cell"]["fold"]] = row
    whole: dict[str, dict[int, FewShotScores]] = {}
    for name, seeds in rows.items():
        for seed, parts in seeds.items():
            if len(parts) == folds:
                whole.setdefault(name, {})[seed] = _merged(parts)
    return whole


def _merged(folds: Mapping[int, Mapping[str, Any]]) -> FewShotScores:
    scores = FewShotScores(folds[0]["classes"], folds[0]["data"], "")
    for fold, row in folds.items():
        scores.rows |= unpacked(row, f"fold{fold}/")
    return scores
