"""Mean intersection over union of class masks: one confusion over the whole set, kept as integer counts per image.

Definition: ground truth 255 is left out; IoU of a class = intersection / union of its pixels over all images; mean over the
classes, background among them, that occur in ground truth or prediction (as VOCevalseg; Everingham et al., IJCV 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from rich.table import Table

from frugalseg.metrics.bootstrap import paired
from frugalseg.metrics.per_image import PerImage, array, number, percent, present_mean

__all__ = ["SemanticScores", "paired"]

VOID = 255
INTERSECTION, PREDICTED, TRUTH = range(3)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU per class of counts (..., 3, C + 1); NaN for a class in neither ground truth nor prediction."""
    intersection, predicted, truth = np.moveaxis(counts, -2, 0)
    union = predicted + truth - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


class SemanticScores(PerImage):
    """Collects masks image by image; prints as the field's table. Scores are fractions, tables are in percent.

    classes: the object classes 1..C in the order of their ids. data, split: names for the protocol id.
    """

    metric = "miou|voc-void255|present-classes"

    def __init__(self, classes: Sequence[str], data: str = "-", split: str = "-") -> None:
        super().__init__(classes, data, split)
        if len(self.classes) >= VOID:
            raise ValueError(f"classes: got {len(self.classes)}, expected at most {VOID - 1}, because id {VOID} means void")

    def update(self, name: str, prediction: Any, truth: Any) -> None:
        """Count one image. prediction: (H, W) integers 0..C. truth: (H, W) integers 0..C, or 255 where nobody knows.

        ValueError for sizes that differ, ids outside the class list, masks that are not integers.
        """
        predicted, true = self._mask(name, "prediction", prediction), self._mask(name, "ground truth", truth)
        if predicted.shape != true.shape:
            raise ValueError(f"image {name!r}: the prediction has size {predicted.shape}, the ground truth {true.shape}; "
                             "predict at the image's original size")  # fmt: skip
        known = true != VOID
        predicted, true = predicted[known], true[known]
        ids = len(self.classes) + 1
        self._add(name, np.stack([np.bincount(x, minlength=ids) for x in (true[predicted == true], predicted, true)]))

    @property
    def names_with_background(self) -> tuple[str, ...]:
        """Names of the ids 0..C."""
        return ("background", *self.classes)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes present; NaN if every pixel is void."""
        return self.value

    @property
    def per_class(self) -> dict[str, float]:
        """IoU of background and every class; NaN where a class is in neither ground truth nor prediction."""
        return dict(zip(self.names_with_background, class_iou(self.stacked().sum(0)).tolist(), strict=True))

    @property
    def accuracy(self) -> float:
        """Share of the known pixels that are right."""
        intersection, _, truth = self.stacked().sum((0, 2)).tolist()
        return intersection / truth if truth else float("nan")

    def score(self, weights: np.ndarray) -> np.ndarray:
        counts = self.stacked()
        # BLAS multiplies floats only; sums of pixels stay exact far below 2**53.
        sums = np.asarray(weights, np.float64) @ counts.reshape(len(counts), -1).astype(np.float64)
        return present_mean(class_iou(sums.reshape(-1, *counts.shape[1:])))

    def truth(self) -> np.ndarray:
        return self.stacked()[:, TRUTH]

    def constant(self, index: int) -> SemanticScores:
        """The scores of a predictor that gives every pixel class `index`: what no image needs to be looked at for."""
        baseline = SemanticScores(self.classes, self.data, self.split)
        for name, row in self.rows.items():
            counts = np.zeros_like(row)
            counts[TRUTH] = row[TRUTH]
            counts[INTERSECTION, index], counts[PREDICTED, index] = row[TRUTH, index], row[TRUTH].sum()
            baseline.rows[name] = counts
        return baseline

    @property
    def baselines(self) -> dict[str, float]:
        """mIoU of "all background", and of painting everything as the object class with most pixels in the ground truth."""
        objects = self.truth().sum(0)[1:]
        trivial = [0, 1 + int(objects.argmax())] if objects.any() else [0]
        return {f"all {self.names_with_background[index]}": self.constant(index).miou for index in trivial}

    def table(self) -> Table:
        counts = self.stacked()
        intersection, _, truth = counts.sum(0)
        table = Table("class", "IoU %", "accuracy %", "images", title=self.protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for index, (name, iou) in enumerate(self.per_class.items()):
            recall = intersection[index] / truth[index] if truth[index] else float("nan")
            table.add_row(name, percent(iou), percent(recall), str((counts[:, TRUTH, index] > 0).sum()))
        table.add_section()
        table.add_row("mean", percent(self.miou), percent(self.accuracy), str(self.images), style="bold")
        table.add_row("95 % interval", str(self.interval()))
        for name, miou in self.baselines.items():
            table.add_row(f"baseline: {name}", percent(miou))
        return table

    def to_json(self, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Everything printed, and per image the [class, intersection, predicted, truth] pixels of the classes in it."""
        return {
            **self._head(samples, seed),
            "accuracy": number(self.accuracy),
            "per_class": {name: number(iou) for name, iou in self.per_class.items()},
            "baselines": {name: number(miou) for name, miou in self.baselines.items()},
            "counts": {name: _cells(row) for name, row in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Back from `to_json`, so that runs can be compared later. ValueError where the counts contradict themselves."""
        try:
            scores = cls(record["classes"], record["data"], record["split"])
            for name, cells in record["counts"].items():
                row = np.zeros((3, len(scores.classes) + 1), np.int64)
                for index, *counts in cells:
                    row[:, index] = counts
                scores.rows[name] = row
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"no JSON of semantic scores ({type(error).__name__}: {error}); evaluate the run again") from error
        wrong = [name for name, row in scores.rows.items() if not _consistent(row)]
        if wrong or scores.protocol != record.get("protocol"):
            clash = f"images {', '.join(wrong[:5])}" if wrong else f"its counts give {scores.protocol}"
            raise ValueError(f"the JSON of {record.get('protocol')} contradicts itself: {clash}; evaluate the run again")
        return scores

    def _mask(self, name: str, kind: str, values: Any) -> np.ndarray:
        mask = array(values)
        if mask.ndim != 2 or not np.can_cast(mask.dtype, np.int64):
            raise ValueError(f"image {name!r}: {kind} is {mask.dtype}{mask.shape}, expected (H, W) integers as of argmax")
        wrong = (mask < 0) | (mask > len(self.classes))
        if kind == "ground truth":
            wrong &= mask != VOID
        if wrong.any():
            got, most = np.unique(mask[wrong])[:10].tolist(), len(self.classes)
            raise ValueError(f"image {name!r}: {kind} holds the ids {got}, expected 0..{most} for background and {most} classes; "
                             "give the class list the masks were made with")  # fmt: skip
        return mask


def _cells(row: np.ndarray) -> list[list[int]]:
    return [[int(index), *row[:, index].tolist()] for index in np.flatnonzero(row.any(0))]


def _consistent(row: np.ndarray) -> bool:
    """Every known pixel has one predicted and one true class, and agrees at most with both."""
    bounded = (row >= 0).all() and (row[INTERSECTION] <= np.minimum(row[PREDICTED], row[TRUTH])).all()
    return bool(bounded and row[PREDICTED].sum() == row[TRUTH].sum())
