"""How well proposals cover the objects: recall, and the best overlap of each object (ABO, MABO; Uijlings et al., IJCV 2013).

Papers average in three ways, so all are given: over objects, over the objects of an image and then images (ABO as in R2O),
over the objects of a class and then classes (MABO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from rich.table import Table

from frugalseg import boxes, rle
from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean

Average = Literal["images", "objects", "classes"]
RECALLS = (0.5, 0.7)


class RegionScores(PerImage):
    """Collects the best overlap of each object, image by image. A row is (2, G): the objects' labels and best overlaps.

    average: over what `value`, `interval` and `paired` average.
    """

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-", average: Average = "images") -> None:
        super().__init__(classes, data, split)
        self.average: Average = average
        self.proposals: dict[str, int] = {}

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The first part of the protocol: what the mean is over."""
        return f"abo|{self.average}"

    def update(self, name: str, proposals: Any, truth: Any, labels: Any) -> None:
        """One image. proposals, truth: boxes (P, 4) and (G, 4), or lists of run lengths. labels: (G,) ids 1..C of the objects."""
        ids = array(labels).astype(np.int64)
        if len(ids) != len(truth) or (len(ids) and not 1 <= ids.min() <= ids.max() <= len(self.classes)):
            raise ValueError(
                f"image {name!r}: got labels {ids.tolist()[:5]} for {len(truth)} objects of {len(self.classes)} classes"
            )
        self.proposals[name] = len(proposals)
        self._add(name, np.stack([ids, best_overlap(proposals, truth)]))

    @property
    def recall(self) -> dict[float, float]:
        """The share of all objects that a proposal overlaps by at least 0.5 and 0.7."""
        best = np.concatenate([row[1] for row in self.rows.values()])
        return {at: float((best >= at).mean()) if len(best) else float("nan") for at in RECALLS}

    @property
    def values(self) -> dict[Average, float]:
        """Average best overlap in all three ways."""
        ones = np.ones((1, self.images), np.int64)
        return {average: float(self._averaged(ones, average)[0]) for average in ("images", "objects", "classes")}

    @property
    def per_class(self) -> dict[str, float]:
        """Mean best overlap of the objects of each class; NaN for one without objects."""
        labels, best = np.concatenate([self.rows[name] for name in self.names], 1)
        overlaps = [best[labels == label] for label in range(1, len(self.classes) + 1)]
        return {
            name: float(values.mean()) if len(values) else float("nan")
            for name, values in zip(self.classes, overlaps, strict=True)
        }

    def score(self, weights: np.ndarray) -> np.ndarray:
        return self._averaged(weights, self.average)

    def truth(self) -> list[np.ndarray]:  # type: ignore[override]
        return [self.rows[name][0] for name in self.names]

    def table(self) -> Table:
        table = Table("class", "best overlap %", title=self.protocol)
        for name, value in self.per_class.items():
            table.add_row(name, percent(value))
        table.add_section()
        for average, value in self.values.items():
            table.add_row(f"mean over {average}", percent(value))
        table.add_row("95 % interval", str(self.interval()))
        for at, value in self.recall.items():
            table.add_row(f"recall at {at:g}", percent(value))
        table.add_row("proposals per image", f"{np.mean([*self.proposals.values()]):.0f}")
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and each image's labels and best overlaps."""
        return {
            **self._head(samples, seed),
            "average": self.average,
            "values": {name: number(value) for name, value in self.values.items()},
            "recall": {f"{at:g}": number(value) for at, value in self.recall.items()},
            "per_class": {name: number(value) for name, value in self.per_class.items()},
            "proposals": dict(sorted(self.proposals.items())),
            "rows": {name: row.tolist() for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`."""
        try:
            scores = cls(record["classes"], record["data"], record["split"], record["average"])
            scores.rows = {name: np.array(row, float).reshape(2, -1) for name, row in record["rows"].items()}
            scores.proposals = {str(name): int(count) for name, count in record["proposals"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no JSON of region scores ({type(error).__name__}: {error}); evaluate the run again") from error
        return scores

    def _averaged(self, weights: np.ndarray, average: Average) -> np.ndarray:
        """(S,) under weights (S, N) of the images."""
        self._need_images()
        rows = [self.rows[name] for name in self.names]
        if average == "images":
            means = np.array([row[1].mean() if row.shape[1] else np.nan for row in rows])
            there = ~np.isnan(means)
            counts = weights[:, there]
            return np.where(counts.sum(1) > 0, counts @ means[there] / np.maximum(counts.sum(1), 1), np.nan)
        ids = range(1, len(self.classes) + 1)
        sums = weights @ np.array([[row[1][row[0] == label].sum() for label in ids] for row in rows])
        counts = weights @ np.array([[(row[0] == label).sum() for label in ids] for row in rows])
        if average == "objects":
            sums, counts = sums.sum(1, keepdims=True), counts.sum(1, keepdims=True)
        return present_mean(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def best_overlap(proposals: Any, truth: Any) -> np.ndarray:
    """(G,) the largest overlap of each object with any proposal; boxes (P, 4), (G, 4) xyxy, or lists of run lengths."""
    if not len(proposals) or not len(truth):
        return np.zeros(len(truth))
    if isinstance(proposals, list):
        overlaps = rle.overlaps(proposals, truth)
    else:
        overlaps = boxes.iou(*(array(corners).astype(np.float64) for corners in (proposals, truth)))
    best: np.ndarray = overlaps.max(0)
    return best
