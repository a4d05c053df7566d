"""Panoptic quality of objects: how many are found, and how well those are outlined, in one number.

Definition: each pixel belongs to one predicted object at most; a prediction and an object of one class match if their overlap,
without void, exceeds 0.5; PQ = Σ overlap / (matches + ½ wrong + ½ missed), mean over classes (Kirillov et al., CVPR 2019, § 4).
A prediction that lies by more than half on void or crowds is not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg import rle
from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean
from frugalseg.types import Instances

OVERLAP, MATCHES, WRONG, MISSED = range(4)


def separated(objects: Instances, threshold: float) -> tuple[np.ndarray, list[rle.RLE]]:
    """Labels and masks of the objects of at least that score, each without the pixels of those with a higher one."""
    scores, labels = array(objects.scores), array(objects.labels)
    order = [index for index in np.argsort(-scores, kind="stable") if scores[index] >= threshold]
    kept, masks, taken = [], [], None
    for index in order:
        own = objects.rles[index]
        if taken is not None:
            own = rle.difference(own, taken)
        taken = objects.rles[index] if taken is None else rle.union([taken, objects.rles[index]])
        if rle.areas([own])[0]:
            kept.append(labels[index])
            masks.append(own)
    return np.array(kept, np.int64), masks


class PanopticScores(PerImage):
    """Collects objects image by image. threshold: the score from which a detection counts as an object."""

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-", threshold: float = 0.5) -> None:
        super().__init__(classes, data, split)
        self.threshold = threshold

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The first part of the protocol."""
        return f"pq|things|score{self.threshold:g}|void-ignored"

    def update(self, name: str, prediction: Instances | None, truth: Instances, void: rle.RLE | None = None) -> None:
        """One image. truth: its objects, which do not overlap, crowds among them. void: the pixels that nobody judged."""
        row = np.zeros((4, len(self.classes)))
        labels, masks = (np.zeros(0, np.int64), []) if prediction is None else separated(prediction, self.threshold)
        crowd = truth.ignored
        true_labels = array(truth.labels)
        found = np.zeros(len(truth), bool)
        overlaps = self._overlaps(masks, truth.rles, void)
        for place, label in enumerate(labels):
            target = next((g for g in np.flatnonzero(~crowd & (true_labels == label)) if overlaps[place, g] > 0.5), None)
            if target is not None:
                found[target] = True
                row[[OVERLAP, MATCHES], label - 1] += overlaps[place, target], 1
            elif not self._excused(masks[place], [truth.rles[g] for g in np.flatnonzero(crowd & (true_labels == label))], void):
                row[WRONG, label - 1] += 1
        np.add.at(row[MISSED], true_labels[~crowd & ~found] - 1, 1)
        self._add(name, row)

    @property
    def per_class(self) -> dict[str, float]:
        """PQ of each class; NaN for one without objects."""
        return dict(zip(self.classes, quality(self.stacked().sum(0)).tolist(), strict=True))

    def score(self, weights: np.ndarray) -> np.ndarray:
        rows = self.stacked()
        sums = weights.astype(float) @ rows.reshape(len(rows), -1)
        return present_mean(quality(sums.reshape(-1, *rows.shape[1:])))

    def truth(self) -> np.ndarray:
        rows = self.stacked()
        values: np.ndarray = rows[:, MATCHES] + rows[:, MISSED]
        return values

    def table(self) -> Table:
        table = Table("class", "PQ %", "segmentation %", "recognition %", "objects", title=self.protocol)
        sums = self.stacked().sum(0)
        segmentation = np.where(sums[MATCHES] > 0, sums[OVERLAP] / np.maximum(sums[MATCHES], 1), np.nan)
        for place, (name, value) in enumerate(self.per_class.items()):
            recognition = value / segmentation[place] if value else 0.0
            objects = int(sums[MATCHES, place] + sums[MISSED, place])
            table.add_row(name, percent(value), percent(segmentation[place]), percent(recognition), str(objects))
        table.add_section()
        table.add_row("mean", percent(self.value), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and each image's sums of overlaps, matches, wrong and missed objects by class."""
        rows = {name: row.tolist() for name, row in sorted(self.rows.items())}
        per_class = {name: number(value) for name, value in self.per_class.items()}
        return {**self._head(samples, seed), "threshold": self.threshold, "per_class": per_class, "baselines": {}, "rows": rows}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`."""
        try:
            scores = cls(record["classes"], record["data"], record["split"], record["threshold"])
            scores.rows = {name: np.array(row, float).reshape(4, len(scores.classes)) for name, row in record["rows"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no JSON of panoptic scores ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores

    def _overlaps(self, masks: list[rle.RLE], true: list[rle.RLE], void: rle.RLE | None) -> np.ndarray:
        judged = masks if void is None else [rle.difference(mask, void) for mask in masks]
        return rle.overlaps(judged, true)

    def _excused(self, mask: rle.RLE, crowds: list[rle.RLE], void: rle.RLE | None) -> bool:
        """Whether more than half of a prediction lies on void or on crowds of its class."""
        hidden = [*crowds, *([] if void is None else [void])]
        if not hidden:
            return False
        covered = rle.intersection(mask, rle.union(hidden))
        return bool(rle.areas([covered])[0] > rle.areas([mask])[0] / 2)


def quality(sums: np.ndarray) -> np.ndarray:
    """(..., C) PQ of sums (..., 4, C); NaN for a class that is neither there nor predicted."""
    overlap, matches, wrong, missed = np.moveaxis(sums, -2, 0)
    total = matches + (wrong + missed) / 2
    return np.where(total > 0, overlap / np.where(total > 0, total, 1), np.nan)
