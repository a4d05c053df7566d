"""Scores of few-shot segmentation: mean-IoU over the new classes and binary-IoU, from counts accumulated over episodes.

Definition: intersection and union of each class are summed over all its episodes, then divided, then averaged over the classes;
not the mean of the episodes' IoU. Binary-IoU pools all objects into one class, and all backgrounds into another, and averages the
two (Wang et al., PANet, ICCV 2019; Rakelly et al., 2018). Ground truth 255 is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean

VOID = 255
OBJECT, BACKGROUND = 0, 1  # rows of an episode's counts
INTERSECTION, PREDICTED, TRUTH = range(3)  # its columns


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts (..., 3); NaN where there is neither truth nor prediction."""
    intersection, predicted, truth = np.moveaxis(counts, -1, 0)
    union = predicted + truth - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def baselines(true: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Counts (3,) of painting everything as the object, from its true pixels and all known ones."""
    return np.stack([true, total, true], -1)


class FewShotScores(PerImage):
    """Collects episodes, each with the class it asked for; prints as a table of classes. Scores are fractions.

    classes: all classes of the data, in the order of their ids. data, split: names for the protocol id, which also says shots,
    seed, the digest of the episode list and what was done with new classes in training.
    """

    metric = "mean-iou|accumulated|void255|original-size"

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-") -> None:
        super().__init__(classes, data, split)

    def update(self, episode: str, label: int, prediction: Any, truth: Any) -> None:
        """Count one episode. episode: its name, unique. label: the class asked for, 1..C.

        prediction: (H, W) of 0 and 1. truth: (H, W) of 0, 1 and 255. ValueError for what does not fit.
        """
        predicted, true = array(prediction), array(truth)
        if predicted.shape != true.shape or predicted.ndim != 2:
            raise ValueError(f"episode {episode!r}: the prediction has size {predicted.shape}, the ground truth {true.shape}")
        if not 1 <= label <= len(self.classes):
            raise ValueError(f"episode {episode!r}: got class {label}, expected 1..{len(self.classes)}")
        known = true != VOID
        object_predicted, object_true = predicted[known] == 1, true[known] == 1
        both, found, there = (int(mask.sum()) for mask in (object_predicted & object_true, object_predicted, object_true))
        total = int(known.sum())
        background = [total - found - there + both, total - found, total - there]
        self._add(episode, np.array([[both, found, there], background, [label, 0, 0]], np.int64))

    @property
    def labels(self) -> np.ndarray:
        """(N,) the class of each episode of `names`."""
        return self.stacked()[:, 2, 0]

    @property
    def binary(self) -> float:
        """Binary-IoU."""
        return float(iou(self.stacked()[:, :2].sum(0)).mean())

    @property
    def per_class(self) -> dict[str, float]:
        """IoU of every class that was asked for."""
        return {self.classes[label - 1]: float(iou(counts)) for label, counts in zip(*self._by_class(), strict=True)}

    def score(self, weights: np.ndarray) -> np.ndarray:
        counts, labels = self.stacked()[:, OBJECT].astype(np.float64), self.labels
        parts = [weights[:, labels == label].astype(np.float64) @ counts[labels == label] for label in np.unique(labels)]
        return present_mean(iou(np.stack(parts, 1)))

    def truth(self) -> np.ndarray:
        stacked = self.stacked()
        return np.concatenate([stacked[:, :2, TRUTH], stacked[:, 2, :1]], 1)

    @property
    def baselines(self) -> dict[str, float]:
        """Mean-IoU of calling every pixel of every query an object; nothing at all scores 0."""
        total = self.stacked()[:, :2, TRUTH].sum(1)
        counts = [baselines(self.stacked()[:, OBJECT, TRUTH][at].sum(), total[at].sum()) for at in self._places()]
        return {"all object": float(np.mean(iou(np.stack(counts))))}

    def _places(self) -> list[np.ndarray]:
        return [self.labels == label for label in np.unique(self.labels)]

    def _by_class(self) -> tuple[list[int], np.ndarray]:
        """The classes asked for, and their accumulated object counts (C', 3)."""
        return np.unique(self.labels).tolist(), np.stack([self.stacked()[at, OBJECT].sum(0) for at in self._places()])

    def table(self) -> Table:
        table = Table("class", "IoU %", "episodes", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        episodes = {self.classes[label - 1]: int((self.labels == label).sum()) for label in np.unique(self.labels)}
        for name, value in self.per_class.items():
            table.add_row(name, percent(value), str(episodes[name]))
        table.add_section()
        table.add_row("mean-IoU", percent(self.value), str(self.images), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        table.add_row("binary-IoU", percent(self.binary))
        for name, value in self.baselines.items():
            table.add_row(f"baseline: {name}", percent(value))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and per episode its class, then intersection, predicted and truth of object and background."""
        return {
            **self._head(samples, seed),
            "binary-iou": number(self.binary),
            "per_class": {name: number(value) for name, value in self.per_class.items()},
            "baselines": {name: number(value) for name, value in self.baselines.items()},
            "counts": {name: [int(row[2, 0]), *row[:2].flatten().tolist()] for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`."""
        scores = cls(record["classes"], record["data"], record["split"])
        for name, (label, *counts) in record["counts"].items():
            scores.rows[name] = np.array([counts[:3], counts[3:], [label, 0, 0]], np.int64)
        return scores
